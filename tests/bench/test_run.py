"""How a run leads its load processes, with fakes in their place."""

from __future__ import annotations

import os
import resource
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr.bench.process import Sampler
from gatesvr.bench.run import _merge, _Run, raise_file_limit
from gatesvr.bench.scenario import Plan
from gatesvr.errors import ConfigError, ConnectionFailed, GatesvrError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

PLAN = Plan(scenario="echo", clients=2, processes=2)


class Pair:
    """A run over two pipes whose other ends the test holds; steps are done one a turn."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        pairs = [Pipe(), Pipe()]
        self.theirs: list[Connection] = [theirs for _, theirs in pairs]
        self._ours: list[Connection] = [ours for ours, _ in pairs]
        self.steps = list(steps)
        sampler = Sampler({"load 0": os.getpid()})
        self.run: Any = _Run(self._ours, PLAN, sampler, lambda phase, part: None, self._turn)

    def _turn(self) -> None:
        if self.steps:
            self.steps.pop(0)()

    def close(self) -> None:
        for pipe in (*self._ours, *self.theirs):
            pipe.close()


def test_a_process_that_is_done_may_end_before_the_others() -> None:
    pair = Pair()
    first, second = pair.theirs
    pair.steps += [
        lambda: (first.send(("done", 1)), first.close()),
        lambda: None,  # its end would be read here
        lambda: second.send(("done", 2)),
    ]
    assert pair.run._wait_for("done", 20.0) == [1, 2]
    pair.close()


def test_a_process_that_ends_before_it_is_done_is_told() -> None:
    pair = Pair()
    pair.steps.append(pair.theirs[1].close)
    with pytest.raises(GatesvrError, match="load process 1 has ended"):
        pair.run._wait_for("done", 20.0)
    pair.close()


def test_a_failure_ends_the_run_with_its_reason() -> None:
    pair = Pair()
    pair.steps.append(lambda: pair.theirs[0].send(("failed", "no push address")))
    with pytest.raises(ConnectionFailed, match="no push address"):
        pair.run._wait_for("done", 20.0)
    pair.close()


def test_a_process_that_says_nothing_is_not_waited_for_for_ever() -> None:
    pair = Pair()
    with pytest.raises(GatesvrError, match=r"stuck: not done in 0\.01 s"):
        pair.run._wait_for("done", 0.01)
    pair.close()


def test_a_broadcast_is_told_to_the_other_processes() -> None:
    pair = Pair()
    first, second = pair.theirs
    pair.steps += [
        lambda: first.send(("broadcast", (7, True))),
        lambda: [pipe.send(("stopped", None)) for pipe in pair.theirs],
    ]
    pair.run._wait_for("stopped", 20.0)
    assert second.recv() == ("broadcast", (7, True))
    assert not first.poll()
    pair.close()


def test_figures_of_processes_add_up_and_times_do_not() -> None:
    merged = _merge([{"pushes": 3, "max_lag_ms": 2.0, "rounds": 4}, {"pushes": 4, "max_lag_ms": 5}])
    assert merged == {"pushes": 7, "max_lag_ms": 5, "rounds": 4}


def test_clients_are_shared_among_the_processes() -> None:
    plan = Plan(scenario="echo", clients=10, processes=3)
    shares = [plan.share(process) for process in range(3)]
    assert [number for share in shares for number in share] == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_too_many_clients_for_the_system_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 1_000))
    monkeypatch.setattr(resource, "setrlimit", lambda which, both: limits.append(both))
    raise_file_limit(100)
    assert limits == []
    raise_file_limit(800)
    assert limits == [(900, 1_000)]
    with pytest.raises(ConfigError, match=r"--clients.*1001 open files.*1000"):
        raise_file_limit(901)
