"""What an upstream, and whoever embeds the gateway, is told of real sessions."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gatesvr import EventKind, Gateway, GatewayClient, SessionEvent

from ..fakes import until
from .harness import running_gateway
from .plain_client import DEADLINE_S, ack, plain_client, stop
from .plain_upstream import plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Told:
    """Reads a stream of events to its end."""

    def __init__(self, stream: AsyncIterator[SessionEvent]) -> None:
        self.events: list[SessionEvent] = []
        self._stream = stream

    async def next(self) -> SessionEvent:
        async with asyncio.timeout(DEADLINE_S):
            event = await anext(self._stream)
        self.events.append(event)
        return event

    async def expect(self, *kinds: str) -> SessionEvent:
        """Read as many events; return the last."""
        got = [await self.next() for _ in kinds]
        assert [event.kind for event in got] == list(kinds)
        return got[-1]

    async def rest(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            self.events.extend([event async for event in self._stream])


async def test_a_sessions_life_is_told(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
    ):
        client = GatewayClient(gateway.grpc_address)
        try:
            async with client.events() as outside, gateway.events() as inside:
                told = Told(outside)
                await _live(gateway, client, told)
                also = Told(inside)
                await also.rest()
                assert also.events == told.events
                assert gateway.stats()["session"]["events"] == len(told.events)
                assert gateway.stats()["session"]["events_missed"] == 0
        finally:
            await client.close()


async def _live(gateway: Gateway, upstream: GatewayClient, told: Told) -> None:
    """Go through every kind of event but one, and stop the gateway."""
    began_ms = time.time_ns() // 1_000_000
    async with plain_client(gateway.address) as client:
        started = await client.login("alice")
        event = await told.expect("connected", "logged_in")
        assert (event.session_id, event.openid) == (started.session_id, "alice")
        assert began_ms <= event.at_ms + 1_000
        # Cut off with a push on its way.
        assert (await upstream.push("alice", content="x")).success
        await client.receive()
    event = await told.expect("suspended")
    assert (event.reason, event.generation) == ("peer", 1)
    assert (event.last_sent_seq, event.last_acked_seq) == (2, 0)
    assert (event.max_client_seq, event.undelivered) == (1, 2)

    async with plain_client(gateway.address) as client:
        resumed = await client.start(
            "",
            session_id=started.session_id,
            resume_token=started.resume_token,
            attempt=1,
            last_acked_seq_id=1,
        )
        assert resumed.resumed
        event = await told.expect("resumed")
        assert (event.reason, event.generation) == ("resume", resumed.generation)
        assert (event.last_acked_seq, event.undelivered) == (1, 1)
        assert (await client.receive()).seq_id == 2
        client.send(ack(2))
        session = gateway.session_manager.by_id(started.session_id)
        assert session is not None
        await until(lambda: session.client_ack_server_seq == 2)
        # A second device takes its place, and is thrown out.
        async with plain_client(gateway.address) as other:
            second = await other.login("alice")
            event = await told.expect("connected", "replaced", "logged_in")
            assert event.session_id == second.session_id
            replaced = told.events[-2]
            assert (replaced.session_id, replaced.generation) == (started.session_id, 2)
            assert (replaced.last_acked_seq, replaced.undelivered) == (2, 0)
            assert (await upstream.kick("alice", reason="bye")).success
            event = await told.expect("kicked")
            assert (event.session_id, event.reason) == (second.session_id, "bye")

    async with plain_client(gateway.address) as client:
        third = await client.login("alice")
    await told.expect("connected", "logged_in", "suspended")
    gateway.session_manager.sweep(time.monotonic() + gateway.config.session.resume_window + 1)
    event = await told.expect("expired")
    assert (event.session_id, event.reason, event.undelivered) == (
        third.session_id,
        "resume_window",
        1,
    )

    async with plain_client(gateway.address) as client:
        await client.login("alice")
        client.send(stop())
        assert await client.closed() == 0
    event = await told.expect("connected", "logged_in", "closed")
    assert event.reason == "user_logout"

    async with plain_client(gateway.address) as client:
        last = await client.login("alice")
        await told.expect("connected", "logged_in")
        await gateway.stop()
        await told.rest()
        event = told.events[-1]
        assert (event.kind, event.reason) == (EventKind.CLOSED, "drain")
        assert event.session_id == last.session_id
    ends = [event for event in told.events if event.is_end]
    assert [event.kind for event in ends] == ["replaced", "kicked", "expired", "closed", "closed"]
    assert len({event.session_id for event in ends}) == len(ends)
