"""Ends: sessions that this node has ended, until the directory knows (M11)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..protocol.messages import LostReason
    from .context import NodeContext

__all__ = ["Ends"]

MAX_REMOVES = 64
"""Removals under way at a time; the others wait their turn."""


class Ends:
    """Removes the entries of sessions that have ended; each was a copy here, which bounds them.

    Args:
        context: The node's.
    """

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._closing: dict[str, tuple[int, LostReason | None]] = {}
        self._waiting: deque[str] = deque()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Return the number of sessions whose entry may still be there."""
        return len(self._closing)

    def __contains__(self, session_id: str) -> bool:
        """Return whether the session has ended here, and its entry may still be there."""
        return session_id in self._closing

    def add(self, session_id: str, epoch: int, reason: LostReason | None = None) -> None:
        """Remove a session's entry, certainly.

        Args:
            session_id: The session.
            epoch: The epoch in which this node owned it.
            reason: KICKED leaves a tombstone.
        """
        if session_id in self._closing:
            return
        self._closing[session_id] = (epoch, reason)
        self._waiting.append(session_id)
        self._idle.clear()
        if self._under_way < MAX_REMOVES:
            self._under_way += 1
            self._context.tasks.start(self._remove())

    async def _remove(self) -> None:
        context = self._context
        try:
            while self._waiting:
                session_id = self._waiting.popleft()
                epoch, reason = self._closing[session_id]
                # Where that is refused, another node has it: nothing of it is left here.
                await context.certainly(
                    context.directory.remove, session_id, context.node_id, epoch, reason
                )
                del self._closing[session_id]
        finally:
            self._under_way -= 1
            if not self._closing:
                self._idle.set()

    async def wait(self) -> None:
        """Wait until the directory knows of all ends."""
        await self._idle.wait()
