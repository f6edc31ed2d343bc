"""Resume: tokens, attempts, take-over, refusals, rates, tombstones, base clients."""

from __future__ import annotations

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr.protocol.link import Disconnect
from gatesvr.session.resume import ResumeToken, TokenMatch
from gatesvr.session.session import Session
from gatesvr.session.state import State

from .rig import CUT, Sessions, answer_body, notify, pushes, start_request


def resume(
    sessions: Sessions, session: Session | str, token: bytes, attempt: int = 1, **fields: object
):
    """Return the outcome of a resume, and its connection."""
    session_id = session if isinstance(session, str) else session.session_id
    link = sessions.link(str(fields.pop("ip", "192.0.2.1")))
    start = start_request(session_id=session_id, resume_token=token, attempt=attempt, **fields)
    return sessions.manager.start(start, link, sessions.now), link


def refusal(outcome):
    assert outcome.session is None
    assert not outcome.response.success
    error = outcome.response.error.error_code
    return error, int(outcome.close_code), outcome.response.lost_reason


# Tokens by themselves.


def tokens():
    count = iter(range(1, 100))
    return lambda size: next(count).to_bytes(size, "big")


def test_the_current_token_makes_a_new_one():
    source = tokens()
    token = ResumeToken()
    first = token.issue(source)
    assert token.match(first) is TokenMatch.CURRENT
    second = token.accept(TokenMatch.CURRENT, 1, source)
    assert token.match(second) is TokenMatch.CURRENT
    assert token.match(first) is TokenMatch.PREVIOUS
    assert token.match(bytes(16)) is TokenMatch.WRONG
    assert token.match(b"") is TokenMatch.WRONG
    assert token.is_unproved


def test_the_previous_token_hands_out_the_same_current_one():
    source = tokens()
    token = ResumeToken()
    first = token.issue(source)
    second = token.accept(TokenMatch.CURRENT, 1, source)
    assert token.accept(TokenMatch.PREVIOUS, 2, source) == second
    assert token.accept(TokenMatch.PREVIOUS, 3, source) == second
    assert token.match(first) is TokenMatch.PREVIOUS
    assert token.match(second) is TokenMatch.CURRENT


def test_a_proof_ends_the_previous_token():
    source = tokens()
    token = ResumeToken()
    first = token.issue(source)
    second = token.accept(TokenMatch.CURRENT, 1, source)
    token.prove()
    assert token.match(first) is TokenMatch.REUSED
    third = token.accept(TokenMatch.CURRENT, 1, source)
    assert token.match(second) is TokenMatch.PREVIOUS
    token.accept(TokenMatch.CURRENT, 1, source)
    assert token.match(second) is TokenMatch.REUSED
    assert token.match(third) is TokenMatch.PREVIOUS
    token = ResumeToken()
    token.issue(source)
    token.prove()
    assert not token.is_unproved


@pytest.mark.parametrize(("attempt", "is_stale"), [(0, True), (3, True), (4, True), (5, False)])
def test_an_attempt_must_rise(attempt, is_stale):
    source = tokens()
    token = ResumeToken()
    token.issue(source)
    token.accept(TokenMatch.CURRENT, 4, source)
    assert token.is_stale(TokenMatch.PREVIOUS, attempt) is is_stale
    assert not token.is_stale(TokenMatch.CURRENT, attempt)


# Good resumes.


