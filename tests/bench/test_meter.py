"""Latencies of several load processes become one histogram and one time series."""

from __future__ import annotations

import random
import sys
from collections import Counter

import pytest

from gatesvr.bench.meter import MAX_US, TICK_S, Batch, Histogram, Meter, Recorder
from gatesvr.errors import ConfigError


def test_a_recorder_hands_on_each_tick_once() -> None:
    recorder = Recorder()
    echo, slow = recorder.series("echo"), recorder.series("slow")
    echo += [5, 5, 7]
    recorder.failed = 2
    first = recorder.take()
    slow.append(9)
    assert recorder.series("echo") is echo
    second = recorder.take()
    assert first == Batch(0, {"echo": Counter({5: 2, 7: 1})}, 2)
    assert second == Batch(1, {"slow": Counter({9: 1})}, 0)
    assert (first.done, second.done) == (3, 1)


def test_clear_forgets_the_warm_up() -> None:
    recorder = Recorder()
    recorder.series("echo").append(5)
    recorder.failed = 1
    recorder.clear()
    assert recorder.take() == Batch(0, {}, 0)


def test_batches_of_processes_merge_as_if_one_had_recorded_all() -> None:
    rng = random.Random(7)
    latencies = [int(rng.lognormvariate(7, 1)) for _ in range(20_000)]
    one, both = Meter(), Meter()
    one.add(Batch(0, {"echo": Counter(latencies)}))
    for part in (latencies[:7_000], latencies[7_000:]):
        both.add(Batch(0, {"echo": Counter(part)}, 1))
    assert both.total.summary() == one.total.summary()
    assert both.series["echo"].summary() == one.series["echo"].summary()
    assert (one.failed, both.failed) == (0, 2)
    assert one.timeline(TICK_S)[0].p99 == both.timeline(TICK_S)[0].p99


def test_percentiles_are_right_to_three_digits() -> None:
    rng = random.Random(3)
    latencies = sorted(int(rng.lognormvariate(8, 1)) + 1 for _ in range(50_000))
    histogram = Histogram()
    histogram.record(Counter(latencies))
    summary = histogram.summary()
    for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)):
        exact = latencies[round(part * len(latencies)) - 1]
        assert abs(summary[name] - exact) <= exact * 0.002 + 1
    assert summary["count"] == 50_000
    assert abs(summary["max"] - latencies[-1]) <= latencies[-1] * 0.002
    assert summary["min"] == latencies[0]


def test_what_is_beyond_the_histogram_counts_at_its_edge() -> None:
    histogram = Histogram()
    histogram.record({0: 1, -5: 1, 10 * MAX_US: 1})
    summary = histogram.summary()
    assert summary["count"] == 3
    assert summary["min"] == 1
    assert abs(summary["max"] - MAX_US) <= MAX_US * 0.002


def test_an_empty_histogram_has_only_its_count() -> None:
    assert Histogram().summary() == {"count": 0}


def test_the_timeline_has_rates_of_whole_ticks_and_of_the_rest() -> None:
    meter = Meter()
    meter.add(Batch(0, {"a": Counter({10: 3}), "b": Counter({30: 1})}))
    meter.add(Batch(1, {}, 4))
    meter.add(Batch(2, {"a": Counter({20: 2})}))
    meter.add(Batch(3, {"a": Counter({20: 1})}))
    points = meter.timeline(2.4 * TICK_S)
    assert [(p.at_s, p.done, p.failed) for p in points] == [
        (0.0, 4, 0),
        (TICK_S, 0, 4),
        (2 * TICK_S, 2, 0),
    ]
    assert (points[0].p50, points[0].p99, points[0].max) == (10, 30, 30)
    assert points[1].p50 is None
    assert [round(p.seconds, 3) for p in points] == [TICK_S, TICK_S, round(0.4 * TICK_S, 3)]


def test_without_the_library_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    with pytest.raises(ConfigError, match=r"hdrhistogram.*gatesvr\[bench\]"):
        Histogram()
