"""SessionRates: how often new sessions start, in all and by openid."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._core.limits import TokenBucket, TokenBuckets
from ..errors import CloseCode, ErrorCode
from .context import RETRY_MS
from .outcome import StartOutcome, refuse_start

if TYPE_CHECKING:
    from ..config import SessionConfig
    from .counters import SessionCounters

__all__ = ["SessionRates"]

MAX_OPENIDS = 1 << 14
"""Openids whose rate is kept, 16 bytes each."""
OPENID_BURST = 10
"""Seconds of an openid's rate that it may use at once."""


class SessionRates:
    """Limits STARTs that make a session; resumes are not asked about.

    Args:
        config: The limits; 0 is none.
        counters: Where to count refusals.
    """

    def __init__(self, config: SessionConfig, counters: SessionCounters) -> None:
        self._counters = counters
        self._dry_run = frozenset(config.dry_run)
        rate = config.max_start_rate
        self._all = TokenBucket(rate, rate) if rate else None
        rate = config.max_start_rate_per_openid
        self._openids: TokenBuckets | None = None
        if rate:
            seed = int.from_bytes(os.urandom(8))
            self._openids = TokenBuckets(rate, rate * OPENID_BURST, MAX_OPENIDS, seed)

    def refuse(self, openid: str, now: float) -> StartOutcome | None:
        """Return the refusal of another new session, None where it may start."""
        # The openid first: one that storms takes no places of the others.
        if self._openids is not None and (wait := self._openids.take(openid, now)):
            self._counters.openid_starts_limited += 1
            if "max_start_rate_per_openid" not in self._dry_run:
                return refuse_start(
                    ErrorCode.RATE_LIMITED,
                    CloseCode.RATE_LIMITED,
                    "too many new sessions of this openid",
                    retry_after_ms=max(RETRY_MS, int(wait * 1000)),
                )
        if self._all is not None and (wait := self._all.take(now)):
            self._counters.starts_limited += 1
            if "max_start_rate" not in self._dry_run:
                return _refuse_all(wait)
        return None

    def refuse_unknown(self, now: float) -> StartOutcome | None:
        """Return the refusal of a session of whomever, None where one may start; count no start."""
        if (
            self._all is None
            or "max_start_rate" in self._dry_run
            or not (wait := self._all.wait(now))
        ):
            return None
        self._counters.starts_limited += 1
        return _refuse_all(wait)


def _refuse_all(wait: float) -> StartOutcome:
    return refuse_start(
        ErrorCode.BUSY,
        CloseCode.OVERLOADED,
        "too many new sessions",
        retry_after_ms=max(RETRY_MS, int(wait * 1000)),
    )
