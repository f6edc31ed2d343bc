"""ProcessStream: the stream that a direct lane's shared messages go on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from .._core.http2 import ENDED, HEADERS, MESSAGE
from .lane import CLOSE_S, PROCESS_STREAM, SETTLE_S

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from .._core.http2 import Stream
    from .connection import UpstreamConnection

__all__ = ["ProcessStream", "StreamUser"]

MAX_UNSENT_BYTES = 256 << 10
"""Messages that wait for the peer's windows; with more, the lane writes none."""


class StreamUser(Protocol):
    """What a stream calls: the lane."""

    def stream_settled(self, process: ProcessStream) -> None:
        """Write to the stream from now on."""

    def stream_message(self, process: ProcessStream, data: bytes) -> None:
        """Take a message of answers."""

    def stream_ended(self, process: ProcessStream, status: int, details: str) -> None:
        """End the calls that were written to the stream."""


class ProcessStream:
    """One ProcessStream, from its opening to its end.

    A server that has no such method may send its initial metadata first and the status a moment
    later. A request written in between would be lost with the stream, so the stream has to settle.

    Args:
        user: The lane.
        connection: What it is opened on; there is room.

    Attributes:
        stream: The HTTP/2 stream.
        began: Loop time of its opening.
        junk: What Lane._take_answers() made of its messages so far.
        ids: The calls written to it and not ended, once the lane has left it; None before.
    """

    def __init__(self, user: StreamUser, connection: UpstreamConnection) -> None:
        self.connection = connection
        self.stream = connection.core.open(PROCESS_STREAM, self)
        self.began = asyncio.get_running_loop().time()
        self.junk = 0
        self.ids: set[int] | None = None
        self._user = user
        self._is_settled = False
        self._is_finished = False  # half-closed
        self._timer: asyncio.TimerHandle | None = None  # that of settling, or of the end

    @property
    def has_room(self) -> bool:
        """Whether a message can be written now."""
        return not self.connection.is_paused and self.stream.unsent_bytes < MAX_UNSENT_BYTES

    def handle(self, kind: int, stream: Stream, data: bytes) -> None:
        """Take an event of the stream."""
        if kind == MESSAGE:
            self._user.stream_message(self, data)
        elif kind == HEADERS:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_S, self._settle)
        elif kind == ENDED:
            self._user.stream_ended(self, stream.status, stream.details)

    def leave(self, ids: Iterable[int]) -> None:
        """Take no more messages; those written to it are answered.

        Args:
            ids: The calls written to it and not ended.
        """
        self.ids = set(ids)
        if not self._is_settled:
            self.cancel()

    def drain(self, open_calls: Container[int]) -> None:
        """Half-close a stream that was left, once its calls have ended.

        Some servers answer nothing more from then on.

        Args:
            open_calls: The ids of the lane's open calls.
        """
        if self._is_finished or self.ids is None or self.stream.is_ended:
            return
        self.ids = {request_id for request_id in self.ids if request_id in open_calls}
        if not self.ids:
            self._is_finished = True
            self.connection.core.finish(self.stream)
            self._timer = asyncio.get_running_loop().call_later(CLOSE_S, self._cut)

    def cancel(self) -> None:
        """Reset the stream; nothing follows."""
        self.connection.core.cancel(self.stream)
        self.let_go()

    def let_go(self) -> None:
        """Wait for nothing more: the stream has ended, or its connection.

        The two name each other, and the gateway's garbage collector runs rarely.
        """
        self.stream.owner = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _settle(self) -> None:
        self._timer = None
        self._is_settled = True
        self._user.stream_settled(self)

    def _cut(self) -> None:
        """End a half-closed stream that the server does not end."""
        self.cancel()
        self._user.stream_ended(self, 0, "")
