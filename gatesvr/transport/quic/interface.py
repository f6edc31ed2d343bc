"""The interface to a QUIC connection, and its events. choose.py picks the library behind it.

Sans-IO: datagrams and times go in, events and datagrams come out. Drive a connection like this::

    quic.receive_datagram(data, address, now)
    while quic.events: event = quic.events.popleft() …
    for data, address in quic.datagrams_to_send(now): ...
    arm a timer for quic.get_timer(), which calls quic.handle_timer(now)

Both libraries report a peer's close only after their draining period; here the datagram that
carried the close brings the event Closed, with kind and code.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from ...protocol.link import Disconnect, PathState
from ..addresses import Address, Datagram

if TYPE_CHECKING:
    from ..tls import ClientTls, ServerTls

__all__ = [
    "ALPN",
    "CONNECTION_ID_LENGTH",
    "NO_CRYPTO",
    "Closed",
    "ConnectionIdIssued",
    "ConnectionIdRetired",
    "DatagramDropped",
    "HandshakeCompleted",
    "MakeId",
    "QuicBackend",
    "QuicEvent",
    "QuicTransport",
    "ServerFactory",
    "StopSending",
    "StreamData",
    "StreamReset",
    "TokenOf",
    "random_id",
]

ALPN = "gatesvr"
WEB_ALPN = "h3"
"""HTTP/3, which WebTransport runs over."""
WEB_DATAGRAM_BYTES = 65_536
"""Largest DATAGRAM frame that an HTTP/3 client is told it may send: browsers open no WebTransport
session where there is none. What they send in one is dropped."""
STREAM_ID = 0
"""The one stream that carries messages (PROTOCOL 1.2)."""
STREAM_REFUSED = 4
"""Error code on every other stream (PROTOCOL 1.2)."""
CONNECTION_ID_LENGTH = 8
MIN_INITIAL_BYTES = 1200
"""Smallest UDP payload that may carry an Initial packet (RFC 9000 14.1)."""
QUIC_V1 = 1
ACK_PATIENCE = 0.016
"""How long the acknowledgement of a lone packet waits for data to travel with, seconds.

By themselves both libraries send it after 1 ms, before most requests are answered: one more
datagram for each. Peers are told that we may take 25 ms. Every second packet is acknowledged at
once all the same (RFC 9000 13.2.2).
"""
RECEIVE_WINDOW = 256 << 10
"""Flow-control credit of a connection and of its stream beyond what was delivered, bytes.

It bounds what a peer can make the gateway keep behind a gap, and one client's upload to 256 KiB a
round trip.
"""
MAX_UNACKNOWLEDGED = 4 << 20
"""Stream bytes in flight above which no more are asked for, whatever the congestion window allows.

A peer that acknowledges much opens the window wide; once it stops, all that is in flight is kept.
"""
MAX_CRYPTO_BYTES = 16 << 10
"""Bytes of TLS messages that a client may send in each packet space. A client hello has 2 KiB or
less, and nothing else is longer than 100 bytes."""

TokenOf: TypeAlias = Callable[[bytes], bytes]
"""Gives the stateless reset token of a connection id, 16 bytes."""
MakeId: TypeAlias = Callable[[], bytes]
"""Makes a connection id, CONNECTION_ID_LENGTH bytes."""


def random_id() -> bytes:
    """Return a connection id that says nothing."""
    return os.urandom(CONNECTION_ID_LENGTH)


@dataclass(slots=True)
class HandshakeCompleted:
    """The handshake is complete; the stream can be used."""


@dataclass(slots=True)
class StreamData:
    """Bytes of a stream, in order."""

    stream_id: int
    data: bytes
    is_end: bool


@dataclass(slots=True)
class StreamReset:
    """The peer sent RESET_STREAM."""

    stream_id: int
    code: int


@dataclass(slots=True)
class StopSending:
    """The peer sent STOP_SENDING."""

    stream_id: int
    code: int


@dataclass(slots=True)
class ConnectionIdIssued:
    """The peer was given another connection id of ours."""

    connection_id: bytes


@dataclass(slots=True)
class ConnectionIdRetired:
    """The peer will not use a connection id of ours again."""

    connection_id: bytes


@dataclass(slots=True)
class DatagramDropped:
    """A datagram, or the rest of it, was dropped: it passed a bound."""


@dataclass(slots=True)
class Closed:
    """The connection has ended other than by close(); call datagrams_to_send() once more.

    Where ``how`` is NO_CRYPTO, do not: drop the connection silently.
    """

    how: Disconnect


NO_CRYPTO = Disconnect("handshake", 0, "an Initial without CRYPTO frame")
"""The first datagram cannot begin a connection: it is a probe whose client hello is late or lost.

Both libraries would answer with a close, which would end the client's handshake."""


