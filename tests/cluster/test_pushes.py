"""Pushes and kicks for sessions that are elsewhere: taken once, or known to be unsure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gatesvr._pb import cluster_pb2 as cl
from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.cluster.calls import PUSH
from gatesvr.cluster.peers import PeerUnreachableError

from ..dispatch.fakes import settle
from ..dispatch.rig import business
from .rig import Cluster, travelling

if TYPE_CHECKING:
    from ..dispatch.rig import Client


async def got(client: Client) -> list[bytes]:
    return [push.business()[2] for push in await client.run()]


@travelling
async def test_a_repeated_push_is_taken_once() -> None:
    async with Cluster() as cluster:
        client, session, _ = await cluster.a.log_in()
        cluster.wire.order("Push", "repeat")
        assert await cluster.b.push(session.session_id, "1") == ""
        assert await cluster.b.push(session.session_id, "2", push_id="p") == ""
        assert await cluster.a.push(session.session_id, "2", push_id="p") == ""
        assert await got(client) == [b"1", b"2"]


@travelling
async def test_a_push_whose_answer_is_lost_is_tried_again_under_its_push_id() -> None:
    async with Cluster() as cluster:
        client, session, _ = await cluster.a.log_in()
        held = cluster.wire.order("Push", "hold")
        pushing = asyncio.create_task(cluster.b.push(session.session_id, "1"))
        await asyncio.sleep(0.5)
        held.release()
        assert await pushing == ""
        assert await got(client) == [b"1"]


@travelling
async def test_a_push_that_may_have_been_taken_is_unsure() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, _ = await a.log_in()
        cluster.wire.order("Push", "deaf")
        assert await b.push(session.session_id, "1") == "UNKNOWN"
        assert b.moves["pushes_unsure"] == 1
        assert await got(client) == [b"1"]
        # Also where the session has ended by then.
        cluster.wire.cut("a", "b")
        pushing = asyncio.create_task(b.push(session.session_id, "2"))
        await settle()
        a.sessions.kick(session, "", a.now)
        assert await pushing == "UNKNOWN"
        assert await b.push(session.session_id) == "NOT_FOUND"


@travelling
async def test_a_push_that_comes_late_is_not_taken() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, _ = await a.log_in()
        held = cluster.wire.order("Push", "hold", times=9)
        assert await b.push(session.session_id, "1") == "UNKNOWN"
        held.release()
        await settle(20)
        assert a.moves["pushes_late"] == 1
        assert await got(client) == []


@travelling
async def test_a_push_that_was_not_taken_is_not_taken_when_it_comes_again() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client, session, token = await a.log_in()
        client.lose()
        push = up.UnicastPushRequest(push_id="p", content="1")
        request = cl.OwnedPushRequest(session_id=session.session_id, push=push, try_id="t1")
        cluster.wire.order("Give", "lose")
        giving = asyncio.create_task(a.node.give(session, "b"))
        await settle()
        take = a.node.handlers()[PUSH]
        until = a.now + 5
        assert take(request, until).result == cl.OWNER_MOVING
        assert not await giving
        assert take(request, until).result == cl.OWNER_MOVING
        request.try_id = "t2"
        assert take(request, until).response.success
        assert take(request, until).response.success
        other, _, pushes = await a.resume(session, token, 1)
        assert [found.business()[2] for found in pushes] == [b"1"]
        await asyncio.sleep(6)
        request.session_id, request.try_id = "nobody's", "t3"
        assert take(request, a.now + 1).result == cl.OWNER_NOT_OWNER
        assert list(a.node._pushes._answered) == ["t3"]
        del other


@travelling
async def test_a_push_waits_for_a_session_that_moves() -> None:
    async with Cluster("abc") as cluster:
        a, b, c = cluster.a, cluster.b, cluster.c
        client, session, token = await a.log_in()
        client.lose()
        held = cluster.wire.order("Give", "hold")
        giving = asyncio.create_task(a.node.give(session, "b"))
        pushing = [
            asyncio.create_task(process.push(session.session_id, process.name))
            for process in cluster
        ]
        await asyncio.sleep(0.3)
        held.release()
        assert await giving
        assert await asyncio.gather(*pushing) == ["", "", ""]
        _, _, pushes = await b.resume(session, token, 1)
        assert sorted(push.business()[2] for push in pushes) == [b"a", b"b", b"c"]
        del c


@travelling
async def test_a_push_gives_up_on_a_session_that_moves_on_and_on() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, _ = await a.log_in()
        client.lose()
        cluster.wire.order("Give", "lose")
        giving = asyncio.create_task(a.node.give(session, "b"))
        await settle()
        pushing = [process.push(session.session_id) for process in cluster]
        assert await asyncio.gather(*pushing) == ["BUSY", "BUSY"]
        assert a.moves["pushes_unrouted"] == b.moves["pushes_unrouted"] == 1
        await giving
        cluster.wire.cut("b")
        assert await b.push(session.session_id) == "BUSY"


@travelling
async def test_a_push_for_a_user_is_for_no_session_that_has_not_logged_in() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client = a.client()
        response = await client.start()
        request = up.UnicastPushRequest(target_type="openid", target_id="alice", content="1")
        for process in (a, b):
            answer = await process.node.push(response.session_id, request, needs_login=True)
            assert answer.error_code == "BUSY"
        await client.send(business(1, "hello"))
        a.upstream.answer(1)
        await client.run()
        for process in (a, b):
            request.push_id = process.name
            answer = await process.node.push(response.session_id, request, needs_login=True)
            assert answer.sessions == 1
        assert await got(client) == [b"1", b"1"]


@travelling
async def test_a_bound_push_reaches_its_answer_from_any_node() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, _ = await a.log_in()
        await client.send(business(2, "echo"))
        hint = {"sync_hint": up.NSH_BEFORE_RESPONSE, "bind_client_seq_id": 2}
        assert await b.push(session.session_id, "before", **hint) == ""
        hint["bind_client_seq_id"] = 9
        assert await b.push(session.session_id, "?", **hint) == "NO_SUCH_REQUEST"
        a.upstream.answer(2, data=b"2")
        await settle()
        assert await got(client) == [b"before", b"2"]


@travelling
@pytest.mark.parametrize("node", ["a", "b"])
async def test_a_kick_reaches_its_session_wherever_it_is(node: str) -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        kick = up.KickRequest(reason="cheater", code=4600)
        process = cluster.processes[node]
        cluster.wire.order("remove", "deaf", times=2)
        assert await process.node.kick(session.session_id, kick)
        assert client.closed is not None
        assert client.closed[:2] == (4600, "cheater")
        assert process.moves["kicks_routed"] == (node == "b")
        assert a.moves["closing"] == 1
        _, response, _ = await a.resume(session, token)
        assert response.error.error_code == 503  # the directory may not know yet
        await cluster.pass_time(2)
        for other in (a, b):
            _, response, _ = await other.resume(session, token)
            assert response.lost_reason == pb.LOST_KICKED
        assert a.moves["closing"] == 0
        assert not await process.node.kick(session.session_id, kick)


@travelling
async def test_a_kick_without_an_answer_is_repeated_or_known_to_be_unsure() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        _, session, _ = await a.log_in()
        cluster.wire.cut("a", "b")
        with pytest.raises(PeerUnreachableError):
            await b.node.kick(session.session_id, up.KickRequest())
        assert b.moves["kicks_unrouted"] == 1
        cluster.wire.mend("a", "b")
        client, session, _ = await a.log_in("bob")
        client.lose()
        held = cluster.wire.order("Give", "hold")
        giving = asyncio.create_task(a.node.give(session, "b"))
        await settle()
        kicking = asyncio.create_task(b.node.kick(session.session_id, up.KickRequest()))
        await asyncio.sleep(0.2)
        held.release()
        assert await kicking
        assert await giving
        assert not session.is_valid
