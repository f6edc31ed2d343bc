"""The same, small."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gatesvr.client import Client
from gatesvr.errors import SessionLost

from .commands import command_all
from .crash import kill_one
from .logins import TOLD, log_in_twice
from .running import PATIENCE_S, running

if TYPE_CHECKING:
    from .running import Running


@pytest.mark.long
async def test_every_command_at_every_process(backend: str, tmp_path: Path) -> None:
    async with running(tmp_path, backend, workers=3) as gateway:
        counts = await command_all(gateway, clients=6, connections=6)
        assert counts["kicks"] == 6
        counts = await log_in_twice(gateway, pairs=20)
        assert counts["one remains"] == counts[TOLD] == 20


@pytest.mark.long
async def test_a_killed_process_is_replaced_and_its_clients_are_told_once(
    backend: str, tmp_path: Path
) -> None:
    async with running(tmp_path, backend, workers=3) as gateway:
        seen = await kill_one(gateway, clients=12)
        assert seen.told_s
        assert not seen.told_twice


async def answer(client: Client) -> bool:
    """Ask until there is an answer; return whether the client was told of a loss before it."""
    try:
        await client.request("echo", b"x")
    except SessionLost:
        await client.request("echo", b"x")
        return True
    return False


async def come(gateway: Running, kind: str, count: int) -> list[Client]:
    """Connect clients, all at the same time."""
    web = re.search(r"wss://\S+", gateway.server.banner)
    assert web is not None
    clients = [
        Client(web[0], openid=f"{kind}{n}", insecure=True)
        if kind == "web"
        else gateway.client(f"{kind}{n}")
        for n in range(count)
    ]
    await asyncio.gather(*(client.connect() for client in clients))
    return clients


@pytest.mark.long
@pytest.mark.parametrize("steer", ["auto", "forward"])
async def test_nobody_waits_for_the_next_process(backend: str, steer: str, tmp_path: Path) -> None:
    """It is not started for an hour: the others tell its clients, and take those that come."""
    args = [f"workers.steer={steer}", "workers.restart_min=1h", "workers.restart_max=1h"]
    args = [word for each in (*args, "transport.web.bind=127.0.0.1:0") for word in ("--set", each)]
    async with running(tmp_path, backend, *args, workers=3) as gateway:
        clients = await come(gateway, "user", 12)
        os.kill(gateway.pids[0], signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            told = await asyncio.gather(*map(answer, clients))
            assert 0 < sum(told) < len(told)
            for kind in ("new", "web"):
                for client in await come(gateway, kind, 12):
                    clients.append(client)
                    assert not await answer(client)
        for client in clients:
            await client.close()
