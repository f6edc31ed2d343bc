"""Failures: the ERROR that a client gets for a failed request, and the line in the log for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import ErrorCode, Outcome
from ..observe.log import keys

if TYPE_CHECKING:
    from .._core.codec import ClientRequest
    from ..errors import UpstreamError
    from ..observe.limiter import LogLimiter
    from ..session.session import Session
    from .task import AsyncTask, DispatchCounters

__all__ = ["fail", "log_failure", "refuse"]

logger = logging.getLogger("gatesvr.dispatch")

# The text of an ERROR; an upstream's own text and address never go into one.
_MESSAGES = {
    ErrorCode.NO_ROUTE: "no such service",
    ErrorCode.TOO_LARGE: "request too large for the service",
    ErrorCode.INTERNAL: "internal error",
    ErrorCode.UPSTREAM_UNREACHABLE: "upstream unreachable or broken off",
    ErrorCode.BUSY: "busy",
    ErrorCode.DEADLINE: "deadline passed",
}
# The text where the service itself ended the request.
_DONE_MESSAGES = {
    ErrorCode.BAD_REQUEST: "the service calls it a bad request",
    ErrorCode.FORBIDDEN: "the service does not allow it",
    ErrorCode.NO_ROUTE: "the service did not find it",
    ErrorCode.TOO_LARGE: "answer too large",
    ErrorCode.UNKNOWN_TYPE: "the service does not implement it",
    ErrorCode.UPSTREAM_UNREACHABLE: "the service failed",
    ErrorCode.BUSY: "the service is exhausted",
}


def refuse(
    session: Session,
    request: ClientRequest,
    request_id: int,
    code: ErrorCode,
    message: str,
    now: float,
    lines: LogLimiter,
    retry_after_ms: int = 0,
) -> None:
    """Answer an accepted request that becomes no task by an ERROR that consumed its number."""
    session.fail(
        request.seq_id,
        code,
        message,
        outcome=Outcome.NOT_STARTED,
        retry_after_ms=retry_after_ms,
        detail=str(request_id),
        now=now,
    )
    lines.log(
        logging.INFO,
        "request_refused",
        now,
        code,
        code=int(code),
        request_id=request_id,
        session=session.session_id,
        reason=message,
    )


def fail(
    task: AsyncTask,
    code: ErrorCode,
    outcome: Outcome,
    now: float,
    counters: DispatchCounters,
    retry_after_ms: int = 0,
) -> None:
    """Answer a task's request by an ERROR, unless its session is closed.

    Raises nothing: the caller may be a lane with more answers to deliver, or a stop with more tasks
    to end.
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
        logger.exception("task_lost", extra=keys(**task.ids()))
        return
    finally:
        if task.trace is not None:
            task.trace.end(code)
    if is_kept:
        counters.answers += 1
    else:
        counters.closed_499 += 1


def log_failure(lines: LogLimiter, task: AsyncTask, error: UpstreamError, now: float) -> None:
    """Log a failed call: a line a second for each service, address and status."""
    lines.log(
        # INFO where the service itself chose the status; the rest concerns the operator.
        logging.INFO if error.outcome is Outcome.DONE else logging.WARNING,
        "call_failed",
        now,
        (task.service, error.address, error.status),
        service=task.service,
        address=error.address,
        status=error.status,
        code=int(error.code),
        **task.ids(),
        reason=error,
    )
