"""Upstreams that say goodbye in order: old connections, rolling restarts, our SDK's stop."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest

from gatesvr._pb import upstream_pb2 as pb
from gatesvr.errors import Outcome, UpstreamError
from gatesvr.service.request import Request
from gatesvr.service.service import UpstreamService
from gatesvr.upstream.lane import LaneState

from ..fakes import until
from .servers import Streaming, ask, endpoints, lane_to, parse, serving
from .test_lane import failure
from .test_manager import managing, until_streams

pytestmark = pytest.mark.usefixtures("lane_kind")


class Slow(Streaming):
    """Answers each batch a little later, and keeps reading meanwhile."""

    def __init__(self, *, ends_at_eof: bool = False) -> None:
        super().__init__()
        self.ends_at_eof = ends_at_eof
        self.ended: list[str] = []

    async def ProcessStream(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        await context.send_initial_metadata(())
        answers = set()
        writing = asyncio.Lock()  # gRPC takes one write at a time
        while (batch := await context.read()) is not grpc.aio.EOF:
            answers.add(asyncio.create_task(self.later(batch, context, writing)))
        self.ended.append("half-closed")
        if not self.ends_at_eof:
            await asyncio.gather(*answers)

    async def later(
        self, batch: pb.UpstreamRequestBatch, context: Any, writing: asyncio.Lock
    ) -> None:
        await asyncio.sleep(0.02)
        async with writing:
            await self.respond(batch, context)


async def load(
    call: Callable[[], asyncio.Future[Any]], is_over: Callable[[], bool]
) -> Counter[str]:
    """Keep eight requests under way until is_over(); return how they ended."""
    ends: Counter[str] = Counter()

    async def caller() -> None:
        while not is_over():
            try:
                await call()
                ends["ok"] += 1
            except UpstreamError as error:
                ends[f"{int(error.code)} {error.outcome.name}"] += 1
                await asyncio.sleep(0.01)

    async with asyncio.timeout(40):
        await asyncio.gather(*(caller() for _ in range(8)))
    return ends


@pytest.mark.parametrize("ends_at_eof", [False, True])
@pytest.mark.parametrize("grace_ms", [2_000, None])
async def test_old_connections_cost_no_request(grace_ms: int | None, ends_at_eof: bool) -> None:
    upstream = Slow(ends_at_eof=ends_at_eof)
    options = {"max_connection_age_ms": 300}
    if grace_ms is not None:
        options["max_connection_age_grace_ms"] = grace_ms
    async with serving(upstream, **options) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        counters = under_test.counters
        ends = await load(under_test.call, lambda: counters.goodbyes >= 4)
        assert set(ends) == {"ok"}
        assert (counters.broken_calls, counters.downs) == (0, 0)
        assert counters.batches > 0
        # The old streams are half-closed: nothing keeps the old connections.
        await until(lambda: len(upstream.ended) >= 3)


async def test_answers_are_awaited_before_the_stream_is_half_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gatesvr.upstream")
    upstream = Slow(ends_at_eof=True)
    async with serving(upstream) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        written = under_test.call(data=b"x")
        await until(lambda: under_test.lane.open_calls)
        await under_test.lane.stop(20.0)
        assert parse(await written).data == b"x"
    assert "upstream_down" not in caplog.messages


async def test_server_that_stops_in_order_answers_what_it_has_read() -> None:
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address, max_open=1) as under_test:
        await under_test.until_state(LaneState.STREAM)
        written = under_test.call("gate", b"x")
        await until(lambda: upstream.requests == 1)
        waiting = under_test.call()
        stopping = asyncio.create_task(address.server.stop(30))
        await under_test.until_state(LaneState.DOWN)
        assert not (await failure(waiting)).is_started  # there is no other lane for it
        upstream.gate.set()
        assert parse(await written).data == b"x"
        await stopping


async def test_goodbye_without_grace_is_told_as_unknown() -> None:
    upstream = Streaming()
    options = {"max_connection_age_ms": 300, "max_connection_age_grace_ms": 10}
    async with serving(upstream, **options) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        error = await failure(under_test.call("gate"))
        assert (error.code, error.outcome) == (502, Outcome.UNKNOWN)
        upstream.gate.set()


def make_service() -> UpstreamService:
    service = UpstreamService("zone")

    @service.action("echo")
    async def echo(request: Request) -> bytes:
        await asyncio.sleep(0.02)
        return request.data

    return service


async def test_rolling_restart_of_sdk_services_costs_no_request() -> None:
    services = [make_service(), make_service()]
    addresses = [await service.serve() for service in services]
    async with managing({"zone": endpoints(*addresses)}) as manager:
        await until_streams(manager)
        rounds = 0

        async def restart() -> None:
            nonlocal rounds
            for i in (0, 1, 0, 1):
                await services[i].stop()
                services[i] = make_service()
                await services[i].serve(addresses[i])
                await until_streams(manager)
                rounds += 1

        restarting = asyncio.create_task(restart())
        ends = await load(lambda: ask(manager), restarting.done)
        await restarting
        assert (rounds, set(ends)) == (4, {"ok"})
        assert manager.counters.broken_calls == 0
    for service in services:
        await service.stop()


async def test_restart_of_the_only_sdk_service_leaves_no_request_unknown() -> None:
    service = make_service()
    address = await service.serve()
    async with managing({"zone": endpoints(address)}) as manager:
        await until_streams(manager)

        def is_watched() -> bool:
            return service._health is not None and service._health.watchers > 0

        async def restart() -> None:
            nonlocal service
            for _ in range(3):
                # It says goodbye to gateways that watch its health; without one it just ends.
                await until(is_watched)
                await service.stop()
                service = make_service()
                await service.serve(address)
                await until_streams(manager)

        restarting = asyncio.create_task(restart())
        ends = await load(lambda: ask(manager), restarting.done)
        await restarting
        assert set(ends) <= {"ok", "502 NOT_STARTED", "503 NOT_STARTED"}
        assert manager.counters.broken_calls == 0
    await service.stop()
