"""ClientSocket: a client's WebSocket, from the HTTP request to the end.

It is the asyncio protocol of the TLS connection, the Carrier of the handler's bytes and the owner
of its Stream, as WebConnection is at the gateway. Its states, in their order::

    OPENING   TLS, the HTTP request, and the answer to it
    OPEN      the handler has been made
    CLOSING   a close frame was written or read, or nobody wants the connection: the stream has
              ended, and TCP has a moment to end too
    ENDED     the TCP connection is gone

A state may be skipped and none comes back. The silence of a gateway is the session protocol's to
notice, by its heartbeats (PROTOCOL 3.8).
"""

from __future__ import annotations

import asyncio
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidMessage, InvalidStatus
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from ...errors import CloseCode, ConnectionFailed, ProtocolError
from ...protocol.link import LOW_WATER_BYTES, Disconnect, PathState
from ..addresses import Place, host_name, without_scope
from ..connection import CLOSE_LINGER_S, MAX_REASON_BYTES
from ..counters import TransportCounters
from ..stream import CLOSED, CUT, WRITABLE, Stream
from ..udp.driver import LATE_S, Driver, Timer
from .frames import NORMAL, PREFIX_BYTES, PRIVATE, SUBPROTOCOL, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ...config import TransportConfig
    from ...protocol.link import HandlerFactory

__all__ = ["ClientSocket"]

MESSAGE_BYTES = 32 << 10
"""Frames are joined to messages of at most this size; a longer frame goes alone (PROTOCOL 1.9)."""
MAX_MESSAGE_BYTES = 4 << 20
"""Largest message of a gateway that is collected: the largest frame, and what is sent with it."""
MAX_UNREAD_BYTES = 4 << 20
"""Bytes that a gateway leaves unread before its pings end the connection."""
ANSWER_S = 0.25
"""Longest wait for the answer to our close: neither the next connection nor the end hangs on it."""

_OPENING = 0
_OPEN = 1
_CLOSING = 2
_ENDED = 3

_PASSING = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
"""Statuses below 500 that say nothing of the next request."""


