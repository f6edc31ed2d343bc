"""FolderLoads: which workers live, by their sockets in the gateway's folder."""

from __future__ import annotations

import os
import time

__all__ = ["FolderLoads"]

LOOK_S = 0.1
"""How long a look at the folder is good for."""


class FolderLoads:
    """Loads (transport/siblings.py) that knows who lives, and not how much each has to do.

    Args:
        folder: Where the workers have their sockets.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._numbers: frozenset[int] = frozenset()
        self._look_at = 0.0

    def numbers(self) -> frozenset[int]:
        """See Loads."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            names = (name.partition(".") for name in os.listdir(self._folder))
            self._numbers = frozenset(
                int(number) for number, _, kind in names if kind == "udp" and number.isdigit()
            )
        return self._numbers

    def load(self, number: int) -> int | None:
        """See Loads."""
        return None
