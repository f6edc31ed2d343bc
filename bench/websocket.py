"""A lean WebSocket client for load: the Link of a handler, over asyncio's TLS."""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
import struct
import time
from typing import TYPE_CHECKING, Any, cast

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


class WebSocketLink(asyncio.Protocol):
    """A client's connection; what its handler writes between two flushes is one message.

    Args:
        handler_factory: Makes the handler once the WebSocket is open.
        host: For the request.
    """

    moves: tuple[Move, ...] = ()
    transport = "websocket"
    keep_alive = False
    idle_timeout = 0.0
    last_heard = 0.0

    def __init__(self, handler_factory: HandlerFactory, host: str) -> None:
        loop = asyncio.get_running_loop()
        self.peer = (host, 0)
        self.connection_id = next(_numbers)
        self.is_closing = False
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

    def unsent_bytes(self) -> int:
        return 0

    def request_flush(self) -> None:
        """Send what was written."""
        if self._out:
            self._send(BINARY, b"".join(self._out))
            self._out.clear()

    def path(self) -> PathState | None:
        return None

    def wake(self) -> None: ...

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
            head = (
                struct.pack(">BBH", opcode, 0x80 | 126, length)
                if length < 65536
                else struct.pack(">BBQ", opcode, 255, length)
            )
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
