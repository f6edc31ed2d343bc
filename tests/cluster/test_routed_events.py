"""Session events of all processes, for subscribers at any of them."""

from __future__ import annotations

import asyncio

import pytest

from gatesvr.cluster.routing import events as routing_events
from gatesvr.control.events import EventStream
from gatesvr.observe.events import EventKind, SessionEvent

from ..dispatch.fakes import settle
from .rig import travelling
from .routed import RoutedCluster


async def drain(stream: EventStream) -> list[SessionEvent]:
    """Return what a stream has, until nothing more comes."""
    found = []
    while True:
        try:
            async with asyncio.timeout(3):
                found.append(await anext(stream))
        except TimeoutError:
            return found


def told(events: list[SessionEvent]) -> list[tuple[str, str]]:
    return sorted((event.openid, event.kind) for event in events)


@travelling
async def test_a_subscriber_gets_the_events_of_all_once() -> None:
    async with RoutedCluster("abc") as cluster:
        everything = cluster["a"].commands.events()
        logins = cluster["b"].commands.events(["logged_in"])
        async with everything, logins:
            for process, name in zip(cluster, "xyz", strict=True):
                await process.log_in(name)
            assert told(await drain(everything)) == [
                (name, kind) for name in "xyz" for kind in ("connected", "logged_in")
            ]
            assert told(await drain(logins)) == [(name, "logged_in") for name in "xyz"]
            assert [p.sessions.counters.event_subscribers for p in cluster] == [1, 1, 0]
        await cluster.pass_time(3)
        assert [p.sessions.events.relays for p in cluster] == [()] * 3


@travelling
async def test_a_process_that_joins_relays_from_its_first_session_on() -> None:
    async with RoutedCluster("ab") as cluster, cluster["a"].commands.events() as stream:
        c = await cluster.boot("c")
        await c.log_in("new")
        assert told(await drain(stream)) == [("new", "connected"), ("new", "logged_in")]


@travelling
async def test_lost_and_repeated_batches_are_told_once() -> None:
    async with RoutedCluster("ab") as cluster, cluster["a"].commands.events() as stream:
        for number, kind in enumerate(("lose", "deaf", "repeat", "deaf")):
            cluster.wire.order("Events", kind)
            await cluster.b.log_in(f"u{number}")
        events = await drain(stream)
        assert [event.openid for event in events] == [f"u{n // 2}" for n in range(8)]


@travelling
async def test_missed_events_are_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_events, "MAX_QUEUE", 16)
    async with RoutedCluster("ab") as cluster:
        commands = cluster["a"].commands
        everything, starts = commands.events(), commands.events(["connected"])
        async with everything, starts:
            cluster.wire.cut("a", "b")
            for number in range(40):
                client = cluster.b.client()
                await client.start(f"u{number}")
                client.lose()
            cluster.wire.mend("a", "b")
            await cluster.pass_time(3)
            await cluster.b.log_in("last")
            for stream, total in ((everything, 82), (starts, 41)):
                events = await drain(stream)
                seen = [event for event in events if event.kind is not EventKind.MISSED]
                assert len(seen) + sum(event.missed for event in events) == total
                assert len(seen) < total
                assert seen[-1].openid == "last"
        assert cluster.a.sessions.counters.events_missed > 0


@travelling
async def test_a_subscriber_that_dies_leaves_nothing() -> None:
    async with RoutedCluster("abc") as cluster:
        stream = cluster["a"].commands.events()
        await stream.__aenter__()
        await cluster["a"].commands.stop()
        await cluster.a.die()
        await cluster.b.log_in("x")
        await cluster.pass_time(5)
        await cluster.directory.leave("a")  # the supervisor has seen it
        await cluster.pass_time(2)
        assert [cluster[n].commands._events._relays for n in "bc"] == [{}, {}]


@travelling
async def test_a_subscription_while_a_sibling_is_silent() -> None:
    async with RoutedCluster("ab") as cluster:
        cluster.wire.cut("a", "b")
        async with cluster["a"].commands.events() as stream:
            await cluster.a.log_in("own")
            cluster.wire.mend("a", "b")
            await cluster.pass_time(2)
            await cluster.b.log_in("other")
            assert {e.openid for e in await drain(stream)} == {"own", "other"}


@travelling
async def test_one_that_subscribes_again_at_once_misses_nothing() -> None:
    async with RoutedCluster("ab") as cluster:
        held = cluster.wire.order("Events", "hold")
        async with cluster["a"].commands.events():
            await cluster.b.log_in("x")
            await settle(20)
        await cluster.pass_time(2)  # it wants nothing any more
        async with cluster["a"].commands.events(["logged_in"]) as stream:
            held.release()
            await settle(20)
            await cluster.b.log_in("y")
            assert ("y", "logged_in") in told(await drain(stream))
