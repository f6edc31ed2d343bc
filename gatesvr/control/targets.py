"""Targets: the sessions that a command names, and the error_code where it cannot be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._pb import upstream_pb2 as pb
from ..protocol.messages import MAX_OPENID_BYTES, is_valid_text

if TYPE_CHECKING:
    from ..session.manager import SessionManager
    from ..session.session import Session
    from .counters import PushCounters

__all__ = ["SLICE", "RefusedError", "Targets"]

SLICE = 256
"""Sessions or pushes that one command handles before other tasks get a turn."""


class RefusedError(Exception):
    """A command that is refused with an error_code (PROTOCOL 7.5)."""

    def __init__(self, error_code: str, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.retry_after_ms = retry_after_ms

    def as_status(self) -> tuple[str, str]:
        """Return a gRPC status and its text, for an rpc whose response has no error_code."""
        if self.error_code == "INVALID":
            return "INVALID_ARGUMENT", str(self)
        if self.error_code == "BUSY":
            return "UNAVAILABLE", str(self)
        return "FAILED_PRECONDITION", f"{self.error_code}: {self}"

    def as_response(self) -> pb.UnicastPushResponse:
        """Return the response to a push or a kick."""
        return pb.UnicastPushResponse(
            message=str(self), error_code=self.error_code, retry_after_ms=self.retry_after_ms
        )

    def as_bulk_response(self) -> pb.BroadcastResponse:
        """Return the response to a broadcast or a multicast."""
        return pb.BroadcastResponse(message=str(self), error_code=self.error_code)


class Targets:
    """Finds the sessions of a target, and counts what it refuses.

    Args:
        manager: Holds the sessions.
        counters: Counts refusals.
    """

    def __init__(self, manager: SessionManager, counters: PushCounters) -> None:
        self._manager = manager
        self._counters = counters

    def find(self, target_type: str, target_id: str, *, with_inited: bool = False) -> list[Session]:
        """Return the sessions of a target; none is no error.

        Args:
            target_type: ``session`` or ``openid``.
            target_id: The session id or the openid.
            with_inited: See SessionManager.find.

        Raises:
            RefusedError: INVALID.
        """
        self.check(target_type, target_id)
        return self._manager.find(target_type, target_id, with_inited=with_inited)

    def check(self, target_type: str, target_id: str) -> None:
        """Check that there may be such a target.

        Raises:
            RefusedError: INVALID.
        """
        if target_type not in ("session", "openid"):
            raise self.refuse("INVALID", "target_type: neither session nor openid")
        if not target_id or not is_valid_text(target_id, MAX_OPENID_BYTES):
            raise self.refuse("INVALID", f"target_id: not 1-{MAX_OPENID_BYTES} bytes of plain text")

    def refuse(self, error_code: str, message: str) -> RefusedError:
        """Count a refusal and return the error for the caller to raise."""
        counters = self._counters
        if error_code == "NOT_FOUND":
            counters.not_found += 1
        elif error_code == "AMBIGUOUS":
            counters.ambiguous += 1
        elif error_code == "TOO_LARGE":
            counters.too_large += 1
        else:
            counters.invalid += 1
        return RefusedError(error_code, message)
