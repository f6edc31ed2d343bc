"""Http2Connection: what gRPC asks of HTTP/2, what else a server may do, and what it may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

from gatesvr._core import http2
from gatesvr._core.http2 import Http2Connection, Stream

from .http2_rig import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_SIZE,
    GOAWAY,
    HEAD,
    HEADERS,
    MAX_STREAMS,
    OK,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    TABLE_SIZE,
    WINDOW_SIZE,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Frame,
    Rig,
    frame,
    goaway,
    kinds,
    message,
    number,
    settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ENDED, MESSAGE = http2.ENDED, http2.MESSAGE


def status_of(stream: Stream) -> tuple[int, str, bool]:
    return stream.status, stream.details, stream.is_remote


# Requests.


def test_connection_starts_with_preface_settings_and_a_large_window() -> None:
    rig = Rig(is_ready=False)
    first, update = rig.preface
    assert (first.kind, first.flags, first.stream) == (SETTINGS, 0, 0)
    values = {
        first.payload[i + 1]: int.from_bytes(first.payload[i + 2 : i + 6], "big")
        for i in range(0, len(first.payload), 6)
    }
    assert values == {1: 4096, 2: 0, 4: 65_535, 6: 65_536}
    assert update == Frame(WINDOW_UPDATE, 0, 0, ((8 << 20) - 65_535).to_bytes(4, "big"))
    connection = rig.connection
    assert (connection.is_ready, connection.max_streams, connection.room) == (False, 100, 100)


def test_request_has_the_fields_of_grpc() -> None:
    rig = Rig()
    stream = rig.connection.call("/pkg.Svc/Do", b"data", "me", 29_990, [("trace-id", "a b")])
    assert (stream.id, stream.owner, stream.is_unary) == (1, "me", True)
    fields, data = rig.request()
    assert fields == [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "up:1"),
        (":path", "/pkg.Svc/Do"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "gatesvr"),
        ("grpc-accept-encoding", "identity"),
        ("grpc-timeout", "29990m"),
        ("trace-id", "a b"),
    ]
    assert data == b"\0\0\0\0\4data"


@pytest.mark.parametrize(
    ("timeout_ms", "text"),
    [
        (1, "1m"),
        (99_999_999, "99999999m"),
        (100_000_000, "100000S"),
        (10**14, "99999999S"),
        (0, None),
        (-5, None),
    ],
)
def test_timeout_has_at_most_eight_digits(timeout_ms: int, text: str | None) -> None:
    rig = Rig()
    for _ in range(3):  # written, taken into the table, taken from it
        rig.connection.call("/s/Call", b"", None, timeout_ms)
        fields, _ = rig.request()
        assert dict(fields).get("grpc-timeout") == text


def test_heads_after_the_first_are_a_few_bytes() -> None:
    rig = Rig()
    sizes = []
    for timeout_ms in (100, 200, 300, 400):
        rig.connection.call("/pkg.Service/Method", b"", None, timeout_ms)
        block, _ = rig.sent()
        assert rig.decoder.decode(block.payload)[-1] == ("grpc-timeout", f"{timeout_ms}m")
        sizes.append(len(block.payload))
    assert sizes[0] > 80
    assert sizes[1] == sizes[2] == sizes[3] <= 16


def test_many_paths_and_table_sizes_stay_decodable() -> None:
    rig = Rig()
    for i in range(3_000):
        if i % 500 == 250:
            size = (0, 100, 4096, 1 << 20, 512, 4096)[i // 500]
            rig.decoder.max_allowed_table_size = min(size, 4096)
            rig.feed(settings({TABLE_SIZE: 0, 0x99: 5}), settings({TABLE_SIZE: size}))
            assert rig.sent(SETTINGS) == 2 * [Frame(SETTINGS, ACK, 0, b"")]
        path = f"/service.number.{i % 7 if i % 3 else i}/Call"
        stream = rig.connection.call(path, b"", None, 1 + i, [("n", str(i))])
        fields, _ = rig.request()
        assert fields[3] == (":path", path)
        assert fields[-2:] == [("grpc-timeout", f"{1 + i}m"), ("n", str(i))]
        rig.connection.cancel(stream)
        rig.sent()


def test_long_metadata_takes_continuations() -> None:
    rig = Rig()
    pairs = [(f"name-{i}", "v" * 1000) for i in range(50)]
    rig.connection.call("/s/Call", b"x", None, 5, pairs)
    frames = rig.sent()
    assert [one.kind for one in frames] == [HEADERS, CONTINUATION, CONTINUATION, CONTINUATION, DATA]
    assert [one.flags for one in frames] == [0, 0, 0, END_HEADERS, END_STREAM]
    assert max(len(one.payload) for one in frames) == 16_384
    block = b"".join(one.payload for one in frames[:-1])
    rig.decoder.max_header_list_size = 1 << 20
    assert rig.decoder.decode(block)[-50:] == pairs


@pytest.mark.parametrize(
    "metadata",
    [
        [("Upper", "a")],
        [(":path", "/")],
        [("", "a")],
        [("a b", "a")],
        [("a", "line\nbreak")],
        [("a", "\x7f")],
        [("ä", "a")],
        [("a", "ä")],
    ],
)
def test_metadata_that_no_header_may_hold_is_refused(metadata: list[tuple[str, str]]) -> None:
    rig = Rig()
    with pytest.raises(ValueError, match="not "):
        rig.connection.call("/s/Call", b"", None, 0, metadata)
    assert rig.connection.take() == b""
    assert rig.connection.open_streams == 0
    assert rig.is_alive()


@pytest.mark.parametrize(
    "arguments", [("ä", "http", 1), ("a", "h\0", 1), ("a", "http", 0), ("a", "http", 1 << 31)]
)
def test_connection_refuses_what_it_cannot_send_or_hold(arguments: tuple[str, str, int]) -> None:
    with pytest.raises(ValueError, match="not "):
        Http2Connection(arguments[0], arguments[1], max_message_bytes=arguments[2])


def test_path_that_no_header_may_hold_is_refused() -> None:
    rig = Rig()
    with pytest.raises(ValueError, match="not printable"):
        rig.connection.open("/s/\r\nx", None)
    assert rig.is_alive()


# Answers.


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_536, 4 << 20])
def test_unary_call_of_any_size(size: int) -> None:
    rig = Rig({WINDOW_SIZE: 1 << 23, FRAME_SIZE: 1 << 20})
    rig.feed(number(WINDOW_UPDATE, 0, 1 << 23))
    data = bytes(size)
    stream = rig.connection.call("/s/Echo", data, None)
    frames = rig.sent()
    assert b"".join(one.payload for one in frames[1:]) == message(data)
    assert [one.flags for one in frames[1:]] == [0] * (len(frames) - 2) + [END_STREAM]
    assert rig.feed(rig.answer(stream, data)) == [(ENDED, stream, b"")]
    assert status_of(stream) == (0, "", True)
    assert stream.message == data
    assert stream.is_ended
    assert rig.connection.open_streams == 0


def test_stream_of_messages_both_ways() -> None:
    rig = Rig()
    stream = rig.connection.open("/s/Stream", None)
    rig.connection.send(stream, b"one")
    rig.connection.send(stream, b"")
    rig.connection.finish(stream)
    rig.connection.finish(stream)
    frames = rig.sent()
    assert [one.payload for one in frames[1:]] == [message(b"one"), message(b""), b""]
    assert [one.flags for one in frames] == [END_HEADERS, 0, 0, END_STREAM]
    with pytest.raises(ValueError, match="finished"):
        rig.connection.send(stream, b"late")
    events = rig.feed(
        rig.head(stream),
        rig.data(stream, message(b"a") + message(b"") + message(b"b")[:2]),
        rig.data(stream, message(b"b")[2:]),
        rig.trailers(stream),
    )
    assert events == [
        (http2.HEADERS, stream, b""),
        (MESSAGE, stream, b"a"),
        (MESSAGE, stream, b""),
        (MESSAGE, stream, b"b"),
        (ENDED, stream, b""),
    ]
    assert (stream.status, stream.message) == (0, None)
    rig.connection.send(stream, b"after the end")
    rig.connection.finish(stream)
    rig.connection.cancel(stream)
    assert rig.connection.take() == b""


def odd_answer(rig: Rig, stream: Stream) -> bytes:
    """Return a stream's answer in every legal disguise at once."""
    early = rig.headers(stream, [(":status", "103"), ("link", "</style>")])
    head = rig.encoder.encode([*HEAD, ("x-more", "v" * 100)])
    trailers = rig.encoder.encode([("x-last", "1"), *OK, ("grpc-message", "fine")])
    body = message(b"padded") + message(b"z" * 300)
    padded = [
        frame(DATA, PADDED, stream.id, bytes([i % 5]) + body[i : i + 1] + bytes(i % 5))
        for i in range(len(body))
    ]
    return b"".join(
        [
            early,
            frame(0x77, 0xFF, stream.id, b"unknown"),
            frame(
                HEADERS, PADDED | WITH_PRIORITY, stream.id, b"\3" + bytes(5) + head[:9] + bytes(3)
            ),
            *[frame(CONTINUATION, 0, stream.id, head[i : i + 1]) for i in range(9, len(head))],
            frame(CONTINUATION, END_HEADERS, stream.id),
            frame(PRIORITY, 0, stream.id, bytes(5)),
            frame(PING, 0, 0, b"12345678"),
            *padded,
            settings({TABLE_SIZE: 100, MAX_STREAMS: 5, 0xFFFF: 1}),
            frame(HEADERS, END_STREAM, stream.id, trailers[:1]),
            frame(CONTINUATION, END_HEADERS, stream.id, trailers[1:]),
        ]
    )


