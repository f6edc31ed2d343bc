"""Stand-ins that tests of several layers share: a client's connection, and a wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gatesvr.protocol.link import Move, PathState

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FakeLink", "until"]

DEADLINE_S = 60.0


@dataclass(eq=False)
class FakeLink:
    """A Link that keeps what it is told."""

    peer: tuple[str, int] = ("192.0.2.1", 50_000)
    connection_id: int = 1
    keep_alive: bool = True
    transport: str = "quic"
    idle_timeout: float = 60.0
    last_heard: float = 0.0
    moves: tuple[Move, ...] = ()
    unsent: int = 0
    written: bytearray = field(default_factory=bytearray)
    closed: tuple[int, str, bytes] | None = None
    flushes: int = 0
    wakes: int = 0

    @property
    def is_closing(self) -> bool:
        return self.closed is not None

    def write(self, data: bytes) -> None:
        if self.closed is None:
            self.written += data

    def unsent_bytes(self) -> int:
        return self.unsent

    def request_flush(self) -> None:
        self.flushes += 1

    def close(self, code: int, reason: str = "", *, last: bytes = b"") -> None:
        if self.closed is None:
            self.closed = (int(code), reason, last)

    def path(self) -> PathState | None:
        return PathState(0.0, 0, 0, 0)

    def wake(self) -> None:
        self.wakes += 1

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data


async def until(found: Callable[[], object]) -> None:
    """Let the loop run until found() is true; TimeoutError after DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not found():
            await asyncio.sleep(0.001)
