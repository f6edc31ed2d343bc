"""OpenTelemetry's SDK as the command sets it up, and a service's handlers in their spans."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr import ConfigError, Gateway
from gatesvr.config import load
from gatesvr.observe.trace import (
    RequestTrace,
    begin_call,
    global_tracer,
    request_tracer,
    start_sdk,
    traced,
)
from gatesvr.service.request import Reply

trace = pytest.importorskip("opentelemetry.trace", reason="OpenTelemetry is an extra")
pytest.importorskip("opentelemetry.sdk.trace", reason="OpenTelemetry is an extra")

from ..spans import Spans, assert_child, attributes  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import TracerProvider

TRACE = f"00-{7:032x}-{9:016x}-01"


@pytest.fixture
def provided(monkeypatch: pytest.MonkeyPatch) -> list[TracerProvider]:
    """The providers that start_sdk() makes the process's; it can have only one for good."""
    providers: list[TracerProvider] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)
    return providers


@pytest.mark.parametrize(
    ("variables", "service", "exporters"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, "gatesvr", []),
        (
            {"OTEL_TRACES_EXPORTER": "console, console", "OTEL_SERVICE_NAME": "edge"},
            "edge",
            ["ConsoleSpanExporter"] * 2,
        ),
        (
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_RESOURCE_ATTRIBUTES": "service.name=wall"},
            "wall",
            [],
        ),
    ],
)
def test_the_sdk_is_set_up_by_its_own_variables(
    provided: list[TracerProvider],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    service: str,
    exporters: list[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    end = start_sdk()
    (provider,) = provided
    processors: Any = provider._active_span_processor._span_processors
    assert [type(p.span_exporter).__name__ for p in processors] == exporters
    assert provider.resource.attributes["service.name"] == service
    end()


def test_an_exporter_that_is_not_installed_is_named(
    provided: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")
    with pytest.raises(LookupError, match="exporter pigeon is not installed"):
        start_sdk()


def test_a_program_keeps_its_own_sdk(spans: Spans, provided: list[TracerProvider]) -> None:
    start_sdk()()
    assert provided == []
    assert global_tracer() is not None


def test_there_is_no_tracer_without_an_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    assert global_tracer() is None
    assert request_tracer(1, trusts_clients=False) is None
    assert request_tracer(1, trusts_clients=True) is not None  # to pass traces on
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    assert global_tracer() is None


def test_without_an_sdk_a_trusted_trace_is_passed_on_as_it_is() -> None:
    tracer = request_tracer(1, trusts_clients=True)
    assert tracer is not None
    assert tracer.choose({}) is None
    headers = {"TraceParent": TRACE, "tracestate": "a=b", "baggage": "c=d", "x": "y" * 600}
    parent = tracer.choose(headers)
    assert parent is not None
    passed = RequestTrace(tracer, parent, "zone/*", {}, headers)
    assert passed.call_began() == {"traceparent": TRACE, "tracestate": "a=b", "baggage": "c=d"}
    assert (passed.is_recording, passed.trace_id, passed.answer_headers) == (False, "", {})
    passed.call_ended("127.0.0.1:9", "OK", 200)
    passed.end(200)


@pytest.mark.parametrize(
    ("state", "is_taken"),
    [
        ("a=b,c@d=e f", True),
        ("1c@d=e,", True),
        ("\u00e9=b", False),
        ("a=b\n2026-01-01 error forged", False),
        ("a=b,a=c", False),
        ("1a=b", False),
        ("a", False),
        ("a=", False),
        ("A=b", False),
        (",".join(f"k{i}=v" for i in range(32)), True),
        (",".join(f"k{i}=v" for i in range(33)), False),
    ],
)
def test_a_clients_tracestate_writes_nothing_into_the_log(
    caplog: pytest.LogCaptureFixture, state: str, is_taken: bool
) -> None:
    tracer = request_tracer(0, trusts_clients=True)
    assert tracer is not None
    context = tracer.choose({"traceparent": TRACE, "tracestate": state})
    assert context is not None
    found = trace.get_current_span(context).get_span_context()
    assert found.trace_id == 7
    assert bool(found.trace_state) == is_taken
    assert not caplog.records


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"trace\.enabled: .*pip install gatesvr\[trace\]"):
        Gateway(load(sets=["trace.enabled=true"], environ={}))


@pytest.mark.parametrize("kind", ["coroutine", "plain", "awaitable"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_handler_runs_in_its_span(spans: Spans, kind: str, fails: bool) -> None:
    tracer = spans.provider.get_tracer("test")

    def work(request: str) -> Reply:
        with tracer.start_as_current_span("work"):
            if fails:
                raise ValueError(request)
        return Reply(503)

    async def later(request: str) -> Reply:
        await asyncio.sleep(0)
        return work(request)

    handlers: dict[str, Callable[[Any], Any]] = {
        "coroutine": later,
        "plain": work,
        "awaitable": lambda request: later(request),
    }
    handler = handlers[kind]
    run = traced(
        tracer, handler, kind == "coroutine", "svc/work", {"traceparent": TRACE}, {"a": "b"}
    )
    try:
        result = run("hi")
        if kind != "plain":
            result = await result
        assert (result.code, fails) == (503, False)
    except ValueError:
        assert fails
    span = spans.one("svc/work")
    assert_child(spans.one("work"), span)
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (7, 9)
    assert span.status.status_code.name == "ERROR"
    assert attributes(span)["a"] == "b"
    assert attributes(span).get("gatesvr.code") == (None if fails else 503)


def test_the_application_may_name_another_trace(spans: Spans) -> None:
    tracer = spans.provider.get_tracer("test")
    call = begin_call(tracer, "echo", {"traceparent": TRACE, "k": "v"}, ("localhost", 8453))
    assert call.headers == {"traceparent": TRACE, "k": "v"}
    call.end(0, ValueError("gone"))
    span = spans.one("echo")
    assert attributes(span)["error.type"] == "ValueError"
    assert attributes(span)["server.port"] == 8453
