"""Logins over several nodes: which of a user's sessions remain."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr.cluster.entries import Entry

from ..dispatch.fakes import settle
from ..dispatch.rig import business, error
from .rig import Cluster, travelling

if TYPE_CHECKING:
    from gatesvr._core.codec import ServerPush

    from ..dispatch.rig import Client
    from .rig import Process


async def hello(process: Process, openid: str = "alice") -> tuple[Client, str, list[ServerPush]]:
    """Let a client log in; return it, its session's id, and what it got for its hello."""
    client = process.client()
    response = await client.start(openid)
    await client.send(business(1, "hello"))
    process.upstream.answer(1)
    await settle(20)
    return client, response.session_id, await client.run()


def refusal(client: Client, pushes: list[ServerPush]) -> tuple[int, int]:
    """Return the codes of the ERROR and of the close that a hello got."""
    assert client.closed is not None
    return error(pushes[0]).error_code, client.closed[0]


@travelling
async def test_business_waits_until_the_login_is_certain() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        held = cluster.wire.order("login_replacing", "hold")
        client = a.client()
        response = await client.start()
        await client.send(business(1, "hello"), business(2, "echo"))
        assert await a.push(response.session_id, "held") == ""
        a.upstream.answer(1)
        await settle(20)
        assert await client.run() == []
        assert a.upstream.waiting == {}
        held.release()
        await settle(20)
        pushes = await client.run()
        assert [(push.seq_id, push.client_seq_id) for push in pushes] == [(1, 1), (2, 0)]
        assert a.upstream.waiting.keys() == {2}


@travelling
async def test_a_login_without_an_answer_is_repeated() -> None:
    async with Cluster() as cluster:
        _, session, _ = await cluster.a.log_in()
        cluster.wire.order("login_replacing", "deaf", times=2)
        client, session_id, pushes = await hello(cluster.b)
        assert pushes == []
        await cluster.pass_time(2)
        assert [push.client_seq_id for push in await client.run()] == [1]
        assert cluster.entry(session_id).logged_in
        # The answer that named it was lost: it is found at the renewal, if the hint was not sent.
        await cluster.pass_time(3)
        assert not session.is_valid


@travelling
async def test_a_login_goes_on_at_the_next_node() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        held = cluster.wire.order("login_replacing", "hold", "a")
        client = a.client()
        response = await client.start()
        await client.send(business(1, "hello"))
        a.upstream.answer(1)
        await settle(20)
        session = a.session(response.session_id)
        assert session is not None
        other, response, pushes = await b.resume(session, response.resume_token)
        assert response.resumed
        await settle(20)
        held.release()
        await settle(20)
        assert [push.client_seq_id for push in pushes + await other.run()] == [1]
        assert a.moves["logins_lost"] == 0  # it was not its own any more when it was answered
        assert cluster.entry(response.session_id).logged_in


@travelling
async def test_a_login_of_a_session_that_others_have_is_lost() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client = a.client()
        response = await client.start()
        await client.send(business(1, "hello"))
        now = a.now
        entry = cluster.entry(response.session_id)
        cluster.entries.move(entry.session_id, "a", entry.epoch, "b", now)
        a.upstream.answer(1)
        await settle(20)
        assert a.session(response.session_id) is None
        assert client.closed is not None
        assert client.closed[0] == 4503
        assert a.moves["logins_lost"] == a.moves["lost"] == 1


@travelling
async def test_a_session_made_by_a_failed_resume_replaces_nobody() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        _, session, _ = await a.log_in()
        client = b.client()
        response = await client.start("alice", session_id="77" * 16, resume_token=b"x")
        assert response.lost_reason == pb.LOST_UNKNOWN_SESSION
        await client.send(business(1, "hello"))
        b.upstream.answer(1)
        await settle(20)
        assert refusal(client, await client.run()) == (403, 4410)
        assert session.is_valid
        await settle(20)
        assert cluster.entry(response.session_id) is None


