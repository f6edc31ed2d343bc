"""WebConnection: one WebSocket connection, from its HTTP request to its end.

It is the asyncio protocol of a TlsTransport (or of plain TCP), the Carrier of the handler's bytes
and the owner of its Stream, as Connection is for QUIC. The HTTP request is that of the websockets
library, without its I/O. Its states, in their order::

    REQUEST   the TLS handshake or the HTTP request is not complete
    OPEN      the handler has been made
    CLOSING   a close frame was written; the stream has ended, the client has CLOSE_LINGER_S to
              answer, and what it sends is dropped
    ENDED     the TCP connection is gone

A state may be skipped and none comes back. A binary message is one or more whole frames of
PROTOCOL 1.3. Nothing bigger than the largest frame is collected, in at most MAX_PIECES pieces, and
pings are answered at a bounded rate.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from math import inf
from typing import TYPE_CHECKING, Protocol, cast

from websockets.frames import Close
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from ..._core.limits import TokenBucket
from ...errors import CloseCode, ProtocolError
from ...protocol.link import HIGH_WATER_BYTES, LOW_WATER_BYTES, Disconnect, PathState
from ..connection import CLOSE_LINGER_S, MAX_REASON_BYTES
from ..stream import CLOSED, CUT, WRITABLE, Stream
from ..udp.driver import Timer
from .frames import (
    BINARY,
    CLOSE,
    NORMAL,
    PING,
    PONG,
    PREFIX_BYTES,
    PRIVATE,
    SUBPROTOCOL,
    FrameReader,
    close_of,
    head_of,
    silent,
)
from .pages import page_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...config import TransportConfig
    from ...protocol.link import HandlerFactory
    from ..counters import TransportCounters
    from ..udp.driver import Driver
    from .counters import WebCounters
    from .pages import Page

__all__ = ["WebConnection", "WebOwner"]

MAX_REQUEST_BYTES = 16 << 10
"""Longest HTTP request, cookies included."""
MAX_JOINED_BYTES = 64 << 10
"""Clients join frames to messages of this size at most, however short the longest frame is."""
CONTROL_RATE = 10.0
CONTROL_BURST = 100
"""Pings and pongs of a client a second, and at once; more: 4429."""
MESSAGE_TIMEOUT_S = 10.0
"""From the first byte of a message to its last, as for frames (PROTOCOL 1.3)."""
CONTROL_RETRY_MS = 1_000
MAX_LATE_BYTES = 1 << 10
"""Bytes looked at behind a close, for the client's answer to it; more are dropped unread, and the
connection ends at its deadline."""

_REQUEST = 0
_OPEN = 1
_CLOSING = 2
_ENDED = 3
_STATE_NAMES = ("request", "open", "closing", "ended")

_NO_CODE = 1005
"""Stands for a close frame without a code (RFC 6455 7.1.5)."""
_TCP_INFO = struct.Struct("=8B24I")
_TCP_RTT, _TCP_WINDOW, _TCP_UNACKED, _TCP_MSS, _TCP_LOST = 15 + 8, 18 + 8, 4 + 8, 2 + 8, 23 + 8


class WebOwner(Protocol):
    """The listener, as a connection knows it."""

    def judge_request(self, request: Request) -> tuple[int, str] | None:
        """Return the HTTP status and text that refuse a request, None to go on."""

    def page(self, connection: WebConnection, request: Request) -> Page | None:
        """Return what answers a request that is for no WebSocket, None for nothing."""

    def connection_opened(self, connection: WebConnection) -> HandlerFactory | None:
        """The WebSocket is open: return the factory of the handler, None after a close()."""

    def stream_ended(self, connection: WebConnection, how: Disconnect) -> None:
        """Nothing more is handled."""

    def connection_ended(self, connection: WebConnection) -> None:
        """The TCP connection is gone."""

    def task_started(self, connection: WebConnection, task: asyncio.Task[None]) -> None:
        """The connection task runs."""


class WebConnection(asyncio.Protocol):
    """A WebSocket connection.

    Args:
        owner: Hears of the request, the opening and the end.
        driver: Flushes it, and keeps its timer.
        config: Its time-outs.
        counters: Of connections of all kinds.
        web: Of WebSocket connections.
        tcp: The socket, for a look at its path.
        peer: The client's address.
        is_plain: Whether it is without TLS.
        deadline: Loop time by which the HTTP request is complete.
        max_login_bytes: Largest frame until the gateway has written something.
        max_message_bytes: Largest frame from then on.

    Attributes:
        stream: The Link of its handler.
        is_plain: Whether it is without TLS.
        is_made: Whether it was given its TCP connection.
        ended: Done when the TCP connection is gone.
    """

    def __init__(
        self,
        owner: WebOwner,
        driver: Driver,
        config: TransportConfig,
        counters: TransportCounters,
        web: WebCounters,
        tcp: socket.socket,
        peer: tuple[str, int],
        *,
        is_plain: bool,
        deadline: float,
        max_login_bytes: int,
        max_message_bytes: int,
    ) -> None:
        self.stream = Stream(
            self, self, driver, config, counters, peer, keep_alive=True, transport="websocket"
        )
        self.is_plain = is_plain
        self.is_made = False
        self.ended: asyncio.Future[None] = driver.loop.create_future()
        self._owner = owner
        self._driver = driver
        self._counters = counters
        self._web_counters = web
        self._tcp = tcp
        self._idle_timeout: float = config.idle_timeout
        self._max_joined_bytes = PREFIX_BYTES + max(max_message_bytes, MAX_JOINED_BYTES)
        self._max_unread_bytes = 2 * max_message_bytes + HIGH_WATER_BYTES  # then no more pongs
        self._http: ServerProtocol | None = ServerProtocol(  # None behind the request
            extensions=None,  # permessage-deflate would let a client make memory out of nothing
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            logger=silent,
        )
        self._reader = FrameReader(PREFIX_BYTES + max_login_bytes)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._tcp_unsent: Callable[[], int] = lambda: 0
        self._state = _REQUEST
        self._request_bytes = 0
        self._controls = TokenBucket(CONTROL_RATE, CONTROL_BURST)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._deadline = deadline  # of the request, later of the close
        self._last_received = 0.0
        self._is_pinged = False  # since then
        self._late_bytes = 0
        self._timer = Timer(self._on_timer)
        self._has_last = False  # the close follows a last push

    def __repr__(self) -> str:
        host, port = self.stream.peer
        state = _STATE_NAMES[self._state]
        return f"<WebConnection {self.stream.connection_id} {host}:{port} {state}>"

    @property
    def is_open(self) -> bool:
        """Whether the request is complete and the end has not begun."""
        return self._state == _OPEN

    # asyncio and the TlsTransport call these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect the TLS handshake and the HTTP request."""
        self.is_made = True
        self._transport = cast("asyncio.Transport", transport)
        self._tcp_unsent = self._transport.get_write_buffer_size
        # Stream.feed() stops at low water: from there on resume_writing() has to come. It does when
        # there was more than the limit.
        self._transport.set_write_buffer_limits(high=LOW_WATER_BYTES - 1, low=LOW_WATER_BYTES // 2)
        self._last_received = self._driver.clock()
        self._schedule()

    def data_received(self, data: bytes) -> None:
        """Take bytes in: the request, or messages."""
        now = self._driver.clock()
        self._last_received = self.stream.last_heard = now
        self._is_pinged = False
        self._web_counters.bytes_received += len(data)
        try:
            if self._state == _REQUEST:
                self._take_request(data, now)
            elif self._state == _OPEN or self._is_answer_expected(len(data)):
                for opcode, payload in self._reader.receive(data, now):
                    if opcode == BINARY and self._state == _OPEN:
                        self._handle_message(payload, now)
                    else:
                        self._handle_control(opcode, payload, now)
                    if self._state != _OPEN and not self._is_answer_expected(len(payload) + 6):
                        break
        except ProtocolError as error:
            self._violate(error)
        except BaseException as error:
            self.fail(error)
        # Of the other deadlines, none comes nearer by what has arrived, or a flush is due.
        if self._reader.began_at is not inf and self._state == _OPEN:
            self._schedule()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of the TCP connection."""
        if self._state == _REQUEST:
            self._web_counters.handshakes_failed += 1
        elif self._state == _OPEN:
            self._counters.closed_transport += 1
            self._end(Disconnect("peer_transport"))
        elif self._has_last:
            self._counters.last_pushes_expired += 1
        self._state = _ENDED
        self._transport = cast("asyncio.Transport", None)  # its memory goes now
        self._tcp_unsent = lambda: 0
        if not self.ended.done():
            self.ended.set_result(None)
        self._driver.timers.cancel(self._timer)
        self._driver.forget(self)
        self._owner.connection_ended(self)

    def resume_writing(self) -> None:
        """Feed the stream again: its bytes are below low water."""
        if self._state == _OPEN:
            self._driver.mark_dirty(self)

    # Reading.

    def _take_request(self, data: bytes, now: float) -> None:
        """Parse some bytes of the HTTP request."""
        http = self._http
        assert http is not None
        self._request_bytes += len(data)
        if self._request_bytes > MAX_REQUEST_BYTES:
            self._refuse(431, "the request is too long")
            return
        http.receive_data(data)
        events = http.events_received()
        if http.handshake_exc is not None:
            self._web_counters.requests_refused += 1
            self._finish_request()
        elif events and (len(events) > 1 or http.reader.buffer or http.parser_exc is not None):
            # A client waits for the response (RFC 6455 4.1).
            self._refuse(400, "there are bytes behind the request")
        elif events:
            assert isinstance(events[0], Request)
            self._handle_request(events[0], now)

    def _handle_request(self, request: Request, now: float) -> None:
        http = self._http
        assert http is not None
        page = self._owner.page(self, request)
        if page is not None:
            http.send_response(page_response(page))
            self._finish_request()
            return
        refused = self._owner.judge_request(request)
        if refused is not None:
            http.send_response(http.reject(refused[0], refused[1] + "\n"))
            self._finish_request()
            return
        http.send_response(http.accept(request))
        if http.state is not State.OPEN:
            self._web_counters.requests_refused += 1
            self._finish_request()
            return
        self._transport.write(b"".join(http.data_to_send()))
        self._http = None
        self._state = _OPEN
        stream = self.stream
        stream.state = WRITABLE
        stream.last_heard = now
        factory = self._owner.connection_opened(self)
        if factory is None:
            return
        stream.handler = handler = factory(stream)
        task = self._driver.loop.create_task(stream.run(handler))
        self._owner.task_started(self, task)
        handler.connection_made(now)
        self._schedule()

    def _refuse(self, status: int, text: str) -> None:
        """Refuse a request that the owner has not judged."""
        http = self._http
        assert http is not None
        self._web_counters.requests_refused += 1
        # By itself: the library may have failed at what is behind the request, and sends no more.
        self._end_request(http.reject(status, text + "\n").serialize())

    def _finish_request(self) -> None:
        """Send the answer that the library has ready, which opens no WebSocket, and end."""
        assert self._http is not None
        self._end_request(b"".join(self._http.data_to_send()))

    def _end_request(self, answer: bytes) -> None:
        self._transport.write(answer)
        self._state = _CLOSING
        self._deadline = self._driver.clock() + CLOSE_LINGER_S
        self.stream.state = CLOSED
        self._transport.close()
        self._schedule()

    def _handle_control(self, opcode: int, payload: bytes, now: float) -> None:
        if self._state != _OPEN:
            if opcode == CLOSE:
                self._handle_late_close()
        elif opcode == CLOSE:
            self._handle_close(payload)
        elif self._controls.take(now) or self.unsent_bytes() > self._max_unread_bytes:
            self._web_counters.control_frames_limited += 1
            self.close(CloseCode.RATE_LIMITED, f"retry_after_ms={CONTROL_RETRY_MS}")
        elif opcode == PING:
            self._transport.write(head_of(len(payload), PONG) + payload)

    def _handle_message(self, message: bytes, now: float) -> None:
        self._web_counters.messages_received += 1
        is_one_frame = PREFIX_BYTES + int.from_bytes(message[:PREFIX_BYTES]) == len(message)
        if (is_one_frame and len(message) > PREFIX_BYTES) or _is_whole(message):
            self.stream.receive(message, False, now)
        else:
            self._violate(ProtocolError("a message that is not whole frames"))

    def _violate(self, error: ProtocolError) -> None:
        """Close because the client broke the protocol; behind a close it does not matter."""
        if self._state == _OPEN:
            self._web_counters.violations += 1
            self.stream.protocol_error(error)

    def _handle_close(self, payload: bytes) -> None:
        """The client closes: answer, and let go."""
        close = close_of(payload)
        self._transport.write(head_of(len(payload), CLOSE) + payload)
        code = 0 if close.code in (NORMAL, _NO_CODE) else int(close.code)
        self._state = _CLOSING
        self._deadline = self._driver.clock() + CLOSE_LINGER_S
        self._counters.closed_peer += 1
        self._end(Disconnect("peer", code, close.reason))
        self._schedule()
        self._transport.close()

    def _is_answer_expected(self, more: int) -> bool:
        """Return whether so many bytes may hold the answer to our close; all else is dropped."""
        self._late_bytes += more
        return self._late_bytes <= MAX_LATE_BYTES and not self._transport.is_closing()

    def _handle_late_close(self) -> None:
        """The client answers our close, or has crossed it with its own."""
        if self._has_last:
            # It has read the close, which came behind the last push.
            self._has_last = False
            self._counters.last_pushes += 1
        self._transport.close()

    # Writing: the Carrier.

    def send_stream_data(self, data: bytes, *, end: bool = False) -> None:
        """Take whole frames; transmit() sends them as one message."""
        self._out.append(data)
        self._out_bytes += len(data)

    def unsent_bytes(self) -> int:
        """Return the bytes that TCP has not taken."""
        return self._out_bytes + self._tcp_unsent()

    def is_stream_open(self) -> bool:
        """Return whether send_stream_data may be called."""
        return self._state == _OPEN

    def is_acknowledged(self) -> bool:
        """Return whether TCP has taken everything written; it does not say what arrived."""
        return not self.unsent_bytes()

    # The StreamOwner.

    def transmit(self, now: float) -> bytes:
        """Send what was written, as one message."""
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._out_bytes = 0
            self._transport.write(head_of(len(data)) + data)
            self._reader.max_bytes = self._max_joined_bytes
            self._web_counters.messages_sent += 1
            self._web_counters.bytes_sent += len(data)
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
            # The other deadlines move when something arrives, and away from now.
            if self._state == _OPEN and stream.handler is not None:
                when = stream.handler.get_timer()
                if when is not None and when < self._timer.first:
                    self._driver.schedule(self._timer, when)
        except BaseException as error:
            self.fail(error)

    def path(self) -> PathState | None:
        """Return how TCP does (Linux), None once the connection has ended."""
        if self._state != _OPEN:
            return None
        try:
            info = _TCP_INFO.unpack(
                self._tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            )
        except (AttributeError, OSError, struct.error):
            return PathState(0.0, 0, 0, 0)
        segment = info[_TCP_MSS]
        return PathState(
            info[_TCP_RTT] / 1e6,
            info[_TCP_WINDOW] * segment,
            info[_TCP_UNACKED] * segment,
            info[_TCP_LOST],
        )

    def count_silence(self, seconds: float) -> None:
        """Add a stall that our clock left out to the silence that a ping breaks."""
        self._last_received -= seconds
        if self._state == _OPEN:
            self._schedule()

    def close(self, code: int, reason: str = "", *, last: bytes = b"") -> None:
        """Close with an application code; see Link.close()."""
        if self.stream.state >= CUT or self._state != _OPEN:
            return
        reason = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        try:
            if last:
                # By itself, and before the close: TCP keeps the order.
                self.transmit(0.0)
                self.stream.write_last(last)
                self._has_last = True
            self.transmit(0.0)
            self._send_close(code, reason)
        except BaseException as error:
            self.fail(error)
            return
        self._state = _CLOSING
        self._deadline = self._driver.clock() + CLOSE_LINGER_S
        self._counters.closed_local += 1
        self._end(Disconnect("local", int(code), reason))
        self._schedule()

    def _send_close(self, code: int, reason: str = "") -> None:
        payload = Close(_wire_code(code), reason).serialize()
        self._transport.write(head_of(len(payload), CLOSE) + payload)

    def fail(self, error: BaseException) -> None:
        """End this connection, and this one alone, because of an exception."""
        self.stream.count_error(error)
        if self._state == _OPEN:
            self._state = _CLOSING
            self._counters.closed_local += 1
            self._deadline = self._driver.clock() + CLOSE_LINGER_S
            try:
                self._send_close(CloseCode.INTERNAL_ERROR)
            except BaseException as second:
                # If the protocol itself has failed, the client hears nothing.
                if isinstance(second, KeyboardInterrupt | SystemExit):
                    raise
                self._transport.abort()
            self._end(Disconnect("local", CloseCode.INTERNAL_ERROR))
            self._schedule()
        else:
            self.abort()

    def abort(self) -> None:
        """Cut the TCP connection."""
        if self.is_made and self._state != _ENDED:
            self._transport.abort()

    def _end(self, how: Disconnect) -> None:
        """End the stream; the TCP connection may live on for a while."""
        self._out.clear()
        self._out_bytes = 0
        self._driver.forget(self)
        self._owner.stream_ended(self, how)
        self.stream.end(how)

    # Time.

    def _schedule(self) -> None:
        if self._state != _OPEN:
            nearest = self._deadline
        else:
            stream = self.stream
            nearest = self._last_received + self._idle_timeout
            if stream.keep_alive and not self._is_pinged:
                nearest -= self._idle_timeout / 2
            ends = self._reader.began_at + MESSAGE_TIMEOUT_S
            if ends < nearest:
                nearest = ends
            if stream.handler is not None:
                when = stream.handler.get_timer()
                if when is not None and when < nearest:
                    nearest = when
        if nearest < self._timer.first:
            self._driver.schedule(self._timer, nearest)

    def _on_timer(self, now: float) -> None:
        if self._state == _ENDED:
            return
        try:
            if self._state == _OPEN:
                self._handle_timers(now)
            elif now >= self._deadline:
                if self._state == _REQUEST:
                    self._web_counters.handshakes_timed_out += 1
                    self._state = _CLOSING
                else:
                    self._web_counters.closes_expired += 1
                self._transport.abort()
                return
        except BaseException as error:
            self.fail(error)
        if self._state != _ENDED:
            self._schedule()

    def _handle_timers(self, now: float) -> None:
        stream = self.stream
        silence = now - self._last_received
        if silence >= self._idle_timeout:
            self._state = _CLOSING
            self._counters.closed_idle += 1
            self._end(Disconnect("idle"))
            self._transport.abort()
            return
        if now >= self._reader.began_at + MESSAGE_TIMEOUT_S:
            self._web_counters.messages_timed_out += 1
            self.close(CloseCode.TIMEOUT, "message begun and not ended")
            return
        if stream.keep_alive and not self._is_pinged and silence >= self._idle_timeout / 2:
            self._is_pinged = True
            self._counters.pings_sent += 1
            self._transport.write(head_of(0, PING))
        if stream.handler is not None:
            when = stream.handler.get_timer()
            if when is not None and now >= when:
                try:
                    stream.handler.handle_timer(now)
                except ProtocolError as error:
                    stream.protocol_error(error)


def _is_whole(data: bytes) -> bool:
    """Return whether a message is one or more whole frames."""
    position, end = 0, len(data)
    while position < end:
        position += PREFIX_BYTES + int.from_bytes(data[position : position + PREFIX_BYTES])
    return position == end > PREFIX_BYTES


def _wire_code(code: int) -> int:
    """Return the WebSocket close code for one of ours; a service's own may be none."""
    if code == CloseCode.NORMAL:
        return NORMAL
    return code if code in PRIVATE else int(CloseCode.KICKED)
