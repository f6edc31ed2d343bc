"""Compares the speed of two revisions of the package, and fails if the newer one is slower.

``python -m bench.compare BASE`` builds a wheel of BASE and one of the working tree, and runs the
working tree's benchmarks on both. Core benchmarks alternate (base, head, head, base, and so on),
each with its yardsticks. End to end, both revisions run together and alternate round by round. The
limits are 10 % for the core and 25 % end to end. An apparent slowdown is measured again first.

Exits with 0 if nothing got slower, 1 if something did, 2 if the measurement failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from typing import TYPE_CHECKING

from bench.figures import table
from bench.runs import CannotCompareError, run_in_turn, run_together
from bench.verdicts import Change, Run, changes
from bench.wheels import build

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUITES = {
    "core": ("bench/test_queue.py", "bench/test_codec.py", "bench/test_http2.py"),
    "end-to-end": ("bench/test_end_to_end.py",),
}
COLUMNS = ("benchmark", "base", "head", "change", "limit", "pairs", "")
MORE = 2  # how often an apparent slowdown is measured again


class Comparison:
    """The pairs of runs so far.

    Args:
        base: The folder that holds base's package.
        head: The folder that holds head's package.
    """

    def __init__(self, base: Path, head: Path) -> None:
        self.pairs: list[tuple[Run, Run]] = []
        self._base = base
        self._head = head

    def measure(self, rounds: int, suite: str, tests: Sequence[str]) -> None:
        """Add pairs of runs.

        Args:
            rounds: Number of pairs.
            suite: A name in SUITES.
            tests: Node ids of the suite, or its files.
        """
        run = run_in_turn if suite == "core" else run_together
        for number in range(1, rounds + 1):
            self.pairs.append(run(self._base, self._head, tests, len(self.pairs)))
            print(f"{suite}: pair {number} of {rounds}", file=sys.stderr)

    def measure_again(self, rounds: int, changed: Sequence[Change]) -> None:
        """Add the pairs needed to measure some changes again."""
        print(f"again: {', '.join(one.name for one in changed)}", file=sys.stderr)
        for suite, files in SUITES.items():
            tests = {test for one in changed for test in one.tests if test.startswith(files)}
            if tests:
                self.measure(rounds, suite, sorted(tests))

    def changes(self) -> list[Change]:
        """Return the changes over all pairs.

        Raises:
            CannotCompareError: Base ran none of the benchmarks.
        """
        found = changes(self.pairs)
        if all(one.change is None for one in found):
            raise CannotCompareError("base ran none of the benchmarks")
        return found


def compare(comparison: Comparison, rounds: int, suites: Sequence[str]) -> list[Change]:
    """Measure, repeat apparent slowdowns, and return every benchmark's change."""
    for suite in suites:
        comparison.measure(rounds, suite, SUITES[suite])
    for _ in range(MORE):
        slower = [one for one in comparison.changes() if one.verdict == "SLOWER"]
        if not slower:
            break
        comparison.measure_again(rounds, slower)
    return comparison.changes()


def row(change: Change) -> tuple[str, ...]:
    """Return a table row for COLUMNS."""
    base, head = (
        "" if cost is None else f"{cost:,.0f} ns" if change.unit == "ns" else f"{cost:.2%}"
        for cost in (change.base, change.head)
    )
    moved = "" if change.change is None else f"{change.change:+.1%}"
    return (
        change.name,
        base,
        head,
        moved,
        f"{change.limit:+.0%}",
        f"{change.pairs}",
        change.verdict,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line's comparison; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description="Fail if the working tree is slower than BASE.",
    )
    parser.add_argument("base", metavar="BASE", help="the revision to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs (5)")
    parser.add_argument("--suite", choices=SUITES, help="run only this suite")
    parser.add_argument("--json", action="store_true", help="print JSON with all runs")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        comparison = Comparison(build(options.base), build(None))
        found = compare(comparison, options.rounds, [options.suite] if options.suite else [*SUITES])
    except (CannotCompareError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 2
    slower = [one.name for one in found if one.verdict == "SLOWER"]
    if options.json:
        report = {
            "changes": [dataclasses.asdict(one) | {"verdict": one.verdict} for one in found],
            "pairs": [
                {
                    side: {name: costs.costs for name, costs in run.items()}
                    for side, run in zip(("base", "head"), pair, strict=True)
                }
                for pair in comparison.pairs
            ],
        }
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(table([COLUMNS, *map(row, found)])))
        print("core: percent of the yardstick's cost; end to end: the server's CPU time an item")
        print(f"slower than {options.base}: {', '.join(slower) or 'nothing'}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