@pytest.mark.parametrize("step", [1, 2, 3, 8, 9, 10, 11, 100, 1 << 20])
def test_odd_answer_in_any_chunks(step: int) -> None:
    rig = Rig()
    stream = rig.open()
    answer = odd_answer(rig, stream)
    events = []
    for at in range(0, len(answer), step):
        events += rig.connection.receive(answer[at : at + step], 0.0)
    assert kinds(events) == [http2.HEADERS, MESSAGE, MESSAGE, ENDED]
    assert (events[1][2], events[2][2]) == (b"padded", b"z" * 300)
    assert status_of(stream) == (0, "fine", True)
    frames = rig.sent()
    assert Frame(PING, ACK, 0, b"12345678") in frames
    assert Frame(SETTINGS, ACK, 0, b"") in frames
    assert rig.connection.pings_answered == 1
    assert rig.connection.max_streams == 5
    assert rig.is_alive()


@pytest.mark.parametrize(
    ("text", "details"),
    [
        ("plain", "plain"),
        ("%e4%BD%a0 %", "你 %"),
        ("100%25%4", "100%%4"),
        ("%ff", "\N{REPLACEMENT CHARACTER}"),
        ("%GG", "%GG"),
        ("", ""),
    ],
)
def test_status_and_percent_decoded_message(text: str, details: str) -> None:
    rig = Rig()
    stream = rig.call()
    rig.feed(rig.trailers(stream, [*HEAD, ("grpc-message", text), ("grpc-status", "5")]))
    assert status_of(stream) == (5, details, True)
    assert stream.message is None


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("16", (16, "m", True)),
        ("17", (2, "m", True)),
        ("999", (2, "m", True)),
        ("1000", (2, "grpc-status is not a number", False)),
        ("-1", (2, "grpc-status is not a number", False)),
        ("", (2, "grpc-status is not a number", False)),
    ],
)
def test_odd_statuses(status: str, expected: tuple[int, str, bool]) -> None:
    rig = Rig()
    stream = rig.call()
    rig.feed(rig.head(stream))
    rig.feed(rig.trailers(stream, [("grpc-message", "m"), ("grpc-status", status)]))
    assert status_of(stream) == expected


