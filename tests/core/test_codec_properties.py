"""The codec against upb on generated and on damaged bytes: same verdict, equal values, no crash."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatesvr._core import codec
from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up

from . import codec_checks, wire
from .codec_checks import in_order, summary

CASES_A_SEED = 3_500
VERDICTS = {
    *("request broken", "request other", "request refused", "request good"),
    *("push broken", "push bad", "push good", "answer bad", "answer good"),
    *("batch broken", "batch some bad", "batch good"),
}

texts = st.text(max_size=20)
maps = st.dictionaries(texts, texts, max_size=4)
blobs = st.binary(max_size=300)
u32 = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 127, 128])
u64 = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 127, 128])
i32 = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 3, 4, 200])


@pytest.mark.parametrize("seed", range(8))
def test_same_verdict_and_values(seed: int) -> None:
    random = Random(seed)
    seen = Counter(codec_checks.check_one(random) for _ in range(CASES_A_SEED))
    assert sum(seen.values()) * 8 >= 20_000
    assert set(seen) == VERDICTS
    assert min(seen.values()) >= CASES_A_SEED // 200


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_same_verdict_on_noise(data: bytes) -> None:
    codec_checks.check_request(data)
    codec_checks.check_push(data)
    codec_checks.check_answer(codec.decode_answer(data), data)
    codec_checks.check_batch(data)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 2000), max_size=12))
def test_any_chunking_gives_the_same(seed: int, cuts: list[int]) -> None:
    random = Random(seed)
    messages = [codec_checks.random_request(random) for _ in range(random.randrange(1, 8))]
    stream = b"".join(map(codec_checks.frame, messages))
    whole = codec.RequestDecoder(4096)
    expected = [summary(request) for request in whole.feed(stream)]
    parts = codec.RequestDecoder(4096)
    bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    found = []
    for begin, end in pairwise(bounds):
        found += [summary(request) for request in parts.feed(stream[begin:end])]
    assert found == expected
    assert parts.error == whole.error
    assert parts.buffered_bytes == whole.buffered_bytes == 0


@settings(max_examples=200, deadline=None)
@given(msg_id=u32, seq_id=u64, kind=i32, payload=blobs, headers=maps, number=u64)
def test_envelopes_are_byte_equal(
    msg_id: int, seq_id: int, kind: int, payload: bytes, headers: dict[str, str], number: int
) -> None:
    head = pb.ServerPush(msg_id=msg_id, seq_id=seq_id, type=kind, payload=payload)  # type: ignore[arg-type]
    push = in_order(head, "headers", headers, pb.ServerPush(client_seq_id=number))
    body = codec.push_body(kind, payload, headers, number)
    frame = codec.push_frame(msg_id, seq_id, body)
    assert frame == codec_checks.frame(push)
    request = codec.encode_request(msg_id, seq_id, kind, payload, headers, number)
    head_ = pb.ClientRequest(msg_id=msg_id, seq_id=seq_id, type=kind, payload=payload)  # type: ignore[arg-type]
    expected = in_order(head_, "headers", headers, pb.ClientRequest(ack_seq_id=number))
    assert request == codec_checks.frame(expected)
    codec_checks.check_push(push)
    codec_checks.check_request(expected)


@settings(max_examples=200, deadline=None)
@given(action=texts, params=maps, data=blobs)
def test_business_is_byte_equal(action: str, params: dict[str, str], data: bytes) -> None:
    start = pb.BusinessRequest(action=action)
    expected = in_order(start, "params", params, pb.BusinessRequest(data=data))
    assert codec.encode_business(action, params, data) == expected


@settings(max_examples=200, deadline=None)
@given(code=i32, message=texts, detail=texts, retry=u32, outcome=i32, number=u64)
def test_error_is_byte_equal(
    code: int, message: str, detail: str, retry: int, outcome: int, number: int
) -> None:
    error = pb.ErrorMessage(
        error_code=code,
        error_message=message,
        detail=detail,
        retry_after_ms=retry,
        outcome=outcome,  # type: ignore[arg-type]
    )
    payload = error.SerializeToString()
    push = pb.ServerPush(type=pb.PUSH_ERROR, payload=payload, client_seq_id=number)
    found = codec.error_body(code, message, detail, retry, outcome, number)
    assert found == push.SerializeToString()


@settings(max_examples=200, deadline=None)
@given(msg_type=texts, title=texts, content=texts, data=blobs, metadata=maps, hint=i32)
def test_notify_is_byte_equal(
    msg_type: str, title: str, content: str, data: bytes, metadata: dict[str, str], hint: int
) -> None:
    notify = up.BoundNotify(
        sync_hint=hint,  # type: ignore[arg-type]
        msg_type=msg_type,
        title=title,
        content=content,
        data=data,
    )
    push = codec_checks.notify_push(notify)
    names = {"msg_type": msg_type, "title": title, "content": content}
    names = {name: value for name, value in names.items() if value}
    start = pb.ServerPush(type=push.type, payload=push.payload)
    pairs = b"".join(in_order(pb.ServerPush(), "headers", part) for part in (metadata, names))
    expected = start.SerializeToString() + pairs
    assert codec.notify_body(msg_type, title, content, data, metadata.items()) == expected
    wire_notify = in_order(notify, "metadata", metadata)
    answer = codec.decode_answer(wire.field(11, wire_notify))
    assert answer.notifies() == (([expected], []) if hint == 1 else ([], [expected]))


@settings(max_examples=200, deadline=None)
@given(code=i32, message=texts, data=blobs, headers=maps, number=u64)
def test_answer_body_is_byte_equal(
    code: int, message: str, data: bytes, headers: dict[str, str], number: int
) -> None:
    start = up.UpstreamResponse(code=code, message=message, data=data)
    answer = codec.decode_answer(in_order(start, "headers", headers))
    payload = pb.BusinessResponse(code=code, message=message, data=data).SerializeToString()
    head = pb.ServerPush(type=pb.PUSH_BUSINESS_DATA, payload=payload)
    expected = in_order(head, "headers", headers, pb.ServerPush(client_seq_id=number))
    assert answer.body(number) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(blobs, max_size=6), texts, texts)
def test_batches_and_identity_are_byte_equal(
    messages: list[bytes], session_id: str, openid: str
) -> None:
    batch = codec.encode_batch(messages)
    assert batch == b"".join(wire.field(1, message) for message in messages)
    assert codec.split_batch(batch) == messages
    identity = up.UpstreamRequest(session_id=session_id, openid=openid).SerializeToString()
    assert codec.encode_identity(session_id, openid) == identity
