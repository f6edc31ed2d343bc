"""Arrivals: sessions of other nodes that are installed here, until the directory has decided (M4).

::

    State ─▶ ARRIVING ─▶ move(S, A, e, B) ─▶ done ─▶ OWN, epoch e+1; Taken to A
                                           └▶ refused ─▶ the copy goes

Before "done" this node does nothing as an owner, and nothing stops the move once it was sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._pb import cluster_pb2 as pb
from ..errors import ExportError, SessionError
from ..session.role import Role
from .calls import TAKEN
from .entries import Entry, Tombstone

if TYPE_CHECKING:
    import asyncio

    from ..session.session import Session
    from .context import NodeContext
    from .ends import Ends
    from .owning import Owning

__all__ = ["Arrivals", "is_moved"]


def is_moved(found: Entry | Tombstone | None, to: str, epoch: int) -> bool:
    """Return whether what a move has found is its own effect."""
    return isinstance(found, Entry) and found.owner == to and found.epoch == epoch + 1


class Arrivals:
    """Installs sessions.

    Args:
        context: The node's.
        owning: Makes copies the node's own.
        ends: Sessions that have ended here.
    """

    def __init__(self, context: NodeContext, owning: Owning, ends: Ends) -> None:
        self._context = context
        self._owning = owning
        self._ends = ends

    def install(self, state: bytes) -> Session | None:
        """Install a session, which then is arriving; None where it makes none, or has a copy."""
        context = self._context
        try:
            return context.sessions.moves.install(state, context.clock())
        except (ExportError, SessionError):
            context.counters.states_refused += 1
            return None

    async def arrive(
        self,
        session: Session,
        owner: str,
        epoch: int,
        move_id: str,
        arrived: asyncio.Future[bool] | None = None,
    ) -> None:
        """Own an arriving session if the directory says so.

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
            or (session := self.install(request.state)) is None
        ):
            return pb.GiveAnswer()
        context.tasks.start(self.arrive(session, request.owner, request.epoch, request.move_id))
        return pb.GiveAnswer(is_taken=True)
