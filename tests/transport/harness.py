"""What the transport's tests share: a handler that records, a listener, a pair without sockets."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from gatesvr.config import TransportConfig
from gatesvr.transport.client import ClientConnection, open_connection
from gatesvr.transport.listener import ConnectionListener
from gatesvr.transport.quic.choose import pick_backend
from gatesvr.transport.quic.interface import random_id
from gatesvr.transport.tls import client_tls, load_server_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gatesvr.protocol.link import Disconnect, Link
    from gatesvr.transport.quic.interface import QuicEvent, QuicTransport

DEADLINE_S = 20.0


def token_of(connection_id: bytes) -> bytes:
    """Return the stateless reset token of a Pair's server."""
    return connection_id * 2


BACKENDS = ("aioquic", "qh3")
PAIRS = [(client, server) for client in BACKENDS for server in BACKENDS]


class Recorder:
    """A ConnectionHandler that keeps what it was told; echoes if is_echo."""

    is_echo = False
    made: list[Recorder]

    def __init__(self, link: Link) -> None:
        self.link = link
        self.is_made = False
        self.data = bytearray()
        self.outbox: list[bytes] = []  # frames to write when there is room
        self.ended = 0
        self.lost: list[Disconnect] = []
        self.works = 0
        self.timer: float | None = None
        self.timer_runs: list[float] = []
        self.path_limits = 0
        self._changed = asyncio.Event()

    def connection_made(self, now: float) -> None:
        self.is_made = True

    def data_received(self, data: bytes, now: float) -> None:
        self.data += data
        if self.is_echo:
            self.outbox.append(data)
            self.link.request_flush()
        self._changed.set()

    async def work(self) -> None:
        self.works += 1
        self._changed.set()

    def write_ready(self, now: float) -> None:
        while self.outbox and self.link.unsent_bytes() < 64 << 10:
            self.link.write(self.outbox.pop(0))

    def get_timer(self) -> float | None:
        return self.timer

    def handle_timer(self, now: float) -> None:
        if self.timer is not None and now >= self.timer:
            self.timer = None
            self.timer_runs.append(now)
            self._changed.set()

    def stream_ended(self, now: float) -> None:
        self.ended += 1
        self._changed.set()

    def path_limit_near(self, now: float) -> None:
        self.path_limits += 1

    def connection_lost(self, how: Disconnect, now: float) -> None:
        self.lost.append(how)
        self._changed.set()

    def send(self, data: bytes, piece: int = 16384) -> None:
        """Queue data to be written in pieces as there is room."""
        self.outbox += [data[i : i + piece] for i in range(0, len(data), piece)]
        self.link.request_flush()

    async def exchange(self, data: bytes) -> None:
        """Send data to a peer that echoes, and wait until it has come back."""
        expected = bytes(self.data) + data
        self.send(data)
        await self.until(lambda: bytes(self.data) == expected)

    async def until(self, found: Callable[[], Any]) -> Any:
        """Wait until found() is true and return it; TimeoutError after DEADLINE_S."""
        async with asyncio.timeout(DEADLINE_S):
            while not (value := found()):
                self._changed.clear()
                await self._changed.wait()
            return value

    async def until_lost(self) -> Disconnect:
        """Wait for connection_lost() and return how."""
        await self.until(lambda: self.lost)
        return self.lost[0]


class Echo(Recorder):
    """A Recorder that echoes."""

    is_echo = True


