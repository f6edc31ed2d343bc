"""What a client counts."""

from __future__ import annotations

from dataclasses import dataclass

from ..observe.metrics import Counter, Counters

__all__ = ["ClientCounters"]


@dataclass(slots=True)
class ClientCounters(Counters):
    """What a client did."""

    requests: Counter = 0
    """Requests sent."""
    answers: Counter = 0
    """Answers received, of any code."""
    failures: Counter = 0
    """Requests answered by an ERROR."""
    timeouts: Counter = 0
    """Requests whose caller was told of a time-out."""
    late: Counter = 0
    """Answers and ERRORs that nobody waited for any more."""
    refused: Counter = 0
    """Requests refused here because too many waited."""
    notifies: Counter = 0
    """Notifies received."""
    lost: Counter = 0
    """Messages that the gateway announced as lost."""
    session_losses: Counter = 0
    """Sessions that could not be resumed."""
