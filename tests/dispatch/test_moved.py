"""Requests of sessions that move between processes: who starts them, who ends them, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatesvr._pb import message_pb2 as pb
from gatesvr.session.results import MAX_RESULTS, Result
from gatesvr.session.session import Session

from .fakes import settle
from .rig import Client, Rig, business, error, start

if TYPE_CHECKING:
    from gatesvr._core.codec import ServerPush


async def leave(rig: Rig, client: Client, session: Session) -> bytes:
    """Let the client be cut off, and the session be exported."""
    client.lose()
    await settle()
    return rig.dispatcher.moved.export(session, "A", rig.now)


def arrive(rig: Rig, data: bytes) -> Session:
    """Install a session at another process, which owns it then."""
    session = rig.sessions.moves.install(data, rig.now)
    rig.sessions.moves.own(session, 1, rig.now)
    rig.dispatcher.moved.adopt(session, rig.now)
    return session


def forward(there: Rig, here: Rig, session: Session) -> None:
    """Send the owner what a process has kept for it, as MOVING's M6 does."""
    results = here.sessions.context.results
    for result in results.of(session.session_id):
        assert there.dispatcher.moved.apply(session, result, there.now)
        results.settle(session.session_id, result.client_seq)


def resuming(session: Session, token: bytes, last_acked: int = 0) -> pb.ClientRequest:
    """Return a START that resumes a session."""
    return start(
        "",
        session_id=session.session_id,
        resume_token=token,
        last_acked_seq_id=last_acked,
    )


async def log_in(rig: Rig) -> tuple[Client, Session, bytes]:
    """Return a client, its session, and the token to resume it with."""
    client = Client(rig)
    response = await client.start()
    session = rig.sessions.by_id(response.session_id)
    assert session is not None
    await client.send(business(1, "hello"))
    rig.upstream.answer(1, headers={"zone": "1"})
    await client.run()
    return client, session, response.resume_token


async def resume(rig: Rig, session: Session, token: bytes) -> tuple[Client, list[ServerPush]]:
    """Resume a session; return the client, and what it got behind START_RESP."""
    client = Client(rig)
    response, *pushes = await client.send(resuming(session, token, last_acked=1))
    assert pb.StartResponse.FromString(response.payload).resumed
    return client, pushes


def called(rig: Rig) -> list[int]:
    return [call.client_seq_id for call in rig.upstream.calls]


async def test_a_serial_chain_goes_on_wherever_its_requests_run() -> None:
    async with Rig() as here, Rig() as there:
        there.now += 500
        client, session, token = await log_in(here)
        await client.send(*(business(seq, "single", b"%d" % seq) for seq in (2, 3, 4)))
        assert called(here) == [1, 2]
        data = await leave(here, client, session)
        assert here.counters.withdrawn == 2
        arrived = arrive(there, data)
        here.sessions.moves.forget(session, here.now)
        assert there.dispatcher.moved.nodes() == {"A"}
        other, _ = await resume(there, arrived, token)
        await other.send(business(5, "single"), business(6, "echo"))
        assert called(there) == [6]
        here.upstream.answer(2)
        assert called(there) == [6]
        forward(there, here, arrived)
        assert called(there) == [6, 3]
        assert there.upstream.calls[1].data == b"3"
        assert there.upstream.calls[1].headers == here.upstream.calls[1].headers
        there.upstream.answer(3)
        assert called(there) == [6, 3, 4]
        there.upstream.answer(4)
        there.upstream.answer(5)
        there.upstream.answer(6)
        answers = [push.client_seq_id for push in await other.run()]
        assert answers == [2, 3, 4, 5, 6]
        assert len(there.dispatcher.moved) == 0
        assert not arrived.moved_calls
        assert called(here) == [1, 2]


async def test_a_chain_that_moves_twice_waits_for_the_call_of_the_first() -> None:
    async with Rig() as here, Rig() as there, Rig() as third:
        client, session, _ = await log_in(here)
        await client.send(business(2, "single"), business(3, "single"))
        arrived = arrive(there, await leave(here, client, session))
        here.sessions.moves.forget(session, here.now)
        data = there.dispatcher.moved.export(arrived, "B", there.now)
        assert len(there.dispatcher.moved) == 0
        last = arrive(third, data)
        there.sessions.moves.forget(arrived, there.now)
        here.upstream.answer(2)
        forward(third, here, last)
        assert called(there) == []
        assert called(third) == [3]


