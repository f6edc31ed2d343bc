"""An HTTP/2 server that does what a script tells it: what is legal, however odd.

The h2 package keeps the state of each connection and judges what the client sends: what HTTP/2
forbids goes to ``ScriptedServer.faults``. On the way out a *shape* may cut, pad and split the
frames, and a connection may write piece by piece. What h2 would not send goes out by Peer.raw().

A script answers the first request; an ordinary server, which echoes, answers the ones behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PriorityFrame,
    RstStreamFrame,
)

from gatesvr._pb import upstream_pb2 as pb

REQUEST = "/gatesvr.proto.UpstreamService/ProcessRequest"
STREAM = "/gatesvr.proto.UpstreamService/ProcessStream"
HEAD = ((":status", "200"), ("content-type", "application/grpc"))
UNIMPLEMENTED = 12
LAST = 2**31 - 1
"""The last stream of a GOAWAY that names none."""
CLOSE_S = 10.0
"""Longest wait for clients to hang up."""
INITIAL_WINDOW_SIZE = SettingCodes.INITIAL_WINDOW_SIZE
HEADER_TABLE_SIZE = SettingCodes.HEADER_TABLE_SIZE
MAX_FRAME_SIZE = SettingCodes.MAX_FRAME_SIZE
MAX_CONCURRENT_STREAMS = SettingCodes.MAX_CONCURRENT_STREAMS
MAX_HEADER_LIST_SIZE = SettingCodes.MAX_HEADER_LIST_SIZE

Headers: TypeAlias = Iterable[tuple[str, str]]
Shape: TypeAlias = "Callable[[Frame], Iterator[Frame]]"
Play: TypeAlias = "Callable[[Peer, Asked], Awaitable[None]]"
Greet: TypeAlias = "Callable[[Peer], Awaitable[None]]"


@dataclass(eq=False)
class Asked:
    """A stream that the client opened."""

    id: int
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    is_ended: bool = False
    """Whether the client has half-closed it."""
    reset: int | None = None
    """The code of the client's RST_STREAM."""

    @property
    def path(self) -> str:
        return self.headers[":path"]

    def messages(self, most: int = 1 << 20) -> list[bytes]:
        """Take the whole messages that have come."""
        found: list[bytes] = []
        while len(self.body) >= 5 and len(found) < most:
            size = int.from_bytes(self.body[1:5], "big")
            assert self.body[0] == 0, "the client compresses"
            if len(self.body) < 5 + size:
                break
            found.append(bytes(self.body[5 : 5 + size]))
            del self.body[: 5 + size]
        return found


@dataclass
class Script:
    """What the server does.

    Attributes:
        answer: Answers the first ProcessRequest.
        stream: Serves the first ProcessStream, Peer.stream() the next; without it there is none.
        times: How many of either are the first ones.
        greet: Runs on the first connection, in place of its SETTINGS.
        settings: The first SETTINGS of every connection.
        shape: Cuts and pads every frame that goes out.
        piece: Bytes a write; 0 for all at once.
        gives_credit: Whether DATA that came opens the windows again.
    """

    answer: Play | None = None
    stream: Play | None = None
    times: int = 1
    greet: Greet | None = None
    settings: dict[int, int] = field(default_factory=dict)
    shape: Shape | None = None
    piece: int = 0
    gives_credit: bool = True


