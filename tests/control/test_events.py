"""Session events as an async iterator inside, and over real gRPC to upstreams."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

import grpc
import pytest

from gatesvr._pb import upstream_pb2 as pb
from gatesvr.config import PushConfig, SessionConfig
from gatesvr.control.events import EventStream
from gatesvr.errors import ConfigError, QueueFull, UpstreamError
from gatesvr.observe.event_pb import from_pb, to_pb
from gatesvr.observe.events import EventKind, SessionEvent
from gatesvr.service.gateway_client import GatewayClient

from ..fakes import until
from ..grpc_api.test_service import Rig, running, suspend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatesvr.service.event_stream import GatewayEvents

DEADLINE_S = 30.0
MANY_BYTES = 32 << 20
"""More than gRPC takes over before it says that a reader is slow."""


@contextlib.asynccontextmanager
async def reading(rig: Rig, *kinds: str) -> AsyncIterator[tuple[GatewayClient, GatewayEvents]]:
    client = GatewayClient(rig.service.address, timeout=DEADLINE_S)
    try:
        async with asyncio.timeout(DEADLINE_S), client.events(kinds) as events:
            yield client, events
    finally:
        await client.close()


def connect(rig: Rig, count: int) -> None:
    """Start sessions u0, u1 and so on: as many events, in one loop turn."""
    for number in range(count):
        rig.session(f"u{number}", login=False)


# Inside.


async def test_events_inside_are_waited_for() -> None:
    async with running() as rig:
        async with EventStream(rig.manager.events, [EventKind.LOGGED_IN]) as stream:
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            session = rig.session("alice")
            event = await waiting
            assert (event.kind, event.session_id) == ("logged_in", session.session_id)
            assert rig.manager.counters.event_subscribers == 1
        assert rig.manager.counters.event_subscribers == 0
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    async with running() as rig, EventStream(rig.manager.events) as stream:
        for _ in range(2):
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        rig.session("alice")
        assert [(await anext(stream)).kind for _ in range(2)] == ["connected", "logged_in"]


async def test_a_stream_is_one_tasks_and_entered_once() -> None:
    async with running() as rig:
        stream = EventStream(rig.manager.events)
        with pytest.raises(RuntimeError, match="not entered"):
            await anext(stream)
        async with stream:
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await anext(stream)
            with pytest.raises(RuntimeError, match="before"):
                await stream.__aenter__()
            rig.session("alice")
            await waiting


async def test_end_of_the_hub_ends_the_stream_behind_what_waits() -> None:
    async with running() as rig, EventStream(rig.manager.events, ["connected"]) as stream:
        rig.session("alice")
        rig.manager.events.end()
        assert [event.openid async for event in stream] == ["alice"]
        async with EventStream(rig.manager.events) as late:
            assert [event async for event in late] == []


async def test_inside_too_kinds_are_checked_and_subscribers_bounded() -> None:
    async with running(PushConfig(bind="127.0.0.1:0", max_event_subscribers=1)) as rig:
        with pytest.raises(ValueError, match="'nope' is no kind"):
            await EventStream(rig.manager.events, ["nope"]).__aenter__()
        async with EventStream(rig.manager.events):
            with pytest.raises(QueueFull):
                await EventStream(rig.manager.events).__aenter__()


# Over gRPC.


async def test_upstream_reads_every_field() -> None:
    async with running() as rig, reading(rig) as (_, events):
        session = rig.session("alice")
        rig.request(session)
        session.push(b"", now=asyncio.get_running_loop().time())
        session.queue.take(1 << 20)
        suspend(rig, session)
        got = [await anext(events) for _ in range(3)]
        assert [event.kind for event in got] == list(EventKind)[:3]
        assert all(isinstance(event.kind, EventKind) for event in got)
        at_ms = got[2].at_ms
        assert at_ms > 0
        assert got[2] == SessionEvent(
            EventKind.SUSPENDED,
            session.session_id,
            "alice",
            generation=1,
            reason="idle",
            at_ms=at_ms,
            last_sent_seq=1,
            last_acked_seq=0,
            max_client_seq=1,
            undelivered=1,
            transport=got[1].transport,
        )
        await until(lambda: rig.counters["events_sent"] == 3)
        assert (rig.counters["event_streams"], rig.counters["calls"]) == (1, 1)


async def test_upstream_chooses_kinds() -> None:
    async with running() as rig, reading(rig, "logged_in", "suspended") as (_, events):
        session = rig.session("alice")
        suspend(rig, session)
        rig.session("bob")
        got = [await anext(events) for _ in range(3)]
        assert [(event.kind, event.openid) for event in got] == [
            ("logged_in", "alice"),
            ("suspended", "alice"),
            ("logged_in", "bob"),
        ]


@pytest.mark.parametrize("kind", ["nope", "missed", "bad\n\x1b[2J" * 40])
async def test_unknown_kind_is_an_invalid_argument_that_names_it(kind: str) -> None:
    async with running() as rig:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.stub.SubscribeEvents(pb.SubscribeRequest(kinds=["closed", kind])).read()
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert (caught.value.details() or "").startswith(f"kinds: {kind[:64]!r} is no kind")
        with pytest.raises(UpstreamError, match="INVALID_ARGUMENT: kinds:"):
            async with reading(rig, kind) as (_, events):
                await anext(events)
        assert rig.counters["invalid"] == 2
        assert rig.manager.counters.event_subscribers == 0


async def test_subscribers_are_bounded() -> None:
    async with (
        running(PushConfig(bind="127.0.0.1:0", max_event_subscribers=2)) as rig,
        reading(rig) as (client, first),
        reading(rig),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.stub.SubscribeEvents(pb.SubscribeRequest()).read()
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert rig.manager.counters.event_subscribers_refused == 1
        # One that has gone makes room.
        await first.close()
        await until(lambda: rig.counters["event_streams"] == 1)
        async with client.events() as again:
            rig.session("alice")
            assert (await anext(again)).openid == "alice"


async def test_a_subscriber_that_goes_leaves_nothing() -> None:
    async with running() as rig:
        before = len(asyncio.all_tasks())
        for _ in range(3):
            async with reading(rig) as (_, events):
                rig.session("alice", login=False)
                assert (await anext(events)).kind == "connected"
                waiting = asyncio.ensure_future(anext(events))
                await until(lambda: rig.counters["event_streams"] == 1)
                await events.close()
                with pytest.raises(StopAsyncIteration):
                    await waiting
            await until(lambda: rig.counters["event_streams"] == 0)
        await until(lambda: len(asyncio.all_tasks()) <= before)
        assert rig.manager.counters.event_subscribers == 0
        assert rig.counters["internal_errors"] == 0


async def test_a_reader_that_is_cancelled_reads_on() -> None:
    async with running() as rig, reading(rig) as (_, events):
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        rig.session("alice")
        assert [(await anext(events)).kind for _ in range(2)] == ["connected", "logged_in"]


async def test_a_slow_upstream_sees_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads nothing until gRPC and its own queue are full; then all that it has, and the gap."""
    monkeypatch.setattr("gatesvr.session.manager.MAX_EVENT_QUEUE", 50)
    push = PushConfig(bind="127.0.0.1:0")
    config = SessionConfig(on_duplicate="allow")
    async with running(push, config) as rig, reading(rig, "kicked") as (_, events):
        hub = rig.manager.events
        session = rig.session("alice")
        reason = "r" * 60_000
        kept = 0
        while True:
            assert kept * len(reason) < MANY_BYTES, "gRPC takes over without end"
            sent = rig.counters["events_sent"]
            hub.emit(EventKind.KICKED, session, reason, 0.0)
            if rig.manager.counters.events_missed:
                break
            kept += 1
            # It is written, or gRPC is full: then the queue fills.
            for _ in range(20):
                await asyncio.sleep(0)
                if rig.counters["events_sent"] > sent:
                    break
        for _ in range(9):
            hub.emit(EventKind.KICKED, session, reason, 0.0)
        got = []
        while len(hub._subscriptions[0]) == 50:
            got.append(await anext(events))
        hub.emit(EventKind.KICKED, session, "last", 0.0)
        while got[-1].reason != "last":
            got.append(await anext(events))
        # With the event behind the gap, or by itself where all before it was taken first.
        assert [event.missed for event in got[: kept + 1]] == [0] * kept + [10]
        assert got[kept].kind in ("kicked", "missed")
        assert [event.kind for event in got[:kept]] == ["kicked"] * kept
        assert rig.manager.counters.events_missed == 10


