"""Sessions on their way between nodes: what clients, services and pushers see of it."""

from __future__ import annotations

import asyncio

from gatesvr._pb import message_pb2 as pb

from ..dispatch.fakes import settle
from ..dispatch.rig import business
from .rig import Cluster, travelling


@travelling
async def test_a_session_is_known_before_its_client_is() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        held = cluster.wire.order("create", "hold")
        client = a.client()
        starting = asyncio.create_task(client.start())
        await settle()
        assert len(a.sessions) == 1
        assert not client.written
        held.release()
        response = await starting
        assert response.success
        entry = cluster.entry(response.session_id)
        assert (entry.owner, entry.openid, entry.logged_in) == ("a", "alice", False)
        session = a.session(response.session_id)
        assert session is not None
        assert session.epoch == entry.epoch > 0


@travelling
async def test_a_login_is_the_directory_s() -> None:
    async with Cluster() as cluster:
        _, session, _ = await cluster.a.log_in()
        assert cluster.entry(session.session_id).logged_in
        assert session.zone == "001"


@travelling
async def test_a_session_moves_to_the_node_that_its_client_comes_to() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        await client.send(business(2, "echo"), business(3, "single"), business(4, "single"))
        assert a.upstream.waiting.keys() == {2, 3}
        other, response, pushes = await b.resume(session, token, 1)
        assert response.resumed
        assert response.max_client_seq == 4
        assert not pushes
        assert client.closed is not None
        assert client.closed[0] == 4409
        await settle(20)
        assert a.session(session.session_id) is None
        assert cluster.owner(session.session_id) == "b"
        a.upstream.answer(3)
        await settle(20)
        assert b.upstream.waiting.keys() == {4}
        b.upstream.answer(4)
        a.upstream.answer(2)
        await settle(20)
        assert [(push.seq_id, push.client_seq_id) for push in await other.run()] == [
            (2, 3),
            (3, 4),
            (4, 2),
        ]
        assert a.moves["forwards"] == 2
        assert a.moves["takes"] == 1
        assert len(a.sessions.context.results) == 0


@travelling
async def test_a_session_that_nobody_took_is_taken_back() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        await client.send(business(2, "single"), business(3, "single"))
        cluster.wire.order("Take", "deaf")
        _, response, _ = await b.resume(session, token, 1)
        assert not response.success
        assert response.error.error_code == 503
        assert not session.is_valid
        a.upstream.answer(2)
        await settle()
        assert a.upstream.waiting == {}
        await cluster.pass_time(3)
        assert session.is_valid
        assert a.sessions.counters.taken_back == 1
        assert a.upstream.waiting.keys() == {3}
        a.upstream.answer(3)
        _, response, pushes = await b.resume(session, token, 1, attempt=2)
        assert response.resumed
        assert [push.client_seq_id for push in pushes] == [2, 3]


@travelling
async def test_the_end_of_its_start_stops_no_move() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        client.lose()
        held = cluster.wire.order("move", "hold")
        other = b.client()
        resuming = asyncio.create_task(
            other.start("", session_id=session.session_id, resume_token=token)
        )
        await settle(20)
        other.lose()
        held.release()
        await settle(20)
        resuming.cancel()
        await asyncio.gather(resuming, return_exceptions=True)
        moved = b.session(session.session_id)
        assert moved is not None
        assert moved.is_valid
        assert moved.link is None
        assert cluster.owner(session.session_id) == "b"
        _, response, _ = await b.resume(session, token, 1, attempt=2)
        assert response.resumed


@travelling
async def test_an_unknown_session_is_told_so_and_replaced() -> None:
    async with Cluster() as cluster:
        client = cluster.a.client()
        response = await client.start("alice", session_id="77" * 16, resume_token=b"x")
        assert response.success
        assert response.lost_reason == pb.LOST_UNKNOWN_SESSION
        assert cluster.owner(response.session_id) == "a"


@travelling
async def test_of_two_logins_one_remains_wherever_they_are() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        _, other, _ = await b.log_in()
        await settle(20)
        assert client.closed is not None
        assert client.closed[0] == 4410
        assert not session.is_valid
        assert other.is_valid
        _, response, _ = await b.resume(session, token, 1)
        assert response.lost_reason == pb.LOST_REPLACED


@travelling
async def test_a_push_reaches_its_session_whichever_node_takes_it() -> None:
    async with Cluster("abc") as cluster:
        client, session, _ = await cluster.a.log_in()
        for process in cluster:
            assert await process.push(session.session_id, process.name) == ""
        assert [push.business()[2] for push in await client.run()] == [b"a", b"b", b"c"]
        assert await cluster.c.push("77" * 16) == "NOT_FOUND"


@travelling
async def test_a_session_that_ends_leaves_no_entry() -> None:
    async with Cluster() as cluster:
        client, session, _ = await cluster.a.log_in()
        await client.send(pb.ClientRequest(type=pb.REQUEST_STOP))
        await settle(20)
        assert cluster.entry(session.session_id) is None
        assert len(cluster.entries) == 0


@travelling
async def test_a_suspended_session_is_given_away() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        assert not await a.node.give(session, "b")
        client.lose()
        assert await a.node.give(session, "b")
        assert cluster.owner(session.session_id) == "b"
        _, response, _ = await b.resume(session, token, 1)
        assert response.resumed
        assert b.node.counters.takes == 0
