"""Thousands of histories of the real protocol, sessions and dispatch: PROTOCOL 4.9 holds in each.

A history that breaks it replays alone, with its trace: ``python -m tests.sim SEED -v``.
"""

from __future__ import annotations

import asyncio
import gc
import math

import pytest

from .loop import VirtualLoop
from .pool import run_many, run_some
from .world import World, run

FEW_HISTORIES = 100
HISTORIES = 3_000
EVENTS = 300

AT_LEAST = {
    "gw_resumes": 1_000,
    "gw_steals": 300,
    # Connections: lost, given up, closed, late, at every point.
    "cuts": 100,
    "given_up": 100,
    "late": 100,
    "silent": 100,
    "goaways": 100,
    "start_resps_never_read": 100,
    "starts_late": 100,
    "starts_behind_their_successor": 100,
    "gw_resumes_stale": 100,
    # Processes.
    "client_restarts": 100,
    "gateway_restarts": 100,
    "ends": 100,
    # Sessions.
    "gw_logins": 100,
    "second_device_logins": 100,
    "duplicate_logins": 100,
    "gw_replaced": 100,
    "gw_resumes_unknown": 100,
    "gw_resumes_tombstoned": 100,
    "gw_expired": 100,
    "gw_login_timeouts": 100,
    "stops": 100,
    "kicks": 100,
    "kicks_during_login": 10,
    # Queues.
    "gw_notifies_expired": 100,
    "gw_notifies_dropped": 100,
    "lost_expired": 100,
    "lost_overflow": 100,
    "gw_notifies_conflated": 100,
    "lost_conflated": 100,
    "slow": 100,
    "gw_slow_consumers": 100,
    "push_busy": 100,
    "bound": 100,
    "broadcasts": 100,
    "push_repeats": 100,
    "gw_pushes_held": 100,
    "told_suspended": 1_000,
    "told_resumed": 1_000,
    "told_replaced": 100,
    "told_kicked": 100,
    "told_expired": 100,
    "told_closed": 100,
    # Requests.
    "answers": 1_000,
    "upstream_failures": 100,
    "upstream_timeouts": 100,
    "refused_elsewhere": 100,
    "failed_413": 100,
    "failed_503": 100,
    "failed_507": 100,
}


def test_nothing_that_the_protocol_forbids_happens() -> None:
    result = run_some(1, FEW_HISTORIES)
    assert not result.bad, result.complaint()
    assert result.histories == FEW_HISTORIES
    assert result.fewest_events >= EVENTS


@pytest.mark.long
def test_nothing_forbidden_happens_in_thousands_of_histories(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = run_many(1, HISTORIES)
    counts = result.counts
    with capsys.disabled():
        print(f"\n{result.histories} histories of at least {result.fewest_events} events:")
        print("  " + ", ".join(f"{name} {counts[name]}" for name in ("events", *AT_LEAST)))
    assert not result.bad, result.complaint()
    assert result.histories >= 2_000
    assert result.fewest_events >= EVENTS
    assert {name: counts[name] for name, least in AT_LEAST.items() if counts[name] < least} == {}


@pytest.mark.parametrize("seed", [3, 17])
def test_a_seed_is_a_history(seed: int) -> None:
    first, second = (run(seed, is_verbose=True) for _ in range(2))
    assert first.trace == second.trace
    assert first.counts == second.counts
    assert first.trace != run(seed + 1, is_verbose=True).trace


def test_a_history_leaves_nothing_behind() -> None:
    world = run(5)
    del world
    gc.collect()
    assert [o for o in gc.get_objects() if isinstance(o, World)] == []


def test_virtual_time_moves_only_when_it_is_told_to() -> None:
    loop = VirtualLoop()
    happened: list[str] = []

    async def sleeper() -> None:
        happened.append("begins")
        await asyncio.sleep(3_600)
        happened.append("ends")

    try:
        started = loop.time()
        task = loop.create_task(sleeper())
        loop.settle()
        loop.advance(3_599.0)
        assert happened == ["begins"]
        loop.advance(1.5)
        assert happened == ["begins", "ends"]
        assert task.done()
        assert loop.time() == started + 3_600.5
    finally:
        loop.close()


@pytest.mark.parametrize("now", [1_000.0, 2.0**24, 2.0**40])
def test_a_timer_that_is_due_runs_however_late_it_is(now: float) -> None:
    class Loop(VirtualLoop):
        def _run_once(self) -> None:  # type: ignore[override]
            super()._run_once()
            assert not self._ready
            assert fired, "it would go on for ever"

    loop, fired = Loop(), []
    loop._now = now
    loop.call_at(now, fired.append, "now")
    loop.call_at(math.nextafter(now, math.inf), fired.append, "later")
    loop.settle()
    assert fired == ["now"]
    loop.close()
