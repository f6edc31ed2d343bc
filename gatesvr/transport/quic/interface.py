"""What the gateway needs of a QUIC connection, and the choice of the library that gives it.

Sans-IO: datagrams and times go in, events and datagrams come out. Drive a connection like this::

    quic.receive_datagram(data, address, now)
    while quic.events: event = quic.events.popleft() …
    for data, address in quic.datagrams_to_send(now): ...
    arm a timer for quic.get_timer(), which calls quic.handle_timer(now)

Both libraries report a peer's close only after their draining period; here Closed is an event of
the datagram that carried it, with its kind and code.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from ...errors import ConfigError
from ...protocol.link import Disconnect
from ..tls import ClientTls, ServerTls

__all__ = [
    "ALPN",
    "CONNECTION_ID_LENGTH",
    "NO_CRYPTO",
    "Address",
    "Closed",
    "ConnectionIdIssued",
    "ConnectionIdRetired",
    "Datagram",
    "HandshakeCompleted",
    "QuicBackend",
    "QuicEvent",
    "QuicTransport",
    "ServerFactory",
    "StopSending",
    "StreamData",
    "StreamReset",
    "TokenOf",
    "backends",
    "pick_backend",
    "plain_address",
    "without_local",
]

ALPN = "gatesvr"
STREAM_ID = 0
"""The one stream that carries messages (PROTOCOL 1.2)."""
STREAM_REFUSED = 4
"""Error code on every other stream (PROTOCOL 1.2)."""
CONNECTION_ID_LENGTH = 8
MIN_INITIAL_BYTES = 1200
"""Smallest UDP payload that may carry an Initial packet (RFC 9000 14.1)."""
QUIC_V1 = 1
ACK_PATIENCE = 0.016
"""How long a lone packet's acknowledgement waits for something to go with, seconds.

Both libraries would send it by itself 1 ms after its cause, which for most requests is before their
answer is there: a datagram more for each. Peers are told that we may take 25 ms. Every second
packet is acknowledged at once all the same (RFC 9000 13.2.2).
"""
RECEIVE_WINDOW = 1 << 20
"""Flow-control credit of a connection and of its stream, bytes."""

Address: TypeAlias = Any
"""A socket address as the socket gives it: (host, port), for IPv6 (host, port, flow, scope).

Where a socket receives for several addresses of the host, the one that was asked is behind it, as
bytes. So each answer leaves from the address that was asked, and one that changes is a new path.
"""
Datagram: TypeAlias = "tuple[bytes, Address]"
TokenOf: TypeAlias = Callable[[bytes], bytes]
"""Gives the stateless reset token of a connection id, 16 bytes."""


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
class Closed:
    """The connection has ended other than by close(); datagrams_to_send() once more, then none.

    A ``how`` that is NO_CRYPTO has nothing to send: it is to be as if nothing had come.
    """

    how: Disconnect


NO_CRYPTO = Disconnect("handshake", 0, "an Initial without CRYPTO frame")
"""The first datagram cannot begin a connection: it is a probe that overtook the client's hello, or
whose hello was lost. Both libraries close then, and the client's handshake would end there."""


QuicEvent: TypeAlias = (
    HandshakeCompleted
    | StreamData
    | StreamReset
    | StopSending
    | ConnectionIdIssued
    | ConnectionIdRetired
    | Closed
)


