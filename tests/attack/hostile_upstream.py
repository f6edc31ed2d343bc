"""Upstreams that break HTTP/2 or drive it to its limits: a raw TCP server and its scripts.

Each script is what one connection of the gateway meets. It sends until the gateway ends the
connection, but never more than MAX_SENT bytes: that much says that nothing has stopped it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

import hpack

from . import http2_frames as h2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["MAX_SENT", "SCRIPTS", "HostileUpstream", "Peer", "Script", "hostile_upstream"]

Script: TypeAlias = "Callable[[Peer], Awaitable[None]]"

MIB = 1 << 20
MAX_SENT = 64 * MIB
CHUNK = 64 << 10
LARGEST_WINDOW = (1 << 31) - 1
METHOD = "/gatesvr.proto.UpstreamService/ProcessRequest"
STREAM = "/gatesvr.proto.UpstreamService/ProcessStream"
UNIMPLEMENTED = 12
TINY = b"\x08\xc8\x01\x1a\xfe\xff\x03" + bytes((64 << 10) - 2)  # UpstreamResponse: 200, data
REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0x7, 0x8, 0xB


class Peer:
    """One connection of the gateway, as its upstream has it.

    It answers what an honest server would (SETTINGS, PING, and UNIMPLEMENTED for all but
    ProcessRequest), and leaves the rest to its script.

    Attributes:
        sent: Bytes written.
        max_sent: Most bytes that it writes.
        goaway: The code that the gateway ended the connection with, None without one.
        has_stream: Whether ProcessStream is accepted.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = hpack.Decoder()
        self._requests: asyncio.Queue[int] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None
        self.sent = 0
        self.max_sent = MAX_SENT
        self.goaway: int | None = None
        self.has_stream = False

    async def greet(self, *settings: tuple[int, int], has_stream: bool = False) -> None:
        """Read the preface, send SETTINGS, and read on in the background."""
        self.has_stream = has_stream
        await self._reader.readexactly(len(h2.PREFACE))
        await self.send(h2.settings(*settings))
        self._reading = asyncio.ensure_future(self._read())

    async def send(self, data: bytes) -> None:
        """Send; ConnectionError where the gateway has ended the connection, or enough was sent."""
        if self.sent > self.max_sent:
            raise ConnectionError("nothing has stopped it")
        self.sent += len(data)
        self._writer.write(data)
        await self._writer.drain()
        if self._reading is not None and self._reading.done():
            raise ConnectionError("the gateway has ended the connection")
        # A drain that has nothing to wait for gives the reader no turn.
        await asyncio.sleep(0)

    async def flood(self, data: bytes) -> None:
        """Send the same again and again."""
        chunk = data * max(1, CHUNK // len(data))
        while True:
            await self.send(chunk)

    async def request(self) -> int:
        """Return the stream of the next request: ProcessStream's, too, where it is accepted."""
        return await self._requests.get()

    def stop_reading(self) -> None:
        """Leave what the gateway sends in the socket."""
        assert self._reading is not None
        self._reading.cancel()
        self._reading = None

    async def until_closed(self) -> None:
        """Wait for the gateway's end of the connection."""
        assert self._reading is not None
        await asyncio.wait({self._reading})

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        frames = h2.Frames()
        with suppress(ConnectionError):
            while data := await self._reader.read(CHUNK):
                for kind, flags, stream, payload in frames.feed(data):
                    self._handle(kind, flags, stream, payload)

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == h2.HEADERS:
            path = dict(self._decoder.decode(payload))[":path"]
            if path == METHOD or (self.has_stream and path == STREAM):
                self._requests.put_nowait(stream)
            else:
                self._writer.write(h2.trailers(stream, UNIMPLEMENTED, only=True))
        elif kind == h2.GOAWAY:
            self.goaway = struct.unpack_from(">I", payload, 4)[0]
        elif kind == h2.SETTINGS and not flags & h2.ACK:
            self._writer.write(h2.frame(h2.SETTINGS, h2.ACK))
        elif kind == h2.PING and not flags & h2.ACK:
            self._writer.write(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.DATA and payload:
            credit = h2.window_update(0, len(payload))
            self._writer.write(credit + h2.window_update(stream, len(payload)))


class HostileUpstream:
    """A TCP server whose connections all follow one script.

    Attributes:
        address: HOST:PORT.
        connections: Connections accepted.
        peers: Those open now.
        sent: Bytes sent on all of them.
        most_sent: On any of them.
        goaways: Codes of the gateway's GOAWAYs.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.peers: set[Peer] = set()
        self.address = ""
        self.connections = 0
        self.most_sent = 0
        self.goaways: Counter[int] = Counter()
        self._sent_before = 0

    async def start(self) -> str:
        """Listen on a free port of loopback and return the address."""
        sock = socket.create_server(("127.0.0.1", 0))
        # Small buffers: what is not read or cannot be written shows at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        self._server = await asyncio.start_server(self._accept, sock=sock)
        self.address = "{}:{}".format(*sock.getsockname())
        return self.address

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def sent(self) -> int:
        return self._sent_before + sum(peer.sent for peer in self.peers)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        peer = Peer(reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.peers.add(peer)
        try:
            with suppress(ConnectionError, EOFError):
                await self._script(peer)
            if peer._reading is not None:
                await peer.until_closed()
        except asyncio.CancelledError:
            return  # stop(); the streams module would log it otherwise
        finally:
            self._tasks.discard(task)
            self.peers.discard(peer)
            self._sent_before += peer.sent
            self.most_sent = max(self.most_sent, peer.sent)
            if peer.goaway is not None:
                self.goaways[peer.goaway] += 1
            await peer.close()


@asynccontextmanager
async def hostile_upstream(script: Script) -> AsyncIterator[HostileUpstream]:
    """Run a HostileUpstream."""
    upstream = HostileUpstream(script)
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()


# The scripts.


async def window_credit(peer: Peer) -> None:
    """Give more credit than a window may have."""
    await peer.greet()
    await peer.flood(h2.window_update(0, LARGEST_WINDOW))


async def stream_credit(peer: Peer) -> None:
    """Give one stream more credit than a window may have."""
    await peer.greet()
    await peer.flood(h2.window_update(await peer.request(), LARGEST_WINDOW))


async def initial_window(peer: Peer) -> None:
    """Set an initial window above the largest."""
    await peer.greet((h2.INITIAL_WINDOW_SIZE, 1 << 31))


async def window_overflow(peer: Peer) -> None:
    """Begin a large message in every answer, and send all of them but the last byte."""
    await peer.greet()
    body = bytes(16 << 10)
    while True:
        stream = await peer.request()
        await peer.send(h2.response(stream) + h2.frame(h2.DATA, 0, stream, h2.message(b"", MIB)))
        for _ in range(63):
            await peer.send(h2.frame(h2.DATA, 0, stream, body))


async def hoard(peer: Peer) -> None:
    """Begin a message of 16 MiB in every answer, and send all of them but the last byte."""
    await peer.greet()
    peer.max_sent = 2 * MAX_SENT
    body = bytes(16 << 10)
    while True:
        stream = await peer.request()
        head = h2.frame(h2.DATA, 0, stream, h2.message(b"", 16 * MIB))
        await peer.send(h2.response(stream) + head)
        for _ in range(1_023):
            await peer.send(h2.frame(h2.DATA, 0, stream, body))


async def data_without_credit(peer: Peer) -> None:
    """Send an answer's message, and then megabytes behind it."""
    await peer.greet()
    stream = await peer.request()
    await peer.send(h2.response(stream) + h2.frame(h2.DATA, 0, stream, h2.message(b"")))
    await peer.flood(h2.frame(h2.DATA, 0, stream, bytes(16 << 10)))


async def endless_continuation(peer: Peer) -> None:
    """Begin a header block that never ends, a frame of one field at a time."""
    await peer.greet()
    stream = await peer.request()
    await peer.send(h2.frame(h2.HEADERS, 0, stream, h2.literal(b"a", b"b")))
    await peer.flood(h2.frame(h2.CONTINUATION, 0, stream, h2.literal(b"a", b"b")))


async def empty_continuation(peer: Peer) -> None:
    """Begin a header block and go on with empty frames."""
    await peer.greet()
    stream = await peer.request()
    await peer.send(h2.frame(h2.HEADERS, 0, stream))
    await peer.flood(h2.frame(h2.CONTINUATION, 0, stream))


async def large_continuation(peer: Peer) -> None:
    """Begin a header block that never ends, in frames as large as they may be."""
    await peer.greet()
    stream = await peer.request()
    await peer.send(h2.frame(h2.HEADERS, 0, stream))
    await peer.flood(h2.frame(h2.CONTINUATION, 0, stream, h2.literal(b"a", bytes(16_000))))


async def hpack_bomb(peer: Peer) -> None:
    """Put a field of 4,000 bytes into the table, and name it 16,000 times in one byte each."""
    await peer.greet()
    while True:
        stream = await peer.request()
        block = h2.literal(b"a", bytes(3_900), 0x40) + b"\xbe" * 12_000
        await peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, block))