async def test_a_session_that_comes_back_goes_on_with_what_it_had() -> None:
    async with Rig() as rig:
        client, session, token = await log_in(rig)
        await client.send(*(business(seq, "single") for seq in (2, 3, 4)), business(5, "lonely"))
        await leave(rig, client, session)
        assert list(session.moved_calls) == [3, 4]
        rig.upstream.answer(5)
        await settle()
        assert called(rig) == [1, 2, 5]
        rig.sessions.moves.own(session, 2, rig.now)
        rig.dispatcher.moved.adopt(session, rig.now)
        assert called(rig) == [1, 2, 5]
        rig.upstream.answer(2)
        rig.upstream.answer(3)
        rig.upstream.answer(4)
        assert called(rig) == [1, 2, 5, 3, 4]
        _, pushes = await resume(rig, session, token)
        assert [push.client_seq_id for push in pushes] == [5, 2, 3, 4]
        assert not session.pending
        assert rig.counters.answers == 5
        assert rig.counters.closed_499 == 0


async def test_a_result_that_was_dropped_is_an_error_where_the_session_goes_on() -> None:
    async with Rig() as rig:
        client, session, token = await log_in(rig)
        await client.send(business(2, "single"), business(3, "single"))
        await leave(rig, client, session)
        results = rig.sessions.context.results
        for number in range(MAX_RESULTS):
            results.keep("other", Result(number, b""))
        rig.upstream.answer(2)
        assert rig.counters.closed_499 == 1
        rig.sessions.moves.own(session, 2, rig.now)
        rig.dispatcher.moved.adopt(session, rig.now)
        assert called(rig) == [1, 2, 3]
        _, (push,) = await resume(rig, session, token)
        assert push.client_seq_id == 2
        assert error(push).error_code == 502


async def test_what_had_no_place_is_started_by_the_owner_in_order() -> None:
    async with Rig(dispatch={"max_workers": 1, "workers": 1}) as here, Rig() as there:
        client, session, _ = await log_in(here)
        names = ("echo", "ordered", "echo")
        await client.send(*(business(seq, name) for seq, name in enumerate(names, 2)))
        assert called(here) == [1, 2]
        data = await leave(here, client, session)
        arrived = arrive(there, data)
        assert called(there) == [3, 4]
        assert here.processor.unfinished == 1
        assert list(arrived.pending) == [2, 3, 4]


async def test_a_hello_that_was_under_way_logs_in_where_the_session_is() -> None:
    async with Rig() as here, Rig() as there:
        client = Client(here)
        response = await client.start()
        session = here.sessions.by_id(response.session_id)
        assert session is not None
        await client.send(business(1, "hello"))
        arrived = arrive(there, await leave(here, client, session))
        here.sessions.moves.forget(session, here.now)
        other = Client(there)
        await other.send(resuming(arrived, response.resume_token))
        await other.send(business(2, "echo"))
        here.upstream.answer(1, headers={"zone": "3"})
        assert here.counters.answers == 1
        forward(there, here, arrived)
        assert arrived.is_logged_in
        assert arrived.zone == "003"
        await other.run()
        assert called(there) == [2]


async def test_a_refused_hello_and_a_failed_one_count_where_the_session_is() -> None:
    async with Rig() as here, Rig() as there:
        client = Client(here)
        response = await client.start()
        session = here.sessions.by_id(response.session_id)
        assert session is not None
        await client.send(business(1, "hello"))
        arrived = arrive(there, await leave(here, client, session))
        here.sessions.moves.forget(session, here.now)
        here.upstream.answer(1, code=403)
        forward(there, here, arrived)
        assert arrived.refused_logins == 1
        assert arrived.hello_seq == 0
        assert not arrived.is_logged_in


async def test_a_hello_ends_by_an_error_of_its_call() -> None:
    async with Rig() as here, Rig() as there:
        client = Client(here)
        response = await client.start()
        session = here.sessions.by_id(response.session_id)
        assert session is not None
        await client.send(business(1, "hello"))
        arrived = arrive(there, await leave(here, client, session))
        here.upstream.waiting[1].fail("broken")
        await settle()
        assert session.hello_seq == 1  # this process may own it again
        forward(there, here, arrived)
        assert arrived.refused_logins == 0
        assert arrived.hello_seq == 0
        pushes = await Client(there).send(resuming(arrived, response.resume_token))
        assert error(pushes[1]).error_code == 502


