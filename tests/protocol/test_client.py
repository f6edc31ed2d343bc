"""ClientProtocol against frames written by hand: positions, acks, heartbeats, START_RESP."""

from __future__ import annotations

import base64
import json

import pytest

from gatesvr._core.codec import RequestDecoder, error_body, push_body, push_frame
from gatesvr._pb import message_pb2 as pb
from gatesvr.protocol import events
from gatesvr.protocol.client import ClientProtocol
from gatesvr.protocol.client_session import ClientSession
from gatesvr.protocol.messages import (
    LostReason,
    Outcome,
    PushType,
    RequestType,
    StopReason,
    goaway_frame,
    heartbeat_response_frame,
    kick_frame,
    parse_ack,
    parse_start,
    start_response_frame,
)
from tests.session.rig import answer_body, notify


def sent(protocol: ClientProtocol):
    decoder = RequestDecoder(1 << 20)
    found = decoder.feed(protocol.data_to_send())
    assert not decoder.error
    assert not decoder.buffered_bytes
    return found


def started_response(**fields) -> bytes:
    values = {
        "success": True,
        "session_id": "s1",
        "resume_token": b"t" * 16,
        "heartbeat_interval": 10,
        "generation": 1,
        "protocol": 1,
        "max_in_flight": 128,
        "max_unacked_messages": 1024,
        "max_unacked_bytes": 4 << 20,
        **fields,
    }
    return start_response_frame(1, pb.StartResponse(**values))


def live(**fields) -> ClientProtocol:
    protocol = ClientProtocol(ClientSession("alice", client_id="c", auth_token="a"))
    protocol.connect(0.0)
    sent(protocol)
    (started,) = protocol.receive_data(started_response(**fields), 0.0)
    assert isinstance(started, events.Started)
    return protocol


def reconnect(protocol: ClientProtocol, now: float | None = None) -> ClientProtocol:
    """Return the session's next connection, with START queued."""
    following = ClientProtocol(protocol.session)
    following.connect(now)
    return following


def skip(from_seq: int, seq: int) -> bytes:
    payload = pb.Skip(from_seq=from_seq, messages=seq - from_seq + 1, reason=pb.LOST_EXPIRED)
    return push_frame(0, seq, push_body(PushType.SKIP, payload.SerializeToString()))


def test_start_says_who_we_are():
    protocol = ClientProtocol(
        ClientSession("alice", client_id="c", auth_token="a", max_message_bytes=5000)
    )
    protocol.connect()
    (request,) = sent(protocol)
    start = parse_start(request.payload)
    assert request.msg_id
    assert (start.openid, start.client_id, start.auth_token) == ("alice", "c", "a")
    assert (start.session_id, start.attempt, start.last_acked_seq_id) == ("", 0, 0)
    assert (start.protocol, start.capabilities, start.max_message_bytes) == (1, 1, 5000)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_client_seq": 2**64 - 1},
        {"max_client_seq": 2**53 - 1},
        {"session_id": "s" * 129},
        {"session_id": "", "connection_id": "s" * 129},
        {"resume_token": bytes(65)},
    ],
)
def test_a_gateway_cannot_name_what_could_not_be_used(fields):
    protocol = ClientProtocol(ClientSession("alice"))
    protocol.connect()
    assert protocol.receive_data(started_response(**fields), 0.0) == []
    assert str(protocol.error) == "a START_RESP out of bounds"
    assert (protocol.session.session_id, protocol.session.next_client_seq) == ("", 1)


def test_the_highest_attempt_is_not_passed():
    protocol = live()
    protocol = reconnect(protocol)
    sent(protocol)
    stale = pb.StartResponse(error=pb.ErrorMessage(error_code=409), attempt=2**32 - 1)
    protocol.receive_data(start_response_frame(1, stale), 0.0)
    protocol = reconnect(protocol)
    (request,) = sent(protocol)
    assert parse_start(request.payload).attempt == 2**32 - 1
    assert ClientSession.from_state(protocol.session.state()).attempt == 2**32 - 1


