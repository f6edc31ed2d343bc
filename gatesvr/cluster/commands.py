"""ClusterCommands: the commands of a gateway of several processes.

They have the same face as control.Commands, whichever process is asked: see control/interface.py.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from .._pb import routing_pb2
from ..errors import GatesvrError
from .directory import DirectoryUnreachableError
from .routing.bulk import BulkPushes
from .routing.calls import (
    BULK,
    DESCRIBE,
    EVENTS,
    GREET,
    KICK_USER,
    PAGE,
    REGISTRY,
    SUBSCRIBE,
    TABLE,
)
from .routing.events import ClusterEvents
from .routing.lookups import Lookups
from .routing.processes import Processes
from .routing.pushes import ClusterPushes
from .routing.registrations import ClusterRegistrations
from .routing.sessions import ClusterSessions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..control.commands import Commands
    from ..control.counters import PushCounters
    from ..control.events import EventStream
    from ..session.manager import SessionManager
    from ..session.session import Session
    from ..upstream.registry import UpstreamRegistry
    from .directory import Directory
    from .node import Node
    from .peers import Handlers, Peers

__all__ = ["ClusterCommands"]

logger = logging.getLogger("gatesvr.cluster")

TICK_S = 1.0
JOIN_S = 10.0
"""Longest wait at the start for what the siblings have."""
JOIN_PAUSE_S = 0.1


class ClusterCommands:
    """The commands, for the sessions and upstreams of all processes.

    Give handlers() to the peers before the node joins; start() when it has joined, before the push
    port opens; stop() when the push port is closed.

    Args:
        commands: Those of this process.
        manager: Its sessions.
        registry: Its endpoints.
        node: Reaches the sessions of the others.
        directory: Knows who owns a session.
        peers: Reaches the others.

    Attributes:
        counters: Of commands and transports in this process.
        pushes: Push, broadcast and multicast.
        sessions: Kick, get and list sessions.
        registration: Register, keep and remove endpoints.
    """

    def __init__(
        self,
        commands: Commands,
        manager: SessionManager,
        registry: UpstreamRegistry,
        node: Node,
        directory: Directory,
        peers: Peers,
    ) -> None:
        self.counters: PushCounters = commands.counters
        self._processes = processes = Processes(node.node_id, directory, peers, self.handlers)
        self._bulk = BulkPushes(commands, manager, processes)
        self.pushes = ClusterPushes(commands, manager, node, Lookups(directory), self._bulk)
        self.sessions = ClusterSessions(commands, manager, node, directory, processes)
        self.registration = ClusterRegistrations(commands, registry, processes)
        manager.moves.arrived = self._arrived
        manager.moves.logged_in = self._bulk.logged_in
        self._events = ClusterEvents(manager.events, processes)
        self._handlers: Handlers = {
            BULK: self._bulk.handle,
            DESCRIBE: self.sessions.handle_describe,
            PAGE: self.sessions.handle_page,
            KICK_USER: self.sessions.handle_kick_user,
            REGISTRY: self.registration.handle,
            TABLE: self.registration.mirrored,
            SUBSCRIBE: self._events.handle_subscribe,
            EVENTS: self._events.handle_events,
            GREET: self._greeted,
        }
        self._ticking: asyncio.Task[None] | None = None

    def handlers(self) -> Handlers:
        """Return what serves the calls of siblings."""
        return self._handlers

    def events(self, kinds: Iterable[str] = ()) -> EventStream:
        """Return a stream of the session events of all processes; enter it to subscribe.

        Args:
            kinds: Kinds to deliver, EventKind or their names; none for all.
        """
        return self._events.stream(kinds)

    async def start(self) -> None:
        """Learn the registered upstreams and the subscriptions that there are.

        Raises:
            GatesvrError: The directory, or the process that decides on registrations, has not
                answered for JOIN_S.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + JOIN_S
        while not await self._join():
            if clock() >= until:
                raise GatesvrError("the other processes of the gateway do not answer")
            await asyncio.sleep(JOIN_PAUSE_S)
        self._ticking = asyncio.create_task(self._tick(), name="gatesvr-routing")

    async def _join(self) -> bool:
        try:
            nodes = await self._processes.nodes()
        except DirectoryUnreachableError:
            return False
        return await self.registration.catch_up(nodes, self._events.subscribed)

    async def stop(self) -> None:
        """End what runs by itself, before the registry stops."""
        self.registration.stop()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
        self._events.stop()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                nodes = await self._processes.nodes()
                await self.registration.tick(nodes)
                await self._events.tick(nodes)
            except DirectoryUnreachableError:
                continue
            except Exception:
                self.counters.internal_errors += 1
                logger.exception("routing_failed")

    def _arrived(self, session: Session) -> None:
        self._bulk.arrived(session)
        self.sessions.arrived(session)

    def _greeted(
        self, request: routing_pb2.Greeting, deadline: float
    ) -> routing_pb2.GreetingAnswer:
        del request, deadline
        return routing_pb2.GreetingAnswer(
            subscription=self._events.subscription(), table=self.registration.table()
        )
