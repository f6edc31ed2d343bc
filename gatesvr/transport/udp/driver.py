"""Timers, and the one flush a loop turn.

``Driver`` is one loop's worth of connections: a timer heap for all of them, and the set of those
that have something to send, flushed once at the end of the turn. The gateway has one for all its
connections; many clients of a process may share one.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Iterable
from itertools import count, islice
from math import inf
from typing import Protocol

from ..._core.histogram import RequestTimer
from ...observe.clock import TICK_S, RunningClock
from ...observe.limiter import LogLimiter

__all__ = ["Driver", "Flushable", "Reader", "Timer", "TimerHeap"]

logger = logging.getLogger("gatesvr.transport")

GRANULARITY = 0.001
"""Timers less than this apart are one; none fires sooner than this from now, seconds."""
LATE_S = 0.1
"""Timers later than this run after everything that has arrived is read, seconds."""
MAX_LATE_READS = 256
"""Batches of one socket read before a late timer runs."""
MAX_FLUSHES = 256
"""Connections flushed in one turn, so that reading gets its turn while a broadcast goes out."""
MIN_COMPACT = 64
"""Cancelled entries that a timer heap holds before it is ever rebuilt."""


class Flushable(Protocol):
    """A connection, as its driver knows it."""

    def flush(self, now: float) -> None:
        """Hand everything that is ready to the endpoint, and schedule the timer."""


class Reader(Protocol):
    """An endpoint, as its driver knows it."""

    def fileno(self) -> int:
        """Return the socket's descriptor."""

    def read(self) -> int:
        """Handle a batch of the datagrams that are there; return how many there were."""

    def transmit(self) -> None:
        """Send the datagrams gathered."""


class Timer:
    """One owner's place in a TimerHeap.

    Attributes:
        callback: Called with the time when the timer is due, perhaps earlier; None once cancelled.
        due: Times of its entries in the heap, falling: the last one fires first.
        first: The last one of these, inf where there is none: schedule() for later does nothing.
    """

    __slots__ = ("callback", "due", "first")

    def __init__(self, callback: Callable[[float], None]) -> None:
        self.callback: Callable[[float], None] | None = callback
        self.due: list[float] = []
        self.first = inf


class TimerHeap:
    """Deadlines of many owners, lazily kept.

    A deadline that moves later costs nothing: the entry stays, fires early, and the owner
    schedules again. One that moves earlier adds an entry; the later entry stays and saves the push
    once the near one has fired. So a timer may fire early, but never late (within GRANULARITY).
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def schedule(self, timer: Timer, when: float) -> None:
        """Fire timer at when or a little earlier.

        Complexity: O(1) when it is due by then anyway, else O(log n).
        """
        if timer.first - GRANULARITY <= when:
            return
        timer.due.append(when)
        timer.first = when
        heapq.heappush(self._heap, (when, next(self._order), timer))

    def cancel(self, timer: Timer) -> None:
        """Forget timer and its owner. Complexity: O(1) amortized."""
        if timer.callback is None:
            return
        timer.callback = None
        self._cancelled += len(timer.due)
        if self._cancelled > MIN_COMPACT and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def get_timer(self) -> float | None:
        """Return when run() is due."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else None

    def run(self, now: float) -> None:
        """Call the timers that are due, each once."""
        heap = self._heap
        fired: dict[Timer, None] = {}
        while heap and heap[0][0] <= now:
            timer = heapq.heappop(heap)[2]
            if timer.callback is None:
                self._cancelled -= 1
                continue
            due = timer.due
            due.pop()
            timer.first = due[-1] if due else inf
            fired[timer] = None
        for timer in fired:
            if timer.callback is not None:  # another's callback may have cancelled it
                timer.callback(now)


