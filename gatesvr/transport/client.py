"""The client's side: one connection on a UDP socket of its own, or on a WebSocket.

A client may know several servers, and a name several addresses. Each is tried a little after the
one before it, or as soon as that one has failed, and the first whose handshake is complete is taken
(RFC 8305).
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..config import TransportConfig
from ..errors import CloseCode, ConnectionFailed
from ..protocol.link import Disconnect, HandlerFactory
from .addresses import Address, Datagram, host_name, resolve, without_scope
from .connection import Connection
from .counters import TransportCounters
from .quic.choose import pick_backend
from .quic.refusal import CONNECTION_REFUSED
from .tls import ClientTls, client_tls
from .udp.driver import Driver, Timer
from .udp.endpoint import Endpoint
from .udp.sockets import open_socket

if TYPE_CHECKING:
    from .web.client import WebClientConnection

__all__ = [
    "CONNECTION_REFUSED",
    "AnyConnection",
    "ClientConnection",
    "Server",
    "open_connection",
    "open_first",
]

CONNECT_TIMEOUT = 5.0
RACE_DELAY_S = 0.25
"""How long an address has to itself before the next one is tried too (RFC 8305 5)."""
PROBE_INTERVAL_S = 0.2
"""Time between an ICMP refusal and the next probe, seconds."""
_CRYPTO_ERROR = 0x100  # + TLS alert (RFC 9001 4.8)
_CERTIFICATE_ALERTS = frozenset(range(42, 50))  # bad_certificate … access_denied
_NO_ALPN = 120


class Server(NamedTuple):
    """A gateway as a client knows it.

    Attributes:
        host: Its name or address, a link-local one with its interface: ``fe80::1%eth0``.
        port: Its UDP port, or the TCP port of its WebSockets.
        tls: Certificates to accept.
        path: Path and query of its WebSocket's URL; empty for QUIC.
        is_plain: Whether the WebSocket is without TLS.
        name: The name or address that its certificate must be valid for; empty: host.
    """

    host: str
    port: int
    tls: ClientTls
    path: str = ""
    is_plain: bool = False
    name: str = ""


class ClientConnection:
    """A client's QUIC connection and its socket.

    Attributes:
        connection: The QUIC connection.
        counters: The counters of the socket and the connection.
        address: The socket's own address.
        server: The server's address.
        asked: The server as it was asked for.
    """

    def __init__(
        self,
        sock: socket.socket,
        server: Address,
        handler_factory: HandlerFactory,
        *,
        asked: Server,
        driver: Driver | None,
        backend: str,
        server_name: str,
        config: TransportConfig,
        connect_timeout: float,
        is_wanted: Callable[[], bool],
    ) -> None:
        self.counters = TransportCounters()
        self.server = server
        self.asked = asked
        self._is_wanted = is_wanted
        self._handler_factory = handler_factory
        self._is_own_driver = driver is None
        self._driver = driver or Driver()
        self._ready: asyncio.Future[None] = self._driver.loop.create_future()
        self._ended: asyncio.Future[Disconnect] = self._driver.loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._probe_timer = Timer(self._probe)
        quic = pick_backend(backend).client(asked.tls, server_name, config.idle_timeout)
        self._endpoint = Endpoint(
            self._driver,
            sock,
            self._datagrams_received,
            on_error=self._network_error,
            counters=self.counters,
            is_batched=config.batch_io,
        )
        self.address: Address = self._endpoint.address
        try:
            now = self._driver.clock()
            self.connection = Connection(
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
            self.connection.connect(now)
        except BaseException:
            # The loop watches the socket by now, and uvloop aborts if it is simply closed.
            self._release()
            raise

    async def wait_ready(self) -> None:
        """Wait until the handshake is complete.

        Raises:
            ConnectionFailed: The handshake failed.
        """
        try:
            await self._ready
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Close without waiting: nobody wants the connection."""
        self.connection.close(CloseCode.NORMAL)

    async def wait_ended(self) -> Disconnect:
        """Wait until the connection has ended; return how."""
        return await asyncio.shield(self._ended)

    @property
    def is_closing(self) -> bool:
        """Whether the connection was closed, here or by the server."""
        return self.connection.stream.is_closing

    def discard(self, reason: str = "") -> None:
        """End at once; the server is not told."""
        self.connection.discard(reason)

    def pause_reading(self) -> None:
        """Read nothing until resume_reading(), as a client that is too slow."""
        self._endpoint.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._endpoint.resume_reading()

    async def close(self, code: int = 0, reason: str = "") -> None:
        """Close the connection, its task and its socket."""
        self.connection.close(code, reason)
        await self.wait_ended()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _datagrams_received(self, batch: list[Datagram], now: float) -> None:
        for data, _ in batch:
            # The kernel lets only the server's datagrams through to a connected socket.
            self.connection.receive(data, self.server, now)
        self.connection.process(now)

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
        """The system reported the port of an open connection closed; probe soon.

        Such a report (ICMP) can be forged, so it ends nothing. But the gateway may be restarting,
        and it tells us only in answer to a datagram. QUIC by itself would probe ever more rarely,
        and not at all while nothing is in flight. A probe that is refused leads to the next one.
        """
        self.counters.refusals += 1
        if not self._ended.done():
            # Does nothing if a probe is scheduled already.
            self._driver.schedule(self._probe_timer, self._driver.clock() + PROBE_INTERVAL_S)

    def _probe(self, now: float) -> None:
        self.connection.probe()

    # ConnectionOwner.

    def connection_id_issued(self, connection: Connection, connection_id: bytes) -> None:
        """Do nothing: the socket has one connection."""

    def connection_id_retired(self, connection: Connection, connection_id: bytes) -> None:
        """Do nothing: the socket has one connection."""

    def connection_opened(self, connection: Connection) -> HandlerFactory | None:
        """The handshake is complete."""
        if not self._is_wanted():
            connection.close(CloseCode.NORMAL)
            return None
        self.counters.accepted += 1
        if not self._ready.done():
            self._ready.set_result(None)
        return self._handler_factory

    def connection_ended(self, connection: Connection, how: Disconnect, farewell: bytes) -> None:
        """Close the socket."""
        if not self._ready.done():
            self._ready.set_exception(_failure(how, self.server, self.asked.tls))
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


