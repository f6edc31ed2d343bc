"""A process of the gateway is killed under load: ``python -m tests.processes.crash``.

Prints what the clients of the others saw meanwhile, and how soon its own were told.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gatesvr.errors import SessionLost

from .running import PATIENCE_S, running

if TYPE_CHECKING:
    from gatesvr import Client

    from .running import Running

__all__ = ["Crash", "kill_one"]

WINDOW_S = 2.0
"""Before the kill, and after it."""
PAUSE_S = 0.05


@dataclass
class Crash:
    """What was seen.

    Attributes:
        before_ms: Latencies before the kill.
        meanwhile_ms: Those of the clients of other processes in the seconds after it.
        told_s: When clients of the killed one were told, from the next request they made.
        told_twice: Clients that were told more than once.
        unhurt: Clients of the others that were told of a loss: none should be.
    """

    before_ms: list[float] = field(default_factory=list)
    meanwhile_ms: list[float] = field(default_factory=list)
    told_s: list[float] = field(default_factory=list)
    told_twice: int = 0


class _User:
    """A client that asks on and on."""

    def __init__(self, client: Client, number: int) -> None:
        self.client = client
        self.losses: list[float] = []  # when it was told
        self.latencies: list[tuple[float, float]] = []  # when asked, seconds
        self.asked_at = 0.0
        self.told_after: list[float] = []
        self._number = number

    async def ask(self) -> None:
        count = 0
        while True:
            count += 1
            self.asked_at = time.monotonic()
            try:
                await self.client.request("echo", b"%d/%d" % (self._number, count))
                self.latencies.append((self.asked_at, time.monotonic() - self.asked_at))
            except SessionLost:
                self.told_after.append(time.monotonic() - self.asked_at)
            await asyncio.sleep(PAUSE_S)

    async def listen(self) -> None:
        while True:
            try:
                async for _ in self.client:
                    pass
            except SessionLost as lost:
                self.losses.append(time.monotonic())
                if lost.is_final:
                    raise


async def kill_one(gateway: Running, clients: int) -> Crash:
    """Kill a process that has clients, under the load of so many."""
    seen = Crash()
    users = [_User(gateway.client(f"user{n}"), n) for n in range(clients)]
    await asyncio.gather(*(user.client.connect() for user in users))
    tasks = [asyncio.ensure_future(each) for user in users for each in (user.ask(), user.listen())]
    try:
        await asyncio.sleep(WINDOW_S)
        before = set(gateway.pids)
        victim = sorted(before)[0]
        killed_at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        await asyncio.sleep(WINDOW_S)
        async with asyncio.timeout(PATIENCE_S):
            while len(set(gateway.pids) - {victim}) < len(before):
                await asyncio.sleep(0.05)
        await asyncio.sleep(WINDOW_S)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(user.client.close() for user in users))
    broken = [each for each in ended if not isinstance(each, asyncio.CancelledError)]
    assert not broken, broken
    for user in users:
        for at, seconds in user.latencies:
            if at < killed_at:
                seen.before_ms.append(seconds * 1000)
            elif not user.losses:
                seen.meanwhile_ms.append(seconds * 1000)
        seen.told_s += user.told_after
        seen.told_twice += len(user.losses) > 1
    return seen


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=1000)[int(share * 1000) - 1]


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.processes.crash")
    parser.add_argument("--backend", default="qh3", choices=("aioquic", "qh3"))
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--steer", default="auto", choices=("auto", "bpf", "forward"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        args = ("--set", f"workers.steer={options.steer}")
        async with running(
            Path(folder), options.backend, *args, workers=options.workers
        ) as gateway:
            seen = await kill_one(gateway, options.clients)
    for name, values in (("before", seen.before_ms), ("others meanwhile", seen.meanwhile_ms)):
        if len(values) > 1:
            p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
            print(
                f"  {name:<20} {len(values):>6} requests  p50 {p50:6.1f} ms  p99 {p99:6.1f} ms"
                f"  max {max(values):6.1f} ms"
            )
    told = sorted(seen.told_s)
    print(f"  told: {len(told)} requests, the last after {max(told, default=0):.3f} s")
    print(f"  told twice: {seen.told_twice} clients")
    return int(not told or max(told) > 1.0 or seen.told_twice > 0)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
