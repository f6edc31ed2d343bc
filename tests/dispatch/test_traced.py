"""Traced tasks: however a request ends, its spans end with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.errors import CloseCode
from gatesvr.observe.trace import request_tracer

from .rig import Client, Rig, business, error

pytest.importorskip("opentelemetry.sdk.trace", reason="OpenTelemetry is an extra")

from ..spans import Spans, assert_child, attributes, context_of, traceparent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CALL = "gatesvr.proto.UpstreamService/ProcessRequest"
LIMITS = {"workers": 1, "max_workers": 1, "max_queue_size": 1}


@pytest.fixture
async def rig(spans: Spans) -> AsyncIterator[Rig]:
    async with Rig(dispatch=LIMITS) as rig:
        rig.dispatcher.trace(request_tracer(1, trusts_clients=False))
        yield rig


def codes(spans: Spans, name: str) -> list[object]:
    return [attributes(span).get("gatesvr.code") for span in spans(name)]


async def test_an_answered_request(rig: Rig, spans: Spans) -> None:
    client = Client(rig)
    session = await client.login()
    await client.send(business(2, "echo"))
    session.bind(b"\x18\x03", 2, True, now=rig.now)
    rig.upstream.answer(2, notifies=[up.BoundNotify(msg_type="t")])
    pushes = await client.run()
    root, call = spans.one("zone/*"), spans(CALL)[-1]
    assert_child(call, root)
    assert rig.upstream.calls[-1].headers == {"traceparent": traceparent(call)}
    assert [push.headers["traceparent"] for push in pushes] == [traceparent(root)] * 3
    assert codes(spans, "zone/*") == [200]
    assert rig.counters.traced == 2
    assert session.outbox.notifies is None


async def test_a_failed_call(rig: Rig, spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(rig)
    await client.login()
    await client.send(business(2, "echo"))
    call = rig.upstream.waiting.pop(2)
    call.fail("gone", status="broken", address="[::1]:9", is_fault=True)
    (push,) = await client.run()
    root = spans.one("zone/*")
    assert push.headers["traceparent"] == traceparent(root)
    assert codes(spans, "zone/*") == [502]
    found = attributes(spans(CALL)[-1])
    assert (found["server.address"], found["server.port"]) == ("::1", 9)
    assert (found["rpc.response.status_code"], found["error.type"]) == ("broken", "502")
    line = next(vars(record)["keys"] for record in caplog.records if record.msg == "call_failed")
    assert line["trace_id"] == f"{context_of(root).trace_id:032x}"
    assert error(push).detail == str(line["request_id"]) == attributes(root)["gatesvr.request_id"]


async def test_a_call_to_a_unix_socket(rig: Rig, spans: Spans) -> None:
    client = Client(rig)
    await client.login()
    await client.send(business(2, "echo"))
    call = rig.upstream.waiting.pop(2)
    call.fail("gone", status="broken", address="unix:/run/a:b.sock", is_fault=True)
    await client.run()
    found = attributes(spans(CALL)[-1])
    assert found["server.address"] == "/run/a:b.sock"
    assert "server.port" not in found


async def test_one_that_finds_no_room_one_that_comes_too_late_and_one_of_a_closed_session(
    rig: Rig, spans: Spans
) -> None:
    client = Client(rig)
    session = await client.login()
    await client.send(business(2, "echo"), business(3, "echo"), business(4, "echo"))
    assert codes(spans, "zone/*") == [503]
    rig.now += rig.config.dispatch.task_timeout + 1
    rig.upstream.answer(2)
    await client.run()
    assert codes(spans, "zone/*")[1:] == [504, 200]
    await client.send(business(5, "echo"), business(6, "echo"))
    rig.sessions.close(session, CloseCode.KICKED, "kicked", rig.now)
    rig.upstream.answer(5)
    await client.run()
    assert codes(spans, "zone/*")[3:] == [499, 499]
    assert len(spans("queue")) == 6  # the hello's, too


async def test_those_that_a_stop_ends(spans: Spans) -> None:
    async with Rig(dispatch=LIMITS) as rig:
        rig.dispatcher.trace(request_tracer(1, trusts_clients=False))
        client = Client(rig)
        await client.login()
        await client.send(business(2, "echo"), business(3, "echo"))
    assert codes(spans, "zone/*") == [503, 503]


async def test_a_header_that_the_client_cannot_take_is_left_out(rig: Rig, spans: Spans) -> None:
    client = Client(rig)
    session = await client.login()
    await client.send(business(2, "echo"))
    session.outbox.max_message_bytes = session.max_message_bytes = 200
    rig.upstream.answer(2, data=bytes(120))
    (push,) = await client.run()
    assert push.type == pb.PUSH_BUSINESS_DATA
    assert push.headers == {}


async def test_nothing_changes_for_requests_that_are_not_chosen(spans: Spans) -> None:
    async with Rig() as rig:
        rig.dispatcher.trace(request_tracer(0, trusts_clients=True))
        client = Client(rig)
        await client.login()
        await client.send(business(2, "echo"))
        rig.upstream.answer(2)
        (push,) = await client.run()
    assert (push.headers, rig.upstream.calls[-1].headers) == ({}, {})
    assert (rig.counters.traced, spans("zone/*")) == (0, [])


def test_no_request_is_looked_at_where_none_can_be_traced(spans: Spans) -> None:
    assert request_tracer(0, trusts_clients=False) is None
    assert request_tracer(1, trusts_clients=False) is not None


@pytest.mark.parametrize(
    "header", ["", "x", f"00-{0:032x}-{1:016x}-01", f"ff-{1:032x}-{1:016x}-01", "0" * 600]
)
def test_a_trace_that_is_none_is_not_gone_on_with(spans: Spans, header: str) -> None:
    tracer = request_tracer(0, trusts_clients=True)
    assert tracer is not None
    assert tracer.choose({"traceparent": header}) is None
    assert tracer.choose({"TraceParent": f"00-{1:032x}-{1:016x}-01"}) is not None
