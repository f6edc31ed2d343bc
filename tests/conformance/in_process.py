"""The Python client behind the kit, in this process: no start of an interpreter for each client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gatesvr.conformance.case import all_cases
from gatesvr.conformance.kit import Kit, Verdict
from gatesvr.conformance.python_client import READY, PythonClient

if TYPE_CHECKING:
    from gatesvr.conformance.case import Case
    from gatesvr.conformance.driver import Driver

CASES = {case.name: case for case in all_cases()}


class InProcess:
    """A driver of a PythonClient, by method calls."""

    name = "gatesvr (Python)"
    transports = READY["transports"]
    features = frozenset(READY["features"])

    def __init__(self, backend: str) -> None:
        self._commands: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._client = PythonClient(self._events.put_nowait, backend)
        self._working = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while True:
            await self._client.handle(await self._commands.get())

    def send(self, command: dict[str, Any]) -> None:
        self._commands.put_nowait(command)

    async def receive(self) -> dict[str, Any]:
        return await self._events.get()

    async def end(self) -> None:
        self._working.cancel()
        await asyncio.gather(self._working, return_exceptions=True)
        await self._client.handle({"do": "end"})


class InProcesses:
    """Makes them."""

    def __init__(self, backend: str = "auto") -> None:
        self._backend = backend

    async def next(self) -> Driver:
        return InProcess(self._backend)

    async def close(self) -> None:
        pass


async def play(
    *cases: Case,
    transport: str = "auto",
    backend: str = "auto",
    jobs: int = 8,
    slowness: float = 1.0,
) -> list[Verdict]:
    """Play cases against the Python client as it is now."""
    kit = Kit(
        InProcesses(backend), transport=transport, backend=backend, jobs=jobs, slowness=slowness
    )
    return await kit.run(cases)
