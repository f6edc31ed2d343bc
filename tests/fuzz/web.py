"""What web clients send: WebSocket frames and the streams of HTTP/3, however they are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pylsqpack
from websockets.frames import Frame, Opcode

from gatesvr.errors import ProtocolError
from gatesvr.transport.web.frames import FrameReader, close_of
from gatesvr.transport.web.http3 import (
    MAX_BYTES,
    Code,
    Http3,
    Http3Error,
    Opened,
    Request,
    close_frame,
)

from .reader import Reader, chunk

_MAX_MESSAGE_BYTES = 600
_BINARY, _CLOSE, _CONTROL = 2, 8, 8


def check(data: bytes) -> None:
    """Use the bytes as those of the client that the first byte says."""
    reader = Reader(data)
    reader.pick(_KINDS)(reader)


def _check_frames(reader: Reader) -> None:
    cut = reader.number()
    data = reader.rest()
    whole, is_good = _read_frames([data])
    pieces = [data[:cut], *(data[at : at + 1] for at in range(cut, len(data)))]
    assert _read_frames(pieces) == (whole, is_good)
    for opcode, payload in whole:
        assert len(payload) <= (125 if opcode & _CONTROL else _MAX_MESSAGE_BYTES)
        if opcode == _CLOSE:
            try:
                close_of(payload)
            except ProtocolError:
                continue


def _read_frames(pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], bool]:
    """Return what was read before the first fault, and whether there was none."""
    reader = FrameReader(_MAX_MESSAGE_BYTES)
    found: list[tuple[int, bytes]] = []
    try:
        for piece in pieces:
            for message in reader.receive(piece, 1.0):
                found.append(message)
    except ProtocolError:
        return found, False
    return found, True


def _check_streams(reader: Reader) -> None:
    """The same streams, whole and byte by byte: what they mean is the same."""
    steps: list[tuple[int, bytes | None, bool]] = []
    while not reader.is_empty:
        stream_id = reader.number() % 24 & ~1  # a client's
        does = reader.number()
        if does == 0xFF:
            steps.append((stream_id, None, True))
        else:
            steps.append((stream_id, reader.chunk(), bool(does & 1)))
    whole, fault = _read_streams(steps)
    cut = [
        (stream_id, data[at : at + 1], is_end and at + 1 >= len(data))
        for stream_id, data, is_end in steps
        if data
        for at in range(len(data))
    ]
    if any(data is None or (not data and is_end) for _, data, is_end in steps):
        return
    pieces, cut_fault = _read_streams([(i, d, e) for i, d, e in cut])
    # A fault takes what came before it in the same bytes along, and of two the first is told.
    assert pieces[: len(whole)] == whole
    assert (fault is None) == (cut_fault is None)
    assert fault is not None or pieces == whole


def _read_streams(
    steps: list[tuple[int, bytes | None, bool]],
) -> tuple[list[tuple[object, ...]], Code | None]:
    """Return what streams mean before the first fault, and its code."""
    http = Http3()
    found: list[tuple[object, ...]] = []
    messages = session = -1
    taken = 0
    ended: set[int] = set()
    try:
        for stream_id, data, is_end in steps:
            if stream_id == messages or stream_id in ended:
                continue  # QUIC brings nothing behind an end
            if is_end:
                ended.add(stream_id)
            taken += len(data or b"")
            events = (
                http.reset(stream_id) if data is None else http.receive(stream_id, data, is_end)
            )
            while events:
                event = events.pop(0)
                if isinstance(event, Request):
                    found.append(("request", event.stream_id, tuple(event.fields.items())))
                    if session < 0 and event.fields.get(":method") == "CONNECT":
                        session = event.stream_id
                        events += http.accept(session)
                elif isinstance(event, Opened):
                    messages = event.stream_id
                    found.append(("opened", messages))
                else:
                    found.append((type(event).__name__, repr(event)))
    except Http3Error as error:
        return found, error.code
    assert taken <= MAX_BYTES
    return found, None


_KINDS: tuple[Callable[[Reader], None], ...] = (_check_frames, _check_streams)


def _frames(*messages: tuple[int, bytes, bool]) -> bytes:
    return b"".join(
        Frame(Opcode(opcode), data, fin).serialize(mask=True) for opcode, data, fin in messages
    )


def _step(stream_id: int, data: bytes, *, is_end: bool = False) -> bytes:
    return bytes([stream_id, is_end]) + chunk(data)


def _headers(*fields: tuple[bytes, bytes]) -> bytes:
    _, block = pylsqpack.Encoder().encode(0, list(fields))
    return b"\x01" + (0x4000 | len(block)).to_bytes(2) + block


def seeds() -> Iterator[bytes]:
    """Yield frames of every kind, and the streams of browsers and of others."""
    for messages in (
        [(2, b"hello", True)],
        [(2, b"he", False), (9, b"?", True), (0, b"llo", True)],
        [(2, b"x" * 126, True), (10, b"", True)],
        [(8, b"\x03\xe8bye", True)],
        [(8, b"\x00", True)],
        [(1, b"text", True)],
        [(2, b"x" * 601, True)],
        [(0, b"of none", True)],
    ):
        yield b"\x00\x03" + _frames(*messages)
    settings = b"\x00\x04\x04\x07\x01\x33\x01"
    connect = _headers(
        (b":method", b"CONNECT"),
        (b":protocol", b"webtransport"),
        (b":scheme", b"https"),
        (b":authority", b"gate.test"),
        (b":path", b"/gatesvr"),
        (b"origin", b"https://gate.test"),
    )
    start = b"\x01" + _step(2, settings) + _step(6, b"\x02") + _step(10, b"\x03")
    yield start
    session = start + _step(0, connect)
    yield session
    yield session + _step(4, b"\x40\x41\x00\x00\x00\x00\x05hello")
    yield session + _step(0, close_frame(4410, "KICKED"), is_end=True)
    yield session + _step(0, b"\x00\x02\x21\x00", is_end=True)
    yield session + _step(0, connect)
    yield session + _step(4, connect)
    yield session + _step(8, b"\x40\x41\x04") + _step(14, b"\x40\x54\x00abc")
    yield session + b"\x00\xff"
    yield start + _step(0, _headers((b":method", b"GET"), (b":path", b"/")), is_end=True)
    yield b"\x01" + _step(2, b"\x00\x04\x02\x02\x01")
    yield b"\x01" + _step(2, b"\x00\x01\x00")
    yield b"\x01" + _step(6, b"\x02\x3f\xe1\x1f")
    yield b"\x01" + _step(2, settings) + b"\x02\xff"
    yield b"\x01" + _step(18, b"\x21grease") + _step(20, b"\x40\x41\x01")