@pytest.mark.parametrize(
    ("http_status", "status"),
    [
        *((400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (504, 14)),
        *((204, 2), (302, 2), (418, 2), (500, 2)),
    ],
)
@pytest.mark.parametrize("is_end", [False, True])
def test_http_status_becomes_a_grpc_status(http_status: int, status: int, is_end: bool) -> None:
    rig = Rig()
    stream = rig.call()
    fields = [(":status", str(http_status)), ("content-type", "text/html")]
    events = rig.feed(rig.headers(stream, fields, END_STREAM if is_end else 0))
    assert events == [(ENDED, stream, b"")]
    assert status_of(stream) == (status, f"HTTP status {http_status}", False)
    resets = [one.number for one in rig.sent(RST_STREAM)]
    assert resets == ([] if is_end else [http2.CANCEL])
    rig.feed(rig.data(stream, b"<html>"), rig.trailers(stream, []))
    assert rig.is_alive()


def test_http_error_with_a_grpc_status_is_that_status() -> None:
    rig = Rig()
    stream = rig.call()
    rig.feed(rig.trailers(stream, [(":status", "503"), ("grpc-status", "8")]))
    assert status_of(stream) == (8, "", True)


NOT_GRPC = "HTTP status 200, content-type is not gRPC's"


@pytest.mark.parametrize(
    ("content_type", "is_good"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc;charset=x", True),
        ("application/grpc-web", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_content_type_is_grpc(content_type: str, is_good: bool) -> None:
    rig = Rig()
    stream = rig.call()
    rig.feed(rig.headers(stream, [(":status", "200"), ("content-type", content_type)]))
    rig.feed(rig.data(stream, message(b"x")), rig.trailers(stream))
    assert status_of(stream) == ((0, "", True) if is_good else (2, NOT_GRPC, False))
    assert rig.is_alive()


ONE = message(b"one")
HALF = "the answer ends inside a message"
BAD_HEAD = "malformed response head"

WRONG_ANSWERS: dict[str, tuple[Callable[[Rig, Stream], list[bytes]], int, str]] = {
    "END_STREAM without trailers": (
        lambda rig, call: [rig.head(call), rig.data(call, ONE, END_STREAM)],
        13,
        "END_STREAM without trailers",
    ),
    "empty DATA without trailers": (
        lambda rig, call: [rig.head(call), rig.data(call, ONE), rig.data(call, b"", END_STREAM)],
        13,
        "END_STREAM without trailers",
    ),
    "trailers without a status": (
        lambda rig, call: [rig.head(call), rig.data(call, ONE), rig.trailers(call, [("x", "y")])],
        2,
        "trailers without grpc-status",
    ),
    "head that ends": (
        lambda rig, call: [rig.trailers(call, HEAD)],
        2,
        "HTTP status 200 without grpc-status",
    ),
    "head of no type that ends": (
        lambda rig, call: [rig.trailers(call, [(":status", "200")])],
        2,
        NOT_GRPC,
    ),
    "no message": (
        lambda rig, call: [rig.head(call), rig.trailers(call)],
        13,
        "a unary answer without a message",
    ),
    "part of a message": (
        lambda rig, call: [rig.head(call), rig.data(call, ONE[:-1]), rig.trailers(call)],
        13,
        HALF,
    ),
    "a message and part of a prefix": (
        lambda rig, call: [rig.head(call), rig.data(call, ONE + ONE[:2]), rig.trailers(call)],
        13,
        HALF,
    ),
    "two messages": (
        lambda rig, call: [rig.head(call), rig.data(call, ONE + ONE), rig.trailers(call)],
        13,
        "more than one message in a unary answer",
    ),
    "compressed message": (
        lambda rig, call: [rig.head(call), rig.data(call, b"\1" + ONE[1:]), rig.trailers(call)],
        13,
        "compressed message where none is accepted",
    ),
    "message a byte too large": (
        lambda rig, call: [rig.head(call), rig.data(call, b"\0\0\x40\0\1"), rig.trailers(call)],
        8,
        "received message larger than max (4194305 vs. 4194304)",
    ),
    "message of 4 GiB": (
        lambda rig, call: [rig.head(call), rig.data(call, b"\0\xff\xff\xff\xff")],
        8,
        "received message larger than max (4294967295 vs. 4194304)",
    ),
    "DATA first": (
        lambda rig, call: [rig.data(call, ONE), rig.head(call), rig.trailers(call)],
        13,
        "DATA before the response head",
    ),
    "DATA above the window": (
        lambda rig, call: [
            rig.head(call),
            rig.data(call, message(bytes(1 << 20))[:16_384]),
            *(rig.data(call, bytes(16_384)) for _ in range(80)),
        ],
        13,
        "DATA above the stream's window",
    ),
    "no HTTP status": (lambda rig, call: [rig.headers(call, [("a", "b")])], 13, BAD_HEAD),
    "two HTTP statuses": (
        lambda rig, call: [rig.headers(call, [(":status", "200"), *HEAD])],
        13,
        BAD_HEAD,
    ),
    "HTTP status behind others": (
        lambda rig, call: [rig.headers(call, [("a", "b"), *HEAD])],
        13,
        BAD_HEAD,
    ),
    "HTTP status of letters": (
        lambda rig, call: [rig.headers(call, [(":status", "2x0")])],
        13,
        BAD_HEAD,
    ),
    "field of a request": (
        lambda rig, call: [rig.headers(call, [(":status", "200"), (":path", "/")])],
        13,
        BAD_HEAD,
    ),
    "upper case": (lambda rig, call: [rig.headers(call, [*HEAD, ("Up", "")])], 13, BAD_HEAD),
    "empty name": (lambda rig, call: [rig.headers(call, [*HEAD, ("", "x")])], 13, BAD_HEAD),
    "another protocol": (lambda rig, call: [rig.headers(call, [(":status", "101")])], 13, BAD_HEAD),
    "informational end": (
        lambda rig, call: [rig.trailers(call, [(":status", "100")])],
        13,
        "END_STREAM on an informational response",
    ),
    "trailers that do not end": (
        lambda rig, call: [rig.head(call), rig.headers(call, OK)],
        13,
        "malformed trailers",
    ),
    "HTTP status in trailers": (
        lambda rig, call: [rig.head(call), rig.trailers(call, [(":status", "200"), *OK])],
        13,
        "malformed trailers",
    ),
    "credit of 0": (
        lambda rig, call: [number(WINDOW_UPDATE, call.id, 0)],
        13,
        "WINDOW_UPDATE of 0",
    ),
    "endless credit": (
        lambda rig, call: 2 * [number(WINDOW_UPDATE, call.id, 0x7FFFFFFF)],
        13,
        "WINDOW_UPDATE above the highest window",
    ),
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_wrong_answer_ends_its_call_alone(name: str) -> None:
    rig = Rig()
    stream = rig.call()
    script, status, details = WRONG_ANSWERS[name]
    assert rig.feed(*script(rig, stream)) == [(ENDED, stream, b"")]
    assert status_of(stream) == (status, details, False)
    assert stream.message is None
    assert rig.connection.buffered_bytes == 0
    assert rig.is_alive()


def test_table_sizes_of_one_frame_count_together() -> None:
    """The lowest must be told to the peer, whatever the last is (RFC 7541 4.2)."""
    rig = Rig()
    rig.call()
    rig.feed(frame(SETTINGS, 0, 0, settings({TABLE_SIZE: 0})[9:] + settings({TABLE_SIZE: 99})[9:]))
    rig.sent()
    rig.connection.call("/s/Call", b"", None)
    assert rig.sent(HEADERS)[0].payload.startswith(b"\x20\x3f\x44")  # 0, then 31 + 68


def test_call_of_a_stream_may_end_without_messages() -> None:
    rig = Rig()
    stream = rig.open()
    assert kinds(rig.feed(rig.head(stream), rig.trailers(stream))) == [http2.HEADERS, ENDED]
    assert stream.status == 0


# Ends before their time.


def steps(rig: Rig, stream: Stream) -> list[bytes]:
    """Return an answer in parts."""
    body = message(b"x" * 1000)
    return [
        rig.head(stream),
        rig.data(stream, body[:3]),
        rig.data(stream, body[3:500]),
        rig.data(stream, body[500:]),
    ]


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        (0, 13, "NO_ERROR"),
        (2, 13, "INTERNAL_ERROR"),
        (7, 14, "REFUSED_STREAM"),
        (8, 1, "CANCEL"),
        (11, 8, "ENHANCE_YOUR_CALM"),
        (12, 7, "INADEQUATE_SECURITY"),
        (77, 13, "error 77"),
    ],
)
def test_reset_at_each_point(step: int, code: int, status: int, name: str) -> None:
    rig = Rig()
    stream = rig.call()
    answer = steps(rig, stream)
    rig.feed(*answer[:step])
    assert rig.feed(number(RST_STREAM, stream.id, code)) == [(ENDED, stream, b"")]
    assert status_of(stream) == (status, f"RST_STREAM {name}", False)
    # A peer that has begun to answer has begun with the request.
    assert stream.is_unprocessed is (code == http2.REFUSED_STREAM and step == 0)
    assert rig.connection.resets_received == 1
    assert rig.connection.buffered_bytes == 0
    assert rig.feed(number(RST_STREAM, stream.id, code), *answer[step:]) == []
    assert rig.is_alive()


@pytest.mark.parametrize("step", range(5))
def test_cancel_at_each_point(step: int) -> None:
    rig = Rig()
    stream = rig.call()
    answer = steps(rig, stream)
    rig.feed(*answer[:step])
    rig.connection.cancel(stream)
    assert rig.sent() == [Frame(RST_STREAM, 0, stream.id, (8).to_bytes(4, "big"))]
    assert (stream.is_ended, stream.status) == (True, -1)
    assert (rig.connection.open_streams, rig.connection.buffered_bytes) == (0, 0)
    rig.connection.cancel(stream)
    # The rest of the answer was under way: heads go into the table, bytes count for the window.
    assert rig.feed(*answer[step:], rig.trailers(stream)) == []
    assert rig.sent() == []
    assert rig.is_alive()


@pytest.mark.parametrize("step", range(5))
def test_goaway_at_each_point(step: int) -> None:
    rig = Rig()
    first, second, third = rig.call(), rig.open(), rig.call()
    answer = steps(rig, first)
    rig.feed(*answer[:step])
    events = rig.feed(goaway(1, 0, b"max_age"))
    assert events == [
        (http2.GOAWAY, None, b"max_age"),
        (ENDED, second, b""),
        (ENDED, third, b""),
    ]
    for stream in (second, third):
        assert status_of(stream) == (14, "GOAWAY NO_ERROR: max_age", False)
        assert stream.is_unprocessed
    connection = rig.connection
    assert (connection.goaway_code, connection.goaway_text) == (0, "max_age")
    assert connection.goodbye == "GOAWAY NO_ERROR: max_age"
    assert (connection.is_leaving, connection.room) == (True, 0)
    with pytest.raises(RuntimeError, match="no room"):
        connection.call("/s/Call", b"", None)
    assert rig.feed(*answer[step:], rig.trailers(first)) == [(ENDED, first, b"")]
    assert (first.status, first.is_unprocessed) == (0, False)
    assert connection.error == ""


def test_goaway_in_two_steps_loses_nothing() -> None:
    rig = Rig()
    first, second = rig.call(), rig.call()
    assert kinds(rig.feed(goaway(0x7FFFFFFF))) == [http2.GOAWAY]
    assert kinds(rig.feed(goaway(3))) == [http2.GOAWAY]
    events = rig.feed(rig.answer(second, b"2"), rig.answer(first, b"1"))
    assert events == [(ENDED, second, b""), (ENDED, first, b"")]
    assert (first.status, second.status) == (0, 0)


def test_goaway_says_why() -> None:
    rig = Rig()
    stream = rig.call()
    rig.feed(goaway(0, http2.ENHANCE_YOUR_CALM, b"too_many_pings" + bytes(10_000)))
    assert rig.connection.goaway_code == http2.ENHANCE_YOUR_CALM
    assert len(rig.connection.goaway_text) == 256
    assert stream.details.startswith("GOAWAY ENHANCE_YOUR_CALM: too_many_pings")


def test_goodbye_without_a_text() -> None:
    rig = Rig()
    assert rig.connection.goodbye == ""
    rig.feed(goaway(0, 77))
    assert rig.connection.goodbye == "GOAWAY error 77"


def test_close_says_goodbye_and_lets_calls_end() -> None:
    rig = Rig()
    stream = rig.call()
    rig.connection.close("bye")
    rig.connection.close("again")
    assert rig.sent() == [Frame(GOAWAY, 0, 0, bytes(8) + b"bye")]
    assert (rig.connection.is_leaving, rig.connection.room) == (True, 0)
    assert kinds(rig.feed(rig.answer(stream, b"x"))) == [ENDED]
    assert stream.status == 0


def test_answer_before_the_request_was_sent() -> None:
    rig = Rig()
    stream = rig.call(bytes(100_000))
    assert rig.connection.unsent_bytes == stream.unsent_bytes == 100_005 - 65_535
    assert rig.feed(rig.answer(stream, b"early")) == [(ENDED, stream, b"")]
    assert (stream.status, stream.message) == (0, b"early")
    assert rig.connection.unsent_bytes == 0
    assert rig.sent() == [Frame(RST_STREAM, 0, stream.id, bytes(4))]
    rig.feed(number(WINDOW_UPDATE, 0, 1 << 20), number(WINDOW_UPDATE, stream.id, 1 << 20))
    assert rig.sent() == []
    assert rig.is_alive()


def test_stream_that_the_server_ends_first() -> None:
    rig = Rig()
    stream = rig.open()
    rig.feed(rig.head(stream), rig.trailers(stream, [("grpc-status", "14")]))
    assert status_of(stream) == (14, "", True)
    assert rig.sent() == [Frame(RST_STREAM, 0, stream.id, bytes(4))]


def test_early_half_close_still_brings_answers() -> None:
    rig = Rig()
    stream = rig.open()
    rig.connection.finish(stream)
    assert rig.sent() == [Frame(DATA, END_STREAM, stream.id, b"")]
    events = rig.feed(rig.head(stream), rig.data(stream, message(b"a")), rig.trailers(stream))
    assert kinds(events) == [http2.HEADERS, MESSAGE, ENDED]
    assert rig.sent() == []


def test_streams_at_the_end_of_the_connection() -> None:
    rig = Rig()
    streams = [rig.call(), rig.open(), rig.call()]
    assert rig.connection.streams() == streams
    rig.feed(rig.answer(streams[0], b""))
    assert rig.connection.streams() == streams[1:]


def test_foreign_streams_are_left_alone() -> None:
    rig, other = Rig(), Rig()
    stream = rig.call()
    other.call()
    other.connection.cancel(stream)
    other.connection.send(stream, b"x")
    other.connection.finish(Stream())
    assert not stream.is_ended
    assert other.sent() == []


# The connection's own frames.


def test_ping_and_pong() -> None:
    rig = Rig()
    rig.connection.ping()
    rig.connection.ping()
    (ping,) = rig.sent()
    assert (ping.kind, ping.flags, ping.stream, len(ping.payload)) == (PING, 0, 0, 8)
    assert rig.feed(frame(PING, ACK, 0, b"notours!")) == []
    assert rig.feed(frame(PING, ACK, 0, ping.payload)) == [(http2.PONG, None, b"")]
    assert rig.feed(frame(PING, ACK, 0, ping.payload)) == []
    rig.connection.ping()
    assert rig.sent() == [ping]


def test_settings_may_come_late() -> None:
    rig = Rig(is_ready=False)
    stream = rig.connection.call("/s/Call", b"x", None)
    assert rig.request()[1] == message(b"x")
    events = rig.feed(settings(), rig.answer(stream, b"y"))
    assert events == [(http2.READY, None, b""), (ENDED, stream, b"")]
    assert (rig.connection.is_ready, rig.connection.max_streams) == (True, 2**32 - 1)
    rig.feed(settings({MAX_STREAMS: 7}))
    rig.feed(settings())
    assert rig.connection.max_streams == 7
    assert (rig.connection.settings_received, rig.connection.frames_received) == (3, 6)


# A server of another make.


class H2Server:
    """The package h2 as the server of an Http2Connection, which may read byte by byte."""

    def __init__(self, chunk: int, **values: int) -> None:
        self.chunk = chunk
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        codes = h2.settings.SettingCodes
        self.h2.initiate_connection()
        self.h2.update_settings({codes[name]: value for name, value in values.items()})
        self.client = Http2Connection("up:1", "https", max_message_bytes=8 << 20)
        self.events: list[h2.events.Event] = []
        self.received: list[tuple[int, Stream | None, bytes]] = []
        self.exchange()

    def exchange(self) -> None:
        """Carry bytes both ways until nothing is left."""
        while True:
            up, down = self.client.take(), self.h2.data_to_send()
            if not up and not down:
                break
            for event in self.h2.receive_data(up):
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            for at in range(0, len(down), self.chunk):
                self.received += self.client.receive(down[at : at + self.chunk], 0.0)
            assert self.client.error == ""

    def body(self, stream: Stream) -> bytes:
        """Return what has come on a stream."""
        return b"".join(
            event.data
            for event in self.events
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream.id
        )

    def has_ended(self, stream: Stream) -> bool:
        """Return whether the client has ended its side of a stream."""
        return any(
            isinstance(event, h2.events.StreamEnded) and event.stream_id == stream.id
            for event in self.events
        )

    def send(self, stream: Stream, data: bytes, pad: int | None = None) -> None:
        """Send DATA as the client's windows allow."""
        more = 0 if pad is None else 1 + pad
        while data:
            window = self.h2.local_flow_control_window(stream.id) - more
            size = min(window, 16_000, len(data))
            if size > 0:
                self.h2.send_data(stream.id, data[:size], pad_length=pad)
                data = data[size:]
            else:
                self.exchange()
                assert self.h2.local_flow_control_window(stream.id) > more


@pytest.mark.parametrize("chunk", [1, 1000, 1 << 20])
@pytest.mark.parametrize("window", [1, 100, 65_535])
def test_h2_answers_calls(chunk: int, window: int) -> None:
    server = H2Server(chunk, INITIAL_WINDOW_SIZE=window)
    for i in range(20):
        data = b"%d" % i * 50
        stream = server.client.call("/s/Call", data, i, 1000 + i)
        server.exchange()
        assert server.body(stream) == message(data)
        assert server.has_ended(stream)
        server.h2.send_headers(stream.id, HEAD)
        server.send(stream, message(data), pad=i * 10)
        server.h2.send_headers(stream.id, [*OK, ("x-trace", "z" * i)], end_stream=True)
        server.exchange()
        assert (stream.status, stream.message, stream.is_remote) == (0, data, True)
    assert server.client.open_streams == 0


@pytest.mark.parametrize("pad", [None, 0, 255])
def test_h2_and_messages_of_4_mib(pad: int | None) -> None:
    server = H2Server(1 << 20, MAX_FRAME_SIZE=1 << 20)
    stream = server.client.open("/s/Stream", None)
    data = bytes(range(256)) * (16 << 10)
    server.client.send(stream, data)
    server.client.finish(stream)
    server.exchange()
    assert server.body(stream) == message(data)
    server.h2.send_headers(stream.id, HEAD)
    server.send(stream, message(b"") + message(data) + message(b"."), pad)
    server.h2.send_headers(stream.id, [("grpc-status", "9")], end_stream=True)
    server.exchange()
    assert [bytes_ for kind, _, bytes_ in server.received if kind == MESSAGE] == [b"", data, b"."]
    assert (stream.status, server.client.buffered_bytes) == (9, 0)


def test_h2_resets_pings_changes_settings_and_leaves() -> None:
    server = H2Server(3)
    codes = h2.settings.SettingCodes
    streams = [server.client.call("/s/Call", b"x" * 10_000, None) for _ in range(3)]
    server.exchange()
    server.h2.reset_stream(streams[0].id, h2.errors.ErrorCodes.REFUSED_STREAM)
    server.h2.ping(b"12345678")
    server.client.ping()
    server.h2.update_settings(
        {
            codes.HEADER_TABLE_SIZE: 0,
            codes.INITIAL_WINDOW_SIZE: 7,
            codes.MAX_CONCURRENT_STREAMS: 9,
        }
    )
    server.exchange()
    assert streams[0].is_unprocessed
    late = server.client.call("/s/Call", b"y" * 100, None, 77)
    server.exchange()
    assert server.body(late) == message(b"y" * 100)
    assert any(isinstance(event, h2.events.PingAckReceived) for event in server.events)
    server.h2.close_connection(last_stream_id=streams[1].id)
    server.client.receive(server.h2.data_to_send(), 0.0)
    assert [stream.is_unprocessed for stream in (*streams[1:], late)] == [False, True, True]
