"""Outbox: notifies and their limits, before and after the login; conflation."""

from __future__ import annotations

import pytest

from gatesvr._core.queue import BULK
from gatesvr._pb import message_pb2 as pb
from gatesvr.protocol.pacing import AckPacer
from gatesvr.session.outbox import MAX_CONFLATE_KEYS

from .rig import CUT, Sessions, answer_body, notify, pushes


def test_a_push_id_is_remembered_for_256_pushes():
    sessions = Sessions()
    session, _, _ = sessions.login()
    for number in range(257):
        assert session.push(notify(b""), now=3.0 * number, push_id=f"p{number}").is_ok
    assert len(session.queue) == 257
    assert session.push(notify(b""), now=800.0, push_id="p1").is_ok
    assert len(session.queue) == 257
    assert session.push(notify(b""), now=800.0, push_id="p0").is_ok
    assert len(session.queue) == 258
    assert sessions.counters["push_repeats"] == 1


def test_a_push_that_was_refused_may_come_again():
    sessions = Sessions(max_queue_size=1)
    session, _, _ = sessions.login()
    assert session.push(notify(b""), now=0.0).is_ok
    assert session.push(notify(b""), now=0.0, push_id="p").error_code == "BUSY"
    sessions.feed(session)
    session.ack(2, 0.0)
    assert session.push(notify(b"x"), now=0.0, push_id="p").is_ok
    assert sessions.feed(session) == [b"x"]


def test_a_push_above_the_clients_limit_is_too_large():
    sessions = Sessions()
    session, _, _ = sessions.start(max_message_bytes=100)
    assert session.push(notify(bytes(100)), now=0.0).error_code == "TOO_LARGE"
    assert sessions.counters["pushes_too_large"] == 1


def test_places_of_answers_to_come_are_kept_free():
    sessions = Sessions(max_queue_size=4)
    session, _, _ = sessions.login()
    sessions.ask(session)
    sessions.ask(session)
    results = [session.push(notify(b""), now=0.0).error_code for _ in range(3)]
    assert results == ["", "", "BUSY"]


def test_a_suspended_full_queue_drops_its_oldest_notifies():
    sessions = Sessions(max_queue_size=3)
    session, link, _ = sessions.login()
    seq = sessions.ask(session)
    session.answer(seq, answer_body(seq, b"kept"))
    sessions.manager.detach(session, link, CUT, 0.0)
    for number in range(5):
        assert session.push(notify(b"%d" % number), now=0.0).is_ok
    session.attach(link, 0.0)
    assert sessions.feed(session) == [b"kept", b"~", b"3", b"4"]
    assert sessions.counters["notifies_dropped"] == 3


@pytest.mark.parametrize(
    ("policy", "code", "is_valid"), [("refuse", "BUSY", True), ("close", "NOT_FOUND", False)]
)
def test_a_suspended_full_queue_may_refuse_or_close(policy, code, is_valid):
    sessions = Sessions(max_queue_size=1, when_full=policy)
    session, link, _ = sessions.login()
    sessions.manager.detach(session, link, CUT, 0.0)
    assert session.push(notify(b""), now=0.0).is_ok
    assert session.push(notify(b""), now=0.0).error_code == code
    assert session.is_valid is is_valid


def test_nothing_is_dropped_for_what_finds_no_room_anyway():
    sessions = Sessions(max_queue_size=2)
    session, link, _ = sessions.login()
    for _ in range(2):
        seq = sessions.ask(session)
        session.answer(seq, answer_body(seq))
    sessions.manager.detach(session, link, CUT, 0.0)
    result = session.push(notify(b""), now=0.0)
    assert (result.error_code, result.retry_after_ms) == ("BUSY", 1000)


def test_broadcasts_take_a_quarter_of_a_queue_and_drop_nobody():
    sessions = Sessions(max_queue_size=8)
    session, link, _ = sessions.login()
    results = [session.push(notify(b""), now=0.0, flags=BULK).error_code for _ in range(3)]
    assert results == ["", "", "BUSY"]
    sessions.manager.detach(session, link, CUT, 0.0)
    for number in range(8):
        assert session.push(notify(b"%d" % number), now=0.0).is_ok
    session.attach(link, 0.0)
    assert sessions.feed(session) == [b"~"] + [b"%d" % number for number in range(8)]
    assert session.push(notify(b""), now=0.0, flags=BULK).error_code == "BUSY"


def test_broadcasts_take_a_quarter_of_the_bytes_by_their_own():
    sessions = Sessions(max_queue_bytes=64_000, max_message_bytes=32_000)
    session, _, _ = sessions.login()
    for _ in range(2):
        assert session.push(notify(bytes(15_000)), now=0.0).is_ok
    big = notify(bytes(7_000))
    results = [session.push(big, now=0.0, flags=BULK).error_code for _ in range(3)]
    assert results == ["", "", "BUSY"]
    sessions.feed(session)
    session.ack(4, 0.0)
    assert session.push(big, now=0.0, flags=BULK).is_ok
    assert session.push(big, now=0.0, flags=BULK).error_code == "BUSY"


