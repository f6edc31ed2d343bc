"""The interfaces between a connection and its handler.

A connection (transport) is a Link to the session that uses it; what handles a connection's stream
(dispatch) is a ConnectionHandler to the transport. Neither imports the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

__all__ = [
    "HIGH_WATER_BYTES",
    "LOW_WATER_BYTES",
    "ConnectionHandler",
    "Disconnect",
    "HandlerFactory",
    "Link",
    "Move",
    "PathState",
]


@dataclass(frozen=True, slots=True)
class Disconnect:
    """How a connection ended.

    Attributes:
        kind: ``peer`` an application close by the peer, ``peer_transport`` a QUIC error from the
            peer, ``local`` we closed it, ``idle`` the QUIC idle time-out, ``reset`` a stateless
            reset, ``handshake`` it never came up.
        code: Application or QUIC error code, 0 for none.
        reason: The reason text that came with it; text from outside, escape before printing.
    """

    kind: Literal["peer", "peer_transport", "local", "idle", "reset", "handshake"]
    code: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PathState:
    """How a connection's path to its peer does.

    Attributes:
        rtt_s: The smoothed round trip, seconds; 0 before the first measurement.
        congestion_window: Bytes that may be in flight.
        in_flight: Bytes sent and not acknowledged.
        lost: Packets ever declared lost; what was in them is sent again.
    """

    rtt_s: float
    congestion_window: int
    in_flight: int
    lost: int


Move: TypeAlias = tuple[float, tuple[str, int], tuple[str, int]]
"""Loop time, the address before and the address from then on."""


class Link(Protocol):
    """What a session and a handler know of one client's connection."""

    peer: tuple[str, int]
    """The client's address: ip without a scope or v4-mapping, UDP port."""
    connection_id: int
    """A number of this process's own, for logs."""
    moves: tuple[Move, ...]
    """The client's last moves to another address, the oldest first."""
    transport: str
    """The way that it came by: ``quic``, ``websocket`` or ``webtransport``."""
    keep_alive: bool
    """Whether the transport PINGs after half the idle time-out of silence; over QUIC the handler
    switches it off at the first HEARTBEAT, from which on silence counts (PROTOCOL 3.8)."""

    def write(self, data: bytes) -> None:
        """Hand whole frames to the stream; does nothing once the link is closing."""

    def unsent_bytes(self) -> int:
        """Return the stream bytes never yet transmitted."""

    def request_flush(self) -> None:
        """Call handler.write_ready() and send datagrams at the end of this loop turn."""

    def close(self, code: int, reason: str = "", *, last: bytes = b"") -> None:
        """Close the connection with an application code.

        Args:
            code: See errors.CloseCode.
            reason: Text for the peer, cut at 64 bytes.
            last: Frames to flush by themselves, with FIN, first: the close follows when they are
                acknowledged, after 3 PTO or 1 s. Without it the close is immediate (what was
                written before is flushed first). From this call on nothing of the peer's is
                handled any more.
        """

    def path(self) -> PathState | None:
        """Return how the path does, None once the connection has ended."""

    def wake(self) -> None:
        """Ask the connection task to call handler.work()."""

    @property
    def is_closing(self) -> bool:
        """Whether close() was called, here or by the peer."""

    @property
    def idle_timeout(self) -> float:
        """The effective QUIC idle time-out in seconds: the smaller of both sides'."""

    @property
    def last_heard(self) -> float:
        """Loop time of the last stream byte or acknowledgement from the peer."""


HIGH_WATER_BYTES = 64 << 10
"""Bytes written to a link and not yet transmitted at which a session stops feeding it."""
LOW_WATER_BYTES = 32 << 10
"""Bytes not yet transmitted below which the connection asks the session for more."""


class ConnectionHandler(Protocol):
    """What a connection calls for its stream. All calls come from the loop's thread."""

    def connection_made(self, now: float) -> None:
        """The QUIC handshake is complete."""

    def data_received(self, data: bytes, now: float) -> None:
        """Take stream bytes in: decode, act at once on what need not wait, hold the rest.

        Raises:
            ProtocolError: The connection is closed with its close_code.
        """

    async def work(self) -> None:
        """Do what had to wait. Called by the connection task, once for any number of wake()s."""

    def write_ready(self, now: float) -> None:
        """Unsent bytes are below low water: write what waits, up to high water."""

    def get_timer(self) -> float | None:
        """Return the loop time at which handle_timer is due, or None."""

    def handle_timer(self, now: float) -> None:
        """Look at the deadlines. May be called early."""

    def stream_ended(self, now: float) -> None:
        """The peer sent FIN, RESET_STREAM or STOP_SENDING on the stream."""

    def path_limit_near(self, now: float) -> None:
        """The connection follows the client to no further address: ask it to come back (GOAWAY)."""

    def connection_lost(self, how: Disconnect, now: float) -> None:
        """The connection has ended; called exactly once, and at once.

        A work() that is under way goes on: what it waits for may belong to the session.
        """


class HandlerFactory(Protocol):
    """Makes the handler of a new connection."""

    def __call__(self, link: Link) -> ConnectionHandler: ...