async def test_a_gap_at_the_end_is_seen_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.session.manager.MAX_EVENT_QUEUE", 2)
    push = PushConfig(bind="127.0.0.1:0")
    async with running(push) as rig, reading(rig, "connected") as (_, events):
        connect(rig, 5)
        got = [await anext(events) for _ in range(3)]
        assert [(event.kind, event.missed) for event in got] == [
            ("connected", 0),
            ("connected", 0),
            ("missed", 3),
        ]
        assert got[2].session_id == ""
        assert got[2].at_ms >= got[1].at_ms


# The end.


async def test_stop_ends_streams_in_order() -> None:
    async with running() as rig, reading(rig, "connected") as (_, events):
        connect(rig, 20)
        await rig.service.stop()
        assert [event.openid async for event in events] == [f"u{n}" for n in range(20)]
        assert rig.counters["event_streams"] == 0
        # It starts again, and so do subscriptions.
        await rig.service.start()
        async with reading(rig) as (_, again):
            rig.session("alice", login=False)
            assert (await anext(again)).openid == "alice"


async def test_lost_gateway_is_an_upstream_error() -> None:
    async with running() as rig:
        client = GatewayClient(rig.service.address)
        async with client.events() as events:
            await rig.service._server.stop(None)  # type: ignore[union-attr]
            with pytest.raises(UpstreamError, match=r"gateway: [A-Z]+: "):
                await anext(events)
        await client.close()


