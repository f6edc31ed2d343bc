"""StartOutcome: the result of a START, with the START_RESP that tells the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._pb import message_pb2 as pb
from ..errors import CloseCode, ErrorCode
from ..protocol.messages import LostReason

if TYPE_CHECKING:
    from ..config import SessionConfig
    from ..protocol.link import Link
    from .session import Session

__all__ = [
    "StartOutcome",
    "accept_start",
    "refuse_limited",
    "refuse_start",
    "refuse_unauthenticated",
    "refuse_unavailable",
]

AUTH_RETRY_MS = 5_000
HEARTBEATS_PER_IDLE = 4
"""Heartbeat intervals in an idle time-out (PROTOCOL 3.8)."""


@dataclass(slots=True)
class StartOutcome:
    """The result of a START.

    Attributes:
        session: The session, None if START is refused.
        response: The START_RESP to write, refused or not.
        close_code: If refused: the connection closes with it, behind START_RESP.
        reason: If refused: the close's reason text.
    """

    session: Session | None
    response: pb.StartResponse
    close_code: CloseCode = CloseCode.NORMAL
    reason: str = ""


def accept_start(session: Session, token: bytes, link: Link, config: SessionConfig) -> StartOutcome:
    """Return the START_RESP of a session that has just been attached to link."""
    context = session.context
    heartbeat_s = min(config.heartbeat_interval, link.idle_timeout / HEARTBEATS_PER_IDLE)
    response = pb.StartResponse(
        success=True,
        heartbeat_interval=max(1, int(heartbeat_s)),
        connection_id=session.session_id,
        session_id=session.session_id,
        resume_token=token,
        max_client_seq=session.max_client_seq,
        generation=session.generation,
        max_message_bytes=config.max_message_bytes,
        max_in_flight=context.max_in_flight,
        protocol=session.protocol,
        capabilities=session.capabilities,
        state=pb.SESSION_STATE_NORMAL if session.is_logged_in else pb.SESSION_STATE_INITED,
        resume_window_ms=min(int(config.resume_window * 1000), 0xFFFF_FFFF),
        max_unacked_messages=context.max_queue_size,
        max_unacked_bytes=min(context.max_queue_bytes, 0xFFFF_FFFF),
    )
    return StartOutcome(session, response)


def refuse_start(
    error_code: ErrorCode,
    close_code: CloseCode,
    message: str,
    *,
    retry_after_ms: int = 0,
    lost_reason: LostReason = LostReason.NONE,
    attempt: int = 0,
) -> StartOutcome:
    """Return a START_RESP with success = false.

    Args:
        error_code: The error's code.
        close_code: The connection closes with it.
        message: The error's text; the close's reason too, unless there is a retry_after_ms.
        retry_after_ms: When trying again may help, 0 if it does not.
        lost_reason: Why the session is gone, NONE if it is not.
        attempt: With 409: the highest attempt seen (PROTOCOL 4.3).
    """
    response = pb.StartResponse(
        error=pb.ErrorMessage(
            error_code=error_code,
            error_message=message,
            retry_after_ms=retry_after_ms,
            outcome=pb.OUTCOME_NOT_STARTED,
        ),
        lost_reason=pb.LostReason.Name(lost_reason),
        attempt=attempt,
    )
    reason = f"retry_after_ms={retry_after_ms}" if retry_after_ms else message
    return StartOutcome(None, response, close_code, reason)


def refuse_unauthenticated() -> StartOutcome:
    """Return the refusal of a client that is not let in; it never says why (PROTOCOL 3.1)."""
    return refuse_start(ErrorCode.NOT_LOGGED_IN, CloseCode.AUTH_FAILED, "not authenticated")


def refuse_limited() -> StartOutcome:
    """Return the refusal of a client whose credentials were not looked at: too many failed before.

    They may be good, and the failures another client's behind the same address: it tries again.
    """
    return refuse_start(
        ErrorCode.RATE_LIMITED,
        CloseCode.RATE_LIMITED,
        "too many failed authentications",
        retry_after_ms=AUTH_RETRY_MS,
    )


def refuse_unavailable() -> StartOutcome:
    """Return the refusal while nobody can be authenticated."""
    return refuse_start(
        ErrorCode.BUSY,
        CloseCode.OVERLOADED,
        "authentication is not available",
        retry_after_ms=AUTH_RETRY_MS,
    )