async def hpack_garbage(peer: Peer) -> None:
    """Send header blocks that do not decode: an index of nothing, a string without its end."""
    await peer.greet()
    stream = await peer.request()
    await peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, b"\xff\xff\xff\xff\xff\xff\x7f"))


async def huge_frame(peer: Peer) -> None:
    """Announce a frame of 16 MiB, and send it."""
    await peer.greet()
    stream = await peer.request()
    await peer.send(h2.response(stream) + h2.frame(h2.DATA, 0, stream, b"", (1 << 24) - 1))
    await peer.flood(bytes(CHUNK))


async def settings_flood(peer: Peer) -> None:
    """Send SETTINGS without end; each has to be acknowledged."""
    await peer.greet()
    await peer.flood(h2.settings())


async def settings_changes(peer: Peer) -> None:
    """Change the initial window without end while calls are open."""
    await peer.greet()
    await peer.request()
    await peer.flood(h2.settings(*((h2.INITIAL_WINDOW_SIZE, 1 + i % 7) for i in range(100))))


async def ping_flood(peer: Peer) -> None:
    """Send PINGs without end, and read no answer."""
    await peer.greet()
    await peer.request()
    peer.stop_reading()
    await peer.flood(h2.frame(h2.PING, 0, 0, bytes(8)))


