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
import contextlib
import errno
import inspect
import logging
import math
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from .._pb import auth_pb2_grpc
from .._pb import upstream_pb2 as pb
from .._pb import upstream_pb2_grpc as rpc
from ..config import Range, check_numbers, parse_address
from ..errors import ConfigError
from ..grpcio import make_server, max_grpc_bytes
from ..observe.descriptors import open_descriptors
from ..observe.limiter import LogLimiter
from ..observe.log import configure, keys
from ..observe.trace import global_tracer, traced
from .authentication import AuthHandler, AuthServicer
from .gateway_client import GatewayClient
from .request import Handler, Reply, Request, Result, ServiceCounters
from .servicer import Health, Servicer, Stream

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from .request import Sink

__all__ = ["UpstreamService"]

logger = logging.getLogger("gatesvr.service")

FAREWELL_S = 0.1
"""Shortest time for which a stopping service refuses requests, while gateways learn of the stop."""
FLUSH_S = 1.0
"""Longest wait, at the end, for gateways to close their lanes and for answers to be written."""

_RESULTS = (Reply, bytes, str)

H = TypeVar("H", bound=Callable[[Request], Any])
A = TypeVar("A", bound=AuthHandler)


class UpstreamService:
    """A service behind the gateway: handlers by action, served over gRPC.

    A handler takes a Request and returns a Reply, bytes or str (the data of a 200 reply) or None.
    It is a coroutine function, or a plain function if it never waits: that one costs no task.

    Where the process has set up OpenTelemetry's SDK before serve(), a traced request's handler runs
    in a span that is a child of the gateway's.

    Args:
        name: The service's name, for logs and GetStatus.
        gateway: The gateway's gRPC address for pushes, or a function that returns it at first use;
            a GatewayClient for a gateway that asks for credentials.
        max_message_bytes: The gateway's message limit.
        max_running: Handlers running at the same time.
        max_waiting: Requests waiting for a handler to end; the service refuses more than these.
    """

    def __init__(
        self,
        name: str,
        *,
        gateway: str | Callable[[], str] | GatewayClient = "",
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
        self.gateway = gateway if isinstance(gateway, GatewayClient) else GatewayClient(gateway)
        """Pushes to clients, and registers this service."""
        self.counters = ServiceCounters()
        self.has_stream = True
        """Whether it serves ProcessStream. Without it each request is a call of its own, as with a
        service that only knows ProcessRequest. Set it before serve()."""
        self.address = ""
        """The address it serves on, HOST:PORT."""
        self._max_grpc_bytes = max_grpc_bytes(max_message_bytes)
        self._max_running = max_running
        self._max_waiting = max_waiting
        # Each with whether it is a coroutine function.
        self._handlers: dict[str, tuple[Handler, bool]] = {}
        self._prefixes: list[tuple[str, tuple[Handler, bool]]] = []
        self._auth_handler: AuthHandler | None = None
        self._waiting: deque[tuple[Handler, pb.UpstreamRequest, Sink, float]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.streams: set[Stream] = set()
        """The lanes open now."""
        self._tracer: Tracer | None = None
        self._lines = LogLimiter(logger)
        self._server: grpc.aio.Server | None = None
        self._health: Health | None = None
        self.began = 0.0
        """When serve() was called, monotonic seconds."""
        self.is_stopping = False
        """Whether new requests are refused."""

    def action(self, name: str) -> Callable[[H], H]:
        """Register a handler: ``@service.action("echo")``; ``zone_*`` matches every such prefix.

        An action matches as written first, then in lower case.
        """

        def register(handler: H) -> H:
            entry = (handler, inspect.iscoroutinefunction(handler))
            if name.endswith("*"):
                self._prefixes.append((name[:-1], entry))
            else:
                self._handlers[name] = entry
            return handler

        return register

    def authenticate(self, handler: A) -> A:
        """Register the handler that says who a client is: ``@service.authenticate``.

        For gateways with ``auth.mode = "upstream"``. It takes a pb.AuthenticateRequest and returns
        an Admission, an openid, or None for a client that is not let in; an exception lets nobody
        in, and the client is told to try later. It may be a coroutine function.
        """
        self._auth_handler = handler
        return handler

    # Serving.

    async def serve(self, bind: str = "127.0.0.1:0") -> str:
        """Serve until stop().

        Args:
            bind: HOST:PORT, port 0 for a free one.

        Returns:
            The address with the real port.

        Raises:
            ConfigError: The service cannot listen on the address.
        """
        if self._server is not None:
            raise RuntimeError("UpstreamService was served before")
        await _check_free(bind)
        server = make_server(
            self._max_grpc_bytes,
            (
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ),
        )
        self._health = Health()
        add_service: Any = rpc.add_UpstreamServiceServicer_to_server
        add_service(Servicer(self), server)
        if self._auth_handler is not None:
            add_auth: Any = auth_pb2_grpc.add_AuthServiceServicer_to_server
            add_auth(AuthServicer(self, self._auth_handler), server)
        add_health: Any = health_pb2_grpc.add_HealthServicer_to_server
        add_health(self._health, server)
        try:
            port = server.add_insecure_port(bind)
        except RuntimeError:
            port = 0
        if not port:
            raise ConfigError(f"cannot listen on {bind}: not an address of this machine")
        self._tracer = global_tracer()
        await server.start()
        self._server = server
        self.began = time.monotonic()
        self.address = f"{bind.rpartition(':')[0]}:{port}"
        logger.info("service_started", extra=keys(service=self.name, address=self.address))
        return self.address

    async def stop(self, grace: float = 5.0) -> None:
        """Say goodbye, refuse new requests, finish running ones within grace. Idempotent."""
        if self._server is None or self.is_stopping:
            return
        self.is_stopping = True
        is_watched = self._health is not None and self._health.watchers > 0
        if self._health is not None:
            self._health.stopped.set()
        while self._waiting:
            _, message, sink, _ = self._waiting.popleft()
            self._refuse(message, sink)
        if is_watched:
            # Gateways stop sending once they know. Requests on their way are refused and retried
            # elsewhere; shutting the server down would break them off.
            await asyncio.sleep(FAREWELL_S)
        if tasks := set(self._tasks):
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        # Frees the port and makes every gateway half-close its lane; closing it from here would
        # lose requests on their way.
        closing = asyncio.ensure_future(self._server.stop(2 * FLUSH_S))
        if self.streams:
            await asyncio.wait({stream.closed for stream in self.streams}, timeout=FLUSH_S)
        for stream in self.streams:
            stream.end()
        await asyncio.wait({closing}, timeout=FLUSH_S)
        await self._server.stop(0)
        await closing
        await self.gateway.close()
        self._lines.close()
        logger.info("service_stopped", extra=keys(service=self.name))

    def run(self, bind: str = "127.0.0.1:0") -> None:
        """Serve until SIGINT or SIGTERM; a second signal cancels the running handlers.

        Prints the address. Logs failures to standard error if the application has set up no
        logging. If it cannot listen, it says so in one line and exits with code 2.
        """
        open_descriptors()
        if not logging.getLogger("gatesvr").hasHandlers():
            configure("warning")
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve_until_signal(bind))
        except ConfigError as error:
            _print(f"{self.name}: {error}", sys.stderr)
            raise SystemExit(2) from None

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
        _print(self._where(), sys.stdout)
        await first.wait()
        stopping = asyncio.ensure_future(self.stop())
        hurry = asyncio.ensure_future(second.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        for task in self._tasks:
            task.cancel()
        await stopping

    def _where(self) -> str:
        where = f"{self.name} serves on {self.address} (TCP, gRPC)"
        gateway = self.gateway.address
        if isinstance(gateway, str) and gateway:
            where += f", pushes through the gateway at {gateway}"
        return where

    # Requests.

    def accept(self, message: pb.UpstreamRequest, sink: Sink) -> None:
        """Run a request's handler, or queue or refuse it; the answer goes to sink."""
        if self.is_stopping:
            self._refuse(message, sink)
            return
        entry = self._handlers.get(message.action) or self._find(message.action)
        if entry is None:
            self.counters.unknown_actions += 1
            sink.answer(message, Reply(404, "unknown action"), [])
            return
        handler, is_coroutine = entry
        if self._tracer is not None and "traceparent" in message.headers:
            handler = self._traced(self._tracer, handler, is_coroutine, message)
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

    def _traced(
        self, tracer: Tracer, handler: Handler, is_coroutine: bool, message: pb.UpstreamRequest
    ) -> Handler:
        """Return a handler in a span of its own: a child of the gateway's call."""
        name = getattr(handler, "__name__", type(handler).__name__)
        attributes: dict[str, str | int] = {
            "gatesvr.action": message.action,
            "gatesvr.request_id": str(message.request_id),
            "gatesvr.session_id": message.session_id,
            "gatesvr.client_seq_id": message.client_seq_id,
        }
        method = f"{self.name}/{name}"
        return traced(tracer, handler, is_coroutine, method, message.headers, attributes)

    def _refuse(self, message: pb.UpstreamRequest, sink: Sink) -> None:
        self.counters.refused += 1
        sink.answer(message, Reply(503, "not started", is_refused=True), [])

    def _run_plain(self, handler: Handler, message: pb.UpstreamRequest, sink: Sink) -> None:
        request = Request(message, self)
        try:
            result = handler(request)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Also a CancelledError: nothing cancels a plain function, so it is the handler's own.
            result = self._failed(request, error)
        if result is None or isinstance(result, _RESULTS):
            sink.answer(message, self._reply(result, request), request.notifies)
        elif inspect.isawaitable(result):
            self._spawn(self._finish(result, request, sink))
        else:
            sink.answer(message, self._reply(result, request), request.notifies)

    def _start(self, handler: Handler, message: pb.UpstreamRequest, sink: Sink) -> None:
        request = Request(message, self)
        try:
            awaitable: Any = handler(request)
        except Exception as error:  # the handler takes other arguments
            sink.answer(message, self._failed(request, error), request.notifies)
            return
        self._spawn(self._finish(awaitable, request, sink))

    async def _finish(self, awaitable: Awaitable[Result], request: Request, sink: Sink) -> None:
        try:
            reply = self._reply(await awaitable, request)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                sink.answer(request.message, Reply(500, "service stopped"), request.notifies)
                raise
            # Any other CancelledError is the handler's own, from something that it waited for.
            reply = self._failed(request, error)
        sink.answer(request.message, reply, request.notifies)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        counters = self.counters
        counters.running += 1
        counters.peak_running = max(counters.peak_running, counters.running)
        loop = asyncio.get_running_loop()
        if sys.version_info >= (3, 12):
            # A handler that never waits finishes right here.
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

    def _reply(self, result: Result, request: Request) -> Reply:
        """Return the reply for a handler's result; a 500 if the result makes none."""
        try:
            return Reply.of(result)
        except (TypeError, ValueError) as error:
            return self._failed(request, error, is_raised=False)

    def _failed(self, request: Request, error: BaseException, *, is_raised: bool = True) -> Reply:
        """Log a handler that raised or returned an unusable result; return its reply."""
        self.counters.failed += 1
        self._log_failure(
            "handler_failed",
            request.message,
            _describe(error) if is_raised else str(error),
            ms=round(1000 * (time.monotonic() - request.began), 1),
            error=error if is_raised else None,
        )
        return Reply(500, "internal error")

    def _log_failure(
        self,
        event: str,
        message: pb.UpstreamRequest,
        reason: str,
        error: BaseException | None = None,
        **more: object,
    ) -> None:
        self._lines.log(
            logging.ERROR,
            event,
            time.monotonic(),
            reason if error is None else type(error),
            error,
            service=self.name,
            action=message.action,
            openid=message.openid,
            session=message.session_id,
            request_id=message.request_id,
            reason=reason,
            **more,
        )

    def fill(
        self,
        response: pb.UpstreamResponse,
        message: pb.UpstreamRequest,
        reply: Reply,
        notifies: list[pb.BoundNotify],
    ) -> None:
        """Put a reply into an empty response; a reply that cannot be sent becomes a 500 or 413."""
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
            if (size := reply.size(notifies)) > self._max_grpc_bytes - 64:
                limit = f"{size} bytes are above the limit of {self._max_grpc_bytes}"
                self._spoil(response, message, 413, "answer too large", limit)
        except Exception as error:
            why = reply.why_bad() or _describe(error)
            self._spoil(response, message, 500, "internal error", why)
        response.client_seq_id = message.client_seq_id
        response.request_id = message.request_id

    def _spoil(
        self,
        response: pb.UpstreamResponse,
        message: pb.UpstreamRequest,
        code: int,
        text: str,
        reason: str,
    ) -> None:
        """Replace a reply that cannot be sent."""
        self.counters.failed += 1
        self._log_failure("bad_reply", message, reason)
        response.Clear()
        response.code = code
        response.message = text


def _describe(error: BaseException) -> str:
    """Return the error's type and text; the type alone if its text cannot be had."""
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"
    except Exception:
        return kind


async def _check_free(bind: str) -> None:
    """Raise ConfigError if bind cannot be listened on; gRPC would only print to stderr."""
    if bind.startswith(("unix:", "unix-abstract:")):
        return
    try:
        host, port = parse_address(bind)
        found = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"cannot listen on {bind}: {error}") from None
    problems: list[OSError] = []
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tried.bind(address)
                if port:
                    tried.listen(1)
        except OSError as error:
            problems.append(error)
    for problem in problems:
        # Serving only some of a name's addresses would send clients to the owner of the others.
        if problem.errno == errno.EADDRINUSE or len(problems) == len(found):
            why = problem.strerror or str(problem)
            raise ConfigError(f"cannot listen on {bind}: {why[:1].lower()}{why[1:]}") from None


def _print(line: str, stream: TextIO | None) -> None:
    """Print a line, if the stream can take it."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=stream, flush=True)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
