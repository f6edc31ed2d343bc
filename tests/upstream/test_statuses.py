"""Calls that end with a gRPC status, and the cost of a large message."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio
import pytest

from gatesvr import grpcio
from gatesvr._core.codec import encode_batch
from gatesvr._pb import upstream_pb2 as pb
from gatesvr.errors import ErrorCode, Outcome, UpstreamError
from gatesvr.upstream.lane import LaneState
from gatesvr.upstream.status import outcome_of

from ..fakes import until
from .servers import SERVICE, Streaming, UnaryOnly, lane_to, parse, serving
from .test_lane import failure

pytestmark = pytest.mark.usefixtures("lane_kind")

OWN_WORDS = "postgres at 10.0.0.7 is angry"


class Aborts(UnaryOnly):
    """Ends each call with the status that its action names."""

    async def ProcessRequest(self, request: Any, context: Any) -> pb.UpstreamResponse:  # noqa: N802
        await context.abort(grpc.StatusCode[request.action], OWN_WORDS)


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        ("INVALID_ARGUMENT", 400, Outcome.DONE),
        ("UNAUTHENTICATED", 403, Outcome.DONE),
        ("PERMISSION_DENIED", 403, Outcome.DONE),
        ("NOT_FOUND", 404, Outcome.DONE),
        ("RESOURCE_EXHAUSTED", 503, Outcome.DONE),
        ("UNIMPLEMENTED", 501, Outcome.DONE),
        ("DEADLINE_EXCEEDED", 504, Outcome.UNKNOWN),
        ("FAILED_PRECONDITION", 502, Outcome.DONE),
        ("ALREADY_EXISTS", 502, Outcome.DONE),
        ("ABORTED", 502, Outcome.DONE),
        ("OUT_OF_RANGE", 502, Outcome.DONE),
        ("DATA_LOSS", 502, Outcome.DONE),
        ("UNKNOWN", 502, Outcome.DONE),
        ("INTERNAL", 502, Outcome.UNKNOWN),
        ("UNAVAILABLE", 502, Outcome.UNKNOWN),
        ("CANCELLED", 502, Outcome.UNKNOWN),
    ],
)
async def test_status_of_a_plain_service(status: str, code: int, outcome: Outcome) -> None:
    async with serving(Aborts()) as address, lane_to(address) as under_test:
        error = await failure(under_test.call(status))
        assert (error.code, error.outcome) == (code, outcome)
        assert (error.status, error.address) == (status, address)
        assert OWN_WORDS in str(error)
        counters = under_test.counters
        assert (counters.failed_calls, counters.broken_calls) == (
            (1, 0) if outcome is Outcome.DONE else (0, 1)
        )


@pytest.mark.parametrize(
    ("status", "details"),
    [
        ("UNKNOWN", "Stream removed"),
        ("RESOURCE_EXHAUSTED", "Received RST_STREAM with error code 11"),
        ("UNIMPLEMENTED", "Received http2 header with status: 404"),
        ("PERMISSION_DENIED", "Received http2 header with status: 403"),
    ],
)
def test_status_that_grpc_made_itself_says_nothing_of_the_call(status: str, details: str) -> None:
    assert outcome_of(grpc.StatusCode[status], details, 10)[1] is Outcome.UNKNOWN


async def test_method_that_the_server_lacks() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with lane_to(f"127.0.0.1:{port}") as under_test:
            error = await failure(under_test.call())
            assert (error.code, error.status) == (501, "UNIMPLEMENTED")
    finally:
        await server.stop(None)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_undecodable_answer_was_given_and_costs_no_other(is_stream: bool) -> None:
    def answer(request: pb.UpstreamRequest) -> bytes:
        response = pb.UpstreamResponse(code=200, request_id=request.request_id)
        bad = b"\x12\x01\xff"  # a message that is not UTF-8
        return response.SerializeToString() + (bad if request.action == "bad" else b"")

    async def process_stream(request_iterator: Any, context: Any) -> None:
        await context.send_initial_metadata(())
        while (data := await context.read()) is not grpc.aio.EOF:
            requests = pb.UpstreamRequestBatch.FromString(data).requests
            await context.write(encode_batch([answer(request) for request in requests]))

    async def process_request(data: bytes, context: Any) -> bytes:
        return answer(pb.UpstreamRequest.FromString(data))

    handlers = {"ProcessRequest": grpc.unary_unary_rpc_method_handler(process_request)}
    if is_stream:
        handlers["ProcessStream"] = grpc.stream_stream_rpc_method_handler(process_stream)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with lane_to(address) as under_test:
        if is_stream:
            await under_test.until_state(LaneState.STREAM)
        calls = [under_test.call(), under_test.call("bad"), under_test.call()]
        await calls[0]
        error = await failure(calls[1])
        await calls[2]
        assert (error.code, error.outcome) == (ErrorCode.UPSTREAM_UNREACHABLE, Outcome.DONE)
        assert (error.status, error.address) == ("bad_answer", address)
        assert under_test.counters.bad_answers == 1
    await server.stop(None)


MB = 1 << 20


async def test_request_that_the_upstream_does_not_take_costs_itself_only() -> None:
    upstream = Streaming()
    async with serving(upstream) as address, lane_to(address, 8 * MB) as under_test:
        await under_test.until_state(LaneState.STREAM)
        strangers = [under_test.call("gate", b"%d" % i) for i in range(20)]
        await until(lambda: upstream.requests == 20)
        large = under_test.call(data=b"x" * 5_000_000)  # gRPC servers take 4 MiB by default
        strangers.append(under_test.call(data=b"20"))
        error = await failure(large)
        assert (error.code, error.outcome) == (413, Outcome.NOT_STARTED)
        upstream.gate.set()
        for i, stranger in enumerate(strangers):
            assert parse(await stranger).data == b"%d" % i
        assert parse(await under_test.call(data=b"x" * 3_000_000)).data == b"x" * 3_000_000
        counters = under_test.counters
        assert (counters.too_large, counters.connects, counters.broken_calls) == (1, 1, 0)


async def test_many_large_requests_do_not_add_up_to_one_that_is_too_large() -> None:
    upstream = Streaming()
    async with (
        serving(upstream) as address,
        lane_to(address, 8 * MB) as under_test,
    ):
        await under_test.until_state(LaneState.STREAM)
        calls = [under_test.call(data=b"x" * 200_000) for _ in range(64)]
        await asyncio.gather(*calls)
        assert under_test.counters.connects == 1


async def test_limit_below_that_of_grpc_is_learned() -> None:
    upstream = Streaming()
    async with (
        serving(upstream, max_receive_message_length=100_000) as address,
        lane_to(address) as under_test,
    ):
        await under_test.until_state(LaneState.STREAM)
        with contextlib.suppress(UpstreamError):
            await under_test.call(data=b"x" * 150_000)
        await under_test.until_state(LaneState.STREAM)
        connects = under_test.counters.connects
        strangers = [under_test.call("gate", b"%d" % i) for i in range(3)]
        await until(lambda: upstream.requests == 3)
        error = await failure(under_test.call(data=b"x" * 150_000))
        assert (error.code, error.outcome) == (413, Outcome.NOT_STARTED)
        together = [under_test.call(data=b"x" * 60_000) for _ in range(3)]
        upstream.gate.set()
        await asyncio.gather(*strangers, *together)
        assert under_test.counters.connects == connects


class LargeAnswers(Streaming):
    """Answers ``large`` with 8 MB."""

    def answer(self, request: pb.UpstreamRequest) -> pb.UpstreamResponse:
        response = super().answer(request)
        if request.action == "large":
            response.data = b"x" * 8_000_000
        return response


async def test_large_answer_breaks_no_stream() -> None:
    async with serving(LargeAnswers()) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        calls = [under_test.call(action) for action in ("echo", "large", "echo")]
        # The session knows its client's limit (PROTOCOL 5.2).
        assert [len(parse(await call).data) for call in calls] == [0, 8_000_000, 0]
        assert under_test.counters.connects == 1


async def test_answer_above_every_bound_costs_others_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpcio, "MAX_ANSWER_BYTES", 4 * MB)
    async with serving(LargeAnswers()) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        await failure(under_test.call("large"))
        await under_test.until_state(LaneState.UNARY)  # from now on, each message holds one call
        calls = [under_test.call(action) for action in ("echo", "large", "echo")]
        await calls[0]
        await calls[2]
        error = await failure(calls[1])
        assert (error.code, error.outcome) == (413, Outcome.DONE)


@pytest.mark.parametrize(
    ("status", "details", "outcome"),
    [
        ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (5000005 vs. 4194304)", 1),
        ("RESOURCE_EXHAUSTED", "gRPC message exceeds maximum size 4194304: 5000005", 1),
        ("RESOURCE_EXHAUSTED", "Received message exceeds the maximum configured message size.", 1),
        (
            "OUT_OF_RANGE",
            "decoded message length too large: found 5000005 bytes, the limit is: 4194304 bytes",
            1,
        ),
        ("RESOURCE_EXHAUSTED", "trying to send message larger than max (9000000 vs. 4194304)", 2),
        ("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max (5000005 vs. 4194304)", 1),
    ],
)
def test_size_in_the_words_of_every_library(status: str, details: str, outcome: int) -> None:
    assert outcome_of(grpc.StatusCode[status], details, 5_000_005) == (413, outcome)
