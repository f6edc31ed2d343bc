"""SessionManager: finding, ends, the sweep, broadcasts."""

from __future__ import annotations

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr.protocol.link import Disconnect
from gatesvr.protocol.messages import StopReason
from gatesvr.session.state import State, Verdict

from .rig import CUT, Sessions, answer_body, index_sizes, notify, pushes, start_request


def test_sessions_are_found_by_id_and_by_openid():
    sessions = Sessions()
    session, _, _ = sessions.start()
    manager = sessions.manager
    assert manager.find("session", session.session_id) == [session]
    assert manager.find("openid", "alice") == []
    sessions.hello(session)
    assert manager.find("openid", "alice") == [session]
    assert manager.by_openid("alice") == (session,)
    assert manager.find("session", "x") == manager.find("openid", "x") == []
    assert manager.find("group", "alice") == []
    manager.close(session, 0, "", 0.0)
    assert manager.find("session", session.session_id) == manager.find("openid", "alice") == []
    assert len(manager) == 0


# Ends.


def test_a_lost_connection_suspends():
    sessions = Sessions()
    session, link, _ = sessions.login()
    seq = sessions.ask(session)
    sessions.manager.detach(session, link, CUT, sessions.now)
    assert session.state is State.SUSPENDED
    assert session.link is None
    assert sessions.counters["suspended"] == 1
    assert session.answer(seq, answer_body(seq))
    assert len(session.queue) == 1


@pytest.mark.parametrize("kind", ["peer", "peer_transport", "idle", "reset", "local"])
@pytest.mark.parametrize("code", [0, 4408, 4413, 4500, 4503])
def test_every_other_end_suspends(kind, code):
    sessions = Sessions()
    session, link, _ = sessions.login()
    sessions.manager.detach(session, link, Disconnect(kind, code), sessions.now)
    assert session.state is State.SUSPENDED


@pytest.mark.parametrize(
    ("kind", "code", "is_valid"),
    [("local", 4400, False), ("local", 4401, False), ("peer", 4400, True), ("peer", 4410, True)],
)
def test_a_protocol_error_of_the_clients_ends_the_session(kind, code, is_valid):
    sessions = Sessions()
    session, link, _ = sessions.login()
    sessions.manager.detach(session, link, Disconnect(kind, code), sessions.now)
    assert session.is_valid is is_valid


def test_the_end_of_another_connection_changes_nothing():
    sessions = Sessions()
    session, link, _ = sessions.login()
    sessions.manager.detach(session, sessions.link(), Disconnect("local", 4400), sessions.now)
    assert session.state is State.NORMAL
    assert session.link is link


def test_a_session_without_login_goes_with_its_connection():
    sessions = Sessions()
    session, link, _ = sessions.start()
    sessions.manager.detach(session, link, CUT, sessions.now)
    assert not session.is_valid
    assert len(sessions.manager) == 0


def test_a_session_whose_hello_is_out_stays():
    sessions = Sessions()
    session, link, _ = sessions.start()
    sessions.offer_hello(session)
    sessions.manager.detach(session, link, CUT, sessions.now)
    assert session.state is State.INITED
    assert sessions.manager.logged_in(session, "1", sessions.now).close_code is None
    assert session.state is State.SUSPENDED
    session.answer(1, answer_body(1), now=sessions.now)
    sessions.now += 60
    sessions.manager.sweep(sessions.now)
    assert not session.is_valid


def test_a_session_whose_hellos_answer_is_not_acked_stays_until_the_login_timeout():
    sessions = Sessions()
    session, link, _ = sessions.start()
    sessions.offer_hello(session)
    session.hello_seq = 0
    session.fail(1, 502, "no upstream")
    sessions.manager.detach(session, link, CUT, sessions.now)
    assert session.is_valid
    sessions.now += 29
    sessions.manager.sweep(sessions.now)
    assert session.is_valid
    sessions.now += 1
    sessions.manager.sweep(sessions.now)
    assert not session.is_valid
    assert sessions.counters["login_timeouts"] == 1


def test_stop_closes_at_once():
    sessions = Sessions()
    session, link, _ = sessions.login()
    sessions.ask(session)
    session.push(notify(b""), now=0.0)
    sessions.manager.stop(session, StopReason.USER_LOGOUT, 0.0)
    assert link.closed == (0, "user_logout", b"")
    assert session.in_flight == 0
    assert session.queue.stopped
    assert session.push(notify(b""), now=0.0).error_code == "NOT_FOUND"
    sessions.manager.stop(session, StopReason.USER_LOGOUT, 0.0)
    assert sessions.counters["closed"] == 1


