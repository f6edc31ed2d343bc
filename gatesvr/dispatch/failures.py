"""Failures: the ERROR that a client gets for a failed request, and the line in the log for it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ErrorCode, Outcome, UpstreamError
from ..observe.log import keys

if TYPE_CHECKING:
    from .._core.codec import ClientRequest
    from ..session.session import Session
    from .task import AsyncTask, DispatchCounters

__all__ = ["FailureLog", "fail", "refuse"]

logger = logging.getLogger("gatesvr.dispatch")

INTERVAL_S = 1.0
"""Shortest time between two lines of one kind."""
MAX_KINDS = 1_024
"""Most kinds remembered; each upstream that registers adds some."""

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
    code: ErrorCode,
    message: str,
    now: float,
    retry_after_ms: int = 0,
) -> None:
    """Answer an accepted request that becomes no task by an ERROR that consumed its number."""
    session.fail(
        request.seq_id,
        code,
        message,
        outcome=Outcome.NOT_STARTED,
        retry_after_ms=retry_after_ms,
        now=now,
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
        logger.exception("task_lost", extra=keys(request_id=task.task_id, session=task.session_id))
        return
    if is_kept:
        counters.answers += 1
    else:
        counters.closed_499 += 1


@dataclass(slots=True)
class _Kind:
    """The failed calls of one kind since its last line."""

    until: float  # no line before
    suppressed: int = 0
    request_id: int = 0  # of the last one suppressed
    error: UpstreamError | None = None


class FailureLog:
    """Logs failed calls, at most one line a second for each service, address and status.

    A line gives the number of calls suppressed before it; tick() writes the numbers that no later
    call brings out.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], _Kind] = {}

    def add(self, task: AsyncTask, error: UpstreamError, now: float) -> None:
        """Log a failed call, or count it as suppressed."""
        name = (task.service, error.address, error.status)
        kind = self._kinds.get(name)
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                self.close()
            self._kinds[name] = _Kind(now + INTERVAL_S)
            _write(task.service, task.request_id, error, 0)
        elif now < kind.until:
            kind.suppressed += 1
            kind.request_id, kind.error = task.request_id, error
        else:
            _write(task.service, task.request_id, error, kind.suppressed)
            self._kinds[name] = _Kind(now + INTERVAL_S)

    def tick(self, now: float) -> None:
        """Write the numbers that are due, and forget kinds without suppressed calls."""
        for name, kind in list(self._kinds.items()):
            if now >= kind.until:
                if kind.suppressed:
                    _write_rest(name[0], kind)
                    self._kinds[name] = _Kind(now + INTERVAL_S)
                else:
                    del self._kinds[name]

    def close(self) -> None:
        """Write every number and forget all kinds."""
        for name, kind in self._kinds.items():
            if kind.suppressed:
                _write_rest(name[0], kind)
        self._kinds.clear()


def _write_rest(service: str, kind: _Kind) -> None:
    assert kind.error is not None
    _write(service, kind.request_id, kind.error, kind.suppressed - 1)


def _write(service: str, request_id: int, error: UpstreamError, suppressed: int) -> None:
    # INFO where the service itself chose the status; the rest concerns the operator.
    logger.log(
        logging.INFO if error.outcome is Outcome.DONE else logging.WARNING,
        "call_failed",
        extra=keys(
            service=service,
            address=error.address,
            status=error.status,
            code=int(error.code),
            request_id=request_id,
            suppressed=suppressed,
            reason=error,
        ),
    )
