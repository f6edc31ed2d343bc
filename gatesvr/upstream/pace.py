"""Pace: how far apart the messages of a lane's stream leave while CPU is short.

A message costs both ends as much as several requests inside it, and a busy process would delay a
request longer than the pause does.
"""

from __future__ import annotations

import time

__all__ = ["Pace"]

PACE_S = 0.001
"""Time between messages while the process is busy and earlier calls are unanswered."""
PACE_CALLS = 16
"""With this many calls waiting, the lane sends at once."""
LOAD_S = 0.1
"""How often to measure the process's load."""
BUSY_SHARE, IDLE_SHARE = 0.5, 0.25
"""CPU share of the thread at which the process starts, and stops, counting as busy."""


class Pace:
    """The pace of one lane.

    Attributes:
        is_busy: Whether CPU is short.
    """

    __slots__ = ("_mark", "_written_at", "is_busy")

    def __init__(self) -> None:
        self.is_busy = False
        self._written_at = 0.0
        self._mark = (0.0, 0.0)  # last measurement: loop time, the thread's CPU time

    def wait(self, now: float, open_calls: int, waiting: int) -> float:
        """Return how long the next message should wait for more calls, seconds.

        Args:
            now: Loop time.
            open_calls: Calls written and not answered.
            waiting: Calls not yet written.
        """
        if not self.is_busy or not open_calls or waiting >= PACE_CALLS:
            return 0.0
        return self._written_at + PACE_S - now

    def wrote(self, now: float) -> None:
        """Take note of a message."""
        self._written_at = now
        if now - self._mark[0] > LOAD_S:
            self.measure(now)

    def measure(self, now: float) -> None:
        """Measure whether CPU is short, since the last time."""
        before, worked_before = self._mark
        worked = time.thread_time()
        self._mark = now, worked
        share = (worked - worked_before) / (now - before)
        self.is_busy = share > (IDLE_SHARE if self.is_busy else BUSY_SHARE)
