"""ServerProtocol: framing at every split point, what is legal when, what it answers by itself."""

from __future__ import annotations

import pytest

from gatesvr._core.codec import encode_business, encode_request
from gatesvr._pb import message_pb2 as pb
from gatesvr.errors import CloseCode
from gatesvr.protocol.messages import RequestType
from gatesvr.protocol.server import ProtocolCounters, ServerProtocol
from tests.session.rig import ERROR, pushes

START = encode_request(1, 0, RequestType.START, pb.StartRequest(openid="a").SerializeToString())
HELLO = encode_request(2, 1, RequestType.BUSINESS, encode_business("hello", None, b""))
BEAT = encode_request(
    3, 0, RequestType.HEARTBEAT, pb.HeartbeatRequest(client_timestamp=77).SerializeToString()
)
ACK = encode_request(4, 0, RequestType.ACK, pb.ClientAck(acked_seq_id=1).SerializeToString())
STOP = encode_request(5, 0, RequestType.STOP, b"\x08\x01")


def types(requests):
    return [request.type for request in requests]


def started(counters: ProtocolCounters | None = None) -> ServerProtocol:
    protocol = ServerProtocol(counters=counters)
    assert types(protocol.receive_data(START)) == [RequestType.START]
    return protocol


def test_every_split_point_gives_the_same():
    stream = START + HELLO + BEAT + ACK + STOP
    for at in range(len(stream) + 1):
        protocol = ServerProtocol()
        requests = protocol.receive_data(stream[:at], 99) + protocol.receive_data(stream[at:], 99)
        assert types(requests) == [1, 4, 3, 5, 2]
        assert protocol.error is None
        (beat,) = pushes(protocol.data_to_send())
        answer = pb.HeartbeatResponse.FromString(beat.payload)
        assert (beat.msg_id, answer.client_timestamp, answer.server_timestamp) == (3, 77, 99)
    protocol = ServerProtocol()
    single = [r for byte in stream for r in protocol.receive_data(bytes([byte]), 99)]
    assert types(single) == [1, 4, 3, 5, 2]


@pytest.mark.parametrize("first", [HELLO, BEAT, ACK, STOP], ids=["hello", "beat", "ack", "stop"])
def test_a_first_frame_that_is_not_start_is_refused(first):
    protocol = ServerProtocol()
    assert protocol.receive_data(first + START) == []
    assert protocol.error is not None
    assert protocol.error.close_code is CloseCode.PROTOCOL_ERROR
    assert protocol.data_to_send() == b""


def test_an_unknown_type_does_not_stand_for_start():
    protocol = ServerProtocol()
    assert protocol.receive_data(encode_request(1, 0, 77, b"")) == []
    assert protocol.error is not None


def test_a_second_start_is_refused_and_what_came_before_is_handed_out():
    protocol = ServerProtocol()
    assert types(protocol.receive_data(START + HELLO + START + HELLO)) == [1, 4]
    assert protocol.error is not None
    assert protocol.receive_data(HELLO) == []


def test_a_start_with_msg_id_0_is_no_start():
    protocol = ServerProtocol()
    assert protocol.receive_data(encode_request(0, 0, RequestType.START, b"")) == []
    (push,) = pushes(protocol.data_to_send())
    assert (push.type, push.seq_id) == (ERROR, 0)
    assert protocol.error is None
    assert not protocol.is_started
    assert types(protocol.receive_data(START)) == [1]


@pytest.mark.parametrize(
    "broken",
    [
        b"\0\0\0\0",
        b"\0\x01\0\x01",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x02\x08\xff",
        b"\0\0\0\x03\x22\x05a",
    ],
    ids=["empty", "above 64 KiB", "4 GiB", "open varint", "field past the end"],
)
def test_a_broken_frame_is_seen_behind_the_good_ones(broken):
    for at in range(len(broken)):
        protocol = ServerProtocol()
        found = protocol.receive_data(START + HELLO + broken[:at])
        found += protocol.receive_data(broken[at:] + HELLO)
        assert types(found) == [1, 4]
        assert protocol.error is not None
        assert protocol.error.close_code == 4400


def test_login_lifts_the_frame_limit():
    large = encode_request(9, 2, RequestType.BUSINESS, encode_business("echo", None, bytes(70_000)))
    protocol = started()
    assert protocol.receive_data(large) == []
    assert protocol.error is not None
    protocol = started()
    protocol.logged_in()
    assert types(protocol.receive_data(large)) == [4]
    assert protocol.receive_data(b"\0\x10\0\x01") == []
    assert protocol.error is not None


def test_an_unknown_type_gets_501():
    protocol = started(counters := ProtocolCounters())
    assert protocol.receive_data(encode_request(8, 0, 6, b"")) == []
    (push,) = pushes(protocol.data_to_send())
    assert (push.type, push.seq_id, push.msg_id) == (ERROR, 0, 8)
    assert pb.ErrorMessage.FromString(push.payload).error_code == 501
    assert counters.unknown_types == 1


@pytest.mark.parametrize("kind", [RequestType.BUSINESS, RequestType.HEARTBEAT])
def test_msg_id_0_gets_400(kind):
    protocol = started(counters := ProtocolCounters())
    assert protocol.receive_data(encode_request(0, 5, kind, b"")) == []
    (push,) = pushes(protocol.data_to_send())
    assert (push.type, push.seq_id) == (ERROR, 0)
    assert push.client_seq_id == (5 if kind == RequestType.BUSINESS else 0)
    assert pb.ErrorMessage.FromString(push.payload).error_code == 400
    assert counters.bad_msg_ids == 1
    assert not protocol.has_heartbeat


def test_an_ack_counts_whatever_becomes_of_its_request():
    protocol = started()
    for refused in (
        encode_request(0, 5, RequestType.BUSINESS, b"", None, 3),
        encode_request(9, 0, 77, b"", None, 3),
        encode_request(9, 0, RequestType.HEARTBEAT, b"\x08", None, 3),
    ):
        (ack,) = protocol.receive_data(refused)
        assert (ack.type, ack.ack_seq_id, ack.payload) == (RequestType.ACK, 3, b"")


def test_a_heartbeat_is_handed_out_and_noted():
    protocol = started()
    assert not protocol.has_heartbeat
    (beat,) = protocol.receive_data(encode_request(3, 0, RequestType.HEARTBEAT, b"", None, 2))
    assert beat.ack_seq_id == 2
    assert protocol.has_heartbeat


def test_a_frame_begun_is_dated():
    protocol = ServerProtocol()
    protocol.receive_data(START[:3], 0, 10.0)
    assert protocol.frame_began_at == 10.0
    protocol.receive_data(START[3:6], 0, 11.0)
    assert protocol.frame_began_at == 10.0
    protocol.receive_data(START[6:] + HELLO[:1], 0, 12.0)
    assert protocol.frame_began_at == 12.0
    protocol.receive_data(HELLO[1:], 0, 13.0)
    assert protocol.frame_began_at is None


def test_start_response_echoes_the_msg_id():
    protocol = started()
    (push,) = pushes(protocol.start_response(pb.StartResponse(success=True)))
    assert push.msg_id == 1
    (push,) = pushes(protocol.error_push(6, 400, "gap", client_seq_id=4))
    assert (push.msg_id, push.client_seq_id, push.seq_id) == (6, 4, 0)
    assert [p.type for p in pushes(protocol.goaway("x"))] == [5]
