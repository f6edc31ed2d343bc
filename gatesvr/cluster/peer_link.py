"""PeerLinks: the way to the other processes of a gateway, over gRPC on unix sockets.

Each process serves one socket, and keeps a stream to each sibling that it has something to ask of;
calls go one way on a stream, their answers the other. All that a turn of the loop has to say to a
sibling is one message.

What the link promises: a call reaches its handler at most once. It is never sent again by itself,
so whoever calls again after a PeerUnreachableError may have asked twice, and what asks twice must
be safe to ask twice: the handlers are (MOVING), each by an id of its own. A call is not begun after
its deadline, however late it is read, as long as both processes are on one machine.

A sibling that disappears ends the calls to it at once. One that stalls holds up nobody but those
who ask it, and those until their deadlines; it costs max_calls and max_bytes at most.

A process that closes cuts no stream: it half-closes those that it opened, and ends with OK those
that it serves, after the answers that are ready. gRPC logs a traceback where a stream is cut and
the loop ends before its handler has.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from ..errors import GatesvrError
from ..grpcio import CALL_ENDED, make_channel, make_server, raise_if_cancelled
from ..observe.log import keys
from ..observe.metrics import Counter, Counters, Gauge
from .directory import DirectoryUnreachableError
from .frames import (
    MAX_BATCH_BYTES,
    MAX_TEXT_BYTES,
    FrameError,
    FrameQueue,
    FrameReader,
    Outgoing,
)
from .peers import PeerNotAskedError, PeerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from .calls import Call
    from .directory import Directory
    from .frames import Incoming
    from .peers import Handlers

    Write = Callable[[bytes], Awaitable[None]]
    _ToSibling = grpc.aio.StreamStreamCall[bytes, bytes]

__all__ = ["PeerCounters", "PeerLinks", "PeerSocketError"]

logger = logging.getLogger("gatesvr.cluster")

Q = TypeVar("Q", bound="Message")
A = TypeVar("A", bound="Message")

SERVICE = "gatesvr.proto.Peer"
EXCHANGE = "Exchange"
CONNECT_S = 2.0
"""Longest wait for a stream to a sibling."""
LOOK_UP_S = 2.0
"""Longest wait for the directory's list of nodes."""
MIN_PAUSE_S = 0.05
MAX_PAUSE_S = 1.0
"""Between two attempts to reach a sibling; a call in between fails at once."""
HINT_S = 5.0
"""How long a hint is worth sending."""
CLOSE_S = 2.0
"""Longest wait for streams to end by themselves; then they are cut."""
MAX_RUNNING = 8_192
"""Calls of one sibling under way here; more are refused."""
MAX_PATH_BYTES = 103
"""Of a unix socket's path: the shortest limit of the systems we run on."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_BATCH_BYTES),
    ("grpc.max_send_message_length", MAX_BATCH_BYTES),
    # A batch that was written is never sent again by itself.
    ("grpc.enable_retries", 0),
)
_SERVES = (("gatesvr-peer", "serves"),)
"""Initial metadata of a stream. There is none where it was not let in."""
_END_TURNS = 4
"""Turns of the loop in which gRPC's tasks around a handler end behind it."""


class PeerSocketError(GatesvrError):
    """The socket for siblings cannot be opened."""


@dataclass(slots=True)
class PeerCounters(Counters):
    """What a process and its siblings have said to each other."""

    links: Gauge = 0
    """Streams to siblings."""
    peers_reached: Counter = 0
    """Streams to siblings that were opened."""
    peers_lost: Counter = 0
    """Streams to siblings that broke."""
    peers_unreached: Counter = 0
    """Attempts to reach a sibling that failed."""
    peer_calls: Counter = 0
    """Calls of siblings that were sent."""
    peer_calls_refused: Counter = 0
    """Calls that were not sent, because the sibling has too many or too much to answer."""
    peer_calls_broken: Counter = 0
    """Calls that the sibling's disappearance ended, or its absence."""
    peer_calls_expired: Counter = 0
    """Calls that were not answered in time."""
    peer_calls_failed: Counter = 0
    """Calls that failed at the sibling, or were answered by nonsense."""
    peer_answers_late: Counter = 0
    """Answers that nobody waited for any more."""
    peer_hints_dropped: Counter = 0
    """Hints that were not sent."""
    peer_requests: Counter = 0
    """Calls and hints of siblings that were served."""
    peer_requests_expired: Counter = 0
    """Calls of siblings that were read after their deadline."""
    peer_requests_failed: Counter = 0
    """Calls of siblings that could not be served: unknown, nonsense, too many, or an error here."""
    peer_answers_dropped: Counter = 0
    """Answers for siblings that found no room, or nobody who waits."""
    peer_violations: Counter = 0
    """Streams that were ended because a sibling broke their rules."""


