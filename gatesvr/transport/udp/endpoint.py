"""UDP sockets on a driver: batches of datagrams in, batches out at the end of the turn.

The gateway has one Endpoint for all its connections, or an EndpointGroup where its name has several
addresses; a client has an Endpoint of its own. sockets.py makes the system calls.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields

from ...observe.log import keys
from ..addresses import Address, Datagram, unscoped
from ..counters import EndpointCounters
from .driver import Driver
from .sockets import datagram_socket

__all__ = ["Endpoint", "EndpointGroup", "add_up"]

MAX_BACKLOG = 4096
"""Datagrams kept while the socket takes none; beyond it the newest are dropped (QUIC resends)."""
ERROR_LOG_S = 60.0
"""An error of the network is logged again after this long, with the number of times since."""

logger = logging.getLogger("gatesvr.transport")


class Endpoint:
    """A UDP socket on a driver.

    Args:
        driver: Its loop's driver.
        sock: A bound or connected non-blocking UDP socket; the endpoint owns it.
        receiver: Called with each batch of datagrams and the time.
        on_error: Called with network errors that a read or a write reports; without it they are
            logged, each kind once a minute.
        counters: Where to count; an owner may pass its own, which have more fields.
        is_batched: Use system calls that move many datagrams, where there are any.
        with_local: Add to a peer's address the address of ours that it sent to, and answer from
            that, where the system can.
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
        # (event, errno) → when it is logged next, and how often it came since the last time.
        self._errors: dict[tuple[str, int | None], tuple[float, int]] = {}
        self.address: Address = sock.getsockname()
        driver.add_reader(self)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def send(self, datagrams: list[Datagram]) -> None:
        """Send datagrams at the end of this turn, in the order given."""
        if self._is_closed or not datagrams:
            return
        if not self._out:
            self._driver.mark_sending(self)
        self._out += datagrams

    def transmit(self) -> None:
        """Send the datagrams gathered; up to MAX_BACKLOG of them wait while the socket is full."""
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
        """Return the datagrams that have arrived, at most MAX_BATCH."""
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
                sent = 1  # skip it: to QUIC it is lost
            if not sent:
                break
            done += sent
        counters.send_calls = io.send_calls
        counters.datagrams_sent = io.datagrams_sent
        counters.bytes_sent = io.bytes_sent
        counters.segments_sent = io.segments_sent
        return done

    def pause_reading(self) -> None:
        """Leave arriving datagrams in the socket, which drops them once its buffer is full."""
        if not self._is_closed:
            self._driver.remove_reader(self)

    def resume_reading(self) -> None:
        """Read arriving datagrams again."""
        if not self._is_closed:
            self._driver.add_reader(self)

    def close(self) -> None:
        """Send as much as the socket takes now, and close it."""
        if self._is_closed:
            return
        self.transmit()
        self._is_closed = True
        self._driver.remove_reader(self)
        self._driver.loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._backlog.clear()

    def read(self) -> int:
        """Handle a batch of the datagrams that are there; return how many there were."""
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
        """Go on after a network error, which costs a datagram at most."""
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
        """Make the loop watch the socket again: uvloop stops for good after an error.

        A send may have met that error first, and then a read finds nothing.
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
    """Endpoints on several addresses, used as one.

    Each datagram leaves from the address that its peer sent to. The arguments are an Endpoint's,
    with a list of sockets.
    """

    def __init__(
        self,
        driver: Driver,
        socks: list[socket.socket],
        receiver: Callable[[list[Datagram], float], None],
        *,
        is_batched: bool = True,
    ) -> None:
        self._endpoints: list[Endpoint] = []
        self._by_local: dict[bytes, Endpoint] = {}
        self._by_length: dict[int, Endpoint] = {}  # by family, where the system tells no local one
        try:
            for sock in socks:
                endpoint = Endpoint(driver, sock, receiver, is_batched=is_batched, with_local=True)
                self._endpoints.append(endpoint)
                local = socket.inet_pton(sock.family, unscoped(endpoint.address)[0])
                self._by_local[local] = endpoint
                self._by_length.setdefault(len(endpoint.address), endpoint)
        except BaseException:
            self.close()
            raise

    @property
    def counters(self) -> EndpointCounters:
        """The sums of their counters."""
        total = EndpointCounters()
        add_up(total, [endpoint.counters for endpoint in self._endpoints])
        return total

    @property
    def address(self) -> Address:
        """The first one's address."""
        return self._endpoints[0].address

    @property
    def addresses(self) -> list[Address]:
        """All addresses."""
        return [endpoint.address for endpoint in self._endpoints]

    def send(self, datagrams: list[Datagram]) -> None:
        """Send datagrams at the end of this turn, to each peer in the order given."""
        for datagram in datagrams:
            address = datagram[1]
            has_local = isinstance(address[-1], bytes)
            endpoint = self._by_local.get(address[-1]) if has_local else None
            endpoint = endpoint or self._by_length[len(address) - has_local]
            endpoint.send([datagram])

    def pause_reading(self) -> None:
        """Leave arriving datagrams in the sockets."""
        for endpoint in self._endpoints:
            endpoint.pause_reading()

    def resume_reading(self) -> None:
        """Read arriving datagrams again."""
        for endpoint in self._endpoints:
            endpoint.resume_reading()

    def close(self) -> None:
        """Close them all."""
        for endpoint in self._endpoints:
            endpoint.close()


def add_up(total: EndpointCounters, parts: Sequence[EndpointCounters]) -> None:
    """Set each of a socket's counters in total to the sum of those in parts."""
    for field in fields(EndpointCounters):
        setattr(total, field.name, sum(getattr(part, field.name) for part in parts))
