"""ClusterPushes: pushes for sessions that any process of the gateway may own.

::

    by session id ──▶ owned here: taken at once ──────────────────────────▶ result
                  └─▶ else: node.push() looks for the owner ──────────────▶ result
    by openid ──▶ the directory says which sessions ──▶ each as by its id ─▶ one result

Only the directory knows a user's sessions: a copy here that is logged in may have been replaced by
a login at another process, and would swallow what is meant for the new one. So a push by openid
always asks, and one by session id never does where the session is owned here.
"""

from __future__ import annotations

import asyncio
import secrets
from itertools import count
from typing import TYPE_CHECKING

from ..._pb import upstream_pb2 as pb
from ...control.pushes import BOUND
from ...control.targets import RefusedError
from ...session.outbox import MADE_PUSH_ID
from ..directory import DirectoryUnreachableError
from .ordered import PushOrder
from .tries import RETRY_S, TRY_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from ...control.commands import Commands
    from ...session.manager import SessionManager
    from ...session.session import Session
    from ..entries import Entry, Found
    from ..node import Node
    from .bulk import BulkPushes
    from .lookups import Lookups

__all__ = ["ClusterPushes"]

BUSY_MS = 50
"""retry_after_ms where the session moves, or the directory does not answer."""


class ClusterPushes:
    """Pushes to the sessions of all processes.

    Args:
        commands: Those of this process.
        manager: Its sessions.
        node: Reaches the sessions of others.
        lookups: Says which sessions a user has.
        bulk: Carries out broadcasts and multicasts.
    """

    max_batches = 4
    """Batches of one stream under way at a time."""

    def __init__(
        self,
        commands: Commands,
        manager: SessionManager,
        node: Node,
        lookups: Lookups,
        bulk: BulkPushes,
    ) -> None:
        self._local = commands.pushes
        self._targets = commands.targets
        self._turns = commands.turns
        self._manager = manager
        self._node = node
        self.lookups = lookups
        self.broadcast = bulk.broadcast
        self.multicast = bulk.multicast
        self.check_batch = commands.pushes.check_batch
        self.push_here = commands.pushes.push
        self._numbers = count(1)
        self._prefix = f"{MADE_PUSH_ID}{secrets.token_hex(6)}"

    def apply(self, max_broadcasts: int) -> None:
        """Take another bound on broadcasts a second: this process's share."""
        self._local.apply(max_broadcasts)

    def stream(self) -> PushOrder:
        """Return what keeps the pushes of one PushStream in order."""
        return PushOrder(self, self._turns)

    def push(
        self, request: pb.UnicastPushRequest
    ) -> pb.UnicastPushResponse | Awaitable[pb.UnicastPushResponse]:
        """Queue a notify for a session, or for every session of an openid."""
        if request.target_type == "session" and self.is_own(request.target_id):
            return self.push_here(request)
        try:
            self._local.begin(request)
        except RefusedError as refusal:
            return refusal.as_response()
        if request.target_type == "session":
            return self._push_session(request)
        return self._push_user(request)

    async def _push_session(self, request: pb.UnicastPushRequest) -> pb.UnicastPushResponse:
        try:
            session_id = self.named(request)
            return self.settle([await self.deliver(session_id, request, needs_login=False)])
        except RefusedError as refusal:
            return refusal.as_response()

    async def _push_user(self, request: pb.UnicastPushRequest) -> pb.UnicastPushResponse:
        clock = asyncio.get_running_loop().time
        until = clock() + TRY_S
        while True:
            try:
                entries = self.chosen(request, await self.find(request.target_id))
            except RefusedError as refusal:
                return refusal.as_response()
            done = await asyncio.gather(
                *(
                    self.deliver(each.session_id, request, needs_login=True, owner=each.owner)
                    for each in entries
                )
            )
            # A session that has ended since it was found may have another one in its place.
            if any(r.error_code != "NOT_FOUND" for r in done) or clock() >= until:
                return self.settle(done)
            await asyncio.sleep(RETRY_S)

    # For PushOrder.

    def begin(self, request: pb.UnicastPushRequest) -> None:
        """Count a push, and check whom it names.

        Raises:
            RefusedError: INVALID.
        """
        self._local.begin(request)

    def named(self, request: pb.UnicastPushRequest) -> str:
        """Return the session that a push names by its id, and check the push.

        Raises:
            RefusedError: INVALID, or NOT_FOUND where bind_session_id names another one.
        """
        self._local.check(request)
        if request.sync_hint in BOUND and request.bind_session_id not in ("", request.target_id):
            raise self._targets.refuse("NOT_FOUND", "no such session")
        return request.target_id

    async def find(self, openid: str) -> Found:
        """Return the logged-in sessions of a user.

        Raises:
            RefusedError: BUSY: the directory does not answer.
        """
        return await self.answered(self.lookups.ask(openid))

    async def answered(self, asked: asyncio.Future[Found]) -> Found:
        """Return the answer to a question of lookups.

        Raises:
            RefusedError: BUSY: the directory does not answer.
        """
        try:
            return await asyncio.shield(asked)
        except DirectoryUnreachableError:
            raise RefusedError("BUSY", "the directory does not answer", BUSY_MS) from None

    def chosen(self, request: pb.UnicastPushRequest, found: Found) -> Sequence[Entry]:
        """Return the sessions of a user that a push is for, one at least.

        Raises:
            RefusedError: NOT_FOUND, AMBIGUOUS (PROTOCOL 7.7), or INVALID.
        """
        entries: Sequence[Entry] = found.entries
        if request.sync_hint in BOUND:
            if request.bind_session_id:
                entries = [e for e in entries if e.session_id == request.bind_session_id]
            if len(entries) > 1:
                raise self._targets.refuse(
                    "AMBIGUOUS", f"{len(entries)} sessions, name one in bind_session_id"
                )
        if not entries:
            self._local.check(request)
            raise self._targets.refuse("NOT_FOUND", "no such session")
        return entries

    def is_own(self, session_id: str) -> bool:
        """Return whether a session is owned here, so that a push for it needs nobody else."""
        return self._own(session_id) is not None

    def _own(self, session_id: str) -> Session | None:
        """Return a session that is owned here.

        While this process is cut off it may lose those without a connection, and the node refuses
        pushes for them (M9).
        """
        session = self._manager.by_id(session_id)
        if session is None or not session.is_valid:
            return None
        return session if session.link is not None or not self._manager.is_cut_off() else None

    def take(
        self, session_id: str, request: pb.UnicastPushRequest, *, needs_login: bool = True
    ) -> pb.UnicastPushResponse | None:
        """Push to a session that is owned here; None where the node has to look for it."""
        session = self._own(session_id)
        if session is None or (needs_login and not session.is_logged_in):
            return None
        return self._local.push_to(session, request)

    async def deliver(
        self,
        session_id: str,
        request: pb.UnicastPushRequest,
        *,
        needs_login: bool,
        owner: str = "",
    ) -> pb.UnicastPushResponse:
        """Push to a session, whichever process owns it.

        Args:
            session_id: The session.
            request: The push; it is given a push_id if it has none.
            needs_login: Whether a session that has not logged in is not found.
            owner: Who the directory has just said owns it, empty where it was not asked.
        """
        taken = self.take(session_id, request, needs_login=needs_login)
        if taken is not None:
            return taken
        if not request.push_id:
            # All tries of the push have it, so that the session takes no more than one of them.
            request.push_id = f"{self._prefix}-{next(self._numbers)}"
        return await self._node.push(session_id, request, needs_login=needs_login, owner=owner)

    def settle(self, responses: Sequence[pb.UnicastPushResponse]) -> pb.UnicastPushResponse:
        """Return one response for the sessions of a user."""
        for response in responses:
            if response.error_code == "UNKNOWN":
                return response
        taken = sum(response.success for response in responses)
        if taken:
            return pb.UnicastPushResponse(success=True, sessions=taken)
        refused = [r for r in responses if r.error_code != "NOT_FOUND"]
        if not refused:
            return self._targets.refuse("NOT_FOUND", "no such session").as_response()
        return max(refused, key=lambda response: response.retry_after_ms)
