"""Logins: hellos answered 200, decided by the directory's one transaction (M8).

``replace`` asks for it at once: the user's others lose their entries by it. ``reject`` and
``allow`` judge these first, by asking their owners whether they show life, and then log in under
the version of the set that was judged.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .._pb import cluster_pb2 as pb
from ..errors import CloseCode, ErrorCode
from ..protocol.messages import LostReason
from ..session.login import LOGGED_IN, SIGN_OF_LIFE_S, LoginVerdict, busy_verdict
from ..session.role import Role
from .calls import LIFE, REPLACED
from .directory import DirectoryUnreachableError
from .entries import Again, Busy, Done
from .peers import PeerUnreachableError

if TYPE_CHECKING:
    from ..session.session import Session
    from .context import NodeContext
    from .ends import Ends
    from .entries import Entry, Found
    from .owning import Owning

__all__ = ["Logins"]

LIFE_S = 1.0
"""How long the owner of another session is waited for."""
LOOKS = 5
"""Times that a user's sessions are judged at most."""
ELSEWHERE = LoginVerdict(CloseCode.KICKED, ErrorCode.FORBIDDEN, "logged in elsewhere")
"""A session made by a failed resume replaces no other (PROTOCOL 3.3)."""


class Logins:
    """Decides the logins of a node's sessions.

    Args:
        context: The node's.
        owning: Drops sessions that are not the node's any more.
        ends: Sessions that have ended here.
        on_duplicate: The policy: ``replace``, ``reject`` or ``allow``.
        max_logged_in: Sessions of a user with ``allow``.
    """

    def __init__(
        self,
        context: NodeContext,
        owning: Owning,
        ends: Ends,
        on_duplicate: str,
        max_logged_in: int,
    ) -> None:
        self._context = context
        self._owning = owning
        self._ends = ends
        self._under_way: dict[str, int] = {}
        self.apply(on_duplicate, max_logged_in)

    def apply(self, on_duplicate: str, max_logged_in: int) -> None:
        """Take another policy for the logins to come."""
        self._policy = on_duplicate
        self._max_logged_in = max_logged_in if on_duplicate == "allow" else 1

    def begin(self, session: Session) -> None:
        """Decide the login of an own session whose login_answer waits."""
        if self._under_way.get(session.session_id) != session.epoch:
            self._under_way[session.session_id] = session.epoch
            self._context.tasks.start(self._log_in(session, session.epoch))

    async def _log_in(self, session: Session, epoch: int) -> None:
        try:
            if self._policy == "replace":
                verdict = await self._replace(session, epoch)
            else:
                verdict = await self._judge(session, epoch)
        finally:
            if self._under_way.get(session.session_id) == epoch:
                del self._under_way[session.session_id]
        if verdict is not None and self._is_current(session, epoch):
            context = self._context
            context.dispatcher.login.decided(session, verdict, context.clock())

    def _is_current(self, session: Session, epoch: int) -> bool:
        """Return whether a session is still this node's, as it was when its login was begun."""
        return session.is_valid and session.epoch == epoch and session.login_answer is not None

    # replace.

    async def _replace(self, session: Session, epoch: int) -> LoginVerdict | None:
        """Log a session in, in place of its user's others; None where it is lost."""
        context = self._context
        found = await context.certainly(
            context.directory.login_replacing,
            session.session_id,
            context.node_id,
            epoch,
            after_failed_resume=session.is_after_failed_resume,
        )
        if not self._is_current(session, epoch):
            return None
        if isinstance(found, Busy):
            return ELSEWHERE
        return await self._settle(session, epoch, found)

    async def _settle(
        self, session: Session, epoch: int, found: Done | None
    ) -> LoginVerdict | None:
        """Tell the sessions that were replaced; drop the session itself where it is lost."""
        if found is None:
            await self._lose(session, epoch)
            return None
        for other in found.replaced:
            if other.owner == self._context.node_id:
                self._end(other.session_id)
            else:
                request = pb.ReplacedRequest(session_id=other.session_id)
                self._context.peers.tell(other.owner, REPLACED, request)
        return LOGGED_IN

    async def _lose(self, session: Session, epoch: int) -> None:
        """Drop a session whose login was refused: it is not this node's any more (M10)."""
        context = self._context
        context.counters.logins_lost += 1
        found = await context.certainly(context.directory.read, session.session_id)
        if session.is_valid and session.epoch == epoch:
            self._owning.lose(session, found)

    def replaced(self, request: pb.ReplacedRequest, until: float) -> pb.Nothing:
        """End the copy of a session whose user has logged in elsewhere; a hint."""
        self._end(request.session_id)
        return pb.Nothing()

    def _end(self, session_id: str) -> None:
        session = self._context.copy(session_id)
        if session is not None:
            self._owning.end(session, LostReason.REPLACED)

    # reject and allow.

    async def _judge(self, session: Session, epoch: int) -> LoginVerdict | None:
        """Log a session in if its user's others let it; None where it is lost."""
        context = self._context
        for _ in range(LOOKS):
            found = await context.certainly(context.directory.find, session.openid)
            victims = await self._victims(session, found)
            if not self._is_current(session, epoch):
                return None
            if isinstance(victims, LoginVerdict):
                return victims
            if victims is None:
                continue
            done = await context.certainly(
                context.directory.login_judged,
                session.session_id,
                context.node_id,
                epoch,
                version=found.version,
                victims=victims,
            )
            if not self._is_current(session, epoch):
                return None
            if not isinstance(done, Again):
                return await self._settle(session, epoch, done)
        return self._busy()

    async def _victims(
        self, session: Session, found: Found
    ) -> tuple[str, ...] | LoginVerdict | None:
        """Return the sessions that a login replaces; None where a look has to be taken again."""
        others = [entry for entry in found.entries if entry.session_id != session.session_id]
        if len(others) < len(found.entries) or len(others) < self._max_logged_in:
            return ()  # logged in before, or there is room
        is_allowed = self._policy == "allow"
        if session.is_after_failed_resume:
            return ELSEWHERE
        lives = await asyncio.gather(
            *(self._shows_life(other, other.owner in found.leased) for other in others)
        )
        if None in lives:
            return None
        dead = [other.session_id for other, life in zip(others, lives, strict=True) if not life]
        if is_allowed:
            return tuple(dead[:1]) if dead else self._busy()
        return tuple(dead) if len(dead) == len(others) else self._busy()

    def _busy(self) -> LoginVerdict:
        is_allowed = self._policy == "allow"
        return busy_verdict("too many logins" if is_allowed else "logged in elsewhere")

    async def _shows_life(self, entry: Entry, is_leased: bool) -> bool | None:
        """Return whether a session shows life; None where its owner has no copy of it."""
        context = self._context
        request = pb.LifeRequest(session_id=entry.session_id)
        if entry.owner == context.node_id:
            answer = self.life(request, 0.0)
        elif not is_leased:
            return False
        else:
            context.counters.life_questions += 1
            try:
                answer = await context.peers.call(entry.owner, LIFE, request, LIFE_S)
            except PeerUnreachableError:
                try:
                    return await context.ask(context.directory.is_leased, entry.owner)
                except DirectoryUnreachableError:
                    return True
        return answer.shows_life if answer.has_copy else None

    def life(self, request: pb.LifeRequest, until: float) -> pb.LifeAnswer:
        """Return whether a session shows life: its connection did of late, or it moves."""
        session_id = request.session_id
        if session_id in self._ends:
            return pb.LifeAnswer(has_copy=True)
        context = self._context
        session = context.copy(session_id)
        if session is None:
            return pb.LifeAnswer()
        link = session.link
        shows_life = session.role is not Role.OWN or (
            link is not None and context.clock() - link.last_heard <= SIGN_OF_LIFE_S
        )
        return pb.LifeAnswer(has_copy=True, shows_life=shows_life)
