"""Clients of a gateway that dies, and the events that their applications saw."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatesvr import Client
from gatesvr.errors import GatesvrError, SessionLost

from .process import DEADLINE_S, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
    from pathlib import Path

    from gatesvr.client.messages import Answer
    from gatesvr.protocol.link import Disconnect

CONNECT_BATCH = 20


@dataclass(frozen=True)
class End:
    """The end of a connection.

    Attributes:
        how: How it ended.
        at: Loop time at which the client noticed.
        silence: Seconds since the last sign of the gateway.
        heartbeats: Heartbeats sent since the gateway was killed.
    """

    how: Disconnect
    at: float
    silence: float
    heartbeats: int


class Member:
    """A client, and an application that reads its notifies and sends requests.

    Attributes:
        client: The client.
        first_session: The session before the kill.
        ends: The ends of its connections.
        told: Exceptions raised while iterating over the client.
        failures: Errors of the requests without an answer.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.first_session = client.session_id
        self.ends: list[End] = []
        self.told: list[SessionLost] = []
        self.told_at = 0.0
        self.failures: list[GatesvrError] = []
        self._asked: set[asyncio.Task[None]] = set()
        self._msg_id = 0
        self._link = client._connector._link  # type: ignore[union-attr]
        self._watch()
        self._reader = asyncio.create_task(self._read())

    def _watch(self) -> None:
        """Record each end of a connection when the client learns of it."""
        connector = self.client._connector
        assert connector is not None
        told = connector.connection_lost

        def connection_lost(how: Disconnect, now: float) -> None:
            assert self._link is not None
            heartbeats = self.client._session._next_msg_id - self._msg_id
            self.ends.append(End(how, now, now - self._link.last_heard, heartbeats))
            told(how, now)

        connector.connection_lost = connection_lost  # type: ignore[method-assign]

    async def _read(self) -> None:
        while True:
            try:
                async for _ in self.client:
                    pass
                return
            except SessionLost as error:
                self.told.append(error)
                self.told_at = asyncio.get_running_loop().time()

    def ask(self, action: str, **params: str) -> None:
        """Send a request, and record its error."""
        task = asyncio.create_task(self._ask(self.client.request(action, params=params)))
        self._asked.add(task)

    async def _ask(self, request: Coroutine[object, object, Answer]) -> None:
        try:
            await request
        except GatesvrError as error:
            self.failures.append(error)

    def begin_counting(self) -> None:
        """Count heartbeats and ends from here on; no requests may follow."""
        self.ends.clear()
        self._link = self.client._connector._link  # type: ignore[union-attr]
        self._msg_id = self.client._session._next_msg_id

    async def close(self) -> None:
        """End the client and its application."""
        await self.client.close()
        for task in self._asked:
            task.cancel()
        await asyncio.gather(self._reader, *self._asked, return_exceptions=True)


@asynccontextmanager
async def fleet(server: str, count: int, backend: str, state: Path) -> AsyncIterator[list[Member]]:
    """Log in count clients of server, which uses this state folder."""
    members: list[Member] = []
    ca = str(state / "gatesvr" / "development.pem")
    try:
        while len(members) < count:
            batch = [
                Client(server, openid=f"player-{number}", transport=backend, ca=ca)
                for number in range(len(members), min(len(members) + CONNECT_BATCH, count))
            ]
            await asyncio.gather(*(client.connect() for client in batch))
            members += [Member(client) for client in batch]
        yield members
    finally:
        await asyncio.gather(*(member.close() for member in members))


async def kill(server: Server) -> float:
    """Kill a gateway; return the loop time."""
    at = asyncio.get_running_loop().time()
    await server.stop(signal.SIGKILL)
    return at


async def until(members: Iterable[Member], found: Callable[[Member], object]) -> None:
    """Wait until found() is true of every member; TimeoutError after DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        for member in members:
            while not found(member):
                await asyncio.sleep(0.001)
