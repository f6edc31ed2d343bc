"""Login: zones, and on_duplicate."""

from __future__ import annotations

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr.session.state import State

from .rig import CUT, Sessions, pushes


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
