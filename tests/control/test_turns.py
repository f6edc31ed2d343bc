"""Turns: one slice of work in each turn of the loop."""

from __future__ import annotations

import asyncio

from gatesvr.control.turns import Turns


async def test_one_slice_a_turn_first_come_first_served() -> None:
    turns, turn = Turns(), 0
    asked: list[str] = []
    done: list[tuple[str, int]] = []

    async def work(name: str) -> None:
        for _ in range(3):
            asked.append(name)
            await turns.take()
            done.append((name, turn))

    tasks = [asyncio.create_task(work(name)) for name in "abc"]
    while not all(task.done() for task in tasks):
        turn += 1
        await asyncio.sleep(0)
    assert [name for name, _ in done] == asked
    assert len({turn for _, turn in done}) == 9


async def test_free_turn_is_taken_at_once() -> None:
    turns = Turns()
    for _ in range(3):
        taking = asyncio.create_task(turns.take())
        await asyncio.sleep(0)
        assert taking.done()
        await asyncio.sleep(0)


async def test_turn_of_one_that_was_cancelled_is_the_next_ones() -> None:
    turns = Turns()
    _, gone, waits = (asyncio.create_task(turns.take()) for _ in range(3))
    await asyncio.sleep(0)
    gone.cancel()
    async with asyncio.timeout(20):
        await waits
        await turns.take()
    assert gone.cancelled()
