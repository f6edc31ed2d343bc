"""Traces by OpenTelemetry's API: the spans of a request, and the headers that carry its trace on.

::

    client    CLIENT    echo
    gateway   SERVER    zone/echo      from the request's acceptance to its answer
                INTERNAL  queue        until a worker takes it
                CLIENT    gatesvr.proto.UpstreamService/ProcessRequest
    service   SERVER        zone/echo  the handler

Names and attributes follow OpenTelemetry's conventions for RPC. Nothing here imports OpenTelemetry
until somebody asks for a tracer, and there is none where no SDK is set up: each user asks once, and
then pays one comparison with None a request.
"""

from __future__ import annotations

import inspect
import os
import random
import re
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

__all__ = [
    "CallTrace",
    "RequestTrace",
    "RequestTracer",
    "begin_call",
    "global_tracer",
    "request_tracer",
    "start_sdk",
    "traced",
]

METHOD = "gatesvr.proto.UpstreamService/ProcessRequest"
"""The method by which a call is told, also where it shares a ProcessStream."""
FLUSH_S = 2.0
"""Longest wait for spans not yet exported when the process ends."""
MAX_HEADER = 512
"""Longest traceparent and tracestate of a client that are looked at, characters."""

MAX_STATES = 32
_STATE = re.compile(
    r"([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[ -+\x2d-<>-~]{0,255}[!-+\x2d-<>-~]"
)
"""A member of a tracestate, as W3C's Trace Context 3.3.1 has it."""

_HEADERS = ("traceparent", "tracestate", "baggage")
_SCOPE = "gatesvr"
_SERVER_FAULT = 500
_FAULT = 400


def global_tracer() -> Tracer | None:
    """Return the tracer of the SDK that this process has set up, None where it has none."""
    # Whoever set one up has imported it: no process pays for an import that it does not use.
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    tracer: Tracer = provider.get_tracer(_SCOPE)
    return tracer


def start_sdk() -> Callable[[], None]:
    """Set up OpenTelemetry's SDK by the usual ``OTEL_*`` variables, unless the process has one.

    Returns:
        What exports the rest of the spans, FLUSH_S at most, and ends the SDK.

    Raises:
        ImportError: The SDK is not installed.
        LookupError: An exporter that OTEL_TRACES_EXPORTER names is not installed.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if global_tracer() is not None:
        return lambda: None
    # The variables win over what is given here only if they name no service.
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: _SCOPE}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(","):
        if (name := name.strip()) and name != "none":
            provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    trace.set_tracer_provider(provider)

    def end() -> None:
        # A collector that does not answer may hold up nothing.
        thread = threading.Thread(target=provider.shutdown, name="spans", daemon=True)
        thread.start()
        thread.join(FLUSH_S)

    return end


def _exporter(name: str) -> Any:
    """Return a new exporter of the kind that a name of OTEL_TRACES_EXPORTER means."""
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", ""
        )
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = [*entry_points(group="opentelemetry_traces_exporter", name=name)]
    if not found:
        raise LookupError(f"the exporter {name} is not installed (OTEL_TRACES_EXPORTER)")
    return found[0].load()()


# The gateway.


def request_tracer(one_in: int, *, trusts_clients: bool) -> RequestTracer | None:
    """Return the tracer of a gateway's requests, None where none of them could have a trace.

    Args:
        one_in: Of so many requests without a trace of their own one begins one; 0 for none.
        trusts_clients: Whether a request's headers may bring a trace. Without an SDK it is passed
            on.

    Raises:
        ImportError: OpenTelemetry's API is not installed.
    """
    from opentelemetry import trace

    tracer = global_tracer()
    if tracer is None:
        tracer, one_in = trace.get_tracer(_SCOPE), 0
    if not one_in and not trusts_clients:
        return None
    return RequestTracer(tracer, 1 / one_in if one_in else 0.0, trusts_clients=trusts_clients)


class RequestTracer:
    """Chooses the requests to trace, and makes their spans.

    Args:
        tracer: OpenTelemetry's.
        share: Of the requests without a trace of their own that begin one, 0 … 1.
        trusts_clients: Whether a request's headers may bring a trace.

    Attributes:
        trusts_clients: As given.
    """

    def __init__(self, tracer: Tracer, share: float, *, trusts_clients: bool) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.trusts_clients = trusts_clients
        self.tracer = tracer
        self._share = share
        self._no_parent: Context = Context()
        self._propagator = TraceContextTextMapPropagator()
        self._current = trace.get_current_span

    def choose(self, headers: Mapping[str, str] | None) -> Context | None:
        """Return the context that a request's trace goes on in; None for no trace.

        Args:
            headers: Those of a trusted client's request, None for a client that is not trusted.
        """
        if headers:
            # OpenTelemetry would log a line for each that it does not take.
            carrier = {k.lower(): v for k, v in headers.items() if len(v) <= MAX_HEADER}
            if "traceparent" in carrier:
                if not _is_state(carrier.get("tracestate", "")):
                    del carrier["tracestate"]
                parent = self._propagator.extract(carrier, self._no_parent)
                if self._current(parent).get_span_context().is_valid:
                    return parent
        return self._no_parent if random.random() < self._share else None  # noqa: S311

    def inject(self, context: Context) -> dict[str, str]:
        """Return the headers that carry a context on."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context)
        return carrier


