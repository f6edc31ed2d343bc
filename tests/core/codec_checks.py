"""The codec against upb on one input: same verdict, equal values. For the tests and the fuzzer."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

from gatesvr._core import codec
from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.errors import ProtocolError

from . import wire

if TYPE_CHECKING:
    from random import Random

IDENTITY = codec.encode_identity("session", "openid")
PEER = up.PeerInfo(ip="192.0.2.1", port=4433, zone="001").SerializeToString()


def frame(message: bytes) -> bytes:
    """Return a frame."""
    return len(message).to_bytes(4, "big") + message


def summary(request: codec.ClientRequest) -> tuple[Any, ...]:
    """Return all properties of a request."""
    values = (request.msg_id, request.seq_id, request.type, request.ack_seq_id, request.payload)
    sent = b""
    if request.action is not None:
        sent = request.upstream_request(IDENTITY, 1, 2, 3, PEER)
    return (*values, request.headers, request.action, request.error, request.size, sent)


def in_order(start: Any, name: str, pairs: dict[str, str], end: Any = None) -> bytes:
    """Return start, one map entry a pair and end as protobuf writes each of them."""
    parts = [start] + [type(start)(**{name: {key: value}}) for key, value in pairs.items()]
    return b"".join(part.SerializeToString() for part in [*parts, *([end] if end else [])])


def check_request(data: bytes) -> str:
    """Check a ClientRequest; return the verdict: broken, other, refused or good."""
    expected = wire.accepted(pb.ClientRequest, data, wire.REQUEST) if data else None
    decoder = codec.RequestDecoder(1 << 20)
    found = decoder.feed(frame(data))
    assert [bool(found), bool(decoder.error)] == [expected is not None, expected is None], data
    if expected is None:
        return "broken"
    (request,) = found
    assert request.msg_id == expected.msg_id
    assert request.seq_id == expected.seq_id
    assert request.type == expected.type
    assert request.payload == expected.payload
    assert request.headers == dict(expected.headers)
    assert request.ack_seq_id == expected.ack_seq_id
    assert request.size == len(data) + 4
    if request.type != pb.REQUEST_BUSINESS:
        assert (request.action, request.error) == (None, "")
        return "other"
    business = wire.accepted(pb.BusinessRequest, expected.payload, wire.BUSINESS)
    if business is None or is_beyond_limits(data, expected, business):
        assert request.error, data
        assert request.action is None
        return "refused"
    assert request.error == ""
    assert request.action == business.action
    message = request.upstream_request(IDENTITY, 7, 2**63, 30_000, PEER)
    converted = wire.upstream_request(expected, business)
    converted.session_id, converted.openid = "session", "openid"
    converted.client_seq_id, converted.request_id, converted.timeout_ms = 7, 2**63, 30_000
    converted.peer.ParseFromString(PEER)
    assert up.UpstreamRequest.FromString(message) == converted, data
    return "good"


def is_beyond_limits(data: bytes, request: pb.ClientRequest, business: pb.BusinessRequest) -> bool:
    """Return whether a request breaks a limit of PROTOCOL 1.6."""
    return (
        len(business.action.encode()) > 64
        or any(unicodedata.category(c) == "Cc" for c in business.action)
        or wire.count_entries(request.payload, 2) > 64
        or wire.count_entries(data, 5) > 32
        or sum(len(k.encode()) + len(v.encode()) for k, v in request.headers.items()) > 8192
    )


def check_push(data: bytes) -> str:
    """Check a ServerPush and its payload; return the verdict: broken, bad or good."""
    expected = wire.accepted(pb.ServerPush, data, wire.PUSH) if data else None
    decoder = codec.PushDecoder(1 << 20)
    found = decoder.feed(frame(data))
    assert [bool(found), bool(decoder.error)] == [expected is not None, expected is None], data
    if expected is None:
        return "broken"
    (push,) = found
    assert push.msg_id == expected.msg_id
    assert push.seq_id == expected.seq_id
    assert push.type == expected.type
    assert push.payload == expected.payload
    assert push.headers == dict(expected.headers)
    assert push.client_seq_id == expected.client_seq_id
    assert push.size == len(data) + 4
    business = wire.accepted(pb.BusinessResponse, expected.payload, wire.BUSINESS_RESPONSE)
    try:
        values = push.business()
    except ProtocolError:
        assert business is None, data
        return "bad"
    assert business is not None, data
    assert values == (business.code, business.message, business.data)
    return "good"


def check_answer(answer: codec.UpstreamAnswer, data: bytes) -> str:
    """Check an UpstreamResponse against its bytes; return the verdict: bad or good."""
    expected = wire.accepted(up.UpstreamResponse, data, wire.RESPONSE)
    assert bool(answer.error) == (expected is None), data
    if expected is None:
        assert (answer.code, answer.status, answer.message, answer.data) == (0, 0, "", b"")
        assert (answer.headers, answer.zone, answer.notifies()) == ({}, None, ([], []))
        return "bad"
    assert answer.code == expected.code
    assert answer.status == expected.status
    assert answer.client_seq_id == expected.client_seq_id
    assert answer.request_id == expected.request_id
    assert answer.message == expected.message
    assert answer.data == expected.data
    assert answer.headers == dict(expected.headers)
    assert answer.zone == expected.headers.get("zone")
    response = pb.BusinessResponse(code=expected.code, message=expected.message, data=expected.data)
    push = pb.ServerPush(
        type=pb.PUSH_BUSINESS_DATA,
        payload=response.SerializeToString(),
        headers=dict(expected.headers),
        client_seq_id=9,
    )
    body = answer.body(9)
    assert pb.ServerPush.FromString(body) == push, data
    if wire.count_entries(data, 4) <= 1:
        assert body == push.SerializeToString(), data
    before, after = answer.notifies()
    hints = [notify.sync_hint == up.NSH_BEFORE_RESPONSE for notify in expected.notifies]
    bodies = [before.pop(0) if is_before else after.pop(0) for is_before in hints]
    assert (before, after) == ([], [])
    for found, notify in zip(bodies, expected.notifies, strict=True):
        assert pb.ServerPush.FromString(found) == notify_push(notify), data
    return "good"


def notify_push(notify: up.BoundNotify) -> pb.ServerPush:
    """Return the push of a notify (PROTOCOL 7.6)."""
    response = pb.BusinessResponse(
        code=200,
        message=f"[{notify.msg_type}] {notify.title}",
        data=notify.data or notify.content.encode(),
    )
    push = pb.ServerPush(type=pb.PUSH_BUSINESS_DATA, payload=response.SerializeToString())
    push.headers.update(notify.metadata)
    for name in ("msg_type", "title", "content"):
        if getattr(notify, name):
            push.headers[name] = getattr(notify, name)
    return push


def check_batch(data: bytes) -> str:
    """Check an UpstreamResponseBatch; return the verdict: broken, some bad or good."""
    expected = wire.accepted(up.UpstreamResponseBatch, data, wire.BATCH)
    try:
        answers = codec.decode_answers(data)
    except ValueError:
        assert expected is None, data
        return "broken"
    found = [check_answer(a, m) for a, m in zip(answers, wire.split_batch(data), strict=True)]
    assert ("bad" in found) == (expected is None), data
    return "some bad" if expected is None else "good"


def random_request(random: Random) -> bytes:
    """Return a ClientRequest: sound with any payload, or anything."""
    if random.random() < 0.6:
        payload = wire.random_message(random, wire.BUSINESS)
        if random.random() < 0.4:
            payload = wire.mutate(random, payload)
        request = pb.ClientRequest(msg_id=5, seq_id=1, type=pb.REQUEST_BUSINESS, payload=payload)
        for name in random.sample(wire.TEXTS, random.randrange(4)):
            request.headers[name] = "value"
        return request.SerializeToString()
    data = wire.random_message(random, wire.REQUEST)
    return wire.mutate(random, data) if random.random() < 0.5 else data


def random_push(random: Random) -> bytes:
    """Return a ServerPush: sound with any payload, or anything."""
    if random.random() < 0.5:
        payload = wire.random_message(random, wire.BUSINESS_RESPONSE)
        if random.random() < 0.4:
            payload = wire.mutate(random, payload)
        return pb.ServerPush(
            seq_id=1, type=pb.PUSH_BUSINESS_DATA, payload=payload
        ).SerializeToString()
    data = wire.random_message(random, wire.PUSH)
    return wire.mutate(random, data) if random.random() < 0.5 else data


def random_answer(random: Random) -> bytes:
    """Return an UpstreamResponse, half of the time a damaged one."""
    data = wire.random_message(random, wire.RESPONSE)
    return wire.mutate(random, data) if random.random() < 0.5 else data


def random_batch(random: Random) -> bytes:
    """Return an UpstreamResponseBatch with damaged answers or damaged itself."""
    parts = []
    for _ in range(random.randrange(6)):
        answer = wire.random_message(random, wire.RESPONSE, 0.03)
        parts.append(
            wire.field(1, wire.mutate(random, answer) if random.random() < 0.2 else answer)
        )
    data = b"".join(parts)
    return wire.mutate(random, data) if random.random() < 0.2 else data


def check_one(random: Random) -> str:
    """Make one random input of any kind and check it; return kind and verdict."""
    kind = random.randrange(10)
    if kind < 5:
        return f"request {check_request(random_request(random))}"
    if kind < 7:
        return f"push {check_push(random_push(random))}"
    if kind < 9:
        data = random_answer(random)
        return f"answer {check_answer(codec.decode_answer(data), data)}"
    return f"batch {check_batch(random_batch(random))}"