@pytest.mark.parametrize("unacked", [0, 1, 1023])
@pytest.mark.parametrize("is_stolen", [False, True])
def test_a_resume_replays_what_is_not_acked_and_goes_on(unacked, is_stolen):
    sessions = Sessions()
    session, old, response = sessions.login()
    for number in range(unacked):
        assert session.push(notify(b"%d" % number), now=sessions.now).is_ok
    sessions.feed(session)
    if not is_stolen:
        sessions.manager.detach(session, old, CUT, sessions.now)
    outcome, link = resume(sessions, session, response.resume_token, last_acked_seq_id=1)
    answer = outcome.response
    assert outcome.session is session
    assert session.link is link
    assert session.state is State.NORMAL
    assert (answer.success, answer.resumed, answer.generation) == (True, True, 2)
    assert (answer.state, answer.max_client_seq) == (pb.SESSION_STATE_NORMAL, 1)
    replay = (2, unacked + 1) if unacked else (0, 0)
    assert (answer.replay_from, answer.replay_to) == replay
    assert answer.resume_token != response.resume_token
    assert (old.closed is not None) is is_stolen
    if is_stolen:
        assert old.closed is not None
        assert old.closed[0] == 4409
    assert session.push(notify(b"live"), now=sessions.now).is_ok
    expected = [*(b"%d" % number for number in range(unacked)), b"live"]
    session.sender.feed(sessions.now)
    assert [push.business()[2] for push in pushes(link.take())] == expected
    assert sessions.counters["steals"] == is_stolen
    assert sessions.counters["suspended"] == 0
    assert sessions.counters["replayed"] == unacked


def test_what_the_client_has_is_acked_by_its_start():
    sessions = Sessions()
    session, link, response = sessions.login()
    for _ in range(4):
        session.push(notify(b""), now=sessions.now)
    sessions.feed(session)
    sessions.manager.detach(session, link, CUT, sessions.now)
    outcome, _ = resume(sessions, session, response.resume_token, last_acked_seq_id=3)
    assert session.client_ack_server_seq == 3
    assert (outcome.response.replay_from, outcome.response.replay_to) == (4, 5)


def test_replay_starts_behind_an_earlier_ack():
    sessions = Sessions()
    session, link, response = sessions.login()
    for _ in range(4):
        session.push(notify(b""), now=sessions.now)
    sessions.feed(session)
    session.ack(4, sessions.now)
    sessions.manager.detach(session, link, CUT, sessions.now)
    outcome, _ = resume(sessions, session, response.resume_token)
    assert (outcome.response.replay_from, outcome.response.replay_to) == (5, 5)


@pytest.mark.parametrize(
    ("expiring", "lost"),
    [((), (0, 0)), ((0,), (2, 2)), ((1, 2), (3, 4)), ((0, 3), (2, 5)), ((0, 1, 2, 3), (2, 5))],
)
def test_the_losses_to_come_are_summed_up(expiring, lost):
    sessions = Sessions()
    session, link, response = sessions.login()
    sessions.manager.detach(session, link, CUT, sessions.now)
    for number in range(4):
        ttl = 5.0 if number in expiring else 0.0
        session.push(notify(b"%d" % number), now=sessions.now, ttl=ttl)
    sessions.now += 5
    sessions.manager.sweep(sessions.now)
    outcome, _ = resume(sessions, session, response.resume_token, last_acked_seq_id=1)
    assert (outcome.response.lost_from, outcome.response.lost_to) == lost
    assert (outcome.response.replay_from, outcome.response.replay_to) == (2, 5)


def test_a_late_end_of_the_old_connection_touches_nothing():
    sessions = Sessions()
    session, old, response = sessions.login()
    _, link = resume(sessions, session, response.resume_token, last_acked_seq_id=1)
    for how in (CUT, Disconnect("local", 4409), Disconnect("local", 4400)):
        sessions.manager.detach(session, old, how, sessions.now)
    assert session.state is State.NORMAL
    assert session.link is link


def test_an_older_generations_answer_is_kept():
    sessions = Sessions()
    session, _, response = sessions.login()
    seq = sessions.ask(session)
    resume(sessions, session, response.resume_token, last_acked_seq_id=1)
    assert session.answer(seq, answer_body(seq, b"slow"))
    assert sessions.feed(session) == [b"slow"]


def test_an_inited_session_whose_hello_is_out_is_resumed():
    sessions = Sessions()
    session, link, response = sessions.start()
    sessions.offer_hello(session)
    sessions.manager.detach(session, link, CUT, sessions.now)
    outcome, _ = resume(sessions, session, response.resume_token)
    assert outcome.response.state == pb.SESSION_STATE_INITED
    assert outcome.response.max_client_seq == 1
    assert session.hello_seq
    sessions.manager.logged_in(session, "1", sessions.now)
    session.answer(1, answer_body(1, b"welcome"), now=sessions.now)
    assert sessions.feed(session) == [b"welcome"]
    assert session.state is State.NORMAL


