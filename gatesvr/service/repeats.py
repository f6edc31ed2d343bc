"""Repeats: says which calls of a gateway may be made once more.

A gateway of several processes replaces them while it is called (``gatesvr upgrade``). For a moment,
two kinds of calls reach one that stops: those on connections that have not heard of it, which gRPC
answers CANCELLED itself, and those on connections that it has not taken, which are reset. No
handler has begun either of them, whatever they ask for.

CANCELLED says so because the gateway's handlers never answer it, and those that are cut off after
the grace end with UNAVAILABLE.
"""

from __future__ import annotations

import asyncio

import grpc

__all__ = ["Repeats"]

REPEAT_S = 1.0
"""How long a call is repeated, from the end of the first try on."""
FIRST_PAUSE_S = 0.01
LAST_PAUSE_S = 0.1
"""Pauses between the tries: from the first one, twice as long each time."""


class Repeats:
    """The repeats of one call.

    Args:
        is_safe: Whether the call may be done twice, because that is seen or does nothing.
    """

    def __init__(self, *, is_safe: bool = False) -> None:
        self._is_safe = is_safe
        self._clock = asyncio.get_running_loop().time
        self._until: float | None = None
        self._pause_s = FIRST_PAUSE_S

    async def pause(self, code: grpc.StatusCode, details: str | None) -> bool:
        """Wait a moment and return True where the call may be made once more.

        Args:
            code: The status that the gateway or gRPC has ended it with; not the caller.
            details: Its text.
        """
        return self._may_repeat(code, details or "") and await self.again()

    async def again(self) -> bool:
        """Wait a moment and return True, until the time is up."""
        now = self._clock()
        if self._until is None:
            self._until = now + REPEAT_S
        if now >= self._until:
            return False
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LAST_PAUSE_S)
        return True

    def _may_repeat(self, code: grpc.StatusCode, details: str) -> bool:
        if code is grpc.StatusCode.CANCELLED:
            return True
        if code is not grpc.StatusCode.UNAVAILABLE or "Connection refused" in details:
            return False  # refused: no process of the gateway is there
        return self._is_safe or details.startswith("failed to connect")