class ClientSocket(asyncio.Protocol):
    """A WebSocket at a client.

    Args:
        place: Where the gateway is.
        peer: Its address.
        handler_factory: Makes the handler.
        driver: Flushes it, and keeps its timer.
        config: For its stream.
        counters: Of its end.
        is_wanted: Asked when the gateway has accepted; False to close at once.

    Attributes:
        stream: The Link of its handler.
        ready: Done when the handler has been made, or with what kept it from that.
        ended: Done with how the stream ended.
        gone: Done when the TCP connection is gone, or never came up.
    """

    def __init__(
        self,
        place: Place,
        peer: tuple[str, int],
        handler_factory: HandlerFactory,
        *,
        driver: Driver,
        config: TransportConfig,
        counters: TransportCounters,
        is_wanted: Callable[[], bool],
    ) -> None:
        self.stream = Stream(
            self, self, driver, config, counters, peer, keep_alive=False, transport="websocket"
        )
        loop = driver.loop
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Disconnect] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._place = place
        self._handler_factory = handler_factory
        self._driver = driver
        self._counters = counters
        self._is_wanted = is_wanted
        path, _, query = place.path.partition("?")
        self._socket = ClientProtocol(
            WebSocketURI(
                not place.is_plain, without_scope(host_name(place.host)), place.port, path, query
            ),
            extensions=None,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            max_size=MAX_MESSAGE_BYTES,
            logger=silent,
        )
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._state = _OPENING
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._deadline = math.inf  # of the close
        self._late_timer = math.inf  # the handler's timer that waits for what has arrived
        self._timer = Timer(self._on_timer)

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the HTTP request: TLS is up."""
        self._transport = cast("asyncio.Transport", transport)
        if self._state != _OPENING:
            self._transport.abort()
            return
        # Stream.feed() stops at low water: from there on resume_writing() has to come.
        self._transport.set_write_buffer_limits(high=LOW_WATER_BYTES, low=LOW_WATER_BYTES // 2)
        self._socket.send_request(self._socket.connect())
        self._send_ready()

    def data_received(self, data: bytes) -> None:
        """Take bytes in: the answer to the request, or messages."""
        now = self._driver.clock()
        self.stream.last_heard = now
        try:
            self._take(data, now)
        except ProtocolError as error:
            self.stream.protocol_error(error)
        except BaseException as error:
            self.fail(error)
        if self._state == _OPEN:
            self._driver.mark_dirty(self)  # deadlines have moved

    def eof_received(self) -> None:
        """Close: TLS has no half-closed connections."""
        if self._state == _OPENING:
            self._socket.receive_eof()
            self._judge_answer(self._driver.clock())

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of the TCP connection."""
        if self._state == _OPENING:
            self._refuse(f"{self._place} closed the connection: {exc or 'no answer'}")
        elif self._state == _OPEN:
            self._counters.closed_reset += 1
            self._end(Disconnect("reset", 0, str(exc or "")))
        self._state = _ENDED
        self._driver.timers.cancel(self._timer)
        self._driver.forget(self)
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        """Do nothing: whoever feeds this connection asks for its unsent bytes."""

    def resume_writing(self) -> None:
        """Feed the stream again: its bytes are below low water."""
        if self._state == _OPEN:
            self._driver.mark_dirty(self)

    # Reading.

    def _take(self, data: bytes, now: float) -> None:
        protocol = self._socket
        protocol.receive_data(data)
        if self._state == _OPENING:
            self._judge_answer(now)
        else:
            self._handle_frames(now)

    def _judge_answer(self, now: float) -> None:
        """Open, or refuse, once the gateway has answered the request."""
        protocol = self._socket
        error = protocol.handshake_exc
        if isinstance(error, InvalidStatus):
            status, phrase = error.response.status_code, error.response.reason_phrase
            is_path = status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND)
            hint = " (is the path right?)" if is_path else ""
            is_final = status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _PASSING
            text = f"{status} {phrase:.80}".strip()
            self._refuse(f"{self._place} answers HTTP {text}{hint}", is_final=is_final)
        elif isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError):
            hint = " (is it TLS, wss://?)" if self._place.is_plain else ""
            self._refuse(f"{self._place} closed the connection: no answer{hint}")
        elif error is not None:
            self._refuse(f"{self._place} is no WebSocket server: {error!s:.200}", is_final=True)
        elif protocol.state is State.OPEN:
            if protocol.subprotocol != SUBPROTOCOL:
                why = f"{self._place} does not speak the gatesvr protocol: it takes no subprotocol"
                self._refuse(f"{why} {SUBPROTOCOL!r}", is_final=True)
            elif not self._is_wanted():
                protocol.send_close(NORMAL)
                self._send_ready()
                self._refuse("another connection was faster")
            else:
                self._open(now)
                self._handle_frames(now)

    def _open(self, now: float) -> None:
        self._state = _OPEN
        self._counters.accepted += 1
        stream = self.stream
        stream.state = WRITABLE
        stream.last_heard = now
        stream.handler = handler = self._handler_factory(stream)
        handler.connection_made(now)
        if not self.ready.done():
            self.ready.set_result(None)

    def _handle_frames(self, now: float) -> None:
        protocol = self._socket
        for event in protocol.events_received():
            if isinstance(event, Response):
                continue
            assert isinstance(event, Frame)
            if event.opcode is Opcode.CLOSE:
                self._handle_close()
            elif self._state != _OPEN or event.opcode is Opcode.PONG:
                continue
            elif event.opcode is Opcode.TEXT:
                raise ProtocolError("a text message")
            elif event.opcode is Opcode.PING:
                if self.unsent_bytes() > MAX_UNREAD_BYTES:
                    raise ProtocolError("pings of a gateway that reads nothing")
            else:
                # Whole frames or not: the decoder takes them as a stream.
                self.stream.receive(bytes(event.data), False, now)
        if self._state == _OPEN:
            if protocol.parser_exc is not None:
                # The library has a close frame of its own ready; ours has the code of PROTOCOL 1.4.
                protocol.data_to_send()
                raise ProtocolError(str(protocol.parser_exc))
            self._send_ready()

    def _handle_close(self) -> None:
        """The gateway closes, or answers our close: the library has the answer ready."""
        self._send_ready()
        if self._state == _OPEN:
            received = self._socket.close_rcvd
            assert received is not None
            code = int(received.code)
            if code == NORMAL or code in PRIVATE:
                self._counters.closed_peer += 1
                how = Disconnect("peer", 0 if code == NORMAL else code, received.reason)
            else:
                # Not a gateway's: something between it and us gives the connection up.
                self._counters.closed_transport += 1
                how = Disconnect("reset", 0, f"WebSocket {code} {received.reason}".rstrip())
            self._linger()
            self._end(how)
        self._transport.close()

    # Writing: the Carrier.

    def send_stream_data(self, data: bytes, *, end: bool = False) -> None:
        """Take whole frames; transmit() sends them."""
        self._out.append(data)
        self._out_bytes += len(data)

    def unsent_bytes(self) -> int:
        """Return the bytes that TCP has not taken."""
        return self._out_bytes + self._transport.get_write_buffer_size()

    def is_stream_open(self) -> bool:
        """Return whether send_stream_data may be called."""
        return self._state == _OPEN

    def is_acknowledged(self) -> bool:
        """Return whether TCP has taken everything written; it does not say what arrived."""
        return not self.unsent_bytes()

    def _send_ready(self) -> None:
        """Send what the library has ready."""
        data = b"".join(self._socket.data_to_send())
        if data:
            self._transport.write(data)

    # The StreamOwner.

    def transmit(self, now: float) -> bytes:
        """Send what was written."""
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._out_bytes = 0
            if self._socket.state is State.OPEN:
                for message in _messages(data):
                    self._socket.send_binary(message)
                self._send_ready()
        return b""

    def flush(self, now: float) -> None:
        """Send all that is ready, and schedule the timer."""
        if self._state != _OPEN:
            return
        stream = self.stream
        try:
            if stream.is_feeding:
                stream.feed(now)
            else:
                self.transmit(now)
                if stream.is_blocked:
                    stream.is_blocked = self.unsent_bytes() > 0
            if self._state == _OPEN:
                self._schedule()
        except BaseException as error:
            self.fail(error)

    def path(self) -> PathState | None:
        """Return None: no client asks."""
        return None

    def close(self, code: int, reason: str = "", *, last: bytes = b"") -> None:
        """Close with an application code; see Link.close()."""
        if self._state == _OPENING:
            self._refuse("given up")
        if self._state != _OPEN or self.stream.state >= CUT:
            return
        reason = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        try:
            if last:
                self.stream.write_last(last)
            self.transmit(0.0)
            self._send_close(code, reason)
        except BaseException as error:
            self.fail(error)
            return
        self._counters.closed_local += 1
        # A gateway that was silent will not answer.
        self._linger(0.0 if code == CloseCode.TIMEOUT else ANSWER_S)
        self._end(Disconnect("local", int(code), reason))

    def _send_close(self, code: int, reason: str = "") -> None:
        protocol = self._socket
        wire_code = NORMAL if code == CloseCode.NORMAL else code
        if protocol.state is State.OPEN:
            protocol.send_close(wire_code, reason)
            self._send_ready()
        else:
            # The library has failed the connection, with a code of its own that was not sent.
            payload = Close(wire_code, reason).serialize()
            self._transport.write(Frame(Opcode.CLOSE, payload).serialize(mask=True))

    def pause_reading(self) -> None:
        """Read nothing until resume_reading()."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def discard(self, reason: str = "") -> None:
        """End at once; the gateway is not told."""
        if self._state == _OPENING:
            self._refuse("given up")
        elif self._state == _OPEN:
            self._linger()
            self._end(Disconnect("local", 0, reason))
            self._transport.abort()

    def fail(self, error: BaseException) -> None:
        """End this connection, and this one alone, because of an exception."""
        self.stream.count_error(error)
        if self._state == _OPEN:
            try:
                self._socket.data_to_send()
                self._send_close(CloseCode.INTERNAL_ERROR)
            except BaseException as second:
                # If the protocol itself has failed, the gateway hears nothing.
                if isinstance(second, KeyboardInterrupt | SystemExit):
                    raise
                self._transport.abort()
            self._linger()
            self._end(Disconnect("local", CloseCode.INTERNAL_ERROR))
        elif self._state == _OPENING:
            self._refuse(f"internal error of the client: {error!r}")

    def _refuse(self, why: str, *, is_final: bool = False) -> None:
        """End a connection that is not open: the gateway said no, or nobody wants it."""
        self.stream.state = CLOSED
        if not self.ready.done():
            self.ready.set_exception(ConnectionFailed(why, is_final=is_final))
        if self._transport is not None:
            self._linger()
            self._transport.abort()
        else:
            self._state = _ENDED
            self.gone.set_result(None)

    def _linger(self, seconds: float = CLOSE_LINGER_S) -> None:
        """Leave TCP so much time to end."""
        self._state = _CLOSING
        self._deadline = self._driver.clock() + seconds
        self._schedule()

    def _end(self, how: Disconnect) -> None:
        """End the stream; the TCP connection may live on for a while."""
        self._out.clear()
        self._out_bytes = 0
        self._driver.forget(self)
        if not self.ready.done():
            self.ready.set_exception(
                ConnectionFailed(f"{self._place}: {how.reason or how.kind}", how.code)
            )
        if not self.ended.done():
            self.ended.set_result(how)
        self.stream.end(how)

    # Time.

    def _schedule(self) -> None:
        if self._state == _OPEN:
            handler = self.stream.handler
            when = None if handler is None else handler.get_timer()
        else:
            when = self._deadline
        if when is not None and when < self._timer.first:
            self._driver.schedule(self._timer, when)

    def _on_timer(self, now: float) -> None:
        if self._state == _OPEN:
            try:
                self._handle_timers(now)
            except BaseException as error:
                self.fail(error)
        elif self._state == _CLOSING:
            if now >= self._deadline:
                self._transport.abort()
            else:
                self._schedule()

    def _handle_timers(self, now: float) -> None:
        handler = self.stream.handler
        when = None if handler is None else handler.get_timer()
        if handler is None or when is None:
            return
        if now - when > LATE_S and self._late_timer != when:
            # The process stalled: what has arrived goes first, the gateway may not be silent.
            self._late_timer = when
            self._driver.schedule(self._timer, now + LATE_S)
            return
        if now >= when:
            try:
                handler.handle_timer(now)
            except ProtocolError as error:
                self.stream.protocol_error(error)
        if self._state == _OPEN:
            self._schedule()


def _messages(data: bytes) -> Iterator[bytes]:
    """Yield whole frames as messages that a gateway takes."""
    first = position = 0
    if len(data) > MESSAGE_BYTES:
        while position < len(data):
            head = data[position : position + PREFIX_BYTES]
            end = position + PREFIX_BYTES + int.from_bytes(head)
            if end - first > MESSAGE_BYTES and position > first:
                yield data[first:position]
                first = position
            position = end
    yield data[first:] if first else data
