"""GrpcioLane: a lane over a channel of grpcio, the reference for DirectLane.

The writer task sends every call that arrived during its last write, so a lone request goes out at
once and a burst shares one message. When CPU is short, messages keep PACE_S apart: gRPC spends as
much work on one message as on ten requests inside it, and a busy process would delay a request
longer than the pause does. The channel leaves a connection on GOAWAY by itself, and the lane
follows.

Only the lane's own tasks await gRPC objects, and nothing cancels them there while the lane lives:
cancelled calls leak in grpcio.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from .._core.codec import decode_answer
from ..grpcio import CALL_ENDED, make_channel, raise_if_cancelled, upstream_options
from ..observe.log import keys
from .call import MethodCall
from .health import HealthWatch
from .lane import (
    CLOSE_S,
    MAX_UNARY,
    PROCESS_REQUEST,
    PROCESS_STREAM,
    SETTLE_S,
    UNARY_RETRY_S,
    Lane,
    LaneState,
)
from .pauses import jitter
from .status import is_about_size, is_spoken

if TYPE_CHECKING:
    from .call import Call

__all__ = ["GrpcioLane"]

logger = logging.getLogger("gatesvr.upstream")

LATE_S = 5.0
"""How long a unary call continues past its deadline, so that a late answer is still counted."""
RECHECK_S = 0.01
"""How soon to look again at a channel that does not report READY yet."""
DRAIN_STEP_S = 0.02
"""How often to check whether all calls of a draining stream have ended."""
PACE_S = 0.001
"""Time between messages while the process is busy and earlier calls are unanswered."""
PACE_CALLS = 16
"""With this many calls waiting, the lane sends at once."""
LOAD_S = 0.1
"""How often to measure the process's load."""
BUSY_SHARE, IDLE_SHARE = 0.5, 0.25
"""CPU share of the thread at which the process starts, and stops, counting as busy."""


@dataclass(slots=True, eq=False)
class _Stream:
    """The ProcessStream that the lane writes to, and its tasks."""

    rpc: Any
    reader: asyncio.Task[None]
    writer: asyncio.Task[None]
    left: asyncio.Future[None]  # done when the lane has left it


