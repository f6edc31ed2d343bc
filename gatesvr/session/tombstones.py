"""Tombstones: why sessions ended, for clients that come back (PROTOCOL 4.7)."""

from __future__ import annotations

from ..protocol.messages import LostReason

__all__ = ["Tombstones"]


class Tombstones:
    """Why sessions ended, for the resume window; beyond the bound the oldest are forgotten.

    Args:
        max_tombstones: The bound.
        window: Seconds that one is kept.
    """

    def __init__(self, max_tombstones: int, window: float) -> None:
        self._max_tombstones = max_tombstones
        self._window = window
        self._by_id: dict[str, tuple[LostReason, float]] = {}

    def apply(self, window: float) -> None:
        """Keep those to come for another time."""
        self._window = window

    def __len__(self) -> int:
        """Return the number of tombstones."""
        return len(self._by_id)

    def add(self, session_id: str, reason: LostReason, now: float) -> None:
        """Remember why a session ended."""
        while len(self._by_id) >= self._max_tombstones:
            del self._by_id[next(iter(self._by_id))]
        self._by_id[session_id] = (reason, now + self._window)

    def find(self, session_id: str, now: float) -> LostReason | None:
        """Return why a session ended, None if that is not known."""
        reason, until = self._by_id.get(session_id, (LostReason.NONE, 0.0))
        return reason if until > now else None

    def sweep(self, now: float) -> None:
        """Forget what is past the window."""
        while self._by_id:
            session_id, (_, until) = next(iter(self._by_id.items()))
            if until > now:
                break
            del self._by_id[session_id]
