"""Census: what waits in all sessions' queues, counted off the path of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .session import Session

__all__ = ["Census"]

SLICE = 10_000
"""Sessions that one call of count() looks at, some 3 ms."""


class Census:
    """Goes through all sessions, SLICE of them a call, and sums up their queues.

    Args:
        sessions: All sessions by id; the index's own.

    Attributes:
        messages: Messages sent or to be sent, and not acknowledged.
        bytes: Of their bodies.
        oldest_s: How long the oldest of them has not been acknowledged.
    """

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self.messages = 0
        self.bytes = 0
        self.oldest_s = 0.0
        self._sessions = sessions
        self._left: list[Session] = []  # those that this round has not counted yet
        self._sums = (0, 0, 0.0)

    def count(self, now: float) -> None:
        """Look at the next SLICE sessions; the sums are those of the last whole round.

        Call it once a second.
        """
        left = self._left
        if not left:
            left.extend(self._sessions.values())
            self._sums = (0, 0, 0.0)
        messages, size, oldest_s = self._sums
        for session in left[-SLICE:]:
            queue = session.queue
            age = queue.oldest_age(now)
            if age or queue.queued_bytes:
                messages += len(queue)
                size += queue.queued_bytes
                if age > oldest_s:
                    oldest_s = age
        del left[-SLICE:]
        self._sums = (messages, size, oldest_s)
        if not left:
            self.messages, self.bytes, self.oldest_s = self._sums
