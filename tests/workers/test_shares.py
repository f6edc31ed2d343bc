"""Shares of the limits: every setting has a decision, and no limit is ever passed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gatesvr.config import Config, OverloadConfig, PushConfig, SessionConfig, TransportConfig
from gatesvr.config.kinds import Section, kinds_of
from gatesvr.workers.board import Board, Row
from gatesvr.workers.shares import (
    MOVING,
    SETTINGS,
    Balancer,
    Limits,
    Member,
    divided,
    limits_of,
    part,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs" / "workers.md"


def whole_numbers(section: Section, prefix: str = "") -> dict[str, int]:
    """Return the settings that are whole numbers, and their values."""
    found = {}
    for name in kinds_of(type(section)):
        value = getattr(section, name)
        if isinstance(value, Section):
            found |= whole_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            found[prefix + name] = value
    return found


def test_every_number_of_the_configuration_has_a_decision() -> None:
    found = {name for name in whole_numbers(Config()) if not name.startswith("workers.")}
    assert found == set(SETTINGS)
    assert len(MOVING) == len(Limits._fields) == len(limits_of(Config()))


def test_docs_have_the_decisions() -> None:
    rows = (line.split("|")[1:-1] for line in DOCS.read_text("utf-8").splitlines() if "`" in line)
    told = {row[0].strip().strip("`"): row[1].strip() for row in rows if len(row) >= 2}
    assert {name: how for name, how in told.items() if name in SETTINGS} == SETTINGS


@given(value=st.integers(0, 10_000), of=st.integers(1, 64))
def test_parts_come_to_the_whole(value: int, of: int) -> None:
    parts = [part(value, index, of) for index in range(of)]
    assert sum(parts) == (value if value >= of or not value else of)
    assert max(parts) - min(parts) <= 1
    assert (min(parts) == 0) == (value == 0)


@pytest.mark.parametrize("of", [1, 3, 64])
def test_configuration_is_divided(of: int) -> None:
    config = msgspec.structs.replace(
        Config(), dispatch=msgspec.structs.replace(Config().dispatch, workers=10)
    )
    before = whole_numbers(config)
    each = [whole_numbers(divided(config, index, of)) for index in range(of)]
    for name, how in SETTINGS.items():
        values = [values[name] for values in each]
        if how == "part":
            assert sum(values) == max(before[name], of if before[name] else 0), name
        else:
            assert set(values) == {before[name]}, name
    if of == 1:
        assert divided(config, 0, 1) == config


def test_defaults_of_memory_are_divided_by_their_size() -> None:
    limits = limits_of(Config())
    assert limits.queues_bytes > 1 << 20
    assert limits.memory_bytes > limits.queues_bytes


class Worker:
    """Takes what it may of each limit."""

    def __init__(self, board: Board, number: int) -> None:
        self.used = [0] * len(MOVING)
        self.is_accepting = True
        self.may = Limits(0, 0, 0, 0, 0)
        self.member = Member(board, number, self.look, self.hold)
        self.member.tick()

    def look(self) -> Row:
        return Row(1, self.is_accepting, used=tuple(self.used))

    def hold(self, limits: Limits) -> None:
        self.may = limits

    def takes_more_of(self, what: int) -> bool:
        return self.is_accepting or MOVING[what] != "transport.max_connections"


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board(tmp_path / "board", is_new=True)
    yield board
    board.close()


def test_what_a_worker_has_beyond_a_lowered_share_is_not_given_away(board: Board) -> None:
    balancer = Balancer(board, Config(transport=TransportConfig(max_connections=60)))
    balancer.add(0)
    balancer.add(1)
    balancer.tick()
    here, there = Worker(board, 0), Worker(board, 1)
    assert (here.may.connections, there.may.connections) == (30, 30)
    here.used[0] = there.used[0] = 30
    there.member.tick()  # the board does not know yet what the other one has taken
    balancer.tick()
    here.member.tick()
    assert here.may.connections == 15
    for _ in range(3):
        balancer.tick()
        there.member.tick()
        here.member.tick()
    assert there.may.connections == 30
    here.used[0] = 10
    for _ in range(3):
        here.member.tick()
        balancer.tick()
        there.member.tick()
    assert (here.may.connections, there.may.connections) == (20, 40)


def test_worker_that_leaves_gives_what_it_does_not_need(board: Board) -> None:
    balancer = Balancer(board, Config(transport=TransportConfig(max_connections=60)))
    balancer.add(0)
    balancer.tick()
    old = Worker(board, 0)
    old.used[0], old.is_accepting = 20, False
    old.member.tick()
    balancer.add(1)
    for _ in range(3):
        balancer.tick()
        old.member.tick()
    new = Worker(board, 1)
    assert (old.may.connections, new.may.connections) == (20, 40)
    balancer.remove(0)
    new.used[0] = 40
    new.member.tick()
    balancer.tick()
    new.member.tick()
    assert new.may.connections == 60


def test_worker_that_leaves_has_room_for_the_sessions_that_it_still_has(board: Board) -> None:
    config = Config(overload=OverloadConfig(max_memory=1 << 30))
    balancer = Balancer(board, config)
    balancer.add(0)
    balancer.tick()
    old = Worker(board, 0)
    old.used = [20, 100, 85 << 20, 1, 1]
    old.member.tick()
    balancer.add(1)
    old.is_accepting = False
    for _ in range(4):
        old.member.tick()
        balancer.tick()
    free = [whole - used for whole, used in zip(limits_of(config), old.used, strict=True)]
    room = [may - used for may, used in zip(old.may, old.used, strict=True)]
    assert room[0] == 0  # it takes no more clients
    assert [have >= left // 4 for have, left in zip(room[1:], free[1:], strict=True)] == [True] * 4


def test_other_limits_are_shared_out_after_a_reload(board: Board) -> None:
    balancer = Balancer(board, Config(transport=TransportConfig(max_connections=60)))
    balancer.add(0)
    balancer.tick()
    worker = Worker(board, 0)
    balancer.apply(Config(transport=TransportConfig(max_connections=10)))
    balancer.tick()
    worker.member.tick()
    assert worker.may.connections == 10
    worker.may = Limits(60, 0, 0, 0, 0)
    worker.member.hold()
    assert worker.may.connections == 10


EXACT = [index for index, name in enumerate(MOVING) if name != "overload.max_memory"]


class SharesMachine(RuleBasedStateMachine):
    """A supervisor and workers that come, take, give back, stop accepting and die."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="gs-")
        self.board = Board(Path(self.folder.name) / "board", is_new=True)
        self.workers: dict[int, Worker] = {}
        self.starting: set[int] = set()
        self.next = 0

    @initialize(limit=st.integers(1, 60), count=st.integers(1, 4))
    def begin(self, limit: int, count: int) -> None:
        self.config = Config(
            transport=TransportConfig(max_connections=limit),
            push=PushConfig(max_streams=3, max_event_subscribers=16),
            session=SessionConfig(max_queues_bytes=512, max_queue_bytes=512, max_message_bytes=256),
            overload=OverloadConfig(max_memory=1 << 20),
        )
        self.whole = limits_of(self.config)
        self.balancer = Balancer(self.board, self.config)
        for _ in range(count):
            self.spawn()
        self.balancer.tick()

    def spawn(self) -> None:
        self.balancer.add(self.next)
        self.starting.add(self.next)
        self.next += 1

    @precondition(lambda self: self.next < 200)
    @rule(ticks=st.booleans())
    def spawn_another(self, ticks: bool) -> None:
        self.spawn()
        if ticks:
            self.balancer.tick()

    @rule()
    def tick(self) -> None:
        self.balancer.tick()

    @precondition(lambda self: self.starting)
    @rule()
    def starts(self) -> None:
        number = self.starting.pop()
        self.workers[number] = Worker(self.board, number)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), what=st.sampled_from(EXACT), most=st.integers(1, 40))
    def takes(self, data: st.DataObject, what: int, most: int) -> None:
        worker = self.workers[data.draw(st.sampled_from(sorted(self.workers)))]
        for _ in range(most):
            if worker.takes_more_of(what) and worker.used[what] < worker.may[what]:
                worker.used[what] += 1

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), what=st.sampled_from(EXACT), most=st.integers(1, 40))
    def gives_back(self, data: st.DataObject, what: int, most: int) -> None:
        worker = self.workers[data.draw(st.sampled_from(sorted(self.workers)))]
        worker.used[what] = max(worker.used[what] - most, 0)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def beats(self, data: st.DataObject) -> None:
        self.workers[data.draw(st.sampled_from(sorted(self.workers)))].member.tick()

    @precondition(lambda self: not self.starting)  # what these were given stays theirs so long
    @rule()
    def settles(self) -> None:
        """All beat and all tick, until nothing changes: then nobody wants for room."""
        for _ in range(8):
            for worker in self.workers.values():
                worker.member.tick()
            self.balancer.tick()
        for index in EXACT:
            takers = [w for w in self.workers.values() if w.takes_more_of(index)]
            used = sum(w.used[index] for w in self.workers.values())
            fair = (self.whole[index] - used) // (len(takers) or 1)
            for worker in takers:
                worker.member.tick()
                assert worker.may[index] - worker.used[index] >= fair // 2

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def stops_accepting(self, data: st.DataObject) -> None:
        self.workers[data.draw(st.sampled_from(sorted(self.workers)))].is_accepting = False

    @precondition(lambda self: len(self.workers) > 1)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.workers)))
        del self.workers[number]
        self.balancer.remove(number)

    @invariant()
    def no_limit_is_passed(self) -> None:
        for index in EXACT:
            most = sum(max(w.may[index], w.used[index]) for w in self.workers.values())
            assert most <= self.whole[index]

    def teardown(self) -> None:
        self.board.close()
        self.folder.cleanup()


SharesMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestShares: Any = SharesMachine.TestCase