@travelling
async def test_a_replaced_session_whose_hint_is_lost_ends_at_the_renewal() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, _ = await a.log_in()
        cluster.wire.order("Replaced", "lose")
        await b.log_in()
        await settle(20)
        assert session.is_valid
        await cluster.pass_time(3)
        assert not session.is_valid
        assert client.closed is not None
        assert client.closed[0] == 4410
        assert a.moves["lost"] == 1
        assert a.sessions.counters.replaced == 1


@travelling
@pytest.mark.parametrize("policy", ["reject", "allow"])
async def test_a_login_asks_whether_the_others_show_life(policy: str) -> None:
    async with Cluster("abc", on_duplicate=policy, max_logged_in=2) as cluster:
        a, b, c = cluster.a, cluster.b, cluster.c
        client, first, _ = await a.log_in()
        if policy == "allow":
            await b.log_in()
        other, session_id, pushes = await hello(c)
        assert refusal(other, pushes) == (403, 4411)
        assert cluster.entry(session_id) is None
        assert c.moves["life_questions"] == (1 if policy == "reject" else 2)
        client.lose()
        await hello(c)
        assert cluster.entry(first.session_id).reason.name == "REPLACED"
        assert len(cluster.entries.find("alice", a.now).entries) == (1 if policy == "reject" else 2)


@travelling
async def test_a_session_that_moves_shows_life_and_one_that_ends_does_not() -> None:
    async with Cluster("abc", on_duplicate="reject") as cluster:
        a, b, c = cluster.a, cluster.b, cluster.c
        client, session, _ = await a.log_in()
        client.lose()
        cluster.wire.order("Give", "lose")
        giving = asyncio.create_task(a.node.give(session, "b"))
        await settle()
        other, _, pushes = await hello(c)
        assert refusal(other, pushes) == (403, 4411)
        assert not await giving
        held = cluster.wire.order("remove", "hold", "a")
        a.sessions.kick(session, "", a.now)
        await settle()
        assert isinstance(cluster.entry(session.session_id), Entry)
        _, session_id, pushes = await hello(b)
        assert [push.client_seq_id for push in pushes] == [1]
        assert cluster.entry(session_id).logged_in
        held.release()


@travelling
@pytest.mark.parametrize("is_leased", [True, False])
async def test_an_owner_that_does_not_answer_counts_as_life_while_its_lease_is_good(
    is_leased: bool,
) -> None:
    async with Cluster(on_duplicate="reject") as cluster:
        a, b = cluster.a, cluster.b
        await a.log_in()
        await a.die()
        if not is_leased:
            await cluster.pass_time(8)
        client, session_id, _ = await hello(b)
        await cluster.pass_time(2)
        assert (client.closed is not None) is is_leased
        assert b.moves["life_questions"] == is_leased
        del session_id


@travelling
async def test_a_login_in_between_is_seen() -> None:
    """Two log in at once where one may: each judged the other's absence."""
    async with Cluster(on_duplicate="reject") as cluster:
        a, b = cluster.a, cluster.b
        held = cluster.wire.order("login_judged", "hold", "b")
        late, late_id, _ = await hello(b)
        client, session_id, pushes = await hello(a)
        assert [push.client_seq_id for push in pushes] == [1]
        held.release()
        await settle(20)
        assert refusal(late, await late.run()) == (403, 4411)
        assert cluster.entry(session_id).logged_in
        await settle(20)
        assert cluster.entry(late_id) is None
        assert client.closed is None


@travelling
@pytest.mark.parametrize("policy", ["reject", "allow"])
async def test_a_session_made_by_a_failed_resume_takes_nobody_s_place(policy: str) -> None:
    async with Cluster(on_duplicate=policy, max_logged_in=1) as cluster:
        a, b = cluster.a, cluster.b
        other, session, _ = await a.log_in()
        other.lose()
        client = b.client()
        response = await client.start("alice", session_id="77" * 16, resume_token=b"x")
        assert response.success
        await client.send(business(1, "hello"))
        b.upstream.answer(1)
        await settle(20)
        assert refusal(client, await client.run()) == (403, 4410)
        assert session.is_valid


@travelling
async def test_a_reload_changes_the_policy() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        _, session, _ = await a.log_in()
        b.node.apply("reject", 5)
        client, _, pushes = await hello(b)
        assert refusal(client, pushes) == (403, 4411)
        assert session.is_valid
