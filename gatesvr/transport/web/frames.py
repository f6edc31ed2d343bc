"""The frames of WebSocket (RFC 6455 5), those of a client and those for one, without I/O.

The websockets library has them too; here, a short binary message costs a few operations.
"""

from __future__ import annotations

import logging
import struct
from math import inf
from typing import TYPE_CHECKING

from websockets.exceptions import ProtocolError as CloseError
from websockets.frames import Close

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

from ...errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BINARY",
    "CLOSE",
    "MAX_PIECES",
    "NORMAL",
    "PING",
    "PONG",
    "PREFIX_BYTES",
    "PRIVATE",
    "SUBPROTOCOL",
    "FrameReader",
    "close_of",
    "head_of",
    "silent",
]

SUBPROTOCOL = "gatesvr"
PREFIX_BYTES = 4
"""Length of a frame of PROTOCOL 1.3, in front of it; a message is whole ones."""
NORMAL = 1000
PRIVATE = range(3000, 5000)
"""Close codes that an application may send (RFC 6455 7.4.2)."""
silent = logging.Logger("gatesvr.websockets", logging.CRITICAL)
"""The library's lines: a peer causes them, and a connection counts or tells what matters."""

MAX_PIECES = 256
"""Pieces that a message may come in."""

CONTINUATION = 0
TEXT = 1
BINARY = 2
CLOSE = 8
PING = 9
PONG = 10
_FIN = 0x80
_RESERVED = 0x70
_WHOLE = _FIN | BINARY  # the first byte of a binary message in one piece
_MASKED = 0x80
_MAX_CONTROL_BYTES = 125
_HEAD_BYTES = 6  # of the shortest masked frame
_SHORT = 126
_MEDIUM = 1 << 16
_short_head = [bytes((_WHOLE, length)) for length in range(_SHORT)]
_medium_head = struct.Struct(">BBH").pack
_long_head = struct.Struct(">BBQ").pack


class FrameReader:
    """Makes messages and control frames out of a client's bytes.

    Args:
        max_bytes: Longest message.

    Attributes:
        max_bytes: Longest message that may begin from now on.
        began_at: The time of the first byte of a message or control frame that is not complete;
            inf between them.
    """

    __slots__ = ("_buffer", "_needed", "_pieces", "_pieces_bytes", "began_at", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.began_at = inf
        self._buffer = bytearray()  # of a frame that is not complete
        self._needed = 0  # bytes in the buffer before it is looked at again
        self._pieces: list[bytes] = []  # of a message that is not complete
        self._pieces_bytes = 0

    def receive(self, data: bytes, now: float) -> Iterator[tuple[int, bytes]]:
        """Yield the opcode and the payload of what is complete: BINARY, CLOSE, PING or PONG.

        A caller may stop in between; then it may not go on with later bytes.

        Raises:
            ProtocolError: RFC 6455 is broken, or a message is text, too long or in too many pieces;
                nothing can be read behind that.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        pieces = self._pieces
        position, end, needed = 0, len(data), 0
        while end - position >= 2:
            head, length = data[position], data[position + 1] - _MASKED
            if length < 0:
                raise ProtocolError("a frame without a mask")
            start = position + _HEAD_BYTES
            if length >= _SHORT:
                start += 2 if length == _SHORT else 8
                if end < start:
                    break
                length = int.from_bytes(data[position + 2 : start - 4])
            # Judged before the rest of it is here.
            if head != _WHOLE or pieces:
                self._check(head, length)
            elif length > self.max_bytes:
                raise ProtocolError("a message that is too long")
            stop = start + length
            if end < stop:
                needed = stop - position
                break
            payload = apply_mask(data[start:stop], data[start - 4 : start])
            position = stop
            if head == _WHOLE:
                self.began_at = inf
                yield BINARY, payload
            elif head & 0xF >= CLOSE:
                if not pieces:
                    self.began_at = inf
                yield head & 0xF, payload
            else:
                if self.began_at is inf:
                    self.began_at = now
                pieces.append(payload)
                self._pieces_bytes += length
                if head & _FIN:
                    payload = b"".join(pieces)
                    pieces.clear()
                    self._pieces_bytes = 0
                    self.began_at = inf
                    yield BINARY, payload
        if position < end:
            self._buffer += memoryview(data)[position:]
            self._needed = needed
            if self.began_at is inf:
                self.began_at = now

    def _check(self, head: int, length: int) -> None:
        """Refuse what may not come now, or not at all."""
        opcode = head & 0xF
        if head & _RESERVED:
            raise ProtocolError("reserved bits that are not 0")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise ProtocolError("an opcode that is not known")
            if length > _MAX_CONTROL_BYTES or not head & _FIN:
                raise ProtocolError("a control frame that is too long, or in pieces")
            return
        if opcode == TEXT:
            raise ProtocolError("a text message")
        if opcode > BINARY:
            raise ProtocolError("an opcode that is not known")
        if (opcode == CONTINUATION) != bool(self._pieces):
            raise ProtocolError("a message inside another one, or a piece of none")
        if self._pieces_bytes + length > self.max_bytes:
            raise ProtocolError("a message that is too long")
        if len(self._pieces) >= MAX_PIECES:
            raise ProtocolError("a message in too many pieces")


def head_of(length: int, opcode: int = BINARY) -> bytes:
    """Return the head of a frame for a client, whose payload has so many bytes."""
    if length < _SHORT:
        return _short_head[length] if opcode == BINARY else bytes((_FIN | opcode, length))
    if length < _MEDIUM:
        return _medium_head(_FIN | opcode, _SHORT, length)
    return _long_head(_FIN | opcode, _SHORT + 1, length)


def close_of(payload: bytes) -> Close:
    """Return the code and the reason in a client's close frame.

    Raises:
        ProtocolError: They are none.
    """
    try:
        return Close.parse(payload)
    except (CloseError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a close frame with {error}") from None
