"""Thousands of histories of several processes as one gateway, on the real code.

Sessions move, are taken back, given away, buried; calls between the processes get lost, come late
and twice; processes crash and are cut off. A history that breaks a promise replays alone, with its
trace: ``python -m tests.sim --processes SEED -v``.
"""

from __future__ import annotations

import pytest

from ..pool import run_many, run_some
from .world import run

FEW_HISTORIES = 40
HISTORIES = 2_000

AT_LEAST = {
    "moves": 1_000,
    "taken_back": 100,
    "gives": 300,
    "resumes": 1_000,
    "crashes": 300,
    "directory_cuts": 300,
    "peer_cuts": 300,
    "outages": 50,
    "calls_lost": 1_000,
    "answers_lost": 1_000,
    "calls_repeated": 1_000,
    "calls_late": 300,
    "duplicate_logins_elsewhere": 300,
    "replaced": 100,
    "kicks": 100,
    "entries_buried": 50,
    "entries_left": 100,
    "told_replaced": 50,
    "told_kicked": 50,
    "told_unknown_session": 100,
    "push_ok": 1_000,
    "push_unknown": 100,
    "push_busy": 100,
    "push_broken": 50,
    "bound": 100,
    "held_pushes": 100,
    "answers": 1_000,
    "call_Forward": 100,
    "failed_502": 20,
}


def test_nothing_that_the_protocol_forbids_happens() -> None:
    result = run_some(1, FEW_HISTORIES, "processes")
    assert not result.bad, result.complaint()
    assert result.histories == FEW_HISTORIES


@pytest.mark.long
def test_nothing_forbidden_happens_in_thousands_of_histories(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = run_many(1, HISTORIES, "processes")
    counts = result.counts
    with capsys.disabled():
        print(f"\n{result.histories} histories of several processes:")
        print("  " + ", ".join(f"{name} {counts[name]}" for name in ("events", *AT_LEAST)))
    assert not result.bad, result.complaint()
    assert result.histories >= HISTORIES
    assert {name: counts[name] for name, least in AT_LEAST.items() if counts[name] < least} == {}


@pytest.mark.parametrize("seed", [3])
def test_a_seed_is_a_history(seed: int) -> None:
    first, second = (run(seed, is_verbose=True) for _ in range(2))
    assert first.trace == second.trace
    assert first.counts == second.counts
