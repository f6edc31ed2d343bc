"""The gateway's process: ``gatesvr serve`` as an operator runs it, with its counters read."""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from tests.cli.process import FREE_PORTS, Server, start

from .plan import LEEWAY_S, PATIENCE_S, ROUTES, TOKEN_SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from .plan import Plan

__all__ = ["GatewayProcess", "running_gateway"]

STATS_S = 1
MAX_LOG_LINES = 1_000
_COUNTER = re.compile(r"(\w+\.\w+)=(\S+)")


class GatewayProcess:
    """A running gateway.

    Attributes:
        address: For clients.
        web_address: For those over WebSocket, None where there are none.
        push_address: For pushes.
        stats: Its counters as last printed.
        log: What it wrote to standard error: warnings and errors.
        upgrades: How often it was upgraded.
    """

    def __init__(self, server: Server) -> None:
        host, _, port = server.address("clients").rpartition(":")
        self.address = (host, int(port))
        self.web_address: tuple[str, int] | None = None
        if found := re.search(r"wss://(\S+):(\d+)/", server.banner):
            self.web_address = (found[1], int(found[2]))
        self.push_address = server.address("push")
        self.stats: dict[str, float] = {}
        self.log: list[str] = []
        self._process = server.process
        self.upgrades = self._upgraded = 0
        self._printed = asyncio.Event()
        self._readers = [
            asyncio.ensure_future(self._read_stats()),
            asyncio.ensure_future(self._read_log()),
        ]

    async def next_stats(self) -> dict[str, float]:
        """Wait until the counters are printed twice more; return them: they are newer than now."""
        for _ in range(2):
            self._printed.clear()
            async with asyncio.timeout(PATIENCE_S):
                await self._printed.wait()
        return self.stats

    async def last_stats(self) -> dict[str, float]:
        """Wait for the sessions' ends, for so long as they may take; return the counters."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S / 4):  # less than the resume window
                while (await self.next_stats()).get("session.sessions"):
                    pass
        return self.stats

    async def upgrade_on_and_on(self, pause_s: float) -> None:
        """Upgrade it to what it is already, again and again."""
        while True:
            await asyncio.sleep(pause_s)
            self._process.send_signal(signal.SIGUSR2)
            async with asyncio.timeout(PATIENCE_S):
                while self._upgraded <= self.upgrades:
                    await self.next_stats()
            self.upgrades += 1

    async def stop(self) -> int:
        """Stop it in order; return its exit code."""
        self._process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._readers)
            return await self._process.wait()

    async def _read_stats(self) -> None:
        assert self._process.stdout is not None
        while line := (await self._process.stdout.readline()).decode():
            if found := _COUNTER.findall(line):
                self.stats = {name: float(value) for name, value in found}
                self._printed.set()

    async def _read_log(self) -> None:
        assert self._process.stderr is not None
        while line := (await self._process.stderr.readline()).decode():
            if line.startswith("upgraded: "):  # it is over: its old processes have ended
                self._upgraded += 1
                continue
            # How far its drain is, which it says when it takes a while.
            if len(self.log) < MAX_LOG_LINES and not line.startswith("draining: "):
                self.log.append(line.rstrip())


@asynccontextmanager
async def running_gateway(
    plan: Plan, folder: Path, services: list[tuple[str, str]]
) -> AsyncIterator[GatewayProcess]:
    """Run ``gatesvr serve`` until the end of the block; kill it where stop() was not called."""
    file = folder / "gatesvr.toml"
    file.write_text(ROUTES)
    upstreams = [part for name, at in services for part in ("--upstream", f"{name}={at}")]
    secret = folder / "secret"
    secret.write_text(TOKEN_SECRET)
    auth = {
        "mode": "jwt",
        "algorithms": "['HS256']",
        "key": secret,
        "audience": "gatesvr",
        "issuer": "soak",
        "leeway": f"{LEEWAY_S}s",
    }
    settings = [f"auth.{name}={value}" for name, value in auth.items()] if plan.token_s else []
    if plan.web or plan.js:
        settings.append("transport.web.bind=127.0.0.1:0")
    if plan.processes:
        settings.append(f"workers.count={plan.processes}")
    process = await start(
        folder,
        "serve",
        *FREE_PORTS,
        *("--config", str(file), "--transport", plan.backend, "--stats", f"{STATS_S}s"),
        *("--set", "session.heartbeat_interval=1s", "--set", "log.level=warning"),
        *("--set", f"session.max_inited_per_address={max(64, 2 * plan.clients)}"),
        *(part for setting in settings for part in ("--set", setting)),
        *upstreams,
    )
    server = Server(process)
    try:
        await server.read_until(" call hello ")
        yield GatewayProcess(server)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
