"""CredentialExpiry: the sessions whose credentials expire, by the second (PROTOCOL 3.10)."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session import Session

__all__ = ["CredentialExpiry"]


class CredentialExpiry:
    """Sessions by the second in which their credentials expire.

    A session that ends is discarded at once, however far its expiry lies ahead.

    Complexity: add() and discard() are O(1) but for the first session of a second.
    """

    def __init__(self) -> None:
        self._sessions: dict[int, set[Session]] = {}
        self._seconds: list[int] = []

    def __len__(self) -> int:
        """Return the number of sessions."""
        return sum(map(len, self._sessions.values()))

    def add(self, session: Session) -> None:
        """Keep a session until its auth_deadline, unless that never comes."""
        if session.auth_deadline == math.inf:
            return
        second = math.ceil(session.auth_deadline)
        if second not in self._sessions:
            self._sessions[second] = set()
            heapq.heappush(self._seconds, second)
        self._sessions[second].add(session)

    def discard(self, session: Session) -> None:
        """Forget a session; call it before its auth_deadline changes."""
        if session.auth_deadline != math.inf:
            self._sessions.get(math.ceil(session.auth_deadline), set()).discard(session)

    def take(self, now: float) -> list[Session]:
        """Remove and return the sessions whose credentials have expired."""
        expired: list[Session] = []
        while self._seconds and self._seconds[0] <= now:
            expired.extend(self._sessions.pop(heapq.heappop(self._seconds)))
        return expired
