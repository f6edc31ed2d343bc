"""Lookups: which sessions a user has, asked of the directory once a turn of the loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .tries import ask_patiently

if TYPE_CHECKING:
    from ..directory import Directory
    from ..entries import Found

__all__ = ["Lookups", "read_error"]

MAX_OPENIDS = 256
"""Users in one question."""


class Lookups:
    """Asks the directory for the sessions of users.

    Pushes of one turn of the loop to one user share a question. No later one joins it: the answer
    must not be older than the push.

    Args:
        directory: Is asked.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._next: dict[str, asyncio.Future[Found]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, openid: str) -> asyncio.Future[Found]:
        """Return the logged-in sessions of a user, in a future that must not be cancelled.

        It raises DirectoryUnreachableError where nobody has answered for TRY_S.
        """
        future = self._next.get(openid)
        if future is None:
            loop = asyncio.get_running_loop()
            if not self._next:
                loop.call_soon(self._send)
            future = self._next[openid] = loop.create_future()
            future.add_done_callback(read_error)
        return future

    def _send(self) -> None:
        asked, self._next = list(self._next.items()), {}
        for start in range(0, len(asked), MAX_OPENIDS):
            task = asyncio.create_task(self._find(asked[start : start + MAX_OPENIDS]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _find(self, asked: list[tuple[str, asyncio.Future[Found]]]) -> None:
        try:
            found = await ask_patiently(self._directory.find_all, [openid for openid, _ in asked])
            for (_, future), each in zip(asked, found, strict=True):
                future.set_result(each)
        except Exception as error:
            for _, future in asked:
                future.set_exception(error)
        finally:
            for _, future in asked:
                future.cancel()  # nothing, where it is done


def read_error(future: asyncio.Future[Any]) -> None:
    """Read a future's error, which nobody may wait for any more: asyncio does not complain then."""
    if not future.cancelled():
        future.exception()