def test_requests_wait_for_start_response():
    protocol = ClientProtocol(ClientSession("alice"))
    first = protocol.login()
    protocol.connect()
    second = protocol.send_request("echo", b"x", {"k": "v"}, {"h": "w"})
    assert (first, second) == (1, 2)
    assert [r.type for r in sent(protocol)] == [RequestType.START]
    protocol.receive_data(started_response(), 0.0)
    hello, echo = sent(protocol)
    assert (hello.seq_id, hello.action, echo.seq_id, echo.action) == (1, "hello", 2, "echo")
    assert echo.headers == {"h": "w"}
    assert pb.BusinessRequest.FromString(echo.payload).params == {"k": "v"}
    assert hello.msg_id != echo.msg_id


@pytest.mark.parametrize(("is_logged_in", "limit"), [(False, 64 << 10), (True, 200_000)])
def test_a_request_that_the_gateway_would_not_take_is_refused_here(is_logged_in, limit):
    protocol = live(state=2 if is_logged_in else 1, max_message_bytes=200_000)
    with pytest.raises(ValueError, match="above the gateway's limit"):
        protocol.send_request("echo", bytes(limit))
    with pytest.raises(ValueError, match="above the gateway's limit"):
        protocol.send_request("echo", bytes(limit - 5000), None, {"h": "x" * 5000})
    assert protocol.session.pending == {}
    assert protocol.send_request("echo", bytes(limit - 200)) == 1
    assert sent(protocol)[0].size <= limit + 4


def test_answers_errors_and_notifies_are_told_apart():
    protocol = live()
    hello = protocol.login()
    other = protocol.send_request("x")
    data = (
        push_frame(2, 1, answer_body(hello, b"hi"))
        + push_frame(0, 2, notify(b"news"))
        + push_frame(3, 3, error_body(503, "busy", "7", 50, 1, other))
    )
    assert protocol.receive_data(data, 1.0) == [
        events.Answered(1, 1, 200, "", b"hi", {}),
        events.Notify(2, 200, "", b"news", {}),
        events.Failed(2, 3, 503, "busy", "7", 50, Outcome.NOT_STARTED),
    ]
    assert protocol.session.is_logged_in
    assert protocol.session.pending == {}
    assert (protocol.session.seen, protocol.session.position) == (3, 0)


def test_every_split_point_gives_the_same():
    stream = (
        started_response()
        + push_frame(0, 1, notify(b"a"))
        + skip(2, 4)
        + push_frame(0, 5, notify(b"b"))
        + kick_frame(4410, "x")
    )
    whole = None
    for at in range(len(stream) + 1):
        protocol = ClientProtocol(ClientSession("alice"))
        protocol.connect()
        found = protocol.receive_data(stream[:at], 0.0) + protocol.receive_data(stream[at:], 0.0)
        assert protocol.error is None
        whole = whole or found
        assert found == whole
    assert [type(e).__name__ for e in whole] == ["Started", "Notify", "Lost", "Notify", "Kicked"]


def test_old_pushes_are_dropped():
    protocol = live()
    one = push_frame(0, 1, notify(b"a"))
    assert len(protocol.receive_data(one, 0.0)) == 1
    assert protocol.receive_data(one, 0.0) == []
    assert protocol.session.duplicates == 1
    assert protocol.error is None


def test_a_gap_is_an_error_behind_what_came_before():
    protocol = live()
    found = protocol.receive_data(
        push_frame(0, 1, notify(b"a")) + push_frame(0, 3, notify(b"c")), 0.0
    )
    assert [e.seq for e in found] == [1]
    assert protocol.error is not None
    assert protocol.receive_data(push_frame(0, 2, notify(b"b")), 0.0) == []


@pytest.mark.parametrize(
    ("from_seq", "to_seq", "lost"),
    [(1, 1, None), (1, 3, (3, 3)), (3, 5, (3, 5)), (4, 5, "gap"), (2, 2, None)],
)
def test_skip_moves_the_position_and_is_reported_once(from_seq, to_seq, lost):
    protocol = live()
    protocol.receive_data(push_frame(0, 1, notify(b"a")) + push_frame(0, 2, notify(b"b")), 0.0)
    found = protocol.receive_data(skip(from_seq, to_seq), 0.0)
    if lost == "gap":
        assert protocol.error is not None
        return
    assert protocol.error is None
    if lost is None:
        assert found == []
    else:
        assert found == [events.Lost(*lost, LostReason.EXPIRED)]
        assert protocol.receive_data(skip(from_seq, to_seq), 0.0) == []


