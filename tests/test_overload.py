"""Shedding: the level follows the loop's lag and the memory; each level sheds one thing more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr._core.limits import TokenBucket
from gatesvr._pb import message_pb2 as pb
from gatesvr.config import OverloadConfig
from gatesvr.overload import (
    KEPT_HANDSHAKES,
    SETTLE_S,
    STEP_S,
    TICK_S,
    TRIM_S,
    Overload,
    release_memory,
    resident_bytes,
)

from .e2e.harness import counter, running_gateway
from .e2e.plain_client import answer, business, plain_client
from .e2e.plain_upstream import plain_upstream
from .fakes import until

if TYPE_CHECKING:
    from gatesvr import Gateway

MIB = 1 << 20
LIMIT = 100 * MIB
CALM = int(STEP_S / TICK_S)
"""Ticks in time that make a step."""


class Rig:
    """An Overload whose clocks and memory move when the test says so."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        self.cpu = 3.0
        self.memory = MIB
        self.trims: list[float] = []
        self.overload = Overload(
            OverloadConfig(**settings),
            LIMIT,
            clock=lambda: self.now,
            cpu_clock=lambda: self.cpu,
            memory=lambda: self.memory,
            trim=lambda: self.trims.append(self.now),
        )
        self.overload.tick()

    def tick(self, count: int = 1, late: float = 0.0, cpu: float | None = None) -> int:
        """Let ticks pass that come late by so much, all of it computing or as said."""
        for _ in range(count):
            self.now += TICK_S + late
            self.cpu += late if cpu is None else cpu
            self.overload.tick()
        return self.overload.level

    def shed(self) -> list[bool]:
        overload = self.overload
        handshakes = [overload.sheds_handshake() for _ in range(KEPT_HANDSHAKES + 1)]
        assert not any(handshakes[:-1])
        return [
            handshakes[-1],
            overload.sheds_session(),
            overload.sheds_broadcast(),
            overload.sheds_push(),
            overload.sheds_slowest,
        ]


def test_level_rises_and_falls_by_one_and_each_sheds_one_thing_more() -> None:
    rig = Rig(max_loop_lag=0.1)
    assert rig.tick(CALM) == 0
    for level in (1, 2, 3, 4, 5):
        assert rig.shed() == [step < level for step in range(1, 6)]
        assert rig.tick(2, late=0.2) == level - 1
        assert rig.tick(late=0.2) == level
    assert rig.shed() == [True] * 5
    assert rig.tick(9, late=0.2) == 5
    counters = rig.overload.counters
    assert (counters.level, counters.rises, counters.loop_lag_ms) == (5, 5, 200)
    assert (counters.handshakes_shed, counters.pushes_shed) == (5, 2)
    for level in (4, 3, 2, 1, 0):
        assert rig.tick(CALM - 1) == level + 1
        assert rig.tick() == level
    assert rig.shed() == [False] * 5


def test_level_stays_between_the_two_bounds() -> None:
    rig = Rig(max_loop_lag=0.1)
    rig.tick(3, late=0.2)
    assert rig.tick(40, late=0.08) == 1
    assert rig.tick(CALM, late=0.04) == 0
    assert rig.tick(40, late=0.08) == 0


def test_single_stalls_and_a_slow_machine_shed_nothing() -> None:
    rig = Rig(max_loop_lag=0.3)
    for _ in range(10):
        rig.tick(late=5.0)
        assert rig.tick() == 0
    assert rig.tick(40, late=5.0, cpu=0.2) == 0


def test_memory_above_the_limit_sheds() -> None:
    rig = Rig(max_memory=50 * MIB)
    rig.memory = 51 * MIB
    assert rig.tick(2 * CALM) == 2
    assert rig.overload.counters.memory_bytes == 51 * MIB
    rig.memory = 49 * MIB
    assert rig.tick(40) == 2
    rig.memory = 40 * MIB
    assert rig.tick(2 * CALM, late=9.0, cpu=0.1) == 0


def test_handshakes_of_those_who_may_come_back_go_on_at_a_rate() -> None:
    rig = Rig(max_loop_lag=0.1)
    rig.tick(8, late=0.2)
    rig.shed()
    assert all(rig.overload.sheds_handshake() for _ in range(100))
    rig.now += 0.5
    asked = [rig.overload.sheds_handshake() for _ in range(100)]
    assert asked.count(False) == KEPT_HANDSHAKES / 2


def test_memory_that_the_allocator_keeps_does_not_shed_for_ever() -> None:
    rig = Rig(max_memory=50 * MIB)
    rig.memory = 51 * MIB
    settle = int(SETTLE_S / TICK_S)
    assert rig.tick(settle) == 5
    assert len(rig.trims) == SETTLE_S / TRIM_S
    assert rig.tick(5 * CALM + 1) == 0
    assert rig.tick(10 * settle) == 0
    # It grows again, so it was in use.
    rig.memory = 53 * MIB
    assert rig.tick(CALM) == 1
    rig.memory = 40 * MIB
    assert rig.tick(CALM) == 0
    rig.memory = 51 * MIB
    assert rig.tick(CALM) == 1


