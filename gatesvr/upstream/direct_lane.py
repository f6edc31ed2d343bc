"""DirectLane: a lane that speaks HTTP/2 itself.

Calls gather in the line during a turn of the event loop; one flush at its end writes them all, in
one piece: on the ProcessStream as messages, or each as a unary call. What a read brings is taken in
one step. All of it is callbacks; only connecting has a task.

A lane has a *main* connection with the ProcessStream, the health watch and unary calls. Where the
server's MAX_CONCURRENT_STREAMS leaves no room on it, unary calls go on *extra* connections, up to
``upstream.max_connections``; an extra one that is idle for long is closed. A connection that the
server says goodbye on (GOAWAY), or that the lane needs no more, is *leaving*: it takes no calls,
and is closed when its own have ended. The lane dials again meanwhile. Without a main connection
there are no extra ones.

The states: CONNECTING while the main connection is dialled for the first time, or again after a
good time; DOWN while it is dialled in vain; UNARY once the server's SETTINGS have come; STREAM once
its ProcessStream has settled.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc

from .._core.codec import decode_answer
from .._core.http2 import ENHANCE_YOUR_CALM, GOAWAY, NO_ERROR, READY
from ..errors import Outcome
from ..grpcio import max_answer_bytes
from ..observe.log import keys
from .connection import UpstreamConnection, connect
from .health import HealthStream
from .lane import CLOSE_S, MAX_UNARY, PROCESS_REQUEST, UNARY_RETRY_S, Lane, LaneState
from .pauses import Pauses
from .process_stream import ProcessStream
from .status import is_about_size, status_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._core.http2 import Stream
    from ..config import UpstreamConfig
    from .call import Call

__all__ = ["DirectLane"]

logger = logging.getLogger("gatesvr.upstream")

GOODBYE_S = 0.1
"""Shortest time between two connections while a server that answers says goodbye to each."""
EXTRA_IDLE_S = 60.0
"""How long an extra connection may have no call before it is closed."""
FLUSH_BYTES = 256 << 10
"""With so many bytes of requests written in one turn, they go to the transport, which may then take
no more: what a peer does not read stays in the line, which has a bound and deadlines."""
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


class DirectLane(Lane):
    """A lane over connections of its own; the arguments are Lane's."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._alone: deque[Call] = deque()  # waiting to be unary calls beside a stream
        self._lines = (self._waiting, self._alone)
        self._is_fresh = False  # every waiting call came after the last flush
        self._is_flush_due = False

        self._main: UpstreamConnection | None = None
        self._extra: list[UpstreamConnection] = []
        self._leaving: set[UpstreamConnection] = set()
        self._transports: set[UpstreamConnection] = set()  # not closed yet
        self._dials: set[asyncio.Task[None]] = set()
        self._is_adding = False  # an extra connection is dialled
        self._no_extra_before = 0.0
        self._pauses = Pauses()
        self._redial: asyncio.TimerHandle | None = None
        self._pruner: asyncio.TimerHandle | None = None

        self._process: ProcessStream | None = None  # the main connection's, settled or not
        self._reopens = Pauses()
        self._reopen: asyncio.TimerHandle | None = None
        self._health = HealthStream(self._set_serving, self._config.reconnect_max)
        self._all_closed: asyncio.Future[None] | None = None  # stop() waits for it

    # The manager's side.

    @property
    def connections(self) -> int:
        """Connections whose transport is not closed."""
        return len(self._transports)

    def apply(self, config: UpstreamConfig) -> None:
        """Take other limits and pauses; calls that are open or wait go on."""
        super().apply(config)
        self._health.retry_s = config.reconnect_max
        for connection in self._transports:
            connection.use_keepalive(config.keepalive)

    def start(self) -> None:
        """Begin to connect."""
        self._dial()

    def retry_now(self) -> None:
        """End the pause between two attempts, if one is under way."""
        if self._redial is not None:
            self._dial()

    async def stop(self, grace: float) -> None:
        """Close the stream for writing, wait for the open calls' answers, close the connections.

        Args:
            grace: Longest wait for the answers, seconds.
        """
        if self._is_stopping:
            return
        self._is_stopping = True
        self._on_change()
        self._strand("stopped")
        for timer in (self._redial, self._reopen, self._pruner):
            if timer is not None:
                timer.cancel()
        for dialling in self._dials:
            dialling.cancel()
        if (main := self._main) is not None:
            self._leave_all(main)
        for connection in list(self._transports):
            if not connection.ready_at:
                connection.abort("stopped")
        self._flush()
        await self._until_closed(grace)
        self._state = LaneState.STOPPED
        self._health.cancel()
        for connection in list(self._transports):
            connection.abort("stopped")
        await self._until_closed(CLOSE_S)
        if self._dials:
            await asyncio.wait(self._dials)
        self._strand("stopped")
        self._draining_ids.clear()
        self._break("stopped")
        if self._timer is not None:
            self._timer.cancel()
        self._on_change()

    async def _until_closed(self, seconds: float) -> None:
        if self._transports:
            self._all_closed = self._loop.create_future()
            await asyncio.wait([self._all_closed], timeout=seconds)

    # The way out: calls to bytes.

    def _wake(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _send_alone(self, call: Call) -> None:
        if len(self._alone) < self._max_waiting:
            self._alone.append(call)
        else:
            self._overflow(call, f"{self._max_waiting} calls wait")

    def _flush(self) -> None:
        """Write what waits, as far as there is room."""
        self._is_flush_due = False
        main = self._main
        if main is not None:
            if self._state is LaneState.STREAM:
                self._write_batches(main)
            elif self._is_serving:
                self._write_calls(self._waiting, min(self._max_open, MAX_UNARY))
            if self._alone and self._main is main:
                self._write_calls(self._alone, MAX_UNARY)
            self._is_fresh = not self._waiting
            if self.is_full is self._is_fresh:
                self._set_full(not self._is_fresh)
            main.flush()
        else:
            self._is_fresh = False
            if self._state is LaneState.DOWN:
                self._strand("down")
        for connection in self._extra:
            connection.flush()
        for connection in list(self._leaving):
            self._tend(connection)

    def _write_batches(self, main: UpstreamConnection) -> None:
        """Write the line on the stream."""
        process = self._process
        assert process is not None
        is_fresh = self._is_fresh
        gathered = 0
        while self._waiting and len(self._open) < self._max_open and process.has_room:
            if message := self._gather(is_fresh):
                main.core.send(process.stream, message)
                gathered += len(message)
                if gathered > FLUSH_BYTES:
                    gathered = 0
                    main.flush()

    def _write_calls(self, line: deque[Call], most: int) -> None:
        """Write a line as unary calls."""
        if not line:
            return
        loop_now, now = self._loop.time(), self._clock.now()
        is_old = not self._is_fresh and self._is_stale(loop_now)
        gathered = 0
        while line and len(self._unary) < most:
            connection = self._find_room()
            if connection is None:
                break
            call = line.popleft()
            if call.on_end is None:
                continue
            if is_old:
                call.upstream_req = call.request_at(now)
            # Rounded up: the answer in time is for this side to judge.
            left_ms = max(int((call.deadline - now) * 1000), 0) + 1
            path = call.method or PROCESS_REQUEST
            core, request = connection.core, call.upstream_req
            try:
                call.stream = core.call(path, request, call, left_ms, call.metadata)
            except ValueError:  # a client's trace that no header can hold
                call.stream = core.call(path, request, call, left_ms)
            call.carrier = connection
            connection.is_used = True
            self._unary[call.request_id] = call
            self._counters.unary_calls += 1
            gathered += len(request)
            if gathered > FLUSH_BYTES:
                gathered = 0
                connection.flush()
            if self._limit is not None and line is self._waiting:
                self._max_open = self._limit.sent(call.request_id, len(self._unary), loop_now)
        if line is self._waiting and (not line or self._is_fresh):
            self._emptied_at = loop_now

    def _find_room(self) -> UpstreamConnection | None:
        """Return a connection that takes a unary call; if none does, see to a further one."""
        main = self._main
        assert main is not None
        if main.has_room:
            return main
        for extra in self._extra:
            if extra.has_room:
                return extra
        if main.core.is_leaving:
            self._main_gone("its stream ids are used up", is_quiet=True)
        elif (
            main.core.room <= 0
            and not self._is_adding
            and 1 + len(self._extra) < self._config.max_connections
            and self._loop.time() >= self._no_extra_before
        ):
            self._is_adding = True
            self._dial(is_extra=True)
        return None

    def _unary_expired(self, call: Call) -> None:
        if call.carrier is not None:
            call.carrier.cancel(call)

    def call_cancelled(self, call: Call) -> None:
        """Forget a unary call whose stream was reset, and write the reset."""
        self._unary.pop(call.request_id, None)
        self._counters.cancelled_calls += 1
        self._wake()

    def write_ready(self) -> None:
        """Write again: a transport takes more."""
        self._wake()

    # The way back: events to calls.

    def handle_events(
        self, connection: UpstreamConnection, events: Sequence[tuple[int, Stream | None, bytes]]
    ) -> None:
        """Take what one read has brought; write again: there may be more room."""
        for kind, stream, data in events:
            if stream is None:
                if kind == READY:
                    self._connected(connection)
                elif kind == GOAWAY:
                    self._handle_goaway(connection)
            elif stream.is_unary:
                self._end_unary(connection, stream)
            else:
                owner: Any = stream.owner
                if owner is not None:  # what came before has not ended it
                    owner.handle(kind, stream, data)
        if self._limit is not None and self._state is LaneState.UNARY:
            # Beside a stream the limit's sample is one of the stream's calls.
            self._max_open = self._limit.answered(self._unary, self._loop.time())
        if self._waiting or self._alone or self._leaving or self.is_full:
            self._wake()

    def _end_unary(self, connection: UpstreamConnection, stream: Stream) -> None:
        call: Any = stream.owner
        stream.owner = call.carrier = call.stream = None
        del self._unary[call.request_id]
        status = stream.status
        if status == 0:
            message = stream.message
            assert message is not None
            connection.has_served = True
            if call.method:
                self._finish_method(call, message)
            else:
                self._finish(call, decode_answer(message))
        elif stream.is_unprocessed:
            self._retry(call, is_refused=connection.core.goaway_code < 0)
        elif status == DEADLINE_EXCEEDED and self._clock.now() >= call.deadline:
            self._fail_late(call, Outcome.UNKNOWN)
        else:
            size, is_remote = len(call.upstream_req), stream.is_remote
            self._fail_by_status(call, status_of(status), stream.details, size, is_remote=is_remote)

    def _retry(self, call: Call, *, is_refused: bool) -> None:
        """Send a call elsewhere, or put it back into the line: the server did not begin with it.

        Args:
            call: It was written.
            is_refused: Whether the server refused this call; the second time that ends it.
        """
        if call.on_end is None:
            return
        self._counters.retried_calls += 1
        if is_refused and call.is_refused:
            self._on_refused(self, call)
            return
        call.is_refused |= is_refused
        if self._on_stranded(self, [call]):
            call.upstream_req = call.request_at(self._clock.now())
            self._waiting.appendleft(call)
            self._wake()

    # The ProcessStream.

    def stream_settled(self, process: ProcessStream) -> None:
        """Write to the stream from now on."""
        if process is self._process:
            self._is_fresh = False
            self._enter(LaneState.STREAM, "")
            self._wake()

    def stream_message(self, process: ProcessStream, data: bytes) -> None:
        """End the calls that a message answers; end a stream that brings what it should not."""
        try:
            process.junk = self._take_answers(data, process.junk)
            process.connection.has_served = True
        except ValueError as error:
            self._counters.bad_batches += 1
            process.cancel()
            why = f"bad answers: {error}"
            self._end_stream(process, grpc.StatusCode.INTERNAL, why, is_bad=True)

    def stream_ended(self, process: ProcessStream, status: int, details: str) -> None:
        """End the calls that were written to the stream, and open another one."""
        self._end_stream(process, status_of(status), details)

    def _end_stream(
        self, process: ProcessStream, status: grpc.StatusCode, details: str, *, is_bad: bool = False
    ) -> None:
        reason = f"{status.name}: {details}"
        self._end_written(process, reason)
        if process is not self._process:
            self._wake()  # the connection that it was left with may be closed now
            return
        self._process = None
        config = self._config
        if self._loop.time() - process.began > config.reconnect_min:
            self._reopens.reset()
        if is_about_size(status, details) and not self._learn_limit(details):
            # An answer was too large. As a unary call it fails alone.
            pause = UNARY_RETRY_S
        elif is_bad:
            # What it sends on a stream is not to be trusted; a unary call can only fail alone.
            logger.warning("upstream_stream_bad", extra=keys(address=self.address, why=details))
            pause = config.reconnect_max
        elif status is grpc.StatusCode.UNIMPLEMENTED:
            self._tell_unary()
            pause = UNARY_RETRY_S
        else:
            pause = self._reopens.take(config)
        self._enter(LaneState.UNARY, reason)
        self._reopen = self._loop.call_later(pause, self._open_again)

    def _end_written(self, process: ProcessStream, reason: str) -> None:
        """End the calls written to a stream that has ended."""
        process.let_go()
        ids = self._written_ids() if process.ids is None else process.ids
        calls = [self._open.pop(request_id) for request_id in ids if request_id in self._open]
        self._draining_ids -= ids
        process.ids = set()
        for call in calls:
            self._fail_broken(call, reason)

    def _open_stream(self, connection: UpstreamConnection) -> None:
        self._process = connection.process = ProcessStream(self, connection)

    def _open_again(self) -> None:
        self._reopen = None
        main = self._main
        if main is None:
            return
        if main.core.room > 0:
            self._counters.connects += 1
            self._open_stream(main)
            main.flush()
        else:
            self._reopen = self._loop.call_later(self._config.reconnect_max, self._open_again)

    # Connections.

    def _dial(self, *, is_extra: bool = False) -> None:
        if self._redial is not None and not is_extra:
            self._redial.cancel()
            self._redial = None
        self._counters.connects += 1
        task = self._loop.create_task(self._connect(is_extra), name="gatesvr-lane-dial")
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _connect(self, is_extra: bool) -> None:
        context = None if self._tls is None else self._tls.context
        size = max_answer_bytes(self._max_message_bytes)
        try:
            reason = await connect(
                self, self.target, context, self._config, size, is_extra=is_extra
            )
        except Exception as error:
            logger.exception("lane_dial_failed", extra=keys(address=self.address))
            reason = str(error)
        if is_extra:
            self._is_adding = False
            if reason:
                self._no_extra_before = self._loop.time() + self._config.reconnect_max
        elif reason:
            pause = self._pauses.take(self._config) or self._config.reconnect_min
            self._enter(LaneState.DOWN, reason)
            self._strand(reason)
            self._redial = self._loop.call_later(pause, self._dial)

    def connection_made(self, connection: UpstreamConnection) -> None:
        """Open the streams of a main connection; they leave with its first bytes."""
        self._transports.add(connection)
        if not connection.is_extra:
            self._open_stream(connection)
            self._health.begin(connection)

    def _connected(self, connection: UpstreamConnection) -> None:
        """Take calls on a connection whose server speaks HTTP/2."""
        connection.ready_at = self._loop.time()
        if connection.ready.done():
            return  # it comes too late
        connection.ready.set_result("")
        if not connection.is_extra:
            self._main = connection
            self._is_serving = True
            if connection.core.room <= 0:  # the server takes fewer streams than are open already
                self._health.begin(connection)
            self._enter(LaneState.UNARY, "")
        elif self._main is None:
            self._leaving.add(connection)
        else:
            self._extra.append(connection)
            if self._pruner is None:
                self._pruner = self._loop.call_later(EXTRA_IDLE_S, self._prune)
        self._wake()

    def _handle_goaway(self, connection: UpstreamConnection) -> None:
        """Leave a connection; what its server has begun with it goes on with."""
        core = connection.core
        if connection is self._main:
            calls = sum(stream.is_unary for stream in core.streams())
            if self._process is not None:
                calls += len(self._written_ids())
            self._counters.goodbyes += 1
            logger.info("lane_moves", extra=keys(address=self.address, open=calls))
            self._main_gone(core.goodbye, is_quiet=core.goaway_code == NO_ERROR)
        elif connection in self._extra:
            self._extra.remove(connection)
            self._leaving.add(connection)

    def connection_lost(self, connection: UpstreamConnection, reason: str) -> None:
        """End what was under way on a connection, and replace it."""
        core = connection.core
        if core.error:
            if core.error_code == ENHANCE_YOUR_CALM:
                self._counters.floods += 1
            else:
                self._counters.protocol_errors += 1
        self._leaving.discard(connection)
        if connection in self._extra:
            self._extra.remove(connection)
        if (process := connection.process) is not None and not process.stream.is_ended:
            self._end_written(process, reason)
            if process is self._process:
                self._process = None
        for call in [call for call in self._unary.values() if call.carrier is connection]:
            stream: Any = call.stream
            stream.owner = call.carrier = call.stream = None
            del self._unary[call.request_id]
            self._fail_broken(call, reason)
        if connection is self._health.connection:
            self._health.cancel()
        if connection is self._main:
            self._main_gone(reason)

    def connection_closed(self, connection: UpstreamConnection) -> None:
        """Forget a connection, and let go of what it holds."""
        self._transports.discard(connection)
        connection.process = None  # which names the connection
        closed = self._all_closed
        if closed is not None and not self._transports and not closed.done():
            closed.set_result(None)

    def _main_gone(self, reason: str, *, is_quiet: bool = False) -> None:
        """Go on without the main connection, until there is another one."""
        main, config = self._main, self._config
        assert main is not None
        # Not since its ready_at: on a busy machine both may come in one read, late.
        lived = self._loop.time() - main.made_at
        is_in_order = is_quiet and main.has_served
        if is_in_order or lived > config.reconnect_min:
            self._pauses.reset()
        self._leave_all(main)
        pause = self._pauses.take(config)
        if pause:
            self._enter(LaneState.DOWN, reason)
            self._strand(reason)
            self._redial = self._loop.call_later(pause, self._dial)
            return
        # First loss after a good time: retry at once; the line waits for the outcome.
        self._enter(LaneState.CONNECTING, reason, is_quiet=is_quiet)
        self._strand(reason, keep=True)
        if is_in_order and lived < GOODBYE_S:
            self._redial = self._loop.call_later(GOODBYE_S - lived, self._dial)
        else:
            self._dial()

    def _leave_all(self, main: UpstreamConnection) -> None:
        """Write no more calls to any connection; those under way go on."""
        self._main = None
        self._leaving.update(c for c in (main, *self._extra) if not c.is_lost)
        self._extra.clear()
        self._health.cancel()
        if self._reopen is not None:
            self._reopen.cancel()
            self._reopen = None
        process, self._process = self._process, None
        if process is not None:
            ids = self._written_ids()
            self._draining_ids |= ids
            process.leave(ids)
        self._wake()

    def _tend(self, connection: UpstreamConnection) -> None:
        """Close a leaving connection when its calls have ended."""
        if (process := connection.process) is not None:
            process.drain(self._open)
        if connection.core.open_streams:
            connection.flush()
        else:
            connection.close()

    def _prune(self) -> None:
        """Leave extra connections that had no call for long."""
        self._pruner = None
        for extra in list(self._extra):
            if not extra.is_used and not extra.core.open_streams:
                self._extra.remove(extra)
                self._leaving.add(extra)
                self._wake()
            extra.is_used = False
        if self._extra:
            self._pruner = self._loop.call_later(EXTRA_IDLE_S, self._prune)

    def _expire(self) -> None:
        super()._expire()
        if self._leaving:
            self._wake()
