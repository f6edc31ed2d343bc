"""AdminCounters: what the admin server counts."""

from __future__ import annotations

from dataclasses import dataclass

from ..observe.metrics import Counter, Counters, Gauge

__all__ = ["AdminCounters"]


@dataclass(slots=True)
class AdminCounters(Counters):
    """Counts requests to the admin server, and what it refuses."""

    requests: Counter = 0
    """Requests read."""
    refused_hosts: Counter = 0
    """Requests for a host that is not this server's."""
    refused_origins: Counter = 0
    """Requests that another site's page made, or that a page could make by itself."""
    guesses_limited: Counter = 0
    """Requests with a token from a network whose tokens were wrong too often."""
    refused_unproved: Counter = 0
    """Requests without a token or with a wrong one."""
    refused_bodies: Counter = 0
    """Requests whose body is too large, too slow, or not what the route takes."""
    tls_failed: Counter = 0
    """TLS handshakes that failed, or were not complete in time."""
    tls_cut: Counter = 0
    """TLS handshakes ended to make room for others."""
    silent_closed: Counter = 0
    """Connections closed because no whole request came, or its answer was not read."""
    crowded_out: Counter = 0
    """Connections closed to make room for others."""
    sse_refused: Counter = 0
    """Event streams refused because there were too many."""
    sse_stuck: Counter = 0
    """Event streams cut because nobody read them."""
    internal_errors: Counter = 0
    """Requests and samples that raised."""
    traces: Counter = 0
    """Sessions whose trace was begun."""
    sse_streams: Gauge = 0
    """Event streams open now."""