async def test_a_call_of_another_process_has_a_deadline_here() -> None:
    async with Rig() as here, Rig() as there:
        client, session, _ = await log_in(here)
        await client.send(business(2, "single"), business(3, "single"), business(4, "echo"))
        arrived = arrive(there, await leave(here, client, session))
        moved = there.dispatcher.moved
        timeout = there.config.dispatch.task_timeout
        moved.sweep(there.now + timeout - 1)
        assert list(arrived.pending) == [2, 3, 4]
        there.now += timeout
        moved.sweep(there.now)
        assert there.counters.deadlines == 3  # of 3, too: it waited for 2
        assert not arrived.pending
        assert len(moved) == 0
        late = Result(2, b"late")
        assert moved.apply(arrived, late, there.now)
        assert len(arrived.queue) == 4  # the hello's answer and three ERRORs


async def test_the_calls_of_a_dead_process_end_unknown() -> None:
    async with Rig() as here, Rig() as there:
        client, session, token = await log_in(here)
        await client.send(business(2, "echo"), business(3, "single"), business(4, "single"))
        arrived = arrive(there, await leave(here, client, session))
        assert there.dispatcher.moved.lose("B", there.now) == 0
        assert there.dispatcher.moved.lose("A", there.now) == 2
        assert called(there) == [4]
        _, pushes = await resume(there, arrived, token)
        found = [(error(push).error_code, error(push).outcome) for push in pushes]
        assert found == [(502, pb.OUTCOME_UNKNOWN)] * 2


async def test_only_the_owner_applies_a_result() -> None:
    async with Rig() as here, Rig() as there:
        client, session, _ = await log_in(here)
        await client.send(business(2, "echo"))
        data = await leave(here, client, session)
        arriving = there.sessions.moves.install(data, there.now)
        assert not there.dispatcher.moved.apply(arriving, Result(2, b""), there.now)
        assert not here.dispatcher.moved.apply(session, Result(2, b""), here.now)


async def test_a_session_that_ends_gives_up_the_places_of_others_calls() -> None:
    async with Rig() as here, Rig() as there:
        client, session, _ = await log_in(here)
        await client.send(business(2, "single"), business(3, "single"))
        arrived = arrive(there, await leave(here, client, session))
        there.sessions.kick(arrived, "cheater", there.now)
        assert len(there.dispatcher.moved) == 1
        there.dispatcher.moved.sweep(there.now)
        assert len(there.dispatcher.moved) == 0
        assert there.counters.closed_499 == 1
        assert there.processor.unfinished == 0
        assert not there.processor._bulkheads["zone"]._chains


async def test_a_frame_that_is_no_request_is_answered() -> None:
    async with Rig() as here, Rig() as there:
        client, session, _ = await log_in(here)
        await client.send(business(2, "single"), business(3, "single"), business(4, "lonely"))
        client.lose()
        await settle()
        data = here.dispatcher.moved.export(session, "A", here.now)
        arriving = there.sessions.moves.install(data, there.now)
        call = arriving.moved_calls[3]
        arriving.moved_calls[3] = call._replace(request=b"\xff")
        there.sessions.moves.own(arriving, 1, there.now)
        there.dispatcher.moved.adopt(arriving, there.now)
        assert list(arriving.pending) == [2, 4]


async def test_a_start_at_another_process_takes_the_session_from_its_connection() -> None:
    """All of a move: judged at one, answered at the other, the old connection closed."""
    async with Rig() as here, Rig() as there:
        client, session, token = await log_in(here)
        await client.send(business(2, "ordered"), business(3, "ordered"))
        here.upstream.answer(3)
        message = resuming(session, token)
        judged = here.sessions.moves.turn(
            pb.StartRequest.FromString(message.payload), "192.0.2.7", here.now
        )
        assert judged is session
        assert client.closed is not None
        assert client.closed[0] == 4409
        client.lose()
        arrived = arrive(there, here.dispatcher.moved.export(session, "A", here.now))
        here.sessions.moves.forget(session, here.now)
        other = Client(there)
        outcome = there.sessions.moves.attach(arrived, other, there.now)
        assert outcome.response.resumed
        assert outcome.response.generation == 2
        assert outcome.response.resume_token not in (b"", token)
        here.upstream.answer(2)
        forward(there, here, arrived)
        arrived.sender.feed(there.now)
        pushes = other._decoder.feed(other.take())
        assert [push.client_seq_id for push in pushes] == [1, 2, 3]
