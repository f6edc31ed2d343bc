"""Pace: when messages wait for more calls."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gatesvr.upstream import pace
from gatesvr.upstream.pace import PACE_CALLS, PACE_S, Pace


@pytest.mark.parametrize(
    ("shares", "states"),
    [((0.4, 0.6, 0.3, 0.2, 0.4), (False, True, True, False, False)), ((1.0, 0.0), (True, False))],
)
def test_busy_from_half_of_its_time_on_until_a_quarter(
    monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...], states: tuple[bool, ...]
) -> None:
    worked, now = 1.0, 1000.0
    monkeypatch.setattr(pace, "time", SimpleNamespace(thread_time=lambda: worked))
    under_test = Pace()
    under_test.wrote(now)
    seen = []
    for share in shares:
        worked, now = worked + share, now + 1.0
        under_test.wrote(now)
        seen.append(under_test.is_busy)
    assert tuple(seen) == states


def test_messages_of_a_busy_process_keep_apart_unless_many_wait_or_nothing_is_open() -> None:
    under_test = Pace()
    under_test.wrote(1000.0)
    assert under_test.wait(1000.0, 1, 1) == 0.0
    under_test.is_busy = True
    assert under_test.wait(1000.0, 1, 1) == pytest.approx(PACE_S)
    assert under_test.wait(1000.0 + PACE_S, 1, 1) == pytest.approx(0.0)
    assert under_test.wait(1000.0, 0, 1) == 0.0
    assert under_test.wait(1000.0, 1, PACE_CALLS) == 0.0
