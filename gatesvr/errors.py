"""Every exception, wire error code and close code of GateSvr.

::

    GatesvrError
    ├── ConfigError       a wrong setting: names the file, the field and the value
    ├── ProtocolError     a peer broke the wire protocol: carries the close code
    ├── SessionError      a session refused something: carries the wire error code
    │   ├── RequestFailed    a request was answered by an ERROR (client)
    │   └── SessionLost      the session ended or could not be resumed (client)
    ├── ExportError       the bytes of a session make none, or are of another version
    ├── QueueFull         a bounded queue is at a cap; nothing was added
    │   └── NotifyOverflow   unread notifies were dropped (client)
    ├── UpstreamError     an upstream call failed: tells whether the request ran
    └── ConnectionFailed  no connection to the gateway (client)
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "CloseCode",
    "ConfigError",
    "ConnectionFailed",
    "ErrorCode",
    "ExportError",
    "GatesvrError",
    "LostReason",
    "NotifyOverflow",
    "Outcome",
    "ProtocolError",
    "QueueFull",
    "RequestFailed",
    "SessionError",
    "SessionLost",
    "UpstreamError",
]


class CloseCode(IntEnum):
    """Why a QUIC connection was closed: its application error code (PROTOCOL 6)."""

    NORMAL = 0
    """The client is done, or the gateway has nothing more to say to it."""
    PROTOCOL_ERROR = 4400
    """The peer broke a rule of the wire protocol."""
    AUTH_FAILED = 4401
    """The client did not prove who it is, its login was refused, or its credentials expired."""
    RESUME_DENIED = 4403
    """The token does not belong to the session."""
    TIMEOUT = 4408
    """No START, login or heartbeat came in time, or a frame was not finished in time."""
    SUPERSEDED = 4409
    """A newer connection has the session, or this attempt is an old one."""
    KICKED = 4410
    """A service ended the session, or another login of its openid did."""
    OPENID_BUSY = 4411
    """The openid is logged in elsewhere, and ``on_duplicate`` is ``reject``."""
    SLOW_CONSUMER = 4413
    """The client does not acknowledge, and its queue is full."""
    VERSION_NOT_SERVED = 4426
    """The client speaks no version of the protocol that is served here."""
    RATE_LIMITED = 4429
    """The client sent too much, too far ahead, or came too often."""
    INTERNAL_ERROR = 4500
    """The gateway failed at something of its own."""
    OVERLOADED = 4503
    """The gateway is full, sheds load or stops; the reason may say when to come back."""


class ErrorCode(IntEnum):
    """The error_code of an ERROR push or of a refused START (PROTOCOL 6)."""

    BAD_REQUEST = 400
    """The request, or a field of it, is not valid."""
    NOT_LOGGED_IN = 401
    """The session has not logged in."""
    FORBIDDEN = 403
    """The service does not allow it."""
    NO_ROUTE = 404
    """No route matches the action, there is no such service, or the service found nothing."""
    STALE_ATTEMPT = 409
    """A later START of the same session overtook this one."""
    ANSWER_TOO_LARGE = 413
    """The answer is larger than the client takes, or the request than its service does."""
    TOO_LARGE = 413  # also for a request too large for its upstream
    RATE_LIMITED = 429
    """More requests a second than the session may send."""
    INTERNAL = 500
    """The gateway failed at something of its own."""
    UNKNOWN_TYPE = 501
    """The gateway does not know the message type, or the service the action."""
    UPSTREAM_UNREACHABLE = 502
    """The service is unreachable, broke off or failed."""
    BUSY = 503
    """The gateway or the service is full, or stops; retry_after_ms says when to try again."""
    DEADLINE = 504
    """No answer came in time."""
    ANSWER_NOT_KEPT = 507
    """The request ran, but there was no room to keep its answer."""


class Outcome(IntEnum):
    """What the gateway knows of a failed request's execution."""

    UNKNOWN = 0
    """A service may have run it."""
    NOT_STARTED = 1
    """No service ran it."""
    DONE = 2
    """A service ended it."""


class LostReason(IntEnum):
    """Why messages, or a whole session, are lost."""

    NONE = 0
    """No reason was given."""
    EXPIRED = 1
    """Their time to live, or the session's, had passed."""
    OVERFLOW = 2
    """The queue was full."""
    UNKNOWN_SESSION = 3
    """The gateway knows no such session."""
    FAILOVER = 4
    """Another gateway took over without them."""
    DENIED = 5
    """The resume was refused."""
    CONFLATED = 6
    """A newer one took their place."""
    REPLACED = 7
    """Another login of the openid ended the session."""
    KICKED = 8
    """A service ended the session."""


class GatesvrError(Exception):
    """Base of all errors that GateSvr raises on purpose."""


