"""The ConnectionListener: one UDP endpoint for all QUIC connections of the gateway.

It routes datagrams by connection id (routes.py), asks admission.py about unknown ones, and owns the
endpoint, the timers and the connection tasks.

Where the gateway has several processes, what is not this one's goes to its siblings (siblings.py).

Known connections go first. A handshake costs as much as a hundred requests, so admitted clients
wait in line: each turn of the loop begins handshakes for a quarter of its time.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections import deque
from collections.abc import Callable, Collection, Sequence

from ..config import TransportConfig
from ..errors import CloseCode
from ..observe.clock import RunningClock
from ..observe.log import keys
from ..observe.metrics import CodeCounts
from ..observe.stages import Stages
from ..protocol.link import Disconnect, HandlerFactory
from .addresses import Address, Datagram
from .admission import Admission, Admitted, Judgement
from .connection import CLOSE_LINGER_S, Connection
from .counters import TransportCounters
from .door import Door
from .handed import DATAGRAM
from .handover import HandOver
from .paths import Paths
from .prefixes import PrefixLimits
from .quic.choose import pick_backend
from .quic.initial import parse_initial
from .quic.interface import (
    ALPN,
    CONNECTION_ID_LENGTH,
    NO_CRYPTO,
    QuicTransport,
    ServerFactory,
    random_id,
)
from .quic.reset import StatelessResets, reset_key, shared_reset_key
from .quic.retry import KEY_BYTES, Retries
from .quic.secret import derive_key, read_secret
from .routes import Draining, Elsewhere, Routes, Waiting
from .siblings import Siblings
from .steering import QUIC
from .tls import CertificateFiles, ServerTls, load_server_tls
from .udp.driver import Driver
from .udp.endpoint import add_up

__all__ = ["ConnectionListener"]

logger = logging.getLogger("gatesvr.transport")

END_KINDS = ("local", "peer", "peer_transport", "idle", "reset")
"""Kinds of Disconnect that end a connection whose handshake was complete."""
REFUSED_RETRY_MS = 5_000
"""retry_after_ms told to a client that found max_connections."""
STOPS_RETRY_MS = 1_000
"""The same where the gateway stops: another one may be in its place soon."""
SIBLING_RETRY_MS = 50
"""The same where another process of this gateway takes the client at once."""
HANDSHAKE_SHARE = 0.25
"""Share of the time that beginning handshakes may take while there is other work."""
MIN_HANDSHAKES_S = 0.001
MAX_HANDSHAKES_S = 0.01
"""Seconds of a turn that they may take at least, and at most."""
_SHORT_HEADER_BYTES = 1 + CONNECTION_ID_LENGTH


class ConnectionListener:
    """Listens on UDP for QUIC connections.

    Its own door is that of PROTOCOL 1.1. Others have an address and a protocol of their own, and
    share all else: routes, admission, limits and counters.

    Args:
        config: Address, backend, certificate, limits.
        handler_factory: Makes the handler of each connection, once its handshake is complete.
        clock: Keeps stalls of the process out of all timers; by default one of its own.
        is_shedding_handshakes: Asked for each new client by its IP address: whether to drop its
            Initial.
        stages: Takes how long handshakes and the sending of answers take, None for nobody.
        siblings: The other processes of this gateway, and the sockets to read; None where this one
            is alone.

    Attributes:
        backend: Name of the QUIC library.
        tls: The certificate that it shows.
        connections: The connections that have not ended.
        ends: How many connections ended, by Disconnect.kind and code.
        paths: How their paths do; the owner calls its look() once a second.
    """

    def __init__(
        self,
        config: TransportConfig,
        handler_factory: HandlerFactory,
        *,
        clock: RunningClock | None = None,
        is_shedding_handshakes: Callable[[str], bool] = lambda ip: False,
        stages: Stages | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        self._siblings = siblings
        self._make_id = random_id if siblings is None else siblings.make_id
        self._backend = backend = pick_backend(config.backend)
        self._config = config
        self._handler_factory = handler_factory
        self._clock = clock or RunningClock()
        self._clock.on_stall = self._stalled
        self._stages = stages
        self.backend: str = backend.name
        self._files = CertificateFiles(config)
        self.tls: ServerTls = load_server_tls(config.cert, config.key)
        self._counters = TransportCounters()
        self._door = Door(ALPN, Connection, QUIC)
        self._door.server = self._server(self._door, self.tls, config)
        self._doors = [self._door]
        self._secret = read_secret(config.secret) if config.secret else b""
        if siblings is not None and not self._secret:
            self._secret = siblings.secret
        self._resets: StatelessResets | None = None
        self._admission = Admission(
            config,
            self._counters,
            Retries(
                derive_key(self._secret, b"gatesvr retry", KEY_BYTES),
                make_id=random_id if siblings is None else siblings.make_retry_id,
            ),
            needs_retry=backend.needs_retry,
            is_shedding_handshakes=is_shedding_handshakes,
        )
        self.connections = self._admission.connections
        self.ends: dict[str, CodeCounts] = {kind: CodeCounts(CloseCode) for kind in END_KINDS}
        self.paths = Paths(self.connections, stages.rtt if stages is not None else None)
        self._routes = Routes(self._counters)
        self._hand_over: HandOver | None = None
        if siblings is not None:
            self._hand_over = HandOver(
                siblings,
                self._admission,
                self._routes,
                self._doors,
                self._counters,
                self,
                makes_ids=backend.makes_ids,
            )
        self._waiting: deque[Waiting] = deque()
        self._begin_asked: float | None = None  # when the next turn's handshakes were asked for
        self._tasks: set[asyncio.Task[None]] = set()
        self._driver: Driver | None = None
        self._is_stopped = False
        self._count_silence: Callable[[float], None] = lambda seconds: None

    @property
    def driver(self) -> Driver:
        """The timers and flushes of all connections; it runs from start() to stop()."""
        if self._driver is None:
            raise RuntimeError("the listener was not started")
        return self._driver

    @property
    def limits(self) -> PrefixLimits:
        """The limits of networks, for whatever way their clients come."""
        return self._admission.limits

    @property
    def shared_counters(self) -> TransportCounters:
        """Where ends and errors count of connections of whatever way."""
        return self._counters

    def share(self, count: Callable[[], int], count_silence: Callable[[float], None]) -> None:
        """Share ``max_connections`` with another way in, and tell it of stalls.

        Args:
            count: Returns its connections.
            count_silence: Takes the seconds that the process did not run.
        """
        self._admission.elsewhere = count
        self._count_silence = count_silence

    @property
    def counters(self) -> TransportCounters:
        """The counters of the sockets and of all connections."""
        for door in self._doors:
            door.count()
        add_up(self._counters, [door.counters for door in self._doors])
        self._counters.timers = 0 if self._driver is None else len(self._driver.timers)
        return self._counters

    @property
    def address(self) -> tuple[str, int]:
        """The address listened on, with the real port; the first one where there are several."""
        if self._door.endpoint is None:
            raise RuntimeError("the listener was not started")
        host, port = self._door.endpoint.address[:2]
        return host, port

    def prepare(self, config: TransportConfig) -> Callable[[], None]:
        """Read the certificate anew; return a function that puts other settings in force.

        They hold for new connections. The addresses, the socket and the keys that are derived from
        ``secret`` stay.

        Raises:
            ConfigError: The certificate cannot be read or used.
        """
        files = CertificateFiles(config)
        tls = self.tls
        if config.cert or self._config.cert:
            tls = load_server_tls(config.cert, config.key)
        servers = self._servers(tls, config)

        def commit() -> None:
            self._config = config
            self._admission.apply(config)
            self._files = files
            self._show(tls, servers)

        return commit

    def limit(self, max_connections: int) -> None:
        """Take another limit of connections, of this way in; prepare() brings the configured one
        back."""
        self._admission.limit(max_connections)

    def follow_certificate(self) -> None:
        """Read the certificate's files again if they have changed; call it once a second.

        New handshakes get the new certificate. One that cannot be used is left alone until the
        files change again, and the one before stays.
        """
        if not self._files.have_changed(self.tls):
            return
        config = self._config
        try:
            tls = load_server_tls(config.cert, config.key)
            servers = self._servers(tls, config)
        except Exception as error:
            # Whatever the files hold, the sweep that calls this goes on.
            self._counters.certificates_kept += 1
            logger.warning("certificate_kept", extra=keys(why=error))
        else:
            self._show(tls, servers)

    def _servers(self, tls: ServerTls, config: TransportConfig) -> list[ServerFactory]:
        """Return a factory for each door."""
        return [self._server(door, tls, config) for door in self._doors]

    def _server(self, door: Door, tls: ServerTls, config: TransportConfig) -> ServerFactory:
        return self._backend.server(
            tls, config.idle_timeout, self._token_of, door.alpn, self._make_id
        )

    def _show(self, tls: ServerTls, servers: list[ServerFactory]) -> None:
        """Use a certificate, and the factories with it, for new connections."""
        if tls != self.tls:
            self._counters.certificates_renewed += 1
            logger.info("certificate_renewed", extra=keys(cert=tls.path))
        self.tls = tls
        for door, server in zip(self._doors, servers, strict=True):
            door.server = server

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigError: The address cannot be used.
            RuntimeError: It was started before.
        """
        if self._driver is not None:
            raise RuntimeError("the listener was started before")
        driver = Driver(asyncio.get_running_loop(), self._clock)
        if self._stages is not None:
            driver.requests = self._stages.requests
        config, door = self._config, self._door
        try:
            address = await door.open(
                config.bind,
                "transport.bind",
                config,
                driver,
                self._datagrams_received,
                self._inherited(door),
            )
            if self._secret:
                key = shared_reset_key(self._secret)
            else:
                key = reset_key(self.tls.key_pem, socket.gethostname(), address)
            self._resets = StatelessResets(key, self._counters)
            if self._hand_over is not None:
                self._hand_over.open(driver)
        except BaseException:
            door.close()
            door.endpoint = None
            driver.close()
            raise
        self._driver = driver
        self._admission.is_accepting = True

    async def open(self, door: Door, bind: str, field: str) -> Address:
        """Open another door, after start(), until stop(); return its address.

        Args:
            door: The door.
            bind: Its address.
            field: The setting that names the address.

        Raises:
            ConfigError: The address cannot be used.
        """
        config = self._config
        door.server = self._server(door, self.tls, config)
        receive = functools.partial(self._datagrams_received, door=door)
        address = await door.open(bind, field, config, self.driver, receive, self._inherited(door))
        self._doors.append(door)
        return address

    def _inherited(self, door: Door) -> Sequence[socket.socket]:
        """Return the sockets that are open already for a door."""
        return () if self._siblings is None else self._siblings.sockets.get(door.name, ())

    def set_reading(self, *, is_reading: bool) -> None:
        """Read the sockets, or leave them to the process that reads them too from now on.

        What comes for connections here is handed on by that one; answers leave as before.
        """
        for door in self._doors:
            door.set_reading(is_reading=is_reading)

    def cover(self, slots: Collection[int]) -> None:
        """Read the sockets of these slots too, whose processes have died, and of no others."""
        assert self._siblings is not None
        others = self._siblings.others
        for door in self._doors if not self._is_stopped else ():
            door.cover([sock for slot in slots for sock in others[slot].get(door.name, ())])

    def stop_accepting(self) -> None:
        """Refuse new clients from now on, or hand them on; connections live on."""
        self._admission.is_accepting = False
        while self._waiting:
            assert self._driver is not None
            waiting, now = self._waiting.popleft(), self._driver.clock()
            self._abandon(waiting)
            hand_over, seconds = self._hand_over, self._config.handshake_timeout
            if hand_over is not None and hand_over.send_away(waiting, now, seconds):
                continue
            data, address = waiting.datagrams[0]
            initial = parse_initial(data)
            assert initial is not None  # it was admitted
            refusal = self._admission.refuse(initial, now)
            if refusal is not None:
                waiting.door.send(refusal, address)

    def close_all(self, code: int = CloseCode.OVERLOADED, reason: str = "") -> None:
        """Close every connection."""
        for connection in list(self.connections):
            if connection in self._admission.half_open:
                connection.discard("shutdown")
            else:
                connection.close(code, reason)

    async def stop(self, code: int = CloseCode.OVERLOADED, reason: str = "") -> None:
        """Close every connection and the socket; connection tasks get CLOSE_LINGER_S to end.

        Connections that were closed before with a last push get that time too.
        """
        if self._driver is None or self._door.endpoint is None or self._is_stopped:
            return
        self._is_stopped = True
        self.stop_accepting()
        self.close_all(code, reason)
        self._driver.flush()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_LINGER_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self.connections):
            connection.discard("shutdown")
        self._routes.end_draining()
        self._driver.close()
        for door in self._doors:
            door.close()
        if self._hand_over is not None:
            self._hand_over.close()
        # The ends of connections are reported in the next turn.
        await asyncio.sleep(0)

    # Datagrams.

    def _datagrams_received(
        self, batch: list[Datagram], now: float, door: Door | None = None
    ) -> None:
        routes = self._routes.by_id
        touched: dict[Connection, None] = {}
        for data, address in batch:
            if len(data) < _SHORT_HEADER_BYTES:
                self._counters.datagrams_malformed += 1
                continue
            if data[0] & 0x80:
                target = routes.get(data[6 : 6 + data[5]])
            else:
                target = routes.get(data[1:_SHORT_HEADER_BYTES])
            if isinstance(target, Connection):
                target.receive(data, address, now)
                touched[target] = None
            elif target is None:
                self.handle_unknown(data, address, now, door or self._door)
            elif isinstance(target, Waiting):
                target.add(data, address)
            elif isinstance(target, Elsewhere):
                assert self._hand_over is not None
                self._hand_over.follow(target, data, address, now, door or self._door)
            else:
                self.handle_late(target, address, door or self._door)
        for connection in touched:
            connection.process(now)

    def handle_late(self, draining: Draining, address: Address, door: Door) -> None:
        """Repeat the close of a connection (RFC 9000 10.2.1)."""
        self._counters.datagrams_after_close += 1
        if draining.answers():
            door.send(draining.farewell, address)

    def handle_unknown(
        self,
        data: bytes,
        address: Address,
        now: float,
        door: Door,
        kind: int = DATAGRAM,
        hops: int = 0,
    ) -> None:
        """Answer, hand on, or put a new client in line; a failure costs this datagram only.

        Args:
            data: The datagram.
            address: The peer's.
            now: Loop time.
            door: Where it came in.
            kind: How a sibling handed it on.
            hops: How often siblings handed it on.
        """
        hand_over = self._hand_over
        try:
            if hand_over is None:
                if data[0] & 0x80:
                    self._take(self._admission.judge(data, address, now), data, address, now, door)
                else:
                    self.reset(data, address, now, door)
            elif not hops and hand_over.hand_on(data, address, now, door):
                return
            elif data[0] & 0x80:
                seconds = self._config.handshake_timeout
                found = hand_over.judge(data, address, now, door, kind, hops, seconds)
                self._take(found, data, address, now, door)
            elif not hand_over.ask(data, address, now, door):
                self.reset(data, address, now, door)
        except Exception as error:
            self._handle_error(error, address, now)

    def reset(self, data: bytes, address: Address, now: float, door: Door) -> None:
        """Answer a datagram of a connection that is not known, as after a restart."""
        assert self._resets is not None
        self._counters.datagrams_unknown += 1
        reset = self._resets.answer(data, now)
        if reset:
            if self._hand_over is not None and not self._hand_over.is_mine(data):
                self._counters.resets_astray += 1
            door.send(reset, address)

    def _take(
        self, found: Judgement, data: bytes, address: Address, now: float, door: Door
    ) -> None:
        """Put an admitted client in line, or send the answer."""
        if isinstance(found, Admitted):
            waiting = Waiting(found, data, address, now + self._config.handshake_timeout, door)
            self._routes.by_id[found.first_id] = waiting
            self._waiting.append(waiting)
            self._begin_soon(now)
        elif isinstance(found, bytes):
            door.send(found, address)

    def _handle_error(self, error: Exception, address: Address, now: float) -> None:
        assert self._driver is not None
        self._counters.connection_errors += 1
        self._driver.lines.log(
            logging.ERROR,
            "connection_error",
            now,
            type(error),
            error,
            peer=address[0],
            error=repr(error),
        )

    # New connections.

    def _begin_soon(self, now: float) -> None:
        if self._begin_asked is None:
            assert self._driver is not None
            self._begin_asked = now
            self._driver.loop.call_soon(self._begin_waiting)

    def _begin_waiting(self) -> None:
        """Begin handshakes of clients in line, as many as this turn allows."""
        asked, self._begin_asked = self._begin_asked, None
        if self._is_stopped or self._driver is None:
            return
        clock, waiting = self._driver.clock, self._waiting
        now = clock()
        others = 0.0 if asked is None else now - asked
        share = others * HANDSHAKE_SHARE / (1 - HANDSHAKE_SHARE)
        until = now + min(max(share, MIN_HANDSHAKES_S), MAX_HANDSHAKES_S)
        while waiting:
            self._begin(waiting.popleft(), now)
            now = clock()
            if now >= until:
                break
        if waiting:
            self._begin_soon(now)

    def _begin(self, waiting: Waiting, now: float) -> None:
        """Begin a client's handshake; a failure costs this client only."""
        # With less than half of its time left, the client would hardly be done by then.
        if now > waiting.deadline - self._config.handshake_timeout / 2:
            self._counters.handshakes_expired += 1
            self._abandon(waiting)
            return
        client = waiting.client
        try:
            quic = waiting.door.server(client.original_id, client.retry_id)
        except Exception as error:
            self._abandon(waiting)
            self._handle_error(error, waiting.datagrams[0][1], now)
            return
        connection = self._accept(quic, client, waiting)
        connection.asked_at = waiting.deadline - self._config.handshake_timeout
        for data, address in waiting.datagrams:
            connection.receive(data, address, now)
        connection.process(now)

    def _abandon(self, waiting: Waiting) -> None:
        self._admission.abandon(waiting.client)
        self._routes.by_id.pop(waiting.client.first_id, None)

    def _accept(self, quic: QuicTransport, client: Admitted, waiting: Waiting) -> Connection:
        door = waiting.door
        connection = door.make(
            quic,
            door.endpoint,
            self._driver,
            self,
            self._config,
            self._counters,
            waiting.datagrams[0][1],
            is_client=False,
            deadline=waiting.deadline,
        )
        self._admission.begin(connection, client)
        self._routes.add(connection, client.first_id)
        self._routes.add(connection, quic.connection_id)
        return connection

    def _token_of(self, connection_id: bytes) -> bytes:
        assert self._resets is not None
        return self._resets.token(connection_id)

    def _stalled(self, seconds: float) -> None:
        self._counters.stalls += 1
        logger.warning("process_stalled", extra=keys(seconds=round(seconds, 3)))
        if self._driver is not None:
            self._driver.loop.call_soon(self._break_silence, seconds)

    def _break_silence(self, seconds: float) -> None:
        for connection in self.connections:
            connection.count_silence(seconds)
        self._count_silence(seconds)

    # ConnectionOwner.

    def connection_id_issued(self, connection: Connection, connection_id: bytes) -> None:
        """Route datagrams with this id to connection."""
        self._routes.add(connection, connection_id)

    def connection_id_retired(self, connection: Connection, connection_id: bytes) -> None:
        """Route datagrams with this id nowhere."""
        self._routes.remove(connection, connection_id)

    def connection_opened(self, connection: Connection) -> HandlerFactory | None:
        """Return the factory of the handler, or refuse the connection."""
        if self._admission.complete(connection):
            if self._stages is not None and self._driver is not None:
                self._stages.handshake.record(self._driver.clock() - connection.asked_at)
            return self._handler_factory
        retry_ms = REFUSED_RETRY_MS
        if not self._admission.is_accepting:
            hand_over = self._hand_over
            has_place = hand_over is not None and hand_over.has_place()
            retry_ms = SIBLING_RETRY_MS if has_place else STOPS_RETRY_MS
        connection.close(CloseCode.OVERLOADED, f"retry_after_ms={retry_ms}")
        return None

    def connection_ended(self, connection: Connection, how: Disconnect, farewell: bytes) -> None:
        """Take connection out of everything; its ids stay known for the draining period."""
        self._admission.end(connection, how)
        if how.kind != "handshake":
            self.ends[how.kind].add(how.code)
        if self._is_stopped or self._driver is None or how.kind == "idle" or how is NO_CRYPTO:
            self._routes.forget(connection)
        else:
            self._routes.drain(connection, farewell, self._driver)
        logger.debug(
            "connection_ended",
            extra=keys(connection=connection.connection_id, kind=how.kind, code=how.code),
        )

    def task_started(self, connection: Connection, task: asyncio.Task[None]) -> None:
        """Keep track of the connection's task."""
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        self._counters.tasks = len(self._tasks)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._counters.tasks = len(self._tasks)
