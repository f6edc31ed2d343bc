"""AsyncProcessor: a bounded queue of tasks and the elastic pool of workers that runs them.

A task that was accepted always ends in exactly one of: an answer, an ERROR, or 499 where its
session is closed.

Order: workers take the oldest task and hand it to the upstream at once, so a session's requests
reach the upstream in the order of their seqs.
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
from .failures import FailureLog
from .task import AsyncTask, DispatchCounters
from .worker import Worker, fail

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.codec import UpstreamAnswer
    from ..config import DispatchConfig
    from ..upstream.manager import UpstreamManager
    from ..upstream.router import Route

__all__ = ["AsyncProcessor", "usable_cpus"]

logger = logging.getLogger("gatesvr.dispatch")

WORKERS_PER_CPU = 4
TICK_S = 1.0
MIN_RETRY_MS = 50
MAX_RETRY_MS = 5_000


def usable_cpus() -> int:
    """Return the processors that this process may run on, as far as the system tells."""
    if hasattr(os, "sched_getaffinity"):  # macOS has not
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        self._upstream = upstream
        self._counters = DispatchCounters() if counters is None else counters
        self._failures = FailureLog()
        self._now = clock
        self._max_workers = int(config.max_workers)
        self._max_queue_size = int(config.max_queue_size)
        self._idle_timeout = float(config.idle_worker_timeout)
        self.start_workers = min(
            config.workers or usable_cpus() * WORKERS_PER_CPU, self._max_workers
        )
        self.on_login: Callable[[AsyncTask, UpstreamAnswer, float], None] | None = None
        """Takes a hello's answer instead of reply()."""
        self.on_login_ended: Callable[[AsyncTask], None] | None = None
        """Called when a hello has ended, whatever became of it."""

        self._queue: deque[AsyncTask] = deque()
        # (session id, route) → the tasks behind the one that runs or waits in the queue.
        self._chains: dict[tuple[str, Route], deque[AsyncTask]] = {}
        self._chained = 0

        self._idle: deque[Worker] = deque()
        self._workers: dict[Worker, None] = {}
        self._logins: dict[Worker, None] = {}  # each for one hello, outside of the pool
        self._is_handing_out = False
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
        counters.workers = len(self._workers)
        counters.idle_workers = len(self._idle)
        counters.running = self._running()
        return counters

    @property
    def is_accepting(self) -> bool:
        """Whether tasks are taken: between start() and drain() or stop()."""
        return self._is_accepting

    def __len__(self) -> int:
        """Return the tasks waiting."""
        return len(self._queue) + self._chained

    def _running(self) -> int:
        """Return the tasks begun and not ended."""
        return len(self._workers) - len(self._idle) + len(self._logins)

    def _is_drained(self) -> bool:
        return not self._running() and not len(self)

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
            self._idle.append(self._add_worker())
        self._schedule_tick()

    async def stop(self, drain_timeout: float = 0.0) -> None:
        """Take no new tasks, let those that are there finish, then end what is left by 503.

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
        if drain_timeout > 0 and not self._is_drained():
            try:
                async with asyncio.timeout(drain_timeout):
                    await self._drained.wait()
            except TimeoutError:
                logger.warning(
                    "drain_timeout", extra=keys(running=self._running(), queued=len(self))
                )
        self._is_stopped = True
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        now = self._now()
        stopped = UpstreamError("the gateway stopped", ErrorCode.BUSY, status="stopped")
        for waiting in (*self._chains.values(), self._queue):
            while waiting:
                task = waiting.popleft()
                self._failures.add(task, stopped, now)
                fail(task, ErrorCode.BUSY, Outcome.NOT_STARTED, now, self._counters)
        self._chained = 0
        for worker in [*self._workers, *self._logins]:
            worker.give_up()
        self._chains.clear()
        self._workers.clear()
        self._idle.clear()
        self._failures.close()

    def submit(self, task: AsyncTask, now: float) -> bool:
        """Queue a task, and hand it to a worker where one is idle or may be added.

        Returns:
            False where the queue is full or the processor takes none: the caller answers 503.
        """
        queue = self._queue
        if not self._is_accepting:
            self._counters.refused_draining += 1
            return False
        if len(queue) + self._chained >= self._max_queue_size:
            self._counters.refused_full += 1
            return False
        self._counters.tasks += 1
        if task.route.serial:
            key = (task.session_id, task.route)
            chain = self._chains.get(key)
            if chain is not None:
                chain.append(task)
                self._chained += 1
                return True
            self._chains[key] = deque()
        if self._idle and not queue and not self._is_handing_out:
            # Most tasks: what _hand_out() does, without its loop.
            worker = self._idle.pop()
            if not worker.begin(task, now):
                self._free(worker, task, now)
            return True
        queue.append(task)
        if not self._is_handing_out:
            self._hand_out(now)
        return True

    def login(self, task: AsyncTask, now: float) -> None:
        """Run a hello now, beside the pool: it waits for no worker and outlives its connection."""
        self._counters.tasks += 1
        worker = self._make_worker(self._login_answered, self._login_ended)
        self._logins[worker] = None
        if not worker.begin(task, now):
            self._login_ended(worker, task, now)

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
        self._failures.tick(now)
        if now - self._marks[1][0] >= TICK_S:
            self._marks = (self._marks[1], (now, self._counters.answers))
        idle = self._idle
        too_many = len(self._workers) - self.start_workers
        # The stack's bottom is who was idle longest.
        while too_many > 0 and idle and now - idle[0].idle_since >= self._idle_timeout:
            del self._workers[idle.popleft()]
            too_many -= 1

    def _schedule_tick(self) -> None:
        pause = max(0.01, min(TICK_S, self._idle_timeout / 2))
        self._tick_timer = asyncio.get_running_loop().call_later(pause, self._on_tick)

    def _on_tick(self) -> None:
        self.tick(self._now())
        self._schedule_tick()

    def _hand_out(self, now: float) -> None:
        """Give the tasks that wait to workers; the pool grows while none is idle."""
        if self._is_stopped:
            return
        queue, idle = self._queue, self._idle
        # A task that ends at once may let others in: this loop takes them, nobody on top of it.
        self._is_handing_out = True
        try:
            while queue:
                if idle:
                    worker = idle.pop()
                elif len(self._workers) < self._max_workers:
                    worker = self._add_worker()
                else:
                    return
                task = queue.popleft()
                if not worker.begin(task, now):
                    self._free(worker, task, now)
        finally:
            self._is_handing_out = False

    def _make_worker(
        self,
        answer: Callable[[AsyncTask, UpstreamAnswer, float], None],
        free: Callable[[Worker, AsyncTask, float], None],
    ) -> Worker:
        return Worker(self._upstream, self._counters, self._failures, self._now, answer, free)

    def _add_worker(self) -> Worker:
        worker = self._make_worker(self.reply, self._free)
        self._workers[worker] = None
        counters = self._counters
        counters.peak_workers = max(counters.peak_workers, len(self._workers))
        return worker

    def _free(self, worker: Worker, task: AsyncTask, now: float) -> None:
        """Take back a worker whose task has ended, and give it the next one that waits."""
        self._idle.append(worker)
        if task.route.serial:
            self._release_chain((task.session_id, task.route))
        worker.idle_since = now
        if self._queue and not self._is_handing_out:
            self._hand_out(now)
        if self._drained is not None and self._is_drained():
            self._drained.set()

    def _release_chain(self, key: tuple[str, Route]) -> None:
        """Let the next of a session's tasks on a serial route into the queue."""
        chain = self._chains.get(key)
        if chain:
            self._chained -= 1
            self._queue.append(chain.popleft())
        else:
            self._chains.pop(key, None)

    def _login_answered(self, task: AsyncTask, answer: UpstreamAnswer, now: float) -> None:
        (self.on_login or self.reply)(task, answer, now)

    def _login_ended(self, worker: Worker, task: AsyncTask, now: float) -> None:
        self._logins.pop(worker, None)
        try:
            if self.on_login_ended is not None:
                self.on_login_ended(task)
        except Exception:
            self._counters.internal_errors += 1
            logger.exception("login_failed", extra=keys(session=task.session_id))
        if self._drained is not None and self._is_drained():
            self._drained.set()
