"""The server's half of HTTP/3 for one WebTransport session on a connection (RFC 9114, RFC 9220).

Sans-IO: the bytes of every stream but the session's own go in by receive(), events come out, and
the caller writes what the functions here make. The streams of a client::

    control         SETTINGS first; all else on it is read over
    QPACK           the encoder's may set a table of 0 bytes, which is all that we offer
    requests        HEADERS; on the one that becomes the session, DATA frames with capsules follow
    0x41, session   the stream that carries messages
    all others      Refused, each by itself

QPACK's dynamic table has no room, so a header block is what its bytes say, and needs no other
stream. Everything that is read here has one budget for the connection's whole life, MAX_BYTES: a
browser needs some hundred bytes of it. What carries messages does not count.

Both dialects of WebTransport are spoken: draft-02 (Chromium), and the later ones, which announce
how many sessions a connection may have. They differ in the settings and in one header.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import pylsqpack

__all__ = [
    "Capsules",
    "Code",
    "Http3",
    "Http3Error",
    "Opened",
    "Refused",
    "Request",
    "SessionEnded",
    "close_frame",
    "frame",
    "response_frame",
    "varint",
]

MAX_BYTES = 64 << 10
"""Bytes of a connection that carry no messages."""
MAX_STREAMS = 64
"""Streams that a connection may open in its life; a browser needs five, and some for show."""
MAX_HEADER_BYTES = 4 << 10
"""Longest header block. Its names and values may come from QPACK's static table, and be 60 times
as long; see MAX_FIELDS_BYTES."""
MAX_FIELDS_BYTES = 16 << 10
"""Longest names and values, with 32 bytes for each field (RFC 9114 4.2.2)."""
MAX_SETTINGS_BYTES = 1 << 10
MAX_CLOSE_BYTES = 4 + 1024
"""Longest CLOSE_WEBTRANSPORT_SESSION: a code and a reason."""

CONTROL, PUSH, ENCODER, DECODER = range(4)
"""Types of unidirectional streams; WEBTRANSPORT_UNI is another."""
WEBTRANSPORT_UNI = 0x54
WEBTRANSPORT_BIDI = 0x41
DATA, HEADERS, SETTINGS, PUSH_PROMISE = 0, 1, 4, 5
_NO_FRAMES = (2, 6, 8, 9)
"""Frames of HTTP/2 without a like (RFC 9114 7.2.8)."""
_NO_SETTINGS = (0, 2, 3, 4, 5)
_CLOSE_SESSION = 0x2843
_NOT_ON_CONTROL = (DATA, HEADERS, PUSH_PROMISE, *_NO_FRAMES)
_NOT_ON_REQUEST = (SETTINGS, PUSH_PROMISE, 3, 7, 0x0D, *_NO_FRAMES)
_SET_CAPACITY_0 = 0x20
"""The one instruction of an encoder whose table has no room (RFC 9204 4.3.1)."""

_SETTINGS = {
    0x01: 0,  # QPACK_MAX_TABLE_CAPACITY
    0x06: MAX_FIELDS_BYTES,  # MAX_FIELD_SECTION_SIZE
    0x07: 0,  # QPACK_BLOCKED_STREAMS
    0x08: 1,  # ENABLE_CONNECT_PROTOCOL (RFC 9220)
    0x33: 1,  # H3_DATAGRAM (RFC 9297): without it there is no WebTransport
    0x2B603742: 1,  # ENABLE_WEBTRANSPORT, of draft-02
    0xC671706A: 1,  # WEBTRANSPORT_MAX_SESSIONS, from draft-07 on
    0x14E9CD29: 1,  # WT_MAX_SESSIONS, from draft-13 on
}


class Code(IntEnum):
    """Error codes of HTTP/3, QPACK and WebTransport."""

    NO_ERROR = 0x100
    GENERAL_PROTOCOL_ERROR = 0x101
    INTERNAL_ERROR = 0x102
    STREAM_CREATION_ERROR = 0x103
    CLOSED_CRITICAL_STREAM = 0x104
    FRAME_UNEXPECTED = 0x105
    FRAME_ERROR = 0x106
    EXCESSIVE_LOAD = 0x107
    ID_ERROR = 0x108
    SETTINGS_ERROR = 0x109
    MISSING_SETTINGS = 0x10A
    REQUEST_REJECTED = 0x10B
    REQUEST_INCOMPLETE = 0x10D
    MESSAGE_ERROR = 0x10E
    DECOMPRESSION_FAILED = 0x200
    ENCODER_STREAM_ERROR = 0x201
    BUFFERED_STREAM_REJECTED = 0x3994BD84


class Http3Error(Exception):
    """The client broke a rule for which its connection is closed, or passed a bound.

    Attributes:
        code: The code to close with.
    """

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(slots=True)
class Request:
    """A request; accept() makes it the session.

    Attributes:
        stream_id: Its stream.
        fields: Pseudo-headers and headers; of a name that comes twice, the first.
        twice: The names that do.
    """

    stream_id: int
    fields: dict[str, str]
    twice: frozenset[str]


@dataclass(slots=True)
class Opened:
    """The client has opened the stream that carries messages: its first bytes.

    From here on the caller reads the stream.
    """

    stream_id: int
    data: bytes
    is_end: bool


@dataclass(slots=True)
class Refused:
    """A stream has to be refused, with this code; what comes on it is dropped."""

    stream_id: int
    code: Code


@dataclass(slots=True)
class SessionEnded:
    """The client has closed the session."""

    code: int
    reason: str


Http3Event: TypeAlias = Request | Opened | Refused | SessionEnded


class _Stream:
    """A stream that is read here.

    Attributes:
        kind: Type of a unidirectional stream, None before it is known; REQUEST, SESSION, DROPPED.
        held: Bytes that make no whole yet.
        skip: Bytes of a frame still to be read over.
        data: Bytes of a DATA frame still to come.
        has_settings: Whether the control stream's first frame has come.
        is_ended: Whether the client has ended its half.
        capsules: Those of the session.
    """

    __slots__ = ("capsules", "data", "has_settings", "held", "is_ended", "kind", "skip")

    def __init__(self, kind: int | None) -> None:
        self.kind = kind
        self.held = b""
        self.skip = 0
        self.data = 0
        self.has_settings = False
        self.is_ended = False
        self.capsules: Capsules | None = None


_REQUEST, _SESSION, _DROPPED = -1, -2, -3


class Capsules:
    """Reads the capsules of a session's DATA frames; all but the close are read over."""

    __slots__ = ("_held", "_skip")

    def __init__(self) -> None:
        self._held = b""
        self._skip = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing of a capsule is missing."""
        return not self._held and not self._skip

    def receive(self, data: bytes) -> SessionEnded | None:
        """Take bytes in; return the close where there is one.

        Raises:
            Http3Error: The close is too short or too long.
        """
        data, self._held = self._held + data, b""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            head = _pair(data, at)
            if head is None:
                self._held = data[at:]
                return None
            kind, size, start = head
            if kind != _CLOSE_SESSION:
                self._skip, at = size, start
                continue
            if not 4 <= size <= MAX_CLOSE_BYTES:
                raise Http3Error(Code.MESSAGE_ERROR, "a close capsule of no such size")
            if start + size > len(data):
                self._held = data[at:]
                return None
            code = int.from_bytes(data[start : start + 4])
            return SessionEnded(code, data[start + 4 : start + size].decode(errors="replace"))
        return None


class Http3:
    """HTTP/3 of one connection, as its server."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._once: set[int] = set()  # types of unidirectional streams that may come only once
        self._opened = 0  # streams
        self._left = MAX_BYTES
        self._session = -1
        self._has_messages = False

    @staticmethod
    def greeting() -> bytes:
        """Return the bytes of our control stream."""
        settings = b"".join(varint(name) + varint(value) for name, value in _SETTINGS.items())
        return varint(CONTROL) + frame(SETTINGS, settings)

    def accept(self, stream_id: int) -> list[Http3Event]:
        """Make a request the session: capsules follow on its stream; return what came already."""
        self._session = stream_id
        stream = self._streams[stream_id]
        stream.kind = _SESSION
        stream.capsules = Capsules()
        return self._read(stream_id, stream, b"")

    def receive(self, stream_id: int, data: bytes, is_end: bool) -> list[Http3Event]:
        """Take in bytes of a client's stream; return what they mean.

        Raises:
            Http3Error: The connection has to be closed.
        """
        stream = self._find(stream_id)
        stream.is_ended = stream.is_ended or is_end
        self._left -= len(data)
        if self._left < 0:
            raise Http3Error(Code.EXCESSIVE_LOAD, "too many bytes that carry no messages")
        return self._read(stream_id, stream, data)

    def _read(self, stream_id: int, stream: _Stream, data: bytes) -> list[Http3Event]:
        events: list[Http3Event] = []
        if stream.held:
            data, stream.held = stream.held + data, b""
        if stream_id & 2:
            self._receive_uni(stream_id, stream, data, events)
        else:
            self._receive_bidi(stream_id, stream, data, events)
        return events

    def reset(self, stream_id: int) -> list[Http3Event]:
        """Take in that a client has reset a stream, or wants nothing more on it.

        Raises:
            Http3Error: The connection cannot do without the stream.
        """
        stream = self._find(stream_id)
        if stream.kind in (CONTROL, ENCODER, DECODER):
            raise Http3Error(Code.CLOSED_CRITICAL_STREAM, "a critical stream was reset")
        if stream.kind == _DROPPED:
            return []
        stream.kind, stream.held = _DROPPED, b""
        if stream_id == self._session:
            return [SessionEnded(0, "reset")]
        # Without an answer of ours the client would wait for one.
        return [Refused(stream_id, Code.REQUEST_INCOMPLETE)]

    def _find(self, stream_id: int) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._opened += 1
            if self._opened > MAX_STREAMS:
                raise Http3Error(Code.EXCESSIVE_LOAD, "too many streams")
            stream = self._streams[stream_id] = _Stream(None if stream_id & 2 else _REQUEST)
        return stream

    def _refuse(
        self, stream_id: int, stream: _Stream, code: Code, events: list[Http3Event]
    ) -> None:
        stream.kind = _DROPPED
        events.append(Refused(stream_id, code))

    # Unidirectional streams.

    def _receive_uni(
        self, stream_id: int, stream: _Stream, data: bytes, events: list[Http3Event]
    ) -> None:
        if stream.kind is None:
            head = _number(data, 0)
            if head is None:
                stream.held = data
                return  # ended before its type: nothing was lost
            kind, at = head
            data = data[at:]
            if kind == PUSH:
                raise Http3Error(Code.STREAM_CREATION_ERROR, "a push stream of a client's")
            if kind not in (CONTROL, ENCODER, DECODER):
                is_web = kind == WEBTRANSPORT_UNI
                self._refuse(
                    stream_id,
                    stream,
                    Code.BUFFERED_STREAM_REJECTED if is_web else Code.STREAM_CREATION_ERROR,
                    events,
                )
                return
            if kind in self._once:
                raise Http3Error(Code.STREAM_CREATION_ERROR, "a second stream of its kind")
            self._once.add(kind)
            stream.kind = kind
        if stream.kind == _DROPPED:
            return
        if stream.is_ended:
            raise Http3Error(Code.CLOSED_CRITICAL_STREAM, "a critical stream was ended")
        if stream.kind == CONTROL:
            self._receive_control(stream, data)
        elif stream.kind == ENCODER and data.strip(bytes([_SET_CAPACITY_0])):
            raise Http3Error(Code.ENCODER_STREAM_ERROR, "the table has no room")
        # What a decoder says is of blocks that refer to a table: ours do not.

    def _receive_control(self, stream: _Stream, data: bytes) -> None:
        at = 0
        while at < len(data):
            if stream.skip:
                step = min(stream.skip, len(data) - at)
                stream.skip -= step
                at += step
                continue
            head = _pair(data, at)
            if head is None:
                break
            kind, size, start = head
            if not stream.has_settings and kind != SETTINGS:
                raise Http3Error(Code.MISSING_SETTINGS, "the first frame is not SETTINGS")
            if kind == SETTINGS:
                if stream.has_settings:
                    raise Http3Error(Code.FRAME_UNEXPECTED, "SETTINGS for the second time")
                if size > MAX_SETTINGS_BYTES:
                    raise Http3Error(Code.EXCESSIVE_LOAD, "too many SETTINGS")
                if start + size > len(data):
                    break
                _check_settings(data[start : start + size])
                stream.has_settings = True
                at = start + size
                continue
            if kind in _NOT_ON_CONTROL:
                raise Http3Error(Code.FRAME_UNEXPECTED, "a frame of another kind of stream")
            stream.skip, at = size, start
        stream.held = data[at:]

    # Requests.

    def _receive_bidi(
        self, stream_id: int, stream: _Stream, data: bytes, events: list[Http3Event]
    ) -> None:
        at = 0
        while stream.kind in (_REQUEST, _SESSION) and at < len(data):
            if stream.skip:
                step = min(stream.skip, len(data) - at)
                stream.skip -= step
                at += step
            elif stream.data:
                piece = data[at : at + stream.data]
                stream.data -= len(piece)
                at += len(piece)
                assert stream.capsules is not None
                ended = stream.capsules.receive(piece)
                if ended is not None:
                    stream.kind = _DROPPED
                    events.append(ended)
            else:
                head = _pair(data, at)
                if head is None:
                    break
                kind, size, start = head
                if kind == WEBTRANSPORT_BIDI:
                    if stream.kind == _SESSION:
                        raise Http3Error(Code.FRAME_ERROR, "a session inside another one")
                    # Its second number is the session, and no length.
                    self._open(stream_id, stream, size, data[start:], events)
                    return
                if kind == HEADERS:
                    start = self._take_headers(stream_id, stream, data, start, size, events)
                    if not start:
                        break
                else:
                    _begin_frame(stream, kind, size)
                at = start
        if stream.kind in (_REQUEST, _SESSION):
            stream.held = data[at:]
            if stream.is_ended:
                self._end(stream_id, stream, events)

    def _take_headers(
        self,
        stream_id: int,
        stream: _Stream,
        data: bytes,
        start: int,
        size: int,
        events: list[Http3Event],
    ) -> int:
        """Handle a HEADERS frame; return where it ends, 0 to wait for the rest of it."""
        if stream.kind == _SESSION:
            raise Http3Error(Code.FRAME_UNEXPECTED, "HEADERS on a session")
        if size > MAX_HEADER_BYTES:
            raise Http3Error(Code.EXCESSIVE_LOAD, "too long a header block")
        end = start + size
        if end > len(data):
            return 0
        request = _request(stream_id, data[start:end])
        if request is None:
            self._refuse(stream_id, stream, Code.MESSAGE_ERROR, events)
        else:
            # The caller answers at once, by accept() or with a refusal; what follows waits.
            stream.kind = _DROPPED
            stream.held = data[end:]
            events.append(request)
        return end

    def _open(
        self,
        stream_id: int,
        stream: _Stream,
        session: int,
        data: bytes,
        events: list[Http3Event],
    ) -> None:
        if session & 3:
            raise Http3Error(Code.ID_ERROR, "a session that cannot be")
        if session != self._session or self._has_messages:
            self._refuse(stream_id, stream, Code.BUFFERED_STREAM_REJECTED, events)
            return
        self._has_messages = True
        stream.kind = _DROPPED
        events.append(Opened(stream_id, data, stream.is_ended))

    def _end(self, stream_id: int, stream: _Stream, events: list[Http3Event]) -> None:
        capsules = stream.capsules
        if stream.held or stream.skip or stream.data:
            raise Http3Error(Code.FRAME_ERROR, "a frame that does not end")
        if stream.kind == _REQUEST:
            self._refuse(stream_id, stream, Code.REQUEST_INCOMPLETE, events)
        elif capsules is not None and capsules.is_whole:
            events.append(SessionEnded(0, ""))
        else:
            raise Http3Error(Code.MESSAGE_ERROR, "a capsule that does not end")