class GrpcioLane(Lane):
    """A lane over a channel of its own; the arguments are Lane's."""

    keeps_credentials = True

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._channel = self._make_channel()
        # No serializers: bytes go out and come in as they are.
        self._process_stream: Any = self._channel.stream_stream(PROCESS_STREAM)
        self._process_request: Any = self._channel.unary_unary(PROCESS_REQUEST)
        self._health = HealthWatch(self._channel, self._set_serving, self._health_ended)

        self._is_dialling = False
        self._stream: _Stream | None = None
        self._is_left = False  # the channel left its last connection
        self._is_bad = False  # the last stream ended because of what it brought
        self._writer_waker: asyncio.Future[None] | None = None
        self._written_at = 0.0
        self._is_busy = False
        self._load_mark = (0.0, 0.0)  # last measurement: loop time, the thread's CPU time
        self._pause_waker: asyncio.Future[None] | None = None
        self._recheck: asyncio.TimerHandle | None = None

        self._runner: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._drains: set[asyncio.Task[None]] = set()
        self._unary_tasks: set[asyncio.Task[None]] = set()
        self._rpcs: set[Any] = set()  # gRPC calls under way

    def _make_channel(self) -> grpc.aio.Channel:
        target, tls = self.target, self._tls
        names = [("grpc.default_authority", target.authority)]
        if tls is not None:
            names.append(("grpc.ssl_target_name_override", target.server_name))
            if not target.is_named:
                # gRPC holds the authority of each call against the certificate, too.
                del names[0]
        options = upstream_options(self._config, self._max_message_bytes)
        return make_channel(
            target.grpc_address, [*options, *names], None if tls is None else tls.channel
        )

    def start(self) -> None:
        """Begin to connect."""
        self._runner = self._loop.create_task(self._run(), name=f"gatesvr-lane-{self.address}")
        self._watcher = self._loop.create_task(self._watch(), name="gatesvr-lane-watcher")

    def retry_now(self) -> None:
        """End the pause between two attempts, if one is under way."""
        if self._state is LaneState.DOWN:
            self._end_pause()

    async def stop(self, grace: float) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        self._on_change()
        self._strand("stopped")
        self._leave_stream()
        self._end_pause()
        if tasks := self._unary_tasks | self._drains:
            await asyncio.wait(tasks, timeout=grace)
        self._state = LaneState.STOPPED
        # Cancel the calls still running. gRPC may leak there, but only once in a lane's life.
        for rpc in list(self._rpcs):
            rpc.cancel()
        if self._is_dialling and self._runner is not None:
            # It awaits an Event, not a gRPC object; on a very young call nothing ever sets it.
            self._runner.cancel()
        if self._watcher is not None:
            self._watcher.cancel()  # the state change that it awaits may never come
        self._health.cancel()
        await self._channel.close()
        tasks = {*self._unary_tasks, *self._drains}
        rest = {task for task in (self._runner, self._watcher, self._health.task, *tasks) if task}
        if rest:
            _, rest = await asyncio.wait(rest, timeout=CLOSE_S)
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest)
        self._strand("stopped")
        self._break("stopped")
        for call in self._unary.values():
            self._fail_broken(call, "stopped")
        self._unary.clear()
        for timer in (self._timer, self._recheck):
            if timer is not None:
                timer.cancel()
        self._on_change()

    def _wake(self) -> None:
        if self._writer_waker is not None:
            self._wake_writer()
        elif self._state is not LaneState.STREAM:
            self._pump()

    # The life of the connection.

    async def _run(self) -> None:
        """Keep a ProcessStream open; pace the attempts."""
        pause = 0.0
        while not self._is_stopping:
            config = self._config
            began = self._loop.time()
            self._counters.connects += 1
            code, details = await self._serve_stream()
            if self._is_stopping:
                break
            reason = f"{code.name}: {details}"
            self._break(reason)
            was_connected = self._state in (LaneState.UNARY, LaneState.STREAM)
            if not was_connected and is_spoken(code, details):
                # This status arrived before the news of the connection itself.
                was_connected = True
                self._is_serving = self._health.start() or self._is_serving
            if is_about_size(code, details) and not self._learn_limit(details):
                # An answer was too large. As a unary call it fails alone.
                self._enter(LaneState.UNARY, reason)
                await self._pause(UNARY_RETRY_S)
                continue
            if was_connected and self._loop.time() - began > config.reconnect_min:
                pause = 0.0
            if self._is_bad:
                # What it sends on a stream is not to be trusted; a unary call can only fail alone.
                self._is_bad = False
                logger.warning("upstream_stream_bad", extra=keys(address=self.address, why=details))
                self._enter(LaneState.UNARY, reason)
                await self._pause(config.reconnect_max)
                continue
            if code is grpc.StatusCode.UNIMPLEMENTED:
                pause = 0.0
                self._tell_unary()
                self._enter(LaneState.UNARY, reason)
                await self._pause(UNARY_RETRY_S)
                continue
            if was_connected and not pause:
                # First loss after a good time: retry at once; the line waits for the outcome.
                self._enter(LaneState.CONNECTING, reason, is_quiet=code is grpc.StatusCode.OK)
                self._strand(reason, keep=True)
            elif was_connected and code is not grpc.StatusCode.UNAVAILABLE:
                # The upstream is there, but its stream ends again and again.
                self._enter(LaneState.UNARY, reason)
                await self._pause(jitter(pause))
            else:
                self._enter(LaneState.DOWN, reason)
                self._strand(reason)
                await self._pause(jitter(pause or config.reconnect_min))
            pause = min(2 * pause or config.reconnect_min, config.reconnect_max)

    async def _serve_stream(self) -> tuple[grpc.StatusCode, str]:
        """Serve one stream until it ends or the lane leaves it; return its status."""
        call = self._process_stream()
        self._rpcs.add(call)
        stream: _Stream | None = None
        try:
            self._is_dialling = True
            self._is_left = False
            await call.wait_for_connection()
            self._is_dialling = False
            self._is_serving = self._health.start() or self._is_serving
            self._enter(LaneState.UNARY, "")
            # A write before this would turn a missing ProcessStream into INTERNAL.
            await call.initial_metadata()
            # UNIMPLEMENTED also sends metadata, and its status follows a moment later. Calls stay
            # unary until then: a request written to that stream would be lost with it.
            ended = asyncio.Event()
            call.add_done_callback(lambda _: ended.set())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), SETTLE_S)
            if self._is_left and not call.done():
                # The connection went away meanwhile: open a stream on the next one.
                call.cancel()
                return grpc.StatusCode.OK, "goodbye"
            if not call.done() and not self._is_stopping:
                create = self._loop.create_task
                stream = self._stream = _Stream(
                    call,
                    create(self._read(call), name="gatesvr-lane-reader"),
                    create(self._write(call), name="gatesvr-lane-writer"),
                    self._loop.create_future(),
                )
                self._enter(LaneState.STREAM, "")
                ends = (stream.reader, stream.left)
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if stream.left.done():
                    return grpc.StatusCode.OK, "goodbye"
                stream.reader.result()
            return await call.code(), (await call.details()) or ""
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        except ValueError as error:
            self._counters.bad_batches += 1
            self._is_bad = True
            call.cancel()
            return grpc.StatusCode.INTERNAL, f"bad answers: {error}"
        except asyncio.CancelledError:
            raise_if_cancelled()
            return grpc.StatusCode.CANCELLED, "channel closed"
        finally:
            self._is_dialling = False
            if stream is None or not stream.left.done():
                self._rpcs.discard(call)
                self._stream = None
                if stream is not None:
                    await self._end_writer(stream.writer)

    async def _watch(self) -> None:
        """Notice when the channel leaves a connection, whose streams may live on."""
        state = self._channel.get_state()
        try:
            while True:
                await self._channel.wait_for_state_change(state)
                if state is grpc.ChannelConnectivity.READY:
                    self._is_left = True
                    self._leave_stream()
                state = self._channel.get_state()
        except CALL_ENDED:
            return  # the channel is closed

    def _leave_stream(self) -> None:
        """Stop writing to the stream, if there is one, and drain it."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        self._wake_writer()
        stream.left.set_result(None)
        ids = self._written_ids()
        self._draining_ids |= ids
        if not self._is_stopping:
            self._counters.goodbyes += 1
            logger.info("lane_moves", extra=keys(address=self.address, open=len(ids)))
        drain = self._loop.create_task(self._drain(stream, ids), name="gatesvr-lane-drain")
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)

    async def _drain(self, stream: _Stream, ids: set[int]) -> None:
        """Wait for the last answers of a stream that the lane has left, then for its end."""
        rpc, reader, writer = stream.rpc, stream.reader, stream.writer
        reason = "the stream ended without an answer"
        try:
            # Some servers answer nothing more once the stream is half-closed.
            while not reader.done() and any(request_id in self._open for request_id in ids):
                await asyncio.wait({reader}, timeout=DRAIN_STEP_S)
            if not reader.done() and writer.done():
                with contextlib.suppress(*CALL_ENDED):
                    await rpc.done_writing()
                await asyncio.wait({reader}, timeout=CLOSE_S)
            if not reader.done():
                rpc.cancel()
            await self._end_writer(writer)
            await reader
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
        except CALL_ENDED as error:
            reason = str(error)
        except ValueError as error:
            self._counters.bad_batches += 1
            rpc.cancel()
            reason = f"bad answers: {error}"
        except asyncio.CancelledError:
            raise_if_cancelled()
        finally:
            self._rpcs.discard(rpc)
            self._draining_ids.difference_update(ids)
            for request_id in ids:
                if (call := self._open.pop(request_id, None)) is not None:
                    self._fail_broken(call, reason)

    async def _read(self, call: Any) -> None:
        """Read answers until the stream ends."""
        junk = 0
        while (batch := await call.read()) is not grpc.aio.EOF:
            junk = self._take_answers(batch, junk)

    async def _write(self, call: Any) -> None:
        """Write the calls in line, batch by batch, until the stream ends or the lane leaves it."""
        open_calls = self._open
        waker: asyncio.Future[None] | None = None
        is_fresh = False  # every call in line came after the writer's last pause
        try:
            while (stream := self._stream) is not None and stream.rpc is call and not call.done():
                if self._waiting and len(open_calls) < self._max_open:
                    if self._is_busy and (wait := self._pace(self._loop.time())) > 0:
                        await asyncio.sleep(wait)
                        continue
                    message = self._gather(is_fresh)
                    self._written_at = self._loop.time()
                    if self._written_at - self._load_mark[0] > LOAD_S:
                        self._look_at_load(self._written_at)
                    if message:
                        is_fresh = False
                        await call.write(message)
                else:
                    is_fresh = not self._waiting
                    if self.is_full is is_fresh:
                        self._set_full(not is_fresh)
                    waker = self._writer_waker = self._loop.create_future()
                    await waker
        except CALL_ENDED as error:
            # The reader gets the stream's status and ends the calls.
            logger.debug("write_failed", extra=keys(address=self.address, error=error))
        except asyncio.CancelledError:
            raise_if_cancelled()
        finally:
            if self._writer_waker is waker:  # not the next stream's
                self._writer_waker = None

    def _pace(self, now: float) -> float:
        """Return how long the next message should wait for more calls, seconds."""
        if not self._open or len(self._waiting) >= PACE_CALLS:
            return 0.0
        return self._written_at + PACE_S - now

    def _look_at_load(self, now: float) -> None:
        """Measure whether CPU is short."""
        before, worked_before = self._load_mark
        worked = time.thread_time()
        self._load_mark = now, worked
        share = (worked - worked_before) / (now - before)
        self._is_busy = share > (IDLE_SHARE if self._is_busy else BUSY_SHARE)

    async def _end_writer(self, writer: asyncio.Task[None]) -> None:
        self._wake_writer()
        _, pending = await asyncio.wait({writer}, timeout=CLOSE_S)
        if pending:
            writer.cancel()
            await asyncio.wait({writer})
        if not writer.cancelled() and (error := writer.exception()) is not None:
            logger.error("lane_writer_failed", extra=keys(address=self.address), exc_info=error)

    # Calls without a stream.

    def _pump(self) -> None:
        """Start the waiting calls as unary calls, if the lane has no stream for them."""
        if self._state is LaneState.DOWN:
            self._strand("down")
        if self.is_full and not self._waiting:
            self._set_full(False)
        if self._state is not LaneState.UNARY or not self._waiting or not self._is_serving:
            return
        if self._channel.get_state() is not grpc.ChannelConnectivity.READY:
            # The connection went away while idle. Find out whether it comes back before writing:
            # calls not yet written can still go to another lane.
            if self._end_pause():
                self._enter(LaneState.CONNECTING, "connection lost")
            elif self._recheck is None:
                # gRPC reports READY a little after the connection is made.
                self._recheck = self._loop.call_later(RECHECK_S, self._pump_again)
            return
        while self._waiting and len(self._unary_tasks) < min(self._max_open, MAX_UNARY):
            call = self._waiting.popleft()
            if call.on_end is not None:
                self._start_unary(call)
                if self._limit is not None:
                    now = self._loop.time()
                    self._max_open = self._limit.sent(call.request_id, len(self._unary), now)
        if self.is_full is not bool(self._waiting):
            self._set_full(not self.is_full)

    def _send_alone(self, call: Call) -> None:
        if len(self._unary_tasks) < MAX_UNARY:
            self._start_unary(call)
        else:
            self._overflow(call, f"{MAX_UNARY} unary calls are under way")

    def _start_unary(self, call: Call) -> None:
        self._counters.unary_calls += 1
        self._unary[call.request_id] = call
        task = self._loop.create_task(self._call_unary(call), name="gatesvr-lane-unary")
        self._unary_tasks.add(task)
        task.add_done_callback(self._unary_done)

    def _pump_again(self) -> None:
        self._recheck = None
        self._pump()

    def _unary_done(self, task: asyncio.Task[None]) -> None:
        self._unary_tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("lane_unary_failed", extra=keys(address=self.address), exc_info=error)
        self._pump()

    async def _call_unary(self, call: Call) -> None:
        now = self._clock.now()
        timeout = max(call.deadline - now, 0.0) + LATE_S
        code, details = grpc.StatusCode.CANCELLED, "channel closed"
        data: bytes | None = None
        request = call.request_at(now)
        method = self._channel.unary_unary(call.method) if call.method else self._process_request
        rpc = method(request, timeout=timeout, metadata=call.metadata)
        self._rpcs.add(rpc)
        try:
            data = await rpc
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
        except asyncio.CancelledError:
            raise_if_cancelled()
        finally:
            self._rpcs.discard(rpc)
        is_open = self._unary.pop(call.request_id, None) is not None
        if self._limit is not None and self._state is LaneState.UNARY:
            # Beside a stream the limit's sample is one of the stream's calls.
            self._max_open = self._limit.answered(self._unary, self._loop.time())
        if data is not None:
            if not is_open:
                self._drop(call.request_id)
            elif isinstance(call, MethodCall):
                self._finish_method(call, data)
            else:
                self._finish(call, decode_answer(data))
            return
        self._late.pop(call.request_id, None)
        if is_open:
            self._fail_by_status(call, code, details, len(request))
        if code is grpc.StatusCode.UNAVAILABLE and self._state is LaneState.UNARY:
            # Without a stream, nothing else notices that the upstream is gone.
            self._end_pause()

    def _unary_expired(self, call: Call) -> None:
        self._remember_late(call.request_id)

    # Health.

    def _health_ended(self, lasted: float) -> None:
        if self._state is LaneState.UNARY and lasted > self._config.reconnect_min:
            # The connection has probably ended, and without a stream nothing else tells.
            self._end_pause()
        elif self._state is LaneState.STREAM and lasted > self._config.reconnect_min:
            # The watch ran on a connection that the lane has left.
            self._loop.call_soon(self._follow_health)

    def _follow_health(self) -> None:
        if self._state is LaneState.STREAM and not self._is_stopping:
            self._health.start()

    # Wake-ups.

    def _wake_writer(self) -> None:
        if self._writer_waker is not None:
            waker, self._writer_waker = self._writer_waker, None
            waker.set_result(None)

    async def _pause(self, seconds: float) -> None:
        """Wait before the next attempt; _end_pause() ends it early."""
        if self._is_stopping:
            return
        self._pause_waker = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._end_pause)
        try:
            await self._pause_waker
        finally:
            timer.cancel()
            self._pause_waker = None

    def _end_pause(self) -> bool:
        waker = self._pause_waker
        if waker is None or waker.done():
            return False
        waker.set_result(None)
        return True
