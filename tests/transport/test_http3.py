"""HTTP/3 as bytes: what each stream may say, in whatever pieces it comes."""

from __future__ import annotations

import random

import pylsqpack
import pytest

from gatesvr.transport.web import http3
from gatesvr.transport.web.http3 import (
    Code,
    Http3,
    Http3Error,
    Opened,
    Refused,
    Request,
    SessionEnded,
    close_frame,
    frame,
    response_frame,
)

CONTROL, ENCODER, DECODER, SESSION, MESSAGES = 2, 6, 10, 0, 4
SETTINGS = b"\x00\x04\x00"
FIELDS = [
    (b":method", b"CONNECT"),
    (b":protocol", b"webtransport"),
    (b":scheme", b"https"),
    (b":authority", b"localhost:8443"),
    (b":path", b"/gatesvr"),
    (b"origin", b"https://localhost:8443"),
]


def headers(fields: list[tuple[bytes, bytes]] = FIELDS) -> bytes:
    _, block = pylsqpack.Encoder().encode(0, fields)
    return frame(1, block)


def opened() -> Http3:
    """Return one whose session is accepted."""
    http = Http3()
    assert http.receive(CONTROL, SETTINGS, False) == []
    (request,) = http.receive(SESSION, headers(), False)
    assert isinstance(request, Request)
    assert http.accept(SESSION) == []
    return http


def feed(http: Http3, stream_id: int, pieces: list[bytes]) -> None:
    for piece in pieces:
        http.receive(stream_id, piece, False)


def test_a_session_in_any_pieces() -> None:
    unknown = frame(0x21 + 31 * 5, b"grease")
    capsule = b"\x80\x00\x78\xae\x02no"  # one that is read over
    script = (
        (CONTROL, b"\x00" + frame(4, b"\x33\x01\x08\x01") + unknown + frame(7, b"\x00")),
        (ENCODER, b"\x02\x20"),
        (DECODER, b"\x03\x40\x84"),
        (SESSION, unknown + headers()),
        (SESSION, frame(0, capsule) + unknown + close_frame(77, "bye")),
    )
    for size in (1, 2, 3, 7, 64, 4096):
        http = Http3()
        found: list[object] = []
        for stream_id, data in script:
            for start in range(0, len(data), size):
                events = http.receive(stream_id, data[start : start + size], False)
                found += events
                if any(isinstance(event, Request) for event in events):
                    found += http.accept(SESSION)
        request, ended = found
        assert isinstance(request, Request)
        assert list(request.fields.items()) == [(a.decode(), b.decode()) for a, b in FIELDS]
        assert ended == SessionEnded(77, "bye")


def test_what_comes_with_the_request_waits_for_its_answer() -> None:
    http = Http3()
    (request,) = http.receive(SESSION, headers() + close_frame(5, "x"), True)
    assert isinstance(request, Request)
    assert http.accept(SESSION) == [SessionEnded(5, "x")]
    http = Http3()
    http.receive(SESSION, headers(), True)
    assert http.accept(SESSION) == [SessionEnded(0, "")]


def test_one_stream_carries_messages() -> None:
    early = Http3()
    assert early.receive(MESSAGES, b"\x40\x41\x00data", False) == [
        Refused(MESSAGES, Code.BUFFERED_STREAM_REJECTED)
    ]
    http = opened()
    assert http.receive(MESSAGES, b"\x40", False) == []
    assert http.receive(MESSAGES, b"\x41\x00data", False) == [Opened(MESSAGES, b"data", False)]
    assert http.receive(8, b"\x40\x41\x00data", True) == [Refused(8, Code.BUFFERED_STREAM_REJECTED)]
    assert http.receive(8, b"more", False) == []
    assert http.receive(12, b"\x40\x41\x08", False) == [Refused(12, Code.BUFFERED_STREAM_REJECTED)]


def test_streams_that_are_none_of_ours_are_refused_by_themselves() -> None:
    http = opened()
    assert http.receive(14, b"\x40\x54\x00data", False) == [
        Refused(14, Code.BUFFERED_STREAM_REJECTED)
    ]
    assert http.receive(18, b"\x21", False) == [Refused(18, Code.STREAM_CREATION_ERROR)]
    assert http.receive(8, b"", True) == [Refused(8, Code.REQUEST_INCOMPLETE)]
    (request,) = http.receive(12, headers([(b":method", b"GET"), (b":path", b"/")]), True)
    assert isinstance(request, Request)
    assert http.reset(16) == [Refused(16, Code.REQUEST_INCOMPLETE)]
    assert http.reset(16) == []


@pytest.mark.parametrize("is_capsule", [False, True])
def test_the_session_ends_with_its_stream(is_capsule: bool) -> None:
    http = opened()
    if is_capsule:
        assert http.receive(SESSION, close_frame(4000, "ü"), True) == [SessionEnded(4000, "ü")]
    else:
        assert http.receive(SESSION, b"", True) == [SessionEnded(0, "")]
    http = opened()
    assert http.reset(SESSION) == [SessionEnded(0, "reset")]
    assert http.receive(SESSION, b"late", True) == []


@pytest.mark.parametrize(
    "fields",
    [
        [(b":path", b"/")],
        [(b":method", b"CONNECT"), (b":method", b"CONNECT")],
        [(b":method", b"CONNECT"), (b"a", b"b"), (b":path", b"/")],
        [(b":method", b"CONNECT"), (b"Origin", b"b")],
    ],
)
def test_a_malformed_request_costs_its_stream(fields: list[tuple[bytes, bytes]]) -> None:
    assert Http3().receive(0, headers(fields), False) == [Refused(0, Code.MESSAGE_ERROR)]


