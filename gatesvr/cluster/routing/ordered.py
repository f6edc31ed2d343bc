"""PushOrder: the pushes of one PushStream, in order for each session, while the others go on.

A push joins the *line* of each of its sessions, in the stream's order; so two that name the same
session in different ways stand in one line. The first of a line is under way, those behind wait. To
join in order, a push by openid has to know its sessions first: batches are read in windows, and a
window joins when the directory has answered for all of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ..._pb import upstream_pb2 as pb
from ...control.pushes import PUSH_SLICE
from ...control.targets import RefusedError
from .lookups import read_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...control.turns import Turns
    from .pushes import ClusterPushes

    _Response = pb.UnicastPushResponse
    _Future = asyncio.Future[_Response]
    _Line = deque[tuple[pb.UnicastPushRequest, str, _Future]]

__all__ = ["PushOrder"]

WINDOW = 512
"""Pushes that join together."""
MAX_LINES = 256
"""Sessions of one stream that are pushed to at other processes at a time."""
CHANGED_MS = 50


class PushOrder:
    """Carries out the pushes of one PushStream.

    Args:
        pushes: Carries out each.
        turns: Shares the loop.
    """

    def __init__(self, pushes: ClusterPushes, turns: Turns) -> None:
        self._pushes = pushes
        self._turns = turns
        self._joining = asyncio.Lock()
        self._lines: dict[str, _Line] = {}
        self._room = asyncio.Semaphore(MAX_LINES)
        self._tasks: set[asyncio.Task[None]] = set()

    async def push_batch(
        self, requests: Sequence[pb.UnicastPushRequest]
    ) -> list[pb.UnicastPushResponse]:
        """Push in order; return one response for each. Batches join in the order of the calls."""
        joined: list[_Response | list[_Response | _Future]] = []
        async with self._joining:
            for start in range(0, len(requests), WINDOW):
                joined += await self._join(requests[start : start + WINDOW])
        return [
            await self._outcome(request, each) if isinstance(each, list) else each
            for request, each in zip(requests, joined, strict=True)
        ]

    async def _join(
        self, requests: Sequence[pb.UnicastPushRequest]
    ) -> list[_Response | list[_Response | _Future]]:
        """Put pushes into the lines of their sessions, or take them where there is no line."""
        pushes = self._pushes
        asked = {
            request.target_id: pushes.lookups.ask(request.target_id)
            for request in requests
            if request.target_type == "openid"
        }
        joined: list[_Response | list[_Response | _Future]] = []
        for index, request in enumerate(requests):
            if index % PUSH_SLICE == 0:
                await self._turns.take()
            if request.target_type == "session":
                session_id = request.target_id
                if session_id not in self._lines and pushes.is_own(session_id):
                    joined.append(pushes.push_here(request))
                    continue
            try:
                pushes.begin(request)
                if request.target_type == "session":
                    joined.append([self._enter(pushes.named(request), request)])
                else:
                    found = await pushes.answered(asked[request.target_id])
                    entries = pushes.chosen(request, found)
                    parts = [self._enter(e.session_id, request, e.owner) for e in entries]
                    first = parts[0]
                    if len(parts) > 1 or isinstance(first, asyncio.Future) or not first.success:
                        joined.append(parts)
                    else:
                        joined.append(first)
            except RefusedError as refusal:
                joined.append(refusal.as_response())
        return joined

    def _enter(
        self, session_id: str, request: pb.UnicastPushRequest, owner: str = ""
    ) -> _Response | _Future:
        """Take a push for one session now, or put it into the session's line."""
        needs_login = request.target_type == "openid"
        line = self._lines.get(session_id)
        if line is None:
            taken = self._pushes.take(session_id, request, needs_login=needs_login)
            if taken is not None:
                return taken
            line = self._lines[session_id] = deque()
            task = asyncio.create_task(self._serve(session_id, line))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        future: _Future = asyncio.get_running_loop().create_future()
        future.add_done_callback(read_error)
        line.append((request, owner, future))
        return future

    async def _serve(self, session_id: str, line: _Line) -> None:
        """Push what stands in a session's line, one after the other, until it is empty."""
        async with self._room:
            while line:
                request, owner, future = line[0]
                try:
                    response = await self._pushes.deliver(
                        session_id,
                        request,
                        needs_login=request.target_type == "openid",
                        owner=owner,
                    )
                except Exception as error:
                    future.set_exception(error)
                else:
                    future.set_result(response)
                line.popleft()
            del self._lines[session_id]

    async def _outcome(
        self, request: pb.UnicastPushRequest, parts: list[_Response | _Future]
    ) -> _Response:
        """Return one response for the sessions of a push."""
        pushes = self._pushes
        done = [await part if isinstance(part, asyncio.Future) else part for part in parts]
        if request.target_type == "openid" and all(r.error_code == "NOT_FOUND" for r in done):
            # They have ended since the directory named them. Another session of the user may have
            # later pushes of this stream already, so this one must not follow them.
            try:
                pushes.chosen(request, await pushes.find(request.target_id))
                raise RefusedError("BUSY", "the user's session has just changed", CHANGED_MS)
            except RefusedError as refusal:
                return refusal.as_response()
        return pushes.settle(done)
