"""Prints the table of ratios after a benchmark run, and adds the package's place to its JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gatesvr
from bench.figures import COLUMNS, figure, ratio_rows, table

if TYPE_CHECKING:
    import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the ratio of every benchmark that ran."""
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    measured = [bench for bench in session.benchmarks if bench] if session is not None else []
    rows = ratio_rows([figure(bench.as_dict()) for bench in measured])
    if not rows:
        return
    terminalreporter.section("CPU time an item, ours and the yardstick's")
    for line in table([COLUMNS, *rows]):
        terminalreporter.write_line(line)


def pytest_benchmark_generate_machine_info() -> dict[str, Any]:
    """Return the folder of the measured package, and skip pytest-benchmark's slow machine info."""
    return {"gatesvr": gatesvr.__file__}
