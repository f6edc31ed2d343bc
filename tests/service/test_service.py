"""The SDK over real gRPC: handlers, lanes, refusals, stop, health, pushes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatesvr._pb import upstream_pb2 as pb
from gatesvr._pb import upstream_pb2_grpc as rpc
from gatesvr.errors import ConfigError, UpstreamError
from gatesvr.service.request import Reply, Request
from gatesvr.service.results import PushResult
from gatesvr.service.service import UpstreamService

from ..fakes import until
from ..upstream.servers import DEADLINE_S


class NoText(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


UNUSABLE = [
    ("surrogate", "handler_failed", "a handler must return text that UTF-8 can encode"),
    ("surrogate_later", "handler_failed", "a handler must return text that UTF-8 can encode"),
    ("list_headers", "bad_reply", "Reply.headers must map str to str, not list"),
    ("list_headers_later", "bad_reply", "Reply.headers must map str to str, not list"),
    ("wrong_message", "bad_reply", "UnicodeEncodeError: "),
    ("cancelled", "handler_failed", "CancelledError: "),
    ("cancelled_later", "handler_failed", "CancelledError: "),
    ("exit", "handler_failed", "SystemExit: 3"),
    ("exit_later", "handler_failed", "SystemExit: 3"),
    ("generator_exit_later", "handler_failed", "GeneratorExit: "),
    ("no_text", "handler_failed", "NoText"),
    ("no_arguments", "handler_failed", "TypeError: "),
]


def make(**values: Any) -> UpstreamService:
    """Return a service with one handler of each kind."""
    service = UpstreamService("test", **values)
    gate = asyncio.Event()

    @service.action("plain")
    def plain(request: Request) -> bytes:
        return request.data

    @service.action("text")
    async def text(request: Request) -> str:
        return f"{request.openid} {request.params['k']} {request.headers['h']} {request.timeout}"

    @service.action("none")
    async def none(_: Request) -> None:
        return None

    @service.action("reply")
    async def reply(request: Request) -> Reply:
        request.notify_before("b", data=b"1")
        request.notify_after("a", title="t", content="c", metadata={"m": "v"})
        return Reply(201, "made", request.peer.zone.encode(), {"zone": "007"})

    @service.action("gate")
    async def gated(request: Request) -> bytes:
        await gate.wait()
        return request.data

    @service.action("raise")
    def fail(_: Request) -> None:
        raise ValueError("secret text")

    @service.action("raise_later")
    async def fail_later(_: Request) -> None:
        await asyncio.sleep(0)
        raise ValueError("secret text")

    @service.action("wrong")
    def wrong(_: Request) -> Any:
        return 5

    @service.action("wrong_later")
    async def wrong_later(_: Request) -> Any:
        return {"a": 1}

    @service.action("wrong_headers")
    def wrong_headers(_: Request) -> Any:
        return Reply(headers={"n": 1})  # type: ignore[dict-item]

    @service.action("wrong_reply")
    def wrong_reply(_: Request) -> Any:
        return Reply(data="text")  # type: ignore[arg-type]

    @service.action("wrong_code")
    def wrong_code(_: Request) -> Any:
        return Reply(2**40)

    @service.action("surrogate")
    def surrogate(_: Request) -> str:
        return "name \ud800"

    @service.action("surrogate_later")
    async def surrogate_later(_: Request) -> str:
        return "name \ud800"

    @service.action("list_headers")
    def list_headers(_: Request) -> Any:
        return Reply(headers=[1])  # type: ignore[arg-type]

    @service.action("list_headers_later")
    async def list_headers_later(_: Request) -> Any:
        return Reply(headers=[1])  # type: ignore[arg-type]

    @service.action("wrong_message")
    def wrong_message(_: Request) -> Any:
        return Reply(message="\ud800")

    @service.action("cancelled")
    def cancelled(_: Request) -> None:
        raise asyncio.CancelledError

    @service.action("cancelled_later")
    async def cancelled_later(_: Request) -> None:
        raise asyncio.CancelledError

    @service.action("exit")
    def leave(_: Request) -> None:
        raise SystemExit(3)

    @service.action("exit_later")
    async def leave_later(_: Request) -> None:
        raise SystemExit(3)

    @service.action("generator_exit_later")
    async def generator_exit_later(_: Request) -> None:
        raise GeneratorExit

    @service.action("no_text")
    def no_text(_: Request) -> None:
        raise NoText

    @service.action("no_arguments")
    async def no_arguments() -> None:
        return None

    @service.action("huge")
    def huge(_: Request) -> bytes:
        return bytes(4 << 20)

    @service.action("large")
    def large(_: Request) -> bytes:
        return bytes(1 << 20)

    @service.action("some_*")
    def some(request: Request) -> str:
        return request.action

    service.test_gate = gate  # type: ignore[attr-defined]
    return service


@asynccontextmanager
async def served(service: UpstreamService) -> AsyncIterator[rpc.UpstreamServiceStub]:
    """Serve a service; afterwards none of its tasks is left."""
    before = asyncio.all_tasks()
    address = await service.serve()
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            yield rpc.UpstreamServiceStub(channel)
        finally:
            await service.stop(0.1)
    names = [task.get_name() for task in asyncio.all_tasks() - before]
    assert not [name for name in names if name.startswith("gatesvr")]
    assert service.counters.running == service.counters.streams == 0


def request(action: str, number: int = 1, **values: Any) -> pb.UpstreamRequest:
    return pb.UpstreamRequest(
        action=action, client_seq_id=number + 100, request_id=number, **values
    )


class Lane:
    """The gateway's end of a lane."""

    def __init__(self, stub: Any) -> None:
        self.call = stub.ProcessStream()

    async def send(self, *requests: pb.UpstreamRequest) -> None:
        await self.call.initial_metadata()  # as the gateway does; it arrives before any answer
        await self.call.write(pb.UpstreamRequestBatch(requests=requests))

    async def read(self) -> list[pb.UpstreamResponse]:
        batch = await asyncio.wait_for(self.call.read(), DEADLINE_S)
        return [] if batch is grpc.aio.EOF else list(batch.responses)

    async def take(self, number: int) -> dict[int, pb.UpstreamResponse]:
        answers: dict[int, pb.UpstreamResponse] = {}
        while len(answers) < number:
            for answer in await self.read():
                assert answer.request_id not in answers
                answers[answer.request_id] = answer
        return answers

    async def end(self) -> None:
        await self.call.done_writing()
        assert await self.read() == []
        assert await self.call.code() is grpc.StatusCode.OK


