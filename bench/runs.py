"""Runs the working tree's benchmarks on packages in other folders, in separate processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import figure
from bench.options import MEASURE
from bench.turns import Side, two_sides
from bench.verdicts import Run, run_of
from bench.wheels import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT = 600.0
MAX_TIME = "--benchmark-max-time=0.1"  # many short pairs tell more than few long ones


class CannotCompareError(Exception):
    """There is nothing to compare, or head's benchmarks fail."""


def run_in_turn(base: Path, head: Path, tests: Sequence[str], number: int) -> tuple[Run, Run]:
    """Run tests on one package after the other; on base first if number is even.

    Args:
        base: The folder that holds base's package.
        head: The folder that holds head's package.
        tests: Files or node ids.
        number: The pair's number; seeds string hashing, so that both get the same dicts.

    Raises:
        CannotCompareError: A benchmark fails on head.
    """
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = [("base", base), ("head", head)]
        for name, site in sides if number % 2 == 0 else reversed(sides):
            measuring = Measuring(name, site, tests, number, Path(folder))
            runs[name] = measuring.finish()
    return runs["base"], runs["head"]


def run_together(base: Path, head: Path, tests: Sequence[str], number: int) -> tuple[Run, Run]:
    """Run tests on both packages at once, alternating round by round; else as run_in_turn."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        started = []
        with contextlib.ExitStack() as ends:
            sides = two_sides()
            for side in sides:
                ends.callback(side.close)  # so that only the process itself holds its pipe ends
            for name, site, side in zip(("base", "head"), (base, head), sides, strict=True):
                measuring = Measuring(name, site, tests, number, Path(folder), side)
                stack.callback(measuring.kill)
                started.append(measuring)
        base_run, head_run = [measuring.finish() for measuring in started]
        return base_run, head_run


class Measuring:
    """A process that runs benchmarks with the package from a folder.

    Args:
        name: "head", whose benchmarks must pass, or "base", which may lack something they need.
        site: The folder that holds the package.
        tests: Files or node ids.
        seed: Seed of string hashing.
        folder: A folder for its files.
        side: Its side, if it takes turns.
    """

    def __init__(
        self,
        name: str,
        site: Path,
        tests: Sequence[str],
        seed: int,
        folder: Path,
        side: Side | None = None,
    ) -> None:
        self._name = name
        self._site = site
        self._figures = folder / f"{name}.json"
        self._output = folder / f"{name}.txt"
        # The working tree comes after site in the path, and nothing may come before site.
        environment = {
            "PYTHONPATH": os.pathsep.join((str(site), str(ROOT))),
            "PYTHONHASHSEED": str(seed),
        }
        command = [sys.executable, "-P", "-m", "pytest", *tests, *MEASURE, MAX_TIME]
        command += ["--import-mode=append", "-p", "no:cacheprovider", "--tb=short"]
        command += ["--continue-on-collection-errors", f"--benchmark-json={self._figures}"]
        # A base that runs none of the benchmarks must still say why.
        command += ["-W", "default::pytest_benchmark.logger.PytestBenchmarkWarning"]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environment | (side.environment if side else {}),
                pass_fds=side.ends if side else (),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """Kill the process; does nothing if it has ended."""
        self._process.kill()
        self._process.wait()

    def finish(self) -> Run:
        """Wait for the end and return the measurements.

        Raises:
            CannotCompareError: A required benchmark failed, the process took too long, or it
                measured a package from another folder.
        """
        try:
            code = self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise CannotCompareError(f"{self._name} takes longer than {TIMEOUT:.0f} s") from None
        finally:
            self.kill()
        output = self._output.read_text()
        if code and self._name == "head":
            raise CannotCompareError(f"{output}\nthe working tree's benchmarks do not pass")
        for line in output.splitlines():
            if line.startswith(("FAILED", "ERROR", "E  ")):
                print(f"base: {line}", file=sys.stderr)
        if not self._figures.exists() or not self._figures.stat().st_size:
            return {}  # none was measured
        measured = json.loads(self._figures.read_bytes())
        package = Path(measured["machine_info"]["gatesvr"])
        if self._site not in package.parents:
            raise CannotCompareError(f"measured {package} instead of the one in {self._site}")
        return run_of([figure(bench) for bench in measured["benchmarks"]])
