"""Http2Connection against a server on the package ``h2``, by whole lives of a connection.

A life is made of random steps: calls of the client, legal answers of the server, windows, settings,
and bytes that move in any pieces. At its end both sides drain, and each stream must have come to
what outcome() says of the server's acts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

from gatesvr._core import http2
from gatesvr._core.http2 import Http2Connection, Stream

from .http2_acts import MAX_MESSAGE, End, Outcome, outcome, prefixed, random_message
from .http2_server import UNARY, Answer, Server


@dataclass
class Call:
    """One stream on the client's side."""

    stream: Stream
    path: str
    fields: list[tuple[bytes, bytes]]
    is_unary: bool
    sent: bytearray = field(default_factory=bytearray)
    is_finished: bool = False
    is_cancelled: bool = False
    seen: list[object] = field(default_factory=list)
    end: End | None = None


class Life:
    """A client and a server, the bytes between them, and what happened."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.client = Http2Connection("up:1", "http", max_message_bytes=MAX_MESSAGE)
        self.server = Server(random)
        self.to_server = bytearray()
        self.calls: dict[Stream, Call] = {}
        self.now = 1.0
        self.counts: Counter[int] = Counter()
        self.pings = 0

    # The client's steps.

    def begin(self) -> None:
        if not self.client.room:
            return
        is_unary = self.random.random() < 0.7
        path = UNARY if is_unary else self.random.choice(("/a.B/Open", "/a.B/Other"))
        timeout_ms = self.random.choice((0, 5, 29_990, 10**9))
        metadata = [("x-id", str(self.random.randrange(99)))] * self.random.randrange(2)
        fields = [(name.encode(), value.encode()) for name, value in metadata]
        if timeout_ms:
            value = f"{timeout_ms}m" if timeout_ms < 10**8 else f"{timeout_ms // 1000}S"
            fields.insert(0, (b"grpc-timeout", value.encode()))
        if is_unary:
            message = random_message(self.random)
            stream = self.client.call(path, message, None, timeout_ms, metadata)
            call = Call(stream, path, fields, is_unary, bytearray(prefixed(message)), True)
        else:
            stream = self.client.open(path, None, timeout_ms, metadata)
            call = Call(stream, path, fields, is_unary)
        assert stream.is_unary == is_unary
        self.calls[stream] = call

    def _open_calls(self, *, is_unary: bool) -> list[Call]:
        return [
            call
            for call in self.calls.values()
            if call.is_unary == is_unary and not call.stream.is_ended
        ]

    def send(self) -> None:
        calls = [call for call in self._open_calls(is_unary=False) if not call.is_finished]
        if not calls:
            return
        call = self.random.choice(calls)
        if self.random.random() < 0.3:
            self.client.finish(call.stream)
            call.is_finished = True
        else:
            message = random_message(self.random)
            self.client.send(call.stream, message)
            call.sent += prefixed(message)

    def cancel(self) -> None:
        calls = self._open_calls(is_unary=self.random.random() < 0.5)
        if calls and self.random.random() < 0.5:
            call = self.random.choice(calls)
            self.client.cancel(call.stream)
            call.is_cancelled = True
            assert call.stream.is_ended

    def ping(self) -> None:
        self.client.ping()
        self.pings += 1

    # Bytes.

    def move_to_server(self) -> bool:
        self.to_server += self.client.take()
        assert self.client.take() == b""
        data = self._cut(self.to_server)
        self.server.receive(data)
        self.server._flush()
        return bool(data)

    def move_to_client(self) -> bool:
        data = self._cut(self.server.out)
        self.now += 0.001
        for kind, stream, message in self.client.receive(data, self.now):
            self._note(kind, stream, message)
        assert self.client.error == "", self.client.error
        return bool(data)

    def _cut(self, data: bytearray) -> bytes:
        size = self.random.choice((1, 5, 9, 30, 1_000, len(data), len(data)))
        cut = bytes(data[:size])
        del data[:size]
        return cut

    def _note(self, kind: int, stream: Stream | None, message: bytes) -> None:
        self.counts[kind] += 1
        if stream is None:
            assert kind in {http2.READY, http2.PONG, http2.GOAWAY}
            assert message == (b"bye" if kind == http2.GOAWAY else b"")
            return
        call = self.calls[stream]
        assert not call.is_cancelled
        assert call.end is None
        if kind == http2.ENDED:
            assert stream.is_ended
            call.end = End(
                stream.status,
                stream.details,
                stream.is_remote,
                stream.is_unprocessed,
                stream.message,
            )
        else:
            call.seen.append(message if kind == http2.MESSAGE else kind)

    # The end.

    def drain(self) -> None:
        """Let both sides come to an end."""
        for call in self.calls.values():
            if not call.is_finished and not call.stream.is_ended:
                self.client.finish(call.stream)
                call.is_finished = True
        is_moving = True
        while is_moving:
            is_moving = self.move_to_server()
            is_moving = self.move_to_client() or is_moving
            while self.server.open_up() or self.server.give_credit() or self.server.act():
                is_moving = True

    def check(self) -> Counter[str]:
        """Compare what both sides saw; return how many streams ended in which way."""
        client, server = self.client, self.server
        assert (client.open_streams, client.buffered_bytes, client.unsent_bytes) == (0, 0, 0)
        assert self.counts[http2.READY] == 1
        assert min(self.pings, 1) <= self.counts[http2.PONG] <= self.pings
        assert server.pongs == server.pings
        assert client.is_leaving == (server.last_id is not None) == (client.goaway_code == 0)
        ends: Counter[str] = Counter()
        for stream, call in self.calls.items():
            ends[self._check_call(call, server.answers[stream.id])] += 1
        return ends

    def _check_call(self, call: Call, answer: Answer) -> str:
        number, last_id = call.stream.id, self.server.last_id
        is_left = last_id is not None and number > last_id
        expected = outcome([*answer.done, ("goaway",)] if is_left else answer.done, call.is_unary)
        self._check_request(call, answer, is_left, expected)
        if call.is_cancelled:
            assert call.seen == expected.seen[: len(call.seen)]
            assert call.end is None
            return "cancelled"
        assert call.seen == expected.seen
        assert call.end is not None, (answer, expected)
        assert expected.end is not None
        if expected.end.details is None:
            expected.end = replace(expected.end, details=call.end.details)
        assert call.end == expected.end
        return "unprocessed" if call.end.is_unprocessed else str(call.end.status)

    def _check_request(self, call: Call, answer: Answer, is_left: bool, expected: Outcome) -> None:
        """Check what came of a request at the server."""
        assert answer.fields[:4] == [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":authority", b"up:1"),
            (b":path", call.path.encode()),
        ]
        assert [pair for pair in answer.fields if pair in call.fields] == call.fields
        assert (b"grpc-accept-encoding", b"identity") in answer.fields
        assert call.sent.startswith(answer.received)
        is_whole = answer.has_end and call.sent == answer.received
        is_reset = answer.reset_code is not None
        if is_whole or is_left:
            return
        was_reset = any(act[0] == "reset" for act in answer.done)
        assert is_reset or was_reset
        if is_reset and not call.is_cancelled and not expected.is_reset:
            assert answer.reset_code == http2.NO_ERROR  # answered before all was sent


def check_life(random: Random) -> Counter[str]:
    """Live a random life and check it; return how many streams ended in which way."""
    life = Life(random)
    while random.random() < 0.8:
        random.choice((life.begin, life.move_to_server))()
    life.server.change_settings()
    steps = (
        *((life.begin,) * 4 + (life.send,) * 3 + (life.cancel, life.ping)),
        *((life.move_to_server,) * 6 + (life.move_to_client,) * 6),
        *((life.server.act,) * 8 + (life.server.give_credit,) * 3),
        *(life.server.change_settings, life.server.ping, life.server.add_noise),
    )
    for _ in range(random.choice((10, 40, 90))):
        random.choice(steps)()
        if random.random() < 0.002:
            life.server.leave()
    life.drain()
    return life.check()
