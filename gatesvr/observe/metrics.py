"""Counter structs: each layer owns one, the gateway registers them, ``stats()`` reads them."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Base of a layer's counters: plain numbers, added to where things happen.

    Subclasses are dataclasses with ``slots=True`` whose fields are ints or floats with a default.
    A field that can go down (a gauge) says so in its comment.
    """

    def snapshot(self) -> dict[str, int | float]:
        """Return every counter by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
