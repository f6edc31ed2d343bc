"""A session's bytes: versions, damage, bounds; and what a copy does that is not the owner's."""

from __future__ import annotations

import random
from collections.abc import Iterable
from hashlib import sha256
from zlib import crc32

import pytest
from google.protobuf.message import Message

from gatesvr._core.queue import BULK
from gatesvr._pb import cluster_pb2 as pb
from gatesvr._pb.message_pb2 import StartRequest
from gatesvr.errors import ExportError, SessionError
from gatesvr.protocol.messages import LostReason
from gatesvr.session.moved import max_export_bytes
from gatesvr.session.outbox import MADE_PUSH_ID, MAX_PUSH_IDS, MAX_YOUNG_PUSH_IDS, YOUNG_PUSH_ID_S
from gatesvr.session.results import MAX_RESULTS, Result, Results
from gatesvr.session.role import Role
from gatesvr.session.session import Session

from .arrivals import away, exported, install_and_use, moved_call, moved_calls, opened, sealed
from .rig import CUT, Sessions, answer_body, index_sizes, notify, start_request


def not_logged_in(sessions: Sessions) -> Session:
    """Return a session whose second hello is answered and whose login is not decided."""
    session, link, _ = sessions.start(client_id="phone")
    now = sessions.now
    sessions.offer_hello(session)
    session.answer(1, answer_body(1, code=403), now=now)
    sessions.manager.refuse_login(session)
    sessions.offer_hello(session, 2)
    session.login_answer = Result(2, answer_body(2), (notify(b"b"),), (notify(b"a"),), 200, "7")
    assert session.push(notify(b"held"), now=now, ttl=30.0, flags=BULK).is_ok
    session.is_after_failed_resume = True
    sessions.manager.detach(session, link, CUT, now)
    return session


def turned(sessions: Sessions) -> Session:
    """Return a logged-in session whose client has come back twice, and was cut off again."""
    session = away(sessions)
    token = session.token
    assert token is not None
    token.current = sha256(b"known").digest()
    for last_acked in (1, 2):
        start = start_request(
            "",
            session_id=session.session_id,
            resume_token=token.text or b"known",
            attempt=1,
            last_acked_seq_id=last_acked,
        )
        assert sessions.manager.start(start, sessions.link(), sessions.now).session is session
        sessions.feed(session)
        assert session.push(notify(b"2"), now=sessions.now, ttl=9.0, conflate_key="2").is_ok
        assert session.push(notify(b"3"), now=sessions.now, conflate_key="2").is_ok
    session.bind(notify(b"behind"), 5, False, now=sessions.now)
    session.epoch = 4
    assert session.queue.oldest_age(sessions.now) == 0
    sessions.now += 0.25
    assert session.link is not None
    sessions.manager.detach(session, session.link, CUT, sessions.now)
    sessions.now += 0.5
    assert session.request_rate is not None
    session.request_rate.take(sessions.now)
    return session


def fields_of(message: Message) -> set[str]:
    """Return the fields that a message has, and its parts."""
    found: set[str] = set()
    for field, value in message.ListFields():
        found.add(field.full_name)
        if field.name == "claims":
            continue
        for part in value if isinstance(value, Iterable) else [value]:
            if isinstance(part, Message):
                found |= fields_of(part)
    return found


def test_every_field_travels() -> None:
    """What is exported again is what was exported; each field has something here."""
    found: set[str] = set()
    for make, waiting in ((turned, moved_calls()), (not_logged_in, [])):
        here, there = (Sessions(max_requests_per_second=2) for _ in range(2))
        there.now += 500
        session = make(here)
        first = opened(here.manager.moves.export(session, waiting, here.now))
        arrived = there.manager.moves.install(sealed(first), there.now)
        assert there.manager.moves.own(arrived, session.epoch, there.now)
        assert opened(there.manager.moves.export(arrived, (), there.now)) == first
        found |= fields_of(first)
    every = {
        field.full_name
        for name, kind in pb.DESCRIPTOR.message_types_by_name.items()
        if name.startswith("Moved")
        for field in kind.fields
    }
    assert every - found == set()


