"""Gateway: builds the layers, starts them in order and stops them in order; nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from .config import Config, join_address
from .control.commands import PushCommands
from .control.events import EventStream
from .control.local import LocalPushApi
from .dispatch.dispatcher import Dispatcher
from .dispatch.processor import AsyncProcessor
from .errors import CloseCode
from .grpc_api.service import PushService
from .observe.clock import RunningClock
from .observe.log import keys
from .session.manager import SessionManager
from .transport.listener import ConnectionListener
from .upstream.manager import UpstreamManager
from .upstream.router import UpstreamRouter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from .observe.metrics import Counters

__all__ = ["Gateway"]

logger = logging.getLogger("gatesvr.gateway")

RECONNECT_AFTER_MS = 1_000
UPSTREAM_GRACE_S = 0.5
"""What lanes get to close in order; whoever waited for an answer has gone by then."""
STOP_REASON = "gateway stops"


class Gateway(LocalPushApi):
    """A whole gateway: QUIC in front, gRPC behind::

        async with Gateway(Config()) as gateway:
            print(gateway.address, gateway.grpc_address)
            await gateway.push("ann", content="hello from inside")
            await forever

    What GatewayClient does from outside it does itself: push(), push_bound(), push_many(),
    push_stream(), broadcast(), multicast(), kick(), get_session(), sessions() and events().

    Args:
        config: The configuration.

    Raises:
        ConfigError: The certificate cannot be read, or the QUIC library is not installed.
    """

    core = "compiled"
    """How the core runs."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config = config or Config()
        # One clock for all layers: what is due in one is due in all, and a stall counts in none.
        running_clock = RunningClock()
        clock = running_clock.now
        max_message_bytes = int(config.session.max_message_bytes)
        self.session_manager = SessionManager(
            config.session,
            config.transport,
            config.push,
            wall_ms=lambda now: int((time.time() + now - clock()) * 1000),
        )
        self.router = UpstreamRouter(config.route, config.upstream.order)
        self.upstream = UpstreamManager(
            config.upstream,
            max_message_bytes,
            push=config.push,
            rules=config.route,
            clock=running_clock,
        )
        self.processor = AsyncProcessor(config.dispatch, self.upstream, clock=clock)
        self.dispatcher = Dispatcher(
            config, self.session_manager, self.router, self.upstream, self.processor, clock
        )
        commands = PushCommands(self.session_manager, max_message_bytes, clock)
        super().__init__(commands)
        self.push_service = PushService(
            config.push,
            commands,
            self.session_manager.events,
            self.upstream.registry,
            max_message_bytes=max_message_bytes,
        )
        self.listener = ConnectionListener(
            config.transport, self.dispatcher.handler, clock=running_clock
        )
        self._clock = clock
        self._sweeper: asyncio.Task[None] | None = None
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
    def grpc_address(self) -> str:
        """The TCP address that upstreams push to: ``HOST:PORT``, an IPv6 host in brackets."""
        return self.push_service.address

    @property
    def backend(self) -> str:
        """Name of the QUIC library."""
        return self.listener.backend

    @property
    def certificate(self) -> str:
        """The file with the certificate that clients see; empty where it is in memory only."""
        return self.listener.tls.path

    def stats(self) -> dict[str, dict[str, int | float]]:
        """Return every counter, by layer and name."""
        layers: dict[str, Counters] = {
            "transport": self.listener.counters,
            "session": self.session_manager.counters,
            "dispatch": self.processor.counters,
            "upstream": self.upstream.counters,
            "push": self._commands.counters,
        }
        return {name: counters.snapshot() for name, counters in layers.items()}

    def events(self, kinds: Iterable[str] = ()) -> EventStream:
        """Return what happens to sessions, as it happens, to be entered by ``async with``.

        Args:
            kinds: Which events, EventKind or their names; none for all.
        """
        return EventStream(self.session_manager.events, kinds)

    async def start(self) -> None:
        """Start the layers, from the upstreams to the clients.

        Raises:
            ConfigError: An address cannot be used.
            RuntimeError: It was started before.
        """
        if self._is_started:
            raise RuntimeError("the gateway was started before")
        self._is_started = True
        try:
            await self.upstream.start()
            self.processor.start()
            await self.push_service.start()
            await self.listener.start()
        except BaseException:
            await self.stop()
            raise
        self._sweeper = asyncio.create_task(self._sweep(), name="gatesvr-sweep")
        logger.info(
            "gateway_started",
            extra=keys(udp=self.address, grpc=self.grpc_address, backend=self.backend),
        )

    async def stop(self) -> None:
        """Stop in order; may be called any number of times.

        Clients are told by GOAWAY, new requests get ERROR 503, running ones go on for
        ``dispatch.drain_timeout``, then connections close 4503.
        """
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self.listener.stop_accepting()
        self.dispatcher.go_away(STOP_REASON, RECONNECT_AFTER_MS)
        await self.processor.stop(self.config.dispatch.drain_timeout)
        # The last answers leave at the end of this turn.
        await asyncio.sleep(0)
        self.listener.close_all(CloseCode.OVERLOADED, f"retry_after_ms={RECONNECT_AFTER_MS}")
        if self._sweeper is not None:
            self._sweeper.cancel()
        # Each is stopped whatever becomes of those before it.
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.session_manager.events.end)
            stack.push_async_callback(self.listener.stop)
            stack.push_async_callback(self.push_service.stop)
            stack.push_async_callback(self.upstream.stop, UPSTREAM_GRACE_S)
        logger.info("gateway_stopped")

    async def _sweep(self) -> None:
        """Look at what can expire, for as long as the gateway runs."""
        while True:
            await asyncio.sleep(self.config.session.sweep_interval)
            try:
                self.session_manager.sweep(self._clock())
            except Exception:
                self.session_manager.counters.internal_errors += 1
                logger.exception("sweep_failed")
