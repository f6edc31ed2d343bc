"""Node: this process among those of its gateway (MOVING).

Its parts, by what they answer::

    starts.py    a client's START, wherever its session is
    arrivals.py  sessions of other nodes that are installed here
    leaving.py   another node's Take; sessions that this node gives away
    logins.py    hellos answered 200, by the directory's transaction
    results.py   results of services for sessions that are elsewhere
    pushes.py    pushes and kicks for sessions that are elsewhere
    ends.py      sessions that have ended
    renewal.py   the lease

All of them share a NodeContext, and what follows when the directory has decided (owning.py).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from ..observe.events import EventKind
from ..protocol.messages import LostReason
from ..session.role import Role
from .arrivals import Arrivals
from .calls import FORWARD, GIVE, KICK, LIFE, PUSH, REPLACED, TAKE, TAKEN
from .certain import Tasks
from .context import NodeContext
from .counters import ClusterCounters
from .directory import DirectoryUnreachableError
from .ends import Ends
from .leaving import Leaving
from .logins import Logins
from .owning import Owning
from .pushes import Pushes
from .renewal import Renewal
from .results import Forwards
from .starts import Starting, Starts

if TYPE_CHECKING:
    from .._pb import message_pb2
    from ..engine import Engine
    from ..protocol.identity import Identity
    from ..protocol.link import Link
    from ..session.outcome import StartOutcome
    from ..session.session import Session
    from .directory import Directory
    from .peers import Handlers, Peers

__all__ = ["Node"]

STOP_S = 2.0
"""How long a node that stops waits until its siblings and the directory have all that it owes."""


class Node:
    """One process of a gateway: its sessions are those that the directory says.

    Args:
        node_id: Made anew at each start, never used again.
        engine: This process's sessions and requests.
        directory: Says who owns a session, and who is logged in.
        peers: Reaches the other nodes.
        address: Where they reach this one.
        lease: Seconds that a lease lasts, as the directory has it.
        on_duplicate: As ``session.on_duplicate``.
        max_logged_in: As ``session.max_logged_in``.

    Attributes:
        node_id: As given.
        push: Pushes to one session, wherever it is; see Pushes.push().
        kick: Ends one session, wherever it is; see Pushes.kick().
        give: Hands a suspended session over to another node; see Leaving.give().
    """

    def __init__(
        self,
        node_id: str,
        engine: Engine,
        directory: Directory,
        peers: Peers,
        *,
        address: str,
        lease: float,
        on_duplicate: str,
        max_logged_in: int,
    ) -> None:
        self.node_id = node_id
        self._counters = counters = ClusterCounters()
        self._sessions = sessions = engine.session_manager
        self._dispatcher = engine.dispatcher
        self._directory = directory
        self._tasks = Tasks(counters)
        self._context = context = NodeContext(
            node_id,
            sessions,
            engine.dispatcher,
            directory,
            peers,
            counters,
            self._tasks,
            engine.clock,
            lease,
        )
        self._forwards = Forwards(context)
        self._ends = Ends(context)
        self._owning = owning = Owning(context, self._forwards)
        self._logins = owning.logins = Logins(
            context, owning, self._ends, on_duplicate, max_logged_in
        )
        self._arrivals = Arrivals(context, owning, self._ends)
        self._starts = Starts(context, owning, self._ends, self._arrivals)
        self._leaving = Leaving(context, owning, self._ends, self._starts.next_move_id)
        self._pushes = Pushes(context, self._ends, engine.commands.pushes.push_to)
        self.push, self.kick = self._pushes.push, self._pushes.kick
        self.give = self._leaving.give
        self._renewal = owning.renewal = Renewal(context, owning, self._ends, address)
        self._loop: asyncio.Task[None] | None = None

    @property
    def counters(self) -> ClusterCounters:
        """The node's counters, gauges brought up to date."""
        counters = self._counters
        counters.leaving = len(self._leaving)
        counters.closing = len(self._ends)
        counters.cut_off = int(self._context.is_cut_off())
        return counters

    def apply(self, on_duplicate: str, max_logged_in: int) -> None:
        """Take another policy for the logins to come."""
        self._logins.apply(on_duplicate, max_logged_in)

    def handlers(self) -> Handlers:
        """Return what answers the calls of other nodes."""
        return {
            TAKE: self._leaving.take,
            TAKEN: self._leaving.taken,
            GIVE: self._arrivals.receive,
            FORWARD: self._forwards.take,
            PUSH: self._pushes.take,
            KICK: self._pushes.take_kick,
            REPLACED: self._logins.replaced,
            LIFE: self._logins.life,
        }

    async def start(self) -> None:
        """Join the others; from then on STARTs and logins are the directory's to decide."""
        await self._renewal.join()
        self._sessions.ended = self._ended
        self._sessions.is_cut_off = self._context.is_cut_off
        self._sessions.context.results.wake = self._forwards.wake
        self._dispatcher.node = self
        self._loop = asyncio.get_running_loop().create_task(self._renewal.run())

    async def stop(self) -> None:
        """Leave the others, and with that the sessions that this node still owns."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
        # What is left then goes with the node: entries without tombstones, results as ERROR 502.
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._ends.wait()
                await self._forwards.wait()
        self._leaving.stop()
        await self._tasks.stop()
        with suppress(DirectoryUnreachableError):  # else its lease runs out
            await self._context.ask(self._directory.leave, self.node_id)

    # For dispatch: see its ClusterNode.

    async def start_session(
        self,
        start: message_pb2.StartRequest,
        link: Link,
        identity: Identity | None,
        auth_deadline: float,
    ) -> StartOutcome:
        """Make, resume or fetch the session that a START asks for."""
        return await self._starts.start(Starting(start, link, identity, auth_deadline))

    def log_in(self, session: Session) -> None:
        """Decide the login of a session whose login_answer waits."""
        self._logins.begin(session)

    def _ended(self, session: Session, kind: EventKind) -> None:
        """Tell the directory of a session that has ended here."""
        if session.role is Role.LEAVING:
            self._leaving.discard(session)
        elif session.role is Role.OWN and kind is not EventKind.REPLACED:
            reason = LostReason.KICKED if kind is EventKind.KICKED else None
            self._ends.add(session.session_id, session.epoch, reason)
