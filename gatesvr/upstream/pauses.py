"""Pauses between attempts."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import UpstreamConfig

__all__ = ["Pauses", "jitter"]


def jitter(pause: float) -> float:
    """Return a pause that differs from those of other gateways: half of it, up to all."""
    return pause * random.uniform(0.5, 1.0)  # noqa: S311  not for secrets


class Pauses:
    """None before the first attempt, then reconnect_min, then twice as long up to reconnect_max."""

    def __init__(self) -> None:
        self._next = 0.0

    def reset(self) -> None:
        """Begin from the start: the last attempt has led to a good time."""
        self._next = 0.0

    def take(self, config: UpstreamConfig) -> float:
        """Return the pause before the next attempt, seconds."""
        pause = self._next
        self._next = min(2 * pause or config.reconnect_min, config.reconnect_max)
        return jitter(pause)
