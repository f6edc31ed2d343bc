"""Owning: what follows when the directory says that this node owns a session, or does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol.messages import LostReason
from ..session.role import Role
from .directory import DirectoryUnreachableError
from .entries import Tombstone

if TYPE_CHECKING:
    from ..session.session import Session
    from .context import NodeContext
    from .entries import Entry
    from .logins import Logins
    from .renewal import Renewal
    from .results import Forwards

__all__ = ["Owning"]


class Owning:
    """Makes copies a node's own, and drops those that are not.

    Args:
        context: The node's.
        forwards: Sends results to the owners of their sessions.
    """

    def __init__(self, context: NodeContext, forwards: Forwards) -> None:
        self._context = context
        self._forwards = forwards
        self.logins: Logins
        self.renewal: Renewal

    def own(self, session: Session, epoch: int, *, is_awaited: bool = False) -> None:
        """Own a session from now on: apply what was kept, start what was not started (M5-M8).

        Args:
            session: A creating, arriving or leaving copy.
            epoch: Its new epoch.
            is_awaited: Whether a START waits for it.
        """
        context = self._context
        now = context.clock()
        is_new = session.role is Role.CREATING
        if not context.sessions.moves.own(session, epoch, now, is_awaited=is_awaited) or is_new:
            return
        context.dispatcher.moved.adopt(session, now)
        if session.is_valid and session.login_answer is not None:
            self.logins.begin(session)
        if session.moved_calls:
            context.tasks.start(self._watch_nodes())

    async def _watch_nodes(self) -> None:
        """Look at once whether the nodes still live that have called services for a session."""
        try:
            await self.renewal.watch_nodes()
        except DirectoryUnreachableError:
            return  # the next renewal looks again

    def end_idle(self, session: Session) -> None:
        """Close a session that nobody waits for any more, if nothing else keeps it (M4)."""
        if session.is_valid:
            self._context.sessions.moves.end_idle(session, self._context.clock())

    def forget(self, session: Session) -> None:
        """Drop a copy that is not this node's; what is kept for its owner goes there."""
        context = self._context
        context.sessions.moves.forget(session, context.clock())
        self._forwards.wake(session.session_id)

    def lose(self, session: Session, found: Entry | Tombstone | None) -> None:
        """Drop an own session of which the directory has something else (M10).

        Args:
            session: The session.
            found: What the directory has of it.
        """
        context = self._context
        context.counters.lost += 1
        if isinstance(found, Tombstone):
            self.end(session, found.reason)
        else:
            self.forget(session)

    def end(self, session: Session, reason: LostReason) -> None:
        """Close a copy in any role: the session was replaced or kicked."""
        sessions, now = self._context.sessions, self._context.clock()
        if reason is LostReason.REPLACED:
            sessions.replace(session, now)
        else:
            sessions.kick(session, "kicked", now)
