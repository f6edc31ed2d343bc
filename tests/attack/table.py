"""The table of an attack run: for a terminal, as Markdown for the documentation, and as JSON."""

from __future__ import annotations

import os
import platform
import re
import shutil
import textwrap
from dataclasses import asdict
from itertools import groupby, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .runner import Row

__all__ = ["as_markdown", "as_object", "as_text", "is_good", "machine", "reason", "summary"]

MIN_WIDTH, MAX_WIDTH = 90, 130
VERDICT_WIDTH = 9
HEAD = ("attack", "limit", "measured", "verdict")
OFF_HEAD = ("attack", "defence switched off", "limit passed", "verdict")


def machine() -> str:
    """Return what the figures were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kernel = platform.release().partition("-")[0]
    system = f"{platform.system()} {kernel}, Python {platform.python_version()}"
    load = f", load average {os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else ""
    return f"{cores} cores of {model}, {system}{load}"


def as_text(rows: Sequence[Row], width: int | None = None) -> str:
    """Return the table for a terminal: a line for each limit beside what the attacker does."""
    width = width or shutil.get_terminal_size((110, 0)).columns
    width = max(MIN_WIDTH, min(width, MAX_WIDTH)) - VERDICT_WIDTH - 6
    widths = (int(width * 0.38), int(width * 0.36), width - int(width * 0.38) - int(width * 0.36))
    lines = []
    for backend, group in groupby(rows, lambda row: row.backend):
        found = list(group)
        head = OFF_HEAD if found[0].is_off else HEAD
        rule = "─" * (sum(widths) + VERDICT_WIDTH + 6)
        lines += ["", f"{backend} gateway", rule, _line(head, widths), rule]
        for row in found:
            lines += [*_row_lines(row, widths), ""]
        lines[-1] = rule
    return "\n".join(lines)


def _row_lines(row: Row, widths: tuple[int, int, int]) -> list[str]:
    first = [*textwrap.wrap(row.case.name, widths[0])]
    first += ["  " + line for line in textwrap.wrap(row.case.says, widths[0] - 2)]
    cells: list[tuple[str, str]] = []
    for left, right in _pairs(row):
        cells += zip_longest(
            textwrap.wrap(_kept_together(left), widths[1], subsequent_indent="  "),
            textwrap.wrap(_kept_together(right), widths[2], subsequent_indent="  "),
            fillvalue="",
        )
    found = zip_longest(first, cells)
    return [
        _line((text or "", *(cell or ("", "")), _verdict(row, number)), widths)
        for number, (text, cell) in enumerate(found)
    ]


def _verdict(row: Row, line: int) -> str:
    if line == 1 and row.tries > 1:
        return f"{row.tries} tries"
    return "" if line else row.verdict


def _kept_together(text: str) -> str:
    """Return text in which no line ends between a sign and its number, or a number and its unit."""
    return re.sub(r"(?<=[≤≥=←]) | (?=[≤≥=])|(?<=\d) (?=MiB|ms|µs)", "\N{NO-BREAK SPACE}", text)


def _pairs(row: Row) -> list[tuple[str, str]]:
    """Return what stands in a row's middle columns, line by line."""
    if row.is_off:
        return [(row.case.off.how, reason(row))]
    pairs = [
        (finding.limit, finding.measured if finding.is_kept else f"{finding.measured}  ← PASSED")
        for finding in row.findings
    ]
    return [*pairs, *([("", row.wrong)] if row.wrong else [])]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    columns = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*columns, cells[-1]]).replace("\N{NO-BREAK SPACE}", " ").rstrip()


def as_markdown(found: Mapping[str, Any]) -> str:
    """Return the table as Markdown: a row for each attack, a column for each backend.

    What every case asks for and every row kept is left out: no healthy client dropped, no request
    of theirs failed.

    Args:
        found: As as_object() returns it; ``again`` names the attacks that a later run measured.
    """
    rows = found["rows"]
    backends = sorted({row["backend"] for row in rows})
    again = found.get("again", ())
    later = f"; in later runs of their own: {', '.join(f'*{name}*' for name in again)}"
    lines = [f"Measured on {found['machine']}{later if again else ''}.", ""]
    lines += [f"| attack | limit | {' | '.join(backends)} |", "| --- " * (2 + len(backends)) + "|"]
    by_attack: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_attack.setdefault(row["attack"], {})[row["backend"]] = row
    for name, group in by_attack.items():
        told = {backend: _told(row) for backend, row in group.items()}
        limits = list(dict.fromkeys(limit for measured in told.values() for limit in measured))
        does = next(iter(group.values()))["does"]
        cells = [f"**{name}**: {does}", "<br>".join(limits)]
        for backend in backends:
            measured = told.get(backend, {})
            cells.append("<br>".join(measured.get(limit, "not run") for limit in limits))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _told(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what was measured, by limit."""
    passed = [limit for limit in row["limits"] if not limit["is_kept"]]
    if row["defence_off"]:
        why = [f"{limit['limit']}: {limit['measured']}" for limit in passed]
        return {row["defence_off"]: _reason(why, row["wrong"])}
    told = {
        limit["limit"]: limit["measured"] + ("" if limit["is_kept"] else "  ← PASSED")
        for limit in row["limits"]
        if not (limit["limit"].startswith("healthy") and limit["measured"] == "0")
    }
    return told | ({"": row["wrong"]} if row["wrong"] else {})


def as_object(rows: Sequence[Row], seconds: float) -> dict[str, Any]:
    """Return the table for JSON."""
    return {
        "version": 1,
        "machine": machine(),
        "seconds": round(seconds, 1),
        "rows": [
            {
                "backend": row.backend,
                "attack": row.case.name,
                "does": row.case.says,
                "limits": [asdict(finding) for finding in row.findings],
                "defence_off": row.case.off.how if row.is_off else "",
                "seen": row.seen,
                "wrong": row.wrong,
                "tries": row.tries,
                "seconds": round(row.seconds, 1),
                "verdict": row.verdict,
            }
            for row in rows
        ],
        "exit_code": int(not all(is_good(row) for row in rows)),
    }


def summary(rows: Sequence[Row], seconds: float) -> str:
    """Return the last lines: how many held, and each that did not."""
    good = sum(is_good(row) for row in rows)
    what = (
        "defences shown, by their case failing without them"
        if (rows and rows[0].is_off)
        else "attacks held"
    )
    lines = [f"{good} of {len(rows)} {what}, in {seconds:.0f} s on {machine()}"]
    lines += [
        f"{row.verdict}: {row.case.name} ({row.backend}): {reason(row)}"
        for row in rows
        if not is_good(row)
    ]
    return "\n".join(lines)


def is_good(row: Row) -> bool:
    """Return whether a row is as it should be."""
    return row.is_shown if row.is_off else row.is_held


def reason(row: Row) -> str:
    """Return why a row is not as it should be."""
    return _reason([f"{finding.limit}: {finding.measured}" for finding in row.passed], row.wrong)


def _reason(passed: Sequence[str], wrong: str) -> str:
    return "; ".join([*passed, *filter(None, [wrong])]) or "no limit was passed"
