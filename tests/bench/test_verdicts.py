"""The arithmetic of bench.compare on invented measurements: which changes count as slower."""

from __future__ import annotations

from typing import Any

import pytest

from bench.figures import Figure, figure, ratio_rows
from bench.verdicts import CORE_LIMIT, END_TO_END_LIMIT, Change, Costs, Run, changes, run_of


def core(cost: float) -> Run:
    return {"queue": Costs((cost,), "yardsticks", CORE_LIMIT, ("queue test",))}


def end_to_end(*costs: float) -> Run:
    return {"end to end: qh3": Costs(costs, "ns", END_TO_END_LIMIT, ("echo test",))}


def only(pairs: list[tuple[Run, Run]]) -> Change:
    (change,) = changes(pairs)
    return change


@pytest.mark.parametrize(
    ("head", "verdict"),
    [(0.85, "faster"), (0.95, "ok"), (1.0, "ok"), (1.09, "ok"), (1.11, "SLOWER"), (1.2, "SLOWER")],
)
def test_core_may_lose_a_tenth(head: float, verdict: str) -> None:
    assert only([(core(1.0), core(head))] * 5).verdict == verdict


@pytest.mark.parametrize(
    ("head", "verdict"), [(70.0, "faster"), (120.0, "ok"), (124.0, "ok"), (126.0, "SLOWER")]
)
def test_end_to_end_may_lose_a_quarter(head: float, verdict: str) -> None:
    assert only([(end_to_end(100.0), end_to_end(head))] * 5).verdict == verdict


def test_change_is_that_of_most_pairs() -> None:
    pairs = [(core(1.0), core(1.01))] * 3 + [(core(1.0), core(9.0)), (core(1.0), core(8.0))]
    change = only(pairs)
    assert change.change == pytest.approx(0.01)
    assert change.pairs == 5


def test_machine_that_slows_down_changes_nothing() -> None:
    pairs = [(end_to_end(100.0 * n), end_to_end(102.0 * n)) for n in (1, 1, 2, 3, 5)]
    change = only(pairs)
    assert change.change == pytest.approx(0.02)
    assert change.base == pytest.approx(200.0)
    assert change.head == pytest.approx(204.0)


def test_rounds_are_compared_one_by_one() -> None:
    pairs = [(end_to_end(100.0, 300.0, 200.0), end_to_end(130.0, 390.0, 260.0))]
    change = only(pairs)
    assert change.change == pytest.approx(0.3)
    assert change.pairs == 3
    assert change.verdict == "SLOWER"


def test_what_base_lacks_is_new() -> None:
    change = only([({}, core(1.0)), ({}, core(3.0))])
    assert (change.base, change.change, change.verdict) == (None, None, "new")
    assert change.head == 2.0


def test_pairs_where_base_failed_are_left_out() -> None:
    change = only([({}, core(1.0)), (core(1.0), core(1.2))])
    assert change.change == pytest.approx(0.2)
    assert change.pairs == 1


def test_what_head_lacks_is_no_row() -> None:
    assert changes([(core(1.0) | end_to_end(1.0), core(1.0))]) == changes([(core(1.0), core(1.0))])


def bench(group: str, role: str, *seconds: float, **info: Any) -> dict[str, Any]:
    """Return an entry of pytest-benchmark's JSON."""
    return {
        "group": group,
        "fullname": f"{group}[{role}]",
        "extra_info": {"role": role, "per": 10, **info},
        "stats": {"data": list(seconds)},
    }


def test_figure_is_nanoseconds_an_item() -> None:
    one = figure(bench("queue", "gatesvr", 3e-6, 1e-6, 2e-6, min_speedup=10))
    assert one.median == pytest.approx(200.0)
    assert one.p99 == pytest.approx(300.0)
    assert one.rounds == pytest.approx((300.0, 100.0, 200.0))
    assert (one.name, one.yardstick, one.min_speedup) == ("queue", "queue", 10)


def test_core_costs_are_in_yardsticks() -> None:
    measured = [bench("queue", "yardstick", 8e-6), bench("queue", "gatesvr", 2e-6)]
    run = run_of([figure(one) for one in measured])
    tests = ("queue[yardstick]", "queue[gatesvr]")
    assert run == {"queue": Costs((0.25,), "yardsticks", CORE_LIMIT, tests)}


def test_core_without_its_yardstick_is_not_compared() -> None:
    assert run_of([figure(bench("queue", "gatesvr", 2e-6))]) == {}


def test_bare_echo_is_compared_too() -> None:
    name = "end to end: qh3"
    measured = [bench(name, "yardstick", 1e-6, 2e-6), bench(name, "gatesvr", 3e-6, 4e-6)]
    run = run_of([figure(one) for one in measured])
    assert set(run) == {name, f"{name}, bare echo"}
    assert run[name].costs == pytest.approx((300.0, 400.0))
    assert run[f"{name}, bare echo"].costs == pytest.approx((100.0, 200.0))
    assert run[name].limit == END_TO_END_LIMIT


@pytest.mark.parametrize(
    ("group", "ours", "info", "ratio"),
    [
        ("queue", 1e-6, {"min_speedup": 8}, ("8.0 x as fast", "≥ 8", "met")),
        ("queue", 1e-6, {"min_speedup": 9}, ("8.0 x as fast", "≥ 9", "missed")),
        ("queue", 1e-6, {}, ("8.0 x as fast", "", "")),
        ("end to end: qh3", 16e-6, {"max_cost": 2.0}, ("2.00 x the cost", "≤ 2", "met")),
        ("end to end: qh3", 16e-6, {"max_cost": 1.9}, ("2.00 x the cost", "≤ 1.9", "missed")),
        ("end to end: qh3", 16e-6, {}, ("2.00 x the cost", "", "")),
    ],
)
def test_table_says_whether_a_target_is_met(
    group: str, ours: float, info: dict[str, Any], ratio: tuple[str, ...]
) -> None:
    figures: list[Figure] = [
        figure(bench(group, "yardstick", 8e-6)),
        figure(bench(group, "gatesvr", ours, **info)),
    ]
    (row,) = ratio_rows(figures)
    assert row[0] == group
    assert row[-3:] == ratio


def test_table_takes_the_yardstick_that_is_named() -> None:
    figures = [
        figure(bench("end to end: 64 x 1", "yardstick", 8e-6)),
        figure(bench("end to end: 8 x 32", "gatesvr", 4e-6, yardstick="end to end: 64 x 1")),
    ]
    (row,) = ratio_rows(figures)
    assert row[5] == "0.50 x the cost"
