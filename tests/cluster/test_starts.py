"""STARTs: what each finds out, and what becomes of those that cannot."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr._pb import cluster_pb2 as cl
from gatesvr._pb import message_pb2 as pb
from gatesvr.cluster.calls import REPLACED
from gatesvr.protocol.identity import Identity

from ..dispatch.fakes import settle
from ..dispatch.rig import business
from .rig import Cluster, travelling

if TYPE_CHECKING:
    from gatesvr.session.session import Session

    from ..dispatch.rig import Client
    from .rig import Process


def refused(response: pb.StartResponse) -> int:
    assert not response.success
    return response.error.error_code


async def known(client: Client) -> None:
    """Let a START come to where it waits."""
    await settle(20)
    assert not client.written


@travelling
async def test_a_create_without_an_answer_is_repeated() -> None:
    async with Cluster() as cluster:
        cluster.wire.order("create", "deaf", times=2)
        response = await cluster.a.client().start()
        assert response.success
        assert cluster.wire.counts["create"] == 3
        assert len(cluster.entries) == 1
        assert cluster.a.moves["directory_failures"] == 2


@travelling
@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_create_that_came_late_leaves_nothing(is_lost: bool) -> None:
    async with Cluster() as cluster:
        a = cluster.a
        held = cluster.wire.order("create", "lose" if is_lost else "hold", times=99)
        response = await a.client().start()
        assert refused(response) == 503
        assert len(a.sessions) == 1
        assert a.moves["starts_undecided"] == 1
        held.release()
        await cluster.pass_time(2)
        assert len(a.sessions) == 0
        assert len(cluster.entries) == 0


@travelling
async def test_the_end_of_a_connection_ends_a_session_that_is_made() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        held = cluster.wire.order("create", "hold")
        client = a.client()
        starting = asyncio.create_task(client.send(pb_start()))
        await known(client)
        client.lose()
        held.release()
        await settle(20)
        await starting
        assert len(a.sessions) == 0
        assert len(cluster.entries) == 0
        assert a.sessions.counters.inited == 0


@travelling
async def test_a_connection_that_ends_while_its_answer_is_on_the_way_has_no_session() -> None:
    """The session is owned; START has not been answered, and its connection ends in between."""
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        for turns in range(12):
            other = b.client() if cluster.owner(session.session_id) == "a" else a.client()
            starting = asyncio.create_task(
                other.send(pb_start("", session.session_id, token, attempt=turns + 1))
            )
            await settle(turns)
            other.lose()
            await starting
            await settle(20)
            await cluster.pass_time(6)
            owner = cluster.processes[cluster.owner(session.session_id)]
            copies = [p.session(session.session_id) for p in cluster]
            assert sum(copy is not None for copy in copies) == 1
            copy = owner.session(session.session_id)
            assert copy is not None
            assert copy.is_valid
            assert copy.link is None or copy.link is client


def pb_start(
    openid: str = "alice", session_id: str = "", token: bytes = b"", **fields: object
) -> pb.ClientRequest:
    message = pb.StartRequest(
        openid=openid,
        session_id=session_id,
        resume_token=token,
        protocol=1,
        capabilities=1,
        **fields,  # type: ignore[arg-type]
    )
    return pb.ClientRequest(msg_id=9, type=pb.REQUEST_START, payload=message.SerializeToString())


@travelling
async def test_without_the_directory_nobody_is_told_of_an_unknown_session() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        client.lose()
        cluster.wire.cut("b")
        _, response, _ = await b.resume(session, token)
        assert refused(response) == 503
        assert b.moves["starts_undecided"] == 1
        _, response, _ = await a.resume(session, token)  # its owner needs no directory
        assert response.resumed


@travelling
async def test_who_is_cut_off_makes_no_sessions_and_ends_none() -> None:
    async with Cluster(resume_window=8) as cluster:
        a = cluster.a
        client, session, token = await a.log_in()
        client.lose()
        cluster.wire.cut("a")
        await cluster.pass_time(12)
        assert a.moves["cut_off"] == 1
        assert session.is_valid
        assert await a.push(session.session_id) == "BUSY"
        assert refused(await a.client().start("bob")) == 503
        assert a.moves["starts_cut_off"] == 1
        _, response, _ = await a.resume(session, token)
        assert response.resumed
        assert await a.push(session.session_id) == ""
        cluster.wire.mend("a")
        await cluster.pass_time(3)
        assert a.moves["cut_off"] == 0
        assert (await a.client().start("bob")).success


@travelling
async def test_a_session_that_ended_while_it_was_made_stays_ended() -> None:
    async with Cluster(login_timeout=1) as cluster:
        a = cluster.a
        held = cluster.wire.order("create", "hold")
        client = a.client()
        starting = asyncio.create_task(client.send(pb_start()))
        await cluster.pass_time(2)
        assert len(a.sessions) == 0
        held.release()
        await starting
        assert client.closed is not None
        assert client.closed[0] == 4408
        assert a.moves["internal_errors"] == 0
        await cluster.pass_time(3)
        assert a.moves["orphans"] == 1
        assert len(cluster.entries) == 0


@travelling
async def test_a_session_that_was_replaced_while_it_arrived_stays_ended() -> None:
    async with Cluster("abc") as cluster:
        a, b, c = cluster.a, cluster.b, cluster.c
        client, session, token = await a.log_in()
        client.lose()
        held = cluster.wire.order("move", "hold", "b")
        other = b.client()
        starting = asyncio.create_task(other.start("", **resume_fields(session, token)))
        await settle(20)
        late = b.session(session.session_id)
        assert late is not None
        b.node.handlers()[REPLACED](cl.ReplacedRequest(session_id=session.session_id), b.now)
        assert not late.is_valid
        held.release()
        assert refused(await starting) == 503
        assert b.session(session.session_id) is None
        assert b.moves["internal_errors"] == 0
        del c


@travelling
async def test_of_two_starts_that_wait_for_one_session_the_later_gets_it() -> None:
    """The first has its session when the second, at the same node, takes it."""
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        client.lose()
        first = b.client()
        starting = asyncio.create_task(first.start("", **resume_fields(session, token)))
        while (moved := b.session(session.session_id)) is None or not moved.is_valid:
            await asyncio.sleep(0)
        second = b.client()
        assert not first.written
        start = pb.StartRequest(**resume_fields(session, token), attempt=2, protocol=1)
        outcome = b.sessions.start(start, second, b.now)
        assert outcome.response.resumed
        assert refused(await starting) == 503
        assert moved.link is second


def resume_fields(session: Session, token: bytes) -> dict[str, Any]:
    return {"session_id": session.session_id, "resume_token": token, "last_acked_seq_id": 1}


@travelling
async def test_another_copy_is_not_resumed() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        client.lose()
        held = cluster.wire.order("move", "hold")
        other = b.client()
        starting = asyncio.create_task(
            other.send(pb_start("", session.session_id, token, last_acked_seq_id=1))
        )
        await known(other)
        for process in cluster:  # leaving; arriving
            _, response, _ = await process.resume(session, token, 1, attempt=2)
            assert refused(response) == 503
        assert a.moves["starts_moving"] == b.moves["starts_moving"] == 1
        assert await a.push(session.session_id) == "BUSY"
        held.release()
        assert pb.StartResponse.FromString((await starting)[0].payload).resumed


@travelling
async def test_the_owner_judges_a_start() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        _, response, _ = await b.resume(session, b"x" * 16)
        assert (refused(response), response.lost_reason) == (403, pb.LOST_DENIED)
        assert a.sessions.counters.resumes_denied == 1
        assert a.moves["takes_refused"] == 1
        outcome = await b.node.start_session(
            pb.StartRequest(session_id=session.session_id, resume_token=token),
            b.client(),
            Identity("mallory"),
            1e9,
        )
        assert refused(outcome.response) == 403
        assert session.link is client
        _, response, _ = await b.resume(session, token, last_acked=99)
        assert refused(response) == 400
        await settle(20)
        assert cluster.entry(session.session_id) is None


@travelling
async def test_who_has_proved_who_it_is_stays_that_at_the_next_node() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        _, session, token = await a.log_in()
        identity = Identity("alice", "sub", {"role": "x"}, expires_at=5e9)
        a.sessions.authenticate(session, identity, a.now + 30)
        _, response, _ = await b.resume(session, token)
        assert response.auth_expires_at_ms == 5_000_000_000_000
        moved = b.session(session.session_id)
        assert moved is not None
        assert moved.auth == identity
        await cluster.pass_time(31)
        assert not moved.is_valid


@travelling
async def test_a_session_ends_with_a_node_whose_lease_is_out() -> None:
    async with Cluster("abc") as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        await a.die()
        _, response, _ = await b.resume(session, token)
        assert refused(response) == 503  # it may live: its lease is good
        await cluster.pass_time(8)
        cluster.wire.order("bury", "deaf")
        _, response, _ = await b.resume(session, token)
        assert refused(response) == 403  # its openid is empty: nobody's new session
        assert response.lost_reason == pb.LOST_UNKNOWN_SESSION
        other, session2, _ = await b.log_in("bob")
        del client, other
        await b.die()
        await cluster.pass_time(8)
        response = await cluster.c.client().start(
            "bob", session_id=session2.session_id, resume_token=b"x"
        )
        assert response.success
        assert response.lost_reason == pb.LOST_UNKNOWN_SESSION
        assert cluster.c.moves["buried"] == 1


@travelling
async def test_a_node_cut_off_from_the_directory_alone_still_hands_over() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        cluster.wire.cut("a")
        await cluster.pass_time(8)
        _, response, _ = await b.resume(session, token)
        assert response.resumed
        assert client.closed is not None
        await settle(20)
        assert a.session(session.session_id) is None


@travelling
async def test_who_does_not_own_a_session_is_not_asked_again() -> None:
    """The session comes back to its old owner between the look and the Take."""
    async with Cluster("abc") as cluster:
        a, b, c = cluster.a, cluster.b, cluster.c
        client, session, token = await a.log_in()
        client.lose()
        held = cluster.wire.order("Take", "hold", "b")
        other = b.client()
        starting = asyncio.create_task(
            other.send(pb_start("", session.session_id, token, last_acked_seq_id=1))
        )
        await known(other)
        assert await a.node.give(session, "c")
        held.release()
        response, *_ = await starting
        assert pb.StartResponse.FromString(response.payload).resumed
        assert cluster.owner(session.session_id) == "b"
        await settle(20)
        assert c.session(session.session_id) is None
        assert cluster.wire.counts["Take"] == 2


@travelling
async def test_bytes_that_make_no_session_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        _, session, token = await a.log_in()
        monkeypatch.setattr("gatesvr.session.mover.export_session", lambda *_: b"\x08\x02")
        _, response, _ = await b.resume(session, token, 1)
        assert refused(response) == 503
        assert b.moves["states_refused"] == b.sessions.counters.exports_refused == 1
        await cluster.pass_time(3)
        assert session.is_valid


async def base_client(process: Process) -> tuple[Client, str]:
    """Return a client of protocol 0 that has logged in, and its session id."""
    client, session, _ = await process.log_in("old", protocol=0, capabilities=0)
    return client, session.session_id


@travelling
@pytest.mark.parametrize("is_on", [True, False])
async def test_a_base_client_comes_back_to_any_node(is_on: bool) -> None:
    async with Cluster(base_resume=is_on) as cluster:
        a, b = cluster.a, cluster.b
        client, session_id = await base_client(a)
        await client.send(business(2, "echo"))
        client.lose()
        other = b.client()
        response = await other.start("old", protocol=0, last_acked_seq_id=1)
        assert response.success
        assert response.resumed is is_on
        assert (response.session_id == session_id) is is_on
        if is_on:
            assert not response.resume_token
            assert cluster.owner(session_id) == "b"
            again = b.client()  # and at its owner
            assert (await again.start("old", protocol=0, last_acked_seq_id=1)).resumed
            await settle(20)
            a.upstream.answer(2)
            await settle(20)
            assert [push.seq_id for push in await again.run()] == [2]
            assert a.sessions.counters.base_resumes == b.sessions.counters.base_resumes == 1


@travelling
async def test_a_base_client_s_start_continues_no_session_of_another_protocol() -> None:
    async with Cluster(base_resume=True) as cluster:
        a, b = cluster.a, cluster.b
        _, session, _ = await a.log_in("old")
        response = await b.client().start("old", protocol=0, last_acked_seq_id=1)
        assert response.success
        assert not response.resumed
        assert session.link is not None
        client, session_id = await base_client(a)
        client.lose()
        response = await b.client().start("old", protocol=0, last_acked_seq_id=77)
        assert not response.resumed  # a position that it was never given
        cluster.wire.order("Take", "lose")
        client = b.client()
        response = await client.start("old", protocol=0, last_acked_seq_id=1)
        assert refused(response) == 503
        assert cluster.owner(session_id) == "a"


@travelling
async def test_a_gateway_that_stops_takes_no_start() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        client.lose()
        b.sessions.stop_starting(b.now)
        _, response, _ = await b.resume(session, token)
        assert refused(response) == 503
        assert not await a.node.give(session, "b")
        assert session.is_valid
