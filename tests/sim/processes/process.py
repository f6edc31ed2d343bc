"""A process of the gateway: the real Engine and the real Node, on virtual connections and peers."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.cluster.node import Node
from gatesvr.errors import ProtocolError
from gatesvr.protocol.identity import Identity
from gatesvr.protocol.link import Link
from gatesvr.session.manager import SessionManager
from gatesvr.session.outcome import StartOutcome
from gatesvr.session.role import Role
from gatesvr.session.state import State

from ..gateway import VirtualEngine, check_end
from ..network import Connection
from ..upstream import Call, Upstream
from .wire import FarDirectory, FarPeers

if TYPE_CHECKING:
    from gatesvr.session.session import Session

    from .world import ProcessesWorld


class ProcessManager(SessionManager):
    """A SessionManager that tells the world what becomes of the sessions that it owns."""

    process: Process

    def start(
        self,
        start: pb.StartRequest,
        link: Link,
        now: float,
        identity: Identity | None = None,
        auth_deadline: float = math.inf,
    ) -> StartOutcome:
        outcome = super().start(start, link, now, identity, auth_deadline)
        session = outcome.session
        if session is not None and start.session_id and not outcome.response.resumed:
            self.process.world.automatic.add(session.session_id)
        return outcome

    def kick(self, session: Session, *args: Any) -> None:
        process = self.process
        is_own = session.state is not State.CLOSED and session.role is Role.OWN
        super().kick(session, *args)
        if is_own and not process.is_dead:
            process.world.ended[session.session_id] = "kicked"
            process.world.kickers[session.session_id] = process

    def close(self, session: Session, code: int, reason: str, now: float, **how: Any) -> None:
        process = self.process
        if session.state is not State.CLOSED and not process.is_dead:
            world = process.world
            world.note("%s closes %s: %d %s", process, session.session_id[:4], code, reason)
            world.counts[f"closed_{reason.replace(' ', '_')}"] += 1
            if session.role is Role.OWN:
                check_end(world.checker, session, code, reason)
                world.owner_ended(session)
        super().close(session, code, reason, now, **how)


class ProcessUpstream(Upstream):
    """The services as one process reaches them; the calls of all processes are one list."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.world)
        self.process = process
        self.calls = process.world.calls

    def is_running(self, call: Call) -> bool:
        session = self.process.sessions.by_id(call.session_id)
        return session is not None and call.client_seq in session.pending

    def _end(self, call: Call, response: up.UpstreamResponse) -> None:
        if not response.client_seq_id:
            assert isinstance(call.of, ProcessUpstream)
            world = self.process.world
            world.answered[call.name] = (call.of.process, call.deadline - world.now)
        super()._end(call, response)

    def _carry(self, call: Call, response: up.UpstreamResponse) -> None:
        # Where an ERROR has taken the answer's place, nobody gets what it carries.
        if call.client_seq not in self.world.checker._session(call.session_id).answered:
            super()._carry(call, response)

    def forget(self) -> None:
        self.calls[:] = [call for call in self.calls if call.of is not self]


class ProcessConnection(Connection):
    """A connection whose START may wait for other processes."""

    _task: asyncio.Task[None] | None = None
    gateway: Any  # a Process: it has a dispatcher, as a Gateway does

    def work(self) -> None:
        """Let the connection task run; it may still wait for what it was woken for before."""
        if self._task is not None:
            return
        self.is_awake = False
        loop = self.world.loop
        self._task = loop.create_task(self.handler.work())
        self._task.add_done_callback(self._worked)
        loop.settle()

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled() or self.gateway.is_dead:
            return
        error = task.exception()
        if isinstance(error, ProtocolError):
            self.fail(error)
        elif error is not None:
            raise error


class Process(VirtualEngine):
    """One process: an Engine and its Node.

    Attributes:
        node_id: Its name in the directory.
        number: Its place; a process that follows a dead one has another id in the same place.
        is_dead: It has crashed, or has ended.
        is_ready: It has joined, and takes connections.
        is_leaving: It is about to end, and takes no more connections.
        was_out: Somebody was told that its lease is out.
        died_at: When it crashed.
    """

    sessions: ProcessManager

    def __init__(self, world: ProcessesWorld, number: int) -> None:
        self.world = world
        self.number = number
        self.node_id = world.random.randbytes(16).hex()
        self.is_dead = False
        self.is_ready = False
        self.is_leaving = False
        self.was_out = False
        self.died_at = math.inf
        self.upstream = ProcessUpstream(self)
        super().__init__(world, self.upstream, ProcessManager)
        self.sessions.process = self
        self._tap()
        self.directory: Any = FarDirectory(world.wire, self, world.directory)
        config = world.config.session
        self.node = Node(
            self.node_id,
            self.engine,
            self.directory,
            FarPeers(world.wire, self),
            address=f"place-{number}",
            lease=world.lease,
            on_duplicate=config.on_duplicate,
            max_logged_in=config.max_logged_in,
        )
        self.handlers = self.node.handlers()
        world.loop.call(self.processor.start)
        world.watch(self._start())

    def __repr__(self) -> str:
        return f"{'PQRS'[self.number]}{self.node_id[:3]}"

    async def _start(self) -> None:
        await self.node.start()
        self.is_ready = True
        self.world.note("%s is ready", self)

    def crash(self) -> None:
        """End at once; nobody is told."""
        self.is_dead = True
        self.died_at = self.world.now
        self.upstream.forget()

    def copies(self) -> list[Session]:
        """Return its copies of sessions, in whatever roles."""
        return list(self.sessions.index.by_id.values())

    def _tap(self) -> None:
        """Tell the world of what the owner of a session does to it."""
        world = self.world
        starter, moves, pushes = self.sessions._starter, self.sessions.moves, self.engine.commands
        attach, own, push = starter.attach, moves.own, pushes.pushes.push_to

        def attach_(session: Session, token: bytes, link: Any, *args: Any) -> StartOutcome:
            world.checker.resumed(session.session_id, link.ordinal)
            world.counts["resumes"] += 1
            world.attached_at[session.session_id] = world.now
            return attach(session, token, link, *args)

        def own_(session: Session, epoch: int, now: float, **how: Any) -> bool:
            if not self.is_dead:
                world.owner_began(self, session, epoch)
            return own(session, epoch, now, **how)

        def push_(session: Session, request: up.UnicastPushRequest) -> up.UnicastPushResponse:
            return world.pushers.at_owner(self, push, session, request)

        starter.attach = attach_  # type: ignore[method-assign]
        moves.own = own_  # type: ignore[method-assign]
        pushes.pushes.push_to = push_  # type: ignore[method-assign]

    def leftovers(self) -> dict[str, int]:
        node = self.node
        return {
            **super().leftovers(),
            "ends": len(node._ends),
            "departures": len(node._leaving),
            "tasks of the node": len(node._tasks),
            "logins under way": len(node._logins._under_way),
            "results under way": len(node._forwards._under_way),
            "copies": len(self.sessions.index.by_id),
            "results": len(self.sessions.context.results),
            "moved requests": len(self.dispatcher.moved),
        }
