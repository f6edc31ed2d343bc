"""Upstreams that flood, lie, or never read: bounded, counted, and no other upstream is affected."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from gatesvr._core.codec import decode_answer, decode_answers
from gatesvr._pb import upstream_pb2 as pb
from gatesvr.errors import ErrorCode
from gatesvr.grpcio import make_server
from gatesvr.upstream import health, lane
from gatesvr.upstream.lane import LaneState
from gatesvr.upstream.lanes import LANES

from ..fakes import until
from ..upstream.servers import SERVICE, Streaming, ask, endpoints, lane_to, parse, serving
from ..upstream.test_lane import failure
from ..upstream.test_manager import managing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Script = Callable[[Any], Awaitable[None]]

MB = 1 << 20
UNKNOWN = pb.UpstreamResponseBatch(responses=[pb.UpstreamResponse(request_id=1 << 60, code=200)])


@asynccontextmanager
async def bad_upstream(script: Script, watch: Script | None = None) -> AsyncIterator[str]:
    """Serve a ProcessStream that follows a script, and unary calls that are answered well."""

    async def process_stream(requests: object, context: Any) -> None:
        await context.send_initial_metadata(())
        await script(context)

    async def watching(request: object, context: Any) -> None:
        assert watch is not None
        await watch(context)

    server = make_server(64 * MB)
    handlers = {
        "ProcessStream": grpc.stream_stream_rpc_method_handler(process_stream),
        "ProcessRequest": grpc.unary_unary_rpc_method_handler(
            Streaming().ProcessRequest,
            pb.UpstreamRequest.FromString,
            pb.UpstreamResponse.SerializeToString,
        ),
    }
    add: Any = server.add_generic_rpc_handlers
    add((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    if watch is not None:
        handlers = {"Watch": grpc.unary_stream_rpc_method_handler(watching)}
        add((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def forever(context: Any, message: bytes) -> None:
    while True:
        await context.write(message)


async def tiny(context: Any) -> None:
    await context.write(b"\x0a\x00" * MB)
    await context.read()


async def garbage(context: Any) -> None:
    await context.write(b"\xff\xff\xff")
    await context.read()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (lambda context: forever(context, UNKNOWN.SerializeToString()), "nothing that was asked"),
        (lambda context: forever(context, b""), "nothing that was asked"),
        (tiny, "more than 4096 answers"),
        (garbage, "undecodable batch"),
    ],
    ids=["unknown", "empty", "tiny", "garbage"],
)
async def test_stream_of_junk_is_ended_and_another_upstream_is_not_affected(
    script: Script, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "gatesvr.upstream")
    async with (
        bad_upstream(script) as bad,
        serving(Streaming("good")) as good,
        managing(
            {"bad": endpoints(bad), "good": endpoints(good)}, reconnect_min=0.02, reconnect_max=60.0
        ) as manager,
    ):
        await until(lambda: manager.counters.bad_batches > 0)
        # It is used on, one call at a time: those can only fail alone.
        assert parse(await ask(manager, "bad")).code == 200
        assert parse(await ask(manager, "good")).message == "good"
        counters = manager.counters
        assert counters.bad_batches == 1  # the next stream is a minute away
        assert counters.unknown_answers <= 2 * lane.MAX_JUNK
        lines = [r.keys["why"] for r in caplog.records if r.getMessage() == "upstream_stream_bad"]  # type: ignore[attr-defined]
        assert len(lines) == 1
        assert why in lines[0]


async def test_answers_that_are_late_are_no_junk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow upstream answers after the deadlines; its stream stays."""
    monkeypatch.setattr(lane, "MAX_JUNK", 3)
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        late = [under_test.call("gate", timeout=0.05) for _ in range(20)]
        for call in late:
            assert (await failure(call)).code is ErrorCode.DEADLINE
        upstream.gate.set()
        await until(lambda: under_test.counters.late_answers == len(late))
        assert parse(await under_test.call(data=b"x")).data == b"x"
        assert under_test.counters.bad_batches == 0


async def test_repeated_answers_are_junk_only_if_there_are_too_many() -> None:
    class Repeats(Streaming):
        async def respond(self, batch: pb.UpstreamRequestBatch, context: Any) -> None:
            responses = [self.answer(request) for request in batch.requests] * 2
            await context.write(pb.UpstreamResponseBatch(responses=responses))

    async with serving(Repeats()) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        for _ in range(3):
            await asyncio.gather(*(under_test.call() for _ in range(500)))
        assert under_test.counters.unknown_answers == 1500
        assert under_test.counters.bad_batches == 0


def test_batch_of_very_many_answers_is_refused_before_they_take_memory() -> None:
    with pytest.raises(ValueError, match="more than 5 answers"):
        decode_answers(b"\x0a\x00" * 6, 5)
    assert len(decode_answers(b"\x0a\x00" * 5, 5)) == 5


def test_answer_with_very_many_notifies_is_refused_before_they_take_memory() -> None:
    head = pb.UpstreamResponse(code=200, request_id=7).SerializeToString()
    before, after = decode_answer(head + b"\x5a\x00" * 1024).notifies()
    assert (len(before), len(after)) == (0, 1024)
    answer = decode_answer(head + b"\x5a\x00" * 1025)
    assert answer.error == "UpstreamResponse with more than 1024 notifies"
    assert answer.request_id == 7
    assert answer.notifies() == ([], [])


