"""The client's side: one connection on a UDP socket of its own.

A name may have several addresses: they are tried side by side, each a little later than the one
before it or as soon as that has failed, and the first whose handshake is complete is taken (RFC
8305).
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import chain, zip_longest
from typing import Any

from ..config import TransportConfig
from ..errors import CloseCode, ConnectionFailed
from ..protocol.link import Disconnect, HandlerFactory
from .connection import Connection
from .counters import TransportCounters
from .quic.interface import Address, Datagram, pick_backend
from .tls import ClientTls, client_tls
from .udp.endpoint import Driver, Endpoint, Timer, open_socket

__all__ = ["ClientConnection", "host_name", "open_connection"]

CONNECT_TIMEOUT = 5.0
RACE_DELAY_S = 0.25
"""How long an address has to itself before the next one is tried too (RFC 8305 5)."""
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
        is_wanted: Callable[[], bool],
    ) -> None:
        self.counters = TransportCounters()
        self.server = server
        self._is_wanted = is_wanted
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
        try:
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
        except BaseException:
            # The loop watches the socket by now: uvloop aborts the process where it is just closed.
            self._release()
            raise

    async def wait_ready(self) -> None:
        """Wait until the handshake is complete.

        Raises:
            ConnectionFailed: It never will be.
        """
        try:
            await self._ready
        except BaseException:
            self.link.close(CloseCode.NORMAL)
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
    """Connect to a gateway, at whichever of its addresses answers first.

    Args:
        host: Its name or address, a link-local one with its interface: ``fe80::1%eth0``.
        port: Its UDP port.
        handler_factory: Makes the handler of the connection's stream once the handshake is
            complete; its connection_made() has been called when this returns.
        tls: Certificates to accept; by default those of client_tls(host).
        backend: The QUIC library: auto, aioquic or qh3.
        connect_timeout: Longest time for name look-up and handshake, seconds.
        config: Water marks, time-outs and socket buffers.
        driver: Timers shared with other clients of the same loop; by default its own.

    Raises:
        ConnectionFailed: Time-out, refusal, or a certificate that is not accepted; it says which,
            for each address.
        ConfigError: The backend is not installed.
    """
    config = config or TransportConfig()
    tls = tls or client_tls(host)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + connect_timeout
    try:
        name = host_name(host)
    except ValueError as error:
        raise ConnectionFailed(str(error)) from None
    winner = _Winner()

    async def attempt(family: socket.AddressFamily, address: Address) -> ClientConnection:
        try:
            sock = open_socket(
                address,
                family,
                is_server=False,
                receive_buffer=config.receive_buffer,
                send_buffer=config.send_buffer,
            )
        except OSError as error:
            raise _unreachable(host, address, error) from None
        try:
            connection = ClientConnection(
                sock,
                address,
                handler_factory,
                driver=driver,
                backend=backend,
                tls=tls,
                server_name=name.partition("%")[0],
                config=config,
                connect_timeout=deadline - loop.time(),
                is_wanted=winner.take,
            )
        except BaseException:
            sock.close()
            raise
        await connection.wait_ready()
        return connection

    try:
        async with asyncio.timeout_at(deadline):
            found = await _resolve(name, port)
    except TimeoutError:
        raise ConnectionFailed(f"cannot reach {host} port {port}: no word of its address") from None
    except OSError as error:
        raise ConnectionFailed(
            f"cannot reach {host} port {port}: {error.strerror or error}"
        ) from None
    # Each attempt has its own time-out, which waits for what has arrived to be handled.
    return await _race([partial(attempt, *entry) for entry in found])


def host_name(host: str) -> str:
    """Return the name of a host as the network knows it: an international one in ASCII.

    Raises:
        ValueError: It is no name; it says why.
    """
    if ":" in host:
        return host  # an IPv6 address, whose scope is any text
    try:
        return host.encode("idna").decode()
    except UnicodeError as error:
        # The codec's own words are those of one label: "label empty or too long".
        reason = "it has an empty label" if ".." in host or host.startswith(".") else ""
        if not reason and any(len(label) > 63 for label in host.split(".")):
            reason = "a label has at most 63 characters"
        raise ValueError(f"{host!r:.80} is no host name: {reason or error}") from None


class _Winner:
    """The one of several connections whose handshake is complete first."""

    def __init__(self) -> None:
        self._is_taken = False

    def take(self) -> bool:
        """Return whether the connection that asks is the first."""
        is_first = not self._is_taken
        self._is_taken = True
        return is_first


async def _race(
    attempts: list[Callable[[], Coroutine[Any, Any, ClientConnection]]],
) -> ClientConnection:
    """Return the first connection that comes up; the other attempts are given up.

    Raises:
        ConnectionFailed: None will; it names each failure.
    """
    running: set[asyncio.Task[ClientConnection]] = set()
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
        # A certificate that is refused is no reason to try again, whatever the others say.
        code = max(failure.code for failure in failures)
        raise ConnectionFailed("; ".join(map(str, failures)), code)
    finally:
        for task in running:
            task.cancel()
        # They close their connections at once and wait for nothing.
        for ended in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(ended, ClientConnection):
                ended.link.close(CloseCode.NORMAL)  # it came up as the caller gave up


def _unreachable(host: str, address: Address, error: OSError) -> ConnectionFailed:
    reason = error.strerror or str(error)
    if error.errno == errno.EINVAL and ipaddress.ip_address(address[0]).is_link_local:
        reason = f"a link-local address needs its interface, as in [{address[0]}%eth0]"
    name = host if host == address[0] else f"{host} ({address[0]})"
    return ConnectionFailed(f"cannot reach {name} port {address[1]}: {reason}")


async def _resolve(name: str, port: int) -> list[tuple[socket.AddressFamily, Address]]:
    """Return the addresses of a host in the order to try them, families in turn."""

    def look_up(flags: int = 0) -> list[tuple[socket.AddressFamily, Address]]:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM, flags=flags)
        # The scope's number is in the address, its name is no part of one.
        return [
            (family, (str(address[0]).partition("%")[0], *address[1:]))
            for family, _, _, _, address in found
            if family in (socket.AF_INET, socket.AF_INET6)
        ]

    try:
        found = look_up(socket.AI_NUMERICHOST)
    except OSError:
        scope = name.partition("%")[2] if ":" in name else ""
        if scope:
            raise OSError(0, f"there is no network interface {scope!r:.40}") from None
        # Not the loop's own: uvloop's forgets the scope of an address.
        found = await asyncio.get_running_loop().run_in_executor(None, look_up)
    # IPv4 first where a name has both: the gateway listens on 0.0.0.0 by default.
    families = [
        [entry for entry in found if entry[0] == family]
        for family in (socket.AF_INET, socket.AF_INET6)
    ]
    mixed = chain.from_iterable(zip_longest(*families))
    return list(dict.fromkeys(entry for entry in mixed if entry is not None))


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
