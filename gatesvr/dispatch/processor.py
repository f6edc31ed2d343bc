"""AsyncProcessor: bounded queues of tasks and the elastic pool of workers that runs them.

A submitted task ends exactly once: by an answer, by an ERROR, or as 499 where its session is
closed.

Order: a worker takes the oldest task of a session and calls the upstream at once, so a session's
requests reach a service in the order of their seqs. Among sessions and services, see bulkhead.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from .._core.histogram import RequestTimer
from ..config.workers import usable_cpus
from ..errors import ErrorCode, Outcome, UpstreamError
from ..observe.limiter import LogLimiter
from ..observe.log import keys
from .bulkhead import Bulkhead
from .failures import fail, log_failure
from .task import AsyncTask, DispatchCounters
from .worker import CLOSED, Worker, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._core.codec import UpstreamAnswer
    from ..config import DispatchConfig
    from ..observe.stages import Stages
    from ..session.session import Session
    from ..upstream.manager import UpstreamManager
    from ..upstream.router import Route

__all__ = ["AsyncProcessor", "usable_cpus"]

logger = logging.getLogger("gatesvr.dispatch")

WORKERS_PER_CPU = 4
IDLE_WORKER_TIMEOUT_S = 5.0
"""How long a worker above the starting number stays without a task."""
TICK_S = 1.0


class _Bulkheads(dict[str, Bulkhead]):
    """The bulkheads by service, made on first use."""

    def __init__(self, make: Callable[[str], Bulkhead]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, service: str) -> Bulkhead:
        bulkhead = self[service] = self._make(service)
        return bulkhead


def _start_workers(config: DispatchConfig) -> int:
    return min(config.workers or usable_cpus() * WORKERS_PER_CPU, config.max_workers)


class AsyncProcessor:
    """The task queues and their workers.

    The pool starts with ``workers`` (0: four a usable CPU), adds one whenever a task finds none
    idle, and retires those above the starting number that were idle for IDLE_WORKER_TIMEOUT_S.
    Each service has at most ``max_workers`` of them at a time.

    Args:
        config: Sizes and deadlines.
        upstream: Makes the calls.
        clock: Loop time.
        stages: Takes how long tasks take, None for nobody.
    """

    def __init__(
        self,
        config: DispatchConfig,
        upstream: UpstreamManager,
        clock: Callable[[], float] = time.monotonic,
        stages: Stages | None = None,
    ) -> None:
        self._upstream = upstream
        self._timer = stages.requests if stages is not None else RequestTimer()
        self._counters = DispatchCounters()
        self.lines = LogLimiter(logger)
        """Bounds the layer's lines about requests."""
        self._now = clock
        self._idle_timeout = IDLE_WORKER_TIMEOUT_S
        self._config = config
        self.start_workers = _start_workers(config)

        # By service; the configuration names all that routes lead to.
        self._bulkheads = _Bulkheads(
            lambda service: Bulkhead(
                self._config.max_workers,
                self._config.max_queue_size,
                clock(),
                stages.upstream(service) if stages is not None else None,
            )
        )
        self._idle: deque[Worker] = deque()
        self._workers: dict[Worker, None] = {}
        self._beside: dict[Worker, None] = {}  # each runs one task beside the pool
        self._last_worker = 0
        self._ticked_at = 0.0
        self._tick_timer: asyncio.TimerHandle | None = None

        self._is_started = False
        self._is_accepting = False
        self._is_stopped = False
        self._stopping: asyncio.Task[None] | None = None
        self._drained: asyncio.Event | None = None

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
        """Whether it takes tasks: from start() until stop()."""
        return self._is_accepting

    def __len__(self) -> int:
        """Return the number of tasks that wait."""
        return sum(bulkhead.waiting for bulkhead in self._bulkheads.values())

    @property
    def unfinished(self) -> int:
        """Tasks that wait or run, hellos included."""
        return self._running() + len(self)

    def _running(self) -> int:
        """Return the number of tasks begun and not ended."""
        return len(self._workers) - len(self._idle) + len(self._beside)

    def workers(self) -> list[WorkerState]:
        """Return every worker and its task, for diagnosis."""
        return [worker.state() for worker in (*self._workers, *self._beside)]

    def tasks_of(self, session: Session) -> Iterator[AsyncTask]:
        """Yield the tasks of a session, those that run first, for diagnosis."""
        for worker in (*self._workers, *self._beside):
            if worker.task is not None and worker.task.session is session:
                yield worker.task
        for bulkhead in self._bulkheads.values():
            yield from bulkhead.tasks_of(session)

    def withdraw(self, session: Session) -> list[AsyncTask]:
        """Take out and return the tasks of a session that no worker has begun, in their order."""
        tasks = [task for part in self._bulkheads.values() for task in part.withdraw(session)]
        self._counters.withdrawn += len(tasks)
        for task in tasks:
            if task.trace is not None:
                task.trace.end(CLOSED)
        if self._drained is not None and not self.unfinished:
            self._drained.set()
        return sorted(tasks, key=lambda task: task.client_seq)

    def hold_place(self, session: Session, route: Route) -> None:
        """Start nothing of a session on a serial route until give_up_place()."""
        self._bulkheads[route.service].hold(session, route)

    def give_up_place(self, session: Session, route: Route, now: float) -> None:
        """Start the next of a session's tasks on a serial route."""
        bulkhead = self._bulkheads[route.service]
        bulkhead.release(session, route)
        if bulkhead.turns and not bulkhead.is_handing_out:
            self._hand_out(bulkhead, now)

    def start(self) -> None:
        """Start the workers.

        Raises:
            RuntimeError: It was started before.
        """
        if self._is_started:
            raise RuntimeError("AsyncProcessor was started before")
        self._is_started = self._is_accepting = True
        self._ticked_at = self._now()
        for _ in range(self.start_workers):
            self._idle.append(self._add_worker())
        self._schedule_tick()

    def apply(self, config: DispatchConfig) -> None:
        """Take other sizes; tasks that run or wait go on."""
        self._config = config
        self.start_workers = _start_workers(config)
        if not self._is_accepting:
            return
        while len(self._workers) < self.start_workers:
            self._idle.append(self._add_worker())
        now = self._now()
        for bulkhead in self._bulkheads.values():
            bulkhead.resize(config.max_workers, config.max_queue_size)
            if bulkhead.turns and not bulkhead.is_handing_out:
                self._hand_out(bulkhead, now)

    async def stop(self, drain_timeout: float = 0.0) -> None:
        """Refuse new tasks, let the present ones finish, then end the rest by 503.

        Idempotent, and allowed without start().

        Args:
            drain_timeout: Time the present tasks get, seconds.
        """
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop(drain_timeout))
        await asyncio.shield(self._stopping)

    async def _stop(self, drain_timeout: float) -> None:
        self._is_accepting = False
        self._is_started = True  # makes a later start() raise
        self._drained = asyncio.Event()
        if drain_timeout > 0 and self.unfinished:
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
        for bulkhead in self._bulkheads.values():
            for task in bulkhead.clear():
                log_failure(self.lines, task, stopped, now)
                fail(task, ErrorCode.BUSY, Outcome.NOT_STARTED, now, self._counters)
        for worker in [*self._workers, *self._beside]:
            worker.give_up()
        self._workers.clear()
        self._idle.clear()
        self.lines.close()

    def submit(self, task: AsyncTask, now: float) -> bool:
        """Give a task to a worker if its service has a place free, else queue it.

        Returns:
            False where there is no room for it in the queue, or the processor stops; the caller
            answers 503.
        """
        if not self._is_accepting:
            self._counters.refused_draining += 1
            return False
        bulkhead = self._bulkheads[task.service]
        if bulkhead.waiting and not bulkhead.has_room(task.session):
            self._counters.refused_full += 1
            return False
        self._counters.tasks += 1
        if task.route.serial and bulkhead.is_behind(task):
            return True
        if (
            self._idle
            and not bulkhead.is_handing_out
            and (
                (not bulkhead.turns and bulkhead.begun - bulkhead.ended < bulkhead.open_places)
                or bulkhead.has_place(task.session)
            )
        ):
            # The usual case: as _hand_out(), without its loop.
            bulkhead.begun += 1
            worker = self._idle.pop()
            if not worker.begin(task, now):
                self._free(worker, task, now, is_called=False)
            return True
        bulkhead.add(task)
        if not bulkhead.is_handing_out:
            self._hand_out(bulkhead, now)
        return True

    def run_at_once(
        self,
        task: AsyncTask,
        now: float,
        on_answer: Callable[[AsyncTask, UpstreamAnswer, float], None],
        on_end: Callable[[AsyncTask], None],
    ) -> None:
        """Run a task beside the pool: it waits for no worker and for no task before it.

        Args:
            task: The task.
            now: Loop time.
            on_answer: Called with its answer; the callee passes it on, see reply().
            on_end: Called once when it has ended, however it ended.
        """
        self._counters.tasks += 1
        free = partial(self._free_beside, on_end)
        worker = self._make_worker(f"login-{task.task_id}", on_answer, free)
        self._beside[worker] = None
        if not worker.begin(task, now):
            free(worker, task, now, is_called=False)

    def reply(self, task: AsyncTask, answer: UpstreamAnswer, now: float) -> None:
        """Give a task's session the answer, with the notifies that it carries."""
        client_seq = task.request.seq_id
        before, after = answer.notifies()
        if task.session.answer(client_seq, answer.body(client_seq), before, after, now):
            self._counters.answers += 1
        else:
            self._counters.closed_499 += 1

    def retry_after_ms(self, service: str) -> int:
        """Return the time after which to send a request that was refused to a service again."""
        return self._bulkheads[service].retry_after_ms(self._now())

    def tick(self, now: float) -> None:
        """Retire workers that were idle too long, and move the windows of retry_after_ms()."""
        self.lines.tick(now)
        if now - self._ticked_at >= TICK_S:
            self._ticked_at = now
            for bulkhead in self._bulkheads.values():
                bulkhead.tick(now)
        idle = self._idle
        too_many = len(self._workers) - self.start_workers
        # Workers are taken from the right, so the leftmost was idle longest.
        while too_many > 0 and idle and now - idle[0].idle_since >= self._idle_timeout:
            worker = idle.popleft()
            del self._workers[worker]
            too_many -= 1
            logger.debug("worker_retired", extra=keys(worker=worker.worker_id))

    def _schedule_tick(self) -> None:
        pause = max(0.01, min(TICK_S, self._idle_timeout / 2))
        self._tick_timer = asyncio.get_running_loop().call_later(pause, self._on_tick)

    def _on_tick(self) -> None:
        self.tick(self._now())
        self._schedule_tick()

    def _hand_out(self, bulkhead: Bulkhead, now: float) -> None:
        """Give a service's queued tasks to workers; the pool grows while none is idle."""
        if self._is_stopped:
            return
        idle = self._idle
        # A task that ends at once may queue another; this loop takes that too, without recursion.
        bulkhead.is_handing_out = True
        try:
            while (task := bulkhead.take()) is not None:
                worker = idle.pop() if idle else self._add_worker()
                bulkhead.begun += 1
                if not worker.begin(task, now):
                    self._free(worker, task, now, is_called=False)
        finally:
            bulkhead.is_handing_out = False

    def _make_worker(
        self,
        worker_id: str,
        answer: Callable[[AsyncTask, UpstreamAnswer, float], None],
        free: Callable[[Worker, AsyncTask, float], None],
    ) -> Worker:
        return Worker(
            worker_id, self._upstream, self._counters, self.lines, self._now, answer, free
        )

    def _add_worker(self) -> Worker:
        self._last_worker += 1
        worker = self._make_worker(f"worker-{self._last_worker}", self.reply, self._free)
        self._workers[worker] = None
        counters = self._counters
        counters.peak_workers = max(counters.peak_workers, len(self._workers))
        logger.debug("worker_added", extra=keys(worker=worker.worker_id))
        return worker

    def _free(self, worker: Worker, task: AsyncTask, now: float, *, is_called: bool = True) -> None:
        """Take back a worker whose task has ended, and give its place to a task that waits."""
        self._idle.append(worker)
        bulkhead = self._bulkheads[task.service]
        if is_called and (times := bulkhead.times) is not None:
            is_sent = task.session.link is not None
            self._timer.ended(times, task.asked_at, worker.called_at, now, is_sent)
        bulkhead.ended += 1
        if task.route.serial:
            bulkhead.release(task.session, task.route)
        worker.idle_since = now
        if bulkhead.turns and not bulkhead.is_handing_out:
            self._hand_out(bulkhead, now)
        if self._drained is not None and not self.unfinished:
            self._drained.set()

    def _free_beside(
        self,
        on_end: Callable[[AsyncTask], None],
        worker: Worker,
        task: AsyncTask,
        now: float,
        *,
        is_called: bool = True,
    ) -> None:
        """Drop a worker whose task beside the pool has ended."""
        self._beside.pop(worker, None)
        if is_called and (times := self._bulkheads[task.service].times) is not None:
            is_sent = task.session.link is not None
            self._timer.ended(times, task.asked_at, worker.called_at, now, is_sent)
        try:
            on_end(task)
        except Exception:
            self._counters.internal_errors += 1
            names = keys(worker=worker.worker_id, **task.ids())
            logger.exception("login_failed", extra=names)
        if self._drained is not None and not self.unfinished:
            self._drained.set()
