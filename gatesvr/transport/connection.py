"""One QUIC connection: its datagrams, its ids, its timers and its end. Both roles.

The owner (the listener, or a client) feeds datagrams::

    connection.receive(data, address, now)   for each datagram of a batch
    connection.process(now)                  once per connection and batch

and the driver calls flush() at the end of the turn. These methods raise nothing: an exception ends
this connection alone with 4500, is logged and counted.

The Stream (stream.py) has the bytes of the one stream, their handler and the connection task. The
states of a connection, in their order, and the stream's states in each::

                                                                stream
    HANDSHAKE   the handshake is not complete                   WAITING, CUT
    OPEN        the handler has been made, or is being made     WAITING, WRITABLE, STOPPED, CUT
    LINGERING   close() waits for a last push to be             CLOSING
                acknowledged
    ENDED       every method does nothing                       CLOSED

A state may be skipped and none comes back. Facts beside the state, independent of it::

    _has_moved   a datagram came from another address, and process() has not yet asked QUIC whether
                 the peer is there now
    _is_unproved the peer has not proved the address that it sends from; stream.peer is the one that
                 it had before: a stranger's address must not pay for what this peer does
    _is_put_off  the driver flushes this connection within ACK_PATIENCE, unless there is a reason to
                 do it before; until then _quic_timer is out of date

The connection has one timer in the driver's heap, for the nearest of: QUIC's timer; the handler's
and the next PING (OPEN); _deadline (HANDSHAKE and LINGERING). It may fire early, so _due keeps the
time that counts.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol, cast

from .._core.limits import TokenBucket
from ..config import TransportConfig
from ..errors import CloseCode, ProtocolError
from ..protocol.link import Disconnect, HandlerFactory, PathState
from .addresses import Address, Datagram, plain_address
from .counters import TransportCounters
from .quic.interface import (
    ACK_PATIENCE,
    NO_CRYPTO,
    STREAM_ID,
    Closed,
    ConnectionIdIssued,
    ConnectionIdRetired,
    DatagramDropped,
    HandshakeCompleted,
    QuicTransport,
    StopSending,
    StreamData,
    StreamReset,
)
from .stream import CLOSED, CUT, STOPPED, WRITABLE, Stream
from .udp.driver import Driver, Timer
from .udp.endpoint import Endpoint, EndpointGroup

__all__ = ["Connection", "ConnectionOwner"]

MAX_REASON_BYTES = 64
"""Longest reason text of a close (PROTOCOL 6)."""
CLOSE_LINGER_S = 1.0
"""Longest wait for the acknowledgement of a last push (KICK, GOAWAY, a refusal)."""
LINGER_PTOS = 3
VIOLATIONS = range(0x03, 0x10)
"""Error codes of QUIC by which this side blames the peer (RFC 9000 20.1), without TLS alerts."""

TICK_S = 1 / 128
COARSE_S = 0.024
"""A timer further away than COARSE_S fires at a whole multiple of TICK_S, together with those of
other connections. Such are probes, PINGs and the idle time-out; most are put off by what arrives
before. An acknowledgement is due sooner, and a packet taken for lost on a short path is, too."""
MAX_HANDSHAKE_BYTES = 128 << 10
"""Bytes read before the handshake is complete; a client needs about 5 KiB. More is dropped until
the deadline: a stranger's frames may cost memory each."""
MAX_MOVES = 16
"""Moves to another address at once; the gateway sends a challenge to each, whoever is there."""
MOVE_S = 5.0
"""Seconds for each further move. A client that goes on is closed 4429."""

# States. Plain numbers: they are compared for every datagram.
HANDSHAKE = 0
OPEN = 1
LINGERING = 2
ENDED = 3
_STATE_NAMES = ("handshake", "open", "lingering", "ended")


