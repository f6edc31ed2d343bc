"""PushCounters: the counters of the commands and of the gRPC servicer on them."""

from __future__ import annotations

from dataclasses import dataclass

from ..observe.metrics import Counter, Counters, Gauge

__all__ = ["PushCounters"]


@dataclass(slots=True)
class PushCounters(Counters):
    """Counts what callers ask for, over gRPC or in process, and what is refused before a session.

    The session layer counts what sessions took and refused, the upstream layer counts endpoints.
    """

    calls: Counter = 0
    """Calls that were let in; a stream counts once."""
    tls_handshakes: Counter = 0
    """TLS handshakes begun. gRPC keeps to itself which of them failed."""
    certificates_renewed: Counter = 0
    """Certificates of the push port that took another one's place."""
    certificates_kept: Counter = 0
    """Times that one stayed because its files hold no other that can be used."""
    refused_no_credentials: Counter = 0
    """Calls refused because their caller proved nothing."""
    refused_token: Counter = 0
    """Calls refused because their token is nobody's."""
    guesses_limited: Counter = 0
    """Calls refused unseen because too many tokens from their network were wrong."""
    refused_certificate: Counter = 0
    """Calls refused because their certificate names nobody in push.caller."""
    refused_role: Counter = 0
    """Calls refused because their caller may not make them."""
    streams: Gauge = 0
    """PushStreams open."""
    event_streams: Gauge = 0
    """SubscribeEvents open."""
    events_sent: Counter = 0
    """Events written to SubscribeEvents streams, gaps included."""
    health_watches: Gauge = 0
    """Health watches open."""
    watches_refused: Counter = 0
    """Health watches refused because too many were open."""
    reflections: Gauge = 0
    """Reflection streams open."""
    reflections_refused: Counter = 0
    """Reflection streams refused because too many were open."""
    refused_streams: Counter = 0
    """PushStreams refused because ``push.max_streams`` are open."""
    refused_broadcasts: Counter = 0
    """Broadcasts refused BUSY because of ``push.max_broadcasts``."""
    pushes: Counter = 0
    """Pushes asked for, those of streams included."""
    broadcasts: Counter = 0
    """Broadcasts asked for."""
    multicasts: Counter = 0
    """Multicasts asked for."""
    kicks: Counter = 0
    """Kicks asked for."""
    not_found: Counter = 0
    """Commands whose target has no session."""
    ambiguous: Counter = 0
    """Commands that need one session and whose target has several."""
    too_large: Counter = 0
    """Broadcasts larger than any client accepts; batches and multicasts with too many entries."""
    invalid: Counter = 0
    """Commands with an invalid field."""
    internal_errors: Counter = 0
    """Calls that raised."""
