"""The reassembly of aioquic's streams, beside a plain model of it."""

from __future__ import annotations

import random

import pytest
from aioquic.quic.packet import QuicStreamFrame
from aioquic.quic.stream import FinalSizeError

from gatesvr.transport.quic.aioquic_core import MAX_PIECES, PacketDropped, Reassembly


def frame(data: bytes, offset: int, *, fin: bool = False) -> QuicStreamFrame:
    return QuicStreamFrame(data=data, offset=offset, fin=fin)


@pytest.mark.parametrize("seed", range(60))
def test_any_cut_and_order_gives_the_same_bytes(seed: int) -> None:
    chance = random.Random(seed)
    whole = chance.randbytes(chance.randint(1, 400))
    receiver = Reassembly(0, readable=True)
    longest = chance.choice([3, 30, 400])
    found = b""
    ends = 0
    have = bytearray(len(whole))  # which bytes were received
    has_end = False
    while not ends:
        at = chance.randint(0, len(whole))
        data = whole[at : at + chance.randint(0, longest)]
        fin = at + len(data) == len(whole) and chance.random() < 0.5
        event = receiver.handle_frame(frame(data, at, fin=fin))
        have[at : at + len(data)] = b"\1" * len(data)
        has_end = has_end or fin
        if event is not None:
            assert event.data or event.end_stream
            found += event.data
            ends += event.end_stream
        contiguous = len(have) if all(have) else have.index(0)
        assert found == whole[:contiguous]
        assert bool(ends) == (has_end and contiguous == len(whole))
        check(receiver)
    assert receiver.handle_frame(frame(b"x", 0)) is None


def check(receiver: Reassembly) -> None:
    starts, pieces = receiver._starts, receiver._pieces
    assert sorted(pieces) == starts
    end = receiver._buffer_start
    for start in starts:
        assert start >= end
        assert pieces[start]
        end = start + len(pieces[start])
    assert end <= receiver.highest_offset
    assert not receiver._buffer
    assert receiver.held == (
        0 if receiver.is_finished else receiver.highest_offset - receiver._buffer_start
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (frame(b"", 10, fin=True), frame(b"xx", 9)),  # beyond the end
        (frame(b"", 10, fin=True), frame(b"", 9, fin=True)),  # another end
        (frame(b"xx", 9), frame(b"", 10, fin=True)),  # an end before what has come
        (frame(b"xx", 9), frame(b"x", 5, fin=True)),
    ],
)
def test_a_final_size_is_final(first: QuicStreamFrame, second: QuicStreamFrame) -> None:
    receiver = Reassembly(0, readable=True)
    assert receiver.handle_frame(first) is None
    with pytest.raises(FinalSizeError):
        receiver.handle_frame(second)


def test_an_end_that_comes_first() -> None:
    receiver = Reassembly(0, readable=True)
    assert receiver.handle_frame(frame(b"", 3, fin=True)) is None
    event = receiver.handle_frame(frame(b"abc", 0))
    assert event is not None
    assert event.data == b"abc"
    assert event.end_stream


def test_a_full_reassembly_takes_what_closes_the_gap() -> None:
    receiver = Reassembly(0, readable=True)
    for i in range(MAX_PIECES):
        receiver.handle_frame(frame(b"x", 1 + 2 * i))
    highest = receiver.highest_offset
    with pytest.raises(PacketDropped):
        receiver.handle_frame(frame(b"x", 1 + 2 * MAX_PIECES))
    assert receiver.highest_offset == highest
    event = receiver.handle_frame(frame(b"yy", 0))
    assert event is not None
    assert event.data == b"yy"  # the second one is a duplicate
    event = receiver.handle_frame(frame(b"z", 2))
    assert event is not None
    assert event.data == b"zx"
    assert receiver.handle_frame(frame(b"x", 1 + 2 * MAX_PIECES)) is None
    check(receiver)


def test_a_reset_drops_the_pieces() -> None:
    receiver = Reassembly(0, readable=True)
    receiver.handle_frame(frame(b"x", 5))
    assert receiver.held == 6
    assert receiver.handle_reset(final_size=6) is not None
    assert receiver.held == 0
    assert receiver._pieces == {}
    assert receiver.handle_frame(frame(b"x", 3)) is None
    assert receiver._pieces == {}
