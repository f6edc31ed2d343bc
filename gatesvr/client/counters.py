"""What a client counts."""

from __future__ import annotations

from dataclasses import dataclass

from ..observe.metrics import Counters

__all__ = ["ClientCounters"]


@dataclass(slots=True)
class ClientCounters(Counters):
    """What a client did."""

    requests: int = 0
    """Requests sent."""
    answers: int = 0
    """Answers received, of any code."""
    failures: int = 0
    """Requests answered by an ERROR."""
    timeouts: int = 0
    """Requests whose caller was told of a time-out."""
    late: int = 0
    """Answers and ERRORs that nobody waited for any more."""
    refused: int = 0
    """Requests refused here because too many waited."""
    notifies: int = 0
    """Notifies received."""
    lost: int = 0
    """Messages that the gateway announced as lost."""
    session_losses: int = 0
    """Sessions that could not be resumed."""
