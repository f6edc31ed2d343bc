"""The table of a run in docs/security.md, from the JSON that runs have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .table import as_markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DOCUMENT", "document", "merge", "read"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
BEGIN = "<!-- The table of `python -m tests.attack --document`; do not edit it. -->\n"
END = "<!-- The end of the table. -->\n"


def read(path: str) -> dict[str, Any]:
    """Return what ``--json`` has written."""
    found: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
    return found


def merge(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return runs as one: a later run's rows stand in for those of runs before.

    Args:
        runs: At least one, as as_object() returns them.
        names: Of the cases, in the order of the table; rows of others are left out.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    again: dict[str, None] = {}
    for run in runs:
        for row in run["rows"]:
            key = row["attack"], row["backend"]
            if run is not runs[0]:
                again[row["attack"]] = None
            rows[key] = row
    place = {name: number for number, name in enumerate(names)}
    kept = [row for row in rows.values() if row["attack"] in place]
    kept.sort(key=lambda row: (row["backend"], place[row["attack"]]))
    return {
        **runs[0],
        "rows": kept,
        "again": [name for name in names if name in again],
        "exit_code": int(any(row["verdict"] not in ("held", "shown") for row in kept)),
    }


def document(found: dict[str, Any], path: Path = DOCUMENT) -> None:
    """Write the table of a run into a document, between its marks.

    Raises:
        ValueError: The document has no marks.
    """
    text = path.read_text("utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise ValueError(f"{path} has no place for the table")
    path.write_text(f"{head}{begin}\n{as_markdown(found)}\n\n{end}{tail}", "utf-8")
