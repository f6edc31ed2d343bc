"""AsyncProcessor: a bounded queue of tasks and the elastic pool of workers that runs them.

A worker's steps for a task: session still valid → call the upstream → before-notifies, answer and
after-notifies as one fill of the session's order. A task that was accepted always ends in exactly
one of: an answer, an ERROR, or 499 where its session is closed.

Order: workers take the oldest task, and take it in the loop turn in which they hand it to the
upstream, so a session's requests reach the upstream in the order of their seqs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from typing import TYPE_CHECKING

from ..errors import ErrorCode, UpstreamError
from ..observe.log import keys
from ..protocol.messages import Outcome
from .task import AsyncTask, DispatchCounters

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.codec import UpstreamAnswer
    from ..config import DispatchConfig
    from ..upstream.manager import UpstreamManager
    from ..upstream.router import Route

__all__ = ["AsyncProcessor"]

logger = logging.getLogger("gatesvr.dispatch")

WORKERS_PER_CPU = 4
TICK_S = 1.0
MIN_RETRY_MS = 50
MAX_RETRY_MS = 5_000

# What a client reads; an upstream's own text and address never go into an ERROR.
_MESSAGES = {
    ErrorCode.NO_ROUTE: "no such service",
    ErrorCode.INTERNAL: "internal error",
    ErrorCode.UPSTREAM_UNREACHABLE: "upstream unreachable or broken off",
    ErrorCode.BUSY: "busy",
    ErrorCode.DEADLINE: "deadline passed",
}


class AsyncProcessor:
    """The task queue and its workers.

    The pool starts with ``workers`` (0: four a usable CPU), gets one more whenever a task finds no
    idle worker, up to ``max_workers``, and loses those above the starting number that were idle
    for ``idle_worker_timeout``.

    Args:
        config: Sizes and deadlines.
        upstream: Makes the calls.
        counters: The layer's counters.
        clock: Loop time.
    """

    def __init__(
        self,
        config: DispatchConfig,
        upstream: UpstreamManager,
        counters: DispatchCounters | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._upstream = upstream
        self._counters = DispatchCounters() if counters is None else counters
        self._now = clock
        self.start_workers = min(
            config.workers or len(os.sched_getaffinity(0)) * WORKERS_PER_CPU, config.max_workers
        )
        self.on_login: Callable[[AsyncTask, UpstreamAnswer, float], None] | None = None
        """Takes a hello's answer instead of reply()."""
        self.on_login_ended: Callable[[AsyncTask], None] | None = None
        """Called when a hello has ended, whatever became of it."""

        self._queue: deque[AsyncTask] = deque()
        # (session id, route) → the tasks behind the one that runs or waits in the queue.
        self._chains: dict[tuple[str, Route], deque[AsyncTask]] = {}
        self._chained = 0

        self._idle: deque[tuple[asyncio.Future[bool], float]] = deque()  # (waker, idle since)
        self._workers: set[asyncio.Task[None]] = set()
        self._logins: set[asyncio.Task[None]] = set()
        self._tick_timer: asyncio.TimerHandle | None = None

        self._is_started = False
        self._is_accepting = False
        self._is_stopped = False
        self._stopping: asyncio.Task[None] | None = None
        self._drained: asyncio.Event | None = None

        # Answers a second, over the last one to two ticks.
        self._marks = ((0.0, 0), (0.0, 0))

    @property
    def counters(self) -> DispatchCounters:
        """The layer's counters, gauges brought up to date."""
        counters = self._counters
        counters.queued = len(self)
        counters.idle_workers = len(self._idle)
        return counters

    @property
    def is_accepting(self) -> bool:
        """Whether tasks are taken: between start() and drain() or stop()."""
        return self._is_accepting

    def __len__(self) -> int:
        """Return the tasks waiting."""
        return len(self._queue) + self._chained

    def start(self) -> None:
        """Start the workers.

        Raises:
            RuntimeError: It was started before.
        """
        if self._is_started:
            raise RuntimeError("AsyncProcessor was started before")
        self._is_started = self._is_accepting = True
        now = self._now()
        self._marks = ((now, 0), (now, 0))
        for _ in range(self.start_workers):
            self._add_worker()
        self._schedule_tick()

    async def stop(self, drain_timeout: float = 0.0) -> None:
        """Take no new tasks, let those that are there finish, then cancel what is left.

        May be called any number of times, and without start().

        Args:
            drain_timeout: How long they may go on, seconds.
        """
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop(drain_timeout))
        await asyncio.shield(self._stopping)

    async def _stop(self, drain_timeout: float) -> None:
        self._is_accepting = False
        self._is_started = True  # a stopped processor is not started again
        self._drained = asyncio.Event()
        if drain_timeout > 0 and (len(self) or self._counters.running):
            try:
                async with asyncio.timeout(drain_timeout):
                    await self._drained.wait()
            except TimeoutError:
                logger.warning(
                    "drain_timeout", extra=keys(running=self._counters.running, queued=len(self))
                )
        self._is_stopped = True
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        running = [*self._workers, *self._logins]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        now = self._now()
        for waiting in (self._queue, *self._chains.values()):
            while waiting:
                self._fail(waiting.popleft(), ErrorCode.BUSY, Outcome.NOT_STARTED, now)
        self._chains.clear()
        self._chained = 0

    def submit(self, task: AsyncTask) -> bool:
        """Queue a task and wake a worker for it.

        Returns:
            False where the queue is full or the processor takes none: the caller answers 503.
        """
        queue = self._queue
        if not self._is_accepting:
            self._counters.refused_draining += 1
            return False
        if len(queue) + self._chained >= self._config.max_queue_size:
            self._counters.refused_full += 1
            return False
        self._counters.tasks += 1
        if task.serial_route is not None:
            key = (task.session_id, task.serial_route)
            chain = self._chains.get(key)
            if chain is not None:
                chain.append(task)
                self._chained += 1
                return True
            self._chains[key] = deque()
        self._enqueue(task)
        return True

    def login(self, task: AsyncTask) -> None:
        """Run a hello now, beside the pool: it waits for no worker and outlives its connection."""
        self._counters.tasks += 1
        coroutine = self._run_login(task)
        running = asyncio.get_running_loop().create_task(coroutine, name="gatesvr-login")
        self._logins.add(running)
        running.add_done_callback(self._logins.discard)

    def reply(self, task: AsyncTask, answer: UpstreamAnswer, now: float) -> None:
        """Give a task's session its answer, with the notifies around it."""
        client_seq = task.request.seq_id
        before, after = answer.notifies()
        if task.session.answer(client_seq, answer.body(client_seq), before, after, now):
            self._counters.answers += 1
        else:
            self._counters.closed_499 += 1

    def retry_after_ms(self) -> int:
        """Return when a refused request may be sent again: queue length ÷ answers a second."""
        since, answers_then = self._marks[0]
        answered = self._counters.answers - answers_then
        elapsed = self._now() - since
        if answered <= 0 or elapsed <= 0:
            return MAX_RETRY_MS
        wait_ms = int(1000 * len(self) * elapsed / answered)
        return max(MIN_RETRY_MS, min(wait_ms, MAX_RETRY_MS))

    def tick(self, now: float) -> None:
        """Retire workers that were idle too long and move the window of answers a second."""
        if now - self._marks[1][0] >= TICK_S:
            self._marks = (self._marks[1], (now, self._counters.answers))
        idle = self._idle
        too_many = len(self._workers) - self.start_workers
        # The stack's bottom is who was idle longest.
        while too_many > 0 and idle and now - idle[0][1] >= self._config.idle_worker_timeout:
            waker, _ = idle.popleft()
            if not waker.done():
                waker.set_result(False)
                too_many -= 1

    def _schedule_tick(self) -> None:
        pause = max(0.01, min(TICK_S, self._config.idle_worker_timeout / 2))
        self._tick_timer = asyncio.get_running_loop().call_later(pause, self._on_tick)

    def _on_tick(self) -> None:
        self.tick(self._now())
        self._schedule_tick()

    def _enqueue(self, task: AsyncTask) -> None:
        self._queue.append(task)
        if self._is_stopped:
            return
        idle = self._idle
        while idle:
            waker, _ = idle.pop()
            if not waker.done():
                waker.set_result(True)
                return
        if len(self._workers) < self._config.max_workers:
            self._add_worker()

    def _add_worker(self) -> None:
        worker = asyncio.get_running_loop().create_task(self._work(), name="gatesvr-worker")
        self._workers.add(worker)
        worker.add_done_callback(self._worker_ended)
        counters = self._counters
        counters.workers = len(self._workers)
        counters.peak_workers = max(counters.peak_workers, counters.workers)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        self._counters.workers = len(self._workers)
        if worker.cancelled() or (error := worker.exception()) is None:
            return
        self._counters.internal_errors += 1
        logger.error("worker_failed", exc_info=error)
        if self._is_accepting:
            self._add_worker()

    async def _work(self) -> None:
        queue = self._queue
        idle = self._idle
        create_future = asyncio.get_running_loop().create_future
        while True:
            while queue:
                await self._run(queue.popleft())
            waker: asyncio.Future[bool] = create_future()
            idle.append((waker, self._now()))
            if not await waker:
                return

    async def _run_login(self, task: AsyncTask) -> None:
        try:
            await self._run(task)
        except Exception:
            self._counters.internal_errors += 1
            logger.exception("login_failed", extra=keys(session=task.session_id))
        finally:
            if self.on_login_ended is not None:
                self.on_login_ended(task)

    async def _run(self, task: AsyncTask) -> None:
        """Do one task's steps; the request it stands for has ended when this returns."""
        counters = self._counters
        counters.running += 1
        now = self._now
        call: asyncio.Future[UpstreamAnswer] | None = None
        try:
            session = task.session
            started = now()
            if not session.is_valid:
                counters.closed_499 += 1
                return
            left = task.context - started
            if left <= 0:
                self._fail(task, ErrorCode.DEADLINE, Outcome.NOT_STARTED, started)
                return
            task.upstream_req = task.request.upstream_request(
                session.identity,
                task.request.seq_id,
                task.task_id,
                max(1, int(left * 1000)),
                session.peer_info,
            )
            call = self._upstream.call(
                task.service_type,
                session.openid,
                session.zone,
                task.upstream_req,
                task.task_id,
                task.context,
            )
            self._answer(task, await call, now())
        except UpstreamError as error:
            counters.upstream_errors += error.code != ErrorCode.DEADLINE
            logger.debug(
                "call_failed",
                extra=keys(task=task.task_id, service=task.service_type, reason=str(error)),
            )
            outcome = Outcome.UNKNOWN if error.is_started else Outcome.NOT_STARTED
            self._fail(task, error.code, outcome, now(), error.retry_after_ms)
        except asyncio.CancelledError:
            outcome = Outcome.UNKNOWN if call is not None else Outcome.NOT_STARTED
            self._fail(task, ErrorCode.BUSY, outcome, now())
            raise
        except Exception:
            counters.internal_errors += 1
            logger.exception("task_failed", extra=keys(task=task.task_id, session=task.session_id))
            outcome = Outcome.UNKNOWN if call is not None else Outcome.NOT_STARTED
            self._fail(task, ErrorCode.INTERNAL, outcome, now())
        finally:
            # An error's traceback holds this frame, the frame would hold the future, and that the
            # error: a cycle that keeps the session.
            del call
            counters.running -= 1
            if task.serial_route is not None:
                self._release_chain((task.session_id, task.serial_route))
            if self._drained is not None and not counters.running and not len(self):
                self._drained.set()

    def _answer(self, task: AsyncTask, answer: UpstreamAnswer, now: float) -> None:
        client_seq = task.request.seq_id
        if answer.error or (answer.client_seq_id and answer.client_seq_id != client_seq):
            self._counters.upstream_errors += 1
            logger.warning(
                "bad_answer",
                extra=keys(
                    task=task.task_id,
                    service=task.service_type,
                    reason=answer.error or "client_seq_id of another request",
                ),
            )
            self._fail(task, ErrorCode.UPSTREAM_UNREACHABLE, Outcome.UNKNOWN, now)
            return
        if task.is_login and self.on_login is not None:
            self.on_login(task, answer, now)
        else:
            self.reply(task, answer, now)

    def _fail(
        self,
        task: AsyncTask,
        code: ErrorCode,
        outcome: Outcome,
        now: float,
        retry_after_ms: int = 0,
    ) -> None:
        """Answer a task's request by an ERROR, unless its session is gone."""
        self._counters.deadlines += code == ErrorCode.DEADLINE
        is_kept = task.session.fail(
            task.client_seq,
            code,
            _MESSAGES.get(code, "request failed"),
            outcome=outcome,
            retry_after_ms=retry_after_ms,
            detail=str(task.task_id),
            now=now,
        )
        if is_kept:
            self._counters.answers += 1
        else:
            self._counters.closed_499 += 1

    def _release_chain(self, key: tuple[str, Route]) -> None:
        """Let the next of a session's tasks on a serial route into the queue."""
        chain = self._chains.get(key)
        if chain:
            self._chained -= 1
            self._enqueue(chain.popleft())
        else:
            self._chains.pop(key, None)