@pytest.mark.parametrize("size", [1, 10_000, 70_000, 100_000, 300_000, 500_000, 1_000_000])
def test_a_client_that_keeps_up_misses_no_broadcast_by_the_time_its_acks_take(size: int):
    sessions = Sessions(max_queue_bytes=4 << 20)
    session, _, terms = sessions.login()
    acked = session.client_ack_server_seq
    pacer = AckPacer(acked, terms.max_unacked_messages, terms.max_unacked_bytes)
    body = notify(bytes(size))
    for _ in range(100):
        assert session.push(body, now=0.0, flags=BULK).is_ok
        sessions.feed(session)
        position = session.next_server_seq - 1
        pacer.received_bytes += len(body)
        if pacer.moved(position, 0.0):  # else only after a while
            session.ack(pacer.take(position), 0.0)


def test_notifies_for_a_session_without_login_follow_its_hello():
    sessions = Sessions()
    session, _, _ = sessions.start()
    assert session.push(notify(b"early"), now=0.0).is_ok
    assert session.push(notify(b"gone"), now=0.0, ttl=1.0).is_ok
    assert session.push(notify(b"late"), now=0.0, ttl=500.0).is_ok
    assert len(session.queue) == 0
    seq = sessions.ask(session)
    session.bind(notify(b"bound"), seq, False, now=0.0)
    session.fail(seq, 401, "no")
    assert sessions.feed(session) == [b"!401", b"bound"]
    sessions.hello(session)
    session.push(notify(b"then"), now=sessions.now)
    assert sessions.feed(session) == [b"welcome", b"early", b"late", b"then"]
    assert sessions.counters["pushes_held"] == 3
    assert sessions.counters["notifies_expired"] == 1


def test_notifies_for_a_session_without_login_are_bounded():
    session, _, _ = Sessions().start()
    results = [session.push(notify(b""), now=0.0).error_code for _ in range(65)]
    assert results == [""] * 64 + ["BUSY"]
    session, _, _ = Sessions().start()
    results = [session.push(notify(bytes(30_000)), now=0.0).error_code for _ in range(3)]
    assert results == ["", "", "BUSY"]


def test_notifies_held_for_the_login_are_kept_though_the_queue_is_full_by_then():
    sessions = Sessions(max_queue_size=3)
    session, _, _ = sessions.start()
    for number in range(6):
        assert session.push(notify(b"%d" % number), now=0.0).is_ok
    sessions.hello(session)
    assert sessions.feed(session) == [b"welcome"] + [b"%d" % number for number in range(6)]
    assert session.push(notify(b""), now=0.0).error_code == "BUSY"
    assert sessions.counters["notifies_dropped"] == 0


# Conflation.


def skips(frames: bytes) -> list[pb.Skip]:
    return [pb.Skip.FromString(p.payload) for p in pushes(frames) if p.type == pb.PUSH_SKIP]


def test_the_newest_of_a_key_replaces_the_one_that_was_not_sent_and_leaves_a_skip():
    sessions = Sessions()
    session, link, _ = sessions.login(capabilities=1)
    sessions.feed(session)
    for text in (b"x1", b"x2", b"x3"):
        assert session.push(notify(text), now=0.0, conflate_key="x").is_ok
    session.sender.feed(0.0)
    frames = link.take()
    (skip,) = skips(frames)
    first = session.queue.next_expected_seq - 3
    assert (skip.from_seq, skip.messages, skip.reason) == (first, 2, pb.LOST_CONFLATED)
    assert [p.seq_id for p in pushes(frames)] == [first + 1, first + 2]
    assert sessions.counters["notifies_conflated"] == 2


def test_what_was_sent_is_not_replaced():
    sessions = Sessions()
    session, _, _ = sessions.login(capabilities=1)
    sessions.feed(session)
    assert session.push(notify(b"x1"), now=0.0, conflate_key="x").is_ok
    assert sessions.feed(session) == [b"x1"]
    assert session.push(notify(b"x2"), now=0.0, conflate_key="x").is_ok
    assert sessions.feed(session) == [b"x2"]
    assert sessions.counters["notifies_conflated"] == 0


def test_a_full_queue_takes_what_replaces_and_refuses_what_is_larger():
    sessions = Sessions(max_queue_size=3)
    session, _, _ = sessions.login(capabilities=1)
    session.ack(1, 0.0)
    assert session.push(notify(b"old"), now=0.0, conflate_key="x").is_ok
    while session.push(notify(b"other"), now=0.0).is_ok:
        pass
    assert session.push(notify(b"new"), now=0.0, conflate_key="x").is_ok
    assert session.push(notify(b"larger"), now=0.0, conflate_key="x").error_code == "BUSY"
    assert sessions.feed(session)[-1:] == [b"new"]
    assert sessions.counters["notifies_conflated"] == 1


def test_a_session_remembers_so_many_keys_and_no_more():
    sessions = Sessions(max_queue_size=2_000)
    session, _, _ = sessions.login(capabilities=1)
    for number in range(MAX_CONFLATE_KEYS + 1):
        assert session.push(notify(b"1"), now=0.0, conflate_key=f"k{number}").is_ok
    for number in range(MAX_CONFLATE_KEYS + 1):
        assert session.push(notify(b"2"), now=0.0, conflate_key=f"k{number}").is_ok
    # Each key that was forgotten makes the next one forgotten, too.
    assert sessions.counters["notifies_conflated"] == 0
    assert session.push(notify(b"3"), now=0.0, conflate_key=f"k{MAX_CONFLATE_KEYS}").is_ok
    assert sessions.counters["notifies_conflated"] == 1
