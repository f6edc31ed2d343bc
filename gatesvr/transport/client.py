"""The client's side: one connection on a UDP socket of its own."""

from __future__ import annotations

import asyncio
import socket

from ..config import TransportConfig
from ..errors import ConnectionFailed
from ..protocol.link import Disconnect, HandlerFactory
from .connection import Connection
from .counters import TransportCounters
from .endpoint import Driver, Endpoint, Timer, open_socket
from .quic import Address, Datagram, pick_backend
from .tls import ClientTls, client_tls

__all__ = ["ClientConnection", "open_connection"]

CONNECT_TIMEOUT = 5.0
PROBE_INTERVAL_S = 0.2
"""How long after the network refused a datagram another one is sent to try again."""
_CRYPTO_ERROR = 0x100  # + TLS alert (RFC 9001 4.8)
_CERTIFICATE_ALERTS = frozenset(range(42, 50))  # bad_certificate … access_denied
_NO_ALPN = 120


class ClientConnection:
    """The owner of one client connection and of its socket.

    Attributes:
        link: The connection.
        counters: What it did.
        address: The socket's own address.
        server: The server's address.
    """

    def __init__(
        self,
        sock: socket.socket,
        server: Address,
        handler_factory: HandlerFactory,
        *,
        driver: Driver | None,
        backend: str,
        tls: ClientTls,
        server_name: str,
        config: TransportConfig,
        connect_timeout: float,
    ) -> None:
        self.counters = TransportCounters()
        self.server = server
        self._handler_factory = handler_factory
        self._tls = tls
        self._is_own_driver = driver is None
        self._driver = driver or Driver()
        self._ready: asyncio.Future[None] = self._driver.loop.create_future()
        self._ended: asyncio.Future[Disconnect] = self._driver.loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._probe_timer = Timer(self._probe)
        quic = pick_backend(backend).client(tls, server_name, config.idle_timeout)
        self._endpoint = Endpoint(
            self._driver,
            sock,
            self._datagrams_received,
            on_error=self._network_error,
            counters=self.counters,
            is_batched=config.batch_io,
        )
        self.address: Address = self._endpoint.address
        now = self._driver.clock()
        self.link = Connection(
            quic,
            self._endpoint,
            self._driver,
            self,
            config,
            self.counters,
            server,
            is_client=True,
            deadline=now + connect_timeout,
        )
        self.link.connect(now)

    async def wait_ready(self) -> None:
        """Wait until the handshake is complete.

        Raises:
            ConnectionFailed: It never will be.
        """
        try:
            await self._ready
        except BaseException:
            self.link.discard("given up")
            raise

    async def wait_ended(self) -> Disconnect:
        """Wait until the connection has ended; return how."""
        return await asyncio.shield(self._ended)

    def pause_reading(self) -> None:
        """Read nothing until resume_reading(): be a client that is too slow."""
        self._endpoint.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._endpoint.resume_reading()

    async def close(self, code: int = 0, reason: str = "") -> None:
        """Close the connection, its task and its socket."""
        self.link.close(code, reason)
        await self.wait_ended()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _datagrams_received(self, batch: list[Datagram], now: float) -> None:
        for data, _ in batch:
            # The kernel lets only the server's datagrams through to a connected socket.
            self.link.receive(data, self.server, now)
        self.link.process(now)

    def _network_error(self, error: OSError) -> None:
        if not isinstance(error, ConnectionRefusedError):
            return
        if self._ready.done():
            self._handle_refusal()
        else:
            host, port = self.server[:2]
            self._ready.set_exception(
                ConnectionFailed(f"nobody listens on UDP {host} port {port} (refused)")
            )

    def _handle_refusal(self) -> None:
        """Nobody listens at the other end of an open connection, says the network: ask again soon.

        Such a word (ICMP) can be forged and ends nothing. But it may mean that the gateway is about
        to be restarted, and of that we hear only in answer to something: QUIC by itself would ask
        ever more rarely, and not at all where nothing is in flight. A probe that is refused again
        brings the next one.
        """
        self.counters.refusals += 1
        if not self._ended.done():
            # One is enough: where the next probe is due already, this does nothing.
            self._driver.schedule(self._probe_timer, self._driver.clock() + PROBE_INTERVAL_S)

    def _probe(self, now: float) -> None:
        self.link.probe()

    # ConnectionOwner.

    def connection_id_issued(self, connection: Connection, connection_id: bytes) -> None:
        """Do nothing: the socket has one connection."""

    def connection_id_retired(self, connection: Connection, connection_id: bytes) -> None:
        """Do nothing: the socket has one connection."""

    def connection_opened(self, connection: Connection) -> HandlerFactory | None:
        """The handshake is complete."""
        self.counters.accepted += 1
        if not self._ready.done():
            self._ready.set_result(None)
        return self._handler_factory

    def connection_ended(self, connection: Connection, how: Disconnect, farewell: bytes) -> None:
        """Close the socket."""
        if not self._ready.done():
            self._ready.set_exception(_failure(how, self.server, self._tls))
        if not self._ended.done():
            self._ended.set_result(how)
        self._driver.timers.cancel(self._probe_timer)
        self._driver.loop.call_soon(self._release)

    def task_started(self, connection: Connection, task: asyncio.Task[None]) -> None:
        """Keep the connection's task."""
        self._task = task

    def _release(self) -> None:
        self._endpoint.close()
        if self._is_own_driver:
            self._driver.close()


