"""SessionManager: START and its limits, login and duplicates, ends, the sweep, broadcasts."""

from __future__ import annotations

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr.protocol.link import Disconnect
from gatesvr.protocol.messages import StopReason
from gatesvr.session.memory import MESSAGE_BYTES
from gatesvr.session.state import State, Verdict

from .rig import CUT, Sessions, answer_body, index_sizes, notify, pushes, start_request


def test_start_answers_with_the_sessions_terms():
    sessions = Sessions(max_in_flight=7, heartbeat_interval=12.0, max_queue_size=99)
    session, link, response = sessions.start(client_id="phone")
    assert response.success
    assert not response.resumed
    assert response.connection_id == response.session_id == session.session_id
    assert len(session.session_id) == 32
    assert len(response.resume_token) == 16
    assert (response.heartbeat_interval, response.generation) == (12, 1)
    assert (response.max_in_flight, response.max_unacked_messages) == (7, 99)
    assert (response.max_message_bytes, response.max_unacked_bytes) == (1 << 20, 4 << 20)
    assert (response.protocol, response.capabilities) == (1, 1)
    assert (response.state, response.resume_window_ms) == (pb.SESSION_STATE_INITED, 60_000)
    assert session.link is link
    assert session.user_ip == "192.0.2.1"


@pytest.mark.parametrize(
    ("idle_timeout", "interval"), [(60.0, 15), (40.0, 10), (3.0, 1), (1000.0, 15)]
)
def test_heartbeats_fit_the_idle_timeout(idle_timeout, interval):
    sessions = Sessions()
    link = sessions.link()
    link.idle_timeout = idle_timeout
    assert sessions.start(link=link)[2].heartbeat_interval == interval


def test_the_smaller_protocol_and_the_common_capabilities_count():
    _, _, response = Sessions().start(protocol=9, capabilities=0xFF)
    assert (response.protocol, response.capabilities) == (1, 1)
    session, _, response = Sessions().start(protocol=1, capabilities=0)
    assert (response.capabilities, session.queue.can_skip) == (0, False)


@pytest.mark.parametrize(
    "fields",
    [{"openid": ""}, {"openid": "x" * 129}, {"openid": "a\n"}, {"client_id": "x" * 65}],
)
def test_a_start_with_bad_text_is_refused(fields):
    sessions = Sessions()
    outcome = sessions.manager.start(start_request(**fields), sessions.link(), 0.0)
    assert outcome.session is None
    assert not outcome.response.success
    assert outcome.response.error.error_code == 400
    assert outcome.close_code == 4400
    assert sessions.counters["refused_starts"] == 1


def test_sessions_are_bounded_by_twice_the_connections():
    sessions = Sessions(max_connections=2)
    for number in range(4):
        sessions.login(f"user{number}")
    outcome = sessions.manager.start(start_request("more"), sessions.link(), 0.0)
    assert outcome.session is None
    assert (outcome.response.error.error_code, outcome.close_code) == (503, 4503)
    assert outcome.response.error.retry_after_ms > 0
    assert outcome.reason == f"retry_after_ms={outcome.response.error.retry_after_ms}"
    assert sessions.counters["refused_full"] == 1


def test_an_address_has_a_bound_on_sessions_without_login():
    sessions = Sessions(max_inited_per_address=2)
    first, _, _ = sessions.start("a")
    sessions.start("b")
    outcome = sessions.manager.start(start_request("c"), sessions.link(), 0.0)
    assert (outcome.response.error.error_code, outcome.close_code) == (429, 4429)
    sessions.start("c", sessions.link("192.0.2.2"))
    sessions.hello(first)
    sessions.start("c")
    assert sessions.counters["refused_address"] == 1
    assert sessions.counters["inited"] == 3


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


