"""A gRPC server made by hand that says goodbye in two steps, as Go's servers do at their age.

First GOAWAY with the highest stream id and a PING: streams that the client opened before it read
them are served. When the PING is answered, GOAWAY with the last stream; later ones are ignored. The
connection closes once its streams have ended.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, cast

import hpack

from gatesvr._pb import upstream_pb2 as pb

from ...attack import http2_frames as h2

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GoawayServer"]

HIGHEST_STREAM = (1 << 31) - 1
WINDOW = 65_535
LARGE_WINDOW = 1 << 30
UNIMPLEMENTED = 12
ACCEPT_TURNS = 5
"""Turns of asyncio's loop from a connection that is accepted to its end, if that is at once."""


class GoawayServer:
    """Echoes what ProcessRequest, or ProcessStream, is asked.

    Args:
        has_stream: Whether it has ProcessStream.
        note: Called with the data of each request that it executes.
        delay: Time that each answer takes, seconds.
        age: Age at which it says goodbye to a connection, seconds.
        has_two_steps: Whether it says so in two steps; else as a server without them, at once.

    Attributes:
        connections: Connections accepted.
        goodbyes: Connections that it has said goodbye to.
    """

    def __init__(
        self,
        has_stream: bool,
        note: Callable[[bytes], None],
        delay: float,
        age: float,
        *,
        has_two_steps: bool = True,
    ) -> None:
        self.has_stream = has_stream
        self.note = note
        self.delay = delay
        self.age = age
        self.has_two_steps = has_two_steps
        self.connections = 0
        self.goodbyes = 0
        self.open: set[_Connection] = set()
        self.is_stopped = False
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen on a free port of loopback and return the address."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        return "{}:{}".format(*self._server.sockets[0].getsockname())

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.is_stopped = True
        for connection in list(self.open):
            connection.close()
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)


class _Stream:
    """A request under way: what has come of it, and the credit for its answers."""

    def __init__(self, path: str, window: int) -> None:
        self.path = path
        self.window = window
        self.received = bytearray()
        self.unsent = bytearray()
        self.running = 0
        self.is_finished = False


class _Connection(asyncio.Protocol):
    def __init__(self, server: GoawayServer) -> None:
        self._server = server
        self._frames = h2.Frames()
        self._decoder = hpack.Decoder()
        self._streams: dict[int, _Stream] = {}
        self._unread = len(h2.PREFACE)
        self._window = WINDOW
        self._initial_window = WINDOW
        self._last = 0
        self._is_final = False
        self._is_leaving = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._server.is_stopped:
            self._transport.abort()
            return
        self._server.connections += 1
        self._server.open.add(self)
        self._write(h2.settings((h2.INITIAL_WINDOW_SIZE, LARGE_WINDOW)))
        self._write(h2.window_update(0, LARGE_WINDOW))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._server.age, self._say_goodbye)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.open.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        skipped = min(self._unread, len(data))
        self._unread -= skipped
        for kind, flags, stream, payload in self._frames.feed(data[skipped:]):
            self._handle(kind, flags, stream, payload)

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    # Goodbyes.

    def _say_goodbye(self) -> None:
        self._server.goodbyes += 1
        self._is_leaving = True
        if self._server.has_two_steps:
            self._write(h2.goaway(HIGHEST_STREAM) + h2.frame(h2.PING, 0, 0, b"goodbye!"))
        else:
            self._end_opening()

    def _end_opening(self) -> None:
        self._is_final = True
        self._write(h2.goaway(self._last))
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_final and not self._streams:
            self._transport.close()

    # Frames.

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == h2.HEADERS:
            fields = dict(self._decoder.decode(payload))
            if not self._is_final:
                self._last = stream
                self._open(stream, fields[":path"].rpartition("/")[2])
        elif kind == h2.DATA:
            self._receive(stream, payload, ends=bool(flags & h2.END_STREAM))
        elif kind == h2.RST_STREAM:
            self._streams.pop(stream, None)
            self._close_if_done()
        elif kind == h2.PING:
            if not flags & h2.ACK:
                self._write(h2.frame(h2.PING, h2.ACK, 0, payload))
            elif payload == b"goodbye!":
                self._end_opening()
        elif kind == h2.SETTINGS and not flags & h2.ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == h2.INITIAL_WINDOW_SIZE:
                    for other in self._streams.values():
                        other.window += value - self._initial_window
                    self._initial_window = value
            self._write(h2.frame(h2.SETTINGS, h2.ACK))
        elif kind == h2.WINDOW_UPDATE:
            (credit,) = struct.unpack(">I", payload)
            if not stream:
                self._window += credit
            elif found := self._streams.get(stream):
                found.window += credit
            for number, waiting in list(self._streams.items()):
                self._send(number, waiting)

    def _open(self, number: int, method: str) -> None:
        self._streams[number] = _Stream(method, self._initial_window)
        if method == "ProcessStream" and self._server.has_stream:
            self._write(h2.response(number))
        elif method != "ProcessRequest":
            del self._streams[number]
            self._write(h2.trailers(number, UNIMPLEMENTED, only=True))

    def _receive(self, number: int, payload: bytes, *, ends: bool) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.received += payload
        received = stream.received
        while len(received) >= 5:
            size = int.from_bytes(received[1:5])
            if len(received) < 5 + size:
                break
            message = bytes(received[5 : 5 + size])
            del received[: 5 + size]
            answers = self._answer(stream, message)
            stream.running += 1
            asyncio.get_running_loop().call_later(
                self._server.delay, self._answered, number, stream, answers
            )
        stream.is_finished |= ends
        self._send(number, stream)

    def _answered(self, number: int, stream: _Stream, answers: bytes) -> None:
        stream.running -= 1
        if self._streams.get(number) is not stream:
            return  # reset
        if stream.path == "ProcessRequest":
            self._write(h2.response(number))
        stream.unsent += h2.message(answers)
        self._send(number, stream)

    def _answer(self, stream: _Stream, message: bytes) -> bytes:
        if stream.path == "ProcessRequest":
            return self._execute(pb.UpstreamRequest.FromString(message)).SerializeToString()
        batch = pb.UpstreamRequestBatch.FromString(message)
        responses = [self._execute(request) for request in batch.requests]
        return pb.UpstreamResponseBatch(responses=responses).SerializeToString()

    def _execute(self, request: pb.UpstreamRequest) -> pb.UpstreamResponse:
        self._server.note(request.data)
        return pb.UpstreamResponse(
            code=200,
            data=request.data,
            client_seq_id=request.client_seq_id,
            request_id=request.request_id,
        )

    def _send(self, number: int, stream: _Stream) -> None:
        """Send as much of a stream's answers as the windows allow, and its end behind them."""
        while stream.unsent and (size := min(self._window, stream.window, 16_384)) > 0:
            part = bytes(stream.unsent[:size])
            del stream.unsent[:size]
            self._window -= len(part)
            stream.window -= len(part)
            self._write(h2.frame(h2.DATA, 0, number, part))
        if stream.is_finished and not stream.running and not stream.unsent:
            del self._streams[number]
            self._write(h2.trailers(number))
            self._close_if_done()
