"""Breakers on a clock of the tests' own: when they open, what comes through, how they close."""

from __future__ import annotations

import logging
import math
from itertools import count
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatesvr.config import UpstreamConfig
from gatesvr.upstream.breaker import BURST_S, Breaker, Breakers, BreakerState
from gatesvr.upstream.call import UpstreamCounters
from gatesvr.upstream.registry import Registration

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Bench:
    """Breakers of one service, and a clock."""

    def __init__(self, endpoints: int, **values: Any) -> None:
        self.now = 1_000.0
        self.config = UpstreamConfig(**values)
        self.counters = UpstreamCounters()
        self.breakers = Breakers(self.config, self.counters, lambda: self.now, lambda: None)
        self.all = [
            self.breakers.add(Registration("chat", f"127.0.0.1:{port + 1}"))
            for port in range(endpoints)
        ]
        self.next_id = count(1).__next__

    def pass_time(self, seconds: float) -> None:
        """Let time pass as the manager does, timer by timer."""
        end = self.now + seconds
        while (due := self.breakers.get_timer()) is not None and due <= end:
            self.now = max(self.now, due)
            self.breakers.handle_timer(self.now)
        self.now = end

    def answer(self, breaker: Breaker) -> None:
        breaker.answered += 1

    def fail(self, breaker: Breaker, times: int = 1, openid: str = "") -> None:
        """Fail calls, each of another client and far enough from the last."""
        for _ in range(times):
            request_id = self.next_id()
            breaker.failed(request_id, openid or f"user{request_id}")
            self.now += BURST_S

    def probe(self, breaker: Breaker) -> int:
        request_id = self.next_id()
        breaker.begin_probe(request_id)
        return request_id

    def states(self) -> list[BreakerState]:
        return [breaker.state for breaker in self.all]


def test_consecutive_failures_eject_and_an_answer_between_them_does_not() -> None:
    bench = Bench(2)
    first = bench.all[0]
    for _ in range(3):
        bench.fail(first, 4)
        bench.answer(first)
    assert bench.states() == [CLOSED, CLOSED]
    bench.fail(first, 5)
    assert bench.states() == [OPEN, CLOSED]
    assert (first.takes_calls, bench.counters.ejections, bench.breakers.ejected) == (False, 1, 1)


def test_a_broken_connection_is_one_failure_however_many_calls_it_had() -> None:
    bench = Bench(2, failure_percent=0)
    for _ in range(1_000):
        bench.all[0].failed(bench.next_id(), f"user{bench.next_id()}")
    assert bench.states() == [CLOSED, CLOSED]


def test_a_share_of_failures_ejects_only_with_enough_calls_in_the_window() -> None:
    bench = Bench(2, consecutive_failures=0)
    first, second = bench.all
    for _ in range(40):
        bench.fail(first)
    assert first.state is CLOSED, "40 calls tell nothing"
    bench.pass_time(20)
    for _ in range(100):
        bench.answer(second)
        bench.answer(second)
        bench.fail(second)
    assert second.state is CLOSED, "a third of them"
    for _ in range(25):
        bench.answer(first)
    bench.fail(first, 24)
    assert first.state is CLOSED, "24 of 49"
    bench.pass_time(4)
    bench.fail(first)
    assert first.state is OPEN, "25 of 50"


def test_ejection_time_grows_with_each_ejection_and_shrinks_again() -> None:
    bench = Bench(2, ejection_time=5.0, max_ejection_time=12.0)
    first = bench.all[0]
    bench.fail(first, 5)
    for seconds in (5, 10, 12, 12):
        assert first.until - bench.now == pytest.approx(seconds, abs=1)
        bench.pass_time(seconds)
        assert first.state is HALF_OPEN
        first.failed(bench.probe(first), "")
        assert first.state is OPEN
    bench.pass_time(12)
    for _ in range(3):
        first.probe_answered(bench.probe(first))
    assert first.state is CLOSED
    bench.pass_time(60)
    assert first.ejections == 0
    bench.fail(first, 5)
    assert first.until - bench.now == pytest.approx(5, abs=1)