async def test_unary_requests() -> None:
    service = make()
    async with served(service) as stub:
        answer = await stub.ProcessRequest(
            request(
                "text", 7, openid="alice", params={"k": "v"}, headers={"h": "w"}, timeout_ms=1500
            )
        )
        assert (answer.code, answer.data) == (200, b"alice v w 1.5")
        assert (answer.client_seq_id, answer.request_id) == (107, 7)
        answer = await stub.ProcessRequest(request("none"))
        assert (answer.code, answer.data) == (200, b"")
        answer = await stub.ProcessRequest(request("some_thing"))
        assert answer.data == b"some_thing"
        answer = await stub.ProcessRequest(request("PLAIN", data=b"any case"))
        assert answer.data == b"any case"
        assert service.counters.unary_requests == 4


async def test_a_service_without_a_stream_answers_requests_alone() -> None:
    service = make()
    service.has_stream = False
    async with served(service) as stub:
        assert (await stub.ProcessRequest(request("plain", data=b"a"))).data == b"a"
        assert await stub.ProcessStream().code() is grpc.StatusCode.UNIMPLEMENTED


async def test_reply_with_everything() -> None:
    async with served(make()) as stub:
        answer = await stub.ProcessRequest(request("reply", peer=pb.PeerInfo(zone="003")))
        assert answer == pb.UpstreamResponse(
            code=201,
            message="made",
            data=b"003",
            headers={"zone": "007"},
            client_seq_id=101,
            request_id=1,
            notifies=[
                pb.BoundNotify(sync_hint=pb.NSH_BEFORE_RESPONSE, msg_type="b", data=b"1"),
                pb.BoundNotify(
                    sync_hint=pb.NSH_AFTER_RESPONSE,
                    msg_type="a",
                    title="t",
                    content="c",
                    metadata={"m": "v"},
                ),
            ],
        )


