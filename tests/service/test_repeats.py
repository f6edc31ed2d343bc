"""Callers of a gateway whose processes leave: each call is done once, and none fails."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from gatesvr._pb import upstream_pb2 as pb
from gatesvr._pb.upstream_pb2_grpc import GatewayServiceStub
from gatesvr.config import PushConfig
from gatesvr.errors import UpstreamError
from gatesvr.grpc_api import service as service_module
from gatesvr.grpc_api.service import PushService
from gatesvr.service import repeats
from gatesvr.service.gateway_client import GatewayClient
from gatesvr.service.push_api import Push
from gatesvr.service.repeats import Repeats

from ..grpc_api.test_service import Rig, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

UPGRADES = 5
LONG = 30.0
FORGOTTEN = ("DEADLINE_EXCEEDED", "no answer in")


@asynccontextmanager
async def process(rig: Rig, bind: str = "127.0.0.1:0") -> AsyncIterator[PushService]:
    """The push port of a further process."""
    rig.commands.pushes.max_batches = 4  # as where there are several
    service = PushService(PushConfig(bind=bind), rig.commands, is_shared=True)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def upgraded(rig: Rig, work: Callable[[str], AsyncIterator[int]]) -> int:
    """Replace a process again and again, while work(address) is done in a loop.

    Once in a thousand times gRPC's server stops and forgets a connection that it has just taken.
    That breaks with its process; here it hangs, and the call on it runs out of time.

    Returns:
        The sum of what work() yields.
    """
    is_over = False

    async def loop(address: str) -> int:
        count = 0
        while not is_over:
            try:
                async for done in work(address):
                    count += done
            except UpstreamError as error:
                if not any(words in str(error) for words in FORGOTTEN):
                    raise
        return count

    async with AsyncExitStack() as stack, asyncio.timeout(LONG):
        service = await stack.enter_async_context(process(rig))
        address = service.address
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(loop(address)) for _ in range(4)]
            for _ in range(UPGRADES):
                done = rig.counters["calls"]
                while rig.counters["calls"] < done + 10:
                    await asyncio.sleep(0.001)
                newer = await stack.enter_async_context(process(rig, address))
                await service.stop()
                service = newer
            is_over = True
    return sum(each.result() for each in loops)


async def test_calls_on_open_connections() -> None:
    async with running() as rig:
        clients: dict[str, GatewayClient] = {}

        async def push(address: str) -> AsyncIterator[int]:
            client = clients.setdefault(address, GatewayClient(address))
            await asyncio.gather(*(client.push("nobody", content="c") for _ in range(4)))
            yield 4

        assert await upgraded(rig, push) == rig.counters["pushes"]
        await asyncio.gather(*(client.close() for client in clients.values()))


async def test_calls_on_new_connections() -> None:
    async with running() as rig:

        async def push(address: str) -> AsyncIterator[int]:
            async with GatewayClient(address) as client:
                await client.push("nobody", content="c")
                yield 1

        assert await upgraded(rig, push) == rig.counters["pushes"]


async def test_push_streams() -> None:
    async with running() as rig:

        async def push(address: str) -> AsyncIterator[int]:
            async with GatewayClient(address) as client, client.push_stream() as stream:
                for _ in range(20):
                    await stream.push(Push("nobody"), Push("nobody"))
                    yield 2

        assert await upgraded(rig, push) == rig.counters["pushes"]


async def test_push_stream_that_waits_is_ended_at_once_and_goes_on_elsewhere() -> None:
    async with (
        running() as rig,
        process(rig) as service,
        GatewayClient(service.address) as client,
        client.push_stream() as stream,
    ):
        await stream.push(Push("nobody"))
        async with process(rig, service.address):
            await service.stop()
            assert rig.counters["streams"] == 0
            await stream.push(Push("nobody"))
        assert rig.counters["pushes"] == 2


async def test_push_stream_that_does_not_know_moves_ends_a_moment_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_module, "STOP_GRACE_S", 0.5)
    monkeypatch.setattr(service_module, "SHARED_STOP_GRACE_S", LONG)
    async with (
        asyncio.timeout(LONG / 2),
        running() as rig,
        process(rig) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        call = GatewayServiceStub(channel).PushStream()
        await call.initial_metadata()
        stopping = asyncio.create_task(service.stop())
        await call.write(pb.UnicastPushBatch(requests=[pb.UnicastPushRequest()]))
        answer = await call.read()
        assert (len(answer.responses), answer.moves) == (1, True)
        assert await call.read() is grpc.aio.EOF
        await stopping
        assert await call.code() is grpc.StatusCode.OK


async def test_subscriptions() -> None:
    async with running() as rig:

        async def subscribe(address: str) -> AsyncIterator[int]:
            async with GatewayClient(address) as client, client.events():
                yield 1

        assert await upgraded(rig, subscribe)


async def test_call_that_is_cut_off_does_not_end_with_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CANCELLED says that no handler has begun."""
    monkeypatch.setattr(service_module, "SHARED_STOP_GRACE_S", 0.01)
    begun = asyncio.Event()

    async def push(_: object) -> None:
        begun.set()
        await asyncio.sleep(LONG)

    async with running() as rig, process(rig) as service:
        monkeypatch.setattr(rig.commands.pushes, "push", push)
        async with grpc.aio.insecure_channel(service.address) as channel:
            call = GatewayServiceStub(channel).PushToClient(pb.UnicastPushRequest())
            await begun.wait()
            await service.stop()
            assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_handler_whose_work_is_cancelled_does_not_answer_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    def cancelled(_: object) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        return future

    async with running() as rig, process(rig) as service:
        monkeypatch.setattr(rig.commands.pushes, "push", cancelled)
        async with grpc.aio.insecure_channel(service.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await GatewayServiceStub(channel).PushToClient(pb.UnicastPushRequest())
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_gateway_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "FIRST_PAUSE_S", LONG)
    monkeypatch.setattr(repeats, "REPEAT_S", 3 * LONG)
    async with running() as rig, process(rig) as service:
        address = service.address
    async with GatewayClient(address) as client, asyncio.timeout(LONG / 2):
        with pytest.raises(UpstreamError, match="UNAVAILABLE"):
            await client.push("nobody", push_id="p")


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "details", "anyhow", "if_safe"),
    [
        (grpc.StatusCode.CANCELLED, "CANCELLED", True, True),
        (UNAVAILABLE, "failed to connect to all addresses; last error: Socket closed", True, True),
        (
            UNAVAILABLE,
            "failed to connect to all addresses; last error: Connection refused",
            False,
            False,
        ),
        (UNAVAILABLE, "Socket closed", False, True),
        (UNAVAILABLE, None, False, True),
        (grpc.StatusCode.INTERNAL, "internal error", False, False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", False, False),
    ],
)
async def test_what_is_repeated(
    code: grpc.StatusCode, details: str | None, anyhow: bool, if_safe: bool
) -> None:
    assert await Repeats().pause(code, details) is anyhow
    assert await Repeats(is_safe=True).pause(code, details) is if_safe


async def test_repeats_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "REPEAT_S", 0.05)
    again = Repeats()
    async with asyncio.timeout(LONG):
        while await again.pause(grpc.StatusCode.CANCELLED, ""):
            pass