class ConnectionOwner(Protocol):
    """The listener or the client that made a connection, as the connection knows it."""

    def connection_id_issued(self, connection: Connection, connection_id: bytes) -> None:
        """Route datagrams with this id to the connection from now on."""

    def connection_id_retired(self, connection: Connection, connection_id: bytes) -> None:
        """Route datagrams with this id nowhere from now on."""

    def connection_opened(self, connection: Connection) -> HandlerFactory | None:
        """The handshake is complete: return the factory of the handler, None after a close()."""

    def connection_ended(self, connection: Connection, how: Disconnect, farewell: bytes) -> None:
        """Nothing more is sent or handled; farewell is the datagram that told the peer so."""

    def task_started(self, connection: Connection, task: asyncio.Task[None]) -> None:
        """The connection task runs; it ends after connection_ended."""


class Connection:
    """A QUIC connection.

    Args:
        quic: The connection, not yet driven.
        endpoint: Sends its datagrams.
        driver: The endpoint's.
        owner: Hears of ids, the handshake and the end.
        config: Its time-outs.
        counters: Where to count.
        address: The peer's.
        is_client: Our role.
        deadline: Loop time by which the handshake is complete.

    Attributes:
        stream: The one stream; the Link of its handler.
        ids: Connection ids routed here; the owner's.
        asked_at: Loop time of the client's first datagram; the owner's.
    """

    __slots__ = (
        "__weakref__",
        "_ack_mark",
        "_address",
        "_counters",
        "_deadline",
        "_driver",
        "_due",
        "_endpoint",
        "_handler_timer",
        "_handshake_bytes",
        "_has_moved",
        "_how",
        "_is_client",
        "_is_put_off",
        "_is_unproved",
        "_last_received",
        "_lost",
        "_moves",
        "_owner",
        "_quic",
        "_quic_timer",
        "_refused",
        "_state",
        "_timer",
        "asked_at",
        "ids",
        "stream",
    )

    def __init__(
        self,
        quic: QuicTransport,
        endpoint: Endpoint | EndpointGroup,
        driver: Driver,
        owner: ConnectionOwner,
        config: TransportConfig,
        counters: TransportCounters,
        address: Address,
        *,
        is_client: bool,
        deadline: float,
    ) -> None:
        self.stream = Stream(
            self,
            quic,
            driver,
            config,
            counters,
            plain_address(address),
            keep_alive=not is_client,
        )
        self.ids: set[bytes] = set()
        self.asked_at = 0.0
        self._quic = quic
        self._endpoint = endpoint
        self._driver = driver
        self._owner = owner
        self._counters = counters
        self._address = address
        self._is_client = is_client
        self._has_moved = False
        self._is_unproved = False
        self._moves = TokenBucket(1 / MOVE_S, MAX_MOVES)
        self._state = HANDSHAKE
        self._handshake_bytes = 0  # received
        self._deadline: float = deadline  # of the handshake, later of the last push
        self._refused: set[int] = set()  # streams whose end the peer has not confirmed
        self._is_put_off = False
        self._ack_mark: object = None
        self._lost = 0  # packets that _counters has
        self._last_received = 0.0
        self._timer = Timer(self._on_timer)
        self._due = math.inf
        self._quic_timer = math.inf
        self._handler_timer = math.inf
        self._how: Disconnect | None = None  # set by close() and fail(); final once ENDED

    def __repr__(self) -> str:
        host, port = self.stream.peer
        return f"<Connection {self.connection_id} {host}:{port} {_STATE_NAMES[self._state]}>"

    @property
    def connection_id(self) -> int:
        """A number of this process's own."""
        return self.stream.connection_id

    # The owner and the driver call these.

    def connect(self, now: float) -> None:
        """Begin the handshake (client)."""
        self._quic.connect(self._address, now)
        self._driver.mark_dirty(self)

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram in; process() follows once the batch is through."""
        if self._state == ENDED:
            self._counters.datagrams_after_close += 1
            return
        if self._state == HANDSHAKE:
            if address != self._address and not self._is_client:
                # The handshake proves the address that it began at, and none besides.
                self._counters.datagrams_elsewhere += 1
                return
            self._handshake_bytes += len(data)
            if self._handshake_bytes > MAX_HANDSHAKE_BYTES:
                self._counters.datagrams_over_limit += 1
                return
        try:
            self._quic.receive_datagram(data, address, now)
            if address != self._address:
                self._has_moved = True
        except BaseException as error:
            self.fail(error)

    def process(self, now: float) -> None:
        """Handle the events of the datagrams received."""
        if self._state == ENDED:
            return
        was_open = self._state == OPEN
        self._last_received = now
        stream = self.stream
        try:
            if not self._handle_events(now) and self._state == OPEN:
                # No stream byte: was it an acknowledgement of something new?
                mark = self._quic.ack_mark()
                if mark != self._ack_mark:
                    self._ack_mark = mark
                    stream.last_heard = now
            if self._has_moved or self._is_unproved:
                self._handle_move(now)
            elif (
                was_open
                and self._state == OPEN
                and not stream.is_feeding
                and not stream.is_blocked
                and self._quic.can_wait(now)
            ):
                if self._is_put_off:
                    return
                if self._quic.owes_nothing:
                    self._schedule(now)
                    return
                # The answer will take the acknowledgement along.
                self._is_put_off = True
                self._driver.flush_by(self, now + ACK_PATIENCE)
                return
        except BaseException as error:
            self.fail(error)
        self._driver.mark_dirty(self)

    def flush(self, now: float) -> None:
        """Send all that is ready, and schedule the timer."""
        if self._state == ENDED:
            return
        if self._is_put_off:
            self._is_put_off = False
            self._driver.flushed(self)
        stream = self.stream
        try:
            if stream.is_feeding and self._state == OPEN:
                stream.feed(now)
            else:
                self.transmit(now)
                if stream.is_blocked:
                    stream.is_blocked = stream.carrier.unsent_bytes() > 0
            if self._state != ENDED and self._quic.events:
                self._handle_events(now)
            if self._state == LINGERING:
                self._linger(now)
            if self._state != ENDED:
                self._schedule(now)
        except BaseException as error:
            self.fail(error)

    def probe(self) -> None:
        """Make the peer answer something at once, however much is in flight."""
        if self._state != OPEN:
            return
        try:
            self._quic.probe()
        except BaseException as error:
            self.fail(error)
        self._counters.pings_sent += 1
        self._driver.mark_dirty(self)

    def path(self) -> PathState | None:
        """Return how the path does, None once the connection has ended; count the lost packets."""
        return None if self._state == ENDED else self._look(self._quic)

    def _look(self, quic: QuicTransport) -> PathState:
        path = quic.path()
        self._counters.packets_lost += path.lost - self._lost
        self._lost = path.lost
        return path

    def count_silence(self, seconds: float) -> None:
        """Add a stall that our clock left out to the silence that a PING breaks.

        The peer's clock went on meanwhile, so its idle time-out is nearer than ours.
        """
        self._last_received -= seconds
        if self.stream.keep_alive:
            self._driver.mark_dirty(self)

    def close(self, code: int, reason: str = "", *, last: bytes = b"") -> None:
        """Close with an application code; see Link.close()."""
        stream = self.stream
        if stream.state >= CUT:
            return
        reason = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        self._how = Disconnect("local", int(code), reason)
        now = self._driver.clock()
        try:
            if last and stream.state == WRITABLE:
                stream.write_last(last)
                self._wait_a_little(now)
            else:
                self._close_now(now)
        except BaseException as error:
            self.fail(error)

    def _close_now(self, now: float) -> None:
        """Close where no last push has to arrive first."""
        self._finish(now)

    def _wait_a_little(self, now: float) -> None:
        """Let what was written last be acknowledged."""
        self._state = LINGERING
        self._deadline = now + min(CLOSE_LINGER_S, LINGER_PTOS * self._quic.probe_timeout())
        self._driver.mark_dirty(self)

    def discard(self, reason: str = "") -> None:
        """End at once; the peer is not told."""
        if self._state != ENDED:
            self._end(Disconnect("handshake", 0, reason))

    # Events.

    def _handle_events(self, now: float) -> bool:
        """Handle QUIC's events; return whether one was of the stream."""
        events = self._quic.events
        if not events:
            return False
        stream = self.stream
        data = b""
        chunks: list[bytes] | None = None
        is_end = False
        closed: Disconnect | None = None
        while events:
            event = events.popleft()
            if isinstance(event, StreamData):
                if event.stream_id != STREAM_ID:
                    self._refuse(event.stream_id, is_end=event.is_end)
                else:
                    is_end = is_end or event.is_end
                    if not data:
                        data = event.data
                    elif chunks is None:
                        chunks = [data, event.data]
                    else:
                        chunks.append(event.data)
            elif isinstance(event, ConnectionIdIssued):
                self._owner.connection_id_issued(self, event.connection_id)
            elif isinstance(event, ConnectionIdRetired):
                self._owner.connection_id_retired(self, event.connection_id)
            elif isinstance(event, HandshakeCompleted):
                self._handle_handshake(now)
                if self._state == ENDED:
                    return False
            elif isinstance(event, StreamReset | StopSending):
                if event.stream_id != STREAM_ID:
                    self._refuse(event.stream_id, is_end=isinstance(event, StreamReset))
                else:
                    is_end = True
                    if isinstance(event, StopSending) and stream.state < STOPPED:
                        stream.state = STOPPED
            elif isinstance(event, Closed):
                closed = event.how
                if stream.state < CUT:
                    stream.state = CUT
            elif isinstance(event, DatagramDropped):
                self._counters.datagrams_over_limit += 1
        is_heard = bool(data) or is_end
        if is_heard:
            stream.receive(data if chunks is None else b"".join(chunks), is_end, now)
        if closed is not None and self._state != ENDED:
            self._handle_closed(closed, now)
        return is_heard

    def _handle_handshake(self, now: float) -> None:
        self._state = OPEN
        stream = self.stream
        if self._is_client:
            stream.state = WRITABLE
        stream.idle_timeout = self._quic.idle_timeout()
        stream.last_heard = now
        factory = self._owner.connection_opened(self)
        if factory is None:
            return
        stream.handler = handler = factory(stream)
        task = self._driver.loop.create_task(stream.run(handler))
        self._owner.task_started(self, task)
        handler.connection_made(now)

    def _handle_move(self, now: float) -> None:
        self._has_moved = False
        if self._state != OPEN:
            return
        address = self._quic.peer_address()
        if address == self._address and not self._is_unproved:
            return
        stream = self.stream
        self._is_unproved = not self._quic.is_address_proved()
        if not self._is_unproved:
            stream.move(plain_address(address), now)
        if address == self._address:
            return
        self._address = address
        self._counters.address_changes += 1
        if wait := self._moves.take(now):
            self._counters.moves_limited += 1
            wait_ms = math.ceil(wait * 1000)
            self.close(CloseCode.RATE_LIMITED, f"retry_after_ms={wait_ms}")
            return
        if stream.handler is not None and self._quic.is_path_limit_near():
            self._counters.path_limits += 1
            stream.handler.path_limit_near(now)

    def _handle_closed(self, how: Disconnect, now: float) -> None:
        if how is NO_CRYPTO:
            self._end(how)
            return
        if how.kind == "local" and how.code in VIOLATIONS:
            self._counters.quic_violations += 1
        if self._state == HANDSHAKE:
            how = Disconnect("handshake", how.code, how.reason)
        elif self._state == LINGERING and how.kind == "peer":
            assert self._how is not None
            how = self._how  # the peer has read the last push and went first
            self._counters.last_pushes += 1
        self._end(how, self.transmit(now))

    def _refuse(self, stream_id: int, *, is_end: bool) -> None:
        """Refuse a stream that is not the one (PROTOCOL 1.2); the connection lives on."""
        if (stream_id & 1) != self._is_client:
            return  # of our own making: nothing to refuse
        if stream_id not in self._refused:
            self._counters.streams_refused += 1
            self._quic.refuse_stream(stream_id)
            self._refused.add(stream_id)
            self._driver.mark_dirty(self)
        if is_end:
            self._refused.discard(stream_id)

    # Sending.

    def transmit(self, now: float) -> bytes:
        """Send the datagrams that QUIC has ready; return the last one, if any."""
        datagrams: list[Datagram] = self._quic.datagrams_to_send(now)
        if not datagrams:
            return b""
        self._endpoint.send(datagrams)
        return datagrams[-1][0]

    def _linger(self, now: float) -> None:
        """Close after the last push once it is acknowledged, or at its deadline."""
        is_acknowledged = self.stream.carrier.is_acknowledged()
        if is_acknowledged or now >= self._deadline:
            if is_acknowledged:
                self._counters.last_pushes += 1
            else:
                self._counters.last_pushes_expired += 1
            self._finish(now)

    def _finish(self, now: float) -> None:
        """Close with the code of self._how."""
        how = self._how
        assert how is not None
        # At close both libraries discard data that was written and not yet put into packets.
        self.transmit(now)
        self._quic.close(how.code, how.reason)
        self._end(how, self.transmit(now))

    # Time.

    def _schedule(self, now: float) -> None:
        """Schedule the timer for the nearest of the deadlines."""
        when = self._quic.get_timer()
        nearest = math.inf if when is None else when
        self._quic_timer = nearest
        if self._state != OPEN:
            nearest = min(nearest, self._deadline)
        else:
            stream = self.stream
            if stream.handler is not None:
                when = stream.handler.get_timer()
                if when is None:
                    self._handler_timer = math.inf
                else:
                    self._handler_timer = when
                    if when < nearest:
                        nearest = when
                if stream.keep_alive:
                    when = self._last_received + stream.idle_timeout / 2
                    if when < nearest:
                        nearest = when
        if now + COARSE_S < nearest < math.inf:
            nearest += TICK_S - nearest % TICK_S
        self._due = nearest
        if nearest < self._timer.first:
            self._driver.schedule(self._timer, nearest)

    def _on_timer(self, now: float) -> None:
        if self._state == ENDED:
            return
        if now < self._due:
            self._driver.schedule(self._timer, self._due)  # it fired early, see TimerHeap
            return
        try:
            # Where datagrams came since, QUIC's timer is another by now: flush() asks again.
            if now >= self._quic_timer and not self._is_put_off:
                self._quic.handle_timer(now)
                self._handle_events(now)
            if self._state == OPEN:
                self._handle_timers(now)
            elif self._state == HANDSHAKE and now >= self._deadline:
                self._time_out(now)
        except BaseException as error:
            self.fail(error)
        self._driver.mark_dirty(self)

    def _time_out(self, now: float) -> None:
        """End a connection whose handshake takes too long."""
        self._counters.handshakes_timed_out += 1
        self._end(Disconnect("handshake", 0, "time-out"))

    def _handle_timers(self, now: float) -> None:
        stream = self.stream
        if stream.keep_alive and now >= self._last_received + stream.idle_timeout / 2:
            self._last_received = now  # one PING each half; QUIC itself keeps the idle time-out
            self._quic.ping()
            self._counters.pings_sent += 1
        if stream.handler is not None and now >= self._handler_timer:
            try:
                stream.handler.handle_timer(now)
            except ProtocolError as error:
                stream.protocol_error(error)

    # The end.

    def fail(self, error: BaseException) -> None:
        """End this connection, and this one alone, because of an exception."""
        self.stream.count_error(error)
        if self._state == ENDED:
            return
        now = self._driver.clock()
        self._how = Disconnect("local", CloseCode.INTERNAL_ERROR)
        try:
            self._finish(now)
        except BaseException as second:
            # If the QUIC connection itself has failed, the peer hears nothing.
            if isinstance(second, KeyboardInterrupt | SystemExit):
                raise
            self._end(self._how)

    def _end(self, how: Disconnect, farewell: bytes = b"") -> None:
        if self._state != HANDSHAKE:
            self._count_end(how, is_ours=how is self._how)
        self._state = ENDED
        self.stream.state = CLOSED
        self._how = how
        self._driver.timers.cancel(self._timer)
        self._driver.forget(self)
        self._owner.connection_ended(self, how, farewell)
        # As in Stream.end(): every method looks at the state first.
        quic, self._quic = self._quic, cast("QuicTransport", None)
        self._refused.clear()
        self.stream.end(how)
        self._look(quic)  # last: it may have failed

    def _count_end(self, how: Disconnect, *, is_ours: bool) -> None:
        counters = self._counters
        if how.kind == "peer":
            counters.closed_peer += 1
        elif how.kind == "idle":
            counters.closed_idle += 1
        elif how.kind == "reset":
            counters.closed_reset += 1
        elif is_ours:
            counters.closed_local += 1
        else:
            counters.closed_transport += 1
