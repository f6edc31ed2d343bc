"""PushCommands: push, broadcast and multicast (PROTOCOL 7.5-7.7).

A single push reaches its session before anything is awaited, so one caller's pushes stay in order.
Whatever touches many sessions works in slices, one a turn of the loop (Turns).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._core.codec import notify_body
from .._core.limits import TokenBucket
from .._pb import upstream_pb2 as pb
from ..protocol.messages import MAX_HEAD_BYTES, MAX_HEADERS, MAX_HEADERS_BYTES, is_valid_text
from ..session.context import SHED_RETRY_MS
from .targets import SLICE, RefusedError, Targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..session.manager import SessionManager
    from ..session.notify import PushResult
    from ..session.session import Session
    from .counters import PushCounters
    from .turns import Turns

__all__ = ["PushCommands"]

MAX_MSG_TYPE_BYTES = 64
MAX_NAME_BYTES = 128
"""Longest push_id and conflate_key."""
PUSH_SLICE = 64
"""Pushes that a PushStream's message does before other tasks get a turn."""
MAX_TARGETS = 10_000
"""Targets of one multicast."""
MAX_BATCH = 10_000
"""Pushes in one message of a PushStream; the answer to more could exceed gRPC's message limit."""

SHED = f"the gateway is overloaded, try after {SHED_RETRY_MS} ms"
_REASONS = {
    "NOT_FOUND": "no such session",
    "NO_SUCH_REQUEST": "bind_client_seq_id: the session has not sent it",
    "TOO_LATE": "bind_client_seq_id: answered already",
    "BUSY": "the queue is full",
    "TOO_LARGE": "larger than the client takes",
}


