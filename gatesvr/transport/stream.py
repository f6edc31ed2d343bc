"""The one stream of a connection: the Link of its handler, and the connection task.

Of QUIC a Stream knows only its Carrier, which takes bytes and tells how many of them wait. Stream 0
of a QUIC connection is a carrier; a WebTransport stream can be another.

The connection calls receive() with the bytes that arrive, and feed() at the end of a loop turn if
is_feeding. The states of a stream, in their order, and the effect of write()::

    WAITING   the handshake runs, or the client has not begun the stream    dropped, counted
    WRITABLE                                                                sent
    STOPPED   the peer takes no more (STOP_SENDING)                         dropped, counted
    CUT       the connection has ended; its last bytes are being handled    dropped
    CLOSING   close() was called; the last push is in flight                dropped
    CLOSED    nothing is sent or handled any more                           dropped

A state may be skipped and none comes back. Facts beside the state, independent of it and of each
other::

    is_ended    the peer has ended its half (FIN, RESET_STREAM) or stopped ours (STOP_SENDING),
                and the handler was told
    is_feeding  the handler may have more to write; feed() asks it below low water
    is_blocked  bytes may wait that were written and never transmitted
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Protocol, cast

from ..config import TransportConfig
from ..errors import CloseCode, ProtocolError
from ..protocol.link import (
    HIGH_WATER_BYTES,
    LOW_WATER_BYTES,
    ConnectionHandler,
    Disconnect,
    Move,
    PathState,
)
from .counters import TransportCounters
from .udp.driver import Driver, Flushable

__all__ = ["Carrier", "Stream", "StreamOwner"]

MAX_FEEDS = 16
"""Times that one flush asks a handler for more before other connections get their turn."""

# States. Plain numbers: they are compared for every message.
WAITING = 0
WRITABLE = 1
STOPPED = 2
CUT = 3
CLOSING = 4
CLOSED = 5

_NOT_FEEDING = -1
_numbers = itertools.count(1)


MAX_MOVES = 16
"""Moves that a stream remembers."""


class Carrier(Protocol):
    """Carries the bytes of a stream to the peer; QuicTransport is one."""

    def send_stream_data(self, data: bytes, *, end: bool = False) -> None:
        """Write; end adds FIN."""

    def unsent_bytes(self) -> int:
        """Return the bytes written and never yet transmitted."""

    def is_stream_open(self) -> bool:
        """Return whether send_stream_data may be called."""

    def is_acknowledged(self) -> bool:
        """Return whether the peer has acknowledged everything written."""


class StreamOwner(Flushable, Protocol):
    """The connection, as its stream knows it."""

    def transmit(self, now: float) -> bytes:
        """Send the datagrams that are ready; return the last one, if any."""

    def close(self, code: int, reason: str = "", *, last: bytes = b"") -> None:
        """Close the connection; see Link.close()."""

    def fail(self, error: BaseException) -> None:
        """End the connection because of an exception."""

    def path(self) -> PathState | None:
        """Return how the path does, None once the connection has ended."""


class Stream:
    """The Link of a connection's handler.

    Args:
        connection: The connection that it belongs to.
        carrier: Takes its bytes.
        driver: The connection's.
        config: The idle time-out.
        counters: Where to count.
        peer: The peer's address.
        keep_alive: Whether to PING from the beginning.
        transport: See Link.

    Attributes:
        peer: The peer's address, without scope or v4-mapping.
        connection_id: A number of this process's own.
        keep_alive: Whether to PING at half the idle time-out of silence (PROTOCOL 3.8).
        last_heard: Time of the last stream byte or acknowledgement.
        idle_timeout: The effective QUIC idle time-out in seconds.
        state: See the top of this file.
        moves: See Link.
        transport: See Link.
        handler: Takes the bytes that arrive; None until the handshake is complete, and again after
            connection_lost().
        carrier: Takes the bytes.
    """

    __slots__ = (
        "_connection",
        "_counters",
        "_driver",
        "_how",
        "_is_awake",
        "_unsent",
        "_waiter",
        "carrier",
        "connection_id",
        "handler",
        "idle_timeout",
        "is_blocked",
        "is_ended",
        "is_feeding",
        "keep_alive",
        "last_heard",
        "moves",
        "peer",
        "state",
        "transport",
    )

    def __init__(
        self,
        connection: StreamOwner,
        carrier: Carrier,
        driver: Driver,
        config: TransportConfig,
        counters: TransportCounters,
        peer: tuple[str, int],
        *,
        keep_alive: bool,
        transport: str = "quic",
    ) -> None:
        self.peer = peer
        self.moves: tuple[Move, ...] = ()
        self.connection_id = next(_numbers)
        self.keep_alive = keep_alive
        self.transport = transport
        self.last_heard = 0.0
        self.idle_timeout: float = config.idle_timeout
        self.state = WAITING
        self.is_ended = False
        self.is_feeding = False
        self.is_blocked = False
        self.handler: ConnectionHandler | None = None
        self.carrier = carrier
        self._connection = connection
        self._driver = driver
        self._counters = counters
        self._unsent = _NOT_FEEDING  # while the handler writes: the unsent bytes, its own included
        self._how: Disconnect | None = None
        self._is_awake = False
        self._waiter: asyncio.Future[None] | None = None

    # The Link.

    @property
    def is_closing(self) -> bool:
        """Whether close() was called, here or by the peer."""
        return self.state >= CLOSING

    def move(self, peer: tuple[str, int], now: float) -> None:
        """Note that the peer has another address from now on."""
        if peer != self.peer:
            self.moves = (*self.moves[1 - MAX_MOVES :], (now, self.peer, peer))
            self.peer = peer

    def write(self, data: bytes) -> None:
        """Hand whole frames to the stream; does nothing once the link is closing."""
        if self.state != WRITABLE:
            if self.state < CUT:
                self._counters.writes_dropped += 1
            return
        self.carrier.send_stream_data(data)
        if self._unsent >= 0:
            self._unsent += len(data)  # feed() transmits it
        else:
            self.is_blocked = True
            self._driver.mark_dirty(self._connection)

    def unsent_bytes(self) -> int:
        """Return the stream bytes never yet transmitted."""
        if self._unsent >= 0:
            return self._unsent
        return 0 if self.state == CLOSED else self.carrier.unsent_bytes()

    def request_flush(self) -> None:
        """Ask for handler.write_ready() and a transmission at the end of this loop turn."""
        # A stream that is being fed is marked already, or acknowledgements bring it back.
        if not self.is_feeding and self.state < CUT:
            self.is_feeding = True
            self._driver.mark_dirty(self._connection)

    def path(self) -> PathState | None:
        """Return how the path does, None once the connection has ended."""
        return self._connection.path()

    def wake(self) -> None:
        """Make the connection task call handler.work()."""
        self._is_awake = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self, code: int, reason: str = "", *, last: bytes = b"") -> None:
        """Close the connection with an application code; see Link.close()."""
        self._connection.close(code, reason, last=last)

    # What the connection calls.

    def receive(self, data: bytes, is_end: bool, now: float) -> None:
        """Hand stream bytes to the handler, and the end of the peer's half, once."""
        self.last_heard = now
        handler = self.handler
        if handler is None or self.state >= CLOSING:
            return  # from close() on nothing of the peer's is handled
        if self.state == WAITING and not self.is_ended and self.carrier.is_stream_open():
            self.state = WRITABLE
        try:
            if data:
                handler.data_received(data, now)
            if is_end and not self.is_ended and self.state < CLOSING:
                self.is_ended = True
                handler.stream_ended(now)
        except ProtocolError as error:
            self.protocol_error(error)

    def feed(self, now: float) -> None:
        """Ask the handler for more, and send, until nothing moves."""
        carrier, handler = self.carrier, self.handler
        for _ in range(MAX_FEEDS):
            unsent = carrier.unsent_bytes() if self.is_blocked else 0
            if handler is not None and unsent < LOW_WATER_BYTES:
                self._unsent = unsent
                handler.write_ready(now)
                written = self._unsent
                self._unsent = _NOT_FEEDING
                if self.state >= CLOSING:
                    return
                # The handler stops for one of two reasons: high water, or it has no more.
                self.is_feeding = written != unsent and written >= HIGH_WATER_BYTES
                self._connection.transmit(now)
                self.is_blocked = written > 0 and carrier.unsent_bytes() > 0
                if not self.is_feeding:
                    return
            else:
                self._connection.transmit(now)
                unsent = carrier.unsent_bytes()
                self.is_blocked = unsent > 0
                if unsent >= LOW_WATER_BYTES:
                    return  # the peer's acknowledgements bring us back here
        self._driver.mark_dirty(self._connection)

    def write_last(self, data: bytes) -> None:
        """Write the last push, with FIN; nothing is written or handled after it."""
        self.carrier.send_stream_data(data, end=True)
        self.is_blocked = True
        self.state = CLOSING

    def end(self, how: Disconnect) -> None:
        """Let go of the carrier, and tell the handler soon.

        A suspended session may hold on to this object: it must not hold the connection's memory.
        """
        self.state = CLOSED
        self._how = how
        self._unsent = _NOT_FEEDING
        self.carrier = cast("Carrier", None)  # every method looks at the state first
        self.wake()
        # Not from here: close() may have been called by the handler.
        self._driver.loop.call_soon(self._report)

    def protocol_error(self, error: ProtocolError) -> None:
        """Close the connection with the error's code."""
        self._counters.protocol_errors += 1
        self._driver.lines.log(
            logging.INFO,
            "protocol_error",
            self._driver.clock(),
            connection=self.connection_id,
            peer=self.peer[0],
            reason=str(error),
        )
        self._connection.close(error.close_code, str(error))

    def count_error(self, error: BaseException) -> None:
        """Count and log an exception that ends the connection; raise one that ends the process."""
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error
        self._counters.connection_errors += 1
        self._driver.lines.log(
            logging.ERROR,
            "connection_error",
            self._driver.clock(),
            type(error),
            error,
            connection=self.connection_id,
            peer=self.peer[0],
            error=repr(error),
        )

    # The connection task.

    async def run(self, handler: ConnectionHandler) -> None:
        """Await a connection's life: START, authentication, login, and the end.

        This coroutine is the connection task, one for each connection. Most messages are handled
        where they are read. handler.work() does the rest, which has to wait: START and AUTH with
        their authentication, and requests for which there was no room. Between two calls of
        work() the task sleeps on one future; any number of wake()s makes one call.

        The end of the connection does not cancel work(), which may be authenticating; the handler
        hears of the end at once, and the task ends when work() returns. An exception of work()
        closes the connection.
        """
        try:
            while self.state != CLOSED:
                if not self._is_awake:
                    self._waiter = self._driver.loop.create_future()
                    await self._waiter
                    self._waiter = None
                self._is_awake = False
                if self.state < CLOSING:
                    await handler.work()
        except ProtocolError as error:
            self.protocol_error(error)
        except Exception as error:
            self._connection.fail(error)
        finally:
            self._waiter = None
            if self.state != CLOSED:
                self._connection.close(CloseCode.INTERNAL_ERROR)
            if self.state == CLOSED:
                self._report()

    def _report(self) -> None:
        """Tell the handler of the end, once."""
        handler, how = self.handler, self._how
        if handler is None or how is None:
            return
        self.handler = None
        try:
            handler.connection_lost(how, self._driver.clock())
        except Exception as error:
            self._counters.lost_errors += 1
            self._driver.lines.log(
                logging.ERROR,
                "connection_lost_error",
                self._driver.clock(),
                type(error),
                error,
                connection=self.connection_id,
                error=repr(error),
            )
