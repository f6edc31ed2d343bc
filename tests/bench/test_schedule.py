"""The open model's schedule and its alarm."""

from __future__ import annotations

import asyncio
import time

from gatesvr.bench.schedule import Alarm, Schedule


def test_arrivals_are_due_at_the_rate_and_not_before() -> None:
    schedule = Schedule(100.0, began=5.0)
    assert schedule.take(4.999) is None
    assert schedule.take(5.0) == 5.0
    assert schedule.take(5.0) is None
    assert schedule.next_at == 5.01
    assert schedule.take(5.01) == 5.01
    assert schedule.max_lag == 0.0


def test_a_stall_leaves_every_arrival_due_at_its_own_time() -> None:
    schedule = Schedule(10.0, began=0.0)
    assert schedule.take(0.0) == 0.0
    assert schedule.waiting(1.05) == 10
    taken = []
    while (meant_at := schedule.take(1.05)) is not None:
        taken.append(round(meant_at, 6))
    assert taken == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert round(schedule.max_lag, 6) == 0.95
    assert schedule.waiting(1.05) == 0


def test_no_arrival_is_lost_to_rounding() -> None:
    schedule = Schedule(3.0, began=0.1)
    count = sum(1 for i in range(100_001) if schedule.take(0.1 + i / 1000) is not None)
    assert count == 301


async def test_the_alarm_rings_at_the_last_time_set_and_not_after_close() -> None:
    rings: asyncio.Queue[float] = asyncio.Queue()
    alarm = Alarm(rings.put_nowait)
    begun = time.monotonic()
    alarm.set(begun + 60)
    alarm.set(begun + 0.01)
    async with asyncio.timeout(10):
        at = await rings.get()
    assert at >= begun + 0.01
    alarm.set(begun)  # in the past: at once
    async with asyncio.timeout(10):
        await rings.get()
    alarm.set(time.monotonic() + 0.01)
    alarm.close()
    begun = time.monotonic()
    while time.monotonic() < begun + 0.02:
        await asyncio.sleep(0)
    assert rings.empty()
