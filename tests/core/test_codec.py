"""The codec: frames, limits, transcoding rules and what it refuses."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from gatesvr._core import codec
from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.errors import ProtocolError

from . import wire
from .codec_checks import IDENTITY, PEER, frame

BUSINESS = pb.REQUEST_BUSINESS


def decode(data: bytes, max_bytes: int = 1 << 20) -> codec.ClientRequest:
    """Return the one request that a message decodes to."""
    (request,) = codec.RequestDecoder(max_bytes).feed(frame(data))
    return request


def business(payload: bytes, **fields: Any) -> codec.ClientRequest:
    """Return a BUSINESS request with that payload."""
    message = pb.ClientRequest(msg_id=1, seq_id=1, type=BUSINESS, payload=payload, **fields)
    return decode(message.SerializeToString())


def upstream(request: codec.ClientRequest) -> up.UpstreamRequest:
    """Return the UpstreamRequest that the upstream parses."""
    return up.UpstreamRequest.FromString(request.upstream_request(IDENTITY, 7, 9, 1000, PEER))


class TestFrames:
    def test_chunk_with_many_frames(self) -> None:
        decoder = codec.RequestDecoder(1000)
        stream = b"".join(codec.encode_request(n, n, BUSINESS, b"") for n in range(1, 50))
        assert [request.msg_id for request in decoder.feed(stream)] == list(range(1, 50))
        assert (decoder.error, decoder.buffered_bytes) == ("", 0)

    @pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 30, 31, 33])
    def test_every_chunking(self, step: int) -> None:
        decoder = codec.RequestDecoder(1000)
        stream = b"".join(codec.encode_request(n, n, 4, b"p" * n) for n in range(1, 90))
        found = []
        for at in range(0, len(stream), step):
            found += decoder.feed(stream[at : at + step])
        assert [(r.msg_id, r.payload) for r in found] == [(n, b"p" * n) for n in range(1, 90)]
        assert decoder.buffered_bytes == 0

    @pytest.mark.parametrize(
        ("frames", "is_business", "highest_ack"),
        [
            ([], False, 0),
            ([(1, 4, 0)], True, 0),
            ([(1, 4, 7), (2, 4, 9), (3, 4, 8)], True, 9),
            ([(1, 4, 7), (0, 4, 9)], False, 9),  # a msg_id is missing
            ([(1, 4, 7), (2, 3, 1)], False, 7),  # a heartbeat
        ],
    )
    def test_summary_of_a_feed(
        self, frames: list[tuple[int, int, int]], is_business: bool, highest_ack: int
    ) -> None:
        decoder = codec.RequestDecoder(1000)
        decoder.feed(codec.encode_request(1, 1, BUSINESS, b"", None, 99))  # of an earlier one
        stream = b"".join(
            codec.encode_request(msg_id, 1, kind, b"p", None, ack) for msg_id, kind, ack in frames
        )
        begun = codec.encode_request(9, 9, BUSINESS, b"", None, 1000)[:-1]
        requests = decoder.feed(stream + begun)
        assert decoder.is_business is is_business
        assert decoder.highest_ack == highest_ack
        assert decoder.message_bytes == len(stream) == sum(request.size for request in requests)

    def test_buffered_bytes(self) -> None:
        decoder = codec.RequestDecoder(1000)
        data = codec.encode_request(1, 1, 4, b"p" * 100)
        for at in range(len(data) - 1):
            assert decoder.feed(data[at : at + 1]) == []
            assert decoder.buffered_bytes == at + 1
        assert len(decoder.feed(data[-1:])) == 1
        assert decoder.buffered_bytes == 0
        assert decoder.feed(b"") == []

    def test_zero_length(self) -> None:
        decoder = codec.RequestDecoder(1000)
        good = codec.encode_request(1, 1, 4, b"")
        assert len(decoder.feed(good + b"\0\0\0\0" + good)) == 1
        assert decoder.error == "frame of length 0"
        assert decoder.is_business
        assert decoder.feed(good) == []
        assert (decoder.is_business, decoder.message_bytes) == (False, 0)
        assert decoder.buffered_bytes == 0

    @pytest.mark.parametrize("step", [1, 3, 4, 100])
    def test_length_above_the_limit(self, step: int) -> None:
        decoder = codec.RequestDecoder(100)
        stream = codec.encode_request(1, 1, 4, b"p" * 80) + (101).to_bytes(4, "big") + b"x" * 10
        found = []
        for at in range(0, len(stream), step):
            found += decoder.feed(stream[at : at + step])
        assert len(found) == 1
        assert decoder.error == "frame of length 101 above the limit 100"

    def test_length_is_seen_before_its_content(self) -> None:
        decoder = codec.RequestDecoder(100)
        assert decoder.feed(b"\xff\xff\xff\xff") == []
        assert "4294967295" in decoder.error

    def test_limit_can_be_raised(self) -> None:
        decoder = codec.RequestDecoder(64)
        assert len(decoder.feed(codec.encode_request(1, 1, 4, b""))) == 1
        decoder.max_message_bytes = 1 << 20
        assert len(decoder.feed(codec.encode_request(1, 1, 4, b"p" * 100_000))) == 1
        assert decoder.max_message_bytes == 1 << 20

    def test_undecodable_frame(self) -> None:
        decoder = codec.RequestDecoder(100)
        good = codec.encode_request(1, 1, 4, b"")
        assert len(decoder.feed(good + good + frame(b"\xff") + good)) == 2
        assert decoder.error == "undecodable ClientRequest: corrupt wire format"

    @pytest.mark.parametrize(
        "data", [wire.field(6, b"\xff"), wire.field(5, wire.field(1, b"\xff"))]
    )
    def test_bad_string_in_the_envelope(self, data: bytes) -> None:
        decoder = codec.RequestDecoder(100)
        assert decoder.feed(frame(data)) == []
        assert decoder.error == "undecodable ClientRequest: a string is not UTF-8"

    def test_large_frame_byte_by_byte_is_linear(self) -> None:
        # Quadratic work would be 500 GB of copies here.
        decoder = codec.RequestDecoder(1 << 20)
        data = codec.encode_request(1, 1, 4, bytes(1_000_000))
        found = []
        for at in range(len(data)):
            found += decoder.feed(data[at : at + 1])
        assert [request.size for request in found] == [len(data)]

    def test_waiting_request_frees_its_chunk(self) -> None:
        # 60 KB of acks around one request must not live as long as it does.
        acks = codec.encode_request(1, 0, pb.REQUEST_ACK, b"") * 5_000
        small = codec.encode_request(1, 1, BUSINESS, codec.encode_business("a", None, b"d"))
        chunk = acks + small + acks
        references = sys.getrefcount(chunk)
        (request,) = [r for r in codec.RequestDecoder(999).feed(chunk) if r.type == BUSINESS]
        assert sys.getrefcount(chunk) == references
        assert (request.action, request.size) == ("a", len(small))
        assert upstream(request).data == b"d"

    def test_requests_share_a_chunk_of_requests(self) -> None:
        chunk = codec.encode_request(1, 1, BUSINESS, b"") * 16
        references = sys.getrefcount(chunk)
        found = codec.RequestDecoder(999).feed(chunk)
        assert sys.getrefcount(chunk) == references + len(found)

    def test_only_bytes(self) -> None:
        decoder: Any = codec.RequestDecoder(100)
        for wrong in (bytearray(b"\0"), memoryview(b"\0"), None, "x"):
            with pytest.raises(TypeError):
                decoder.feed(wrong)

    def test_empty_objects_are_harmless(self) -> None:
        request, push, answer = codec.ClientRequest(), codec.ServerPush(), codec.UpstreamAnswer()
        assert (request.payload, request.headers, request.action) == (b"", {}, None)
        assert (push.payload, push.headers, push.business()) == (b"", {}, (0, "", b""))
        assert (answer.zone, answer.notifies(), answer.error) == (None, ([], []), "")
        assert answer.body(0) == b"\x18\x03"

    def test_pushes(self) -> None:
        decoder = codec.PushDecoder(1000)
        response = pb.BusinessResponse(code=-1, message="héllo", data=b"d")
        body = codec.push_body(3, response.SerializeToString(), {"zone": "001"}, 5)
        (push,) = decoder.feed(codec.push_frame(1, 2, body))
        assert (push.msg_id, push.seq_id, push.type, push.client_seq_id) == (1, 2, 3, 5)
        assert (push.headers, push.business()) == ({"zone": "001"}, (-1, "héllo", b"d"))
        assert push.size == len(codec.push_frame(1, 2, body))
        assert decoder.feed(frame(wire.field(5, b"\x0c"))) == []
        assert decoder.error == "undecodable ServerPush: corrupt wire format"

    @pytest.mark.parametrize("payload", [b"\xff", wire.field(2, b"\xff")])
    def test_push_that_is_no_business(self, payload: bytes) -> None:
        (push,) = codec.PushDecoder(99).feed(codec.push_frame(0, 1, codec.push_body(3, payload)))
        with pytest.raises(ProtocolError, match="undecodable BusinessResponse"):
            push.business()


class TestLimits:
    def test_action(self) -> None:
        assert business(codec.encode_business("é" * 32, None, b"")).error == ""
        assert business(codec.encode_business("é" * 32 + "a", None, b"")).error
        for control in "\0\x1f\x7f\x80\x9f":
            assert business(codec.encode_business(f"a{control}", None, b"")).error
        assert business(codec.encode_business("\xa0 ~日", None, b"")).action == "\xa0 ~日"

    def test_params(self) -> None:
        full = {str(n): "" for n in range(64)}
        assert business(codec.encode_business("a", full, b"")).error == ""
        refused = business(codec.encode_business("a", {**full, "x": ""}, b""))
        assert refused.error == "params above 64 entries"
        assert refused.action is None
        with pytest.raises(ValueError, match="params above"):
            upstream(refused)

    def test_headers(self) -> None:
        payload = codec.encode_business("a", None, b"")
        full = {f"{n:02}": "v" * 254 for n in range(32)}
        assert business(payload, headers=full).error == ""
        assert business(payload, headers={**full, "x": ""}).error == "headers above 32 entries"
        assert (
            business(payload, headers={**full, "00": "v" * 255}).error == "headers above 8192 bytes"
        )

    def test_repeated_keys_count(self) -> None:
        payload = wire.field(1, b"a") + wire.field(2, wire.field(1, b"k")) * 65
        assert business(payload).error == "params above 64 entries"

    def test_headers_of_other_types_are_not_read(self) -> None:
        headers = {str(n): "" for n in range(40)}
        request = decode(pb.ClientRequest(type=pb.REQUEST_ACK, headers=headers).SerializeToString())
        assert (request.error, request.action) == ("", None)
        with pytest.raises(ValueError, match="not a BUSINESS request"):
            upstream(request)

    @pytest.mark.parametrize(("depth", "is_good"), [(1, True), (4, True), (5, False), (101, False)])
    def test_groups(self, depth: int, *, is_good: bool) -> None:
        data = b""
        for _ in range(depth):
            data = wire.group(20, data)
        assert bool(codec.RequestDecoder(999).feed(frame(data))) == is_good
        assert (business(data).error == "") == is_good
        assert (codec.decode_answer(data).error == "") == is_good


class TestTranscoding:
    def test_unknown_fields_reach_no_upstream_field(self) -> None:
        known = codec.encode_business("echo", {"k": "v"}, b"data")
        forged = b"".join(
            wire.field(n, content)
            for n in range(4, 13)
            for content in (b"", b"forged", 99, up.PeerInfo(ip="6.6.6.6").SerializeToString())
        )
        # 1 to 3 as wire types that BusinessRequest does not have there.
        forged += b"".join(
            wire.field(n, 99) + wire.varint(n << 3 | 1) + b"8 bytes!" for n in (1, 2, 3)
        )
        forged += b"".join(wire.group(n, wire.field(10, 99)) for n in range(1, 13))
        for payload in (forged + known, known + forged):
            found = upstream(business(payload))
            assert found == upstream(business(known))
            assert found.request_id == 9
            assert found.peer.ip == "192.0.2.1"
            assert (found.session_id, found.openid) == ("session", "openid")

    def test_bytes_hold_no_unknown_field(self) -> None:
        payload = codec.encode_business("echo", None, b"") + wire.field(999, b"marker")
        request = business(payload)
        assert b"marker" not in request.upstream_request(IDENTITY, 1, 1, 1, PEER)

    def test_doubled_action_is_one_action(self) -> None:
        payload = wire.field(1, b"hello") + wire.field(3, b"x") + wire.field(1, b"delete")
        request = business(payload)
        assert request.action == "delete"
        message = request.upstream_request(IDENTITY, 1, 1, 1, PEER)
        assert up.UpstreamRequest.FromString(message).action == "delete"
        assert b"hello" not in message

    def test_emptied_action_is_empty_for_both(self) -> None:
        request = business(wire.field(1, b"hello") + wire.field(1, b""))
        assert request.action == ""
        assert upstream(request).action == ""

    def test_doubled_type_and_seq(self) -> None:
        data = wire.field(3, 4) + wire.field(2, 5) + wire.field(3, 3) + wire.field(2, 6)
        assert (decode(data).type, decode(data).seq_id) == (3, 6)

    def test_one_bad_string_in_64(self) -> None:
        decoder = codec.RequestDecoder(1000)
        bad = wire.field(1, b"echo") + wire.field(2, wire.field(2, b"\xc3"))
        good = codec.encode_business("echo", {"k": "v"}, b"d")
        payloads = [bad if n == 20 else good for n in range(64)]
        found = decoder.feed(
            b"".join(codec.encode_request(n, n, BUSINESS, p) for n, p in enumerate(payloads, 1))
        )
        assert [n for n, request in enumerate(found) if request.error] == [20]
        assert found[20].error == "undecodable BusinessRequest: a string is not UTF-8"
        passed = [r.upstream_request(IDENTITY, 1, 1, 1, PEER) for r in found if not r.error]
        batch = up.UpstreamRequestBatch.FromString(codec.encode_batch(passed))
        assert [request.action for request in batch.requests] == ["echo"] * 63

    def test_headers_that_are_not_passed(self) -> None:
        dropped = "Authorization COOKIE forwarded X-Forwarded-For x-forwarded- X-Real-IP Zone"
        dropped += " grpc-timeout GRPC- gs-x Gs- TraceParent tracestate Baggage"
        passed = "x-forwarded authorization2 cookie- real-ip zones grpc gs x-trace trace zon ZONEé"
        payload = codec.encode_business("echo", None, b"")
        for name in dropped.split():
            assert not upstream(business(payload, headers={name: "v", "k": "v"})).headers[name], (
                name
            )
        request = business(payload, headers=dict.fromkeys((dropped + " " + passed).split(), "v"))
        assert dict(upstream(request).headers) == dict.fromkeys(passed.split(), "v")

    def test_header_is_dropped_by_the_key_that_counts(self) -> None:
        entry = wire.field(1, b"harmless") + wire.field(1, b"zone") + wire.field(2, b"9")
        message = wire.field(3, BUSINESS) + wire.field(5, entry)
        assert dict(upstream(decode(message)).headers) == {}
        entry = wire.field(1, b"zone") + wire.field(1, b"harmless") + wire.field(2, b"9")
        message = wire.field(3, BUSINESS) + wire.field(5, entry)
        assert dict(upstream(decode(message)).headers) == {"harmless": "9"}

    def test_what_the_gateway_leaves_out(self) -> None:
        request = business(codec.encode_business("", None, b""))
        assert request.upstream_request(b"", 0, 0, 0, b"") == b""

    def test_answer(self) -> None:
        response = up.UpstreamResponse(
            code=404,
            message="nö",
            data=b"d" * 300,
            headers={"zone": "003", "k": ""},
            client_seq_id=5,
            request_id=6,
            status=up.UPSTREAM_REFUSED,
        )
        answer = codec.decode_answer(response.SerializeToString())
        assert (answer.code, answer.client_seq_id, answer.request_id, answer.status) == (
            404,
            5,
            6,
            1,
        )
        assert (answer.zone, answer.error, answer.notifies()) == ("003", "", ([], []))
        push = pb.ServerPush.FromString(answer.body(5))
        assert dict(push.headers) == {"zone": "003", "k": ""}
        expected = pb.BusinessResponse(code=404, message="nö", data=b"d" * 300)
        assert pb.BusinessResponse.FromString(push.payload) == expected

    def test_notifies_around_an_answer(self) -> None:
        hints = [0, 1, 2, 1, 7]
        notifies = [up.BoundNotify(sync_hint=h, title=str(n)) for n, h in enumerate(hints)]  # type: ignore[arg-type]
        response = up.UpstreamResponse(notifies=notifies)
        before, after = codec.decode_answer(response.SerializeToString()).notifies()
        titles = [
            [pb.ServerPush.FromString(b).headers["title"] for b in x] for x in (before, after)
        ]
        assert titles == [["1", "3"], ["0", "2", "4"]]

    def test_notify_keys_win_over_metadata(self) -> None:
        body = codec.notify_body("t", "", "c", b"", [("content", "x"), ("title", "kept")])
        headers = pb.ServerPush.FromString(body).headers
        assert dict(headers) == {"msg_type": "t", "title": "kept", "content": "c"}

    @pytest.mark.parametrize(
        "bad",
        [
            wire.field(2, b"\xff"),
            wire.field(4, wire.field(2, b"\xff")),
            wire.field(11, wire.field(3, b"\xff")),
            wire.field(11, b"\x0c"),
            wire.field(4, b"\x0a\x09"),
        ],
    )
    def test_bad_answer_costs_no_other(self, bad: bytes) -> None:
        good = up.UpstreamResponse(code=200, request_id=1).SerializeToString()
        broken = bad + wire.field(1, 200) + wire.field(10, 77) + wire.field(5, 3)
        answers = codec.decode_answers(codec.encode_batch([good, broken, good]))
        assert [bool(answer.error) for answer in answers] == [False, True, False]
        assert (answers[1].request_id, answers[1].client_seq_id) == (77, 3)
        assert answers[1].notifies() == ([], [])
        with pytest.raises(ValueError, match="undecodable UpstreamResponse"):
            answers[1].body(3)

    def test_cut_off_answer_keeps_the_id_before_the_cut(self) -> None:
        answer = codec.decode_answer(wire.field(10, 77) + b"\x12\x05ab")
        assert answer.error == "undecodable UpstreamResponse: corrupt wire format"
        assert answer.request_id == 77

    @pytest.mark.parametrize("batch", [b"\x0a", b"\x0a\x05abc", b"\x0c", b"\x00\x01"])
    def test_corrupt_batch(self, batch: bytes) -> None:
        with pytest.raises(ValueError, match="undecodable batch"):
            codec.decode_answers(batch)
        with pytest.raises(ValueError, match="undecodable batch"):
            codec.split_batch(batch)

    def test_batch_skips_unknown_fields(self) -> None:
        answer = up.UpstreamResponse(request_id=7).SerializeToString()
        batch = wire.field(2, b"x") + wire.field(1, answer) + wire.group(3)
        assert [found.request_id for found in codec.decode_answers(batch)] == [7]


def test_message_codec_holds_every_public_function() -> None:
    entries = {name: entry for name, entry in vars(codec).items() if callable(entry)}
    methods = {name for name in vars(codec.MessageCodec) if not name.startswith("_")}
    made_by_decoders = {"ClientRequest", "ServerPush", "UpstreamAnswer", "FrameDecoder"}
    known = {"MessageCodec", "ProtocolError", *made_by_decoders}
    assert methods == {name for name in entries if not name.startswith("_")} - known
    for name in methods:
        assert getattr(codec.MessageCodec, name) is entries[name]


class Swapping:
    """A pair that changes each time it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Any:
        self.reads += 1
        return iter(("k", "v" * 100_000 if self.reads > 1 else "v"))


