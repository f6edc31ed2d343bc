"""Sessions that leave: who may have them, when they come back, and what comes late."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gatesvr._pb import cluster_pb2 as cl
from gatesvr._pb import message_pb2 as pb
from gatesvr.cluster.calls import GIVE, TAKE, TAKEN

from ..dispatch.fakes import settle
from ..dispatch.rig import business
from .rig import Cluster, travelling

if TYPE_CHECKING:
    from gatesvr.session.session import Session

    from .rig import Process


def take(
    process: Process, session: Session, token: bytes, move_id: str = "m1", **fields: int
) -> cl.TakeAnswer:
    """Ask a node for a session, as another one would."""
    start = pb.StartRequest(session_id=session.session_id, resume_token=token, attempt=1)
    request = cl.TakeRequest(
        move_id=move_id,
        session_id=session.session_id,
        epoch=fields.get("epoch", session.epoch),
        start=start.SerializeToString(),
        ip="192.0.2.9",
    )
    until = process.now + fields.get("within", 1)
    answer = process.node.handlers()[TAKE](request, until)
    assert isinstance(answer, cl.TakeAnswer)
    return answer


def taken(process: Process, session: Session, move_id: str) -> None:
    request = cl.TakenRequest(session_id=session.session_id, move_id=move_id)
    process.node.handlers()[TAKEN](request, process.now + 1)


@travelling
async def test_the_same_take_gets_the_same_session_and_no_other_does() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        _, session, token = await a.log_in()
        answer = take(a, session, token)
        assert answer.result == cl.TAKE_GIVEN
        assert answer.state
        assert take(a, session, token) == answer
        assert take(a, session, token, "m2").result == cl.TAKE_MOVING
        assert a.moves["leaving"] == 1
        assert a.sessions.counters.exports == 1
        await cluster.pass_time(3)
        assert session.is_valid
        # The first Take once more, now that the session is back.
        assert take(a, session, token, epoch=session.epoch - 1).result == cl.TAKE_NOT_OWNER


@travelling
async def test_a_take_that_nobody_waits_for_moves_nothing() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client, session, token = await a.log_in()
        assert take(a, session, token, within=0).result == cl.TAKE_MOVING
        assert session.link is client
        assert take(a, session, token, epoch=77).result == cl.TAKE_NOT_OWNER


@travelling
async def test_taken_counts_for_its_own_move_alone() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        _, session, token = await a.log_in()
        take(a, session, token)
        taken(a, session, "m0")
        assert a.session(session.session_id) is session
        taken(a, session, "m1")
        assert a.session(session.session_id) is None
        taken(a, session, "m1")
        assert a.sessions.counters.moved_out == 1


@travelling
async def test_a_session_that_was_taken_without_a_word_goes() -> None:
    """Taken is lost: the directory says who has it."""
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        await client.send(business(2, "echo"))
        cluster.wire.order("Taken", "lose")
        _, response, _ = await b.resume(session, token, 1)
        assert response.resumed
        assert a.session(session.session_id) is session
        a.upstream.answer(2)
        await settle(20)
        assert b.session(session.session_id).in_flight == 1  # type: ignore[union-attr]
        await cluster.pass_time(3)
        assert a.session(session.session_id) is None
        assert b.session(session.session_id).in_flight == 0  # type: ignore[union-attr]
        assert a.sessions.counters.taken_back == 0


@travelling
async def test_a_session_is_taken_back_by_the_directory_s_answer_alone() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        _, session, token = await a.log_in()
        epoch = session.epoch
        take(a, session, token)
        cluster.wire.cut("a")
        await cluster.pass_time(5)
        assert not session.is_valid
        cluster.wire.mend("a")
        cluster.wire.order("move", "deaf")  # it takes effect, and nobody hears of it
        await cluster.pass_time(4)
        assert session.is_valid
        assert session.epoch == epoch + 1 == cluster.entry(session.session_id).epoch


@travelling
async def test_of_two_that_want_a_session_the_directory_chooses_one() -> None:
    """Its owner takes it back, and the other node's move comes later."""
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        client.lose()
        held = cluster.wire.order("move", "hold", "b")
        other = b.client()
        starting = asyncio.create_task(
            other.start("", session_id=session.session_id, resume_token=token)
        )
        await cluster.pass_time(3)
        assert session.is_valid
        held.release()
        response = await starting
        assert response.error.error_code == 503
        assert b.session(session.session_id) is None
        assert b.moves["arrivals_lost"] == 1
        _, response, _ = await b.resume(session, token, attempt=2)
        assert response.resumed


