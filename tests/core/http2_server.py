"""A server on the package ``h2`` that follows a plan on each stream, and is as odd as it may be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from h2 import events as h2_events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes
from h2.windows import WindowManager

from .http2_acts import Act, make_plan
from .http2_rig import (
    CONTINUATION,
    END_HEADERS,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITY,
    WITH_PRIORITY,
    frame,
    frames_of,
    goaway,
)

MAX_FRAME = 16_384
WINDOWS = (0, 1, 100, 5_000, 65_535, 200_000)
UNARY = "/a.B/Unary"
"""The path whose answers have one message; others have any number."""


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
                is_unary = (b":path", UNARY.encode()) in fields
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
            answer.is_over = answer.is_over or number > self.last_id
        self.out += goaway(self.last_id, text=b"bye")

    def add_noise(self) -> None:
        """Send a frame that a client ignores."""
        number = self.random.choice((0, 2, *self.answers))
        if number % 2:
            self.out += frame(PRIORITY, 0, number, bytes(5))
        else:
            self.out += frame(0xFA, 0xFF, number, self.random.randbytes(7))

    def _flush(self) -> None:
        for kind, flags, number, payload in frames_of(self.h2.data_to_send()):
            if kind == HEADERS and self.random.random() < 0.3:
                self.out += b"".join(self._split(flags, number, payload))
            else:
                self.out += frame(kind, flags, number, payload)

    def _split(self, flags: int, number: int, block: bytes) -> Iterator[bytes]:
        """Yield HEADERS as HEADERS with padding or a priority, and CONTINUATIONs."""
        cut = self.random.randrange(len(block) + 1)
        payload, rest = block[:cut], block[cut:]
        head_flags = flags & ~END_HEADERS
        if self.random.random() < 0.3:
            head_flags |= WITH_PRIORITY
            payload = self.random.randbytes(5) + payload
        if self.random.random() < 0.3:
            padding = self.random.choice((0, 3, 255))
            head_flags |= PADDED
            payload = bytes((padding,)) + payload + bytes(padding)
        yield frame(HEADERS, head_flags, number, payload)
        while rest:
            cut = self.random.randrange(len(rest) + 1)
            yield frame(CONTINUATION, 0, number, rest[:cut])
            rest = rest[cut:]
        yield frame(CONTINUATION, END_HEADERS, number, b"")


def percent_encode(text: str) -> bytes:
    """Return a text as grpc-message."""
    encoded = (bytes((b,)) if 32 <= b < 127 and b != 37 else b"%%%02X" % b for b in text.encode())
    return b"".join(encoded)