class Server:
    """A listener and the handlers that it made."""

    def __init__(self, backend: str, kind: type[Recorder], **settings: Any) -> None:
        self.handlers: list[Recorder] = []
        settings.setdefault("bind", "127.0.0.1:0")
        self.config = TransportConfig(backend=backend, **settings)  # type: ignore[arg-type]
        self.kind = kind
        self.listener = ConnectionListener(self.config, self._make)

    def _make(self, link: Link) -> Recorder:
        handler = self.kind(link)
        self.handlers.append(handler)
        return handler

    async def connect(
        self, backend: str, kind: type[Recorder] = Recorder, **arguments: Any
    ) -> tuple[Recorder, ClientConnection]:
        """Connect a client; return its handler and its connection."""
        made: list[Recorder] = []

        def make(link: Link) -> Recorder:
            made.append(kind(link))
            return made[-1]

        config = arguments.pop("config", TransportConfig(idle_timeout=self.config.idle_timeout))
        connection = await open_connection(
            *self.listener.address, make, backend=backend, config=config, **arguments
        )
        return made[0], connection

    async def until(self, found: Callable[[], object]) -> None:
        """Let the loop run until found() is true; TimeoutError after DEADLINE_S."""
        async with asyncio.timeout(DEADLINE_S):
            while not found():
                await asyncio.sleep(0.001)

    async def handler(self) -> Recorder:
        """Return the first handler, once the server has it."""
        await self.until(lambda: self.handlers)
        return self.handlers[0]


@asynccontextmanager
async def serving(
    backend: str, kind: type[Recorder] = Echo, **settings: Any
) -> AsyncIterator[Server]:
    """Run a listener; settings are TransportConfig's."""
    server = Server(backend, kind, **settings)
    await server.listener.start()
    try:
        yield server
    finally:
        await server.listener.stop()


class Pair:
    """A client and a server connection without sockets; time is a number.

    Attributes:
        now: The time.
        client_address: Where the client's datagrams come from.
        client_events: What the client was told.
        server_events: What the server was told.
    """

    SERVER = ("127.0.0.1", 8453)

    def __init__(
        self,
        client: str,
        server: str,
        *,
        idle_timeout: float = 10.0,
        make_id: Callable[[], bytes] = random_id,
    ) -> None:
        self.now = 100.0
        self.client_address = ("127.0.0.1", 40001)
        certificate = load_server_tls()
        self.client: QuicTransport = pick_backend(client).client(
            client_tls("localhost"), "localhost", idle_timeout
        )
        self.client.connect(self.SERVER, self.now)
        self.client_events: list[QuicEvent] = []
        self.server_events: list[QuicEvent] = []
        self.lost = 0  # datagrams of the server's to lose
        first = self.client.datagrams_to_send(self.now)
        data = first[0][0]
        original_id = data[6 : 6 + data[5]]
        factory = pick_backend(server).server(certificate, idle_timeout, token_of, make_id=make_id)
        self.server: QuicTransport = factory(original_id, None)
        for data, _ in first:
            self.server.receive_datagram(data, self.client_address, self.now)

    def run(self, seconds: float = 0.0) -> None:
        """Carry datagrams until there are none and seconds have passed, timers included."""
        end = self.now + seconds
        for _ in range(10_000):
            while self._carry():
                self.now += 0.0005
            timers = [t for t in (self.client.get_timer(), self.server.get_timer()) if t]
            due = min(timers, default=end + 1)
            if due > end:
                self.now = max(self.now, end)
                return
            self.now = max(self.now + 0.0005, due)
            for quic in (self.client, self.server):
                timer = quic.get_timer()
                if timer is not None and timer <= self.now:
                    quic.handle_timer(self.now)
        raise AssertionError("no end")

    def _carry(self) -> bool:
        to_server = self.client.datagrams_to_send(self.now)
        for data, _ in to_server:
            self.server.receive_datagram(data, self.client_address, self.now)
        _drain(self.server, self.server_events)
        to_client = self.server.datagrams_to_send(self.now)
        for data, _ in to_client:
            self.client.receive_datagram(data, self.SERVER, self.now)
        _drain(self.client, self.client_events)
        _drain(self.server, self.server_events)
        return bool(to_server or to_client)


def _drain(quic: QuicTransport, events: list[QuicEvent]) -> None:
    events += quic.events
    quic.events.clear()
