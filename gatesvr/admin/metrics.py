"""MetricsPage: writes the measures of a gateway (measures.py) for Prometheus."""

from __future__ import annotations

import asyncio
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ..observe.stages import UPSTREAM
from .measures import measures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .._core.histogram import HistogramSnapshot
    from ..observe.metrics import Counters
    from .measures import Measure, Scrape

__all__ = ["MetricsPage"]

FIRST_BOUND, LAST_BOUND = 5, 26
"""Bounds of histograms go from 2 ** FIRST_BOUND to 2 ** LAST_BOUND microseconds: 32 us, 67 s."""
PARTS, FINE_PARTS = 4, 32
"""Buckets of each doubling; the second with ``metrics.fine``."""
PART_SAMPLES = 200
"""Samples of a page that are written in one turn of the loop, some 1 ms."""
_OPENMETRICS_END = b"# EOF\n"


class _Part(Collector):
    """Some of the metrics of a page."""

    def __init__(self) -> None:
        self.samples = 0
        self._families: list[Metric] = []

    def add(self, family: Metric) -> None:
        """Add a metric."""
        self._families.append(family)
        self.samples += len(family.samples)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        return iter(self._families)


class MetricsPage:
    """Writes what was taken as metrics.

    Args:
        layers: The counters of each layer.
        is_fine: Whether histograms have more buckets: ``metrics.fine``.
        has_workers: Whether it is of a gateway of several processes.
    """

    def __init__(
        self,
        layers: Mapping[str, type[Counters]],
        *,
        is_fine: bool = False,
        has_workers: bool = False,
    ) -> None:
        self._measures = measures(layers, has_workers=has_workers)
        self._bounds = _bounds(FINE_PARTS if is_fine else PARTS)

    async def write(self, scrape: Scrape, accept: str = "") -> tuple[bytes, str]:
        """Return the page for a scraper, and its Content-Type.

        It is all of one moment, but written in turns: the loop goes on between them.

        Args:
            scrape: What was taken.
            accept: The request's Accept header: it may want OpenMetrics.
        """
        encode, content_type = choose_encoder(accept)
        parts = []
        for part in self._parts(scrape):
            parts.append(encode(part).removesuffix(_OPENMETRICS_END))
            await asyncio.sleep(0)
        if content_type.startswith("application/openmetrics-text"):
            parts.append(_OPENMETRICS_END)
        return b"".join(parts), content_type

    def _parts(self, scrape: Scrape) -> Iterator[Collector]:
        """Yield the metrics in parts of some PART_SAMPLES."""
        part = _Part()
        for family in self.families(scrape):
            part.add(family)
            if part.samples >= PART_SAMPLES:
                yield part
                part = _Part()
        yield part

    def families(self, scrape: Scrape) -> Iterator[Metric]:
        """Yield every metric of what was taken before; in any thread."""
        for measure in self._measures:
            if measure.read is None:
                yield self._histogram(measure, scrape)
                continue
            labels = measure.labels
            if measure.kind == "counter":
                family: Metric = CounterMetricFamily(measure.name, measure.text, labels=labels)
            else:
                family = GaugeMetricFamily(measure.name, measure.text, labels=labels)
            suffix = "_total" if measure.kind == "counter" else ""
            for values, value in measure.read(scrape):
                family.add_sample(
                    f"{family.name}{suffix}", dict(zip(labels, values, strict=True)), value
                )
            yield family

    def _histogram(self, measure: Measure, scrape: Scrape) -> Metric:
        family = HistogramMetricFamily(measure.name, measure.text, labels=measure.labels)
        if not measure.stage:
            self._add_batches(family, scrape)
            return family
        for name, snapshot in scrape.figures.histograms.items():
            if name == measure.stage:
                self._add_durations(family, (), snapshot)
            elif measure.stage == UPSTREAM and name.startswith(UPSTREAM):
                self._add_durations(family, (name.removeprefix(UPSTREAM),), snapshot)
        return family

    def _add_durations(
        self, family: HistogramMetricFamily, labels: tuple[str, ...], snapshot: HistogramSnapshot
    ) -> None:
        bounds, texts = self._bounds
        counts = snapshot.cumulative(bounds)
        buckets = [*zip(texts, counts, strict=True), ("+Inf", snapshot.count)]
        family.add_metric(labels, buckets, snapshot.sum)

    @staticmethod
    def _add_batches(family: HistogramMetricFamily, scrape: Scrape) -> None:
        last = (scrape.max_batch - 1).bit_length()
        counts = list(accumulate(scrape.figures.batches))
        bounds = [repr(float(2**power)) for power in range(last + 1)]
        buckets = [*zip(bounds, counts, strict=False), ("+Inf", counts[-1])]
        total = scrape.figures.counters["upstream"]["batched_requests"]
        family.add_metric((), buckets, total)


def _bounds(parts: int) -> tuple[list[float], list[str]]:
    """Return the bounds of histograms in seconds, and as text; each is an edge of a bucket."""
    bounds = [
        2**power * (1 + part / parts) / 1e6
        for power in range(FIRST_BOUND, LAST_BOUND)
        for part in range(parts)
    ]
    bounds.append(2**LAST_BOUND / 1e6)
    return bounds, [repr(bound) for bound in bounds]
