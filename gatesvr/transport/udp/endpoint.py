"""Datagram I/O, timers and the one flush a loop turn.

``Driver`` is one loop's worth of connections: a timer heap for all of them and a set of those with
something to send, flushed once at the end of the turn. ``Endpoint`` is one UDP socket on a driver;
the gateway has one for all its connections, a client one of its own (many clients may share a
driver). How the datagrams are read and written is the affair of sockets.py.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import fields
from itertools import count, islice
from math import inf
from typing import Protocol

from ...observe.clock import TICK_S, RunningClock
from ...observe.log import keys
from ..counters import EndpointCounters
from ..quic.interface import Address, Datagram
from .sockets import datagram_socket

__all__ = [
    "Driver",
    "Endpoint",
    "EndpointGroup",
    "Flushable",
    "Timer",
    "TimerHeap",
    "open_socket",
    "open_sockets",
]

GRANULARITY = 0.001
"""Timers less than this apart are one; none fires sooner than this from now, seconds."""
MAX_BACKLOG = 4096
"""Datagrams kept while the socket takes none; beyond it the newest are dropped (QUIC resends)."""
LATE_S = 0.1
"""Timers later than this run after what has arrived is read, seconds."""
MAX_LATE_READS = 256
"""Batches of one socket read ahead of a late timer."""
MAX_FLUSHES = 256
"""Connections flushed in one turn, so that reading gets its turn while a broadcast goes out."""
MIN_COMPACT = 64
MAX_PORTS = 20
"""Free ports tried until one is free on all addresses."""
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

ERROR_LOG_S = 60.0
"""An error of the network is logged again after this long, with how often it came meanwhile."""

logger = logging.getLogger("gatesvr.transport")


class Flushable(Protocol):
    """What a driver asks to send."""

    def flush(self, now: float) -> None:
        """Hand what there is to send to the endpoint, and schedule the timer."""


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
    schedules again. One that moves earlier adds an entry; the later one stays and saves the push
    when the near one has fired. So timers fire early sometimes, late never (by GRANULARITY).
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def schedule(self, timer: Timer, when: float) -> None:
        """Have timer fire at when or a little earlier.

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

    No timer runs ahead of what has arrived: event loops may run timers before they read, so timers
    that are late have the sockets read first, and with a RunningClock a stall does not count.

    Args:
        loop: The event loop; by default the running one.
        clock: Watched until close(); by default plain monotonic time.

    Attributes:
        loop: The event loop.
        clock: Gives the time of all timers.
        timers: Of all connections.
        readers: The endpoints that read.
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
        self._running_clock = clock
        self._lost = 0.0  # the clock's, when the sockets were last read ahead of timers
        self._tick_handle: asyncio.TimerHandle | None = None
        self.readers: dict[Endpoint, None] = {}
        self._dirty: dict[Flushable, None] = {}
        self._put_off: dict[Flushable, float] = {}  # when to flush at the latest, rising
        self._put_off_handle: asyncio.TimerHandle | None = None
        self._sending: dict[Endpoint, None] = {}
        self._is_flush_due = False
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = 0.0
        if clock is not None:
            self.clock = clock.now
            clock.watch()
            self._tick()

    def add_reader(self, endpoint: Endpoint) -> None:
        """Have endpoint.read() called when something has arrived, and before late timers."""
        self.readers[endpoint] = None
        self.loop.add_reader(endpoint.fileno(), endpoint.read)

    def remove_reader(self, endpoint: Endpoint) -> None:
        """Leave what arrives at endpoint in its socket."""
        self.readers.pop(endpoint, None)
        self.loop.remove_reader(endpoint.fileno())

    def mark_dirty(self, connection: Flushable) -> None:
        """Have connection.flush() called once at the end of this turn."""
        self._dirty[connection] = None
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self._flush)

    def mark_sending(self, endpoint: Endpoint) -> None:
        """Have what endpoint gathered sent at the end of this turn."""
        self._sending[endpoint] = None
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self._flush)

    def flush_by(self, connection: Flushable, when: float) -> None:
        """Have connection.flush() called at when, unless flushed() is called before.

        Args:
            connection: One that is not waiting for this already.
            when: Loop time, not before that of an earlier call: it is a line, not a heap.
        """
        self._put_off[connection] = when
        if self._put_off_handle is None:
            self._put_off_handle = self._call_at(when, self._flush_put_off)

    def flushed(self, connection: Flushable) -> None:
        """Take note that what flush_by() asked for is done."""
        self._put_off.pop(connection, None)

    def forget(self, connection: Flushable) -> None:
        """Drop connection from what is to be flushed."""
        self._dirty.pop(connection, None)
        self._put_off.pop(connection, None)

    def schedule(self, timer: Timer, when: float) -> None:
        """Have timer fire at when."""
        self.timers.schedule(timer, when)
        if self._handle is None or when < self._handle_at - GRANULARITY:
            self._arm()

    def close(self) -> None:
        """Stop the clock: no timer fires any more."""
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

    def _flush(self) -> None:
        # Still due meanwhile, or every datagram gathered here would ask for another flush.
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
            # Not at once, or a deadline that cannot be met would keep the loop from waiting.
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
        """Handle what waits in the sockets."""
        for endpoint in list(self.readers):
            for _ in range(MAX_LATE_READS):
                if not endpoint.read():
                    break

    def _call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        clock = self._running_clock
        return self.loop.call_at(when if clock is None else clock.loop_time(when), callback)

    def _tick(self) -> None:
        self.clock()
        self._tick_handle = self.loop.call_later(TICK_S, self._tick)


