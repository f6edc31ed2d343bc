"""Counter structs: each layer owns one, the gateway registers them, ``stats()`` reads them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TypeAlias

__all__ = ["CodeCounts", "Counter", "Counters", "Gauge", "member_texts"]

Counter: TypeAlias = int
"""A field that only rises."""
Gauge: TypeAlias = int
"""A field that rises and falls: how many there are now."""


@dataclass(slots=True)
class Counters:
    """Base of a layer's counters: plain numbers, added to where things happen.

    Subclasses are dataclasses with ``slots=True`` whose fields are of type Counter or Gauge, with
    the default 0.
    """

    def snapshot(self) -> dict[str, int]:
        """Return every number by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def gauges(cls) -> frozenset[str]:
        """Return the names of the gauges; the other fields are counters."""
        return frozenset(field.name for field in fields(cls) if field.type == "Gauge")

    @classmethod
    def texts(cls) -> dict[str, str]:
        """Return the text under every field by its name, read from the source; "" where none is."""
        return {field.name: "" for field in fields(cls)} | member_texts(cls)


def member_texts(kind: type) -> dict[str, str]:
    """Return the text under each field or member of a class of ours, by name, from the source."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("gatesvr."):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for node, behind in zip(body.body, body.body[1:], strict=False):
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", 0)
            if (
                isinstance(target, ast.Name)
                and isinstance(behind, ast.Expr)
                and isinstance(behind.value, ast.Constant)
            ):
                found[target.id] = " ".join(str(behind.value.value).split())
    return found


class CodeCounts:
    """Counts by code. Codes come from outside, too, so all that are not known count as one.

    Args:
        known: The codes that count by themselves.
    """

    OTHER = "other"

    def __init__(self, known: Iterable[int]) -> None:
        self._counts: dict[int | str, int] = {int(code): 0 for code in known}
        self._counts[self.OTHER] = 0

    def add(self, code: int) -> None:
        """Count a code."""
        self._counts[code if code in self._counts else self.OTHER] += 1

    def snapshot(self) -> dict[str, int]:
        """Return the counts by the code's text; ``other`` has the rest."""
        return {str(code): count for code, count in self._counts.items()}
