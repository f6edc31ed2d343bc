"""Session: verdicts on requests, room, answers and their limits, acks; GetSession."""

from __future__ import annotations

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as upb
from gatesvr.config import normalize_zone
from gatesvr.errors import ProtocolError
from gatesvr.protocol.messages import MAX_CLIENT_SEQ, Outcome
from gatesvr.session.state import Verdict

from .rig import CUT, Sessions, answer_body, business, notify, pushes


@pytest.mark.parametrize(
    ("seq", "verdict"),
    [(0, "GAP"), (1, "DUPLICATE"), (3, "DUPLICATE"), (4, "NEXT"), (5, "GAP"), (2**60, "GAP")],
)
def test_a_seq_is_the_next_a_duplicate_or_a_gap(seq, verdict):
    sessions = Sessions()
    session, _, _ = sessions.login()
    sessions.ask(session)
    sessions.ask(session)
    assert session.offer(business(seq), "completion", sessions.now) is Verdict[verdict]
    assert sessions.counters["duplicates"] == (verdict == "DUPLICATE")
    assert sessions.counters["gaps"] == (verdict == "GAP")
    assert session.max_client_seq == 3 + (verdict == "NEXT")


def test_seqs_end_below_2_to_the_53():
    sessions = Sessions()
    session, _, _ = sessions.start()
    session.max_client_seq = MAX_CLIENT_SEQ - 1
    assert sessions.offer(session) is Verdict.NEXT
    assert sessions.offer(session) is Verdict.GAP


def test_a_base_client_sets_the_counter_and_its_duplicates_are_errors():
    sessions = Sessions()
    session, _, response = sessions.start(protocol=0)
    assert response.protocol == response.capabilities == 0
    assert session.offer(business(0), "completion", 0.0) is Verdict.GAP
    for seq, verdict in ((41, "NEXT"), (41, "GAP"), (7, "GAP"), (42, "NEXT")):
        assert sessions.offer(session, seq) is Verdict[verdict]
    assert sessions.counters["duplicates"] == 2
    assert not session.queue.can_skip


def test_room_ends_at_max_in_flight_and_comes_back_with_a_wake():
    sessions = Sessions(max_in_flight=2)
    session, link, _ = sessions.login()
    sessions.ask(session)
    sessions.ask(session)
    assert session.in_flight == session.queue.reserved == 2
    link.wakes = 0
    session.answer(2, answer_body(2))
    assert link.wakes == 0
    sessions.ask(session)
    assert sessions.offer(session) is Verdict.FULL
    session.answer(3, answer_body(3))
    assert link.wakes == 1
    sessions.ask(session)


def test_room_ends_at_the_unacked_answers_but_not_at_notifies():
    sessions = Sessions(max_queue_size=4)
    session, _, _ = sessions.login()
    assert session.push(notify(b""), now=0.0).is_ok
    assert session.push(notify(b""), now=0.0).is_ok
    for _ in range(4):
        seq = sessions.ask(session)
        session.answer(seq, answer_body(seq))
    assert sessions.offer(session) is Verdict.FULL
    assert session.push(notify(b""), now=0.0).error_code == "BUSY"
    sessions.feed(session)
    session.ack(4, 0.0)
    sessions.ask(session)


def test_a_request_ends_once():
    sessions = Sessions()
    session, _, _ = sessions.login()
    seq = sessions.ask(session)
    assert not session.answer(seq + 1, answer_body(seq + 1))
    assert session.fail(seq, 504, "late", outcome=Outcome.UNKNOWN, detail="9")
    assert not session.answer(seq, answer_body(seq))
    assert session.in_flight == session.queue.reserved == 0
    session.sender.feed(0.0)
    (push,) = pushes(session.link.take())
    assert (push.msg_id, push.seq_id, push.client_seq_id, push.type) == (2, 2, 2, 4)
    error = pb.ErrorMessage.FromString(push.payload)
    assert (error.error_code, error.error_message, error.detail) == (504, "late", "9")


def test_a_closed_session_takes_no_answer():
    sessions = Sessions()
    session, _, _ = sessions.login()
    seq = sessions.ask(session)
    sessions.manager.close(session, 0, "", 0.0)
    assert not session.is_valid
    assert not session.answer(seq, answer_body(seq))
    assert not session.fail(seq, 504, "late")


def test_request_order_is_the_order_of_asking():
    sessions = Sessions()
    session, _, _ = sessions.login()
    a, b, c = (sessions.ask(session, "request") for _ in range(3))
    d = sessions.ask(session)
    session.answer(c, answer_body(c, b"c"))
    session.answer(d, answer_body(d, b"d"))
    session.fail(b, 504, "late")
    session.push(notify(b"push"), now=0.0)
    assert sessions.feed(session) == [b"d", b"push"]
    session.answer(a, answer_body(a, b"a"))
    assert sessions.feed(session) == [b"a", b"!504", b"c"]


def test_an_answer_above_the_clients_limit_becomes_413():
    sessions = Sessions()
    session, link, _ = sessions.start(max_message_bytes=1000)
    sessions.hello(session)
    link.take()
    sessions.feed(session)
    seq = sessions.ask(session)
    session.bind(notify(b"before"), seq, True, now=0.0)
    session.answer(seq, answer_body(seq, bytes(1000)), [notify(bytes(1000))], ())
    session.sender.feed(0.0)
    before, error = pushes(link.take())
    assert before.business()[2] == b"before"
    failed = pb.ErrorMessage.FromString(error.payload)
    assert (failed.error_code, failed.outcome, error.client_seq_id) == (413, Outcome.DONE, seq)
    assert sessions.counters["answers_too_large"] == 1
    assert sessions.counters["notifies_dropped"] == 1
    assert sessions.counters["bundles"] == 1
    seq = sessions.ask(session)
    session.answer(seq, answer_body(seq, bytes(950)))
    assert sessions.feed(session) == [bytes(950)]