@pytest.mark.parametrize(("code", "close_code"), [(4410, 4410), (1234, 4410), (4620, 4620)])
def test_a_kick_says_why(code, close_code):
    sessions = Sessions()
    session, link, _ = sessions.login()
    sessions.manager.kick(session, "cheater", 0.0, code)
    assert link.closed is not None
    assert link.closed[:2] == (close_code, "cheater")
    (push,) = pushes(link.closed[2])
    kick = pb.Kick.FromString(push.payload)
    assert (kick.code, kick.reason) == (code, "cheater")
    sessions.manager.kick(session, "again", 0.0)
    assert sessions.counters["kicked"] == 1


def test_a_kick_by_openid_finds_those_that_have_not_logged_in():
    sessions = Sessions(on_duplicate="allow")
    logged_in, _, _ = sessions.login()
    away, link, _ = sessions.login()
    sessions.manager.detach(away, link, CUT, sessions.now)
    fresh, _, _ = sessions.start()
    asking, link, _ = sessions.start()
    sessions.offer_hello(asking)
    sessions.manager.detach(asking, link, CUT, sessions.now)  # a session without a connection
    other, _, _ = sessions.start("bob")
    assert sessions.manager.find("openid", "alice") == [logged_in, away]
    found = sessions.manager.find("openid", "alice", with_inited=True)
    assert found == [logged_in, away, fresh, asking]
    for session in found:
        sessions.manager.kick(session, "banned", sessions.now)
    assert sessions.manager.find("openid", "alice", with_inited=True) == []
    assert sessions.manager.logged_in(asking, "1", sessions.now).close_code is not None
    assert sessions.manager.find("openid", "bob", with_inited=True) == [other]
    assert sessions.counters["tombstones"] == 4
    for session in found:
        start = start_request(session_id=session.session_id)
        outcome = sessions.manager.start(start, sessions.link(), sessions.now)
        assert outcome.close_code == 4410


# The sweep.


def test_a_login_has_30_s():
    sessions = Sessions()
    session, link, _ = sessions.start()
    sessions.now += 29.9
    sessions.manager.sweep(sessions.now)
    assert session.is_valid
    sessions.now += 0.1
    sessions.manager.sweep(sessions.now)
    assert link.closed is not None
    assert link.closed[0] == 4408
    assert sessions.counters["inited"] == 0


def test_suspended_sessions_expire_in_their_order():
    sessions = Sessions(resume_window=60.0)
    made = [sessions.login(f"user{number}") for number in range(3)]
    for session, link, _ in made:
        sessions.manager.detach(session, link, CUT, sessions.now)
        sessions.now += 10
    sessions.now += 40
    sessions.manager.sweep(sessions.now)
    assert [session.is_valid for session, _, _ in made] == [False, False, True]
    assert sessions.counters["expired"] == 2


def test_notifies_expire_and_the_skip_is_flushed():
    sessions = Sessions()
    session, link, _ = sessions.login()
    session.push(notify(b"a"), now=sessions.now, ttl=5.0)
    session.push(notify(b"b"), now=sessions.now)
    link.flushes = 0
    sessions.now += 4
    sessions.manager.sweep(sessions.now)
    assert link.flushes == 0
    sessions.now += 1
    sessions.manager.sweep(sessions.now)
    assert link.flushes == 1
    assert sessions.feed(session) == [b"~", b"b"]
    assert sessions.counters["notifies_expired"] == 1


def fill(session, now):
    while session.push(notify(b""), now=now).is_ok:
        pass


def test_a_client_that_never_acks_is_cut_off_after_10_s_at_the_cap():
    sessions = Sessions(max_queue_size=4)
    session, link, _ = sessions.login()
    sessions.now += 1000  # a quiet hour counts for nothing
    fill(session, sessions.now)
    sessions.manager.sweep(sessions.now)
    sessions.now += 9.9
    sessions.manager.sweep(sessions.now)
    assert link.closed is None
    sessions.now += 0.1
    sessions.manager.sweep(sessions.now)
    assert link.closed is not None
    assert link.closed[0] == 4413
    assert link.closed[1].startswith("retry_after_ms=")
    assert session.state is State.SUSPENDED
    assert sessions.counters["slow_consumers"] == 1
    sessions.manager.detach(session, link, Disconnect("local", 4413), sessions.now)
    assert session.state is State.SUSPENDED


def test_sessions_with_the_most_unsent_are_cut_under_overload():
    sessions = Sessions()
    links = {}
    for number in range(4):
        session, link, _ = sessions.login(f"u{number}")
        links[session] = link
        for _ in range(number):
            assert session.push(notify(b"x" * 40_000), now=sessions.now).is_ok
    *others, slowest = links  # one has nothing to be sent, one has little
    sessions.manager.cut_slowest(sessions.now)
    code, reason, _ = links[slowest].closed
    assert (code, reason) == (4503, "retry_after_ms=5000")
    assert slowest.state is State.SUSPENDED
    assert sessions.counters["slowest_cut"] == 1
    assert [links[session].closed for session in others] == [None] * 3
    sessions.manager.cut_slowest(sessions.now)
    assert links[others[2]].closed is not None
    sessions.manager.cut_slowest(sessions.now)
    assert sessions.counters["slowest_cut"] == 2


