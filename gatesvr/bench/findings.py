"""The findings of a DeliveryChecker: one small class for each way to break a promise."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AnsweredTwice",
    "Broken",
    "ExecutedTwice",
    "FalseOutcome",
    "Finding",
    "Gap",
    "Lost",
    "NeedlessLoss",
    "NeedlessRefusal",
    "Reordered",
    "Repeated",
    "Replaced",
    "StaleResume",
    "Torn",
    "Unanswered",
    "Unasked",
    "Unexplained",
    "WrongAnswer",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken promise.

    Attributes:
        session_id: The session; the client's name if it has no session.
    """

    session_id: str


@dataclass(frozen=True, slots=True)
class Broken(Finding):
    """A peer broke the wire protocol, or failed internally."""

    why: str


@dataclass(frozen=True, slots=True)
class Gap(Finding):
    """The application got seq right after position, and no loss explains the gap."""

    position: int
    seq: int


@dataclass(frozen=True, slots=True)
class Repeated(Finding):
    """The application got a seq, or a push, for the second time."""

    seq: int
    push: str = ""


@dataclass(frozen=True, slots=True)
class Reordered(Finding):
    """A push, an answer or an execution overtook an earlier one."""

    what: str
    seq: int
    after: int


@dataclass(frozen=True, slots=True)
class Lost(Finding):
    """A push was accepted but never delivered, and no loss accounts for it."""

    push: str


@dataclass(frozen=True, slots=True)
class Unexplained(Finding):
    """The gateway announced a loss without a reason, or for more messages than it dropped."""

    from_seq: int
    to_seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unasked(Finding):
    """The application got a push that was never sent to this session, or got it too often."""

    seq: int
    push: str


@dataclass(frozen=True, slots=True)
class Torn(Finding):
    """A bundle's messages came apart or out of order."""

    client_seq: int
    seq: int
    why: str


@dataclass(frozen=True, slots=True)
class Unanswered(Finding):
    """A request of a living session never ended."""

    request: str


@dataclass(frozen=True, slots=True)
class AnsweredTwice(Finding):
    """A request got two answers or ERRORs, or one was for a request that was never made."""

    client_seq: int
    seq: int


@dataclass(frozen=True, slots=True)
class WrongAnswer(Finding):
    """A request got another request's answer."""

    request: str
    answer: str


@dataclass(frozen=True, slots=True)
class ExecutedTwice(Finding):
    """A request reached an upstream twice without being REFUSED in between."""

    client_seq: int
    request: str


@dataclass(frozen=True, slots=True)
class FalseOutcome(Finding):
    """A request failed as NOT_STARTED although an upstream ran it."""

    request: str


@dataclass(frozen=True, slots=True)
class NeedlessRefusal(Finding):
    """A good request was refused: 401 after a good hello, 400 for a number out of order."""

    request: str
    code: int


@dataclass(frozen=True, slots=True)
class NeedlessLoss(Finding):
    """A client lost a session that is still alive."""

    client: str
    reason: str


@dataclass(frozen=True, slots=True)
class StaleResume(Finding):
    """An older connection of a client took its session from a newer one."""

    connection: int
    newer: int


@dataclass(frozen=True, slots=True)
class Replaced(Finding):
    """A session was replaced although no other had logged in."""
