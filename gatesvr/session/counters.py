"""The session layer's counters."""

from __future__ import annotations

from dataclasses import dataclass

from ..observe.metrics import Counter, Counters, Gauge

__all__ = ["SessionCounters"]


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
    auth_expired: Counter = 0
    """Sessions ended because their credentials had expired."""
    created: Counter = 0
    """Sessions made by a START."""
    logins: Counter = 0
    """Sessions that logged in; a later hello does not count."""
    refused_logins: Counter = 0
    """Hellos refused: not answered 200, or forbidden by ``on_duplicate``."""
    closed: Counter = 0
    """Sessions ended, in any way; also counted: stopped, expired, replaced, kicked and so on."""
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
    ended_draining: Counter = 0
    """Sessions without a connection that ended because the gateway was about to stop."""
    refused_starts: Counter = 0
    """STARTs refused, for any reason; some reasons have counters of their own."""
    refused_full: Counter = 0
    """STARTs refused because there were too many sessions."""
    refused_draining: Counter = 0
    """STARTs, also of resumes, refused because the gateway was about to stop."""
    refused_address: Counter = 0
    """STARTs refused because too many sessions of their address had not logged in."""
    starts_limited: Counter = 0
    """STARTs of new sessions above ``max_start_rate``."""
    openid_starts_limited: Counter = 0
    """STARTs of new sessions above ``max_start_rate_per_openid``."""
    resumes_ahead: Counter = 0
    """Resumes from a position that was never given out; each ends its session."""
    resumes_unknown: Counter = 0
    """Resumes of an unknown session: answered by a new session, or refused."""
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
    replayed: Counter = 0
    """Messages that had been sent before a resume and are sent again after it."""
    moved_in: Counter = 0
    """Sessions that came from another process of the gateway."""
    moved_out: Counter = 0
    """Sessions that went to another process of the gateway."""
    exports: Counter = 0
    """Sessions exported for another process."""
    taken_back: Counter = 0
    """Sessions exported that no other process has taken; they stay here."""
    exports_refused: Counter = 0
    """Sessions of other processes that were not installed because their bytes make none."""
    results_kept: Counter = 0
    """Answers and ERRORs that came while this process did not own their session."""
    results_dropped: Counter = 0
    """Those dropped because too many were kept."""
    bundles: Counter = 0
    """Answers sent with notifies around them."""
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
    """Notifies taken that wait for the session's login."""
    pushes_bound: Counter = 0
    """Notifies that wait for the answer to their request; not among pushes_taken."""
    pushes_busy: Counter = 0
    """Notifies refused because the session's queue, or memory, was full."""
    pushes_moving: Counter = 0
    """Notifies not taken because another process of the gateway may own the session."""
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
    slowest_cut: Counter = 0
    """Connections closed 4503: the gateway was overloaded, and they had the most to be sent."""
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
