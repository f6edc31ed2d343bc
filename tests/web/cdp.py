"""A Chromium of its own that lets its tabs be hidden, over its DevTools protocol alone.

Playwright keeps every page in the foreground, and turns off what a browser does to hidden ones.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

THROTTLING = (
    # Timers of hidden tabs run once a minute: after 5 s, where a user's browser waits 5 minutes.
    "--intensive-wake-up-throttling-policy=force-enable",
    "--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/5",
)
DEADLINE_S = 60.0


class Chromium:
    """A browser, by its DevTools socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read(self) -> None:
        """Take in what the browser says, until cancelled."""
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)

    async def send(self, method: str, *, session: str | None = None, **params: Any) -> Any:
        """Send a command and return its result."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        command = {"id": number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        await self._socket.send(json.dumps(command))
        async with asyncio.timeout(DEADLINE_S):
            message = await answer
        assert "error" not in message, message
        return message["result"]

    async def open(self, url: str) -> BareTab:
        """Open a tab, which hides the others."""
        target = (await self.send("Target.createTarget", url=url))["targetId"]
        attached = await self.send("Target.attachToTarget", targetId=target, flatten=True)
        return BareTab(self, attached["sessionId"])


class BareTab:
    """A tab that is as visible as a user's."""

    def __init__(self, chromium: Chromium, session: str) -> None:
        self._chromium = chromium
        self._session = session

    async def get(self, expression: str) -> Any:
        """Return the value of an expression, or of its promise."""
        answer = await self._chromium.send(
            "Runtime.evaluate",
            session=self._session,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def freeze(self) -> None:
        """Let the page stand still, as a browser does to save energy."""
        await self._set_state("frozen")

    async def thaw(self) -> None:
        await self._set_state("active")

    async def _set_state(self, state: str) -> None:
        await self._chromium.send("Page.setWebLifecycleState", session=self._session, state=state)

    async def until(self, condition: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not await self.get(condition):
                await asyncio.sleep(0.1)


@asynccontextmanager
async def throttling_chromium(program: str, profile: Path, *args: str) -> AsyncIterator[Chromium]:
    """Run a Chromium whose hidden tabs have their timers run once a minute."""
    process = await asyncio.create_subprocess_exec(
        program,
        "--headless",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "--no-first-run",
        "--ignore-certificate-errors",
        *THROTTLING,
        *args,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    lines = b""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while (found := re.search(rb"ws://\S+", lines)) is None:
                line = await process.stderr.readline()
                assert line, lines
                lines += line
        rest = asyncio.create_task(process.stderr.read())
        async with connect(found[0].decode(), max_size=None) as socket:
            chromium = Chromium(socket)
            reading = asyncio.create_task(chromium.read())
            try:
                yield chromium
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        process.terminate()
        await rest
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
