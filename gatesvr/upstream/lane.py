"""Lane: everything between this process and one upstream address (PROTOCOL 7.1-7.3).

A lane keeps one ProcessStream open. Calls wait in a line. The writer task sends every call that
arrived during its last write, so a lone request goes out at once and a burst shares one message.
When CPU is short, messages keep PACE_S apart: gRPC spends as much work on one message as on ten
requests inside it, and a busy process would delay a request longer than the pause does. Each call
is a ProcessRequest until the server's initial metadata arrives, or where it has no ProcessStream.

A server that says goodbye (GOAWAY: its connection is old enough, or it is stopping) still serves
its open streams. The channel then leaves the connection and the lane follows: it opens a stream on
the next connection. Requests already written to the old stream are answered there (*draining*),
then the lane half-closes it.

Only the lane's own tasks await gRPC objects, and nothing cancels them there while the lane lives:
callers get a callback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from .._core.codec import decode_answer, decode_answers, encode_batch
from ..errors import ErrorCode, Outcome
from ..grpcio import CALL_ENDED, make_channel, raise_if_cancelled, upstream_options
from ..observe.clock import RunningClock
from ..observe.log import keys
from .call import MethodCall
from .health import HealthWatch
from .limit import GradientLimit
from .status import is_about_size, is_fault, is_spoken, limit_and_size, outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.codec import UpstreamAnswer
    from ..config import UpstreamConfig
    from .call import Call, UpstreamCounters

__all__ = ["Lane", "LaneState", "new_batch_sizes"]

logger = logging.getLogger("gatesvr.upstream")

SERVICE = "/gatesvr.proto.UpstreamService/"
REFUSED = 1  # UpstreamStatus.UPSTREAM_REFUSED

MAX_SHARED_BYTES = 1 << 20
"""Largest message on a stream; servers built on our SDK or with gRPC's usual 4 MiB limit accept it.
A larger request goes as a unary call, so that hitting a size limit fails no other request."""
MIN_SHARED_BYTES = 1 << 10
"""Lower bound of the size limit learned from an upstream."""
ENTRY_BYTES = 16
"""Upper bound of a message's overhead for each request."""

UNARY_RETRY_S = 60.0
"""How often an upstream without ProcessStream is asked for it again."""
MAX_LATE = 4_096
"""Expired request ids remembered, to tell a late answer from an unknown one."""
MAX_JUNK = 1_024
"""Answers that nobody waits for, and messages without any, that a stream may bring beyond the
answers that somebody does wait for; one with more is ended."""
MAX_UNARY = 512
"""Concurrent unary calls: above 1,000, Google's gRPC servers refuse some at random (CANCELLED)."""
LATE_S = 5.0
"""How long a unary call continues past its deadline, so that a late answer is still counted."""
LONG_WAIT_S = 0.01
"""A call that has waited longer than this is sent with its remaining time."""
TIMER_STEP_S = 0.01
"""Shortest time between two passes over the deadlines."""
SETTLE_S = 0.05
"""How long a stream must survive its initial metadata before the lane writes to it."""
RECHECK_S = 0.01
"""How soon to look again at a channel that does not report READY yet."""
CLOSE_S = 2.0
"""Longest wait for the tasks of a closed channel, and for the end of a half-closed stream."""
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
MAX_BATCH_BITS = 20
"""``upstream.max_batch`` is at most a million, which is below two to the power of this."""
RETRY_MS = 100
"""Retry delay for the client whose call was refused or found no room."""


@dataclass(slots=True, eq=False)
class _Stream:
    """The ProcessStream that the lane writes to, and its tasks."""

    rpc: Any
    reader: asyncio.Task[None]
    writer: asyncio.Task[None]
    left: asyncio.Future[None]  # done when the lane has left it


class LaneState(Enum):
    """The state of the upstream, as far as the lane knows."""

    CONNECTING = "connecting"  # first attempt; calls wait for its outcome
    UNARY = "unary"
    STREAM = "stream"
    DOWN = "down"
    STOPPED = "stopped"


def new_batch_sizes() -> list[int]:
    """Return counts of 0 for a lane's batch_sizes."""
    return [0] * (MAX_BATCH_BITS + 1)


