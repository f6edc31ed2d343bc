"""The limits, the STARTs, and the frames of control pushes."""

from __future__ import annotations

from typing import Any

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr.errors import ProtocolError
from gatesvr.protocol import messages
from gatesvr.protocol.pending import PendingRequest
from tests.session.rig import pushes


@pytest.mark.parametrize(
    ("enum", "prefix", "generated"),
    [
        (messages.RequestType, "REQUEST_", pb.RequestType),
        (messages.PushType, "PUSH_", pb.PushType),
        (messages.StopReason, "STOP_", pb.StopReason),
        (messages.Outcome, "OUTCOME_", pb.Outcome),
        (messages.LostReason, "LOST_", pb.LostReason),
        (messages.SessionState, "SESSION_STATE_", pb.SessionState),
    ],
)
def test_enums_are_those_of_the_schema(enum, prefix, generated):
    assert {prefix + member.name: int(member) for member in enum} == dict(generated.items())


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("", True),
        ("alice", True),
        ("ä" * 64, True),
        ("ä" * 64 + "x", False),
        ("x" * 129, False),
        ("a\0b", False),
        ("a\x7fb", False),
        ("a\x85b", False),
        ("a\nb", False),
        ("a\u200bb", True),
        ("\ud800", False),
    ],
)
def test_text_is_bounded_utf8_without_control_characters(text, is_good):
    assert messages.is_valid_text(text, 128) is is_good


def test_start_is_parsed():
    start = pb.StartRequest(openid="a", auth_token="t", last_acked_seq_id=7, session_id="s")
    assert messages.parse_start(start.SerializeToString()) == start


def test_start_that_does_not_decode_is_a_protocol_error():
    with pytest.raises(ProtocolError):
        messages.parse_start(b"\x0a\xff")


def test_start_in_the_stale_numbering_is_understood():
    # openid = 1, auth_token = 2, last_acked_seq_id = 3 as a varint.
    start = messages.parse_start(b"\x0a\x05alice" + b"\x12\x05token" + b"\x18\xac\x02")
    assert (start.openid, start.client_id, start.auth_token) == ("alice", "", "token")
    assert start.last_acked_seq_id == 300


def test_start_is_looked_at_behind_fields_of_every_kind():
    unknown = b"\xa1\x06" + bytes(8) + b"\xa5\x06" + bytes(4) + b"\xa8\x06\x05"
    assert messages.parse_start(unknown + b"\x18\x05").last_acked_seq_id == 5
    assert messages.parse_start(unknown + b"\x1a\x01t").auth_token == "t"


def test_ack_and_stop_are_parsed():
    assert messages.parse_ack(pb.ClientAck(acked_seq_id=9).SerializeToString()) == 9
    assert messages.parse_ack(b"") == 0
    with pytest.raises(ProtocolError):
        messages.parse_ack(b"\x08")
    assert messages.parse_stop(b"\x08\x01") is messages.StopReason.USER_LOGOUT
    assert messages.parse_stop(b"\x08\x63") is messages.StopReason.UNKNOWN
    assert messages.parse_stop(b"\x08") is messages.StopReason.UNKNOWN


def test_control_pushes_have_no_seq():
    frames = (
        messages.start_response_frame(4, pb.StartResponse(success=True)),
        messages.heartbeat_response_frame(5, 1, 2),
        messages.error_frame(6, 400, "no", client_seq_id=3, retry_after_ms=7),
        messages.goaway_frame("drain", 100, "a:1"),
        messages.kick_frame(4410, "replaced"),
    )
    found = pushes(b"".join(frames))
    assert [push.seq_id for push in found] == [0] * 5
    assert [push.msg_id for push in found] == [4, 5, 6, 0, 0]
    assert [push.type for push in found] == [1, 2, 4, 5, 6]
    assert pb.StartResponse.FromString(found[0].payload).success
    assert pb.HeartbeatResponse.FromString(found[1].payload).server_timestamp == 2
    error = pb.ErrorMessage.FromString(found[2].payload)
    assert (error.error_code, error.retry_after_ms, error.outcome) == (400, 7, 1)
    assert found[2].client_seq_id == 3
    assert pb.GoAway.FromString(found[3].payload).address == "a:1"
    assert pb.Kick.FromString(found[4].payload).code == 4410


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("params", {"a": 1}, r"params\['a'\] must be str, not int"),
        ("params", ["a"], "params must be Mapping, not list"),
        ("headers", {"a": 1}, r"headers\['a'\] must be str, not int"),
        ("headers", {1: "a"}, "a key of headers must be str, not int"),
        ("data", "text", "data must be bytes, not str"),
        ("action", 5, "action must be str, not int"),
    ],
)
def test_request_names_the_parameter_that_does_not_fit(field: str, value: Any, told: str) -> None:
    fields: dict[str, Any] = {"action": "echo", "data": b"", "params": None, "headers": None}
    with pytest.raises(TypeError, match=told):
        PendingRequest(1, **{**fields, field: value})
