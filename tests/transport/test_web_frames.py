"""FrameReader, byte by byte, against the frames of the websockets library."""

from __future__ import annotations

import random
from math import inf

import pytest
from websockets.frames import Frame, Opcode

from gatesvr.errors import ProtocolError
from gatesvr.transport.web.frames import (
    BINARY,
    CLOSE,
    MAX_PIECES,
    PING,
    PONG,
    FrameReader,
    close_of,
    head_of,
)

MAX = 100_000


def masked(opcode: int, data: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), data, fin).serialize(mask=True)


def read(reader: FrameReader, *parts: bytes, now: float = 1.0) -> list[tuple[int, bytes]]:
    return [found for part in parts for found in reader.receive(part, now)]


MESSAGES = [
    (BINARY, b""),
    (BINARY, b"x" * 125),
    (PING, b"are you there"),
    (BINARY, b"y" * 126),
    (PONG, b""),
    (BINARY, bytes(range(256)) * 300),
    (CLOSE, b"\x03\xe8bye"),
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1_000, 70_000, 1 << 20])
def test_frames_are_read_however_they_are_cut(step: int) -> None:
    data = b"".join(masked(*message) for message in MESSAGES)
    reader = FrameReader(MAX)
    parts = [data[start : start + step] for start in range(0, len(data), step)]
    assert read(reader, *parts) == MESSAGES
    assert reader.began_at == inf


def test_random_pieces_are_put_together() -> None:
    chance = random.Random(1)
    for _ in range(200):
        reader, wanted, data = FrameReader(MAX), [], b""
        for _ in range(chance.randint(1, 4)):
            pieces = [
                chance.randbytes(chance.choice((0, 1, 125, 126, 3_000)))
                for _ in range(chance.randint(1, 4))
            ]
            for i, piece in enumerate(pieces):
                data += masked(0 if i else BINARY, piece, fin=i == len(pieces) - 1)
                if i < len(pieces) - 1 and chance.random() < 0.3:
                    data += masked(PING, b"between")
                    wanted.append((PING, b"between"))
            wanted.append((BINARY, b"".join(pieces)))
        cuts = sorted(chance.randint(0, len(data)) for _ in range(5))
        parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
        assert read(reader, *parts) == wanted
        assert reader.began_at == inf


BAD = {
    "no mask": b"\x82\x00",
    "reserved bit": b"\xc2\x80\0\0\0\0",
    "text": masked(1, b"a"),
    "opcode 3": b"\x83\x80\0\0\0\0",
    "opcode 11": b"\x8b\x80\0\0\0\0",
    "long ping": b"\x89\xfe\x00\x7e\0\0\0\0",
    "ping in pieces": b"\x09\x80\0\0\0\0",
    "no beginning": masked(0, b"a"),
    "message in a message": masked(BINARY, b"a", fin=False) + masked(BINARY, b"b"),
    "too long": b"\x82\xff" + (MAX + 1).to_bytes(8) + bytes(4),
    "as long as can be": b"\x82\xff" + b"\xff" * 8 + bytes(4),
    "too long in pieces": masked(BINARY, bytes(MAX), fin=False) + masked(0, b"a"),
    "too many pieces": masked(BINARY, fin=False) + masked(0, fin=False) * MAX_PIECES,
}


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("name", BAD)
def test_what_breaks_the_protocol_is_refused(name: str, step: int) -> None:
    data = BAD[name]
    with pytest.raises(ProtocolError):
        read(FrameReader(MAX), *(data[at : at + step] for at in range(0, len(data), step)))


def test_a_length_is_judged_before_its_bytes_come() -> None:
    reader = FrameReader(10)
    assert read(reader, masked(BINARY, bytes(10))) == [(BINARY, bytes(10))]
    with pytest.raises(ProtocolError):
        read(reader, masked(BINARY, bytes(11))[:6])


def test_the_time_of_a_message_is_that_of_its_first_byte() -> None:
    reader = FrameReader(MAX)
    data = masked(BINARY, b"abc", fin=False) + masked(0, b"def")
    assert read(reader, data[:1], now=1.0) == []
    assert reader.began_at == 1.0
    assert read(reader, data[1:12], now=2.0) == []
    assert reader.began_at == 1.0
    assert read(reader, data[12:] + data[:3], now=3.0) == [(BINARY, b"abcdef")]
    assert reader.began_at == 3.0
    assert read(reader, data[3:], now=4.0) == [(BINARY, b"abcdef")]
    assert reader.began_at == inf


@pytest.mark.parametrize("length", [0, 125, 126, 65_535, 65_536, 1 << 20])
@pytest.mark.parametrize("opcode", [BINARY, PING])
def test_heads_are_those_of_the_library(length: int, opcode: int) -> None:
    if opcode == BINARY or length < 126:
        wanted = Frame(Opcode(opcode), bytes(length)).serialize(mask=False)
        assert head_of(length, opcode) + bytes(length) == wanted


@pytest.mark.parametrize("payload", [b"\x03", b"\x00\x01", b"\x03\xee", b"\x03\xe8\xff"])
def test_a_close_that_says_nonsense_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        close_of(payload)
    assert close_of(b"\x0f\xa1why").code == 4001
    assert close_of(b"").code == 1005
