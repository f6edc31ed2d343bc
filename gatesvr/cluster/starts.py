"""Starts: a START makes a session that the directory knows, or fetches it from its owner (M2-M4).

::

    START ─▶ no session named ─▶ made, CREATING ─▶ create() ─▶ owned, START_RESP
      │
      ├─▶ owned here ─▶ resumed, without the directory
      ├─▶ another copy here ─▶ 503
      └─▶ read() ─▶ none ─▶ UNKNOWN_SESSION, and a session as above
                ├▶ tombstone ─▶ 403, 4410
                └▶ entry ─▶ Take to its owner ─▶ State ─▶ arrivals.py ─▶ START_RESP
                                              ├▶ refused ─▶ its refusal
                                              ├▶ not its owner ─▶ look again
                                              └▶ no answer ─▶ its lease is out ─▶ bury()

What the directory is asked to write is asked in tasks of the node: the end of the START, or of its
connection, stops nothing of it.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from .._pb import cluster_pb2 as pb
from .._pb import message_pb2
from ..errors import CloseCode, ErrorCode
from ..session.outcome import StartOutcome, refuse_start
from ..session.role import Role
from .calls import TAKE
from .directory import DirectoryUnreachableError
from .entries import Entry, Tombstone
from .peers import PeerUnreachableError

if TYPE_CHECKING:
    from ..protocol.identity import Identity
    from ..protocol.link import Link
    from ..session.session import Session
    from .arrivals import Arrivals
    from .context import NodeContext
    from .ends import Ends
    from .owning import Owning

__all__ = ["Starting", "Starts"]

START_S = 5.0
"""How long a START waits in all."""
TAKE_S = 1.5
"""How long it waits for the owner of its session."""
LOOKS = 4
"""Times that it looks into the directory at most."""
LOOK_PAUSE_S = 0.02
RETRY_MS = 500
"""retry_after_ms of a START that cannot be decided now."""


class Starting(NamedTuple):
    """A START, and who sent it; see dispatch's ClusterNode.start_session()."""

    start: message_pb2.StartRequest
    link: Link
    identity: Identity | None
    auth_deadline: float


class _Look(Enum):
    """Why the owner of a session has not decided a START."""

    AGAIN = 0
    """It does not own the session."""
    ELSEWHERE = 1
    """The START, which names no session, does not continue this one."""


