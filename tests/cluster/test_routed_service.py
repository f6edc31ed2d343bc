"""The push port of one process of several: real gRPC in front of commands that must wait."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from gatesvr._pb import upstream_pb2 as pb
from gatesvr._pb.upstream_pb2_grpc import GatewayServiceStub
from gatesvr.config import PushConfig
from gatesvr.grpc_api.service import PushService
from gatesvr.service.gateway_client import GatewayClient
from gatesvr.service.push_api import Push

from ..dispatch.fakes import settle
from .routed import RoutedCluster, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE_S = 30.0


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[RoutedCluster, str]]:
    """Yield two processes, and the address of the push port of ``a``."""
    async with asyncio.timeout(DEADLINE_S), RoutedCluster("ab", max_queue_size=4000) as cluster:
        service = PushService(PushConfig(bind="127.0.0.1:0"), cluster["a"].commands)
        await service.start()
        try:
            yield cluster, service.address
        finally:
            await service.stop()


async def test_every_command_over_grpc() -> None:
    async with serving() as (cluster, address), GatewayClient(address, timeout=DEADLINE_S) as api:
        async with api.events(["logged_in"]) as events:
            client, session, _ = await cluster.b.log_in("alice")
            assert (await anext(events)).openid == "alice"
        assert (await api.push("alice", data=b"1")).success
        many = await api.push_many(Push("alice", data=b"%d" % n) for n in range(2, 1_500))
        assert all(result.success for result in many)
        found = await api.get_session("alice")
        assert found is not None
        assert found.session_id == session.session_id
        assert [each.openid async for each in api.sessions()] == ["alice"]
        assert await texts(client) == [str(n) for n in range(1, 1_500)]
        assert (await api.multicast(["alice"], data=b"m")).sessions == 1
        assert (await api.kick("alice")).success
        stub = GatewayServiceStub(api._channel)
        registered = await stub.RegisterUpstream(
            pb.UpstreamRegisterRequest(address=":7000", service_name="chat")
        )
        assert registered.success
        lease = pb.LeaseRequest(lease_id=registered.lease_id)
        assert (await stub.KeepUpstreamAlive(lease)).success
        assert (await stub.DeregisterUpstream(lease)).success


async def test_batches_of_a_stream_go_ahead_of_one_that_waits() -> None:
    async with serving() as (cluster, address), grpc.aio.insecure_channel(address) as channel:
        alice, _, _ = await cluster.b.log_in("alice")
        bob, _, _ = await cluster.b.log_in("bob")
        held = cluster.wire.order("Push", "hold")
        call = GatewayServiceStub(channel).PushStream()

        def batch(openid: str, data: bytes) -> pb.UnicastPushBatch:
            return pb.UnicastPushBatch(requests=[Push(openid, data=data).message()])

        await call.write(batch("alice", b"1"))
        while not held.seen:
            await settle(1)
        for number in range(2, 4):
            await call.write(batch("alice", b"%d" % number))
            await call.write(batch("bob", b"%d" % number))
        seen: list[str] = []
        while not seen:
            seen += await texts(bob)
        assert seen[0] == "2"
        assert await texts(alice) == []
        held.release()
        await call.done_writing()
        answers = [answer async for answer in call]
        assert [r.success for answer in answers for r in answer.responses] == [True] * 5
        assert await texts(alice) == ["1", "2", "3"]


@pytest.mark.parametrize("wrong", ["undecodable", "too many", "gone"])
async def test_a_stream_that_goes_wrong_ends(wrong: str) -> None:
    async with serving() as (cluster, address), grpc.aio.insecure_channel(address) as channel:
        counters = cluster.a.engine.commands.counters
        if wrong == "undecodable":
            method = channel.stream_stream("/gatesvr.proto.GatewayService/PushStream")
            call = method()
            await call.write(b"\xff\xff")
        else:
            call = GatewayServiceStub(channel).PushStream()
            await call.write(pb.UnicastPushBatch())
            assert not (await call.read()).responses
            assert counters.streams == 1
            if wrong == "too many":
                requests = [pb.UnicastPushRequest()] * 10_001
                await call.write(pb.UnicastPushBatch(requests=requests))
        if wrong == "gone":
            call.cancel()
        else:
            assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
        while counters.streams:
            await asyncio.sleep(0.01)
        assert counters.internal_errors == 0


async def test_a_stream_goes_on_by_another_process() -> None:
    async with asyncio.timeout(DEADLINE_S), RoutedCluster("ab", max_queue_size=4000) as cluster:
        client, _, _ = await cluster.b.log_in("alice")
        first, second = (
            PushService(PushConfig(bind="127.0.0.1:0"), cluster[n].commands, is_shared=True)
            for n in "ab"
        )
        await first.start()
        address = first.address
        for service in (first, second):
            service._config = PushConfig(bind=address)
        numbers = iter(range(10_000))
        sent = []
        try:
            async with (
                GatewayClient(address, timeout=DEADLINE_S) as api,
                api.push_stream() as stream,
            ):

                async def push(count: int) -> None:
                    for _ in range(count):
                        pushes = [Push("alice", data=b"%d" % next(numbers)) for _ in range(5)]
                        results = await stream.push(*pushes)
                        assert all(result.success for result in results)
                        sent.extend(push.data.decode() for push in pushes)

                await push(5)
                await second.start()
                pushing = asyncio.create_task(push(100))
                await settle(5)
                await first.stop()
                await pushing
                await push(5)
                await first.start()
                await second.stop()  # nothing is under way
                await push(5)
        finally:
            await first.stop()
            await second.stop()
        assert await texts(client) == sent
        assert [p.engine.commands.counters.streams for p in cluster] == [0, 0]
