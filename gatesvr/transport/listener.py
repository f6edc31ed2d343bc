"""The ConnectionListener: one UDP endpoint for all QUIC connections of the gateway.

Routes datagrams by connection id, admits or refuses new connections, and keeps the ids of closed
ones known for a while, so that late datagrams are not taken for new ones.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from ..config import TransportConfig, parse_address
from ..errors import CloseCode, ConfigError
from ..observe.clock import RunningClock
from ..observe.log import keys
from ..protocol.link import Disconnect, HandlerFactory
from .connection import Connection
from .counters import TransportCounters
from .quic.interface import (
    CONNECTION_ID_LENGTH,
    MIN_INITIAL_BYTES,
    NO_CRYPTO,
    QUIC_V1,
    Address,
    Datagram,
    ServerFactory,
    pick_backend,
)
from .quic.reset import StatelessResets, reset_key
from .tls import ServerTls, load_server_tls
from .udp.endpoint import Driver, Endpoint, EndpointGroup, Timer, open_sockets
from .udp.sockets import is_wildcard, resolve

__all__ = ["ConnectionListener"]

logger = logging.getLogger("gatesvr.transport")

MIN_ORIGINAL_ID = 8
"""Shortest destination id that a client may choose for its first Initial (RFC 9000 7.2)."""
DRAINING_S = 0.5
"""How long the ids of a closed connection stay known."""
MAX_DRAINING = 10_000
REFUSED_RETRY_MS = 5_000
"""retry_after_ms told to a client that found max_connections."""
_SHORT_HEADER_BYTES = 1 + CONNECTION_ID_LENGTH


class _Draining:
    """What is left of a closed connection: its ids, and its last datagram to say again."""

    __slots__ = ("_late", "farewell", "ids", "timer")

    def __init__(self, ids: set[bytes], farewell: bytes, timer: Timer) -> None:
        self.ids = ids
        self.farewell = farewell
        self.timer = timer
        self._late = 0

    def answers(self) -> bool:
        """Count a late datagram; return whether to answer it: the 1st, 2nd, 4th, 8th …"""
        self._late += 1
        return bool(self.farewell) and self._late & (self._late - 1) == 0


class ConnectionListener:
    """Listens on UDP for QUIC connections.

    Args:
        config: Address, backend, certificate, limits.
        handler_factory: Makes the handler of each connection, when its handshake is complete.
        retry: When a client has to prove its address first: ``always``, or ``needed``, which is
            where the backend cannot do without.

    Attributes:
        backend: Name of the QUIC library.
        tls: The certificate that is shown.
        connections: The connections that have not ended.
    """

    def __init__(
        self,
        config: TransportConfig,
        handler_factory: HandlerFactory,
        *,
        retry: str = "needed",
        clock: RunningClock | None = None,
    ) -> None:
        self._backend = pick_backend(config.backend)
        self._config = config
        self._handler_factory = handler_factory
        self._clock = clock or RunningClock()
        self._clock.on_stall = self._stalled
        self._is_retry_always = retry == "always"
        self.backend: str = self._backend.name
        self.tls: ServerTls = load_server_tls(config.cert, config.key)
        self._counters = TransportCounters()
        self.connections: set[Connection] = set()
        self._server: ServerFactory = self._backend.server(
            self.tls, config.idle_timeout, self._token_of
        )
        self._resets: StatelessResets | None = None
        self._retry_tokens = QuicRetryTokenHandler()
        self._routes: dict[bytes, Connection | _Draining] = {}
        self._half_open: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._draining: set[_Draining] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._max_all = config.max_connections + max(1, config.max_connections // 20)
        self._driver: Driver | None = None
        self._endpoint: Endpoint | EndpointGroup | None = None
        self._is_accepting = False
        self._is_stopped = False

    @property
    def counters(self) -> TransportCounters:
        """What was done."""
        if isinstance(self._endpoint, EndpointGroup):
            self._endpoint.count()
        return self._counters

    @property
    def address(self) -> tuple[str, int]:
        """The address listened on, with the real port; the first one where there are several."""
        if self._endpoint is None:
            raise RuntimeError("the listener was not started")
        host, port = self._endpoint.address[:2]
        return host, port

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigError: The address cannot be used.
            RuntimeError: It was started before.
        """
        if self._driver is not None:
            raise RuntimeError("the listener was started before")
        config = self._config
        host, port = parse_address(config.bind)
        try:
            socks = open_sockets(
                # An empty host is every address, as in config.
                await resolve(host or "0.0.0.0", port),  # noqa: S104
                receive_buffer=config.receive_buffer,
                send_buffer=config.send_buffer,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on UDP {config.bind}: {error.strerror or error}",
                field="transport.bind",
            ) from None
        driver = Driver(asyncio.get_running_loop(), self._clock)
        try:
            self._endpoint = self._make_endpoint(driver, socks)
            self._resets = StatelessResets(
                reset_key(self.tls.key_pem, socket.gethostname(), self._endpoint.address),
                self._counters,
            )
        except BaseException:
            if self._endpoint is not None:
                self._endpoint.close()
                self._endpoint = None
            for sock in socks:
                sock.close()
            driver.close()
            raise
        self._driver = driver
        self._is_accepting = True

    def _make_endpoint(
        self, driver: Driver, socks: list[socket.socket]
    ) -> Endpoint | EndpointGroup:
        is_batched = self._config.batch_io
        receive, counters = self._datagrams_received, self._counters
        if len(socks) == 1:
            return Endpoint(
                driver,
                socks[0],
                receive,
                counters=counters,
                is_batched=is_batched,
                with_local=is_wildcard(socks[0]),
            )
        group = EndpointGroup(driver, socks, receive, counters, is_batched=is_batched)
        logger.info(
            "listening", extra=keys(udp=" ".join(str(address[:2]) for address in group.addresses))
        )
        return group

    def stop_accepting(self) -> None:
        """Answer no new client from now on; connections live on."""
        self._is_accepting = False

    def close_all(self, code: int = CloseCode.OVERLOADED, reason: str = "") -> None:
        """Close every connection."""
        for connection in list(self.connections):
            if connection in self._half_open:
                connection.discard("shutdown")
            else:
                connection.close(code, reason)

    async def stop(self, code: int = CloseCode.OVERLOADED, reason: str = "") -> None:
        """Close every connection and the socket; connection tasks get close_linger to end.

        Connections that were closed before with a last push get that time too.
        """
        if self._driver is None or self._endpoint is None or self._is_stopped:
            return
        self._is_stopped = True
        self.stop_accepting()
        self.close_all(code, reason)
        self._driver.flush()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._config.close_linger)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self.connections):
            connection.discard("shutdown")
        for draining in list(self._draining):
            self._forget(draining)
        self._driver.close()
        self._endpoint.close()
        # The ends of connections are reported in the turn after.
        await asyncio.sleep(0)

    # Datagrams.

    def _datagrams_received(self, batch: list[Datagram], now: float) -> None:
        routes = self._routes
        touched: dict[Connection, None] = {}
        for data, address in batch:
            if len(data) < _SHORT_HEADER_BYTES:
                self._counters.datagrams_malformed += 1
                continue
            if data[0] & 0x80:
                target = routes.get(data[6 : 6 + data[5]])
            else:
                target = routes.get(data[1:_SHORT_HEADER_BYTES])
            if target is None:
                target = self._handle_unknown(data, address, now)
                if target is None:
                    continue
            if isinstance(target, Connection):
                target.receive(data, address, now)
                touched[target] = None
            else:
                self._handle_late(target, address)
        for connection in touched:
            connection.process(now)
            if connection in self._half_open and not connection.is_authenticated():
                self._counters.initials_undecryptable += 1
                connection.discard("undecryptable")

    def _handle_late(self, draining: _Draining, address: Address) -> None:
        """Say again that a connection is closed (RFC 9000 10.2.1)."""
        self._counters.datagrams_after_close += 1
        if draining.answers() and self._endpoint is not None:
            self._endpoint.send([(draining.farewell, address)])

    def _handle_unknown(self, data: bytes, address: Address, now: float) -> Connection | None:
        """Admit a new client, or refuse it; whatever fails, the rest of the batch goes on."""
        try:
            return self._admit(data, address, now)
        except Exception as error:
            self._counters.connection_errors += 1
            logger.error(
                "connection_error",
                extra=keys(peer=address[0], error=repr(error)),
                exc_info=error,
            )
            return None

    def _admit(self, data: bytes, address: Address, now: float) -> Connection | None:
        counters = self._counters
        if not data[0] & 0x80:
            counters.datagrams_unknown += 1
            self._reset(data, address, now)
            return None
        if len(data) < MIN_INITIAL_BYTES:
            counters.datagrams_unknown += 1
            return None
        try:
            header = pull_quic_header(Buffer(data=data), CONNECTION_ID_LENGTH)
        except ValueError:
            counters.datagrams_malformed += 1
            return None
        if header.version != QUIC_V1:
            # Version 0 is itself a Version Negotiation packet: two servers could go on for ever.
            if header.version and self._is_accepting:
                counters.versions_negotiated += 1
                self._send(
                    encode_quic_version_negotiation(
                        source_cid=header.destination_cid,
                        destination_cid=header.source_cid,
                        supported_versions=[QUIC_V1],
                    ),
                    address,
                )
            return None
        if (
            header.packet_type is not QuicPacketType.INITIAL
            or len(header.destination_cid) < MIN_ORIGINAL_ID
        ):
            counters.datagrams_unknown += 1
            return None
        return self._handle_initial(data, header, address, now)

    def _handle_initial(
        self, data: bytes, header: QuicHeader, address: Address, now: float
    ) -> Connection | None:
        counters = self._counters
        if not self._is_accepting or len(self.connections) >= self._max_all:
            counters.connections_dropped += 1
            return None
        if len(self._half_open) >= self._config.max_handshakes:
            counters.handshakes_dropped += 1
            return None
        original_id, retry_id = header.destination_cid, None
        if header.token:
            try:
                original_id = self._retry_tokens.validate_token(
                    address=address,
                    destination_cid=header.destination_cid,
                    token=header.token,
                    now=now,
                )
                retry_id = header.destination_cid
                counters.retries_validated += 1
            except ValueError:
                # As if there were none: it may come from another server (RFC 9000 8.1.3).
                counters.retries_refused += 1
        if retry_id is None and self._needs_retry(data, header):
            self._send_retry(header, address, now)
            return None
        return self._accept(data, header.destination_cid, original_id, retry_id, address, now)

    def _needs_retry(self, data: bytes, header: QuicHeader) -> bool:
        # qh3 counts the packet, not the datagram, into what it may send before the address is
        # proved; where the padding is outside of the packet that is too little to answer with.
        return self._is_retry_always or (
            self._backend.needs_retry and header.packet_length < len(data)
        )

    def _send_retry(self, header: QuicHeader, address: Address, now: float) -> None:
        self._counters.retries_sent += 1
        source_id = os.urandom(CONNECTION_ID_LENGTH)
        token = self._retry_tokens.create_token(
            address=address,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_id,
            now=now,
        )
        packet = encode_quic_retry(
            version=QUIC_V1,
            source_cid=source_id,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        self._send(packet, address)

    def _accept(
        self,
        data: bytes,
        first_id: bytes,
        original_id: bytes,
        retry_id: bytes | None,
        address: Address,
        now: float,
    ) -> Connection | None:
        assert self._driver is not None
        assert self._endpoint is not None
        quic = self._server(original_id, retry_id)
        connection = Connection(
            quic,
            self._endpoint,
            self._driver,
            self,
            self._config,
            self._counters,
            address,
            is_client=False,
            deadline=now + self._config.handshake_timeout,
        )
        if len(self.connections) >= self._config.max_connections:
            self._refused.add(connection)
        self.connections.add(connection)
        self._half_open.add(connection)
        self.connection_id_issued(connection, first_id)
        self.connection_id_issued(connection, quic.connection_id)
        self._gauge()
        return connection

    def _token_of(self, connection_id: bytes) -> bytes:
        assert self._resets is not None
        return self._resets.token(connection_id)

    def _reset(self, data: bytes, address: Address, now: float) -> None:
        """Tell a peer that its connection is not known here, as after a restart."""
        assert self._resets is not None
        if reset := self._resets.answer(data, now):
            self._send(reset, address)

    def _send(self, data: bytes, address: Address) -> None:
        assert self._endpoint is not None
        self._endpoint.send([(data, address)])

    def _stalled(self, seconds: float) -> None:
        self._counters.stalls += 1
        logger.warning("process_stalled", extra=keys(seconds=round(seconds, 3)))
        if self._driver is not None:
            self._driver.loop.call_soon(self._break_silence, seconds)

    def _break_silence(self, seconds: float) -> None:
        for connection in self.connections:
            connection.count_silence(seconds)

    # ConnectionOwner.

    def connection_id_issued(self, connection: Connection, connection_id: bytes) -> None:
        """Route datagrams with this id to connection."""
        connection.ids.add(connection_id)
        self._routes[connection_id] = connection

    def connection_id_retired(self, connection: Connection, connection_id: bytes) -> None:
        """Route datagrams with this id nowhere."""
        connection.ids.discard(connection_id)
        if self._routes.get(connection_id) is connection:
            del self._routes[connection_id]

    def connection_opened(self, connection: Connection) -> HandlerFactory | None:
        """Let a handler be made for connection, or refuse it."""
        self._half_open.discard(connection)
        if connection in self._refused:
            self._counters.connections_refused += 1
            connection.close(CloseCode.OVERLOADED, f"retry_after_ms={REFUSED_RETRY_MS}")
            return None
        self._counters.accepted += 1
        self._gauge()
        return self._handler_factory

    def connection_ended(self, connection: Connection, how: Disconnect, farewell: bytes) -> None:
        """Take connection out of everything; keep its ids known for the draining period."""
        if connection in self._half_open:
            self._half_open.discard(connection)
            if how is NO_CRYPTO:
                self._counters.initials_without_crypto += 1
            else:
                self._counters.handshakes_failed += 1
        self.connections.discard(connection)
        self._refused.discard(connection)
        ids, connection.ids = connection.ids, set()
        is_unknown = how.kind == "idle" or how is NO_CRYPTO
        if self._is_stopped or is_unknown or len(self._draining) >= MAX_DRAINING:
            for connection_id in ids:
                self._routes.pop(connection_id, None)
        else:
            self._drain(ids, farewell)
        self._gauge()
        logger.debug(
            "connection_ended",
            extra=keys(connection=connection.connection_id, kind=how.kind, code=how.code),
        )

    def task_started(self, connection: Connection, task: asyncio.Task[None]) -> None:
        """Keep track of the connection's task."""
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        self._counters.tasks = len(self._tasks)

    # Ends.

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._counters.tasks = len(self._tasks)

    def _drain(self, ids: set[bytes], farewell: bytes) -> None:
        assert self._driver is not None
        draining = _Draining(ids, farewell, Timer(lambda now: self._forget(draining)))
        for connection_id in ids:
            self._routes[connection_id] = draining
        self._draining.add(draining)
        self._driver.schedule(draining.timer, self._driver.clock() + DRAINING_S)

    def _forget(self, draining: _Draining) -> None:
        assert self._driver is not None
        self._driver.timers.cancel(draining.timer)
        self._draining.discard(draining)
        for connection_id in draining.ids:
            self._routes.pop(connection_id, None)
        self._gauge()

    def _gauge(self) -> None:
        counters = self._counters
        counters.handshakes = len(self._half_open)
        counters.connections = len(self.connections) - len(self._half_open)
        counters.drained = len(self._draining)
        counters.timers = 0 if self._driver is None else len(self._driver.timers)
