"""Lets two benchmark processes alternate round by round, so that both see the same conditions.

Each process reads a byte before a round and writes one after it. When the other process is gone,
it stops waiting.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLE = "GATESVR_BENCH_TURNS"


class Turns:
    """One process's side; never waits if there is no other side."""

    def __init__(self) -> None:
        self._read, self._write = -1, -1
        if VARIABLE in os.environ:
            self._read, self._write = map(int, os.environ[VARIABLE].split(","))

    def __enter__(self) -> None:
        """Wait for the turn."""
        if self._read >= 0 and not os.read(self._read, 1):
            self._read = -1

    def __exit__(self, *_: object) -> None:
        """Let the other process run."""
        if self._write >= 0:
            try:
                os.write(self._write, b".")
            except BrokenPipeError:
                self._write = -1


@dataclass(frozen=True)
class Side:
    """The pipe ends that one of the two processes inherits."""

    read: int
    write: int

    @property
    def environment(self) -> dict[str, str]:
        return {VARIABLE: f"{self.read},{self.write}"}

    @property
    def ends(self) -> tuple[int, int]:
        return self.read, self.write

    def close(self) -> None:
        os.close(self.read)
        os.close(self.write)


def two_sides() -> tuple[Side, Side]:
    """Return both sides; the first one has the turn."""
    to_second, from_first = os.pipe()
    to_first, from_second = os.pipe()
    os.write(from_second, b".")
    return Side(to_first, from_first), Side(to_second, from_second)
