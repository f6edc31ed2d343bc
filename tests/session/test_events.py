"""Every change of a session is told once, with what it stands at; a gap is seen."""

from __future__ import annotations

import pytest

from gatesvr.config import PushConfig
from gatesvr.errors import CloseCode, QueueFull
from gatesvr.observe.events import EventKind, SessionEvent
from gatesvr.protocol.link import Disconnect
from gatesvr.protocol.messages import StopReason
from gatesvr.session.events import Subscription
from gatesvr.session.state import State

from .rig import CUT, Sessions, answer_body, notify, start_request


class Told(Sessions):
    """Sessions with a subscriber."""

    def __init__(self, *kinds: str, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.wakes = 0
        self.subscription = self.subscribe(*kinds)

    def subscribe(self, *kinds: str) -> Subscription:
        return self.manager.events.subscribe(self._wake, kinds)

    def _wake(self) -> None:
        self.wakes += 1

    def told(self) -> list[SessionEvent]:
        """Take what has been told since the last call."""
        return take(self.subscription)

    def kinds(self) -> list[tuple[str, str]]:
        """Take it as (kind, reason)."""
        return [(str(event.kind), event.reason) for event in self.told()]

    def resume(self, session, response, **fields):
        start = start_request(
            session_id=session.session_id, resume_token=response.resume_token, attempt=1, **fields
        )
        outcome = self.manager.start(start, self.link(), self.now)
        assert outcome.session is session
        return outcome.response


def take(subscription: Subscription) -> list[SessionEvent]:
    events = []
    while (event := subscription.take()) is not None:
        events.append(event)
    return events


def test_a_life_is_told_with_its_positions():
    sessions = Told()
    session, link, response = sessions.start("alice")
    sessions.hello(session)
    session.sender.feed(sessions.now)
    session.ack(1, sessions.now)
    session.push(notify(b"a"), now=sessions.now)
    session.push(notify(b"b"), now=sessions.now)
    session.sender.feed(sessions.now)
    session.ack(2, sessions.now)
    session.push(notify(b"c"), now=sessions.now)
    sessions.now += 1
    sessions.manager.detach(session, link, CUT, sessions.now)
    sessions.now += 1
    sessions.resume(session, response, last_acked_seq_id=3)
    sessions.manager.stop(session, StopReason.USER_LOGOUT, sessions.now)

    def event(kind, generation, reason, at_ms, sent, acked, client_seq, undelivered):
        return SessionEvent(
            EventKind(kind),
            session.session_id,
            "alice",
            generation,
            reason,
            at_ms,
            sent,
            acked,
            client_seq,
            undelivered,
            transport="quic",
        )

    assert sessions.told() == [
        event("connected", 1, "start", 100_000, 0, 0, 0, 0),
        event("logged_in", 1, "hello", 100_000, 0, 0, 1, 0),
        event("suspended", 1, "idle", 101_000, 3, 2, 1, 2),
        event("resumed", 2, "resume", 102_000, 3, 3, 1, 1),
        event("closed", 2, "user_logout", 102_000, 3, 3, 1, 1),
    ]
    assert sessions.counters["events"] == 5
    assert sessions.counters["events_missed"] == 0


def test_nothing_is_made_where_nobody_listens():
    sessions = Told()
    sessions.subscription.end()
    sessions.login()
    assert sessions.told() == []
    assert sessions.counters["events"] == sessions.counters["event_subscribers"] == 0


# Each change.


def test_a_steal_is_a_resume_and_no_suspension():
    sessions = Told("suspended", "resumed")
    session, old, response = sessions.login()
    sessions.resume(session, response, last_acked_seq_id=1)
    sessions.manager.detach(session, old, Disconnect("local", 4409), sessions.now)
    assert sessions.kinds() == [("resumed", "steal")]


def test_a_base_resume_is_a_resume():
    sessions = Told("resumed", base_resume=True)
    session, link, _ = sessions.login(protocol=0)
    sessions.manager.detach(session, link, CUT, sessions.now)
    start = start_request(protocol=0, last_acked_seq_id=1)
    assert sessions.manager.start(start, sessions.link(), sessions.now).session is session
    assert sessions.kinds() == [("resumed", "base_resume")]


def test_a_session_made_for_a_resume_that_found_none_says_so():
    sessions = Told()
    start = start_request(session_id="gone", resume_token=b"x", attempt=1)
    assert sessions.manager.start(start, sessions.link(), sessions.now).session is not None
    assert sessions.kinds() == [("connected", "unknown_session")]


def test_a_refused_start_is_no_event():
    sessions = Told()
    session, link, _ = sessions.login()
    sessions.told()
    start = start_request(session_id=session.session_id, resume_token=b"wrong", attempt=1)
    assert sessions.manager.start(start, sessions.link(), sessions.now).session is None
    assert sessions.manager.start(start_request(""), link, sessions.now).session is None
    assert sessions.told() == []


def test_a_later_hello_is_no_event():
    sessions = Told()
    session, _, _ = sessions.login()
    sessions.told()
    sessions.manager.logged_in(session, "2", sessions.now)
    assert sessions.told() == []


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (Disconnect("peer", 4410, "text from outside"), "peer"),
        (Disconnect("peer_transport", 7), "peer_transport"),
        (Disconnect("idle"), "idle"),
        (Disconnect("reset"), "reset"),
        (Disconnect("local", CloseCode.TIMEOUT, "silent"), "timeout"),
        (Disconnect("local", CloseCode.OVERLOADED), "overloaded"),
        (Disconnect("local", CloseCode.NORMAL), "normal"),
        (Disconnect("local", 7), "local"),
    ],
)
def test_a_suspension_says_how_the_connection_ended(how, reason):
    sessions = Told("suspended", "closed")
    session, link, _ = sessions.login()
    sessions.manager.detach(session, link, how, sessions.now)
    sessions.manager.detach(session, link, how, sessions.now)
    assert sessions.kinds() == [("suspended", reason)]
    early, link, _ = sessions.start("early")
    sessions.manager.detach(early, link, how, sessions.now)
    assert sessions.kinds() == [("closed", reason)]


