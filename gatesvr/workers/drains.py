"""The drains of several workers as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ..drain import DrainStatus

if TYPE_CHECKING:
    from ..drain import Phase

__all__ = ["gone", "sum_up"]

_PHASES: tuple[Phase, ...] = ("serving", "unready", "goaway", "finishing", "stopped")


def gone(status: DrainStatus) -> DrainStatus:
    """Return the drain of a worker that has ended."""
    return msgspec.structs.replace(
        status,
        phase="stopped",
        connections_told=status.connections_at_start,
        connections_left=0,
        requests_left=0,
        sessions_left=0,
        remaining_s=0.0,
        rate=0.0,
    )


def sum_up(statuses: list[DrainStatus]) -> DrainStatus:
    """Return the drains of all workers as one, in the phase of the one that is least far."""
    return DrainStatus(
        phase=min((s.phase for s in statuses), key=_PHASES.index, default="serving"),
        connections_at_start=sum(s.connections_at_start for s in statuses),
        connections_told=sum(s.connections_told for s in statuses),
        connections_left=sum(s.connections_left for s in statuses),
        requests_left=sum(s.requests_left for s in statuses),
        sessions_left=sum(s.sessions_left for s in statuses),
        elapsed_s=max((s.elapsed_s for s in statuses), default=0.0),
        remaining_s=max((s.remaining_s for s in statuses), default=0.0),
        rate=sum(s.rate for s in statuses),
        to=next((s.to for s in statuses if s.to), ""),
    )
