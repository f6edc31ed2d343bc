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
    """Sessions made by a START."""
    logins: int = 0
    """Sessions that logged in; a later hello of one is none."""
    refused_logins: int = 0
    """Hellos refused: answered otherwise than 200, or forbidden by ``on_duplicate``."""
    closed: int = 0
    """Sessions ended, in whatever way; the next six are among them."""
    stopped: int = 0
    """Sessions that their client ended by STOP."""
    expired: int = 0
    """Sessions whose client did not come back within the resume window."""
    login_timeouts: int = 0
    """Sessions that did not log in within ``login_timeout``, with a connection or without."""
    replaced: int = 0
    """Sessions that another login of their openid ended."""
    kicked: int = 0
    """Sessions that an upstream ended."""
    memory_closed: int = 0
    """Suspended sessions ended because all queues together were above their bound."""
    refused_starts: int = 0
    """STARTs refused, for whatever reason; some reasons have counters of their own."""
    refused_full: int = 0
    """STARTs refused because there were too many sessions."""
    refused_address: int = 0
    """STARTs refused because too many sessions of their address had not logged in."""
    resumes_ahead: int = 0
    """Resumes from a position that was never given out; each ends its session."""
    resumes_unknown: int = 0
    """Resumes of a session that there is not; most are answered by a new session."""
    resumes_denied: int = 0
    """Resumes with a wrong token or openid."""
    resumes_stale: int = 0
    """Resumes that a later attempt had overtaken."""
    resumes_limited: int = 0
    """Resumes of one session, or wrong tokens of one address, that were too many."""
    resumes_tombstoned: int = 0
    """Resumes of a session that a kick or a replacement had ended."""
    token_reused: int = 0
    """Wrong tokens that had been good once."""
    resumes: int = 0
    """Sessions resumed with a token."""
    base_resumes: int = 0
    """Sessions of protocol 0 resumed by their openid."""
    steals: int = 0
    """Resumes, of both kinds, that took the session from a connection it still had."""
    duplicates: int = 0
    """Requests whose number had been accepted before."""
    gaps: int = 0
    """Requests whose number was not the next one."""
    answers_too_large: int = 0
    """Answers larger than the client takes: ERROR 413."""
    answers_not_kept: int = 0
    """Answers that the queue had no room for: ERROR 507."""
    pushes_taken: int = 0
    """Notifies that sessions took, one for each session, those of broadcasts included."""
    pushes_held: int = 0
    """Those of them that wait for the session's login."""
    pushes_bound: int = 0
    """Notifies that wait for the answer to their request; not among pushes_taken."""
    pushes_busy: int = 0
    """Notifies that a session did not take because its queue, or memory, was full."""
    pushes_too_large: int = 0
    """Notifies that a session did not take because its client takes none so large."""
    pushes_too_late: int = 0
    """Notifies bound to come before an answer that was gone."""
    pushes_unasked: int = 0
    """Notifies bound to a request that the session has not sent."""
    push_repeats: int = 0
    """Pushes not queued again because the session had seen their push_id."""
    notifies_expired: int = 0
    """Notifies whose TTL passed before they were acknowledged."""
    notifies_dropped: int = 0
    """Notifies dropped by ``drop_oldest``, or because no room was left around an answer."""
    notifies_conflated: int = 0
    """Notifies that a newer one with the same key replaced before they were sent."""
    slow_consumers: int = 0
    """Connections closed 4413: the queue was at a cap and no ack moved."""
    events: int = 0
    """Events that happened while there was a subscriber, of whatever kinds."""
    events_missed: int = 0
    """Events left out because a subscriber was too slow, each for itself."""
    event_subscribers: int = 0
    """Subscribers of events now (a gauge)."""
    event_subscribers_refused: int = 0
    """Subscribers refused because there were ``push.max_event_subscribers``."""
    internal_errors: int = 0
    """Sweeps that raised."""


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
