"""The wire's numbers and limits, and the frames of control pushes (PROTOCOL 1)."""

from __future__ import annotations

from enum import IntEnum

from google.protobuf.message import DecodeError

from .._core.codec import error_body, push_body, push_frame
from .._pb import message_pb2 as pb
from ..errors import LostReason, Outcome, ProtocolError

__all__ = [
    "CAPABILITIES",
    "CAPABILITY_SKIP",
    "LATEST_PROTOCOL",
    "LOGIN_ACTION",
    "MAX_CLIENT_ID_BYTES",
    "MAX_CLIENT_SEQ",
    "MAX_HEADERS",
    "MAX_HEADERS_BYTES",
    "MAX_HEAD_BYTES",
    "MAX_OPENID_BYTES",
    "OK",
    "LostReason",
    "Outcome",
    "PushType",
    "RequestType",
    "SessionState",
    "StopReason",
    "auth_response_frame",
    "error_frame",
    "goaway_frame",
    "heartbeat_response_frame",
    "is_valid_text",
    "kick_frame",
    "parse_ack",
    "parse_auth",
    "parse_start",
    "parse_stop",
    "start_response_frame",
]

LATEST_PROTOCOL = 1
"""The newest protocol number that is spoken; 0 is base."""

CAPABILITY_SKIP = 1 << 0
"""Capability bit: the peer knows SKIP pushes."""
CAPABILITIES = CAPABILITY_SKIP
"""Every capability that this version has."""

LOGIN_ACTION = "hello"
"""The action that logs a session in, in any case (PROTOCOL 3.2)."""
OK = 200
"""The code of an answer that went well; of a hello, that it logs the session in."""

MAX_OPENID_BYTES = 128
MAX_CLIENT_ID_BYTES = 64
MAX_HEADERS = 32
MAX_HEADERS_BYTES = 8 << 10
MAX_CLIENT_SEQ = 2**53 - 1
"""Highest client seq (PROTOCOL 2.1)."""
MAX_HEAD_BYTES = 17
"""Bytes that msg_id and seq_id take at most in a ServerPush, the frame's length left out."""


class RequestType(IntEnum):
    """ClientRequest.type."""

    UNKNOWN = 0
    START = 1
    STOP = 2
    HEARTBEAT = 3
    BUSINESS = 4
    ACK = 5
    AUTH = 7


class PushType(IntEnum):
    """ServerPush.type."""

    UNKNOWN = 0
    START_RESP = 1
    HEARTBEAT_RESP = 2
    BUSINESS_DATA = 3
    ERROR = 4
    GOAWAY = 5
    KICK = 6
    SKIP = 7
    AUTH_RESP = 8


class StopReason(IntEnum):
    """Why a client stops its session."""

    UNKNOWN = 0
    USER_LOGOUT = 1
    APP_CLOSE = 2
    SWITCH_ACCOUNT = 3


class SessionState(IntEnum):
    """StartResponse.state: what a client learns of its session's state."""

    UNSPECIFIED = 0
    INITED = 1
    NORMAL = 2