class Endpoint:
    """A UDP socket on a driver.

    Args:
        driver: Its loop's driver.
        sock: A bound or connected non-blocking UDP socket; the endpoint owns it.
        receiver: Called with each batch of datagrams and the time.
        on_error: Called with errors of the network that a read or a write reports; without it they
            are logged, each kind once a minute.
        counters: Where to count, for an owner that counts more in the same place.
        is_batched: Many datagrams a system call, where the system can.
        with_local: Peers' addresses come with the address of ours that they asked, and answers
            leave from it, where the system can.
    """

    def __init__(
        self,
        driver: Driver,
        sock: socket.socket,
        receiver: Callable[[list[Datagram], float], None],
        on_error: Callable[[OSError], None] | None = None,
        counters: EndpointCounters | None = None,
        *,
        is_batched: bool = True,
        with_local: bool = False,
    ) -> None:
        self.counters = counters or EndpointCounters()
        self.counters.receive_buffer_bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.counters.send_buffer_bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._driver = driver
        self._sock = sock
        self._receiver = receiver
        self._on_error = on_error
        self._io = datagram_socket(sock, is_batched=is_batched, with_local=with_local)
        self._out: list[Datagram] = []
        self._backlog: deque[Datagram] = deque()
        self._is_closed = False
        # (event, errno) → when it is logged next, how often it came since it was logged.
        self._errors: dict[tuple[str, int | None], tuple[float, int]] = {}
        self.address: Address = sock.getsockname()
        driver.add_reader(self)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def send(self, datagrams: list[Datagram]) -> None:
        """Have datagrams sent at the end of this turn, in the order given."""
        if self._is_closed or not datagrams:
            return
        if not self._out:
            self._driver.mark_sending(self)
        self._out += datagrams

    def transmit(self) -> None:
        """Send what was gathered; what the socket does not take waits, up to MAX_BACKLOG."""
        if self._is_closed:
            return
        out, self._out = self._out, []
        if not self._backlog:
            sent = self.send_batch(out)
            if sent == len(out):
                return
            self.counters.send_blocked += 1
            self._driver.loop.add_writer(self._sock.fileno(), self._writable)
            out = out[sent:]
        room = MAX_BACKLOG - len(self._backlog)
        self._backlog.extend(out[:room])
        self.counters.send_dropped += max(0, len(out) - room)
        self.counters.send_backlog = len(self._backlog)

    def receive_batch(self) -> list[Datagram]:
        """Return the datagrams that are there, at most MAX_BATCH."""
        io, counters = self._io, self.counters
        batch: list[Datagram] = []
        try:
            io.receive_into(batch)
        except OSError as error:
            counters.receive_errors += 1
            self._handle_error("datagram_receive_failed", error)
        counters.receive_calls = io.receive_calls
        counters.datagrams_received = io.datagrams_received
        counters.bytes_received = io.bytes_received
        counters.datagrams_truncated = io.datagrams_truncated
        return batch

    def send_batch(self, datagrams: list[Datagram]) -> int:
        """Send datagrams; return how many were taken before the socket would block."""
        io, counters = self._io, self.counters
        done, count = 0, len(datagrams)
        while done < count:
            try:
                sent = io.send(datagrams, done)
            except OSError as error:
                counters.send_errors += 1
                self._handle_error("datagram_send_failed", error)
                sent = 1  # the one that failed: QUIC takes it for lost
            if not sent:
                break
            done += sent
        counters.send_calls = io.send_calls
        counters.datagrams_sent = io.datagrams_sent
        counters.bytes_sent = io.bytes_sent
        counters.segments_sent = io.segments_sent
        return done

    def pause_reading(self) -> None:
        """Leave what arrives in the socket, whose buffer drops what it has no room for."""
        if not self._is_closed:
            self._driver.remove_reader(self)

    def resume_reading(self) -> None:
        """Read again what arrives."""
        if not self._is_closed:
            self._driver.add_reader(self)

    def close(self) -> None:
        """Send what waits if the socket takes it, and close the socket."""
        if self._is_closed:
            return
        self.transmit()
        self._is_closed = True
        self._driver.remove_reader(self)
        self._driver.loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._backlog.clear()

    def read(self) -> int:
        """Handle a batch of what is there; return how many datagrams there were."""
        if self._is_closed:
            return 0
        batch = self.receive_batch()
        if not batch:
            self._read_on()
            return 0
        self.counters.read_wakeups += 1
        self._receiver(batch, self._driver.clock())
        return len(batch)

    def _handle_error(self, event: str, error: OSError) -> None:
        """Go on after an error of the network, which costs a datagram at most."""
        self._read_on()
        if self._on_error is not None:
            self._on_error(error)
            return
        now = self._driver.clock()
        key = event, error.errno
        log_at, times = self._errors.get(key, (now, 0))
        if now < log_at:
            self._errors[key] = log_at, times + 1
            return
        self._errors[key] = now + ERROR_LOG_S, 0
        logger.warning(
            event,
            extra=keys(reason=error.strerror or str(error), errno=error.errno, before=times),
        )

    def _read_on(self) -> None:
        """Have the loop watch the socket again: uvloop stops for good when there was an error.

        The error that stopped it may have gone to a send since: then the read finds nothing.
        """
        if not self._is_closed and self in self._driver.readers:
            self._driver.remove_reader(self)
            self._driver.add_reader(self)

    def _writable(self) -> None:
        backlog = self._backlog
        sent = self.send_batch(list(backlog))
        for _ in range(sent):
            backlog.popleft()
        self.counters.send_backlog = len(backlog)
        if not backlog:
            self._driver.loop.remove_writer(self._sock.fileno())


