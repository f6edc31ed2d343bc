"""Certain writes, and the tasks in which they go on whatever becomes of the call that asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .directory import DirectoryUnreachableError

if TYPE_CHECKING:
    from .counters import ClusterCounters

__all__ = ["ASK_S", "Tasks", "ask", "certainly"]

logger = logging.getLogger("gatesvr.cluster")

P = ParamSpec("P")
T = TypeVar("T")

ASK_S = 2.0
"""How long one question to the directory may take."""
FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 1.0
"""Pauses between the repetitions of a write: from the first one, twice as long each time."""


async def ask(
    counters: ClusterCounters,
    question: Callable[P, Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Ask the directory once.

    Raises:
        DirectoryUnreachableError: There is no answer; also none in time.
    """
    try:
        async with asyncio.timeout(ASK_S):
            return await question(*args, **kwargs)
    except TimeoutError:
        counters.directory_failures += 1
        raise DirectoryUnreachableError("no answer in time") from None
    except DirectoryUnreachableError:
        counters.directory_failures += 1
        raise


async def certainly(
    counters: ClusterCounters,
    write: Callable[P, Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Repeat a write until the directory has answered: no answer is never "refused" (M1).

    Run it in a task of Tasks: what it decides must not depend on who waits for it.
    """
    pause = FIRST_PAUSE_S
    while True:
        try:
            return await ask(counters, write, *args, **kwargs)
        except DirectoryUnreachableError:
            await asyncio.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE_S)


class Tasks:
    """A node's own tasks: each belongs to a session that it holds a copy of, or results for.

    So there are as many at most. They end when the node stops.

    Args:
        counters: Counts those that raised.
    """

    def __init__(self, counters: ClusterCounters) -> None:
        self._counters = counters
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Return the number of tasks that have not ended."""
        return len(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._counters.internal_errors += 1
            logger.error("node_task_failed", exc_info=error)

    async def stop(self) -> None:
        """Cancel the tasks, and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