def test_a_newer_minor_is_read_and_what_is_new_in_it_left_out() -> None:
    data = exported(Sessions())
    unknown = b"\x8a\x3f\x03new\x90\x3f\x07"  # fields 1009 and 1010
    moved = pb.MovedSession.FromString(opened(data).SerializeToString() + unknown)
    for message in (moved.queue, moved.queue.messages, moved.requests[0], moved.identity):
        message.MergeFromString(unknown)
    assert moved.SerializeToString().count(b"\x03new") == 5
    there = Sessions()
    session = there.manager.moves.install(sealed(moved, minor=7), there.now)
    assert list(session.pending) == [2, 4, 5]
    there.manager.moves.own(session, 1, there.now)
    again = opened(there.manager.moves.export(session, (), there.now))
    again.epoch = 0
    assert again == opened(data)
    assert b"\x03new" not in again.SerializeToString()


@pytest.mark.parametrize(("major", "minor"), [(0, 0), (2, 0), (2, 9)])
def test_another_major_is_refused(major: int, minor: int) -> None:
    there = Sessions()
    data = sealed(opened(exported(Sessions())), major, minor)
    with pytest.raises(ExportError, match=rf"version {major}\.{minor}; this process takes 1\.x"):
        there.manager.moves.install(data, there.now)
    assert there.counters["exports_refused"] == 1


NEEDED = frozenset(
    (
        "session_id",
        "openid",
        "user_ip",
        "max_message_bytes",
        "generation",
        "limits",
        "max_client_seq",
        "requests",
        "queue",
    )
)
"""What each version has; all other fields may be new in a minor."""


@pytest.mark.parametrize("name", [f.name for f in pb.MovedSession.DESCRIPTOR.fields])
def test_what_an_older_minor_lacks_has_a_default(name: str) -> None:
    """Or is needed, and refused; but nothing raises anything else, now or later."""
    sessions = Sessions()
    moved = opened(exported(sessions))
    moved.ClearField(name)
    if name.startswith("push_id"):
        moved.ClearField("push_ids")
        moved.ClearField("push_id_age_ms")
    if name.startswith("conflate"):
        for field in ("conflate_keys", "conflate_seqs", "conflate_bytes"):
            moved.ClearField(field)
    there = Sessions()
    try:
        session = there.manager.moves.install(sealed(moved), there.now)
    except ExportError:
        assert name in NEEDED
        assert not any(index_sizes(there.manager).values())
        return
    there.manager.moves.own(session, 1, there.now)
    there.manager.sweep(there.now)
    session.info(there.now, 1 << 40)


def test_cut_bytes_install_nothing() -> None:
    data = exported(Sessions())
    for length in range(len(data)):
        assert install_and_use(data[:length]) is None, length


def test_damaged_bytes_install_nothing() -> None:
    """Whichever byte it is, except of the minor: that is not looked at."""
    data = bytearray(exported(Sessions()))
    chance = random.Random(1)
    for place in range(len(data)):
        before = data[place]
        data[place] ^= 1 << chance.randrange(8)
        if pb_minor(bytes(data)) == 0:
            assert install_and_use(bytes(data)) is None, place
        data[place] = before


def pb_minor(data: bytes) -> int:
    try:
        return pb.SessionExport.FromString(data).minor
    except Exception:
        return 0


@pytest.mark.parametrize("seed", range(3))
def test_bytes_that_were_made_wrong_install_nothing_or_a_session(seed: int) -> None:
    """Their checksum is good: what they hold is a session by all that it does, or is refused."""
    good = opened(exported(Sessions())).SerializeToString()
    chance = random.Random(seed)
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.choice((1, 1, 2, 8))):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 127, 128, 255, 48))
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        envelope = pb.SessionExport(
            major=1, crc32=crc32(bytes(data)), session=bytes(data)
        ).SerializeToString()
        refused += install_and_use(envelope) is None
    assert 0 < refused < 150