class EndpointGroup:
    """Endpoints on several addresses that are one to their owner.

    What is sent leaves where its peer asked. Same arguments as an Endpoint's, but for the sockets.
    """

    def __init__(
        self,
        driver: Driver,
        socks: list[socket.socket],
        receiver: Callable[[list[Datagram], float], None],
        counters: EndpointCounters,
        *,
        is_batched: bool = True,
    ) -> None:
        self._counters = counters
        self._endpoints: list[Endpoint] = []
        self._by_local: dict[bytes, Endpoint] = {}
        self._by_length: dict[int, Endpoint] = {}  # of the address: where the system tells no local
        try:
            for sock in socks:
                endpoint = Endpoint(driver, sock, receiver, is_batched=is_batched, with_local=True)
                self._endpoints.append(endpoint)
                host = endpoint.address[0].partition("%")[0]
                self._by_local[socket.inet_pton(sock.family, host)] = endpoint
                self._by_length.setdefault(len(endpoint.address), endpoint)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> Address:
        """The first one's address."""
        return self._endpoints[0].address

    @property
    def addresses(self) -> list[Address]:
        """All addresses."""
        return [endpoint.address for endpoint in self._endpoints]

    def send(self, datagrams: list[Datagram]) -> None:
        """Have datagrams sent at the end of this turn, to each peer in the order given."""
        for datagram in datagrams:
            address = datagram[1]
            has_local = isinstance(address[-1], bytes)
            endpoint = self._by_local.get(address[-1]) if has_local else None
            endpoint = endpoint or self._by_length[len(address) - has_local]
            endpoint.send([datagram])

    def count(self) -> None:
        """Bring the counters up to date."""
        for field in fields(EndpointCounters):
            total = sum(getattr(endpoint.counters, field.name) for endpoint in self._endpoints)
            setattr(self._counters, field.name, total)

    def close(self) -> None:
        """Close them all."""
        for endpoint in self._endpoints:
            endpoint.close()


def open_sockets(
    found: list[tuple[socket.AddressFamily, Address]], *, receive_buffer: int, send_buffer: int
) -> list[socket.socket]:
    """Return a bound socket for each address that this host has, all with the same port.

    Args:
        found: Families and addresses with one port; for port 0 a free one is taken.
        receive_buffer: See open_socket().
        send_buffer: See open_socket().

    Raises:
        OSError: None of the addresses can be used, or one is in use.
    """
    for attempt in range(1, MAX_PORTS + 1):
        socks: list[socket.socket] = []
        error: OSError | None = None
        try:
            for family, address in found:
                if socks and not address[1]:
                    address = (address[0], socks[0].getsockname()[1], *address[2:])
                try:
                    sock = open_socket(
                        address,
                        family,
                        is_server=True,
                        receive_buffer=receive_buffer,
                        send_buffer=send_buffer,
                    )
                except OSError as problem:
                    # A name may have an address of a family that is switched off.
                    if problem.errno not in _NOT_HERE:
                        raise
                    error = problem
                else:
                    socks.append(sock)
            if not socks:
                raise error or OSError(errno.EADDRNOTAVAIL, "the name has no address")
            return socks
        except BaseException as problem:
            for sock in socks:
                sock.close()
            is_taken = isinstance(problem, OSError) and problem.errno == errno.EADDRINUSE
            if not is_taken or found[0][1][1] or attempt == MAX_PORTS:
                raise
    raise AssertionError


def open_socket(
    address: Address,
    family: socket.AddressFamily,
    *,
    is_server: bool,
    receive_buffer: int = 0,
    send_buffer: int = 0,
) -> socket.socket:
    """Return a non-blocking UDP socket, bound to address (server) or connected to it (client).

    Args:
        address: Socket address of the family.
        family: AF_INET or AF_INET6; a server on the IPv6 wildcard takes IPv4 too.
        is_server: Bind instead of connect.
        receive_buffer: SO_RCVBUF to ask for, bytes; the system grants what it allows.
        send_buffer: SO_SNDBUF to ask for, bytes.

    Raises:
        OSError: The address cannot be used.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if send_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        if is_server:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(address)
        else:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