AnyConnection: TypeAlias = "ClientConnection | WebClientConnection"
"""A connection of either way. What a client uses of it, both have."""


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
    """Connect to a gateway over QUIC, at the first of its addresses to answer.

    Args:
        host: Its name or address, a link-local one with its interface: ``fe80::1%eth0``.
        port: Its UDP port.
        handler_factory: Makes the handler of the connection's stream once the handshake is
            complete; its connection_made() has been called when this returns.
        tls: Certificates to accept; by default those of client_tls(host).
        backend: The QUIC library: auto, aioquic or qh3.
        connect_timeout: Longest time for name look-up and handshake, seconds.
        config: Time-outs and socket buffers.
        driver: Timers shared with other clients of the same loop; by default its own.

    Raises:
        ConnectionFailed: The name has no address, or each address failed: time-out, refusal, or a
            certificate that is not accepted. The message says which, for each.
        ConfigError: The backend is not installed.
    """
    server = Server(host, port, tls or client_tls(host))
    connection = await open_first(
        [server],
        handler_factory,
        backend=backend,
        connect_timeout=connect_timeout,
        config=config,
        driver=driver,
    )
    assert isinstance(connection, ClientConnection)
    return connection


async def open_first(
    servers: Sequence[Server],
    handler_factory: HandlerFactory,
    *,
    backend: str = "auto",
    connect_timeout: float = CONNECT_TIMEOUT,
    config: TransportConfig | None = None,
    driver: Driver | None = None,
) -> AnyConnection:
    """Connect to the first of several gateways to answer, each in its own way.

    Args:
        servers: One or more, the preferred ones first.
        handler_factory: As for open_connection(), as all that follows.
        backend: The QUIC library.
        connect_timeout: Longest time for all, seconds.
        config: Time-outs and socket buffers.
        driver: Shared timers.

    Raises:
        ConnectionFailed: Each failed; the message says how.
        ConfigError: The backend is not installed.
    """
    config = config or TransportConfig()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + connect_timeout
    winner = _Winner()

    async def attempt(
        server: Server, name: str, family: socket.AddressFamily, address: Address
    ) -> AnyConnection:
        if server.path:
            # Only here: a client of QUIC alone does not load the library.
            from .web.client import WebClientConnection

            try:
                return await WebClientConnection.open(
                    server,
                    name,
                    family,
                    address,
                    handler_factory,
                    driver=driver,
                    config=config,
                    deadline=deadline,
                    is_wanted=winner.take,
                )
            except OSError as error:
                raise _unreachable(server.host, address, error) from None
        try:
            sock = open_socket(
                address,
                family,
                is_server=False,
                receive_buffer=config.receive_buffer,
                send_buffer=config.send_buffer,
            )
        except OSError as error:
            raise _unreachable(server.host, address, error) from None
        try:
            connection = ClientConnection(
                sock,
                address,
                handler_factory,
                asked=server,
                driver=driver,
                backend=backend,
                server_name=without_scope(name),
                config=config,
                connect_timeout=deadline - loop.time(),
                is_wanted=winner.take,
            )
        except BaseException:
            sock.close()
            raise
        await connection.wait_ready()
        return connection

    async def look_up(server: Server) -> AnyConnection:
        place = f"{server.host} port {server.port}"
        try:
            host = host_name(server.host)
            name = host_name(server.name) if server.name else host
        except ValueError as error:
            raise ConnectionFailed(str(error)) from None
        try:
            async with asyncio.timeout_at(deadline):
                found = await resolve(host, server.port)
        except TimeoutError:
            raise ConnectionFailed(
                f"cannot reach {place}: the name look-up took too long"
            ) from None
        except OSError as error:
            raise ConnectionFailed(f"cannot reach {place}: {error.strerror or error}") from None
        if not found:
            raise ConnectionFailed(f"cannot reach {place}: the name has no address")
        # Each attempt has its own time-out, which fires only after all that has arrived is handled.
        return await _race([partial(attempt, server, name, *entry) for entry in found])

    return await _race([partial(look_up, server) for server in servers])


