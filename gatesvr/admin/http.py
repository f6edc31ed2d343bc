"""HttpConnection: uvicorn's, with deadlines for its requests and a way to cut it.

uvicorn's own time-out between two requests ends with the first byte of the next one, and waits for
a reader who takes nothing; so whoever has asked once could hold a connection for ever, and with
MAX_CONNECTIONS of them keep even /livez from its probe. Here what is silent, half said or unread is
cut, and where there is no room the connection that has been idle longest makes it.

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
"""From a connection's begin to the head of its first request."""
KEEP_ALIVE_S = 30.0
"""From an answer to the head of the next request; by then the answer has been read, too."""
MAX_CONNECTIONS = 256
"""Connections at a time; one more takes the place of another."""


class HttpConnection(H11Protocol):
    """One connection. The scope's state has ``abort``, which cuts it."""

    counters: AdminCounters
    _silence: asyncio.TimerHandle | None = None
    _idle_at = 0.0
    _seen: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request within REQUEST_S."""
        if len(self.connections) >= MAX_CONNECTIONS:
            self._make_room()
        super().connection_made(transport)
        self.app_state = {"abort": transport.abort}
        self._expect(REQUEST_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        if self._silence is not None:
            self._silence.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Expect the next request within KEEP_ALIVE_S."""
        self._expect(KEEP_ALIVE_S)
        super().on_response_complete()

    def _expect(self, within: float) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._seen, self._idle_at = self.cycle, self.loop.time()
        self._silence = self.loop.call_later(within, self._look)

    def _look(self) -> None:
        if self.cycle is self._seen:
            self.counters.silent_closed += 1
            self.transport.abort()

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _make_room(self) -> None:
        """Cut another connection: one that nothing is asked on, the longest idle of them."""
        others: set[HttpConnection] = self.connections  # type: ignore[assignment]
        other = min(others, key=lambda each: (each._is_busy, each._idle_at))
        self.counters.crowded_out += 1
        self.connections.discard(other)
        other.transport.abort()


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
