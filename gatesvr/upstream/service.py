"""UpstreamService: the SDK for the services behind the gateway.

::

    service = UpstreamService("zone")

    @service.action("echo")
    async def echo(request: Request) -> bytes:
        return request.data

    service.run("127.0.0.1:8083")
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from .._pb import upstream_pb2 as pb
from .._pb import upstream_pb2_grpc as rpc
from ..config import Range, check_numbers
from ..errors import ConfigError
from ..observe.log import keys
from .gateway_client import GatewayClient
from .request import Handler, Reply, Request, Result, ServiceCounters
from .servicer import Health, Servicer, Stream

if TYPE_CHECKING:
    from .request import Sink

__all__ = ["GatewayClient", "Reply", "Request", "ServiceCounters", "UpstreamService"]

logger = logging.getLogger("gatesvr.service")

FLUSH_S = 1.0
"""Longest wait, at the end, for answers to be written."""

H = TypeVar("H", bound=Callable[[Request], Any])


class UpstreamService:
    """A service behind the gateway: handlers by action, served over gRPC.

    Handlers take a Request and return a Reply, bytes or str (the data of a reply 200) or None. They
    are coroutines, or plain functions where there is nothing to wait for: those cost no task.

    Args:
        name: The service's name, for logs and GetStatus.
        gateway: The gateway's gRPC address for pushes, or what returns it when first needed.
        max_message_bytes: The gateway's message limit.
        max_running: Handlers at once.
        max_waiting: Requests waiting for a handler to end; above it they are refused.
    """

    def __init__(
        self,
        name: str,
        *,
        gateway: str | Callable[[], str] = "",
        max_message_bytes: int = 1 << 20,
        max_running: int = 1_024,
        max_waiting: int = 10_000,
    ) -> None:
        check_numbers(
            max_message_bytes=(max_message_bytes, Range(1, math.inf)),
            max_running=(max_running, Range(1, math.inf)),
            max_waiting=(max_waiting, Range(0, math.inf)),
        )
        self.name = name
        self.gateway = GatewayClient(gateway)
        """Pushes to clients, and registers this service."""
        self.counters = ServiceCounters()
        self.address = ""
        """Where it is served, HOST:PORT."""
        self._max_grpc_bytes = min(2 * max_message_bytes + (1 << 20), 2**31 - 1)
        self._max_running = max_running
        self._max_waiting = max_waiting
        # Handlers, and whether they are coroutine functions.
        self._handlers: dict[str, tuple[Handler, bool]] = {}
        self._prefixes: list[tuple[str, tuple[Handler, bool]]] = []
        self._waiting: deque[tuple[Handler, pb.UpstreamRequest, Sink, float]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.streams: set[Stream] = set()
        """The lanes open now."""
        self._server: grpc.aio.Server | None = None
        self._health: Health | None = None
        self.began = 0.0
        """When serve() was called, monotonic seconds."""
        self.is_stopping = False
        """Whether new requests are refused."""

    def action(self, name: str) -> Callable[[H], H]:
        """Register a handler: ``@service.action("echo")``; ``zone_*`` takes what begins so.

        A name is matched as it is written first, and in lower case then.
        """

        def register(handler: H) -> H:
            entry = (handler, inspect.iscoroutinefunction(handler))
            if name.endswith("*"):
                self._prefixes.append((name[:-1], entry))
            else:
                self._handlers[name] = entry
            return handler

        return register

    # Serving.

    async def serve(self, bind: str = "127.0.0.1:0") -> str:
        """Serve until stop().

        Args:
            bind: HOST:PORT, port 0 for a free one.

        Returns:
            The address with the real port.

        Raises:
            ConfigError: The address cannot be listened on.
        """
        if self._server is not None:
            raise RuntimeError("UpstreamService was served before")
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # else a busy port goes unnoticed
                ("grpc.max_send_message_length", self._max_grpc_bytes),
                ("grpc.max_receive_message_length", self._max_grpc_bytes),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        self._health = Health()
        add_service: Any = rpc.add_UpstreamServiceServicer_to_server
        add_service(Servicer(self), server)
        add_health: Any = health_pb2_grpc.add_HealthServicer_to_server
        add_health(self._health, server)
        try:
            port = server.add_insecure_port(bind)
        except RuntimeError:
            port = 0
        if not port:
            raise ConfigError(
                f"cannot listen on {bind}: in use, or no address of this machine", field="bind"
            )
        await server.start()
        self._server = server
        self.began = time.monotonic()
        self.address = f"{bind.rpartition(':')[0]}:{port}"
        logger.info("service_started", extra=keys(service=self.name, address=self.address))
        return self.address

    async def stop(self, grace: float = 5.0) -> None:
        """Refuse new requests, finish the running ones within grace, close. Idempotent."""
        if self._server is None or self.is_stopping:
            return
        self.is_stopping = True
        if self._health is not None:
            self._health.stopped.set()
        while self._waiting:
            _, message, sink, _ = self._waiting.popleft()
            self._refuse(message, sink)
        if tasks := set(self._tasks):
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        for stream in self.streams:
            stream.end()
        await self._server.stop(FLUSH_S)
        await self.gateway.close()
        logger.info("service_stopped", extra=keys(service=self.name))

    def run(self, bind: str = "127.0.0.1:0") -> None:
        """Serve until SIGINT or SIGTERM; a second one ends the handlers at once."""
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve_until_signal(bind))

    async def _serve_until_signal(self, bind: str) -> None:
        loop = asyncio.get_running_loop()
        signals: deque[asyncio.Event] = deque((asyncio.Event(), asyncio.Event()))
        first, second = signals

        def stop() -> None:
            if signals:
                signals.popleft().set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        await self.serve(bind)
        await first.wait()
        stopping = asyncio.ensure_future(self.stop())
        hurry = asyncio.ensure_future(second.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        for task in self._tasks:
            task.cancel()
        await stopping

    # Requests.

    def accept(self, message: pb.UpstreamRequest, sink: Sink) -> None:
        """Run a request's handler, or queue or refuse it; its answer goes to sink."""
        if self.is_stopping:
            self._refuse(message, sink)
            return
        entry = self._handlers.get(message.action) or self._find(message.action)
        if entry is None:
            self.counters.unknown_actions += 1
            sink.answer(message, Reply(404, "unknown action"), [])
            return
        handler, is_coroutine = entry
        if not is_coroutine:
            self._run_plain(handler, message, sink)
        elif self.counters.running < self._max_running:
            self._start(handler, message, sink)
        elif len(self._waiting) < self._max_waiting:
            until = time.monotonic() + message.timeout_ms / 1000 if message.timeout_ms else 0.0
            self._waiting.append((handler, message, sink, until))
        else:
            self._refuse(message, sink)

    def _find(self, action: str) -> tuple[Handler, bool] | None:
        for name in (action, action.lower()):
            if entry := self._handlers.get(name):
                return entry
            for prefix, entry in self._prefixes:
                if name.startswith(prefix):
                    return entry
        return None

    def _refuse(self, message: pb.UpstreamRequest, sink: Sink) -> None:
        self.counters.refused += 1
        sink.answer(message, Reply(503, "not started", is_refused=True), [])

    def _run_plain(self, handler: Handler, message: pb.UpstreamRequest, sink: Sink) -> None:
        request = Request(message, self)
        try:
            result = handler(request)
        except Exception:
            result = self._failed(message)
        if result is None or isinstance(result, Reply | bytes | str):
            sink.answer(message, Reply.of(result), request.notifies)
        elif inspect.isawaitable(result):
            self._spawn(self._finish(result, request, sink))
        else:
            sink.answer(message, self._failed(message), [])

    def _start(self, handler: Handler, message: pb.UpstreamRequest, sink: Sink) -> None:
        request = Request(message, self)
        awaitable: Any = handler(request)
        self._spawn(self._finish(awaitable, request, sink))

    async def _finish(self, awaitable: Awaitable[Result], request: Request, sink: Sink) -> None:
        try:
            reply = Reply.of(await awaitable)
        except Exception:
            reply = self._failed(request.message)
        except asyncio.CancelledError:
            sink.answer(request.message, Reply(500, "service stopped"), request.notifies)
            raise
        sink.answer(request.message, reply, request.notifies)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        counters = self.counters
        counters.running += 1
        counters.peak_running = max(counters.peak_running, counters.running)
        loop = asyncio.get_running_loop()
        if sys.version_info >= (3, 12):
            # A handler that never waits is done right here.
            task = asyncio.Task(coroutine, loop=loop, eager_start=True)
        else:
            task = loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.counters.running -= 1
        while self._waiting and self.counters.running < self._max_running:
            handler, message, sink, until = self._waiting.popleft()
            if until and time.monotonic() >= until:
                self.counters.expired += 1
                self._refuse(message, sink)
            else:
                self._start(handler, message, sink)

    def _failed(self, message: pb.UpstreamRequest) -> Reply:
        self.counters.failed += 1
        logger.exception(
            "handler_failed", extra=keys(service=self.name, session=message.session_id)
        )
        return Reply(500, "internal error")

    def fill(
        self,
        response: pb.UpstreamResponse,
        message: pb.UpstreamRequest,
        reply: Reply,
        notifies: list[pb.BoundNotify],
    ) -> None:
        """Put a reply into an empty response; what cannot be sent becomes a code 500."""
        self.counters.answers += 1
        try:
            response.code = reply.code
            response.message = reply.message
            response.data = reply.data
            if reply.headers:
                response.headers.update(reply.headers)
            if notifies:
                response.notifies.extend(notifies)
            if reply.is_refused:
                response.status = pb.UPSTREAM_REFUSED
            if reply.size(notifies) > self._max_grpc_bytes - 64:
                raise ValueError("the answer is above gRPC's message limit")
        except (TypeError, ValueError, AttributeError):
            self.counters.failed += 1
            logger.exception("bad_reply", extra=keys(service=self.name, session=message.session_id))
            response.Clear()
            response.code = 500
            response.message = "internal error"
        response.client_seq_id = message.client_seq_id
        response.request_id = message.request_id


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
