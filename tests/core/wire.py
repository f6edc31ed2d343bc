"""Protobuf bytes that no library writes: random input for the codec, and upb's reading of it.

Everything is seeded: the same random.Random gives the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from gatesvr._pb import message_pb2, upstream_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

MAX_NESTED_GROUPS = 4
DROPPED = {"authorization", "cookie", "forwarded", "x-real-ip", "zone"}
DROPPED |= {"traceparent", "tracestate", "baggage"}
DROPPED_PREFIXES = ("x-forwarded-", "grpc-", "gs-")

# What the fields of a message hold: "int", "text", "bytes", or the schema of a message.
M = TypeVar("M", bound=Message)
Schema: TypeAlias = "dict[int, str | Schema]"
ENTRY: Schema = {1: "text", 2: "text"}
REQUEST: Schema = {1: "int", 2: "int", 3: "int", 4: "bytes", 5: ENTRY, 6: "text", 10: "int"}
PUSH: Schema = {1: "int", 2: "int", 3: "int", 4: "bytes", 5: ENTRY, 10: "int"}
BUSINESS: Schema = {1: "text", 2: ENTRY, 3: "bytes"}
BUSINESS_RESPONSE: Schema = {1: "int", 2: "text", 3: "bytes"}
NOTIFY: Schema = {1: "int", 2: "text", 3: "text", 4: "text", 5: "bytes", 6: ENTRY}
RESPONSE: Schema = {1: "int", 2: "text", 3: "bytes", 4: ENTRY, 5: "int", 10: "int"}
RESPONSE |= {11: NOTIFY, 12: "int"}
BATCH: Schema = {1: RESPONSE}

TEXTS = ["", "a", "zone", "Zone", "echo", "hello", "héllo", "k\0", "日本", "\U0010ffff", "GS-x"]
TEXTS += ["grpc-y", "X-Forwarded-For", "x" * 130, "Cookie", "trace", "traceparent", "x-real-ip"]
BAD_TEXTS = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ab\xe2\x82", b"\x80"]
BAD_TEXTS += [b"12345678\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xc2", b"\xf5\x80\x80\x80"]
INTS = [0, 1, 2, 3, 4, 4, 4, 5, 127, 128, 300, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**64 - 1]


def varint(value: int, padding: int = 0) -> bytes:
    """Return a varint, too long by padding bytes."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    if padding:
        out[-1] |= 0x80
        out += b"\x80" * (padding - 1) + b"\x00"
    return bytes(out)


def field(number: int, data: bytes | int, padding: int = 0) -> bytes:
    """Return a varint or length-delimited field, its tag padded."""
    if isinstance(data, int):
        return varint(number << 3, padding) + varint(data % 2**64)
    return varint(number << 3 | 2, padding) + varint(len(data)) + data


def group(number: int, content: bytes = b"") -> bytes:
    """Return a group."""
    return varint(number << 3 | 3) + content + varint(number << 3 | 4)


def random_padding(random: Random) -> int:
    """Return a varint's padding, mostly 0."""
    return random.randrange(6) if random.random() < 0.03 else 0


def random_unknown(random: Random, depth: int = 0) -> bytes:
    """Return one field of any number and wire type."""
    number = random.choice([1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 100, 2**29 - 1])
    kind = random.randrange(6)
    if kind == 0:
        return varint(number << 3, random_padding(random)) + varint(random.choice(INTS))
    if kind == 1:
        return varint(number << 3 | 1) + random.randbytes(8)
    if kind == 2:
        return field(number, random.randbytes(random.randrange(4)), random_padding(random))
    if kind == 3:
        fields = random.randrange(3) if depth < 5 else 0
        return group(number, b"".join(random_unknown(random, depth + 1) for _ in range(fields)))
    if kind == 4:
        return varint(number << 3 | 5) + random.randbytes(4)
    return varint(number << 3, random_padding(random)) + varint(1, random.randrange(11))


def random_text(random: Random) -> bytes:
    """Return a string, now and then one that is not UTF-8."""
    return random.choice(BAD_TEXTS if random.random() < 0.02 else TEXTS_ENCODED)


