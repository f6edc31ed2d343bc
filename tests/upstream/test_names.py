"""Endpoints by name: every address is used, and they are followed as they change."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gatesvr.config import Endpoint, PushConfig
from gatesvr.errors import ErrorCode
from gatesvr.upstream.manager import UpstreamManager
from gatesvr.upstream.resolver import MAX_ADDRESSES, choose, look_up
from gatesvr.upstream.target import Target

from ..fakes import until
from .servers import Served, Streaming, ask, parse, serving, settings
from .test_lane import failure

NAME = "chat.test:80"
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class Names:
    """A resolver that knows one name."""

    def __init__(self, *found: str) -> None:
        self.set(*found)
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    def set(self, *found: str) -> None:
        self.error: Exception | None = None
        self.places = [(host, int(port)) for host, _, port in (at.rpartition(":") for at in found)]

    async def look_up(self, host: str, port: int) -> list[tuple[str, int]]:
        assert (host, port) == ("chat.test", 80)
        self.asked += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return list(self.places)


@asynccontextmanager
async def managing(names: Names, *more: str, **values: Any) -> AsyncIterator[UpstreamManager]:
    """Run a manager with one service at NAME, and at more addresses; none of its tasks is left."""
    before = asyncio.all_tasks()
    services = {"zone": [Endpoint(address=address) for address in (NAME, *more)]}
    manager = UpstreamManager(settings(services=services, **values), 1 << 20, look_up=names.look_up)
    await manager.start()
    try:
        yield manager
    finally:
        await manager.stop(1.0)
        left = [task.get_name() for task in asyncio.all_tasks() - before]
        assert not [name for name in left if name.startswith("gatesvr-")]


def addresses(manager: UpstreamManager) -> list[tuple[str, str]]:
    return sorted((status.address, status.name) for status in manager.endpoints())


async def until_at(manager: UpstreamManager, *servers: Served) -> None:
    """Wait until these are the addresses of NAME, and can be reached."""
    expected = sorted((str(server), NAME) for server in servers)
    await until(lambda: addresses(manager) == expected)
    await until(lambda: all(status.is_up for status in manager.endpoints()))


async def answered_by(manager: UpstreamManager, calls: int = 20, **values: Any) -> Counter[str]:
    answers = await asyncio.gather(*(ask(manager, **values) for _ in range(calls)))
    return Counter(parse(answer).message for answer in answers)


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [record.keys for record in caplog.records if record.message == message]  # type: ignore[attr-defined]


V4 = [("10.0.0.2", 1), ("10.0.0.1", 1)]
V6 = [("fd00::2", 1), ("fd00::1", 1)]


def test_the_first_family_is_used_in_an_order_of_its_own() -> None:
    assert choose([]) == []
    assert choose(V4[:1]) == [(V4[0],)]
    assert choose([*V4, *V6]) == [(V4[1],), (V4[0],)]
    assert choose([V6[0], *V4, V6[1], V6[0]]) == [(V6[1],), (V6[0],)]
    assert choose([*V4, V6[0]]) == [(V4[1],), (V4[0],)]
    many = [(f"10.0.{i % 100}.{i // 100}", 1) for i in range(200)]
    assert choose(many) == choose(many[::-1])
    assert len(choose(many)) == MAX_ADDRESSES


def test_one_address_of_each_family_is_one_upstream() -> None:
    assert choose([V6[0], V4[0]]) == [(V6[0], V4[0])]
    assert choose([V4[0], V6[0], V4[0]]) == [(V4[0], V6[0])]


async def test_the_system_resolves_localhost() -> None:
    found = await look_up("localhost", 80)
    assert {host for host, _ in found} <= {"127.0.0.1", "::1"}
    assert {port for _, port in found} == {80}
    (places,) = choose(found)
    assert Target.of("localhost:80").at(places).places == places


async def test_names_that_hang_hold_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    over, real = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, *more: Any, **options: Any) -> Any:
        if host == "hangs.test":
            over.wait(60)
            host = "127.0.0.1"
        return real(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    hanging = [asyncio.create_task(look_up("hangs.test", 80)) for _ in range(40)]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        assert ("127.0.0.1", 80) in await look_up("127.0.0.1", 80)
    assert not any(task.done() for task in hanging)
    over.set()
    assert await asyncio.gather(*hanging) == [[("127.0.0.1", 80)]] * 40


async def test_all_addresses_share_the_calls() -> None:
    names = Names()
    async with serving(Streaming("a")) as a, serving(Streaming("b")) as b:
        names.set(a, b)
        names.open.clear()
        async with managing(names) as manager:
            await until(lambda: names.asked)
            waiting = [ask(manager) for _ in range(4)]
            assert addresses(manager) == [(NAME, "")]
            assert manager.endpoints()[0].state == "connecting"
            assert manager.counters.waiting == 4
            names.open.set()
            await asyncio.gather(*waiting)
            await until_at(manager, a, b)
            assert await answered_by(manager) == {"a": 10, "b": 10}
            assert manager.counters.endpoints == manager.counters.lanes == 2
            assert manager.counters.moved_calls == 4


async def test_calls_that_wait_for_a_name_are_bounded_and_have_deadlines() -> None:
    names = Names()
    names.open.clear()
    async with managing(names, max_waiting=2) as manager:
        late = [ask(manager, timeout=0.05), ask(manager, timeout=0.05)]
        assert (await failure(ask(manager))).code == ErrorCode.BUSY
        assert [(await failure(call)).code for call in late] == [ErrorCode.DEADLINE] * 2
        left = ask(manager)
    error = await failure(left)
    assert (error.code, error.is_started) == (ErrorCode.UPSTREAM_UNREACHABLE, False)


async def test_a_name_that_nobody_knows_is_asked_for_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = Names()
    names.error = UNKNOWN
    async with serving(Streaming("a")) as a, managing(names) as manager:
        with caplog.at_level(logging.INFO, "gatesvr.upstream"):
            first = ask(manager)
            assert "no such name" in str(await failure(first))
            assert manager.endpoints()[0].state == "down"
            assert (await failure(ask(manager))).code == ErrorCode.UPSTREAM_UNREACHABLE
            await until(lambda: names.asked > 2)
            names.set(a)
            await until_at(manager, a)
        assert lines(caplog, "upstream_down") == [{"address": NAME, "why": "no such name"}]
        assert lines(caplog, "upstream_resolved") == [{"name": NAME, "addresses": str(a)}]
        assert await answered_by(manager, 1) == {"a": 1}
        counters = manager.counters
        assert counters.lookups > counters.failed_lookups > 1


async def test_other_endpoints_take_the_calls_of_a_name_that_nobody_knows() -> None:
    names = Names()
    names.error = UNKNOWN
    names.open.clear()
    async with serving(Streaming("b")) as b, managing(names, str(b)) as manager:
        await until(lambda: manager.counters.lanes_up)
        assert await answered_by(manager, 3) == {"b": 3}
        names.open.set()
        await until(lambda: manager.counters.failed_lookups)
        assert await answered_by(manager, 3) == {"b": 3}


@pytest.mark.usefixtures("lane_kind")
async def test_traffic_moves_when_the_addresses_change() -> None:
    names = Names()
    async with (
        serving(Streaming("a")) as a,
        serving(Streaming("b")) as b,
        serving(Streaming("c")) as c,
    ):
        names.set(a, b)
        async with managing(names, resolve_interval=0.1) as manager:
            await until_at(manager, a, b)
            seen: Counter[str] = Counter()
            is_moved = False

            async def keep_asking() -> None:
                while not is_moved:
                    seen.update(await answered_by(manager, 8))

            load = asyncio.create_task(keep_asking())
            await until(lambda: seen["a"] and seen["b"])
            names.set(b, c)
            await until_at(manager, b, c)
            await until(lambda: seen["c"])
            is_moved = True
            await load
            assert await answered_by(manager) == {"b": 10, "c": 10}
            counters = manager.counters
            assert counters.broken_calls == counters.unsent_calls == counters.unanswered == 0


@pytest.mark.usefixtures("lane_kind")
async def test_a_broken_address_is_looked_up_at_once() -> None:
    names = Names()
    async with serving(Streaming("a")) as a, serving(Streaming("b")) as b:
        names.set(a)
        async with managing(names) as manager:  # with the usual interval
            await until_at(manager, a)
            names.set(b)
            await a.stop()
            await until_at(manager, b)
            assert await answered_by(manager, 3) == {"b": 3}


async def test_a_name_that_is_lost_keeps_its_addresses(caplog: pytest.LogCaptureFixture) -> None:
    names = Names()
    async with serving(Streaming("a")) as a:
        names.set(a)
        async with managing(names, resolve_interval=0.1) as manager:
            await until_at(manager, a)
            for error in (UNKNOWN, socket.gaierror(socket.EAI_AGAIN, "x"), None):
                names.error, names.places = error, []
                before = manager.counters.failed_lookups
                await until(lambda before=before: manager.counters.failed_lookups > before)  # type: ignore[misc]
            assert await answered_by(manager, 3) == {"a": 3}
        assert lines(caplog, "addresses_kept") == [{"name": NAME, "why": "no such name"}]


async def test_a_lookup_that_hangs_has_a_deadline() -> None:
    names = Names()
    names.open.clear()
    async with serving(Streaming("a")) as a:
        names.set(a)
        async with managing(names, connect_timeout=0.05) as manager:
            call = ask(manager)
            assert "not resolved within 0.05 s" in str(await failure(call))
            await until(lambda: manager.counters.failed_lookups > 2)
            assert names.asked == 1  # it still runs
            names.open.set()
            await until_at(manager, a)


async def test_hashing_is_by_the_address_that_a_name_has() -> None:
    names = Names()
    openids = [f"user{i}" for i in range(20)]

    async def places(manager: UpstreamManager) -> list[str]:
        answers = await asyncio.gather(*(ask(manager, openid=openid) for openid in openids))
        return [parse(answer).message for answer in answers]

    async with serving(Streaming("a")) as a, serving(Streaming("b")) as b:
        names.set(b, a)
        async with managing(names, balance="consistent_hash") as manager:
            await until_at(manager, a, b)
            by_name = await places(manager)
        services = {"zone": [Endpoint(address=str(server)) for server in (a, b)]}
        config = settings(services=services, balance="consistent_hash")
        other = UpstreamManager(config, 1 << 20)
        await other.start()
        await until(lambda: other.counters.lanes_up == 2)
        assert await places(other) == by_name
        assert len(set(by_name)) == 2
        await other.stop()


async def test_a_name_with_both_families_is_one_endpoint() -> None:
    names = Names()
    async with serving(Streaming("a")) as a:
        names.places = [("::1", a.port), ("127.0.0.1", a.port)]
        async with managing(names) as manager:
            await until(lambda: manager.counters.lanes == 1 and names.asked)
            await until(lambda: addresses(manager) == [(NAME, "")])


async def test_services_share_a_name_and_the_last_one_ends_it() -> None:
    names = Names()
    async with serving(Streaming("a")) as a:
        names.set(a)
        services = {"zone": [Endpoint(address=NAME)], "hello": [Endpoint(address=NAME)]}
        manager = UpstreamManager(settings(services=services), 1 << 20, look_up=names.look_up)
        await manager.start()
        await until(lambda: addresses(manager) == [(str(a), NAME)] * 2)
        assert names.asked == manager.counters.lanes == 1
        for config in (
            settings(services={"zone": services["zone"]}, resolve_interval=1.0),
            settings(services={}),
        ):
            manager.prepare(config, push=PushConfig(), rules=[], auth_service="")()
            assert len(manager._names) == len(config.services)
        assert manager.endpoints() == []
        await manager.stop()


async def test_another_interval_counts_at_once() -> None:
    names = Names()
    async with serving(Streaming("a")) as a:
        names.set(a)
        async with managing(names) as manager:  # with an interval of 30 s
            await until_at(manager, a)
            config = settings(services={"zone": [Endpoint(address=NAME)]}, resolve_interval=0.1)
            manager.prepare(config, push=PushConfig(), rules=[], auth_service="")()
            await until(lambda: names.asked > 3)


async def test_a_lookup_that_fails_in_an_odd_way_is_logged_and_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = Names()
    names.error = LookupError("odd")
    async with serving(Streaming("a")) as a, managing(names) as manager:
        await until(lambda: len(lines(caplog, "resolver_failed")) > 1)
        assert lines(caplog, "resolver_failed")[0] == {"name": NAME}
        assert [line["why"] for line in lines(caplog, "upstream_down")] == ["odd"]
        assert manager.counters.failed_lookups > 1
        names.set(a)
        await until_at(manager, a)
        assert await answered_by(manager, 2) == {"a": 2}
