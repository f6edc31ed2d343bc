"""The board: rows arrive whole, and say who takes new clients."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from gatesvr.workers import board as board_module
from gatesvr.workers.board import Board, BoardError, BoardLoads, Grant, Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board(tmp_path / "board", is_new=True)
    yield board
    board.close()


@pytest.fixture
def other(tmp_path: Path, board: Board) -> Iterator[Board]:
    """The same file, as another process has it."""
    other = Board(tmp_path / "board")
    yield other
    other.close()


def test_workers_come_and_go(board: Board, other: Board) -> None:
    assert other.numbers() == []
    board.add(0)
    board.add(255)
    assert other.numbers() == [0, 255]
    board.remove(0)
    assert other.numbers() == [255]


def test_row_arrives(board: Board, other: Board) -> None:
    board.add(7)
    assert board.row(7) is None
    row = Row(4711, True, 1, 2, 8, (9, 10), (1 << 40, 12))
    other.write(7, row)
    read = board.row(7)
    assert read is not None
    assert read[:5] == row[:5]
    assert read.held[:3] == (9, 10, 0)
    assert read.used[:3] == (1 << 40, 12, 0)
    assert 0 <= board_module.now_ms() - read.beat_ms < 60_000
    board.add(7)  # a number that is used again
    assert other.row(7) is None


def test_grant_arrives(board: Board, other: Board) -> None:
    assert other.granted(7) == Grant(0)
    board.add(7)
    board.grant(7, Grant(3, (1, 2, 1 << 40)))
    grant = other.granted(7)
    assert (grant.number, grant.shares[:4]) == (3, (1, 2, 1 << 40, 0))


def test_row_that_is_half_written_is_not_read(board: Board) -> None:
    board.add(1)
    board.write(1, Row(1))
    at = board_module._ROWS_AT + board_module._FORMAT.size
    board._map[at + 8] ^= 1
    assert board.row(1) is None
    board._map[at + 8] ^= 1
    assert board.row(1) is not None


def test_file_is_private_and_a_board(tmp_path: Path, board: Board) -> None:
    path = tmp_path / "board"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(BoardError, match="exists"):
        Board(path, is_new=True)
    (tmp_path / "short").write_bytes(b"short")
    with pytest.raises(BoardError, match="no board"):
        Board(tmp_path / "short")
    (tmp_path / "else").write_bytes(bytes(board_module._SIZE))
    with pytest.raises(BoardError, match="version"):
        Board(tmp_path / "else")
    with pytest.raises(BoardError, match="No such"):
        Board(tmp_path / "none")


def test_load_is_that_of_who_takes_clients(
    board: Board, other: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3, 4):
        board.add(number)
    loads = BoardLoads(other, 1, lambda: 42)
    board.write(2, Row(2, True, 10))
    board.write(3, Row(3, False, 10))
    assert loads.numbers() == {1, 2, 3, 4}
    assert [loads.load(number) for number in (1, 2, 3, 4, 5)] == [42, 10, None, None, None]
    later = board_module.now_ms() + 3_000
    monkeypatch.setattr(board_module, "now_ms", lambda: later)
    assert [loads.load(number) for number in (1, 2)] == [42, None]


def test_list_of_workers_is_looked_up_now_and_then(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(board_module.time, "monotonic", lambda: now[0])
    loads = BoardLoads(board, 1, lambda: None)
    assert loads.numbers() == set()
    board.add(1)
    assert loads.numbers() == set()
    now[0] += board_module.LOOK_S
    assert loads.numbers() == {1}


def test_a_board_has_its_bytes_before_anybody_writes_there(tmp_path: Path) -> None:
    # Else a process that writes while the disk is full is ended by SIGBUS.
    Board(tmp_path / "board", is_new=True).close()
    status = (tmp_path / "board").stat()
    assert status.st_blocks * 512 >= status.st_size