def test_an_ack_that_moves_starts_the_10_s_again():
    sessions = Sessions(max_queue_size=4)
    session, link, _ = sessions.login()
    for _ in range(5):
        fill(session, sessions.now)
        sessions.feed(session)
        sessions.manager.sweep(sessions.now)
        sessions.now += 9
        session.ack(session.client_ack_server_seq + 1, sessions.now)
    assert link.closed is None


def test_answers_at_the_cap_count_too():
    sessions = Sessions(max_queue_size=3)
    session, link, _ = sessions.login()
    while sessions.offer(session) is Verdict.NEXT:
        seq = session.max_client_seq
        session.answer(seq, answer_body(seq))
    for _ in range(2):
        sessions.manager.sweep(sessions.now)
        sessions.now += 10
    sessions.manager.sweep(sessions.now)
    assert link.closed is not None
    assert link.closed[0] == 4413


def test_a_full_queue_of_reserved_places_is_no_slow_consumer():
    sessions = Sessions(max_queue_size=2, max_in_flight=2)
    session, link, _ = sessions.login()
    sessions.ask(session)
    sessions.ask(session)
    fill(session, sessions.now)
    for _ in range(3):
        sessions.manager.sweep(sessions.now)
        sessions.now += 20
    assert link.closed is None


def test_tombstones_go_after_the_resume_window(monkeypatch):
    monkeypatch.setattr("gatesvr.session.manager.MAX_TOMBSTONES", 2)
    sessions = Sessions()
    for number in range(3):
        session, _, _ = sessions.login(f"user{number}")
        sessions.manager.kick(session, "", sessions.now)
    assert sessions.counters["tombstones"] == 2
    sessions.now += 60
    sessions.manager.sweep(sessions.now)
    assert sessions.counters["tombstones"] == 0


# Broadcasts.


def test_a_broadcast_reaches_the_logged_in_and_shares_one_body():
    sessions = Sessions()
    sessions.start("inited")
    live, _, _ = sessions.login("live")
    away, link, _ = sessions.login("away")
    sessions.manager.detach(away, link, CUT, sessions.now)
    everybody = sessions.manager.logged_in_sessions()
    assert sessions.manager.multicast(everybody, notify(b"all"), sessions.now) == 1
    assert sessions.feed(live) == [b"all"]
    assert len(away.queue) == 0
    assert sessions.manager.multicast(everybody, notify(b"all"), sessions.now, True) == 2
    assert len(away.queue) == 1


def test_ten_thousand_sessions_leave_nothing_behind():
    sessions = Sessions(max_start_rate=0)
    for number in range(10_000):
        session, link, _ = sessions.start(f"user{number}", sessions.link(f"10.0.0.{number % 200}"))
        sessions.hello(session)
        sessions.manager.detach(session, link, CUT, sessions.now)
    assert sessions.counters["suspended"] == 10_000
    sessions.now += 60
    sessions.manager.sweep(sessions.now)
    manager = sessions.manager
    assert len(manager) == 0
    assert index_sizes(manager) == dict.fromkeys(index_sizes(manager), 0)


def test_the_log_names_who_came_and_why_they_went(caplog):
    caplog.set_level("INFO", "gatesvr")
    sessions = Sessions()
    lines = []
    for openid, end in (("ann", "stop"), ("bob", "kick"), ("cat", "cut"), ("dan", "replace")):
        session, link, response = sessions.login(openid=openid)
        secret = bytes(response.resume_token).hex()
        if end == "stop":
            sessions.manager.stop(session, StopReason.USER_LOGOUT, 1.0)
        elif end == "kick":
            sessions.manager.kick(session, "cheating", 1.0)
        elif end == "cut":
            sessions.manager.detach(session, link, CUT, 1.0)
            sessions.manager.sweep(1_000.0)
        else:
            sessions.login(openid=openid)
        records = [(record.message, record.keys) for record in caplog.records]
        caplog.clear()
        lines += records
        made = {"session": session.session_id, "openid": openid, "peer": "192.0.2.1"}
        assert records[0] == ("session_logged_in", {**made, "zone": "1"})
        ended = [keys for event, keys in records if event == "session_ended"]
        how, reason = {
            "stop": ("closed", "user_logout"),
            "kick": ("kicked", "cheating"),
            "cut": ("expired", "resume_window"),
            "replace": ("replaced", "logged_in_elsewhere"),
        }[end]
        assert ended == [{**made, "how": how, "reason": reason}]
        assert secret not in str(lines)
