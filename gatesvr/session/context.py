"""SessionContext: shared by all sessions of a manager."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ErrorCode
from ..observe.metrics import CodeCounts
from .counters import SessionCounters
from .results import Results

if TYPE_CHECKING:
    from ..config import SessionConfig
    from .memory import MemoryBudget
    from .outbox import Outbox

__all__ = ["RETRY_MS", "SHED_RETRY_MS", "Limits", "SessionContext"]

BULK_SHARE = 4
"""Broadcasts take at most one part in this many of a queue (PROTOCOL 5.6)."""
RETRY_MS = 1_000
"""retry_after_ms of a refusal by a limit."""
SHED_RETRY_MS = 5_000
"""retry_after_ms while the gateway is overloaded."""


class Limits(NamedTuple):
    """The limits of a session that its client knows; they stay as they were at its START."""

    max_in_flight: int
    max_queue_size: int
    max_queue_bytes: int
    max_requests_per_second: float


class SessionContext:
    """Shared by the sessions of a manager: settings as plain numbers, counters, the watch list.

    Attributes:
        watched: Outboxes that the next sweep looks at: those with a TTL or a queue at a cap.
        budget: Bounds the memory of all queues together.
        close_full: Closes the session of that id, by ``when_full = "close"``.
        errors: Counts the ERRORs in place of answers by their code.
        results: Keeps what answers bring for sessions that this process does not own.
    """

    __slots__ = (
        "budget",
        "close_full",
        "counters",
        "errors",
        "high_water",
        "max_bulk",
        "max_bulk_bytes",
        "max_in_flight",
        "max_queue_bytes",
        "max_queue_size",
        "max_requests_per_second",
        "results",
        "watched",
        "when_full",
    )

    def __init__(
        self,
        config: SessionConfig,
        high_water: int,
        budget: MemoryBudget,
        close_full: Callable[[str, float], None],
    ) -> None:
        self.counters = SessionCounters()
        self.errors = CodeCounts(ErrorCode)
        self.high_water = high_water
        self.watched: set[Outbox] = set()
        self.budget = budget
        self.results = Results()
        self.close_full = close_full
        self._set(config)

    def _set(self, config: SessionConfig) -> None:
        self._limit(
            Limits(
                config.max_in_flight,
                config.max_queue_size,
                config.max_queue_bytes,
                config.max_requests_per_second,
            )
        )
        self.when_full = config.when_full

    def _limit(self, limits: Limits) -> None:
        self.max_in_flight = limits.max_in_flight
        self.max_queue_size = limits.max_queue_size
        self.max_requests_per_second = limits.max_requests_per_second
        self.max_queue_bytes = limits.max_queue_bytes
        self.max_bulk = max(1, self.max_queue_size // BULK_SHARE)
        self.max_bulk_bytes = self.max_queue_bytes // BULK_SHARE

    @property
    def limits(self) -> Limits:
        """What a client is told at START."""
        return Limits(
            self.max_in_flight,
            self.max_queue_size,
            self.max_queue_bytes,
            self.max_requests_per_second,
        )

    def limited(self, limits: Limits) -> SessionContext:
        """Return a context for a session that another process has started under its limits."""
        if limits == self.limits:
            return self
        context = copy.copy(self)
        context._limit(limits)
        return context

    def renewed(self, config: SessionConfig) -> SessionContext:
        """Return a context for the sessions to come, with other settings.

        Those that there are keep theirs: their clients were told them at START.
        """
        context = copy.copy(self)
        context._set(config)
        return context
