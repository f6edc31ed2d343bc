"""NotifyBuffer: a bounded buffer of notifies that the application has not read yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ..errors import GatesvrError, NotifyOverflow
from .messages import Lost, Notify

__all__ = ["NotifyBuffer"]


class NotifyBuffer:
    """Keeps up to a number of notifies in order, and every gap between them in its place.

    When it is full, what comes is dropped, and the reader gets a NotifyOverflow where it would have
    stood. So a reader that is slow knows what it missed, and one that never reads costs no more
    than the bound.

    Args:
        max_notifies: How many notifies wait at most.
        on_lost: Called with what the gateway lost when the reader comes to its place.
        on_read: Called when the reader is done with something.
    """

    def __init__(
        self,
        max_notifies: int,
        on_lost: Callable[[Lost], None] | None = None,
        on_read: Callable[[], None] | None = None,
    ) -> None:
        if max_notifies < 1:
            raise ValueError("max_notifies must be 1 or more")
        self.max_notifies = max_notifies
        self.dropped = 0
        """Notifies dropped because the buffer was full."""
        self._on_lost = on_lost
        self._on_read = on_read
        self._in_hand = 0  # first server seq of what the reader has and did not come back from
        self._ended = 0  # entries at the front whose session is over
        self._entries: deque[Notify | Lost | GatesvrError] = deque()
        self._readers: deque[asyncio.Future[None]] = deque()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first_unread(self) -> int:
        """The lowest server seq of the session that the reader is not done with, 0 for none.

        The reader has finished a notify when it asks for the next one.
        """
        if self._in_hand:
            return self._in_hand
        return _first_seq(self._entries[self._ended]) if self._ended < len(self._entries) else 0

    def put(self, notify: Notify) -> None:
        """Add a notify, or drop it where the buffer is full."""
        if len(self._entries) < self.max_notifies:
            self._add(notify)
        else:
            self._drop(1, notify.server_seq, notify.server_seq)

    def put_lost(self, lost: Lost) -> None:
        """Add word of a loss; where the buffer is full it counts as dropped like a notify."""
        last = self._last()
        if isinstance(last, Lost) and last.reason == lost.reason:
            last.last_seq = lost.last_seq
        elif len(self._entries) < self.max_notifies:
            self._add(lost)
        else:
            self._drop(lost.last_seq - lost.first_seq + 1, lost.first_seq, lost.last_seq)

    def put_error(self, error: GatesvrError) -> None:
        """Add an error for the reader to get in its place; it does not end the buffer."""
        self._add(error)

    def end_session(self) -> None:
        """Mark the session as over: entries here no longer hold its position back."""
        self._ended = len(self._entries)
        self._in_hand = 0

    def settle(self) -> None:
        """Record that the reader has finished what it holds."""
        if self._in_hand:
            self._in_hand = 0
            if self._on_read is not None:
                self._on_read()

    def close(self) -> None:
        """Stop readers once they have read the entries."""
        self._is_closed = True
        while self._readers:
            self._wake()

    async def get(self) -> Notify:
        """Return the next notify.

        Raises:
            NotifyOverflow: Some were dropped in this place; the next call goes on behind them.
            SessionLost: The session ended here.
            StopAsyncIteration: The client is closed and everything was read.
        """
        self.settle()
        while True:
            while self._entries:
                entry = self._entries.popleft()
                if self._ended:
                    self._ended -= 1
                else:
                    self._in_hand = _first_seq(entry)
                if isinstance(entry, Notify):
                    return entry
                if isinstance(entry, GatesvrError):
                    raise entry
                if self._on_lost is not None:
                    self._on_lost(entry)
                self.settle()
            if self._is_closed:
                raise StopAsyncIteration
            reader = asyncio.get_running_loop().create_future()
            self._readers.append(reader)
            try:
                await reader
            except asyncio.CancelledError:
                if reader.done() and not reader.cancelled():
                    self._wake()  # this reader was woken and will not read: the next one shall
                raise
            finally:
                if reader in self._readers:
                    self._readers.remove(reader)

    def _add(self, entry: Notify | Lost | GatesvrError) -> None:
        self._entries.append(entry)
        self._wake()

    def _drop(self, count: int, first_seq: int, last_seq: int) -> None:
        self.dropped += count
        last = self._last()
        if isinstance(last, NotifyOverflow):
            self._entries[-1] = NotifyOverflow(last.count + count, last.first_seq, last_seq)
        else:
            self._entries.append(NotifyOverflow(count, first_seq, last_seq))

    def _last(self) -> Notify | Lost | GatesvrError | None:
        """Return the newest entry of the session, None for none."""
        return self._entries[-1] if self._ended < len(self._entries) else None

    def _wake(self) -> None:
        while self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)
                return


def _first_seq(entry: Notify | Lost | GatesvrError) -> int:
    if isinstance(entry, Notify):
        return entry.server_seq
    return entry.first_seq if isinstance(entry, Lost | NotifyOverflow) else 0
