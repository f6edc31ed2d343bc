"""Real worker processes and real clients: sessions made at one worker and resumed at another."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gatesvr.client import Client
from gatesvr.config import load
from gatesvr.demo import start_demo
from gatesvr.errors import CloseCode, ConnectionFailed
from gatesvr.service.gateway_client import GatewayClient
from gatesvr.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatesvr.workers.assignment import Ready

CLIENTS = 12


@asynccontextmanager
async def workers(*sets: str) -> AsyncIterator[tuple[Supervisor, Ready]]:
    """Run demo services behind two workers."""
    ready: list[Ready] = []
    async with start_demo(gateway=lambda: ready[0].grpc) as demos:
        config = load(
            sets=[
                "transport.bind=127.0.0.1:0",
                "push.bind=127.0.0.1:0",
                "workers.count=2",
                "log.level=error",
                *sets,
            ],
            overrides={
                f"upstream.services.{name}": [{"address": address}]
                for name, address in demos.items()
            },
        )
        supervisor = Supervisor(config)
        ready += await supervisor.start()
        supervisor.go()
        try:
            yield supervisor, ready[0]
        finally:
            await supervisor.drain(ready_wait=0)


@pytest.mark.long
async def test_sessions_move_between_workers(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_VERBOSITY", "ERROR")
    async with workers(f"transport.backend={backend}") as (supervisor, ready):
        await _move(supervisor, ready, backend)
    assert supervisor.counters.deaths == 0
    assert supervisor.drain_status().connections_left == 0


@pytest.mark.long
async def test_all_workers_together_keep_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place is taken, wherever the clients come to, and none more."""
    monkeypatch.setenv("GRPC_VERBOSITY", "ERROR")
    async with workers(f"transport.max_connections={CLIENTS}") as (_, ready):
        clients: list[Client] = []
        refused: list[int] = []
        while len(clients) < CLIENTS or not refused:
            client = Client(ready.udp, openid=f"user{len(clients)}", insecure=True)
            try:
                await client.connect()
            except ConnectionFailed as error:
                refused.append(error.code)
                await asyncio.sleep(0.1)  # until shares have moved to who wants them
            else:
                clients.append(client)
        assert len(clients) == CLIENTS
        assert set(refused) <= {CloseCode.OVERLOADED, 0}  # 0: dropped, 5 % above
        for client in clients:
            await client.close()


async def _move(supervisor: Supervisor, ready: Ready, backend: str) -> None:
    def client(i: int, resume: bytes = b"") -> Client:
        return Client(ready.udp, openid=f"user{i}", insecure=True, transport=backend, resume=resume)

    def owners() -> dict[str, str]:
        return {s: entry.owner for s, entry in supervisor.entries._entries.items()}

    first = [client(i) for i in range(CLIENTS)]
    for each in first:
        await each.connect()
    made_at = owners()
    assert len(made_at) == CLIENTS
    states = [await each.suspend() for each in first]
    # Chance says where each comes back: once in 4,096 runs all of them come to where they were.
    second = [client(i, state) for i, state in enumerate(states)]
    async with GatewayClient(ready.grpc) as pusher:
        for i, each in enumerate(second):
            await each.connect()
            answer = await each.request("echo", b"again")
            assert answer.data == b"again"
            await pusher.push(f"user{i}", content=f"to {i}")
            notify = await anext(each)
            assert notify.content == f"to {i}"
    resumed_at = owners()
    assert resumed_at.keys() == made_at.keys()
    moved = Counter(made_at[s] != resumed_at[s] for s in made_at)
    assert moved[True]
    for each in second:
        await each.close()


def test_the_command_of_a_worker_is_this_interpreters() -> None:
    from gatesvr.workers.process import worker_command

    command = worker_command()
    assert command[0] == sys.executable
    assert command[-3:] == ["-m", "gatesvr", "worker"]