@travelling
async def test_a_session_that_was_replaced_on_its_way_ends_at_both() -> None:
    async with Cluster("abc") as cluster:
        a, b, c = cluster.a, cluster.b, cluster.c
        client, session, token = await a.log_in()
        client.lose()
        held = cluster.wire.order("move", "hold", "b")
        other = b.client()
        starting = asyncio.create_task(
            other.start("", session_id=session.session_id, resume_token=token)
        )
        await settle(20)
        cluster.wire.order("Replaced", "lose")  # whose hint is lost
        await c.log_in()
        assert a.session(session.session_id) is session
        held.release()
        response = await starting
        assert response.error.error_code == 503
        await cluster.pass_time(3)
        assert a.session(session.session_id) is b.session(session.session_id) is None
        _, response, _ = await b.resume(session, token, attempt=2)
        assert response.lost_reason == pb.LOST_REPLACED
        assert a.moves["leaving"] == 0


@travelling
async def test_replaced_drops_a_copy_that_leaves() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        _, session, token = await a.log_in()
        take(a, session, token)
        await b.log_in()
        await settle(20)
        assert a.session(session.session_id) is None
        assert a.moves["leaving"] == 0
        await cluster.pass_time(3)


@travelling
async def test_a_give_that_is_lost_or_late_changes_nothing() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        client.lose()
        held = cluster.wire.order("Give", "hold")
        assert not await a.node.give(session, "b")
        assert session.is_valid
        assert a.moves["gives_failed"] == 1
        held.release()
        await settle(20)
        assert b.session(session.session_id) is None
        assert b.moves["arrivals_lost"] == 1
        assert cluster.owner(session.session_id) == "a"
        assert not await a.node.give(session, "nowhere")
        assert await a.node.give(session, "b")
        assert a.moves["gives"] == 1
        _, response, _ = await a.resume(session, token)
        assert response.resumed


@travelling
async def test_a_given_session_is_frozen_until_its_move_is_certain() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        client.lose()
        held = cluster.wire.order("Give", "hold")
        giving = asyncio.create_task(a.node.give(session, "b"))
        await settle()
        assert session.push(b"", now=a.now).error_code == "MOVING"
        _, response, _ = await b.resume(session, token)
        assert response.error.error_code == 503
        assert not await a.node.give(session, "b")
        held.release()
        assert await giving
        assert await a.push(session.session_id) == ""


@travelling
async def test_a_give_finds_a_copy() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client, session, _ = await a.log_in()
        request = cl.GiveRequest(session_id=session.session_id, owner="b", epoch=1, state=b"x")
        answer = a.node.handlers()[GIVE](request, a.now + 1)
        assert answer == cl.GiveAnswer()
        assert session.link is client
        assert a.moves["states_refused"] == 0


@travelling
async def test_a_session_that_ends_is_neither_taken_nor_given() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client, session, token = await a.log_in()
        client.lose()
        held = cluster.wire.order("remove", "hold")
        state = take(a, session, token).state
        await cluster.pass_time(3)  # it comes back
        a.sessions.close(session, 0, "", a.now)
        assert take(a, session, token).result == cl.TAKE_MOVING
        request = cl.GiveRequest(
            session_id=session.session_id, owner="a", epoch=session.epoch, state=state
        )
        answer = a.node.handlers()[GIVE](request, a.now + 1)
        assert answer == cl.GiveAnswer()
        held.release()
        await settle(20)


@travelling
async def test_taken_that_comes_with_the_directory_s_word_counts() -> None:
    """The owner asks for the session, and meanwhile hears that it has arrived."""
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        held = cluster.wire.order("move", "hold", "a")
        late = cluster.wire.order("Taken", "hold")
        _, response, _ = await b.resume(session, token, 1)
        await asyncio.sleep(2.5)
        assert held.seen == 1
        late.release()
        await settle(20)
        assert a.session(session.session_id) is None
        # By now it may even be here again.
        _, response, _ = await a.resume(session, response.resume_token, 1)
        back = a.session(session.session_id)
        assert response.resumed
        held.release()
        await settle(20)
        assert a.session(session.session_id) is back
        assert back is not None
        assert back.is_valid
        assert a.moves["internal_errors"] == 0
        del client


@travelling
async def test_a_session_whose_hello_waits_is_given_too() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client = a.client()
        response = await client.start()
        await client.send(business(1, "hello"))
        client.lose()
        session = a.session(response.session_id)
        assert session is not None
        assert await a.node.give(session, "b")
        a.upstream.answer(1, headers={"zone": "2"})
        await settle(20)
        assert cluster.entry(session.session_id).logged_in
        other, response, pushes = await b.resume(session, response.resume_token)
        assert response.state == pb.SESSION_STATE_NORMAL
        assert [push.client_seq_id for push in pushes] == [1]
        assert other.handler.session is not None
        assert other.handler.session.zone == "002"
