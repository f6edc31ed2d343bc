"""What two revisions' measurements say: which benchmark got slower, and by how much.

A *run* is what one revision's process measured: costs by benchmark. Runs come in pairs, base and
head, and so do the costs in them. A benchmark's change is the median of head to base over all pairs
of costs: what else a machine does comes and goes, hits both sides of most pairs alike, and the
median forgets the others.
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
    """What a benchmark costs in one run; each comparable with its counterpart only.

    Attributes:
        costs: Of the core a single one, end to end one a round.
        unit: Yardsticks of the same run, or CPU nanoseconds an item.
        limit: The change above which head is too slow.
        tests: What to run to measure it again.
    """

    costs: tuple[float, ...]
    unit: Unit
    limit: float
    tests: tuple[str, ...]


Run = dict[str, Costs]


@dataclass(frozen=True)
class Change:
    """A benchmark's fate.

    Attributes:
        base: The median of its costs, None where base has none.
        head: The same of head.
        unit: Of base and head.
        change: Head's cost to base's, less 1; None for a new one.
        limit: What change may be at most.
        pairs: Pairs of costs; for a new one, costs.
        tests: What to run to measure it again.
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
    """Return the costs that a run found.

    The yardsticks of the core are nobody's: they take the machine's speed of the moment out of the
    cost. The bare echo is ours as well, and compared as everything else is.
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
