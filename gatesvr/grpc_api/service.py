"""PushService: starts and stops the gRPC server of GatewayService (PROTOCOL 7.5)."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING

import grpc

from ..config import parse_address
from ..config.ports import OPEN_PUSH_PORT
from ..credentials import ServerCertificate
from ..errors import ConfigError
from ..grpcio import make_server, max_grpc_bytes
from ..observe.log import keys
from .guard import Guard
from .health import HEALTH, HealthServicer
from .reflection import ReflectionServicer
from .servicer import SERVICE, GatewayServicer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config import PushConfig
    from ..control.interface import CommandSet

__all__ = ["PushService"]

MAX_STREAMS = 128
"""Concurrent rpcs on one caller's connection; more wait at the caller."""
MAX_CONNECTIONS = 1_000
"""Connections at once, those of strangers included; gRPC closes what comes above it."""
STOP_GRACE_S = 1.0
"""Time that calls under way get, and among several processes PushStreams that do not move."""
SHARED_STOP_GRACE_S = 3.0
"""The same of calls among several processes: longer than a push or a kick looks for its session."""
KEEPALIVE_MS = 60_000
"""Silence after which the server pings the caller."""
MIN_PING_INTERVAL_MS = 30_000
"""Shortest interval at which callers may ping."""

logger = logging.getLogger("gatesvr.grpc_api")


class PushService:
    """The gRPC server of GatewayService, with the standard services of health and reflection.

    Args:
        config: The address, the callers and what they prove. Where they prove nothing the address
            must be loopback, unless ``insecure`` is set.
        commands: Carries out the rpcs.
        max_message_bytes: The largest frame that any client accepts; it sets gRPC's limits.
        is_ready: Says whether the gateway is ready, for the health service.
        is_shared: Whether other processes of the gateway serve the port, too; whoever started them
            keeps it for them.
    """

    def __init__(
        self,
        config: PushConfig,
        commands: CommandSet,
        *,
        max_message_bytes: int = 1 << 20,
        is_ready: Callable[[], bool] = lambda: True,
        is_shared: bool = False,
    ) -> None:
        self._config = config
        self._commands = commands
        self._max_message_bytes = max_message_bytes
        self._server: grpc.aio.Server | None = None
        self._is_ready = is_ready
        self._is_shared = is_shared
        self._health: HealthServicer | None = None
        self._servicer: GatewayServicer | None = None
        self._guard: Guard | None = None
        self._certificate: ServerCertificate | None = None
        self._address = ""

    @property
    def address(self) -> str:
        """The bound ``HOST:PORT``, empty while the server does not run."""
        return self._address

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: The address is in use or not of this machine; a certificate or a token
                cannot be read; or callers prove nothing, the address is not loopback, and
                ``push.insecure`` is not set.
            RuntimeError: The server runs already.
        """
        if self._server is not None:
            raise RuntimeError("the push service runs already")
        host, port = parse_address(self._config.bind)
        await asyncio.get_running_loop().run_in_executor(None, self._probe, host, port)
        config = self._config
        certificate = None
        if config.cert:
            certificate = ServerCertificate(
                config.cert,
                config.key,
                config.client_ca,
                "push",
                self._count_handshake,
                self._count_look,
            )
        guard = None
        if config.token or config.caller:
            clock = asyncio.get_running_loop().time
            guard = Guard(config, self._commands.counters, clock)
        server = make_server(
            max_grpc_bytes(self._max_message_bytes),
            (
                ("grpc.max_concurrent_streams", MAX_STREAMS),
                ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
                # Else a caller that does not read makes windows of megabytes grow, one a stream.
                ("grpc.http2.bdp_probe", 0),
                # A subscriber may get no event for a long time, so both sides ping.
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            ),
            (guard,) if guard is not None else (),
            is_shared=self._is_shared,
        )
        servicer = GatewayServicer(self._commands, guard, config.max_streams)
        server.add_generic_rpc_handlers((servicer.handlers(),))
        counters = self._commands.counters
        health = HealthServicer(SERVICE.full_name, self._is_ready, counters)
        reflection = ReflectionServicer((SERVICE.full_name, HEALTH), counters)
        server.add_generic_rpc_handlers((health.handlers(), reflection.handlers()))
        name = f"[{host}]" if ":" in host else host or "[::]"
        try:
            if certificate is None:
                port = server.add_insecure_port(f"{name}:{port}")
            else:
                port = server.add_secure_port(f"{name}:{port}", certificate.credentials())
        except RuntimeError:
            raise self._bad("cannot listen on it") from None
        await server.start()
        self._server, self._health, self._servicer = server, health, servicer
        self._guard, self._certificate = guard, certificate
        self._address = f"{name}:{port}"
        logger.info("push_listening", extra=keys(address=self._address))

    def tell_health(self) -> None:
        """Tell health watchers if readiness has changed; call it a few times a second."""
        if self._health is not None:
            self._health.look()

    def sweep(self) -> None:
        """Log refusals that were suppressed. Call it once a second."""
        if self._guard is not None:
            self._guard.sweep()

    def prepare(self, config: PushConfig) -> Callable[[], None]:
        """Read certificates and tokens; return a function that puts other settings in force.

        Args:
            config: The settings; those that PushConfig.needs_restart() names stay.

        Raises:
            ConfigError: A file cannot be read or used.
        """
        commits = []
        if self._certificate is not None:
            commits.append(self._certificate.prepare(config.cert, config.key, config.client_ca))
        if self._guard is not None:
            commits.append(self._guard.prepare(config))

        def commit() -> None:
            self._config = config
            for each in commits:
                each()
            if self._servicer is not None:
                self._servicer.apply(config.max_streams)

        return commit

    def limit(self, max_streams: int) -> None:
        """Take another limit of PushStreams; prepare() brings the configured one back."""
        if self._servicer is not None:
            self._servicer.apply(max_streams)

    async def stop(self) -> None:
        """Refuse new calls and give running ones a moment. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        if self._servicer is not None:
            self._servicer.end_events()
        if self._health is not None:
            self._health.end()
        if self._servicer is not None:
            self._servicer.leave()
            loop = asyncio.get_running_loop()
            loop.call_later(STOP_GRACE_S, self._servicer.end_reading)
        await server.stop(SHARED_STOP_GRACE_S if self._is_shared else STOP_GRACE_S)
        if self._guard is not None:
            self._guard.close()
        self._address = ""

    def _probe(self, host: str, port: int) -> None:
        """Try to bind the address, because gRPC does not say why it cannot.

        Raises:
            ConfigError: The address cannot be bound; the message has the system's reason.
        """
        try:
            found = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except OSError as error:
            raise self._bad(error.strerror or str(error)) from None
        except UnicodeError as error:  # a label of the name is empty or too long
            raise self._bad(f"not a host name: {error}") from None
        config = self._config
        if not (config.insecure or config.is_guarded) and not all(
            ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found
        ):
            raise self._bad(OPEN_PUSH_PORT)
        if self._is_shared:
            return
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
                probe.listen(1)
            except OSError as error:
                raise self._bad(error.strerror or str(error)) from None

    def _count_handshake(self) -> None:
        self._commands.counters.tls_handshakes += 1

    def _count_look(self, is_usable: bool) -> None:
        counters = self._commands.counters
        counters.certificates_renewed += is_usable
        counters.certificates_kept += not is_usable

    def _bad(self, why: str) -> ConfigError:
        return ConfigError(f"{self._config.bind}: {why}", field="push.bind")