def test_a_later_hello_refreshes_the_zone():
    sessions = Sessions()
    session, _, _ = sessions.login()
    assert session.zone == "001"
    assert sessions.manager.logged_in(session, "2", 0.0).close_code is None
    assert session.zone == "002"
    assert sessions.manager.logged_in(session, "", 0.0).close_code is None
    assert session.zone == "002"
    assert sessions.manager.find("openid", "alice") == [session]
    assert sessions.counters["logins"] == 1


# Duplicate logins.


def test_start_replaces_nothing():
    sessions = Sessions()
    session, link, _ = sessions.login()
    sessions.start()
    assert session.is_logged_in
    assert link.closed is None


def test_a_login_replaces_the_other_session_with_a_kick():
    sessions = Sessions()
    old, old_link, _ = sessions.login()
    new, _, _ = sessions.login()
    assert old.state is State.CLOSED
    assert sessions.manager.find("openid", "alice") == [new]
    assert old_link.closed is not None
    code, _, last = old_link.closed
    assert code == 4410
    (kick,) = pushes(last)
    assert (kick.type, kick.seq_id) == (6, 0)
    assert pb.Kick.FromString(kick.payload).code == 4410
    assert sessions.counters["replaced"] == 1
    assert sessions.counters["tombstones"] == 1


def test_reject_counts_only_a_session_that_shows_life():
    sessions = Sessions(on_duplicate="reject")
    old, old_link, _ = sessions.login()
    new, new_link, _ = sessions.start()
    sessions.now += 5
    assert not sessions.hello(new)
    assert new_link.closed is not None
    assert new_link.closed[0] == 4411
    assert old.is_logged_in
    assert sessions.counters["refused_logins"] == 1
    sessions.now += 1
    new, _, _ = sessions.start()
    assert sessions.hello(new)
    assert old_link.closed is not None
    assert sessions.manager.find("openid", "alice") == [new]


def test_reject_does_not_count_a_suspended_session():
    sessions = Sessions(on_duplicate="reject")
    old, link, _ = sessions.login()
    sessions.manager.detach(old, link, CUT, sessions.now)
    new, _, _ = sessions.start()
    assert sessions.hello(new)
    assert not old.is_valid


def test_allow_lets_five_live():
    sessions = Sessions(on_duplicate="allow")
    made = [sessions.login() for _ in range(5)]
    assert len(sessions.manager.find("openid", "alice")) == 5
    sixth, link, _ = sessions.start()
    assert not sessions.hello(sixth)
    assert link.closed is not None
    assert link.closed[0] == 4411
    sessions.manager.detach(made[2][0], made[2][1], CUT, sessions.now)
    seventh, _, _ = sessions.start()
    assert sessions.hello(seventh)
    assert not made[2][0].is_valid
    assert len(sessions.manager.find("openid", "alice")) == 5


def test_a_login_of_a_closed_session_is_refused():
    sessions = Sessions()
    session, _, _ = sessions.start()
    sessions.manager.close(session, 0, "", 0.0)
    assert sessions.manager.logged_in(session, "", 0.0).close_code is not None


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
    session.hello_pending = False
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


@pytest.mark.parametrize(
    ("policy", "earlier_stays", "code"), [("replace", False, 4410), ("reject", True, 4411)]
)
def test_of_two_logins_under_way_one_gets_in(policy, earlier_stays, code):
    sessions = Sessions(on_duplicate=policy)
    first, first_link, _ = sessions.start()
    second, second_link, _ = sessions.start()
    assert sessions.hello(second)
    assert second_link.closed is first_link.closed is None
    assert sessions.hello(first) is not earlier_stays
    winner, loser = (second, first_link) if earlier_stays else (first, second_link)
    assert loser.closed is not None
    assert loser.closed[0] == code
    assert sessions.manager.find("openid", "alice", with_inited=True) == [winner]


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


