"""Turns: the share of the event loop that commands on many sessions have."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """Lets one slice of work run in each turn of the loop, whoever asks, first come, first served.

    So commands on many sessions hold up nothing else for longer than one slice takes, however many
    of them there are. As many wait as commands are under way, which their transport bounds.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a turn of the loop that no other slice runs in; go on at once in a free one."""
        loop = asyncio.get_running_loop()
        if not self._is_taken:
            self._is_taken = True
            loop.call_soon(self._next)
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        """Give this turn to the next one that still waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else its command was cancelled
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._is_taken = False