def test_a_session_whose_login_is_under_way_is_suspended_when_that_succeeds():
    sessions = Told()
    session, link, response = sessions.start()
    sessions.offer_hello(session)
    sessions.manager.detach(session, link, CUT, sessions.now)
    assert sessions.kinds() == [("connected", "start")]
    sessions.manager.logged_in(session, "1", sessions.now)
    assert sessions.kinds() == [("logged_in", "hello"), ("suspended", "lost_before_login")]
    session.answer(1, answer_body(1), now=sessions.now)
    sessions.resume(session, response)
    assert sessions.kinds() == [("resumed", "resume")]


def test_a_session_whose_login_is_under_way_may_be_resumed_before():
    sessions = Told()
    session, link, response = sessions.start()
    sessions.offer_hello(session)
    sessions.manager.detach(session, link, CUT, sessions.now)
    sessions.resume(session, response)
    sessions.manager.logged_in(session, "1", sessions.now)
    events = sessions.told()
    assert [(event.kind, event.generation) for event in events] == [
        ("connected", 1),
        ("resumed", 2),
        ("logged_in", 2),
    ]


def test_a_slow_consumer_is_suspended():
    sessions = Told("suspended", max_queue_size=2)
    session, link, _ = sessions.login()
    while session.push(notify(b""), now=sessions.now).is_ok:
        pass
    for _ in range(2):
        sessions.manager.sweep(sessions.now)
        sessions.now += 10
    sessions.manager.sweep(sessions.now)
    sessions.manager.detach(session, link, Disconnect("local", 4413), sessions.now)
    (event,) = sessions.told()
    assert (event.reason, event.undelivered) == ("slow_consumer", 2)


# Each end is one event.


def ended(sessions: Told, session, kind: str, reason: str) -> SessionEvent:
    """Expect one end, whatever is said to the session afterwards."""
    manager = sessions.manager
    assert session.state is State.CLOSED
    manager.close(session, 4400, "again", sessions.now)
    manager.kick(session, "again", sessions.now)
    manager.stop(session, StopReason.UNKNOWN, sessions.now)
    sessions.now += 1_000
    manager.sweep(sessions.now)
    ends = [event for event in sessions.told() if event.session_id == session.session_id]
    (event,) = ends
    assert event.is_end
    assert (event.kind, event.reason) == (kind, reason)
    return event


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        (StopReason.UNKNOWN, "stop"),
        (StopReason.USER_LOGOUT, "user_logout"),
        (StopReason.APP_CLOSE, "app_close"),
        (StopReason.SWITCH_ACCOUNT, "switch_account"),
    ],
)
def test_stop(stop, reason):
    sessions = Told("closed")
    session, _, _ = sessions.login()
    sessions.manager.stop(session, stop, sessions.now)
    ended(sessions, session, "closed", reason)