def test_half_open_lets_a_few_probes_through_and_all_must_be_answered() -> None:
    bench = Bench(2)
    first = bench.all[0]
    bench.fail(first, 5)
    bench.pass_time(5)
    probes = [bench.probe(first) for _ in range(3)]
    assert not first.takes_calls
    first.release(probes[0])  # it ended, and nobody learnt anything
    assert first.takes_calls
    probes[0] = bench.probe(first)
    assert not first.takes_calls
    first.probe_answered(bench.next_id())  # a call from before
    first.failed(bench.next_id(), "")
    for probe in probes:
        assert first.state is HALF_OPEN
        first.probe_answered(probe)
    assert (first.state, first.takes_calls) == (CLOSED, True)
    assert (bench.counters.probes, bench.counters.restorations) == (4, 1)


def test_not_all_of_a_group_are_ejected() -> None:
    bench = Bench(3)
    for breaker in bench.all:
        bench.fail(breaker, 5)
    assert bench.states() == [OPEN, OPEN, CLOSED]
    assert bench.counters.ejections_overflow == 1
    other = Bench(5, max_ejection_percent=10)
    for breaker in other.all:
        other.fail(breaker, 5)
    assert other.states() == [OPEN, CLOSED, CLOSED, CLOSED, CLOSED]


def test_an_only_endpoint_opens_by_failures_in_a_row_of_several_clients() -> None:
    bench = Bench(1)
    alone = bench.all[0]
    bench.fail(alone, 1_000, "mallory")
    assert alone.state is CLOSED, "one client closes the service for nobody"
    bench.answer(alone)
    for _ in range(100):
        bench.fail(alone, 4)
        bench.answer(alone)
    assert alone.state is CLOSED, "it still answers some"
    bench.fail(alone, 5)
    assert alone.state is OPEN
    assert alone.retry_after_ms(bench.now) == pytest.approx(5_000, abs=100)


def test_an_only_endpoint_closes_by_one_answered_probe_and_waits_the_same_time_again() -> None:
    bench = Bench(1)
    alone = bench.all[0]
    bench.fail(alone, 5)
    for _ in range(3):
        bench.pass_time(5)
        assert alone.state is HALF_OPEN
        for probe in [bench.probe(alone) for _ in range(3)]:
            assert alone.state is HALF_OPEN
            alone.failed(probe, "")
        assert alone.state is OPEN
    bench.pass_time(5)
    lost, passed = bench.probe(alone), bench.probe(alone)
    alone.failed(lost, "")
    alone.probe_answered(passed)
    assert alone.state is CLOSED


def test_an_only_endpoint_that_gets_company_while_it_is_half_open_is_taken_back() -> None:
    bench = Bench(1)
    alone = bench.all[0]
    bench.fail(alone, 5)
    bench.pass_time(5)
    for _ in range(2):
        alone.failed(bench.probe(alone), "")
    bench.breakers.add(Registration("chat", "127.0.0.1:9"))
    alone.probe_answered(bench.probe(alone))
    assert alone.state is CLOSED


def test_zero_switches_it_off() -> None:
    bench = Bench(2, consecutive_failures=0, failure_percent=0)
    bench.fail(bench.all[0], 1_000)
    assert bench.states() == [CLOSED, CLOSED]
    assert bench.breakers.get_timer() is None


def test_a_removed_endpoint_is_not_ejected_and_the_last_one_is_alone() -> None:
    bench = Bench(2)
    first, second = bench.all
    assert not second.is_alone
    bench.breakers.remove(first)
    bench.fail(first, 5)
    assert bench.counters.ejections == 0
    assert second.is_alone
    bench.breakers.remove(second)
    assert bench.breakers.get_timer() is None


def test_each_change_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gatesvr.upstream")
    bench = Bench(2)
    first = bench.all[0]
    bench.fail(first, 50)
    bench.pass_time(5)
    for _ in range(3):
        first.probe_answered(bench.probe(first))
    lines = [record.message for record in caplog.records]
    assert lines == ["endpoint_ejected", "endpoint_restored"]


