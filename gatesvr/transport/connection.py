"""One QUIC connection, its one stream, and the one task that works for it. Both roles.

The owner (the listener, or a client) feeds datagrams::

    connection.receive(data, address, now)   for each datagram of a batch
    connection.process(now)                  once a connection and batch

and the driver calls flush() at the end of the turn. No exception leaves these: it ends this
connection (4500), is logged and counted, and nobody else hears of it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from typing import Protocol, cast

from ..config import TransportConfig
from ..errors import CloseCode, ProtocolError
from ..observe.log import keys
from ..protocol.link import ConnectionHandler, Disconnect, HandlerFactory
from .counters import TransportCounters
from .quic.interface import (
    ACK_PATIENCE,
    NO_CRYPTO,
    STREAM_ID,
    Address,
    Closed,
    ConnectionIdIssued,
    ConnectionIdRetired,
    Datagram,
    HandshakeCompleted,
    QuicTransport,
    StopSending,
    StreamData,
    StreamReset,
    plain_address,
)
from .udp.endpoint import Driver, Endpoint, EndpointGroup, Timer

__all__ = ["Connection", "ConnectionOwner"]

logger = logging.getLogger("gatesvr.transport")

MAX_REASON_BYTES = 64
"""Longest reason text of a close (PROTOCOL 6)."""
MAX_FEEDS = 16
"""Times that one flush asks a connection's sender for more before others get their turn."""
LINGER_PTOS = 3

_numbers = itertools.count(1)


class ConnectionOwner(Protocol):
    """What a connection tells the one that made it."""

    def connection_id_issued(self, connection: Connection, connection_id: bytes) -> None:
        """Datagrams with this id are the connection's from now on."""

    def connection_id_retired(self, connection: Connection, connection_id: bytes) -> None:
        """Datagrams with this id are nobody's from now on."""

    def connection_opened(self, connection: Connection) -> HandlerFactory | None:
        """The handshake is complete: return what makes the handler, None if it was closed."""

    def connection_ended(self, connection: Connection, how: Disconnect, farewell: bytes) -> None:
        """Nothing more is sent or handled; farewell is the datagram that told the peer so."""

    def task_started(self, connection: Connection, task: asyncio.Task[None]) -> None:
        """The connection task runs; it ends after connection_ended."""


# States of a connection, in their order. Plain numbers: they are compared for every datagram.
_HANDSHAKE = 0
_OPEN = 1
_LINGERING = 2  # closing, once the last push is acknowledged
_ENDED = 3
_STATE_NAMES = ("handshake", "open", "lingering", "ended")


