"""Gateway: an Engine with its I/O, started and stopped in order."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import Config, join_address
from .config.changes import within_reach
from .control.local import LocalPushApi
from .drain import STOP_REASON, Drain, check_drain
from .engine import Engine
from .errors import CloseCode
from .figures import Figures, PathFigures
from .grpc_api.service import PushService
from .observe.clock import RunningClock
from .observe.log import keys
from .observe.stages import GcPauses
from .observe.version import package_version
from .overload import TICK_S, resident_bytes
from .transport.listener import ConnectionListener
from .transport.web.listener import WebListener
from .upstream.manager import UpstreamManager

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from .cluster.commands import ClusterCommands
    from .cluster.directory import Directory
    from .cluster.node import Node
    from .cluster.peers import Handlers, Peers
    from .control.events import EventStream
    from .control.interface import CommandSet
    from .dispatch.worker import WorkerState
    from .drain import DrainStatus, Handover
    from .observe.metrics import Counters
    from .transport.siblings import Siblings
    from .upstream.manager import EndpointStatus

__all__ = ["Gateway", "Membership"]

logger = logging.getLogger("gatesvr.gateway")

SWEEP_INTERVAL_S = 1.0
"""How often expired sessions, logins and messages are ended."""
RECONNECT_AFTER_MS = 1_000
UPSTREAM_GRACE_S = 0.5
"""Seconds allowed for lanes to close; by then no client waits for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The place of a process among those that are one gateway.

    Attributes:
        node_id: Its name, made anew at each start.
        address: Where the others reach it.
        directory: Says who owns a session.
        peers: Reaches the others; whoever made it serves the calls of Gateway.handlers().
        siblings: Takes and hands on datagrams; None where the process has an address of its own.
    """

    node_id: str
    address: str
    directory: Directory
    peers: Peers
    siblings: Siblings | None = None


class Gateway(LocalPushApi):
    """A whole gateway: QUIC in front, gRPC behind::

        async with Gateway(Config()) as gateway:
            print(gateway.address, gateway.grpc_address)
            await gateway.push("ann", content="hello from inside")
            await forever

    It has the methods of GatewayClient: push(), push_bound(), push_many(), push_stream(),
    broadcast(), multicast(), kick(), get_session(), sessions() and events().

    Args:
        config: The configuration; None for the defaults.
        membership: Its place among several processes; None for one that is alone.

    Raises:
        ConfigError: The certificate cannot be read, or the QUIC library is not installed.
        TypeError: config is not a Config.
    """

    on_drain: Callable[[], None] | None = None
    """Called when a drain begins, whoever asked for it: the owner of the process may have to end
    with it."""

    core = "compiled"
    """Kind of the core."""

    def __init__(self, config: Config | None = None, membership: Membership | None = None) -> None:
        if config is None:
            config = Config()
        elif not isinstance(config, Config):
            raise TypeError(f"config must be a gatesvr.Config, not {type(config).__name__}")
        self.config = config
        clock = RunningClock()
        max_message_bytes = int(config.session.max_message_bytes)
        self.upstream = UpstreamManager(
            config.upstream,
            max_message_bytes,
            push=config.push,
            rules=config.route,
            auth_service=_auth_service(config),
            clock=clock,
        )
        self.engine = engine = Engine(config, self.upstream, clock=clock.now)
        self.node: Node | None = None
        self._cluster_commands: ClusterCommands | None = None
        commands: CommandSet = engine.commands
        if membership is not None:
            # Here, so that one that is alone does not load them.
            from .cluster.commands import ClusterCommands
            from .cluster.node import Node

            self.node = node = Node(
                membership.node_id,
                engine,
                membership.directory,
                membership.peers,
                address=membership.address,
                lease=config.workers.lease,
                on_duplicate=config.session.on_duplicate,
                max_logged_in=config.session.max_logged_in,
            )
            commands = self._cluster_commands = ClusterCommands(
                engine.commands,
                engine.session_manager,
                self.upstream.registry,
                node,
                membership.directory,
                membership.peers,
            )
        super().__init__(commands)
        self._commands = commands
        siblings = membership.siblings if membership is not None else None
        self.session_manager = engine.session_manager
        self.processor = engine.processor
        self.dispatcher = engine.dispatcher
        self.push_service = PushService(
            config.push,
            commands,
            max_message_bytes=max_message_bytes,
            is_ready=lambda: self.is_ready,
            is_shared=siblings is not None,
        )
        self.listener = ConnectionListener(
            config.transport,
            engine.dispatcher.handler,
            clock=clock,
            is_shedding_handshakes=engine.sheds_handshake,
            stages=engine.stages,
            siblings=siblings,
        )
        self.web = WebListener(
            config.transport,
            self.listener,
            engine.dispatcher.handler,
            max_login_bytes=int(config.session.max_login_bytes),
            max_message_bytes=max_message_bytes,
            is_shedding_handshakes=engine.sheds_handshake,
            siblings=siblings,
        )
        self._pauses = GcPauses(engine.stages.gc_pause)
        self._start_time, self._started_at = time.time(), time.monotonic()
        self.more_counters: dict[str, Counters] = {}
        """Counters of what stands beside the gateway, by layer; stats() has them too."""
        self._drain = Drain(
            config.drain,
            engine.dispatcher,
            engine.processor,
            self._stop_accepting,
            self._refuse_clients,
            clock.now,
        )
        self._draining: asyncio.Task[None] | None = None
        self._is_serving = False
        self._sweeper: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._is_started = False
        self._stopping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        """The UDP address that clients connect to: ``HOST:PORT``, an IPv6 host in brackets."""
        return join_address(*self.listener.address[:2])

    @property
    def web_address(self) -> str:
        """The address for web clients, UDP and TCP: ``HOST:PORT``; empty where
        ``transport.web.bind`` is."""
        return join_address(*self.web.address) if self.web.is_on else ""

    @property
    def grpc_address(self) -> str:
        """The TCP address that upstreams push to: ``HOST:PORT``, an IPv6 host in brackets."""
        return self.push_service.address

    @property
    def backend(self) -> str:
        """Name of the QUIC library."""
        return self.listener.backend

    @property
    def certificate(self) -> str:
        """The file of the certificate that clients see; empty where it is in memory only."""
        return self.listener.tls.path

    def stats(self) -> dict[str, dict[str, int]]:
        """Return every counter, by layer and name."""
        layers: dict[str, Counters] = {
            "transport": self.listener.counters,
            "web": self.web.counters,
            **self.engine.counters(),
            "drain": self._drain.counters,
            **self.more_counters,
        }
        if self.node is not None:
            layers["cluster"] = self.node.counters
        return {name: counters.snapshot() for name, counters in layers.items()}

    def figures(self) -> Figures:
        """Return what the gateway does and how well, now: the source of all that shows numbers.

        The figures of queues and of QUIC paths are up to a second old, more where there are more
        than 10,000 sessions: looking at all of them takes several seconds then.

        Complexity: O(1) in sessions and connections.
        """
        counters = self.stats()
        session, dispatch = counters["session"], counters["dispatch"]
        stages = self.engine.stages.snapshot()
        census, paths = self.session_manager.census, self.listener.paths
        not_ready = self.not_ready()
        return Figures(
            time=time.time(),
            start_time=self._start_time,
            uptime_s=time.monotonic() - self._started_at,
            version=package_version(),
            backend=self.backend,
            pid=os.getpid(),
            core=self.core,
            ready=not not_ready,
            not_ready=not_ready,
            draining=self._stopping is not None or self._drain.phase != "serving",
            connections=counters["transport"]["connections"] + counters["web"]["connections"],
            handshakes=counters["transport"]["handshakes"] + counters["web"]["handshakes"],
            sessions={
                "inited": session["inited"],
                "normal": session["sessions"] - session["inited"] - session["suspended"],
                "suspended": session["suspended"],
            },
            in_flight=dispatch["queued"] + dispatch["running"],
            tasks_queued=dispatch["queued"],
            workers=dispatch["workers"],
            workers_busy=dispatch["workers"] - dispatch["idle_workers"],
            queue_messages=census.messages,
            queue_bytes=census.bytes,
            oldest_unacked_s=census.oldest_s,
            path=PathFigures(
                connections=paths.connections,
                rtt_s=paths.rtt_s,
                congestion_window_bytes=paths.congestion_window,
                in_flight_bytes=paths.in_flight,
            ),
            lag_s=self.engine.overload.lag_s,
            memory_bytes=resident_bytes(),
            cpu_s=time.process_time(),
            gc_pause_s=stages["gc_pause"].sum,
            certificate_expires=self.listener.tls.expires(),
            counters=counters,
            closes={kind: codes.snapshot() for kind, codes in self.listener.ends.items()},
            errors=self.session_manager.context.errors.snapshot(),
            batches=list(self.upstream.batch_sizes),
            histograms=stages,
        )

    def upstreams(self) -> list[EndpointStatus]:
        """Return every upstream endpoint and its state."""
        return self.upstream.endpoints()

    def workers(self) -> list[WorkerState]:
        """Return every worker and its task."""
        return self.processor.workers()

    @property
    def is_ready(self) -> bool:
        """Whether new clients should be sent here; not_ready() says why not."""
        return not self.not_ready()

    def not_ready(self) -> list[str]:
        """Return the reasons for which no new clients should be sent here; empty for none.

        One that is not ready goes on to serve. The reasons: it has not started, it drains or stops,
        it is short of memory (``overload.max_memory``), or no endpoint of a service in
        ``upstream.required`` can be used.
        """
        if self._stopping is not None:
            return ["stopping"]
        if not self._is_serving:
            return ["not started"]
        reasons = ["draining"] if self._drain.phase != "serving" else []
        if self.engine.overload.is_short_of_memory:
            reasons.append("short of memory")
        reasons += [
            f"no usable endpoint of {service}"
            for service in self.config.upstream.required
            if not self.upstream.is_usable(service)
        ]
        return reasons

    def events(self, kinds: Iterable[str] = ()) -> EventStream:
        """Return a stream of session events; enter it by ``async with`` to subscribe.

        Args:
            kinds: Kinds to deliver, EventKind or their names; none for all.
        """
        return self._commands.events(kinds)

    def handlers(self) -> Handlers:
        """Return what answers the calls of the gateway's other processes."""
        if self.node is None or self._cluster_commands is None:
            return {}
        return {**self.node.handlers(), **self._cluster_commands.handlers()}

    def apply(self, config: Config) -> list[str]:
        """Put another configuration in force, all of it or none; sockets stay.

        Connections and sessions go on with the limits that they began with. A certificate, a key
        and a token are read anew, whether their settings differ or not.

        Returns:
            The names of the settings that only a restart can change, and that stay as they are.

        Raises:
            ConfigError: A file cannot be read or used, or the new values do not fit those that
                stay.
            RuntimeError: The gateway does not run.
        """
        if self._sweeper is None or self._stopping is not None:
            raise RuntimeError("the gateway does not run")
        config, left = within_reach(self.config, config)
        # What can fail comes first.
        commits = (
            # Endpoints before the routes to them.
            self.upstream.prepare(
                config.upstream,
                push=config.push,
                rules=config.route,
                auth_service=_auth_service(config),
            ),
            self.listener.prepare(config.transport),
            self.web.prepare(config.transport),
            self.push_service.prepare(config.push),
            self.engine.prepare(config),
        )
        for commit in commits:
            commit()
        self._drain.apply(config.drain)
        if self.node is not None:
            self.node.apply(config.session.on_duplicate, config.session.max_logged_in)
        self.config = config
        return left

    def limit(
        self,
        *,
        connections: int,
        queues_bytes: int,
        memory_bytes: int,
        push_streams: int,
        event_subscribers: int,
    ) -> None:
        """Hold to these limits in the place of the configured ones, until the next apply().

        One process of several has a share of each, which changes (workers/shares.py). What there is
        beyond a limit stays.
        """
        self.listener.limit(connections)
        self.web.limit(connections)
        self.push_service.limit(push_streams)
        self.engine.limit(
            connections=connections,
            queues_bytes=queues_bytes,
            memory_bytes=memory_bytes,
            event_subscribers=event_subscribers,
        )

    async def start(self) -> None:
        """Start the layers, from the upstreams to the clients.

        Raises:
            ConfigError: An address cannot be used.
            RuntimeError: The gateway was already started.
        """
        if self._is_started:
            raise RuntimeError("the gateway was already started")
        self._is_started = True
        try:
            if self.engine.gate is not None:
                self.engine.gate.start()
            await self.upstream.start()
            self.processor.start()
            if self.node is not None and self._cluster_commands is not None:
                await self.node.start()
                await self._cluster_commands.start()
            await self.push_service.start()
            await self.listener.start()
            await self.web.start()
        except BaseException:
            await self.stop()
            raise
        self._sweeper = asyncio.create_task(self._sweep(), name="gatesvr-sweep")
        self._is_serving = True
        self._tick()
        self._start_time, self._started_at = time.time(), time.monotonic()
        self._pauses.start()
        logger.info(
            "gateway_started",
            extra=keys(
                udp=self.address,
                web=self.web_address,
                grpc=self.grpc_address,
                backend=self.backend,
            ),
        )

    async def drain(
        self,
        rate: float | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - what it ends is not this call
        *,
        ready_wait: float | None = None,
        to: str = "",
        to_web: str = "",
        handover: Handover | None = None,
    ) -> None:
        """Take the gateway out of service so that its users do not notice, then stop it.

        Readiness is false first; then new clients are refused, clients are asked to leave at a
        pace, and running requests finish; gatesvr/drain.py has the order. A second call waits for
        the first; stop() cuts a drain short. Cancelling the caller does not end it.

        Args:
            rate: Clients asked to leave a second; None for ``drain.rate``.
            timeout: Longest time, seconds, after which what is left is cut off; None for
                ``drain.timeout``.
            ready_wait: Seconds of false readiness before new clients are refused; None for
                ``drain.ready_wait``.
            to: Another gateway, ``HOST:PORT``, to send QUIC clients to; they begin a new session
                there. Empty: they come back here, or go where they know.
            to_web: The same for web clients.
            handover: The other processes of this gateway, which take the sessions: their clients
                notice nothing.

        Raises:
            ConfigError: A number is none, or out of range, or an address is none; no drain has
                begun.
        """
        check_drain(rate, timeout, ready_wait, to, to_web)
        if self._stopping is not None:
            await self.stop()
            return
        if self._draining is None:
            running = self._drain.run(
                rate, timeout, ready_wait, to=to, to_web=to_web, handover=handover
            )
            self._draining = asyncio.ensure_future(self._drain_and_stop(running))
            if self.on_drain is not None:
                self.on_drain()
        await asyncio.shield(self._draining)

    def handover(self, nodes: Sequence[str]) -> Handover | None:
        """Return what leaves this process's sessions to others, for drain().

        Args:
            nodes: Their names in the directory.
        """
        if self.node is None:
            return None
        from .cluster.handover import Handover as SessionHandover

        return SessionHandover(self.node, self.session_manager, nodes, self.engine.clock)

    def drain_status(self) -> DrainStatus:
        """Return how far a drain has come; phase ``serving`` where there is none."""
        return self._drain.status()

    def hurry(self) -> None:
        """Cut short a drain that runs, and close all connections now."""
        self.end_drain()
        self.close_all(CloseCode.OVERLOADED, f"retry_after_ms={RECONNECT_AFTER_MS}")

    def end_drain(self) -> None:
        """Cut short a drain that runs: what is left of it ends now."""
        self._drain.end_now()

    async def _drain_and_stop(self, running: Coroutine[None, None, None]) -> None:
        try:
            await running
        finally:
            await self.stop()

    def close_all(self, code: int, reason: str = "") -> None:
        """Close the connection of every client."""
        self.listener.close_all(code, reason)
        self.web.close_all(code, reason)

    def _stop_accepting(self) -> None:
        self.listener.stop_accepting()
        self.web.stop_accepting()

    def _refuse_clients(self) -> None:
        self._stop_accepting()
        self.session_manager.stop_starting(self.engine.clock())

    async def stop(self) -> None:
        """Stop in order, without a drain. Idempotent.

        New clients are refused, clients get GOAWAY, new requests ERROR 503; running ones have
        ``dispatch.drain_timeout`` to finish, then connections close 4503. A drain that runs is cut
        short: nothing of it has any more time.
        """
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        failure: BaseException | None = None
        grace = 0.0 if self._drain.phase != "serving" else self.config.dispatch.drain_timeout
        for step in (
            self._drain.cut_short,
            self._refuse_clients,
            lambda: self.dispatcher.go_away(STOP_REASON, RECONNECT_AFTER_MS),
            lambda: self.processor.stop(grace),
            lambda: asyncio.sleep(0),  # the last answers leave at the end of this turn
            lambda: self.close_all(CloseCode.OVERLOADED, f"retry_after_ms={RECONNECT_AFTER_MS}"),
            self._stop_sweeping,
            self._cluster_commands.stop if self._cluster_commands is not None else None,
            lambda: self.upstream.stop(UPSTREAM_GRACE_S),
            self.push_service.stop,
            self.web.stop,
            self.listener.stop,
            self.node.stop if self.node is not None else None,
            self._stop_gate,
            self.session_manager.events.end,
            self._drain.stopped,
        ):
            # Each step happens whatever became of those before it; the first failure is raised.
            try:
                done = step() if step is not None else None
                if done is not None:
                    await done
            except BaseException as error:
                logger.error("stop_failed", exc_info=error)
                failure = failure or error
        logger.info("gateway_stopped")
        if failure is not None:
            raise failure

    def _stop_sweeping(self) -> None:
        for work in (self._sweeper, self._ticker):
            if work is not None:
                work.cancel()
        self._pauses.stop()

    async def _stop_gate(self) -> None:
        if self.engine.gate is not None:
            await self.engine.gate.stop()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            self.engine.sweep()
            self.upstream.sweep(self.engine.clock())
            self.push_service.sweep()
            self.listener.paths.look()
            self.listener.follow_certificate()

    def _tick(self) -> None:
        # No task: its wake-up would come a turn of the loop after the time.
        self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        overload = self.engine.overload
        overload.tick()
        self.engine.stages.lag.record(overload.lag_s)
        self.push_service.tell_health()


def _auth_service(config: Config) -> str:
    """Return the service that authenticates clients, empty for none."""
    return config.auth.service if config.auth.mode == "upstream" else ""
