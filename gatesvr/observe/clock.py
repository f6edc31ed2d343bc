"""RunningClock: time as the process has lived it."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

__all__ = ["MAX_GAP_S", "TICK_S", "RunningClock"]

TICK_S = 0.25
"""How often a watched clock is asked, seconds."""
MAX_GAP_S = 1.0
"""Longest time between two readings of a watched clock that still counts, seconds."""


class RunningClock:
    """Monotonic time that stands still while the process does.

    A process that was stopped (SIGSTOP, a paused virtual machine, a long stall) finds all its
    deadlines passed before it has read what arrived meanwhile, and an event loop may run timers
    first. So the time of a stall does not exist here: after it the clock goes on where it stood,
    and nothing expires that was not due before.

    The owner of an event loop reads the clock every TICK_S; a longer gap than MAX_GAP_S between
    two readings is a stall. A clock that nobody watches counts every second.

    Attributes:
        lost: Seconds of stalls; monotonic time is this much ahead.
        on_stall: Called with the seconds of a stall when it is found.
    """

    __slots__ = ("_max_gap", "_monotonic", "_seen", "lost", "on_stall")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.lost = 0.0
        self.on_stall: Callable[[float], None] | None = None
        self._monotonic = monotonic
        self._max_gap = inf  # no gap is a stall where nobody watches
        self._seen = 0.0  # the last reading

    def now(self) -> float:
        """Return the time, seconds."""
        now = self._monotonic()
        if now - self._seen > self._max_gap:
            self._skip(now)
        self._seen = now
        return now - self.lost

    def watch(self) -> None:
        """Leave stalls out from now on; now() is called every TICK_S."""
        self._seen = self._monotonic()
        self._max_gap = MAX_GAP_S

    def unwatch(self) -> None:
        """Count every second again: now() is called when somebody likes to."""
        self._max_gap = inf

    def loop_time(self, when: float) -> float:
        """Return the event loop's time for a time of this clock, as of now."""
        return when + self.lost

    def _skip(self, now: float) -> None:
        stall = now - self._seen
        self.lost += stall
        if self.on_stall is not None:
            self.on_stall(stall)