WRONG: dict[str, object] = {
    "session_id": "",
    "openid": "a\x00",
    "client_id": "x" * 65,
    "user_ip": "nowhere",
    "zone": "1",
    "user_port": 70_000,
    "transport": "q" * 17,
    "protocol": 9,
    "generation": 0,
    "max_message_bytes": 0,
    "max_client_seq": 1 << 60,
    "create_age_ms": 1 << 60,
    "token": b"short",
    "token_text": b"another",
    "hello_seq": 2,
    "previous_token": bytes(31),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_field_out_of_range_is_refused(name: str) -> None:
    moved = opened(exported(Sessions()))
    if name == "token_text":
        moved.previous_token = bytes(32)
    if name == "hello_seq":
        moved.hello_seq = 3
    else:
        setattr(moved, name, WRONG[name])
    assert install_and_use(sealed(moved)) is None


def test_a_queue_that_contradicts_itself_is_refused() -> None:
    data = exported(Sessions())

    def refused(**changes: object) -> bool:
        moved = opened(data)
        for name, value in changes.items():
            if isinstance(value, list):
                moved.queue.ClearField(name)
                getattr(moved.queue, name).extend(value)
            else:
                setattr(moved.queue, name, value)
        return install_and_use(sealed(moved)) is None

    queue = opened(data).queue
    assert not refused()
    assert refused(next_seq=queue.next_seq + 1)
    assert refused(acked_seq=queue.next_seq)
    assert refused(sent_seq=queue.next_seq)
    assert refused(send_seq=queue.next_seq + 1)
    assert refused(mark_to=[])
    assert refused(mark_reason=[0])
    assert refused(mark_reason=[200])
    assert refused(mark_from=[1])
    assert refused(first_slot=0)
    assert refused(next_slot=1 << 40)
    assert refused(next_slot=queue.next_slot + 1)
    assert refused(waiting=[])
    assert refused(waiting=[*queue.waiting, *queue.waiting])
    assert refused(sums=[])
    assert refused(sums=[*queue.sums[:5], 77, *queue.sums[6:]])


LARGEST = {"max_message_bytes": 4_000, "max_login_bytes": 2_000}


def test_the_bytes_are_bounded() -> None:
    sessions = Sessions(max_queue_size=64, max_in_flight=8, max_queue_bytes=8_000, **LARGEST)
    session, link, _ = sessions.login(max_message_bytes=4_000)
    waiting = [sessions.ask(session, "request") for _ in range(8)]
    for seq in waiting[1:]:
        body = answer_body(seq, bytes(900))
        session.answer(seq, body, [notify(b"")] * 40, [notify(b"")] * 40, sessions.now)
    for number in range(300):
        key = f"{number:0128d}"
        session.push(notify(bytes(20)), now=sessions.now, push_id=key, conflate_key=key)
        session.bind(notify(bytes(1_000)), waiting[0], True, now=sessions.now, push_id=f"b{key}")
    sessions.manager.detach(session, link, CUT, sessions.now)
    limits = session.context.limits
    data = sessions.manager.moves.export(
        session, [moved_call(waiting[0], "", bytes(4_000))], sessions.now
    )
    assert 20_000 < len(data) <= max_export_bytes(limits, 4_000)


# A copy that is not the owner's.


def test_only_the_owner_exports_and_only_without_a_connection() -> None:
    sessions = Sessions()
    session, link, _ = sessions.login()
    with pytest.raises(SessionError):
        sessions.manager.moves.export(session, (), sessions.now)
    sessions.manager.detach(session, link, CUT, sessions.now)
    data = sessions.manager.moves.export(session, (), sessions.now)
    assert session.role is Role.LEAVING
    with pytest.raises(SessionError):
        sessions.manager.moves.export(session, (), sessions.now)
    with pytest.raises(SessionError, match="a copy"):
        sessions.manager.moves.install(data, sessions.now)


def test_a_leaving_copy_takes_nothing_and_ends_nothing() -> None:
    sessions = Sessions(resume_window=10.0)
    manager = sessions.manager
    session = away(sessions)
    looks = session.info(sessions.now, 0)
    manager.moves.export(session, moved_calls(), sessions.now)
    assert manager.find("openid", "alice", with_inited=True) == []
    assert manager.find("session", session.session_id) == [session]
    assert session.push(notify(b"x"), now=sessions.now, push_id="p").error_code == "MOVING"
    assert session.bind(notify(b"x"), 4, True, now=sessions.now).error_code == "MOVING"
    assert session.bind(notify(b"x"), 1, False, now=sessions.now).error_code == "MOVING"
    assert manager.multicast([session], notify(b"x"), sessions.now, suspended=True) == 0
    assert session.fail(5, 504, "late", now=sessions.now)
    manager.sweep(sessions.now + 1_000_000)
    manager.stop_starting(sessions.now)
    assert session.info(sessions.now, 0) == looks
    assert sessions.counters["pushes_moving"] == 4
    assert sessions.counters["results_kept"] == 1
    (result,) = manager.context.results.of(session.session_id)
    assert result.client_seq == 5


def test_a_session_that_was_made_waits_for_the_directory() -> None:
    sessions = Sessions()
    moves = sessions.manager.moves
    session, link, _ = sessions.start()
    moves.create(session)
    assert session.role is Role.CREATING
    assert session.push(notify(b"x"), now=sessions.now).error_code == "MOVING"
    assert sessions.counters["inited"] == 1
    assert moves.own(session, 7, sessions.now)
    assert session.epoch == 7
    assert session.push(notify(b"x"), now=sessions.now).is_ok
    assert sessions.hello(session)
    assert sessions.counters["moved_in"] == sessions.counters["taken_back"] == 0

    session, link, _ = sessions.start("bob")
    moves.create(session)
    sessions.manager.detach(session, link, CUT, sessions.now)
    assert session.link is None
    assert not moves.own(session, 8, sessions.now)
    assert sessions.manager.by_id(session.session_id) is None

    session, link, _ = sessions.start("carol")
    moves.create(session)
    moves.forget(session, sessions.now)
    assert link.closed is not None
    assert sessions.counters["moved_out"] == 0
    assert len(sessions.manager) == 1


def test_a_copy_that_nobody_took_goes_on() -> None:
    sessions = Sessions()
    session = away(sessions)
    sessions.manager.moves.export(session, moved_calls(), sessions.now)
    assert session.answer(5, answer_body(5), now=sessions.now)
    assert list(session.pending) == [2, 4, 5]
    assert sessions.manager.moves.own(session, 2, sessions.now)
    assert session.epoch == 2
    assert sessions.counters["taken_back"] == 1
    assert session.push(notify(b"x"), now=sessions.now).is_ok
    assert sessions.manager.find("openid", "alice") == [session]
    assert session.answer(5, answer_body(5), now=sessions.now)
    assert not session.answer(5, answer_body(5), now=sessions.now)
    sessions.now += 6
    sessions.manager.sweep(sessions.now)
    assert sessions.counters["notifies_expired"] == 0  # the first of the key was conflated
    sessions.now += 60
    sessions.manager.sweep(sessions.now)
    assert sessions.counters["auth_expired"] == 1


def test_a_copy_that_has_gone_keeps_what_its_calls_bring() -> None:
    here, there = Sessions(), Sessions()
    session = away(here)
    data = here.manager.moves.export(session, moved_calls(), here.now)
    arrived = there.manager.moves.install(data, there.now)
    assert arrived.answer(2, answer_body(2), now=there.now)
    assert there.counters["results_kept"] == 1
    there.manager.moves.own(arrived, 1, there.now)
    here.manager.moves.forget(session, here.now)
    assert session.role is Role.GONE
    assert here.counters["moved_out"] == there.counters["moved_in"] == 1
    assert not any(index_sizes(here.manager).values())
    assert here.manager.counters.queued_bytes == 0
    assert session.push(notify(b"x"), now=here.now).error_code == "NOT_FOUND"
    woken: list[str] = []
    results = here.manager.context.results
    results.wake = woken.append
    assert session.answer(5, answer_body(5), now=here.now)
    assert session.answer(5, answer_body(5, b"again"), now=here.now)
    assert woken == [session.session_id]
    assert results.of(session.session_id) == [Result(5, answer_body(5))]
    assert arrived.moved_calls[5].at == "A"
    assert arrived.moved_calls[4].request == b"frame"


def test_a_session_that_has_ended_keeps_no_results() -> None:
    sessions = Sessions()
    session = away(sessions)
    sessions.manager.moves.export(session, moved_calls(), sessions.now)
    assert session.answer(5, answer_body(5), now=sessions.now)
    sessions.manager.kick(session, "cheater", sessions.now)
    assert not sessions.manager.context.results.of(session.session_id)
    assert not session.answer(2, answer_body(2), now=sessions.now)
    assert sessions.manager.tombstones.find(session.session_id, sessions.now) is LostReason.KICKED
    assert session.push(notify(b"x"), now=sessions.now).error_code == "NOT_FOUND"


def test_results_are_bounded() -> None:
    results = Results()
    for number in range(MAX_RESULTS):
        assert results.keep("s", Result(number, b""))
    assert results.keep("s", Result(1, b"again"))
    assert not results.keep("t", Result(1, b""))
    assert len(results) == MAX_RESULTS
    results.settle("s", 1)
    results.settle("s", 1)
    assert results.keep("t", Result(1, b""))
    results.drop("s")
    results.settle("t", 1)
    assert len(results) == 0
    assert results.of("t") == []


def test_a_session_that_has_gone_with_too_many_results_counts_what_it_drops() -> None:
    sessions = Sessions()
    session = away(sessions)
    results = sessions.manager.context.results
    for number in range(MAX_RESULTS):
        results.keep("other", Result(number, b""))
    sessions.manager.moves.export(session, moved_calls(), sessions.now)
    assert not session.answer(5, answer_body(5), now=sessions.now)
    assert sessions.counters["results_dropped"] == 1


def test_a_session_without_reason_to_stay_is_closed_when_it_arrives() -> None:
    here, there = Sessions(), Sessions()
    session, _, response = here.start()
    here.offer_hello(session)
    start = start_request("", session_id=session.session_id, resume_token=response.resume_token)
    assert here.manager.moves.turn(start, "192.0.2.9", here.now) is session
    assert session.link is None
    data = here.manager.moves.export(session, [moved_call(1)], here.now)
    arrived = there.manager.moves.install(data, there.now)
    assert there.manager.moves.own(arrived, 1, there.now)
    assert arrived.hello_seq == 1
    here.manager.moves.own(session, 2, here.now)
    session.answer(1, answer_body(1, code=403), now=here.now)
    session.hello_seq = 0
    session.ack(1, here.now)
    there.manager.moves.forget(arrived, there.now)
    data = here.manager.moves.export(session, (), here.now)
    arrived = there.manager.moves.install(data, there.now)
    assert not there.manager.moves.own(arrived, 3, there.now)
    assert not any(index_sizes(there.manager).values())


def test_a_hello_that_was_answered_travels_with_its_answer() -> None:
    here, there = Sessions(), Sessions()
    session, link, _ = here.start()
    here.offer_hello(session)
    assert session.push(notify(b"held"), now=here.now, ttl=30.0).is_ok
    session.login_answer = Result(1, answer_body(1), (notify(b"b"),), (), 200, "7")
    here.manager.detach(session, link, CUT, here.now)
    arrived = there.manager.moves.install(
        here.manager.moves.export(session, (), here.now), there.now
    )
    assert arrived.login_answer == session.login_answer
    assert arrived.outbox.held == [(notify(b"held"), 0, there.now + 30)]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"resume_token": b"wrong"}, 4403),
        ({"last_acked_seq_id": 99}, 4400),
        ({"openid": "bob"}, 4403),
    ],
)
def test_the_owner_judges_a_start_wherever_it_came(fields: dict[str, object], code: int) -> None:
    sessions = Sessions()
    session, _, response = sessions.login()
    start = StartRequest(session_id=session.session_id, resume_token=response.resume_token)
    start.MergeFrom(StartRequest(**fields))  # type: ignore[arg-type]
    outcome = sessions.manager.moves.turn(start, "192.0.2.9", sessions.now)
    assert not isinstance(outcome, Session)
    assert outcome.close_code == code
    assert sessions.counters["refused_starts"] == 1
    assert session.is_valid == (code == 4403)


