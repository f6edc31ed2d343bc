"""ClusterEvents: subscribers at any process get the events of all, each once.

::

    EventHub ─▶ Relay ─▶ batches, one at a time ─▶ EventHub ─▶ Subscription ─▶ EventStream
    at the process that has the session            at the process that has the subscriber

A process tells its siblings which kinds its subscribers want, whenever that grows and once a
second; a Relay ends when its process has left, or wants nothing more. A batch that was not answered
is sent again under the same number, and the receiver takes each number once.
Events that find a Relay full are left out and counted by their kind, so that each subscriber learns
exactly how many it has missed. The events of one process come in their order.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING

from ..._pb import cluster_pb2, routing_pb2
from ...control.events import EventStream
from ...observe.event_pb import from_pb, to_pb
from ..peers import PeerUnreachableError
from .calls import EVENTS, SUBSCRIBE
from .tries import TRY_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...observe.events import EventKind, SessionEvent
    from ...session.events import EventHub
    from ..entries import Node
    from .processes import Processes

__all__ = ["ClusterEvents"]

MAX_QUEUE = 1_024
"""Events that wait for one process; above it the newest are left out, and counted."""
MAX_BATCH = 256
PAUSE_S = 0.1
"""Seconds before a batch that was not answered is sent again."""


class ClusterEvents:
    """The subscriptions of this process at its siblings, and theirs here.

    Args:
        hub: The events of this process.
        processes: All of the gateway.
    """

    def __init__(self, hub: EventHub, processes: Processes) -> None:
        self._hub = hub
        self._processes = processes
        self._told: frozenset[EventKind] = frozenset()
        self._telling = asyncio.Lock()
        self._relays: dict[str, Relay] = {}
        self._sent: dict[str, int] = {}  # by process: the number of the last batch for it
        self._taken: dict[str, int] = {}  # by process: the number of the last batch from it

    def stream(self, kinds: Iterable[str] = ()) -> EventStream:
        """Return a stream of the events of all processes."""
        return _ClusterEventStream(self, self._hub, kinds)

    def subscription(self) -> routing_pb2.EventSubscription:
        """Return what subscribers here want."""
        return routing_pb2.EventSubscription(
            node_id=self._processes.node_id, kinds=sorted(self._hub.kinds)
        )

    async def tell(self) -> None:
        """Have the siblings know what is wanted; those that do not answer learn it from tick()."""
        async with self._telling:
            wanted = self._hub.kinds
            if not wanted <= self._told:
                await self._tell(await self._processes.nodes())
                self._told |= wanted

    async def _tell(self, nodes: tuple[Node, ...]) -> None:
        subscription = self.subscription()

        async def tell(node_id: str) -> None:
            try:
                await self._processes.call(node_id, SUBSCRIBE, subscription)
            except PeerUnreachableError:
                return  # tick() tells it again

        await asyncio.gather(*map(tell, self._processes.others(nodes)))

    async def tick(self, nodes: tuple[Node, ...]) -> None:
        """Renew the subscriptions, and forget processes that are gone. Call it once a second."""
        there = {node.node_id for node in nodes}
        for node_id in self._relays.keys() - there:
            self.end(node_id)
        for numbers in (self._sent, self._taken):
            for gone in numbers.keys() - there:
                del numbers[gone]
        async with self._telling:
            wanted = self._hub.kinds
            if wanted or self._told:
                await self._tell(nodes)
                self._told = wanted

    def stop(self) -> None:
        """Relay no more."""
        for node_id in list(self._relays):
            self.end(node_id)

    # What siblings ask.

    def handle_subscribe(
        self, request: routing_pb2.EventSubscription, deadline: float
    ) -> cluster_pb2.Nothing:
        """Relay the kinds of events that a sibling wants from now on."""
        del deadline
        self.subscribed(request)
        return cluster_pb2.Nothing()

    def subscribed(self, request: routing_pb2.EventSubscription) -> None:
        """Relay the kinds of events that a sibling wants from now on."""
        node_id = request.node_id
        relay = self._relays.get(node_id)
        if not request.kinds:
            if relay is not None:
                self.end(node_id)
            return
        if relay is None:
            relay = self._relays[node_id] = Relay(self, node_id)
            self._hub.relays = (*self._hub.relays, relay.offer)
        relay.kinds = frozenset(request.kinds)
        relay.renewals += 1

    def handle_events(
        self, request: routing_pb2.EventBatch, deadline: float
    ) -> routing_pb2.EventAnswer:
        """Give the subscribers here the events of a sibling."""
        del deadline
        hub = self._hub
        if request.number > self._taken.get(request.node_id, 0):
            self._taken[request.node_id] = request.number
            for event in request.events:
                hub.offer(from_pb(event))
            for kind, count in request.missed.items():
                hub.skip(kind, count, request.missed_at_ms)
        return routing_pb2.EventAnswer(is_wanted=bool(len(hub)))

    # For Relay.

    async def send(
        self, node_id: str, events: list[SessionEvent], missed: Counter[str], at_ms: int
    ) -> bool:
        """Send a batch until it is answered or the relay ends; return whether more is wanted."""
        number = self._sent[node_id] = self._sent.get(node_id, 0) + 1
        batch = routing_pb2.EventBatch(
            node_id=self._processes.node_id,
            number=number,
            events=map(to_pb, events),
            missed=missed,
            missed_at_ms=at_ms,
        )
        while True:
            try:
                return (await self._processes.call(node_id, EVENTS, batch, TRY_S)).is_wanted
            except PeerUnreachableError:
                await asyncio.sleep(PAUSE_S)

    def end(self, node_id: str) -> None:
        """End the relay for a sibling that has left, or wants no more."""
        relay = self._relays.pop(node_id)
        # Bound methods are equal, not identical.
        self._hub.relays = tuple(each for each in self._hub.relays if each != relay.offer)
        relay.stop()


class Relay:
    """The events that wait for a sibling.

    Args:
        events: Sends them.
        node_id: The sibling.

    Attributes:
        kinds: What it wants.
        renewals: How often the sibling has said so.
    """

    def __init__(self, events: ClusterEvents, node_id: str) -> None:
        self._events = events
        self._node_id = node_id
        self.kinds: frozenset[str] = frozenset()
        self.renewals = 0
        self._queue: deque[SessionEvent] = deque()
        self._missed: Counter[str] = Counter()
        self._missed_at_ms = 0
        self._sending: asyncio.Task[None] | None = None

    def offer(self, event: SessionEvent) -> None:
        """Keep an event for the sibling, or count it."""
        if event.kind not in self.kinds:
            return
        # None may follow a gap before the gap was told of.
        if self._missed or len(self._queue) >= MAX_QUEUE:
            self._missed[event.kind] += 1
            self._missed_at_ms = event.at_ms
        else:
            self._queue.append(event)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        await asyncio.sleep(0)  # what this turn of the loop brings goes together
        while self._queue or self._missed:
            queue = self._queue
            batch = [queue.popleft() for _ in range(min(len(queue), MAX_BATCH))]
            missed: Counter[str] = Counter()
            if not queue:
                missed, self._missed = self._missed, missed
            renewals = self.renewals
            is_wanted = await self._events.send(self._node_id, batch, missed, self._missed_at_ms)
            if not is_wanted and renewals == self.renewals:
                self._sending = None
                self._events.end(self._node_id)
                return
        self._sending = None

    def stop(self) -> None:
        """Send no more."""
        if self._sending is not None:
            self._sending.cancel()


class _ClusterEventStream(EventStream):
    """A stream of the events of all processes."""

    def __init__(self, events: ClusterEvents, hub: EventHub, kinds: Iterable[str]) -> None:
        super().__init__(hub, kinds)
        self._events = events

    async def ready(self) -> None:
        """Wait until the siblings know of the subscription."""
        await self._events.tell()