class Connection:
    """A QUIC connection; the Link of whoever handles it.

    Args:
        quic: The connection, not yet driven.
        endpoint: Where its datagrams go.
        driver: The endpoint's.
        owner: Whom to tell.
        config: Its water marks and time-outs.
        counters: Where to count.
        address: The peer's.
        is_client: Our role.
        deadline: Loop time by which the handshake is complete.

    Attributes:
        peer: The peer's address, without scope or v4-mapping.
        connection_id: A number of this process's own.
        keep_alive: Whether to PING at half the idle time-out of silence (PROTOCOL 3.8).
        last_heard: Time of the last stream byte or acknowledgement.
        ids: Connection ids routed here; the owner's.
    """

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
        self.peer = plain_address(address)
        self.connection_id = next(_numbers)
        self.keep_alive = not is_client
        self.last_heard = 0.0
        self.ids: set[bytes] = set()
        self._quic = quic
        self._endpoint = endpoint
        self._driver = driver
        self._owner = owner
        self._config = config
        self._counters = counters
        self._address = address
        self._is_client = is_client
        self._is_moving = False
        self._state = _HANDSHAKE
        self._deadline: float = deadline  # of the handshake, later of a last push
        self._handler: ConnectionHandler | None = None
        self._is_stream_open = is_client
        self._is_stream_ended = False
        self._refused: set[int] = set()  # streams whose end the peer has not confirmed
        self._is_feeding = False
        self._is_flushing = False
        self._is_blocked = False  # bytes may wait that were written and not transmitted
        self._is_put_off = False  # datagrams came, and QUIC was not asked since what to send
        self._unsent = 0  # unsent_bytes(), while flushing
        self._ack_mark: object = None
        self._idle_timeout: float = config.idle_timeout
        self._last_received = 0.0
        self._timer = Timer(self._on_timer)
        self._due = math.inf  # when the nearest of the deadlines is
        self._quic_timer = math.inf
        self._handler_timer = math.inf
        self._how: Disconnect | None = None
        self._closed: Disconnect | None = None  # QUIC has ended, its last data is being handled
        self._is_reported = False
        self._is_awake = False
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        host, port = self.peer
        return f"<Connection {self.connection_id} {host}:{port} {_STATE_NAMES[self._state]}>"

    # The Link.

    @property
    def is_closing(self) -> bool:
        """Whether close() was called, here or by the peer."""
        return self._state >= _LINGERING

    @property
    def idle_timeout(self) -> float:
        """The effective QUIC idle time-out in seconds."""
        return self._idle_timeout

    def write(self, data: bytes) -> None:
        """Hand whole frames to the stream; does nothing once the link is closing."""
        if self._state != _OPEN:
            return
        if not self._is_stream_open:
            if self._closed is None:
                self._counters.writes_dropped += 1
            return
        self._quic.send_stream_data(data)
        if self._is_flushing:
            self._unsent += len(data)  # it is transmitted at once
        else:
            self._is_blocked = True
            self._driver.mark_dirty(self)

    def unsent_bytes(self) -> int:
        """Return the stream bytes never yet transmitted."""
        if self._is_flushing:
            return self._unsent
        return 0 if self._state == _ENDED else self._quic.unsent_bytes()

    def request_flush(self) -> None:
        """Have handler.write_ready() called, and datagrams sent, at the end of this loop turn."""
        # Where it is being fed, it is marked, or acknowledgements bring it back to flush().
        if not self._is_feeding and self._state == _OPEN:
            self._is_feeding = True
            self._driver.mark_dirty(self)

    def wake(self) -> None:
        """Have handler.work() called by the connection task."""
        self._is_awake = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self, code: int, reason: str = "", *, last: bytes = b"") -> None:
        """Close the connection with an application code; see Link.close()."""
        if self.is_closing or self._closed is not None:
            return
        reason = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        self._how = Disconnect("local", int(code), reason)
        now = self._driver.clock()
        try:
            if last and self._is_stream_open and self._state == _OPEN:
                self._quic.send_stream_data(last, end=True)
                self._is_blocked = True
                self._state = _LINGERING
                wait = min(self._config.close_linger, LINGER_PTOS * self._quic.probe_timeout())
                self._deadline = now + wait
                self._driver.mark_dirty(self)
            else:
                self._finish(now)
        except BaseException as error:
            self._fail(error)

    # What the owner and the driver call.

    def connect(self, now: float) -> None:
        """Begin the handshake (client)."""
        self._quic.connect(self._address, now)
        self._driver.mark_dirty(self)

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram in; process() follows once the batch is through."""
        if self._state == _ENDED:
            self._counters.datagrams_after_close += 1
            return
        try:
            self._quic.receive_datagram(data, address, now)
            if address != self._address:
                self._is_moving = True
        except BaseException as error:
            self._fail(error)

    def process(self, now: float) -> None:
        """Handle what the datagrams brought."""
        if self._state == _ENDED:
            return
        was_open = self._state == _OPEN
        self._last_received = now
        try:
            if not self._handle_events(now) and self._state == _OPEN:
                # No stream byte: was it an acknowledgement of something new?
                mark = self._quic.ack_mark()
                if mark != self._ack_mark:
                    self._ack_mark = mark
                    self.last_heard = now
            if self._is_moving:
                self._handle_move(now)
            elif (
                was_open
                and self._state == _OPEN
                and not self._is_feeding
                and not self._is_blocked
                and self._quic.can_wait(now)
            ):
                # The answer will take the acknowledgement along.
                if not self._is_put_off:
                    self._is_put_off = True
                    self._driver.flush_by(self, now + ACK_PATIENCE)
                return
        except BaseException as error:
            self._fail(error)
        self._driver.mark_dirty(self)

    def probe(self) -> None:
        """Have the peer answer something at once, however much is in flight."""
        if self._state != _OPEN:
            return
        try:
            self._quic.probe()
        except BaseException as error:
            self._fail(error)
        self._counters.pings_sent += 1
        self._driver.mark_dirty(self)

    def count_silence(self, seconds: float) -> None:
        """Count a stall that the clock left out into the silence that a PING breaks.

        The peer's clock has gone on: it hears of us late enough as it is.
        """
        self._last_received -= seconds
        if self.keep_alive:
            self._driver.mark_dirty(self)

    def is_authenticated(self) -> bool:
        """Return whether the peer has proved to be one that speaks QUIC."""
        return self._state != _ENDED and self._quic.is_authenticated()

    def flush(self, now: float) -> None:
        """Send what there is to send, and schedule the timer."""
        if self._state == _ENDED:
            return
        if self._is_put_off:
            self._is_put_off = False
            self._driver.flushed(self)
        try:
            self._is_flushing = True
            if self._is_feeding and self._state == _OPEN:
                self._feed(now)
            else:
                self._transmit(now)
                self._is_blocked = self._is_blocked and self._quic.unsent_bytes() > 0
            self._is_flushing = False
            if self._state != _ENDED and self._quic.events:
                self._handle_events(now)
            if self._state == _LINGERING:
                self._linger(now)
            if self._state != _ENDED:
                self._schedule(now)
        except BaseException as error:
            self._is_flushing = False
            self._fail(error)

    def discard(self, reason: str = "") -> None:
        """End at once without a word to the peer."""
        if self._state != _ENDED:
            self._end(Disconnect("handshake", 0, reason))

    # Events.

    def _handle_events(self, now: float) -> bool:
        """Handle what QUIC has to tell; return whether the stream was heard of."""
        events = self._quic.events
        if not events:
            return False
        data = b""
        chunks: list[bytes] | None = None
        is_end = False
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
                if self._state == _ENDED:
                    return False
            elif isinstance(event, StreamReset | StopSending):
                if event.stream_id != STREAM_ID:
                    self._refuse(event.stream_id, is_end=isinstance(event, StreamReset))
                else:
                    is_end = True
                    if isinstance(event, StopSending):
                        self._is_stream_open = False
            elif isinstance(event, Closed):
                self._closed = event.how
                self._is_stream_open = False
        is_heard = bool(data) or is_end
        if is_heard:
            self._handle_stream(data if chunks is None else b"".join(chunks), is_end, now)
        if self._closed is not None and self._state != _ENDED:
            self._handle_closed(self._closed, now)
        return is_heard

    def _handle_handshake(self, now: float) -> None:
        self._state = _OPEN
        self._idle_timeout = self._quic.idle_timeout()
        self.last_heard = now
        factory = self._owner.connection_opened(self)
        if factory is None:
            return
        self._handler = handler = factory(self)
        task = self._driver.loop.create_task(self._run(handler))
        self._owner.task_started(self, task)
        handler.connection_made(now)

    def _handle_stream(self, data: bytes, is_end: bool, now: float) -> None:
        self.last_heard = now
        handler = self._handler
        if handler is None or self._state != _OPEN:
            return  # closing: nothing of the peer's is handled any more
        if not self._is_stream_open and not self._is_stream_ended and self._closed is None:
            self._is_stream_open = self._quic.is_stream_open()
        try:
            if data:
                handler.data_received(data, now)
            if is_end and not self._is_stream_ended and not self.is_closing:
                self._is_stream_ended = True
                handler.stream_ended(now)
        except ProtocolError as error:
            self._protocol_error(error)

    def _handle_move(self, now: float) -> None:
        self._is_moving = False
        if self._state != _OPEN:
            return
        address = self._quic.peer_address()
        if address == self._address:
            return
        self._address = address
        self.peer = plain_address(address)
        self._counters.address_changes += 1
        if self._handler is not None and self._quic.is_path_limit_near():
            self._counters.path_limits += 1
            self._handler.path_limit_near(now)

    def _handle_closed(self, how: Disconnect, now: float) -> None:
        if how is NO_CRYPTO:
            self._end(how)
            return
        if self._state == _HANDSHAKE:
            how = Disconnect("handshake", how.code, how.reason)
        elif self._state == _LINGERING and how.kind == "peer":
            assert self._how is not None
            how = self._how  # the peer has read the last push and went first
            self._counters.last_pushes += 1
        self._end(how, self._transmit(now))

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

    def _protocol_error(self, error: ProtocolError) -> None:
        self._counters.protocol_errors += 1
        logger.info(
            "protocol_error",
            extra=keys(connection=self.connection_id, peer=self.peer[0], reason=str(error)),
        )
        self.close(error.close_code, str(error))

    # Sending.

    def _transmit(self, now: float) -> bytes:
        """Send what the connection has ready; return the last datagram, if any."""
        datagrams: list[Datagram] = self._quic.datagrams_to_send(now)
        if not datagrams:
            return b""
        self._endpoint.send(datagrams)
        return datagrams[-1][0]

    def _feed(self, now: float) -> None:
        """Ask the handler for more, and send, until nothing moves."""
        quic, handler = self._quic, self._handler
        low_water, high_water = self._config.low_water, self._config.high_water
        for _ in range(MAX_FEEDS):
            unsent = self._unsent = quic.unsent_bytes() if self._is_blocked else 0
            if handler is not None and unsent < low_water:
                handler.write_ready(now)
                if self._state != _OPEN:
                    return
                # The handler stops for one of two reasons: high water, or it has no more.
                self._is_feeding = self._unsent != unsent and self._unsent >= high_water
                unsent = self._unsent
                self._transmit(now)
                self._is_blocked = unsent > 0 and quic.unsent_bytes() > 0
                if not self._is_feeding:
                    return
            else:
                self._transmit(now)
                unsent = quic.unsent_bytes()
                self._is_blocked = unsent > 0
                if unsent >= low_water:
                    return  # the peer's acknowledgements bring us back here
        self._driver.mark_dirty(self)

    def _linger(self, now: float) -> None:
        """Close behind the last push once it is acknowledged, or has had its time."""
        is_acknowledged = self._quic.is_acknowledged()
        if is_acknowledged or now >= self._deadline:
            if is_acknowledged:
                self._counters.last_pushes += 1
            else:
                self._counters.last_pushes_expired += 1
            self._finish(now)

    def _finish(self, now: float) -> None:
        """Close, as close() said it."""
        how = self._how
        assert how is not None
        # Both libraries discard at close what was written and not yet made into packets.
        self._transmit(now)
        self._quic.close(how.code, how.reason)
        self._end(how, self._transmit(now))

    # Time.

    def _schedule(self, now: float) -> None:
        """Schedule the timer for the nearest of the deadlines."""
        when = self._quic.get_timer()
        nearest = math.inf if when is None else when
        self._quic_timer = nearest
        if self._state != _OPEN:
            nearest = min(nearest, self._deadline)
        elif self._handler is not None:
            when = self._handler.get_timer()
            if when is None:
                self._handler_timer = math.inf
            else:
                self._handler_timer = when
                if when < nearest:
                    nearest = when
            if self.keep_alive:
                when = self._last_received + self._idle_timeout / 2
                if when < nearest:
                    nearest = when
        self._due = nearest
        if nearest < self._timer.first:
            self._driver.schedule(self._timer, nearest)

    def _on_timer(self, now: float) -> None:
        if self._state == _ENDED:
            return
        if now < self._due:
            self._driver.schedule(self._timer, self._due)  # it fired early, see TimerHeap
            return
        try:
            # What is known of QUIC's timers is old where datagrams came since: flush() asks again.
            if now >= self._quic_timer and not self._is_put_off:
                self._quic.handle_timer(now)
                self._handle_events(now)
            if self._state == _OPEN:
                self._handle_timers(now)
            elif self._state == _HANDSHAKE and now >= self._deadline:
                self._counters.handshakes_timed_out += 1
                self._end(Disconnect("handshake", 0, "time-out"))
        except BaseException as error:
            self._fail(error)
        self._driver.mark_dirty(self)

    def _handle_timers(self, now: float) -> None:
        if self.keep_alive and now >= self._last_received + self._idle_timeout / 2:
            self._last_received = now  # once each half; the idle time-out is QUIC's own affair
            self._quic.ping()
            self._counters.pings_sent += 1
        if self._handler is not None and now >= self._handler_timer:
            try:
                self._handler.handle_timer(now)
            except ProtocolError as error:
                self._protocol_error(error)

    # The end.

    def _fail(self, error: BaseException) -> None:
        """End this connection, and this one alone, because of an exception."""
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error
        self._counters.connection_errors += 1
        logger.error(
            "connection_error",
            extra=keys(connection=self.connection_id, peer=self.peer[0], error=repr(error)),
            exc_info=error,
        )
        if self._state == _ENDED:
            return
        now = self._driver.clock()
        self._how = Disconnect("local", CloseCode.INTERNAL_ERROR)
        try:
            self._finish(now)
        except BaseException as second:
            # What failed may be the QUIC connection itself: then the peer hears nothing.
            if isinstance(second, KeyboardInterrupt | SystemExit):
                raise
            self._end(self._how)

    def _end(self, how: Disconnect, farewell: bytes = b"") -> None:
        if self._state != _HANDSHAKE:
            self._count_end(how, is_ours=how is self._how)
        self._state = _ENDED
        self._how = how
        self._driver.timers.cancel(self._timer)
        self._driver.forget(self)
        self._owner.connection_ended(self, how, farewell)
        # A suspended session may hold on to this object: it must not hold the connection's memory.
        # Every method looks at the state first.
        self._quic = cast("QuicTransport", None)
        self._refused.clear()
        self.wake()
        # Not from here: close() may have been called by the handler.
        self._driver.loop.call_soon(self._report)

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

    def _report(self) -> None:
        """Tell the handler of the end, once."""
        handler, how = self._handler, self._how
        if handler is None or how is None or self._is_reported:
            return
        self._is_reported = True
        self._handler = None
        try:
            handler.connection_lost(how, self._driver.clock())
        except Exception as error:
            self._counters.lost_errors += 1
            logger.error(
                "connection_lost_error",
                extra=keys(connection=self.connection_id, error=repr(error)),
                exc_info=error,
            )

    async def _run(self, handler: ConnectionHandler) -> None:
        """Work whenever woken, until the connection ends: the connection task.

        It is not cancelled when the connection ends while it works: what it waits for may belong
        to the session, which outlives the connection. connection_lost() is called at once then.
        """
        try:
            while self._state != _ENDED:
                if not self._is_awake:
                    self._waiter = self._driver.loop.create_future()
                    await self._waiter
                    self._waiter = None
                self._is_awake = False
                if self._state == _OPEN:
                    await handler.work()
        except ProtocolError as error:
            self._protocol_error(error)
        except Exception as error:
            self._fail(error)
        finally:
            self._waiter = None
            if self._state != _ENDED:
                self.close(CloseCode.INTERNAL_ERROR)
            if self._state == _ENDED:
                self._report()
