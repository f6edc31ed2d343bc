"""Http2Connection against a server on the package ``h2``, by whole lives of a connection.

A life is made of random steps: calls of the client, legal answers of the server, windows, settings,
and bytes that move in any pieces. At its end both sides drain, and each stream must have come to
what outcome() says of the server's acts.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from h2 import events as h2_events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes
from h2.windows import WindowManager

from gatesvr._core import http2
from gatesvr._core.http2 import Http2Connection, Stream

MAX_MESSAGE = 80_000
MAX_FRAME = 16_384
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GRPC = b"application/grpc"
WINDOWS = (0, 1, 100, 5_000, 65_535, 200_000)
OK, CANCELLED, UNKNOWN, DENIED, EXHAUSTED = 0, 1, 2, 7, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 12, 13, 14, 16
OF_HTTP = {
    400: INTERNAL,
    401: UNAUTHENTICATED,
    403: DENIED,
    404: UNIMPLEMENTED,
    **dict.fromkeys((429, 502, 503, 504), UNAVAILABLE),
}
OF_RESET = {7: UNAVAILABLE, 8: CANCELLED, 11: EXHAUSTED, 12: DENIED}
RESET_NAMES = {0: "NO_ERROR", 2: "INTERNAL_ERROR", 7: "REFUSED_STREAM", 8: "CANCEL"}

Act = tuple[Any, ...]
"""What a server does on a stream: one of

- ("info",): an informational head
- ("head", HTTP status, content-type): a response head
- ("only", HTTP status, content-type, gRPC status or None, text): a head that ends the stream
- ("data", bytes, ends the stream)
- ("trailers", gRPC status or None, text)
- ("reset", code)
- ("goaway",): the stream is above the last id of a GOAWAY
"""


@dataclass(frozen=True)
class End:
    """How a stream ends; details is None where any will do."""

    status: int
    details: str | None = None
    is_remote: bool = False
    is_unprocessed: bool = False
    message: bytes | None = None


@dataclass
class Outcome:
    """What the acts of a server come to.

    Attributes:
        seen: The kinds of the events before the end, or the messages.
        end: How the stream ends, None if it goes on.
        is_reset: Whether the client resets it.
    """

    seen: list[object] = field(default_factory=list)
    end: End | None = None
    is_reset: bool = False


def frame(message: bytes, flag: int = 0) -> bytes:
    """Return a message with its prefix."""
    return bytes((flag,)) + len(message).to_bytes(4) + message


def outcome(acts: list[Act], is_unary: bool) -> Outcome:
    """Return what the acts come to, by the rules of gRPC."""
    result = Outcome()
    body = bytearray()
    messages: list[bytes] = []
    for act in acts:
        match act:
            case ("head", 200, content_type) if content_type.startswith(GRPC):
                result.seen += [] if is_unary else [http2.HEADERS]
            case ("head", 200, _):
                result.end, result.is_reset = End(UNKNOWN), True
            case ("head", http_status, _):
                result.end, result.is_reset = _http_end(http_status), True
            case ("only", http_status, content_type, None, _):
                is_plain = http_status != 200
                result.end = _http_end(http_status) if is_plain else End(UNKNOWN)
            case ("only", _, _, status, text) | ("trailers", int(status), text):
                result.end = _end_of_trailers(status, text, body, messages, is_unary)
            case ("trailers", None, _):
                result.end = End(UNKNOWN)
            case ("reset", code):
                name = RESET_NAMES.get(code)
                details = None if name is None else f"RST_STREAM {name}"
                result.end = End(OF_RESET.get(code, INTERNAL), details, is_unprocessed=code == 7)
            case ("goaway",):
                result.end = End(UNAVAILABLE, is_unprocessed=True)
            case ("data", data, is_last):
                body += data
                result.end = _take_messages(body, messages, result.seen, is_unary)
                result.is_reset = result.end is not None
                if is_last and result.end is None:
                    result.end = End(INTERNAL)
        if result.end is not None:
            break
    return result


def _http_end(http_status: int) -> End:
    return End(OF_HTTP.get(http_status, UNKNOWN), f"HTTP status {http_status}")


def _end_of_trailers(
    status: int, text: str, body: bytearray, messages: list[bytes], is_unary: bool
) -> End:
    if status == OK and (body or (is_unary and not messages)):
        return End(INTERNAL)
    message = messages[0] if status == OK and is_unary else None
    return End(status, text, is_remote=True, message=message)


def _take_messages(
    body: bytearray, messages: list[bytes], seen: list[object], is_unary: bool
) -> End | None:
    """Move whole messages out of body; return how the stream ends if one is not allowed."""
    while len(body) >= 5:
        size = int.from_bytes(body[1:5])
        if body[0]:
            return End(INTERNAL)
        if size > MAX_MESSAGE:
            text = f"received message larger than max ({size} vs. {MAX_MESSAGE})"
            return End(EXHAUSTED, text)
        if is_unary and messages:
            return End(INTERNAL)
        if len(body) < 5 + size:
            return None
        messages.append(bytes(body[5 : 5 + size]))
        seen += [] if is_unary else messages[-1:]
        del body[: 5 + size]
    return None


def make_plan(random: Random, is_unary: bool) -> list[Act]:
    """Return what a server does on a stream: mostly a sound answer, or anything that it may."""
    plan: list[Act] = [("info",)] * (random.random() < 0.1)
    kind = random.randrange(40)
    if kind == 0:
        return [*plan, _random_reset(random)]
    if kind < 4:
        status = random.choice((OK, UNAVAILABLE, 5, None))
        http_status = random.choice((200, 200, 404, 503))
        return [*plan, ("only", http_status, GRPC, status, _random_text(random))]
    if kind < 6:
        http_status, content_type = random.choice(((404, GRPC), (302, b"a/b"), (200, b"a/b")))
        return [*plan, ("head", http_status, content_type), ("data", b"<p>", True)]
    plan.append(("head", 200, GRPC + random.choice((b"", b"+proto", b";x=y"))))
    count = random.choice((1,) * 20 + (0, 2)) if is_unary else random.randrange(4)
    body = b"".join(_random_frame(random) for _ in range(count))
    if random.random() < 0.03:
        body = body[: random.randrange(len(body) + 1)]
    if body:
        plan.append(("data", body, False))
    kind = random.randrange(20)
    if kind == 0:
        plan.append(("data", b"", True))
    elif kind == 1:
        plan.append(_random_reset(random))
    elif kind < 5:
        plan.append(("trailers", random.choice((None, 3, 5, 14)), _random_text(random)))
    else:
        plan.append(("trailers", OK, ""))
    return plan


def _random_reset(random: Random) -> Act:
    return "reset", random.choice((0, 2, 7, 8, 11, 12, 13, 999))


def _random_text(random: Random) -> str:
    return random.choice(("", "it failed", "100 % f\u00fcr dich", "a\nb", "%41"))


def _random_frame(random: Random) -> bytes:
    return frame(_random_message(random), flag=int(random.random() < 0.01))


def _random_message(random: Random) -> bytes:
    sizes = (0, 0, 1, 9, 100, 100, 1_000, 17_000, 70_000, MAX_MESSAGE, MAX_MESSAGE + 1)
    weights = (4, 4, 4, 4, 4, 4, 4, 2, 1, 1, 1)
    return random.randbytes(random.choices(sizes, weights)[0])


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


@dataclass
class Answer:
    """One stream on the server's side."""

    plan: list[Act]
    fields: list[tuple[bytes, bytes]]
    done: list[Act] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    has_end: bool = False
    reset_code: int | None = None
    is_over: bool = False


