"""The soaks of the way to upstreams: what they check with, and short ones."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from itertools import product
from typing import TYPE_CHECKING

import pytest

from gatesvr.upstream.lane import LaneState

from ...fakes import until
from ...upstream.servers import Streaming, UnaryOnly, ask, endpoints, lane_to, parse, serving
from ...upstream.test_manager import managing
from . import __main__ as command
from .goaway_server import GoawayServer
from .runs import RUNS, UPSTREAM_ENDS, Plan, Result, calls_without_end, executions_of

if TYPE_CHECKING:
    from gatesvr.upstream.manager import UpstreamManager

LANES = ("direct", "grpcio")


def without_end(manager: UpstreamManager) -> int:
    """Return how many calls of a manager have no end."""
    counters = manager.counters.snapshot()
    return calls_without_end({f"upstream.{name}": int(n) for name, n in counters.items()})


@pytest.mark.parametrize("kind", [Streaming, UnaryOnly])
@pytest.mark.parametrize("lane", ["direct", pytest.param("grpcio", marks=pytest.mark.long)])
async def test_each_call_counts_by_one_end(lane: str, kind: type[Streaming]) -> None:
    upstream = kind()
    state = "unary" if kind is UnaryOnly else "stream"
    async with (
        serving(upstream) as address,
        managing({"zone": endpoints(address), "gone": []}, lane=lane, max_open=4) as manager,
    ):
        await until(lambda: manager.endpoints()[0].state == state)
        await ask(manager)
        ends = [
            ask(manager, "nobody"),  # no_service
            ask(manager, "gone"),  # unsent_calls
            *(ask(manager, action="gate", timeout=0.1) for _ in range(6)),  # 2 are not written
        ]
        await asyncio.wait(ends)
        assert without_end(manager) == 0
        given_up = [ask(manager, action="gate") for _ in range(3)]
        await until(lambda: manager.counters.open >= 3)
        for call in given_up:
            call.cancel()
        await until(lambda: without_end(manager) == 3)
        before = manager.counters.batched_requests
        broken = ask(manager, action="gate, too")
        # A unary call that the server has not begun with would go back into the line.
        await until(
            lambda: manager.counters.batched_requests > before or "gate, too" in upstream.actions
        )
        await address.stop()
        await asyncio.wait([broken])
        assert without_end(manager) == 3
        counters = manager.counters.snapshot()
        moved = {name for name in UPSTREAM_ENDS if counters[name]}
        # The last one is unsent where the server has not begun with it, and says so.
        moved.discard("broken_calls")
        assert moved == {"answers", "unanswered", "unsent_calls", "no_service"}


@pytest.mark.parametrize(
    ("lane", "has_stream", "has_two_steps"),
    # Where a goodbye meets a unary call, grpcio may lose that: "Stream removed (GOAWAY received)".
    [
        case
        for case in product(LANES, (True, False), (True, False))
        if case[:2] != ("grpcio", False)
    ],
)
async def test_goodbyes_of_a_server_made_by_hand(
    lane: str, has_stream: bool, has_two_steps: bool
) -> None:
    executed: list[bytes] = []
    server = GoawayServer(has_stream, executed.append, 0.005, 0.2, has_two_steps=has_two_steps)
    address = await server.start()
    sent = 0
    async with lane_to(address, lane=lane) as under_test:
        await under_test.until_state(LaneState.STREAM if has_stream else LaneState.UNARY)
        while server.goodbyes < 2:
            answers = await asyncio.gather(*(under_test.call(data=b"%d" % i) for i in range(4)))
            assert [parse(answer).data for answer in answers] == [b"%d" % i for i in range(4)]
            sent += 4
        assert under_test.counters.broken_calls == 0
        if lane == "direct" or has_stream:  # grpcio tells nothing of a goodbye without a stream
            assert under_test.counters.downs == 0
    assert len(executed) == sent
    await server.stop()


def test_executions_are_compared_with_what_clients_were_told() -> None:
    def noted(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(8) for number in numbers)

    outcomes = {1: "answered", 2: "NOT_STARTED", 3: "UNKNOWN"}
    assert executions_of(noted(1, 3), outcomes) == (2, [])
    assert executions_of(noted(1), outcomes) == (1, [])
    count, found = executions_of(noted(2, 3, 3), outcomes)
    assert count == 3
    assert found == [
        "1 requests were executed twice",
        "1 answered requests were not executed",
        "1 executed requests were reported as not started",
    ]


def test_the_command_prints_and_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def planted(self: object) -> Result:
        plan: Plan = self.plan  # type: ignore[attr-defined]
        return Result(plan, findings=["planted"] if plan.is_go else [], rss_mib=[80.0, 81.5])

    for kind in RUNS.values():
        monkeypatch.setattr(kind, "run", planted)
    assert command.main(["memory", "--lane", "direct", "--kind", "unary"]) == 0
    assert "80.0 81.5" in capsys.readouterr().out
    assert command.main(["age", "--kind", "stream", "--json"]) == 1
    results = json.loads(capsys.readouterr().out)
    assert [result["findings"] for result in results] == [[], ["planted"]]
    with pytest.raises(SystemExit):
        command.main(["restart"])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["unary", "stream"])
@pytest.mark.parametrize(
    "plan",
    [
        Plan("memory", requests=10_000, rate=100_000.0),
        Plan("restarts", restarts=4, rate=200.0),
        Plan("age", seconds=4.0, rate=200.0),
        Plan("age", seconds=4.0, rate=200.0, is_go=True),
    ],
    ids=["memory", "restarts", "age", "go-age"],
)
async def test_soak(plan: Plan, kind: str) -> None:
    plan = dataclasses.replace(plan, kind=kind)
    assert (await RUNS[plan.what](plan).run()).findings == []
