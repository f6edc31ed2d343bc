"""Counter structs: each layer owns one, the gateway registers them, ``stats()`` reads them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeAlias

__all__ = ["Counter", "Counters", "Gauge"]

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