async def open_connection(
    host: str,
    port: int,
    handler_factory: HandlerFactory,
    *,
    tls: ClientTls | None = None,
    backend: str = "auto",
    connect_timeout: float = CONNECT_TIMEOUT,
    config: TransportConfig | None = None,
    driver: Driver | None = None,
) -> ClientConnection:
    """Connect to a gateway.

    Args:
        host: Its name or address.
        port: Its UDP port.
        handler_factory: Makes the handler of the connection's stream once the handshake is
            complete; its connection_made() has been called when this returns.
        tls: Certificates to accept; by default those of client_tls(host).
        backend: The QUIC library: auto, aioquic or qh3.
        connect_timeout: Longest time for name look-up and handshake, seconds.
        config: Water marks, time-outs and socket buffers.
        driver: Timers shared with other clients of the same loop; by default its own.

    Raises:
        ConnectionFailed: Time-out, refusal, or a certificate that is not accepted; it says which.
        ConfigError: The backend is not installed.
    """
    config = config or TransportConfig()
    tls = tls or client_tls(host)
    connection: ClientConnection | None = None
    try:
        async with asyncio.timeout(connect_timeout):
            family, address = await _resolve(host, port)
            sock = open_socket(
                address,
                family,
                is_server=False,
                receive_buffer=config.receive_buffer,
                send_buffer=config.send_buffer,
            )
            try:
                connection = ClientConnection(
                    sock,
                    address,
                    handler_factory,
                    driver=driver,
                    backend=backend,
                    tls=tls,
                    server_name=host,
                    config=config,
                    connect_timeout=connect_timeout,
                )
            except BaseException:
                sock.close()
                raise
            await connection.wait_ready()
    except TimeoutError:
        raise ConnectionFailed(f"no answer from {host} port {port}: time-out") from None
    except OSError as error:
        raise ConnectionFailed(
            f"cannot reach {host} port {port}: {error.strerror or error}"
        ) from None
    return connection


async def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Address]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    # IPv4 first where a name has both: the gateway listens on 0.0.0.0 by default, and UDP has no
    # quick way to find out that nobody is there.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return found[0][0], found[0][4]


def _failure(how: Disconnect, server: Address, tls: ClientTls) -> ConnectionFailed:
    """Return why the handshake failed, in words that help."""
    host, port = server[:2]
    alert = how.code - _CRYPTO_ERROR
    if alert in _CERTIFICATE_ALERTS:
        trusted = f" (trusting {tls.source})" if tls.source else ""
        message = f"the certificate of {host} port {port} was not accepted{trusted}: {how.reason}"
    elif alert == _NO_ALPN:
        message = f"{host} port {port} does not speak the gatesvr protocol: {how.reason}"
    elif how.code or how.reason not in ("", "time-out"):
        message = f"{host} port {port} closed the handshake: {how.reason or how.code}"
    else:
        message = f"no answer from {host} port {port}: time-out"
    return ConnectionFailed(message, how.code)
