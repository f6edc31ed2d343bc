"""LoginPolicy: what a login does to the other sessions of its openid (PROTOCOL 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import CloseCode, ErrorCode
from .context import RETRY_MS

if TYPE_CHECKING:
    from ..config import SessionConfig
    from .session import Session

__all__ = ["LOGGED_IN", "SIGN_OF_LIFE_S", "LoginPolicy", "LoginVerdict", "busy_verdict"]

SIGN_OF_LIFE_S = 5.0
"""``reject`` counts a session whose connection showed life within this many seconds."""


class LoginVerdict(NamedTuple):
    """Whether a session may log in.

    Attributes:
        close_code: None where it may; else the session gets an ERROR instead of the hello's answer
            and is closed with this code.
        error_code: The ERROR's code.
        reason: The ERROR's text.
        retry_after_ms: When trying again may help, 0 where it does not.
        replaced: Where it may: the sessions that have to go.
    """

    close_code: CloseCode | None = None
    error_code: int = 0
    reason: str = ""
    retry_after_ms: int = 0
    replaced: tuple[Session, ...] = ()


LOGGED_IN = LoginVerdict()


class LoginPolicy:
    """``session.on_duplicate``, applied.

    Args:
        config: Sessions' settings.
    """

    def __init__(self, config: SessionConfig) -> None:
        self._policy = config.on_duplicate
        self._max_logged_in = config.max_logged_in

    def judge(self, session: Session, others: tuple[Session, ...], now: float) -> LoginVerdict:
        """Return whether a session may log in, and which others it replaces.

        Args:
            session: The session whose hello was answered 200.
            others: The logged-in sessions of its openid.
            now: Loop time.
        """
        if not others:
            return LOGGED_IN
        policy = self._policy
        if policy != "allow" and session.is_after_failed_resume:
            # PROTOCOL 3.3: it "never replaces".
            return LoginVerdict(CloseCode.KICKED, ErrorCode.FORBIDDEN, "logged in elsewhere")
        if policy == "reject" and any(
            other.link is not None and now - other.link.last_heard <= SIGN_OF_LIFE_S
            for other in others
        ):
            return busy_verdict("logged in elsewhere")
        if policy == "allow":
            if len(others) < self._max_logged_in:
                return LOGGED_IN
            others = tuple(other for other in others if other.link is None)[:1]
            if not others or session.is_after_failed_resume:
                return busy_verdict("too many logins")
        return LoginVerdict(replaced=others)


def busy_verdict(reason: str) -> LoginVerdict:
    """Return the verdict on a login that another session's life, or their number, forbids."""
    return LoginVerdict(CloseCode.OPENID_BUSY, ErrorCode.FORBIDDEN, reason, RETRY_MS)
