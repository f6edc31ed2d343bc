"""Connection ids → connections, those not yet begun, and for a while longer the closed ones.

A late datagram of a closed connection must not look like one of a connection that was lost, which
gets a stateless reset. So its ids stay known for a draining period, with the datagram that closed
it, which is sent again to a peer that has not heard it (RFC 9000 10.2.1).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .addresses import Address, Datagram
from .connection import Connection
from .counters import TransportCounters
from .udp.driver import Driver, Timer

if TYPE_CHECKING:
    from .admission import Admitted
    from .door import Door

__all__ = ["Draining", "Elsewhere", "Routes", "Waiting"]

DRAINING_S = 0.5
"""How long the ids of a closed connection stay known."""
MAX_DRAINING = 10_000
"""Closed connections whose ids stay known; more are forgotten at once."""

MAX_ELSEWHERE = 10_000
"""Ids that lead to siblings; for another one the oldest is forgotten."""

MAX_FIRST_DATAGRAMS = 4
"""Datagrams kept of a client whose handshake has not begun; a large hello takes two."""


class Waiting:
    """An admitted client whose handshake has not begun: its datagrams, in the order of arrival.

    Attributes:
        client: The client.
        datagrams: What it has sent.
        deadline: Loop time at which it is dropped.
        door: Where it came in.
    """

    __slots__ = ("client", "datagrams", "deadline", "door")

    def __init__(
        self, client: Admitted, data: bytes, address: Address, deadline: float, door: Door
    ) -> None:
        self.client = client
        self.datagrams: list[Datagram] = [(data, address)]
        self.deadline = deadline
        self.door = door

    def add(self, data: bytes, address: Address) -> None:
        """Keep another datagram, unless there are MAX_FIRST_DATAGRAMS: QUIC sends it again."""
        if len(self.datagrams) < MAX_FIRST_DATAGRAMS:
            self.datagrams.append((data, address))


class Draining:
    """The rest of a closed connection: its ids, and its last datagram."""

    __slots__ = ("_late", "driver", "farewell", "ids", "timer")

    def __init__(self, ids: set[bytes], farewell: bytes, driver: Driver, timer: Timer) -> None:
        self.ids = ids
        self.farewell = farewell
        self.driver = driver
        self.timer = timer
        self._late = 0

    def answers(self) -> bool:
        """Count a late datagram; return whether to answer it: the 1st, 2nd, 4th, 8th …"""
        self._late += 1
        return bool(self.farewell) and self._late & (self._late - 1) == 0


class Elsewhere:
    """An id that leads to another process of this gateway, which does not have its number in it.

    Attributes:
        connection_id: The id.
        number: The process's.
        until: Loop time until which it does.
    """

    __slots__ = ("connection_id", "number", "until")

    def __init__(self, connection_id: bytes, number: int, until: float) -> None:
        self.connection_id = connection_id
        self.number = number
        self.until = until


class Routes:
    """The routes of one listener.

    Args:
        counters: Where to count.

    Attributes:
        by_id: The target of each connection id. Looked up directly for every datagram.
    """

    def __init__(self, counters: TransportCounters) -> None:
        self.by_id: dict[bytes, Connection | Draining | Waiting | Elsewhere] = {}
        self._counters = counters
        self._elsewhere: deque[Elsewhere] = deque()  # the oldest first
        self._draining: set[Draining] = set()

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, connection: Connection, connection_id: bytes) -> None:
        """Route datagrams with this id to connection."""
        connection.ids.add(connection_id)
        self.by_id[connection_id] = connection

    def lead(self, connection_id: bytes, number: int, now: float, seconds: float) -> None:
        """Route datagrams with this id to another process for some time."""
        elsewhere = self._elsewhere
        while elsewhere and (len(elsewhere) >= MAX_ELSEWHERE or elsewhere[0].until <= now):
            self.leave(elsewhere.popleft())
        route = Elsewhere(connection_id, number, now + seconds)
        self.by_id[connection_id] = route
        elsewhere.append(route)

    def leave(self, route: Elsewhere) -> None:
        """Route datagrams with this id nowhere."""
        if self.by_id.get(route.connection_id) is route:
            del self.by_id[route.connection_id]

    def remove(self, connection: Connection, connection_id: bytes) -> None:
        """Route datagrams with this id nowhere."""
        connection.ids.discard(connection_id)
        if self.by_id.get(connection_id) is connection:
            del self.by_id[connection_id]

    def forget(self, connection: Connection) -> None:
        """Remove all ids of connection."""
        ids, connection.ids = connection.ids, set()
        for connection_id in ids:
            self.by_id.pop(connection_id, None)

    def drain(self, connection: Connection, farewell: bytes, driver: Driver) -> None:
        """Remove all ids of connection after DRAINING_S; farewell answers late datagrams."""
        if len(self._draining) >= MAX_DRAINING:
            self.forget(connection)
            return
        ids, connection.ids = connection.ids, set()
        timer = Timer(lambda now: self._end(draining))
        draining = Draining(ids, farewell, driver, timer)
        for connection_id in ids:
            self.by_id[connection_id] = draining
        self._draining.add(draining)
        self._counters.drained = len(self._draining)
        driver.schedule(timer, driver.clock() + DRAINING_S)

    def end_draining(self) -> None:
        """Remove the ids of closed connections now."""
        for draining in list(self._draining):
            self._end(draining)

    def _end(self, draining: Draining) -> None:
        draining.driver.timers.cancel(draining.timer)
        self._draining.discard(draining)
        self._counters.drained = len(self._draining)
        for connection_id in draining.ids:
            self.by_id.pop(connection_id, None)
