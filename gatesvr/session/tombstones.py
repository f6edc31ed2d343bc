"""Tombstones: sessions ended by others, for the clients that come back (PROTOCOL 4.7)."""

from __future__ import annotations

from ..protocol.messages import LostReason

__all__ = ["Tombstones"]


class Tombstones:
    """Why sessions were ended, for the resume window; the oldest go where there are too many.

    Args:
        max_tombstones: How many at most.
        window: How long one stays, seconds.
    """

    def __init__(self, max_tombstones: int, window: float) -> None:
        self._max_tombstones = max_tombstones
        self._window = window
        self._by_id: dict[str, tuple[LostReason, float]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by_id)

    def add(self, session_id: str, reason: LostReason, now: float) -> None:
        """Remember why a session was ended."""
        while len(self._by_id) >= self._max_tombstones:
            del self._by_id[next(iter(self._by_id))]
        self._by_id[session_id] = (reason, now + self._window)

    def find(self, session_id: str, now: float) -> LostReason | None:
        """Return why a session was ended, None where that is not known."""
        reason, until = self._by_id.get(session_id, (LostReason.NONE, 0.0))
        return reason if until > now else None

    def sweep(self, now: float) -> None:
        """Forget what is past the window."""
        while self._by_id:
            session_id, (_, until) = next(iter(self._by_id.items()))
            if until > now:
                break
            del self._by_id[session_id]