QuicEvent: TypeAlias = (
    HandshakeCompleted
    | StreamData
    | StreamReset
    | StopSending
    | ConnectionIdIssued
    | ConnectionIdRetired
    | DatagramDropped
    | Closed
)


class QuicTransport(Protocol):
    """One QUIC connection of either role, without I/O; the Carrier (stream.py) of one stream."""

    connection_id: bytes
    """Our first connection id."""
    stream_id: int
    """The stream that a Carrier's methods are about: 0, until the owner sets another."""
    events: deque[QuicEvent]
    """Events not yet handled, the oldest first; empty it after receiving, sending and timers."""

    def connect(self, address: Address, now: float) -> None:
        """Begin the handshake (client, once)."""

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram in. The library's exceptions pass: the connection is dead then."""

    def datagrams_to_send(self, now: float) -> list[Datagram]:
        """Return the datagrams to send now."""

    def can_wait(self, now: float) -> bool:
        """Return whether datagrams_to_send() may be put off for ACK_PATIENCE.

        True if nothing but the acknowledgement of a lone packet can be waiting. It ignores stream
        bytes that were never transmitted; the caller looks at these.
        """

    @property
    def owes_nothing(self) -> bool:
        """Whether, as of a can_wait() that was True, surely not even an acknowledgement waits.

        As after a datagram that only acknowledges. Then get_timer() alone has changed.
        """

    def get_timer(self) -> float | None:
        """Return when handle_timer is due. It changes with each datagram in or out."""

    def handle_timer(self, now: float) -> None:
        """Do the work that is due."""

    def send_stream_data(self, data: bytes, *, end: bool = False) -> None:
        """Write to the stream; end adds FIN."""

    def unsent_bytes(self) -> int:
        """Return the stream's bytes never yet transmitted, or more than MAX_UNACKNOWLEDGED.

        The latter where so many are in flight.
        """

    def is_stream_open(self) -> bool:
        """Return whether send_stream_data may be called."""

    def is_acknowledged(self) -> bool:
        """Return whether the peer has acknowledged everything written to the stream."""

    def refuse_stream(self, stream_id: int, code: int = STREAM_REFUSED) -> None:
        """Refuse a stream of the peer's (PROTOCOL 1.2)."""

    def open_stream(self, data: bytes) -> None:
        """Open a unidirectional stream, and write to it (server, after the handshake).

        Raises:
            ValueError: The peer lets us open none.
        """

    def send_on(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Write to a stream of the peer's; end adds FIN. It does nothing where the peer wants no
        more (server, after the handshake)."""

    def ping(self) -> None:
        """Send a PING, which the peer acknowledges."""

    def probe(self) -> None:
        """Send a datagram, however much is in flight (RFC 9002 7.5)."""

    def close(self, code: int, reason: str) -> None:
        """Close with an application code; written data not yet transmitted is lost."""

    def ack_mark(self) -> object:
        """Return a value that changes when the peer acknowledges something new."""

    def peer_address(self) -> Address:
        """Return the address that datagrams go to now."""

    def is_address_proved(self) -> bool:
        """Return whether the peer has shown that it receives at peer_address()."""

    def is_path_limit_near(self) -> bool:
        """Return whether the connection cannot follow the peer to another address."""

    def idle_timeout(self) -> float:
        """Return the effective idle time-out in seconds: the smaller of the two sides'."""

    def probe_timeout(self) -> float:
        """Return the probe time-out (PTO) in seconds, roughly."""

    def path(self) -> PathState:
        """Return how the path does."""


ServerFactory: TypeAlias = Callable[[bytes, bytes | None], QuicTransport]
"""Makes a server connection of (original destination id, retry source id or None)."""


class QuicBackend(Protocol):
    """A QUIC library, adapted."""

    name: Literal["aioquic", "qh3"]
    makes_ids: bool
    """Whether the library makes the ids after the first one itself, and asks make_id for none."""
    needs_retry: bool
    """Whether an Initial packet that ends before its datagram must be answered with Retry, and one
    whose source id has no bytes."""

    def server(
        self,
        tls: ServerTls,
        idle_timeout: float,
        token_of: TokenOf,
        alpn: str = ALPN,
        make_id: MakeId = random_id,
    ) -> ServerFactory:
        """Return a factory of server connections.

        Args:
            tls: The certificate to show.
            idle_timeout: The idle time-out to offer, seconds.
            token_of: Gives the stateless reset token of each connection id.
            alpn: The protocol that clients speak.
            make_id: Makes the connection ids that peers are given; see makes_ids.

        Raises:
            ConfigError: The library cannot use the certificate.
        """

    def client(self, tls: ClientTls, server_name: str, idle_timeout: float) -> QuicTransport:
        """Return a client connection; connect() begins it."""
