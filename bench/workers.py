"""``python -m bench.workers``: what several processes cost, and what they are good for.

Gateways stand side by side before one upstream: one process alone, one worker under a supervisor,
and two workers. Rounds of load go to each in turn. CPU time counts all processes of a gateway, a
ratio is the median of each round's. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from bench.lanes import COMMAND, KEYS, Case, Figures, add_options, measure

SIDES = {
    "alone": (COMMAND, ()),
    "1 worker": (COMMAND, ("workers.count=1",)),
    "2 workers": (COMMAND, ("workers.count=2",)),
}
CASES = (
    Case("stream", 64),
    Case("stream", 8, 32),
    Case("stream", 1_000, rate=2_000.0),
)


def ratios(rounds: dict[str, list[Figures]], side: str, other: str, key: str) -> dict[str, float]:
    """Return the median, lowest and highest ratio of a side's rounds to the other's."""
    found = [mine[key] / its[key] for mine, its in zip(rounds[side], rounds[other], strict=True)]
    return {
        "median": round(statistics.median(found), 3),
        "lowest": round(min(found), 3),
        "highest": round(max(found), 3),
    }


def row_of(rounds: dict[str, list[Figures]]) -> dict[str, Any]:
    """Return a case's row: each side's medians, and the ratios."""
    return {
        **{
            side: {key: round(statistics.median(one[key] for one in found), 3) for key in KEYS}
            for side, found in rounds.items()
        },
        "cpu, 1 worker to alone": ratios(rounds, "1 worker", "alone", "cpu_us"),
        "cpu, 2 workers to 1": ratios(rounds, "2 workers", "1 worker", "cpu_us"),
        "throughput, 2 workers to 1": ratios(rounds, "2 workers", "1 worker", "per_s"),
    }


def print_row(name: str, row: dict[str, Any]) -> None:
    """Print a case."""
    print(name)
    for side in SIDES:
        figures = row[side]
        print(
            f"  {side:<28} {figures['cpu_us']:6.1f} us  p50 {figures['p50_ms']:6.2f}"
            f"  p99 {figures['p99_ms']:6.2f} ms  {figures['per_s']:8,.0f}/s"
            f"  gateway {figures['busy']:.2f} cores"
        )
    for ratio, found in row.items():
        if ratio not in SIDES:
            print(
                f"  {ratio:<28} {found['median']:.3f} ({found['lowest']:.3f} …"
                f" {found['highest']:.3f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    add_options(parser)
    options = parser.parse_args()
    words = options.only or [""]
    rows: dict[str, dict[str, Any]] = {}
    for case in CASES:
        if any(word in case.name for word in words):
            row = rows[case.name] = row_of(measure(case, SIDES, options))
            print_row(case.name, row)
            if options.json is not None:
                options.json.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
