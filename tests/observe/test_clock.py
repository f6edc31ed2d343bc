"""The clock that stands still while the process does."""

from __future__ import annotations

from gatesvr.observe.clock import MAX_GAP_S, TICK_S, RunningClock


class Time:
    """Monotonic time that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_clock_that_nobody_watches_is_monotonic_time() -> None:
    time = Time()
    clock = RunningClock(time)
    assert clock.now() == 1000.0
    time.now += 100 * MAX_GAP_S
    assert clock.now() == time.now
    assert clock.loop_time(clock.now()) == time.now


def test_a_stall_does_not_count() -> None:
    time = Time()
    clock = RunningClock(time)
    stalls: list[float] = []
    clock.on_stall = stalls.append
    clock.watch()
    for _ in range(100):
        time.now += TICK_S
        assert clock.now() == time.now
    stopped_at = clock.now()
    time.now += 9.0
    assert clock.now() == stopped_at
    assert stalls == [9.0]
    time.now += TICK_S
    assert clock.now() == stopped_at + TICK_S
    assert clock.loop_time(clock.now()) == time.now
    clock.unwatch()
    time.now += 9.0
    assert clock.now() == stopped_at + TICK_S + 9.0
