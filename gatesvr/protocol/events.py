"""The events that a ClientProtocol returns: one small class each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .._pb import message_pb2 as pb
from .messages import LostReason, Outcome

if TYPE_CHECKING:
    from .._core.codec import ServerPush

__all__ = [
    "Answered",
    "AuthAnswered",
    "ClientEvent",
    "Failed",
    "GoAwayReceived",
    "HeartbeatAnswered",
    "Ignored",
    "Kicked",
    "Lost",
    "Notify",
    "SessionReset",
    "StartRefused",
    "Started",
    "read_error",
    "read_lost_reason",
]


@dataclass(slots=True)
class Started:
    """START_RESP: the session is up. Requests that were not accepted are queued to be sent again.

    Attributes:
        session_id: The session.
        is_resumed: Whether it is the previous session.
        is_logged_in: Whether one of its hellos was answered 200; if not, log in.
        response: The whole message.
    """

    session_id: str
    is_resumed: bool
    is_logged_in: bool
    response: pb.StartResponse


@dataclass(slots=True)
class StartRefused:
    """START_RESP with success = false; the gateway closes the connection.

    Attributes:
        code: Wire error code.
        message: Why, in one line; text from outside.
        retry_after_ms: When trying again may help.
        lost_reason: Why the session is gone, NONE where it is not.
    """

    code: int
    message: str
    retry_after_ms: int
    lost_reason: LostReason


@dataclass(slots=True)
class SessionReset:
    """The session is lost: its requests have failed, and positions start again at 0.

    Attributes:
        session_id: The session that is gone.
        reason: Why.
        position: The last server seq that the application had of it.
    """

    session_id: str
    reason: LostReason
    position: int


@dataclass(slots=True)
class Answered:
    """A request's answer.

    Attributes:
        client_seq: The request's number.
        seq: The server seq; acknowledge() it.
        code: The upstream's code.
        message: The upstream's message.
        data: The upstream's data.
        headers: The upstream's headers.
    """

    client_seq: int
    seq: int
    code: int
    message: str
    data: bytes
    headers: dict[str, str]


@dataclass(slots=True)
class Failed:
    """A request failed: the gateway sent an ERROR, or no answer can come any more.

    Attributes:
        client_seq: The request's number, 0 where the ERROR names none.
        seq: The server seq, 0 where it has none; else acknowledge() it.
        code: Wire error code, 0 where the session is gone.
        message: Why, in one line; text from outside.
        detail: A request id to quote to the operator.
        retry_after_ms: When trying again may help.
        outcome: Whether an upstream may have run it.
    """

    client_seq: int
    seq: int
    code: int
    message: str
    detail: str
    retry_after_ms: int
    outcome: Outcome


@dataclass(slots=True)
class Notify:
    """A notify.

    Attributes:
        seq: The server seq; acknowledge() it.
        code: 200.
        message: ``[msg_type] title``.
        data: Its data, or its content.
        headers: Metadata, msg_type, title and content.
    """

    seq: int
    code: int
    message: str
    data: bytes
    headers: dict[str, str]


@dataclass(slots=True)
class Lost:
    """Messages that the gateway could not keep; reported once.

    Attributes:
        from_seq: The first of them.
        to_seq: The last of them; acknowledge() it.
        reason: Why.
    """

    from_seq: int
    to_seq: int
    reason: LostReason

    @property
    def seq(self) -> int:
        """The server seq to acknowledge."""
        return self.to_seq


@dataclass(slots=True)
class Ignored:
    """A sequenced push that means nothing to this client; acknowledge() it.

    Attributes:
        seq: The server seq.
        type: Its push type.
    """

    seq: int
    type: int


@dataclass(slots=True)
class HeartbeatAnswered:
    """HEARTBEAT_RESP.

    Attributes:
        round_trip_s: Seconds since the heartbeat was queued.
        server_ms: The gateway's wall-clock, ms.
    """

    round_trip_s: float
    server_ms: int


@dataclass(slots=True)
class GoAwayReceived:
    """GOAWAY: come back on a fresh connection.

    Attributes:
        reason: Text from outside.
        reconnect_after_ms: How long to wait.
        address: Where to, empty for the same.
    """

    reason: str
    reconnect_after_ms: int
    address: str


@dataclass(slots=True)
class AuthAnswered:
    """AUTH_RESP: the credentials are renewed, or the old ones go on.

    Attributes:
        code: Why they are not renewed, 0 if they are.
        message: The same, as text from outside.
    """

    code: int
    message: str


@dataclass(slots=True)
class Kicked:
    """KICK: the session is over.

    Attributes:
        code: Why.
        reason: Text from outside.
    """

    code: int
    reason: str


ClientEvent: TypeAlias = (
    Started
    | StartRefused
    | SessionReset
    | Answered
    | Failed
    | Notify
    | Lost
    | Ignored
    | HeartbeatAnswered
    | GoAwayReceived
    | AuthAnswered
    | Kicked
)


def read_error(push: ServerPush, client_seq: int) -> Failed:
    """Return what an ERROR push says of the request client_seq."""
    error = pb.ErrorMessage.FromString(push.payload)
    try:
        outcome = Outcome(error.outcome)
    except ValueError:
        outcome = Outcome.UNKNOWN
    return Failed(
        client_seq,
        push.seq_id,
        error.error_code,
        error.error_message,
        error.detail,
        error.retry_after_ms,
        outcome,
    )


def read_lost_reason(value: int) -> LostReason:
    """Return the reason that a field spells; an unknown one counts as NONE (PROTOCOL 1.5)."""
    try:
        return LostReason(value)
    except ValueError:
        return LostReason.NONE
