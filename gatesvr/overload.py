"""Overload: says how much the gateway sheds while its loop lags or its memory runs out.

The level rises and falls by one at a time; each sheds the things of those below it, too (PROTOCOL
5.7)::

    0   nothing
    1   new handshakes      Initials are dropped; the client's QUIC sends them again, ever slower.
                            Those who may come back to a session go on: clients from the network of
                            one, and KEPT_HANDSHAKES a second from elsewhere
    2   new sessions        START gets 503, retry_after_ms and close 4503; resumes go on
    3   broadcasts          and multicasts: BUSY
    4   plain pushes        BUSY, retry_after_ms; notifies bound to an answer go on
    5   slowest sessions    those with the most unsent are suspended: close 4503, retry_after_ms

Sessions that are logged in ask and are answered at every level.

A tick is late when the loop comes to it more than max_loop_lag after its time, and has spent that
long computing: where others have the machine's processors, nothing that is shed here gives them
back. The level rises after STEP_S of late ticks, or of ticks that found too much memory in use; a
single one is a stall and does not count. It falls after STEP_S of ticks that found neither, and
less than half of the lag.

Memory that was freed may stay with the process. So while there is too much, the allocator is asked
to give back what it has. Where memory has not grown for SETTLE_S all the same, what there is may be
reused: it counts as the limit, up to a tenth above max_memory, and half of the way to what the
system has.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ._core.limits import TokenBucket
from .config.memory import DEFAULT_MEMORY
from .observe.log import keys
from .observe.metrics import Counter, Counters, Gauge

if TYPE_CHECKING:
    from .config import OverloadConfig

__all__ = ["LEVELS", "TICK_S", "Overload", "OverloadCounters", "resident_bytes"]

logger = logging.getLogger("gatesvr.overload")

TICK_S = 0.25
"""How often the owner of the loop calls tick(), seconds."""
STEP_S = 1.0
"""Shortest time between two changes of the level."""
MIN_TICKS = 2
"""Ticks in a row that change it at least."""
CALM_LAG_SHARE = 2
"""The lag is over when it is below one part in this many of max_loop_lag."""
CALM_MEMORY = 0.95
"""So is the want of memory below this part of max_memory."""
KEPT_HANDSHAKES = 20
"""Handshakes a second that go on while handshakes are shed, from networks without a session; a
handshake takes about a millisecond."""
TRIM_S = 10.0
"""Shortest time between two requests to the allocator, which stop the loop for some milliseconds a
gigabyte."""
SETTLE_S = 30.0
"""Memory that has not grown for so long does not grow while this much is shed."""
SETTLED = 1.01
"""Times that memory may be used again; a few pages more are no growth."""
MAX_SETTLED = 1.1
"""Times max_memory at most."""

LEVELS = ("nothing", "handshakes", "sessions", "broadcasts", "pushes", "slowest")
_HANDSHAKES, _SESSIONS, _BROADCASTS, _PUSHES, _SLOWEST = range(1, len(LEVELS))


@dataclass(slots=True)
class OverloadCounters(Counters):
    """What was shed. With ``overload.dry_run`` these count what would have been."""

    level: Gauge = 0
    """How much is shed now, 0 to 5."""
    loop_lag_ms: Gauge = 0
    """How late the loop came to the last tick, as far as it was computing."""
    memory_bytes: Gauge = 0
    """Resident memory of the process; 0 where the system does not tell."""
    rises: Counter = 0
    """Times that the level rose."""
    handshakes_shed: Counter = 0
    """Initials of new clients dropped."""
    sessions_shed: Counter = 0
    """STARTs of new sessions refused."""
    broadcasts_shed: Counter = 0
    """Broadcasts and multicasts refused."""
    pushes_shed: Counter = 0
    """Pushes refused."""


class Overload:
    """Measures the loop's lag and the process's memory, and says what to shed.

    Args:
        config: The limits.
        memory_limit: Bytes that this process may use.
        clock: Monotonic time.
        cpu_clock: CPU time of the loop's thread.
        memory: Returns the bytes that the process uses, 0 where it cannot be told.
        trim: Makes the allocator give back what it can.

    Attributes:
        lag_s: How late the loop came to the last tick, for whatever reason.
        level: How much is over the limits; see the top of this file.
        is_short_of_memory: Whether a tick found more than max_memory in use, and none since less
            than CALM_MEMORY of it; never with dry_run.
        counters: What was shed.
    """

    def __init__(
        self,
        config: OverloadConfig,
        memory_limit: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
        memory: Callable[[], int] | None = None,
        trim: Callable[[], None] | None = None,
    ) -> None:
        self.level = 0
        self.lag_s = 0.0
        self.is_short_of_memory = False
        self.counters = OverloadCounters()
        self._memory_limit = memory_limit
        self._max_memory = -1  # none yet
        self.apply(config)
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._memory = memory or resident_bytes
        self._trim = trim or release_memory
        self._grown_at = 0.0
        self._trim_at = 0.0
        self._kept = TokenBucket(KEPT_HANDSHAKES, KEPT_HANDSHAKES)
        self._ticked_at = 0.0
        self._cpu_at = 0.0
        # Where the level goes, and the ticks in a row that say so, with their seconds.
        self._direction = 0
        self._ticks = 0
        self._seconds = 0.0

    def apply(self, config: OverloadConfig) -> None:
        """Take other limits."""
        self._max_lag = config.max_loop_lag or math.inf
        self._is_enforced = not config.dry_run
        self.limit(config.max_memory or int(self._memory_limit * DEFAULT_MEMORY))

    def limit(self, max_memory: int) -> None:
        """Take another limit of memory, until the next apply()."""
        if max_memory == self._max_memory:
            return  # what has settled above it stays
        self._max_memory = max_memory
        # What counts as too much: max_memory, or the most that has settled above it.
        self._memory_mark = max_memory
        halfway = (max_memory + self._memory_limit) // 2
        self._max_mark = max(max_memory, min(halfway, int(max_memory * MAX_SETTLED)))
        self._peak = 0  # of the time that memory has been above the mark

    # Each layer asks before it does one of these things.

    def sheds_handshake(self) -> bool:
        """Return whether to drop the Initial of a new client from a network without a session."""
        if self.level < _HANDSHAKES or not self._kept.take(self._clock()):
            return False
        self.counters.handshakes_shed += 1
        return self._is_enforced

    def sheds_session(self) -> bool:
        """Return whether to refuse a new session."""
        if self.level < _SESSIONS:
            return False
        self.counters.sessions_shed += 1
        return self._is_enforced

    def sheds_broadcast(self) -> bool:
        """Return whether to refuse a broadcast or a multicast."""
        if self.level < _BROADCASTS:
            return False
        self.counters.broadcasts_shed += 1
        return self._is_enforced

    def sheds_push(self) -> bool:
        """Return whether to refuse a push."""
        if self.level < _PUSHES:
            return False
        self.counters.pushes_shed += 1
        return self._is_enforced

    @property
    def sheds_slowest(self) -> bool:
        """Whether to suspend the sessions that have the most to be sent."""
        return self.level >= _SLOWEST and self._is_enforced

    def tick(self) -> None:
        """Measure, and move the level; call it every TICK_S from the loop."""
        now, cpu = self._clock(), self._cpu_clock()
        passed = now - self._ticked_at if self._ticked_at else TICK_S
        self.lag_s = max(0.0, passed - TICK_S)
        lag = max(0.0, min(self.lag_s, cpu - self._cpu_at))
        self._ticked_at, self._cpu_at = now, cpu
        memory = self._memory()
        self._judge_memory(memory, now)
        self.counters.loop_lag_ms = int(lag * 1000)
        self.counters.memory_bytes = memory
        mark = self._memory_mark
        calm = mark if mark > self._max_memory else mark * CALM_MEMORY
        if memory > mark:
            self.is_short_of_memory = self._is_enforced
        elif memory <= calm:
            self.is_short_of_memory = False
        if lag > self._max_lag or memory > mark:
            direction = 1
        elif lag * CALM_LAG_SHARE <= self._max_lag and memory <= calm:
            direction = -1
        else:
            direction = 0
        if direction != self._direction:
            self._direction, self._ticks, self._seconds = direction, 0, 0.0
        self._ticks += 1
        self._seconds += passed
        level = max(0, min(self.level + direction, _SLOWEST))
        if level != self.level and self._ticks >= MIN_TICKS and self._seconds >= STEP_S:
            self._ticks, self._seconds = 0, 0.0
            self._move(level, lag, memory)

    def _judge_memory(self, memory: int, now: float) -> None:
        """Ask for memory back while there is too much, and find out whether it still grows."""
        if memory <= self._max_memory * CALM_MEMORY:
            self._memory_mark = self._max_memory
        if memory <= self._memory_mark:
            self._peak = 0
            return
        if now >= self._trim_at:
            self._trim_at = now + TRIM_S
            self._trim()
        if memory > self._peak:
            self._peak, self._grown_at = memory, now
        elif now >= self._grown_at + SETTLE_S and self._peak <= self._max_mark:
            self._memory_mark = min(int(self._peak * SETTLED), self._max_mark)

    def _move(self, level: int, lag: float, memory: int) -> None:
        self.counters.rises += level > self.level
        self.level = self.counters.level = level
        logger.warning(
            "overload",
            extra=keys(
                level=level,
                sheds=LEVELS[level],
                loop_lag_ms=int(lag * 1000),
                memory_bytes=memory,
                dry_run=not self._is_enforced,
            ),
        )


def release_memory() -> None:
    """Make the C allocator give back what it can, where it can be asked to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Return the resident memory of this process, 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
