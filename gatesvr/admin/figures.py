"""Sampler: asks the gateway for its figures once a second, and makes overview and history of them.

Everything that shows numbers gets them here, so that all of it shows the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from heapq import nlargest
from typing import TYPE_CHECKING

import msgspec

from ..figures import refusals
from ..observe.stages import UPSTREAM
from .answers import (
    History,
    LatencyView,
    Overview,
    Rates,
    Refusal,
    SlowSession,
    UpstreamView,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..figures import Figures
    from ..gateway import Gateway
    from ..session.session import Session
    from .counters import AdminCounters

__all__ = ["HISTORY_S", "Sampler"]

logger = logging.getLogger("gatesvr.admin")

INTERVAL_S = 1.0
HISTORY_S = 900
"""Seconds of history, a point each."""
LATENCY_S = 10
"""Seconds that the latencies of an overview look back."""
SLOWEST = 10
"""Sessions in an overview's list of the slowest."""
SLICE = 2_000
"""Sessions looked at in a turn of the loop."""

_SERIES = (
    "requests", "answers", "pushes", "p50", "p99", "queue_messages", "in_flight", "sessions",
    "lag_s", "memory_bytes", "cpu", "refusals",
)  # fmt: skip
_RATES = {
    "requests": ("dispatch", "tasks"),
    "answers": ("dispatch", "answers"),
    "pushes": ("session", "pushes_taken"),
    "connections": ("transport", "accepted"),
    "bytes_in": ("transport", "bytes_received"),
    "bytes_out": ("transport", "bytes_sent"),
}
"""The counter behind each rate."""


