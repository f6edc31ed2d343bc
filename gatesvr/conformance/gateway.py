"""The scripted gateway's ways in: each accepts connections and makes Peers of them."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from ..config import TransportConfig, join_address
from ..transport.listener import ConnectionListener
from .peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from ..protocol.link import Disconnect, HandlerFactory, Link
    from ..transport.connection import Connection

__all__ = ["Doors", "open_door"]

WS_NORMAL = 1000
"""The WebSocket code of a normal close, 0 in the protocol's own numbering (PROTOCOL 1.9)."""
CLOSE_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Doors:
    """How doors are opened.

    Attributes:
        transport: ``quic`` or ``websocket``.
        host: Address to listen on.
        cert: PEM file of the certificate.
        cert_pem: What it holds.
        key: PEM file of its key.
        backend: The QUIC library: auto, aioquic or qh3.
    """

    transport: str
    host: str
    cert: str
    cert_pem: str
    key: str
    backend: str = "auto"


@asynccontextmanager
async def open_door(
    doors: Doors, accept: Callable[[Peer], None], tell: Callable[[str], None]
) -> AsyncIterator[tuple[str, str]]:
    """Listen on a free port, and hand each connection to accept.

    Returns:
        The URL, and HOST:PORT as a GOAWAY names it.
    """
    way = _quic if doors.transport == "quic" else _websocket
    async with way(doors, accept, tell) as port:
        address = join_address(doors.host, port)
        if doors.transport == "quic":
            yield f"quic://{address}", address
        else:
            yield f"wss://{address}/gatesvr", address


# QUIC.


class _Listener(ConnectionListener):
    """A listener that can forget a connection, as if the gateway had been restarted."""

    def __init__(self, config: TransportConfig, factory: HandlerFactory) -> None:
        super().__init__(config, factory)
        self._opened: dict[Link, Connection] = {}
        self._forgotten: set[Connection] = set()

    def connection_opened(self, connection: Connection) -> HandlerFactory | None:
        self._opened[connection.stream] = connection
        return super().connection_opened(connection)

    def connection_ended(self, connection: Connection, how: Disconnect, farewell: bytes) -> None:
        if connection in self._forgotten:
            # What the client sends next is answered by a stateless reset.
            self._routes.forget(connection)
        super().connection_ended(connection, how, farewell)

    def forget(self, link: Link) -> None:
        """Forget a connection, and make its client send something."""
        connection = self._opened[link]
        self._forgotten.add(connection)
        connection.probe()
        connection.transmit(self.driver.clock())
        connection.discard("cut")


class _QuicCarrier:
    """A QUIC connection: the handler of its stream, and the Carrier of its Peer."""

    def __init__(
        self,
        listener: _Listener,
        link: Link,
        accept: Callable[[Peer], None],
        tell: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._link = link
        self._accept = accept
        self._peer = Peer(self, tell)
        self._pieces: list[bytes] = []
        self._feeding: asyncio.Task[None] | None = None

    # Carrier.

    def send(self, pieces: Sequence[bytes | str]) -> None:
        data = [piece for piece in pieces if isinstance(piece, bytes)]
        if len(data) == 1 and self._feeding is None:
            self._link.write(data[0])
            return
        self._pieces += data
        if self._feeding is None:
            self._feeding = asyncio.get_running_loop().create_task(self._feed())

    async def _feed(self) -> None:
        """Write one piece a turn, so that each leaves in a datagram of its own."""
        while self._pieces:
            self._link.write(self._pieces.pop(0))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        self._feeding = None

    def close(self, code: int, reason: str, last: bytes) -> None:
        self._link.close(code, reason, last=last)

    def cut(self) -> None:
        if not self._link.is_closing:
            self._listener.forget(self._link)

    # ConnectionHandler.

    def connection_made(self, now: float) -> None:
        self._accept(self._peer)

    def data_received(self, data: bytes, now: float) -> None:
        self._peer.data_received(data)

    async def work(self) -> None:
        pass

    def write_ready(self, now: float) -> None:
        pass

    def get_timer(self) -> float | None:
        return None

    def handle_timer(self, now: float) -> None:
        pass

    def stream_ended(self, now: float) -> None:
        pass

    def path_limit_near(self, now: float) -> None:
        pass

    def connection_lost(self, how: Disconnect, now: float) -> None:
        self._peer.ended(how.code if how.kind == "peer" else None)


@asynccontextmanager
async def _quic(
    doors: Doors, accept: Callable[[Peer], None], tell: Callable[[str], None]
) -> AsyncIterator[int]:
    backend = cast("Literal['auto', 'aioquic', 'qh3']", doors.backend)
    config = TransportConfig(
        bind=join_address(doors.host, 0), backend=backend, cert=doors.cert, key=doors.key
    )
    listener: _Listener = _Listener(config, lambda link: _QuicCarrier(listener, link, accept, tell))
    await listener.start()
    try:
        yield listener.address[1]
    finally:
        await listener.stop(0)


# WebSocket.


class _WebCarrier:
    """A WebSocket: the Carrier of its Peer."""

    def __init__(self, socket: ServerConnection, tell: Callable[[str], None]) -> None:
        self._socket = socket
        self.peer = Peer(self, tell, is_message_wise=True)
        self._queue: asyncio.Queue[list[bytes | str] | tuple[int, str]] = asyncio.Queue()
        self._is_closing = False

    def send(self, pieces: Sequence[bytes | str]) -> None:
        if not self._is_closing:
            self._queue.put_nowait(list(pieces))

    def close(self, code: int, reason: str, last: bytes) -> None:
        if not self._is_closing:
            if last:
                self._queue.put_nowait([last])
            self._is_closing = True
            self._queue.put_nowait((code or WS_NORMAL, reason))

    def cut(self) -> None:
        self._is_closing = True
        self._socket.transport.abort()

    async def run(self) -> None:
        """Send and receive until the connection has ended."""
        sending = asyncio.create_task(self._send())
        try:
            while True:
                message = await self._socket.recv()
                if self._is_closing:
                    continue
                if isinstance(message, bytes):
                    self.peer.data_received(message)
                else:
                    self.peer.text_received()
        except ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd is not None else None
            self.peer.ended(0 if code == WS_NORMAL else code)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self) -> None:
        try:
            while True:
                item = await self._queue.get()
                if isinstance(item, tuple):
                    await self._socket.close(*item)
                    return
                # Several pieces are one message in several RFC 6455 frames.
                await self._socket.send(item[0] if len(item) == 1 else cast("list[bytes]", item))
        except ConnectionClosed:
            return  # run() tells


@asynccontextmanager
async def _websocket(
    doors: Doors, accept: Callable[[Peer], None], tell: Callable[[str], None]
) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(doors.cert, doors.key)

    async def handle(socket: ServerConnection) -> None:
        carrier = _WebCarrier(socket, tell)
        accept(carrier.peer)
        await carrier.run()

    server: Server = await serve(
        handle,
        doors.host,
        0,
        ssl=context,
        subprotocols=[Subprotocol("gatesvr")],
        compression=None,
        ping_interval=None,
        max_size=None,
        close_timeout=CLOSE_TIMEOUT_S,
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for socket in list(server.connections):
            socket.transport.abort()
        server.close()
        await server.wait_closed()