class BreakerMachine(RuleBasedStateMachine):
    """Three endpoints of a service and one alone, beside a model that keeps every event."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(3, failure_calls=10)
        alone = self.bench.breakers.add(Registration("chat", "127.0.0.1:9", "001"))
        self.bench.all.append(alone)
        # By breaker: what happened since it last closed, as (time, kind, openid).
        self.events: list[list[tuple[float, str, str]]] = [[] for _ in self.bench.all]
        self.burst_until = [0.0 for _ in self.bench.all]
        self.probes: list[dict[int, Breaker]] = [{} for _ in self.bench.all]
        self.halves = 0

    which = st.integers(0, 3)
    openids = st.sampled_from(["ann", "bob", "eve", "joe"])

    @rule(i=which, times=st.sampled_from([1, 1, 5, 20]))
    def answer(self, i: int, times: int) -> None:
        for _ in range(times):
            self.bench.answer(self.bench.all[i])
            self.events[i].append((self.bench.now, "answer", ""))

    @rule(i=which, times=st.sampled_from([1, 3, 6]), openid=openids)
    def fail(self, i: int, times: int, openid: str) -> None:
        breaker = self.bench.all[i]
        for _ in range(times):
            was, out = breaker.state, self.bench.breakers.ejected
            self.events[i].append((self.bench.now, "fail", openid))
            breaker.failed(self.bench.next_id(), openid)
            if was is not CLOSED:
                assert breaker.state is was
                continue
            is_due = self.is_due(i)
            may = i == 3 or sum(b.state is not CLOSED for b in self.bench.all[:3]) < 3
            assert may
            if breaker.state is OPEN:
                assert is_due
            elif is_due:
                assert self.bench.breakers.ejected == out
                assert sum(b.state is not CLOSED for b in self.bench.all[:3]) == 2
            if is_due:
                self.events[i].clear()
            self.bench.now += BURST_S

    def is_due(self, i: int) -> bool:
        """Whether an endpoint's events, read from the start, are too many failures."""
        row, until, counted = 0, self.burst_until[i], dict[str, int]()
        for time, kind, openid in self.events[i]:
            if kind == "answer":
                row = 0
                counted.clear()
            elif time >= until:
                if i == 3:
                    if counted.get(openid, 0) == 2:
                        continue
                    counted[openid] = counted.get(openid, 0) + 1
                row, until = row + 1, time + BURST_S
        if row >= 5:
            return True
        start = max(self.halves - 1, 0)
        recent = [kind for time, kind, _ in self.events[i] if self.half(time) >= start]
        failures = recent.count("fail")
        return i != 3 and len(recent) >= 10 and 2 * failures >= len(recent)

    def half(self, time: float) -> int:
        return math.floor((time - 1_000.0) / 5.0)

    @rule(i=which)
    def probe(self, i: int) -> None:
        breaker = self.bench.all[i]
        if breaker.is_half_open and breaker.takes_calls:
            self.probes[i][self.bench.probe(breaker)] = breaker

    @rule(i=which, end=st.sampled_from(["answer", "fail", "release"]))
    def end_probe(self, i: int, end: str) -> None:
        if self.probes[i]:
            request_id, breaker = self.probes[i].popitem()
            if end == "answer":
                breaker.probe_answered(request_id)
            elif end == "fail":
                breaker.failed(request_id, "ann")
            else:
                breaker.release(request_id)
            if breaker.state is not HALF_OPEN:
                self.probes[i].clear()
                self.events[i].clear()

    @rule(seconds=st.sampled_from([0.02, 1.0, 5.0, 61.0]))
    def pass_time(self, seconds: float) -> None:
        self.bench.pass_time(seconds)
        self.halves = self.half(self.bench.now)

    @invariant()
    def bounds(self) -> None:
        for breaker, probes in zip(self.bench.all, self.probes, strict=True):
            assert breaker.probes <= probes.keys()
            assert len(breaker.probes) <= 3
            if breaker.state is not HALF_OPEN:
                assert not breaker.probes
            if breaker.state is OPEN:
                assert not breaker.takes_calls
                assert breaker.until - self.bench.now <= 60
            assert breaker.takes_calls or breaker.state is not CLOSED
        assert sum(b.state is not CLOSED for b in self.bench.all[:3]) <= 2

    def teardown(self) -> None:
        """Whatever happened, endpoints that answer again are taken back."""
        self.bench.pass_time(61)
        for breaker in self.bench.all:
            for probe in list(breaker.probes):
                breaker.probe_answered(probe)
            while breaker.state is HALF_OPEN:
                breaker.probe_answered(self.bench.probe(breaker))
        assert self.bench.breakers.ejected == 0


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = hypothesis_settings(
    max_examples=40, stateful_step_count=40, deadline=None, derandomize=True
)


def test_faults_are_counted_for_good() -> None:
    bench = Bench(2, consecutive_failures=3)
    first, second = bench.all
    bench.fail(first, 3)
    assert first.state is OPEN
    bench.fail(first)
    assert (first.faults, second.faults) == (4, 0)
