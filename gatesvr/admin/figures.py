"""Sampler: takes a sample of the gateway once a second, and makes overview and history of them.

Everything that shows numbers gets them here, so that all of it shows the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from ..figures import Moment, refusals
from ..observe.stages import UPSTREAM
from .answers import (
    History,
    LatencyView,
    Overview,
    Rates,
    Refusal,
    UpstreamView,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..figures import Figures
    from .counters import AdminCounters
    from .source import Sample, Source

__all__ = ["HISTORY_S", "Sampler"]

logger = logging.getLogger("gatesvr.admin")

INTERVAL_S = 1.0
HISTORY_S = 900
"""Seconds of history, a point each."""
LATENCY_S = 10
"""Seconds that the latencies of an overview look back."""

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
        source: The gateway.
        counters: Counts samples that failed.
        look: Called with each sample.

    Attributes:
        overview: The newest, None before take().
        encoded: The same as JSON, for the streams.
    """

    def __init__(
        self, source: Source, counters: AdminCounters, look: Callable[[], None] = lambda: None
    ) -> None:
        self.overview: Overview | None = None
        self.encoded = b""
        self._source = source
        self._counters = counters
        self._look = look
        self._recent: deque[Figures] = deque(maxlen=LATENCY_S + 1)
        self._times: deque[float] = deque(maxlen=HISTORY_S)
        self._points: deque[tuple[float | None, ...]] = deque(maxlen=HISTORY_S)
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Take a sample a second from now on."""
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
                await self.take()
                self._look()
            except Exception:
                self._counters.internal_errors += 1
                logger.exception("sample_failed")

    async def take(self) -> None:
        """Take a sample."""
        sample = await self._source.sample(with_slowest=True)
        figures = sample.figures
        before = self._recent[-1] if self._recent else figures
        self._recent.append(figures)
        self.overview = overview = self._overview(sample, before, self._recent[0])
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

    async def upstreams(self) -> list[UpstreamView]:
        """Return every endpoint as it is now."""
        latency = _latency(self._recent[-1], self._recent[0]) if self._recent else {}
        return _upstreams(await self._source.sample(), latency)

    @staticmethod
    def _overview(sample: Sample, before: Figures, oldest: Figures) -> Overview:
        figures, drain = sample.figures, sample.drain
        passed = figures.uptime_s - before.uptime_s  # the wall clock may be set
        latency = _latency(figures, oldest)
        return Overview(
            **{name: getattr(figures, name) for name in Moment.__struct_fields__},
            rates=_rates(figures, before, passed),
            latency=latency,
            refusals=_refusals(figures, before, passed),
            upstreams=_upstreams(sample, latency),
            slowest=sample.slowest,
            drain=drain if drain.phase != "serving" else None,
            fleet=sample.fleet,
        )


def _upstreams(sample: Sample, latency: dict[str, LatencyView]) -> list[UpstreamView]:
    counters = sample.figures.counters["upstream"]
    batches = counters["batches"]
    mean = counters["batched_requests"] / batches if batches else 0.0
    processes = 1 if sample.fleet is None else len(sample.fleet.workers)
    views = []
    for found in sample.endpoints:
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
                lanes=processes,
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
