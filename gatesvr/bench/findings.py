"""What a DeliveryChecker finds: one small class for each way in which a promise is broken."""

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
        session_id: Whose; where a client has no session, the client's name.
    """

    session_id: str


@dataclass(frozen=True, slots=True)
class Broken(Finding):
    """A peer broke the wire protocol, or failed inside."""

    why: str


@dataclass(frozen=True, slots=True)
class Gap(Finding):
    """The application was handed seq behind position, and nothing was said of what lies between."""

    position: int
    seq: int


@dataclass(frozen=True, slots=True)
class Repeated(Finding):
    """The application was handed a seq, or a push, that it had been handed before."""

    seq: int
    push: str = ""


@dataclass(frozen=True, slots=True)
class Reordered(Finding):
    """A push, an answer or an execution came before one that had to come first."""

    what: str
    seq: int
    after: int


@dataclass(frozen=True, slots=True)
class Lost(Finding):
    """A push was accepted, never handed to the application, and no loss accounts for it."""

    push: str


@dataclass(frozen=True, slots=True)
class Unexplained(Finding):
    """A loss was announced that the gateway had no reason for, or larger than what it dropped."""

    from_seq: int
    to_seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unasked(Finding):
    """The application was handed a push that nobody sent to this session, or sent once only."""

    seq: int
    push: str


@dataclass(frozen=True, slots=True)
class Torn(Finding):
    """A bundle's messages did not come one right behind the other, or not in their order."""

    client_seq: int
    seq: int
    why: str


@dataclass(frozen=True, slots=True)
class Unanswered(Finding):
    """A request of a living session came to no end."""

    request: str


@dataclass(frozen=True, slots=True)
class AnsweredTwice(Finding):
    """A request has two answers or ERRORs, or one that was never asked for."""

    client_seq: int
    seq: int


@dataclass(frozen=True, slots=True)
class WrongAnswer(Finding):
    """A request got the answer to another one."""

    request: str
    answer: str


@dataclass(frozen=True, slots=True)
class ExecutedTwice(Finding):
    """A request was handed to an upstream again without having been REFUSED."""

    client_seq: int
    request: str


@dataclass(frozen=True, slots=True)
class FalseOutcome(Finding):
    """A request failed as NOT_STARTED, and an upstream had run it."""

    request: str


@dataclass(frozen=True, slots=True)
class NeedlessRefusal(Finding):
    """A good request was refused: 401 behind a good hello, 400 for a number out of order."""

    request: str
    code: int


@dataclass(frozen=True, slots=True)
class NeedlessLoss(Finding):
    """A client lost a session that lives on."""

    client: str
    reason: str


@dataclass(frozen=True, slots=True)
class StaleResume(Finding):
    """An older connection of a client took its session from a newer one."""

    connection: int
    newer: int


@dataclass(frozen=True, slots=True)
class Replaced(Finding):
    """A session was replaced though nobody else had logged in."""
