"""Attack the gateway: ``python -m tests.attack --backend qh3 --case "half-open*"``.

Each case is a real gateway in a process of its own, healthy clients beside it, and an attacker, all
on loopback. Prints attack, limit, measured and verdict; exit code 1 where a limit is passed. With
--self-test each case runs with its defence switched off, and has to pass a limit then.

``--json attack.json --document`` refreshes the table of docs/security.md. If a row was spoiled by
the machine, run its case again and put the two together::

    python -m tests.attack --case "log flood" --json again.json
    python -m tests.attack --from attack.json --from again.json --document
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .case import BACKENDS
from .document import DOCUMENT, document, merge, read
from .runner import Row, Runner
from .table import as_markdown, as_object, as_text, is_good, reason, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .case import Case

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    cases = options.cases
    if options.list:
        for case in cases:
            print(f"{case.name}: {case.says}. Off: {case.off.how}.")
        return 0
    if options.runs:
        found = merge([read(path) for path in options.runs], [case.name for case in cases])
        if options.markdown:
            print(as_markdown(found))
        return _document(found, cases, options) if options.document else int(found["exit_code"])
    began = time.monotonic()
    rows, missing = asyncio.run(_run(cases, options))
    seconds = time.monotonic() - began
    found = as_object(rows, seconds)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(as_markdown(found) if options.markdown else as_text(rows))
    print(summary(rows, seconds), file=sys.stderr if options.markdown else sys.stdout)
    if options.document and not missing:
        return _document(found, cases, options)
    return int(found["exit_code"] or missing > 0)


def _document(found: dict[str, Any], cases: Sequence[Case], options: argparse.Namespace) -> int:
    """Write the table into docs/security.md, if it is whole and every limit was kept."""
    have = {(row["attack"], row["backend"]) for row in found["rows"]}
    wanted = {(case.name, backend) for case in cases for backend in case.backends}
    bad = [
        f"{row['attack']} ({row['backend']}): {row['verdict']}"
        for row in found["rows"]
        if row["verdict"] != "held"
    ]
    bad += [f"{name} ({backend}): not run" for name, backend in sorted(wanted - have)]
    if bad:
        print(f"{DOCUMENT} is left alone: {'; '.join(bad)}", file=sys.stderr)
        return 1
    document(found)
    return 0


async def _run(cases: Sequence[Case], options: argparse.Namespace) -> tuple[list[Row], int]:
    """Run every case on every backend, and say so as they end; return also how many were not."""
    wanted = [
        (case, backend)
        for backend in (BACKENDS if options.backend == "both" else (options.backend,))
        for case in cases
        if backend in case.backends and not (options.self_test and backend not in case.off.backends)
    ]
    rows: list[Row] = []
    async with Runner(has_latency=not options.no_latency) as runner:
        for number, (case, backend) in enumerate(wanted, 1):
            try:
                row = await runner.run(case, backend, is_off=options.self_test)
            except asyncio.CancelledError:
                print(f"interrupted: {len(wanted) - len(rows)} were not run", file=sys.stderr)
                break
            rows.append(row)
            again = f", {row.tries} times" if row.tries > 1 else ""
            why = "" if is_good(row) else f": {reason(row)}"
            print(
                f"{number:>3}/{len(wanted)} {backend:<8}{case.name:<44}"
                f"{row.verdict}  {row.seconds:.1f} s{again}{why}",
                file=sys.stderr,
                flush=True,
            )
    return rows, len(wanted) - len(rows)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    from .cases import ALL

    parser = argparse.ArgumentParser(
        prog="python -m tests.attack", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--backend", default="both", choices=("both", *BACKENDS))
    parser.add_argument(
        "--case", action="append", metavar="PATTERN", help="of a case's name; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument("--json", metavar="FILE", help="write the table to a file, too")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument(
        "--document",
        action="store_true",
        help="write the table into docs/security.md, if it is whole and all limits were kept",
    )
    parser.add_argument(
        "--from",
        dest="runs",
        action="append",
        metavar="FILE",
        help="attack nothing: take the rows that --json wrote; repeatable, later rows count",
    )
    parser.add_argument(
        "--no-latency",
        action="store_true",
        help="leave out the limits that depend on the machine's speed, and the idle measurement",
    )
    parser.add_argument(
        "--self-test", action="store_true", help="switch each defence off: its case has to fail"
    )
    options = parser.parse_args(arguments)
    if options.document and (options.case or options.self_test or options.no_latency):
        parser.error("--document takes the whole table")
    patterns = options.case or ["*"]
    options.cases = []
    for pattern in patterns:
        found = [case for case in ALL if fnmatchcase(case.name.lower(), pattern.lower())]
        if not found:
            parser.error(f"--case: no case is named {pattern!r}; --list names them all")
        options.cases += [case for case in found if case not in options.cases]
    if options.json and not Path(options.json).resolve().parent.is_dir():
        parser.error(f"--json: there is no folder for {options.json!r}")
    if options.no_latency and options.self_test:
        options.cases = [case for case in options.cases if not case.off.is_slow]
    return options


if __name__ == "__main__":
    sys.exit(main())
