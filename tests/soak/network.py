"""The network's process: one bad network a client, and the weather over all of them."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from typing import TYPE_CHECKING

from tests.e2e.bad_line import BadLine
from tests.e2e.bad_network import BadNetwork, Weather

from .child import Commands

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

    from .plan import Plan

__all__ = ["serve_network"]

Line = BadNetwork | BadLine

LONG_S = (2.5, 4.0)
"""A blackout in which clients give their connections up: they hear nothing for two heartbeats."""
SHORT_S = (0.2, 1.0)
"""A blackout that connections outlive."""


async def serve_network(
    pipe: Pipe, plan: Plan, gateway: tuple[str, int], web: tuple[str, int] | None
) -> None:
    """Carry datagrams and TCP until the parent says stop.

    Says the clients' addresses, those of QUIC first; on ``begin`` the weather begins, at ``counts``
    says what was done so far; on ``calm`` all but the loss ends, ``clear`` ends that too; ``stop``
    asks what was done.
    """
    commands = Commands(pipe)
    weather = Weather(delay_s=plan.delay_s)
    lines: list[Line] = []
    for number in range(plan.clients):
        seed = plan.seed * 1_000 + number
        if number < plan.quic:
            lines.append(BadNetwork(gateway, seed, weather))
        else:
            assert web is not None
            line = BadLine(web, seed, weather)
            await line.start()
            lines.append(line)
    pipe.send([line.address for line in lines])

    def tally() -> Counter[str]:
        total: Counter[str] = Counter()
        for line in lines:
            total.update(dataclasses.asdict(line.tally))
        return total

    await commands.expect("begin")
    storms = []
    if not plan.is_calm:
        weather.loss = plan.loss
        weather.duplication, weather.reordering = plan.duplication, plan.reordering
        storms = [asyncio.ensure_future(blow(plan, lines)), asyncio.ensure_future(cut(plan, lines))]
    if plan.rebind_s:
        storms.append(asyncio.ensure_future(rebind_on_and_on(plan, lines)))
    await commands.expect_counting("calm", tally)
    for storm in storms:
        storm.cancel()
    await asyncio.gather(*storms, return_exceptions=True)
    for line in lines:
        line.end_blackout()
    pipe.send("calm")
    await commands.expect("clear")
    weather.loss = weather.duplication = weather.reordering = 0.0
    pipe.send("clear")
    await commands.expect("stop")
    pipe.send(dict(tally()))
    for line in lines:
        if isinstance(line, BadLine):
            await line.close()
        else:
            line.close()


async def blow(plan: Plan, lines: list[Line]) -> None:
    """Change source ports or go black, every few seconds."""
    chance = random.Random(f"{plan.seed}/storms")
    while True:
        await asyncio.sleep(chance.uniform(*plan.storm_s))
        some = chance.sample(lines, chance.randint(max(1, len(lines) // 5), len(lines) * 3 // 5))
        kind = chance.random()
        if kind < 0.25:
            rebind(lines)
        elif kind < 0.50:
            rebind(some)
        elif kind < 0.75:
            black_out(some, chance.uniform(*LONG_S))
        elif kind < 0.90:
            black_out(some, chance.uniform(*SHORT_S))
        else:
            black_out(lines, chance.uniform(*(LONG_S if kind < 0.95 else SHORT_S)))


async def cut(plan: Plan, lines: list[Line]) -> None:
    """Cut one client off after the other; a fifth never, for their ports to change often."""
    chance = random.Random(f"{plan.seed}/cuts")
    lines = lines[plan.quic // 5 :]
    while True:
        await asyncio.sleep(chance.expovariate(1 / plan.cut_s))
        chance.choice(lines).cut()


async def rebind_on_and_on(plan: Plan, lines: list[Line]) -> None:
    """Change all source ports, again and again."""
    while True:
        await asyncio.sleep(plan.rebind_s)
        rebind(lines)


def rebind(lines: list[Line]) -> None:
    for line in lines:
        line.change_source_ports()


def black_out(lines: list[Line], seconds: float) -> None:
    for line in lines:
        line.black_out(seconds)