class TestEncoders:
    @pytest.mark.parametrize("wrong", ["\ud800", "a\udfff"])
    def test_surrogates(self, wrong: str) -> None:
        calls: list[Any] = [
            lambda: codec.encode_business(wrong, None, b""),
            lambda: codec.encode_business("a", {wrong: ""}, b""),
            lambda: codec.encode_request(1, 1, 4, b"", {"a": wrong}),
            lambda: codec.push_body(3, b"", {wrong: ""}),
            lambda: codec.error_body(400, wrong),
            lambda: codec.error_body(400, "", wrong),
            lambda: codec.notify_body(wrong, "", "", b"", []),
            lambda: codec.notify_body("", "", "", b"", [("a", wrong)]),
            lambda: codec.encode_identity(wrong, ""),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="surrogates not allowed"):
                call()

    def test_wrong_types(self) -> None:
        untyped: Any = codec
        calls: list[Any] = [
            lambda: untyped.push_body(3, "text"),
            lambda: untyped.push_body(3, b"", {"a": 1}),
            lambda: untyped.push_body(3, b"", {1: "a"}),
            lambda: untyped.encode_business(None, None, b""),
            lambda: untyped.encode_batch([b"", None]),
            lambda: untyped.encode_batch([bytearray()]),
            lambda: untyped.notify_body("", "", "", b"", [(1, "a")]),
        ]
        for call in calls:
            with pytest.raises(TypeError):
                call()

    def test_numbers_out_of_range(self) -> None:
        calls: list[Any] = [
            lambda: codec.push_frame(2**32, 1, b""),
            lambda: codec.push_frame(1, 2**64, b""),
            lambda: codec.push_frame(-1, 1, b""),
            lambda: codec.push_body(2**31, b""),
            lambda: codec.error_body(400, "", retry_after_ms=-1),
        ]
        for call in calls:
            with pytest.raises(OverflowError):
                call()

    def test_pairs_are_read_once(self) -> None:
        # The measured text must be the written one, whatever the caller's iterable does.
        pairs: Any = [Swapping()]
        headers = pb.ServerPush.FromString(codec.notify_body("", "", "c", b"", pairs)).headers
        assert dict(headers) == {"k": "v", "content": "c"}

    def test_other_mappings(self) -> None:
        headers = pb.ClientRequest(headers={"k": "v"}).headers
        body = codec.push_body(3, b"", headers)
        assert dict(pb.ServerPush.FromString(body).headers) == {"k": "v"}
