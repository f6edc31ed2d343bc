"""What each process saw, as calls of a DeliveryChecker; and the verdict over all of it.

The processes share one machine's monotonic clock, so that their histories merge in the order of
what happened. What one of them did is told at the time before it did it, where another may see the
effect before the first knows the outcome: a push may arrive before its pusher knows it was taken.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from gatesvr.bench.checker import DeliveryChecker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Call", "History", "judge", "merge"]


class Call(NamedTuple):
    """A method of a DeliveryChecker to call; at is monotonic seconds."""

    at: float
    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]


class History:
    """What one process saw."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def tell(self, method: str, *args: Any, at: float = 0.0, **options: Any) -> None:
        """Add a call; at is now unless given."""
        self.calls.append(Call(at or time.monotonic(), method, args, options))


def merge(histories: Iterable[Iterable[Call]]) -> list[Call]:
    """Return the calls of all histories in the order in which they happened."""
    return sorted((call for calls in histories for call in calls), key=lambda call: call.at)


def judge(
    calls: Iterable[Call], clients: Iterable[str], last_seqs: Mapping[str, int]
) -> DeliveryChecker:
    """Have a checker read a whole run.

    Args:
        calls: Merged.
        clients: Names of the clients; each lives to the end.
        last_seqs: The highest seq that the gateway gave out, by session.
    """
    checker = DeliveryChecker()
    for call in calls:
        getattr(checker, call.method)(*call.args, **call.options)
    for session_id, last_seq in last_seqs.items():
        checker.settled(session_id, last_seq=last_seq)
    for client in clients:
        checker.client_settled(client)
    return checker
