"""An Http2Connection with calls open, and any frames or bytes from its peer.

The same bytes in one piece and in many give the same events and the same output; nothing is raised;
what the connection holds and writes has its bounds. The data is a list of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from gatesvr._core import http2
from gatesvr._core.http2 import Http2Connection, Stream
from tests.core.http2_life import Life
from tests.core.http2_rig import frame
from tests.core.http2_server import UNARY

from .reader import Reader, chunk

MAX_STEPS = 300
MAX_MESSAGE = 100_000
MAX_SEED = 700
KINDS_OF_EVENTS = range(http2.HEADERS, http2.READY + 1)

Seen = list[tuple[object, ...]]


class Driven:
    """A connection, what was asked of it, and what it said."""

    def __init__(self, *, cuts: bool) -> None:
        self.connection = Http2Connection("up:1", "http", max_message_bytes=MAX_MESSAGE)
        self.cuts = cuts
        self.streams: list[Stream] = []
        self.seen: Seen = []
        self.written = bytearray()
        self.received_bytes = 0
        self.sent_bytes = 0
        self.now = 1.0
        self.error = ""

    def receive(self, data: bytes) -> None:
        self.received_bytes += len(data)
        step = max(1 + len(data) % 7, len(data) // 50) if self.cuts else max(1, len(data))
        for at in range(0, len(data), step):
            for event in self.connection.receive(data[at : at + step], self.now):
                self._note(*event)

    def _note(self, kind: int, stream: Stream | None, message: bytes) -> None:
        assert kind in KINDS_OF_EVENTS
        assert (stream is None) == (kind in {http2.READY, http2.PONG, http2.GOAWAY})
        if stream is None:
            self.seen.append((kind, message))
            return
        assert kind == http2.ENDED or not stream.is_unary
        assert len(message) <= MAX_MESSAGE
        end: tuple[object, ...] = ()
        if kind == http2.ENDED:
            assert stream.is_ended
            assert 0 <= stream.status <= 16
            assert (stream.message is not None) == (stream.is_unary and stream.status == 0)
            end = (stream.status, stream.details, stream.is_remote, stream.is_unprocessed)
            end += (stream.message,)
        self.seen.append((kind, stream.id, message, *end))

    def call(self, size: int) -> None:
        if self.connection.room:
            self.streams.append(self.connection.call(UNARY, bytes(size), None, size))
            self.sent_bytes += size + 5

    def open(self) -> None:
        if self.connection.room:
            self.streams.append(self.connection.open("/a.B/D", None))

    def send(self, place: int, size: int) -> None:
        stream = self._stream(place)
        if stream is not None and not stream.is_unary:
            try:
                self.connection.send(stream, bytes(size))
            except ValueError:  # it is finished
                return
            self.sent_bytes += size + 5

    def finish(self, place: int) -> None:
        stream = self._stream(place)
        if stream is not None:
            self.connection.finish(stream)

    def cancel(self, place: int) -> None:
        stream = self._stream(place)
        if stream is not None:
            self.connection.cancel(stream)
            assert stream.is_ended

    def _stream(self, place: int) -> Stream | None:
        return self.streams[place % len(self.streams)] if self.streams else None

    def check(self) -> None:
        """Check the bounds, and write."""
        connection = self.connection
        if self.error:
            assert connection.error == self.error
        self.error = connection.error
        assert (connection.error_code >= 0) == bool(connection.error)
        assert not connection.error or (connection.is_leaving and connection.room == 0)
        open_streams = [stream for stream in self.streams if not stream.is_ended]
        assert connection.streams() == open_streams
        assert connection.open_streams == len(open_streams)
        assert connection.unsent_bytes == sum(stream.unsent_bytes for stream in open_streams)
        assert 0 <= connection.unsent_bytes <= self.sent_bytes
        assert 0 <= connection.buffered_bytes <= self.received_bytes
        self.written += connection.take()
        assert connection.take() == b""
        # Each frame causes an ack, credit of both levels or a reset, or lets a part of each
        # stream's message go.
        causes = 1 + connection.frames_received
        assert len(self.written) <= 1_000 + 300 * len(self.streams) + self.sent_bytes + causes * (
            50 + 25 * len(self.streams)
        )


def check(data: bytes) -> None:
    """Take the steps with two connections; one gets all bytes in small pieces."""
    reader = Reader(data)
    pair = (Driven(cuts=False), Driven(cuts=True))
    for _ in range(MAX_STEPS):
        if reader.is_empty:
            break
        step = reader.pick(_STEPS)(reader)
        for driven in pair:
            step(driven)
            driven.check()
    whole, cut = pair
    assert whole.seen == cut.seen
    assert whole.error == cut.error
    assert whole.written == cut.written


Step = Callable[[Driven], None]


def _bytes(reader: Reader) -> Step:
    data = reader.chunk()
    return lambda driven: driven.receive(data)


def _frame(reader: Reader) -> Step:
    """A frame with a sound head."""
    kind, flags, stream = reader.number(), reader.number(), reader.number()
    data = frame(kind % 12, flags, stream, reader.take(reader.number()))
    return lambda driven: driven.receive(data)


def _large_data(reader: Reader) -> Step:
    """DATA of many bytes: the begin of a message of any length, or its next ones."""
    stream, kind, size = reader.number(), reader.number(), reader.number(2) % 16_300
    payload = bytes(size)
    if kind & 1:
        payload = b"\0" + reader.number(3).to_bytes(4) + payload
    data = frame(0, kind >> 1 & 1, stream, payload)
    return lambda driven: driven.receive(data)


def _repeated(reader: Reader) -> Step:
    """A frame as often as a flood has it."""
    kind, flags, stream = reader.number() % 12, reader.number(), reader.number()
    data = frame(kind, flags, stream, reader.take(reader.number() % 20))
    times = reader.number()
    return lambda driven: driven.receive(data * times)


def _call(reader: Reader) -> Step:
    size = reader.pick((0, 1, 100, 70_000))
    return lambda driven: driven.call(size)


def _send(reader: Reader) -> Step:
    place, size = reader.number(), reader.pick((0, 1, 100, 70_000))
    return lambda driven: driven.send(place, size)


def _on_stream(name: str) -> Callable[[Reader], Step]:
    def choose(reader: Reader) -> Step:
        place = reader.number()
        return lambda driven: getattr(driven, name)(place)

    return choose


def _wait(reader: Reader) -> Step:
    seconds = reader.number() / 16

    def wait(driven: Driven) -> None:
        driven.now += seconds

    return wait


_STEPS: tuple[Callable[[Reader], Step], ...] = (
    _bytes,
    _frame,
    _large_data,
    _repeated,
    _call,
    lambda reader: Driven.open,
    _send,
    _on_stream("finish"),
    _on_stream("cancel"),
    lambda reader: lambda driven: driven.connection.ping(),
    _wait,
    lambda reader: lambda driven: driven.connection.close("done"),
)


def _lives(count: int) -> Iterator[bytes]:
    """Yield what a server on h2 says to some calls, as steps, where it is short."""
    begin = bytes((4, 1, 4, 2, 5, 6, 2, 2, 7, 2))
    for seed in range(1_000_000):
        life = Life(Random(seed))
        for size in (1, 100):
            life.client.call(UNARY, bytes(size), None)
        stream = life.client.open("/a.B/D", None)
        life.client.send(stream, bytes(100))
        life.client.finish(stream)
        life.server.receive(life.client.take())
        while len(life.server.out) <= MAX_SEED and life.server.act():
            pass
        if len(life.server.out) <= MAX_SEED:
            yield begin + b"\x00" + chunk(bytes(life.server.out))
            count -= 1
            if count == 0:
                break


def seeds() -> Iterator[bytes]:
    """Yield answers to calls, frames of each kind, and floods."""
    yield from _lives(16)
    ready = b"\x01\x04\x00\x00\x00"
    calls = b"\x04\x01\x05\x04\x03"
    settings = b"\x01\x04\x00\x00\x0c" + b"\x00\x04\x00\x00\x00\x01\x00\x01\x00\x00\x00\x40"
    head = b"\x01\x01\x04\x01\x13\x88\x5f\x10application/grpc"
    yield ready + calls + settings + b"\x01\x08\x00\x01\x04\x00\x00\x10\x00" + b"\x0a\xff"
    yield ready + calls + b"\x01\x07\x00\x00\x0b" + bytes(8) + b"bye" + b"\x09"
    for kind, stream, size in ((2, 1, 5), (3, 1, 4), (4, 0, 0), (6, 0, 8), (8, 1, 4), (10, 1, 9)):
        flood = bytes((3, kind, 0, stream, size)) + b"\x01" * size + b"\xff"
        yield ready + calls + flood + b"\x08\x00" + flood * 11
    large = b"\x02\x01\x01\x3f\x00\x00\xff\xff" + b"\x02\x01\x00\x3f\x00" * 4
    yield ready + calls + head + large