async def test_answer_with_a_million_notifies_costs_its_own_call_alone() -> None:
    class Notifies(Streaming):
        async def respond(self, batch: pb.UpstreamRequestBatch, context: Any) -> None:
            responses = [self.answer(request) for request in batch.requests]
            for request, response in zip(batch.requests, responses, strict=True):
                if request.action == "many":
                    response.MergeFromString(b"\x5a\x00" * MB)
            await context.write(pb.UpstreamResponseBatch(responses=responses))

    async with serving(Notifies()) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        many, few = under_test.call("many"), under_test.call("echo", b"x")
        error = await failure(many)
        assert (error.code, error.status) == (ErrorCode.UPSTREAM_UNREACHABLE, "bad_answer")
        assert parse(await few).data == b"x"
        assert under_test.counters.bad_answers == 1


async def test_upstream_that_never_reads_holds_its_own_calls_alone() -> None:
    async def never(context: Any) -> None:
        await asyncio.Event().wait()

    async with (
        bad_upstream(never) as bad,
        serving(Streaming("good")) as good,
        managing(
            {"bad": endpoints(bad), "good": endpoints(good)}, max_open=100, max_waiting=50
        ) as manager,
    ):
        bad_lane = next(found for found in manager._lanes.values() if found.address == bad)
        await until(lambda: bad_lane.state is LaneState.STREAM)
        calls = [ask(manager, "bad", data=bytes(100_000), timeout=0.5) for _ in range(200)]
        await until(lambda: bad_lane.open_calls > 0 or bad_lane.waiting_calls == 0)
        assert bad_lane.waiting_calls <= 50
        assert parse(await ask(manager, "good")).message == "good"
        codes = [(await failure(call)).code for call in calls]
        assert set(codes) == {ErrorCode.DEADLINE, ErrorCode.BUSY}
        assert codes.count(ErrorCode.BUSY) == manager.counters.overflows >= 150


@pytest.mark.parametrize("where", ["initial", "trailing", "details"])
async def test_very_large_metadata_ends_its_stream_alone(where: str) -> None:
    async def script(context: Any) -> None:
        if where == "trailing":
            context.set_trailing_metadata((("x", "y" * 100_000),))
        elif where == "details":
            await context.abort(grpc.StatusCode.INTERNAL, "z" * 100_000)

    async def process_stream(requests: object, context: Any) -> None:
        big = (("x", "y" * 100_000),) if where == "initial" else ()
        await context.send_initial_metadata(big)
        await script(context)

    server = make_server(MB)
    handlers = {"ProcessStream": grpc.stream_stream_rpc_method_handler(process_stream)}
    add: Any = server.add_generic_rpc_handlers
    add((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with (
        serving(Streaming("good")) as good,
        managing({"bad": endpoints(f"127.0.0.1:{port}"), "good": endpoints(good)}) as manager,
    ):
        await until(lambda: manager.counters.connects >= 4)
        assert parse(await ask(manager, "good")).message == "good"
    await server.stop(None)


# Health reports.


async def flaps(context: Any) -> None:
    number = 0
    while True:
        number += 1
        status = (health_pb2.HealthCheckResponse(status=1 + number % 2)).SerializeToString()
        await context.write(status)


async def silent(context: Any) -> None:
    await asyncio.Event().wait()


async def test_health_that_flaps_is_followed_slowly_over_grpcio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = 0

    async def paused(seconds: float) -> None:
        nonlocal pauses
        assert seconds == health.INTERVAL_S
        pauses += 1
        await asyncio.Event().wait()

    class Pausing:
        def __getattr__(self, name: str) -> Any:
            return paused if name == "sleep" else getattr(asyncio, name)

    monkeypatch.setattr(health, "asyncio", Pausing())
    async with (
        bad_upstream(silent, flaps) as address,
        lane_to(address, lane="grpcio") as under_test,
    ):
        await until(lambda: pauses == 1)
        counters = under_test.counters
        assert counters.ups + counters.downs <= health.MAX_BURST + 1
        under_test.lane._health.task.cancel()


async def test_health_that_flaps_very_fast_counts_for_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "INTERVAL_S", 3600.0)
    async with bad_upstream(silent, flaps) as address, lane_to(address) as under_test:
        await until(lambda: "health_unusable" in caplog.messages)
        counters = under_test.counters
        assert counters.ups + counters.downs <= health.MAX_BURST + 1
        assert under_test.lane.is_up


@pytest.mark.parametrize("kind", LANES)
async def test_health_report_that_does_not_decode_counts_for_none(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def undecodable(context: Any) -> None:
        await context.write(health_pb2.HealthCheckResponse(status=2).SerializeToString())
        await context.write(b"\xff\xff")
        await asyncio.Event().wait()

    async with (
        bad_upstream(silent, undecodable) as address,
        lane_to(address, lane=kind) as under_test,
    ):
        await until(lambda: "health_unusable" in caplog.messages)
        await until(lambda: under_test.lane.is_up)
