"""What the kit found, for a terminal and for machines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .kit import Verdict

__all__ = ["as_object", "lines_of", "summary"]

MARKS = {"kept": "✓", "broken": "✗", "left out": "-"}
SHOWN = 12
"""Lines of the transcript that a broken case shows."""


def lines_of(verdict: Verdict, width: int) -> list[str]:
    """Return a case's line, and below it what was expected and what the client did.

    Args:
        verdict: Of the case.
        width: Of the longest name.
    """
    case = verdict.case
    lines = [f"{MARKS[verdict.outcome]} {case.name:<{width}}  {case.rule:<5} {case.title}"]
    if verdict.outcome == "left out":
        lines[0] += f" ({verdict.did})"
    elif verdict.outcome == "broken":
        lines += [
            f"    rule      docs/protocol.md, section {verdict.rule}",
            f"    expected  {verdict.expected}",
            f"    client    {verdict.did}",
            *(f"              {line}" for line in verdict.transcript[-SHOWN:]),
        ]
    return lines


def summary(verdicts: Sequence[Verdict], client: str, transport: str, seconds: float) -> str:
    """Return the last line."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    parts = [f"{counts[name]} {name}" for name in MARKS if counts[name] or name != "left out"]
    return f"{', '.join(parts)}: {client} over {transport}, {seconds:.1f} s"


def as_object(
    verdicts: Sequence[Verdict], client: str, transport: str, seconds: float
) -> dict[str, Any]:
    """Return everything, for JSON."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {
        "client": client,
        "transport": transport,
        "seconds": round(seconds, 3),
        "kept": counts["kept"],
        "broken": counts["broken"],
        "left_out": counts["left out"],
        "cases": [
            {
                "name": verdict.case.name,
                "title": verdict.case.title,
                "rule": verdict.rule,
                "outcome": verdict.outcome,
                "expected": verdict.expected,
                "did": verdict.did,
                "seconds": round(verdict.seconds, 3),
                "transcript": verdict.transcript,
            }
            for verdict in verdicts
        ],
    }
