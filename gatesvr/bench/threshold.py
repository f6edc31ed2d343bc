"""Thresholds: ``--threshold 'p99<20ms'``."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["METRICS", "Threshold"]

_LATENCY = "latency"
_COUNT = "count"
_SIZE = "size"
METRICS = {
    "p50": _LATENCY,
    "p90": _LATENCY,
    "p99": _LATENCY,
    "p99.9": _LATENCY,
    "max": _LATENCY,
    "mean": _LATENCY,
    "rps": _COUNT,
    "errors": _COUNT,
    "cpu_us": _COUNT,
    "rss": _SIZE,
}
"""The metrics, and the kind of number of each."""
_UNITS: dict[str, dict[str, float]] = {
    _LATENCY: {"us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6},
    _COUNT: {"": 1.0, "k": 1e3},
    _SIZE: {
        "": 1.0,
        "KiB": 1 << 10,
        "MiB": 1 << 20,
        "GiB": 1 << 30,
        "KB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
    },
}
_OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EXPRESSION = re.compile(r"\s*([a-z_0-9.]+)\s*(<=|>=|<|>)\s*(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*")


@dataclass(frozen=True, slots=True)
class Threshold:
    """One limit.

    Attributes:
        text: The threshold as written.
        metric: A name in METRICS.
        comparison: ``<``, ``<=``, ``>`` or ``>=``.
        limit: In µs or bytes, or a plain number.
    """

    text: str
    metric: str
    comparison: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Parse a threshold.

        Raises:
            ValueError: It is malformed.
        """
        match = _EXPRESSION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a threshold (write p99<20ms, rps>=5000 or errors<1)")
        metric, comparison, number, unit = match.groups()
        kind = METRICS.get(metric)
        if kind is None:
            raise ValueError(f"{text!r}: {metric} is not one of {', '.join(METRICS)}")
        units = _UNITS[kind]
        if unit not in units:
            known = ", ".join(name for name in units if name)
            wanted = f"one of {known}" if "" not in units else f"{known} or nothing"
            raise ValueError(f"{text!r}: the unit of {metric} is {wanted}")
        return cls(text.strip(), metric, comparison, float(number) * units[unit])

    def is_kept(self, values: Mapping[str, float | None]) -> bool:
        """Return whether these values meet it; a missing value does not."""
        value = values.get(self.metric)
        return value is not None and bool(_OPERATORS[self.comparison](value, self.limit))
