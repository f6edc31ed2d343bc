"""Histograms against a plain list of what was recorded, and the stages of a request."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatesvr._core.histogram import Histogram, HistogramSnapshot, RequestTimer

MIN_S, MAX_S = 1e-6, 3600.0
WIDTH = 1 / 32
"""Of a bucket, relative to its lower edge."""
CLOSE = 1 + 1e-9

DURATIONS = st.one_of(
    st.floats(MIN_S, MAX_S),
    # As many of each size.
    st.floats(math.log(MIN_S), math.log(MAX_S)).map(math.exp),
    # Edges, exactly.
    st.tuples(st.integers(0, 31), st.integers(0, 31)).map(
        lambda edge: 2 ** edge[0] * (1 + edge[1] / 32) / 1e6
    ),
    st.sampled_from([0.0, -1.0, 1e-9, 1e9, math.inf, -math.inf, math.nan]),
)


def clamped(seconds: float) -> float:
    return min(max(seconds, MIN_S), MAX_S) if seconds == seconds else MIN_S


def recorded(durations: list[float]) -> Histogram:
    histogram = Histogram()
    for seconds in durations:
        histogram.record(seconds)
    return histogram


@given(st.lists(DURATIONS, min_size=1, max_size=60), st.floats(0, 1))
def test_a_snapshot_is_what_was_recorded(durations: list[float], q: float) -> None:
    snapshot = recorded(durations).snapshot()
    model = sorted(clamped(seconds) for seconds in durations)
    assert snapshot.count == len(model)
    assert snapshot.sum == pytest.approx(sum(model))
    # The smallest value that a share q of all are not above.
    exact = model[max(math.ceil(q * len(model)) - 1, 0)]
    assert exact <= snapshot.quantile(q) * CLOSE
    assert snapshot.quantile(q) <= exact * (1 + WIDTH) * CLOSE
    assert snapshot.max == snapshot.quantile(1) == snapshot.quantile(7)
    assert snapshot.quantile(0) == snapshot.quantile(-1)
    assert sum(count for _, count in snapshot.buckets()) == len(model)


@given(st.lists(DURATIONS, max_size=40), st.lists(DURATIONS, max_size=40))
def test_a_difference_is_what_was_recorded_between(first: list[float], second: list[float]) -> None:
    histogram = recorded(first)
    before = histogram.snapshot()
    for seconds in second:
        histogram.record(seconds)
    between = histogram.snapshot() - before
    assert between.buckets() == recorded(second).snapshot().buckets()
    assert between.count == len(second)
    assert between.sum == pytest.approx(sum(clamped(s) for s in second), abs=1e-6, rel=1e-9)
    assert before.count == len(first), "a snapshot does not change"


@given(st.lists(DURATIONS, max_size=40), st.lists(DURATIONS, max_size=40))
def test_a_sum_is_what_both_have_recorded(first: list[float], second: list[float]) -> None:
    one, other = recorded(first).snapshot(), recorded(second).snapshot()
    both = recorded(first + second).snapshot()
    read = HistogramSnapshot.from_bytes((one + other).to_bytes())
    assert read.buckets() == both.buckets()
    assert read.count == both.count == one.count + other.count
    assert read.sum == pytest.approx(both.sum)


def test_bytes_of_no_histogram_are_refused() -> None:
    good = recorded([1.0]).snapshot().to_bytes()
    for bad in (b"", good[:-1], good[10:], good + b"\xff" * 10, b"\0" * 10):
        with pytest.raises(ValueError, match="not the bytes"):
            HistogramSnapshot.from_bytes(bad)


@given(st.lists(DURATIONS, max_size=40), st.lists(DURATIONS, max_size=10))
def test_what_is_not_above_a_bound(durations: list[float], extra: list[float]) -> None:
    snapshot = recorded(durations).snapshot()
    edges = [edge for edge, _ in snapshot.buckets()]
    bounds = sorted({*edges, *(clamped(s) for s in extra)})
    expected = [
        sum(count for edge, count in snapshot.buckets() if edge <= bound * CLOSE)
        for bound in bounds
    ]
    assert snapshot.cumulative(bounds) == expected
    assert snapshot.cumulative([*bounds, math.inf])[-1] == len(durations)


def test_buckets_are_at_most_a_thirty_second_wide() -> None:
    edges = [MIN_S]
    while edges[-1] < MAX_S:
        ((edge, _),) = recorded([edges[-1] * CLOSE]).snapshot().buckets()
        edges.append(edge)
    assert len(edges) == 1 + 1014
    assert all(low < high <= low * (1 + WIDTH) * CLOSE for low, high in pairwise(edges))


def test_many_at_once_are_as_many_times_one() -> None:
    histogram = Histogram()
    histogram.record_many(0.25, 1_000)
    histogram.record_many(0.5, 0)
    assert histogram.count == 1_000
    assert histogram.snapshot().buckets() == recorded([0.25] * 1_000).snapshot().buckets()
    assert histogram.snapshot().sum == pytest.approx(250)


def test_an_empty_snapshot_has_no_durations() -> None:
    for empty in (HistogramSnapshot(), Histogram().snapshot()):
        assert (empty.count, empty.sum, empty.max, empty.quantile(0.99)) == (0, 0.0, 0.0, 0.0)
        assert empty.buckets() == []
        assert empty.cumulative([0.1, 1.0]) == [0, 0]


def test_a_later_snapshot_is_no_earlier_one() -> None:
    histogram = recorded([1.0])
    before = histogram.snapshot()
    histogram.record(1.0)
    with pytest.raises(ValueError, match="not an earlier snapshot"):
        before - histogram.snapshot()
    with pytest.raises(TypeError):
        before - 1  # type: ignore[operator]


def test_the_stages_of_a_request_add_up() -> None:
    timer, upstream = RequestTimer(), Histogram()
    timer.ended(upstream, 10.0, 10.25, 11.25, True)
    assert (timer.pending, timer.send.count, timer.request.count) == (1, 0, 0)
    timer.flushed(11.75)
    timer.flushed(99.0)
    assert timer.pending == 0
    sums = [h.snapshot().sum for h in (timer.queue_wait, upstream, timer.send, timer.request)]
    assert sums == pytest.approx([0.25, 1.0, 0.5, 1.75])
    assert timer.request.count == 1


def test_answers_that_wait_for_a_flush_are_bounded() -> None:
    timer, upstream = RequestTimer(), Histogram()
    for _ in range(1_025):
        timer.ended(upstream, 1.0, 1.0, 2.0, True)
    assert (timer.pending, timer.request.count, upstream.count) == (1, 1_024, 1_025)
    timer.flushed(3.0)
    assert timer.request.count == 1_025


def test_an_answer_whose_client_is_not_there_is_not_sent() -> None:
    timer, upstream = RequestTimer(), Histogram()
    timer.ended(upstream, 1.0, 1.5, 3.0, False)
    assert (timer.pending, timer.send.count, timer.request.count, upstream.count) == (0, 0, 1, 1)
    assert timer.request.snapshot().sum == pytest.approx(2.0)