def is_valid_text(text: str, max_bytes: int) -> bool:
    """Return whether text is at most max_bytes of UTF-8 without control characters.

    Source: PROTOCOL 1.6.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return False
    if size > max_bytes:
        return False
    # C0, DEL and C1 (U+0000-001F, U+007F-009F): what Unicode calls category Cc.
    return text.isprintable() or not any(c < " " or "\x7f" <= c <= "\x9f" for c in text)


def parse_start(payload: bytes) -> pb.StartRequest:
    """Return the StartRequest that payload spells, in the stale base numbering too (PROTOCOL 9).

    Raises:
        ProtocolError: It spells none.
    """
    start = pb.StartRequest()
    try:
        start.ParseFromString(payload)
    except DecodeError:
        raise ProtocolError("START's payload does not decode") from None
    last_acked = _varint_field(payload, 3)
    if last_acked is not None:
        # The stale numbering: auth_token was 2 and last_acked_seq_id 3.
        start.auth_token = start.client_id
        start.client_id = ""
        start.last_acked_seq_id = last_acked
    return start


def parse_stop(payload: bytes) -> StopReason:
    """Return the reason of a STOP; UNKNOWN where it does not decode or is none of ours."""
    try:
        return StopReason(pb.StopRequest.FromString(payload).reason)
    except (DecodeError, ValueError):
        return StopReason.UNKNOWN


def parse_ack(payload: bytes) -> int:
    """Return the server seq that an ACK's payload acknowledges, 0 for none (PROTOCOL 2.5).

    Raises:
        ProtocolError: It does not decode.
    """
    if not payload:
        return 0
    try:
        return pb.ClientAck.FromString(payload).acked_seq_id
    except DecodeError:
        raise ProtocolError("ACK's payload does not decode") from None


def start_response_frame(msg_id: int, response: pb.StartResponse) -> bytes:
    """Return the frame of a START_RESP."""
    return push_frame(msg_id, 0, push_body(PushType.START_RESP, response.SerializeToString()))


def parse_auth(payload: bytes) -> str:
    """Return the token of an AUTH; empty if the payload does not decode."""
    try:
        return pb.AuthRequest.FromString(payload).auth_token
    except DecodeError:
        return ""


def auth_response_frame(
    msg_id: int, expires_at: float = 0.0, code: int = 0, message: str = ""
) -> bytes:
    """Return the frame of an AUTH_RESP.

    Args:
        msg_id: The AUTH's.
        expires_at: Seconds since the epoch when the credentials expire, 0 for never.
        code: Of the refusal, 0 for none.
        message: Of the refusal.
    """
    answer = pb.AuthResponse(success=not code, expires_at_ms=int(expires_at * 1000))
    if code:
        answer.error.error_code = code
        answer.error.error_message = message
    return push_frame(msg_id, 0, push_body(PushType.AUTH_RESP, answer.SerializeToString()))


def heartbeat_response_frame(msg_id: int, client_ms: int, server_ms: int) -> bytes:
    """Return the frame of a HEARTBEAT_RESP; both times in ms, the client's as it wrote it."""
    answer = pb.HeartbeatResponse(client_timestamp=client_ms, server_timestamp=server_ms)
    return push_frame(msg_id, 0, push_body(PushType.HEARTBEAT_RESP, answer.SerializeToString()))


def error_frame(
    msg_id: int,
    code: int,
    message: str,
    *,
    detail: str = "",
    retry_after_ms: int = 0,
    outcome: int = Outcome.NOT_STARTED,
    client_seq_id: int = 0,
) -> bytes:
    """Return the frame of an unsequenced ERROR: one that consumed no number (PROTOCOL 2.2)."""
    body = error_body(code, message, detail, retry_after_ms, outcome, client_seq_id)
    return push_frame(msg_id, 0, body)


def goaway_frame(reason: str, reconnect_after_ms: int = 0, address: str = "") -> bytes:
    """Return the frame of a GOAWAY: come back on a fresh connection."""
    body = pb.GoAway(reason=reason, reconnect_after_ms=reconnect_after_ms, address=address)
    return push_frame(0, 0, push_body(PushType.GOAWAY, body.SerializeToString()))


def kick_frame(code: int, reason: str) -> bytes:
    """Return the frame of a KICK: the session is over."""
    body = pb.Kick(code=code, reason=reason)
    return push_frame(0, 0, push_body(PushType.KICK, body.SerializeToString()))


def _varint_field(data: bytes, wanted: int) -> int | None:
    """Return the last varint of field wanted in a message that has decoded, None for none."""
    found = None
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            if field == wanted:
                found = value
        elif kind == 1:
            at += 8
        elif kind == 2:
            size, at = _varint(data, at)
            at += size
        elif kind == 5:
            at += 4
        else:
            # A group: none of ours has one, and looking behind it is not worth its parser.
            return found
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value & 0xFFFF_FFFF_FFFF_FFFF, at
