"""HPACK beside the package ``hpack``: one verdict on any blocks, equal fields both ways.

The first byte says which side of a connection the rest is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import hpack

from gatesvr._core.hpack import HpackEncoder
from tests.core import hpack_checks
from tests.core.hpack_checks import NAMES, TABLE_BYTES, VALUES

from .reader import Reader, chunk

MAX_BLOCKS = 50


def check(data: bytes) -> None:
    """Decode blocks, or encode fields."""
    reader = Reader(data)
    reader.pick(_KINDS)(reader)


def _check_decoder(reader: Reader) -> None:
    blocks = []
    while not reader.is_empty and len(blocks) < MAX_BLOCKS:
        blocks.append(reader.chunk())
    hpack_checks.check_blocks(blocks)


def _check_encoder(reader: Reader) -> None:
    """What we encode, they decode, also when it is sent again."""
    ours, theirs = HpackEncoder(reader.pick((*TABLE_BYTES, 9000))), hpack.Decoder(1 << 20)
    for _ in range(MAX_BLOCKS):
        if reader.is_empty:
            break
        kind = reader.number()
        if kind & 1:
            theirs.max_allowed_table_size = reader.pick((*TABLE_BYTES, 8192))
            ours.set_max_table_bytes(theirs.max_allowed_table_size)
        fields = [_field(reader) for _ in range(kind >> 4)]
        before = ours.inserted
        block = ours.encode(fields, bool(kind & 2))
        assert hpack_checks.decode_theirs(theirs, block) == ("good", fields)
        if ours.inserted == before:
            assert ours.encode(fields, bool(kind & 2)) == block
            assert hpack_checks.decode_theirs(theirs, block) == ("good", fields)


def _field(reader: Reader) -> tuple[bytes, bytes]:
    kind = reader.number()
    name = NAMES[kind % 16] if kind % 16 < len(NAMES) else reader.take(reader.number())
    value = VALUES[kind // 16] if kind // 16 < len(VALUES) else reader.take(reader.number())
    return name, value


_KINDS: tuple[Callable[[Reader], None], ...] = (_check_decoder, _check_encoder)


def seeds() -> Iterator[bytes]:
    """Yield blocks of all representations, and lives of an encoder."""
    for seed in range(12):
        yield b"\x00" + b"".join(map(chunk, hpack_checks.random_blocks(Random(seed))))
    theirs = hpack.Encoder()
    random = Random(12)
    blocks = []
    for size in (4096, 100, 0, 4096, 300):
        theirs.header_table_size = min(size, 256)
        blocks += [theirs.encode(hpack_checks.random_fields(random)) for _ in range(3)]
    yield b"\x00" + b"".join(map(chunk, blocks))
    for seed in range(8):
        yield b"\x01" + Random(seed).randbytes(30 * (1 + seed % 4))
