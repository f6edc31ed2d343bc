"""What a login comes to."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import CloseCode

__all__ = ["LOGGED_IN", "LoginVerdict"]


class LoginVerdict(NamedTuple):
    """What a login came to.

    Attributes:
        close_code: None where the session is logged in; else it is to get an ERROR instead of the
            hello's answer, and to be closed with this.
        error_code: Of that ERROR.
        reason: Text for the ERROR.
        retry_after_ms: When trying again may help, 0 where it does not.
    """

    close_code: CloseCode | None = None
    error_code: int = 0
    reason: str = ""
    retry_after_ms: int = 0


LOGGED_IN = LoginVerdict()
