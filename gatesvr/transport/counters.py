"""The transport's counters: those of a socket, and of the connections on it."""

from __future__ import annotations

from dataclasses import dataclass

from ..observe.metrics import Counters

__all__ = ["EndpointCounters", "TransportCounters"]


@dataclass(slots=True)
class EndpointCounters(Counters):
    """Counters of a socket."""

    datagrams_received: int = 0
    """Datagrams read."""
    bytes_received: int = 0
    """Bytes of the datagrams read."""
    datagrams_truncated: int = 0
    """Datagrams dropped because they were too long."""
    datagrams_sent: int = 0
    """Datagrams that the system took."""
    bytes_sent: int = 0
    """Bytes of the datagrams that the system took."""
    segments_sent: int = 0
    """Datagrams sent as parts of a run that the system splits (UDP_SEGMENT)."""
    read_wakeups: int = 0
    """Times that the loop found the socket readable."""
    receive_calls: int = 0
    """System calls that read."""
    send_calls: int = 0
    """System calls that wrote."""
    receive_errors: int = 0
    """Network errors that a read reported, for example a closed port."""
    send_errors: int = 0
    """Datagrams that the system refused to send."""
    send_blocked: int = 0
    """Times that the socket took no more."""
    send_dropped: int = 0
    """Datagrams dropped because the backlog was full."""
    send_backlog: int = 0
    """Gauge: datagrams waiting for the socket."""
    receive_buffer_bytes: int = 0
    """Gauge: SO_RCVBUF as the system granted it."""
    send_buffer_bytes: int = 0
    """Gauge: SO_SNDBUF as the system granted it."""


@dataclass(slots=True)
class TransportCounters(EndpointCounters):
    """Counters of the socket and of its connections."""

    connections: int = 0
    """Gauge: connections whose handshake is complete."""
    handshakes: int = 0
    """Gauge: connections whose handshake is not complete."""
    drained: int = 0
    """Gauge: closed connections whose ids are still known."""
    tasks: int = 0
    """Gauge: connection tasks."""
    timers: int = 0
    """Gauge: entries in the timer heap."""
    stalls: int = 0
    """Times that the process did not run for a second or longer."""
    accepted: int = 0
    """Handshakes completed."""
    handshakes_failed: int = 0
    """Handshakes ended by an alert, a close or a time-out."""
    handshakes_timed_out: int = 0
    """Handshakes not completed within ``handshake_timeout``."""
    handshakes_dropped: int = 0
    """Initials dropped because max_handshakes were in progress."""
    connections_refused: int = 0
    """Connections closed 4503 because there were max_connections."""
    connections_dropped: int = 0
    """Initials dropped because there were 5 % more than max_connections, or at shutdown."""
    retries_sent: int = 0
    """Retry packets sent."""
    retries_validated: int = 0
    """Initials that came back with a good Retry token."""
    retries_refused: int = 0
    """Initials with a token of another server, of another address, or too old."""
    versions_negotiated: int = 0
    """Version Negotiation packets sent."""
    datagrams_malformed: int = 0
    """Datagrams that are not QUIC."""
    datagrams_unknown: int = 0
    """Datagrams of connections that are not known here."""
    resets_sent: int = 0
    """Stateless resets sent in answer to datagrams of unknown connections."""
    resets_limited: int = 0
    """Stateless resets left out because there were too many."""
    initials_undecryptable: int = 0
    """Initials that do not decrypt."""
    initials_without_crypto: int = 0
    """Initials without a client hello, which is late or lost; dropped silently."""
    datagrams_after_close: int = 0
    """Datagrams for a connection that is closed."""
    streams_refused: int = 0
    """Streams refused: a connection has one."""
    closed_local: int = 0
    """Connections that this side closed."""
    closed_peer: int = 0
    """Connections that the other side closed."""
    closed_transport: int = 0
    """Connections that a QUIC error of either side ended."""
    closed_idle: int = 0
    """Connections that the idle time-out ended."""
    closed_reset: int = 0
    """Connections that a stateless reset ended."""
    protocol_errors: int = 0
    """Connections closed because the handler found a protocol error."""
    connection_errors: int = 0
    """Connections closed 4500 by an exception."""
    lost_errors: int = 0
    """Exceptions of handlers in connection_lost()."""
    last_pushes: int = 0
    """Closes with a last push that was acknowledged."""
    last_pushes_expired: int = 0
    """Closes with a last push that was not acknowledged in time."""
    writes_dropped: int = 0
    """Writes to a stream that the client has not begun or has stopped."""
    pings_sent: int = 0
    """PINGs sent to see whether the peer is there."""
    refusals: int = 0
    """Times that the system reported the server's port closed; counted by clients only."""
    address_changes: int = 0
    """Times that a client moved to another address."""
    path_limits: int = 0
    """Clients asked to reconnect because their connection cannot follow another move."""