def _begin_frame(stream: _Stream, kind: int, size: int) -> None:
    """Handle the head of a frame of a request that is not HEADERS."""
    if kind in _NOT_ON_REQUEST:
        raise Http3Error(Code.FRAME_UNEXPECTED, "a frame of another kind of stream")
    if kind != DATA:
        stream.skip = size
    elif stream.kind == _REQUEST:
        raise Http3Error(Code.FRAME_UNEXPECTED, "DATA before HEADERS")
    else:
        stream.data = size


def response_frame(status: int, *headers: tuple[str, str]) -> bytes:
    """Return the HEADERS frame of a response."""
    fields = [(b":status", b"%d" % status)]
    fields += [(name.encode(), value.encode()) for name, value in headers]
    _, block = pylsqpack.Encoder().encode(0, fields)
    return frame(HEADERS, block)


def close_frame(code: int, reason: str) -> bytes:
    """Return the DATA frame with the capsule that closes a session."""
    capsule = code.to_bytes(4) + reason.encode()
    return frame(DATA, varint(_CLOSE_SESSION) + varint(len(capsule)) + capsule)


def _request(stream_id: int, block: bytes) -> Request | None:
    """Decode a header block; return None for one that is malformed.

    Raises:
        Http3Error: It does not decode, or is too long.
    """
    try:
        _, pairs = pylsqpack.Decoder(0, 0).feed_header(stream_id, block)
    except (pylsqpack.DecompressionFailed, pylsqpack.StreamBlocked):
        raise Http3Error(Code.DECOMPRESSION_FAILED, "a header block that does not decode") from None
    if sum(len(name) + len(value) + 32 for name, value in pairs) > MAX_FIELDS_BYTES:
        raise Http3Error(Code.EXCESSIVE_LOAD, "too many header fields")
    fields: dict[str, str] = {}
    twice: set[str] = set()
    is_regular = False
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        is_pseudo = name.startswith(":")
        if name != name.lower() or (is_pseudo and (is_regular or name in fields)):
            return None
        is_regular = not is_pseudo
        if name in fields:
            twice.add(name)
        else:
            fields[name] = value
    if not fields.get(":method"):
        return None
    return Request(stream_id, fields, frozenset(twice))