async def priority_flood(peer: Peer) -> None:
    """Send PRIORITY frames, which nobody needs."""
    await peer.greet()
    await peer.flood(h2.frame(h2.PRIORITY, 0, 1, bytes(5)))


async def unknown_flood(peer: Peer) -> None:
    """Send frames of a type that nobody knows."""
    await peer.greet()
    await peer.flood(h2.frame(0xFA, 0, 0, b"x"))


async def empty_data(peer: Peer) -> None:
    """Answer with DATA frames of no bytes, without end."""
    await peer.greet()
    stream = await peer.request()
    await peer.send(h2.response(stream))
    await peer.flood(h2.frame(h2.DATA, 0, stream))


async def padding(peer: Peer) -> None:
    """Answer with DATA frames of nothing but padding, without end."""
    await peer.greet()
    stream = await peer.request()
    await peer.send(h2.response(stream))
    await peer.flood(h2.frame(h2.DATA, h2.PADDED, stream, b"\xff" + bytes(255)))


async def window_trickle(peer: Peer) -> None:
    """Give credit a byte at a time, without end."""
    await peer.greet()
    await peer.flood(h2.window_update(0, 1))


async def resets(peer: Peer) -> None:
    """Reset each call as it comes."""
    await peer.greet()
    while True:
        await peer.send(h2.rst_stream(await peer.request(), CANCEL))


async def refusals(peer: Peer) -> None:
    """Reset each call as it comes, and say that it was not started."""
    await peer.greet()
    while True:
        await peer.send(h2.rst_stream(await peer.request(), REFUSED_STREAM))


async def dead_resets(peer: Peer) -> None:
    """Reset a call, and the same one again without end."""
    await peer.greet()
    await peer.flood(h2.rst_stream(await peer.request(), CANCEL))


async def idle_stream(peer: Peer) -> None:
    """Answer calls that nobody made."""
    await peer.greet()
    await peer.send(h2.response(999_999) + h2.trailers(999_999))


async def own_stream(peer: Peer) -> None:
    """Open streams of its own."""
    await peer.greet()
    await peer.flood(h2.headers(2, (b":method", b"GET")))


async def push_promise(peer: Peer) -> None:
    """Promise a push, which SETTINGS forbid."""
    await peer.greet()
    stream = await peer.request()
    promised = struct.pack(">I", 2) + h2.literal(b":method", b"GET")
    await peer.send(h2.frame(h2.PUSH_PROMISE, h2.END_HEADERS, stream, promised))


async def ended_stream(peer: Peer) -> None:
    """Answer a call, and then go on sending on its stream."""
    await peer.greet()
    stream = await peer.request()
    await peer.send(h2.response(stream) + h2.trailers(stream, 2))
    await peer.flood(h2.trailers(stream, 2))


async def tiny_frames(peer: Peer) -> None:
    """Answer with messages of 64 KiB, a byte a frame: legal, and slow."""
    await peer.greet()
    while True:
        stream = await peer.request()
        prefix = h2.message(b"", len(TINY))
        await peer.send(h2.response(stream) + h2.frame(h2.DATA, 0, stream, prefix))
        frames = [h2.frame(h2.DATA, 0, stream, TINY[at : at + 1]) for at in range(len(TINY))]
        await peer.send(b"".join(frames) + h2.trailers(stream))


