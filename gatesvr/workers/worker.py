"""WorkerServer: a gateway that is one of several, under a supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ..cluster.hub import HUB, HubDirectory
from ..cluster.peer_link import PeerLinks
from ..errors import ConfigError, GatesvrError
from ..gateway import Gateway, Membership
from ..observe.log import keys
from ..observe.version import package_version
from ..overload import resident_bytes
from ..reload import follow_log
from ..transport.siblings import Siblings
from .assignment import (
    Cover,
    Farewell,
    Go,
    Hurry,
    Leave,
    Ready,
    board_file,
    datagram_socket,
    hub_socket,
    peer_socket,
)
from .board import BEAT_S, Board, BoardLoads, Row
from .calls import (
    RELOAD,
    STATUS,
    Nothing,
    Reloaded,
    ReloadOrder,
    WorkerStatus,
    pack,
    unpack,
)
from .desk import AdminDesk
from .questions import figures_to_bytes
from .shares import Limits, Member, divided

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from google.protobuf.wrappers_pb2 import BytesValue

    from ..config import Config
    from .assignment import Assignment, Channel

__all__ = ["WorkerServer"]

logger = logging.getLogger("gatesvr.workers")


class WorkerServer:
    """One process of a gateway, from its assignment to its end.

    Args:
        assignment: What its supervisor wants of it.
        channel: The way to the supervisor, whose end is the supervisor's end.

    Attributes:
        gateway: What serves.
        links: The way to its siblings and to the supervisor.
        is_hurried: Whether it was told to end without a drain.
    """

    def __init__(self, assignment: Assignment, channel: Channel) -> None:
        self.is_hurried = False
        self._is_orphan = False
        self._assignment = assignment
        self._channel = channel
        self.links = PeerLinks(assignment.node_id)
        self.links.add(HUB, hub_socket(assignment.folder))
        directory = HubDirectory(self.links)
        self.links.learn_from(directory)
        number = assignment.number
        self._board = Board(board_file(assignment.folder))
        self._member = Member(self._board, number, self._row, self._hold)
        self._beats: asyncio.TimerHandle | None = None
        siblings = Siblings(
            number,
            assignment.key,
            Path(assignment.folder),
            BoardLoads(self._board, number, self._load),
            _sockets(assignment.sockets),
            secret=assignment.secret,
            others={slot: _sockets(each) for slot, each in assignment.others.items()},
        )
        self.gateway = Gateway(
            self._part(assignment.config),
            Membership(
                node_id=assignment.node_id,
                address=peer_socket(assignment),
                directory=directory,
                peers=self.links,
                siblings=siblings,
            ),
        )
        self.gateway.on_drain = self._leaves
        self.gateway.more_counters["peers"] = self.links.counters
        self._desk = AdminDesk(self.gateway)
        self._stop = asyncio.Event()
        self._drain = Leave()

    async def start(self) -> None:
        """Serve.

        Raises:
            GatesvrError: It cannot.
        """
        handlers = {
            **self.gateway.handlers(),
            **self._desk.handlers(),
            RELOAD: self._on_reload,
            STATUS: self._on_status,
        }
        await self.links.serve(peer_socket(self._assignment), handlers)
        self._member.take()
        await self.gateway.start()
        self._member.hold()  # some of it there was nothing yet to hold
        self._beat()

    async def run(self, summary: dict[str, Any], released: Callable[[], None]) -> None:
        """Serve until a drain has ended, whoever began it; the supervisor's end begins one.

        Args:
            summary: What a banner says.
            released: Called when the worker is one of the gateway's, and may log.
        """
        gateway = self.gateway
        ready = Ready(
            version=package_version(),
            udp=gateway.address,
            web=gateway.web_address,
            grpc=gateway.grpc_address,
            summary=summary,
        )
        self._channel.send(ready)
        watch = asyncio.create_task(self._watch(released))
        try:
            await self._stop.wait()
            order = self._drain
            if order.nodes:
                # Others read them too. What comes for connections here, these hand on.
                gateway.listener.set_reading(is_reading=False)
            await gateway.drain(
                order.rate,
                order.timeout,
                ready_wait=order.ready_wait,
                to=order.to,
                to_web=order.to_web,
                handover=gateway.handover(order.nodes) if order.nodes else None,
            )
        finally:
            watch.cancel()

    async def stop(self) -> None:
        """End what start() began. Idempotent."""
        self._desk.close()
        self._channel.send(Farewell(figures=figures_to_bytes(self.gateway.figures())))
        await self.gateway.stop()
        if self._beats is not None:
            self._beats.cancel()
        await self.links.close()
        if self._is_orphan:
            self._clear()

    def _clear(self) -> None:
        """Remove what a supervisor would, and the folder with the last worker."""
        folder = Path(self._assignment.folder)
        for path in (peer_socket(self._assignment), datagram_socket(self._assignment)):
            Path(path).unlink(missing_ok=True)
        if not any(folder.glob("*.peer")):
            shutil.rmtree(folder, ignore_errors=True)

    def leave(self, order: Leave | None = None) -> None:
        """Begin to drain, and then end; a second call changes nothing."""
        if not self._stop.is_set():
            self._drain = order or Leave()
            self._stop.set()

    def hurry(self) -> None:
        """Close all connections, and end."""
        self.is_hurried = True
        self.leave(Leave(timeout=0.0, ready_wait=0.0))
        self.gateway.hurry()

    def _cover(self, slots: list[int]) -> None:
        """Take what comes for slots that have no worker."""
        self.gateway.listener.cover(slots)
        self.gateway.web.cover(slots)

    def _leaves(self) -> None:
        """The gateway drains, because somebody has asked it to."""
        self._stop.set()

    async def _watch(self, released: Callable[[], None]) -> None:
        """Hear the supervisor until it has ended."""
        try:
            while (order := await self._channel.receive(Go | Cover | Leave | Hurry)) is not None:
                released()
                if isinstance(order, Cover):
                    self._cover(order.slots)
                elif isinstance(order, Leave):
                    self.leave(order)
                elif isinstance(order, Hurry):
                    self.hurry()
        except GatesvrError as error:
            logger.error("supervisor_not_understood", extra=keys(why=error))
        released()
        self._is_orphan = True
        logger.warning("supervisor_gone")
        self.leave()

    # What all workers know of each other.

    def _part(self, config: Config) -> Config:
        """Return this worker's part of a configuration."""
        slots = self._assignment.slots
        return divided(config, self._assignment.number % slots, slots)

    def _beat(self) -> None:
        self._beats = asyncio.get_running_loop().call_later(BEAT_S, self._beat)
        self._member.tick()

    @property
    def _connections(self) -> int:
        return len(self.gateway.listener.connections) + len(self.gateway.web.connections)

    @property
    def _is_accepting(self) -> bool:
        return not self._stop.is_set() and self.gateway.drain_status().phase == "serving"

    def _load(self) -> int | None:
        return self._connections if self._is_accepting else None

    def _row(self) -> Row:
        gateway = self.gateway
        requests = gateway.processor.counters
        used = Limits(
            connections=self._connections,
            queues_bytes=gateway.session_manager.queued_bytes,
            memory_bytes=resident_bytes(),
            push_streams=gateway.engine.commands.counters.streams,
            event_subscribers=len(gateway.session_manager.events),
        )
        return Row(
            os.getpid(),
            is_accepting=self._is_accepting,
            connections=used.connections,
            requests=requests.queued + requests.running,
            used=used,
        )

    def _hold(self, limits: Limits) -> None:
        self.gateway.limit(**limits._asdict())

    # What the supervisor asks.

    def _on_reload(self, request: BytesValue, _: float) -> BytesValue:
        before = self.gateway.config.log
        try:
            self.gateway.apply(self._part(unpack(request, ReloadOrder).config))
            self._member.hold()
        except (ConfigError, RuntimeError) as error:
            return pack(Reloaded(error=str(error)))
        follow_log(before, self.gateway.config.log)
        return pack(Reloaded())

    def _on_status(self, request: BytesValue, _: float) -> BytesValue:
        unpack(request, Nothing)
        gateway = self.gateway
        return pack(WorkerStatus(not_ready=gateway.not_ready(), drain=gateway.drain_status()))


def _sockets(descriptors: dict[str, list[int]]) -> dict[str, list[socket.socket]]:
    """Return inherited sockets, which no child of this process inherits."""
    found = {name: [socket.socket(fileno=fd) for fd in fds] for name, fds in descriptors.items()}
    for sock in (sock for socks in found.values() for sock in socks):
        sock.set_inheritable(False)
    return found
