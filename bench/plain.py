"""A service without ProcessStream that costs about as little as a native one.

Behind a service on grpcio, whose every call costs more than the gateway's, the gateway of a closed
load would mostly wait. This one knows ``ProcessRequest`` alone: ``hello``, and an echo for anything
else. It speaks just enough HTTP/2 for a well-behaved client with small messages: it does not look
at the client's windows.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, cast

from gatesvr._core.hpack import HpackDecoder
from gatesvr._pb import upstream_pb2 as pb

from .load import until_readable

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

__all__ = ["serve_plain"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 0x20
WINDOW = 1 << 30
CREDIT_STEP = 1 << 20
"""Bytes of the connection's window given back at once."""
METHOD = (b":path", b"/gatesvr.proto.UpstreamService/ProcessRequest")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header field that neither side remembers (RFC 7541 6.2.2)."""
    return bytes((0, len(name))) + name + bytes((len(value),)) + value


STATUS_200 = b"\x88"  # RFC 7541, appendix A
HEAD = STATUS_200 + literal(b"content-type", b"application/grpc")
TRAILERS = literal(b"grpc-status", b"0")
UNIMPLEMENTED = HEAD + literal(b"grpc-status", b"12")
GREETING = (
    # INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS
    frame(SETTINGS, 0, 0, struct.pack(">HIHI", 4, WINDOW, 3, 10_000))
    + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW))
)


def answer(request: bytes) -> bytes:
    """Return the UpstreamResponse to an UpstreamRequest, serialized."""
    asked = pb.UpstreamRequest.FromString(request)
    response = pb.UpstreamResponse(
        code=200, request_id=asked.request_id, client_seq_id=asked.client_seq_id
    )
    if asked.action != "hello":
        response.data = asked.data
    return response.SerializeToString()


class Server(asyncio.Protocol):
    """The server's side of one connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._buffer = b""
        self._is_greeted = False
        self._decoder = HpackDecoder()
        self._block = b""  # a header block whose end is to come
        self._bodies: dict[int, bytes] = {}  # stream → what has come of its request
        self._received = 0  # since credit was given
        self._transport.write(GREETING)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at = 0
        if not self._is_greeted:
            if len(buffer) < len(PREFACE):
                self._buffer = buffer
                return
            self._is_greeted = True
            at = len(PREFACE)
        out: list[bytes] = []
        while len(buffer) - at >= 9:
            head, flags, stream = struct.unpack_from(">IBI", buffer, at)
            end = at + 9 + (head >> 8)
            if end > len(buffer):
                break
            self._handle(head & 0xFF, flags, stream, buffer[at + 9 : end], out)
            at = end
        self._buffer = buffer[at:]
        if out:
            self._transport.write(b"".join(out))

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes, out: list[bytes]) -> None:
        if kind in (HEADERS, DATA) and flags & PADDED:
            payload = payload[1 : -payload[0] or None]
        if kind == DATA:
            self._received += len(payload)
            if self._received >= CREDIT_STEP:
                out.append(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
                self._received = 0
            body = self._bodies.get(stream)
            if body is None:
                return  # refused
            if not flags & END_STREAM:
                self._bodies[stream] = body + payload
                return
            del self._bodies[stream]
            message = answer((body + payload)[5:])
            message = struct.pack(">BI", 0, len(message)) + message
            out += (
                frame(HEADERS, END_HEADERS, stream, HEAD),
                frame(DATA, 0, stream, message),
                frame(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS),
            )
        elif kind in (HEADERS, CONTINUATION):
            if flags & PRIORITY and kind == HEADERS:
                payload = payload[5:]
            self._block += payload
            if flags & END_HEADERS:
                fields = self._decoder.decode(self._block)
                self._block = b""
                if METHOD in fields:
                    self._bodies[stream] = b""
                else:
                    out.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, UNIMPLEMENTED))
        elif kind == RST_STREAM:
            self._bodies.pop(stream, None)
        elif kind in (PING, SETTINGS) and not flags & ACK:
            out.append(frame(kind, ACK, 0, payload if kind == PING else b""))


async def serve_plain(pipe: Pipe) -> None:
    """Serve until the pipe says stop: one address for the demo's services."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    pipe.send(dict.fromkeys(("hello", "business", "zone"), f"{host}:{port}"))
    await until_readable(pipe)
    server.close()
    pipe.send({})
