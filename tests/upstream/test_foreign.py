"""Lanes in front of servers that are not ours: grpc-js on Node, grpc-go (`make foreign`)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gatesvr.upstream.lane import LaneState

from ..fakes import until
from .foreign import KINDS, foreign
from .servers import lane_to, parse
from .test_goodbye import load
from .test_scripted import ended

pytestmark = pytest.mark.long

LARGE = 4 << 20
MODES = {"stream": ((), LaneState.STREAM), "unary": (("-unary",), LaneState.UNARY)}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Run the test with each server."""
    kind: str = request.param
    return kind


@pytest.mark.parametrize("mode", MODES)
async def test_calls_of_all_kinds(kind: str, mode: str) -> None:
    flags, state = MODES[mode]
    async with (
        foreign(kind, *flags) as address,
        lane_to(address, max_message_bytes=2 * LARGE) as under_test,
    ):
        await under_test.until_state(state)

        for round_ in range(3):
            calls = [under_test.call(data=b"%d" % i * i) for i in range(300)]
            answers = [parse(answer) for answer in await asyncio.gather(*calls)]
            assert [answer.data for answer in answers] == [b"%d" % i * i for i in range(300)], (
                round_
            )
            assert {answer.message for answer in answers} == {kind}

        # Sizes, alone and at once.
        large = bytes(range(256)) * (LARGE // 256)
        calls = [under_test.call(data=data) for data in (b"", large, b"between", large, b"")]
        calls.append(under_test.call(f"large {LARGE}", b"x"))
        answers = [parse(answer).data for answer in await asyncio.gather(*calls)]
        assert answers[:-1] == [b"", large, b"between", large, b""]
        assert answers[-1].count(answers[-1][:1]) == LARGE

        # An answer that is late, and the ones that do not wait for it.
        late = under_test.call("wait 30000", timeout=0.3)
        assert parse(await under_test.call(data=b"quick")).data == b"quick"
        await asyncio.wait([late])
        assert ended(late)[0] == "504 UNKNOWN"
        given_up = under_test.call("wait 30000")
        await until(lambda: under_test.lane.open_calls)
        given_up.cancel()

        # The service's own reports.
        await under_test.call("health NOT_SERVING")
        await until(lambda: not under_test.lane.is_up)
        assert under_test.lane.state is state
        counters = under_test.counters
        assert (counters.connects, counters.downs, counters.broken_calls) == (1, 1, 0)


async def test_statuses(kind: str) -> None:
    async with foreign(kind, "-unary") as address, lane_to(address) as under_test:
        text = "é 100 % of\ta 漢"
        for status, end in (
            (3, "400 DONE"),
            (5, "404 DONE"),
            (16, "403 DONE"),
            (13, "502 UNKNOWN"),
        ):
            call = under_test.call(f"fail {status} {text}")
            await asyncio.wait([call])
            assert ended(call)[0] == end
            assert text in ended(call)[2]
        assert parse(await under_test.call(data=b"next")).data == b"next"


@pytest.mark.parametrize("mode", MODES)
async def test_connections_that_grow_old_cost_no_request(kind: str, mode: str) -> None:
    flags, state = MODES[mode]
    async with foreign(kind, "-age", "400", *flags) as address, lane_to(address) as under_test:
        await under_test.until_state(state)
        counters = under_test.counters

        def call() -> asyncio.Future[Any]:
            return under_test.call("wait 5", b"x" * 2_000)

        ends = await load(call, lambda: counters.goodbyes >= 4)
        assert set(ends) == {"ok"}
        assert counters.broken_calls == counters.unsent_calls == 0


async def test_streams_are_bounded_as_the_server_says(kind: str) -> None:
    async with foreign(kind, "-unary", "-streams", "5") as address, lane_to(address) as under_test:
        calls = [under_test.call("wait 2", b"%d" % i) for i in range(200)]
        answers = [parse(answer).data for answer in await asyncio.gather(*calls)]
        assert answers == [b"%d" % i for i in range(200)]
        assert under_test.counters.refused_calls == under_test.counters.retried_calls == 0


async def test_server_that_dies(kind: str) -> None:
    async with foreign(kind) as address, lane_to(address) as under_test:
        await under_test.until_state(LaneState.STREAM)
        call = under_test.call("wait 60000")
        # Behind it on the same stream, so the server has both.
        assert parse(await under_test.call(data=b"quick")).data == b"quick"
        address.kill()
        await asyncio.wait([call])
        assert ended(call)[0] == "502 UNKNOWN"
        await under_test.until_state(LaneState.DOWN)
        assert under_test.counters.broken_calls == 1
