"""Http2Connection: what ends the connection: broken rules, floods and other hostile peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatesvr._core import http2

from .http2_rig import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    FRAME_SIZE,
    GOAWAY,
    HEAD,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_SIZE,
    WINDOW_UPDATE,
    WITH_PRIORITY,
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

ENDED = http2.ENDED


# What ends the connection.


def block_of(size: int) -> bytes:
    """Return a block of literals, nearly size bytes."""
    one = b"\x00\x01a\x7f\x80\x07" + b"v" * 1023  # a: 1023 times v
    return one * (size // len(one))


BOMB = b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000  # one entry, as large as the table
BREACHES: dict[str, tuple[Callable[[Rig], list[bytes]], int, str]] = {
    "another frame first": (
        lambda _: [frame(PING, 0, 0, bytes(8))],
        1,
        "the first frame is not SETTINGS",
    ),
    "an ack first": (lambda _: [frame(SETTINGS, ACK, 0)], 1, "the first frame is not SETTINGS"),
    "HTTP/1": (
        lambda _: [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        1,
        "the server answers in HTTP/1",
    ),
    "garbage": (lambda _: [bytes(range(7, 250))], 1, "the first frame is not SETTINGS"),
    "TLS": (lambda _: [b"\x15\x03\x03\x00\x02\x02\x46" * 9], 1, "the first frame is not SETTINGS"),
    "a huge frame of SETTINGS": (
        lambda _: [b"\xff\xff\xff\x04\0\0\0\0\0"],
        6,
        "frame of 16777215 bytes",
    ),
    "SETTINGS of 5 bytes": (
        lambda _: [frame(SETTINGS, 0, 0, bytes(5))],
        6,
        "SETTINGS of 5 bytes",
    ),
    "SETTINGS on a stream": (lambda _: [frame(SETTINGS, 0, 1)], 1, "SETTINGS on a stream"),
    "push turned on": (lambda _: [settings({ENABLE_PUSH: 1})], 1, "ENABLE_PUSH 1"),
    "window of 2 GiB": (
        lambda _: [settings({WINDOW_SIZE: 1 << 31})],
        3,
        "INITIAL_WINDOW_SIZE 2147483648",
    ),
    "small MAX_FRAME_SIZE": (
        lambda _: [settings({FRAME_SIZE: 16_383})],
        1,
        "MAX_FRAME_SIZE 16383",
    ),
    "large MAX_FRAME_SIZE": (
        lambda _: [settings({FRAME_SIZE: 1 << 24})],
        1,
        "MAX_FRAME_SIZE 16777216",
    ),
    "huge frame": (
        lambda _: [settings(), frame(DATA, 0, 1, bytes(16_385))],
        6,
        "frame of 16385 bytes",
    ),
    "ack with content": (
        lambda _: [settings(), frame(SETTINGS, ACK, 0, bytes(6))],
        6,
        "frame of type 4 and 6 bytes",
    ),
    "DATA on stream 0": (
        lambda _: [settings(), frame(DATA, 0, 0, b"x")],
        1,
        "frame of type 0 on stream 0",
    ),
    "DATA on an even stream": (
        lambda _: [settings(), frame(DATA, 0, 2, b"x")],
        1,
        "frame of type 0 on stream 2",
    ),
    "HEADERS on a stream never opened": (
        lambda _: [settings(), frame(HEADERS, END_HEADERS, 3)],
        1,
        "frame of type 1 on stream 3",
    ),
    "RST_STREAM on a stream never opened": (
        lambda _: [settings(), number(RST_STREAM, 3, 0)],
        1,
        "frame of type 3 on stream 3",
    ),
    "credit for a stream never opened": (
        lambda _: [settings(), number(WINDOW_UPDATE, 3, 1)],
        1,
        "frame of type 8 on stream 3",
    ),
    "RST_STREAM of 5 bytes": (
        lambda _: [settings(), frame(RST_STREAM, 0, 1, bytes(5))],
        6,
        "frame of type 3 and 5 bytes",
    ),
    "PING of 7 bytes": (
        lambda _: [settings(), frame(PING, 0, 0, bytes(7))],
        6,
        "frame of type 6 and 7 bytes",
    ),
    "PING on a stream": (
        lambda _: [settings(), frame(PING, 0, 1, bytes(8))],
        1,
        "PING on a stream",
    ),
    "PRIORITY on stream 0": (
        lambda _: [settings(), frame(PRIORITY, 0, 0, bytes(5))],
        1,
        "PRIORITY on stream 0",
    ),
    "PRIORITY of 4 bytes": (
        lambda _: [settings(), frame(PRIORITY, 0, 1, bytes(4))],
        6,
        "frame of type 2 and 4 bytes",
    ),
    "GOAWAY on a stream": (
        lambda _: [settings(), frame(GOAWAY, 0, 1, bytes(8))],
        1,
        "GOAWAY on a stream",
    ),
    "GOAWAY of 7 bytes": (
        lambda _: [settings(), frame(GOAWAY, 0, 0, bytes(7))],
        6,
        "GOAWAY of 7 bytes",
    ),
    "credit of 3 bytes": (
        lambda _: [settings(), frame(WINDOW_UPDATE, 0, 0, bytes(3))],
        6,
        "frame of type 8 and 3 bytes",
    ),
    "credit of 0": (lambda _: [settings(), number(WINDOW_UPDATE, 0, 0)], 1, "WINDOW_UPDATE of 0"),
    "endless credit": (
        lambda _: [settings(), number(WINDOW_UPDATE, 0, 0x7FFFFFFF)],
        3,
        "WINDOW_UPDATE above the highest window",
    ),
    "settings that make a window too large": (
        lambda _: [
            settings(),
            number(WINDOW_UPDATE, 1, 0x7FFFFFFF - 65_535),
            settings({WINDOW_SIZE: 1 << 20}),
        ],
        3,
        "INITIAL_WINDOW_SIZE above a stream's highest window",
    ),
    "PUSH_PROMISE": (
        lambda rig: [
            settings(),
            frame(PUSH_PROMISE, END_HEADERS, 1, bytes([0, 0, 0, 2]) + rig.encoder.encode(HEAD)),
        ],
        1,
        "PUSH_PROMISE where push is off",
    ),
    "all padding": (
        lambda _: [settings(), frame(DATA, PADDED, 1, b"\5abcd")],
        1,
        "padding above the payload",
    ),
    "no padding": (
        lambda _: [settings(), frame(DATA, PADDED, 1)],
        1,
        "padding above the payload",
    ),
    "no priority": (
        lambda _: [settings(), frame(HEADERS, WITH_PRIORITY | END_HEADERS, 1, bytes(4))],
        1,
        "padding or priority above the payload",
    ),
    "headers of padding": (
        lambda _: [settings(), frame(HEADERS, PADDED | END_HEADERS, 1, b"\x09" + bytes(8))],
        1,
        "padding or priority above the payload",
    ),
    "CONTINUATION alone": (
        lambda _: [settings(), frame(CONTINUATION, END_HEADERS, 1)],
        1,
        "CONTINUATION without HEADERS",
    ),
    "frame inside a block": (
        lambda _: [settings(), frame(HEADERS, 0, 1, b"\x88"), frame(PING, 0, 0, bytes(8))],
        1,
        "frame inside a header block",
    ),
    "CONTINUATION of another stream": (
        lambda _: [settings(), frame(HEADERS, 0, 1, b"\x88"), frame(CONTINUATION, 0, 3)],
        1,
        "frame inside a header block",
    ),
    "corrupt block": (
        lambda _: [settings(), frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff")],
        9,
        "corrupt header block",
    ),
    "corrupt block on a stream that is gone": (
        lambda _: [settings(), number(RST_STREAM, 1, 0), frame(HEADERS, END_HEADERS, 1, b"\xfe")],
        9,
        "corrupt header block",
    ),
    "endless CONTINUATION": (
        lambda _: [
            settings(),
            frame(HEADERS, 0, 1, b"\x88"),
            *129 * [frame(CONTINUATION, 0, 1)],
        ],
        11,
        "more than 128 CONTINUATIONs",
    ),
    "large CONTINUATIONs": (
        lambda _: [
            settings(),
            frame(HEADERS, 0, 1, b"\x88"),
            *5 * [frame(CONTINUATION, 0, 1, block_of(16_000))],
        ],
        11,
        "header block above 65536 bytes",
    ),
    "large list": (
        lambda _: [settings(), frame(HEADERS, END_HEADERS, 1, b"\x88" * 1600)],
        11,
        "header list above 65536 bytes",
    ),
    "HPACK bomb": (
        lambda _: [settings(), frame(HEADERS, END_HEADERS, 1, BOMB + b"\xbe" * 12_000)],
        11,
        "header list above 65536 bytes",
    ),
}


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("name", BREACHES)
def test_breach_ends_the_connection(name: str, step: int) -> None:
    rig = Rig(is_ready=False)
    stream = rig.call()
    script, code, error = BREACHES[name]
    data = b"".join(script(rig))
    for at in range(0, len(data), step):
        rig.connection.receive(data[at : at + step], 0.0)
    connection = rig.connection
    assert (connection.error, connection.error_code) == (error, code)
    goodbye = rig.sent()[-1]
    assert (goodbye.kind, goodbye.payload[:8]) == (GOAWAY, bytes(7) + bytes([code]))
    assert goodbye.payload[8:].decode() == error
    assert (connection.is_leaving, connection.room) == (True, 0)
    # Nothing comes of it any more.
    assert rig.feed(rig.answer(stream, b"")) == []
    connection.ping()
    connection.close()
    assert rig.sent() == []
    with pytest.raises(RuntimeError, match="no room"):
        connection.call("/s/Call", b"", None)
    for one in connection.streams():
        connection.send(one, b"") if not one.is_unary else connection.finish(one)
        connection.cancel(one)
    assert connection.open_streams == 0


def test_events_before_a_breach_stay_valid() -> None:
    rig = Rig()
    stream, other = rig.call(), rig.call()
    events = rig.feed(rig.answer(stream, b"x"), frame(PING, 0, 0), rig.answer(other, b"y"))
    assert events == [(ENDED, stream, b"")]
    assert rig.connection.error_code == http2.FRAME_SIZE_ERROR
    assert rig.connection.streams() == [other]


# Floods.


def flood(rig: Rig, data: bytes, now: float = 0.0) -> int:
    """Send a frame until the connection ends; return how many it took, at most 200,000."""
    for count in range(200_000):
        if rig.connection.error:
            return count
        rig.connection.receive(data, now)
        if count % 1000 == 999:
            rig.connection.take()
    return 200_000


FLOODS: dict[str, bytes] = {
    "PING": frame(PING, 0, 0, bytes(8)),
    "PING acks": frame(PING, ACK, 0, bytes(8)),
    "SETTINGS": settings(),
    "SETTINGS acks": frame(SETTINGS, ACK, 0),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "unknown": frame(0x42, 0, 0),
    "credit": number(WINDOW_UPDATE, 0, 1),
    "credit of a stream": number(WINDOW_UPDATE, 3, 1),
    "credit of one that is gone": number(WINDOW_UPDATE, 1, 1),
    "RST_STREAM of one that is gone": number(RST_STREAM, 1, 0),
    "DATA of one that is gone": frame(DATA, 0, 1, b"x"),
    "HEADERS of one that is gone": frame(HEADERS, END_HEADERS, 1, b"\x88"),
    "empty DATA": frame(DATA, 0, 3),
    "padding": frame(DATA, PADDED, 3, b"\x07" + bytes(7)),
    "GOAWAY": goaway(0x7FFFFFFF),
}


@pytest.mark.parametrize("name", FLOODS)
def test_flood_ends_the_connection(name: str) -> None:
    rig = Rig()
    gone, stream = rig.call(), rig.open()
    rig.feed(rig.answer(gone, b""), rig.head(stream))
    taken = flood(rig, FLOODS[name])
    assert 2_000 <= taken <= 2_050
    assert rig.connection.error == "too many frames that bring nothing"
    assert rig.connection.error_code == http2.ENHANCE_YOUR_CALM


def test_informational_heads_are_no_way_around() -> None:
    rig = Rig()
    stream = rig.call()
    assert flood(rig, frame(HEADERS, END_HEADERS, stream.id, b"\x08\x03103")) <= 2_050


def test_time_brings_tokens() -> None:
    rig = Rig()
    for second in range(20):
        rig.now = 100.0 + second
        assert rig.feed(FLOODS["PING"] * 1000) == []
        rig.sent()
        assert rig.connection.error == ""
    assert rig.connection.pings_answered == 20_000


def test_calls_explain_what_servers_answer_beside_the_answer() -> None:
    """Two credits and a PING with each answer, a thousand calls at once, no time passes."""
    rig = Rig()
    for _ in range(10):
        streams = [rig.call() for _ in range(1000)]
        rig.feed(
            *(
                number(WINDOW_UPDATE, 0, 7)
                + number(WINDOW_UPDATE, stream.id, 7)
                + FLOODS["PING"]
                + rig.answer(stream, b"x")
                + number(RST_STREAM, stream.id, 0)
                for stream in streams
            )
        )
        rig.sent()
        assert all(stream.status == 0 for stream in streams)
    assert rig.connection.error == ""


def test_large_messages_explain_credit_in_small_parts() -> None:
    rig = Rig({WINDOW_SIZE: 1 << 30, FRAME_SIZE: 1 << 20})
    rig.feed(number(WINDOW_UPDATE, 0, 1 << 30))
    stream = rig.open()
    for _ in range(20):
        rig.connection.send(stream, bytes(4 << 20))
        rig.connection.take()
        both = number(WINDOW_UPDATE, 0, 8192) + number(WINDOW_UPDATE, stream.id, 8192)
        assert rig.feed(both * 512) == []
    assert rig.connection.error == ""


def test_cancelled_calls_explain_what_was_under_way() -> None:
    rig = Rig()
    for _ in range(3_000):
        stream = rig.call()
        rig.connection.cancel(stream)
        assert rig.feed(rig.answer(stream, b"x"), number(WINDOW_UPDATE, stream.id, 7)) == []
        rig.sent()
    assert rig.is_alive()


def test_cancelled_large_answers_explain_the_data_under_way() -> None:
    rig = Rig()
    body = message(bytes(4 << 20))
    for _ in range(20):
        stream = rig.call()
        head, data = rig.head(stream), rig.data(stream, body)
        rig.feed(head, data[:20_000])
        rig.connection.cancel(stream)
        assert rig.feed(data[20_000:], rig.trailers(stream)) == []
        rig.sent()
    assert rig.is_alive()
    # What goes beyond the credit that they had is a flood.
    assert flood(rig, frame(DATA, 0, 1, bytes(16_384))) <= 2_600


def test_peer_that_does_not_read_what_it_asks_for() -> None:
    rig = Rig()
    for _ in range(10_000):
        rig.call()
    for second in range(100):
        rig.now = float(second)
        rig.feed(FLOODS["PING"] * 1000)
        if rig.connection.error:
            break
    assert rig.connection.error == "too many frames to answer"
    assert len(rig.connection.take()) < 20_100 * 17


def test_resets_of_calls_are_as_many_as_calls() -> None:
    rig = Rig()
    for _ in range(10_000):
        stream = rig.call()
        assert kinds(rig.feed(number(RST_STREAM, stream.id, 8))) == [ENDED]
    assert rig.connection.resets_received == 10_000
    assert rig.is_alive()
