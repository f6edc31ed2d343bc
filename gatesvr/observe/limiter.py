"""LogLimiter: bounds the lines of events that a peer can cause as often as it likes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from .log import keys

__all__ = ["INTERVAL_S", "LogLimiter"]

INTERVAL_S = 1.0
"""Shortest time between two lines of one kind."""
MAX_KINDS = 1_024
"""Most kinds remembered; above it all start anew."""


@dataclass(slots=True)
class _Kind:
    """The events of one kind since its last line."""

    until: float  # no line before
    suppressed: int = 0
    last: tuple[int, str, dict[str, Any]] = (0, "", {})  # of the suppressed ones


class LogLimiter:
    """Logs events, at most one line a second of each kind.

    A line gives the number of events of its kind suppressed before it, as ``suppressed``. What no
    later event brings out, tick() writes: the last one suppressed, and how many were before it.

    Args:
        logger: The layer's.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._kinds: dict[tuple[str, object], _Kind] = {}

    def log(
        self,
        level: int,
        event: str,
        now: float,
        kind: object = "",
        error: BaseException | None = None,
        /,
        **values: Any,
    ) -> None:
        """Log an event, or count it as suppressed.

        Args:
            level: Its level.
            event: Its name.
            now: Loop time.
            kind: Hashable: what it has in common with those that may suppress it, beside its name.
            error: Whose traceback to write; not kept for tick(), nor are the objects it holds.
            values: Its keys.
        """
        name = (event, kind)
        known = self._kinds.get(name)
        if known is not None and now < known.until:
            known.suppressed += 1
            known.last = level, event, values
            return
        if known is None and len(self._kinds) >= MAX_KINDS:
            self.close()
        self._write(level, event, values, known.suppressed if known is not None else 0, error)
        self._kinds[name] = _Kind(now + INTERVAL_S)

    def tick(self, now: float) -> bool:
        """Write the numbers that are due, and forget kinds without suppressed events.

        Returns:
            Whether there is something for another tick, INTERVAL_S later.
        """
        for name, kind in list(self._kinds.items()):
            if now >= kind.until:
                if kind.suppressed:
                    self._write(*kind.last, kind.suppressed - 1)
                    self._kinds[name] = _Kind(now + INTERVAL_S)
                else:
                    del self._kinds[name]
        return bool(self._kinds)

    def close(self) -> None:
        """Write every number and forget all kinds."""
        for kind in self._kinds.values():
            if kind.suppressed:
                self._write(*kind.last, kind.suppressed - 1)
        self._kinds.clear()

    def _write(
        self,
        level: int,
        event: str,
        values: dict[str, Any],
        suppressed: int,
        error: BaseException | None = None,
    ) -> None:
        extra = keys(**values, suppressed=suppressed)
        self._logger.log(level, event, extra=extra, exc_info=error)
