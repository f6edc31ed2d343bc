"""OrderedSender: gives a session's outgoing messages their place, and feeds its connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._core.queue import KEEP, OrderedQueue
from ..protocol.link import HIGH_WATER_BYTES

if TYPE_CHECKING:
    from ..protocol.link import Link
    from .notify import BundleMessage

__all__ = ["OrderedSender"]


class OrderedSender:
    """One session's way out: its queue, and the connection that drains it (DESIGN D6).

    Args:
        queue: The session's queue, the only outgoing buffer.
        high_water: Bytes not yet transmitted at which feed() stops.

    Attributes:
        queue: As given.
        link: The connection fed now, None for none.
    """

    __slots__ = ("_high_water", "link", "queue")

    def __init__(self, queue: OrderedQueue, high_water: int = HIGH_WATER_BYTES) -> None:
        self.queue = queue
        self.link: Link | None = None
        self._high_water = high_water

    def answer(self, msg_id: int, slot: int, body: bytes) -> None:
        """Send an answer: in its slot, or at once where slot is 0."""
        if slot:
            self.queue.fill(slot, ((msg_id, body, KEEP),))
        else:
            self.queue.append_one(msg_id, body, KEEP, 0.0, True)
        if self.link is not None:
            self.link.request_flush()

    def bundle(self, slot: int, messages: Sequence[BundleMessage]) -> None:
        """Send messages with consecutive seqs: in their slot, or at once where slot is 0."""
        if slot:
            self.queue.fill(slot, messages)
        else:
            self.queue.append(messages, True)
        if self.link is not None:
            self.link.request_flush()

    def notify(self, body: bytes, flags: int = 0, expires_at: float = 0.0) -> None:
        """Send a notify at once, whatever the caps say.

        Args:
            body: Fields 3-5 of its push.
            flags: BULK for a broadcast.
            expires_at: Loop time, 0 for never.
        """
        self.queue.append_one(0, body, flags, expires_at, True)
        if self.link is not None:
            self.link.request_flush()

    def flush(self) -> None:
        """Ask the connection to feed at the end of this loop turn."""
        if self.link is not None:
            self.link.request_flush()

    def feed(self, now: float) -> None:
        """Fill the connection from the queue, up to high water."""
        link = self.link
        queue = self.queue
        if link is None or not queue.unsent:
            return
        room = self._high_water - link.unsent_bytes()
        while room > 0 and queue.unsent:
            data = queue.take(room)
            if not data:
                # Only marks were left, and the client knows no SKIP.
                return
            link.write(data)
            room -= len(data)