@pytest.mark.parametrize(
    ("action", "code", "counter"),
    [
        ("nothing", 404, "unknown_actions"),
        ("raise", 500, "failed"),
        ("raise_later", 500, "failed"),
        ("wrong", 500, "failed"),
        ("wrong_reply", 500, "failed"),
        ("wrong_code", 500, "failed"),
        ("huge", 413, "failed"),
    ],
)
async def test_bad_ends(
    action: str, code: int, counter: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = make()
    async with served(service) as stub:
        lane = Lane(stub)
        await lane.send(request(action, 1), request("plain", 2, data=b"x"))
        answers = await lane.take(2)
        assert (answers[1].code, answers[1].client_seq_id) == (code, 101)
        assert "secret" not in answers[1].message
        assert answers[2].data == b"x"
        assert service.counters.snapshot()[counter] == 1
        await lane.end()
        assert (await stub.ProcessRequest(request(action))).code == code
    assert ("secret text" in caplog.text) == action.startswith("raise")


@pytest.mark.parametrize(
    ("action", "event", "reason"),
    [
        ("raise", "handler_failed", "ValueError: secret text"),
        ("raise_later", "handler_failed", "ValueError: secret text"),
        ("wrong", "handler_failed", "a handler must return Reply, bytes, str or None, not int"),
        (
            "wrong_later",
            "handler_failed",
            "a handler must return Reply, bytes, str or None, not dict",
        ),
        ("wrong_reply", "bad_reply", "Reply.data must be bytes, not str"),
        ("wrong_headers", "bad_reply", "Reply.headers must map str to str, not 'n' to 1"),
    ],
)
async def test_what_a_handler_does_wrong_is_named(
    action: str, event: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = make()
    async with served(service) as stub:
        assert (await stub.ProcessRequest(request(action, openid="alice"))).code == 500
    (record,) = [r for r in caplog.records if r.message == event]
    found = record.keys  # type: ignore[attr-defined]
    assert (found["service"], found["action"], found["openid"]) == ("test", action, "alice")
    assert found["reason"] == reason
    assert (record.exc_info is not None) == action.startswith("raise")
    assert event != "handler_failed" or found["ms"] >= 0


@pytest.mark.parametrize("is_unary", [False, True])
@pytest.mark.parametrize(("action", "event", "reason"), UNUSABLE)
async def test_unusable_end_of_a_handler_is_500_and_hurts_nobody_else(
    action: str, event: str, reason: str, is_unary: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = make()
    async with served(service) as stub:
        lane = Lane(stub)
        bad = request(action, 1, openid="alice")
        if is_unary:
            answer = await stub.ProcessRequest(bad, timeout=DEADLINE_S)
        else:
            await lane.send(bad, request("plain", 2, data=b"x"))
            answers = await lane.take(2)
            answer = answers[1]
            assert answers[2].data == b"x"
        assert (answer.code, answer.message, answer.client_seq_id) == (500, "internal error", 101)
        await lane.send(request("plain", 3, data=b"y"))
        assert (await lane.take(1))[3].data == b"y"
        await lane.end()
        assert service.counters.failed == 1
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    found = record.keys  # type: ignore[attr-defined]
    assert (record.message, found["action"], found["openid"]) == (event, action, "alice")
    assert found["reason"].startswith(reason)
    assert event != "handler_failed" or found["ms"] >= 0


async def test_stream_whose_reader_fails_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make()

    def accept(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    async with served(service) as stub:
        lane = Lane(stub)
        with monkeypatch.context() as patch:
            patch.setattr(service, "accept", accept)
            await lane.send(request("plain", 1), request("plain", 2))
            code = await asyncio.wait_for(lane.call.code(), DEADLINE_S)
        assert code is grpc.StatusCode.INTERNAL
        again = Lane(stub)
        await again.send(request("plain", 3, data=b"x"))
        assert (await again.take(1))[3].data == b"x"
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.message == "lane_reader_failed"


async def test_lane_answers_in_any_order_and_in_batches() -> None:
    service = make()
    async with served(service) as stub:
        lane = Lane(stub)
        await lane.send(
            request("gate", 1, data=b"late"),
            *(request("plain", i, data=b"%d" % i) for i in range(2, 65)),
        )
        first = await lane.read()
        assert [answer.data for answer in first] == [b"%d" % i for i in range(2, 65)]
        service.test_gate.set()  # type: ignore[attr-defined]
        assert [answer.data for answer in await lane.read()] == [b"late"]
        await lane.end()
        counters = service.counters
        assert (counters.batches, counters.batched_requests, counters.mean_batch) == (1, 64, 64.0)
        assert (counters.answer_batches, counters.answers) == (2, 64)


async def test_half_closed_lane_still_answers() -> None:
    service = make()
    async with served(service) as stub:
        lane = Lane(stub)
        await lane.send(request("gate"))
        await lane.call.done_writing()
        await until(lambda: service.counters.running == 1)
        service.test_gate.set()  # type: ignore[attr-defined]
        assert [answer.code for answer in await lane.read()] == [200]
        assert await lane.read() == []


async def test_large_answers_are_spread_over_messages() -> None:
    async with served(make()) as stub:
        lane = Lane(stub)
        await lane.send(*(request("large", i) for i in range(1, 9)))
        answers = await lane.take(8)
        assert {len(answer.data) for answer in answers.values()} == {1 << 20}


async def test_lane_that_breaks_leaves_the_service_well() -> None:
    service = make()
    async with served(service) as stub:
        broken = Lane(stub)
        await broken.send(request("gate"))
        await until(lambda: service.counters.running == 1)
        broken.call.cancel()
        await until(lambda: service.counters.streams == 0)
        service.test_gate.set()  # type: ignore[attr-defined]
        await until(lambda: service.counters.running == 0)
        assert (await stub.ProcessRequest(request("plain"))).code == 200


async def test_handlers_at_once_are_bounded_and_the_rest_refused() -> None:
    service = make(max_running=2, max_waiting=3)
    async with served(service) as stub:
        lane = Lane(stub)
        await lane.send(*(request("gate", i) for i in range(1, 8)), request("plain", 8))
        first = await lane.take(3)
        assert {number: answer.status for number, answer in first.items()} == {
            6: pb.UPSTREAM_REFUSED,
            7: pb.UPSTREAM_REFUSED,
            8: pb.UPSTREAM_OK,
        }
        service.test_gate.set()  # type: ignore[attr-defined]
        assert set(await lane.take(5)) == {1, 2, 3, 4, 5}
        assert (service.counters.refused, service.counters.peak_running) == (2, 2)


async def test_request_past_its_deadline_in_the_queue_is_not_started() -> None:
    service = make(max_running=1)
    async with served(service) as stub:
        lane = Lane(stub)
        await lane.send(
            request("gate", 1),
            request("text", 2, timeout_ms=1),
            request("none", 3, timeout_ms=60_000),
            request("none", 4),
        )
        await until(lambda: service.counters.running == 1)
        deadline = asyncio.get_running_loop().time() + 0.002
        await until(lambda: asyncio.get_running_loop().time() > deadline)
        service.test_gate.set()  # type: ignore[attr-defined]
        answers = await lane.take(4)
        assert {n: answer.status for n, answer in answers.items()} == {1: 0, 2: 1, 3: 0, 4: 0}
        assert (service.counters.refused, service.counters.expired) == (1, 1)


async def test_stop_refuses_finishes_and_ends() -> None:
    service = make()
    async with served(service) as stub:
        lane = Lane(stub)
        await lane.send(request("gate", 1, data=b"x"))
        await until(lambda: service.counters.running == 1)
        stopping = asyncio.create_task(service.stop(DEADLINE_S))
        await until(lambda: service.is_stopping)
        await lane.send(request("plain", 2))
        assert (await lane.take(1))[2].status == pb.UPSTREAM_REFUSED
        service.test_gate.set()  # type: ignore[attr-defined]
        assert (await lane.take(1))[1].data == b"x"
        assert await lane.read() == []
        await stopping
        await service.stop()


async def test_stop_gives_up_on_handlers_that_never_end() -> None:
    service = make()
    async with served(service) as stub:
        lane = Lane(stub)
        await lane.send(request("gate"))
        await until(lambda: service.counters.running == 1)
        await service.stop(0.01)
        assert [answer.code for answer in await lane.read()] == [500]


async def test_status_and_health() -> None:
    service = make()
    async with served(service) as stub:
        lane = Lane(stub)
        await lane.send(request("plain"))
        await lane.take(1)
        status = await stub.GetStatus(pb.StatusRequest(service_name="test"))
        assert (status.status, status.active_connections) == ("SERVING", 1)
        assert status.metadata["batched_requests"] == "1"
        async with grpc.aio.insecure_channel(service.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.Check(health_pb2.HealthCheckRequest(service="other"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stopping = asyncio.create_task(service.stop())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await watch.read() is grpc.aio.EOF
            await stopping


async def test_busy_port_is_a_clear_error() -> None:
    service, other = make(), make()
    async with served(service):
        with pytest.raises(ConfigError, match=service.address):
            await other.serve(service.address)
        with pytest.raises(RuntimeError):
            await service.serve()
    await other.stop()


@pytest.mark.parametrize("bind", ["nonsense", "127.0.0.1:99999", "no-such-host.invalid:0"])
async def test_address_that_is_none_is_a_clear_error(bind: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on {bind}"):
        await make().serve(bind)


def test_run_on_a_busy_port_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SystemExit) as ended:
            UpstreamService("zone").run(bind)
    assert ended.value.code == 2
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"zone: cannot listen on {bind}: address already in use\n")


class Pushes(rpc.GatewayServiceServicer):
    """Records its requests."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def PushToClient(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        return pb.UnicastPushResponse(success=True, sessions=1)

    async def BroadcastToClients(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        return pb.BroadcastResponse(sent_count=3)

    async def MulticastToClients(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.BroadcastResponse(message=f"{len(request.targets)} targets")

    async def KickClient(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.UnicastPushResponse(success=True, message=f"{request.target_id} {request.code}")

    async def GetSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        await context.abort(grpc.StatusCode.INTERNAL, "broken")

    async def RegisterUpstream(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        return pb.UpstreamRegisterResponse(success=True, lease_id="L")

    async def KeepUpstreamAlive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.UpstreamRegisterResponse(success=request.lease_id == "L")

    async def DeregisterUpstream(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.UpstreamRegisterResponse(success=request.lease_id == "L")


async def test_gateway_client() -> None:
    pushes = Pushes()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add: Any = rpc.add_GatewayServiceServicer_to_server
    add(pushes, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    service = UpstreamService("test", gateway=lambda: address)
    gateway = service.gateway
    assert (await gateway.push("alice", msg_type="m", data=b"d", ttl=1.5)).sessions == 1
    asking = Request(pb.UpstreamRequest(session_id="S", client_seq_id=9), service)
    assert (await gateway.push_bound(asking, before=True, content="c")).success
    assert await gateway.broadcast(title="t", suspended=True) == PushResult(True, 3)
    refused = await gateway.multicast(["a", "b"], content="c")
    assert refused == PushResult(False, message="2 targets")  # as older gateways refuse
    assert (await gateway.kick("bob", code=1001)).message == "bob 1001"
    registered = await gateway.register(":1", "zone", zone="001", lease=5)
    assert (await gateway.keep_alive(registered.lease_id)).success
    assert (await gateway.deregister(registered.lease_id)).success
    with pytest.raises(UpstreamError, match="INTERNAL"):
        await gateway.get_session("alice")
    assert pushes.asked == [
        pb.UnicastPushRequest(
            target_type="openid", target_id="alice", msg_type="m", data=b"d", ttl_ms=1500
        ),
        pb.UnicastPushRequest(
            target_type="session",
            target_id="S",
            content="c",
            sync_hint=pb.NSH_BEFORE_RESPONSE,
            bind_client_seq_id=9,
            bind_session_id="S",
        ),
        pb.BroadcastRequest(title="t", suspended=True),
        pb.UpstreamRegisterRequest(
            address=":1", service_name="zone", zone_id="001", lease_seconds=5, weight=1
        ),
    ]
    await gateway.close()
    await server.stop(None)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("content", 5, "content must be str, not int"),
        ("data", "text", "data must be bytes, not str"),
        ("metadata", {"a": 1}, "metadata must be str, not int"),
    ],
)
async def test_push_names_the_parameter_that_does_not_fit(
    field: str, value: Any, told: str
) -> None:
    gateway = UpstreamService("test", gateway="127.0.0.1:9").gateway
    wrong: Any = {field: value}
    asked = Request(pb.UpstreamRequest(), UpstreamService("test"))
    with pytest.raises(TypeError, match=told):
        await gateway.push("alice", **wrong)
    with pytest.raises(TypeError, match=told):
        await gateway.broadcast(**wrong)
    with pytest.raises(TypeError, match=told):
        await gateway.push_bound(asked, before=True, **wrong)
    with pytest.raises(TypeError, match=told):
        asked.notify_before("m", **wrong)


async def test_gateway_without_an_address() -> None:
    with pytest.raises(ConfigError):
        await UpstreamService("test").gateway.broadcast()


def test_run_says_where_and_ends_with_a_signal(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "gatesvr.service")
    service = UpstreamService("test", gateway="127.0.0.1:8092")

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "service_started":
                os.kill(os.getpid(), signal.SIGTERM)

    handler = Handler()
    logging.getLogger("gatesvr.service").addHandler(handler)
    try:
        service.run()
    finally:
        logging.getLogger("gatesvr.service").removeHandler(handler)
    assert [r.message for r in caplog.records] == ["service_started", "service_stopped"]
    assert capsys.readouterr().out == (
        f"test serves on {service.address} (TCP, gRPC), "
        "pushes through the gateway at 127.0.0.1:8092\n"
    )


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-"])
async def test_runs_with_a_standard_descriptor_closed(closed: str) -> None:
    code = """
import os, signal
from gatesvr import UpstreamService

class Service(UpstreamService):
    async def serve(self, *args, **kwargs):
        address = await super().serve(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGTERM)
        return address

Service("x").run("127.0.0.1:0")
"""
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code
    )
    async with asyncio.timeout(DEADLINE_S):
        assert await process.wait() == 0