class ConfigError(GatesvrError):
    """A setting is wrong.

    Args:
        message: What is wrong, naming the value.
        source: The file, flag or environment variable that set it.
        field: The dotted name of the field, for example ``dispatch.workers``.
    """

    def __init__(self, message: str, *, source: str = "", field: str = "") -> None:
        self.source = source
        self.field = field
        super().__init__(": ".join(part for part in (source, field, message) if part))


class ProtocolError(GatesvrError):
    """A peer broke the wire protocol; its connection closes with close_code (PROTOCOL 1.4)."""

    def __init__(self, message: str, close_code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
        self.close_code = close_code
        super().__init__(message)


class ExportError(GatesvrError):
    """Bytes from another process of the gateway make no session; none was installed."""


class SessionError(GatesvrError):
    """A session refused something.

    Args:
        message: Why, in one line.
        code: The wire error code.
        retry_after_ms: When to try again; 0 if that does not help.
    """

    def __init__(self, message: str, code: int = 0, *, retry_after_ms: int = 0) -> None:
        self.code = code
        self.retry_after_ms = retry_after_ms
        super().__init__(message)


class RequestFailed(SessionError):
    """The gateway answered a request with an ERROR push.

    Args:
        message: The gateway's error_message.
        code: The wire error code.
        retry_after_ms: When to try again; 0 if that does not help.
        outcome: Whether an upstream may have run it; DONE if only its answer was not kept.
        detail: A request id that the operator can look up.
    """

    def __init__(
        self,
        message: str,
        code: int = 0,
        *,
        retry_after_ms: int = 0,
        outcome: Outcome = Outcome.UNKNOWN,
        detail: str = "",
    ) -> None:
        super().__init__(message, code, retry_after_ms=retry_after_ms)
        self.outcome = outcome
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {super().__str__()}"


class SessionLost(SessionError):
    """The client's session ended, or could not be resumed.

    Args:
        message: Why, in one line.
        code: The close code or wire error code that ended it, 0 for none.
        reason: The gateway's reason, NONE if it gave none.
        session_id: The session, empty if there was none.
        lost_from: First server seq that was never delivered, 0 without a session. Everything before
            it was delivered or announced as lost.
        lost_to: Last server seq that was never delivered, 0 if unknown: a session that is gone does
            not say how much it still held.
        outcome: For a request that the end left unanswered.
        is_final: Whether the client has given up; otherwise a new session follows.
    """

    def __init__(
        self,
        message: str,
        code: int = 0,
        *,
        reason: LostReason = LostReason.NONE,
        session_id: str = "",
        lost_from: int = 0,
        lost_to: int = 0,
        outcome: Outcome = Outcome.UNKNOWN,
        is_final: bool = False,
    ) -> None:
        super().__init__(message, code)
        self.reason = reason
        self.session_id = session_id
        self.lost_from = lost_from
        self.lost_to = lost_to
        self.outcome = outcome
        self.is_final = is_final


class QueueFull(GatesvrError):
    """A bounded queue is at a cap; nothing was added."""


class NotifyOverflow(QueueFull):
    """Notifies arrived faster than the application read them, and these were dropped.

    Args:
        count: Number of notifies dropped.
        first_seq: The server seq of the first.
        last_seq: The server seq of the last.
    """

    def __init__(self, count: int, first_seq: int, last_seq: int) -> None:
        self.count = count
        self.first_seq = first_seq
        self.last_seq = last_seq
        super().__init__(
            f"{count} notifies were dropped, seq {first_seq} to {last_seq}: not read in time"
        )


class UpstreamError(GatesvrError):
    """An upstream call failed.

    Args:
        message: Why, in one line, for logs only: it may name an address.
        code: The wire error code for the client.
        outcome: What is known of the request; DONE if the service itself ended it.
        status: The gRPC status's name, or our own word such as ``refused``.
        address: The endpoint, HOST:PORT or unix:PATH; empty if none was chosen.
        retry_after_ms: When to try again; 0 if that does not help.
    """

    def __init__(
        self,
        message: str,
        code: ErrorCode = ErrorCode.UPSTREAM_UNREACHABLE,
        *,
        outcome: Outcome = Outcome.NOT_STARTED,
        status: str = "",
        address: str = "",
        retry_after_ms: int = 0,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.outcome = outcome
        self.status = status
        self.address = address
        self.retry_after_ms = retry_after_ms

    @property
    def is_started(self) -> bool:
        """Whether the upstream may have run the request."""
        return self.outcome is not Outcome.NOT_STARTED


class ConnectionFailed(GatesvrError):
    """No connection to the gateway: refused, timed out, or its certificate was rejected.

    Args:
        message: Why, in one line.
        code: The close code or QUIC error code, 0 for none.
        is_final: Whether the server's answer says that trying again would not help.
    """

    def __init__(self, message: str, code: int = 0, *, is_final: bool = False) -> None:
        self.code = code
        self.is_final = is_final
        super().__init__(message)
