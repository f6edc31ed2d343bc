"""One trace across client, gateway and upstream, with the spans in memory."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr import Client, Gateway, RequestFailed, UpstreamService
from gatesvr._pb import upstream_pb2 as pb

from .harness import counter, running_gateway
from .plain_upstream import PlainUpstream, plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatesvr import Request

    from ..spans import Spans

pytest.importorskip("opentelemetry.sdk.trace", reason="OpenTelemetry is an extra")

from ..spans import assert_child, attributes, context_of, traceparent

CALL = "gatesvr.proto.UpstreamService/ProcessRequest"
TRUSTING = ("trace.enabled=true", "trace.trust_clients=true", "trace.one_in=0")


def connected(gateway: Gateway, backend: str, **more: Any) -> Client:
    return Client(gateway.address, openid="ann", transport=backend, insecure=True, **more)


@asynccontextmanager
async def sdk_upstream(spans: Spans, gateways: list[Gateway]) -> AsyncIterator[UpstreamService]:
    """A service that makes spans of its own, and pushes a notify that is bound to the answer."""
    service = UpstreamService("chat")
    tracer = spans.provider.get_tracer("application")

    @service.action("hello")
    def hello(request: Request) -> None:
        return None

    @service.action("say")
    async def say(request: Request) -> bytes:
        with tracer.start_as_current_span("work"):
            request.notify_before("carried")
            await gateways[0].push_bound(request, before=True, msg_type="pushed")
        return request.traceparent.encode()

    await service.serve()
    try:
        yield service
    finally:
        await service.stop()


async def test_a_trace_goes_from_client_to_handler_and_back(backend: str, spans: Spans) -> None:
    gateways: list[Gateway] = []
    async with (
        sdk_upstream(spans, gateways) as service,
        running_gateway(backend, service.address, *TRUSTING) as gateway,
        connected(gateway, backend) as client,
    ):
        gateways.append(gateway)
        spans.clear()
        answer = await client.request("say")
        notifies = [await anext(client), await anext(client)]
        assert counter(gateway, "dispatch.traced") == 2  # the hello, too
    asked, root = spans.one("say"), spans.one("business/*")
    queue, call = spans.one("queue"), spans.one(CALL)
    handler, work = spans.one("chat/say"), spans.one("work")
    assert asked.parent is None
    assert_child(root, asked)
    assert_child(queue, root)
    assert_child(call, root)
    assert_child(handler, call)
    assert_child(work, handler)
    kinds = [span.kind.name for span in (asked, root, queue, call, handler)]
    assert kinds == ["CLIENT", "SERVER", "INTERNAL", "CLIENT", "SERVER"]
    assert answer.data.decode() == traceparent(call)
    assert answer.headers["traceparent"] == traceparent(root)
    assert [notify.msg_type for notify in notifies] == ["pushed", "carried"]
    assert {notify.headers["traceparent"] for notify in notifies} == {traceparent(root)}
    assert attributes(root)["rpc.system.name"] == "gatesvr"
    assert attributes(root)["rpc.response.status_code"] == "200"
    assert attributes(root)["gatesvr.action"] == "say"
    host, _, port = service.address.rpartition(":")
    assert attributes(call)["server.address"] == host
    assert attributes(call)["server.port"] == int(port)


async def test_a_unary_service_gets_the_trace_as_metadata(
    backend: str, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is instrumented as any gRPC service is, and knows nothing of ours."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = spans.provider.get_tracer("application")
    answer = PlainUpstream.ProcessRequest

    async def instrumented(self: PlainUpstream, request: pb.UpstreamRequest, context: Any) -> Any:
        metadata = dict(context.invocation_metadata() or ())
        parent = TraceContextTextMapPropagator().extract(metadata)
        with tracer.start_as_current_span(f"served {request.action}", parent):
            return await answer(self, request, context)

    monkeypatch.setattr(PlainUpstream, "ProcessRequest", instrumented)
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *TRUSTING) as gateway,
        connected(gateway, backend) as client,
    ):
        spans.clear()
        reply = await client.request("notify", b"hi")
        notifies = [await anext(client), await anext(client)]
    root, call = spans.one("business/*"), spans.one(CALL)
    assert_child(root, spans.one("notify"))
    assert_child(call, root)
    assert_child(spans.one("served notify"), call)
    assert upstream.requests[-1].headers["traceparent"] == traceparent(call)
    headers = [reply.headers, *(notify.headers for notify in notifies)]
    assert {header["traceparent"] for header in headers} == {traceparent(root)}


async def test_a_failed_call_is_the_same_in_trace_log_and_error(
    spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gatesvr")
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, *TRUSTING) as gateway,
        connected(gateway, "aioquic") as client,
    ):
        spans.clear()
        with pytest.raises(RequestFailed) as failed:
            await client.request("fail", params={"status": "INTERNAL"})
    root, call = spans("business/*")[0], spans(CALL)[0]
    assert attributes(root)["gatesvr.request_id"] == failed.value.detail
    assert attributes(root)["error.type"] == str(failed.value.code)
    assert attributes(call)["rpc.response.status_code"] == "INTERNAL"
    line = next(vars(r)["keys"] for r in caplog.records if r.msg == "call_failed")
    assert str(line["request_id"]) == failed.value.detail
    assert line["trace_id"] == f"{context_of(root).trace_id:032x}"


async def test_a_client_that_is_not_trusted_brings_no_trace(spans: Spans) -> None:
    sets = ("trace.enabled=true", "trace.one_in=1")
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, *sets) as gateway,
        connected(gateway, "aioquic") as client,
    ):
        await client.request("echo", headers={"baggage": "secret=1"})
    asked, root = spans.one("echo"), spans.one("business/*")
    assert root.parent is None
    assert context_of(root).trace_id != context_of(asked).trace_id
    assert upstream.requests[-1].headers == {"traceparent": traceparent(spans(CALL)[-1])}


async def test_what_the_client_chose_not_to_record_is_not_and_is_passed_on(spans: Spans) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, *TRUSTING) as gateway,
        connected(gateway, "aioquic") as client,
    ):
        parent = f"00-{7:032x}-{9:016x}-00"
        given = {"traceparent": parent, "tracestate": "a=b", "Baggage": "c=d"}
        answer = await client.request("echo", headers=given)
        assert counter(gateway, "dispatch.traced") == 1  # the hello alone
    headers = dict(upstream.requests[-1].headers)
    assert headers.pop("traceparent")[:36] == parent[:36]
    assert headers == {"tracestate": "a=b", "baggage": "c=d"}
    assert answer.headers == {}


async def test_nothing_is_traced_without_an_sdk() -> None:
    sets = ("trace.enabled=true", "trace.one_in=1")
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, *sets) as gateway,
        connected(gateway, "aioquic") as client,
    ):
        answer = await client.request("echo", headers={"traceparent": f"00-{7:032x}-{9:016x}-01"})
    assert answer.headers == {}
    assert upstream.requests[-1].headers == {}
