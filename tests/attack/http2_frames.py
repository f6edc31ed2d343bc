"""HTTP/2 frames made by hand, and taken apart: what no HTTP/2 library would send (RFC 9113)."""

from __future__ import annotations

import struct

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HEADERS",
    "INITIAL_WINDOW_SIZE",
    "MAX_FRAME_SIZE",
    "PADDED",
    "PING",
    "PREFACE",
    "PRIORITY",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "Frames",
    "frame",
    "goaway",
    "headers",
    "literal",
    "message",
    "response",
    "rst_stream",
    "settings",
    "trailers",
    "window_update",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED = 0x4, 0x8
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5
HEAD = struct.Struct(">HBBBI")  # a length of three bytes, type, flags, stream


def frame(
    kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", size: int = -1
) -> bytes:
    """Return a frame; a size that is given stands in its head, whatever the payload has."""
    size = len(payload) if size < 0 else size
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def goaway(last: int, code: int = 0, text: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text)


def literal(name: bytes, value: bytes, first: int = 0x00) -> bytes:
    """Return a field without Huffman code; first 0x40 puts it into the peer's table, too."""
    return bytes([first]) + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    size, digits = size - 127, [127]
    while size > 127:
        digits.append(0x80 | size & 0x7F)
        size >>= 7
    return bytes([*digits, size]) + text


def headers(stream: int, *fields: tuple[bytes, bytes], ends: bool = False) -> bytes:
    """Return a HEADERS frame with these fields."""
    block = b"".join(literal(*field) for field in fields)
    return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream, block)


def response(stream: int) -> bytes:
    """Return the head of a gRPC response."""
    return headers(stream, (b":status", b"200"), (b"content-type", b"application/grpc"))


def trailers(stream: int, status: int = 0, *more: tuple[bytes, bytes], only: bool = False) -> bytes:
    """Return the end of a gRPC response; only: it has nothing before it."""
    first = ((b":status", b"200"), (b"content-type", b"application/grpc")) if only else ()
    return headers(stream, *first, (b"grpc-status", b"%d" % status), *more, ends=True)


def message(data: bytes, size: int = -1) -> bytes:
    """Return a gRPC message; a size that is given is announced, whatever the data has."""
    return struct.pack(">BI", 0, len(data) if size < 0 else size) + data


class Frames:
    """Takes bytes apart into (type, flags, stream, payload)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, int, int, bytes]]:
        buffer = self._buffer
        buffer += data
        found = []
        at = 0
        while len(buffer) - at >= HEAD.size:
            high, low, kind, flags, stream = HEAD.unpack_from(buffer, at)
            end = at + HEAD.size + (high << 8 | low)
            if len(buffer) < end:
                break
            found.append((kind, flags, stream & 0x7FFFFFFF, bytes(buffer[at + HEAD.size : end])))
            at = end
        del buffer[:at]
        return found
