"""Choices made from bytes: any bytes make some, and the same bytes make the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Reader", "chunk"]

T = TypeVar("T")


def chunk(data: bytes) -> bytes:
    """Return what Reader.chunk() reads as data."""
    return len(data).to_bytes(2) + data


class Reader:
    """Reads choices; behind the end of the bytes every number is 0 and every piece empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._data)

    def take(self, size: int) -> bytes:
        """Return the next bytes, fewer where there are no more."""
        start, self._at = self._at, min(self._at + size, len(self._data))
        return self._data[start : self._at]

    def number(self, size: int = 1) -> int:
        """Return a number of so many bytes."""
        return int.from_bytes(self.take(size))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.number() % len(choices)]

    def chunk(self) -> bytes:
        """Return a piece that is preceded by its length."""
        return self.take(self.number(2))

    def text(self) -> str:
        """Return a chunk as text; bytes that are no UTF-8 become lone surrogates."""
        return self.chunk().decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        return self.take(len(self._data))
