"""ClusterRegistrations: the registered upstreams, one table for all processes.

One process *decides*: of those with a good lease, the one that joined first. Every registration,
renewal and end goes to it; its rules hold, and it ends the leases. All others mirror its table, to
which they call, and know it before they are ready. Whichever decides next takes the newest table of
all, and each lease begins anew: renewals may have been lost with the one that decided before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..._pb import routing_pb2
from ..._pb import upstream_pb2 as pb
from ...upstream.registry import Registration
from ..directory import DirectoryUnreachableError
from ..peers import PeerUnreachableError
from .calls import GREET, REGISTRY, TABLE
from .tries import RETRY_S, TRY_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...control.commands import Commands
    from ...upstream.registry import UpstreamRegistry
    from ..entries import Node
    from .processes import Processes

__all__ = ["ClusterRegistrations"]

TELL_S = 0.3
"""How long a registration waits for each process to know of it; one that does not answer is told
again by tick()."""


class ClusterRegistrations:
    """Registers upstreams for all processes.

    Args:
        commands: Those of this process.
        registry: Its endpoints.
        processes: All of the gateway.
    """

    def __init__(
        self, commands: Commands, registry: UpstreamRegistry, processes: Processes
    ) -> None:
        self._local = commands.registration
        self._registry = registry
        self._processes = processes
        self._is_deciding = self._is_stopped = False
        self._changing = asyncio.Lock()
        self._source = ""  # the process whose table is mirrored
        self._known: dict[str, int] = {}  # by process: the version of this one's table that it has
        self._telling: dict[str, asyncio.Lock] = {}

    def stop(self) -> None:
        """Decide nothing any more, and mirror nothing: the registry stops."""
        self._is_stopped = True

    # What services ask.

    async def register(
        self, request: pb.UpstreamRegisterRequest, caller_ip: str, owner: str = ""
    ) -> pb.UpstreamRegisterResponse:
        """Add an endpoint of a service."""
        return await self._ask(
            routing_pb2.RegistryRequest(register=request, caller_ip=caller_ip, owner=owner)
        )

    async def keep_alive(self, request: pb.LeaseRequest) -> pb.UpstreamRegisterResponse:
        """Restart an endpoint's lease."""
        return await self._ask(routing_pb2.RegistryRequest(keep_alive=request))

    async def deregister(self, request: pb.LeaseRequest) -> pb.UpstreamRegisterResponse:
        """Remove an endpoint."""
        return await self._ask(routing_pb2.RegistryRequest(deregister=request))

    async def _ask(self, request: routing_pb2.RegistryRequest) -> pb.UpstreamRegisterResponse:
        """Have it decided; look again for the one that decides for TRY_S. All may be repeated."""
        clock = asyncio.get_running_loop().time
        until = clock() + TRY_S
        while True:
            try:
                decider = _decider(await self._processes.nodes())
                if decider is not None:
                    within = max(until - clock(), RETRY_S)
                    answer = await self._processes.call(decider, REGISTRY, request, within)
                    if answer.is_decided:
                        return answer.response
            except (DirectoryUnreachableError, PeerUnreachableError):
                pass  # look again
            if clock() >= until:
                return pb.UpstreamRegisterResponse(
                    error_code="BUSY", message="no process decides just now, try again"
                )
            await asyncio.sleep(RETRY_S)

    # The one that decides.

    async def handle(
        self, request: routing_pb2.RegistryRequest, deadline: float
    ) -> routing_pb2.RegistryAnswer:
        """Decide on what a service asks, if this process is the one; all others know it then."""
        del deadline
        try:
            nodes = await self._processes.nodes()
        except DirectoryUnreachableError:
            return routing_pb2.RegistryAnswer()
        if not await self._decides(nodes):
            return routing_pb2.RegistryAnswer()
        local = self._local
        if request.HasField("register"):
            response = local.register(request.register, request.caller_ip, request.owner)
        elif request.HasField("keep_alive"):
            response = local.keep_alive(request.keep_alive)
        else:
            response = local.deregister(request.deregister)
        await self._tell_all(nodes)
        return routing_pb2.RegistryAnswer(is_decided=True, response=response)

    async def _decides(self, nodes: tuple[Node, ...]) -> bool:
        """Return whether this process decides; begin or end to, where that has changed."""
        if self._is_stopped or _decider(nodes) != self._processes.node_id:
            self._is_deciding = False
            return False
        async with self._changing:
            if not self._is_deciding:
                await self.catch_up(nodes)
                self._registry.take_over()
                self._known.clear()
                self._is_deciding = True
        return True

    async def catch_up(
        self,
        nodes: tuple[Node, ...],
        subscribed: Callable[[routing_pb2.EventSubscription], None] = lambda subscription: None,
    ) -> bool:
        """Take the newest table of all; return whether the one that decides was among them.

        Args:
            nodes: All processes.
            subscribed: Told of the events that each of the others wants.
        """
        greeting = routing_pb2.Greeting(node_id=self._processes.node_id)

        async def ask(node_id: str) -> routing_pb2.EndpointTable | None:
            try:
                answer = await self._processes.call(node_id, GREET, greeting)
            except PeerUnreachableError:
                return None
            subscribed(answer.subscription)
            return answer.table

        found = await asyncio.gather(*map(ask, self._processes.others(nodes)))
        tables = [table for table in found if table is not None]
        for table in sorted(tables, key=lambda table: table.version):
            if table.version > self._registry.version:
                self._take(table)
        decider = _decider(nodes)
        return decider in (None, self._processes.node_id, *(table.node_id for table in tables))

    async def _tell_all(self, nodes: tuple[Node, ...]) -> None:
        """Have all others mirror the table, those that do not answer excepted."""
        await asyncio.gather(*map(self._tell, self._processes.others(nodes)))

    async def _tell(self, node_id: str) -> None:
        # One at a time each: changes that come meanwhile travel together.
        async with self._telling.setdefault(node_id, asyncio.Lock()):
            while self._known.get(node_id) != self._registry.version:
                table = self.table()
                try:
                    answer = await self._processes.call(node_id, TABLE, table, TELL_S)
                except PeerUnreachableError:
                    return  # tick() tries again
                if answer.is_taken:
                    self._known[node_id] = table.version
                elif not self._is_deciding:
                    return
                else:  # two have decided, or it has changed its own
                    registry = self._registry
                    registry.version = max(registry.version, answer.version) + 1

    def table(self) -> routing_pb2.EndpointTable:
        """Return all registered endpoints."""
        return routing_pb2.EndpointTable(
            node_id=self._processes.node_id,
            version=self._registry.version,
            endpoints=[
                routing_pb2.RegisteredEndpoint(
                    service=endpoint.service,
                    address=endpoint.address,
                    zone=endpoint.zone,
                    weight=endpoint.weight,
                    lease_id=endpoint.lease_id,
                    lease_seconds=endpoint.lease,
                    caller_ip=endpoint.caller_ip,
                    owner=endpoint.owner,
                    renewals=endpoint.renewals,
                )
                for endpoint in self._registry.registered()
            ],
        )

    async def tick(self, nodes: tuple[Node, ...]) -> None:
        """Notice who decides now, and tell of leases that have ended. Call it once a second."""
        there = {node.node_id for node in nodes}
        for known in (self._known, self._telling):
            for gone in known.keys() - there:
                del known[gone]
        if await self._decides(nodes):
            await self._tell_all(nodes)

    # The others.

    def mirrored(
        self, table: routing_pb2.EndpointTable, deadline: float
    ) -> routing_pb2.TableAnswer:
        """Mirror the table of the process that decides."""
        del deadline
        version = self._registry.version
        if self._is_stopped:
            return routing_pb2.TableAnswer(version=version)
        if table.version > version:
            self._take(table)
        is_taken = table.version > version or (table.node_id, table.version) == (
            self._source,
            version,
        )
        return routing_pb2.TableAnswer(is_taken=is_taken, version=version)

    def _take(self, table: routing_pb2.EndpointTable) -> None:
        self._source = table.node_id
        self._is_deciding = False
        self._registry.mirror(
            (
                Registration(
                    endpoint.service,
                    endpoint.address,
                    endpoint.zone,
                    endpoint.weight,
                    endpoint.lease_id,
                    lease=endpoint.lease_seconds,
                    caller_ip=endpoint.caller_ip,
                    owner=endpoint.owner,
                    renewals=endpoint.renewals,
                )
                for endpoint in table.endpoints
            ),
            table.version,
        )


def _decider(nodes: tuple[Node, ...]) -> str | None:
    """Return the process that decides: the first of those with a good lease."""
    return next((node.node_id for node in nodes if node.leased), None)
