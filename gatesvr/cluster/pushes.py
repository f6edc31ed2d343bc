"""Pushes: a push or a kick for one session by its id, wherever it is (M9)."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

from .._pb import cluster_pb2 as pb
from .._pb import upstream_pb2
from ..errors import CloseCode
from ..session.notify import BUSY_SUSPENDED, MOVING
from ..session.role import Role
from .calls import KICK, PUSH
from .directory import DirectoryUnreachableError
from .entries import Entry
from .peers import PeerNotAskedError, PeerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..session.session import Session
    from .context import NodeContext
    from .ends import Ends

__all__ = ["Pushes"]

PUSH_S = 1.0
"""How long the owner of a session is looked for."""
PAUSE_S = 0.01
LAST_PAUSE_S = 0.1
"""Pauses between the looks: from the first one, twice as long each time."""
MAX_OWNERS = 16_384
"""Sessions whose last known owner is remembered."""
MAX_TRIES = 65_536
"""Tries of other nodes' pushes remembered; each is forgotten when its time is up."""


class Pushes:
    """Routes pushes and kicks to the owners of their sessions, and takes those of other nodes.

    Args:
        context: The node's.
        ends: Sessions that have ended here.
        push: Pushes to a session of this process, whichever way the push names it.
    """

    def __init__(
        self,
        context: NodeContext,
        ends: Ends,
        push: Callable[
            [Session, upstream_pb2.UnicastPushRequest], upstream_pb2.UnicastPushResponse
        ],
    ) -> None:
        self._context = context
        self._ends = ends
        self._push = push
        self._names = (f"{context.node_id}:{number}" for number in count(1))
        self._owners: dict[str, str] = {}  # of sessions that were pushed to last
        # Tries, with their answer and the time at which nobody waits for it any more.
        self._answered: dict[str, tuple[pb.OwnedPushAnswer, float]] = {}

    async def push(
        self,
        session_id: str,
        request: upstream_pb2.UnicastPushRequest,
        *,
        needs_login: bool = False,
        owner: str = "",
    ) -> upstream_pb2.UnicastPushResponse:
        """Push to one session, wherever it is.

        Args:
            session_id: The session.
            request: The push, whatever its target. It gets a push_id if it has none.
            needs_login: Whether it is for the user: a session that has not logged in is none.
            owner: Who the directory has just said owns it; empty: it is asked.

        Returns:
            What the owner said; NOT_FOUND where there is none; BUSY where none was found in time;
            UNKNOWN where one may have taken it, and none has said so.
        """
        answer = self._own_push(session_id, request, needs_login)
        if answer.result == pb.OWNER_DONE:
            return answer.response
        context = self._context
        until = context.time() + PUSH_S
        if not request.push_id:
            request.push_id = next(self._names)
        is_unsure = False
        pause = PAUSE_S
        # Who had it last has it still, nearly always; who has not, says so.
        found: str | None = owner or self._owners.get(session_id, "")
        is_guess = not owner
        while (left := until - context.time()) > 0:
            if not found:
                is_guess = False
                found = await self._owner(session_id, left)
            if found is None:
                return self._unsure() if is_unsure else _NOT_FOUND
            if found == context.node_id:
                answer = self._own_push(session_id, request, needs_login)
            elif found and (left := until - context.time()) > 0:
                routed = await self._push_at(found, session_id, request, needs_login, left)
                is_unsure |= routed is None
                answer = _MOVING if routed is None else routed
            if answer.result == pb.OWNER_DONE:
                if found:
                    self._remember(session_id, found)
                response = answer.response
                return self._unsure() if is_unsure and not response.success else response
            found = ""
            self._owners.pop(session_id, None)
            if not is_guess:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE_S)
        if is_unsure:
            return self._unsure()
        context.counters.pushes_unrouted += 1
        return upstream_pb2.UnicastPushResponse(
            error_code="BUSY", message="the session is moving", retry_after_ms=MOVING.retry_after_ms
        )

    async def _push_at(
        self,
        owner: str,
        session_id: str,
        request: upstream_pb2.UnicastPushRequest,
        needs_login: bool,
        within: float,
    ) -> pb.OwnedPushAnswer | None:
        """Return what a session's owner says to a push; None where it may have taken it."""
        context = self._context
        context.counters.pushes_routed += 1
        owned = pb.OwnedPushRequest(
            session_id=session_id,
            needs_login=needs_login,
            push=request,
            try_id=next(self._names),
        )
        try:
            return await context.peers.call(owner, PUSH, owned, within)
        except PeerNotAskedError:
            return _MOVING
        except PeerUnreachableError:
            return None

    def _remember(self, session_id: str, owner: str) -> None:
        """Keep who has taken a push for a session."""
        owners = self._owners
        if len(owners) >= MAX_OWNERS and session_id not in owners:
            del owners[next(iter(owners))]
        owners[session_id] = owner

    async def _owner(self, session_id: str, within: float) -> str | None:
        """Return who owns a session: None for nobody, empty where the directory does not say."""
        context = self._context
        try:
            async with asyncio.timeout(within):
                found = await context.ask(context.directory.read, session_id)
        except (DirectoryUnreachableError, TimeoutError):
            return ""
        return found.owner if isinstance(found, Entry) else None

    def _unsure(self) -> upstream_pb2.UnicastPushResponse:
        self._context.counters.pushes_unsure += 1
        return upstream_pb2.UnicastPushResponse(
            error_code="UNKNOWN", message="it may have been taken: repeat it with the same push_id"
        )

    def take(self, request: pb.OwnedPushRequest, until: float) -> pb.OwnedPushAnswer:
        """Take a push of another node, if this one owns the session.

        A try that comes again is answered as it was: one that was not taken is not taken later,
        since its sender may have told its pusher so; one that was taken is not unknown once its
        session has gone. One that nobody waits for is not taken: its push_id may be forgotten
        here by now (Outbox).
        """
        now = self._context.time()
        answered = self._answered
        while answered:
            oldest = next(iter(answered))
            if answered[oldest][1] > now and len(answered) <= MAX_TRIES:
                break
            del answered[oldest]
        known = answered.get(request.try_id)
        if known is not None:
            return known[0]
        if now >= until:
            self._context.counters.pushes_late += 1
            return _MOVING
        answer = self._own_push(request.session_id, request.push, request.needs_login)
        answered[request.try_id] = (answer, until)
        return answer

    def _own_push(
        self, session_id: str, request: upstream_pb2.UnicastPushRequest, needs_login: bool
    ) -> pb.OwnedPushAnswer:
        """Take a push if this node owns the session."""
        context = self._context
        session = context.copy(session_id)
        if session is None:
            return _NOT_OWNER
        if session.role is not Role.OWN or (needs_login and not session.is_logged_in):
            return _MOVING
        if session.link is None and context.is_cut_off():
            return _CUT_OFF
        return pb.OwnedPushAnswer(result=pb.OWNER_DONE, response=self._push(session, request))

    # Kicks.

    async def kick(self, session_id: str, request: upstream_pb2.KickRequest) -> bool:
        """End a session, wherever it is, logged in or not.

        Args:
            session_id: The session.
            request: The kick, whatever its target; it is valid.

        Returns:
            Whether there was such a session.

        Raises:
            PeerUnreachableError: No owner of it answered in time; it may have ended.
        """
        context = self._context
        until = context.time() + PUSH_S
        result = self._own_kick(session_id, request)
        pause = PAUSE_S
        was_asked = False
        while result != pb.OWNER_DONE and (left := until - context.time()) > 0:
            owner = await self._owner(session_id, left)
            if owner is None:
                return was_asked
            if owner == context.node_id:
                result = self._own_kick(session_id, request)
            elif owner and (left := until - context.time()) > 0:
                context.counters.kicks_routed += 1
                was_asked = True
                owned = pb.OwnedKickRequest(session_id=session_id, kick=request)
                try:
                    result = (await context.peers.call(owner, KICK, owned, left)).result
                except PeerUnreachableError:
                    result = pb.OWNER_MOVING
            if result != pb.OWNER_DONE:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE_S)
        if result == pb.OWNER_DONE:
            return True
        context.counters.kicks_unrouted += 1
        raise PeerUnreachableError("no owner of the session answered in time")

    def take_kick(self, request: pb.OwnedKickRequest, until: float) -> pb.OwnedKickAnswer:
        """End a session that another node was told to kick, if this one owns it."""
        return pb.OwnedKickAnswer(result=self._own_kick(request.session_id, request.kick))

    def _own_kick(self, session_id: str, request: upstream_pb2.KickRequest) -> pb.OwnerResult:
        session: Session | None = self._context.copy(session_id)
        if session is None:
            return pb.OWNER_NOT_OWNER
        if session.role is not Role.OWN:
            return pb.OWNER_MOVING
        code = request.code or CloseCode.KICKED
        self._context.sessions.kick(session, request.reason, self._context.clock(), code)
        return pb.OWNER_DONE


_NOT_FOUND = upstream_pb2.UnicastPushResponse(error_code="NOT_FOUND", message="no such session")
_MOVING = pb.OwnedPushAnswer(result=pb.OWNER_MOVING)
_NOT_OWNER = pb.OwnedPushAnswer(result=pb.OWNER_NOT_OWNER)
_CUT_OFF = pb.OwnedPushAnswer(
    result=pb.OWNER_DONE,
    response=upstream_pb2.UnicastPushResponse(
        error_code="BUSY",
        message="the session's owner cannot be told",
        retry_after_ms=BUSY_SUSPENDED.retry_after_ms,
    ),
)
