"""What a client does when its connection has ended: the close-code table, and the pauses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from ..errors import (
    CloseCode,
    ConnectionFailed,
    ErrorCode,
    Outcome,
    RequestFailed,
    SessionLost,
)
from ..protocol.link import Disconnect

__all__ = ["Action", "Backoff", "Verdict", "describe", "first_verdict", "verdict_of"]

MAX_RETRY_HINT_S = 60.0
"""Longest retry_after_ms that is believed (PROTOCOL 3.8)."""
MAX_RECONNECT_HINT_S = 300.0
"""Longest reconnect_after_ms that is believed (PROTOCOL 3.8)."""

_TLS_ERRORS = range(0x100, 0x200)
"""QUIC error codes of TLS alerts: trying again does not help."""
_HINT = re.compile(r"re(try|connect)_after_ms=(\d{1,9})")
_MAX_HINTS_S = {"try": MAX_RETRY_HINT_S, "connect": MAX_RECONNECT_HINT_S}

_MEANINGS = {
    CloseCode.NORMAL: "closed",
    CloseCode.PROTOCOL_ERROR: "protocol error",
    CloseCode.AUTH_FAILED: "authentication or login failed",
    CloseCode.RESUME_DENIED: "resume denied",
    CloseCode.TIMEOUT: "time-out",
    CloseCode.SUPERSEDED: "a newer connection took the session over",
    CloseCode.KICKED: "kicked, or logged in elsewhere",
    CloseCode.OPENID_BUSY: "the openid is logged in elsewhere",
    CloseCode.SLOW_CONSUMER: "messages were not acknowledged in time",
    CloseCode.VERSION_NOT_SERVED: "the gateway does not serve this protocol version",
    CloseCode.RATE_LIMITED: "rate limited",
    CloseCode.INTERNAL_ERROR: "internal error of the gateway",
    CloseCode.OVERLOADED: "the gateway cannot serve now",
}


class Action(Enum):
    """What comes after the end of a connection."""

    RESUME = "resume"  # a new connection for the same session
    FRESH = "fresh"  # a new connection and a new session
    STOP = "stop"  # nothing


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comes after the end of a connection, and not before when.

    Attributes:
        action: What to do.
        delay: Seconds that the gateway asks to wait; 0 for none, the back-off applies anyhow.
    """

    action: Action
    delay: float = 0.0


_STOP = Verdict(Action.STOP)
_ACTIONS = {
    CloseCode.NORMAL: Action.STOP,
    CloseCode.PROTOCOL_ERROR: Action.STOP,
    CloseCode.AUTH_FAILED: Action.STOP,
    CloseCode.RESUME_DENIED: Action.FRESH,
    CloseCode.TIMEOUT: Action.RESUME,
    CloseCode.SUPERSEDED: Action.RESUME,
    CloseCode.KICKED: Action.STOP,
    CloseCode.OPENID_BUSY: Action.FRESH,
    CloseCode.SLOW_CONSUMER: Action.RESUME,
    CloseCode.VERSION_NOT_SERVED: Action.STOP,
    CloseCode.RATE_LIMITED: Action.RESUME,
    CloseCode.INTERNAL_ERROR: Action.RESUME,
    CloseCode.OVERLOADED: Action.RESUME,
}


def verdict_of(how: Disconnect, *, is_started: bool = False) -> Verdict:
    """Return what the close-code table says of the end of a connection.

    Args:
        how: The end.
        is_started: Whether START had been answered well on it.

    Source: PROTOCOL 6.
    """
    if how.kind != "peer":
        # Lost, or closed by us because it was silent or broken: the session is still there.
        return Verdict(Action.RESUME)
    if how.code == CloseCode.SUPERSEDED and is_started:
        # A client has one connection at a time, so it was another's that came after this one:
        # that of a second process with the same state, and each would throw the other out.
        return _STOP
    try:
        action = _ACTIONS[CloseCode(how.code)]
    except ValueError:
        # Unknown 45xx may pass; unknown 44xx, the operator's own 46xx and the rest are final.
        action = Action.RESUME if how.code // 100 == 45 else Action.STOP
    return Verdict(action, _hint(how.reason)) if action is not Action.STOP else _STOP


def first_verdict(error: ConnectionFailed | RequestFailed | SessionLost) -> Verdict | None:
    """Return whether a first connect is tried again; None where its close code says so."""
    if isinstance(error, RequestFailed):
        if error.retry_after_ms:
            return Verdict(Action.FRESH, min(error.retry_after_ms / 1000, MAX_RETRY_HINT_S))
        # A no of the gateway's or of the login service's own, unless that is just busy or away.
        is_spoken = error.outcome is Outcome.DONE and error.code != ErrorCode.BUSY
        is_final = is_spoken or error.code < ErrorCode.INTERNAL
        return Verdict(Action.STOP if is_final else Action.FRESH)
    # A certificate that is not accepted will not be the next time.
    is_final = isinstance(error, ConnectionFailed) and error.is_final
    return Verdict(Action.STOP) if is_final or error.code in _TLS_ERRORS else None


def _hint(reason: str) -> float:
    match = _HINT.search(reason)
    return min(int(match[2]) / 1000, _MAX_HINTS_S[match[1]]) if match else 0.0


class Backoff:
    """Pauses between tries: full jitter, 0 ... min(30 s, 0.5 s x 2^n) (PROTOCOL 3.8).

    Args:
        base: Longest first pause, seconds.
        longest: Longest pause, seconds.
    """

    def __init__(self, base: float = 0.5, longest: float = 30.0) -> None:
        self.base = base
        self.longest = longest
        self.tries = 0

    def next(self, random: float, delay: float = 0.0) -> float:
        """Return the next pause, seconds.

        Args:
            random: A random number, 0 to 1.
            delay: What the gateway asks to wait at least, seconds. The jitter behind it is as long
                again: those who were told the same do not come back in the same moment.
        """
        # The exponent is bounded too: 2.0**1100 would overflow after a long night offline.
        longest = max(self.base * 2.0 ** min(self.tries, 32), delay)
        self.tries += 1
        return delay + min(self.longest, longest) * random

    def reset(self) -> None:
        """Begin again: a connection held."""
        self.tries = 0


def describe(how: Disconnect, message: str = "") -> str:
    """Return the end of a connection in words."""
    kinds = {
        "peer_transport": "QUIC error of the gateway",
        "local": "closed here",
        "idle": "nothing was heard from the gateway",
        "reset": "the gateway has lost the connection (restarted?)",
        "handshake": "the handshake failed",
    }
    try:
        meaning = _MEANINGS[CloseCode(how.code)] if how.kind in ("peer", "local") else ""
    except ValueError:
        meaning = ""
    parts = [str(how.code) if how.code else "", meaning or kinds.get(how.kind, "closed")]
    detail = message or how.reason
    return " ".join(filter(None, parts)) + (f": {detail}" if detail else "")
