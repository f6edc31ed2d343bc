"""The figures of a benchmark run, each beside its yardstick.

A benchmark describes itself in ``benchmark.extra_info``: ``role`` ("yardstick" or "gatesvr"),
``per`` (items that one call handles) and, for those with a target (DESIGN 4), ``min_speedup``
(times the yardstick's speed) or ``max_cost`` (times its cost). Its group is its name and also names
the yardstick, unless ``yardstick`` names another group.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

END_TO_END = "end to end"  # prefix of those benchmarks' names

COLUMNS = ("benchmark", "median ns", "p99 ns", "yardstick ns", "p99 ns", "ratio", "target", "")


@dataclass(frozen=True)
class Figure:
    """One benchmark's result; times are nanoseconds an item."""

    name: str
    test: str
    role: str
    yardstick: str
    rounds: tuple[float, ...]
    median: float
    p99: float
    min_speedup: float
    max_cost: float

    @property
    def is_end_to_end(self) -> bool:
        return self.name.startswith(END_TO_END)


def figure(bench: dict[str, Any]) -> Figure:
    """Return the figure of one benchmark in pytest-benchmark's JSON."""
    info = bench["extra_info"]
    ns = 1e9 / info["per"]
    rounds = tuple(seconds * ns for seconds in bench["stats"]["data"])
    return Figure(
        name=bench["group"],
        test=bench["fullname"],
        role=info["role"],
        yardstick=info.get("yardstick", bench["group"]),
        rounds=rounds,
        median=statistics.median(rounds),
        p99=sorted(rounds)[min(len(rounds) - 1, len(rounds) * 99 // 100)],
        min_speedup=info.get("min_speedup", 0),
        max_cost=info.get("max_cost", 0),
    )


def yardsticks(figures: Iterable[Figure]) -> dict[str, Figure]:
    """Return the yardsticks by name."""
    return {one.name: one for one in figures if one.role == "yardstick"}


def ratio_rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Return a row of COLUMNS for each of our benchmarks whose yardstick ran."""
    found = yardsticks(figures)
    return [
        _ratio_row(ours, found[ours.yardstick])
        for ours in sorted(figures, key=lambda one: one.name)
        if ours.role == "gatesvr" and ours.yardstick in found
    ]


def _ratio_row(ours: Figure, yardstick: Figure) -> tuple[str, ...]:
    cost = ours.median / yardstick.median
    if ours.is_end_to_end:
        ratio, is_met = f"{cost:.2f} x the cost", cost <= ours.max_cost
        target = f"≤ {ours.max_cost:g}" if ours.max_cost else ""
    else:
        ratio, is_met = f"{1 / cost:.1f} x as fast", 1 / cost >= ours.min_speedup
        target = f"≥ {ours.min_speedup:g}" if ours.min_speedup else ""
    verdict = "" if not target else "met" if is_met else "missed"
    times = (ours.median, ours.p99, yardstick.median, yardstick.p99)
    return (ours.name, *(f"{ns:,.0f}" for ns in times), ratio, target, verdict)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table's lines: first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    ]