def _check_settings(data: bytes) -> None:
    at, found = 0, set()
    while at < len(data):
        pair = _pair(data, at)
        if pair is None:
            raise Http3Error(Code.FRAME_ERROR, "SETTINGS that do not end")
        name, _, at = pair
        if name in _NO_SETTINGS or name in found:
            raise Http3Error(Code.SETTINGS_ERROR, "a setting that may not be there")
        found.add(name)


def _number(data: bytes, at: int) -> tuple[int, int] | None:
    """Return a variable-length integer and the place behind it; None where it is not whole."""
    if at >= len(data):
        return None
    size = 1 << (data[at] >> 6)
    end = at + size
    if end > len(data):
        return None
    return int.from_bytes(data[at:end]) & ((1 << (8 * size - 2)) - 1), end


def _pair(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return two such integers and the place behind them; None where they are not whole."""
    first = _number(data, at)
    if first is None:
        return None
    second = _number(data, first[1])
    return None if second is None else (first[0], *second)


def varint(value: int) -> bytes:
    """Return a variable-length integer (RFC 9000 16)."""
    for size in (1, 2, 4, 8):
        if value < 1 << (8 * size - 2):
            return (value | (size.bit_length() - 1) << (8 * size - 2)).to_bytes(size)
    raise ValueError("too large a number")


def frame(kind: int, payload: bytes) -> bytes:
    """Return a frame of HTTP/3 (RFC 9114 7.1)."""
    return varint(kind) + varint(len(payload)) + payload
