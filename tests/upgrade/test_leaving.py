"""A drain of one process of several: what goes to the others, and what each client is told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gatesvr._core.codec import decode_answer
from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.cluster.handover import Handover
from gatesvr.config import DrainConfig
from gatesvr.drain import STAY_S, Drain

from ..cluster.rig import Cluster, Process, travelling
from ..dispatch.fakes import settle
from ..dispatch.rig import Client, business

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Leaver:
    """The drain of a process: its clients' connections end when they are closed."""

    def __init__(self, process: Process, *nodes: str) -> None:
        self.refusals: list[str] = []
        self.handover = Handover(process.node, process.sessions, nodes, process.clock)
        self.drain = Drain(
            DrainConfig(rate=1_000),
            process.dispatcher,
            process.processor,
            lambda: self.refusals.append("clients"),
            lambda: self.refusals.append("starts"),
            process.clock,
        )
        self._process = process
        self.task: asyncio.Task[None] | None = None
        self._clients: list[Client] = []

    def watch(self, *clients: Client) -> None:
        self._clients += clients

    @asynccontextmanager
    async def leaving(self, within: float = 60.0) -> AsyncIterator[Drain]:
        ends = asyncio.create_task(self._end_closed())
        running = self.drain.run(within=within, ready_wait=0, handover=self.handover)
        self.task = asyncio.create_task(running)
        try:
            await asyncio.sleep(0.1)
            yield self.drain
            await self.task
        finally:
            ends.cancel()
            await asyncio.gather(ends, return_exceptions=True)

    async def _end_closed(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            for client in list(self._clients):
                if client.closed is not None:
                    self._clients.remove(client)
                    client.lose()


async def goaways(client: Client) -> list[tuple[str, int, str]]:
    """Return the GOAWAYs among a client's new pushes."""
    return [
        (goaway.reason, goaway.reconnect_after_ms, goaway.address)
        for push in await client.run()
        if push.type == pb.PUSH_GOAWAY
        for goaway in [pb.GoAway.FromString(push.payload)]
    ]


@travelling
async def test_a_session_without_a_connection_is_given_away() -> None:
    async with Cluster("abc") as cluster:
        a, b, c = cluster.a, cluster.b, cluster.c
        sessions = []
        calls = []
        for openid in ("alice", "bob"):
            client, session, _ = await a.log_in(openid)
            await client.send(business(2, "echo"))
            client.lose()
            calls.append(a.upstream.waiting.pop(2))
            sessions.append(session.session_id)
        leaver = Leaver(a, "b", "c")
        async with leaver.leaving() as drain:
            # Its client may be about to come back, and then its START takes it along.
            assert drain.status().sessions_left == 2
            await asyncio.sleep(STAY_S)
            assert drain.status().sessions_left == 0
            assert drain.status().requests_left == 2
            assert cluster.owner(sessions[0]) == "b"
            assert cluster.owner(sessions[1]) == "c"
            # The answers to requests that are under way here are awaited, and handed on.
            for process, session_id, call in zip((b, c), sessions, calls, strict=True):
                assert leaver.task is not None
                assert not leaver.task.done()
                call.answer(decode_answer(up.UpstreamResponse(code=200).SerializeToString()))
                await settle(20)
                found = process.session(session_id)
                assert found is not None
                assert found.in_flight == 0
        assert leaver.refusals == ["clients", "starts"]
        assert drain.counters.snapshot() == {
            "goaways": 0,
            "dismissed": 0,
            "connections_cut": 0,
            "requests_cut": 0,
            "sessions_cut": 0,
        }
        assert drain.status().phase == "finishing"
        assert (b.sessions.counters.moved_in, c.sessions.counters.moved_in) == (1, 1)


@travelling
async def test_a_client_takes_its_session_along_and_gets_its_answer_there() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        await client.send(business(2, "echo"))
        leaver = Leaver(a, "b")
        leaver.watch(client)
        async with leaver.leaving() as drain:
            assert await goaways(client) == [("moved within the gateway", 0, "")]
            # Until it has come elsewhere it is served, with all that it sends.
            pushes = await client.send(business(3, "echo"))
            assert pushes == []
            a.upstream.answer(3, data=b"3")
            assert [push.client_seq_id for push in await client.run()] == [3]
            again, response, _ = await b.resume(session, token, 2)
            assert response.resumed
            assert client.closed is not None
            assert client.closed[0] == 4409
            await asyncio.sleep(0.5)
            status = drain.status()
            assert (status.connections_left, status.sessions_left, status.requests_left) == (
                0,
                0,
                1,
            )
            a.upstream.answer(2, data=b"2")
            await settle(20)
            assert [push.business()[2] for push in await again.run()] == [b"2"]
        assert drain.counters.goaways == 1
        assert drain.counters.requests_cut == 0


@travelling
async def test_a_client_that_stays_is_dismissed_and_one_that_begins_late_is_told() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client, session, _ = await a.log_in()
        late = a.client()  # it was accepted, and has said nothing yet
        leaver = Leaver(a, "b")
        leaver.watch(client, late)
        async with leaver.leaving() as drain:
            response = await late.start("bob")
            assert response.success
            await asyncio.sleep(0.5)
            assert await goaways(late) == [("moved within the gateway", 0, "")]
            assert drain.counters.goaways == 2
            await client.send(pb.ClientRequest(type=pb.REQUEST_ACK, payload=_ack(1)))
            await asyncio.sleep(STAY_S)
            assert client.closed is not None
            assert client.closed[:2] == (4503, "reconnect_after_ms=0")
        assert drain.counters.dismissed == 2
        assert cluster.owner(session.session_id) == "b"
        assert cluster.entry(response.session_id) is None  # it had not logged in


def _ack(seq: int) -> bytes:
    return pb.ClientAck(acked_seq_id=seq).SerializeToString()


@travelling
async def test_a_base_client_stays_until_the_time_is_up_and_its_session_goes() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client, session, _ = await a.log_in(protocol=0)
        assert session.protocol == 0
        leaver = Leaver(a, "b")
        leaver.watch(client)
        async with leaver.leaving(within=8.0) as drain:
            await asyncio.sleep(6)
            assert await goaways(client) == []
            assert client.closed is None
            await client.send(business(2, "echo"))
            a.upstream.answer(2)
            assert [push.client_seq_id for push in await client.run()] == [2]
        assert client.closed is not None
        assert client.closed[:2] == (4503, "reconnect_after_ms=0")
        assert cluster.owner(session.session_id) == "b"
        counters = drain.counters
        assert (counters.goaways, counters.connections_cut, counters.sessions_cut) == (0, 1, 0)


@travelling
async def test_what_nobody_takes_is_counted() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client, session, _ = await a.log_in()
        client.lose()
        await cluster.b.die()
        leaver = Leaver(a, "b")
        async with leaver.leaving(within=5.0) as drain:
            pass
        assert drain.counters.sessions_cut == 1
        assert cluster.owner(session.session_id) == "a"


@travelling
async def test_who_is_in_a_hurry_gives_nothing_away() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client, session, _ = await a.log_in()
        leaver = Leaver(a, "b")
        async with leaver.leaving() as drain:
            assert drain.status().connections_left == 1
            drain.end_now()
        assert drain.counters.connections_cut == 1
        assert cluster.owner(session.session_id) == "a"
        assert client.closed is None


@travelling
async def test_a_start_that_comes_elsewhere_meanwhile_takes_the_session() -> None:
    """The client is faster than the drain: its session is not given to a third."""
    async with Cluster("abc") as cluster:
        a, c = cluster.a, cluster.c
        client, session, token = await a.log_in()
        client.lose()
        leaver = Leaver(a, "b")
        async with leaver.leaving():
            _, response, _ = await c.resume(session, token, 1)
            assert response.resumed
        assert cluster.owner(session.session_id) == "c"
        assert a.moves["gives"] == 0
