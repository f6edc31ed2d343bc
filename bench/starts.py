"""``python -m bench.starts``: how long START takes that brings its session from another process.

Two workers under a supervisor, and clients that come back to whichever takes them: from START to
START_RESP where the session is at the other worker, beside where it is not.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from statistics import median, quantiles

import grpc.aio

from gatesvr.config import load
from gatesvr.workers.supervisor import Supervisor
from tests.e2e.harness import Pusher, gateway_sets
from tests.e2e.plain_client import plain_client
from tests.e2e.plain_upstream import plain_upstream

SIZES = (0, 1_000)
"""Messages that are not acked."""
BYTES = 100
RESUMES = 4
"""Of each session: fewer than a gateway takes at once."""
LIMITS = (
    "workers.count=2",
    "session.max_queue_size=2048",
    "session.max_start_rate=0",
    "transport.max_connection_rate_per_prefix=0",
    "log.level=error",
)


async def measure(backend: str, sessions: int, messages: int) -> dict[bool, list[float]]:
    """Return how long STARTs took, in seconds, by whether the session moved."""
    took: dict[bool, list[float]] = {False: [], True: []}
    async with plain_upstream() as upstream:
        supervisor = Supervisor(
            load(sets=gateway_sets(backend, upstream.address, *LIMITS), environ={})
        )
        ready = (await supervisor.start())[0]
        supervisor.go()
        try:
            for number in range(sessions):
                async with plain_client(ready.udp) as client:
                    start = await client.login(f"user {number}")
                async with grpc.aio.insecure_channel(ready.grpc) as channel:
                    await Pusher(channel).push_all(start.session_id, *[bytes(BYTES)] * messages)
                for _ in range(RESUMES):
                    owner = owner_of(supervisor, start.session_id)
                    async with plain_client(ready.udp) as client:
                        began = time.perf_counter()
                        start = await client.resume(start, 1)
                        seconds = time.perf_counter() - began
                    assert start.success, start
                    took[owner != owner_of(supervisor, start.session_id)].append(seconds)
        finally:
            await supervisor.drain(ready_wait=0)
    return took


def owner_of(supervisor: Supervisor, session_id: str) -> str:
    """Return the id of the worker that has the session."""
    entry = supervisor.entries.read(session_id, asyncio.get_running_loop().time())
    assert entry is not None
    return entry.owner


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.starts", description=__doc__)
    parser.add_argument("--sessions", type=int, default=50, help="each comes back four times")
    sessions = parser.parse_args().sessions
    print("backend  not acked  session     STARTs  median ms     p90 ms")
    for backend in ("qh3", "aioquic"):
        for messages in SIZES:
            took = asyncio.run(measure(backend, sessions, messages))
            for moved, name in ((False, "stays"), (True, "moves")):
                seconds = took[moved]
                print(
                    f"{backend:7} {messages:10,}  {name:7} {len(seconds):10}"
                    f" {median(seconds) * 1e3:10.2f} {quantiles(seconds, n=10)[8] * 1e3:10.2f}"
                )


if __name__ == "__main__":
    main()
