"""Drivers: the client under test at the other end of JSON lines (docs/conformance.md).

A client is a process that reads commands from its standard input and prints events, or one that
connects to the kit's port where somebody starts it by hand. It plays one case after the other; one
that does not come to the end of a case is ended, and the next case has a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
from typing import TYPE_CHECKING, Any, Protocol

from ..config import join_address, parse_address
from .broken import DriverError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ClientSource", "CommandSource", "Driver", "ListenSource"]

READY_S = 30.0
"""Longest time until a client that was started says that it is ready."""
MAX_LINE_BYTES = 16 << 20
MAX_COMPLAINT = 400
"""Characters of standard error that are quoted."""


class Driver(Protocol):
    """One client, which plays one case at a time."""

    name: str
    """What the client calls itself."""
    transports: list[str]
    """The ways that it can come by, the preferred one first; empty where it does not say."""
    features: frozenset[str]
    """What it offers beyond the least: ``state``, ``renew``."""

    def send(self, command: dict[str, Any]) -> None:
        """Give it a command."""

    async def receive(self) -> dict[str, Any]:
        """Return its next event.

        Raises:
            DriverError: It has ended, or printed what is no event.
        """

    async def end(self) -> None:
        """End it."""


class ClientSource(Protocol):
    """Where clients come from."""

    async def next(self) -> Driver:
        """Return a client that is ready.

        Raises:
            DriverError: There is none.
        """

    async def close(self) -> None:
        """End what is left."""


class _Lines:
    """A driver over a reader and a writer of lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.name = "client"
        self.transports: list[str] = []
        self.features: frozenset[str] = frozenset()
        self._reader = reader
        self._writer = writer

    def send(self, command: dict[str, Any]) -> None:
        self._writer.write(json.dumps(command).encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        try:
            line = await self._reader.readline()
        except (ValueError, OSError) as error:
            raise DriverError(f"a line of the client cannot be read: {error}") from None
        if not line:
            raise DriverError(await self._ending())
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            text = line.decode(errors="replace").strip()
            raise DriverError(f'the client printed {text!r:.120}, not {{"event": ...}}')
        return event

    async def greet(self) -> None:
        """Wait until the client says that it is ready."""
        try:
            async with asyncio.timeout(READY_S):
                event = await self.receive()
        except TimeoutError:
            raise DriverError(
                f'the client did not print {{"event": "ready"}} within {READY_S:.0f} s'
            ) from None
        if event["event"] != "ready":
            raise DriverError(f'the client printed {event["event"]!r} before "ready"')
        self.name = str(event.get("client", "client"))[:80]
        self.transports = [str(name) for name in event.get("transports", ())]
        self.features = frozenset(map(str, event.get("features", ())))

    async def end(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _ending(self) -> str:
        return "the client ended the connection"


class _Process(_Lines):
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        super().__init__(process.stdout, process.stdin)
        self._process = process
        self._complaint = b""
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        """Keep the end of standard error."""
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(4096):
            self._complaint = (self._complaint + data)[-4 * MAX_COMPLAINT :]

    async def _ending(self) -> str:
        code = await self._process.wait()
        await self._listening
        text = self._complaint.decode(errors="replace").strip()[-MAX_COMPLAINT:]
        return f"the client ended with exit code {code}" + (f": {text}" if text else "")

    async def end(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # The client is a group of its own: a shell in front of it goes, too.
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._listening
        await super().end()


class CommandSource:
    """Starts a client by a command, as often as clients are needed.

    Args:
        command: The command line.

    Raises:
        DriverError: It is empty, or has an open quote.
    """

    def __init__(self, command: str) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise DriverError(f"cannot read the command {command!r}: {error}") from None
        if not self._command:
            raise DriverError("the command is empty")

    async def next(self) -> Driver:
        """Start one, and wait until it is ready."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_LINE_BYTES,
                start_new_session=True,
            )
        except OSError as error:
            raise DriverError(
                f"cannot start {self._command[0]}: {error.strerror or error}"
            ) from None
        driver = _Process(process)
        try:
            await driver.greet()
        except BaseException:
            await driver.end()
            raise
        return driver

    async def close(self) -> None:
        """Each process is ended by who has it."""


class ListenSource:
    """Waits for clients that somebody starts by hand; they connect to a TCP port.

    Args:
        address: Where to listen, HOST:PORT.
        tell: Called with the address that clients connect to.
    """

    def __init__(self, address: str, tell: Callable[[str], None]) -> None:
        self._address = address
        self._tell = tell
        self._server: asyncio.Server | None = None
        self._arrived: asyncio.Queue[_Lines] = asyncio.Queue()
        self._all: list[_Lines] = []

    async def start(self) -> None:
        """Listen.

        Raises:
            DriverError: The address cannot be used.
        """
        host, port = parse_address(self._address)
        try:
            self._server = await asyncio.start_server(
                self._accept, host, port, limit=MAX_LINE_BYTES
            )
        except OSError as error:
            raise DriverError(
                f"cannot listen on {self._address}: {error.strerror or error}"
            ) from None
        self._tell(join_address(*self._server.sockets[0].getsockname()[:2]))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        driver = _Lines(reader, writer)
        self._all.append(driver)
        self._arrived.put_nowait(driver)

    async def next(self) -> Driver:
        """Wait for a client, for as long as it takes, and until it is ready."""
        driver = await self._arrived.get()
        await driver.greet()
        return driver

    async def close(self) -> None:
        """Stop listening, and end the connections."""
        if self._server is not None:
            self._server.close()
            for driver in self._all:
                await driver.end()
            await self._server.wait_closed()