class Starts:
    """Answers the STARTs of a node.

    Args:
        context: The node's.
        owning: Makes copies the node's own.
        ends: Sessions that have ended here.
        arrivals: Installs sessions.
    """

    def __init__(
        self, context: NodeContext, owning: Owning, ends: Ends, arrivals: Arrivals
    ) -> None:
        self._context = context
        self._owning = owning
        self._ends = ends
        self._arrivals = arrivals
        self._moves = (f"{context.node_id}-{number}" for number in count(1))

    def next_move_id(self) -> str:
        """Return a move_id that no other move has."""
        return next(self._moves)

    async def start(self, starting: Starting) -> StartOutcome:
        """Answer a START."""
        try:
            async with asyncio.timeout(START_S):
                return await self._start(starting)
        except (DirectoryUnreachableError, TimeoutError):
            self._context.counters.starts_undecided += 1
            return _refuse("nobody can tell whose the session is")

    async def _start(self, starting: Starting) -> StartOutcome:
        sessions = self._context.sessions
        start, link, identity, _ = starting
        if identity is not None and not start.openid:
            start.openid = identity.openid
        if link.is_closing:
            return _GONE
        if sessions.is_draining:
            return await self._create(starting)
        if start.session_id:
            return await self._resume(starting)
        if sessions.may_be_base(start, identity):
            return await self._resume_base(starting)
        return await self._create(starting)

    async def _resume(self, starting: Starting) -> StartOutcome:
        """Answer the START of a client that names its session."""
        context = self._context
        session_id = starting.start.session_id
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(LOOK_PAUSE_S)
            copy = context.copy(session_id)
            if copy is not None and copy.role is Role.OWN:
                return self._resume_own(starting)
            if copy is not None or session_id in self._ends:
                return self._refuse_moving()
            found = await context.ask(context.directory.read, session_id)
            if isinstance(found, Tombstone):
                context.sessions.tombstones.add(session_id, found.reason, context.clock())
            if not isinstance(found, Entry):
                return await self._create(starting)
            if found.owner != context.node_id:
                outcome = await self._fetch(starting, found)
                if isinstance(outcome, StartOutcome):
                    return outcome
        return self._refuse_moving()

    async def _resume_base(self, starting: Starting) -> StartOutcome:
        """Answer the START of a base client, which names its openid alone (PROTOCOL 9)."""
        context = self._context
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(LOOK_PAUSE_S)
            found = await context.ask(context.directory.find, starting.start.openid)
            outcome: StartOutcome | _Look = _Look.ELSEWHERE
            for entry in reversed(found.entries):
                copy = context.copy(entry.session_id)
                if copy is not None:
                    if copy.role is not Role.OWN:
                        return self._refuse_moving()
                    if copy.protocol == 0:
                        return self._resume_own(starting)
                elif entry.owner == context.node_id:
                    outcome = _Look.AGAIN
                    break
                else:
                    outcome = await self._fetch(starting, entry)
                    if outcome is not _Look.ELSEWHERE:
                        break
            if isinstance(outcome, StartOutcome):
                return outcome
            if outcome is _Look.ELSEWHERE:
                return await self._create(starting)
        return self._refuse_moving()

    def _resume_own(self, starting: Starting) -> StartOutcome:
        """Answer a START as a gateway of one process does, for a session that is owned here."""
        start, link, identity, auth_deadline = starting
        if link.is_closing:
            return _GONE
        context = self._context
        return context.sessions.start(start, link, context.clock(), identity, auth_deadline)

    # New sessions.

    async def _create(self, starting: Starting) -> StartOutcome:
        """Make a session, and answer START when the directory knows of it."""
        context = self._context
        if context.is_cut_off():
            context.counters.starts_cut_off += 1
            return _refuse("the directory is out of reach")
        outcome = self._resume_own(starting)
        session, link = outcome.session, starting.link
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

    async def _fetch(self, starting: Starting, entry: Entry) -> StartOutcome | _Look:
        """Fetch a session from its owner, which judges the START."""
        context = self._context
        start, link, identity, _ = starting
        request = pb.TakeRequest(
            move_id=self.next_move_id(),
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
            return await self._bury(starting, entry)
        if answer.result == pb.TAKE_NOT_OWNER:
            return _Look.AGAIN
        if answer.result == pb.TAKE_REFUSED:
            if not answer.start_response:
                return _Look.ELSEWHERE
            return StartOutcome(
                None,
                message_pb2.StartResponse.FromString(answer.start_response),
                CloseCode(answer.close_code),
                answer.close_reason,
            )
        if link.is_closing:
            return _GONE
        if answer.result == pb.TAKE_GIVEN:
            session = self._arrivals.install(answer.state)
            if session is not None:
                return await self._welcome(starting, session, entry, request.move_id)
        return self._refuse_moving()

    async def _bury(self, starting: Starting, entry: Entry) -> StartOutcome | _Look:
        """End a session whose owner does not answer, if its lease is out."""
        context, directory = self._context, self._context.directory
        if await context.ask(directory.is_leased, entry.owner):
            return self._refuse_moving()
        if not await context.certainly(directory.bury, entry.session_id, entry.owner, entry.epoch):
            return _Look.AGAIN
        context.counters.buried += 1
        return await self._create(starting)

    async def _welcome(
        self, starting: Starting, session: Session, entry: Entry, move_id: str
    ) -> StartOutcome:
        """Answer START when its session, which has been installed, is owned here."""
        context = self._context
        generation, link = session.generation, starting.link
        arrived: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        context.tasks.start(
            self._arrivals.arrive(session, entry.owner, entry.epoch, move_id, arrived)
        )
        is_started = False
        try:
            is_started = (
                await arrived
                and session.is_valid
                and not link.is_closing
                # Else another START has come meanwhile.
                and session.link is None
                and session.generation == generation
            )
        finally:
            if not is_started and session.role is Role.OWN:
                self._owning.end_idle(session)
        if not is_started:
            return self._refuse_moving()
        moves = context.sessions.moves
        identity, auth_deadline = starting.identity, starting.auth_deadline
        return moves.attach(session, link, context.clock(), identity, auth_deadline)

    def _refuse_moving(self) -> StartOutcome:
        self._context.counters.starts_moving += 1
        return _refuse("the session is moving")


def _refuse(message: str) -> StartOutcome:
    return refuse_start(ErrorCode.BUSY, CloseCode.OVERLOADED, message, retry_after_ms=RETRY_MS)


_GONE = _refuse("the connection has ended")
