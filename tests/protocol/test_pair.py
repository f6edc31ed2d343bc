"""A client and a gateway paired in memory, cut into bytes and cut off at every point."""

from __future__ import annotations

import pytest

from gatesvr.protocol import events
from gatesvr.protocol.client import ClientProtocol
from gatesvr.protocol.client_session import ClientSession
from gatesvr.protocol.messages import Outcome, StopReason
from tests.session.rig import Connection, Sessions, notify


class Pair:
    """One client and the gateway; ``got`` is what its application was handed."""

    def __init__(self, **settings: object) -> None:
        self.sessions = Sessions(**settings)
        self.client = ClientProtocol(ClientSession("alice"))
        self.got: list[events.ClientEvent] = []
        self.connection: Connection | None = None

    def connect(self) -> None:
        self.connection = Connection(self.sessions)
        self.client = ClientProtocol(self.client.session)
        self.client.connect(self.sessions.now)

    def to_gateway(self, limit: int | None = None) -> None:
        assert self.connection is not None
        data = self.client.data_to_send()
        self.connection.receive(data[:limit])

    def to_client(self, chunk: int = 0, limit: int | None = None) -> None:
        assert self.connection is not None
        data = self.connection.send()[:limit]
        for at in range(0, len(data), chunk or len(data) or 1):
            part = data[at : at + (chunk or len(data))]
            for event in self.client.receive_data(part, self.sessions.now):
                self.got.append(event)
                seq = getattr(event, "seq", 0)
                if seq:
                    self.client.acknowledge(seq)
        assert self.client.error is None

    def settle(self, chunk: int = 0) -> None:
        """Pass bytes both ways until nothing moves."""
        for _ in range(50):
            assert self.connection is not None
            data = self.client.data_to_send()
            if data:
                self.connection.receive(data)
            if self.connection.session is not None and self.connection.session.is_valid:
                self.connection.answer_all()
            before = len(self.got)
            self.to_client(chunk)
            if not data and len(self.got) == before:
                return
        raise AssertionError("it never settles")

    def live(self) -> None:
        self.connect()
        self.client.login()
        self.settle()
        assert self.client.session.is_logged_in
        self.got.clear()

    def answers(self) -> list[bytes]:
        return [e.data for e in self.got if isinstance(e, events.Answered)]

    def seqs(self) -> list[int]:
        return [e.seq for e in self.got if getattr(e, "seq", 0)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 0])
def test_requests_are_answered_whatever_the_chunks(chunk):
    pair = Pair()
    pair.connect()
    pair.client.login()
    for _ in range(40):
        pair.client.send_request("echo")
    data = pair.client.data_to_send()
    assert pair.connection is not None
    for at in range(0, len(data), chunk or len(data)):
        pair.connection.receive(data[at : at + (chunk or len(data))])
    pair.settle(chunk)
    assert pair.answers() == [b"welcome"] + [b"answer %d" % seq for seq in range(2, 42)]
    assert pair.seqs() == list(range(1, 42))
    session = pair.connection.session
    assert session is not None
    pair.client.handle_timer(pair.sessions.now + 1)
    pair.settle()
    assert session.client_ack_server_seq == 41
    assert len(session.queue) == 0


def test_stop_closes_the_session():
    pair = Pair()
    pair.live()
    pair.client.stop(StopReason.USER_LOGOUT)
    pair.to_gateway()
    assert pair.connection is not None
    assert pair.connection.link.closed is not None
    assert pair.connection.link.closed[0] == 0
    assert len(pair.sessions.manager) == 0


def test_a_refused_start_is_read_by_the_client():
    pair = Pair()
    pair.client.session.openid = ""
    pair.connect()
    pair.to_gateway()
    pair.to_client()
    (refused,) = pair.got
    assert isinstance(refused, events.StartRefused)
    assert refused.code == 400
    assert pair.connection is not None
    assert pair.connection.link.closed is not None
    assert pair.connection.link.closed[0] == 4400


def _bytes_of_a_burst(direction: str) -> int:
    pair = Pair()
    pair.live()
    for _ in range(4):
        pair.client.send_request("echo")
    if direction == "up":
        return len(pair.client.data_to_send())
    pair.to_gateway()
    assert pair.connection is not None
    pair.connection.answer_all()
    return len(pair.connection.send())