def test_all_queues_together_are_bounded():
    size = len(notify(bytes(1000))) + MESSAGE_BYTES
    sessions = Sessions(max_queues_bytes=3 * size)
    made = [sessions.login(f"user{number}") for number in range(4)]
    for session, link, _ in made[:3]:
        sessions.manager.detach(session, link, CUT, sessions.now)
        sessions.now += 1
    seq = made[3][0].max_client_seq + 1
    promised = made[0][0]
    promised.pending[seq] = 1  # an answer is to come
    for session, _, _ in made:
        assert session.push(notify(bytes(1000)), now=sessions.now).is_ok
    sessions.manager.sweep(sessions.now)
    assert [session.is_valid for session, _, _ in made] == [True, False, True, True]
    assert sessions.counters["memory_closed"] == 1
    assert sessions.counters["queued_bytes"] == 3 * size
    assert made[3][0].push(notify(b""), now=sessions.now).is_ok
    promised.pending[seq + 1] = 1
    made[2][0].pending[1] = 1
    sessions.manager.sweep(sessions.now)
    assert made[3][0].push(notify(b""), now=sessions.now).error_code == "BUSY"
    made[3][0].ack(0, sessions.now)
    sessions.manager.close(made[2][0], 0, "", sessions.now)
    sessions.manager.sweep(sessions.now)
    assert made[3][0].push(notify(b""), now=sessions.now).is_ok


def test_the_memory_of_small_messages_and_of_names_counts():
    """As measured: 1,024 notifies of 15 bytes take 80 KB, 256 names of 128 bytes 64 KB."""
    sessions = Sessions()
    session, link, _ = sessions.login()
    sessions.manager.detach(session, link, CUT, sessions.now)
    for number in range(1_024):
        name = f"{number:0128d}"
        assert session.push(notify(b"."), now=sessions.now, push_id=name, conflate_key=name).is_ok
    sessions.manager.sweep(sessions.now)
    assert sessions.counters["queued_bytes"] >= 80_000 + 2 * 64_000


def test_memory_is_bounded_between_sweeps():
    limit = 1 << 20
    sessions = Sessions(max_queues_bytes=limit)
    made = [sessions.login(f"user{number}")[0] for number in range(40)]
    results = [
        session.push(notify(bytes(1000)), now=sessions.now) for _ in range(100) for session in made
    ]
    taken = sum(result.is_ok for result in results)
    assert (limit * 9 // 10) // 1_100 <= taken <= (limit + limit // 64) // 1_000 + 1
    assert {result.error_code for result in results} == {"", "BUSY"}
    for session in made:
        session.ack(session.next_server_seq - 1, sessions.now)
    assert made[0].push(notify(b""), now=sessions.now).error_code == "BUSY"
    sessions.manager.sweep(sessions.now)
    assert made[0].push(notify(b""), now=sessions.now).is_ok


def test_want_of_memory_ends_the_longest_suspended_between_sweeps():
    limit = 1 << 20
    sessions = Sessions(max_queues_bytes=limit)
    made = [sessions.login(f"user{number}") for number in range(40)]
    for session, link, _ in made:
        sessions.manager.detach(session, link, CUT, sessions.now)
        sessions.now += 0.01
    results = [
        session.push(notify(bytes(1000)), now=sessions.now)
        for _ in range(100)
        for session, _, _ in made
    ]
    assert sum(session.outbox.memory_bytes() for session, _, _ in made) <= limit + limit // 64
    valid = [session.is_valid for session, _, _ in made]
    assert valid == sorted(valid)  # the oldest went
    assert 0 < sum(valid) < 40
    assert sessions.counters["memory_closed"] == valid.count(False)
    assert {result.error_code for result in results} == {"", "NOT_FOUND"}


def test_nothing_is_held_for_a_login_where_memory_is_full():
    sessions = Sessions(max_queues_bytes=512)
    session, _, _ = sessions.login()
    assert session.push(notify(bytes(512)), now=sessions.now).is_ok
    sessions.manager.sweep(sessions.now)
    inited, _, _ = sessions.start("bob")
    assert inited.push(notify(b"."), now=sessions.now).error_code == "BUSY"


def test_tombstones_go_after_the_resume_window():
    sessions = Sessions(max_tombstones=2)
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
    sessions = Sessions()
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
