"""BulkPushes: broadcasts and multicasts, which every process carries out for its sessions.

A session that moves meanwhile could take one twice, or not at all: it is frozen while its process
carries it out, and arrives where that is done already. So each process remembers the last ones for
a while, and gives them to each session that arrives; a session knows by the push_id what it has
taken, and takes that along.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from ..._pb import routing_pb2, upstream_pb2
from ...control.targets import RefusedError
from ...session.outbox import MADE_PUSH_ID
from ..directory import DirectoryUnreachableError
from ..leaving import AWAY_S
from .calls import BULK

if TYPE_CHECKING:
    from ...control.commands import Commands
    from ...session.manager import SessionManager
    from ...session.session import Session
    from .processes import Processes

__all__ = ["BulkPushes"]

MAX_KEPT_BYTES = 16 << 20
"""Bodies kept; beyond it the oldest are forgotten."""
BULK_S = 5.0
"""Seconds for a process to carry one out."""
BUSY_MS = 200


class _Kept:
    """A bulk push that this process has begun."""

    __slots__ = ("body", "done", "request", "targets", "until")

    def __init__(self, request: routing_pb2.BulkRequest, body: bytes, until: float) -> None:
        self.request = request
        self.body = body
        self.until = until
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.targets = {(each.target_type, each.target_id) for each in request.targets}

    def is_for(self, session: Session) -> bool:
        return not self.request.is_multicast or not self.targets.isdisjoint(
            (("session", session.session_id), ("openid", session.openid))
        )


class BulkPushes:
    """Carries out broadcasts and multicasts over all processes.

    Args:
        commands: Those of this process.
        manager: Its sessions.
        processes: All of the gateway.
    """

    def __init__(self, commands: Commands, manager: SessionManager, processes: Processes) -> None:
        self._local = commands.pushes
        self._targets = commands.targets
        self._manager = manager
        self._processes = processes
        self._kept: dict[str, _Kept] = {}

    async def broadcast(
        self, request: upstream_pb2.BroadcastRequest
    ) -> upstream_pb2.BroadcastResponse:
        """Queue a notify for every logged-in session (PROTOCOL 5.6)."""
        try:
            self._local.begin_broadcast(request)
        except RefusedError as refusal:
            return refusal.as_bulk_response()
        return await self._spread(routing_pb2.BulkRequest(push=request))

    async def multicast(
        self, request: upstream_pb2.MulticastRequest
    ) -> upstream_pb2.BroadcastResponse:
        """Queue a notify once for each session of the targets."""
        try:
            self._local.begin_multicast(request)
            for target in request.targets:
                self._targets.check(target.target_type, target.target_id)
        except RefusedError as refusal:
            return refusal.as_bulk_response()
        bulk = routing_pb2.BulkRequest(
            push=request.push, is_multicast=True, targets=request.targets
        )
        return await self._spread(bulk)

    async def _spread(self, bulk: routing_pb2.BulkRequest) -> upstream_pb2.BroadcastResponse:
        bulk.bulk_id = f"{MADE_PUSH_ID}{secrets.token_hex(8)}"
        try:
            answers, silent = await self._processes.ask_all(BULK, bulk, BULK_S)
        except DirectoryUnreachableError:
            refusal = RefusedError("BUSY", "the directory does not answer", BUSY_MS)
            return refusal.as_bulk_response()
        response = upstream_pb2.BroadcastResponse(sent_count=sum(a.sent_count for a in answers))
        if silent:
            response.error_code = "UNKNOWN"
            response.message = (
                f"{silent} of {silent + len(answers)} processes have not answered: their sessions "
                "may have it or not"
            )
        return response

    async def handle(
        self, request: routing_pb2.BulkRequest, deadline: float
    ) -> routing_pb2.BulkAnswer:
        """Carry out a bulk push for the sessions of this process, once."""
        del deadline
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(request.bulk_id)
        if kept is None:
            self._forget(now)
            body = self._local.bulk_body(request.push)
            kept = self._kept[request.bulk_id] = _Kept(request, body, now + AWAY_S)
            try:
                kept.done.set_result(await self._carry_out(kept))
            finally:
                if not kept.done.done():
                    kept.done.cancel()
        return routing_pb2.BulkAnswer(sent_count=await asyncio.shield(kept.done))

    async def _carry_out(self, kept: _Kept) -> int:
        request = kept.request
        if request.is_multicast:
            sessions = await self._local.sessions_of(request.targets)
        else:
            sessions = self._manager.logged_in_sessions()
        return await self._local.push_bulk(sessions, kept.body, request.push, request.bulk_id)

    def arrived(self, session: Session) -> None:
        """Give a session that this process has come to own what its last one may not have had."""
        now = asyncio.get_running_loop().time()
        self._forget(now)
        for bulk_id, kept in self._kept.items():
            if kept.is_for(session):
                push = kept.request.push
                self._manager.multicast(
                    (session,), kept.body, now, push.suspended, push.ttl_ms / 1000, bulk_id
                )

    def logged_in(self, session: Session) -> None:
        """Let a session that logs in take no bulk push from before, wherever it arrives."""
        now = asyncio.get_running_loop().time()
        self._forget(now)
        for bulk_id in self._kept:
            session.outbox.pass_over(bulk_id, now)

    def _forget(self, now: float) -> None:
        kept = self._kept
        for bulk_id in [name for name, each in kept.items() if each.until <= now]:
            del kept[bulk_id]
        size = sum(len(each.body) for each in kept.values())
        while size > MAX_KEPT_BYTES:
            size -= len(kept.pop(next(iter(kept))).body)