FAULTS = {
    "no settings first": (CONTROL, b"\x00" + frame(7, b"\0"), Code.MISSING_SETTINGS),
    "settings twice": (CONTROL, SETTINGS + b"\x04\x00", Code.FRAME_UNEXPECTED),
    "long settings": (CONTROL, b"\x00\x04\x44\x01", Code.EXCESSIVE_LOAD),
    "half a setting": (CONTROL, b"\x00\x04\x01\x33", Code.FRAME_ERROR),
    "a setting twice": (CONTROL, b"\x00\x04\x04\x33\x01\x33\x01", Code.SETTINGS_ERROR),
    "a setting of HTTP/2": (CONTROL, b"\x00\x04\x02\x02\x01", Code.SETTINGS_ERROR),
    "data on control": (CONTROL, SETTINGS + frame(0, b""), Code.FRAME_UNEXPECTED),
    "a frame of HTTP/2": (CONTROL, SETTINGS + frame(8, b""), Code.FRAME_UNEXPECTED),
    "a push stream": (14, b"\x01", Code.STREAM_CREATION_ERROR),
    "an instruction": (ENCODER, b"\x02\x3f\xe1\x1f", Code.ENCODER_STREAM_ERROR),
    "an entry": (ENCODER, b"\x02\x4a", Code.ENCODER_STREAM_ERROR),
    "data before headers": (0, frame(0, b"x"), Code.FRAME_UNEXPECTED),
    "settings on a request": (0, frame(4, b""), Code.FRAME_UNEXPECTED),
    "long headers": (0, b"\x01\x50\x01", Code.EXCESSIVE_LOAD),
    "a dynamic table": (0, frame(1, b"\x02\x00\x80"), Code.DECOMPRESSION_FAILED),
    "no block": (0, frame(1, b"\xff\xff\xff"), Code.DECOMPRESSION_FAILED),
    "a bomb": (0, frame(1, b"\0\0" + b"\xff\x16" * 2000), Code.EXCESSIVE_LOAD),
    "no session": (0, b"\x40\x41\x03", Code.ID_ERROR),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_that_end_the_connection(name: str) -> None:
    stream_id, data, code = FAULTS[name]
    for size in (1, len(data)):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        with pytest.raises(Http3Error) as raised:
            feed(Http3(), stream_id, pieces)
        assert raised.value.code is code


SESSION_FAULTS = {
    "headers": (headers(), False, Code.FRAME_UNEXPECTED),
    "a stream of messages": (b"\x40\x41\x00", False, Code.FRAME_ERROR),
    "a close too short": (frame(0, b"\x68\x43\x03abc"), False, Code.MESSAGE_ERROR),
    "a close too long": (frame(0, b"\x68\x43\x44\x05"), False, Code.MESSAGE_ERROR),
    "half a frame": (frame(0, b"\x21\x01a")[:-1], True, Code.FRAME_ERROR),
    "half a capsule": (frame(0, b"\x21\x02a"), True, Code.MESSAGE_ERROR),
}


@pytest.mark.parametrize("name", SESSION_FAULTS)
def test_faults_on_a_session(name: str) -> None:
    data, is_end, code = SESSION_FAULTS[name]
    with pytest.raises(Http3Error) as raised:
        opened().receive(SESSION, data, is_end)
    assert raised.value.code is code


def test_critical_streams_stay() -> None:
    for end in (lambda h: h.receive(CONTROL, b"", True), lambda h: h.reset(CONTROL)):
        with pytest.raises(Http3Error) as raised:
            end(opened())
        assert raised.value.code is Code.CLOSED_CRITICAL_STREAM
    for data in (b"\x00", b"\x02", b"\x03"):
        http = Http3()
        http.receive(CONTROL, data, False)
        with pytest.raises(Http3Error) as raised:
            http.receive(ENCODER, data, False)
        assert raised.value.code is Code.STREAM_CREATION_ERROR


def test_bytes_and_streams_have_a_budget() -> None:
    http = opened()
    skipped = frame(0x21, bytes(8192))
    with pytest.raises(Http3Error, match="too many bytes") as raised:
        feed(http, CONTROL, [skipped] * 9)
    assert raised.value.code is Code.EXCESSIVE_LOAD
    http = opened()
    for number in range(2, http3.MAX_STREAMS):
        http.receive(6 + 4 * number, b"\x21", False)
    with pytest.raises(Http3Error, match="too many streams") as raised:
        http.receive(8, b"", False)
    assert raised.value.code is Code.EXCESSIVE_LOAD
    assert len(http._streams) == http3.MAX_STREAMS


def test_garbage_raises_nothing_else() -> None:
    rng = random.Random(7)
    valid = [SETTINGS, headers(), close_frame(1, "x"), b"\x40\x41\x00abc", b"\x02\x20", b"\x03"]
    for _ in range(600):
        http = opened() if rng.random() < 0.5 else Http3()
        try:
            for _ in range(20):
                data = bytearray(b"".join(rng.choices(valid, k=rng.randint(1, 3))))
                for _ in range(rng.randint(0, 3)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                stream_id = 4 * rng.randrange(6) + 2 * rng.randrange(2)
                for event in http.receive(stream_id, bytes(data), rng.random() < 0.1):
                    if isinstance(event, Request) and rng.random() < 0.5:
                        http.accept(event.stream_id)
        except Http3Error:
            pass


def test_what_we_write_is_read_by_others() -> None:
    frame_bytes = response_frame(200, ("sec-webtransport-http3-draft", "draft02"))
    assert frame_bytes[0] == 1
    _, fields = pylsqpack.Decoder(0, 0).feed_header(0, frame_bytes[2:])
    assert fields == [(b":status", b"200"), (b"sec-webtransport-http3-draft", b"draft02")]
    assert Http3.greeting()[:2] == b"\x00\x04"