class Peer:
    """The server's end of one connection."""

    def __init__(
        self, server: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.script = server.script
        self.is_first = not server.peers
        self.asked: dict[int, Asked] = {}
        self.goodbye: int | None = None  # the code of the client's GOAWAY
        self.last = LAST  # of the streams that are served
        self.pongs = 0
        self.is_lost = False
        self.h2 = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._reader, self._writer = reader, writer
        self._moved = asyncio.Event()
        self._out = bytearray()
        self._plays: set[asyncio.Task[None]] = set()
        self._settings_open = 0
        self._settings_lock = asyncio.Lock()

    # What scripts do.

    def hello(self, settings: dict[int, int]) -> None:
        """Send the first SETTINGS; in force, as all of them, when the client acknowledges."""
        self.h2.initiate_connection()
        self.h2.clear_outbound_data_buffer()
        self.set(settings)

    def set(self, settings: dict[int, int]) -> None:
        """Send SETTINGS. Where others may be on their way, change() is right: h2 knows one."""
        self._settings_open += 1
        self.h2.update_settings(dict(settings))
        self.flush()

    async def change(self, settings: dict[int, int]) -> None:
        """Send SETTINGS when the last ones have been acknowledged, and wait until these are."""
        async with self._settings_lock:
            await self.acknowledged()
            self.set(settings)
            await self.acknowledged()

    async def acknowledged(self) -> None:
        """Wait until the client has acknowledged all SETTINGS."""
        await self.until(lambda: not self._settings_open)

    def headers(self, asked: Asked, headers: Headers, *, end: bool = False) -> None:
        self.h2.send_headers(asked.id, list(headers), end_stream=end)
        self.flush()

    def status(self, asked: Asked, status: int = 0, message: str = "", *more: str) -> None:
        """Send trailers, or an answer that is only trailers when nothing went before."""
        trailers = [("grpc-status", str(status))]
        if message:
            trailers.append(("grpc-message", message))
        if self.h2._get_stream_by_id(asked.id).state_machine.headers_sent is None:
            trailers = [*HEAD, *trailers]
        self.headers(asked, trailers, end=True)

    async def data(
        self, asked: Asked, data: bytes, *, end: bool = False, frame: int = 1 << 20, pad: int = -1
    ) -> None:
        """Send DATA as the client's windows allow.

        Args:
            asked: The stream.
            data: The bytes.
            end: Whether the last frame half-closes the stream.
            frame: Most bytes of data a frame.
            pad: Bytes of padding a frame; -1 for frames without.
        """
        extra, at = pad + 1, 0
        while True:
            size = await self._room(asked, len(data) - at, extra)
            size = min(size, frame)
            is_last = at + size == len(data)
            self.h2.send_data(
                asked.id,
                data[at : at + size],
                end_stream=end and is_last,
                pad_length=None if pad < 0 else pad,
            )
            self.flush()
            at += size
            if is_last:
                return

    async def _room(self, asked: Asked, size: int, extra: int) -> int:
        """Wait for a window; return how many of size bytes a frame may carry beside the padding."""

        def window() -> int:
            return self.h2.local_flow_control_window(asked.id) - extra

        await self.until(lambda: window() >= min(size, 1))
        return min(size, window(), self.h2.max_outbound_frame_size - extra)

    async def message(self, asked: Asked, message: bytes) -> None:
        await self.data(asked, framed(message))

    async def answer(self, asked: Asked, message: bytes) -> None:
        """Answer as most servers do."""
        self.headers(asked, HEAD)
        await self.message(asked, message)
        self.status(asked)

    async def request(self, asked: Asked) -> bytes:
        """Wait for the whole request; return its message."""
        await self.until(lambda: asked.is_ended)
        (message,) = asked.messages()
        assert not asked.body
        return message

    async def echo(self, asked: Asked) -> None:
        """Answer with the data of the request."""
        await self.answer(asked, echoed(await self.request(asked)))

    async def batch(self, asked: Asked) -> bytes:
        """Wait for a message of a ProcessStream; b"" at its end."""
        found: list[bytes] = []

        def has_come() -> bool:
            found.extend(asked.messages(1))
            return bool(found) or asked.is_ended

        await self.until(has_come)
        return found[0] if found else b""

    async def stream(self, asked: Asked) -> None:
        """Serve a ProcessStream: echo until the client half-closes it."""
        self.headers(asked, HEAD)
        while batch := await self.batch(asked):
            await self.message(asked, echoed_batch(batch))
        self.status(asked)

    def goaway(self, last: int, code: int = 0, text: bytes = b"") -> None:
        """Say goodbye; streams above the last one are not served."""
        self.last = last
        self.raw(GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=text))

    def reset(self, asked: Asked, code: int) -> None:
        try:
            self.h2.reset_stream(asked.id, code)
        except StreamClosedError:
            self.raw(RstStreamFrame(asked.id, error_code=code))
        self.flush()

    def raw(self, frame: Frame) -> None:
        """Send a frame that h2 does not know of."""
        self.flush()
        self._write(frame.serialize())

    def grant(self, asked: Asked, size: int) -> None:
        """Open the stream's window by size bytes."""
        self.h2.increment_flow_control_window(size, asked.id)
        self.flush()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so that the client's bytes can bring about."""
        while not condition():
            if self.is_lost:
                raise ConnectionError("the client is gone")
            self._moved.clear()
            await self._moved.wait()

    async def close(self) -> None:
        """Close the TCP connection behind what was written."""
        await self.until(lambda: not self._out)
        self._writer.close()

    def flush(self) -> None:
        """Send what h2 has ready, in the script's shape."""
        data = self.h2.data_to_send()
        shape = self.script.shape
        if shape is not None:
            data = b"".join(each.serialize() for frame in frames_of(data) for each in shape(frame))
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self._writer.is_closing():
            return
        if self.script.piece:
            self._out += data
            self._moved.set()
        else:
            self._writer.write(data)

    # Its life.

    async def serve(self) -> None:
        pump = asyncio.create_task(self._pump())
        try:
            if self.is_first and self.script.greet is not None:
                await self.script.greet(self)
            else:
                self.hello(self.script.settings)
            while data := await self._reader.read(1 << 16):
                for event in self.h2.receive_data(data):
                    self._take(event)
                self.flush()
                self._moved.set()
        except ProtocolError as error:
            self.server.faults.append(f"{type(error).__name__}: {error}")
        except ConnectionError:
            pass  # a client may hang up
        finally:
            self.is_lost = True
            self._moved.set()
            pump.cancel()
            await asyncio.wait({pump, *self._plays})
            self._writer.close()

    async def _pump(self) -> None:
        """Write piece by piece, with a turn of the loop in between, so that they arrive alone."""
        while True:
            while self._out:
                piece = bytes(self._out[: self.script.piece])
                del self._out[: len(piece)]
                self._writer.write(piece)
                await asyncio.sleep(0)
            self._moved.set()
            await self.until(lambda: self._out)

    def _take(self, event: events.Event) -> None:
        if isinstance(event, events.RequestReceived):
            asked = self.asked[event.stream_id] = Asked(
                event.stream_id, {str(name): str(value) for name, value in event.headers}
            )
            if asked.id <= self.last:
                play = asyncio.create_task(self._play(asked))
                self._plays.add(play)
                play.add_done_callback(self._plays.discard)
        elif isinstance(event, events.DataReceived):
            self.asked[event.stream_id].body += event.data
            if self.script.gives_credit:
                size = event.flow_controlled_length
                self.h2.acknowledge_received_data(size, event.stream_id)
        elif isinstance(event, events.StreamEnded):
            self.asked[event.stream_id].is_ended = True
        elif isinstance(event, events.StreamReset):
            self.asked[event.stream_id].reset = int(event.error_code)
        elif isinstance(event, events.SettingsAcknowledged):
            self._settings_open -= 1
            if self.script.gives_credit:
                self._open_windows()
        elif isinstance(event, events.PingAckReceived):
            self.pongs += 1
        elif isinstance(event, events.ConnectionTerminated):
            self.goodbye = int(event.error_code)
            if self.goodbye:
                self.server.faults.append(f"the client says {event.additional_data!r}")

    def _open_windows(self) -> None:
        """Open the windows that SETTINGS have closed; h2 leaves that to its user."""
        for asked in self.asked.values():
            if not asked.is_ended and asked.reset is None and asked.id in self.h2.streams:
                window = self.h2.remote_flow_control_window(asked.id)
                if window < 1 and self.h2.local_settings.initial_window_size:
                    self.h2.increment_flow_control_window(1 - window, asked.id)

    async def _play(self, asked: Asked) -> None:
        server = self.server
        if asked.path == REQUEST:
            server.requests += 1
            play = self.script.answer if server.requests <= self.script.times else None
            play = play or Peer.echo
        elif asked.path == STREAM:
            server.streams += 1
            play = self.script.stream or unimplemented
            if self.script.stream is not None and server.streams > self.script.times:
                play = Peer.stream
        else:
            play = unimplemented
        try:
            await play(self, asked)
        except ConnectionError:
            pass  # the client is gone
        except ProtocolError as error:
            if asked.reset is None and self.goodbye is None:
                server.faults.append(f"script: {error!r}")
        except Exception as error:
            server.faults.append(f"script: {error!r}")


