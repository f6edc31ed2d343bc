"""Prints a table of ratios at the end of a benchmark run: ours to the yardstick of its group.

A benchmark says what it is in ``benchmark.extra_info``: ``role`` ("yardstick", once a group, or
"gatesvr"), ``per`` (items that one call handles) and, where there is one, ``target`` (the ratio to
reach). Its group is what both do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

COLUMNS = ("group", "yardstick", "gatesvr", "ratio", "target", "yardstick p99", "gatesvr p99")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the ratios of everything that was measured."""
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    measured = [bench for bench in session.benchmarks if bench] if session is not None else []
    groups: dict[str, list[Any]] = {}
    for bench in measured:
        if "role" in bench.extra_info:
            groups.setdefault(bench.group, []).append(bench)
    rows = [row for group, benches in sorted(groups.items()) for row in _rows(group, benches)]
    if not rows:
        return
    terminalreporter.section("ratios to the yardstick (medians, ns an item)")
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for row in (COLUMNS, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        terminalreporter.write_line("  ".join(cells))


def _rows(group: str, benches: list[Any]) -> list[tuple[str, ...]]:
    yardsticks = [bench for bench in benches if bench.extra_info["role"] == "yardstick"]
    ours = [bench for bench in benches if bench.extra_info["role"] == "gatesvr"]
    rows = []
    for yardstick in yardsticks:
        for bench in ours:
            ratio = _ns(yardstick, yardstick.stats.median) / _ns(bench, bench.stats.median)
            target = bench.extra_info.get("target") or yardstick.extra_info.get("target")
            cells = [
                f"{_ns(yardstick, yardstick.stats.median):,.0f}",
                f"{_ns(bench, bench.stats.median):,.0f}",
                f"{ratio:.1f}",
                f"{target}" if target else "",
                f"{_p99(yardstick):,.0f}",
                f"{_p99(bench):,.0f}",
            ]
            rows.append((group, *cells))
    return rows


def _ns(bench: Any, seconds: float) -> float:
    return seconds * 1e9 / float(bench.extra_info.get("per", 1))


def _p99(bench: Any) -> float:
    data = bench.stats.sorted_data
    return _ns(bench, data[min(len(data) - 1, len(data) * 99 // 100)])
