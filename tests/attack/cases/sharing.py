"""Services that hang and sessions that are greedy: what is theirs is bounded, others get theirs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gatesvr.dispatch.bulkhead import Bulkhead
from gatesvr.dispatch.processor import _Bulkheads

from ...e2e.plain_client import business
from ..case import Off, case, gauge, memory, moved

if TYPE_CHECKING:
    from ...e2e.plain_client import PlainClient
    from ..attacker import Attacker


class _OneForAll(_Bulkheads):
    """Bulkheads by service that are all the same one."""

    def __missing__(self, service: str) -> Bulkhead:
        made = next(iter(self.values()), None) or super().__missing__(service)
        self[service] = made
        return made


@case(
    "a service that hangs",
    "60 sessions send 4 requests each to a service that never answers and has 64 places",
    gauge("dispatch.running", least=60, most=80),
    moved("dispatch.tasks", least=240),
    memory(24),
    off=Off(
        "one pool of workers for all services",
        patches={"gatesvr.dispatch.processor:_Bulkheads": _OneForAll},
    ),
    sets=("dispatch.workers=64", "dispatch.max_workers=64"),
)
async def hanging(attacker: Attacker) -> None:
    async def ask(client: PlainClient, number: int) -> None:
        await client.login(f"user{number}")
        client.send(*(business(seq, "zone_hang") for seq in range(2, 6)))
        await client.ping()

    await attacker.each(60, ask)
    await asyncio.sleep(1.0)


@case(
    "a service that fails",
    "12 sessions ask a service 10 times a second that lets every call time out, for 3 s",
    moved("upstream.ejections", least=1),
    moved("upstream.unanswered", most=150),
    moved("upstream.rejected_calls", least=150),
    memory(16),
    off=Off(
        "no breaker",
        sets=("upstream.consecutive_failures=0", "upstream.failure_percent=0"),
    ),
    sets=("dispatch.task_timeout=200ms", "upstream.ejection_time=10s"),
)
async def failing(attacker: Attacker) -> None:
    async def ask(client: PlainClient, number: int) -> None:
        await client.login(f"user{number}")
        for seq in range(2, 32):
            client.send(business(seq, "zone_hang"))
            await asyncio.sleep(0.1)

    await attacker.each(12, ask)


def _any_room(self: Bulkhead, session: object) -> bool:
    return self.waiting < self._max_waiting


@case(
    "greedy sessions",
    "4 sessions keep 128 requests of 50 ms in flight at a service of 64 places and a queue of 200",
    moved("dispatch.refused_full", least=1),
    memory(16),
    off=Off(
        "a session may take the whole queue, and the last places",
        patches={
            "gatesvr.dispatch.bulkhead:Bulkhead.has_room": _any_room,
            "gatesvr.dispatch.bulkhead:RESERVE_SHARE": 1 << 30,
        },
    ),
    sets=("dispatch.workers=64", "dispatch.max_workers=64", "dispatch.max_queue_size=200"),
)
async def greedy(attacker: Attacker) -> None:
    async def ask(client: PlainClient, number: int) -> None:
        await client.login(f"user{number}")
        seq = 2
        for _ in range(3):
            client.send(*(business(n, "slow", ms="50") for n in range(seq, seq + 128)))
            seq += 128
            await client.until(lambda seq=seq: len(client.pushes) >= seq - 130)

    await attacker.each(4, ask)