class Lane:
    """Sends the calls for one address, for every service and zone there.

    Args:
        address: HOST:PORT.
        config: Limits and times.
        max_message_bytes: The gateway's message limit.
        counters: The layer's counters.
        on_change: Called when is_up or is_connecting may have changed.
        on_stranded: Takes calls not yet written; returns those that no other lane accepts.
        on_refused: Takes a call that the upstream refused.
        clock: Time base of the calls' deadlines; loop time by default.
        batch_sizes: Counts the messages of 1, 2, up to 4, up to 8 requests and so on.
    """

    def __init__(
        self,
        address: str,
        config: UpstreamConfig,
        max_message_bytes: int,
        counters: UpstreamCounters,
        *,
        on_change: Callable[[], None],
        on_stranded: Callable[[Lane, list[Call]], list[Call]],
        on_refused: Callable[[Lane, Call], None],
        clock: RunningClock | None = None,
        batch_sizes: list[int] | None = None,
    ) -> None:
        self.address = address
        self.users = 0
        """Endpoints that use this lane; the manager counts them."""
        self.is_full = False
        """Whether calls wait because as many as may be are open."""
        self._set(config)
        self._max_shared_bytes = MAX_SHARED_BYTES
        self._max_batch_bytes = MAX_SHARED_BYTES
        self._counters = counters
        self._batch_sizes = new_batch_sizes() if batch_sizes is None else batch_sizes
        self._on_change = on_change
        self._on_stranded = on_stranded
        self._on_refused = on_refused

        self._loop = asyncio.get_running_loop()
        self._clock = clock or RunningClock(lambda: self._loop.time())
        self._channel = make_channel(address, upstream_options(config, max_message_bytes))
        # No serializers: bytes go out and come in as they are.
        self._process_stream: Any = self._channel.stream_stream(SERVICE + "ProcessStream")
        self._process_request: Any = self._channel.unary_unary(SERVICE + "ProcessRequest")
        self._health = HealthWatch(self._channel, self._set_serving, self._health_ended)

        self._state = LaneState.CONNECTING
        self._is_serving = True
        self._was_up: bool | None = None  # as last logged
        self._is_unary_told = False
        self._is_dialling = False
        self._waiting: deque[Call] = deque()
        # When a batch last emptied the line: every waiting call was made, or moved here, since.
        self._emptied_at = 0.0
        self._open: dict[int, Call] = {}  # written to the current or a draining stream
        self._draining_ids: set[int] = set()  # those written to a draining stream
        self._stream: _Stream | None = None
        self._is_left = False  # the channel left its last connection
        self._is_bad = False  # the last stream ended because of what it brought
        self._unary: dict[int, Call] = {}  # under way as a ProcessRequest
        self._late: dict[int, None] = {}
        self._writer_waker: asyncio.Future[None] | None = None
        self._written_at = 0.0
        self._is_busy = False
        self._load_mark = (0.0, 0.0)  # last measurement: loop time, the thread's CPU time
        self._pause_waker: asyncio.Future[None] | None = None
        self._recheck: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = inf

        self._is_stopping = False
        self._runner: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._drains: set[asyncio.Task[None]] = set()
        self._unary_tasks: set[asyncio.Task[None]] = set()
        self._rpcs: set[Any] = set()  # gRPC calls under way

    def _set(self, config: UpstreamConfig) -> None:
        self._config = config
        self._max_batch = config.max_batch
        self._max_waiting = config.max_waiting
        self._max_open = config.max_open
        self._limit = (
            GradientLimit(config.min_open, config.max_open) if config.adaptive_limit else None
        )

    # The manager's side.

    def apply(self, config: UpstreamConfig) -> None:
        """Take other limits and pauses; calls that are open or wait go on.

        The channel keeps its options: where those differ, the manager makes another lane.
        """
        if config != self._config:
            self._set(config)
            self._on_change()
            self._wake_writer()
            if self._state is not LaneState.STREAM:
                self._pump()

    @property
    def state(self) -> LaneState:
        """The state of the upstream, as far as the lane knows."""
        return self._state

    @property
    def is_up(self) -> bool:
        """Whether the upstream is reachable and does not report NOT_SERVING."""
        return (
            self._state in (LaneState.STREAM, LaneState.UNARY)
            and self._is_serving
            and not self._is_stopping
        )

    @property
    def is_connecting(self) -> bool:
        """Whether a first attempt is under way, so that calls may wait for its outcome."""
        return self._state is LaneState.CONNECTING and not self._is_stopping

    @property
    def max_open(self) -> int:
        """Most calls that may be open now."""
        return self._max_open

    @property
    def open_calls(self) -> int:
        """Calls written and not yet ended."""
        return len(self._open) + len(self._unary)

    @property
    def waiting_calls(self) -> int:
        """Calls not yet written."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to connect."""
        self._runner = self._loop.create_task(self._run(), name=f"gatesvr-lane-{self.address}")
        self._watcher = self._loop.create_task(self._watch(), name="gatesvr-lane-watcher")

    def submit(self, call: Call) -> None:
        """Take a call and see that it ends."""
        if len(self._waiting) >= self._max_waiting:
            self._overflow(call, f"{self._max_waiting} calls wait")
            return
        self._waiting.append(call)
        if call.deadline < self._timer_due:
            self._arm_timer(call.deadline)
        waker = self._writer_waker
        if waker is not None:
            self._writer_waker = None
            waker.set_result(None)
        elif self._state is not LaneState.STREAM:
            self._pump()

    def retry_now(self) -> None:
        """End the pause between two attempts, if one is under way."""
        if self._state is LaneState.DOWN:
            self._end_pause()

    async def stop(self, grace: float) -> None:
        """Close the stream for writing, wait for the open calls' answers, close the channel.

        Args:
            grace: Longest wait for the answers, seconds.
        """
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
                if not self._is_unary_told:
                    self._is_unary_told = True
                    logger.info("upstream_without_stream", extra=keys(address=self.address))
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
                await self._pause(self._jitter(pause))
            else:
                self._enter(LaneState.DOWN, reason)
                self._strand(reason)
                await self._pause(self._jitter(pause or config.reconnect_min))
            pause = min(2 * pause or config.reconnect_min, config.reconnect_max)

    def _learn_limit(self, details: str) -> bool:
        """Lower the size limit of the stream to what the upstream accepts.

        Returns:
            Whether a request was too large; False if it was an answer.
        """
        known = limit_and_size(details)
        if known is None:
            limit = self._max_shared_bytes // 2
        elif known[1] <= self._max_shared_bytes:
            limit = known[0]
        else:
            return False
        limit = max(limit, MIN_SHARED_BYTES)
        self._max_shared_bytes = limit
        self._max_batch_bytes = min(self._max_batch_bytes, limit)
        logger.warning(
            "upstream_limit",
            extra=keys(address=self.address, max_message_bytes=limit, why=details),
        )
        return True

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
        ids = [request_id for request_id in self._open if request_id not in self._draining_ids]
        self._draining_ids.update(ids)
        if not self._is_stopping:
            self._counters.goodbyes += 1
            logger.info("lane_moves", extra=keys(address=self.address, open=len(ids)))
        drain = self._loop.create_task(self._drain(stream, ids), name="gatesvr-lane-drain")
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)

    async def _drain(self, stream: _Stream, ids: list[int]) -> None:
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
            junk = max(junk + self._take_answers(batch), 0)
            if junk > MAX_JUNK:
                raise ValueError("answers to nothing that was asked")

    async def _write(self, call: Any) -> None:
        """Write the calls in line, batch by batch, until the stream ends or the lane leaves it."""
        counters = self._counters
        open_calls, batch_sizes = self._open, self._batch_sizes
        waker: asyncio.Future[None] | None = None
        is_fresh = False  # every call in line came after the writer's last pause
        try:
            while (stream := self._stream) is not None and stream.rpc is call and not call.done():
                if self._waiting and len(open_calls) < self._max_open:
                    if self._is_busy and (wait := self._pace(self._loop.time())) > 0:
                        await asyncio.sleep(wait)
                    elif batch := self._gather(is_fresh):
                        is_fresh = False
                        counters.batches += 1
                        counters.batched_requests += len(batch)
                        batch_sizes[(len(batch) - 1).bit_length()] += 1
                        await call.write(encode_batch(batch))
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

    def _gather(self, is_fresh: bool) -> list[bytes]:
        """Move the next batch from the line to the open calls.

        Args:
            is_fresh: Whether no call in the line has waited, however long the lane was quiet.
        """
        waiting, open_calls = self._waiting, self._open
        room = min(self._max_batch, self._max_open - len(open_calls))
        now = self._loop.time()
        is_old = not is_fresh and now - self._emptied_at > LONG_WAIT_S
        age_now = self._clock.now() if is_old else 0.0
        size = 0
        batch: list[bytes] = []
        while waiting and len(batch) < room:
            call = waiting[0]
            if call.on_end is None:
                waiting.popleft()
                continue
            if call.method:
                self._call_alone(waiting.popleft())
                continue
            size += len(call.upstream_req) + ENTRY_BYTES
            if size > self._max_batch_bytes:
                if batch:
                    break
                if size > self._max_shared_bytes:
                    self._call_alone(waiting.popleft())
                    size = 0
                    continue
            waiting.popleft()
            open_calls[call.request_id] = call
            batch.append(call.request_at(age_now) if is_old else call.upstream_req)
        if not waiting or is_fresh:
            self._emptied_at = now
        self._written_at = now
        if now - self._load_mark[0] > LOAD_S:
            self._look_at_load(now)
        if self._limit is not None and batch:
            last = next(reversed(open_calls))
            self._max_open = self._limit.sent(last, len(open_calls), now)
        return batch

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

    def _set_full(self, is_full: bool) -> None:
        self.is_full = is_full
        self._counters.limited += is_full
        self._on_change()

    async def _end_writer(self, writer: asyncio.Task[None]) -> None:
        self._wake_writer()
        _, pending = await asyncio.wait({writer}, timeout=CLOSE_S)
        if pending:
            writer.cancel()
            await asyncio.wait({writer})
        if not writer.cancelled() and (error := writer.exception()) is not None:
            logger.error("lane_writer_failed", extra=keys(address=self.address), exc_info=error)

    def _take_answers(self, batch: bytes) -> int:
        """End the calls that a lane message answers.

        Returns:
            How many of its answers nobody waits for, less those that somebody does wait for; 1 for
            a message without any.

        Raises:
            ValueError: It does not decode, or has more answers than there can be.
        """
        take_open = self._open.pop
        answers = decode_answers(batch, len(self._open) + MAX_LATE)
        junk = -len(answers) or 1
        for answer in answers:
            call = take_open(answer.request_id, None)
            if call is None:
                junk += self._drop(answer.request_id)
            else:
                self._finish(call, answer)
        if self._limit is not None:
            self._max_open = self._limit.answered(self._open, self._loop.time())
        if self._waiting:
            self._wake_writer()
        return junk

    def _finish(self, call: Call, answer: UpstreamAnswer) -> None:
        if call.on_end is None:
            self._counters.late_answers += 1
        elif answer.status == REFUSED:
            self._counters.refused_calls += 1
            self._on_refused(self, call)
        elif error := answer.error:
            self._counters.bad_answers += 1
            call.fail(
                error,
                outcome=Outcome.DONE,
                status="bad_answer",
                address=self.address,
                is_fault=True,
            )
        else:
            self._counters.answers += 1
            call.answer(answer)

    def _finish_method(self, call: MethodCall, reply: bytes) -> None:
        if call.on_end is None:
            self._counters.late_answers += 1
        else:
            self._counters.answers += 1
            call.take_reply(reply)

    def _drop(self, request_id: int) -> int:
        """Count an answer to no open call; return 1 if it is late, 2 if it is unknown."""
        if request_id in self._late:
            del self._late[request_id]
            self._counters.late_answers += 1
            return 1
        self._counters.unknown_answers += 1
        return 2

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

    def _call_alone(self, call: Call) -> None:
        """Send a request that the shared stream cannot take as a unary call."""
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

    def _overflow(self, call: Call, reason: str) -> None:
        self._counters.overflows += 1
        call.fail(
            reason,
            ErrorCode.BUSY,
            status="overflow",
            address=self.address,
            retry_after_ms=RETRY_MS,
        )

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
        rpc = method(request, timeout=timeout)
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

    def _set_serving(self, is_serving: bool) -> None:
        if is_serving is self._is_serving:
            return
        self._is_serving = is_serving
        self._changed("" if is_serving else "not serving")
        if is_serving:
            self._pump()
        else:
            self._strand("not serving")

    # States, breaks and deadlines.

    def _enter(self, state: LaneState, reason: str, *, is_quiet: bool = False) -> None:
        if state is self._state:
            return
        self._state = state
        if is_quiet:
            self._on_change()
        else:
            self._changed(reason)
        if state is LaneState.UNARY:
            self._pump()

    def _changed(self, reason: str) -> None:
        """Tell the manager, and log the change once."""
        is_up = self.is_up
        if not self._is_stopping:
            is_news = is_up if self._was_up is None else is_up is not self._was_up
            if is_news or (self._was_up is None and self._state is LaneState.DOWN):
                self._was_up = is_up
                if is_up:
                    self._counters.ups += 1
                    logger.info("upstream_up", extra=keys(address=self.address))
                else:
                    self._counters.downs += 1
                    logger.warning("upstream_down", extra=keys(address=self.address, why=reason))
        self._on_change()

    def _break(self, reason: str) -> None:
        """End the calls written to a stream that has ended."""
        for request_id in [i for i in self._open if i not in self._draining_ids]:
            self._fail_broken(self._open.pop(request_id), reason)

    def _fail_broken(self, call: Call, reason: str) -> None:
        """End a call that was written and can no longer be answered."""
        self._counters.broken_calls += 1
        call.fail(
            reason,
            outcome=Outcome.UNKNOWN,
            status="broken",
            address=self.address,
            is_fault=not self._is_stopping,
        )

    def _fail_by_status(
        self, call: Call, status: grpc.StatusCode, details: str, request_bytes: int
    ) -> None:
        """End a unary call by its gRPC status."""
        code, outcome = outcome_of(status, details, request_bytes)
        counters = self._counters
        if code is ErrorCode.TOO_LARGE:
            counters.too_large += 1
        elif outcome is Outcome.DONE:
            counters.failed_calls += 1
        else:
            counters.broken_calls += 1
        call.fail(
            details,
            code,
            outcome=outcome,
            status=status.name,
            address=self.address,
            is_fault=is_fault(status, details) and not self._is_stopping,
        )

    def _strand(self, reason: str, *, keep: bool = False) -> None:
        """Hand calls not yet written to other lanes; fail, or keep, the rest."""
        if not self._waiting:
            return
        stranded = [call for call in self._waiting if call.on_end is not None]
        self._waiting.clear()
        if self.is_full:
            self._set_full(False)
        left = self._on_stranded(self, stranded)
        if keep:
            self._waiting.extend(left)
            return
        self._counters.unsent_calls += len(left)
        for call in left:
            call.fail(reason, status="unreachable", address=self.address)

    def _arm_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(self._clock.loop_time(due), self._expire)

    def _expire(self) -> None:
        """End the calls whose deadline has passed; one timer serves all calls."""
        now = self._clock.now()
        self._timer_due = inf
        self._timer = None
        due = inf
        for table in (self._open, self._unary):
            for call in list(table.values()):
                if call.deadline <= now:
                    del table[call.request_id]
                    self._remember_late(call.request_id)
                    self._fail_late(call, Outcome.UNKNOWN)
                elif call.deadline < due:
                    due = call.deadline
        for call in self._waiting:
            if call.deadline <= now:
                self._fail_late(call, Outcome.NOT_STARTED)
            elif call.deadline < due:
                due = call.deadline
        if due < inf:
            self._arm_timer(max(due, now + TIMER_STEP_S))
        if self._waiting:
            self._waiting = deque(call for call in self._waiting if call.on_end is not None)
            self._wake_writer()

    def _fail_late(self, call: Call, outcome: Outcome) -> None:
        if call.on_end is not None:
            self._counters.unanswered += 1
            call.fail(
                "no answer in time",
                ErrorCode.DEADLINE,
                outcome=outcome,
                status="deadline",
                address=self.address,
                is_fault=outcome is Outcome.UNKNOWN,
            )

    def _remember_late(self, request_id: int) -> None:
        if len(self._late) >= MAX_LATE:
            del self._late[next(iter(self._late))]
        self._late[request_id] = None

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

    @staticmethod
    def _jitter(pause: float) -> float:
        return pause * random.uniform(0.5, 1.0)  # noqa: S311  not for secrets