class ScriptedServer:
    """Listens, and keeps what happened.

    Attributes:
        address: HOST:PORT.
        peers: Its connections, in the order in which they were made.
        faults: What clients did that HTTP/2 forbids, and scripts that failed.
        requests: ProcessRequests begun.
        streams: ProcessStreams begun.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.address = ""
        self.peers: list[Peer] = []
        self.faults: list[str] = []
        self.requests = 0
        self.streams = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(self, reader, writer)
        self.peers.append(peer)
        task = asyncio.create_task(peer.serve())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[ScriptedServer]:
    """Run a script on loopback. At the end all clients have gone and did nothing wrong."""
    server = ScriptedServer(script)
    listener = await asyncio.start_server(server.connected, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    server.address = f"{host}:{port}"
    try:
        yield server
    finally:
        listener.close()
        if server.tasks:
            _, late = await asyncio.wait(server.tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await listener.wait_closed()
    assert not server.faults, server.faults


def framed(message: bytes) -> bytes:
    """Return a message behind gRPC's prefix: a flag and four bytes of length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def echoed(request: bytes) -> bytes:
    """Return the answer that echoes a request."""
    return _echo(pb.UpstreamRequest.FromString(request)).SerializeToString()


def echoed_batch(batch: bytes) -> bytes:
    """Return the message that echoes a message of a ProcessStream."""
    asked = pb.UpstreamRequestBatch.FromString(batch)
    answers = pb.UpstreamResponseBatch(responses=map(_echo, asked.requests))
    return answers.SerializeToString()


