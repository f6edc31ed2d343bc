"""A client process that is killed in the middle of everything, and started again from its file."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gatesvr.service.gateway_client import GatewayClient
from tests.cli.process import ROOT, environment

from .test_real_gateway import demo_gateway

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatesvr import Gateway

LIVES = 3
LINES = 200
"""Lines that each life gets to write at least before it is killed."""
AHEAD = 100
"""Notifies that wait at most."""


class Lives:
    """One client's processes, one after the other, and what they wrote."""

    def __init__(self, folder: Path, server: str, backend: str) -> None:
        self.folder = folder
        self.args = (sys.executable, "-m", "tests.client.life", server, backend, str(folder))
        self.positions = [0]
        """What was stored at each kill, behind the 0 that the first life begins at."""
        self.process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> bytes:
        path = self.folder / "log"
        return path.read_bytes() if path.exists() else b""

    async def start(self) -> None:
        """Begin a life; return once it is connected."""
        before = self.log.count(b"life ")
        self.process = await asyncio.create_subprocess_exec(
            *self.args, cwd=ROOT, env=environment(Path(os.environ["XDG_STATE_HOME"]))
        )
        await self.wait_for(lambda log: log.count(b"life ") > before)

    async def wait_for(self, found: Callable[[bytes], bool]) -> None:
        """Wait for something in the log."""
        assert self.process is not None
        while not found(self.log):
            assert self.process.returncode is None
            await asyncio.sleep(0.01)

    async def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            await self.process.wait()
            self.process = None
            self.positions.append(json.loads((self.folder / "state").read_bytes())["position"])


async def push(gateway: Gateway, lives: Lives, pushed: list[int], stop: asyncio.Event) -> None:
    """Push numbers, faster than they are read, also while nobody is connected."""
    pusher = GatewayClient(gateway.grpc_address)
    try:
        while not stop.is_set():
            number = len(pushed)
            if number - lives.log.count(b"notify ") >= AHEAD:
                await asyncio.sleep(0.01)
                continue
            response = await pusher.push("ann", data=str(number).encode())
            assert response.success
            pushed.append(number)
    finally:
        await pusher.close()


async def test_killed_client_goes_on_where_it_was(backend: str, tmp_path: Path) -> None:
    rng = random.Random(f"lives {backend}")
    pushed: list[int] = []
    stop = asyncio.Event()
    # A full queue refuses instead of dropping: what was taken is then to arrive.
    async with demo_gateway(backend, "session.when_full=refuse") as (gateway, server):
        lives = Lives(tmp_path, server, backend)
        try:
            await lives.start()
            pushing = asyncio.create_task(push(gateway, lives, pushed, stop))
            for _ in range(LIVES):
                wanted = lives.log.count(b"\n") + LINES + rng.randrange(100)
                await lives.wait_for(lambda log, wanted=wanted: log.count(b"\n") >= wanted)
                await lives.kill()
                await lives.start()
            stop.set()
            await pushing
            # The last life reads what is left.
            last = re.compile(rb"^notify \d+ %d$" % pushed[-1], re.MULTILINE)
            await lives.wait_for(lambda log: last.search(log) is not None)
        finally:
            stop.set()
            await lives.kill()
        assert gateway.stats()["session"]["created"] == 1
        assert gateway.stats()["session"]["resumes"] == LIVES
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600
    assert len(pushed) > LIVES
    lines = [line.split() for line in lives.log.decode().splitlines()]
    check(lines, pushed, lives.positions)


def check(lines: list[list[str]], pushed: list[int], positions: list[int]) -> None:
    """Every push was handed over in order, and again only where the state says it was not."""
    assert {words[0] for words in lines} == {"life", "notify", "answer"}  # nothing lost, no session
    assert len({words[1] for words in lines if words[0] == "life"}) == 1
    assert positions == sorted(positions)
    life = -1
    numbers: list[int] = []
    last_seq = last_in_life = 0
    seqs: dict[int, int] = {}
    answers: set[int] = set()
    for words in lines:
        if words[0] == "life":
            life += 1
            # What is stored as done with does not come again.
            last_in_life = positions[life]
            answers.clear()
        elif words[0] == "answer":
            assert int(words[1]) not in answers
            answers.add(int(words[1]))
        else:
            seq, number = int(words[1]), int(words[2])
            assert seq > last_in_life
            assert seqs.setdefault(seq, number) == number
            last_in_life = seq
            if seq > last_seq:
                numbers.append(number)
                last_seq = seq
    assert numbers == pushed