def test_another_memory_limit_holds_at_once() -> None:
    rig = Rig(max_memory=80 * MIB)
    rig.memory = 60 * MIB
    assert rig.tick(2 * CALM) == 0
    rig.overload.apply(OverloadConfig(max_memory=50 * MIB))
    assert rig.tick(CALM) == 1
    assert rig.overload.is_short_of_memory
    rig.overload.apply(OverloadConfig(max_memory=62 * MIB))
    assert rig.tick(3 * CALM) <= 1
    rig.memory = 67 * MIB  # settles, and the same limit again changes nothing
    rig.tick(int(3 * SETTLE_S / TICK_S))
    assert not rig.overload.is_short_of_memory
    rig.overload.apply(OverloadConfig(max_memory=62 * MIB))
    assert rig.tick(2 * CALM) == 0


def test_memory_far_above_the_limit_does_not_settle() -> None:
    rig = Rig(max_memory=50 * MIB)
    rig.memory = 56 * MIB
    assert rig.tick(10 * int(SETTLE_S / TICK_S)) == 5
    rig = Rig(max_memory=98 * MIB)
    rig.memory = 100 * MIB  # all that there is
    assert rig.tick(10 * int(SETTLE_S / TICK_S)) == 5


def test_memory_can_be_asked_back() -> None:
    release_memory()


def test_memory_is_nine_tenths_of_the_limit_by_default() -> None:
    rig = Rig()
    rig.memory = 90 * MIB
    assert rig.tick(40) == 0
    rig.memory = 91 * MIB
    assert rig.tick(CALM) == 1


def test_lag_that_is_not_watched_sheds_nothing() -> None:
    assert Rig(max_loop_lag=0).tick(40, late=9.0) == 0


def test_dry_run_counts_and_sheds_nothing() -> None:
    rig = Rig(max_loop_lag=0.3, dry_run=True)
    assert rig.tick(40, late=0.4) == 5
    assert rig.shed() == [False] * 5
    counters = rig.overload.counters
    assert (
        counters.handshakes_shed,
        counters.sessions_shed,
        counters.broadcasts_shed,
        counters.pushes_shed,
    ) == (1, 1, 1, 1)


def test_resident_memory_is_told_in_bytes() -> None:
    assert resident_bytes() == 0 or resident_bytes() > 4 * MIB


def hold_level(gateway: Gateway, level: int) -> None:
    """Keep a gateway at a level, whatever it measures."""
    overload = gateway.engine.overload
    overload.tick = lambda: None  # type: ignore[method-assign]
    overload.level = level


@pytest.mark.parametrize("backend", ["aioquic", "qh3"])
async def test_each_level_sheds_its_thing_and_requests_go_on(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        started = await client.login("alice")

        hold_level(gateway, 1)
        gateway.engine.overload._kept = TokenBucket(0.001, 1)
        assert not gateway.engine.overload.sheds_handshake()
        assert gateway.session_manager.is_known("127.0.0.1")  # alice's
        gateway.session_manager.is_known = lambda ip: False  # type: ignore[method-assign]

        async def join() -> pb.StartResponse:
            async with plain_client(gateway.address) as newcomer:
                return await newcomer.start("bob")

        joining = asyncio.create_task(join())
        await until(lambda: counter(gateway, "overload.handshakes_shed"))
        assert counter(gateway, "transport.connections") == 1
        hold_level(gateway, 2)
        # As a client from the network of another.
        del gateway.session_manager.is_known
        refused = await joining  # its Initial came again
        assert (refused.success, refused.error.error_code) == (False, 503)
        assert refused.error.retry_after_ms > 0
        assert counter(gateway, "overload.sessions_shed") == 1
        assert (await gateway.broadcast(content="all")).sessions == 1
        assert (await client.receive()).seq_id == 2
        async with plain_client(gateway.address) as device:
            resumed = await device.resume(started, 2)
            assert (resumed.success, resumed.resumed) == (True, True)

            hold_level(gateway, 3)
            for bulk in (
                await gateway.broadcast(content="all"),
                await gateway.multicast(["alice"], content="some"),
            ):
                assert (bulk.success, bulk.error_code) == (False, "BUSY")
            assert counter(gateway, "overload.broadcasts_shed") == 2
            assert (await gateway.push("alice", content="one")).success
            assert (await device.receive()).seq_id == 3

            hold_level(gateway, 4)
            pushed = await gateway.push("alice", content="one")
            assert (pushed.error_code, pushed.retry_after_ms) == ("BUSY", 5_000)
            assert counter(gateway, "overload.pushes_shed") == 1
            device.send(business(2, "notify", b"x"))
            pushes = [await device.receive() for _ in range(3)]
            assert answer(pushes[1]).data == b"x"
