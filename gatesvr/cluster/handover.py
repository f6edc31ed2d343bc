"""Handover: the sessions of a process that leaves, to those that stay."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..session.manager import SessionManager
    from ..session.session import Session

__all__ = ["Giver", "Handover"]

logger = logging.getLogger("gatesvr.cluster")

MAX_GIVES = 64
"""Sessions on their way at a time: each may take as many bytes as its queue."""
LOOK_S = 0.02
"""How often finish() looks what is left."""


class Giver(Protocol):
    """What it needs of its node."""

    async def give(self, session: Session, to: str) -> bool:
        """Hand a session without a connection over; return whether another node has it."""


class Handover:
    """Gives every session away that has no connection; see the Handover of gatesvr/drain.py.

    Args:
        node: Gives a session to another node.
        sessions: This process's.
        nodes: Who gets them, one after the other.
        clock: Loop time.
    """

    def __init__(
        self,
        node: Giver,
        sessions: SessionManager,
        nodes: Sequence[str],
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._sessions = sessions
        self._nodes = list(nodes)
        self._clock = clock
        self._gives: dict[Session, asyncio.Task[None]] = {}
        self._next = 0

    @property
    def left(self) -> int:
        """Sessions here, and results of calls that the owners of their sessions are yet to get."""
        return len(self._sessions.index) + len(self._sessions.context.results)

    def give(self, now: float, idle_s: float) -> None:
        """Begin to give away the sessions that have had no connection for so long.

        Complexity: O(sessions given).
        """
        if not self._nodes:
            return
        for session in list(self._sessions.index.detached):
            # In the order in which they lost it; those that came from elsewhere may be older.
            if len(self._gives) >= MAX_GIVES or session.detached_at > now - idle_s:
                return
            if session not in self._gives:
                to = self._nodes[self._next % len(self._nodes)]
                self._next += 1
                task = asyncio.get_running_loop().create_task(self._give(session, to))
                self._gives[session] = task

    async def _give(self, session: Session, to: str) -> None:
        try:
            await self._node.give(session, to)
        except Exception as error:
            logger.error("session_not_given", exc_info=error)
        finally:
            del self._gives[session]

    async def finish(self, within: float) -> None:
        """Give all away; wait until nothing is left, or for so many seconds."""
        try:
            async with asyncio.timeout(within):
                while self.left:
                    self.give(self._clock(), 0.0)
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            pass
        finally:
            for task in list(self._gives.values()):
                task.cancel()
            await asyncio.gather(*self._gives.values(), return_exceptions=True)