def test_unknown_pushes_move_the_position_or_are_ignored():
    protocol = live()
    assert protocol.receive_data(push_frame(0, 1, push_body(99, b"")), 0.0) == [
        events.Ignored(1, 99)
    ]
    assert protocol.receive_data(push_frame(0, 0, push_body(99, b"")), 0.0) == []
    assert protocol.receive_data(push_frame(9, 2, answer_body(77)), 0.0) == [events.Ignored(2, 3)]


def test_a_sequenced_push_before_start_response_is_an_error():
    protocol = ClientProtocol(ClientSession("alice"))
    protocol.connect()
    assert protocol.receive_data(push_frame(0, 1, notify(b"a")), 0.0) == []
    assert protocol.error is not None


@pytest.mark.parametrize(
    "frame",
    [
        push_frame(0, 0, push_body(PushType.GOAWAY, b"\x0a\xff")),
        push_frame(0, 1, push_body(PushType.SKIP, b"\x08")),
        push_frame(0, 1, push_body(PushType.ERROR, b"\x08")),
        push_frame(0, 1, push_body(PushType.BUSINESS_DATA, b"\x08")),
        b"\0\0\0\0",
    ],
)
def test_what_does_not_decode_is_an_error(frame):
    protocol = live()
    protocol.receive_data(frame, 0.0)
    assert protocol.error is not None


def test_an_ack_leaves_after_16_messages():
    protocol = live()
    for seq in range(1, 17):
        protocol.receive_data(push_frame(0, seq, notify(b"x")), 1.0)
        assert protocol.data_to_send() == b""
        protocol.acknowledge(seq)
    (ack,) = sent(protocol)
    assert parse_ack(ack.payload) == 16
    assert protocol.get_timer() == 10.0  # only the heartbeat


def test_an_ack_leaves_after_200_ms():
    protocol = live()
    protocol.receive_data(push_frame(0, 1, notify(b"x")), 1.0)
    protocol.acknowledge(1)
    protocol.acknowledge(1)
    assert protocol.get_timer() == pytest.approx(1.2)
    protocol.handle_timer(1.19)
    assert protocol.data_to_send() == b""
    protocol.handle_timer(1.21)
    (ack,) = sent(protocol)
    assert parse_ack(ack.payload) == 1


def test_an_ack_leaves_after_a_sixteenth_of_the_gateways_bytes():
    protocol = live(max_unacked_bytes=16_000)
    protocol.receive_data(push_frame(0, 1, notify(bytes(900))), 1.0)
    protocol.acknowledge(1)
    assert sent(protocol) == []
    protocol.receive_data(push_frame(0, 2, notify(bytes(100))), 1.0)
    protocol.acknowledge(2)
    assert len(sent(protocol)) == 1


def test_an_ack_leaves_after_a_quarter_of_the_gateways_messages():
    protocol = live(max_unacked_messages=4)
    protocol.receive_data(push_frame(0, 1, notify(b"")), 1.0)
    protocol.acknowledge(1)
    assert len(sent(protocol)) == 1


def test_a_request_carries_the_ack():
    protocol = live()
    protocol.receive_data(push_frame(0, 1, notify(b"x")), 1.0)
    protocol.acknowledge(1)
    protocol.send_request("x")
    (request,) = sent(protocol)
    assert request.ack_seq_id == 1
    protocol.handle_timer(2.0)
    assert protocol.data_to_send() == b""


def test_heartbeats_and_silence():
    protocol = live()
    assert protocol.get_timer() == 10.0
    protocol.handle_timer(10.0)
    (beat,) = sent(protocol)
    assert beat.type == RequestType.HEARTBEAT
    client_ms = pb.HeartbeatRequest.FromString(beat.payload).client_timestamp
    answer = heartbeat_response_frame(beat.msg_id, client_ms, 5)
    (answered,) = protocol.receive_data(answer, 10.5)
    assert answered == events.HeartbeatAnswered(0.5, 5)
    assert protocol.get_timer() == 20.0
    protocol.handle_timer(20.0)
    protocol.handle_timer(30.0)
    assert not protocol.is_silent
    assert len(sent(protocol)) == 2
    assert protocol.get_timer() == 30.5
    protocol.handle_timer(30.5)
    assert protocol.is_silent
    assert protocol.get_timer() is None


def _answer(client_seq: int) -> bytes:
    payload = pb.BusinessResponse(code=200).SerializeToString()
    return push_body(PushType.BUSINESS_DATA, payload, None, client_seq)


