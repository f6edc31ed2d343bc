"""The soak's processes: started, spoken to over pipes, ended."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
from typing import TYPE_CHECKING, Any

import uvloop

from .plan import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from multiprocessing.connection import Connection as Pipe

    from .history import History

__all__ = ["Child", "Commands", "Watch"]


class Child:
    """A process that runs one coroutine function, called with its end of a pipe."""

    def __init__(self, serve: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        self._name = serve.__name__
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_run, args=(serve, theirs, *args), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send a command."""
        self._pipe.send(message)

    async def receive(self, deadline: float = PATIENCE_S) -> Any:
        """Return the next thing that it says.

        Raises:
            TimeoutError: It says nothing for so many seconds.
            EOFError: It has ended.
        """
        if not await asyncio.to_thread(self._pipe.poll, deadline):
            raise TimeoutError(f"{self._name} said nothing for {deadline} s")
        return await asyncio.to_thread(self._pipe.recv)

    async def ask(self, message: Any, deadline: float = PATIENCE_S) -> Any:
        """Send a command and return the answer."""
        self.send(message)
        return await self.receive(deadline)

    def end(self) -> None:
        """Wait for its end; kill it where it does not come."""
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.end()


def _run(serve: Callable[..., Coroutine[Any, Any, None]], pipe: Pipe, *args: Any) -> None:
    uvloop.run(serve(pipe, *args))


class Commands:
    """A child's side: what the parent sends, in order."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()

    async def next(self) -> Any:
        """Return the next command; EOFError where the parent is gone."""
        readable = self._loop.create_future()
        self._loop.add_reader(
            self._pipe.fileno(), lambda: readable.done() or readable.set_result(None)
        )
        try:
            await readable
        finally:
            self._loop.remove_reader(self._pipe.fileno())
            os.set_blocking(self._pipe.fileno(), True)  # uvloop's add_reader() says it shall not
        return self._pipe.recv()

    async def expect(self, command: str) -> None:
        """Wait for a command."""
        found = await self.next()
        assert found == command, found

    async def expect_counting(self, command: str, counts: Callable[[], Mapping[str, Any]]) -> None:
        """Wait for a command; say the counts so far at each ``counts`` before it."""
        while (found := await self.next()) == "counts":
            self._pipe.send(dict(counts()))
        assert found == command, found


class Watch(logging.Handler):
    """Tells a history of what this process logs as an error, or as the peer's broken protocol."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.INFO)
        self._history = history
        logger = logging.getLogger("gatesvr")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        event = record.getMessage()
        if record.levelno >= logging.ERROR or event == "protocol_error":
            keys = getattr(record, "keys", {})
            error = record.exc_info[1] if record.exc_info else ""
            self._history.tell("broken", "", f"{event} {keys} {error!r}")
