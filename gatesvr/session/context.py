"""SessionContext: shared by all sessions of a manager."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ErrorCode
from ..observe.metrics import CodeCounts
from .counters import SessionCounters

if TYPE_CHECKING:
    from ..config import SessionConfig
    from .memory import MemoryBudget
    from .outbox import Outbox

__all__ = ["RETRY_MS", "SHED_RETRY_MS", "SessionContext"]

BULK_SHARE = 4
"""Broadcasts take at most one part in this many of a queue (PROTOCOL 5.6)."""
RETRY_MS = 1_000
"""retry_after_ms of a refusal by a limit."""
SHED_RETRY_MS = 5_000
"""retry_after_ms while the gateway is overloaded."""


class SessionContext:
    """Shared by the sessions of a manager: settings as plain numbers, counters, the watch list.

    Attributes:
        watched: Outboxes that the next sweep looks at: those with a TTL or a queue at a cap.
        budget: Bounds the memory of all queues together.
        close_full: Closes the session of that id, by ``when_full = "close"``.
        errors: Counts the ERRORs in place of answers by their code.
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
        self.max_in_flight = config.max_in_flight
        self.max_queue_size = config.max_queue_size
        self.max_requests_per_second = config.max_requests_per_second
        self.max_queue_bytes = config.max_queue_bytes
        self.max_bulk = max(1, self.max_queue_size // BULK_SHARE)
        self.max_bulk_bytes = self.max_queue_bytes // BULK_SHARE
        self.when_full = config.when_full
        self.high_water = high_water
        self.watched: set[Outbox] = set()
        self.budget = budget
        self.close_full = close_full

    def renewed(self, config: SessionConfig) -> SessionContext:
        """Return a context for the sessions to come, with other settings.

        Those that there are keep theirs: their clients were told them at START.
        """
        context = SessionContext(config, self.high_water, self.budget, self.close_full)
        context.counters, context.watched = self.counters, self.watched
        return context