def _beats(protocol: ClientProtocol, until: float) -> list[float]:
    """Let time pass without a word of the gateway's; return when heartbeats were sent."""
    beats = []
    while (at := protocol.get_timer()) is not None and at < until:
        protocol.handle_timer(at)
        beats += [at for request in sent(protocol) if request.type == RequestType.HEARTBEAT]
    return beats


def test_who_waits_for_an_answer_asks_for_the_gateway_sooner():
    """So it notices that one was killed and restarted, which only answers tell it."""
    protocol = live()
    sent(protocol)
    protocol.send_request("x", now=1.0)
    sent(protocol)
    assert _beats(protocol, 7.5) == [3.0, 5.0, 7.0]
    # A sign of life puts it off.
    protocol.receive_data(push_frame(0, 1, notify(b"x")), 8.5)
    protocol.acknowledge(1, 8.5)
    assert _beats(protocol, 11.0) == [10.5]
    # Nobody is waited for: the plain interval, from the last one.
    protocol.receive_data(push_frame(0, 2, _answer(1)), 11.0)
    protocol.acknowledge(2, 11.0)
    assert _beats(protocol, 21.0) == [20.5]


def test_answers_that_usually_take_long_are_waited_for_twice_as_long():
    protocol = live(heartbeat_interval=60)
    sent(protocol)
    protocol.send_request("x", now=0.0)
    protocol.receive_data(push_frame(0, 1, _answer(1)), 8.0)
    protocol.acknowledge(1, 8.0)
    sent(protocol)
    protocol.send_request("x", now=20.0)
    assert _beats(protocol, 60.0) == [36.0, 52.0]


def test_start_response_is_waited_for_10_s():
    protocol = ClientProtocol(ClientSession("alice"))
    protocol.connect(5.0)
    assert protocol.get_timer() == 15.0
    protocol.handle_timer(15.0)
    assert protocol.is_silent
    protocol = reconnect(protocol, 20.0)
    assert not protocol.is_silent


def test_goaway_and_stop():
    protocol = live()
    assert protocol.receive_data(goaway_frame("drain", 50, "h:1"), 0.0) == [
        events.GoAwayReceived("drain", 50, "h:1")
    ]
    protocol.stop(StopReason.USER_LOGOUT)
    (stop,) = sent(protocol)
    assert stop.type == RequestType.STOP
    assert pb.StopRequest.FromString(stop.payload).reason == 1


def test_an_error_without_seq_names_its_request_by_msg_id():
    protocol = live()
    seq = protocol.send_request("x")
    (request,) = sent(protocol)
    (failed,) = protocol.receive_data(push_frame(request.msg_id, 0, error_body(400, "gap")), 0.0)
    assert (failed.client_seq, failed.seq, failed.code) == (seq, 0, 400)
    (failed,) = protocol.receive_data(push_frame(99, 0, error_body(501, "type")), 0.0)
    assert failed.client_seq == 0


def test_a_base_gateway_answers_by_msg_id():
    protocol = live(protocol=0, session_id="", connection_id="s0")
    assert protocol.session.session_id == "s0"
    seq = protocol.send_request("x")
    (request,) = sent(protocol)
    (answered,) = protocol.receive_data(push_frame(request.msg_id, 1, answer_body(0, b"y")), 0.0)
    assert (answered.client_seq, answered.data) == (seq, b"y")


# Resume.


def test_a_resume_names_session_token_attempt_and_position():
    protocol = live()
    protocol.receive_data(push_frame(0, 1, notify(b"a")) + push_frame(0, 2, notify(b"b")), 0.0)
    protocol.acknowledge(1)
    for attempt in (1, 2):
        protocol = reconnect(protocol)
        (request,) = sent(protocol)
        start = parse_start(request.payload)
        assert (start.session_id, start.resume_token) == ("s1", b"t" * 16)
        assert (start.attempt, start.last_acked_seq_id) == (attempt, 1)
    (started,) = protocol.receive_data(
        started_response(resumed=True, resume_token=b"u" * 16, state=2), 0.0
    )
    assert started.is_resumed
    assert started.is_logged_in
    assert (protocol.session.attempt, protocol.session.resume_token) == (0, b"u" * 16)
    # 2 was received and not handed out when the connection broke: it is not reported twice.
    data = push_frame(0, 2, notify(b"b")) + push_frame(0, 3, notify(b"c"))
    assert [e.seq for e in protocol.receive_data(data, 0.0)] == [3]