class PushCommands:
    """Queues notifies; takes and returns the messages of the rpcs.

    Args:
        manager: Holds the sessions.
        targets: Finds them.
        turns: Shares the loop.
        counters: Counts the commands.
        max_message_bytes: The largest frame that any client accepts.
        max_broadcasts: Broadcasts a second; 0 for no limit.
        clock: Loop time.
        sheds_push: Asked before each push that is bound to no answer: whether to refuse it.
        sheds_broadcast: Asked before each broadcast and multicast: whether to refuse it.
    """

    def __init__(
        self,
        manager: SessionManager,
        targets: Targets,
        turns: Turns,
        counters: PushCounters,
        max_message_bytes: int,
        max_broadcasts: int,
        clock: Callable[[], float],
        sheds_push: Callable[[], bool],
        sheds_broadcast: Callable[[], bool],
    ) -> None:
        self._manager = manager
        self._targets = targets
        self._turns = turns
        self._counters = counters
        self._max_message_bytes = max_message_bytes
        self._max_broadcasts = 0
        self._broadcast_rate: TokenBucket | None = None
        self.apply(max_broadcasts)
        self._clock = clock
        self._sheds_push = sheds_push
        self._sheds_broadcast = sheds_broadcast

    def apply(self, max_broadcasts: int) -> None:
        """Take another bound on broadcasts a second."""
        if max_broadcasts == self._max_broadcasts:
            return
        self._max_broadcasts = max_broadcasts
        self._broadcast_rate = (
            TokenBucket(max_broadcasts, max_broadcasts) if max_broadcasts else None
        )

    def push(self, request: pb.UnicastPushRequest) -> pb.UnicastPushResponse:
        """Queue a notify for a session, or for every session of an openid."""
        self._counters.pushes += 1
        try:
            count = self._push(request)
        except RefusedError as refusal:
            return refusal.as_response()
        return pb.UnicastPushResponse(success=True, sessions=count)

    async def push_batch(
        self, requests: Iterable[pb.UnicastPushRequest]
    ) -> list[pb.UnicastPushResponse]:
        """Push in order, a slice a turn of the loop."""
        responses = []
        for index, request in enumerate(requests):
            if index % PUSH_SLICE == 0:
                await self._turns.take()
            responses.append(self.push(request))
        return responses

    def check_batch(self, count: int) -> None:
        """Refuse a batch that is too long before any of it is done.

        Raises:
            RefusedError: It has more than MAX_BATCH pushes.
        """
        if count > MAX_BATCH:
            raise self._targets.refuse(
                "TOO_LARGE", f"{count} pushes, {MAX_BATCH} at most a message"
            )

    async def broadcast(self, request: pb.BroadcastRequest) -> pb.BroadcastResponse:
        """Queue a notify for every logged-in session (PROTOCOL 5.6)."""
        self._counters.broadcasts += 1
        try:
            body = self._bulk_body(request)
            if self._broadcast_rate is not None and self._broadcast_rate.take(self._clock()):
                self._counters.refused_broadcasts += 1
                raise RefusedError("BUSY", f"more than {self._max_broadcasts} broadcasts a second")
        except RefusedError as refusal:
            return refusal.as_bulk_response()
        return await self._push_bulk(self._manager.logged_in_sessions(), body, request)

    async def multicast(self, request: pb.MulticastRequest) -> pb.BroadcastResponse:
        """Queue a notify once for each session of the targets."""
        self._counters.multicasts += 1
        push = request.push
        sessions: dict[str, Session] = {}
        try:
            if len(request.targets) > MAX_TARGETS:
                raise self._targets.refuse(
                    "TOO_LARGE", f"{len(request.targets)} targets, {MAX_TARGETS} at most"
                )
            body = self._bulk_body(push)
            for index, target in enumerate(request.targets):
                if index % SLICE == 0:
                    await self._turns.take()
                for session in self._targets.find(target.target_type, target.target_id):
                    sessions[session.session_id] = session
        except RefusedError as refusal:
            return refusal.as_bulk_response()
        return await self._push_bulk(list(sessions.values()), body, push)

    async def _push_bulk(
        self, sessions: list[Session], body: bytes, push: pb.BroadcastRequest
    ) -> pb.BroadcastResponse:
        """Queue one body for many sessions, a slice a turn of the loop."""
        ttl = push.ttl_ms / 1000
        count = 0
        for start in range(0, len(sessions), SLICE):
            await self._turns.take()
            part = sessions[start : start + SLICE]
            count += self._manager.multicast(part, body, self._clock(), push.suspended, ttl)
        return pb.BroadcastResponse(sent_count=count)

    def _push(self, request: pb.UnicastPushRequest) -> int:
        """Queue or bind a notify; return the number of sessions that took it."""
        targets = self._targets
        sessions = targets.find(request.target_type, request.target_id)
        self._check_name("push_id", request.push_id)
        self._check_name("conflate_key", request.conflate_key)
        body = self._body(request)
        if request.bind_session_id and request.sync_hint == pb.NSH_IMMEDIATELY:
            raise targets.refuse("INVALID", "bind_session_id: needs a sync_hint")
        if request.conflate_key and request.sync_hint != pb.NSH_IMMEDIATELY:
            raise targets.refuse("INVALID", "conflate_key: not with a sync_hint")
        now = self._clock()
        ttl = request.ttl_ms / 1000
        before = request.sync_hint == pb.NSH_BEFORE_RESPONSE
        if before or request.sync_hint == pb.NSH_AFTER_RESPONSE:
            session = self._one_to_bind(request, sessions)
            seq = request.bind_client_seq_id
            result = session.bind(body, seq, before, now=now, ttl=ttl, push_id=request.push_id)
            self._settle([result])
            return 1
        if self._sheds_push():
            raise RefusedError("BUSY", SHED, SHED_RETRY_MS)
        results = [
            session.push(
                body,
                now=now,
                ttl=ttl,
                push_id=request.push_id,
                conflate_key=request.conflate_key,
            )
            for session in sessions
        ]
        return self._settle(results)

    def _one_to_bind(self, request: pb.UnicastPushRequest, sessions: list[Session]) -> Session:
        """Return the session whose request a notify is bound to (PROTOCOL 7.7)."""
        if request.bind_session_id:
            sessions = [s for s in sessions if s.session_id == request.bind_session_id]
        if not sessions:
            raise self._targets.refuse("NOT_FOUND", "no such session")
        if len(sessions) > 1:
            raise self._targets.refuse(
                "AMBIGUOUS", f"{len(sessions)} sessions, name one in bind_session_id"
            )
        return sessions[0]

    def _settle(self, results: list[PushResult]) -> int:
        """Return the number of sessions that took a push.

        Raises:
            RefusedError: None did; the sessions have counted the reason.
        """
        count = sum(result.is_ok for result in results)
        if count:
            return count
        if not results:
            raise self._targets.refuse("NOT_FOUND", "no such session")
        worst = max(results, key=lambda result: result.retry_after_ms)
        reason = _REASONS.get(worst.error_code, "")
        raise RefusedError(worst.error_code, reason, worst.retry_after_ms)

    # Input limits (PROTOCOL 1.6, 7.6).

    def _check_name(self, field: str, name: str) -> None:
        if not is_valid_text(name, MAX_NAME_BYTES):
            raise self._targets.refuse(
                "INVALID", f"{field}: not {MAX_NAME_BYTES} bytes of plain text"
            )

    def _bulk_body(self, push: pb.BroadcastRequest) -> bytes:
        if self._sheds_broadcast():
            raise RefusedError("BUSY", SHED, SHED_RETRY_MS)
        body = self._body(push)
        if len(body) + MAX_HEAD_BYTES > self._max_message_bytes:
            raise self._targets.refuse(
                "TOO_LARGE", f"{len(body)} bytes are more than any client takes"
            )
        return body

    def _body(self, push: pb.UnicastPushRequest | pb.BroadcastRequest) -> bytes:
        """Encode a push once; all its recipients share the bytes."""
        targets = self._targets
        if not is_valid_text(push.msg_type, MAX_MSG_TYPE_BYTES):
            raise targets.refuse(
                "INVALID", f"msg_type: not {MAX_MSG_TYPE_BYTES} bytes of plain text"
            )
        metadata = push.metadata
        if metadata:
            if len(metadata) > MAX_HEADERS:
                raise targets.refuse("INVALID", f"metadata: more than {MAX_HEADERS} entries")
            size = sum(len(k.encode()) + len(v.encode()) for k, v in metadata.items())
            if size > MAX_HEADERS_BYTES:
                raise targets.refuse("INVALID", f"metadata: more than {MAX_HEADERS_BYTES} bytes")
        return notify_body(push.msg_type, push.title, push.content, push.data, metadata.items())
