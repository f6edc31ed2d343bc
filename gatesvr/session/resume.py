"""What a resume is judged by: tokens, attempts, rates (PROTOCOL 4.2, 4.3, 4.8)."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from enum import IntEnum
from hashlib import sha256

__all__ = ["TOKEN_BYTES", "RateBucket", "ResumeToken", "TokenMatch"]

TOKEN_BYTES = 16


class TokenMatch(IntEnum):
    """What a presented token is."""

    WRONG = 0
    CURRENT = 1
    PREVIOUS = 2
    """The one before, whose successor is not proved yet."""
    REUSED = 3
    """Good once, dead now."""


class ResumeToken:
    """A session's resume tokens: the current one, and the one before until the current is proved.

    Tokens are kept as SHA-256. The current one's text is kept too while it is not proved, because
    a client that never read it is handed the same one again.

    Attributes:
        attempt: The highest attempt seen with the previous token, 0 where there is none.
    """

    __slots__ = ("_current", "_dead", "_previous", "_text", "attempt")

    def __init__(self) -> None:
        self._current = b""
        self._previous = b""
        self._dead = b""
        self._text = b""
        self.attempt = 0

    @property
    def is_unproved(self) -> bool:
        """Whether the token before the current one is still good."""
        return bool(self._previous)

    def issue(self, random_bytes: Callable[[int], bytes]) -> bytes:
        """Return a new session's first token."""
        token = random_bytes(TOKEN_BYTES)
        self._current = sha256(token).digest()
        return token

    def match(self, token: bytes) -> TokenMatch:
        """Say what token is, in constant time."""
        digest = sha256(token).digest()
        # All are compared, whichever it is.
        is_current = hmac.compare_digest(digest, self._current)
        is_previous = hmac.compare_digest(digest, self._previous or self._current)
        is_dead = hmac.compare_digest(digest, self._dead or self._current)
        if is_current:
            return TokenMatch.CURRENT
        if is_previous:
            return TokenMatch.PREVIOUS
        return TokenMatch.REUSED if is_dead else TokenMatch.WRONG

    def is_stale(self, match: TokenMatch, attempt: int) -> bool:
        """Say whether a later attempt with the same token was seen (PROTOCOL 4.3)."""
        return match is TokenMatch.PREVIOUS and attempt <= self.attempt

    def accept(
        self, match: TokenMatch, attempt: int, random_bytes: Callable[[int], bytes]
    ) -> bytes:
        """Take note of a resume and return the token to hand out.

        The current token makes a new one; the previous one hands out the same current one again, so
        there are never more than two (PROTOCOL 4.2).
        """
        if match is TokenMatch.CURRENT:
            token = random_bytes(TOKEN_BYTES)
            if self._previous:
                self._dead = self._previous
            self._previous = self._current
            self._current = sha256(token).digest()
            self._text = token
        self.attempt = attempt
        return self._text

    def prove(self) -> None:
        """The client has the current token: the one before is dead."""
        if self._previous:
            self._dead = self._previous
            self._previous = b""
            self._text = b""
            self.attempt = 0


class RateBucket:
    """A token bucket.

    Args:
        rate: Events a second.
        burst: Events at once.
        now: Loop time.
    """

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Take one event; return False where there is none."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def is_full(self, now: float) -> bool:
        """Return whether it is as good as new."""
        return self._left + (now - self._at) * self._rate >= self._burst

    def retry_after_ms(self) -> int:
        """Return when the next event will be there."""
        return max(1, int((1.0 - self._left) / self._rate * 1000))