def test_only_what_was_not_accepted_is_sent_again():
    protocol = live()
    for _ in range(4):
        protocol.send_request("x")
    first = sent(protocol)
    protocol = reconnect(protocol)
    protocol.send_request("x")
    sent(protocol)
    protocol.receive_data(started_response(resumed=True, max_client_seq=2), 0.0)
    again = sent(protocol)
    assert [r.seq_id for r in again] == [3, 4, 5]
    assert [r.msg_id for r in again[:2]] == [r.msg_id for r in first[2:]]
    assert protocol.session.next_client_seq == 6
    assert sorted(protocol.session.pending) == [1, 2, 3, 4, 5]


def test_a_restarted_client_goes_on_behind_what_the_gateway_accepted():
    protocol = live()
    protocol.receive_data(push_frame(0, 1, notify(b"a")), 0.0)
    protocol.acknowledge(1)
    protocol.send_request("x")
    protocol = reconnect(protocol)
    again = ClientProtocol(ClientSession.from_state(protocol.session.state(), auth_token="a"))
    again.connect()
    (request,) = sent(again)
    start = parse_start(request.payload)
    assert (start.openid, start.client_id, start.session_id) == ("alice", "c", "s1")
    assert (start.attempt, start.last_acked_seq_id, start.auth_token) == (2, 1, "a")
    again.receive_data(started_response(resumed=True, max_client_seq=7), 0.0)
    assert again.send_request("y") == 8
    assert [e.seq for e in again.receive_data(push_frame(0, 2, notify(b"b")), 0.0)] == [2]


def state_with(**fields) -> bytes:
    return json.dumps(json.loads(live().session.state()) | fields).encode()


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"version": 2}',
        state_with(position=-1),
        state_with(position=1 << 64),
        state_with(position="1"),
        state_with(attempt=1 << 32),
        state_with(attempt=True),
        state_with(session_id=7),
        state_with(resume_token="?"),
        state_with(client_id="x" * 5000),
    ],
)
def test_a_state_that_is_none_is_refused(state):
    with pytest.raises(ValueError, match="no client state"):
        ClientSession.from_state(state)


def test_a_number_that_is_no_longer_held_leaves_no_hole():
    protocol = live()
    for _ in range(3):
        protocol.send_request("x")
    del protocol.session.pending[1]
    protocol = reconnect(protocol)
    sent(protocol)
    found = protocol.receive_data(started_response(resumed=True, max_client_seq=0), 0.0)
    assert [(e.client_seq, e.outcome) for e in found[1:]] == [(2, 1), (3, 1)]
    assert sent(protocol) == []
    assert protocol.send_request("y") == 1


def test_a_new_session_after_an_unknown_one_starts_again():
    protocol = live()
    protocol.receive_data(push_frame(0, 1, notify(b"a")), 0.0)
    protocol.acknowledge(1)
    sent_one = protocol.send_request("x")
    protocol = reconnect(protocol)
    unsent = protocol.send_request("y")
    sent(protocol)
    found = protocol.receive_data(
        started_response(session_id="s2", lost_reason=pb.LOST_UNKNOWN_SESSION), 0.0
    )
    reset, failed, not_started, started = found
    assert reset == events.SessionReset("s1", LostReason.UNKNOWN_SESSION, 1)
    assert (failed.client_seq, failed.outcome) == (sent_one, Outcome.UNKNOWN)
    assert (not_started.client_seq, not_started.outcome) == (unsent, Outcome.NOT_STARTED)
    assert isinstance(started, events.Started)
    assert not started.is_resumed
    assert sent(protocol) == []
    assert (protocol.session.position, protocol.session.seen, protocol.session.next_client_seq) == (
        0,
        0,
        1,
    )
    assert [e.seq for e in protocol.receive_data(push_frame(0, 1, notify(b"n")), 0.0)] == [1]


def refused(code: int, **fields) -> bytes:
    response = pb.StartResponse(error=pb.ErrorMessage(error_code=code), **fields)
    return start_response_frame(1, response)


def test_a_stale_attempt_tries_again_above():
    protocol = live()
    protocol.send_request("x")
    protocol = reconnect(protocol)
    (event,) = protocol.receive_data(refused(409, attempt=7), 0.0)
    assert (event.code, event.lost_reason) == (409, LostReason.NONE)
    protocol = reconnect(protocol)
    assert protocol.session.attempt == 8
    assert len(protocol.session.pending) == 1


