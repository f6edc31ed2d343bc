"""HttpConnection: uvicorn's, with a deadline for the head of each request and a way to cut it.

Importing this module needs ``gatesvr[admin]``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

if TYPE_CHECKING:
    import uvicorn

    from .counters import AdminCounters

__all__ = ["Connections", "HttpConnection"]

REQUEST_S = 10.0
"""From the beginning of a connection, or of a request, to the end of the request's head."""


class HttpConnection(H11Protocol):
    """One connection. The scope's state has ``abort``, which cuts it."""

    counters: AdminCounters
    _silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request within REQUEST_S."""
        super().connection_made(transport)
        self.app_state = {"abort": transport.abort}
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        """Read data; where no request is under way, it is the beginning of one."""
        super().data_received(data)  # ends uvicorn's own time-out
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_nothing()
        elif self._silence is None:
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        self._silence = self.loop.call_later(REQUEST_S, self._cut)

    def _expect_nothing(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _cut(self) -> None:
        self.counters.silent_closed += 1
        self.transport.abort()


class Connections:
    """Makes the connections of the server's sockets, and ends them together.

    Args:
        config: uvicorn's.
        counters: Counts connections without a request.
    """

    def __init__(self, config: uvicorn.Config, counters: AdminCounters) -> None:
        self._config = config
        self._counters = counters
        self._state = ServerState()

    def make(self) -> HttpConnection:
        """Return a new connection."""
        connection = HttpConnection(self._config, self._state, {})
        connection.counters = self._counters
        return connection

    async def close(self, grace: float) -> None:
        """Let requests under way end, and cut what is left after grace seconds."""
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks: set[asyncio.Task[Any]] = set(self._state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=grace)
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)  # each connection hears of its end
