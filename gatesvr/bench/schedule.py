"""The open model: arrivals at a fixed rate, each with its intended time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

__all__ = ["Alarm", "Schedule"]

MIN_PAUSE_S = 0.0002
"""Arrivals closer together than this are sent in one go."""


class Schedule:
    """Arrivals at began, began + 1 / rate, began + 2 / rate …

    An arrival not taken when due stays due: it is sent late, and its latency counts from the
    intended time. So a stalled gateway cannot hide by slowing down its clients.

    Args:
        rate: Arrivals a second, above 0.
        began: When the first one is due.

    Attributes:
        taken: Arrivals taken so far.
        max_lag: Longest delay of a taken arrival, seconds.
    """

    def __init__(self, rate: float, began: float) -> None:
        self._rate = rate
        self._began = began
        self.taken = 0
        self.max_lag = 0.0

    @property
    def next_at(self) -> float:
        """When the next arrival is due."""
        return self._began + self.taken / self._rate

    def take(self, now: float) -> float | None:
        """Return the next arrival's intended time, None if it is not due yet."""
        due = self._began + self.taken / self._rate
        if due > now:
            return None
        self.taken += 1
        if now - due > self.max_lag:
            self.max_lag = now - due
        return due

    def waiting(self, now: float) -> int:
        """Return how many arrivals are due and not taken."""
        return max(0, int((now - self._began) * self._rate) + 1 - self.taken)


class Alarm:
    """Calls back at a given time, to a few microseconds; a loop's own timers count milliseconds.

    There is one for each process, in its main thread, because it uses the process's interval timer.

    Args:
        callback: Called with the time.
        clock: Returns the time.
    """

    def __init__(
        self, callback: Callable[[float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._callback = callback
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGALRM, self._ring)

    def set(self, when: float) -> None:
        """Call back at when, instead of at the time set before."""
        pause = max(when - self._clock(), MIN_PAUSE_S)
        signal.setitimer(signal.ITIMER_REAL, pause)

    def close(self) -> None:
        """Cancel the callback."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        self._loop.remove_signal_handler(signal.SIGALRM)

    def _ring(self) -> None:
        self._callback(self._clock())
