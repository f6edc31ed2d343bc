"""WorkerCounters: what a supervisor counts of its workers."""

from __future__ import annotations

from dataclasses import dataclass

from ..observe.metrics import Counter, Counters, Gauge

__all__ = ["WorkerCounters"]


@dataclass(slots=True)
class WorkerCounters(Counters):
    """What became of the workers."""

    running: Gauge = 0
    """Worker processes, those that start or leave included."""
    starts: Counter = 0
    """Worker processes started."""
    deaths: Counter = 0
    """Workers that ended without being asked to; those that never served included."""
    start_failures: Counter = 0
    """Workers that ended before they served."""
    sessions_lost: Counter = 0
    """Sessions that ended with a worker that died."""
    upgrades: Counter = 0
    """Upgrades that were asked for."""
    upgrades_given_up: Counter = 0
    """Upgrades that changed nothing: the new workers did not get ready."""
