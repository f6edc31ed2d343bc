"""HPACK against the package ``hpack`` on one input, both ways. For the tests and the fuzzer."""

from __future__ import annotations

from random import Random

import hpack
from hpack.hpack import encode_integer

from gatesvr._core.hpack import HpackDecoder, HpackEncoder, HpackError

Fields = list[tuple[bytes, bytes]]

MAX_LIST_BYTES = 500
TABLE_BYTES = (0, 33, 64, 100, 256, 1000, 4096)
NAMES = (
    *(b":status", b"content-type", b"grpc-status", b"grpc-message", b"a", b"date", b"x-1"),
    *(b":path", b"via", b"set-cookie", b"", b"n" * 40),
)
VALUES = (b"", b"200", b"0", b"application/grpc", b"trailers", b"1", b"GET", b"/a.B/c", b"v" * 60)


def random_text(random: Random) -> bytes:
    """Return a short text of few or of all bytes."""
    size = random.choice((0, 1, 2, 2, 5, 9, 9, 30, random.randrange(300)))
    if random.random() < 0.7:
        return bytes(random.choices(b"abcdefgz0123459-/:.", k=size))
    return random.randbytes(size)


def random_fields(random: Random) -> Fields:
    """Return fields of which many come again."""
    fields = []
    for _ in range(random.randrange(7)):
        name = random.choice(NAMES) if random.random() < 0.9 else random_text(random)
        value = random.choice(VALUES) if random.random() < 0.7 else random_text(random)
        fields.append((name, value))
    return fields


def list_bytes(fields: Fields) -> int:
    return sum(32 + len(name) + len(value) for name, value in fields)


def decode(decoder: HpackDecoder, block: bytes) -> tuple[str, Fields]:
    """Return our verdict on a block, and its fields."""
    try:
        return "good", decoder.decode(block)
    except HpackError as error:
        return "too large" if error.is_too_large else "corrupt", []


def decode_theirs(decoder: hpack.Decoder, block: bytes) -> tuple[str, Fields]:
    """Return the verdict of the package on a block, and its fields."""
    try:
        return "good", [(bytes(n), bytes(v)) for n, v in decoder.decode(block, raw=True)]
    except hpack.OversizedHeaderListError:
        return "too large", []
    except hpack.HPACKError:
        return "corrupt", []


def check_decoder(random: Random) -> str:
    """Decode what the package encodes, block after block; return what it came to."""
    theirs, ours = hpack.Encoder(), HpackDecoder(4096, MAX_LIST_BYTES)
    verdicts = set()
    for _ in range(random.randrange(1, 6)):
        for _ in range(random.choice((0, 0, 0, 1, 2))):
            size = random.choice(TABLE_BYTES)
            if size != theirs.header_table_size:  # or it forgets an earlier change
                theirs.header_table_size = size
        fields = random_fields(random)
        written = [
            hpack.NeverIndexedHeaderTuple(*field) if random.random() < 0.1 else field
            for field in fields
        ]
        block = theirs.encode(written, huffman=random.random() < 0.6)
        verdict, found = decode(ours, block)
        if list_bytes(fields) > MAX_LIST_BYTES:
            assert verdict == "too large"
        else:
            assert (verdict, found) == ("good", fields)
        verdicts.add(verdict)
    return max(verdicts)


def check_encoder(random: Random) -> str:
    """Let the package decode what we encode, and what may be sent again; return "good"."""
    ours = HpackEncoder(random.choice((0, 100, 300, 4096, 4096, 9000)))
    theirs = hpack.Decoder(1 << 20)
    again: list[tuple[bytes, Fields]] = []
    for _ in range(random.randrange(1, 8)):
        for _ in range(random.choice((0, 0, 0, 1, 2))):
            theirs.max_allowed_table_size = random.choice((*TABLE_BYTES, 8192))
            ours.set_max_table_bytes(theirs.max_allowed_table_size)
            again.clear()
        fields = random_fields(random)
        before = ours.inserted
        block = ours.encode(fields, random.random() < 0.7)
        assert decode_theirs(theirs, block) == ("good", fields), (block, fields)
        if ours.inserted != before:
            again.clear()
        else:
            again.append((block, fields))
        for known, expected in again:
            assert decode_theirs(theirs, known) == ("good", expected)
    return "good"


def check_blocks(blocks: list[bytes]) -> str:
    """Decode any bytes, block after block; return the last verdict, which ends them."""
    ours, theirs = HpackDecoder(256, MAX_LIST_BYTES), hpack.Decoder(MAX_LIST_BYTES)
    theirs.max_allowed_table_size = theirs.header_table_size = 256
    verdict = "good"
    for block in blocks:
        verdict, found = decode(ours, block)
        expected, their_fields = decode_theirs(theirs, block)
        if expected == "too large":  # there they stop; we go on, and may find a fault behind
            assert verdict in {"too large", "corrupt"}, blocks
        else:
            assert (verdict, found) == (expected, their_fields), blocks
        if expected != "good":
            break
    return verdict


def check_damaged(random: Random) -> str:
    """Decode blocks of any representations, some of them damaged; return the last verdict."""
    return check_blocks(random_blocks(random))


def random_blocks(random: Random) -> list[bytes]:
    """Return blocks of one connection, of any representations, some of them damaged."""
    blocks = [b"\x40\x01a\x01b\x40\x01a\x01c\x40\x01d\x01e"]
    for _ in range(random.randrange(1, 6)):
        block = b"".join(_random_part(random) for _ in range(random.randrange(8)))
        if block and random.random() < 0.05:
            place = random.randrange(len(block))
            block = block[:place] + random.randbytes(random.randrange(3)) + block[place + 1 :]
        blocks.append(block)
    return blocks


def _random_part(random: Random) -> bytes:
    """Return a field as a peer may write it, or a size update."""
    kind = random.randrange(40)
    if kind < 16:
        return _number(0x80, 7, random.choice((3, 8, 31, 62, 62, 62, 62, 63, 63, 64)))
    if kind == 39:
        return _number(0x20, 5, random.choice((0, 40, 100, 256, 256)))
    first, bits = random.choice(((0x40, 6), (0x40, 6), (0, 4), (0x10, 4)))
    index = random.choice((0, 0, 0, 1, 8, 58, 61, 62, 62, 63))
    name = b"" if index else _text(random, random.choice(NAMES))
    return _number(first, bits, index) + name + _text(random, random_text(random))


def _text(random: Random, text: bytes) -> bytes:
    if random.random() < 0.5:
        return _number(0, 7, len(text)) + text
    coded = hpack.Encoder().huffman_coder.encode(text)
    return _number(0x80, 7, len(coded)) + coded


def _number(first: int, bits: int, number: int) -> bytes:
    data = encode_integer(number, bits)
    data[0] |= first
    return bytes(data)


def check_one(random: Random) -> str:
    """Make one random life of a connection of any kind and check it; return kind and verdict."""
    kind = random.randrange(10)
    if kind < 3:
        return f"decoder {check_decoder(random)}"
    if kind < 6:
        return f"encoder {check_encoder(random)}"
    return f"damaged {check_damaged(random)}"