class QuicTransport(Protocol):
    """One QUIC connection of either role, without I/O."""

    connection_id: bytes
    """Our first connection id."""
    events: deque[QuicEvent]
    """What happened, the oldest first; to be emptied after receiving, sending and timers."""

    def connect(self, address: Address, now: float) -> None:
        """Begin the handshake (client, once)."""

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram in. Raises whatever the library raises: the connection is done then."""

    def datagrams_to_send(self, now: float) -> list[Datagram]:
        """Return the datagrams to send now."""

    def can_wait(self, now: float) -> bool:
        """Return whether datagrams_to_send() may be put off for ACK_PATIENCE.

        True where nothing but the acknowledgement of a lone packet can be waiting. Bytes of the
        stream that were never transmitted are the caller's to look at.
        """

    def get_timer(self) -> float | None:
        """Return when handle_timer is due. It changes with each datagram in or out."""

    def handle_timer(self, now: float) -> None:
        """Do what is due."""

    def send_stream_data(self, data: bytes, *, end: bool = False) -> None:
        """Write to the stream; end adds FIN."""

    def unsent_bytes(self) -> int:
        """Return the stream's bytes never yet transmitted."""

    def is_stream_open(self) -> bool:
        """Return whether send_stream_data may be called."""

    def is_acknowledged(self) -> bool:
        """Return whether the peer has acknowledged everything written to the stream."""

    def refuse_stream(self, stream_id: int) -> None:
        """Refuse a stream of the peer's (PROTOCOL 1.2)."""

    def ping(self) -> None:
        """Have the peer acknowledge something."""

    def probe(self) -> None:
        """Have a datagram sent, however much is in flight (RFC 9002 7.5)."""

    def close(self, code: int, reason: str) -> None:
        """Close with an application code; written data not yet transmitted is lost."""

    def is_authenticated(self) -> bool:
        """Return whether any packet of the peer's could be decrypted."""

    def ack_mark(self) -> object:
        """Return a value that changes when the peer acknowledges something new."""

    def peer_address(self) -> Address:
        """Return the address that datagrams go to now."""

    def is_path_limit_near(self) -> bool:
        """Return whether the peer should come back on a fresh connection before it moves again."""

    def idle_timeout(self) -> float:
        """Return the effective idle time-out in seconds, the smaller of both sides'."""

    def probe_timeout(self) -> float:
        """Return the probe time-out (PTO) in seconds, roughly."""


ServerFactory: TypeAlias = Callable[[bytes, bytes | None], QuicTransport]
"""Makes a server connection of (original destination id, retry source id or None)."""


class QuicBackend(Protocol):
    """A QUIC library, adapted."""

    name: Literal["aioquic", "qh3"]
    needs_retry: bool
    """Whether an Initial whose packet ends before its datagram must be answered with Retry."""

    def server(self, tls: ServerTls, idle_timeout: float, token_of: TokenOf) -> ServerFactory:
        """Return what makes server connections.

        Args:
            tls: What to show.
            idle_timeout: To offer, seconds.
            token_of: Gives the stateless reset tokens that go out with connection ids.

        Raises:
            ConfigError: The library cannot use the certificate.
        """

    def client(self, tls: ClientTls, server_name: str, idle_timeout: float) -> QuicTransport:
        """Return a client connection; connect() begins it."""


def backends() -> list[str]:
    """Return the names of the backends that are installed, the preferred one first."""
    names = ["qh3"] if importlib.util.find_spec("qh3") is not None else []
    return [*names, "aioquic"]


def pick_backend(name: str = "auto") -> QuicBackend:
    """Return a backend by name; ``auto`` takes qh3 where it is installed.

    Raises:
        ConfigError: There is no such backend, or it is not installed.
    """
    if name == "auto":
        name = backends()[0]
    if name == "aioquic":
        from .aioquic import AioquicBackend

        return AioquicBackend()
    if name == "qh3" and "qh3" in backends():
        from .qh3 import Qh3Backend

        return Qh3Backend()
    if name == "qh3":
        message = "qh3 is not installed (pip install 'gatesvr[fast]')"
    else:
        message = f"{name!r} is no backend (auto, aioquic, qh3)"
    raise ConfigError(message, field="transport.backend")


def without_local(address: Address) -> Address:
    """Return a peer's address without our own address behind it."""
    return address[:-1] if type(address[-1]) is bytes else address


def plain_address(address: Address) -> tuple[str, int]:
    """Return (ip, port) without a scope or a v4-mapping."""
    host = str(address[0]).partition("%")[0]
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return host, int(address[1])
