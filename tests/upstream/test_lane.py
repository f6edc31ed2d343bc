"""A lane against real gRPC servers: batches, unary calls, breaks, deadlines, stop."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gatesvr._pb import upstream_pb2 as pb
from gatesvr.errors import ErrorCode, Outcome, UpstreamError
from gatesvr.upstream import grpcio_lane, lane
from gatesvr.upstream.call import Call
from gatesvr.upstream.lane import LaneState

from ..fakes import until
from .servers import SERVICE, Streaming, UnaryOnly, lane_to, parse, serving, set_of_lanes

pytestmark = pytest.mark.usefixtures("lane_kind")


async def failure(future: asyncio.Future[Any]) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await future
    return caught.value


async def test_burst_shares_messages_and_a_lone_call_waits_for_nothing() -> None:
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        assert parse(await under_test.call(data=b"alone")).data == b"alone"
        assert upstream.batches == [[1]]
        answers = await asyncio.gather(*(under_test.call(data=b"%d" % i) for i in range(200)))
        assert [parse(answer).data for answer in answers] == [b"%d" % i for i in range(200)]
        assert [len(batch) for batch in upstream.batches[1:]] == [64, 64, 64, 8]
        counters = under_test.counters
        assert (counters.batches, counters.batched_requests, counters.unary_calls) == (5, 201, 0)
        assert under_test.lane._batch_sizes[:7] == [1, 0, 0, 1, 0, 0, 3]


async def test_calls_before_the_connection_are_answered() -> None:
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address) as under_test:
        answers = [under_test.call(data=b"%d" % i) for i in range(10)]
        for i, answer in enumerate(answers):
            assert parse(await answer).data == b"%d" % i


async def test_batches_are_bounded_in_requests_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "MAX_SHARED_BYTES", 1000)
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address, max_batch=3) as under_test:
        await under_test.until_state(LaneState.STREAM)
        sizes = [1, 1, 1, 1, 700, 700, 2000, 1, 1]
        await asyncio.gather(*(under_test.call(data=b"x" * size) for size in sizes))
        # The one of 2,000 bytes goes as a unary call.
        assert [len(batch) for batch in upstream.batches] == [3, 2, 1, 2]


async def test_open_calls_are_bounded() -> None:
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address, max_open=4) as under_test:
        await under_test.until_state(LaneState.STREAM)
        calls = [under_test.call("gate") for _ in range(10)]
        await until(lambda: upstream.requests == 4)
        assert (under_test.lane.open_calls, under_test.lane.waiting_calls) == (4, 6)
        upstream.gate.set()
        await asyncio.gather(*calls)


@pytest.mark.parametrize("kind", [Streaming, UnaryOnly])
async def test_a_call_that_waited_is_written_with_the_time_that_is_left(
    kind: type[Streaming], monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = kind()
    async with serving(upstream) as address, lane_to(address, max_open=1) as under_test:
        first = under_test.call("gate", timeout=9)
        await until(lambda: upstream.requests == 1)
        second = under_test.call(timeout=9)
        await asyncio.sleep(0)  # it is in line, and finds no room
        loop = asyncio.get_running_loop()
        clock = loop.time
        with monkeypatch.context() as patch:
            # Only the waiting call sees these two seconds.
            patch.setattr(loop, "time", lambda: clock() + 2)
            upstream.gate.set()
            await first
            await second
        assert 5_000 < upstream.timeouts_ms[2] <= 7_000
        await under_test.call(timeout=9)
        assert 7_000 < upstream.timeouts_ms[3] <= 9_000


async def test_a_call_on_a_quiet_lane_is_written_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []

    def request_at(call: Call, now: float) -> bytes:
        encoded.append(call.request_id)
        return call.upstream_req

    monkeypatch.setattr(Call, "request_at", request_at)
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        await under_test.call()
        encoded.clear()  # the first one may have waited for the lane to come up
        loop = asyncio.get_running_loop()
        clock = loop.time
        with monkeypatch.context() as patch:
            patch.setattr(loop, "time", lambda: clock() + 2)  # two seconds without a call
            await under_test.call()
    assert (upstream.batches, encoded) == ([[1], [2]], [])


async def test_full_line_refuses() -> None:
    upstream = Streaming()
    async with (
        serving(upstream) as address,
        lane_to(address, max_open=1, max_waiting=1) as under_test,
    ):
        await under_test.until_state(LaneState.STREAM)
        first = under_test.call("gate")
        await until(lambda: upstream.requests == 1)
        second = under_test.call()
        error = await failure(under_test.call())
        assert (error.code, error.is_started, error.retry_after_ms > 0) == (
            ErrorCode.BUSY,
            False,
            True,
        )
        assert under_test.counters.overflows == 1
        upstream.gate.set()
        await asyncio.gather(first, second)


async def test_upstream_with_process_request_only() -> None:
    upstream = UnaryOnly()
    async with serving(upstream) as address, lane_to(address) as under_test:
        answers = await asyncio.gather(*(under_test.call(data=b"%d" % i) for i in range(50)))
        assert [parse(answer).data for answer in answers] == [b"%d" % i for i in range(50)]
        assert under_test.lane.state is LaneState.UNARY
        assert (upstream.unary, under_test.counters.unary_calls) == (50, 50)
        assert under_test.counters.connects == 1


@pytest.mark.only_lane("grpcio", "a connection of ours tells itself")
async def test_calls_are_not_forgotten_while_the_channel_lags_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(UnaryOnly()) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.UNARY)
        channel = under_test.lane._channel
        seen = iter([grpc.ChannelConnectivity.CONNECTING] * 3)
        real = channel.get_state
        monkeypatch.setattr(channel, "get_state", lambda: next(seen, None) or real())
        monkeypatch.setattr(under_test.lane, "_end_pause", lambda: False)  # the stream still opens
        assert parse(await under_test.call(data=b"x")).data == b"x"


@pytest.mark.only_lane("grpcio", "grpcio tells the status and the metadata apart late")
async def test_status_that_comes_behind_the_metadata_leaves_no_call_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(UnaryOnly()) as address, lane_to(address) as under_test:
        lane = under_test.lane
        serve_stream = lane._serve_stream
        asked: list[asyncio.Future[Any]] = []

        async def seem_to_stream() -> tuple[grpc.StatusCode, str]:
            status = await serve_stream()
            lane._enter(LaneState.STREAM, "")
            asked.append(under_test.call(data=b"waits"))
            asked.append(under_test.call(data=b"was written"))
            written = lane._waiting.pop()
            lane._open[written.request_id] = written
            return status

        monkeypatch.setattr(lane, "_serve_stream", seem_to_stream)
        await until(lambda: asked)
        async with asyncio.timeout(10):
            assert parse(await asked[0]).data == b"waits"
            # The upstream may have read and run it, so it must not go out again.
            assert (await failure(asked[1])).is_started
        assert lane.state is LaneState.UNARY


@pytest.mark.only_lane("grpcio", "HTTP/2 has one order")
async def test_status_that_comes_ahead_of_the_connection_means_unary_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(UnaryOnly()) as address, lane_to(address) as under_test:

        async def end_at_once() -> tuple[grpc.StatusCode, str]:
            await under_test.lane._channel.channel_ready()
            return grpc.StatusCode.UNIMPLEMENTED, "no streams here"

        monkeypatch.setattr(under_test.lane, "_serve_stream", end_at_once)
        assert parse(await under_test.call(data=b"x")).data == b"x"
        assert under_test.lane.state is LaneState.UNARY


async def test_base_upstream_that_sets_no_request_id() -> None:
    class Base(UnaryOnly):
        def answer(self, request: pb.UpstreamRequest) -> pb.UpstreamResponse:
            return pb.UpstreamResponse(code=200, data=b"base")

    async with serving(Base()) as address, lane_to(address) as under_test:
        assert parse(await under_test.call()).data == b"base"


async def test_upstream_is_asked_for_its_stream_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Learns(Streaming):
        times = 0

        async def ProcessStream(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
            self.times += 1
            if self.times < 3:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not yet")
            await super().ProcessStream(request_iterator, context)

    upstream = Learns()
    set_of_lanes(monkeypatch, "UNARY_RETRY_S", 0.01)
    async with serving(upstream) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        await under_test.call()
        assert upstream.times == 3
        assert under_test.counters.ups == 1


async def test_stream_without_initial_metadata_is_never_written_to() -> None:
    class Late(Streaming):
        async def ProcessStream(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
            await context.read()

    upstream = Late()
    async with serving(upstream) as address, lane_to(address) as under_test:
        await asyncio.gather(*(under_test.call() for _ in range(10)))
        assert (upstream.unary, under_test.counters.batches) == (10, 0)


async def test_unary_upstream_that_raises() -> None:
    class Raises(UnaryOnly):
        def answer(self, request: pb.UpstreamRequest) -> pb.UpstreamResponse:
            raise ValueError("on purpose")

    async with serving(Raises()) as address, lane_to(address) as under_test:
        error = await failure(under_test.call())
        assert (error.code, error.outcome) == (ErrorCode.UPSTREAM_UNREACHABLE, Outcome.DONE)
        assert under_test.lane.is_up
        assert under_test.counters.failed_calls == 1


async def test_stream_that_raises_breaks_its_calls_and_comes_back(lane_kind: str) -> None:
    class Raises(Streaming):
        async def respond(self, batch: pb.UpstreamRequestBatch, context: Any) -> None:
            if batch.requests[0].action == "raise":
                raise ValueError("on purpose")
            await super().respond(batch, context)

    async with serving(Raises()) as address, lane_to(address, max_open=2) as under_test:
        await under_test.until_state(LaneState.STREAM)
        calls = [under_test.call("raise"), under_test.call(), under_test.call(data=b"not written")]
        for call in calls[:2]:
            error = await failure(call)
            assert (error.code, error.is_started) == (ErrorCode.UPSTREAM_UNREACHABLE, True)
        # The third was not written. A connection of ours is still there for it; over grpcio, and
        # without another lane, it waits for the reconnect.
        assert parse(await calls[2]).data == b"not written"
        assert len(under_test.stranded) == (lane_kind == "grpcio")
        await under_test.until_state(LaneState.STREAM)
        await under_test.call()


async def test_stream_that_always_raises_leaves_unary_calls() -> None:
    class Raises(Streaming):
        async def ProcessStream(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
            raise ValueError("on purpose")

    upstream = Raises()
    async with serving(upstream) as address, lane_to(address) as under_test:
        await until(lambda: under_test.counters.connects > 3)
        await asyncio.gather(*(under_test.call() for _ in range(10)))
        assert upstream.unary == 10


async def test_upstream_dies_mid_lane_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gatesvr.upstream")
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address, max_open=1) as under_test:
        await under_test.until_state(LaneState.STREAM)
        written = under_test.call("gate")
        await until(lambda: upstream.requests == 1)
        waiting = under_test.call()
        await address.stop()
        error = await failure(written)
        assert (error.code, error.is_started) == (ErrorCode.UPSTREAM_UNREACHABLE, True)
        error = await failure(waiting)
        assert (error.code, error.is_started) == (ErrorCode.UPSTREAM_UNREACHABLE, False)
        assert under_test.lane.state is LaneState.DOWN
        error = await failure(under_test.call())
        assert not error.is_started
        await until(lambda: under_test.counters.connects >= 4)
        async with serving(Streaming(), address.port):
            await until(lambda: under_test.lane.is_up)
            await under_test.call()
            events = [r.message for r in caplog.records if r.message.startswith("upstream_")]
            assert events == ["upstream_up", "upstream_down", "upstream_up"]


async def test_unary_upstream_that_went_is_noticed_before_anything_is_written(
    lane_kind: str,
) -> None:
    async with serving(UnaryOnly()) as address, lane_to(address) as under_test:
        await under_test.call()
        await address.stop()
        if lane_kind == "grpcio":
            ready = grpc.ChannelConnectivity.READY
            await until(lambda: under_test.lane._channel.get_state() is not ready)
        else:
            await until(lambda: not under_test.lane.is_up)
        error = await failure(under_test.call())
        assert not error.is_started
        await under_test.until_state(LaneState.DOWN)


async def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Streaming()) as address:
        pass
    async with lane_to(address) as under_test:
        error = await failure(under_test.call())
        assert (error.code, error.is_started) == (ErrorCode.UPSTREAM_UNREACHABLE, False)
        await until(lambda: under_test.counters.connects >= 4)
        assert under_test.counters.downs == 1
    events = [r.message for r in caplog.records if r.name == "gatesvr.upstream"]
    assert events == ["upstream_down"]


@pytest.mark.parametrize("kind", [Streaming, UnaryOnly])
async def test_deadline_and_late_answer(kind: type[Streaming], lane_kind: str) -> None:
    upstream = kind()
    async with serving(upstream) as address, lane_to(address, max_open=1) as under_test:
        await under_test.call()
        if kind is Streaming:
            await under_test.until_state(LaneState.STREAM)
        silent = under_test.call("gate", timeout=1.0)
        asked = upstream.requests + 1
        await until(lambda: upstream.requests == asked)
        behind = under_test.call(timeout=0.01)
        error = await failure(behind)
        assert (error.code, error.is_started) == (ErrorCode.DEADLINE, False)
        error = await failure(silent)
        assert (error.code, error.is_started) == (ErrorCode.DEADLINE, True)
        assert under_test.lane.open_calls == 0
        counters = under_test.counters
        if kind is UnaryOnly and lane_kind == "direct":
            await until(lambda: upstream.cancelled == 1)
            # The server may be the first to see that the time is up.
            assert counters.cancelled_calls <= 1
            assert counters.late_answers == 0
            upstream.gate.set()
        else:
            upstream.gate.set()
            await until(lambda: counters.late_answers == 1)
        await under_test.call()
        assert (under_test.counters.unanswered, under_test.counters.unknown_answers) == (2, 0)


async def test_cancelled_caller_reaches_nobody() -> None:
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address, max_open=1) as under_test:
        await under_test.until_state(LaneState.STREAM)
        written = under_test.call("gate")
        await until(lambda: upstream.requests == 1)
        waiting = under_test.call()
        written.cancel()
        waiting.cancel()
        upstream.gate.set()
        assert parse(await under_test.call(data=b"next")).data == b"next"
        assert under_test.counters.late_answers == 1
        assert upstream.batches == [[1], [3]]


async def test_repeated_and_unknown_answers_are_dropped() -> None:
    class Repeats(Streaming):
        async def respond(self, batch: pb.UpstreamRequestBatch, context: Any) -> None:
            responses = [self.answer(request) for request in batch.requests]
            strange = pb.UpstreamResponse(code=200, request_id=12345)
            batch_out = pb.UpstreamResponseBatch(responses=[strange, *responses, *responses])
            await context.write(batch_out)

    async with serving(Repeats()) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        await asyncio.gather(under_test.call(), under_test.call())
        await until(lambda: under_test.counters.unknown_answers == 3)


@pytest.mark.parametrize("kind", [Streaming, UnaryOnly])
async def test_refused_goes_to_the_manager(kind: type[Streaming]) -> None:
    class Refuses(kind):  # type: ignore[misc, valid-type]
        def answer(self, request: pb.UpstreamRequest) -> pb.UpstreamResponse:
            return pb.UpstreamResponse(request_id=request.request_id, status=pb.UPSTREAM_REFUSED)

    async with serving(Refuses()) as address, lane_to(address) as under_test:
        call = under_test.call()
        await until(lambda: under_test.refused)
        assert not call.done()
        assert under_test.refused[0].on_end is not None
        assert under_test.counters.refused_calls == 1


async def test_undecodable_answers_break_the_stream() -> None:
    broken = 0

    async def process_stream(request_iterator: Any, context: Any) -> None:
        nonlocal broken
        await context.send_initial_metadata(())
        await context.read()
        broken += 1
        await context.write(b"\xff\xff\xff")
        await context.read()

    handlers = {"ProcessStream": grpc.stream_stream_rpc_method_handler(process_stream)}
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        error = await failure(under_test.call())
        assert (error.code, error.is_started) == (ErrorCode.UPSTREAM_UNREACHABLE, True)
        assert under_test.counters.bad_batches == broken == 1
    await server.stop(None)


async def test_health_where_the_upstream_has_it() -> None:
    servicer = health.aio.HealthServicer()
    add_health: Any = health_pb2_grpc.add_HealthServicer_to_server

    async with (
        serving(UnaryOnly(), 0, lambda server: add_health(servicer, server)) as address,
        lane_to(address) as under_test,
    ):
        await under_test.call()
        await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        await until(lambda: not under_test.lane.is_up)
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        await until(lambda: under_test.lane.is_up)
        await under_test.call()
        assert (under_test.counters.ups, under_test.counters.downs) == (2, 1)


@pytest.mark.only_lane("grpcio", "only there a message is costly")
async def test_busy_process_has_calls_share_messages_but_no_lone_one_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpcio_lane, "PACE_S", 0.5)
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address) as under_test:
        monkeypatch.setattr(under_test.lane, "_look_at_load", lambda now: None)
        await under_test.until_state(LaneState.STREAM)
        under_test.lane._is_busy = True
        await under_test.call()
        written_at = under_test.lane._written_at
        assert under_test.lane._pace(written_at) == 0.0  # nothing is unanswered
        gated = under_test.call("gate")
        await until(lambda: upstream.requests == 2)
        written_at = under_test.lane._written_at
        assert under_test.lane._pace(written_at + 0.2) == pytest.approx(0.3)
        calls = []
        for _ in range(grpcio_lane.PACE_CALLS - 1):
            calls.append(under_test.call())
            await asyncio.sleep(0)
        assert under_test.lane._pace(written_at) > 0
        calls.append(under_test.call())
        assert under_test.lane._pace(written_at) == 0.0
        assert under_test.counters.batches == 2
        upstream.gate.set()
        await asyncio.gather(gated, *calls)
        assert under_test.counters.batches == 3


@pytest.mark.only_lane("grpcio", "only there a message is costly")
@pytest.mark.parametrize(
    ("shares", "states"),
    [((0.4, 0.6, 0.3, 0.2, 0.4), (False, True, True, False, False)), ((1.0, 0.0), (True, False))],
)
async def test_busy_from_half_of_its_time_on_until_a_quarter(
    monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...], states: tuple[bool, ...]
) -> None:
    worked, now = 1.0, 1000.0
    monkeypatch.setattr(grpcio_lane, "time", SimpleNamespace(thread_time=lambda: worked))
    async with serving(Streaming()) as address, lane_to(address) as under_test:
        under_test.lane._look_at_load(now)
        seen = []
        for share in shares:
            worked, now = worked + share, now + 1.0
            under_test.lane._look_at_load(now)
            seen.append(under_test.lane._is_busy)
        assert tuple(seen) == states


async def test_stop_waits_for_answers() -> None:
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address, max_open=1) as under_test:
        await under_test.until_state(LaneState.STREAM)
        written = under_test.call("gate", b"last")
        await until(lambda: upstream.requests == 1)
        waiting = under_test.call()
        stopping = asyncio.create_task(under_test.lane.stop(20.0))
        assert not (await failure(waiting)).is_started
        assert not under_test.lane.is_up
        upstream.gate.set()
        assert parse(await written).data == b"last"
        await stopping


async def test_stop_gives_up_on_a_silent_upstream() -> None:
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        call = under_test.call("gate")
        await until(lambda: upstream.requests == 1)
        await under_test.lane.stop(0.01)
        assert (await failure(call)).is_started
        upstream.gate.set()


async def test_stop_while_connecting() -> None:
    async with serving(Streaming()) as address, lane_to(address) as under_test:
        call = under_test.call()
        await under_test.lane.stop(1.0)
        assert isinstance(await failure(call), UpstreamError)