async def test_no_gateway_is_an_upstream_error() -> None:
    async with running() as rig:
        address = rig.service.address
    client = GatewayClient(address)
    with pytest.raises(UpstreamError, match="UNAVAILABLE"):
        async with client.events() as events:
            await anext(events)
    await client.close()
    with pytest.raises(ConfigError):
        await GatewayClient().events().__aenter__()


async def test_closing_the_client_ends_its_streams() -> None:
    async with running() as rig:
        client = GatewayClient(rig.service.address)
        events = client.events()
        with pytest.raises(RuntimeError, match="not entered"):
            await anext(events)
        async with events:
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await anext(events)
            await client.close()
            with pytest.raises(StopAsyncIteration):
                await waiting
        await until(lambda: rig.counters["event_streams"] == 0)


async def test_fault_of_ours_is_internal_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as rig, reading(rig) as (_, events):

        def broken(*args: object) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr("gatesvr.grpc_api.servicer.to_pb", broken)
        rig.session("alice", login=False)
        with pytest.raises(UpstreamError, match="INTERNAL: internal error"):
            await anext(events)
        assert (rig.counters["internal_errors"], rig.counters["event_streams"]) == (1, 0)


async def test_kind_of_a_newer_gateway_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as rig, reading(rig) as (_, events):
        monkeypatch.setattr(
            "gatesvr.grpc_api.servicer.to_pb", lambda event: pb.SessionEvent(kind="moved")
        )
        rig.session("alice", login=False)
        event = await anext(events)
        assert event == SessionEvent("moved")
        assert not event.is_end


def test_an_event_has_the_fields_of_its_message() -> None:
    names = [field.name for field in dataclasses.fields(SessionEvent)]
    assert sorted(names) == sorted(field.name for field in pb.SessionEvent.DESCRIPTOR.fields)
    event = SessionEvent(EventKind.RESUMED, "s1", "alice", 2, "steal", 3, 4, 5, 6, 7, 8, "quic")
    assert from_pb(to_pb(event)) == event
    assert from_pb(pb.SessionEvent.FromString(to_pb(event).SerializeToString())) == event