class _Winner:
    """Tells which of several connections completes its handshake first."""

    def __init__(self) -> None:
        self._is_taken = False

    def take(self) -> bool:
        """Return whether the connection that asks is the first."""
        is_first = not self._is_taken
        self._is_taken = True
        return is_first


async def _race(
    attempts: list[Callable[[], Coroutine[Any, Any, AnyConnection]]],
) -> AnyConnection:
    """Return the first connection that comes up, and give up the other attempts.

    Args:
        attempts: At least one.

    Raises:
        ConnectionFailed: All failed; it names each failure.
    """
    if len(attempts) == 1:
        return await attempts[0]()
    running: set[asyncio.Task[AnyConnection]] = set()
    failures: list[ConnectionFailed] = []
    try:
        while attempts or running:
            if attempts:
                running.add(asyncio.create_task(attempts.pop(0)()))
            done, _ = await asyncio.wait(
                running,
                timeout=RACE_DELAY_S if attempts else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                running.remove(task)
                try:
                    return task.result()
                except ConnectionFailed as error:
                    failures.append(error)
        # The code of a refused certificate goes first: trying again does not help.
        code = max(failure.code for failure in failures)
        is_final = any(failure.is_final for failure in failures)
        raise ConnectionFailed("; ".join(map(str, failures)), code, is_final=is_final)
    finally:
        for task in running:
            task.cancel()
        # They close their connections at once, without waiting.
        for ended in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(ended, BaseException):
                ended.give_up()  # it came up too late


def _unreachable(host: str, address: Address, error: OSError) -> ConnectionFailed:
    reason = error.strerror or str(error)
    if error.errno == errno.EINVAL and ipaddress.ip_address(address[0]).is_link_local:
        reason = f"a link-local address needs its interface, as in [{address[0]}%eth0]"
    name = host if host == address[0] else f"{host} ({address[0]})"
    return ConnectionFailed(f"cannot reach {name} port {address[1]}: {reason}")


def _failure(how: Disconnect, server: Address, tls: ClientTls) -> ConnectionFailed:
    """Return the error for a handshake that failed."""
    host, port = server[:2]
    alert = how.code - _CRYPTO_ERROR
    if alert in _CERTIFICATE_ALERTS:
        trusted = f" (trusting {tls.source})" if tls.source else ""
        message = f"the certificate of {host} port {port} was not accepted{trusted}: {how.reason}"
    elif alert == _NO_ALPN or "ALPN" in how.reason:  # some libraries have one alert for all
        message = f"{host} port {port} does not speak the gatesvr protocol: {how.reason}"
    elif how.code or how.reason not in ("", "time-out"):
        message = f"{host} port {port} closed the handshake: {how.reason or how.code}"
    else:
        message = f"no answer from {host} port {port}: time-out"
    return ConnectionFailed(message, how.code)