def test_an_answer_past_the_byte_cap_becomes_507_without_its_notifies():
    sessions = Sessions(max_message_bytes=1 << 10, max_queue_bytes=2 << 10, max_login_bytes=1 << 10)
    session, _, _ = sessions.login()
    first, second = sessions.ask(session), sessions.ask(session)
    session.answer(first, answer_body(first, bytes(900)))
    session.bind(notify(bytes(300)), second, True, now=0.0)
    session.answer(second, answer_body(second, bytes(900)), [notify(b"x")], ())
    session.sender.feed(0.0)
    _, error = pushes(session.link.take())
    failed = pb.ErrorMessage.FromString(error.payload)
    assert (failed.error_code, failed.outcome) == (507, Outcome.DONE)
    assert sessions.counters["answers_not_kept"] == 1
    assert sessions.counters["notifies_dropped"] == 2
    assert session.outbox.notifies is None


def test_acks_free_the_queue_and_one_too_high_is_a_protocol_error():
    sessions = Sessions()
    session, _, _ = sessions.login()
    for _ in range(3):
        session.push(notify(b""), now=0.0)
    sessions.feed(session)
    session.ack(3, 5.0)
    assert (len(session.queue), session.client_ack_server_seq, session.last_activity) == (1, 3, 5.0)
    session.ack(2, 6.0)
    session.ack(0, 6.0)
    assert session.client_ack_server_seq == 3
    with pytest.raises(ProtocolError):
        session.ack(5, 6.0)
    session.ack(4, 6.0)
    assert not session.outbox.has_unacked


# What it tells of itself.


def test_peer_info_follows_zone_generation_and_address():
    sessions = Sessions()
    session, link, _ = sessions.login(client_id="phone")
    info = upb.PeerInfo.FromString(session.peer_info)
    assert (info.ip, info.port, info.client_id) == ("192.0.2.1", 50_000, "phone")
    assert (info.zone, info.generation) == ("001", 1)
    assert session.peer_info is session.peer_info
    other = sessions.link("192.0.2.9")
    session.generation = 2
    session.attach(other, 0.0)
    info = upb.PeerInfo.FromString(session.peer_info)
    assert (info.ip, info.generation) == ("192.0.2.9", 2)
    session.set_zone("17")
    assert upb.PeerInfo.FromString(session.peer_info).zone == "017"
    assert link.closed is None


def test_info_has_every_field():
    sessions = Sessions()
    session, _, _ = sessions.login(client_id="phone")
    sessions.ask(session)
    session.push(notify(b"abc"), now=sessions.now)
    info = session.info(sessions.now + 2, 10_000)
    assert info.found
    assert (info.openid, info.client_id, info.zone) == ("alice", "phone", "001")
    assert (info.state, info.connection) == ("Normal", "192.0.2.1:50000")
    assert (info.next_server_seq, info.max_client_seq, info.client_ack_server_seq) == (3, 2, 1)
    assert (info.create_time_ms, info.last_activity_ms) == (8_000, 8_000)
    assert (info.generation, info.in_flight, info.protocol) == (1, 1, 1)
    assert (info.max_queue_size, info.queued_messages) == (1024, 1)
    assert info.queued_bytes == len(notify(b"abc"))
    assert (info.connection_id, info.stream_id) == (1, 0)
    assert info.queue_sums == session.queue.counters()
    assert (info.queue_sums["appended"], info.queue_sums["acked"]) == (2, 1)
    sessions.manager.close(session, 0, "", 0.0)
    info = session.info(sessions.now, 0)
    assert (info.state, info.stopped, info.connection) == ("Closed", True, "")


@pytest.mark.parametrize(
    ("zone", "normal"),
    [("", ""), ("1", "001"), ("001", "001"), ("12", "012"), ("east", "east"), ("\u0661", "\u0661")],
)
def test_zones_that_are_numbers_have_three_digits(zone, normal):
    assert normalize_zone(zone) == normal


def test_info_tells_what_waits_and_where():
    sessions = Sessions()
    session, link, _ = sessions.login()
    first = sessions.ask(session, "request")
    second = sessions.ask(session, "request")
    for seq, before in ((first, True), (first, True), (second, False)):
        assert session.bind(notify(b"bound"), seq, before, now=sessions.now).is_ok
    session.push(notify(b"now"), now=sessions.now)
    info = session.info(sessions.now, 0)
    assert (info.before_notifies, info.after_notifies, info.held_notifies) == (2, 1, 0)
    assert (info.open_slots, info.waiting_slots, info.unsent_messages) == (2, 0, 1)
    session.answer(second, answer_body(second), now=sessions.now)
    sessions.feed(session)
    info = session.info(sessions.now, 0)
    assert (info.before_notifies, info.after_notifies) == (2, 0)
    assert (info.open_slots, info.waiting_slots, info.unsent_messages) == (2, 1, 0)
    inited, _, _ = sessions.start("bob")
    inited.push(notify(b"held"), now=sessions.now)
    assert inited.info(sessions.now, 0).held_notifies == 1
    sessions.manager.detach(session, link, CUT, sessions.now)
    assert session.info(sessions.now, 0).connection_id == 0
