"""The demo services, called over gRPC as by a gateway."""

from __future__ import annotations

import json
from typing import Any

import grpc.aio
import pytest

from gatesvr._pb import upstream_pb2 as pb
from gatesvr._pb import upstream_pb2_grpc as rpc
from gatesvr.demo import services, start_demo

ACTIONS = {
    "hello": ["hello", "logout", "status", "heartbeat", "data_sync"],
    "business": ["notify_demo"],
    "zone": ["echo", "time", "zone", "zone_info"],
}


async def ask(address: str, action: str, **values: Any) -> pb.UpstreamResponse:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = rpc.UpstreamServiceStub(channel)  # type: ignore[no-untyped-call]
        request = pb.UpstreamRequest(action=action, openid="alice", session_id="S", **values)
        answer: pb.UpstreamResponse = await stub.ProcessRequest(request)
        return answer


async def test_every_action_answers_and_unknown_ones_are_404() -> None:
    async with start_demo() as addresses:
        assert set(addresses) == set(ACTIONS) == set(services())
        for name, actions in ACTIONS.items():
            for action in actions:
                assert (await ask(addresses[name], action)).code == 200, action
            assert (await ask(addresses[name], "nothing_like_it")).code == 404


async def test_hello_logs_in_with_a_zone() -> None:
    async with start_demo() as addresses:
        answer = await ask(addresses["hello"], "hello", params={"zone": "004"})
        assert (answer.code, dict(answer.headers)) == (200, {"zone": "004"})
        assert json.loads(answer.data)["openid"] == "alice"
        answer = await ask(addresses["hello"], "HELLO")
        assert (answer.code, dict(answer.headers)) == (200, {})
        assert (await ask(addresses["hello"], "hello", params={"deny": "1"})).code == 403


async def test_echo_and_zone_info() -> None:
    async with start_demo() as addresses:
        data = bytes(range(256)) * 100
        assert (await ask(addresses["zone"], "echo", data=data)).data == data
        answer = await ask(
            addresses["zone"], "zone_info", peer=pb.PeerInfo(zone="002", ip="1.2.3.4")
        )
        info = json.loads(answer.data)
        assert (info["zone"], info["ip"]) == ("002", "1.2.3.4")
        assert json.loads((await ask(addresses["zone"], "time")).data)["time_ms"] > 0


async def calculate(address: str, a: str, b: str, op: str) -> tuple[int, str]:
    answer = await ask(address, "calculate", params={"a": a, "b": b, "op": op})
    return answer.code, answer.data.decode()


@pytest.mark.parametrize(
    ("a", "b", "op", "result"),
    [
        ("1", "2", "add", "3"),
        ("0.1", "0.2", "+", "0.3"),
        ("5", "7", "sub", "-2"),
        ("10", "10", "mul", "100"),
        ("1", "4", "div", "0.25"),
        ("0", "3", "/", "0"),
        ("1e30", "1", "*", "1" + "0" * 30),
        ("1e999", "1e999", "mul", "1E+1998"),
        ("-1.50", "0", "add", "-1.5"),
    ],
)
async def test_calculate(a: str, b: str, op: str, result: str) -> None:
    async with start_demo() as addresses:
        assert await calculate(addresses["zone"], a, b, op) == (200, result)


@pytest.mark.parametrize(
    ("a", "b", "op"),
    [
        ("", "1", "add"),
        ("1", "x", "add"),
        ("nan", "1", "add"),
        ("1", "inf", "add"),
        ("1", "0", "div"),
        ("0", "0", "div"),
        ("1", "2", "pow"),
        ("1", "2", ""),
        ("1" * 65, "1", "add"),
        ("1e999999", "1e999999", "mul"),
    ],
)
async def test_calculate_refuses(a: str, b: str, op: str) -> None:
    async with start_demo() as addresses:
        code, _ = await calculate(addresses["zone"], a, b, op)
        assert code == 400


async def test_notifies_around_an_answer() -> None:
    async with start_demo() as addresses:
        params = {"before": "2", "after": "1"}
        answer = await ask(addresses["business"], "notify_demo", data=b"x", params=params)
        assert answer.data == b"x"
        assert [(notify.sync_hint, notify.data) for notify in answer.notifies] == [
            (pb.NSH_BEFORE_RESPONSE, b"before 1"),
            (pb.NSH_BEFORE_RESPONSE, b"before 2"),
            (pb.NSH_AFTER_RESPONSE, b"after 1"),
        ]
        for bad in ("17", "-1", "x", "", "1000000000"):
            assert (
                await ask(addresses["business"], "notify_demo", params={"after": bad})
            ).code == 400


async def test_slow_is_bounded() -> None:
    async with start_demo() as addresses:
        answer = await ask(addresses["business"], "slow", params={"ms": "1"}, data=b"x")
        assert (answer.code, answer.data) == (200, b"x")
        assert (await ask(addresses["business"], "slow", params={"ms": "60001"})).code == 400
        assert (await ask(addresses["business"], "slow")).code == 400


@pytest.mark.parametrize(
    ("service", "action"),
    [("business", "broadcast"), ("business", "push_demo"), ("zone", "zone_broadcast")],
)
async def test_pushes(service: str, action: str) -> None:
    asked: list[Any] = []

    class Pushes(rpc.GatewayServiceServicer):
        async def BroadcastToClients(self, request: Any, context: Any) -> Any:  # noqa: N802
            asked.append(request)
            return pb.BroadcastResponse(sent_count=2)

        async def PushToClient(self, request: Any, context: Any) -> Any:  # noqa: N802
            asked.append(request)
            return pb.UnicastPushResponse(success=True)

    async with start_demo() as addresses:  # no gateway: no push
        assert (await ask(addresses[service], action)).code == 503
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add: Any = rpc.add_GatewayServiceServicer_to_server
    add(Pushes(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with start_demo(gateway=lambda: address) as addresses:
        answer = await ask(addresses[service], action, data=b"news", client_seq_id=5)
        assert answer.code == 200
        if action == "push_demo":
            assert [push.data for push in asked] == [b"before", b"after"]
            assert {push.bind_client_seq_id for push in asked} == {5}
        else:
            assert json.loads(answer.data) == {"sessions": 2}
            assert [push.data for push in asked] == [b"news"]
    await server.stop(None)
