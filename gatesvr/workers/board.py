"""Board: what the workers of a gateway tell each other all the time, in a file that all map.

A worker writes its own row a few times a second, and everybody reads it, without a call. The
supervisor writes who is there, and each one's shares of the limits (shares.py). So each part has
one writer. A row that is read while it is written has a wrong checksum, and is read again.

Processes of several versions share a board during an upgrade: fields are only ever added, behind
the last one, and are 0 where the writer does not know them.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from ..errors import GatesvrError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["BEAT_S", "LIMITS", "MAX_NUMBERS", "Board", "BoardError", "BoardLoads", "Grant", "Row"]

MAX_NUMBERS = 256
LIMITS = 8
"""Limits that a row has room for."""
BEAT_S = 0.25
"""How often a worker writes its row, seconds."""
STALE_S = 2.0
"""A worker whose row is older takes no new clients."""
LOOK_S = 0.1
"""How long BoardLoads takes the list of workers to be the same."""

_MAGIC = b"gatesvr board 1\n"
_FIELDS = 31
_FORMAT = struct.Struct(f"<{_FIELDS}QQ")
_ROWS_AT = len(_MAGIC) + MAX_NUMBERS
_GRANTS_AT = _ROWS_AT + MAX_NUMBERS * _FORMAT.size
_SIZE = _GRANTS_AT + MAX_NUMBERS * _FORMAT.size
_READS = 8
"""A row is written in less than a microsecond: no two reads in a row meet that by chance."""


class BoardError(GatesvrError):
    """The file is no board."""


class Row(NamedTuple):
    """What a worker says of itself.

    Attributes:
        pid: Its process.
        is_accepting: Whether it takes new clients.
        connections: Of clients.
        requests: Under way.
        grant: The number of the grant that it holds to.
        held: The most that it has or may take of each limit, in the order of shares.MOVING.
        used: What it has of each of them.
        beat_ms: When it wrote this, by the machine's monotonic clock.
    """

    pid: int
    is_accepting: bool = False
    connections: int = 0
    requests: int = 0
    grant: int = 0
    held: tuple[int, ...] = ()
    used: tuple[int, ...] = ()
    beat_ms: int = 0

    @property
    def is_stale(self) -> bool:
        """Whether its worker is stopped, or starved."""
        return now_ms() - self.beat_ms > STALE_S * 1000


class Grant(NamedTuple):
    """A worker's shares.

    Attributes:
        number: Above that of the one before; 0 where there is none yet.
        shares: Of each limit, in the order of shares.MOVING.
    """

    number: int
    shares: tuple[int, ...] = ()


def now_ms() -> int:
    """Return the clock that all processes of this machine share."""
    return int(time.monotonic() * 1000)


class Board:
    """A board. The supervisor makes it, in a folder of its own; workers open it.

    Args:
        path: The file.
        is_new: Whether to make it.

    Raises:
        BoardError: It cannot be had.
    """

    def __init__(self, path: Path | str, *, is_new: bool = False) -> None:
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if is_new else 0)
        try:
            file = os.open(path, flags, 0o600)
        except OSError as error:
            raise BoardError(f"{path}: {error.strerror}") from None
        try:
            if is_new:
                _fill(file)
            elif os.fstat(file).st_size < _SIZE:
                raise BoardError(f"{path} is no board")
            self._map = mmap.mmap(file, _SIZE)
        except OSError as error:
            raise BoardError(f"{path}: {error.strerror}") from None
        finally:
            os.close(file)
        if is_new:
            self._map[: len(_MAGIC)] = _MAGIC
        elif self._map[: len(_MAGIC)] != _MAGIC:
            self._map.close()
            raise BoardError(f"{path} is no board of this version")

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    # The supervisor writes.

    def add(self, number: int) -> None:
        """Enter a worker, before it starts."""
        for begin in (_ROWS_AT, _GRANTS_AT):
            self._write(begin, number, ())
        self._map[len(_MAGIC) + number] = 1

    def remove(self, number: int) -> None:
        """Take a worker off that has ended."""
        self._map[len(_MAGIC) + number] = 0

    def grant(self, number: int, grant: Grant) -> None:
        """Tell a worker its shares."""
        self._write(_GRANTS_AT, number, (grant.number, *grant.shares))

    # A worker writes.

    def write(self, number: int, row: Row) -> None:
        """Tell what a worker says of itself; the time is put in."""
        fields = (
            row.pid,
            row.is_accepting,
            row.connections,
            row.requests,
            row.grant,
            now_ms(),
            *_padded(row.held),
            *_padded(row.used),
        )
        self._write(_ROWS_AT, number, fields)

    # All read.

    def numbers(self) -> list[int]:
        """Return the workers that there are, those that start or leave included."""
        there = self._map[len(_MAGIC) : _ROWS_AT]
        return [number for number, is_there in enumerate(there) if is_there]

    def row(self, number: int) -> Row | None:
        """Return what a worker last said; None where it has said nothing yet."""
        fields = self._read(_ROWS_AT, number)
        if not fields or not fields[0]:
            return None
        pid, is_accepting, connections, requests, grant, beat_ms = fields[:6]
        return Row(
            pid,
            bool(is_accepting),
            connections,
            requests,
            grant,
            held=fields[6 : 6 + LIMITS],
            used=fields[6 + LIMITS : 6 + 2 * LIMITS],
            beat_ms=beat_ms,
        )

    def granted(self, number: int) -> Grant:
        """Return a worker's shares."""
        fields = self._read(_GRANTS_AT, number)
        return Grant(fields[0], fields[1 : 1 + LIMITS]) if fields else Grant(0)

    def _write(self, begin: int, number: int, fields: tuple[int, ...]) -> None:
        at = begin + number * _FORMAT.size
        every = (*fields, *(0,) * (_FIELDS - len(fields)))
        data = _FORMAT.pack(*every, 0)[:-8]
        self._map[at : at + _FORMAT.size] = data + crc32(data).to_bytes(8, "little")

    def _read(self, begin: int, number: int) -> tuple[int, ...]:
        """Return the fields of a row; none where it cannot be read or was never written."""
        at = begin + number * _FORMAT.size
        for _ in range(_READS):
            data = self._map[at : at + _FORMAT.size]
            *fields, checksum = _FORMAT.unpack(data)
            if crc32(data[:-8]) == checksum:
                return tuple(fields)
        return ()


def _fill(file: int) -> None:
    """Write every byte: a hole that a full disk has no room for would be SIGBUS to its writer."""
    left = memoryview(bytes(_SIZE))
    while left:
        left = left[os.write(file, left) :]


def _padded(values: tuple[int, ...]) -> tuple[int, ...]:
    return (*values, *(0,) * (LIMITS - len(values)))


class BoardLoads:
    """How much each worker has to do, for the choice of who takes a new client.

    Args:
        board: The board.
        number: This worker's.
        own: Returns this worker's connections, None while it takes no new clients: the board has
            them as they were a moment ago.
    """

    def __init__(self, board: Board, number: int, own: Callable[[], int | None]) -> None:
        self._board = board
        self._number = number
        self._own = own
        self._numbers: frozenset[int] = frozenset()
        self._look_at = 0.0

    def numbers(self) -> frozenset[int]:
        """Return the numbers of the workers that live, this one's among them."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._numbers = frozenset(self._board.numbers())
        return self._numbers

    def load(self, number: int) -> int | None:
        """Return the connections of a worker; None where it takes no new clients."""
        if number == self._number:
            return self._own()
        row = self._board.row(number)
        if row is None or not row.is_accepting or row.is_stale:
            return None
        return row.connections
