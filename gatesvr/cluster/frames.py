"""Frames: calls and answers between two processes as batches of bytes, without loop or wire.

A FrameQueue is one direction's way out, a FrameReader its way in. A body above PART_BYTES goes in
parts, one a batch, between which the frames of other calls go on.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.message import DecodeError

from .._pb import cluster_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_BODY_BYTES",
    "PART_BYTES",
    "FrameError",
    "FrameQueue",
    "FrameReader",
    "Incoming",
    "Outgoing",
]

PART_BYTES = 1 << 20
"""Largest part of a body, and about what a batch holds."""
MAX_BATCH_BYTES = 2 * PART_BYTES + (64 << 10)
"""No batch is larger: two bodies of a part each, and what small frames need beside them."""
MAX_BODY_BYTES = 1 << 30
"""Largest request or answer; a session's bytes are below it (session/moved.max_export_bytes())."""
MAX_PARTLY = 4_096
"""Bodies that may be there in part at a time."""
FRAME_BYTES = 64
"""Upper bound of a frame's bytes beside its body, its method and its error."""
MAX_TEXT_BYTES = 256
"""Longest method or error."""
_MAX_MS = (1 << 32) - 1


class FrameError(Exception):
    """A sibling has sent what no sibling sends; nothing more is read from it."""


@dataclass(slots=True, eq=False)
class Outgoing:
    """A frame on its way out.

    Attributes:
        call: The caller's number of the call.
        body: The request or the answer.
        method: Of a call; empty in an answer.
        error: Of an answer: why there is none.
        deadline: Loop time after which nobody needs it; it is not begun then.
        is_hint: Whether nobody waits for an answer to it.
        sent: Bytes of the body that went out.
    """

    call: int
    body: bytes
    method: str = ""
    error: str = ""
    deadline: float = inf
    is_hint: bool = False
    sent: int = 0


class Incoming(NamedTuple):
    """A whole frame.

    Attributes:
        call: The caller's number of the call.
        method: Of a call; empty in an answer.
        body: The request or the answer.
        error: Of an answer: why there is none.
        left: Seconds for which somebody waits for the answer; 0 or less: nobody does any more.
        is_hint: Whether nobody waits at all.
    """

    call: int
    method: str
    body: bytes
    error: str
    left: float
    is_hint: bool


class FrameQueue:
    """What waits to be written to a sibling, in order.

    Attributes:
        size: Bytes of bodies that wait.
    """

    def __init__(self) -> None:
        self.size = 0
        self._frames: OrderedDict[Outgoing, None] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._frames)

    def put(self, frame: Outgoing) -> None:
        """Add a frame; its owner keeps the bounds."""
        self._frames[frame] = None
        self.size += len(frame.body)

    def drop(self, frame: Outgoing) -> bool:
        """Take a frame back; return False if it has gone out."""
        if frame not in self._frames:
            return False
        if not self._give_up(frame):
            del self._frames[frame]
        return True

    def _give_up(self, frame: Outgoing) -> bool:
        """Forget a frame's body; return whether the sibling has parts of it to forget, too."""
        is_begun = frame.sent > 0
        self.size -= len(frame.body) - frame.sent
        frame.body, frame.sent = b"", 0
        frame.error = "given up"
        return is_begun

    def clear(self) -> int:
        """Drop everything; return how many hints that were."""
        hints = sum(frame.is_hint for frame in self._frames)
        self._frames.clear()
        self.size = 0
        return hints

    def next_batch(self, now: float, sent_ms: int) -> bytes:
        """Return the next batch, b"" if nothing waits.

        Args:
            now: Loop time. Frames past their deadlines are left out.
            sent_ms: What the batch says of its own time, 0 for nothing.
        """
        frames = self._frames
        batch = pb.PeerBatch(sent_ms=sent_ms)
        room = PART_BYTES
        halves: list[Outgoing] = []  # each gives one part to a batch
        while frames and room > 0:
            frame, _ = frames.popitem(last=False)
            if frame.deadline <= now and not frame.error and not self._give_up(frame):
                continue
            body = frame.body
            size = len(body) - frame.sent
            is_more = size > PART_BYTES
            if frame.sent or is_more:
                size = min(size, PART_BYTES)
                body = body[frame.sent : frame.sent + size]
            written = batch.frames.add(call=frame.call, body=body)
            if frame.method:
                written.method = frame.method
                if not frame.is_hint:
                    left = (frame.deadline - now) * 1000
                    written.timeout_ms = _MAX_MS if left >= _MAX_MS else max(int(left), 1)
            if frame.error:
                written.error = frame.error
            if is_more:
                written.is_more = True
                frame.sent += size
                halves.append(frame)
            self.size -= size
            room -= size + FRAME_BYTES
        for frame in halves:
            frames[frame] = None
        return batch.SerializeToString() if batch.frames else b""


class FrameReader:
    """Makes whole frames of a sibling's batches."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, bool], bytearray] = {}
        self._size = 0

    def receive(self, data: bytes, now_ms: int) -> Iterator[Incoming]:
        """Yield the frames that a batch completes.

        Args:
            data: A batch.
            now_ms: The clock that ``sent_ms`` of batches is taken from.

        Raises:
            FrameError: It is no batch, or passes a limit.
        """
        try:
            batch = pb.PeerBatch.FromString(data)
        except DecodeError:
            raise FrameError("no batch") from None
        # What was sent in the future was not: those are other clocks.
        age = max(now_ms - batch.sent_ms, 0) / 1000 if batch.sent_ms else 0.0
        for frame in batch.frames:
            body: bytes | None = frame.body
            if frame.is_more or self._parts:
                body = self._whole(frame)
                if body is None:
                    continue
            left = frame.timeout_ms / 1000 - age
            is_hint = bool(frame.method) and not frame.timeout_ms
            yield Incoming(frame.call, frame.method, body or b"", frame.error, left, is_hint)

    def _whole(self, frame: pb.PeerFrame) -> bytes | None:
        """Return a body whose last part a frame brings; None while there is more."""
        key = (frame.call, bool(frame.method))
        parts = self._parts.pop(key, None)
        if parts is not None:
            self._size -= len(parts)
        if frame.error:
            return None if frame.method else b""  # given up
        if parts is None:
            if not frame.is_more:
                return frame.body
            parts = bytearray()
        parts += frame.body
        if len(parts) > MAX_BODY_BYTES or self._size > MAX_BODY_BYTES:
            raise FrameError("bodies that are too large")
        if not frame.is_more:
            return bytes(parts)
        if len(self._parts) >= MAX_PARTLY:
            raise FrameError("too many bodies in parts")
        self._parts[key] = parts
        self._size += len(parts)
        return None
