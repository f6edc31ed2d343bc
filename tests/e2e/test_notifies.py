"""Bound notifies stand around their answer, with consecutive seqs, whatever else is pushed."""

from __future__ import annotations

import asyncio

import grpc.aio

from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr._pb import upstream_pb2_grpc as rpc

from .harness import running_gateway
from .plain_client import ack, answer, business, error, plain_client
from .plain_upstream import plain_upstream

BUNDLES = 1000


async def test_bundles_are_whole_among_other_pushes(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
        grpc.aio.insecure_channel(gateway.grpc_address) as channel,
    ):
        started = await client.login("alice")
        gateway_stub = rpc.GatewayServiceStub(channel)
        pushed = 0

        async def push_always() -> None:
            nonlocal pushed
            while True:
                response = await gateway_stub.PushToClient(
                    up.UnicastPushRequest(
                        target_type="session",
                        target_id=started.session_id,
                        msg_type="other",
                        data=b"%d" % pushed,
                    )
                )
                assert response.success, response
                pushed += 1

        pushing = asyncio.create_task(push_always())
        others = 0
        bundles = 0
        server_seq = 1
        sent = 1

        async def next_push() -> pb.ServerPush:
            nonlocal server_seq
            push = await client.receive()
            server_seq += 1
            assert push.seq_id == server_seq
            if server_seq % 16 == 0:
                client.send(ack(server_seq))
            return push

        try:
            while bundles < BUNDLES:
                while sent < BUNDLES + 1 and sent - bundles < 64:
                    sent += 1
                    client.send(business(sent, "notify", b"%d" % sent))
                push = await next_push()
                if push.headers["msg_type"] == "other":
                    assert answer(push).data == b"%d" % others
                    others += 1
                    continue
                assert answer(push).data == b"before"
                middle = await next_push()
                assert answer(middle).data == b"%d" % middle.client_seq_id
                assert answer(await next_push()).data == b"after"
                bundles += 1
        finally:
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)
        assert others > 10, "no other push was under way"


async def test_pushed_notifies_go_around_the_answer_and_around_an_error(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, "dispatch.task_timeout=4s") as gateway,
        plain_client(gateway.address) as client,
        grpc.aio.insecure_channel(gateway.grpc_address) as channel,
    ):
        started = await client.login("alice")
        gateway_stub = rpc.GatewayServiceStub(channel)
        for seq, action in ((2, "gate"), (3, "silent")):
            client.send(business(seq, action, b"middle"))
            await upstream.until_asked(action)
            for hint, data in (
                (up.NSH_AFTER_RESPONSE, b"after"),
                (up.NSH_BEFORE_RESPONSE, b"before"),
            ):
                response = await gateway_stub.PushToClient(
                    up.UnicastPushRequest(
                        target_type="session",
                        target_id=started.session_id,
                        data=data,
                        sync_hint=hint,
                        bind_client_seq_id=seq,
                    )
                )
                assert response.success, response
        upstream.gate.set()
        pushes = [await client.receive() for _ in range(6)]
        assert [push.seq_id for push in pushes] == [2, 3, 4, 5, 6, 7]
        assert [answer(pushes[i]).data for i in (0, 1, 2, 3, 5)] == [
            b"before",
            b"middle",
            b"after",
            b"before",
            b"after",
        ]
        assert error(pushes[4]).error_code == 504
        assert pushes[4].client_seq_id == 3
