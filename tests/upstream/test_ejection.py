"""Ejection over real servers: one endpoint fails, hangs or lies, and the others do the work."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gatesvr._pb import upstream_pb2 as pb
from gatesvr.errors import ErrorCode, Outcome, UpstreamError

from ..fakes import until
from .servers import DEADLINE_S, Streaming, UnaryOnly, ask, endpoints, parse, serving
from .test_lane import failure
from .test_manager import managing, until_streams, until_up

if TYPE_CHECKING:
    from gatesvr.upstream.manager import UpstreamManager

pytestmark = pytest.mark.usefixtures("lane_kind")

OPENIDS = (f"user{i}" for i in count())


class Troubled(UnaryOnly):
    """Ends calls with a status while it has one."""

    status: grpc.StatusCode | None = grpc.StatusCode.INTERNAL

    async def ProcessRequest(self, request: Any, context: Any) -> pb.UpstreamResponse:  # noqa: N802
        if self.status is not None:
            self.unary += 1
            await context.abort(self.status, "trouble")
        return await super().ProcessRequest(request, context)


class Breaking(Streaming):
    """Ends its stream at every message, and every unary call."""

    is_broken = True

    async def ProcessRequest(self, request: Any, context: Any) -> pb.UpstreamResponse:  # noqa: N802
        if self.is_broken:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return await super().ProcessRequest(request, context)

    async def respond(self, batch: pb.UpstreamRequestBatch, context: Any) -> None:
        if self.is_broken:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        await super().respond(batch, context)


class Hanging(Streaming):
    """Takes requests and answers none while it hangs."""

    is_hanging = True

    async def respond(self, batch: pb.UpstreamRequestBatch, context: Any) -> None:
        if not self.is_hanging:
            await super().respond(batch, context)


async def outcomes(
    manager: UpstreamManager, calls: int, patience: float = DEADLINE_S
) -> Counter[str]:
    """Make calls of different clients at once; return how many ended in which way."""
    asked = [ask(manager, openid=next(OPENIDS), timeout=patience) for _ in range(calls)]
    ends: Counter[str] = Counter()
    for end in await asyncio.gather(*asked, return_exceptions=True):
        ends[f"{end.code} {end.status}" if isinstance(end, UpstreamError) else "answered"] += 1
    return ends


async def until_ejected(manager: UpstreamManager) -> None:
    while not manager.counters.ejections:
        await outcomes(manager, 3)


@pytest.mark.parametrize("kind", [Troubled, Breaking, Hanging])
@pytest.mark.parametrize("balance", ["round_robin", "consistent_hash"])
async def test_one_of_three_fails_and_is_ejected_until_it_answers_again(
    kind: type[Streaming], balance: str
) -> None:
    bad = kind()
    patience = 0.1 if kind is Hanging else DEADLINE_S
    async with (
        serving(bad) as a,
        serving(Streaming("b")) as b,
        serving(Streaming("c")) as c,
        managing({"zone": endpoints(a, b, c)}, balance=balance, ejection_time=0.2) as manager,
    ):
        await until_up(manager, 3)
        while not manager.counters.ejections:
            # With the first ones the lanes may still be coming up.
            await outcomes(manager, 6, patience)
        assert manager.counters.ejected == 1
        assert sorted(status.breaker for status in manager.endpoints())[0] == "closed"
        if kind is not Breaking:  # its lane is busy with coming up again
            ends = await outcomes(manager, 30)
            assert ends.total() - ends["answered"] <= 3, "at most the probes fail"
        bad.__dict__.update(status=None, is_broken=False, is_hanging=False)
        while manager.counters.ejected:
            await outcomes(manager, 6)
        assert manager.counters.restorations == 1
        assert await outcomes(manager, 30) == {"answered": 30}


async def test_an_only_endpoint_that_fails_is_503_at_once_until_it_answers_a_probe() -> None:
    only = Troubled()
    async with (
        serving(only) as address,
        managing({"zone": endpoints(address)}, ejection_time=0.2) as manager,
    ):
        await until_up(manager)
        while not manager.counters.ejections:
            error = await failure(ask(manager, openid=next(OPENIDS)))
            assert error.status == "INTERNAL"
        before = only.unary
        error = await failure(ask(manager))
        assert (error.code, error.outcome) == (ErrorCode.BUSY, Outcome.NOT_STARTED)
        assert (error.status, error.address) == ("ejected", address)
        assert 50 <= error.retry_after_ms <= 5_000
        assert only.unary == before
        assert manager.counters.rejected_calls == 1
        only.status = None
        await until(lambda: manager.endpoints()[0].breaker == "half_open")
        await ask(manager)
        assert manager.endpoints()[0].breaker == "closed"
        assert await outcomes(manager, 10) == {"answered": 10}


async def test_one_client_does_not_open_the_breaker_of_an_only_endpoint() -> None:
    async with serving(Troubled()) as address, managing({"zone": endpoints(address)}) as manager:
        await until_up(manager)
        for _ in range(20):
            assert (await failure(ask(manager, openid="mallory"))).status == "INTERNAL"
        assert manager.counters.ejections == 0


@pytest.mark.parametrize(
    "status",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
    ],
)
async def test_what_a_service_says_itself_is_no_failure(status: grpc.StatusCode) -> None:
    async with (
        serving(Troubled()) as a,
        serving(Troubled()) as b,
        managing({"zone": endpoints(a, b)}, failure_calls=1, consecutive_failures=1) as manager,
    ):
        Troubled.status, before = status, Troubled.status
        try:
            await until_up(manager, 2)
            ends = await outcomes(manager, 20)
        finally:
            Troubled.status = before
        assert ends.total() - ends["answered"] == 20
        assert manager.counters.ejections == 0


async def test_a_hanging_endpoint_is_full_and_a_second_one_takes_over() -> None:
    hanging, other = Hanging(), Streaming("other")
    async with (
        serving(hanging) as a,
        serving(other) as b,
        managing({"zone": endpoints(a, b)}, max_open=4, consecutive_failures=0) as manager,
    ):
        await until_up(manager, 2)
        await until_streams(manager)
        calls = [ask(manager) for _ in range(12)]
        await until(lambda: sum(call.done() for call in calls) == 6)
        assert manager.counters.limited >= 1
        # Six of its calls wait or are open, and it gets no more.
        assert [parse(await ask(manager)).message for _ in range(20)] == ["other"] * 20
        assert manager.endpoints()[0].open_calls == 4
        hanging.is_hanging = False
        for call in calls:
            call.cancel()


async def test_services_at_one_address_have_breakers_of_their_own() -> None:
    async with (
        serving(Troubled()) as address,
        managing({name: endpoints(address) for name in ("zone", "hello")}) as manager,
    ):
        await until_up(manager)
        await until_ejected(manager)
        states = {status.service: status.breaker for status in manager.endpoints()}
        assert states == {"zone": "open", "hello": "closed"}
        assert (await failure(ask(manager, "hello"))).status == "INTERNAL"


async def test_an_ejected_endpoint_is_used_when_no_other_can_be_reached() -> None:
    bad = Troubled()
    async with (
        serving(bad) as a,
        serving(Streaming("b")) as b,
        managing({"zone": endpoints(a, b)}, ejection_time=60.0) as manager,
    ):
        await until_up(manager, 2)
        await until_ejected(manager)
        await b.stop()
        await until(lambda: manager.endpoints()[1].state == "down")
        bad.status = None
        assert await outcomes(manager, 4) == {"answered": 4}


async def test_a_probe_that_its_caller_gives_up_makes_room_for_another() -> None:
    bad = Troubled()
    async with (
        serving(bad) as a,
        managing({"zone": endpoints(a)}, ejection_time=0.05, probes=1) as manager,
    ):
        await until_up(manager)
        await until_ejected(manager)
        bad.status = None
        await until(lambda: manager.endpoints()[0].breaker == "half_open")
        probe = ask(manager, action="gate")
        error = await failure(ask(manager))
        assert (error.status, error.retry_after_ms) == ("ejected", 1_000)
        probe.cancel()
        await asyncio.sleep(0)
        await ask(manager)
        assert manager.endpoints()[0].breaker == "closed"
        bad.gate.set()


async def test_an_endpoint_that_accepts_and_says_nothing_gets_no_calls_and_goes_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        await _check_mute(address)


async def _check_mute(address: str) -> None:
    async with (
        serving(Streaming("other")) as other,
        managing(
            {"zone": endpoints(address, other), "hello": endpoints(address)},
            connect_timeout=0.2,
        ) as manager,
    ):
        await until_up(manager)
        waits = ask(manager, "hello")  # nowhere else to go
        assert await outcomes(manager, 10) == {"answered": 10}
        await until(lambda: manager.endpoints()[0].state == "down")
        assert (await failure(waits)).outcome is Outcome.NOT_STARTED