@pytest.mark.parametrize("is_closed_seen", [True, False], ids=["suspended", "stolen"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_connection_cut_at_any_byte_loses_and_repeats_nothing(direction, is_closed_seen):
    for at in range(_bytes_of_a_burst(direction) + 1):
        pair = Pair()
        pair.live()
        for _ in range(4):
            pair.client.send_request("echo")
        if direction == "up":
            pair.to_gateway(at)
        else:
            pair.to_gateway()
            assert pair.connection is not None
            pair.connection.answer_all()
            pair.to_client(limit=at)
        old = pair.connection
        assert old is not None
        session = old.session
        assert session is not None
        if is_closed_seen:
            old.lost()
        pair.sessions.now += 10
        assert session.push(notify(b"meanwhile"), now=pair.sessions.now).is_ok
        pair.connect()
        pair.settle()
        if not is_closed_seen:
            assert old.link.closed is not None
            assert old.link.closed[0] == 4409
            old.lost()
        assert session.link is pair.connection.link
        assert sorted(pair.answers()) == [b"answer %d" % seq for seq in range(2, 6)]
        assert pair.seqs() == list(range(2, 7))
        started = [e for e in pair.got if isinstance(e, events.Started)]
        assert [e.is_resumed for e in started] == [True]
        assert pair.client.session.pending == {}
        assert session.generation == 2


@pytest.mark.parametrize("tries", [1, 2, 4])
def test_a_start_response_that_is_never_read_costs_nothing(tries):
    pair = Pair()
    pair.live()
    for _ in range(tries):
        pair.connect()
        pair.to_gateway()
        pair.sessions.now += 2
    pair.client.send_request("echo")
    pair.connect()
    pair.settle()
    assert pair.answers() == [b"answer 2"]
    assert pair.sessions.counters["resumes"] == tries + 1


def test_a_start_that_comes_after_its_successor_is_stale():
    pair = Pair()
    pair.live()
    pair.connect()
    late, late_data = pair.connection, pair.client.data_to_send()
    pair.connect()
    pair.to_gateway()
    assert late is not None
    late.receive(late_data)
    assert late.link.closed is not None
    assert late.link.closed[0] == 4409
    pair.to_client()
    pair.client.send_request("echo")
    pair.settle()
    assert pair.answers() == [b"answer 2"]


def test_a_client_that_restarts_goes_on():
    pair = Pair()
    pair.live()
    for _ in range(3):
        pair.client.send_request("echo")
    pair.to_gateway()
    state = pair.client.session.state()
    assert pair.connection is not None
    pair.connection.answer_all()
    pair.connection.lost()
    pair.client = ClientProtocol(ClientSession.from_state(state))
    pair.connect()
    pair.settle()
    assert pair.client.session.is_logged_in
    assert pair.seqs() == [2, 3, 4]
    assert pair.client.send_request("echo") == 5
    pair.settle()
    assert pair.answers() == [b"answer 5"]


@pytest.mark.parametrize("is_waiting", [False, True], ids=["nothing to replay", "more to come"])
def test_a_state_older_than_what_was_acked_says_what_is_lost(is_waiting):
    pair = Pair()
    pair.live()
    assert pair.connection is not None
    session = pair.connection.session
    assert session is not None
    old = pair.client.session.state()
    for number in range(3):
        session.push(notify(b"%d" % number), now=pair.sessions.now)
    pair.settle()
    pair.client.handle_timer(pair.sessions.now + 1)
    pair.settle()
    assert session.client_ack_server_seq == 4
    pair.connection.lost()
    pair.got.clear()
    pair.client = ClientProtocol(ClientSession.from_state(old))
    if is_waiting:
        session.push(notify(b"3"), now=pair.sessions.now)
    pair.connect()
    pair.settle()
    if not is_waiting:
        # Nobody can tell yet. The next message shows a gap, which a resume turns into a loss.
        session.push(notify(b"3"), now=pair.sessions.now)
        pair.client.receive_data(pair.connection.send(), pair.sessions.now)
        assert pair.client.error is not None
        pair.connection.lost()
        pair.sessions.now += 10
        pair.connect()
        pair.settle()
    told = [
        e.data if isinstance(e, events.Notify) else (e.from_seq, e.to_seq)
        for e in pair.got
        if isinstance(e, events.Notify | events.Lost)
    ]
    assert told == [(2, 4), b"3"]


def test_a_session_that_is_gone_is_replaced_by_a_new_one():
    pair = Pair()
    pair.live()
    seq = pair.client.send_request("echo")
    pair.to_gateway()
    assert pair.connection is not None
    pair.connection.lost()
    pair.sessions.now += 61
    pair.sessions.manager.sweep(pair.sessions.now)
    pair.connect()
    pair.settle()
    reset, failed, started = pair.got
    assert isinstance(reset, events.SessionReset)
    assert isinstance(failed, events.Failed)
    assert (failed.client_seq, failed.outcome) == (seq, Outcome.UNKNOWN)
    assert isinstance(started, events.Started)
    assert not started.is_resumed
    assert not started.is_logged_in
    pair.got.clear()
    pair.client.login()
    pair.settle()
    assert pair.answers() == [b"welcome"]
    assert pair.seqs() == [1]


def test_what_expired_is_reported_as_lost_in_its_place():
    pair = Pair()
    pair.live()
    assert pair.connection is not None
    session = pair.connection.session
    assert session is not None
    pair.connection.lost()
    for number in range(4):
        ttl = 5.0 if number in (1, 2) else 0.0
        session.push(notify(b"%d" % number), now=pair.sessions.now, ttl=ttl)
    pair.sessions.now += 6
    pair.sessions.manager.sweep(pair.sessions.now)
    pair.connect()
    pair.settle()
    told = [
        e.data if isinstance(e, events.Notify) else (e.from_seq, e.to_seq)
        for e in pair.got
        if isinstance(e, events.Notify | events.Lost)
    ]
    assert told == [b"0", (3, 4), b"3"]


def test_a_wrong_token_leaves_the_session_alone():
    pair = Pair()
    pair.live()
    old = pair.connection
    stranger = Pair()
    stranger.sessions = pair.sessions
    stranger.client.session.session_id = pair.client.session.session_id
    stranger.client.session.resume_token = bytes(16)
    stranger.connect()
    stranger.to_gateway()
    stranger.to_client()
    assert isinstance(stranger.got[0], events.SessionReset)
    assert stranger.connection is not None
    assert stranger.connection.link.closed is not None
    assert stranger.connection.link.closed[0] == 4403
    pair.client.send_request("echo")
    pair.settle()
    assert pair.answers() == [b"answer 2"]
    assert pair.connection is old
