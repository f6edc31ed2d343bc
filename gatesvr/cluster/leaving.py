"""Leaving: sessions that this node hands over, until another one has them (M3, M5, M12).

::

    OWN ─▶ Take, its START judged here ─▶ LEAVING ─▶ Taken ─▶ the copy goes
     │                                      │ ▲
     └──▶ give() ─▶ Give ───────────────────┘ └─ no Taken for 2 s ─▶ move(S, A, e, A)
                                                   ├▶ done ─▶ OWN again, one epoch later
                                                   └▶ refused ─▶ the copy goes

This node takes a session back by that move alone: never because of what it read, of a time-out, or
of the other node's word.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._pb import cluster_pb2 as pb
from .._pb import message_pb2
from ..protocol.identity import Identity
from ..session.outcome import StartOutcome
from ..session.role import Role
from .arrivals import is_moved
from .calls import GIVE
from .peers import PeerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..session.session import Session
    from .context import NodeContext
    from .ends import Ends
    from .owning import Owning

__all__ = ["Leaving"]

TAKE_BACK_S = 2.0
"""How long a node waits for Taken; and for the answer to a Give."""
AWAY_S = TAKE_BACK_S + 0.5
"""After so long a session has arrived at another node, or was taken back, with time to spare. A
session remembers push_ids for longer, so nothing that is kept for as long is taken twice."""


@dataclass(slots=True, eq=False)
class _Departure:
    """A session on its way.

    Attributes:
        move_id: The move's.
        session: The copy, which is leaving.
        state: Its bytes.
        timer: Runs until it is taken back.
        left: Told whether another node has it.
    """

    move_id: str
    session: Session
    state: bytes
    timer: asyncio.TimerHandle
    left: asyncio.Future[bool] | None


class Leaving:
    """Hands sessions over, and takes those back that nobody has taken.

    Args:
        context: The node's.
        owning: Makes copies the node's own, and drops them.
        ends: Sessions that have ended here.
        next_move_id: Names a move.
    """

    def __init__(
        self, context: NodeContext, owning: Owning, ends: Ends, next_move_id: Callable[[], str]
    ) -> None:
        self._context = context
        self._owning = owning
        self._ends = ends
        self._next_move_id = next_move_id
        self._departures: dict[str, _Departure] = {}

    def __len__(self) -> int:
        """Return the number of sessions on their way."""
        return len(self._departures)

    def take(self, request: pb.TakeRequest, until: float) -> pb.TakeAnswer:
        """Judge a START that another node has got, and hand its session over (M3)."""
        answer = self._take(request, until)
        counters = self._context.counters
        counters.takes += answer.result == pb.TAKE_GIVEN
        counters.takes_refused += answer.result != pb.TAKE_GIVEN
        return answer

    def _take(self, request: pb.TakeRequest, until: float) -> pb.TakeAnswer:
        context = self._context
        session_id = request.session_id
        if session_id in self._ends:
            return pb.TakeAnswer(result=pb.TAKE_MOVING)
        session = context.copy(session_id)
        if session is None or (session.role is Role.OWN and session.epoch != request.epoch):
            return pb.TakeAnswer(result=pb.TAKE_NOT_OWNER)
        departure = self._departures.get(session_id)
        if departure is not None and departure.move_id == request.move_id:
            return pb.TakeAnswer(result=pb.TAKE_GIVEN, state=departure.state)
        if session.role is not Role.OWN or context.time() >= until:
            return pb.TakeAnswer(result=pb.TAKE_MOVING)
        outcome = self._turn(session, request, context.clock())
        if outcome is None:
            return pb.TakeAnswer(result=pb.TAKE_REFUSED)
        if isinstance(outcome, StartOutcome):
            return pb.TakeAnswer(
                result=pb.TAKE_REFUSED,
                start_response=outcome.response.SerializeToString(),
                close_code=outcome.close_code,
                close_reason=outcome.reason,
            )
        departure = self._depart(session, request.move_id, None)
        return pb.TakeAnswer(result=pb.TAKE_GIVEN, state=departure.state)

    def _turn(
        self, session: Session, request: pb.TakeRequest, now: float
    ) -> StartOutcome | Session | None:
        """Judge a START; None where it names no session, and does not continue this one."""
        moves = self._context.sessions.moves
        start = message_pb2.StartRequest.FromString(request.start)
        if not start.session_id:
            return moves.turn_base(session, start, now)
        identity = Identity(request.identity.openid) if request.HasField("identity") else None
        return moves.turn(start, request.ip, now, identity)

    def _depart(
        self, session: Session, move_id: str, left: asyncio.Future[bool] | None
    ) -> _Departure:
        """Export a session; it is leaving from now on."""
        context = self._context
        state = context.dispatcher.moved.export(session, context.node_id, context.clock())
        timer = asyncio.get_running_loop().call_later(
            TAKE_BACK_S, self._overdue, session.session_id
        )
        departure = _Departure(move_id, session, state, timer, left)
        self._departures[session.session_id] = departure
        return departure

    def taken(self, request: pb.TakenRequest, until: float) -> pb.Nothing:
        """Drop the copy of a session that has arrived, if this is the move that it left by (M5)."""
        departure = self._departures.get(request.session_id)
        if departure is not None and departure.move_id == request.move_id:
            self._owning.forget(departure.session)
            self._settle(departure, has_left=True)
        return pb.Nothing()

    def _overdue(self, session_id: str) -> None:
        departure = self._departures.get(session_id)
        if departure is not None:
            self._context.tasks.start(self._take_back(departure))

    async def _take_back(self, departure: _Departure) -> None:
        """Ask the directory for a session that nobody has taken."""
        context = self._context
        session = departure.session
        session_id, epoch = session.session_id, session.epoch
        found = await context.certainly(
            context.directory.move, session_id, context.node_id, epoch, context.node_id
        )
        if self._departures.get(session_id) is not departure:
            return
        is_back = is_moved(found, context.node_id, epoch)
        if is_back:
            self._owning.own(session, epoch + 1)
        else:
            self._owning.forget(session)
        self._settle(departure, has_left=not is_back)

    def _settle(self, departure: _Departure, *, has_left: bool) -> None:
        departure.timer.cancel()
        self._departures.pop(departure.session.session_id, None)
        if departure.left is not None and not departure.left.done():
            departure.left.set_result(has_left)

    def discard(self, session: Session) -> None:
        """Forget a session that has ended on its way."""
        departure = self._departures.get(session.session_id)
        if departure is not None and departure.session is session:
            self._settle(departure, has_left=False)

    async def give(self, session: Session, to: str) -> bool:
        """Hand a suspended session over without a START (M12).

        Returns:
            Whether another node has it; False also where it has ended, has a connection, or is on
            its way already.
        """
        context = self._context
        if session.role is not Role.OWN or not session.is_valid or session.link is not None:
            return False
        left: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        departure = self._depart(session, self._next_move_id(), left)
        request = pb.GiveRequest(
            move_id=departure.move_id,
            session_id=session.session_id,
            epoch=session.epoch,
            state=departure.state,
            owner=context.node_id,
        )
        departure.state = b""  # no Take asks for it
        # Its answer decides nothing: Taken does, or the directory.
        with suppress(PeerUnreachableError):
            await context.peers.call(to, GIVE, request, TAKE_BACK_S)
        has_left = await left
        context.counters.gives += has_left
        context.counters.gives_failed += not has_left
        return has_left

    def stop(self) -> None:
        """Stop the timers."""
        for departure in self._departures.values():
            departure.timer.cancel()
