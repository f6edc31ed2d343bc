"""The limit by latency, against upstreams that are a few lines of arithmetic."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from gatesvr.upstream.lane import LaneState
from gatesvr.upstream.limit import GradientLimit

from ..fakes import until
from .servers import Streaming, UnaryOnly, lane_to, serving

Latency = Callable[[int, float], float]
"""Seconds a call takes, by the number of open calls and the time."""


def run(
    limit: GradientLimit, latency: Latency, rate: float, seconds: float, began: float = 0.0
) -> tuple[int, int]:
    """Send calls at a rate; return how many were answered and how many found no room."""
    now = began
    open_calls: dict[int, None] = {}
    ends: list[tuple[float, int]] = []
    answered = refused = 0
    for number in range(int(rate * seconds)):
        now = began + number / rate
        while ends and ends[0][0] <= now:
            end, request_id = heapq.heappop(ends)
            del open_calls[request_id]
            answered += 1
            limit.answered(open_calls, end)
        if len(open_calls) >= limit.limit:
            refused += 1
            continue
        open_calls[number] = None
        heapq.heappush(ends, (now + latency(len(open_calls), now), number))
        limit.sent(number, len(open_calls), now)
    return answered, refused


def queueing(places: int, service_s: float) -> Latency:
    """An upstream that runs so many calls at a time; the others queue."""
    return lambda open_calls, now: service_s * max(1.0, open_calls / places)


def test_overload_shrinks_the_limit_to_about_what_the_upstream_runs() -> None:
    limit = GradientLimit(16, 1_024)
    upstream = queueing(50, 0.02)
    answered, refused = run(limit, upstream, 1_000, 10)
    assert (limit.limit, refused) == (1_024, 0)
    answered, refused = run(limit, upstream, 5_000, 20, began=10)
    assert limit.limit < 200
    assert answered > 40_000, "it still does its 2,500 a second"
    run(limit, upstream, 1_000, 60, began=30)
    assert limit.limit > 60, "room for 1,000 a second"


def test_upstream_that_hangs_gets_few_calls_before_any_deadline() -> None:
    limit = GradientLimit(16, 1_024)
    run(limit, lambda open_calls, now: 0.002, 1_000, 5)
    run(limit, lambda open_calls, now: 1e9, 200, 20, began=5)
    assert limit.limit < 300


@pytest.mark.parametrize("slow_share", [0.01, 0.1, 0.5])
def test_slow_calls_beside_fast_ones_take_nothing_off(slow_share: float) -> None:
    chance = random.Random(3)
    limit = GradientLimit(16, 1_024)
    _, refused = run(limit, lambda *_: 1.0 if chance.random() < slow_share else 0.002, 1_000, 60)
    assert (limit.limit, refused) == (1_024, 0)


def test_long_polls_take_nothing_off() -> None:
    chance = random.Random(3)
    limit = GradientLimit(16, 1_024)
    _, refused = run(limit, lambda *_: chance.uniform(0.1, 20.0), 60, 600)
    assert (limit.limit, refused) == (1_024, 0)


def test_what_is_not_used_does_not_grow() -> None:
    limit = GradientLimit(16, 1_024)
    run(limit, lambda *_: 0.002, 1_000, 1)
    run(limit, lambda *_: 0.2, 1_000, 10, began=1)
    run(limit, lambda *_: 0.002, 1_000, 1, began=11)
    low = limit.limit
    run(limit, lambda *_: 0.002, 1_000, 10, began=12)
    assert low < 1_024
    assert limit.limit == low


@pytest.mark.parametrize("kind", [Streaming, UnaryOnly])
async def test_a_lane_keeps_to_it(kind: type[Streaming], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradientLimit, "sent", lambda limit, *_: 3)
    monkeypatch.setattr(GradientLimit, "answered", lambda limit, *_: 3)
    upstream = kind()
    async with (
        serving(upstream) as address,
        lane_to(address, adaptive_limit=True, max_open=8) as under_test,
    ):
        if kind is Streaming:
            await under_test.until_state(LaneState.STREAM)
        await under_test.call()
        calls = [under_test.call("gate") for _ in range(9)]
        await until(lambda: under_test.lane.is_full and under_test.lane.open_calls == 3)
        upstream.gate.set()
        for call in calls:
            await call
        assert under_test.lane.max_open == 3
