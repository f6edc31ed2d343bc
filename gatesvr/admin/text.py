"""Figures as text for people: three digits that matter and one unit."""

from __future__ import annotations

from typing import Any

__all__ = ["NONE", "Amount", "byte_text", "rate_text", "seconds_text", "span_text", "workers_text"]

_BYTES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


class Amount(str):
    """Text of a number, with its unit if it has one; tables set it to the right."""

    __slots__ = ()


NONE = Amount("–")  # noqa: RUF001


def _digits(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rate_text(value: float | None) -> Amount:
    """Return a rate a second: ``0.42``, ``12.3``, ``1,180``."""
    if value is None:
        return NONE
    return Amount(_digits(value) if value else "0")


def seconds_text(value: float | None) -> Amount:
    """Return a short time: ``840 µs``, ``1.40 ms``, ``2.10 s``."""
    if value is None:
        return NONE
    if value <= 0:
        return Amount("0 ms")
    if value < 0.0009995:
        return Amount(f"{_digits(value * 1e6)} µs")
    if value < 0.9995:
        return Amount(f"{_digits(value * 1e3)} ms")
    return Amount(f"{_digits(value)} s") if value < 99.95 else span_text(value)


def span_text(value: float | None) -> Amount:
    """Return a long time: ``4m 12s``, ``3h 05m``, ``2d 4h``."""
    if value is None:
        return NONE
    total = max(0, int(value))
    if total < 60:
        return Amount(f"{total}s")
    if total < 3600:
        return Amount(f"{total // 60}m {total % 60:02d}s")
    if total < 86_400:
        return Amount(f"{total // 3600}h {total % 3600 // 60:02d}m")
    return Amount(f"{total // 86_400}d {total % 86_400 // 3600}h")


def byte_text(value: float | None) -> Amount:
    """Return bytes: ``412 MB``."""
    if value is None:
        return NONE
    for unit, size in _BYTES:
        if value >= size:
            return Amount(f"{_digits(value / size)} {unit}")
    return Amount(f"{value:,.0f} B")


def workers_text(fleet: dict[str, Any]) -> str:
    """Return how many workers of a FleetView are ready: ``3 of 4 ready, 1 restart``."""
    ready = sum(worker["state"] == "ready" for worker in fleet["workers"])
    restarts = fleet["restarts"]
    text = f"{ready} of {fleet['slots']} ready"
    return f"{text}, {restarts:,} restart{'' if restarts == 1 else 's'}" if restarts else text
