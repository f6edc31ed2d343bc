"""One connection's messages: what acts at once, what waits, what is refused, what ends it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr.dispatch.handler import MAX_MOVED
from gatesvr.session.state import State

from .fakes import settle
from .rig import Client, Rig, ack, business, error, frame, heartbeat, start, stop


async def test_what_the_protocol_refuses_by_itself_is_counted() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.start()
        pushes = await client.send(
            pb.ClientRequest(msg_id=1, type=6),  # type: ignore[arg-type]  # reserved
            pb.ClientRequest(seq_id=1, type=pb.REQUEST_BUSINESS),
            pb.ClientRequest(msg_id=2, type=pb.REQUEST_HEARTBEAT, payload=b"\x08"),
        )
        assert [error(push).error_code for push in pushes] == [501, 400, 400]
        counters = rig.counters
        assert (counters.unknown_types, counters.bad_msg_ids, counters.bad_heartbeats) == (1, 1, 1)


async def test_start_hello_and_a_request() -> None:
    async with Rig() as rig:
        client = Client(rig)
        response = await client.start(client_id="phone")
        assert (response.success, response.heartbeat_interval) == (True, 15)
        assert await client.send(business(1, "HeLLo"), business(2, "echo", b"x")) == []
        assert [call.action for call in rig.upstream.calls] == ["HeLLo"]  # the gate is shut
        rig.upstream.answer(1, headers={"zone": "7"})
        (push,) = await client.run()
        assert (push.seq_id, push.client_seq_id, push.msg_id) == (1, 1, 101)
        assert push.business()[0] == 200
        call = rig.upstream.calls[1]
        assert (call.action, call.data, call.openid, call.session_id) == (
            "echo",
            b"x",
            "alice",
            response.session_id,
        )
        assert (call.peer.zone, call.peer.ip, call.peer.client_id) == ("007", "192.0.2.1", "phone")
        assert 0 < call.timeout_ms <= 30_000
        rig.upstream.answer(2, data=b"x")
        (push,) = await client.run()
        assert (push.seq_id, push.client_seq_id, push.business()) == (2, 2, (200, "", b"x"))
        assert rig.sessions.counters.logins == rig.sessions.counters.created == 1


async def test_whole_batch_with_room_for_it_is_asked_at_once() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.login()
        wakes = client.wakes
        await client.send(*(business(seq, "echo") for seq in range(2, 34)))
        assert client.wakes == wakes  # no turn of the loop, no task
        assert [call.client_seq_id for call in rig.upstream.calls] == [*range(1, 34)]


async def test_everything_in_one_piece_from_start_on() -> None:
    async with Rig() as rig:
        client = Client(rig)
        pushes = await client.send(
            start("alice"), heartbeat(), business(1, "hello"), business(2, "echo")
        )
        assert {push.type for push in pushes} == {pb.PUSH_START_RESP, pb.PUSH_HEARTBEAT_RESP}
        rig.upstream.answer(1)
        await client.run()
        assert [call.client_seq_id for call in rig.upstream.calls] == [1, 2]


async def test_a_hello_runs_beside_the_pool() -> None:
    async with Rig(dispatch={"workers": 1, "max_workers": 1}) as rig:
        client = Client(rig)
        response = await client.start()
        await client.send(business(1, "hello"))
        pool, login = rig.processor.workers()
        assert (pool.worker_id, pool.task_id, pool.is_login) == ("worker-1", 0, False)
        assert (login.worker_id, login.session_id, login.is_login) == (
            "login-1",
            response.session_id,
            True,
        )
        assert (login.service_type, login.context) == ("hello", rig.now + 30)
        rig.upstream.answer(1)
        assert len(rig.processor.workers()) == 1


async def test_byte_by_byte() -> None:
    async with Rig() as rig:
        client = Client(rig)
        data = frame(start("alice")) + frame(business(1, "hello"))
        pushes = []
        for at in range(len(data)):
            pushes += await client.send(data[at : at + 1])
        assert len(pushes) == 1
        assert len(rig.upstream.calls) == 1


async def test_heartbeat_ack_and_stop_do_not_wait_for_the_hello() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.start()
        pushes = await client.send(business(1, "hello"), business(2, "echo"), heartbeat())
        assert [push.type for push in pushes] == [pb.PUSH_HEARTBEAT_RESP]
        await client.send(stop())
        assert client.closed[:2] == (0, "unknown")
        assert len(rig.sessions) == 0
        rig.upstream.answer(1)
        await settle()
        assert rig.counters.closed_499 == 1
        assert (rig.sessions.counters.stopped, rig.sessions.counters.logins) == (1, 0)


async def test_not_logged_in_is_401_and_consumes_the_number() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.start()
        (push,) = await client.send(business(1, "echo"))
        assert (push.seq_id, push.client_seq_id, error(push).error_code) == (1, 1, 401)
        await client.send(business(2, "hello"))
        rig.upstream.answer(2)
        (push,) = await client.run()
        assert (push.seq_id, push.client_seq_id) == (2, 2)


async def test_bad_payload_unknown_action_gap_and_duplicate() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.login()
        broken = business(2, "echo")
        broken.payload = b"\xff\xff"
        (push,) = await client.send(broken)
        assert (push.seq_id, push.client_seq_id, error(push).error_code) == (2, 2, 400)
        (push,) = await client.send(business(3, "nowhere"))
        assert (push.seq_id, push.client_seq_id, error(push).error_code) == (3, 3, 404)
        for seq in (0, 5):
            (push,) = await client.send(business(seq, "echo"))
            assert (push.seq_id, push.msg_id, error(push).error_code) == (0, 100 + seq, 400)
            assert push.client_seq_id == seq
        assert await client.send(business(3, "echo")) == []
        assert len(rig.upstream.calls) == 1
        await client.send(business(4, "echo"))
        assert len(rig.upstream.calls) == 2
        assert (rig.counters.bad_payloads, rig.counters.no_route) == (1, 1)


@pytest.mark.parametrize("dry_run", [[], ["max_requests_per_second"]])
async def test_requests_above_the_rate_are_429_and_consume_their_numbers(dry_run) -> None:
    async with Rig(session={"max_requests_per_second": 2, "dry_run": dry_run}) as rig:
        client = Client(rig)
        await client.login()
        pushes = await client.send(*[business(seq, "echo") for seq in (2, 3, 4, 5)])
        assert rig.counters.requests_limited == 2
        if dry_run:
            assert len(rig.upstream.calls) == 5
            return
        assert [(push.client_seq_id, error(push).error_code) for push in pushes] == [
            (4, 429),
            (5, 429),
        ]
        assert error(pushes[0]).retry_after_ms == 501
        assert error(pushes[0]).outcome == pb.OUTCOME_NOT_STARTED
        rig.now += 0.5
        assert await client.send(business(6, "echo")) == []
        assert len(rig.upstream.calls) == 4


async def test_full_queue_is_503_at_once() -> None:
    async with Rig(dispatch={"workers": 1, "max_workers": 1, "max_queue_size": 1}) as rig:
        client = Client(rig)
        await client.login()
        await client.send(business(2, "echo"))
        pushes = await client.send(business(3, "echo"), business(4, "echo"))
        assert [push.client_seq_id for push in pushes] == [4]
        assert error(pushes[0]).error_code == 503
        assert error(pushes[0]).outcome == pb.OUTCOME_NOT_STARTED
        assert 50 <= error(pushes[0]).retry_after_ms <= 5000
        assert rig.counters.refused_full == 1


async def test_one_client_gets_no_turn_longer_than_others() -> None:
    """What costs least to refuse comes fastest: 404s for a whole burst would hold the loop up."""
    async with Rig() as rig:
        client = Client(rig)
        await client.login()
        burst = b"".join(frame(business(seq, "nowhere")) for seq in range(2, 202))
        client.handler.data_received(burst, rig.now)
        refused = [rig.counters.no_route]
        while client.is_awake:
            client.is_awake = False
            await client.handler.work()
            refused.append(rig.counters.no_route)
        assert refused == [MAX_MOVED, 2 * MAX_MOVED, 3 * MAX_MOVED, 200]
        pushes = await client.run()
        assert [push.client_seq_id for push in pushes] == list(range(2, 202))


async def test_ordered_route_answers_in_the_order_of_asking() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.login()
        await client.send(
            business(2, "ordered"), business(3, "ordered"), business(4, "echo"), business(5, "echo")
        )
        rig.upstream.answer(3)
        rig.upstream.answer(5)
        assert [push.client_seq_id for push in await client.run()] == [5]
        rig.upstream.answer(2)
        assert [push.client_seq_id for push in await client.run()] == [2, 3]


async def test_serial_is_kept_by_route_and_by_session() -> None:
    async with Rig() as rig:
        client, other = Client(rig), Client(rig)
        await client.login()
        await other.login("bob")
        actions = ("single", "lonely", "echo", "single", "lonely")
        assert not await client.send(*(business(2 + i, a) for i, a in enumerate(actions)))
        await other.send(business(2, "single"))
        asked = [(call.openid, call.client_seq_id) for call in rig.upstream.calls[2:]]
        assert asked == [("alice", 2), ("alice", 3), ("alice", 4), ("bob", 2)]
        rig.upstream.answer(3)
        await client.run()
        assert rig.upstream.calls[-1].client_seq_id == 6
        assert len(rig.upstream.calls) == 7


async def test_in_flight_bound_holds_and_an_answer_moves_on() -> None:
    async with Rig(session={"max_in_flight": 2}) as rig:
        client = Client(rig)
        await client.login()
        await client.send(*(business(seq, "echo") for seq in range(2, 7)))
        assert [call.client_seq_id for call in rig.upstream.calls] == [1, 2, 3]
        rig.upstream.answer(2)
        await client.run()
        assert [call.client_seq_id for call in rig.upstream.calls] == [1, 2, 3, 4]


async def test_unacked_bound_holds_and_an_ack_moves_on() -> None:
    async with Rig(session={"max_queue_size": 3}) as rig:
        client = Client(rig)
        await client.login()
        await client.send(*(business(seq, "echo") for seq in range(2, 6)))
        assert [call.client_seq_id for call in rig.upstream.calls] == [1, 2, 3]
        rig.upstream.answer(2)
        rig.upstream.answer(3)
        await client.run()
        assert len(rig.upstream.calls) == 3
        await client.send(ack(2))
        assert [call.client_seq_id for call in rig.upstream.calls] == [1, 2, 3, 4, 5]


async def test_more_than_may_be_held_closes_4429() -> None:
    async with Rig(session={"max_message_bytes": 1024, "max_login_bytes": 1024}) as rig:
        client = Client(rig)
        session = await client.login()
        session.hello_seq = 1
        await client.send(*(business(seq, "echo", bytes(600)) for seq in range(2, 5)))
        assert client.closed is None
        await client.send(business(5, "echo", bytes(600)))
        assert client.closed[:2] == (4429, "retry_after_ms=1000")
        assert rig.counters.held_overflows == 1
        client.lose()
        assert session.is_valid
        assert session.max_client_seq == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",
        b"\0\1\0\1",
        b"\0\0\0\2\xff\xff",
        frame(business(1, "hello")),
        2 * frame(start("alice")),
        frame(start("")),
    ],
)
async def test_broken_stream_closes_4400(data: bytes) -> None:
    async with Rig() as rig:
        client = Client(rig)
        pushes = await client.send(data)
        assert client.closed is not None
        assert client.closed[0] == 4400
        client.lose()
        assert len(rig.sessions) == 0
        assert len(rig.dispatcher) == 0
        refused = [push for push in pushes if push.type == pb.PUSH_START_RESP]
        assert all(not pb.StartResponse.FromString(p.payload).success for p in refused)


async def test_ack_above_what_was_sent_closes_4400() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.login()
        await client.send(business(2, "echo", ack=2))
        assert client.closed is not None
        assert client.closed[0] == 4400
        client.lose()
        assert len(rig.sessions) == 0


async def test_frame_limit_rises_with_the_login() -> None:
    async with Rig(session={"max_login_bytes": 256}) as rig:
        client = Client(rig)
        await client.login()
        await client.send(business(2, "echo", bytes(1000)))
        assert len(rig.upstream.calls[1].data) == 1000
        other = Client(rig)
        await other.start("bob")
        await other.send(business(1, "hello", bytes(1000)))
        assert other.closed is not None
        assert other.closed[0] == 4400


async def test_refused_logins_close_4401_in_the_end() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.start()
        for seq in range(1, 6):
            await client.send(business(seq, "hello"))
            rig.upstream.answer(seq, code=403)
            (push,) = await client.run()
            assert push.business()[0] == 403
            assert (client.closed is None) == (seq < 5)
        assert client.closed is not None
        assert client.closed[0] == 4401
        assert len(rig.sessions) == 0
        assert rig.sessions.counters.refused_logins == 5


async def test_hello_whose_upstream_fails_is_no_refused_login() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.start()
        await client.send(business(1, "hello"), business(2, "echo"))
        rig.upstream.waiting[1].fail("down")
        pushes = await client.run()
        assert [error(push).error_code for push in pushes] == [502, 401]
        assert rig.sessions.counters.refused_logins == 0


async def test_later_hello_refreshes_the_zone_and_may_fail() -> None:
    async with Rig() as rig:
        client = Client(rig)
        session = await client.login()
        await client.send(business(2, "hello"))
        rig.upstream.answer(2, headers={"zone": "2"})
        await client.run()
        assert session.zone == "002"
        await client.send(business(3, "hello"))
        rig.upstream.answer(3, code=500)
        await client.run()
        assert (session.is_logged_in, session.zone) == (True, "002")


async def test_second_login_of_an_openid_replaces_the_first() -> None:
    async with Rig() as rig:
        first, second = Client(rig), Client(rig)
        await first.login()
        await second.login()
        assert first.closed is not None
        assert first.closed[0] == 4410
        await first.send(business(2, "echo"))
        assert len(rig.upstream.calls) == 2


async def test_second_login_is_rejected_where_the_policy_says_so() -> None:
    async with Rig(session={"on_duplicate": "reject"}) as rig:
        first, second = Client(rig), Client(rig)
        await first.login()
        await second.start()
        await second.send(business(1, "hello"))
        rig.upstream.answer(1)
        (push,) = await second.run()
        assert error(push).error_code == 403
        assert second.closed[:2] == (4411, "retry_after_ms=1000")
        counters = rig.processor.counters
        assert counters.tasks == counters.answers == 2
        assert first.closed is None
        assert rig.sessions.counters.refused_logins == 1


async def test_hello_outlives_its_connection() -> None:
    async with Rig() as rig:
        client = Client(rig)
        response = await client.start()
        await client.send(business(1, "hello"), business(2, "echo"))
        client.lose()
        rig.upstream.answer(1)
        await settle()
        session = rig.sessions.by_id(response.session_id)
        assert session is not None
        assert session.is_logged_in
        assert not session.hello_seq
        assert session.max_client_seq == 1  # what was held was never accepted


async def test_frames_of_a_connection_that_the_session_left_are_ignored() -> None:
    async with Rig() as rig:
        client, other = Client(rig), Client(rig)
        session = await client.login()
        session.hello_seq = 1
        await client.send(business(2, "echo"))
        session.detach(rig.now)
        session.attach(other, rig.now)
        session.hello_seq = 0
        client.wake()
        await client.run()
        await client.send(business(2, "echo"), ack(99), stop())
        assert len(rig.upstream.calls) == 1
        assert session.is_valid
        assert rig.counters.fenced == 4
        client.lose()
        assert session.link is other


async def test_no_start_in_time_closes_4408() -> None:
    async with Rig() as rig:
        client = Client(rig)
        assert client.handler.get_timer() == rig.now + 8
        client.handler.handle_timer(rig.now + 7.9)
        assert client.closed is None
        client.handler.handle_timer(rig.now + 8)
        assert client.closed[:2] == (4408, "no START")
        assert client.handler.get_timer() is None
        assert rig.counters.start_timeouts == 1


async def test_no_login_in_time_closes_4408_and_the_session() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.start()
        rig.sessions.sweep(rig.now + 29.9)
        assert client.closed is None
        rig.sessions.sweep(rig.now + 30)
        assert client.closed[:2] == (4408, "no login")
        assert len(rig.sessions) == 0
        assert rig.sessions.counters.login_timeouts == 1


async def test_login_deadline_counts_from_the_start_that_made_the_session() -> None:
    async with Rig() as rig:
        client, again = Client(rig), Client(rig)
        response = await client.start()
        await client.send(business(1, "hello"))  # so that the session outlives its connection
        client.lose()
        rig.now += 20
        resumed = await again.start(
            session_id=response.session_id, resume_token=response.resume_token, attempt=1
        )
        assert resumed.resumed
        rig.sessions.sweep(rig.now + 10)
        assert again.closed[:2] == (4408, "no login")


async def test_login_takes_its_deadline_away() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.login()
        assert client.handler.get_timer() is None
        rig.sessions.sweep(rig.now + 1_000)
        assert client.closed is None


async def test_frame_begun_and_not_ended_closes_4408_and_suspends() -> None:
    async with Rig() as rig:
        client = Client(rig)
        session = await client.login()
        await client.send(b"\0\0")
        began = rig.now
        rig.now += 6
        await client.send(b"\0\x09a")
        assert client.handler.get_timer() == began + 10
        client.handler.handle_timer(began + 10)
        assert client.closed is not None
        assert client.closed[0] == 4408
        assert rig.counters.frame_timeouts == 1
        # The network may have gone in the middle of a frame: the session waits for its client.
        client.lose()
        assert session.state is State.SUSPENDED


async def test_a_heartbeat_is_activity() -> None:
    async with Rig() as rig:
        client = Client(rig)
        session = await client.login()
        then = rig.now
        rig.now += 5
        await client.send(ack(0))
        assert session.last_activity == then
        await client.send(heartbeat())
        assert session.last_activity == rig.now


async def test_silence_counts_from_the_first_heartbeat() -> None:
    async with Rig() as rig:
        client = Client(rig)
        session = await client.login()
        client.handler.handle_timer(rig.now + 1000)
        assert client.closed is None
        await client.send(heartbeat())
        assert client.handler.get_timer() == rig.now + 45
        client.last_heard += 1
        client.handler.handle_timer(rig.now + 45)
        assert client.closed is None
        client.handler.handle_timer(rig.now + 46)
        assert client.closed[:2] == (4408, "silent")
        client.lose()
        assert session.is_valid
        assert rig.counters.heartbeat_timeouts == 1


@pytest.mark.parametrize("transport", ["quic", "websocket"])
async def test_a_page_is_pinged_behind_its_heartbeats_too(transport: str) -> None:
    async with Rig() as rig:
        client = Client(rig)
        client.transport = transport
        await client.login()
        assert client.keep_alive
        await client.send(heartbeat())
        assert client.keep_alive == (transport != "quic")


async def test_end_of_the_stream_suspends_the_session() -> None:
    async with Rig() as rig:
        client = Client(rig)
        session = await client.login()
        client.handler.stream_ended(rig.now)
        assert client.closed[:2] == (0, "stream ended")
        client.lose()
        assert session.is_valid
        assert session.link is None
        assert len(rig.dispatcher) == 0


async def test_a_client_that_moves_too_often_is_closed_behind_goaway() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.login()
        session = client.handler.session
        client.handler.path_limit_near(rig.now)
        (push,) = await client.run()
        assert push.type == pb.PUSH_GOAWAY
        assert client.closed[:2] == (4503, "reconnect_after_ms=0")
        assert session is not None
        assert session.is_valid


async def test_stop_of_the_gateway_tells_every_client_and_takes_no_more() -> None:
    async with Rig() as rig:
        client = Client(rig)
        await client.login()
        await client.send(business(2, "echo"))
        rig.dispatcher.go_away("stopping", 1000)
        stopping = rig.processor.stop(drain_timeout=60)
        task = asyncio.create_task(stopping)
        await settle()
        pushes = await client.send(business(3, "echo"), business(4, "hello"))
        assert [push.type for push in pushes] == [pb.PUSH_GOAWAY, pb.PUSH_ERROR, pb.PUSH_ERROR]
        assert [error(push).error_code for push in pushes[1:]] == [503, 503]
        rig.upstream.answer(2)
        await task
        assert [push.client_seq_id for push in await client.run()] == [2]
        assert rig.counters.refused_draining == 2


async def test_every_error_has_a_request_id_that_the_log_has_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gatesvr.dispatch")
    async with Rig(dispatch={"workers": 1, "max_workers": 1, "max_queue_size": 1}) as rig:
        client = Client(rig)
        await client.start()
        (early,) = await client.send(business(1, "echo"))
        await client.send(business(2, "hello"))
        rig.upstream.answer(2)
        await client.run()
        (lost,) = await client.send(business(3, "nowhere"))
        *_, busy = await client.send(*(business(seq, "echo") for seq in (4, 5, 6)))
        errors = [error(push) for push in (early, lost, busy)]
        assert [e.error_code for e in errors] == [401, 404, 503]
        await client.send(business(7, "nowhere"))
        rig.processor.tick(rig.now)
    lines = [vars(record)["keys"] for record in caplog.records if record.msg == "request_refused"]
    assert [line["code"] for line in lines[:3]] == [401, 404, 503]
    assert [str(line["request_id"]) for line in lines[:3]] == [e.detail for e in errors]
    assert len({e.detail for e in errors}) == 3
    # The second 404 within the second is told at the end.
    assert [line["code"] for line in lines[3:]] == [404]
