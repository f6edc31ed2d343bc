"""Results of services for sessions that have moved on."""

from __future__ import annotations

import asyncio

from gatesvr._pb import cluster_pb2 as cl
from gatesvr.cluster.calls import FORWARD

from ..dispatch.fakes import settle
from ..dispatch.rig import business, error
from .rig import Cluster, travelling


@travelling
async def test_a_result_follows_its_session_until_its_owner_has_it() -> None:
    async with Cluster("abc") as cluster:
        a, b, c = cluster.a, cluster.b, cluster.c
        client, session, token = await a.log_in()
        await client.send(business(2, "echo"))
        other, response, _ = await b.resume(session, token, 1)
        held = cluster.wire.order("Forward", "hold")
        cluster.wire.order("Forward", "deaf")
        a.upstream.answer(2, data=b"2")
        await settle(20)
        _, response, _ = await c.resume(session, response.resume_token, 1)
        assert response.resumed
        await settle(20)
        held.release()
        await cluster.pass_time(5)
        found = c.session(session.session_id)
        assert found is not None
        assert found.in_flight == 0
        assert a.moves["forwards_repeated"] == 2
        assert len(a.sessions.context.results) == 0
        assert other.closed is not None


@travelling
async def test_a_repeated_result_is_applied_once() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        await client.send(business(2, "echo"), business(3, "echo"))
        other, _, _ = await b.resume(session, token, 1)
        cluster.wire.order("Forward", "repeat", times=2)
        for seq in (2, 3):
            a.upstream.answer(seq, data=b"%d" % seq)
            await settle(20)
        assert [push.business()[2] for push in await other.run()] == [b"2", b"3"]


@travelling
async def test_a_result_of_a_session_that_came_back_is_applied() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        await client.send(business(2, "echo"))
        _, response, _ = await b.resume(session, token, 1)
        again, response, _ = await a.resume(session, response.resume_token, 1)
        assert response.resumed
        assert a.dispatcher.moved.nodes() == {"a"}
        a.upstream.answer(2, data=b"back")
        await settle(20)
        assert [push.business()[2] for push in await again.run()] == [b"back"]
        assert cluster.wire.counts["Forward"] == 0
        assert len(a.sessions.context.results) == 0


@travelling
async def test_a_result_of_a_session_that_has_ended_is_dropped() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        await client.send(business(2, "echo"))
        await b.resume(session, token, 1)
        await settle(20)
        found = b.session(session.session_id)
        assert found is not None
        b.sessions.kick(found, "", b.now)
        await settle(20)
        a.upstream.answer(2)
        await settle(20)
        assert len(a.sessions.context.results) == 0
        assert cluster.wire.counts["Forward"] == 0


@travelling
async def test_a_result_waits_for_the_directory() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        await client.send(business(2, "echo"))
        await b.resume(session, token, 1)
        await settle(20)
        cluster.wire.cut("a")
        a.upstream.answer(2)
        await cluster.pass_time(2)
        assert len(a.sessions.context.results) == 1
        cluster.wire.mend("a")
        await cluster.pass_time(2)
        assert len(a.sessions.context.results) == 0


@travelling
async def test_who_does_not_own_a_session_applies_nothing() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client, session, _ = await a.log_in()
        await client.send(business(2, "echo"))
        client.lose()
        cluster.wire.order("Give", "lose")
        forward = a.node.handlers()[FORWARD]
        request = cl.ForwardRequest(session_id=session.session_id, client_seq=2)
        giving = asyncio.create_task(a.node.give(session, "b"))
        await settle()
        assert forward(request, a.now).result == cl.OWNER_MOVING
        request.session_id = "nobody's"
        assert forward(request, a.now).result == cl.OWNER_NOT_OWNER
        assert not await giving
        assert session.in_flight == 1


@travelling
async def test_requests_of_a_node_that_died_end() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        await client.send(business(2, "single"), business(3, "single"))
        other, _, _ = await b.resume(session, token, 1)
        await settle(20)
        await a.die()
        await cluster.pass_time(4)
        assert b.moves["lost_calls"] == 0  # its lease is good: it may answer
        await cluster.pass_time(6)
        assert b.moves["lost_calls"] == 1
        (push,) = await other.run()
        assert (push.client_seq_id, error(push).error_code) == (2, 502)
        assert b.upstream.waiting.keys() == {3}


@travelling
async def test_a_session_that_arrives_learns_at_once_that_a_node_has_died() -> None:
    async with Cluster("abc") as cluster:
        a, b, c = cluster.a, cluster.b, cluster.c
        client, session, token = await a.log_in()
        await client.send(business(2, "echo"))
        _, response, _ = await b.resume(session, token, 1)
        await settle(20)
        cluster.wire.cut("b")
        await a.die()
        await cluster.pass_time(8)
        assert b.moves["lost_calls"] == 0
        _, response, _ = await c.resume(session, response.resume_token, 1)
        await settle(20)
        assert c.moves["lost_calls"] == 1
        assert response.resumed


@travelling
async def test_a_node_that_stops_hands_its_results_over() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        await client.send(business(2, "echo"))
        other, _, _ = await b.resume(session, token, 1)
        await settle(20)
        a.upstream.answer(2, data=b"late")
        await a.stop()
        a.is_alive = False
        assert [push.business()[2] for push in await other.run()] == [b"late"]
        assert [node.node_id for node in await cluster.directory.nodes()] == ["b"]
