"""SessionContext: what all sessions share, and the layer's counters."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..observe.metrics import Counters

if TYPE_CHECKING:
    from ..config import PushConfig, SessionConfig
    from .session import Session

__all__ = ["SessionContext", "SessionCounters", "memory_limit"]

BULK_SHARE = 4
"""Broadcasts take at most one part in this many of a queue (PROTOCOL 5.6)."""
MEMORY_SHARE = 4
"""All queues together take at most one part in this many of the memory limit (PROTOCOL 5.5)."""
MESSAGE_BYTES = 80
"""What a queued message takes beside its body: a place in the ring, a bytes object's own part."""
NAME_BYTES = 256
"""What a remembered push_id or conflate_key of the longest takes."""
ASSUMED_MEMORY_BYTES = 4 << 30
"""Memory of a machine whose system does not tell."""
RECOUNT_SHARE = 64
"""Near the bound memory is counted again after one part in this many of it."""


@dataclass(slots=True)
class SessionCounters(Counters):
    """What the session layer counts; every refusal has its own."""

    sessions: int = 0
    """Sessions now (a gauge)."""
    inited: int = 0
    """Sessions that have not logged in (a gauge)."""
    suspended: int = 0
    """Logged-in sessions without a connection (a gauge)."""
    queued_bytes: int = 0
    """Memory that all queues took when it was counted last (a gauge)."""
    tombstones: int = 0
    """Ended sessions remembered (a gauge)."""
    created: int = 0
    logins: int = 0
    closed: int = 0
    stopped: int = 0
    expired: int = 0
    login_timeouts: int = 0
    replaced: int = 0
    kicked: int = 0
    refused_starts: int = 0
    refused_full: int = 0
    refused_address: int = 0
    refused_logins: int = 0
    resumes: int = 0
    steals: int = 0
    base_resumes: int = 0
    resumes_ahead: int = 0
    """Resumes from a position that was never given out; each ends its session."""
    resumes_unknown: int = 0
    resumes_denied: int = 0
    resumes_stale: int = 0
    resumes_limited: int = 0
    resumes_tombstoned: int = 0
    token_reused: int = 0
    duplicates: int = 0
    gaps: int = 0
    answers_too_large: int = 0
    answers_not_kept: int = 0
    pushes: int = 0
    pushes_held: int = 0
    pushes_bound: int = 0
    pushes_busy: int = 0
    pushes_too_large: int = 0
    pushes_too_late: int = 0
    push_repeats: int = 0
    notifies_expired: int = 0
    notifies_dropped: int = 0
    notifies_conflated: int = 0
    """Notifies that a newer one with the same key replaced before they were sent."""
    slow_consumers: int = 0
    memory_closed: int = 0
    events: int = 0
    """Events that happened while there was a subscriber, of whatever kinds."""
    events_missed: int = 0
    """Events left out because a subscriber was too slow, each for itself."""
    event_subscribers: int = 0
    """Subscribers of events now (a gauge)."""
    event_subscribers_refused: int = 0


class SessionContext:
    """What all sessions of a manager share: settings as plain numbers, counters, the watch list.

    Attributes:
        watched: Sessions that a sweep has something to look at in: TTLs, a queue at a cap.
        is_memory_full: Whether all queues together are above their bound; notifies get BUSY.
        memory_left: What notifies may take until the queues are counted again; below 0 they are
            before the next one is queued.
        close: Closes a session whose queue is full and whose policy says so.
        recount: Counts the memory of all queues and ends sessions where it is above its bound.
    """

    __slots__ = (
        "close",
        "counters",
        "high_water",
        "is_memory_full",
        "max_bound_bytes",
        "max_bound_notifies",
        "max_bulk",
        "max_bulk_bytes",
        "max_in_flight",
        "max_push_ids",
        "max_queue_bytes",
        "max_queue_size",
        "max_queues_bytes",
        "memory_left",
        "recount",
        "watched",
        "when_full",
    )

    def __init__(
        self,
        config: SessionConfig,
        push: PushConfig,
        high_water: int,
        close: Callable[[Session, str, float], None],
        recount: Callable[[float], None],
    ) -> None:
        self.counters = SessionCounters()
        self.max_in_flight = int(config.max_in_flight)
        self.max_queue_size = int(config.max_queue_size)
        self.max_queue_bytes = int(config.max_queue_bytes)
        self.max_queues_bytes = int(config.max_queues_bytes) or memory_limit() // MEMORY_SHARE
        self.max_bulk = max(1, self.max_queue_size // BULK_SHARE)
        self.max_bulk_bytes = self.max_queue_bytes // BULK_SHARE
        self.max_push_ids = int(push.max_push_ids)
        self.max_bound_notifies = int(push.max_bound_notifies)
        self.max_bound_bytes = int(push.max_bound_bytes)
        self.when_full = config.when_full
        self.high_water = high_water
        self.is_memory_full = False
        self.memory_left = self.max_queues_bytes
        self.watched: set[Session] = set()
        self.close = close
        self.recount = recount


def memory_limit() -> int:
    """Return the bytes of memory that this process may use: its cgroup's, or the machine's."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        text = "max"
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not every system tells
        machine = ASSUMED_MEMORY_BYTES
    return min(int(text), machine) if text.isdigit() else machine
