"""The answers to a START."""

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

__all__ = ["StartOutcome", "accept_start", "refuse_start"]

HEARTBEATS_PER_IDLE = 4
"""Heartbeat intervals in an idle time-out (PROTOCOL 3.8)."""


@dataclass(slots=True)
class StartOutcome:
    """What a START came to.

    Attributes:
        session: The session, None where START is refused.
        response: The START_RESP to write, refused or not.
        close_code: Where refused: what the connection closes with, behind START_RESP.
        reason: Where refused: the close's reason text.
    """

    session: Session | None
    response: pb.StartResponse
    close_code: CloseCode = CloseCode.NORMAL
    reason: str = ""


def accept_start(session: Session, token: bytes, link: Link, config: SessionConfig) -> StartOutcome:
    """Return a successful START_RESP for a session that link was just made the connection of."""
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
        max_in_flight=config.max_in_flight,
        protocol=session.protocol,
        capabilities=session.capabilities,
        state=pb.SESSION_STATE_NORMAL if session.is_logged_in else pb.SESSION_STATE_INITED,
        resume_window_ms=min(int(config.resume_window * 1000), 0xFFFF_FFFF),
        max_unacked_messages=config.max_queue_size,
        max_unacked_bytes=min(config.max_queue_bytes, 0xFFFF_FFFF),
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
        error_code: Of its error.
        close_code: What the connection closes with.
        message: Of its error; the close's reason text too where there is no retry_after_ms.
        retry_after_ms: When trying again may help, 0 where it does not.
        lost_reason: Why the session is gone, NONE where it is not.
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
