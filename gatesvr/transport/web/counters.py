"""The counters of the web listener, and of the connections of browsers.

Facts that connections of all kinds share, such as who closed them, are in TransportCounters.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...observe.metrics import Counter, Counters, Gauge

__all__ = ["WebCounters"]


@dataclass(slots=True)
class WebCounters(Counters):
    """Counters of WebSocket connections and of WebTransport sessions."""

    connections: Gauge = 0
    """WebSocket connections that are open, or wait up to a second for the end of a close."""
    handshakes: Gauge = 0
    """TCP connections whose TLS handshake or HTTP request is not complete."""
    accepted: Counter = 0
    """WebSocket connections opened."""
    webtransport_sessions: Gauge = 0
    """WebTransport sessions; their connections are among those of the transport."""
    webtransport_accepted: Counter = 0
    """WebTransport sessions opened."""
    http3_violations: Counter = 0
    """Connections closed because HTTP/3, QPACK or WebTransport was broken, or a bound on their
    frames was passed."""
    accepts_limited: Counter = 0
    """TCP connections reset because there were more than ``accept_rate`` in that second."""
    accepts_dropped: Counter = 0
    """TCP connections reset because of another limit: connections, handshakes, a network's, or
    load."""
    accept_errors: Counter = 0
    """Times that the system gave no new TCP connection, for example for want of descriptors."""
    connections_refused: Counter = 0
    """WebSocket connections closed 4503 because there were max_connections, or the gateway stops.
    """
    handshakes_failed: Counter = 0
    """TLS handshakes that failed, and TCP connections that ended before their request did."""
    handshakes_timed_out: Counter = 0
    """TCP connections cut because TLS and the request took longer than ``handshake_timeout``."""
    requests_refused: Counter = 0
    """HTTP requests refused: malformed, too long, of another path, or for another protocol."""
    origins_refused: Counter = 0
    """HTTP requests refused 403 because pages of their origin are not let in."""
    pages_served: Counter = 0
    """HTTP requests answered with a file of the demo's page."""
    messages_received: Counter = 0
    """Binary messages read."""
    messages_sent: Counter = 0
    """Binary messages written."""
    bytes_received: Counter = 0
    """Bytes read, without TLS."""
    bytes_sent: Counter = 0
    """Bytes of binary messages written."""
    violations: Counter = 0
    """Connections closed 4400 because a message was text, empty, too long, in too many pieces, or
    not whole frames, or because RFC 6455 was broken."""
    control_frames_limited: Counter = 0
    """Connections closed 4429 because of too many pings and pongs, or of pings of a client that
    reads nothing."""
    messages_timed_out: Counter = 0
    """Connections closed 4408 because a message begun was not ended in time."""
    closes_expired: Counter = 0
    """TCP connections cut because the client did not answer a close within a second."""