def test_a_session_that_arrives_ends_when_it_would_have() -> None:
    """However many came after it, or lost their connection after it."""
    here, there = Sessions(resume_window=60.0), Sessions(resume_window=60.0)
    session, link, _ = here.login()
    here.manager.detach(session, link, CUT, here.now)
    here.now += 50
    data = here.manager.moves.export(session, (), here.now)
    there._random = 100  # for other names
    other, link, _ = there.login("bob")
    there.manager.detach(other, link, CUT, there.now)
    arrived = there.manager.moves.install(data, there.now)
    there.manager.moves.own(arrived, 1, there.now)
    there.now += 9
    there.manager.sweep(there.now)
    assert arrived.is_valid
    there.now += 1
    there.manager.sweep(there.now)
    assert not arrived.is_valid
    assert other.is_valid
    assert there.counters["expired"] == 1


def test_a_larger_queue_than_ours_is_installed_whole_and_takes_no_push() -> None:
    here, there = Sessions(max_queue_size=32), Sessions(max_queue_size=4)
    session, link, _ = here.login()
    for _ in range(20):
        assert session.push(notify(b"x"), now=here.now).is_ok
    here.manager.detach(session, link, CUT, here.now)
    arrived = there.manager.moves.install(
        here.manager.moves.export(session, (), here.now), there.now
    )
    there.manager.moves.own(arrived, 1, there.now)
    assert len(arrived.queue) == 20
    assert arrived.context.max_queue_size == 32  # as its client was told


