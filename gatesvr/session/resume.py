"""ResumeJudge: whether a START may resume a session, by token, attempt and rate (PROTOCOL 4)."""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Callable
from enum import IntEnum
from hashlib import sha256
from typing import TYPE_CHECKING

from .._core.limits import TokenBucket, TokenBuckets
from ..errors import CloseCode, ErrorCode
from ..observe.log import keys
from ..protocol.messages import LostReason
from ..protocol.network import network_of
from .outcome import StartOutcome, refuse_start

if TYPE_CHECKING:
    from .._pb import message_pb2 as pb
    from .counters import SessionCounters
    from .session import Session

__all__ = ["TOKEN_BYTES", "ResumeJudge", "ResumeToken", "TokenMatch"]

logger = logging.getLogger("gatesvr.session")

TOKEN_BYTES = 16
DIGEST_BYTES = 32
RESUME_RATE = 1.0
RESUME_BURST = 5
"""Resumes of one session, and wrong tokens of one address, a second and at once (PROTOCOL 4.8)."""
MAX_ADDRESSES = 1 << 13
"""Networks whose wrong tokens are remembered, 16 bytes each."""


class TokenMatch(IntEnum):
    """The standing of a presented token."""

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
        current: The hash of the current one.
        previous: That of the one before while it is good, else empty.
        dead: That of the last one that was good and is not any more, empty for none.
        text: The current one while it is not proved, else empty.
        attempt: The highest attempt seen with the previous token, 0 where there is none.
    """

    __slots__ = ("attempt", "current", "dead", "previous", "text")

    def __init__(self) -> None:
        self.current = b""
        self.previous = b""
        self.dead = b""
        self.text = b""
        self.attempt = 0

    @classmethod
    def restored(
        cls, current: bytes, previous: bytes, dead: bytes, text: bytes, attempt: int
    ) -> ResumeToken:
        """Return the tokens that another process has issued.

        Raises:
            ValueError: They are none.
        """
        if any(len(digest) not in (0, DIGEST_BYTES) for digest in (current, previous, dead)):
            raise ValueError("a hash of a token is too short or too long")
        if previous and sha256(text).digest() != current:
            raise ValueError("the current token is not the one of its hash")
        token = cls()
        token.current, token.previous, token.dead = current, previous, dead
        token.text, token.attempt = text, attempt
        return token

    @property
    def is_unproved(self) -> bool:
        """Whether the token before the current one is still good."""
        return bool(self.previous)

    def issue(self, random_bytes: Callable[[int], bytes]) -> bytes:
        """Return a new session's first token."""
        token = random_bytes(TOKEN_BYTES)
        self.current = sha256(token).digest()
        return token

    def match(self, token: bytes) -> TokenMatch:
        """Return the standing of a token, in constant time."""
        digest = sha256(token).digest()
        # All are compared, whichever it is.
        is_current = hmac.compare_digest(digest, self.current)
        is_previous = hmac.compare_digest(digest, self.previous or self.current)
        is_dead = hmac.compare_digest(digest, self.dead or self.current)
        if is_current:
            return TokenMatch.CURRENT
        if is_previous:
            return TokenMatch.PREVIOUS
        return TokenMatch.REUSED if is_dead else TokenMatch.WRONG

    def is_stale(self, match: TokenMatch, attempt: int) -> bool:
        """Return whether a later attempt with the same token was seen (PROTOCOL 4.3)."""
        return match is TokenMatch.PREVIOUS and attempt <= self.attempt

    def accept(
        self, match: TokenMatch, attempt: int, random_bytes: Callable[[int], bytes]
    ) -> bytes:
        """Enter a resume and return the token to hand out.

        The current token makes a new one; the previous one hands out the same current one again, so
        there are never more than two (PROTOCOL 4.2).
        """
        if match is TokenMatch.CURRENT:
            token = random_bytes(TOKEN_BYTES)
            if self.previous:
                self.dead = self.previous
            self.previous = self.current
            self.current = sha256(token).digest()
            self.text = token
        self.attempt = attempt
        return self.text

    def prove(self) -> None:
        """Drop the token before: the client has the current one."""
        if self.previous:
            self.dead = self.previous
            self.previous = b""
            self.text = b""
            self.attempt = 0


class ResumeJudge:
    """Judges resumes.

    Args:
        counters: Where refusals are counted.
    """

    def __init__(self, counters: SessionCounters) -> None:
        self._counters = counters
        seed = int.from_bytes(os.urandom(8))
        self._wrong_tokens = TokenBuckets(RESUME_RATE, RESUME_BURST, MAX_ADDRESSES, seed)

    def judge(
        self, session: Session, start: pb.StartRequest, ip: str, now: float
    ) -> TokenMatch | StartOutcome:
        """Return the standing of a START's token, or the START's refusal; the session is untouched.

        Args:
            session: The session named.
            start: The START.
            ip: The address that it came from.
            now: Loop time.
        """
        counters = self._counters
        token = session.token
        match = token.match(start.resume_token) if token is not None else TokenMatch.WRONG
        if token is None or match is TokenMatch.WRONG or match is TokenMatch.REUSED:
            outcome, is_limited = self._deny_token(ip, now)
            if match is TokenMatch.REUSED:
                counters.token_reused += 1
                if not is_limited:  # or it could fill the log
                    logger.warning("token_reused", extra=keys(session=session.session_id, peer=ip))
            return outcome
        if match is TokenMatch.PREVIOUS and not start.attempt:
            # PROTOCOL 4.3: "attempt 0 (absent): only the current token is good."
            return self._deny("resume denied")
        if token.is_stale(match, start.attempt):
            counters.resumes_stale += 1
            return refuse_start(
                ErrorCode.STALE_ATTEMPT,
                CloseCode.SUPERSEDED,
                "stale attempt",
                attempt=token.attempt,
            )
        if start.openid and start.openid != session.openid:
            return self._deny("resume denied")
        return self.limit(session, now) or match

    def limit(self, session: Session, now: float) -> StartOutcome | None:
        """Count a resume that is otherwise good; return its refusal if there are too many."""
        if session.resume_rate is None:
            session.resume_rate = TokenBucket(RESUME_RATE, RESUME_BURST)
        wait = session.resume_rate.take(now)
        return self._refuse_limited(wait) if wait else None

    def _deny_token(self, ip: str, now: float) -> tuple[StartOutcome, bool]:
        """Refuse a wrong token; return also whether its address has shown too many.

        Source: PROTOCOL 4.8: "limited by address, never by session".
        """
        if wait := self._wrong_tokens.take(network_of(ip), now):
            return self._refuse_limited(wait), True
        return self._deny("resume denied"), False

    def _deny(self, message: str) -> StartOutcome:
        self._counters.resumes_denied += 1
        return refuse_start(
            ErrorCode.FORBIDDEN,
            CloseCode.RESUME_DENIED,
            message,
            lost_reason=LostReason.DENIED,
        )

    def _refuse_limited(self, wait: float) -> StartOutcome:
        self._counters.resumes_limited += 1
        return refuse_start(
            ErrorCode.RATE_LIMITED,
            CloseCode.RATE_LIMITED,
            "too many resumes",
            retry_after_ms=max(1, int(wait * 1000)),
        )
