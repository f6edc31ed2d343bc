"""HandOver: what one process of a gateway hands on to its siblings, and what it takes from them.

A datagram goes to the process whose number its connection id has. A new client goes to a sibling
that has less to do, or, where it finds no place here, to one after the other. Its datagrams follow
it until it knows an id of the process that it is at.

Some ids have no number in them: those that a QUIC library makes by itself. A datagram that nobody
here knows and that may be for one of them is handed on to all siblings, and the one that knows it
claims the id. Until then the stateless reset waits: the connection may live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .admission import Admitted, Verdict
from .connection import Connection
from .handed import ADMITTED, ASK, CLAIM, DATAGRAM, INITIAL, Handed
from .quic.initial import V1, destination_id
from .quic.interface import CONNECTION_ID_LENGTH
from .routes import Draining, Elsewhere, Waiting

if TYPE_CHECKING:
    from .addresses import Address
    from .admission import Admission, Judgement
    from .counters import TransportCounters
    from .door import Door
    from .routes import Routes
    from .siblings import Siblings
    from .udp.driver import Driver

__all__ = ["HandOver", "HandOverOwner"]

MAX_HOPS = 8
"""How often a datagram may be handed on after its client."""
CLAIM_S = 60.0
"""How long an id leads to the sibling that claimed it."""
ASK_S = 0.25
"""Wait for a sibling to claim an id, before a stateless reset answers it, seconds."""


class HandOverOwner(Protocol):
    """The listener, as the hand-over knows it."""

    def handle_unknown(
        self, data: bytes, address: Address, now: float, door: Door, kind: int, hops: int
    ) -> None:
        """Handle a datagram whose id is not known, and that was handed on here."""

    def handle_late(self, target: Draining, address: Address, door: Door) -> None:
        """Handle a datagram of a connection that is closed."""

    def reset(self, data: bytes, address: Address, now: float, door: Door) -> None:
        """Answer a datagram of a connection that nobody knows."""


class HandOver:
    """Hands on to siblings, and takes from them.

    Args:
        siblings: The other processes.
        admission: The listener's.
        routes: The listener's.
        doors: The listener's, the same in all processes.
        counters: Where to count.
        makes_ids: Whether the QUIC library makes ids itself; see QuicBackend.
        owner: The listener.
    """

    def __init__(
        self,
        siblings: Siblings,
        admission: Admission,
        routes: Routes,
        doors: list[Door],
        counters: TransportCounters,
        owner: HandOverOwner,
        *,
        makes_ids: bool,
    ) -> None:
        self._siblings = siblings
        self._admission = admission
        self._routes = routes
        self._doors = doors
        self._counters = counters
        self._owner = owner
        self._makes_ids = makes_ids
        self._driver: Driver | None = None

    def open(self, driver: Driver) -> None:
        """Begin, on a loop.

        Raises:
            ConfigError: The directory of the sockets cannot be used.
        """
        self._siblings.open(driver, self._counters, self._take_over, self._take_back)
        self._driver = driver

    def close(self) -> None:
        """End: nothing is handed on or taken any more."""
        self._driver = None
        self._siblings.close()

    # Datagrams of connections.

    def hand_on(self, data: bytes, address: Address, now: float, door: Door) -> bool:
        """Hand a datagram on to the process that its id names; return whether there is one."""
        if data[0] & 0x80 and data[1:5] != V1:
            return False
        connection_id = destination_id(data)
        if len(connection_id) != CONNECTION_ID_LENGTH:
            return False
        siblings = self._siblings
        number = siblings.owner(connection_id)
        if number == siblings.number:
            return False
        if not siblings.give(number, self._handed(DATAGRAM, 1, data, address, door), now):
            return False
        self._counters.handed_on += 1
        return True

    def is_mine(self, data: bytes) -> bool:
        """Return whether a datagram's id has the number of this process."""
        return self._siblings.owner(destination_id(data)) == self._siblings.number

    def follow(
        self, route: Elsewhere, data: bytes, address: Address, now: float, door: Door, hops: int = 0
    ) -> None:
        """Hand a datagram on after its client or connection, that is at another process."""
        if hops >= MAX_HOPS:
            self._counters.hand_overs_dropped += 1
            return
        handed = self._handed(DATAGRAM, hops + 1, data, address, door)
        if now < route.until and self._siblings.give(route.number, handed, now):
            self._counters.handed_on += 1
        else:
            self._routes.leave(route)
            self._owner.handle_unknown(data, address, now, door, DATAGRAM, hops)

    def ask(self, data: bytes, address: Address, now: float, door: Door) -> bool:
        """Ask all siblings for an id that one's QUIC library may have made; return whether we do.

        A reset follows where none claims it.
        """
        driver = self._driver
        if not self._makes_ids or driver is None:
            return False
        if not self._siblings.ask(self._handed(ASK, 1, data, address, door), now):
            return False
        driver.loop.call_later(ASK_S, self._answer_unclaimed, data, address, door)
        return True

    def _answer_unclaimed(self, data: bytes, address: Address, door: Door) -> None:
        if self._driver is not None and destination_id(data) not in self._routes.by_id:
            now = self._driver.clock()
            self._siblings.unclaimed(address, now)
            self._owner.reset(data, address, now, door)

    # New clients.

    def has_place(self) -> bool:
        """Return whether a sibling takes new clients."""
        return self._siblings.next_accepting(0) is not None

    def judge(
        self,
        data: bytes,
        address: Address,
        now: float,
        door: Door,
        kind: int,
        hops: int,
        seconds: float,
    ) -> Judgement:
        """Judge a new client as admission does; None where it is a sibling's now.

        Args:
            data: Its Initial.
            address: Its address.
            now: Loop time.
            door: Where it came in.
            kind: How a sibling handed it on.
            hops: How often siblings handed it on.
            seconds: How long its datagrams follow it to a sibling.
        """
        admission = self._admission
        is_admitted = kind == ADMITTED
        siblings = self._siblings
        found = admission.judge(
            data, address, now, may_go_on=siblings.may_accept(hops), is_admitted=is_admitted
        )
        if found is Verdict.NO_PLACE:
            number = siblings.next_accepting(hops)
            kind = ADMITTED if is_admitted else INITIAL
            handed = self._handed(kind, hops + 1, data, address, door)
            if number is not None and self._hand_client_on(number, handed, now, seconds):
                return None
            return admission.judge(data, address, now, is_admitted=is_admitted)
        # A client with a Retry's token is at its place: the Retry's id has led it there.
        if not hops and isinstance(found, Admitted) and found.retry_id is None:
            number = siblings.less_loaded()
            handed = self._handed(ADMITTED, 1, data, address, door)
            if number is not None and self._hand_client_on(number, handed, now, seconds):
                admission.abandon(found)
                return None
        return found

    def _hand_client_on(self, number: int, handed: Handed, now: float, seconds: float) -> bool:
        """Hand a new client on, and all that it sends; return whether the sibling lives."""
        if not self._siblings.give(number, handed, now):
            return False
        self._counters.initials_handed_on += 1
        self._routes.lead(destination_id(handed.data), number, now, seconds)
        return True

    def send_away(self, waiting: Waiting, now: float, seconds: float) -> bool:
        """Hand a client whose handshake has not begun on to a sibling; False where none takes any.

        Args:
            waiting: The client, no longer in line.
            now: Loop time.
            seconds: How long its datagrams follow it.
        """
        number = self._siblings.next_accepting(0)
        if number is None:
            return False
        # One with a Retry's token is judged by that.
        kind = ADMITTED if waiting.client.retry_id is None else INITIAL
        door, ((data, address), *more) = waiting.door, waiting.datagrams
        handed = self._handed(kind, 1, data, address, door)
        if not self._hand_client_on(number, handed, now, seconds):
            return False
        for data, address in more:
            self._siblings.give(number, self._handed(DATAGRAM, 1, data, address, door), now)
        return True

    # What siblings hand on.

    def _take_over(self, batch: list[Handed], now: float) -> None:
        routes, owner, counters = self._routes.by_id, self._owner, self._counters
        touched: dict[Connection, None] = {}
        for handed in batch:
            kind, hops, sender, index, data, address = handed
            if kind == CLAIM:
                if data not in routes:
                    self._routes.lead(data, sender, now, CLAIM_S)
                continue
            if index >= len(self._doors) or len(data) <= CONNECTION_ID_LENGTH or address is None:
                counters.hand_overs_dropped += 1
                continue
            door, target = self._doors[index], routes.get(destination_id(data))
            if isinstance(target, Elsewhere) and kind in (ADMITTED, INITIAL):
                # It found no place where it was sent to from here.
                self._routes.leave(target)
                target = None
            if kind == ASK:
                if not isinstance(target, Connection | Draining):
                    continue  # another sibling's, or nobody's
                self._siblings.claim(handed, now)
            counters.taken_over += 1
            if isinstance(target, Connection):
                target.receive(data, address, now)
                touched[target] = None
            elif target is None:
                owner.handle_unknown(data, address, now, door, kind, hops)
            elif isinstance(target, Waiting):
                target.add(data, address)
            elif isinstance(target, Elsewhere):
                self.follow(target, data, address, now, door, hops)
            else:
                owner.handle_late(target, address, door)
        for connection in touched:
            connection.process(now)

    def _take_back(self, batch: list[Handed], now: float) -> None:
        """Handle here what was handed on to a sibling that turned out to be dead."""
        for handed in batch:
            if handed.kind in (ASK, CLAIM):
                continue
            route = self._routes.by_id.get(destination_id(handed.data))
            if isinstance(route, Elsewhere):
                self._routes.leave(route)
            self._owner.handle_unknown(
                handed.data,
                handed.address,
                now,
                self._doors[handed.door],
                handed.kind,
                handed.hops,
            )

    def _handed(self, kind: int, hops: int, data: bytes, address: Address, door: Door) -> Handed:
        return Handed(kind, hops, self._siblings.number, self._doors.index(door), data, address)