async def giant_message(peer: Peer) -> None:
    """Announce a message of 4 GiB, and begin to send it."""
    await peer.greet()
    while True:
        stream = await peer.request()
        head = h2.frame(h2.DATA, 0, stream, h2.message(b"", (1 << 32) - 1))
        await peer.send(h2.response(stream) + head + h2.frame(h2.DATA, 0, stream, bytes(16_000)))


async def large_trailers(peer: Peer) -> None:
    """End each call with a message of 15,000 bytes for the log and the client."""
    await peer.greet()
    while True:
        stream = await peer.request()
        await peer.send(h2.trailers(stream, 13, (b"grpc-message", b"%0A%1B" * 2_500), only=True))


async def http1(peer: Peer) -> None:
    """Speak HTTP/1."""
    await peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await peer._reader.read()


async def garbage(peer: Peer) -> None:
    """Send random bytes in the place of frames."""
    await peer.flood(os.urandom(4_096))


async def late_garbage(peer: Peer) -> None:
    """Begin well, and send random bytes behind the first request."""
    await peer.greet()
    await peer.request()
    await peer.flood(os.urandom(4_096))


async def silence(peer: Peer) -> None:
    """Accept connections and say nothing."""
    while await peer._reader.read(CHUNK):
        pass


async def never_reads(peer: Peer) -> None:
    """Give all the credit there is, and then read nothing more."""
    await peer.greet((h2.INITIAL_WINDOW_SIZE, LARGEST_WINDOW))
    await peer.send(h2.window_update(0, LARGEST_WINDOW - 65_535))
    await peer.request()
    peer.stop_reading()
    await asyncio.Event().wait()


async def no_credit(peer: Peer) -> None:
    """Take calls, and give no credit for their messages."""
    await peer.greet((h2.INITIAL_WINDOW_SIZE, 0))
    await peer.until_closed()


async def goaway_loop(peer: Peer) -> None:
    """Accept connections, and say goodbye at once on each."""
    await peer.greet()
    await peer.send(h2.goaway(0))


async def goaway_flood(peer: Peer) -> None:
    """Say goodbye without end, and never go."""
    await peer.greet()
    stream = await peer.request()
    await peer.flood(h2.goaway(stream, ENHANCE_YOUR_CALM, b"too_many_pings"))


async def goaway_after_each(peer: Peer) -> None:
    """Say goodbye before each call, which was not started, and close."""
    await peer.greet()
    await peer.request()
    await peer.send(h2.goaway(0))
    await peer.close()


async def closing(peer: Peer) -> None:
    """Accept connections and close them at once."""
    await peer.close()


async def unknown_answers(peer: Peer) -> None:
    """Accept ProcessStream, and answer requests that nobody made."""
    await peer.greet(has_stream=True)
    stream = await peer.request()
    await peer.send(h2.response(stream))
    answer = b"\x0a\x04\x50\xff\xff\x7f"  # UpstreamResponseBatch, one with a request_id
    await peer.flood(h2.frame(h2.DATA, 0, stream, h2.message(answer)))


async def empty_messages(peer: Peer) -> None:
    """Accept ProcessStream, and send messages without any answer."""
    await peer.greet(has_stream=True)
    stream = await peer.request()
    await peer.send(h2.response(stream))
    await peer.flood(h2.frame(h2.DATA, 0, stream, h2.message(b"")))


SCRIPTS: dict[str, Script] = {
    script.__name__: script
    for script in (
        window_credit,
        stream_credit,
        initial_window,
        window_overflow,
        hoard,
        data_without_credit,
        endless_continuation,
        empty_continuation,
        large_continuation,
        hpack_bomb,
        hpack_garbage,
        huge_frame,
        settings_flood,
        settings_changes,
        ping_flood,
        priority_flood,
        unknown_flood,
        empty_data,
        padding,
        window_trickle,
        resets,
        refusals,
        dead_resets,
        idle_stream,
        own_stream,
        push_promise,
        ended_stream,
        tiny_frames,
        giant_message,
        large_trailers,
        http1,
        garbage,
        late_garbage,
        silence,
        never_reads,
        no_credit,
        goaway_loop,
        goaway_flood,
        goaway_after_each,
        closing,
        unknown_answers,
        empty_messages,
    )
}
"""By name."""
