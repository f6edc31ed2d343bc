"""bench.compare from its arguments to its exit code, with invented runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench import compare
from bench.verdicts import CORE_LIMIT, END_TO_END_LIMIT, Costs, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

QUEUE = "bench/test_queue.py::test_queue"
ECHO = "bench/test_end_to_end.py::test_echo"


Pairs = list[tuple[float | None, float]]


class FakeRuns:
    """The results of each suite's runs, pair after pair; the last pair repeats.

    Attributes:
        queue: Costs of base and head; base's is None where it lacks the benchmark.
        echo: The same of the other suite.
        asked: The tests of every pair.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue: Pairs = [(1.0, 1.0)]
        self.echo: Pairs = [(100.0, 100.0)]
        self.asked: list[Sequence[str]] = []
        monkeypatch.setattr(compare, "build", lambda revision: Path(revision or "head"))
        monkeypatch.setattr(compare, "run_in_turn", self._run_queue)
        monkeypatch.setattr(compare, "run_together", self._run_echo)

    def _run_queue(self, base: Path, head: Path, tests: Sequence[str], _: int) -> tuple[Run, Run]:
        self._check(base, head, tests)
        costs = next_of(self.queue)
        one, two = (
            {} if cost is None else {"queue": Costs((cost,), "yardsticks", CORE_LIMIT, (QUEUE,))}
            for cost in costs
        )
        return one, two

    def _run_echo(self, base: Path, head: Path, tests: Sequence[str], _: int) -> tuple[Run, Run]:
        self._check(base, head, tests)
        costs = next_of(self.echo)
        one, two = (
            {} if cost is None else {"end to end": Costs((cost,), "ns", END_TO_END_LIMIT, (ECHO,))}
            for cost in costs
        )
        return one, two

    def _check(self, base: Path, head: Path, tests: Sequence[str]) -> None:
        assert (base, head) == (Path("main"), Path("head"))
        self.asked.append(tests)


def next_of(costs: Pairs) -> tuple[float | None, float]:
    return costs.pop(0) if len(costs) > 1 else costs[0]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    return FakeRuns(monkeypatch)


def test_equal_revisions_pass(runs: FakeRuns, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["main"]) == 0
    assert len(runs.asked) == 10
    assert "slower than main: nothing" in capsys.readouterr().out


def test_slower_core_fails(runs: FakeRuns, capsys: pytest.CaptureFixture[str]) -> None:
    runs.queue = [(1.0, 1.2)]
    assert compare.main(["main"]) == 1
    assert runs.asked[10:] == [[QUEUE]] * 10  # measured again, twice, and nothing else
    out = capsys.readouterr().out
    assert "+20.0%" in out
    assert "slower than main: queue" in out


def test_slower_end_to_end_fails(runs: FakeRuns) -> None:
    runs.echo = [(100.0, 130.0)]
    assert compare.main(["main"]) == 1
    assert runs.asked[10:] == [[ECHO]] * 10


def test_what_only_seemed_slower_passes(runs: FakeRuns) -> None:
    runs.queue = [*[(1.0, 1.2)] * 5, (1.0, 1.0)]
    assert compare.main(["main", "--rounds", "5"]) == 0
    assert runs.asked[10:] == [[QUEUE]] * 10  # half of ten pairs do not decide, a third of 15 does


def test_one_suite_alone(runs: FakeRuns) -> None:
    runs.echo = [(100.0, 900.0)]
    assert compare.main(["main", "--suite", "core", "--rounds", "3"]) == 0
    assert runs.asked == [compare.SUITES["core"]] * 3


def test_new_benchmarks_pass(runs: FakeRuns, capsys: pytest.CaptureFixture[str]) -> None:
    runs.echo = [(None, 100.0)]
    assert compare.main(["main"]) == 0
    assert "new" in capsys.readouterr().out


def test_base_that_runs_nothing_is_no_pass(runs: FakeRuns) -> None:
    runs.queue = [(None, 1.0)]
    runs.echo = [(None, 100.0)]
    assert compare.main(["main"]) == 2


def test_json_has_all_runs(runs: FakeRuns, capsys: pytest.CaptureFixture[str]) -> None:
    runs.queue = [(1.0, 1.5)]
    assert compare.main(["main", "--json", "--suite", "core", "--rounds", "1"]) == 1
    report = json.loads(capsys.readouterr().out)
    (change,) = report["changes"]
    assert change["verdict"] == "SLOWER"
    assert change["change"] == pytest.approx(0.5)
    assert report["pairs"] == [{"base": {"queue": [1.0]}, "head": {"queue": [1.5]}}] * 3


def test_unknown_revision_cannot_be_compared(capfd: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["no-such-revision"]) == 2
    assert capfd.readouterr().err
