"""Thresholds: parsing, and judging a run."""

from __future__ import annotations

import pytest

from gatesvr.bench.threshold import METRICS, Threshold


@pytest.mark.parametrize(
    ("text", "metric", "comparison", "limit"),
    [
        ("p99<20ms", "p99", "<", 20_000.0),
        ("p99.9 <= 1.5s", "p99.9", "<=", 1_500_000.0),
        (" p50<300us ", "p50", "<", 300.0),
        ("max<300µs", "max", "<", 300.0),
        ("rps>=5k", "rps", ">=", 5_000.0),
        ("errors<1", "errors", "<", 1.0),
        ("cpu_us<12.5", "cpu_us", "<", 12.5),
        ("rss<64MiB", "rss", "<", float(64 << 20)),
        ("rss>1", "rss", ">", 1.0),
    ],
)
def test_reads(text: str, metric: str, comparison: str, limit: float) -> None:
    threshold = Threshold.parse(text)
    assert (threshold.metric, threshold.comparison, threshold.limit) == (metric, comparison, limit)
    assert threshold.text == text.strip()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["not a threshold", "p99<20ms"]),
        ("p99", ["not a threshold"]),
        ("p99=20ms", ["not a threshold"]),
        ("p99<-1ms", ["not a threshold"]),
        ("p98<20ms", ["p98", *METRICS]),
        ("p99<20", ["unit of p99", "us", "ms", "s"]),
        ("p99<20m", ["unit of p99"]),
        ("rps>5ms", ["unit of rps", "k or nothing"]),
        ("rss<5ms", ["unit of rss", "MiB"]),
    ],
)
def test_refuses(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"threshold|is not one of|unit") as caught:
        Threshold.parse(text)
    for word in words:
        assert word in str(caught.value)


def test_is_kept_up_to_its_limit() -> None:
    below, at = Threshold.parse("p99<20ms"), Threshold.parse("p99<=20ms")
    above, least = Threshold.parse("rps>100"), Threshold.parse("rps>=100")
    assert below.is_kept({"p99": 19_999})
    assert not below.is_kept({"p99": 20_000})
    assert at.is_kept({"p99": 20_000})
    assert not above.is_kept({"rps": 100.0})
    assert least.is_kept({"rps": 100.0})


def test_an_unknown_value_misses_it() -> None:
    assert not Threshold.parse("cpu_us<10").is_kept({"cpu_us": None})
    assert not Threshold.parse("p99<1s").is_kept({})