def test_what_the_application_got_on_the_way_to_a_resume_is_acked():
    protocol = live()
    protocol.receive_data(push_frame(0, 1, notify(b"")) + push_frame(0, 2, notify(b"")), 0.0)
    protocol.acknowledge(1, 0.0)
    protocol = reconnect(protocol, 0.0)  # START says 1
    protocol.data_to_send()
    protocol.acknowledge(2, 0.0)
    protocol.receive_data(started_response(resumed=True), 1.0)
    assert protocol.get_timer() == 1.0 + 0.200
    protocol.handle_timer(1.3)
    (ack,) = sent(protocol)
    assert ack.type == pb.REQUEST_ACK
    assert pb.ClientAck.FromString(ack.payload).acked_seq_id == 2


def test_what_a_restored_client_asked_before_its_counter_was_known_fails_as_not_started():
    protocol = ClientProtocol(ClientSession.from_state(live().session.state()))
    protocol.connect(0.0)
    sent(protocol)
    for action in ("one", "two", "three"):
        protocol.send_request(action)
    found = protocol.receive_data(started_response(resumed=True, max_client_seq=2), 0.0)
    assert [(e.client_seq, e.outcome) for e in found[1:]] == [
        (1, Outcome.NOT_STARTED),
        (2, Outcome.NOT_STARTED),
    ]
    assert [request.seq_id for request in sent(protocol)] == [3]
    assert protocol.send_request("four") == 4


def test_a_denied_resume_forgets_the_session():
    protocol = live()
    protocol.send_request("x")
    protocol = reconnect(protocol)
    found = protocol.receive_data(refused(403, lost_reason=pb.LOST_DENIED), 0.0)
    assert [type(e) for e in found] == [events.SessionReset, events.Failed, events.StartRefused]
    assert protocol.closed(4403) == []
    protocol = reconnect(protocol)
    assert protocol.session.session_id == ""


@pytest.mark.parametrize("code", [429, 503])
def test_a_refusal_for_now_keeps_the_session(code):
    protocol = live()
    protocol.send_request("x")
    protocol = reconnect(protocol)
    found = protocol.receive_data(refused(code), 0.0)
    assert [type(e) for e in found] == [events.StartRefused]
    assert protocol.session.session_id == "s1"
    assert len(protocol.session.pending) == 1


@pytest.mark.parametrize(
    ("code", "is_over"),
    [
        *((code, False) for code in (0, 4408, 4409, 4413, 4503, 4601)),
        *((code, True) for code in (4400, 4401, 4403, 4410, 4411)),
    ],
)
def test_close_codes_say_whether_the_session_is_over(code, is_over):
    protocol = live()
    protocol.send_request("x")
    found = protocol.closed(code)
    assert bool(found) is is_over
    assert bool(protocol.session.session_id) is not is_over


def test_a_second_start_response_is_an_error():
    protocol = live()
    protocol.receive_data(started_response(), 0.0)
    assert protocol.error is not None


def test_replay_behind_the_position_is_reported_as_lost():
    protocol = live()
    protocol = reconnect(protocol)
    found = protocol.receive_data(started_response(resumed=True, replay_from=4, replay_to=5), 0.0)
    assert found[1] == events.Lost(1, 3, LostReason.NONE)
    assert [e.seq for e in protocol.receive_data(push_frame(0, 4, notify(b"")), 0.0)] == [4]


# What is stored, and when.


def saved(protocol: ClientProtocol) -> dict:
    return json.loads(protocol.session.state())


def test_the_state_is_due_before_an_attempt_a_token_and_an_ack_are_used():
    protocol = ClientProtocol(ClientSession("alice"))
    protocol.connect(0.0)
    assert not protocol.session.is_state_due  # nothing of a session that is not there yet
    sent(protocol)
    protocol.receive_data(started_response(), 0.0)
    assert protocol.session.is_state_due
    assert base64.b64decode(saved(protocol)["resume_token"]) == b"t" * 16
    protocol.login(now=0.0)
    assert len(sent(protocol)) == 1
    assert not protocol.session.is_state_due

    protocol.receive_data(push_frame(0, 1, notify(b"")), 0.0)
    protocol.acknowledge(1, 0.0)
    assert not protocol.session.is_state_due
    protocol.handle_timer(1.0)
    assert protocol.session.is_state_due
    assert saved(protocol)["position"] == 1
    assert [request.type for request in sent(protocol)] == [RequestType.ACK]

    protocol.receive_data(push_frame(0, 2, notify(b"")), 0.0)
    protocol.acknowledge(2, 0.0)
    protocol.send_request("x")
    assert protocol.session.is_state_due
    assert [request.ack_seq_id for request in sent(protocol)] == [2]
    assert not protocol.session.is_state_due

    protocol = reconnect(protocol, 2.0)
    assert protocol.session.is_state_due
    assert saved(protocol)["attempt"] == 1