def test_twice_at_once_with_one_token_leaves_one_connection():
    sessions = Sessions()
    session, link, response = sessions.login()
    sessions.manager.detach(session, link, CUT, sessions.now)
    _, first = resume(sessions, session, response.resume_token, 1, last_acked_seq_id=1)
    outcome, second = resume(sessions, session, response.resume_token, 2, last_acked_seq_id=1)
    assert outcome.session is session
    assert first.closed is not None
    assert first.closed[0] == 4409
    assert session.link is second
    assert session.generation == 3


def test_a_resume_changes_nothing_else_of_the_session():
    sessions = Sessions()
    session, _, response = sessions.login(client_id="phone")
    outcome, _ = resume(
        sessions,
        session,
        response.resume_token,
        openid="",
        client_id="other",
        capabilities=0,
        max_message_bytes=9,
        last_acked_seq_id=1,
        ip="192.0.2.77",
    )
    assert outcome.session is session
    assert (session.openid, session.client_id, session.zone) == ("alice", "phone", "001")
    assert (session.capabilities, session.max_message_bytes) == (1, 1 << 20)
    assert session.user_ip == "192.0.2.77"


# Proof and attempts.


def test_a_frame_behind_start_response_ends_the_old_token():
    sessions = Sessions()
    session, _, first = sessions.login()
    resume(sessions, session, first.resume_token, 1, last_acked_seq_id=1)
    session.prove_token()
    session.prove_token()
    outcome, _ = resume(sessions, session, first.resume_token, 2, last_acked_seq_id=1)
    assert refusal(outcome) == (403, 4403, pb.LOST_DENIED)
    assert sessions.counters["token_reused"] == 1


def test_a_dead_token_cannot_fill_the_log(caplog):
    sessions = Sessions()
    session, _, first = sessions.login()
    resume(sessions, session, first.resume_token, 1, last_acked_seq_id=1)
    session.prove_token()
    for attempt in range(100):
        resume(sessions, session, first.resume_token, attempt, last_acked_seq_id=1)
    assert sessions.counters["token_reused"] == 100
    assert [record.getMessage() for record in caplog.records].count("token_reused") == 5


def test_a_stale_attempt_never_steals():
    sessions = Sessions()
    session, _, response = sessions.login()
    _, link = resume(sessions, session, response.resume_token, 3, last_acked_seq_id=1)
    outcome, _ = resume(sessions, session, response.resume_token, 3, last_acked_seq_id=1)
    assert refusal(outcome) == (409, 4409, pb.LOST_NONE)
    assert outcome.response.attempt == 3
    assert session.link is link
    assert link.closed is None
    outcome, _ = resume(sessions, session, response.resume_token, 4, last_acked_seq_id=1)
    assert outcome.session is session


def test_without_attempts_only_the_current_token_is_good():
    sessions = Sessions()
    session, _, response = sessions.login()
    outcome, link = resume(sessions, session, response.resume_token, 0, last_acked_seq_id=1)
    assert outcome.session is session
    again, _ = resume(sessions, session, response.resume_token, 0, last_acked_seq_id=1)
    assert refusal(again) == (403, 4403, pb.LOST_DENIED)
    assert session.link is link
    good, _ = resume(sessions, session, outcome.response.resume_token, 0, last_acked_seq_id=1)
    assert good.session is session


# Refusals: none touches a session.


def test_a_wrong_token_another_sessions_token_or_another_openid_is_denied():
    sessions = Sessions()
    session, link, response = sessions.login()
    _, _, other = sessions.login("bob")
    for outcome, _ in (
        resume(sessions, session, bytes(16)),
        resume(sessions, session, b""),
        resume(sessions, session, other.resume_token, openid=""),
        resume(sessions, session, response.resume_token, openid="bob"),
    ):
        assert refusal(outcome) == (403, 4403, pb.LOST_DENIED)
    assert session.link is link
    assert session.generation == 1
    assert sessions.counters["resumes_denied"] == 4
    good, _ = resume(sessions, session, response.resume_token)
    assert good.session is session


