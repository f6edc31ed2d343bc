"""Figures: what a gateway does and how well, at one moment.

They are the one source of everything that shows numbers, so that all show the same.
"""

from __future__ import annotations

import msgspec

from ._core.histogram import HistogramSnapshot
from .auth.reasons import AuthCounters
from .cluster.counters import ClusterCounters
from .control.counters import PushCounters
from .dispatch.task import DispatchCounters
from .drain import DrainCounters
from .observe.metrics import Counters
from .overload import OverloadCounters
from .session.counters import SessionCounters
from .transport.counters import TransportCounters
from .transport.web.counters import WebCounters
from .upstream.call import UpstreamCounters

__all__ = [
    "CLUSTER_COUNTERS",
    "COUNTERS",
    "REFUSALS",
    "Figures",
    "Moment",
    "PathFigures",
    "refusals",
]

COUNTERS: dict[str, type[Counters]] = {
    "transport": TransportCounters,
    "web": WebCounters,
    "auth": AuthCounters,
    "session": SessionCounters,
    "dispatch": DispatchCounters,
    "upstream": UpstreamCounters,
    "push": PushCounters,
    "overload": OverloadCounters,
    "drain": DrainCounters,
}
"""The counters of each layer, in the order that a message meets them."""
CLUSTER_COUNTERS: dict[str, type[Counters]] = {"cluster": ClusterCounters}
"""Those that only a gateway of several processes has."""

_REFUSALS = {
    "transport": """
        datagrams_truncated datagrams_malformed datagrams_unknown datagrams_after_close
        datagrams_over_limit datagrams_elsewhere initials_undecryptable initials_without_crypto
        handshakes_dropped handshakes_expired handshakes_timed_out handshakes_failed
        connections_refused connections_dropped prefix_connections_limited
        prefix_handshakes_limited prefix_rate_limited retries_refused negotiations_limited
        resets_limited streams_refused quic_violations protocol_errors connection_errors
        moves_limited path_limits writes_dropped send_dropped send_errors initials_refused
        refusals_limited receive_errors lost_errors last_pushes_expired hand_overs_dropped""",
    "web": """
        accepts_limited accepts_dropped accept_errors connections_refused handshakes_failed
        handshakes_timed_out requests_refused origins_refused violations http3_violations
        control_frames_limited messages_timed_out closes_expired""",
    "auth": """
        refused_missing refused_too_large refused_malformed refused_algorithm refused_unknown_key
        refused_signature refused_expired refused_not_yet refused_audience refused_issuer
        refused_claim refused_openid refused_denied refused_limited unavailable
        unusable_answers key_failures""",
    "session": """
        refused_starts refused_full refused_draining refused_address starts_limited
        openid_starts_limited refused_logins login_timeouts auth_expired expired replaced kicked
        memory_closed resumes_ahead resumes_unknown resumes_denied resumes_stale resumes_limited
        resumes_tombstoned token_reused exports_refused results_dropped duplicates gaps
        answers_too_large answers_not_kept pushes_busy pushes_too_large pushes_too_late
        pushes_unasked push_repeats notifies_expired notifies_dropped notifies_conflated
        slow_consumers slowest_cut events_missed event_subscribers_refused internal_errors""",
    "dispatch": """
        unknown_types bad_msg_ids bad_heartbeats bad_payloads not_logged_in no_route
        requests_limited refused_full refused_draining deadlines closed_499 start_timeouts
        frame_timeouts heartbeat_timeouts held_overflows unread_overflows auths_refused fenced
        foreign_answers internal_errors""",
    "upstream": """
        no_service not_started refused_calls overflows rejected_calls limited unsent_calls
        broken_calls unanswered failed_calls bad_answers bad_batches too_large late_answers
        unknown_answers retried_calls cancelled_calls protocol_errors floods failed_lookups
        ejections ejections_overflow register_refused leases_unknown leases_expired""",
    "push": """
        refused_no_credentials refused_token guesses_limited refused_certificate refused_role
        refused_streams refused_broadcasts watches_refused reflections_refused not_found ambiguous
        invalid too_large internal_errors""",
    "overload": "rises handshakes_shed sessions_shed broadcasts_shed pushes_shed",
    "drain": "dismissed connections_cut requests_cut",
    "cluster": """
        internal_errors directory_failures lost orphans forgotten lost_calls starts_moving
        starts_undecided starts_cut_off buried takes_refused states_refused arrivals_lost
        gives_failed forwards_repeated logins_lost pushes_unsure pushes_unrouted pushes_late
        kicks_unrouted""",
    "admin": """
        refused_hosts refused_origins guesses_limited refused_unproved refused_bodies
        tls_failed tls_cut silent_closed crowded_out sse_refused sse_stuck
        internal_errors""",
}

