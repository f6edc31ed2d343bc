"""Two devices of a user log in at the same moment: ``python -m tests.processes.logins``.

Exactly one of the two remains, and the other is told that it was replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from gatesvr._pb import upstream_pb2 as pb
from gatesvr.errors import SessionLost

from .running import PATIENCE_S, running

if TYPE_CHECKING:
    from gatesvr import Client

    from .running import Running

__all__ = ["TOLD", "log_in_twice"]

AT_ONCE = 8
TOLD = "told that it was replaced"


async def log_in_twice(gateway: Running, pairs: int) -> Counter[str]:
    """Have pairs of devices log in; return how many ended how: each ``one remains`` is good."""
    counts: Counter[str] = Counter()
    turns = asyncio.Semaphore(AT_ONCE)
    stub = gateway.stub()

    async def pair(number: int) -> None:
        async with turns:
            openid = f"user{number}"
            devices = [gateway.client(openid, login=False, reconnect_timeout=0) for _ in range(2)]
            await asyncio.gather(*(device.connect() for device in devices))
            try:
                ends = await asyncio.gather(*(_log_in(device) for device in devices))
                said = await _last_word(devices, ends)
                found = await stub.GetSession(
                    pb.GetSessionRequest(target_type="openid", target_id=openid)
                )
                remains = [d for d, why in zip(devices, said, strict=True) if why is None]
                if len(remains) == 1 and found.session_id == remains[0].session_id:
                    counts["one remains"] += 1
                else:
                    counts[f"{len(remains)} remain, found {bool(found.session_id)}"] += 1
                counts.update(TOLD for why in said if why is not None and "kicked" in why)
            finally:
                await asyncio.gather(*(device.close() for device in devices))

    await asyncio.gather(*(pair(number) for number in range(pairs)))
    return counts


async def _log_in(device: Client) -> str | None:
    """Return why it lost its session, None where it has logged in."""
    try:
        await device.login(b"hello")
    except SessionLost as lost:
        return str(lost)
    return None


async def _last_word(devices: list[Client], ends: list[str | None]) -> list[str | None]:
    """Wait for one of two devices that have both logged in to hear that it was replaced."""
    if any(ends):
        return ends
    waits = [asyncio.ensure_future(_hear_of_the_end(device)) for device in devices]
    await asyncio.wait(waits, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    said = [each.result() if each.done() else None for each in waits]
    for each in waits:
        each.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    return said


async def _hear_of_the_end(device: Client) -> str | None:
    try:
        async for _ in device:
            pass
    except SessionLost as lost:
        return str(lost)
    return None


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.processes.logins")
    parser.add_argument("--backend", default="qh3", choices=("aioquic", "qh3"))
    parser.add_argument("--pairs", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), options.backend, workers=options.workers) as gateway:
            counts = await log_in_twice(gateway, options.pairs)
    for name, count in sorted(counts.items()):
        print(f"  {name:<36} {count:>8}")
    return int(counts["one remains"] != options.pairs or counts[TOLD] != options.pairs)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