def test_a_position_that_was_never_given_out_ends_the_session_for_its_own_token_alone():
    sessions = Sessions()
    session, link, response = sessions.login()
    denied, _ = resume(sessions, session, bytes(16), last_acked_seq_id=2)
    assert refusal(denied) == (403, 4403, pb.LOST_DENIED)
    assert session.is_valid
    outcome, _ = resume(sessions, session, response.resume_token, last_acked_seq_id=2)
    assert refusal(outcome) == (400, 4400, pb.LOST_NONE)
    assert not session.is_valid
    assert link.closed is not None
    assert link.closed[0] == 4400
    assert sessions.counters["resumes_ahead"] == 1
    assert sessions.counters["sessions"] == 0


def test_a_stale_attempt_or_one_too_many_ends_no_session_by_its_position():
    sessions = Sessions()
    session, _, response = sessions.login()
    for attempt in range(1, 6):
        resume(sessions, session, response.resume_token, attempt, last_acked_seq_id=1)
    for attempt, code in ((5, 409), (6, 429)):
        outcome, _ = resume(sessions, session, response.resume_token, attempt, last_acked_seq_id=99)
        assert refusal(outcome)[0] == code
    assert session.is_valid


def test_an_unknown_session_gives_a_new_one():
    sessions = Sessions()
    outcome, link = resume(sessions, "gone", bytes(16), last_acked_seq_id=9)
    session = outcome.session
    assert session is not None
    assert session.is_after_failed_resume
    assert session.link is link
    assert (outcome.response.resumed, outcome.response.lost_reason) == (
        False,
        pb.LOST_UNKNOWN_SESSION,
    )
    assert outcome.response.max_client_seq == 0
    assert session.client_ack_server_seq == 0


def test_an_unknown_session_without_openid_is_denied():
    outcome, _ = resume(Sessions(), "gone", bytes(16), openid="")
    assert refusal(outcome) == (403, 4403, pb.LOST_UNKNOWN_SESSION)


def test_a_failed_resume_never_replaces_another_session():
    sessions = Sessions()
    made, _ = resume(sessions, "gone", bytes(16))
    assert made.session is not None
    other, link, _ = sessions.login()
    outcome, _ = resume(sessions, "gone", bytes(16))
    assert refusal(outcome) == (403, 4410, pb.LOST_UNKNOWN_SESSION)
    # ... also when the other one logged in between its START and its hello.
    assert not sessions.hello(made.session)
    assert not made.session.is_valid
    assert other.is_logged_in
    assert link.closed is None


def test_a_failed_resume_may_stand_beside_others_where_that_is_allowed():
    sessions = Sessions(on_duplicate="allow")
    sessions.login()
    outcome, _ = resume(sessions, "gone", bytes(16))
    assert outcome.session is not None
    assert sessions.hello(outcome.session)


def test_a_failed_resume_does_not_replace_at_the_limit_either():
    sessions = Sessions(on_duplicate="allow", max_logged_in=1)
    old, link, _ = sessions.login()
    sessions.manager.detach(old, link, CUT, sessions.now)
    outcome, _ = resume(sessions, "gone", bytes(16))
    assert outcome.session is not None
    assert not sessions.hello(outcome.session)
    assert old.is_logged_in


def test_replaced_and_kicked_sessions_have_a_tombstone():
    sessions = Sessions()
    old, _, first = sessions.login()
    new, _, second = sessions.login()
    outcome, _ = resume(sessions, old, first.resume_token)
    assert refusal(outcome) == (403, 4410, pb.LOST_REPLACED)
    sessions.manager.kick(new, "out", sessions.now)
    outcome, _ = resume(sessions, new, second.resume_token)
    assert refusal(outcome) == (403, 4410, pb.LOST_KICKED)
    sessions.now += 60
    outcome, _ = resume(sessions, old, first.resume_token)
    assert outcome.session is not None
    assert outcome.response.lost_reason == pb.LOST_UNKNOWN_SESSION


