"""NodeContext: shared by the parts of a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from .certain import ask, certainly

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..dispatch.dispatcher import Dispatcher
    from ..session.manager import SessionManager
    from ..session.session import Session
    from .certain import Tasks
    from .counters import ClusterCounters
    from .directory import Directory
    from .peers import Peers

__all__ = ["NodeContext"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class NodeContext:
    """Shared by the parts of a node.

    Attributes:
        node_id: The node.
        sessions: Those of this process.
        dispatcher: Has their requests.
        directory: Says who owns them.
        peers: Reaches the other nodes.
        counters: Counts.
        tasks: Runs what must not end with the call that began it.
        clock: Loop time.
        lease: Seconds that a lease lasts.
        renewed_at: Loop time at which the last renewal that was answered was sent.
    """

    node_id: str
    sessions: SessionManager
    dispatcher: Dispatcher
    directory: Directory
    peers: Peers
    counters: ClusterCounters
    tasks: Tasks
    clock: Callable[[], float]
    lease: float
    renewed_at: float = 0.0

    def is_cut_off(self) -> bool:
        """Return whether the lease may be out: the directory was not reached for as long (M10)."""
        return self.clock() - self.renewed_at > self.lease

    def copy(self, session_id: str) -> Session | None:
        """Return the copy of a session, in whatever role; None for none."""
        return self.sessions.index.by_id.get(session_id)

    async def ask(
        self, question: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Ask the directory once; see certain.ask()."""
        return await ask(self.counters, question, *args, **kwargs)

    async def certainly(
        self, write: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Repeat a write until the directory has answered; see certain.certainly()."""
        return await certainly(self.counters, write, *args, **kwargs)
