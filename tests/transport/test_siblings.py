"""What processes of a gateway send each other, without a listener."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr.errors import ConfigError
from gatesvr.transport import handed as wire
from gatesvr.transport import siblings as module
from gatesvr.transport.counters import TransportCounters
from gatesvr.transport.handed import ASK, CLAIM, DATAGRAM, Handed, Messages
from gatesvr.transport.siblings import Siblings
from gatesvr.transport.udp.driver import Driver

from .family import Board

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PEERS: list[Any] = [
    ("192.0.2.1", 40001),
    ("192.0.2.1", 40001, bytes([127, 0, 0, 1])),
    ("2001:db8::1", 40001, 0, 0),
    ("fe80::1", 65535, 7, 3, os.urandom(16)),
    ("::ffff:192.0.2.1", 1, 0, 0, os.urandom(16)),
    None,
]


class Process:
    """One of the siblings, and what it was given."""

    def __init__(self, number: int, directory: Path, board: Board) -> None:
        self.counters = TransportCounters()
        self.siblings = Siblings(number, bytes(16), directory, board, {}, secret=b"")
        self.driver = Driver()
        self.taken: list[Handed] = []
        self.back: list[Handed] = []

    def open(self) -> None:
        self.siblings.open(
            self.driver,
            self.counters,
            lambda batch, now: self.taken.extend(batch),
            lambda batch, now: self.back.extend(batch),
        )

    def give(self, number: int, data: bytes, address: Any = PEERS[0], kind: int = DATAGRAM) -> bool:
        handed = Handed(kind, 1, self.siblings.number, 0, data, address)
        return self.siblings.give(number, handed, self.driver.clock())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "d"
    path.mkdir(mode=0o700)
    return path


class Two:
    def __init__(self, directory: Path) -> None:
        self.board = Board(1, 2)
        self.one = Process(1, directory, self.board)
        self.two = Process(2, directory, self.board)

    def open(self) -> None:
        self.one.open()
        self.two.open()

    async def until(self, found: Any) -> None:
        async with asyncio.timeout(20):
            while not found():
                await asyncio.sleep(0)


@pytest.fixture
async def two(directory: Path) -> Any:
    found = Two(directory)
    found.open()
    yield found
    for process in (found.one, found.two):
        process.siblings.close()
        process.driver.close()


async def test_datagrams_arrive_as_they_were_in_their_order(two: Two) -> None:
    given = [(os.urandom(size), peer) for size in (1, 1200, 65_535) for peer in PEERS] * 2
    for data, peer in given:
        assert two.one.give(2, data, peer)
        await two.until(lambda: not two.one.siblings._siblings[2].pending)
    await two.until(lambda: len(two.two.taken) == len(given))
    assert [(handed.data, handed.address) for handed in two.two.taken] == given
    assert {handed[:4] for handed in two.two.taken} == {(DATAGRAM, 1, 1, 0)}
    # The address is one object, as a socket's is.
    first, *_, last = (h for h in two.two.taken if h.address == PEERS[0])
    assert first.address is last.address
    assert two.one.counters.hand_overs_dropped == two.two.counters.hand_overs_dropped == 0


async def test_one_turn_makes_one_message(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = []
    unpack = Messages.unpack
    monkeypatch.setattr(
        Messages, "unpack", lambda self, m: (messages.append(len(m)), unpack(self, m))[1]
    )
    for _ in range(60):
        two.one.give(2, bytes(1200))
    await two.until(lambda: len(two.two.taken) == 60)
    assert len(messages) == 2  # of 60,000 bytes at most
    assert max(messages) <= wire.MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0",
        b"\x02" + bytes(30),
        b"\x01\0",
        b"\x01" + bytes(7),  # no datagram
        b"\x01" + wire._HEAD.pack(0, 1, 2, 0, 0, 9) + b"short",
        b"\x01" + wire._HEAD.pack(0, 1, 2, 0, 5, 1) + b"host?" + b"x",
        b"\x01" + wire._HEAD.pack(0, 1, 2, 0, 20, 1) + bytes(20) + b"x",
    ],
    ids=range(8),
)
async def test_a_message_of_another_form_is_dropped(
    two: Two, directory: Path, message: bytes
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(message, os.fspath(directory / "2.udp"))
        two.one.give(2, b"good")
        await two.until(lambda: two.two.taken)
    assert [handed.data for handed in two.two.taken] == [b"good"]
    assert two.two.counters.hand_overs_dropped == 1


async def test_a_sibling_that_is_not_there_gets_nothing(two: Two) -> None:
    assert not two.one.give(3, b"x")
    assert two.one.siblings._siblings[3].dead_until > two.one.driver.clock()
    assert not two.one.give(3, b"x")  # not looked for again
    assert two.one.counters.hand_overs_dropped == 0


async def test_what_a_sibling_did_not_get_before_it_died_comes_back(two: Two) -> None:
    assert two.one.give(2, b"first")
    await two.until(lambda: two.two.taken)
    assert two.one.give(2, b"second")
    two.two.siblings.close()
    await two.until(lambda: two.one.back)
    assert [handed.data for handed in two.one.back] == [b"second"]
    assert not two.one.give(2, b"third")


async def test_a_sibling_is_not_dead_for_want_of_memory(
    two: Two, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none() -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(module, "_unix_socket", none)
        assert two.one.give(2, b"lost")
        assert two.one.give(2, b"lost, too")
    assert two.one.counters.hand_overs_dropped == 2
    two.one.siblings._reach(2, 0.0)
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 1 << 20)
    for _ in range(4):
        two.one.give(2, bytes(60_000))  # together they are more than the system sends at once
    sibling = two.one.siblings._siblings[2]
    assert sibling.sock is not None
    sibling.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    await two.until(lambda: two.one.counters.hand_overs_dropped == 6)
    assert two.one.give(2, b"next")
    await two.until(lambda: two.two.taken)
    assert [handed.data for handed in two.two.taken] == [b"next"]
    assert len([r for r in caplog.records if r.msg == "hand_over_failed"]) == 2  # by their kind


async def test_a_new_process_takes_the_place_of_a_dead_one(two: Two, directory: Path) -> None:
    # Its socket's file is still there, as after a kill.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(os.fspath(directory / "3.udp"))
    third = Process(3, directory, two.board)
    assert not two.one.give(3, b"x")
    third.open()
    two.one.siblings._siblings[3].dead_until = 0.0
    assert two.one.give(3, b"y")
    await two.until(lambda: third.taken)
    third.siblings.close()
    third.siblings.close()
    third.driver.close()
    assert not (directory / "3.udp").exists()


async def test_questions_are_asked_of_all_but_not_too_often(two: Two) -> None:
    two.board.loads[3] = None  # dead, or without clients
    one, now = two.one.siblings, two.one.driver.clock()
    question = Handed(ASK, 1, 1, 0, b"\x40" + b"12345678" + bytes(20), PEERS[0])
    asked = 0
    for _ in range(2 * module.MAX_UNCLAIMED_PER_S):  # one network's
        if one.ask(question, now):
            asked += 1
            one.unclaimed(PEERS[0], now)
    assert abs(asked - module.MAX_UNCLAIMED_PER_S) <= 1
    for number in range(module.MAX_ASKS_PER_S):
        other = question._replace(address=(f"198.51.{number % 256}.{number // 256}", 1))
        asked += one.ask(other, now)
    assert abs(asked - module.MAX_ASKS_PER_S) <= 1
    assert two.one.counters.ids_asked == asked
    await two.until(lambda: two.two.taken)
    two.two.siblings.claim(two.two.taken[0], now)
    await two.until(lambda: two.one.taken)
    assert two.one.taken == [Handed(CLAIM, 1, 2, 0, b"12345678", None)]
    two.board.loads = {1: 0}
    assert not one.ask(question, now + 10)  # nobody


async def test_choices(two: Two) -> None:
    one, board = two.one.siblings, two.board
    assert one.less_loaded() is None
    board.loads.update({1: 100, 2: 50})
    assert one.less_loaded() == 2
    board.loads[2] = None
    assert one.less_loaded() is None
    assert one.next_accepting(0) is None
    assert [one.may_accept(hops) for hops in range(3)] == [True, True, False]
    board.loads.update({0: 0, 2: 0, 5: 0})
    assert [one.next_accepting(hops) for hops in range(5)] == [2, 2, 2, 2, None]
    assert two.two.siblings.next_accepting(0) == 5
    board.loads = {0: 9, 1: 9}
    assert two.two.siblings.next_accepting(0) == 0
    assert two.two.siblings.less_loaded() is None  # its own load is not known
    board.loads = {1: 100}
    assert not one.may_accept(0)
    board.loads = {1: 100, 2: 0}
    assert one.owner(one.make_id()) == 1
    assert one.owner(one.make_retry_id()) == 2
    board.loads[2] = 100
    assert one.owner(one.make_retry_id()) == 1


@pytest.fixture
def readable(directory: Path) -> Iterator[Path]:
    directory.chmod(0o750)
    yield directory
    directory.chmod(0o700)


async def test_a_directory_that_others_can_enter(readable: Path) -> None:
    with pytest.raises(ConfigError, match="others can enter it"):
        Process(1, readable, Board()).open()


async def test_a_directory_that_is_not_there_or_too_deep(directory: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Process(1, directory / "none", Board()).open()
    deep = directory / ("x" * 100)
    deep.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="too long for sockets"):
        Process(1, deep, Board()).open()
