"""The codec against protobuf-python (upb) on the same job.

Each measured call handles one chunk or batch of 16 messages of about 200 bytes, as the gateway
does.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr._core import codec
from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

BATCH = 16
TARGET = 5  # times protobuf-python (DESIGN 4)
MAX_BYTES = 1 << 20
LENGTH = struct.Struct(">I")

HEADERS = {"x-trace": "4bf92f3577b34da6", "lang": "en"}
DROPPED = ("x-forwarded-", "grpc-", "gs-")
PARAMS = {"room": "lobby"}
DATA = b"d" * 110
IDENTITY = codec.encode_identity("c0ffee00c0ffee00", "user-1")
PEER = up.PeerInfo(ip="192.0.2.1", port=4433, zone="001", generation=1)
PEER_BYTES = PEER.SerializeToString()

BUSINESS = codec.encode_business("echo", PARAMS, DATA)
REQUEST = pb.ClientRequest(
    msg_id=7,
    seq_id=300,
    type=pb.REQUEST_BUSINESS,
    payload=BUSINESS,
    headers=HEADERS,
    ack_seq_id=290,
).SerializeToString()
CHUNK = (LENGTH.pack(len(REQUEST)) + REQUEST) * BATCH
RESPONSE = up.UpstreamResponse(
    code=200, message="ok", data=DATA, headers=HEADERS, client_seq_id=300, request_id=70_000
)
RESPONSES = up.UpstreamResponseBatch(responses=[RESPONSE] * BATCH).SerializeToString()
PUSH = pb.ServerPush(
    msg_id=7,
    seq_id=900,
    type=pb.PUSH_BUSINESS_DATA,
    payload=pb.BusinessResponse(code=200, message="ok", data=DATA).SerializeToString(),
    headers=HEADERS,
    client_seq_id=300,
).SerializeToString()
PUSH_CHUNK = (LENGTH.pack(len(PUSH)) + PUSH) * BATCH


def split(chunk: bytes) -> list[bytes]:
    """Split a chunk of whole frames into messages, in plain Python."""
    messages = []
    at = 0
    while at < len(chunk):
        (size,) = LENGTH.unpack_from(chunk, at)
        messages.append(chunk[at + 4 : at + 4 + size])
        at += 4 + size
    return messages


def decode_gatesvr() -> object:
    """Decode a chunk of requests and read the fields that the gateway decides on."""
    requests = codec.RequestDecoder(MAX_BYTES).feed(CHUNK)
    return [(r.type, r.seq_id, r.ack_seq_id, r.action) for r in requests]


def decode_yardstick() -> object:
    found = []
    for message in split(CHUNK):
        request = pb.ClientRequest.FromString(message)
        business = pb.BusinessRequest.FromString(request.payload)
        found.append((request.type, request.seq_id, request.ack_seq_id, business.action))
    return found


PAYLOAD = codec.push_body(3, DATA)  # any bytes will do as a push's payload
PUSH_TYPE = pb.PUSH_BUSINESS_DATA


def encode_gatesvr() -> object:
    """Encode pushes with given values as frames."""
    return [
        codec.push_frame(7, 900, codec.push_body(PUSH_TYPE, PAYLOAD, HEADERS, 300))
        for _ in range(BATCH)
    ]


def encode_yardstick() -> object:
    frames = []
    for _ in range(BATCH):
        message = pb.ServerPush(
            msg_id=7,
            seq_id=900,
            type=PUSH_TYPE,
            payload=PAYLOAD,
            headers=HEADERS,
            client_seq_id=300,
        ).SerializeToString()
        frames.append(LENGTH.pack(len(message)) + message)
    return frames


DECODED = codec.RequestDecoder(MAX_BYTES).feed(CHUNK)
PARSED = [pb.ClientRequest.FromString(message) for message in split(CHUNK)]


def to_upstream_gatesvr() -> object:
    """Turn decoded requests into one batch for the upstream."""
    return codec.encode_batch(
        [r.upstream_request(IDENTITY, 300, 70_000, 30_000, PEER_BYTES) for r in DECODED]
    )


def to_upstream_yardstick() -> object:
    batch = up.UpstreamRequestBatch()
    for request in PARSED:
        business = pb.BusinessRequest.FromString(request.payload)
        batch.requests.add(
            session_id="c0ffee00c0ffee00",
            openid="user-1",
            action=business.action,
            params=business.params,
            data=business.data,
            headers={
                name: value
                for name, value in request.headers.items()
                if not name.lower().startswith(DROPPED)
            },
            client_seq_id=300,
            request_id=70_000,
            timeout_ms=30_000,
            peer=PEER,
        )
    return batch.SerializeToString()


def from_upstream_gatesvr() -> object:
    """Turn a batch of answers into push frames."""
    return [
        codec.push_frame(7, 900, answer.body(answer.client_seq_id))
        for answer in codec.decode_answers(RESPONSES)
    ]


def from_upstream_yardstick() -> object:
    frames = []
    for answer in up.UpstreamResponseBatch.FromString(RESPONSES).responses:
        payload = pb.BusinessResponse(code=answer.code, message=answer.message, data=answer.data)
        message = pb.ServerPush(
            msg_id=7,
            seq_id=900,
            type=PUSH_TYPE,
            payload=payload.SerializeToString(),
            headers=answer.headers,
            client_seq_id=answer.client_seq_id,
        ).SerializeToString()
        frames.append(LENGTH.pack(len(message)) + message)
    return frames


def frames_gatesvr() -> object:
    """Decode a chunk that starts and ends inside a frame; envelopes only."""
    decoder = codec.RequestDecoder(MAX_BYTES)
    decoder.feed(CHUNK[:100])
    return len(decoder.feed(CHUNK[100:]))


def frames_yardstick() -> object:
    buffer = bytearray(CHUNK[:100])
    buffer += CHUNK[100:]
    found = 0
    at = 0
    while len(buffer) - at >= 4:
        (size,) = LENGTH.unpack_from(buffer, at)
        if len(buffer) - at - 4 < size:
            break
        pb.ClientRequest.FromString(bytes(buffer[at + 4 : at + 4 + size]))
        at += 4 + size
        found += 1
    del buffer[:at]
    return found


def client_gatesvr() -> object:
    """Decode a chunk of pushes on the client and read the answers."""
    return [(p.seq_id, p.business()) for p in codec.PushDecoder(MAX_BYTES).feed(PUSH_CHUNK)]


def client_yardstick() -> object:
    found = []
    for message in split(PUSH_CHUNK):
        push = pb.ServerPush.FromString(message)
        response = pb.BusinessResponse.FromString(push.payload)
        found.append((push.seq_id, (response.code, response.message, response.data)))
    return found


JOBS = {
    "decode ClientRequest and action": (decode_yardstick, decode_gatesvr),
    "encode ServerPush": (encode_yardstick, encode_gatesvr),
    "request to upstream": (to_upstream_yardstick, to_upstream_gatesvr),
    "answer from upstream": (from_upstream_yardstick, from_upstream_gatesvr),
    "frames over cut chunks": (frames_yardstick, frames_gatesvr),
    "client reads answers": (client_yardstick, client_gatesvr),
}


@pytest.mark.parametrize("role", ["yardstick", "gatesvr"])
@pytest.mark.parametrize("job", list(JOBS))
def test_codec(benchmark: BenchmarkFixture, job: str, role: str) -> None:
    yardstick, gatesvr = JOBS[job]
    benchmark.group = f"codec: {job}"
    benchmark.extra_info.update(role=role, per=BATCH, min_speedup=TARGET)
    run: Callable[[], Any] = yardstick if role == "yardstick" else gatesvr
    benchmark(run)
    assert length_of(gatesvr()) == length_of(yardstick())


def length_of(result: object) -> object:
    """Return a comparable form of both roles' results: values, or sizes if map order varies."""
    if isinstance(result, list) and result and isinstance(result[0], bytes):
        return [len(item) for item in result]
    return len(result) if isinstance(result, bytes) else result
