"""The drains of several workers, shown as one."""

from __future__ import annotations

from gatesvr.drain import DrainStatus
from gatesvr.workers.drains import gone, sum_up


def test_drains_are_added_in_the_phase_of_the_one_that_is_least_far() -> None:
    first = DrainStatus(
        phase="finishing", connections_at_start=3, connections_told=3, rate=5, to="b:1"
    )
    second = DrainStatus(
        phase="goaway", connections_at_start=4, connections_told=1, connections_left=4, to="b:1"
    )
    assert sum_up([first, second]) == DrainStatus(
        phase="goaway",
        connections_at_start=7,
        connections_told=4,
        connections_left=4,
        rate=5,
        to="b:1",
    )


def test_a_worker_that_has_ended_has_nothing_left() -> None:
    status = DrainStatus(phase="goaway", connections_at_start=4, connections_left=2, to="b:1")
    assert gone(status) == DrainStatus(
        phase="stopped", connections_at_start=4, connections_told=4, to="b:1"
    )
