"""Who sends the next request of an open load."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from gatesvr.bench.client import Fleet
from gatesvr.bench.meter import Recorder
from gatesvr.bench.requests import MAX_OPEN, Asking, AskingClient
from gatesvr.bench.scenario import Plan
from gatesvr.transport.addresses import Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RATE = 10.0
AHEAD_S = 1_000.0
"""The schedule begins so far ahead that no alarm rings by itself."""


class Counting(AskingClient):
    """Counts its requests instead of sending them."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        super().__init__(fleet, number)
        self.is_up = True
        self.asked = 0
        self.answers = 0

    @property
    def in_flight(self) -> int:
        return self.asked - self.answers

    def ask(self, meant_at: float, now: float) -> None:
        self.asked += 1

    def flush(self) -> None: ...


class Load:
    """Three clients under an open load, at times that the test gives."""

    def __init__(self) -> None:
        plan = Plan(
            scenario="echo", clients=3, rate=RATE, insecure=True, server=Place("127.0.0.1", 1)
        )
        self.fleet = Fleet(plan, Counting, plan.share(0), Recorder())
        self.fleet.is_running = True
        self.clients = [each for each in self.fleet.clients if isinstance(each, Counting)]
        self.asking = Asking(self.fleet, 0)
        self.began = time.monotonic() + AHEAD_S

    def pass_until(self, arrivals: int) -> float:
        """Let the alarm ring when this many arrivals have been due; return that time."""
        now = self.began + (arrivals - 0.5) / RATE
        self.asking._send_due(now)
        return now

    def asked(self) -> list[int]:
        return [client.asked for client in self.clients]


@pytest.fixture
async def load() -> AsyncIterator[Load]:
    load = Load()
    await load.asking.begin(load.began)
    yield load
    await load.asking.end()
    load.fleet.driver.close()


async def test_clients_take_turns_however_soon_one_is_answered(load: Load) -> None:
    now = load.pass_until(4)
    assert load.asked() == [2, 1, 1]
    # Two more are due when the first client is answered, before the alarm rings: not its turn.
    load.clients[0].answers += 1
    load.asking.go_on(load.clients[0], now + 2 / RATE)
    assert load.asked() == [2, 1, 1]
    load.pass_until(6)
    assert load.asked() == [2, 2, 2]


async def test_where_all_are_at_their_limit_the_next_one_answered_goes_on(load: Load) -> None:
    now = load.pass_until(3 * MAX_OPEN + 2)
    assert load.asked() == [MAX_OPEN] * 3
    load.clients[1].answers += 1
    load.asking.go_on(load.clients[1], now)
    assert load.asked() == [MAX_OPEN, MAX_OPEN + 1, MAX_OPEN]
    assert load.asking.figures(now)["unsent"] == 1