def _is_state(header: str) -> bool:
    """Return whether OpenTelemetry reads a tracestate, "" for none, without a word in the log."""
    keys = []
    for member in filter(None, (part.strip(" \t") for part in header.split(","))):
        if (match := _STATE.fullmatch(member)) is None:
            return False
        keys.append(match[1])
    return len(keys) == len(set(keys)) <= MAX_STATES


class RequestTrace:
    """One request's spans in the gateway. Each step may come once, or never; end() ends them all.

    Args:
        tracer: Chose the request.
        parent: What its choose() returned.
        method: Names the root: service and action, as the configuration has them.
        attributes: Further ones of the root.
        headers: As with choose().

    Attributes:
        is_recording: Whether the spans are exported. Where the client or the SDK's sampler chose
            not to, the request still carries on that it did.
        trace_id: 32 hexadecimal digits, empty where nothing is recorded.
        answer_headers: For the answer and its notifies, empty where nothing is recorded.
        call_headers: For the upstream request, from call_began() on.
    """

    __slots__ = (
        "_baggage",
        "_call",
        "_context",
        "_queue",
        "_root",
        "_tracer",
        "answer_headers",
        "call_headers",
        "is_recording",
        "trace_id",
    )

    def __init__(
        self,
        tracer: RequestTracer,
        parent: Context,
        method: str,
        attributes: Mapping[str, str | int],
        headers: Mapping[str, str] | None,
    ) -> None:
        from opentelemetry import trace

        self._tracer = tracer
        self._root: Span | None = tracer.tracer.start_span(
            method,
            parent,
            trace.SpanKind.SERVER,
            {"rpc.system.name": _SCOPE, "rpc.method": method, **attributes},
        )
        self._context = trace.set_span_in_context(self._root, parent)
        self._queue: Span | None = None
        self._call: Span | None = None
        self._baggage = next((v for k, v in (headers or {}).items() if k.lower() == "baggage"), "")
        self.is_recording = self._root.is_recording()
        self.trace_id = ""
        self.answer_headers: dict[str, str] = {}
        self.call_headers: dict[str, str] = {}
        if self.is_recording:
            self.trace_id = trace.format_trace_id(self._root.get_span_context().trace_id)
            self.answer_headers = tracer.inject(self._context)
            self._queue = tracer.tracer.start_span("queue", self._context)

    def call_began(self) -> dict[str, str]:
        """End the time in the queue, begin the call; return the upstream request's headers."""
        from opentelemetry import trace

        context = self._context
        if self._queue is not None:
            self._queue.end()
            self._queue = None
            self._call = self._tracer.tracer.start_span(
                METHOD,
                context,
                trace.SpanKind.CLIENT,
                {"rpc.system.name": "grpc", "rpc.method": METHOD},
            )
            context = trace.set_span_in_context(self._call, context)
        self.call_headers = self._tracer.inject(context)
        if self._baggage:
            self.call_headers["baggage"] = self._baggage
        return self.call_headers

    def call_ended(self, address: str, status: str, code: int) -> None:
        """End the call.

        Args:
            address: The endpoint, HOST:PORT or unix:PATH, empty where none was chosen.
            status: Of gRPC, or our own word.
            code: The answer's, or the ERROR's.
        """
        call, self._call = self._call, None
        if call is None:
            return
        host, _, port = address.rpartition(":")
        if address.startswith("unix:"):
            call.set_attribute("server.address", address.removeprefix("unix:"))
        elif host:
            call.set_attribute("server.address", host.strip("[]"))
            call.set_attribute("server.port", int(port))
        call.set_attribute("rpc.response.status_code", status)
        _set_code(call, code, _FAULT)
        call.end()

    def end(self, code: int, ended: int | None = None) -> None:
        """End the request by its code, and what is still open with it.

        Args:
            code: The answer's, or the ERROR's.
            ended: When that was, ns since the epoch; None for now.
        """
        root, self._root = self._root, None
        if root is None:
            return
        for span in (self._queue, self._call):
            if span is not None:
                span.end()
        self._queue = self._call = None
        root.set_attribute("rpc.response.status_code", str(int(code)))
        _set_code(root, code, _SERVER_FAULT)
        root.end(ended)


