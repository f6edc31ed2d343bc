"""Decides from two revisions' measurements which benchmark got slower, and by how much.

A *run* is one revision's measurement: costs by benchmark. Runs come in pairs of base and head, and
so do their costs. A benchmark's change is the median ratio of head to base over all pairs of costs.
Other load on the machine comes and goes and hits both sides of most pairs alike; the median ignores
the remaining pairs.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.figures import Figure, yardsticks

if TYPE_CHECKING:
    from collections.abc import Sequence

CORE_LIMIT = 0.10
END_TO_END_LIMIT = 0.25

Unit = Literal["yardsticks", "ns"]
Verdict = Literal["ok", "faster", "SLOWER", "new"]


@dataclass(frozen=True)
class Costs:
    """A benchmark's costs in one run; each is comparable only with its counterpart.

    Attributes:
        costs: One cost for the core, one a round end to end.
        unit: Yardsticks of the same run, or CPU nanoseconds an item.
        limit: The largest acceptable change.
        tests: The tests that measure it again.
    """

    costs: tuple[float, ...]
    unit: Unit
    limit: float
    tests: tuple[str, ...]


Run = dict[str, Costs]


@dataclass(frozen=True)
class Change:
    """A benchmark's change from base to head.

    Attributes:
        base: The median of its costs, None if base has none.
        head: The same of head.
        unit: Of base and head.
        change: Head's cost relative to base's, less 1; None for a new benchmark.
        limit: The largest acceptable change.
        pairs: Number of pairs of costs; for a new benchmark, number of costs.
        tests: The tests that measure it again.
    """

    name: str
    base: float | None
    head: float
    unit: Unit
    change: float | None
    limit: float
    pairs: int
    tests: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        if self.change is None:
            return "new"
        if self.change > self.limit:
            return "SLOWER"
        return "faster" if self.change < -self.limit else "ok"


def run_of(figures: Sequence[Figure]) -> Run:
    """Return the costs in a run.

    The core's yardsticks are independent code, so they cancel out the machine's current speed. The
    bare echo is our own code, and is compared like everything else.
    """
    found = yardsticks(figures)
    run = {}
    for one in figures:
        if one.is_end_to_end:
            name = f"{one.name}, bare echo" if one.role == "yardstick" else one.name
            run[name] = Costs(one.rounds, "ns", END_TO_END_LIMIT, (one.test,))
        elif one.role == "gatesvr" and one.yardstick in found:
            yardstick = found[one.yardstick]
            tests = (yardstick.test, one.test)
            cost = one.median / yardstick.median
            run[one.name] = Costs((cost,), "yardsticks", CORE_LIMIT, tests)
    return run


def changes(pairs: Sequence[tuple[Run, Run]]) -> list[Change]:
    """Return every benchmark's change over all pairs of (base, head), by name."""
    names = sorted({name for _, head in pairs for name in head})
    return [_change(name, pairs) for name in names]


def _change(name: str, pairs: Sequence[tuple[Run, Run]]) -> Change:
    of_head = [head[name] for _, head in pairs if name in head]
    both = [
        cost
        for base, head in pairs
        if name in base and name in head
        for cost in zip(base[name].costs, head[name].costs, strict=True)
    ]
    heads = [cost for one in of_head for cost in one.costs]
    return Change(
        name=name,
        base=statistics.median(base for base, _ in both) if both else None,
        head=statistics.median(heads),
        change=statistics.median(head / base for base, head in both) - 1 if both else None,
        unit=of_head[0].unit,
        limit=of_head[0].limit,
        pairs=len(both) or len(heads),
        tests=of_head[0].tests,
    )