@pytest.mark.parametrize(("words", "reason"), [("cheater", "cheater"), ("", "kicked")])
def test_kick(words, reason):
    sessions = Told("replaced", "kicked", "expired", "closed")
    session, _, _ = sessions.login()
    sessions.manager.kick(session, words, sessions.now, 4601)
    ended(sessions, session, "kicked", reason)


def test_replacement_comes_before_the_login_that_replaces():
    sessions = Told()
    old, _, _ = sessions.login()
    sessions.told()
    new, _, _ = sessions.login()
    events = sessions.told()
    assert [(event.kind, event.session_id) for event in events] == [
        ("connected", new.session_id),
        ("replaced", old.session_id),
        ("logged_in", new.session_id),
    ]
    assert events[1].reason == "logged_in_elsewhere"
    sessions.subscription = sessions.subscribe()
    assert old.state is State.CLOSED


@pytest.mark.parametrize("is_login_open", [False, True])
def test_expiry(is_login_open):
    sessions = Told("replaced", "kicked", "expired", "closed", login_timeout=500.0)
    session, link, _ = sessions.start() if is_login_open else sessions.login()
    session.hello_seq = int(is_login_open)
    if not is_login_open:
        session.push(notify(b""), now=sessions.now)
    sessions.manager.detach(session, link, CUT, sessions.now)
    sessions.now += 60
    sessions.manager.sweep(sessions.now)
    event = ended(sessions, session, "expired", "resume_window")
    assert event.undelivered == (not is_login_open)
    assert event.at_ms == 160_000


def test_an_end_for_want_of_memory_says_so():
    size = 2 * len(notify(bytes(1000)))
    sessions = Told("replaced", "kicked", "expired", "closed", max_queues_bytes=size)
    session, link, _ = sessions.login()
    for _ in range(2):
        session.push(notify(bytes(1000)), now=sessions.now)
    sessions.manager.detach(session, link, CUT, sessions.now)
    sessions.manager.sweep(sessions.now)
    assert ended(sessions, session, "expired", "memory").undelivered == 2


def test_an_end_for_a_full_queue_says_so():
    sessions = Told("closed", max_queue_size=1, when_full="close")
    session, link, _ = sessions.login()
    sessions.manager.detach(session, link, CUT, sessions.now)
    session.push(notify(b""), now=sessions.now)
    session.push(notify(b""), now=sessions.now)
    ended(sessions, session, "closed", "queue_full")


def test_no_login_in_time():
    sessions = Told("closed")
    session, _, _ = sessions.start()
    sessions.now += 30
    sessions.manager.sweep(sessions.now)
    ended(sessions, session, "closed", "timeout")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (CloseCode.PROTOCOL_ERROR, "protocol_error"),
        (CloseCode.AUTH_FAILED, "auth_failed"),
        (CloseCode.OPENID_BUSY, "openid_busy"),
        (CloseCode.KICKED, "logged_in_elsewhere"),
    ],
)
def test_a_close_by_the_gateway_goes_by_its_codes_name(code, reason):
    for is_detached in (False, True):
        sessions = Told("replaced", "kicked", "expired", "closed")
        session, link, _ = sessions.login()
        if is_detached:
            how = Disconnect("local", int(code), "words")
            sessions.manager.detach(session, link, how, sessions.now)
        else:
            sessions.manager.close(session, int(code), "words", sessions.now)
        ended(sessions, session, "closed", reason)


# Subscribers.


def test_events_of_sessions_come_in_their_order():
    sessions = Told()
    made = [sessions.login(f"user{number}") for number in range(3)]
    for session, link, _ in made:
        sessions.manager.detach(session, link, CUT, sessions.now)
    sessions.now += 60
    sessions.manager.sweep(sessions.now)
    events = sessions.told()
    for session, _, _ in made:
        kinds = [event.kind for event in events if event.session_id == session.session_id]
        assert kinds == ["connected", "logged_in", "suspended", "expired"]
    assert len(events) == 12


