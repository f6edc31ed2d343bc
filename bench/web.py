"""Lean clients for load by WebSocket and by WebTransport: the Links of their handlers."""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
import struct
import time
from typing import TYPE_CHECKING, Any, cast

from qh3.asyncio.client import connect
from qh3.asyncio.protocol import QuicConnectionProtocol
from qh3.h3.connection import H3Connection
from qh3.h3.events import HeadersReceived
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived
from websockets.speedups import apply_mask

from gatesvr.protocol.link import Disconnect

if TYPE_CHECKING:
    from gatesvr.protocol.link import ConnectionHandler, HandlerFactory, Move, PathState

HANDSHAKE = (
    "GET /gatesvr HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: gatesvr\r\n\r\n"
)
BINARY, PING, PONG = 0x82, 0x89, 0x8A
_numbers = itertools.count(1)


class _Link:
    """What no load client needs of a Link, and how long it may be."""

    moves: tuple[Move, ...] = ()
    keep_alive = False
    idle_timeout = 0.0
    last_heard = 0.0
    is_closing = False

    def unsent_bytes(self) -> int:
        return 0

    def path(self) -> PathState | None:
        return None

    def wake(self) -> None: ...


class WebSocketLink(_Link, asyncio.Protocol):
    """A client's connection; what its handler writes between two flushes is one message.

    Args:
        handler_factory: Makes the handler once the WebSocket is open.
        host: For the request.
    """

    transport = "websocket"

    def __init__(self, handler_factory: HandlerFactory, host: str) -> None:
        loop = asyncio.get_running_loop()
        self.peer = (host, 0)
        self.connection_id = next(_numbers)
        self.opened: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._factory = handler_factory
        self._handler: ConnectionHandler | None = None
        self._clock = time.monotonic  # uvloop's counts whole milliseconds
        self._mask = os.urandom(4)  # one for all: the server cannot tell
        self._out: list[bytes] = []
        self._in = b""

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast("asyncio.Transport", transport)
        self._tcp.write(HANDSHAKE.format(host=self.peer[0]).encode())

    def data_received(self, data: bytes) -> None:
        data = self._in + data if self._in else data
        now = self._clock()
        handler = self._handler
        if handler is None:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._in = head
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                raise ConnectionError(head.decode())
            handler = self._handler = self._factory(self)
            handler.connection_made(now)
            self.opened.set_result(None)
        position, end = 0, len(data)
        while end - position >= 2:
            opcode, length = data[position], data[position + 1]
            start = position + 2
            if length == 126:
                start += 2
                length = int.from_bytes(data[position + 2 : start]) if end >= start else end
            elif length == 127:
                start += 8
                length = int.from_bytes(data[position + 2 : start]) if end >= start else end
            if end < start + length:
                break
            position = start + length
            payload = data[start:position]
            if opcode == BINARY:
                handler.data_received(payload, now)
            elif opcode == PING:
                self._send(PONG, payload)
        self._in = data[position:]

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)
        if not self.is_closing and self._handler is not None:
            self._handler.connection_lost(Disconnect("peer"), self._clock())
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed"))

    # The Link.

    def write(self, data: bytes) -> None:
        self._out.append(data)

    def request_flush(self) -> None:
        """Send what was written."""
        if self._out:
            self._send(BINARY, b"".join(self._out))
            self._out.clear()

    async def close(self, code: int = 1000) -> None:
        """Close, and wait for the end."""
        self.is_closing = True
        self._send(0x88, struct.pack(">H", code))
        await self.ended

    def _send(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        if length < 126:
            head = bytes((opcode, 0x80 | length))
        else:
            head = struct.pack(">BBH", opcode, 0x80 | 126, length)
        self._tcp.write(head + self._mask + apply_mask(payload, self._mask))


async def open_websocket(host: str, port: int, handler_factory: Any, **_: Any) -> WebSocketLink:
    """Connect without a look at the certificate; the handler is made when this returns."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, link = await asyncio.get_running_loop().create_connection(
        lambda: WebSocketLink(handler_factory, host), host, port, ssl=context
    )
    await link.opened
    return link


class WebTransportLink(_Link, QuicConnectionProtocol):
    """A client's connection and its one session; qh3's HTTP/3 opens it, and no more."""

    transport = "webtransport"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connection_id = next(_numbers)
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._http: H3Connection | None = None
        self._stream = -1
        self._handler: ConnectionHandler | None = None

    async def open(self, host: str, port: int, handler_factory: HandlerFactory) -> None:
        """Open the session, and make the handler."""
        self.peer = (host, port)
        http = self._http = H3Connection(self._quic, enable_webtransport=True)
        session = self._quic.get_next_available_stream_id()
        fields = {
            b":method": b"CONNECT",
            b":protocol": b"webtransport",
            b":scheme": b"https",
            b":authority": f"{host}:{port}".encode(),
            b":path": b"/gatesvr",
        }
        http.send_headers(session, list(fields.items()))
        self.transmit()
        await self.opened
        self._stream = http.create_webtransport_stream(session)
        self._handler = handler_factory(cast("Any", self))
        self._handler.connection_made(time.monotonic())

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived) and event.stream_id == self._stream:
            assert self._handler is not None
            self._handler.data_received(event.data, time.monotonic())
        elif isinstance(event, ConnectionTerminated):
            if not self.opened.done():
                self.opened.set_exception(ConnectionError(event.reason_phrase))
            elif self._handler is not None and not self.is_closing:
                self._handler.connection_lost(Disconnect("peer"), time.monotonic())
        elif self._http is not None and not self.opened.done():
            for found in self._http.handle_event(event):
                if isinstance(found, HeadersReceived):
                    if dict(found.headers)[b":status"] != b"200":
                        raise ConnectionError(found.headers)
                    self.opened.set_result(None)

    def write(self, data: bytes) -> None:
        self._quic.send_stream_data(self._stream, data)

    def request_flush(self) -> None:
        """Send what was written."""
        self.transmit()


class WebTransportConnection:
    """A WebTransportLink, as those close it that opened it."""

    def __init__(self, handler_factory: HandlerFactory) -> None:
        self._factory = handler_factory

    async def open(self, host: str, port: int) -> None:
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=["h3"],
            max_datagram_frame_size=65536,
            verify_mode=ssl.CERT_NONE,
            server_name="localhost",
        )
        self._connecting = connect(
            host, port, configuration=configuration, create_protocol=WebTransportLink
        )
        self._link = cast("WebTransportLink", await self._connecting.__aenter__())
        await self._link.open(host, port, self._factory)

    async def close(self) -> None:
        self._link.is_closing = True
        await self._connecting.__aexit__(None, None, None)


async def open_webtransport(
    host: str, port: int, handler_factory: Any, **_: Any
) -> WebTransportConnection:
    """Connect without a look at the certificate; the handler is made when this returns."""
    connection = WebTransportConnection(handler_factory)
    await connection.open(host, port)
    return connection