class Driver:
    """One loop's timers and the flush at the end of each turn.

    No timer runs before the datagrams that arrived in time. Event loops may run timers before they
    read, so late timers wait until the sockets are read, and a RunningClock leaves a stall out.

    Args:
        loop: The event loop; by default the running one.
        clock: Watched until close(); by default plain monotonic time.

    Attributes:
        loop: The event loop.
        clock: Gives the time of all timers.
        timers: Of all connections.
        readers: The endpoints that read.
        requests: Told of each flush that leaves nothing behind, None for nobody.
        lines: Writes the lines of the log that a peer may cause.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: RunningClock | None = None,
    ) -> None:
        self.loop = loop or asyncio.get_running_loop()
        # Loop time is monotonic time; uvloop's own loop.time() stands still within a turn and
        # counts whole milliseconds, too coarse for round trips.
        self.clock: Callable[[], float] = time.monotonic
        self.timers = TimerHeap()
        self.requests: RequestTimer | None = None
        self.lines = LogLimiter(logger)
        self._running_clock = clock
        self._lost = 0.0  # the clock's, when the sockets were last read ahead of timers
        self._tick_handle: asyncio.TimerHandle | None = None
        self.readers: dict[Reader, None] = {}
        self._dirty: dict[Flushable, None] = {}
        self._put_off: dict[Flushable, float] = {}  # → when to flush at the latest, rising
        self._put_off_handle: asyncio.TimerHandle | None = None
        self._sending: dict[Reader, None] = {}
        self._is_flush_due = False
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = 0.0
        if clock is not None:
            self.clock = clock.now
            clock.watch()
            self._tick()

    def add_reader(self, endpoint: Reader) -> None:
        """Call endpoint.read() when something has arrived, and before late timers."""
        self.readers[endpoint] = None
        self.loop.add_reader(endpoint.fileno(), endpoint.read)

    def remove_reader(self, endpoint: Reader) -> None:
        """Leave arriving datagrams in the socket of endpoint."""
        self.readers.pop(endpoint, None)
        self.loop.remove_reader(endpoint.fileno())

    def mark_dirty(self, connection: Flushable) -> None:
        """Call connection.flush() once at the end of this turn."""
        self._dirty[connection] = None
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self._flush)

    def mark_sending(self, endpoint: Reader) -> None:
        """Call endpoint.transmit() at the end of this turn."""
        self._sending[endpoint] = None
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self._flush)

    def flush_by(self, connection: Flushable, when: float) -> None:
        """Call connection.flush() at when, unless flushed() is called before.

        Args:
            connection: One that is not waiting for this already.
            when: Loop time, not before that of an earlier call: this is a queue, not a heap.
        """
        self._put_off[connection] = when
        if self._put_off_handle is None:
            self._put_off_handle = self._call_at(when, self._flush_put_off)

    def flushed(self, connection: Flushable) -> None:
        """Withdraw flush_by(): the connection was flushed."""
        self._put_off.pop(connection, None)

    def forget(self, connection: Flushable) -> None:
        """Do not flush connection any more."""
        self._dirty.pop(connection, None)
        self._put_off.pop(connection, None)

    def schedule(self, timer: Timer, when: float) -> None:
        """Fire timer at when."""
        self.timers.schedule(timer, when)
        if self._handle is None or when < self._handle_at - GRANULARITY:
            self._arm()

    def close(self) -> None:
        """Stop: no timer fires any more."""
        self.lines.close()
        for handle in (self._handle, self._put_off_handle, self._tick_handle):
            if handle is not None:
                handle.cancel()
        self._handle = self._put_off_handle = self._tick_handle = None
        if self._running_clock is not None:
            self._running_clock.unwatch()

    def flush(self) -> None:
        """Flush now instead of at the end of the turn."""
        # A connection that is marked while another flushes is flushed in the next turn.
        dirty, self._dirty = self._dirty, {}
        self._flush_all(dirty)

    def _flush_all(self, connections: Iterable[Flushable]) -> None:
        now = self.clock()
        for connection in connections:
            connection.flush(now)
        sending, self._sending = self._sending, {}
        for endpoint in sending:
            endpoint.transmit()
        requests = self.requests
        if requests is not None and requests.pending and not self._dirty:
            requests.flushed(self.clock())

    def _flush(self) -> None:
        # The flush stays due until its end, or each datagram gathered here would ask for another.
        try:
            dirty = self._dirty
            if len(dirty) <= MAX_FLUSHES:
                self.flush()
            else:
                first = list(islice(dirty, MAX_FLUSHES))
                for connection in first:
                    del dirty[connection]
                self._flush_all(first)
        finally:
            self._is_flush_due = False
            if self._dirty or self._sending:
                self._is_flush_due = True
                self.loop.call_soon(self._flush)

    def _flush_put_off(self) -> None:
        self._put_off_handle = None
        due = self.clock() + GRANULARITY
        for connection, when in self._put_off.items():
            if when > due:
                self._put_off_handle = self._call_at(when, self._flush_put_off)
                return
            self.mark_dirty(connection)

    def _arm(self) -> None:
        when = self.timers.get_timer()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if when is not None:
            # Not at once, or a deadline that cannot be met would make the loop spin.
            self._handle_at = max(when, self.clock() + GRANULARITY)
            self._handle = self._call_at(self._handle_at, self._run_timers)

    def _run_timers(self) -> None:
        self._handle = None
        now = self.clock()
        lost = 0.0 if self._running_clock is None else self._running_clock.lost
        if now - self._handle_at > LATE_S or lost != self._lost:
            self._lost = lost
            self._read_all()
            now = self.clock()
        self.timers.run(now)
        if self._handle is None:  # a timer's callback may have armed it
            self._arm()

    def _read_all(self) -> None:
        """Handle the datagrams that wait in the sockets."""
        for endpoint in list(self.readers):
            for _ in range(MAX_LATE_READS):
                if not endpoint.read():
                    break

    def _call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        clock = self._running_clock
        return self.loop.call_at(when if clock is None else clock.loop_time(when), callback)

    def _tick(self) -> None:
        self.lines.tick(self.clock())
        self._tick_handle = self.loop.call_later(TICK_S, self._tick)