def test_young_push_ids_are_kept_whatever_the_limit_and_bounded() -> None:
    sessions = Sessions(max_queue_size=MAX_YOUNG_PUSH_IDS + 10)
    session, _, _ = sessions.login()
    for number in range(MAX_YOUNG_PUSH_IDS):
        assert session.push(b"", now=sessions.now, push_id=str(number)).is_ok
    assert session.push(b"", now=sessions.now, push_id="more").error_code == "BUSY"
    assert session.push(b"", now=sessions.now).is_ok
    assert session.push(b"", now=sessions.now, push_id="0").is_ok
    assert sessions.counters["push_repeats"] == 1
    assert session.push(b"", now=sessions.now + YOUNG_PUSH_ID_S, push_id="more").is_ok
    assert session.outbox.push_ids is not None
    assert len(session.outbox.push_ids) == MAX_PUSH_IDS


def test_push_ids_of_the_gateway_s_own_are_kept_only_while_they_are_young() -> None:
    sessions = Sessions()
    session, _, _ = sessions.login()
    for number in range(3):
        made = f"{MADE_PUSH_ID}{number}"
        assert session.push(b"", now=sessions.now, push_id=made).is_ok
    assert session.push(b"", now=sessions.now, push_id=f"{MADE_PUSH_ID}0").is_ok
    assert sessions.counters["push_repeats"] == 1
    assert session.push(b"", now=sessions.now + 2, push_id="pusher's").is_ok
    assert session.push(b"", now=sessions.now + 9, push_id="another").is_ok
    assert session.outbox.push_ids is not None
    assert list(session.outbox.push_ids) == ["pusher's", "another"]
