"""One of a client's connections: its bytes to the session protocol and back."""

from __future__ import annotations

from typing import Protocol

from ..errors import CloseCode
from ..protocol.client import ClientProtocol
from ..protocol.events import ClientEvent
from ..protocol.link import Disconnect, Link

__all__ = ["STOP_TIMEOUT_S", "StreamHandler", "StreamOwner"]

STOP_TIMEOUT_S = 1.0
"""Longest wait for the gateway's close behind STOP, and behind its last push (PROTOCOL 3.9)."""


class StreamOwner(Protocol):
    """What a connection's handler tells the connector."""

    def is_current(self, link: Link) -> bool:
        """Return whether link is the connection that the session uses."""

    def handle_events(self, events: list[ClientEvent], now: float) -> None:
        """Take in what the gateway said."""

    def connection_lost(self, how: Disconnect, now: float) -> None:
        """The current connection has ended."""

    def keep_state(self) -> None:
        """Store the session's state: what is written next depends on it."""


class StreamHandler:
    """The ConnectionHandler of one of a client's connections.

    Args:
        owner: Receives the events, as long as the link is its current one.
        link: The connection.
        protocol: The session's protocol on this connection.
    """

    def __init__(self, owner: StreamOwner, link: Link, protocol: ClientProtocol) -> None:
        self._owner = owner
        self._link = link
        self._protocol = protocol
        self._close_at: float | None = None

    def connection_made(self, now: float) -> None:
        """Begin, or resume, the session on this connection."""
        self._protocol.connect(now)
        self._link.request_flush()

    def data_received(self, data: bytes, now: float) -> None:
        """Take stream bytes in; a broken rule closes this connection, and the next one resumes."""
        if self._owner.is_current(self._link):
            protocol = self._protocol
            self._owner.handle_events(protocol.receive_data(data, now), now)
            self._link.request_flush()
            if protocol.error is not None:
                raise protocol.error
            self._leave_if_done(now)

    async def work(self) -> None:
        """Nothing waits for a task on the client's side."""

    def write_ready(self, now: float) -> None:
        """Write what the protocol has, once its state is stored."""
        if self._owner.is_current(self._link):
            protocol = self._protocol
            if protocol.session.is_state_due:
                self._owner.keep_state()
            if data := protocol.data_to_send():
                self._link.write(data)

    def get_timer(self) -> float | None:
        """Return when handle_timer() is due."""
        if self._close_at is not None:
            return self._close_at
        return self._protocol.get_timer()

    def handle_timer(self, now: float) -> None:
        """Ack, send a heartbeat, give up a gateway that is silent, leave one that asks for it."""
        if self._close_at is not None:
            if now >= self._close_at:
                self._link.close(CloseCode.NORMAL)
            return
        if self._owner.is_current(self._link):
            self._protocol.handle_timer(now)
            if self._protocol.is_silent:
                self._link.close(CloseCode.TIMEOUT, "silent")
            else:
                self._link.request_flush()
                self._leave_if_done(now)

    def _leave_if_done(self, now: float) -> None:
        """Close a connection that GOAWAY asked to leave, once its answers are here and acked."""
        if self._protocol.is_leaving and self._protocol.is_left:
            self._protocol.send_ack()
            self.write_ready(now)
            self._link.close(CloseCode.NORMAL, "goaway")

    def stream_ended(self, now: float) -> None:
        """Wait for the close behind the gateway's last push, but not for ever."""
        # What the last push means stands in the close code.
        self._close_at = now + 2 * STOP_TIMEOUT_S

    def path_limit_near(self, now: float) -> None:
        """A client's server does not move."""

    def connection_lost(self, how: Disconnect, now: float) -> None:
        """Tell of the end, unless the session has moved on."""
        if self._owner.is_current(self._link):
            self._owner.connection_lost(how, now)
