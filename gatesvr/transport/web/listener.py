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
import socket
import ssl
import struct
from typing import TYPE_CHECKING

from ..._core.limits import TokenBucket
from ...config import join_address, parse_address
from ...errors import CloseCode, ConfigError
from ...observe.log import keys
from ..addresses import is_loopback, plain_address
from ..connection import CLOSE_LINGER_S
from ..door import Door
from ..listener import REFUSED_RETRY_MS, STOPS_RETRY_MS
from ..quic.interface import WEB_ALPN
from ..steering import WEB_PLAIN, WEB_QUIC, WEB_TCP
from ..udp.sockets import MAX_PORTS
from .counters import WebCounters
from .sockets import listen_on, open_plain
from .tls import RECORD_BYTES, TlsTransport, tls_context

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from websockets.http11 import Request

    from ...config import TransportConfig
    from ...protocol.link import Disconnect, HandlerFactory
    from ..listener import ConnectionListener
    from ..prefixes import Prefixes
    from ..siblings import Siblings
    from ..tls import ServerTls
    from .connection import WebConnection
    from .pages import Page, Pages

__all__ = ["WebListener", "plain_origin"]

logger = logging.getLogger("gatesvr.transport")

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
        siblings: The other processes of this gateway, and the sockets to listen on; None where this
            one is alone.

    Attributes:
        counters: Those of web clients alone.
        connections: The WebSocket connections whose request is complete and whose TCP has not
            ended.
        pages: Answers plain requests; None for nothing. Pages of the same host and port may
            connect, whatever the origins let in.
        page_origins: Other origins of these pages.
        is_any_port: Whether start() takes a free port where the configured one is taken.
    """

    pages: Pages | None = None
    page_origins: frozenset[str] = frozenset()
    is_any_port = False

    def __init__(
        self,
        config: TransportConfig,
        quic: ConnectionListener,
        handler_factory: HandlerFactory,
        *,
        max_login_bytes: int,
        max_message_bytes: int,
        is_shedding_handshakes: Callable[[str], bool] = lambda ip: False,
        siblings: Siblings | None = None,
    ) -> None:
        self._siblings = siblings
        self.counters = WebCounters()
        self.connections: set[WebConnection] = set()
        self._quic = quic
        self._handler_factory = handler_factory
        self._max_login_bytes = max_login_bytes
        self._max_message_bytes = max_message_bytes
        self._is_shedding_handshakes = is_shedding_handshakes
        self._half_open: set[WebConnection] = set()
        self._refused: set[WebConnection] = set()  # of the half-open, for want of places
        self._prefixes: dict[WebConnection, Prefixes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._beginning: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._covered: list[socket.socket] = []
        self._plain: set[socket.socket] = set()
        self._address = ("", 0)
        self._tls: ServerTls | None = None
        self._context: ssl.SSLContext | None = None
        self._buffer = memoryview(bytearray(RECORD_BYTES))
        self._make: type[WebConnection]
        self._is_accepting = False
        self._is_stopped = False
        self._set(config)
        quic.share(self._count, self._count_silence)

    def _set(self, config: TransportConfig) -> None:
        web = config.web
        self._config = config
        self._max_connections = config.max_connections
        rate = web.accept_rate or 1  # 0: no limit, and not asked
        self._accepts = TokenBucket(rate, 2 * rate)
        self._origins = frozenset(plain_origin(origin) for origin in web.origins)

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

    def limit(self, max_connections: int) -> None:
        """Take another limit of connections, those by QUIC included; prepare() brings the
        configured one back."""
        self._max_connections = max_connections

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
                if (port and not self.is_any_port) or attempt == MAX_PORTS:
                    raise
                port = 0
        self._is_accepting = True
        for sock in self._sockets:
            self._read(sock)

    async def _listen(self, host: str, port: int) -> None:
        """Listen on TCP, without accepting yet."""
        # Only here: a gateway without WebSocket does not load the library.
        from .connection import WebConnection

        self._make = WebConnection
        self._tls = self._quic.tls
        try:
            self._context = tls_context(self._tls)
        except OSError as error:
            raise ConfigError(
                f"TLS cannot read the certificate from a file: {error.strerror or error}",
                field="transport.cert",
            ) from None
        inherited = () if self._siblings is None else self._siblings.sockets.get(WEB_TCP, ())
        try:
            self._sockets = list(inherited) or await listen_on(host, port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on TCP {self._config.web.bind}: {error.strerror or error}",
                field="transport.web.bind",
            ) from None
        self._address = self._sockets[0].getsockname()[:2]

    async def _open_door(self, host: str, port: int) -> None:
        """Listen on UDP: the QUIC listener's, with connections that speak HTTP/3."""
        from .webtransport import WebTransportConnection

        door = Door(WEB_ALPN, functools.partial(WebTransportConnection, self), WEB_QUIC)
        address = await self._quic.open(door, join_address(host, port), "transport.web.bind")
        if not self._sockets:
            self._address = address[:2]

    async def start_plain(self, port: int) -> int:
        """Serve on loopback without TLS, too; return the port.

        Browsers take pages of loopback for as safe as those of HTTPS (W3C Secure Contexts 3.1), and
        ask for no exception from a certificate that they do not know.

        Args:
            port: The port; where it is taken, or 0, any free one.

        Raises:
            ConfigError: There is none.
        """
        inherited = () if self._siblings is None else self._siblings.sockets.get(WEB_PLAIN, ())
        found = list(inherited) or await open_plain(port)
        self._plain.update(found)
        self._sockets += found
        for sock in found:
            self._read(sock)
        plain_port: int = found[0].getsockname()[1]
        return plain_port

    def cover(self, slots: Collection[int]) -> None:
        """Accept from the sockets of these slots too, whose processes have died, and of no others.

        The UDP sockets are the QUIC listener's.
        """
        covered = [sock for slot in slots for sock in self._others(slot)]
        for sock in self._covered:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        self._covered = covered
        for sock in covered:
            self._read(sock)

    def _others(self, slot: int) -> Sequence[socket.socket]:
        return () if self._siblings is None else self._siblings.others[slot].get(WEB_TCP, ())

    def stop_accepting(self) -> None:
        """Take no more clients: those that connect find the port closed."""
        self._is_accepting = False
        self._close_sockets()
        self.cover(())
        for slot in self._siblings.others if self._siblings is not None else ():
            for sock in self._others(slot):
                sock.close()

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
        for task in self._beginning:
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
        await asyncio.gather(*self._tasks, *self._beginning, return_exceptions=True)
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
        if self._is_accepting and (sock in self._sockets or sock in self._covered):
            asyncio.get_running_loop().add_reader(sock.fileno(), self._accept, sock)

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            if sock.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(sock.fileno())
                sock.close()
        self._sockets.clear()
        self._plain.clear()

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
            if not self._admit(tcp, plain_address(address), is_plain=sock in self._plain):
                with contextlib.suppress(OSError):
                    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                tcp.close()

    def _admit(self, tcp: socket.socket, peer: tuple[str, int], *, is_plain: bool = False) -> bool:
        """Begin the handshake of a client, unless a limit is reached; return whether it began."""
        quic, config, counters = self._quic, self._config, self.counters
        now = quic.driver.clock()
        if config.web.accept_rate and self._accepts.take(now):
            counters.accepts_limited += 1
            return False
        limits = quic.limits
        prefixes = limits.prefixes(peer[0])
        taken = self._count() + len(quic.connections)
        if (
            taken >= self._max_connections + max(1, self._max_connections // 20)
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
            is_plain=is_plain,
            deadline=now + config.web.handshake_timeout,
            max_login_bytes=self._max_login_bytes,
            max_message_bytes=self._max_message_bytes,
        )
        if prefixes is not None:
            limits.begin(prefixes)
            self._prefixes[connection] = prefixes
        self._half_open.add(connection)
        if taken >= self._max_connections:
            self._refused.add(connection)
        self._gauge()
        task = asyncio.get_running_loop().create_task(self._begin(tcp, connection))
        self._beginning.add(task)
        task.add_done_callback(functools.partial(self._begun, tcp, connection))
        return True

    async def _begin(self, tcp: socket.socket, connection: WebConnection) -> None:
        """Hand the socket to the loop; the connection goes on by itself, under its deadline."""
        protocol: asyncio.BaseProtocol = connection
        if not connection.is_plain:
            protocol = TlsTransport(self._current_context(), connection, self._buffer)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, tcp)
        except OSError:
            self.counters.handshakes_failed += 1

    def _begun(
        self, tcp: socket.socket, connection: WebConnection, task: asyncio.Task[None]
    ) -> None:
        """Forget a client whose socket the loop did not take, also where the task never ran."""
        self._beginning.discard(task)
        if not connection.is_made:
            tcp.close()
            self.connection_ended(connection)

    def _current_context(self) -> ssl.SSLContext:
        """Return the context of the certificate that QUIC clients see now."""
        assert self._context is not None
        tls = self._quic.tls
        if tls is not self._tls:
            try:
                self._context = tls_context(tls)
            except ConfigError as error:
                logger.warning("certificate_kept", extra=keys(why=error))
            except OSError as error:
                # No descriptor, or no room for the file: the next client's turn.
                driver = self._quic.driver
                driver.lines.log(logging.WARNING, "certificate_kept", driver.clock(), why=error)
                return self._context
            self._tls = tls
        return self._context

    def _gauge(self) -> None:
        self.counters.connections = len(self.connections)
        self.counters.handshakes = len(self._half_open)

    # WebOwner.

    def judge_request(self, request: Request) -> tuple[int, str] | None:
        """Return the HTTP status and text that refuse a request, None to go on."""
        headers = request.headers
        return self.judge(request.path, headers.get_all("Origin"), headers.get_all("Host"))

    def judge(
        self, target: str, origins: Sequence[str], hosts: Sequence[str]
    ) -> tuple[int, str] | None:
        """Return the HTTP status and text that refuse a request, None to go on.

        Args:
            target: Its path and query.
            origins: The values of its headers Origin.
            hosts: The values of its headers Host.
        """
        if target.partition("?")[0] != self._config.web.path:
            self.counters.requests_refused += 1
            return 404, "there is nothing here"
        if not origins or "*" in self._origins:
            return None
        origin = plain_origin(origins[0])
        is_let_in = origin in self._origins or origin in self.page_origins
        if not is_let_in and (self.pages is not None or not self._origins):
            # Of https alone: nobody but an attacker on the way serves plain HTTP at this port.
            is_let_in = [origin] == [plain_origin(f"https://{host}") for host in hosts]
        if len(origins) > 1 or not is_let_in:
            self.counters.origins_refused += 1
            return 403, "pages of this origin are not let in"
        return None

    def page(self, connection: WebConnection, request: Request) -> Page | None:
        """Return what answers a request that is for no WebSocket, None for nothing."""
        if connection.is_plain and not _is_for_loopback(request.headers.get_all("Host")):
            # A page of elsewhere, whose name its owner lets lead to this machine, would read ours.
            return None
        page = None if self.pages is None else self.pages(request.path.partition("?")[0])
        if page is not None:
            self.counters.pages_served += 1
        return page

    def connection_opened(self, connection: WebConnection) -> HandlerFactory | None:
        """Return the factory of the handler, or refuse the connection."""
        self._leave_handshake(connection)
        self.connections.add(connection)
        self._gauge()
        is_refused = connection in self._refused
        self._refused.discard(connection)
        if self._is_accepting and not is_refused:
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
        self._refused.discard(connection)
        self.connections.discard(connection)
        prefixes = self._prefixes.pop(connection, None)
        if prefixes is not None:
            self._quic.limits.end(prefixes)
        self._gauge()

    def task_started(self, connection: WebConnection, task: asyncio.Task[None]) -> None:
        """Keep track of the connection's task."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_for_loopback(hosts: Sequence[str]) -> bool:
    """Return whether the values of a request's header Host are one, and name this machine."""
    name = hosts[0] if len(hosts) == 1 else ""
    name = name[: name.find("]") + 1] or name.partition(":")[0]
    return is_loopback(name.strip("[]"))


def plain_origin(origin: str) -> str:
    """Return an origin as browsers write it: in lower case, without the port that is the default.

    What is no origin comes back as it is, in lower case.
    """
    origin = origin.lower()
    for scheme, port in (("https://", ":443"), ("http://", ":80")):
        if origin.startswith(scheme):
            return origin.removesuffix(port)
    return origin
