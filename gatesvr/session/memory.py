"""MemoryBudget: keeps all queues together under their bound (PROTOCOL 5.5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..config.memory import MEMORY_SHARE, memory_limit

if TYPE_CHECKING:
    from .session import Session

__all__ = ["MESSAGE_BYTES", "NAME_BYTES", "MemoryBudget"]

MESSAGE_BYTES = 80
"""A queued message's cost beside its body: a place in the ring, a bytes object's own part."""
NAME_BYTES = 256
"""Cost of a remembered push_id or conflate_key of the greatest length."""
SLICE = 64
"""Sessions that one push counts anew, at most, when the budget is spent."""
SLACK_SHARE = 64
"""Until all are counted anew, queues may exceed the bound by one part in this many of it."""


class MemoryBudget:
    """Counts the memory of all outboxes, and closes sessions when it is above the bound.

    A push charges what it queues. Acks, expiry and answers are not charged, since that would cost
    every message; the count of a session is right again when the session is counted anew. Each
    sweep counts all. A push that finds the budget spent counts the next SLICE sessions; once such
    pushes have gone round all of them, the budget is truly spent and sessions have to go. So no
    push pays for all sessions, and no session is closed because of an old count.

    Args:
        limit: The bound in bytes, 0 for a part of the process's memory limit.
        sessions: All sessions by id; the index's own.
        detached: Sessions without a connection, the longest-suspended first; the index's own.
        close: Closes a session to free its memory; it calls release().

    Attributes:
        left: Bytes that queues may still take; below 0 a push calls find_room() first.
        is_full: Whether nothing more can be freed until the next sweep: notifies get BUSY.
    """

    __slots__ = (
        "_close",
        "_detached",
        "_limit",
        "_round",
        "_sessions",
        "_slack",
        "is_full",
        "left",
    )

    def __init__(
        self,
        limit: int,
        sessions: Mapping[str, Session],
        detached: Mapping[Session, None],
        close: Callable[[Session, float], None],
    ) -> None:
        self._limit = limit or memory_limit() // MEMORY_SHARE
        self._slack = self._limit // SLACK_SHARE
        self._sessions = sessions
        self._detached = detached
        self._close = close
        self._round: list[Session] = []  # those that this round has not counted yet
        self.left = self._limit
        self.is_full = False

    def apply(self, limit: int) -> None:
        """Take another bound, 0 for a part of the process's memory limit."""
        queued_bytes = self.queued_bytes
        self._limit = limit or memory_limit() // MEMORY_SHARE
        self._slack = self._limit // SLACK_SHARE
        self.left = self._limit - queued_bytes
        self.is_full = self.is_full and self.left < 0

    @property
    def queued_bytes(self) -> int:
        """Memory of all outboxes, as counted."""
        return self._limit - self.left

    def find_room(self, now: float) -> bool:
        """Return whether a notify may be queued after all; close sessions if nothing else helps."""
        if self.is_full:
            return False
        waiting = self._round
        if not waiting:
            waiting.extend(self._sessions.values())
        for _ in range(min(SLICE, len(waiting))):
            self._count(waiting.pop())
        if self.left >= 0:
            waiting.clear()
            return True
        if waiting:
            return self.left >= -self._slack
        self._free(now)
        return not self.is_full

    def recount(self, now: float) -> None:
        """Count every session anew, and close sessions where they are above the bound."""
        self._round.clear()
        left = self._limit
        for session in self._sessions.values():
            outbox = session.outbox
            size = outbox.memory_bytes()
            if size != outbox.counted_bytes:
                outbox.counted_bytes = size
            left -= size
        self.left = left
        self._free(now)

    def add(self, session: Session) -> None:
        """Count a session that has come with a queue, whatever the bound says."""
        self._count(session)

    def release(self, session: Session) -> None:
        """Give back what a session took: it is Closed."""
        outbox = session.outbox
        self.left += outbox.counted_bytes
        outbox.counted_bytes = 0
        if self.left >= 0:
            self.is_full = False

    def _count(self, session: Session) -> None:
        outbox = session.outbox
        size = outbox.memory_bytes()
        self.left += outbox.counted_bytes - size
        outbox.counted_bytes = size

    def _free(self, now: float) -> None:
        """Close the longest-suspended sessions until the rest fits."""
        if self.left < 0:
            for session in list(self._detached):
                # PROTOCOL 5.5: only "sessions without unacked answers".
                if session.queue.kept or session.pending or not session.outbox.counted_bytes:
                    continue
                self._close(session, now)
                if self.left >= 0:
                    break
        self.is_full = self.left < 0
