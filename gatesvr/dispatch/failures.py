"""FailureLog: a line in the log for what clients are told by a request id only."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import Outcome, UpstreamError
from ..observe.log import keys

if TYPE_CHECKING:
    from .task import AsyncTask

__all__ = ["FailureLog"]

logger = logging.getLogger("gatesvr.dispatch")

INTERVAL_S = 1.0
"""Time between two lines of one kind."""
MAX_KINDS = 1_024
"""Kinds remembered; upstreams that register add to them."""


@dataclass(slots=True)
class _Kind:
    """The failed calls of one kind since its last line."""

    until: float  # no line before
    suppressed: int = 0
    request_id: int = 0  # of the last one suppressed
    error: UpstreamError | None = None


class FailureLog:
    """Logs failed calls: of each service, address and status one line a second.

    A line counts the calls that were left out before it; tick() writes the count that no further
    call would bring out.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], _Kind] = {}

    def add(self, task: AsyncTask, error: UpstreamError, now: float) -> None:
        """Log a failed call, or count it."""
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
        """Write what was left out, and forget the kinds of which nothing was."""
        for name, kind in list(self._kinds.items()):
            if now >= kind.until:
                if kind.suppressed:
                    _write_rest(name[0], kind)
                    self._kinds[name] = _Kind(now + INTERVAL_S)
                else:
                    del self._kinds[name]

    def close(self) -> None:
        """Write every count and forget all kinds."""
        for name, kind in self._kinds.items():
            if kind.suppressed:
                _write_rest(name[0], kind)
        self._kinds.clear()


def _write_rest(service: str, kind: _Kind) -> None:
    assert kind.error is not None
    _write(service, kind.request_id, kind.error, kind.suppressed - 1)


def _write(service: str, request_id: int, error: UpstreamError, suppressed: int) -> None:
    # A status that the service chose is its own business; the rest is the operator's.
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
