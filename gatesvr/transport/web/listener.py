"""The WebListener: the ways in for browsers, on TCP and UDP of the same port.

WebTransport is a door of the ConnectionListener, which has all of its connections. The rest of this
file is WebSocket. It shares with the ConnectionListener the driver, the certificate, the limit of
connections, those of networks, and the counters of ends. Admission goes from what costs nothing to
what costs a handshake: the rate of accepted connections, the places, the network's limits, and then
TLS and the HTTP request under one deadline. What is refused before TLS is reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
import ssl
import struct
import tempfile
from typing import TYPE_CHECKING

from ..._core.limits import TokenBucket
from ...config import join_address, parse_address
from ...errors import CloseCode, ConfigError
from ...observe.log import keys
from ..addresses import plain_address, resolve, without_scope
from ..connection import CLOSE_LINGER_S
from ..door import Door
from ..listener import REFUSED_RETRY_MS, STOPS_RETRY_MS
from ..quic.interface import WEB_ALPN
from ..udp.sockets import MAX_PORTS
from .counters import WebCounters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from websockets.http11 import Request

    from ...config import TransportConfig
    from ...protocol.link import Disconnect, HandlerFactory
    from ..addresses import Address
    from ..listener import ConnectionListener
    from ..prefixes import Prefixes
    from ..tls import ServerTls
    from .connection import WebConnection

__all__ = ["WebListener"]

logger = logging.getLogger("gatesvr.transport")

BACKLOG = 1_024
MAX_ACCEPTS = 64
"""Connections accepted in one turn of the loop."""
ACCEPT_PAUSE_S = 0.2
"""Pause after the system gave no connection, for want of descriptors or memory."""
UNSENT_BYTES = 64 << 10
"""Bytes that TCP takes beyond what it may send (TCP_NOTSENT_LOWAT): what waits, waits with us."""
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close that resets


class WebListener:
    """Listens for WebSocket connections and WebTransport sessions, where ``transport.web.bind``
    says so.

    Args:
        config: Address, limits, time-outs.
        quic: Whose driver, certificate, limits and counters it shares; it is started before this
            one, and stopped after it.
        handler_factory: Makes the handler of each connection.
        max_login_bytes: Largest frame before the gateway has answered.
        max_message_bytes: Largest frame.
        is_shedding_handshakes: Asked for each new client by its IP address: whether to reset it.

    Attributes:
        counters: Those of web clients alone.
        connections: The WebSocket connections whose request is complete and whose TCP has not
            ended.
    """

    def __init__(
        self,
        config: TransportConfig,
        quic: ConnectionListener,
        handler_factory: HandlerFactory,
        *,
        max_login_bytes: int,
        max_message_bytes: int,
        is_shedding_handshakes: Callable[[str], bool] = lambda ip: False,
    ) -> None:
        self.counters = WebCounters()
        self.connections: set[WebConnection] = set()
        self._quic = quic
        self._handler_factory = handler_factory
        self._max_login_bytes = max_login_bytes
        self._max_message_bytes = max_message_bytes
        self._is_shedding_handshakes = is_shedding_handshakes
        self._half_open: set[WebConnection] = set()
        self._prefixes: dict[WebConnection, Prefixes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._shaking: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._address = ("", 0)
        self._tls: ServerTls | None = None
        self._context: ssl.SSLContext | None = None
        self._make: type[WebConnection]
        self._is_accepting = False
        self._is_stopped = False
        self._set(config)
        quic.share(self._count, self._count_silence)

    def _set(self, config: TransportConfig) -> None:
        web = config.web
        self._config = config
        rate = web.accept_rate or 1  # 0: no limit, and not asked
        self._accepts = TokenBucket(rate, 2 * rate)
        self._origins = frozenset(origin.lower() for origin in web.origins)

    @property
    def is_on(self) -> bool:
        """Whether it listens, or would."""
        return bool(self._config.web.bind)

    @property
    def address(self) -> tuple[str, int]:
        """The address listened on, with the real port; the first one where there are several."""
        if not self._address[1]:
            raise RuntimeError("the listener was not started")
        return self._address

    def prepare(self, config: TransportConfig) -> Callable[[], None]:
        """Return a function that puts other settings in force, for new connections."""
        return lambda: self._set(config)

    async def start(self) -> None:
        """Begin to listen, if the configuration says so.

        Raises:
            ConfigError: The address cannot be used, or TLS cannot use the certificate.
        """
        bind = self._config.web.bind
        if not bind:
            return
        host, port = parse_address(bind)
        for attempt in range(1, MAX_PORTS + 1):
            self._address = ("", 0)
            try:
                if self._config.web.websocket:
                    await self._listen(host, port)
                if self._config.web.webtransport:
                    await self._open_door(host, self._address[1] or port)
                break
            except ConfigError:
                self._close_sockets()
                # A port that is free for one of TCP and UDP may not be for the other.
                if port or attempt == MAX_PORTS:
                    raise
        self._is_accepting = True
        for sock in self._sockets:
            self._read(sock)

    async def _listen(self, host: str, port: int) -> None:
        """Listen on TCP, without accepting yet."""
        # Only here: a gateway without WebSocket does not load the library.
        from .connection import WebConnection

        self._make = WebConnection
        self._tls = self._quic.tls
        self._context = _context(self._tls)
        try:
            for family, address in await resolve(host or "0.0.0.0", port):  # noqa: S104
                if self._sockets and not port:
                    address = (address[0], self._sockets[0].getsockname()[1], *address[2:])
                self._sockets.append(_listen(family, address))
        except OSError as error:
            self._close_sockets()
            raise ConfigError(
                f"cannot listen on TCP {self._config.web.bind}: {error.strerror or error}",
                field="transport.web.bind",
            ) from None
        self._address = self._sockets[0].getsockname()[:2]

    async def _open_door(self, host: str, port: int) -> None:
        """Listen on UDP: the QUIC listener's, with connections that speak HTTP/3."""
        from .webtransport import WebTransportConnection

        door = Door(WEB_ALPN, functools.partial(WebTransportConnection, self))
        address = await self._quic.open(door, join_address(host, port), "transport.web.bind")
        self._address = self._address if self._sockets else address[:2]

    def stop_accepting(self) -> None:
        """Take no more clients: those that connect find the port closed."""
        self._is_accepting = False
        self._close_sockets()

    def close_all(self, code: int, reason: str = "") -> None:
        """Close every connection."""
        for connection in list(self.connections):
            connection.close(code, reason)

    async def stop(self, code: int = CloseCode.OVERLOADED, reason: str = "") -> None:
        """Close every connection and the sockets; clients get CLOSE_LINGER_S to answer."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self.stop_accepting()
        for task in self._shaking:
            task.cancel()
        for connection in list(self._half_open):
            connection.abort()
        self.close_all(code, reason)
        waits = self._tasks | {connection.ended for connection in self.connections}
        if waits:
            await asyncio.wait(waits, timeout=CLOSE_LINGER_S)
        for connection in list(self.connections):
            connection.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._shaking, return_exceptions=True)
        # The ends of connections are reported in the next turn.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _count(self) -> int:
        return len(self.connections) + len(self._half_open)

    def _count_silence(self, seconds: float) -> None:
        for connection in self.connections:
            connection.count_silence(seconds)

    # Accepting.

    def _read(self, sock: socket.socket) -> None:
        if self._is_accepting:
            asyncio.get_running_loop().add_reader(sock.fileno(), self._accept, sock)

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            if sock.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(sock.fileno())
                sock.close()
        self._sockets.clear()

    def _accept(self, sock: socket.socket) -> None:
        """Accept some of the clients that wait."""
        for _ in range(MAX_ACCEPTS):
            try:
                tcp, address = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # it left before its turn
            except OSError:
                # No descriptors or no memory: without a pause the loop would spin.
                self.counters.accept_errors += 1
                loop = asyncio.get_running_loop()
                loop.remove_reader(sock.fileno())
                loop.call_later(ACCEPT_PAUSE_S, self._read, sock)
                return
            if not self._admit(tcp, plain_address(address)):
                with contextlib.suppress(OSError):
                    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                tcp.close()

    def _admit(self, tcp: socket.socket, peer: tuple[str, int]) -> bool:
        """Begin the handshake of a client, unless a limit is reached; return whether it began."""
        quic, config, counters = self._quic, self._config, self.counters
        now = quic.driver.clock()
        if config.web.accept_rate and self._accepts.take(now):
            counters.accepts_limited += 1
            return False
        limits = quic.limits
        prefixes = limits.prefixes(peer[0])
        most = config.max_connections + max(1, config.max_connections // 20)
        if (
            self._count() + len(quic.connections) >= most
            or len(self._half_open) >= config.web.max_handshakes
            or self._is_shedding_handshakes(peer[0])
            or (prefixes is not None and not limits.admits(prefixes, now))
        ):
            counters.accepts_dropped += 1
            return False
        tcp.setblocking(False)
        with contextlib.suppress(OSError):
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        connection = self._make(
            self,
            quic.driver,
            config,
            quic.shared_counters,
            counters,
            tcp,
            peer,
            deadline=now + config.web.handshake_timeout,
            max_login_bytes=self._max_login_bytes,
            max_message_bytes=self._max_message_bytes,
        )
        if prefixes is not None:
            limits.begin(prefixes)
            self._prefixes[connection] = prefixes
        self._half_open.add(connection)
        self._gauge()
        task = asyncio.get_running_loop().create_task(self._shake_hands(tcp, connection))
        self._shaking.add(task)
        task.add_done_callback(functools.partial(self._hands_shaken, tcp, connection))
        return True

    async def _shake_hands(self, tcp: socket.socket, connection: WebConnection) -> None:
        """Bring TLS up; the connection goes on by itself from then on."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                tcp,
                ssl=self._current_context(),
                ssl_handshake_timeout=self._config.web.handshake_timeout,
                ssl_shutdown_timeout=CLOSE_LINGER_S,
            )
        except ConnectionAbortedError:
            self.counters.handshakes_timed_out += 1
        except OSError:
            self.counters.handshakes_failed += 1

    def _hands_shaken(
        self, tcp: socket.socket, connection: WebConnection, task: asyncio.Task[None]
    ) -> None:
        """Forget a client whose TLS did not come up, also where the task never ran."""
        self._shaking.discard(task)
        if not connection.is_made:
            tcp.close()
            self.connection_ended(connection)

    def _current_context(self) -> ssl.SSLContext:
        """Return the context of the certificate that QUIC clients see now."""
        assert self._context is not None
        tls = self._quic.tls
        if tls is not self._tls:
            self._tls = tls
            try:
                self._context = _context(tls)
            except ConfigError as error:
                logger.warning("certificate_kept", extra=keys(why=error))
        return self._context

    def _gauge(self) -> None:
        self.counters.connections = len(self.connections)
        self.counters.handshakes = len(self._half_open)

    # WebOwner.

    def judge_request(self, connection: WebConnection, request: Request) -> tuple[int, str] | None:
        """Return the HTTP status and text that refuse a request, None to go on."""
        headers = request.headers
        return self.judge(request.path, headers.get_all("Origin"), headers.get_all("Host"))

    def judge(
        self, target: str, origins: Sequence[str], hosts: Sequence[str]
    ) -> tuple[int, str] | None:
        """The same, for a request's path, and the values of its headers Origin and Host."""
        if target.partition("?")[0] != self._config.web.path:
            self.counters.requests_refused += 1
            return 404, "there is nothing here"
        if not origins or "*" in self._origins:
            return None
        origin = origins[0].lower()
        if self._origins:
            is_let_in = origin in self._origins
        else:
            # Of https alone: nobody but an attacker on the way serves plain HTTP at this port.
            is_let_in = [origin] == [f"https://{host.lower()}" for host in hosts]
        if len(origins) > 1 or not is_let_in:
            self.counters.origins_refused += 1
            return 403, "pages of this origin are not let in"
        return None

    def connection_opened(self, connection: WebConnection) -> HandlerFactory | None:
        """Return the factory of the handler, or refuse the connection."""
        self._leave_handshake(connection)
        others = self._count() + len(self._quic.connections)
        self.connections.add(connection)
        self._gauge()
        if self._is_accepting and others < self._config.max_connections:
            self.counters.accepted += 1
            return self._handler_factory
        self.counters.connections_refused += 1
        retry_ms = REFUSED_RETRY_MS if self._is_accepting else STOPS_RETRY_MS
        connection.close(CloseCode.OVERLOADED, f"retry_after_ms={retry_ms}")
        return None

    def _leave_handshake(self, connection: WebConnection) -> None:
        if connection in self._half_open:
            self._half_open.discard(connection)
            prefixes = self._prefixes.get(connection)
            if prefixes is not None:
                self._quic.limits.complete(prefixes)

    def stream_ended(self, connection: WebConnection, how: Disconnect) -> None:
        """Count the end of what the handler knows."""
        self._quic.ends[how.kind].add(how.code)
        logger.debug(
            "connection_ended",
            extra=keys(connection=connection.stream.connection_id, kind=how.kind, code=how.code),
        )

    def connection_ended(self, connection: WebConnection) -> None:
        """Take connection out of everything."""
        self._leave_handshake(connection)
        self.connections.discard(connection)
        prefixes = self._prefixes.pop(connection, None)
        if prefixes is not None:
            self._quic.limits.end(prefixes)
        self._gauge()

    def task_started(self, connection: WebConnection, task: asyncio.Task[None]) -> None:
        """Keep track of the connection's task."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _listen(family: socket.AddressFamily, address: Address) -> socket.socket:
    is_dual = family == socket.AF_INET6 and without_scope(address[0]) == "::"
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not is_dual))
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _context(tls: ServerTls) -> ssl.SSLContext:
    """Return the TLS context of a certificate.

    Raises:
        ConfigError: OpenSSL cannot use it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL's Python module reads files only.
    descriptor, name = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(tls.cert_pem + tls.key_pem)
        context.load_cert_chain(name)
    except ssl.SSLError as error:
        raise ConfigError(
            f"TLS cannot use the certificate: {error.reason}", field="transport.cert"
        ) from None
    finally:
        os.unlink(name)
    return context