REFUSALS: dict[str, frozenset[str]] = {
    layer: frozenset(names.split()) for layer, names in _REFUSALS.items()
}
"""The counters, by layer, that count something refused, dropped, cut or failed."""


def refusals(counters: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return the refusals among counters, as Figures has them, by ``layer.name``."""
    return {
        f"{layer}.{name}": value
        for layer, group in counters.items()
        for name, value in group.items()
        if name in REFUSALS.get(layer, ())
    }


class PathFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The QUIC paths of the connections, added up by looking at some of them each second."""

    connections: int = 0
    """Connections looked at in the last round."""
    rtt_s: float = 0.0
    """Mean smoothed round trip, seconds."""
    congestion_window_bytes: float = 0.0
    """Mean congestion window."""
    in_flight_bytes: int = 0
    """Bytes sent and not acknowledged, of all connections."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway is and holds at one moment: what its figures and the console both show."""

    time: float
    """Seconds since the epoch."""
    uptime_s: float
    """Since the gateway started."""
    version: str
    """GateSvr's."""
    backend: str
    """The QUIC library."""
    pid: int
    """The process."""
    ready: bool
    """Whether it takes new clients."""
    not_ready: list[str]
    """Why it does not."""
    draining: bool
    """Whether it is about to stop."""
    connections: int
    """Connections whose handshake is complete."""
    handshakes: int
    """Handshakes under way."""
    sessions: dict[str, int]
    """Sessions by state: ``inited`` (not logged in), ``normal``, ``suspended``."""
    in_flight: int
    """Requests accepted and not answered."""
    tasks_queued: int
    """Those of them that wait for a worker."""
    workers: int
    """Workers."""
    workers_busy: int
    """Those that have a task."""
    queue_messages: int
    """Messages to clients, sent or to be sent, that are not acknowledged; counted each second."""
    queue_bytes: int
    """Bytes of their bodies; counted each second."""
    oldest_unacked_s: float
    """How long the oldest of them has not been acknowledged; counted each second."""
    lag_s: float
    """How late the loop came to its last tick."""
    memory_bytes: int
    """Resident memory of the process, 0 where the system does not tell."""
    cpu_s: float
    """CPU time of the process since it began."""
    certificate_expires: float
    """When the certificate ends, seconds since the epoch; 0 for none."""


class Figures(Moment, frozen=True, kw_only=True):
    """The state of a gateway; see Gateway.figures()."""

    start_time: float
    """When the gateway started, seconds since the epoch."""
    core: str
    """Kind of the core."""
    path: PathFigures
    """The QUIC paths."""
    gc_pause_s: float
    """Sum of the pauses for garbage collection since the gateway started."""
    counters: dict[str, dict[str, int]]
    """Every counter by layer and name, as Gateway.stats() has them."""
    closes: dict[str, dict[str, int]]
    """Connections that ended, by side and code: ``local`` the gateway closed them, ``peer`` the
    client did, ``peer_transport`` the client by a QUIC error, ``idle``, ``reset``. A code that is
    no close code counts as ``other``."""
    errors: dict[str, int]
    """ERRORs in place of answers, by code."""
    batches: list[int]
    """Messages to upstreams by the requests in them: 1, 2, up to 4, up to 8 and so on."""
    histograms: dict[str, HistogramSnapshot]
    """Durations by stage: ``queue_wait``, ``upstream:SERVICE``, ``send``, ``request``,
    ``handshake``, ``login``, ``rtt``, ``lag``, ``gc_pause``. Those before the handshake are empty
    without ``metrics.stages``."""
