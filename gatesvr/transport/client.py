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
from itertools import chain, zip_longest
from typing import Any

from ..config import TransportConfig
from ..errors import CloseCode, ConnectionFailed
from ..protocol.link import Disconnect, HandlerFactory
from .connection import Connection
from .counters import TransportCounters
from .endpoint import Driver, Endpoint, Timer, open_socket
from .quic import Address, Datagram, pick_backend
from .tls import ClientTls, client_tls

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
    race = _Race(host, port)

    async def attempt(family: socket.AddressFamily, address: Address) -> ClientConnection:
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
                server_name=race.server_name,
                config=config,
                connect_timeout=connect_timeout,
                is_wanted=race.finish,
            )
        except BaseException:
            sock.close()
            raise
        await connection.wait_ready()
        return connection

    try:
        async with asyncio.timeout(connect_timeout):
            return await race.run(await _resolve(race.name, port), attempt)
    except TimeoutError:
        raise race.failure() from None
    except OSError as error:
        raise ConnectionFailed(
            f"cannot reach {host} port {port}: {error.strerror or error}"
        ) from None


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


class _Race:
    """The addresses of a host, side by side; the first whose handshake completes is taken.

    Attributes:
        name: The host's name in ASCII, or its address.
        server_name: What its certificate is to be for.

    Raises:
        ConnectionFailed: The host is none.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._is_finished = False
        self._failures: list[ConnectionFailed] = []
        self._waiting: dict[asyncio.Task[ClientConnection], Address] = {}
        try:
            self.name = host_name(host)
        except ValueError as error:
            raise ConnectionFailed(str(error)) from None
        self.server_name = self.name.partition("%")[0]

    def finish(self) -> bool:
        """Take the connection that asks, unless another one was taken."""
        is_first = not self._is_finished
        self._is_finished = True
        return is_first

    async def run(
        self,
        found: list[tuple[socket.AddressFamily, Address]],
        attempt: Callable[..., Coroutine[Any, Any, ClientConnection]],
    ) -> ClientConnection:
        """Return the connection that is taken.

        Raises:
            ConnectionFailed: None will be.
        """
        waiting = self._waiting
        try:
            while found or waiting:
                if found and not self._is_finished:
                    family, address = found.pop(0)
                    waiting[asyncio.create_task(attempt(family, address))] = address
                done, _ = await asyncio.wait(
                    waiting,
                    timeout=RACE_DELAY_S if found else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    address = waiting.pop(task)
                    try:
                        return task.result()
                    except ConnectionFailed as error:
                        self._failures.append(error)
                    except OSError as error:
                        self._failures.append(self._unreachable(address, error))
            raise self.failure()
        finally:
            self._is_finished = True
            for task in waiting:
                task.cancel()
            # They close their connections at once and wait for nothing.
            for ended in await asyncio.gather(*waiting, return_exceptions=True):
                if isinstance(ended, ClientConnection):
                    ended.link.close(CloseCode.NORMAL)  # taken as the caller gave up

    def failure(self) -> ConnectionFailed:
        """Return why there is no connection, with all that was tried."""
        failures = self._failures
        told = [str(failure) for failure in failures]
        silent = ", ".join(address[0] for address in self._waiting.values())
        if silent or not told:
            host = f"{self._host} ({silent})" if silent not in ("", self._host) else self._host
            told.append(f"no answer from {host} port {self._port}: time-out")
        # A certificate that is refused is no reason to try again, whatever the others say.
        code = max((failure.code for failure in failures), default=0)
        return ConnectionFailed("; ".join(told), code)

    def _unreachable(self, address: Address, error: OSError) -> ConnectionFailed:
        reason = error.strerror or str(error)
        if error.errno == errno.EINVAL and ipaddress.ip_address(address[0]).is_link_local:
            reason = f"a link-local address needs its interface, as in [{address[0]}%eth0]"
        host = self._host if self._host == address[0] else f"{self._host} ({address[0]})"
        return ConnectionFailed(f"cannot reach {host} port {self._port}: {reason}")


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
