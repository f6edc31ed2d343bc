"""Forwards: results of this node's calls, on their way to the owners of their sessions (M6)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .._pb import cluster_pb2 as pb
from ..session.results import Result
from ..session.role import Role
from .calls import FORWARD
from .directory import DirectoryUnreachableError
from .entries import Entry
from .peers import PeerUnreachableError

if TYPE_CHECKING:
    from .context import NodeContext

__all__ = ["Forwards"]

FORWARD_S = 2.0
"""How long one Forward may take."""
FIRST_PAUSE_S = 0.02
LAST_PAUSE_S = 1.0
"""Pauses between the tries for one session: from the first one, twice as long each time."""


class Forwards:
    """Settles the results that are kept; takes those of other nodes.

    Args:
        context: The node's.
    """

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._results = context.sessions.context.results
        self._under_way: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def wake(self, session_id: str) -> None:
        """Settle what is kept for a session: a result has come, or its copy has gone."""
        if session_id not in self._under_way and self._results.of(session_id):
            self._under_way.add(session_id)
            self._idle.clear()
            self._context.tasks.start(self._settle(session_id))

    async def _settle(self, session_id: str) -> None:
        try:
            pause = FIRST_PAUSE_S
            while self._results.of(session_id):
                copy = self._context.copy(session_id)
                if copy is not None:
                    if copy.role is Role.OWN:
                        self._context.dispatcher.moved.settle(copy, self._context.clock())
                    return  # else it waits for own() or forget()
                if not await self._send(session_id):
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LAST_PAUSE_S)
        finally:
            self._under_way.discard(session_id)
            if not self._under_way:
                self._idle.set()

    async def wait(self) -> None:
        """Wait until nothing is on its way."""
        await self._idle.wait()

    async def _send(self, session_id: str) -> bool:
        """Send a session's results to its owner; return whether there is no need to wait."""
        context = self._context
        try:
            found = await context.ask(context.directory.read, session_id)
        except DirectoryUnreachableError:
            return False
        if not isinstance(found, Entry):
            self._results.drop(session_id)
            return True
        if context.copy(session_id) is not None:
            return True
        if found.owner == context.node_id:
            return False
        for result in self._results.of(session_id):
            try:
                answer = await context.peers.call(
                    found.owner, FORWARD, _request(session_id, result), FORWARD_S
                )
            except PeerUnreachableError:
                answer = pb.ForwardAnswer()
            if answer.result != pb.OWNER_DONE:
                context.counters.forwards_repeated += 1
                return False
            context.counters.forwards += 1
            self._results.settle(session_id, result.client_seq)
        return True

    def take(self, request: pb.ForwardRequest, until: float) -> pb.ForwardAnswer:
        """Apply a result of another node's call, if this node owns the session."""
        context = self._context
        session = context.copy(request.session_id)
        if session is None:
            return pb.ForwardAnswer(result=pb.OWNER_NOT_OWNER)
        result = Result.of(request.client_seq, request.answer, request.hello_code)
        is_done = context.dispatcher.moved.apply(session, result, context.clock())
        return pb.ForwardAnswer(result=pb.OWNER_DONE if is_done else pb.OWNER_MOVING)


def _request(session_id: str, result: Result) -> pb.ForwardRequest:
    return pb.ForwardRequest(
        session_id=session_id,
        client_seq=result.client_seq,
        answer=result.answer(),
        hello_code=result.hello_code,
    )
