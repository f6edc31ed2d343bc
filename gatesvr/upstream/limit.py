"""GradientLimit: how many calls an upstream may have open, judged by its latency.

The method is that of Netflix's concurrency-limits (Gradient2): the latency of now is compared with
that of the long run. While they are alike the limit grows, as far as it is used; when latency
rises, calls queue in the upstream, and the limit shrinks in proportion.

Latency is sampled: one call at a time, looked at once a message. A window is MIN_SAMPLES samples
and WINDOW_S long, and its latency is a *low percentile* of theirs. Where calls queue, the fast ones
slow down too; where some calls are slow by nature (a long poll beside short ones), a low percentile
does not see them. A sample without an answer is given up after MAX_AGE times the usual latency and
counts with its age, so an upstream that hangs is seen before any deadline passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

__all__ = ["GradientLimit"]

MIN_SAMPLES = 32
"""Samples of a window at least."""
WINDOW_S = 0.1
"""Length of a window at least."""
ONE_IN = 10
"""The latency of a window is that of the sample at one in so many, sorted."""
MAX_AGE = 5.0
"""Times the usual latency after which a sample is given up."""
TOLERANCE = 1.5
"""Rise of latency that does not shrink the limit."""
SLACK_S = 0.005
"""The same in seconds: the gateway's own scheduling is part of every sample."""
MIN_GRADIENT = 0.5
"""Most that one window takes off the limit."""
FALL, RISE = 1 / 4, 1 / 600
"""How much of a window's latency goes into the long-run one where it is below, or above, it."""


class GradientLimit:
    """Decides how many calls may be open.

    Args:
        low: Smallest limit.
        high: Largest limit, and the first.

    Attributes:
        limit: Calls that may be open now.
    """

    __slots__ = (
        "_began",
        "_high",
        "_limit",
        "_long",
        "_low",
        "_peak",
        "_sample",
        "_samples",
        "_sent_at",
        "limit",
    )

    def __init__(self, low: int, high: int) -> None:
        self.limit = high
        self._limit = float(high)
        self._low = min(low, high)
        self._high = high
        self._long = 0.0  # long-run latency, seconds; 0 until there was a window
        self._sample: int | None = None  # request_id of the call looked at
        self._sent_at = 0.0
        self._samples: list[float] = []
        self._began = 0.0  # of the window
        self._peak = 0  # most calls open in the window

    def sent(self, request_id: int, open_calls: int, now: float) -> int:
        """Take note of a message to the upstream; return the limit.

        Args:
            request_id: One of the calls in it.
            open_calls: Calls open, with those in it.
            now: Loop time.
        """
        if open_calls > self._peak:
            self._peak = open_calls
        if self._sample is None:
            self._sample = request_id
            self._sent_at = now
        elif self._long and now - self._sent_at > MAX_AGE * self._long + SLACK_S:
            self._take(now)
            self._sample = request_id
            self._sent_at = now
        return self.limit

    def answered(self, open_calls: Container[int], now: float) -> int:
        """Take note of answers; return the limit.

        Args:
            open_calls: request_ids of the calls still open.
            now: Loop time.
        """
        if self._sample is not None and self._sample not in open_calls:
            self._sample = None
            self._take(now)
        return self.limit

    def _take(self, now: float) -> None:
        samples = self._samples
        if not samples:
            self._began = self._sent_at
        samples.append(now - self._sent_at)
        if len(samples) < MIN_SAMPLES or now - self._began < WINDOW_S:
            return
        samples.sort()
        self._adjust(samples[len(samples) // ONE_IN])
        samples.clear()
        self._peak = 0

    def _adjust(self, latency: float) -> None:
        if not self._long:
            self._long = latency
        self._long += (latency - self._long) * (FALL if latency < self._long else RISE)
        gradient = (TOLERANCE * self._long + SLACK_S) / latency if latency else 1.0
        limit = self._limit
        if gradient < 1.0:
            limit *= max(gradient, MIN_GRADIENT)
        elif self._peak > limit / 2:
            limit += limit**0.5
        self._limit = min(max(limit, self._low), self._high)
        self.limit = int(self._limit)