def _place(path: str | Path) -> str:
    """Return where a socket is to be.

    Raises:
        PeerSocketError: No socket, or no private one, can be there.
    """
    place = Path(str(path).removeprefix("unix:"))
    if len(os.fsencode(place)) > MAX_PATH_BYTES:
        raise PeerSocketError(f"{place}: a socket's path has {MAX_PATH_BYTES} bytes at most")
    try:
        mode = place.parent.stat().st_mode
    except OSError as error:
        raise PeerSocketError(f"{place.parent}: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise PeerSocketError(f"{place.parent}: other users can reach it; its mode must be 700")
    return str(place)


def _now_ms() -> int:
    """Return the clock that all processes of this machine share."""
    return int(time.monotonic() * 1000) + 1


class PeerLinks:
    """Peers over gRPC on unix sockets.

    Addresses are known by add(), or learned from the directory as they are needed.

    Args:
        node_id: Of this process. Calls to it are served without a stream.
        max_calls: Calls to one sibling that may wait for their answers; more are refused.
        max_bytes: Bytes that may wait to be sent to one sibling, or for its answers; what would
            pass it is refused, unless nothing else waits.
    """

    def __init__(self, node_id: str, *, max_calls: int = 4_096, max_bytes: int = 64 << 20) -> None:
        self.node_id = node_id
        self.counters = PeerCounters()
        self.max_calls = max_calls
        self.max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._directory: Directory | None = None
        self._handlers: dict[str, tuple[Call[Any, Any], Callable[[Any, float], Any]]] = {}
        self._addresses: dict[str, str] = {}
        self._learned: dict[str, str] = {}
        self._learning: asyncio.Task[None] | None = None
        self._links: dict[str, _Link] = {}
        self._server: grpc.aio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._served: set[_Stream] = set()
        self._told: set[str] = set()
        self._is_closed = False

    # What this process serves.

    async def serve(self, path: str | Path, handlers: Handlers) -> None:
        """Serve siblings on a unix socket, until close().

        Args:
            path: Of the socket, in a directory that is this user's alone.
            handlers: What serves each call; see handle().

        Raises:
            PeerSocketError: It cannot be opened there.
        """
        place = _place(path)
        self.handle(handlers)
        server = make_server(MAX_BATCH_BYTES)
        exchange: grpc.RpcMethodHandler[bytes, bytes]
        exchange = grpc.stream_stream_rpc_method_handler(self._exchange)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {EXCHANGE: exchange}),)
        )
        try:
            server.add_insecure_port(f"unix:{place}")
            await server.start()
            os.chmod(place, 0o600)
        except (RuntimeError, OSError) as error:
            await server.stop(0)
            raise PeerSocketError(f"{place}: {error}") from None
        self._server = server

    def handle(self, handlers: Handlers) -> None:
        """Add what serves further calls.

        A handler returns the answer, or a coroutine of it, and may run twice for one call. It is
        not stopped when its caller gives up, and an error in it is an error to its caller.
        """
        self._handlers.update({call.name: (call, serve) for call, serve in handlers.items()})

    # Whom it reaches.

    def add(self, node_id: str, path: str | Path) -> None:
        """Name the socket of a sibling that the directory does not name."""
        self._addresses[node_id] = str(path).removeprefix("unix:")

    def learn_from(self, directory: Directory) -> None:
        """Look up in a directory the siblings that were not added."""
        self._directory = directory

    def remove(self, node_id: str) -> None:
        """Forget a sibling that has ended; its calls fail at once."""
        self._addresses.pop(node_id, None)
        self._learned.pop(node_id, None)
        link = self._links.pop(node_id, None)
        if link is not None:
            link.close("it has ended")

    async def close(self) -> None:
        """End all calls, and all streams within CLOSE_S."""
        self._is_closed = True
        ending = [
            task for link in self._links.values() if (task := link.close("this process ends"))
        ]
        self._links.clear()
        for stream in self._served:
            stream.end()
        if self._server is not None:
            ending.append(asyncio.ensure_future(self._server.stop(CLOSE_S)))
        if ending:
            await asyncio.wait(ending)
        for _ in range(_END_TURNS):
            if self._served:
                await asyncio.wait([stream.task for stream in self._served], timeout=CLOSE_S)
            await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)

    async def call(self, node_id: str, call: Call[Q, A], request: Q, within: float) -> A:
        """See Peers."""
        deadline = self._loop.time() + within
        if node_id == self.node_id:
            return cast("A", await self._call_here(call, request, deadline))
        link = self._link(node_id)
        waiting = link.ask(call.name, request.SerializeToString(), deadline)
        timer = self._loop.call_at(deadline, link.expire, waiting)
        try:
            body = await waiting.future
        finally:
            timer.cancel()
            link.forget(waiting)
        try:
            return call.answer.FromString(body)
        except DecodeError:
            self.counters.peer_calls_failed += 1
            raise PeerUnreachableError(f"{call.name}: {node_id} answers nonsense") from None

    def tell(self, node_id: str, call: Call[Q, A], request: Q) -> None:
        """See Peers."""
        if node_id == self.node_id:
            self._loop.call_soon(self._told_here, call, request)
            return
        try:
            link = self._link(node_id)
        except PeerUnreachableError:
            self.counters.peer_hints_dropped += 1
            return
        link.tell(call.name, request.SerializeToString())

    def _link(self, node_id: str) -> _Link:
        if self._is_closed:
            raise PeerNotAskedError("this process ends")
        link = self._links.get(node_id)
        if link is None:
            now = self._loop.time()
            for other in [n for n, link in self._links.items() if link.is_idle(now)]:
                del self._links[other]
            link = self._links[node_id] = _Link(self, node_id)
        return link

    async def find(self, node_id: str) -> str:
        """Return the path of a sibling's socket.

        Raises:
            PeerUnreachableError: There is none, or the directory has not said so in time.
        """
        path = self._addresses.get(node_id) or self._learned.get(node_id)
        if path is None and self._directory is not None:
            if self._learning is None:
                self._learning = self.start(self._learn(self._directory))
            await asyncio.shield(self._learning)
            path = self._learned.get(node_id)
        if path is None:
            raise PeerUnreachableError("no such node")
        return path

    async def _learn(self, directory: Directory) -> None:
        try:
            async with asyncio.timeout(LOOK_UP_S):
                nodes = await directory.nodes()
        except (DirectoryUnreachableError, TimeoutError):
            return
        finally:
            self._learning = None
        self._learned = {node.node_id: node.address.removeprefix("unix:") for node in nodes}

    def unlearn(self, node_id: str) -> None:
        """Look a sibling up again when it is needed again."""
        self._learned.pop(node_id, None)

    def start(self, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine that close() ends."""
        task: asyncio.Task[Any] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Serving.

    async def _exchange(
        self, _batches: object, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        """Serve a sibling's stream until it ends."""
        task = asyncio.current_task()
        assert task is not None
        stream = _Stream(self, task)
        self._served.add(stream)
        task.add_done_callback(lambda _: self._served.discard(stream))
        if not self._is_closed:
            await context.send_initial_metadata(_SERVES)
        if self._is_closed:
            return
        writer = self.start(stream.writer.run(context.write))
        stream.reading = reading = self.start(stream.read(context.read))
        try:
            await asyncio.wait((reading,))
            if not stream.is_open:  # close() has ended it
                await asyncio.wait((writer,))
            elif not reading.cancelled():
                reading.result()
        except FrameError as error:
            self.counters.peer_violations += 1
            logger.error("peer_violation", extra=keys(why=str(error)))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            stream.is_open = False
            reading.cancel()
            writer.cancel()

    async def _call_here(self, call: Call[Q, A], request: Q, deadline: float) -> Message:
        counters = self.counters
        answer = self.serve_one(call.name, request, deadline)
        if isinstance(answer, str):
            counters.peer_calls_failed += 1
            raise PeerUnreachableError(f"{call.name}: {answer}")
        if not isinstance(answer, asyncio.Task):
            return answer
        await asyncio.wait((answer,), timeout=deadline - self._loop.time())
        if not answer.done():
            counters.peer_calls_expired += 1
            raise PeerUnreachableError(f"{call.name}: no answer in time")
        result: Message | str = answer.result()
        if isinstance(result, str):
            counters.peer_calls_failed += 1
            raise PeerUnreachableError(f"{call.name}: {result}")
        return result

    def _told_here(self, call: Call[Any, Any], request: Message) -> None:
        self.serve_one(call.name, request, self._loop.time() + HINT_S)

    def serve_one(
        self, method: str, request: Message | bytes, deadline: float
    ) -> Message | str | asyncio.Task[Message | str]:
        """Serve a call; return its answer or a task of it, a text if it failed."""
        self.counters.peer_requests += 1
        found = self._handlers.get(method)
        if found is None:
            self.counters.peer_requests_failed += 1
            return "no such call"
        call, serve = found
        try:
            if isinstance(request, bytes):
                request = call.request.FromString(request)
            answer = serve(request, deadline)
        except DecodeError:
            self.counters.peer_requests_failed += 1
            return "nonsense"
        except Exception:
            return self._failed(method)
        if isinstance(answer, Awaitable):
            return self.start(self._finish(method, answer))
        return cast("Message", answer)

    async def _finish(self, method: str, answer: Awaitable[Message]) -> Message | str:
        try:
            return await answer
        except Exception:
            return self._failed(method)

    def _failed(self, method: str) -> str:
        """Count the error that is being handled; log the first of each method."""
        self.counters.peer_requests_failed += 1
        if method not in self._told:
            self._told.add(method)
            logger.exception("peer_call_failed", extra=keys(call=method))
        return "it failed"


class _Writer:
    """Writes what a queue holds: one message for all that a turn of the loop has put there."""

    def __init__(self) -> None:
        self.queue = FrameQueue()
        self._has_work = asyncio.Event()
        self._is_ending = False
        self._loop = asyncio.get_running_loop()

    def put(self, frame: Outgoing) -> None:
        self.queue.put(frame)
        self._has_work.set()

    def end(self) -> None:
        """Make run() return when all is written."""
        self._is_ending = True
        self._has_work.set()

    async def run(self, write: Write) -> None:
        """Write until the stream ends, or end() is called."""
        while not self._is_ending or self.queue:
            await self._has_work.wait()
            self._has_work.clear()
            while batch := self.queue.next_batch(self._loop.time(), _now_ms()):
                try:
                    await write(batch)
                except CALL_ENDED:
                    raise_if_cancelled()
                    return  # whoever reads the stream learns why


class _Stream:
    """A sibling's stream to this process: its calls come in, their answers go out."""

    def __init__(self, links: PeerLinks, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.writer = _Writer()
        self.reading: asyncio.Task[None] | None = None
        self.is_open = True
        self._links = links
        self._reader = FrameReader()
        self._running = 0
        self._loop = asyncio.get_running_loop()

    async def read(self, read: Callable[[], Awaitable[object]]) -> None:
        """Serve calls until the sibling has no more, or the stream ends.

        Raises:
            FrameError: It breaks the rules.
        """
        try:
            while isinstance(data := await read(), bytes):  # until EOF
                self.receive(data)
        except CALL_ENDED:
            raise_if_cancelled()

    def end(self) -> None:
        """Serve no more calls, and end the stream when the answers that are ready are out."""
        self.is_open = False
        self.writer.end()
        if self.reading is not None:
            self.reading.cancel()

    def receive(self, data: bytes) -> None:
        """Serve the calls of a batch.

        Raises:
            FrameError: It breaks the rules.
        """
        now = self._loop.time()
        counters = self._links.counters
        for frame in self._reader.receive(data, _now_ms()):
            if frame.is_hint:
                self._links.serve_one(frame.method, frame.body, now + HINT_S)
            elif frame.left <= 0:
                counters.peer_requests_expired += 1
            else:
                self._serve(frame, now + frame.left)

    def _serve(self, frame: Incoming, deadline: float) -> None:
        if self._running >= MAX_RUNNING:
            self._links.counters.peer_requests_failed += 1
            self._answer(frame.call, "too many calls", deadline)
            return
        answer = self._links.serve_one(frame.method, frame.body, deadline)
        if isinstance(answer, asyncio.Task):
            self._running += 1
            answer.add_done_callback(lambda task: self._done(frame.call, task, deadline))
        else:
            self._answer(frame.call, answer, deadline)

    def _done(self, call: int, task: asyncio.Task[Message | str], deadline: float) -> None:
        self._running -= 1
        if not task.cancelled():
            self._answer(call, task.result(), deadline)

    def _answer(self, call: int, answer: Message | str, deadline: float) -> None:
        if not self.is_open or deadline <= self._loop.time():
            self._links.counters.peer_answers_dropped += 1
            return
        if isinstance(answer, str):
            self.writer.put(Outgoing(call, b"", error=answer[:MAX_TEXT_BYTES], deadline=deadline))
            return
        body = answer.SerializeToString()
        queue = self.writer.queue
        if queue.size and queue.size + len(body) > self._links.max_bytes:
            self._links.counters.peer_answers_dropped += 1
            self.writer.put(Outgoing(call, b"", error="no room", deadline=deadline))
            return
        self.writer.put(Outgoing(call, body, deadline=deadline))


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call that waits for its answer."""

    frame: Outgoing
    size: int
    future: asyncio.Future[bytes]


class _Link:
    """The way to one sibling: a stream as long as it lasts, another when it is needed."""

    def __init__(self, links: PeerLinks, node_id: str) -> None:
        self._links = links
        self._node_id = node_id
        self._loop = asyncio.get_running_loop()
        self._calls = 0
        self._waiting: dict[int, _Waiting] = {}
        self._size = 0  # of the requests in _waiting
        self._writer = _Writer()
        self._task: asyncio.Task[None] | None = None
        self._has_stream = False
        self._vain = 0  # streams in a row that brought no answer
        self._retry_at = 0.0

    def is_idle(self, now: float) -> bool:
        """Return whether nothing is lost with this object."""
        return self._task is None and now >= self._retry_at

    def ask(self, method: str, body: bytes, deadline: float) -> _Waiting:
        """Send a call.

        Raises:
            PeerNotAskedError: It was not sent.
        """
        counters = self._links.counters
        if len(self._waiting) >= self._links.max_calls or not self._has_room(len(body)):
            counters.peer_calls_refused += 1
            raise PeerNotAskedError(f"{method}: {self._node_id} has too much to answer")
        self._calls += 1
        frame = Outgoing(self._calls, body, method, deadline=deadline)
        if not self._send(frame):
            counters.peer_calls_broken += 1
            raise PeerNotAskedError(f"{method}: {self._node_id} was not reached just now")
        counters.peer_calls += 1
        waiting = _Waiting(frame, len(body), self._loop.create_future())
        self._waiting[frame.call] = waiting
        self._size += waiting.size
        return waiting

    def tell(self, method: str, body: bytes) -> None:
        """Send a hint, or drop it."""
        self._calls += 1
        deadline = self._loop.time() + HINT_S
        frame = Outgoing(self._calls, body, method, deadline=deadline, is_hint=True)
        # Twice as many: the calls have their places.
        is_full = len(self._writer.queue) >= 2 * self._links.max_calls
        if is_full or not self._has_room(len(body)) or not self._send(frame):
            self._links.counters.peer_hints_dropped += 1

    def _has_room(self, size: int) -> bool:
        waits = max(self._size, self._writer.queue.size)
        return not waits or waits + size <= self._links.max_bytes

    def _send(self, frame: Outgoing) -> bool:
        """Queue a frame; return False where none can go out before the next attempt to connect."""
        if self._task is None:
            if self._loop.time() < self._retry_at:
                return False
            self._task = self._links.start(self._run())
        self._writer.put(frame)
        return True

    def forget(self, waiting: _Waiting) -> None:
        """Stop waiting for an answer; a request that did not go out does not go out any more."""
        if self._waiting.pop(waiting.frame.call, None) is None:
            return
        self._size -= waiting.size
        self._writer.queue.drop(waiting.frame)

    def expire(self, waiting: _Waiting) -> None:
        """End a call whose time is up."""
        if not waiting.future.done():
            self._links.counters.peer_calls_expired += 1
            name = waiting.frame.method
            waiting.future.set_exception(
                PeerUnreachableError(f"{name}: {self._node_id} has not answered in time")
            )

    def close(self, reason: str) -> asyncio.Task[None] | None:
        """End the calls, and half-close the stream; return the task that ends with it."""
        self._break(reason)
        task = self._task
        if task is not None and self._has_stream:
            self._writer.end()
            self._loop.call_later(CLOSE_S, task.cancel)
        elif task is not None:
            task.cancel()
        return task

    def _break(self, reason: str, error: type[PeerUnreachableError] = PeerUnreachableError) -> None:
        """Fail all calls."""
        self._links.counters.peer_hints_dropped += self._writer.queue.clear()
        waiting, self._waiting, self._size = self._waiting, {}, 0
        for call in waiting.values():
            if not call.future.done():
                self._links.counters.peer_calls_broken += 1
                call.future.set_exception(error(f"{call.frame.method}: {self._node_id}: {reason}"))

    async def _run(self) -> None:
        """Open a stream and read from it until it ends."""
        counters = self._links.counters
        reason = "its stream has ended"
        is_reached = False
        try:
            async with asyncio.timeout(LOOK_UP_S + 1):
                path = await self._links.find(self._node_id)
            channel = make_channel(f"unix:{path}", _OPTIONS)
            try:
                stream: _ToSibling = channel.stream_stream(f"/{SERVICE}/{EXCHANGE}")()
                self._has_stream = True
                async with asyncio.timeout(CONNECT_S):
                    # The server's word that it serves, or nothing where it has failed.
                    is_reached = bool(await stream.initial_metadata())
                if is_reached:
                    counters.peers_reached += 1
                    await self._exchange(stream)
                else:
                    reason = "it was not reached"
            finally:
                self._has_stream = False
                await channel.close()
        except (PeerUnreachableError, FrameError) as error:
            reason = str(error)
        except TimeoutError:
            reason = "it was not reached in time"
        except CALL_ENDED:
            raise_if_cancelled()
        finally:
            self._task = None
            if is_reached:
                counters.peers_lost += 1
            else:
                counters.peers_unreached += 1
                self._links.unlearn(self._node_id)
                self._vain += 1
            # One that stops takes connections for a moment, and ends them before it answers.
            if self._vain:
                pause = min(MIN_PAUSE_S * 2 ** min(self._vain - 1, 10), MAX_PAUSE_S)
                self._retry_at = self._loop.time() + pause
            self._vain += is_reached
            self._break(reason, PeerUnreachableError if is_reached else PeerNotAskedError)

    async def _exchange(self, stream: _ToSibling) -> None:
        counters = self._links.counters
        writing = self._links.start(self._write(stream))
        reader = FrameReader()
        counters.links += 1
        try:
            while isinstance(data := await stream.read(), bytes):  # until EOF
                self._vain = 0
                for frame in reader.receive(data, _now_ms()):
                    self._take(frame)
        except FrameError:
            counters.peer_violations += 1
            raise
        finally:
            counters.links -= 1
            writing.cancel()

    async def _write(self, stream: _ToSibling) -> None:
        await self._writer.run(stream.write)
        try:
            await stream.done_writing()
        except CALL_ENDED:
            raise_if_cancelled()

    def _take(self, frame: Incoming) -> None:
        counters = self._links.counters
        waiting = self._waiting.get(frame.call)
        if waiting is None or waiting.future.done():
            counters.peer_answers_late += 1
        elif frame.error:
            counters.peer_calls_failed += 1
            name = waiting.frame.method
            waiting.future.set_exception(
                PeerUnreachableError(f"{name}: {self._node_id}: {frame.error}")
            )
        else:
            waiting.future.set_result(frame.body)
