"""The transport's counters: those of a socket, and of the connections on it."""

from __future__ import annotations

from dataclasses import dataclass

from ..observe.metrics import Counter, Counters, Gauge

__all__ = ["EndpointCounters", "TransportCounters"]


@dataclass(slots=True)
class EndpointCounters(Counters):
    """Counters of a socket."""

    datagrams_received: Counter = 0
    """Datagrams read."""
    bytes_received: Counter = 0
    """Bytes of the datagrams read."""
    datagrams_truncated: Counter = 0
    """Datagrams dropped because they were too long."""
    datagrams_sent: Counter = 0
    """Datagrams that the system took."""
    bytes_sent: Counter = 0
    """Bytes of the datagrams that the system took."""
    segments_sent: Counter = 0
    """Datagrams sent as parts of a run that the system splits (UDP_SEGMENT)."""
    read_wakeups: Counter = 0
    """Times that the loop found the socket readable."""
    receive_calls: Counter = 0
    """System calls that read."""
    send_calls: Counter = 0
    """System calls that wrote."""
    receive_errors: Counter = 0
    """Network errors that a read reported, for example a closed port."""
    send_errors: Counter = 0
    """Datagrams that the system refused to send."""
    send_blocked: Counter = 0
    """Times that the socket took no more."""
    send_dropped: Counter = 0
    """Datagrams dropped because the backlog was full."""
    send_backlog: Gauge = 0
    """Datagrams waiting for the socket."""
    receive_buffer_bytes: Gauge = 0
    """SO_RCVBUF as the system granted it."""
    send_buffer_bytes: Gauge = 0
    """SO_SNDBUF as the system granted it."""


@dataclass(slots=True)
class TransportCounters(EndpointCounters):
    """Counters of the socket and of its connections."""

    certificates_renewed: Counter = 0
    """Certificates that took another one's place."""
    certificates_kept: Counter = 0
    """Times that a certificate stayed because its files hold no other that can be used."""

    connections: Gauge = 0
    """Connections whose handshake is complete."""
    handshakes: Gauge = 0
    """Connections whose handshake is not complete."""
    drained: Gauge = 0
    """Closed connections whose ids are still known."""
    tasks: Gauge = 0
    """Connection tasks."""
    timers: Gauge = 0
    """Entries in the timer heap."""
    stalls: Counter = 0
    """Times that the process did not run for a second or longer."""
    accepted: Counter = 0
    """Handshakes completed."""
    handshakes_failed: Counter = 0
    """Handshakes ended by an alert, a close or a time-out."""
    handshakes_timed_out: Counter = 0
    """Handshakes not completed within ``handshake_timeout``."""
    handshakes_dropped: Counter = 0
    """Initials dropped because max_handshakes were in progress."""
    connections_refused: Counter = 0
    """Connections closed 4503 because there were max_connections, or the gateway stops."""
    connections_dropped: Counter = 0
    """First datagrams dropped because there were 5 % more than max_connections."""
    initials_refused: Counter = 0
    """Initials answered with CONNECTION_REFUSED because the gateway stops."""
    refusals_limited: Counter = 0
    """Initials dropped because too many were refused in that second."""
    handshakes_expired: Counter = 0
    """Clients dropped because their handshake could not begin in time."""
    prefix_connections_limited: Counter = 0
    """Initials of a network with ``max_connections_per_prefix``."""
    prefix_handshakes_limited: Counter = 0
    """Initials of a network with ``max_handshakes_per_prefix``."""
    prefix_rate_limited: Counter = 0
    """Initials of a network above ``max_connection_rate_per_prefix``."""
    retry_switches: Counter = 0
    """Times that a rush of handshakes switched Retry on."""
    retries_sent: Counter = 0
    """Retry packets sent."""
    retries_validated: Counter = 0
    """Initials that came back with a good Retry token."""
    retries_refused: Counter = 0
    """Initials with a token of another server, of another address, or too old."""
    versions_negotiated: Counter = 0
    """Version Negotiation packets sent."""
    negotiations_limited: Counter = 0
    """Version Negotiation packets left out because there were too many."""
    datagrams_malformed: Counter = 0
    """Datagrams that are not QUIC, or that no client sends."""
    datagrams_unknown: Counter = 0
    """Datagrams of connections that are not known here."""
    resets_sent: Counter = 0
    """Stateless resets sent in answer to datagrams of unknown connections."""
    resets_astray: Counter = 0
    """Those of them whose id is not of this process. It has ended, or nobody claims the id."""
    resets_limited: Counter = 0
    """Stateless resets left out because there were too many."""
    initials_undecryptable: Counter = 0
    """Initials that do not decrypt."""
    initials_without_crypto: Counter = 0
    """Initials without a client hello, which is late or lost; dropped silently."""
    datagrams_after_close: Counter = 0
    """Datagrams for a connection that is closed."""
    handed_on: Counter = 0
    """Datagrams of connections handed on to the process of this gateway that has them."""
    initials_handed_on: Counter = 0
    """New clients handed on to a process that has less to do, or a place for them."""
    taken_over: Counter = 0
    """Datagrams that other processes of this gateway handed on."""
    hand_overs_dropped: Counter = 0
    """Datagrams dropped because the process that they were to go to did not read, or that came
    from another release in a form that is not known here."""
    ids_asked: Counter = 0
    """Datagrams of connections not known here that all processes of this gateway were asked for."""
    streams_refused: Counter = 0
    """Streams refused: a connection has one."""
    closed_local: Counter = 0
    """Connections that this side closed."""
    closed_peer: Counter = 0
    """Connections that the other side closed."""
    closed_transport: Counter = 0
    """Connections that a QUIC error of either side ended."""
    quic_violations: Counter = 0
    """Connections closed because the peer broke a rule of QUIC or passed a bound on its frames."""
    datagrams_over_limit: Counter = 0
    """Datagrams dropped: too many gaps, too many packets in one, too many before the handshake."""
    datagrams_elsewhere: Counter = 0
    """Datagrams dropped: not from the address that their handshake began at."""
    closed_idle: Counter = 0
    """Connections that the idle time-out ended."""
    closed_reset: Counter = 0
    """Connections that a stateless reset ended."""
    protocol_errors: Counter = 0
    """Connections closed because the handler found a protocol error."""
    connection_errors: Counter = 0
    """Connections closed 4500 by an exception."""
    lost_errors: Counter = 0
    """Exceptions of handlers in connection_lost()."""
    last_pushes: Counter = 0
    """Closes with a last push that was acknowledged."""
    last_pushes_expired: Counter = 0
    """Closes with a last push that was not acknowledged in time."""
    writes_dropped: Counter = 0
    """Writes to a stream that the client has not begun or has stopped."""
    pings_sent: Counter = 0
    """PINGs sent to see whether the peer is there."""
    refusals: Counter = 0
    """Times that the system reported the server's port closed; counted by clients only."""
    packets_lost: Counter = 0
    """QUIC packets declared lost, whose content is sent again; counted each second, and at ends."""
    address_changes: Counter = 0
    """Times that a client moved to another address."""
    moves_limited: Counter = 0
    """Clients closed 4429 because they moved too often."""
    path_limits: Counter = 0
    """Clients asked to reconnect because their connection cannot follow another move."""