def _echo(asked: pb.UpstreamRequest) -> pb.UpstreamResponse:
    return pb.UpstreamResponse(
        code=200,
        data=asked.data,
        client_seq_id=asked.client_seq_id,
        request_id=asked.request_id,
    )


async def unimplemented(peer: Peer, asked: Asked) -> None:
    peer.status(asked, UNIMPLEMENTED)


def unknown(stream_id: int, body: bytes = b"") -> Frame:
    """Return a frame of a type that HTTP/2 does not have, with all flags."""
    frame = ExtensionFrame(type=0xFA, stream_id=stream_id, flag_byte=0xFF, body=body)
    frame.body_len = len(body)  # taken as it is
    return frame


def frames_of(data: bytes) -> Iterator[Frame]:
    """Read frames."""
    view = memoryview(data)
    while view:
        frame, size = Frame.parse_frame_header(view[:9])
        frame.parse_body(view[9 : 9 + size])
        yield frame
        view = view[9 + size :]


# Shapes. Each takes a frame that h2 made and gives those that go out for it.


def cut(frame: HeadersFrame, sizes: Iterable[int]) -> list[Frame]:
    """Cut a header block into HEADERS and CONTINUATIONs of these sizes, and one of the rest."""
    block, at = frame.data, 0
    parts = []
    for size in (*sizes, len(block)):
        parts.append(block[at : at + size])
        at += size
    frame.data = parts[0]
    rest = [ContinuationFrame(frame.stream_id, data=part) for part in parts[1:]]
    frames = [frame, *rest]
    frame.flags.discard("END_HEADERS")
    frames[-1].flags.add("END_HEADERS")
    return frames


def one_byte_frames(frame: Frame) -> Iterator[Frame]:
    """Each frame carries one byte: of a message, or of a header block."""
    if isinstance(frame, HeadersFrame):
        yield from cut(frame, [1] * (len(frame.data) - 1))
    elif isinstance(frame, DataFrame) and len(frame.data) > 1:
        last = len(frame.data) - 1
        for at in range(last + 1):
            flags = ["END_STREAM"] if at == last and "END_STREAM" in frame.flags else []
            yield DataFrame(frame.stream_id, frame.data[at : at + 1], flags=flags)
    else:
        yield frame


def empty_ends(frame: Frame) -> Iterator[Frame]:
    """Header blocks begin in an empty HEADERS frame and end in an empty CONTINUATION."""
    if isinstance(frame, HeadersFrame):
        yield from cut(frame, [0, len(frame.data)])
    else:
        yield frame


def padded_headers(frame: Frame) -> Iterator[Frame]:
    """HEADERS are padded with 255 bytes and carry a priority."""
    if isinstance(frame, HeadersFrame):
        frame.flags.add("PADDED")
        frame.flags.add("PRIORITY")
        frame.pad_length = 255
        frame.depends_on, frame.stream_weight, frame.exclusive = 0, 200, True
    yield frame


def padded_with_nothing(frame: Frame) -> Iterator[Frame]:
    """HEADERS have the flag PADDED and no padding, and are continued."""
    if isinstance(frame, HeadersFrame):
        frame.flags.add("PADDED")
        yield from cut(frame, [len(frame.data) // 2])
    else:
        yield frame


def among_others(frame: Frame) -> Iterator[Frame]:
    """A frame of an unknown type and a PRIORITY go before each frame of a stream."""
    if frame.stream_id:
        yield unknown(frame.stream_id, b"what")
        yield unknown(0)
        yield PriorityFrame(frame.stream_id, depends_on=0, stream_weight=1)
    yield frame
