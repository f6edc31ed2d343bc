"""The HTTP/2 core against the package h2 on the same job: unary calls over one connection.

Each measured call makes a connection, sends 160 requests on it, 16 at a time as a loaded lane does,
and reads their answers, 16 in one piece.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import hpack
import pytest

from gatesvr._core.http2 import Http2Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

BATCH = 16
CALLS = 160
TARGET = 50  # times h2
PATH = "/gatesvr.proto.UpstreamService/ProcessRequest"
MESSAGE = b"m" * 120
BODY = struct.pack(">BI", 0, len(MESSAGE)) + MESSAGE
FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "10.0.0.5:8081"),
    (":path", PATH),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("user-agent", "gatesvr"),
    ("grpc-accept-encoding", "identity"),
    ("grpc-timeout", "29990m"),
]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def answers() -> list[bytes]:
    """Return the pieces that a server sends: SETTINGS, then the answers of 16 calls each."""
    encoder = hpack.Encoder()
    pieces = [frame(4, 0, 0, b"")]
    for first in range(0, CALLS, BATCH):
        piece = b""
        for stream in range(2 * first + 1, 2 * (first + BATCH), 2):
            head = encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
            piece += frame(1, 4, stream, head) + frame(0, 0, stream, BODY)
            piece += frame(1, 5, stream, encoder.encode([("grpc-status", "0")]))
        pieces.append(piece)
    return pieces


ANSWERS = answers()


def calls_gatesvr() -> int:
    connection = Http2Connection("10.0.0.5:8081", "http", max_message_bytes=1 << 22)
    connection.receive(ANSWERS[0], 0.0)
    answered = 0
    for piece in ANSWERS[1:]:
        for _ in range(BATCH):
            connection.call(PATH, MESSAGE, None, 29_990)
        connection.take()
        for _, stream, _ in connection.receive(piece, 0.0):
            answered += stream is not None and stream.message == MESSAGE
    return answered


def calls_yardstick() -> int:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    connection.receive_data(ANSWERS[0])
    answered = 0
    for piece in ANSWERS[1:]:
        for _ in range(BATCH):
            stream = connection.get_next_available_stream_id()
            connection.send_headers(stream, FIELDS)
            connection.send_data(stream, BODY, end_stream=True)
        connection.data_to_send()
        for event in connection.receive_data(piece):
            if isinstance(event, h2.events.DataReceived):
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                answered += event.data == BODY
    return answered


@pytest.mark.parametrize(
    ("role", "run"), [("yardstick", calls_yardstick), ("gatesvr", calls_gatesvr)]
)
def test_unary_calls(benchmark: BenchmarkFixture, role: str, run: Callable[[], int]) -> None:
    """Measure a request and its answer."""
    benchmark.group = "http2: unary call"
    benchmark.extra_info.update(role=role, per=CALLS, min_speedup=TARGET)
    assert benchmark(run) == CALLS