class Sampler:
    """The present figures of a gateway, and those of the last minutes.

    Args:
        gateway: The gateway.
        counters: Counts samples that failed.
        look: Called with each sample.

    Attributes:
        overview: The newest, None before start().
        encoded: The same as JSON, for the streams.
    """

    def __init__(
        self, gateway: Gateway, counters: AdminCounters, look: Callable[[], None] = lambda: None
    ) -> None:
        self.overview: Overview | None = None
        self.encoded = b""
        self._gateway = gateway
        self._counters = counters
        self._look = look
        self._recent: deque[Figures] = deque(maxlen=LATENCY_S + 1)
        self._times: deque[float] = deque(maxlen=HISTORY_S)
        self._points: deque[tuple[float | None, ...]] = deque(maxlen=HISTORY_S)
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._slowest: list[Session] = []

    def start(self) -> None:
        """Take the first sample, and then one a second."""
        self._take()
        self._task = asyncio.create_task(self._run(), name="gatesvr-admin-sampler")

    async def stop(self) -> None:
        """Take no more samples, and wake those who wait for one."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._changed.set()

    async def next(self, within: float) -> bool:
        """Wait for the next sample, or for stop(); return False where neither came in time."""
        try:
            async with asyncio.timeout(within):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def history(self, seconds: int) -> History:
        """Return the last seconds."""
        times = list(self._times)[-seconds:]
        columns = list(zip(*list(self._points)[-seconds:], strict=True)) or [()] * len(_SERIES)
        return History(
            time=times,
            series={name: list(column) for name, column in zip(_SERIES, columns, strict=True)},
        )

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + INTERVAL_S, loop.time() + INTERVAL_S / 2)
            await asyncio.sleep(due - loop.time())
            try:
                await self._find_slowest()
                self._take()
                self._look()
            except Exception:
                self._counters.internal_errors += 1
                logger.exception("sample_failed")

    def _take(self) -> None:
        figures = self._gateway.figures()
        before = self._recent[-1] if self._recent else figures
        self._recent.append(figures)
        self.overview = overview = self._overview(figures, before, self._recent[0])
        self.encoded = msgspec.json.encode(overview)
        request = overview.latency.get("request")
        is_timed = request is not None and request.count > 0
        self._times.append(figures.time)
        self._points.append(
            (
                overview.rates.requests,
                overview.rates.answers,
                overview.rates.pushes,
                request.p50 if request is not None and is_timed else None,
                request.p99 if request is not None and is_timed else None,
                overview.queue_messages,
                overview.in_flight,
                sum(overview.sessions.values()),
                overview.lag_s,
                overview.memory_bytes,
                overview.rates.cpu,
                sum(refusal.rate for refusal in overview.refusals),
            )
        )
        self._changed.set()
        self._changed = asyncio.Event()

    def _overview(self, figures: Figures, before: Figures, oldest: Figures) -> Overview:
        passed = figures.uptime_s - before.uptime_s  # the wall clock may be set
        drain = self._gateway.drain_status()
        now = self._gateway.engine.clock()
        return Overview(
            time=figures.time,
            uptime_s=figures.uptime_s,
            version=figures.version,
            backend=figures.backend,
            pid=figures.pid,
            ready=figures.ready,
            not_ready=figures.not_ready,
            draining=figures.draining,
            connections=figures.connections,
            handshakes=figures.handshakes,
            sessions=figures.sessions,
            in_flight=figures.in_flight,
            tasks_queued=figures.tasks_queued,
            workers=figures.workers,
            workers_busy=figures.workers_busy,
            queue_messages=figures.queue_messages,
            queue_bytes=figures.queue_bytes,
            oldest_unacked_s=figures.oldest_unacked_s,
            lag_s=figures.lag_s,
            memory_bytes=figures.memory_bytes,
            cpu_s=figures.cpu_s,
            certificate_expires=figures.certificate_expires,
            rates=_rates(figures, before, passed),
            latency=_latency(figures, oldest),
            refusals=_refusals(figures, before, passed),
            upstreams=self.upstreams(),
            slowest=[_slow(session, now) for session in self._slowest if session.is_valid],
            drain=drain if drain.phase != "serving" else None,
        )

    def upstreams(self) -> list[UpstreamView]:
        """Return every endpoint as it is now."""
        counters = self._gateway.stats()["upstream"]
        batches = counters["batches"]
        mean = counters["batched_requests"] / batches if batches else 0.0
        latency = _latency(self._recent[-1], self._recent[0]) if self._recent else {}
        views = []
        for found in self._gateway.upstreams():
            times = latency.get(f"{UPSTREAM}{found.service}")
            is_ejected = found.breaker != "closed"
            views.append(
                UpstreamView(
                    service=found.service,
                    zone=found.zone,
                    address=found.address,
                    name=found.name,
                    state=found.state,
                    health="ejected" if is_ejected else "up" if found.is_up else "down",
                    registered=found.is_registered,
                    weight=found.weight,
                    lanes=1,
                    in_flight=found.open_calls,
                    waiting=found.waiting_calls,
                    max_open=found.max_open,
                    breaker=found.breaker,
                    ejections=found.ejections,
                    requests=found.answered + found.faults,
                    failures=found.faults,
                    p50=times.p50 if times is not None else 0.0,
                    p99=times.p99 if times is not None else 0.0,
                    batch_mean=mean,
                )
            )
        return views

    async def _find_slowest(self) -> None:
        """Find the sessions with the most messages in their queues, a slice a turn of the loop."""
        found: list[Session] = []
        sessions = list(self._gateway.session_manager.index.by_id.values())
        for start in range(0, len(sessions), SLICE):
            if start:
                await asyncio.sleep(0)
            part = [session for session in sessions[start : start + SLICE] if len(session.queue)]
            found = nlargest(SLOWEST, [*found, *part], key=lambda session: len(session.queue))
        self._slowest = found


def _slow(session: Session, now: float) -> SlowSession:
    return SlowSession(
        session=session.session_id,
        openid=session.openid,
        state=session.state.name.lower(),
        queue_messages=len(session.queue),
        queue_bytes=session.queue.queued_bytes,
        oldest_unacked_s=session.queue.oldest_age(now),
    )


def _rates(figures: Figures, before: Figures, passed: float) -> Rates:
    def rate(new: float, old: float) -> float:
        return round((new - old) / passed, 3) if passed > 0 else 0.0

    return Rates(
        cpu=rate(figures.cpu_s, before.cpu_s),
        **{
            name: rate(figures.counters[layer][counter], before.counters[layer][counter])
            for name, (layer, counter) in _RATES.items()
        },
    )


def _latency(figures: Figures, oldest: Figures) -> dict[str, LatencyView]:
    views = {}
    for name, total in figures.histograms.items():
        times = total - oldest.histograms[name] if name in oldest.histograms else total
        views[name] = LatencyView(
            count=times.count,
            p50=times.quantile(0.5),
            p90=times.quantile(0.9),
            p99=times.quantile(0.99),
            p999=times.quantile(0.999),
            max=times.max,
        )
    return views


def _refusals(figures: Figures, before: Figures, passed: float) -> list[Refusal]:
    earlier = refusals(before.counters)
    found = [
        Refusal(
            reason=reason,
            total=total,
            rate=round((total - earlier.get(reason, 0)) / passed, 3) if passed > 0 else 0.0,
        )
        for reason, total in refusals(figures.counters).items()
        if total
    ]
    found.sort(key=lambda refusal: (-refusal.rate, -refusal.total, refusal.reason))
    return found
