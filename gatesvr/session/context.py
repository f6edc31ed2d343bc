"""SessionContext: shared by all sessions of a manager; and the layer's counters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..observe.metrics import Counter, Counters, Gauge

if TYPE_CHECKING:
    from ..config import PushConfig, SessionConfig
    from .memory import MemoryBudget
    from .outbox import Outbox

__all__ = ["RETRY_MS", "SessionContext", "SessionCounters"]

BULK_SHARE = 4
"""Broadcasts take at most one part in this many of a queue (PROTOCOL 5.6)."""
MAX_PUSH_IDS = 256
"""push_ids that a session remembers (PROTOCOL 7.5)."""
MAX_BOUND_NOTIFIES = 64
"""Notifies bound to one request."""
MAX_BOUND_BYTES = 256 << 10
"""Bytes of bound notifies of a session."""
RETRY_MS = 1_000
"""retry_after_ms of a refusal by a limit."""


@dataclass(slots=True)
class SessionCounters(Counters):
    """The session layer's counters; every kind of refusal has its own."""

    sessions: Gauge = 0
    """Sessions now."""
    inited: Gauge = 0
    """Sessions that have not logged in."""
    suspended: Gauge = 0
    """Logged-in sessions without a connection."""
    queued_bytes: Gauge = 0
    """Memory of all queues, as counted last."""
    tombstones: Gauge = 0
    """Ended sessions remembered."""
    created: Counter = 0
    """Sessions made by a START."""
    logins: Counter = 0
    """Sessions that logged in; a later hello does not count."""
    refused_logins: Counter = 0
    """Hellos refused: not answered 200, or forbidden by ``on_duplicate``."""
    closed: Counter = 0
    """Sessions ended, in any way; the next six are among them."""
    stopped: Counter = 0
    """Sessions that their client ended by STOP."""
    expired: Counter = 0
    """Sessions whose client did not come back within the resume window."""
    login_timeouts: Counter = 0
    """Sessions that did not log in within ``login_timeout``, with a connection or without."""
    replaced: Counter = 0
    """Sessions that another login of their openid ended."""
    kicked: Counter = 0
    """Sessions that an upstream ended."""
    memory_closed: Counter = 0
    """Suspended sessions ended because all queues together were above their bound."""
    refused_starts: Counter = 0
    """STARTs refused, for any reason; some reasons have counters of their own."""
    refused_full: Counter = 0
    """STARTs refused because there were too many sessions."""
    refused_address: Counter = 0
    """STARTs refused because too many sessions of their address had not logged in."""
    resumes_ahead: Counter = 0
    """Resumes from a position that was never given out; each ends its session."""
    resumes_unknown: Counter = 0
    """Resumes of an unknown session; most are answered by a new session."""
    resumes_denied: Counter = 0
    """Resumes with a wrong token or openid."""
    resumes_stale: Counter = 0
    """Resumes that a later attempt had overtaken."""
    resumes_limited: Counter = 0
    """Resumes refused because one session, or one address with wrong tokens, had too many."""
    resumes_tombstoned: Counter = 0
    """Resumes of a session that a kick or a replacement had ended."""
    token_reused: Counter = 0
    """Wrong tokens that had been good once."""
    resumes: Counter = 0
    """Sessions resumed with a token."""
    base_resumes: Counter = 0
    """Sessions of protocol 0 resumed by their openid."""
    steals: Counter = 0
    """Resumes, of both kinds, that took the session from a connection it still had."""
    duplicates: Counter = 0
    """Requests whose number had been accepted before."""
    gaps: Counter = 0
    """Requests whose number was not the next one."""
    answers_too_large: Counter = 0
    """Answers replaced by ERROR 413: larger than the client takes."""
    answers_not_kept: Counter = 0
    """Answers replaced by ERROR 507: the queue had no room."""
    pushes_taken: Counter = 0
    """Notifies taken, counted for each session, broadcasts included."""
    pushes_held: Counter = 0
    """Those of them that wait for the session's login."""
    pushes_bound: Counter = 0
    """Notifies that wait for the answer to their request; not among pushes_taken."""
    pushes_busy: Counter = 0
    """Notifies refused because the session's queue, or memory, was full."""
    pushes_too_large: Counter = 0
    """Notifies refused because they are larger than the client takes."""
    pushes_too_late: Counter = 0
    """Notifies refused because the answer that they should precede was gone."""
    pushes_unasked: Counter = 0
    """Notifies refused because the session has not sent their request."""
    push_repeats: Counter = 0
    """Pushes not queued because the session had seen their push_id."""
    notifies_expired: Counter = 0
    """Notifies whose TTL passed before they were acknowledged."""
    notifies_dropped: Counter = 0
    """Notifies dropped by ``drop_oldest``, or because no room was left around an answer."""
    notifies_conflated: Counter = 0
    """Notifies that a newer one with the same key replaced before they were sent."""
    slow_consumers: Counter = 0
    """Connections closed 4413: the queue was at a cap and no ack moved."""
    events: Counter = 0
    """Events that happened while there was a subscriber, of any kind."""
    events_missed: Counter = 0
    """Events left out because a subscriber was too slow, counted for each subscriber."""
    event_subscribers: Gauge = 0
    """Subscribers of events now."""
    event_subscribers_refused: Counter = 0
    """Subscribers refused because there were ``push.max_event_subscribers``."""
    internal_errors: Counter = 0
    """Sweeps that raised."""


class SessionContext:
    """Shared by all sessions of a manager: settings as plain numbers, counters, the watch list.

    Attributes:
        watched: Outboxes that the next sweep looks at: those with a TTL or a queue at a cap.
        budget: Bounds the memory of all queues together.
        close_full: Closes the session of that id, by ``when_full = "close"``.
    """

    __slots__ = (
        "budget",
        "close_full",
        "counters",
        "high_water",
        "max_bound_bytes",
        "max_bound_notifies",
        "max_bulk",
        "max_bulk_bytes",
        "max_in_flight",
        "max_push_ids",
        "max_queue_bytes",
        "max_queue_size",
        "watched",
        "when_full",
    )

    def __init__(
        self,
        config: SessionConfig,
        push: PushConfig,
        high_water: int,
        budget: MemoryBudget,
        close_full: Callable[[str, float], None],
    ) -> None:
        self.counters = SessionCounters()
        self.max_in_flight = config.max_in_flight
        self.max_queue_size = config.max_queue_size
        self.max_queue_bytes = config.max_queue_bytes
        self.max_bulk = max(1, self.max_queue_size // BULK_SHARE)
        self.max_bulk_bytes = self.max_queue_bytes // BULK_SHARE
        self.max_push_ids = MAX_PUSH_IDS
        self.max_bound_notifies = MAX_BOUND_NOTIFIES
        self.max_bound_bytes = MAX_BOUND_BYTES
        self.when_full = config.when_full
        self.high_water = high_water
        self.watched: set[Outbox] = set()
        self.budget = budget
        self.close_full = close_full
