"""Stages: how long requests, handshakes and logins take, and what keeps the loop from them."""

from __future__ import annotations

import gc
import time
from typing import Any

from .._core.histogram import Histogram, HistogramSnapshot, RequestTimer

__all__ = ["UPSTREAM", "GcPauses", "Stages"]

UPSTREAM = "upstream:"
"""Before a service's name in the name of its histogram."""


class Stages:
    """The histograms of one gateway. Each layer records what it does.

    Attributes:
        requests: Times requests: ``queue_wait``, ``send`` and ``request``, see RequestTimer.
        handshake: From a client's first datagram to the end of its handshake.
        login: From the answer of START until the session has logged in.
        lag: How late the loop comes to a timer, four times a second.
        gc_pause: How long the garbage collector holds everything up.
        rtt: The smoothed round trips of connections, each looked at now and then.
    """

    def __init__(self) -> None:
        self.requests = RequestTimer()
        self.handshake = Histogram()
        self.login = Histogram()
        self.lag = Histogram()
        self.gc_pause = Histogram()
        self.rtt = Histogram()
        self._upstream: dict[str, Histogram] = {}

    def upstream(self, service: str) -> Histogram:
        """Return the histogram of a service: from the call to its end, whichever that is."""
        histogram = self._upstream.get(service)
        if histogram is None:
            histogram = self._upstream[service] = Histogram()
        return histogram

    def snapshot(self) -> dict[str, HistogramSnapshot]:
        """Return what was recorded until now, by name; services as ``upstream:NAME``."""
        requests = self.requests
        histograms = {
            "queue_wait": requests.queue_wait,
            **{f"{UPSTREAM}{service}": found for service, found in self._upstream.items()},
            "send": requests.send,
            "request": requests.request,
            "handshake": self.handshake,
            "login": self.login,
            "rtt": self.rtt,
            "lag": self.lag,
            "gc_pause": self.gc_pause,
        }
        return {name: histogram.snapshot() for name, histogram in histograms.items()}


class GcPauses:
    """Times Python's garbage collector from start() to stop().

    Args:
        pauses: Takes the pauses.
    """

    def __init__(self, pauses: Histogram) -> None:
        self._pauses = pauses
        self._began_at = 0.0

    def start(self) -> None:
        """Begin to listen to the collector."""
        gc.callbacks.append(self._collected)

    def stop(self) -> None:
        """Listen no more. Idempotent."""
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)

    def _collected(self, phase: str, info: dict[str, Any]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._began_at = now
        else:
            self._pauses.record(now - self._began_at)