def test_kinds_are_chosen():
    sessions = Told("logged_in")
    other = sessions.subscribe(EventKind.CONNECTED)
    sessions.login()
    assert sessions.kinds() == [("logged_in", "hello")]
    assert [event.kind for event in take(other)] == ["connected"]
    assert sessions.wakes == 2


@pytest.mark.parametrize("name", ["loged_in", "", "missed", "Closed"])
def test_a_kind_that_there_is_not_is_quoted(name):
    sessions = Told()
    with pytest.raises(ValueError, match=f"^'{name}' is no kind of event: connected, "):
        sessions.subscribe("closed", name)
    assert len(sessions.manager.events) == 1


def test_subscribers_are_bounded():
    sessions = Told(push=PushConfig(max_event_subscribers=2))
    sessions.subscribe()
    with pytest.raises(QueueFull, match="2 subscribers"):
        sessions.subscribe()
    counters = sessions.counters
    assert (counters["event_subscribers"], counters["event_subscribers_refused"]) == (2, 1)
    sessions.subscription.end()
    sessions.subscription.end()
    sessions.subscribe()
    assert sessions.counters["event_subscribers"] == 2


def test_a_slow_subscriber_sees_the_gap_with_the_next_event(monkeypatch):
    monkeypatch.setattr("gatesvr.session.manager.MAX_EVENT_QUEUE", 2)
    sessions = Told("connected")
    fast = sessions.subscribe("connected")
    seen = []
    for number in range(5):
        sessions.start(f"user{number}")
        seen += take(fast)
    assert len(sessions.subscription) == 2
    first = sessions.subscription.take()
    sessions.start("user5")
    sessions.start("user6")
    events = [first, *sessions.told()]
    assert [(event.openid, event.missed) for event in events] == [
        ("user0", 0),
        ("user1", 0),
        ("user5", 3),
        ("", 1),
    ]
    assert events[-1].kind == EventKind.MISSED
    assert sessions.counters["events_missed"] == 4
    assert [(event.openid, event.missed) for event in seen] == [(f"user{n}", 0) for n in range(5)]


def test_a_gap_is_seen_where_nothing_follows_and_is_told_once(monkeypatch):
    monkeypatch.setattr("gatesvr.session.manager.MAX_EVENT_QUEUE", 1)
    sessions = Told("closed")
    for _ in range(3):
        session, _, _ = sessions.login()
        sessions.manager.stop(session, StopReason.APP_CLOSE, sessions.now)
        sessions.now += 1
    first, gap = sessions.told()
    assert (first.kind, first.missed) == ("closed", 0)
    assert gap == SessionEvent(EventKind.MISSED, at_ms=102_000, missed=2)
    assert sessions.told() == []
    session, _, _ = sessions.login()
    sessions.manager.stop(session, StopReason.APP_CLOSE, sessions.now)
    (event,) = sessions.told()
    assert event.missed == 0


def test_only_what_was_chosen_can_be_missed(monkeypatch):
    monkeypatch.setattr("gatesvr.session.manager.MAX_EVENT_QUEUE", 1)
    sessions = Told("closed")
    for number in range(3):
        sessions.start(f"user{number}")
    assert sessions.told() == []
    assert sessions.counters["events_missed"] == 0


def test_an_ended_subscription_keeps_what_came_before():
    sessions = Told()
    sessions.start()
    sessions.subscription.end()
    sessions.start("bob")
    assert sessions.subscription.is_ended
    assert sessions.kinds() == [("connected", "start")]
    assert sessions.wakes == 2


def test_the_hubs_end_ends_all_and_those_to_come():
    sessions = Told()
    hub = sessions.manager.events
    hub.end()
    assert sessions.subscription.is_ended
    assert sessions.wakes == 1
    assert sessions.subscribe().is_ended
    assert len(hub) == 0


def test_a_subscriber_may_end_while_it_is_told():
    sessions = Told()
    hub = sessions.manager.events
    other = hub.subscribe(lambda: sessions.subscription.end())
    last = sessions.subscribe()
    sessions.start()
    sessions.start("bob")
    assert [len(take(s)) for s in (sessions.subscription, other, last)] == [1, 2, 2]