def _set_code(span: Span, code: int, fault: int) -> None:
    """Set a request's code on a span; it is an error from the code ``fault`` on."""
    from opentelemetry.trace import StatusCode

    span.set_attribute("gatesvr.code", int(code))
    if code >= fault:
        span.set_attribute("error.type", str(int(code)))
        span.set_status(StatusCode.ERROR)


# An upstream service.


def traced(
    tracer: Tracer,
    handler: Callable[[Any], Any],
    is_coroutine: bool,
    method: str,
    headers: Mapping[str, str],
    attributes: Mapping[str, str | int],
) -> Callable[[Any], Any]:
    """Return a handler in a span of its own, which is the current one while it runs.

    Args:
        tracer: OpenTelemetry's.
        handler: Takes a request.
        is_coroutine: Whether it is a coroutine function.
        method: Names the span.
        headers: The request's; they have a traceparent.
        attributes: Of the span.
    """
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name: headers[name] for name in _HEADERS if name in headers}
    parent = TraceContextTextMapPropagator().extract(carrier)

    def begin() -> Span:
        return tracer.start_span(
            method,
            parent,
            trace.SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": METHOD, **attributes},
        )

    async def finish(span: Span, awaitable: Any) -> Any:
        with trace.use_span(span, end_on_exit=True):
            result = await awaitable
            _set_result(span, result)
            return result

    async def run(request: Any) -> Any:
        span = begin()
        with trace.use_span(span, end_on_exit=True):
            result = await handler(request)
            _set_result(span, result)
            return result

    def run_plain(request: Any) -> Any:
        span = begin()
        is_left = False
        try:
            with trace.use_span(span):
                result = handler(request)
            if inspect.isawaitable(result):
                is_left = True
                return finish(span, result)
            _set_result(span, result)
            return result
        finally:
            if not is_left:
                span.end()

    return run if is_coroutine else run_plain


def _set_result(span: Span, result: object) -> None:
    code = getattr(result, "code", 200)
    if isinstance(code, int):
        span.set_attribute("rpc.response.status_code", "OK")
        _set_code(span, code, _SERVER_FAULT)


# The client.


class CallTrace:
    """The span of one request of a client.

    Attributes:
        headers: The request's, and those that carry the trace.
    """

    __slots__ = ("_span", "headers")

    def __init__(self, span: Span, headers: Mapping[str, str]) -> None:
        self._span = span
        self.headers = headers

    def end(self, code: int, error: BaseException | None = None) -> None:
        """End it by its answer's code, or by what went wrong."""
        from opentelemetry.trace import StatusCode

        span = self._span
        if error is not None:
            span.set_status(StatusCode.ERROR, str(error))
            span.set_attribute("error.type", type(error).__name__)
        if code:
            span.set_attribute("rpc.response.status_code", str(code))
            _set_code(span, code, _FAULT)
        span.end()


def begin_call(
    tracer: Tracer, method: str, headers: Mapping[str, str] | None, server: tuple[str, int]
) -> CallTrace:
    """Begin the span of a client's request, a child of the current one.

    Args:
        tracer: OpenTelemetry's.
        method: The action.
        headers: The request's; a traceparent among them stays the application's.
        server: The gateway.
    """
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    span = tracer.start_span(
        method,
        kind=trace.SpanKind.CLIENT,
        attributes={
            "rpc.system.name": _SCOPE,
            "rpc.method": method,
            "server.address": server[0],
            "server.port": server[1],
        },
    )
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(span))
    return CallTrace(span, {**carrier, **(headers or {})})