def test_a_client_that_stores_each_ack_sends_one_for_several_answers():
    protocol = live()
    protocol.session.carries_acks = False
    for seq in range(1, 4):
        protocol.receive_data(push_frame(0, seq, notify(b"")), 0.0)
        protocol.acknowledge(seq, 0.0)
        protocol.send_request("x")
    assert [request.ack_seq_id for request in sent(protocol)] == [0, 0, 0]
    protocol.handle_timer(0.200)
    (ack,) = sent(protocol)
    assert parse_ack(ack.payload) == 3


def test_the_state_may_stand_behind_what_was_acknowledged():
    protocol = live()
    protocol.receive_data(push_frame(0, 1, notify(b"")) + push_frame(0, 2, notify(b"")), 0.0)
    protocol.acknowledge(2, 0.0)
    assert ClientSession.from_state(protocol.session.state(1)).position == 1


def test_a_session_that_is_stopped_or_lost_is_in_no_state():
    for end in (lambda p: p.stop(), lambda p: p.closed(4410)):
        protocol = live()
        protocol.receive_data(push_frame(0, 1, notify(b"")), 0.0)
        protocol.acknowledge(1, 0.0)
        end(protocol)
        again = ClientProtocol(ClientSession.from_state(protocol.session.state()))
        assert (again.session.openid, again.session.client_id) == ("alice", "c")
        assert (again.session.session_id, again.session.resume_token, again.session.position) == (
            "",
            b"",
            0,
        )


def test_stop_waits_for_start_response():
    protocol = live()
    protocol = reconnect(protocol, 0.0)
    protocol.stop()
    assert [request.type for request in sent(protocol)] == [RequestType.START]
    protocol.receive_data(started_response(resumed=True), 0.0)
    assert [request.type for request in sent(protocol)] == [RequestType.STOP]


def test_what_was_taken_in_is_acked_before_stop():
    protocol = live()
    protocol.receive_data(push_frame(0, 1, notify(b"")) + push_frame(0, 2, notify(b"")), 0.0)
    protocol.acknowledge(1, 0.0)
    sent(protocol)
    protocol.stop()
    acked, stop = sent(protocol)
    assert (acked.type, stop.type) == (RequestType.ACK, RequestType.STOP)
    assert pb.ClientAck.FromString(acked.payload).acked_seq_id == 1


# GOAWAY.


def test_leaving_waits_for_answers_and_keeps_new_requests_back():
    protocol = live()
    asked = protocol.send_request("x")
    sent(protocol)
    protocol.leave(1.0, 30.0)
    assert not protocol.is_ready
    assert not protocol.is_left
    later = protocol.send_request("y", now=1.0)
    assert sent(protocol) == []
    protocol.receive_data(push_frame(2, 1, answer_body(asked)), 2.0)
    assert protocol.is_left
    protocol.closed(0)
    protocol = reconnect(protocol, 3.0)
    sent(protocol)
    protocol.receive_data(started_response(resumed=True, max_client_seq=1), 3.0)
    assert [request.seq_id for request in sent(protocol)] == [later]


def test_leaving_does_not_wait_for_ever():
    protocol = live(heartbeat_interval=60)
    protocol.send_request("x")
    protocol.leave(1.0, 30.0)
    assert protocol.get_timer() <= 31.0
    protocol.handle_timer(30.9)
    assert not protocol.is_left
    protocol.handle_timer(31.0)
    assert protocol.is_left


def test_leaving_at_once_leaves_answers_for_the_next_connection():
    protocol = live()
    protocol.send_request("x")
    protocol.leave(1.0)
    assert protocol.is_left
    protocol = reconnect(protocol, 2.0)
    assert not protocol.is_leaving
