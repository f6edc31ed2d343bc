"""``gatesvr client`` at a terminal: incoming text does not disturb the line being typed."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .process import DEADLINE_S, FREE_PORTS, environment, gatesvr, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

UP = b"\x1b[A"
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|[ \r\x08]")


class Terminal:
    """A program at a terminal.

    Attributes:
        shown: Output not yet matched by see().
        all: All output.
    """

    def __init__(self, process: asyncio.subprocess.Process, descriptor: int) -> None:
        self.process = process
        self.shown = self.all = b""
        self._descriptor = descriptor
        self._has_more = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # the program has ended
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self.shown += data
        self.all += data
        self._has_more.set()

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    async def see(self, text: bytes) -> None:
        """Wait until text is shown; what is before it has been looked at then.

        Spaces do not count: a terminal's cursor is moved over them.
        """
        text = text.replace(b" ", b"")
        while text not in (shown := CONTROL.sub(b"", self.shown)):
            self._has_more.clear()
            await self._has_more.wait()
        self.shown = shown.partition(text)[2]


@asynccontextmanager
async def terminal(state: Path, *args: str, **variables: str) -> AsyncIterator[Terminal]:
    ours, theirs = pty.openpty()
    env = {**environment(state), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "NO_COLOR": "1"}
    env |= variables
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gatesvr", *args, stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    screen = Terminal(process, ours)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield screen
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)


async def test_pushes_leave_alone_what_is_half_typed(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        target = ("--server", server.address("clients"))
        async with terminal(tmp_path, "client", *target, "--openid", "ann") as screen:
            await screen.see(b"logged in at")
            await screen.see(b"> ")
            screen.type(b"echo -- half")
            await screen.see(b"half")
            news = await gatesvr(tmp_path, "call", "broadcast", *target, "--data", "stop press")
            assert news.code == 0
            await screen.see(b"stop press")
            await screen.see(b"> ")  # the prompt is drawn again, and what was typed with it
            await screen.see(b"echo -- half")
            screen.type(b" and the rest\r")
            await screen.see(b"\nhalf and the rest")
            screen.type(UP + b", again\r")
            await screen.see(b"\nhalf and the rest, again")
            screen.type(b"quit\r")
            assert await screen.process.wait() == 0


async def test_dumb_terminal_gets_lines_and_no_escape_sequences(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        target = ("--server", server.address("clients"))
        args = ("client", *target, "--openid", "ann")
        async with terminal(tmp_path, *args, TERM="dumb", NO_COLOR="") as screen:
            await screen.see(b"logged in at")
            await screen.see(b"> ")
            screen.type(b"echo -- half")
            await screen.see(b"half")
            news = await gatesvr(tmp_path, "call", "broadcast", *target, "--data", "stop press")
            assert news.code == 0
            await screen.see(b"press\n> echo -- half")
            screen.type(b" and the rest\r")
            await screen.see(b"\nhalf and the rest\n> ")
            screen.type(b"quit\r")
            assert await screen.process.wait() == 0
            await screen.see(b"quit")
        output = screen.all
        assert b"\x1b" not in output
        assert b"half\r\n[broadcast]" in output


async def test_what_a_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        target = ("--server", server.address("clients"))
        args = ("client", *target, "--openid", "ann")
        for kind in ("xterm", "dumb"):
            async with terminal(tmp_path, *args, TERM=kind, PYTHONIOENCODING="ascii") as screen:
                await screen.see(b"> ")
                news = await gatesvr(tmp_path, "call", "broadcast", *target, "--data", "\U0001f600")
                assert news.code == 0
                await screen.see(rb"\U0001f600")
                screen.type(b"quit\r")
                assert await screen.process.wait() == 0


async def test_lost_gateway_is_told_in_words(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        target = ("--server", server.address("clients"))
        async with terminal(tmp_path, "client", *target, "--openid", "ann") as screen:
            await screen.see(b"> ")
            screen.type(b"half")
            await screen.see(b"half")
            await server.stop(signal.SIGTERM)
            await screen.see(b"the connection is lost (")
            await screen.see(b"half")
            assert b"gatesvr.client" not in screen.shown
            screen.type(b"\x03")  # Ctrl-C
            assert await screen.process.wait() == 0
