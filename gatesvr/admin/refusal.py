"""Refused: a request that is not done, with the status and the code of its answer."""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(Exception):
    """Raised where a request cannot be done.

    Args:
        status: Of HTTP.
        code: A short key, in capitals.
        message: Text for people.
        retry_after: Seconds after which it may be asked again; 0 where time changes nothing.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    @classmethod
    def invalid(cls, message: str) -> Refused:
        """Return the refusal of a value that makes no sense."""
        return cls(400, "INVALID", message)

    @classmethod
    def limited(cls, message: str, retry_after: int) -> Refused:
        """Return the refusal of what comes too often."""
        return cls(429, "RATE_LIMITED", message, retry_after)

    @classmethod
    def missing(cls, what: str) -> Refused:
        """Return the refusal of something that this process cannot do."""
        return cls(501, "NOT_AVAILABLE", what)
