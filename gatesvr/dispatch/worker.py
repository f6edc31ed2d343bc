"""Worker: a place in the pool, and the steps of the task that has it.

The steps: check that the session is valid → call the upstream → put before-notifies, answer and
after-notifies into the session's order as one bundle.

A worker is no coroutine and no asyncio task. It has one task at a time; begin() takes that up to
its call, and the lane calls the worker back when the call has ended. The pool's size is therefore
the number of calls open at a time, and a request costs no turn of the loop and no future. (An
asyncio task for each worker cost two of each per request.)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._pb import upstream_pb2 as pb
from ..errors import ErrorCode, Outcome, UpstreamError
from ..observe.log import keys
from .failures import fail, log_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.codec import UpstreamAnswer
    from ..observe.limiter import LogLimiter
    from ..upstream.manager import UpstreamManager
    from .task import AsyncTask, DispatchCounters

__all__ = ["Worker", "WorkerState"]

logger = logging.getLogger("gatesvr.dispatch")

CLOSED = 499
"""The code of a request whose session was closed; no client sees it."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker at one moment, for diagnosis.

    Attributes:
        worker_id: ``worker-N`` in the pool, ``login-N`` beside it.
        task_id: Its task, 0 while it is idle; the other fields describe the task.
        session_id: The session that asked.
        service_type: The service that was asked.
        is_login: Whether the task is a hello.
        request_bytes: Length of the BusinessRequest.
        context: Loop time of the deadline.
    """

    worker_id: str
    task_id: int = 0
    session_id: str = ""
    service_type: str = ""
    is_login: bool = False
    request_bytes: int = 0
    context: float = 0.0


class Worker:
    """Takes one task at a time through its steps.

    Args:
        worker_id: Its name in logs.
        upstream: Makes the calls.
        counters: The layer's counters.
        failures: Logs calls that failed.
        clock: Loop time.
        answer: Called with a task and its answer.
        free: Called when a task has ended, unless begin() returned False for it.

    Attributes:
        worker_id: Its name in logs.
        task: Its task, None while it is idle.
        called_at: Loop time at which the upstream of its task was called.
        idle_since: Loop time at which its last task ended.
    """

    __slots__ = (
        "_answer",
        "_clock",
        "_counters",
        "_failures",
        "_free",
        "_upstream",
        "called_at",
        "idle_since",
        "task",
        "worker_id",
    )

    def __init__(
        self,
        worker_id: str,
        upstream: UpstreamManager,
        counters: DispatchCounters,
        failures: LogLimiter,
        clock: Callable[[], float],
        answer: Callable[[AsyncTask, UpstreamAnswer, float], None],
        free: Callable[[Worker, AsyncTask, float], None],
    ) -> None:
        self.worker_id = worker_id
        self._upstream = upstream
        self._counters = counters
        self._failures = failures
        self._clock = clock
        self._answer = answer
        self._free = free
        self.task: AsyncTask | None = None
        self.called_at = 0.0
        self.idle_since = clock()

    def state(self) -> WorkerState:
        """Return the worker and its task as they are now."""
        task = self.task
        if task is None:
            return WorkerState(self.worker_id)
        return WorkerState(
            self.worker_id,
            task.task_id,
            task.session_id,
            task.service_type,
            task.is_login,
            len(task.business_req),
            task.context,
        )

    def begin(self, task: AsyncTask, now: float) -> bool:
        """Take a task through its steps up to the call.

        Returns:
            True where the call is under way, False where the task has ended already.
        """
        session = task.session
        if not session.is_valid:
            self._counters.closed_499 += 1
            if task.trace is not None:
                task.trace.end(CLOSED)
            return False
        left = task.deadline - now
        if left <= 0:
            late = UpstreamError("not called in time", ErrorCode.DEADLINE, status="queued")
            self._fail(task, late, now)
            return False
        try:
            request = task.request
            task.upstream_req = request.upstream_request(
                session.identity,
                request.seq_id,
                task.request_id,
                max(1, int(left * 1000)),
                session.peer_info,
            )
            if task.trace is not None:
                headers = task.trace.call_began()
                # protobuf merges a map's parts; a client's own headers of these names are dropped.
                task.upstream_req += pb.UpstreamRequest(headers=headers).SerializeToString()
            task.on_end = self._ended
            self.task = task
            self.called_at = now
            self._upstream.send(task)
        except Exception as error:
            self.task = task.on_end = None
            self._fail_internal(task, Outcome.NOT_STARTED, error)
            return False
        return True

    def give_up(self) -> None:
        """End its task, if it has one, by 503: the pool stops."""
        task = self.task
        if task is not None:
            self.task = None
            task.give_up()
            now = self._clock()
            stopped = UpstreamError(
                "the gateway stopped", ErrorCode.BUSY, outcome=Outcome.UNKNOWN, status="stopped"
            )
            self._fail(task, stopped, now)
            self._free(self, task, now)

    def _ended(self, answer: UpstreamAnswer | None, error: UpstreamError | None) -> None:
        """Take the task through its last step, now that its call has ended."""
        task = self.task
        if task is None:
            return  # given up while the error was on its way
        self.task = None
        now = self._clock()
        try:
            if answer is None:
                assert error is not None
                self._fail(task, error, now)
                return
            client_seq = task.request.seq_id
            if answer.client_seq_id and answer.client_seq_id != client_seq:
                self._refuse_answer(task, now)
                return
            self._answer(task, answer, now)
        except Exception as problem:
            self._fail_internal(task, Outcome.UNKNOWN, problem)
        finally:
            self._free(self, task, now)

    def _refuse_answer(self, task: AsyncTask, now: float) -> None:
        """Fail a task whose answer belongs to another request."""
        self._counters.foreign_answers += 1
        task.disown_answer()
        error = UpstreamError(
            "client_seq_id of another request",
            outcome=Outcome.UNKNOWN,
            status="foreign_answer",
            address=task.address,
        )
        self._fail(task, error, now)

    def _fail(self, task: AsyncTask, error: UpstreamError, now: float) -> None:
        log_failure(self._failures, task, error, now)
        fail(task, error.code, error.outcome, now, self._counters, error.retry_after_ms)

    def _fail_internal(self, task: AsyncTask, outcome: Outcome, error: Exception) -> None:
        """Fail a task at which the gateway's own code raised."""
        self._counters.internal_errors += 1
        names = keys(
            worker=self.worker_id,
            **task.ids(),
            service=task.service_type,
            bytes=len(task.business_req),
        )
        logger.error("task_failed", extra=names, exc_info=error)
        fail(task, ErrorCode.INTERNAL, outcome, self._clock(), self._counters)
