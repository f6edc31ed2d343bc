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
    from .task import AsyncTask, DispatchCounters

__all__ = ["Worker", "fail"]

logger = logging.getLogger("gatesvr.dispatch")

# What a client reads; an upstream's own text and address never go into an ERROR.
_MESSAGES = {
    ErrorCode.NO_ROUTE: "no such service",
    ErrorCode.INTERNAL: "internal error",
    ErrorCode.UPSTREAM_UNREACHABLE: "upstream unreachable or broken off",
    ErrorCode.BUSY: "busy",
    ErrorCode.DEADLINE: "deadline passed",
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
            _MESSAGES.get(code, "request failed"),
            outcome=outcome,
            retry_after_ms=retry_after_ms,
            detail=str(task.task_id),
            now=now,
        )
    except Exception:
        counters.internal_errors += 1
        logger.exception("task_lost", extra=keys(task=task.task_id, session=task.session_id))
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
        "_free",
        "_upstream",
        "idle_since",
        "task",
    )

    def __init__(
        self,
        upstream: UpstreamManager,
        counters: DispatchCounters,
        clock: Callable[[], float],
        answer: Callable[[AsyncTask, UpstreamAnswer, float], None],
        free: Callable[[Worker, AsyncTask, float], None],
    ) -> None:
        self._upstream = upstream
        self._counters = counters
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
            fail(task, ErrorCode.DEADLINE, Outcome.NOT_STARTED, now, self._counters)
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
            fail(task, ErrorCode.BUSY, Outcome.UNKNOWN, now, self._counters)
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
            if answer.error or (answer.client_seq_id and answer.client_seq_id != client_seq):
                self._refuse_answer(task, answer, now)
                return
            self._answer(task, answer, now)
        except Exception as problem:
            self._fail_internal(task, Outcome.UNKNOWN, problem)
        finally:
            self._free(self, task, now)

    def _refuse_answer(self, task: AsyncTask, answer: UpstreamAnswer, now: float) -> None:
        """Answer for an upstream whose answer cannot be passed on."""
        self._counters.upstream_errors += 1
        logger.warning(
            "bad_answer",
            extra=keys(
                task=task.task_id,
                service=task.service_type,
                reason=answer.error or "client_seq_id of another request",
            ),
        )
        code = ErrorCode.UPSTREAM_UNREACHABLE
        fail(task, code, Outcome.UNKNOWN, now, self._counters)

    def _fail(self, task: AsyncTask, error: UpstreamError, now: float) -> None:
        counters = self._counters
        counters.upstream_errors += error.code != ErrorCode.DEADLINE
        logger.debug(
            "call_failed",
            extra=keys(task=task.task_id, service=task.service_type, reason=str(error)),
        )
        outcome = Outcome.UNKNOWN if error.is_started else Outcome.NOT_STARTED
        fail(task, error.code, outcome, now, counters, error.retry_after_ms)

    def _fail_internal(self, task: AsyncTask, outcome: Outcome, error: Exception) -> None:
        """Answer for a step of ours that raised."""
        self._counters.internal_errors += 1
        names = keys(task=task.task_id, session=task.session_id)
        logger.error("task_failed", extra=names, exc_info=error)
        fail(task, ErrorCode.INTERNAL, outcome, self._clock(), self._counters)
