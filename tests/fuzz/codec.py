"""The codec beside protobuf: one verdict and equal values, however the bytes are cut.

The first byte says what the rest is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from gatesvr._core import codec
from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.errors import ProtocolError
from tests.core import codec_checks
from tests.core.codec_checks import frame, in_order, summary

from .reader import Reader, chunk

MAX_FRAME = 4096


def check(data: bytes) -> None:
    """Check one message, stream or call of an encoder."""
    reader = Reader(data)
    reader.pick(_KINDS)(reader)


def _check_answer(reader: Reader) -> None:
    data = reader.rest()
    codec_checks.check_answer(codec.decode_answer(data), data)


def _check_batch(reader: Reader) -> None:
    data = reader.rest()
    codec_checks.check_batch(data)
    try:
        parts = codec.split_batch(data)
    except ValueError:
        return
    assert codec.split_batch(codec.encode_batch(parts)) == parts


def _check_requests(reader: Reader) -> None:
    """The same stream in one piece, and cut, gives the same requests."""
    pieces = _pieces(reader)
    whole, cut = codec.RequestDecoder(MAX_FRAME), codec.RequestDecoder(MAX_FRAME)
    expected = [summary(request) for request in whole.feed(b"".join(pieces))]
    found = []
    for piece in pieces:
        requests = cut.feed(piece)
        assert cut.message_bytes == sum(request.size for request in requests)
        assert cut.highest_ack == max((r.ack_seq_id for r in requests), default=0)
        assert cut.buffered_bytes <= MAX_FRAME + 4
        found += [summary(request) for request in requests]
    assert found == expected
    _check_ends(whole, cut)


def _check_pushes(reader: Reader) -> None:
    """The same for a client's stream."""
    pieces = _pieces(reader)
    whole, cut = codec.PushDecoder(MAX_FRAME), codec.PushDecoder(MAX_FRAME)
    expected = [_values(push) for push in whole.feed(b"".join(pieces))]
    assert [_values(push) for piece in pieces for push in cut.feed(piece)] == expected
    _check_ends(whole, cut)


def _pieces(reader: Reader) -> list[bytes]:
    pieces = []
    while not reader.is_empty:
        pieces.append(reader.chunk())
    return pieces


def _check_ends(whole: codec.FrameDecoder, cut: codec.FrameDecoder) -> None:
    assert (whole.error, whole.buffered_bytes) == (cut.error, cut.buffered_bytes)
    if whole.error:
        assert whole.buffered_bytes == 0
        assert whole.feed(frame(b"\x08\x01")) == []


def _values(push: codec.ServerPush) -> tuple[object, ...]:
    try:
        business: object = push.business()
    except ProtocolError as error:
        business = str(error)
    values = (push.msg_id, push.seq_id, push.type, push.client_seq_id, push.payload, push.size)
    return (*values, push.headers, business)


def _check_encoders(reader: Reader) -> None:
    """What the encoders write is what protobuf writes, or they refuse the text as it does."""
    numbers = [reader.number(4), reader.number(8), reader.number(8)]
    texts = [reader.text() for _ in range(3)]
    pairs = {reader.text(): reader.text() for _ in range(reader.number() % 4)}
    payload = reader.rest()
    try:
        request = pb.ClientRequest(msg_id=numbers[0], seq_id=numbers[1], payload=payload)
        ends = in_order(request, "headers", pairs, pb.ClientRequest(ack_seq_id=numbers[2]))
        params = in_order(pb.BusinessRequest(action=texts[0]), "params", pairs)
        identity = up.UpstreamRequest(session_id=texts[0], openid=texts[1]).SerializeToString()
        notify = up.BoundNotify(msg_type=texts[0], title=texts[1], content=texts[2], data=payload)
        wire_notify = in_order(notify, "metadata", pairs)
    except UnicodeEncodeError:
        _refuse(lambda: codec.encode_request(1, 1, 4, payload, dict.fromkeys(texts, "")), texts)
        _refuse(lambda: codec.encode_identity(texts[0], texts[1]), texts[:2])
        return
    assert codec.encode_request(*numbers[:2], 0, payload, pairs, numbers[2]) == frame(ends)
    assert codec.encode_business(texts[0], pairs, b"") == params
    assert codec.encode_identity(texts[0], texts[1]) == identity
    body = codec.notify_body(texts[0], texts[1], texts[2], payload, pairs.items())
    answer = up.UpstreamResponse.FromString(b"\x5a" + _length(wire_notify) + wire_notify)
    expected = codec_checks.notify_push(answer.notifies[0])
    assert pb.ServerPush.FromString(body) == expected


def _length(data: bytes) -> bytes:
    size, out = len(data), bytearray()
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((*out, size))


def _refuse(encode: Callable[[], bytes], texts: list[str]) -> None:
    """Expect a refusal if one of texts cannot be encoded."""
    is_bad = any("\ud800" <= character <= "\udfff" for text in texts for character in text)
    try:
        encode()
    except UnicodeEncodeError:
        assert is_bad
    else:
        assert not is_bad


_KINDS: tuple[Callable[[Reader], object], ...] = (
    lambda reader: codec_checks.check_request(reader.rest()),
    lambda reader: codec_checks.check_push(reader.rest()),
    _check_answer,
    _check_batch,
    _check_requests,
    _check_pushes,
    _check_encoders,
)


def seeds() -> Iterator[bytes]:
    """Yield messages of each kind, sound and damaged, and streams of them."""
    random = Random(7)
    makers = (
        codec_checks.random_request,
        codec_checks.random_push,
        codec_checks.random_answer,
        codec_checks.random_batch,
    )
    for kind, make in enumerate(makers):
        for _ in range(6):
            yield bytes((kind,)) + make(random)[:600]
    for kind, make in ((4, makers[0]), (5, makers[1])):
        for _ in range(3):
            stream = b"".join(frame(make(random)[:200]) for _ in range(3))
            cut = random.randrange(len(stream))
            yield bytes((kind,)) + chunk(stream[:cut]) + chunk(stream[cut:])
    numbers = (5).to_bytes(4) + (1 << 40).to_bytes(8) + bytes(8)
    texts = b"".join(chunk(text.encode()) for text in ("echo", "título", "content"))
    yield b"\x06" + numbers + texts + b"\x01" + chunk(b"zone") + chunk(b"001") + b"data"
    yield b"\x06" + numbers + chunk(b"\xff") + chunk(b"a")