def test_a_session_is_resumed_five_times_at_once_and_then_once_a_second():
    sessions = Sessions()
    session, _, response = sessions.login()
    token = response.resume_token
    for attempt in range(1, 6):
        outcome, link = resume(sessions, session, token, attempt, last_acked_seq_id=1)
        assert outcome.session is session
    refused, _ = resume(sessions, session, token, 6, last_acked_seq_id=1)
    assert refusal(refused) == (429, 4429, pb.LOST_NONE)
    assert 0 < refused.response.error.retry_after_ms <= 1000
    assert session.link is link
    sessions.now += 1
    outcome, _ = resume(sessions, session, token, 6, last_acked_seq_id=1)
    assert outcome.session is session


def test_wrong_tokens_are_limited_by_address_and_never_by_session():
    sessions = Sessions()
    session, _, response = sessions.login()
    codes = [refusal(resume(sessions, session, bytes(16))[0])[0] for _ in range(7)]
    assert codes == [403] * 5 + [429] * 2
    outcome, _ = resume(sessions, session, bytes(16), ip="192.0.2.50")
    assert refusal(outcome)[0] == 403
    codes = [
        refusal(resume(sessions, session, bytes(16), ip=f"2001:db8::{i}")[0])[0] for i in range(7)
    ]
    assert codes == [403] * 5 + [429] * 2
    good, _ = resume(sessions, session, response.resume_token, last_acked_seq_id=1)
    assert good.session is session
    sessions.now += 1
    codes = [refusal(resume(sessions, session, bytes(16))[0])[0] for _ in range(2)]
    assert codes == [403, 429]


def test_tokens_are_kept_as_digests():
    sessions = Sessions()
    session, _, response = sessions.login()
    outcome, _ = resume(sessions, session, response.resume_token, last_acked_seq_id=1)
    session.prove_token()
    token = session.token
    assert token is not None
    kept = [getattr(token, name) for name in token.__slots__]
    assert response.resume_token not in kept
    assert outcome.response.resume_token not in kept


# Base clients.


def base(sessions: Sessions, last_acked: int, openid: str = "alice"):
    link = sessions.link()
    start = pb.StartRequest(openid=openid, last_acked_seq_id=last_acked)
    return sessions.manager.start(start, link, sessions.now), link


def test_a_base_client_comes_back_by_openid_where_that_is_on():
    sessions = Sessions(base_resume=True)
    session, link, _ = sessions.login(protocol=0)
    session.push(notify(b"missed"), now=sessions.now)
    sessions.manager.detach(session, link, CUT, sessions.now)
    outcome, _ = base(sessions, 1)
    assert outcome.session is session
    assert outcome.response.resumed
    assert outcome.response.resume_token == b""
    assert sessions.feed(session) == [b"missed"]
    assert sessions.counters["base_resumes"] == 1


def test_a_base_client_comes_back_no_more_often_than_others():
    sessions = Sessions(base_resume=True)
    session, _, _ = sessions.login(protocol=0)
    for _ in range(5):
        outcome, link = base(sessions, 1)
        assert outcome.session is session
    outcome, _ = base(sessions, 1)
    assert refusal(outcome) == (429, 4429, pb.LOST_NONE)
    assert session.link is link
    assert sessions.counters["base_resumes"] == 5
    assert sessions.counters["resumes_limited"] == 1
    sessions.now += 1
    assert base(sessions, 1)[0].session is session


def test_a_base_client_gets_a_new_session_otherwise():
    sessions = Sessions()
    session, _, _ = sessions.login(protocol=0)
    outcome, _ = base(sessions, 1)
    assert outcome.session is not session
    assert not outcome.response.resumed
    sessions = Sessions(base_resume=True)
    session, _, _ = sessions.login(protocol=0)
    for last_acked in (0, 7):
        outcome, _ = base(sessions, last_acked)
        assert outcome.session is not session
    outcome, _ = base(sessions, 1, "bob")
    assert outcome.session is not None
    assert outcome.session.openid == "bob"


def test_a_session_of_version_1_is_never_resumed_without_its_token():
    sessions = Sessions(base_resume=True)
    session, link, _ = sessions.login()
    outcome, _ = base(sessions, 1)
    assert outcome.session is not session
    assert session.link is link