TEXTS_ENCODED = [text.encode() for text in TEXTS]


def random_message(random: Random, schema: Schema, unknown: float = 0.1) -> bytes:
    """Return a message: fields in any order, repeated, missing, unknown, of wrong wire types."""
    parts = []
    for _ in range(random.randrange(2 * len(schema) + 1)):
        if random.random() < unknown:
            parts.append(random_unknown(random))
            continue
        number = random.choice(list(schema))
        kind = schema[number]
        padding = random_padding(random)
        if kind == "int":
            value = varint(random.choice(INTS), random_padding(random))
            parts.append(varint(number << 3, padding) + value)
        elif kind == "text":
            parts.append(field(number, random_text(random), padding))
        elif kind == "bytes":
            parts.append(field(number, random.randbytes(random.choice([0, 1, 5, 200])), padding))
        else:
            assert isinstance(kind, dict)
            # An entry with an unknown field is dropped whole, so let it be rare.
            inner = random_message(random, kind, 0.03 if kind is ENTRY else unknown)
            parts.append(field(number, inner, padding))
    return b"".join(parts)


def mutate(random: Random, data: bytes) -> bytes:
    """Return data with one to three small damages."""
    out = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(out) + 1)
        kind = random.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x2A, 0x0B, 0x0C])
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + random.randrange(1, 4)]
        elif kind == 4:
            out[at:at] = random.randbytes(random.randrange(1, 4))
        else:
            begin = random.randrange(len(out) + 1)
            out[at:at] = out[begin : begin + random.randrange(1, 12)]
    return bytes(out)


def parse(kind: type[M], data: bytes) -> M | None:
    """Return the message that upb reads, None if it rejects the bytes."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def walk(data: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    """Yield number, wire type, content and group depth of each field in good protobuf."""
    at = depth = 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = read()
        kind = tag & 7
        if kind == 0:
            begin = at
            read()
        else:
            size = read() if kind == 2 else {1: 8, 5: 4}.get(kind, 0)
            begin = at
            at += size
        depth += kind == 3
        yield tag >> 3, kind, data[begin:at], depth
        depth -= kind == 4


def is_too_deep(data: bytes, schema: Schema) -> bool:
    """Return whether good protobuf nests unknown groups deeper than PROTOCOL 1.6 lets it."""
    for number, kind, content, depth in walk(data):
        inner = schema.get(number)
        if depth > MAX_NESTED_GROUPS:
            return True
        if kind == 2 and not depth and isinstance(inner, dict) and is_too_deep(content, inner):
            return True
    return False


def count_entries(data: bytes, number: int) -> int:
    """Return the number of a map's entries on the wire, including those that protobuf drops."""
    return sum((n, kind, depth) == (number, 2, 0) for n, kind, _, depth in walk(data))


def split_batch(data: bytes) -> list[bytes]:
    """Return the messages of a batch; only their contents may be bad."""
    return [part for number, kind, part, depth in walk(data) if (number, kind, depth) == (1, 2, 0)]


def accepted(kind: type[M], data: bytes, schema: Schema) -> M | None:
    """Return the message that the codec must read from data, None if it must reject it."""
    message = parse(kind, data)
    return None if message is None or is_too_deep(data, schema) else message


def is_passed(name: str) -> bool:
    """Return whether a client's header reaches upstreams (PROTOCOL 7.2)."""
    name = "".join(c.lower() if c.isascii() else c for c in name)
    return name not in DROPPED and not name.startswith(DROPPED_PREFIXES)


def upstream_request(
    request: message_pb2.ClientRequest, business: message_pb2.BusinessRequest
) -> upstream_pb2.UpstreamRequest:
    """Return protobuf's own conversion, without what the gateway writes (PROTOCOL 7.1, 7.2)."""
    return upstream_pb2.UpstreamRequest(
        action=business.action,
        params=dict(business.params),
        data=business.data,
        headers={key: value for key, value in request.headers.items() if is_passed(key)},
    )