class Window(WindowManager):
    """A window that lets empty DATA through also where it is below 0 (RFC 9113 6.9.1)."""

    def window_consumed(self, size: int) -> None:
        if size:
            super().window_consumed(size)


class Server:
    """A server on h2 that follows a plan on each stream, and does odd things that are legal."""

    def __init__(self, random: Random) -> None:
        self.random = random
        config = H2Configuration(client_side=False, header_encoding=None)
        self.h2 = H2Connection(config)
        self.answers: dict[int, Answer] = {}
        self.credit: list[tuple[int, int]] = []
        self.last_id: int | None = None  # of a GOAWAY
        self.pings = 0
        self.pongs = 0
        self.out = bytearray()
        self.h2.initiate_connection()
        self.unacked_settings = 1
        self.partial = bytearray()  # a frame goes to h2 when it is whole
        self.next_bytes = len(PREFACE)
        self._flush()

    def receive(self, data: bytes) -> None:
        """Take bytes of the client; h2 raises where they break a rule or a window."""
        self.partial += data
        while len(self.partial) >= self.next_bytes:
            if self.next_bytes == 9 and any(self.partial[:3]):
                self.next_bytes += int.from_bytes(self.partial[:3])
                continue
            part = bytes(self.partial[: self.next_bytes])
            del self.partial[: self.next_bytes]
            self.next_bytes = 9
            for event in self.h2.receive_data(part):
                self._handle(event)

    def _handle(self, event: h2_events.Event) -> None:
        match event:
            case h2_events.RequestReceived(stream_id=int(stream_id), headers=headers):
                assert headers is not None
                fields = [(bytes(name), bytes(value)) for name, value in headers]
                is_unary = (b":path", b"/a.B/Unary") in fields
                answer = Answer(make_plan(self.random, is_unary), fields)
                answer.is_over = self.last_id is not None and stream_id > self.last_id
                self.answers[stream_id] = answer
                window = Window(self.h2.local_settings.initial_window_size)
                self.h2.streams[stream_id]._inbound_window_manager = window
            case h2_events.DataReceived(stream_id=int(stream_id), data=data):
                self.answers[stream_id].received += data or b""
                if event.flow_controlled_length:
                    self.credit.append((stream_id, event.flow_controlled_length))
            case h2_events.StreamEnded(stream_id=int(stream_id)):
                self.answers[stream_id].has_end = True
            case h2_events.StreamReset(stream_id=int(stream_id)):
                self.answers[stream_id].is_over = True
                if event.remote_reset:
                    self.answers[stream_id].reset_code = event.error_code
            case h2_events.SettingsAcknowledged():
                self.unacked_settings -= 1
            case h2_events.PingAckReceived():
                self.pongs += 1
            case h2_events.ConnectionTerminated():
                raise AssertionError(f"GOAWAY: {event}")

    def act(self) -> bool:
        """Do the next act, or a part of it, on some stream; return whether there was one."""
        able = [number for number in self.answers if self._is_able(number)]
        if not able:
            return False
        number = self.random.choice(able)
        answer = self.answers[number]
        act = answer.plan.pop(0)
        if act[0] == "data":
            act = self._send_data(number, answer, act)
        elif act[0] == "reset":
            self.h2.reset_stream(number, act[1])
        else:
            fields, is_last = self._block_of(act)
            if self.random.random() < 0.1:
                size = self.random.choice((0, 50, 300, 4096))
                if self.h2.encoder.header_table_size != size:
                    self.h2.encoder.header_table_size = size
            self.h2.send_headers(number, fields, end_stream=is_last)
        answer.done.append(act)
        answer.is_over = not answer.plan
        self._flush()
        return True

    def _is_able(self, number: int) -> bool:
        answer = self.answers[number]
        if answer.is_over:
            return False
        act = answer.plan[0]
        return act[0] != "data" or not act[1] or self.h2.local_flow_control_window(number) > 0

    def _send_data(self, number: int, answer: Answer, act: Act) -> Act:
        """Send what the window allows, or less, with padding or without."""
        _, data, is_last = act
        room = min(self.h2.local_flow_control_window(number), MAX_FRAME, len(data))
        padding = None
        if self.random.random() < 0.3:
            room = self.random.randrange(min(1, room), room + 1)
        if self.random.random() < 0.1:
            padding = self.random.choice((0, 1, 20, 255))
            space = min(self.h2.local_flow_control_window(number), MAX_FRAME) - room - 1
            padding = min(padding, space) if space >= 0 else None
        if room < len(data):
            answer.plan.insert(0, ("data", data[room:], is_last))
            is_last = False
        self.h2.send_data(number, data[:room], end_stream=is_last, pad_length=padding)
        return "data", data[:room], is_last

    def _block_of(self, act: Act) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Return the fields of an act, in some order, and whether they end the stream."""
        fields = []
        if act[0] in {"head", "only"}:
            fields += [(b"content-type", act[2])]
        if act[0] in {"only", "trailers"}:
            status, text = act[-2:]
            fields += [] if status is None else [(b"grpc-status", b"%d" % status)]
            fields += [(b"grpc-message", percent_encode(text))] if text else []
        for number in range(self.random.choice((0, 0, 1, 2))):
            fields.append((b"x-%d" % number, self.random.randbytes(9).hex().encode()))
        self.random.shuffle(fields)
        if act[0] != "trailers":
            fields.insert(0, (b":status", b"103" if act[0] == "info" else b"%d" % act[1]))
        return fields or [(b"x", b"y")], act[0] in {"only", "trailers"}

    def give_credit(self) -> bool:
        """Give back the bytes of some DATA; return whether there were any."""
        if not self.credit:
            return False
        number, size = self.credit.pop(self.random.randrange(len(self.credit)))
        self.h2.increment_flow_control_window(size)
        with contextlib.suppress(KeyError, StreamClosedError):  # it has ended
            self.h2.increment_flow_control_window(size, number)
        self._flush()
        return True

    def change_settings(self) -> None:
        """Change some settings; one frame at a time, or h2 mixes up which one an ack is for."""
        if self.unacked_settings:
            return
        choices = {
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOWS,
            SettingCodes.MAX_FRAME_SIZE: (MAX_FRAME, 20_000, 1 << 20),
            SettingCodes.HEADER_TABLE_SIZE: (0, 60, 200, 4_096, 9_000),
            SettingCodes.MAX_CONCURRENT_STREAMS: (1, 2, 100),
        }
        names = self.random.sample(list(choices), self.random.choice((1, 1, 2)))
        self._set({name: self.random.choice(choices[name]) for name in names})

    def open_up(self) -> bool:
        """Let everything through, for the end; return whether that was to be done."""
        settings = self.h2.local_settings
        if self.unacked_settings or settings.initial_window_size >= 65_535:
            return False
        self._set({SettingCodes.INITIAL_WINDOW_SIZE: 65_535})
        return True

    def _set(self, settings: dict[SettingCodes, int]) -> None:
        self.h2.update_settings(settings)  # type: ignore[arg-type]
        self.unacked_settings += 1
        self._flush()

    def ping(self) -> None:
        self.h2.ping(self.random.randbytes(8))
        self.pings += 1
        self._flush()

    def leave(self) -> None:
        """Say GOAWAY; streams above its last id are never answered."""
        if self.last_id is not None:
            return
        self.last_id = self.random.choice((0, *self.answers))
        for number, answer in self.answers.items():
            if number > self.last_id and not answer.is_over:
                answer.is_over = True
        self.out += frame_bytes(7, 0, 0, self.last_id.to_bytes(4) + bytes(4) + b"bye")

    def add_noise(self) -> None:
        """Send a frame that a client ignores."""
        number = self.random.choice((0, 2, *self.answers))
        if number % 2:
            self.out += frame_bytes(2, 0, number, bytes(5))  # PRIORITY
        else:
            self.out += frame_bytes(0xFA, 0xFF, number, self.random.randbytes(7))

    def _flush(self) -> None:
        for kind, flags, number, payload in frames_of(self.h2.data_to_send()):
            if kind == 1 and self.random.random() < 0.3:
                self.out += b"".join(self._split(flags, number, payload))
            else:
                self.out += frame_bytes(kind, flags, number, payload)

    def _split(self, flags: int, number: int, block: bytes) -> Iterator[bytes]:
        """Yield HEADERS as HEADERS with padding or a priority, and CONTINUATIONs."""
        cut = self.random.randrange(len(block) + 1)
        payload, rest = block[:cut], block[cut:]
        head_flags = flags & ~4
        if self.random.random() < 0.3:
            head_flags |= 0x20
            payload = self.random.randbytes(5) + payload
        if self.random.random() < 0.3:
            padding = self.random.choice((0, 3, 255))
            head_flags |= 8
            payload = bytes((padding,)) + payload + bytes(padding)
        yield frame_bytes(1, head_flags, number, payload)
        while rest:
            cut = self.random.randrange(len(rest) + 1)
            yield frame_bytes(9, 0, number, rest[:cut])
            rest = rest[cut:]
        yield frame_bytes(9, 4, number, b"")


def percent_encode(text: str) -> bytes:
    """Return a text as grpc-message."""
    encoded = (bytes((b,)) if 32 <= b < 127 and b != 37 else b"%%%02X" % b for b in text.encode())
    return b"".join(encoded)


def frame_bytes(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return an HTTP/2 frame."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def frames_of(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield the kind, flags, stream and payload of each frame."""
    while data:
        size = int.from_bytes(data[:3])
        yield data[3], data[4], int.from_bytes(data[5:9]), data[9 : 9 + size]
        data = data[9 + size :]


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
        path = "/a.B/Unary" if is_unary else self.random.choice(("/a.B/Open", "/a.B/Other"))
        timeout_ms = self.random.choice((0, 5, 29_990, 10**9))
        metadata = [("x-id", str(self.random.randrange(99)))] * self.random.randrange(2)
        fields = [(name.encode(), value.encode()) for name, value in metadata]
        if timeout_ms:
            value = f"{timeout_ms}m" if timeout_ms < 10**8 else f"{timeout_ms // 1000}S"
            fields.insert(0, (b"grpc-timeout", value.encode()))
        if is_unary:
            message = _random_message(self.random)
            stream = self.client.call(path, message, None, timeout_ms, metadata)
            call = Call(stream, path, fields, is_unary, bytearray(frame(message)), True)
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
            message = _random_message(self.random)
            self.client.send(call.stream, message)
            call.sent += frame(message)

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
            expected.end = End(**{**vars(expected.end), "details": call.end.details})
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
