"""Starts: a START makes a session that the directory knows, or fetches it from its owner (M2-M4).

::

    START ─▶ no session named ─▶ made, CREATING ─▶ create() ─▶ owned, START_RESP
      │
      ├─▶ owned here ─▶ resumed, without the directory
      ├─▶ another copy here ─▶ 503
      └─▶ read() ─▶ none ─▶ UNKNOWN_SESSION, and a session as above
                ├▶ tombstone ─▶ 403, 4410
                └▶ entry ─▶ Take to its owner ─▶ State ─▶ ARRIVING ─▶ move() ─▶ owned, START_RESP
                                              ├▶ refused ─▶ its refusal
                                              ├▶ not its owner ─▶ look again
                                              └▶ no answer ─▶ its lease is out ─▶ bury()

What the directory is asked to write is asked in tasks of the node: the end of the START, or of its
connection, stops nothing of it.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

from .._pb import cluster_pb2 as pb
from .._pb import message_pb2
from ..errors import CloseCode, ErrorCode, ExportError, SessionError
from ..session.outcome import StartOutcome, refuse_start
from ..session.role import Role
from .calls import TAKE, TAKEN
from .directory import DirectoryUnreachableError
from .entries import Entry, Tombstone
from .peers import PeerUnreachableError

if TYPE_CHECKING:
    from ..protocol.identity import Identity
    from ..protocol.link import Link
    from ..session.session import Session
    from .context import NodeContext
    from .ends import Ends
    from .owning import Owning

__all__ = ["Starts"]

START_S = 5.0
"""How long a START waits in all."""
TAKE_S = 1.5
"""How long it waits for the owner of its session."""
LOOKS = 4
"""Times that it looks into the directory at most."""
LOOK_PAUSE_S = 0.02
RETRY_MS = 500
"""retry_after_ms of a START that cannot be decided now."""


class Starts:
    """Answers the STARTs of a node.

    Args:
        context: The node's.
        owning: Makes copies the node's own.
        ends: Sessions that have ended here.
    """

    def __init__(self, context: NodeContext, owning: Owning, ends: Ends) -> None:
        self._context = context
        self._owning = owning
        self._ends = ends
        self._moves = (f"{context.node_id}-{number}" for number in count(1))

    def next_move_id(self) -> str:
        """Return a move_id that no other move has."""
        return next(self._moves)

    async def start(
        self,
        start: message_pb2.StartRequest,
        link: Link,
        identity: Identity | None,
        auth_deadline: float,
    ) -> StartOutcome:
        """Answer a START; see dispatch's ClusterNode.start_session()."""
        context = self._context
        try:
            async with asyncio.timeout(START_S):
                return await self._start(start, link, identity, auth_deadline)
        except (DirectoryUnreachableError, TimeoutError):
            context.counters.starts_undecided += 1
            return _refuse("the session's owner cannot be told")

    async def _start(
        self,
        start: message_pb2.StartRequest,
        link: Link,
        identity: Identity | None,
        auth_deadline: float,
    ) -> StartOutcome:
        context = self._context
        sessions, directory = context.sessions, context.directory
        session_id = start.session_id
        if sessions.is_draining or not session_id:
            return await self._create(start, link, identity, auth_deadline)
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(LOOK_PAUSE_S)
            if link.is_closing:
                return _refuse("the connection has ended")
            copy = context.copy(session_id)
            if copy is not None and copy.role is Role.OWN:
                return sessions.start(start, link, context.clock(), identity, auth_deadline)
            if copy is not None or session_id in self._ends:
                return self._refuse_moving()
            found = await context.ask(directory.read, session_id)
            if isinstance(found, Tombstone):
                sessions.tombstones.add(session_id, found.reason, context.clock())
            if not isinstance(found, Entry):
                return await self._create(start, link, identity, auth_deadline)
            if found.owner == context.node_id:
                continue
            move_id = self.next_move_id()
            answer = await self._take(move_id, start, link, identity, found)
            if isinstance(answer, StartOutcome):
                return answer
            if answer is None:
                return await self._create(start, link, identity, auth_deadline)
            if answer.result == pb.TAKE_GIVEN:
                arriving = self._copy_of(answer.state)
                if arriving is None:
                    return self._refuse_moving()
                return await self._welcome(arriving, found, move_id, link, identity, auth_deadline)
        return self._refuse_moving()

    # New sessions.

    async def _create(
        self,
        start: message_pb2.StartRequest,
        link: Link,
        identity: Identity | None,
        auth_deadline: float,
    ) -> StartOutcome:
        """Make a session, and answer START when the directory knows of it."""
        context = self._context
        if link.is_closing:
            return _refuse("the connection has ended")
        if context.is_cut_off():
            context.counters.starts_cut_off += 1
            return _refuse("the directory is out of reach")
        outcome = context.sessions.start(start, link, context.clock(), identity, auth_deadline)
        session = outcome.session
        if session is None or session.epoch:
            return outcome
        context.sessions.moves.create(session)
        entered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        context.tasks.start(self._enter(session, entered))
        is_started = False
        try:
            is_started = await entered and not link.is_closing and session.link is link
        finally:
            if not is_started:
                if session.link is link:
                    session.detach(context.clock())
                if session.role is Role.OWN:
                    self._owning.end_idle(session)
        return outcome if is_started else self._refuse_moving()

    async def _enter(self, session: Session, entered: asyncio.Future[bool]) -> None:
        """Enter a new session in the directory, and own it."""
        context = self._context
        entry = await context.certainly(
            context.directory.create, session.session_id, context.node_id, session.openid
        )
        if context.copy(session.session_id) is session and session.role is Role.CREATING:
            if entry is None:
                context.sessions.moves.discard(session, context.clock())
            else:
                self._owning.own(session, entry.epoch, is_awaited=not entered.done())
        if not entered.done():
            entered.set_result(session.is_valid)

    # Sessions of other nodes.

    async def _take(
        self,
        move_id: str,
        start: message_pb2.StartRequest,
        link: Link,
        identity: Identity | None,
        entry: Entry,
    ) -> pb.TakeAnswer | StartOutcome | None:
        """Ask the owner of a session for it.

        Returns:
            Its answer, where that decides nothing yet; the START's refusal; None where the session
            has ended with its owner.
        """
        context = self._context
        request = pb.TakeRequest(
            move_id=move_id,
            session_id=entry.session_id,
            epoch=entry.epoch,
            start=start.SerializeToString(),
            ip=link.peer[0],
        )
        if identity is not None:
            request.identity.openid = identity.openid
        try:
            answer = await context.peers.call(entry.owner, TAKE, request, TAKE_S)
        except PeerUnreachableError:
            return await self._bury(entry)
        if answer.result == pb.TAKE_MOVING:
            return self._refuse_moving()
        if answer.result == pb.TAKE_REFUSED:
            return StartOutcome(
                None,
                message_pb2.StartResponse.FromString(answer.start_response),
                CloseCode(answer.close_code),
                answer.close_reason,
            )
        return answer

    async def _bury(self, entry: Entry) -> pb.TakeAnswer | StartOutcome | None:
        """End a session whose owner does not answer, if its lease is out; see _take()."""
        context, directory = self._context, self._context.directory
        if await context.ask(directory.is_leased, entry.owner):
            return self._refuse_moving()
        if await context.certainly(directory.bury, entry.session_id, entry.owner, entry.epoch):
            context.counters.buried += 1
            return None
        return pb.TakeAnswer(result=pb.TAKE_NOT_OWNER)

    async def _welcome(
        self,
        session: Session,
        entry: Entry,
        move_id: str,
        link: Link,
        identity: Identity | None,
        auth_deadline: float,
    ) -> StartOutcome:
        """Answer START when its session, which has been installed, is owned here."""
        context = self._context
        generation = session.generation
        arrived: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        context.tasks.start(self._arrive(session, entry.owner, entry.epoch, move_id, arrived))
        is_started = False
        try:
            is_started = (
                await arrived
                and session.is_valid
                and not link.is_closing
                and session.link is None
                and session.generation == generation
            )
        finally:
            if not is_started and session.role is Role.OWN:
                self._owning.end_idle(session)
        if not is_started:
            return self._refuse_moving()
        moves = context.sessions.moves
        return moves.attach(session, link, context.clock(), identity, auth_deadline)

    def _copy_of(self, state: bytes) -> Session | None:
        """Install a session, which then is arriving; None where that cannot be."""
        context = self._context
        try:
            return context.sessions.moves.install(state, context.clock())
        except (ExportError, SessionError):
            context.counters.states_refused += 1
            return None

    async def _arrive(
        self,
        session: Session,
        owner: str,
        epoch: int,
        move_id: str,
        arrived: asyncio.Future[bool] | None = None,
    ) -> None:
        """Own an arriving session if the directory says so (M4).

        Args:
            session: The copy.
            owner: Who owned it when it was exported.
            epoch: In which epoch.
            move_id: The move's.
            arrived: Told whether this node owns it; a START waits for it until it is done.
        """
        context = self._context
        session_id = session.session_id
        found = await context.certainly(
            context.directory.move, session_id, owner, epoch, context.node_id
        )
        if context.copy(session_id) is session and session.role is Role.ARRIVING:
            if is_moved(found, context.node_id, epoch):
                is_awaited = arrived is not None and not arrived.done()
                self._owning.own(session, epoch + 1, is_awaited=is_awaited)
                taken = pb.TakenRequest(session_id=session_id, move_id=move_id)
                context.peers.tell(owner, TAKEN, taken)
            else:
                context.counters.arrivals_lost += 1
                self._owning.forget(session)
        if arrived is not None and not arrived.done():
            arrived.set_result(session.is_valid)

    def receive(self, request: pb.GiveRequest, until: float) -> pb.GiveAnswer:
        """Install a session whose owner leaves, unless there is a copy of it (M12)."""
        session_id = request.session_id
        context = self._context
        if (
            session_id in self._ends
            or context.copy(session_id) is not None
            or context.sessions.is_draining
            or (session := self._copy_of(request.state)) is None
        ):
            return pb.GiveAnswer()
        context.tasks.start(self._arrive(session, request.owner, request.epoch, request.move_id))
        return pb.GiveAnswer(is_taken=True)

    def _refuse_moving(self) -> StartOutcome:
        self._context.counters.starts_moving += 1
        return _refuse("the session is moving")


def is_moved(found: Entry | Tombstone | None, to: str, epoch: int) -> bool:
    """Return whether what a move has found is its own effect."""
    return isinstance(found, Entry) and found.owner == to and found.epoch == epoch + 1


def _refuse(message: str) -> StartOutcome:
    return refuse_start(ErrorCode.BUSY, CloseCode.OVERLOADED, message, retry_after_ms=RETRY_MS)
