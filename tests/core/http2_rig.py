"""An Http2Connection and a peer made by hand: frames in, frames out, nothing checked in between."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import hpack

from gatesvr._core import http2
from gatesvr._core.http2 import Http2Connection, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 0x20
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, WINDOW_SIZE, FRAME_SIZE = 1, 2, 3, 4, 5

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]

Fields = list[tuple[str, str]]
Event = tuple[int, Stream | None, bytes]


class Frame(NamedTuple):
    """A frame of the connection."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The payload of a RST_STREAM or WINDOW_UPDATE."""
        return int.from_bytes(self.payload, "big")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(values: dict[int, int] | None = None) -> bytes:
    """Return SETTINGS."""
    pairs = (values or {}).items()
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def number(kind: int, stream: int, value: int) -> bytes:
    """Return a RST_STREAM or WINDOW_UPDATE."""
    return frame(kind, 0, stream, struct.pack(">I", value))


def goaway(last: int, code: int = 0, text: bytes = b"") -> bytes:
    """Return GOAWAY."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text)


def message(data: bytes) -> bytes:
    """Return a message with its prefix."""
    return b"\0" + struct.pack(">I", len(data)) + data


def frames_of(data: bytes) -> list[Frame]:
    """Return the frames in data, all of them whole."""
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", data[3:9])
        assert len(data) >= 9 + size
        found.append(Frame(kind, flags, stream, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


class Rig:
    """A connection whose peer has read the preface, and sent its SETTINGS.

    Args:
        values: The peer's settings.
        max_message_bytes: As of Http2Connection.
        is_ready: False leaves the peer's SETTINGS out.
    """

    def __init__(
        self,
        values: dict[int, int] | None = None,
        *,
        max_message_bytes: int = 4 << 20,
        is_ready: bool = True,
    ) -> None:
        self.connection = Http2Connection("up:1", "http", max_message_bytes=max_message_bytes)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.now = 0.0
        preface = self.connection.take()
        assert preface.startswith(PREFACE)
        self.preface = frames_of(preface[len(PREFACE) :])
        if is_ready:
            assert self.feed(settings(values)) == [(http2.READY, None, b"")]
            assert self.sent() == [Frame(SETTINGS, ACK, 0, b"")]

    def feed(self, *frames: bytes) -> list[Event]:
        """Hand the frames over in one read."""
        return self.connection.receive(b"".join(frames), self.now)

    def sent(self, kind: int | None = None) -> list[Frame]:
        """Return what the connection wrote since the last time, of one kind."""
        found = frames_of(self.connection.take())
        return found if kind is None else [one for one in found if one.kind == kind]

    def call(self, data: bytes = b"hi", path: str = "/s/Call") -> Stream:
        """Begin a unary call; what it writes is dropped."""
        stream = self.connection.call(path, data, None)
        self.connection.take()
        return stream

    def open(self) -> Stream:
        """Open a stream; what it writes is dropped."""
        stream = self.connection.open("/s/Open", None)
        self.connection.take()
        return stream

    def headers(self, stream: Stream, fields: Fields, flags: int = 0) -> bytes:
        """Return HEADERS with END_HEADERS."""
        return frame(HEADERS, END_HEADERS | flags, stream.id, self.encoder.encode(fields))

    def head(self, stream: Stream) -> bytes:
        """Return a response head."""
        return self.headers(stream, HEAD)

    def trailers(self, stream: Stream, fields: Fields = OK) -> bytes:
        """Return trailers."""
        return self.headers(stream, fields, END_STREAM)

    def data(self, stream: Stream, data: bytes, flags: int = 0) -> bytes:
        """Return DATA frames of up to 16 KiB; the flags are on the last."""
        parts = [data[at : at + 16_384] for at in range(0, len(data), 16_384)] or [b""]
        return b"".join(
            frame(DATA, flags if part is parts[-1] else 0, stream.id, part) for part in parts
        )

    def answer(self, stream: Stream, data: bytes) -> bytes:
        """Return a unary call's whole answer."""
        return self.head(stream) + self.data(stream, message(data)) + self.trailers(stream)

    def request(self) -> tuple[Fields, bytes]:
        """Return the fields and the bytes of the one request written since the last time."""
        block = data = b""
        for one in self.sent():
            if one.kind in (HEADERS, CONTINUATION):
                block += one.payload
            elif one.kind == DATA:
                data += one.payload
        return self.decoder.decode(block), data

    def is_alive(self) -> bool:
        """Return whether another call is answered: nothing got out of step."""
        stream = self.call()
        events = self.feed(self.answer(stream, b"alive"))
        return (
            events[-1:] == [(http2.ENDED, stream, b"")]
            and (stream.status, stream.message) == (0, b"alive")
            and self.connection.error == ""
        )


def kinds(events: Iterable[Event]) -> list[int]:
    """Return the kinds of events."""
    return [kind for kind, _, _ in events]
