"""The manager over real servers: balance, failover, registration, stop."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gatesvr._pb import upstream_pb2 as pb
from gatesvr.config import PushConfig, RouteRule
from gatesvr.errors import ErrorCode, UpstreamError
from gatesvr.upstream.manager import UpstreamManager

from ..fakes import until
from .servers import (
    DEADLINE_S,
    Streaming,
    UnaryOnly,
    ask,
    endpoints,
    parse,
    serving,
    settings,
)
from .test_lane import failure

pytestmark = pytest.mark.usefixtures("lane_kind")


class Refusing(Streaming):
    def answer(self, request: pb.UpstreamRequest) -> pb.UpstreamResponse:
        return pb.UpstreamResponse(request_id=request.request_id, status=pb.UPSTREAM_REFUSED)


@asynccontextmanager
async def managing(
    services: dict[str, Any], push: PushConfig | None = None, **values: Any
) -> AsyncIterator[UpstreamManager]:
    """Run a manager; afterwards none of its tasks is left."""
    before = asyncio.all_tasks()
    manager = UpstreamManager(
        settings(services=services, **values),
        1 << 20,
        push=push,
        rules=[RouteRule(action="*", service="chat")],
    )
    await manager.start()
    try:
        yield manager
    finally:
        await manager.stop(1.0)
        names = [task.get_name() for task in asyncio.all_tasks() - before]
        assert not [name for name in names if name.startswith("gatesvr-")]


async def until_up(manager: UpstreamManager, lanes: int = 1) -> None:
    await until(lambda: manager.counters.lanes_up == lanes)


async def until_streams(manager: UpstreamManager) -> None:
    await until(lambda: all(status.state == "stream" for status in manager.endpoints()))


async def test_round_robin() -> None:
    async with (
        serving(Streaming("a")) as a,
        serving(Streaming("b")) as b,
        managing({"zone": endpoints(a, b)}) as manager,
    ):
        await until_up(manager, 2)
        answers = await asyncio.gather(*(ask(manager) for _ in range(20)))
        assert Counter(parse(answer).message for answer in answers) == {"a": 10, "b": 10}


async def test_consistent_hash() -> None:
    async with (
        serving(Streaming("a")) as a,
        serving(Streaming("b")) as b,
        managing({"zone": endpoints(a, b)}, balance="consistent_hash") as manager,
    ):
        await until_up(manager, 2)
        for openid in ("alice", "bob", "carol", "dave"):
            answers = await asyncio.gather(*(ask(manager, openid=openid) for _ in range(5)))
            assert len({parse(answer).message for answer in answers}) == 1


async def test_zones() -> None:
    async with (
        serving(Streaming("a")) as a,
        serving(Streaming("b")) as b,
        managing({"zone": endpoints(a, zone="001") + endpoints(b, zone="002")}) as manager,
    ):
        await until_up(manager, 2)
        for zone, name in (("001", "a"), ("002", "b")):
            assert parse(await ask(manager, zone=zone)).message == name
        assert not (await failure(ask(manager, zone="003"))).is_started


async def test_services_at_one_address_share_a_lane() -> None:
    upstream = Streaming()
    async with (
        serving(upstream) as address,
        managing({name: endpoints(address) for name in ("hello", "zone")}) as manager,
    ):
        await until_streams(manager)
        await asyncio.gather(*(ask(manager, name) for name in ("hello", "zone") * 5))
        assert [len(batch) for batch in upstream.batches] == [10]
        assert (manager.counters.lanes, manager.counters.endpoints) == (1, 2)


async def test_unknown_service_is_404() -> None:
    async with managing({}) as manager:
        error = await failure(ask(manager, "nothing"))
        assert (error.code, error.is_started) == (ErrorCode.NO_ROUTE, False)
        assert manager.counters.no_service == 1
        assert not manager.has_service("nothing")


async def test_nobody_reachable_is_502_at_once_and_recovers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gatesvr.upstream")
    async with serving(Streaming()) as address:
        pass
    async with managing({"zone": endpoints(address)}) as manager:
        for _ in range(5):
            error = await failure(ask(manager))
            assert (error.code, error.is_started) == (ErrorCode.UPSTREAM_UNREACHABLE, False)
        assert manager.has_service("zone")
        async with serving(Streaming(), address.port):
            await until_up(manager)
            await ask(manager)
            events = [r.message for r in caplog.records if r.name == "gatesvr.upstream"]
            assert events == ["upstream_down", "upstream_up"]


@pytest.mark.parametrize("kind", [Streaming, UnaryOnly])
async def test_calls_go_elsewhere_when_an_endpoint_dies(kind: type[Streaming]) -> None:
    dying, other = kind("dying"), Streaming("other")
    async with (
        serving(dying) as first,
        serving(other) as second,
        managing({"zone": endpoints(first, second)}, max_open=1) as manager,
    ):
        await until_up(manager, 2)
        if kind is Streaming:
            await until_streams(manager)
        # One call each is written, the next ones wait behind it.
        written = [ask(manager, action="gate") for _ in range(2)]
        await until(lambda: (dying.requests, other.requests) == (1, 1))
        waiting = [ask(manager) for _ in range(6)]
        await first.stop()
        ended = await _first_failure(written)
        assert (ended.code, ended.is_started) == (ErrorCode.UPSTREAM_UNREACHABLE, True)
        other.gate.set()
        answers = await asyncio.gather(*waiting)
        assert {parse(answer).message for answer in answers} == {"other"}
        assert manager.counters.moved_calls == 3
        await until_up(manager, 1)
        assert parse(await ask(manager)).message == "other"


async def _first_failure(calls: list[asyncio.Future[Any]]) -> UpstreamError:
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    return await failure(done.pop())


async def test_refused_is_tried_once_elsewhere() -> None:
    async with (
        serving(Refusing()) as refusing,
        serving(Streaming("b")) as b,
        managing({"zone": endpoints(refusing, b)}) as manager,
    ):
        await until_up(manager, 2)
        answers = await asyncio.gather(*(ask(manager) for _ in range(4)))
        assert {parse(answer).message for answer in answers} == {"b"}
        assert manager.counters.refused_calls == 2


async def test_a_call_that_moves_takes_along_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No call counts as having waited long in a lane.
    monkeypatch.setattr("gatesvr.upstream.lane.LONG_WAIT_S", float("inf"))
    refusing, other = Refusing(), Streaming()
    async with (
        serving(refusing) as a,
        serving(other) as b,
        managing({"zone": endpoints(a, b)}) as manager,
    ):
        await until_up(manager, 2)
        await until_streams(manager)
        calls = [ask(manager, action="gate") for _ in range(2)]
        await until(lambda: (refusing.requests, other.requests) == (1, 1))
        other.gate.set()
        loop = asyncio.get_running_loop()
        clock = loop.time
        with monkeypatch.context() as patch:
            patch.setattr(loop, "time", lambda: clock() + 2)
            refusing.gate.set()
            await asyncio.gather(*calls)
        (refused,) = refusing.batches[0]
        assert 0 < other.timeouts_ms[refused] <= (DEADLINE_S - 2) * 1000


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_refused_everywhere_is_503_not_started(number: int) -> None:
    upstreams = [Refusing() for _ in range(3)]
    async with (
        serving(upstreams[0]) as a,
        serving(upstreams[1]) as b,
        serving(upstreams[2]) as c,
        managing({"zone": endpoints(*[a, b, c][:number])}) as manager,
    ):
        await until_up(manager, number)
        error = await failure(ask(manager))
        assert (error.code, error.is_started) == (ErrorCode.BUSY, False)
        assert error.retry_after_ms > 0
        assert sum(upstream.requests for upstream in upstreams) == min(number, 2)
        assert manager.counters.not_started == 1


async def test_registering_makes_a_dead_service_live_until_its_lease_ends() -> None:
    async with (
        serving(Streaming("late")) as late,
        managing({"zone": endpoints("127.0.0.1:9")}, PushConfig(register="add")) as manager,
    ):
        assert not (await failure(ask(manager))).is_started
        result = manager.registry.register(f":{late.port}", "", "zone", 1, 0, "127.0.0.1")
        assert result.success
        await until_up(manager)
        assert parse(await ask(manager)).message == "late"
        await until(lambda: manager.counters.leases_expired == 1)
        assert (await failure(ask(manager))).code == ErrorCode.UPSTREAM_UNREACHABLE
        assert [status.is_registered for status in manager.endpoints()] == [False]
        assert manager.registry.keep_alive(result.lease_id).error_code == "NOT_FOUND"


async def test_base_upstream_serves_every_service_of_its_zone() -> None:
    async with (
        serving(UnaryOnly("base")) as base,
        serving(Streaming("own")) as own,
        managing({"zone": endpoints(own)}) as manager,
    ):
        await until_up(manager)
        name = "upstream-zone-005"
        assert manager.registry.register(f":{base.port}", "005", name, 0, 0, "127.0.0.1").success
        await until_up(manager, 2)
        assert parse(await ask(manager, zone="005")).message == "base"
        assert parse(await ask(manager, "anything", zone="005")).message == "base"
        assert parse(await ask(manager, zone="004")).message == "own"


async def test_deregistered_lane_ends_after_its_answers() -> None:
    upstream = Streaming()
    async with serving(upstream) as address, managing({}) as manager:
        result = manager.registry.register(address, "", "chat", 0, 0, "127.0.0.1")
        await until_up(manager)
        await until_streams(manager)
        written = ask(manager, "chat", action="gate", data=b"x")
        await until(lambda: upstream.requests == 1)
        assert manager.registry.deregister(result.lease_id).success
        assert manager.counters.lanes == 0
        assert (await failure(ask(manager, "chat"))).code == ErrorCode.NO_ROUTE
        upstream.gate.set()
        assert parse(await written).data == b"x"


async def test_registering_again_ends_the_pause() -> None:
    async with serving(Streaming()) as address:
        pass
    async with managing({}, reconnect_min=60.0, reconnect_max=60.0) as manager:
        for _ in range(2):
            assert manager.registry.register(address, "", "chat", 0, 0, "127.0.0.1").success
        await until(lambda: manager.endpoints()[0].state == "down")
        async with serving(Streaming(), address.port):
            assert manager.registry.register(address, "", "chat", 0, 0, "127.0.0.1").success
            await until(lambda: manager.counters.connects >= 2)


async def test_start_twice_raises_and_stop_is_idempotent() -> None:
    manager = UpstreamManager(settings(services={}), 1 << 20)
    await manager.stop()
    other = UpstreamManager(settings(services={"zone": endpoints("127.0.0.1:9")}), 1 << 20)
    await other.start()
    with pytest.raises(RuntimeError):
        await other.start()
    await other.stop()
    await other.stop()
    assert (await failure(ask(other))).code == ErrorCode.NO_ROUTE


def test_under_uvloop() -> None:
    import uvloop

    async def scenario() -> None:
        asyncio.get_running_loop().set_debug(True)
        await test_round_robin()
        await test_deregistered_lane_ends_after_its_answers()
        await test_calls_go_elsewhere_when_an_endpoint_dies(Streaming)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


async def test_every_call_ends_while_upstreams_come_and_go() -> None:
    """Seeded chaos: answers are right, errors are UpstreamErrors, and nothing is left over."""
    chance = random.Random(7)
    async with serving(Streaming()) as a, serving(UnaryOnly()) as b:
        ports = [a.port, b.port]
    kinds = [Streaming, UnaryOnly]
    async with managing(
        {"zone": endpoints(*(f"127.0.0.1:{port}" for port in ports))}, max_open=8
    ) as manager:
        calls: list[tuple[bytes, asyncio.Future[Any]]] = []
        for i in range(16):
            async with serving(kinds[i % 2](), ports[i % 2]):
                await until(lambda: manager.counters.lanes_up)
                for _ in range(chance.randrange(5, 40)):
                    data = b"%d" % len(calls)
                    call = ask(manager, data=data)
                    calls.append((data, call))
                    if chance.random() < 0.05:
                        call.cancel()
                    if chance.random() < 0.1:
                        await asyncio.sleep(0)
                if chance.random() < 0.5:
                    await asyncio.wait([call for _, call in calls])
        outcomes: Counter[str] = Counter()
        for data, call in calls:
            try:
                assert parse(await call).data == data
                outcomes["answered"] += 1
            except UpstreamError as error:
                outcomes[f"{error.code} {error.is_started}"] += 1
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1
        assert outcomes["answered"] > 50, outcomes
        assert set(outcomes) <= {"answered", "cancelled", "502 True", "502 False"}
        counters = manager.counters
        assert (counters.open, counters.waiting, counters.unknown_answers) == (0, 0, 0)
