"""Worker: a place in the pool, and the steps of the task that has it.

The steps: session still valid → call the upstream → before-notifies, answer and after-notifies as
one fill of the session's order. A worker is no asyncio task: between its steps it waits for one
thing only, the end of its call, and is called back then. (Waiting in a task of its own took two
turns of the loop and two futures a request.)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import ErrorCode, UpstreamError
from ..observe.log import keys
from ..protocol.messages import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.codec import UpstreamAnswer
    from ..upstream.manager import UpstreamManager
    from .failures import FailureLog
    from .task import AsyncTask, DispatchCounters

__all__ = ["Worker", "fail"]

logger = logging.getLogger("gatesvr.dispatch")

# What a client reads; an upstream's own text and address never go into an ERROR.
_MESSAGES = {
    ErrorCode.NO_ROUTE: "no such service",
    ErrorCode.TOO_LARGE: "request too large for the service",
    ErrorCode.INTERNAL: "internal error",
    ErrorCode.UPSTREAM_UNREACHABLE: "upstream unreachable or broken off",
    ErrorCode.BUSY: "busy",
    ErrorCode.DEADLINE: "deadline passed",
}
# The same where the service itself has ended the request.
_DONE_MESSAGES = {
    ErrorCode.BAD_REQUEST: "the service calls it a bad request",
    ErrorCode.FORBIDDEN: "the service does not allow it",
    ErrorCode.NO_ROUTE: "the service did not find it",
    ErrorCode.TOO_LARGE: "answer too large",
    ErrorCode.UNKNOWN_TYPE: "the service does not implement it",
    ErrorCode.UPSTREAM_UNREACHABLE: "the service failed",
    ErrorCode.BUSY: "the service is exhausted",
}


def fail(
    task: AsyncTask,
    code: ErrorCode,
    outcome: Outcome,
    now: float,
    counters: DispatchCounters,
    retry_after_ms: int = 0,
) -> None:
    """Answer a task's request by an ERROR, unless its session is gone.

    Raises nothing: further up is a lane with others' answers to hand on, or a stop with others'
    tasks to end.
    """
    counters.deadlines += code == ErrorCode.DEADLINE
    try:
        is_kept = task.session.fail(
            task.client_seq,
            code,
            (_DONE_MESSAGES if outcome is Outcome.DONE else _MESSAGES).get(code, "request failed"),
            outcome=outcome,
            retry_after_ms=retry_after_ms,
            detail=str(task.task_id),
            now=now,
        )
    except Exception:
        counters.internal_errors += 1
        logger.exception("task_lost", extra=keys(request_id=task.task_id, session=task.session_id))
        return
    if is_kept:
        counters.answers += 1
    else:
        counters.closed_499 += 1


class Worker:
    """Takes one task at a time through its steps.

    Args:
        upstream: Makes the calls.
        counters: The layer's counters.
        failures: Gets the calls that failed.
        clock: Loop time.
        answer: Takes the answer of a task.
        free: Called when a task has ended that did not end in begin().

    Attributes:
        task: The task it has, None while it is idle.
        idle_since: Loop time of the end of its last task.
    """

    __slots__ = (
        "_answer",
        "_clock",
        "_counters",
        "_failures",
        "_free",
        "_upstream",
        "idle_since",
        "task",
    )

    def __init__(
        self,
        upstream: UpstreamManager,
        counters: DispatchCounters,
        failures: FailureLog,
        clock: Callable[[], float],
        answer: Callable[[AsyncTask, UpstreamAnswer, float], None],
        free: Callable[[Worker, AsyncTask, float], None],
    ) -> None:
        self._upstream = upstream
        self._counters = counters
        self._failures = failures
        self._clock = clock
        self._answer = answer
        self._free = free
        self.task: AsyncTask | None = None
        self.idle_since = clock()

    def begin(self, task: AsyncTask, now: float) -> bool:
        """Take a task through its steps up to the call.

        Returns:
            Whether the call is under way; False where the task has ended.
        """
        session = task.session
        if not session.is_valid:
            self._counters.closed_499 += 1
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
            task.on_end = self._ended
            self.task = task
            self._upstream.send(task)
        except Exception as error:
            self.task = task.on_end = None
            self._fail_internal(task, Outcome.NOT_STARTED, error)
            return False
        return True

    def give_up(self) -> None:
        """End the task it has, if any, by 503: the pool stops."""
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
        """Take the task through its last step: its call has ended."""
        task = self.task
        if task is None:
            return  # given up, and the error was on its way
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
        """Answer for an upstream whose answer is another request's."""
        self._counters.foreign_answers += 1
        why = "client_seq_id of another request"
        error = UpstreamError(why, outcome=Outcome.UNKNOWN, status="foreign_answer")
        self._fail(task, error, now)

    def _fail(self, task: AsyncTask, error: UpstreamError, now: float) -> None:
        self._failures.add(task, error, now)
        fail(task, error.code, error.outcome, now, self._counters, error.retry_after_ms)

    def _fail_internal(self, task: AsyncTask, outcome: Outcome, error: Exception) -> None:
        """Answer for a step of ours that raised."""
        self._counters.internal_errors += 1
        names = keys(request_id=task.task_id, session=task.session_id)
        logger.error("task_failed", extra=names, exc_info=error)
        fail(task, ErrorCode.INTERNAL, outcome, self._clock(), self._counters)
