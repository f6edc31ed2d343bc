"""Latencies and counts: recorded in the load processes, merged into HDR histograms by the parent.

A Recorder only appends to lists and hands on a Batch every TICK_S. A Meter merges the batches of
all load processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError

__all__ = ["PERCENTILES", "TICK_S", "Batch", "Histogram", "Meter", "Point", "Recorder"]

TICK_S = 0.5
"""One point of the time series, seconds."""
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
MAX_US = 3_600_000_000
"""Longest latency that the histogram distinguishes: an hour."""
DIGITS = 3


@dataclass(slots=True)
class Batch:
    """One tick's records of a load process.

    Attributes:
        number: The tick's number, from 0 at the start of the measurement.
        latencies: For each series: latency in µs to count.
        failed: Operations that failed.
        is_last: Whether the end cut the tick short.
    """

    number: int
    latencies: dict[str, Counter[int]]
    failed: int = 0
    is_last: bool = False

    @property
    def done(self) -> int:
        """Operations completed."""
        return sum(counts.total() for counts in self.latencies.values())


class Recorder:
    """Collects the latencies and failures of a load process.

    Attributes:
        failed: Operations that failed since the last take().
    """

    def __init__(self) -> None:
        self.failed = 0
        self._ticks = 0
        self._series: dict[str, list[int]] = {}

    def series(self, name: str) -> list[int]:
        """Return the list to append latencies to, whole µs; always the same list."""
        return self._series.setdefault(name, [])

    def clear(self) -> None:
        """Drop all records: the measurement begins."""
        for latencies in self._series.values():
            latencies.clear()
        self.failed = 0

    def take(self, *, is_last: bool = False) -> Batch:
        """Return the records since the last take()."""
        batch = Batch(
            self._ticks,
            {name: Counter(latencies) for name, latencies in self._series.items() if latencies},
            self.failed,
            is_last,
        )
        self.clear()
        self._ticks += 1
        return batch


class Histogram:
    """An HDR histogram of latencies, 1 µs to an hour at three digits.

    Raises:
        ConfigError: The library is not installed.
    """

    def __init__(self) -> None:
        try:
            from hdrh.histogram import HdrHistogram
        except ImportError:
            raise ConfigError(
                "needs the package hdrhistogram: pip install 'gatesvr[bench]'", source="bench"
            ) from None
        self._histogram: Any = HdrHistogram(1, MAX_US, DIGITS)

    @property
    def count(self) -> int:
        """Latencies recorded."""
        return int(self._histogram.get_total_count())

    def record(self, counts: Mapping[int, int]) -> None:
        """Record latencies, as µs to count."""
        record = self._histogram.record_value
        for latency, count in counts.items():
            record(min(max(latency, 1), MAX_US), count)

    def summary(self) -> dict[str, float]:
        """Return count, min, mean, percentiles and max, in µs; only the count if it is 0."""
        histogram = self._histogram
        if not self.count:
            return {"count": 0}
        return {
            "count": self.count,
            "min": int(histogram.get_min_value()),
            "mean": round(float(histogram.get_mean_value()), 1),
            **{
                name: int(histogram.get_value_at_percentile(percentile))
                for name, percentile in PERCENTILES.items()
            },
            "max": int(histogram.get_max_value()),
        }


@dataclass(slots=True)
class Point:
    """One tick of the time series.

    Attributes:
        at_s: Its start, seconds from the start of the measurement.
        seconds: Its length.
        done: Operations completed in it.
        failed: Operations that failed in it.
        p50: Median in µs, None if no operation completed; likewise p99 and max.
        gateway_cpu: The gateway's CPU time as a share of one core; None if unknown.
        gateway_rss: The gateway's memory at its end, bytes; None if unknown.
    """

    at_s: float
    seconds: float
    done: int = 0
    failed: int = 0
    p50: int | None = None
    p99: int | None = None
    max: int | None = None
    gateway_cpu: float | None = None
    gateway_rss: int | None = None


@dataclass(slots=True)
class Meter:
    """The latencies of all load processes.

    Attributes:
        total: All latencies.
        series: Latencies by series, if there is more than one.
        failed: Operations that failed.
    """

    total: Histogram = field(default_factory=Histogram)
    series: dict[str, Histogram] = field(default_factory=dict)
    failed: int = 0
    _ticks: dict[int, Counter[int]] = field(default_factory=dict)
    _tick_failed: Counter[int] = field(default_factory=Counter)

    def add(self, batch: Batch) -> None:
        """Add a load process's batch."""
        tick = self._ticks.setdefault(batch.number, Counter())
        for name, counts in batch.latencies.items():
            self.total.record(counts)
            histogram = self.series.get(name)
            if histogram is None:
                histogram = self.series[name] = Histogram()
            histogram.record(counts)
            tick.update(counts)
        self.failed += batch.failed
        self._tick_failed[batch.number] += batch.failed

    def timeline(self, seconds: float) -> list[Point]:
        """Return a point for each tick received, up to the end at seconds."""
        points = []
        for number in sorted(self._ticks):
            at_s = number * TICK_S
            length = min(TICK_S, seconds - at_s)
            if length < TICK_S / 10:
                continue  # a fragment after the last whole tick has no meaningful rate
            counts = self._ticks[number]
            point = Point(at_s, length, counts.total(), self._tick_failed[number])
            if counts:
                point.p50, point.p99 = _percentiles(counts, 50.0, 99.0)
                point.max = max(counts)
            points.append(point)
        return points


def _percentiles(counts: Mapping[int, int], *percentiles: float) -> list[int]:
    """Return the smallest latency at or above each percentile; percentiles must ascend."""
    total = sum(counts.values())
    found: list[int] = []
    seen = 0
    for latency in sorted(counts):
        seen += counts[latency]
        while len(found) < len(percentiles) and seen * 100 >= total * percentiles[len(found)]:
            found.append(latency)
    return found
