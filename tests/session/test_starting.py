"""START: the terms of a new session, and the limits."""

from __future__ import annotations

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr.session.state import State

from .rig import CUT, Sessions, start_request


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


def test_a_gateway_about_to_stop_starts_and_resumes_nothing():
    sessions = Sessions()
    _, _, response = sessions.start()
    sessions.manager.stop_starting(0.0)
    resume = start_request(
        session_id=response.session_id, resume_token=response.resume_token, attempt=1
    )
    for request in (start_request(), resume):
        outcome = sessions.manager.start(request, sessions.link(), 0.0)
        assert (outcome.session, outcome.response.success) == (None, False)
        assert (outcome.response.error.error_code, outcome.close_code) == (503, 4503)
        assert outcome.reason == "retry_after_ms=1000"
    assert (sessions.counters["refused_draining"], sessions.counters["refused_starts"]) == (2, 2)


def test_sessions_end_with_their_connections_where_nobody_can_come_back():
    sessions = Sessions()
    gone, link = sessions.login("alice")[:2]
    sessions.manager.detach(gone, link, CUT, 0.0)
    here, link = sessions.login("bob")[:2]
    assert gone.state is State.SUSPENDED
    sessions.manager.stop_starting(0.0)
    assert (gone.state, here.state) == (State.CLOSED, State.NORMAL)
    sessions.manager.detach(here, link, CUT, 0.0)
    assert here.state is State.CLOSED
    assert (sessions.counters["ended_draining"], sessions.counters["closed"]) == (2, 2)


@pytest.mark.parametrize(
    ("limit", "counter", "code", "close"),
    [
        ("max_start_rate", "starts_limited", 503, 4503),
        ("max_start_rate_per_openid", "openid_starts_limited", 429, 4429),
    ],
)
def test_new_sessions_have_a_rate_and_resumes_do_not_count(limit, counter, code, close):
    settings = {"max_start_rate": 0, "max_start_rate_per_openid": 0, "on_duplicate": "allow"}
    burst = 10 if limit == "max_start_rate_per_openid" else 1
    sessions = Sessions(**{**settings, limit: 1})
    started = [sessions.start()[::2] for _ in range(burst)]
    refused = sessions.manager.start(start_request(), sessions.link(), 100.0)
    assert refused.response.error.error_code == code
    assert refused.response.error.retry_after_ms == 1_000
    assert (refused.close_code, refused.reason) == (close, "retry_after_ms=1000")
    assert sessions.counters[counter] == 1
    session, response = started[0]
    resumed = sessions.manager.start(
        start_request(session_id=session.session_id, resume_token=response.resume_token),
        sessions.link(),
        100.0,
    )
    assert resumed.response.resumed
    assert sessions.manager.start(start_request(), sessions.link(), 101.0).session is not None
    other = sessions.manager.start(start_request("bob"), sessions.link(), 101.0).session
    assert (other is None) is (limit == "max_start_rate")


@pytest.mark.parametrize("limit", ["max_start_rate", "max_start_rate_per_openid"])
def test_a_dry_run_counts_and_lets_through(limit):
    sessions = Sessions(**{limit: 1, "dry_run": [limit]})
    for _ in range(20):
        assert sessions.start()[0] is not None
    counted = sessions.counters["starts_limited"] + sessions.counters["openid_starts_limited"]
    assert counted == (19 if limit == "max_start_rate" else 10)


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
