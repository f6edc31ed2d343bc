"""The order of an upgrade, on workers that are numbers: no processes, no network."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gatesvr.config import Config
from gatesvr.drain import DrainStatus
from gatesvr.workers.calls import WorkerStatus
from gatesvr.workers.upgrade import Upgrade, UpgradeError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

SLOTS = 2


class PlayCrew:
    """Workers whose time passes when they are waited for.

    Attributes:
        log: What was done to them, in order.
        plan: What becomes of a worker at a time: ``ready``, ``serve`` (started, not ready), or why
            it has failed.
        stays: Seconds until an old worker has ended after it was asked to leave.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[str] = []
        self.alive = [0, 1]
        self.plan: dict[int, list[tuple[float, str]]] = {2: [(1, "ready")], 3: [(2, "ready")]}
        self.stays = 3.0
        self.ends: dict[int, float] = {}

    def clock(self) -> float:
        return self.now

    def _state(self, number: int) -> str:
        passed = self.now - 100
        states = [state for at, state in self.plan.get(number, []) if at <= passed]
        return states[-1] if states else ""

    def serving(self) -> list[int]:
        return list(self.alive)

    def start(self, config: Config) -> list[int]:
        self.log.append("start")
        self.alive += [2, 3]
        return [2, 3]

    def failure(self, number: int) -> str | None:
        state = self._state(number)
        if state in ("", "serve", "ready"):
            return None
        if number in self.alive:
            self.alive.remove(number)
        return state

    def is_started(self, number: int) -> bool:
        return self._state(number) in ("serve", "ready")

    async def status(self, number: int) -> WorkerStatus | None:
        if number < SLOTS:
            return WorkerStatus(
                drain=DrainStatus(connections_left=5, sessions_left=7, requests_left=1)
            )
        reasons = [] if self._state(number) == "ready" else ["no usable endpoint of hello"]
        return WorkerStatus(not_ready=reasons)

    def leave(self, number: int, to: Sequence[int], rate: float, within: float) -> None:
        self.log.append(f"{number} leaves to {list(to)} at {rate:g}/s within {within:g} s")
        self.ends[number] = self.now + self.stays

    def kill(self, number: int) -> None:
        self.log.append(f"kill {number}")
        self.ends[number] = self.now

    def living(self, numbers: Collection[int]) -> list[int]:
        self.alive = [n for n in self.alive if self.ends.get(n, 1e9) > self.now]
        return [number for number in numbers if number in self.alive]

    async def wait(self, numbers: Collection[int], within: float) -> None:
        await asyncio.sleep(0)
        self.now += within

    def upgrade(self) -> Upgrade:
        return Upgrade(self, self.clock, start_timeout=10, timeout=30, rate=200)


async def test_old_ones_leave_when_all_new_ones_are_ready() -> None:
    crew = PlayCrew()
    upgrade = crew.upgrade()
    assert upgrade.status().phase == "none"
    starting = asyncio.create_task(upgrade.start(Config()))
    await asyncio.sleep(0)
    status = upgrade.status()
    assert (status.phase, status.workers, status.workers_ready) == ("starting", 2, 0)
    await starting
    assert crew.now >= 102
    assert crew.log == ["start"]
    finishing = asyncio.create_task(upgrade.finish())
    for _ in range(6):
        await asyncio.sleep(0)
    status = upgrade.status()
    assert (status.phase, status.workers_ready, status.workers_left) == ("leaving", 2, 2)
    assert (status.connections_left, status.sessions_left, status.requests_left) == (10, 14, 2)
    await finishing
    assert crew.log[1:] == [
        "0 leaves to [2, 3] at 100/s within 30 s",
        "1 leaves to [2, 3] at 100/s within 30 s",
    ]
    status = upgrade.status()
    assert (status.phase, status.workers_left, status.connections_left) == ("done", 0, 0)
    assert 5 <= status.elapsed_s <= 6
    assert crew.alive == [2, 3]


async def test_old_ones_that_do_not_end_are_killed() -> None:
    crew = PlayCrew()
    crew.stays = 1_000
    upgrade = crew.upgrade()
    await upgrade.start(Config())
    await upgrade.finish()
    assert crew.log[-2:] == ["kill 0", "kill 1"]
    assert upgrade.status().phase == "done"
    assert upgrade.status().elapsed_s >= 40


@pytest.mark.parametrize(
    ("plan", "why", "done"),
    [
        # One fails while the other starts.
        (
            {3: [(1, "cannot serve: transport.cert: it is none")]},
            "the new worker 3 cannot serve: transport.cert: it is none",
            ["kill 2"],
        ),
        # One fails while the other has clients already.
        (
            {2: [(1, "ready")], 3: [(2, "has ended")]},
            "the new worker 3 has ended",
            ["2 leaves to [0, 1] at 100/s within 30 s"],
        ),
        # One was ready, and has died while the other one started.
        (
            {2: [(1, "ready"), (2, "has ended")], 3: [(3, "ready")]},
            "the new worker 2 has ended",
            ["kill 3"],
        ),
        (
            {2: [(1, "ready")]},
            "the new worker 3 was not ready within 10 s: it has not started",
            ["2 leaves to [0, 1] at 100/s within 30 s", "kill 3"],
        ),
        (
            {2: [(1, "serve")], 3: [(1, "ready")]},
            "the new worker 2 was not ready within 10 s: no usable endpoint of hello",
            [
                "2 leaves to [0, 1] at 100/s within 30 s",
                "3 leaves to [0, 1] at 100/s within 30 s",
            ],
        ),
    ],
)
async def test_what_does_not_become_ready_changes_nothing(
    plan: dict[int, list[tuple[float, str]]], why: str, done: list[str]
) -> None:
    crew = PlayCrew()
    crew.plan = plan
    upgrade = crew.upgrade()
    with pytest.raises(UpgradeError) as caught:
        await upgrade.start(Config())
    assert str(caught.value) == why
    assert crew.log == ["start", *done]
    status = upgrade.status()
    assert (status.phase, status.why) == ("given_up", why)
    assert {0, 1} <= set(crew.alive)
    assert not {0, 1} & crew.ends.keys()


async def test_one_that_is_interrupted_is_given_up() -> None:
    crew = PlayCrew()
    crew.plan = {}
    upgrade = crew.upgrade()
    starting = asyncio.create_task(upgrade.start(Config()))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert crew.log == ["start", "kill 2", "kill 3"]
    assert upgrade.status().phase == "given_up"
