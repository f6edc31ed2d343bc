"""Engine: the gateway without I/O: sessions, routing, dispatch and commands, built and wired once.

Gateway adds sockets, lanes, servers and timers. The simulator in tests/sim runs the same Engine on
virtual connections and upstreams.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from .auth.gate import Gate
from .auth.reasons import AuthCounters
from .config.memory import memory_limit
from .control.commands import Commands
from .dispatch.dispatcher import Dispatcher
from .dispatch.processor import AsyncProcessor
from .errors import ConfigError
from .observe.stages import Stages
from .observe.trace import request_tracer
from .overload import Overload
from .protocol.link import HIGH_WATER_BYTES
from .session.manager import SessionManager
from .upstream.router import UpstreamRouter

if TYPE_CHECKING:
    from collections.abc import Callable

    from .auth.gate import Authenticator
    from .config import AuthConfig, Config
    from .observe.metrics import Counters
    from .observe.trace import RequestTracer
    from .upstream.manager import UpstreamManager

__all__ = ["Engine"]

logger = logging.getLogger("gatesvr.engine")


class Engine:
    """The layers between the connections and the upstreams.

    The transport calls ``dispatcher.handler(link)`` for each new connection; the owner calls
    ``sweep()`` once a second, and ``overload.tick()`` every overload.TICK_S.

    Args:
        config: The whole configuration.
        upstream: Makes the calls, and has the registry of endpoints. The caller starts and stops
            it, because its lanes are I/O.
        clock: Loop time. All layers share it, so that a stall of the process counts in none.
        wall_clock: Seconds since the epoch.
        random_bytes: Makes session ids and tokens.
        manager: The class to make the sessions' manager of.
        high_water: Bytes not yet transmitted at which a session stops feeding its link.

    Attributes:
        overload: Says what to shed.
        stages: How long things take.
        session_manager: Makes, finds and ends sessions.
        gate: Lets clients in; None lets everybody in. After a reload it may be at rest.
        router: Names the service of an action.
        upstream: As given.
        processor: Runs the tasks.
        dispatcher: Makes the connections' handlers.
        commands: Pushes, kicks, registrations and the rest of the API.
    """

    def __init__(
        self,
        config: Config,
        upstream: UpstreamManager,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
        manager: type[SessionManager] = SessionManager,
        high_water: int = HIGH_WATER_BYTES,
    ) -> None:
        self.clock = clock
        self.upstream = upstream
        self.stages = stages = Stages()
        self.overload = overload = Overload(config.overload, memory_limit())
        self.session_manager = manager(
            config.session,
            config.transport,
            config.push,
            random_bytes=random_bytes,
            wall_ms=lambda now: int((wall_clock() + now - clock()) * 1000),
            high_water=high_water,
            needs_auth=config.auth.mode != "none",
            is_shedding=overload.sheds_session,
            stages=stages,
        )
        self.auth_counters = AuthCounters()
        self._auth = config.auth
        self._wall_clock = wall_clock
        authenticator = self._authenticator(config.auth)
        self.gate: Gate | None = None
        if authenticator is not None:
            self.gate = self._gate(authenticator, config.auth)
        self.router = UpstreamRouter(config.route, config.upstream.order)
        self.processor = AsyncProcessor(
            config.dispatch,
            upstream,
            clock=clock,
            stages=stages if config.metrics.stages else None,
        )
        self.dispatcher = Dispatcher(
            config,
            self.session_manager,
            self.router,
            upstream,
            self.processor,
            clock,
            high_water,
            self.gate,
            _tracer(config),
        )
        self.commands = Commands(
            self.session_manager,
            upstream.registry,
            config.session.max_message_bytes,
            config.push.max_broadcasts,
            clock,
            wall_clock,
            overload.sheds_push,
            overload.sheds_broadcast,
        )

    def sheds_handshake(self, ip: str) -> bool:
        """Return whether to drop the Initial of a new client, who may come back to a session.

        A first packet does not show who resumes. Whoever comes from the network of a session may.
        """
        return (
            self.overload.level > 0
            and not self.session_manager.is_known(ip)
            and self.overload.sheds_handshake()
        )

    def _gate(self, authenticator: Authenticator, config: AuthConfig) -> Gate:
        return Gate(authenticator, config, self.auth_counters, self.clock, self._wall_clock)

    def _authenticator(self, config: AuthConfig) -> Authenticator | None:
        """Return what says who a client is; None where nobody has to prove anything.

        Raises:
            ConfigError: Keys cannot be read.
        """
        if config.mode == "jwt":
            from .auth.jwt import JwtAuthenticator

            return JwtAuthenticator(config, self.auth_counters)
        if config.mode == "upstream":
            from .auth.upstream import UpstreamAuthenticator

            return UpstreamAuthenticator(
                config, self.auth_counters, self.upstream.ask, self._wall_clock
            )
        return None

    def prepare(self, config: Config) -> Callable[[], None]:
        """Read the keys anew; return a function that puts another configuration in force.

        Requests, connections and sessions that there are go on; each part's apply() says what they
        keep.

        Raises:
            ConfigError: Keys cannot be read, or OpenTelemetry is not installed.
        """
        auth, gate = config.auth, self.gate
        authenticator = None if gate is None else gate.authenticator
        if authenticator is None or not authenticator.is_fresh or auth != self._auth:
            authenticator = self._authenticator(auth)
        tracer = _tracer(config)

        def commit() -> None:
            self._auth = auth
            if self.gate is not None:
                self.gate.apply(authenticator, auth)
            elif authenticator is not None:
                self.gate = self._gate(authenticator, auth)
                self.gate.start()
            self.overload.apply(config.overload)
            self.session_manager.apply(
                config.session, config.transport, config.push, needs_auth=auth.mode != "none"
            )
            self.router.apply(config.route, config.upstream.order)
            self.processor.apply(config.dispatch)
            self.dispatcher.apply(config, self.gate if authenticator is not None else None)
            self.dispatcher.trace(tracer)
            self.commands.pushes.apply(config.push.max_broadcasts)

        return commit

    def limit(
        self, *, connections: int, queues_bytes: int, memory_bytes: int, event_subscribers: int
    ) -> None:
        """Take other limits of the whole, until a commit of prepare()."""
        self.overload.limit(memory_bytes)
        self.session_manager.limit(
            connections=connections,
            queues_bytes=queues_bytes,
            event_subscribers=event_subscribers,
        )

    def counters(self) -> dict[str, Counters]:
        """Return the counters of each layer, gauges brought up to date."""
        return {
            "auth": self.auth_counters,
            "session": self.session_manager.counters,
            "dispatch": self.processor.counters,
            "upstream": self.upstream.counters,
            "push": self.commands.counters,
            "overload": self.overload.counters,
        }

    def sweep(self) -> None:
        """End what has expired: sessions, logins, messages. Call it once a second."""
        try:
            self.session_manager.sweep(self.clock())
            self.dispatcher.moved.sweep(self.clock())
            if self.overload.sheds_slowest:
                self.session_manager.cut_slowest(self.clock())
            if self.gate is not None:
                self.gate.sweep(self.clock())
        except Exception:
            self.session_manager.counters.internal_errors += 1
            logger.exception("sweep_failed")


def _tracer(config: Config) -> RequestTracer | None:
    """Return the tracer of the requests, None where none is traced.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    trace = config.trace
    if not trace.enabled:
        return None
    try:
        return request_tracer(trace.one_in, trusts_clients=trace.trust_clients)
    except ImportError:
        raise ConfigError(
            "needs OpenTelemetry: pip install gatesvr[trace]", field="trace.enabled"
        ) from None
