"""Runs ``gatesvr`` as users do: in a separate process."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0


@dataclass
class Result:
    """A command's exit code and output."""

    code: int
    out: str
    err: str


def environment(state: Path) -> dict[str, str]:
    """Return an environment with a fresh state folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATESVR_")}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # Without a word on them a demo would serve web clients and their page, on usual ports.
    own = {"XDG_STATE_HOME": str(state), "GATESVR_TRANSPORT__WEB__BIND": ""}
    return {**kept, **own, "PYTHONPATH": path}


async def start(state: Path, *args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gatesvr",
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(state),
    )


async def gatesvr(state: Path, *args: str, stdin: str = "") -> Result:
    """Run a command to its end."""
    process = await start(state, *args)
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


class Server:
    """A running ``serve`` or ``upstream``.

    Attributes:
        banner: Its output up to the awaited line.
        result: Its exit code and output, after its end.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.banner = ""
        self.result: Result | None = None

    async def read_until(self, text: str) -> str:
        """Read its output up to a line that holds text; return that line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            while True:
                line = (await self.process.stdout.readline()).decode()
                if not line:
                    assert self.process.stderr is not None
                    raise AssertionError((await self.process.stderr.read()).decode())
                self.banner += line
                if text in line:
                    return line

    @property
    def call(self) -> list[str]:
        """The arguments of the banner's call line."""
        line = next(line for line in self.banner.splitlines() if " call " in line)
        words = shlex.split(line)
        return words[words.index("call") :]

    def address(self, name: str) -> str:
        """The address at the start of the banner's line with this name."""
        match = re.search(rf"^ *{name} +(\S+:\d+)", self.banner, re.MULTILINE)
        assert match is not None
        return match[1]

    async def stop(self, number: int = signal.SIGINT, deadline_s: float = DEADLINE_S) -> Result:
        """Send a signal and wait for the end."""
        if self.result is None:
            if self.process.returncode is None:
                self.process.send_signal(number)
            async with asyncio.timeout(deadline_s):
                out, err = await self.process.communicate()
            assert self.process.returncode is not None
            self.result = Result(self.process.returncode, out.decode(), err.decode())
        return self.result


@asynccontextmanager
async def serving(state: Path, *args: str, until: str = " call echo ") -> AsyncIterator[Server]:
    """Run ``serve`` on free ports until the end of the block."""
    process = await start(state, *args)
    server = Server(process)
    try:
        await server.read_until(until)
        yield server
        await server.stop()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


FREE_PORTS = ("--bind", "127.0.0.1:0", "--grpc-bind", "127.0.0.1:0")
