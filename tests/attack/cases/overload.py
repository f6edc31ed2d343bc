"""A gateway that has too much to do: who is shed, and who is not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from ..case import Off, case, memory, moved, saw

if TYPE_CHECKING:
    from ..attacker import Attacker

NEWCOMERS = 50
STEP_S = 1.5
"""So that the healthy clients and the one that resumes have connected before new sessions are shed.
"""
LEVEL_2_S = 2.8
"""From the attack's begin until they are."""


@case(
    "newcomers while memory is short",
    f"{NEWCOMERS} clients of other networks connect while new sessions are shed; one resumes",
    moved("overload.handshakes_shed", least=NEWCOMERS // 2),
    moved("overload.sessions_shed", least=1),
    saw("let in", most=0),
    saw("resumed", least=1),
    memory(24),
    off=Off("it only counts", sets=("overload.dry_run=true",)),
    sets=("overload.max_memory=1MiB",),
    patches={"gatesvr.overload:STEP_S": STEP_S},
)
async def newcomers(attacker: Attacker) -> None:
    victim = await attacker.connect()
    started = await victim.login("victim")
    victim.abandon()
    await asyncio.sleep(LEVEL_2_S)

    async def come(number: int) -> None:
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1.2):
                client = await attacker.connect(host=f"127.0.1.{number}")
                response = await client.start(f"user{number}")
                attacker.seen["let in"] += response.success

    owner = await attacker.connect()
    attacker.seen["resumed"] += (await owner.resume(started, 1)).resumed
    await asyncio.gather(*(come(number) for number in range(1, NEWCOMERS + 1)))
