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
    from collections.abc import Callable, Iterable, Sequence

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
    "MOVING": "the session moves to another process",
}
BOUND = frozenset((pb.NSH_BEFORE_RESPONSE, pb.NSH_AFTER_RESPONSE))
"""The hints of a notify that waits for an answer."""


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

    max_batches = 1
    """Batches of one stream under way at a time."""

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

    def stream(self) -> PushCommands:
        """Return what carries out the pushes of one PushStream: here they keep their order."""
        return self

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
        try:
            body = self.begin_broadcast(request)
        except RefusedError as refusal:
            return refusal.as_bulk_response()
        count = await self.push_bulk(self._manager.logged_in_sessions(), body, request)
        return pb.BroadcastResponse(sent_count=count)

    async def multicast(self, request: pb.MulticastRequest) -> pb.BroadcastResponse:
        """Queue a notify once for each session of the targets."""
        try:
            body = self.begin_multicast(request)
            sessions = await self.sessions_of(request.targets)
        except RefusedError as refusal:
            return refusal.as_bulk_response()
        count = await self.push_bulk(sessions, body, request.push)
        return pb.BroadcastResponse(sent_count=count)

    def begin_broadcast(self, request: pb.BroadcastRequest) -> bytes:
        """Count a broadcast, and return its body.

        Raises:
            RefusedError: INVALID, TOO_LARGE, or BUSY: more than max_broadcasts, or too much load.
        """
        self._counters.broadcasts += 1
        body = self._admitted_body(request)
        if self._broadcast_rate is not None and self._broadcast_rate.take(self._clock()):
            self._counters.refused_broadcasts += 1
            raise RefusedError("BUSY", f"more than {self._max_broadcasts} broadcasts a second")
        return body

    def begin_multicast(self, request: pb.MulticastRequest) -> bytes:
        """Count a multicast, and return its body.

        Raises:
            RefusedError: INVALID, TOO_LARGE, or BUSY: too much load.
        """
        self._counters.multicasts += 1
        if len(request.targets) > MAX_TARGETS:
            raise self._targets.refuse(
                "TOO_LARGE", f"{len(request.targets)} targets, {MAX_TARGETS} at most"
            )
        return self._admitted_body(request.push)

    async def sessions_of(self, targets: Iterable[pb.UnicastTarget]) -> list[Session]:
        """Return the sessions of many targets, each once.

        Raises:
            RefusedError: INVALID.
        """
        sessions: dict[str, Session] = {}
        for index, target in enumerate(targets):
            if index % SLICE == 0:
                await self._turns.take()
            for session in self._targets.find(target.target_type, target.target_id):
                sessions[session.session_id] = session
        return list(sessions.values())

    async def push_bulk(
        self, sessions: Sequence[Session], body: bytes, push: pb.BroadcastRequest, push_id: str = ""
    ) -> int:
        """Queue one body for many sessions, a slice a turn of the loop; return how many took it.

        Args:
            sessions: The sessions; those that are not logged in, or not owned here, do not count.
            body: Of the push.
            push: Says the rest.
            push_id: Keeps a session that comes from another process from taking it twice.
        """
        ttl = push.ttl_ms / 1000
        count = 0
        for start in range(0, len(sessions), SLICE):
            await self._turns.take()
            part = sessions[start : start + SLICE]
            count += self._manager.multicast(
                part, body, self._clock(), push.suspended, ttl, push_id
            )
        return count

    def _push(self, request: pb.UnicastPushRequest) -> int:
        """Queue or bind a notify; return the number of sessions that took it."""
        sessions = self._targets.find(request.target_type, request.target_id)
        body = self._checked_body(request)
        if request.sync_hint in BOUND:
            sessions = [self._one_to_bind(request, sessions)]
        elif self._sheds_push():
            raise RefusedError("BUSY", SHED, SHED_RETRY_MS)
        return self._settle(self._queue(sessions, request, body))

    def push_to(self, session: Session, request: pb.UnicastPushRequest) -> pb.UnicastPushResponse:
        """Queue or bind a notify for a session, whichever way the request names it.

        It is not counted as asked for: another process may have been asked. error_code is MOVING
        where this process does not own the session; nothing was kept then.
        """
        try:
            body = self._checked_body(request)
            if request.sync_hint not in BOUND and self._sheds_push():
                raise RefusedError("BUSY", SHED, SHED_RETRY_MS)
            self._settle(self._queue((session,), request, body))
        except RefusedError as refusal:
            return refusal.as_response()
        return pb.UnicastPushResponse(success=True, sessions=1)

    def begin(self, request: pb.UnicastPushRequest) -> None:
        """Count a push, and check whom it names.

        Raises:
            RefusedError: INVALID.
        """
        self._counters.pushes += 1
        self._targets.check(request.target_type, request.target_id)

    def check(self, request: pb.UnicastPushRequest) -> None:
        """Check the other fields of a push, as push_to() does.

        Raises:
            RefusedError: INVALID.
        """
        self._checked_body(request)

    def _queue(
        self, sessions: Iterable[Session], request: pb.UnicastPushRequest, body: bytes
    ) -> list[PushResult]:
        """Queue a notify for sessions, or bind it to a request of each; return the results."""
        now = self._clock()
        ttl = request.ttl_ms / 1000
        push_id = request.push_id
        if request.sync_hint in BOUND:
            seq = request.bind_client_seq_id
            before = request.sync_hint == pb.NSH_BEFORE_RESPONSE
            return [
                session.bind(body, seq, before, now=now, ttl=ttl, push_id=push_id)
                for session in sessions
            ]
        conflate_key = request.conflate_key
        return [
            session.push(body, now=now, ttl=ttl, push_id=push_id, conflate_key=conflate_key)
            for session in sessions
        ]

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

    def _admitted_body(self, push: pb.BroadcastRequest) -> bytes:
        if self._sheds_broadcast():
            raise RefusedError("BUSY", SHED, SHED_RETRY_MS)
        return self.bulk_body(push)

    def bulk_body(self, push: pb.BroadcastRequest) -> bytes:
        """Encode a broadcast or a multicast.

        Raises:
            RefusedError: INVALID or TOO_LARGE.
        """
        body = self._body(push)
        if len(body) + MAX_HEAD_BYTES > self._max_message_bytes:
            raise self._targets.refuse(
                "TOO_LARGE", f"{len(body)} bytes are more than any client takes"
            )
        return body

    def _checked_body(self, request: pb.UnicastPushRequest) -> bytes:
        """Encode a push whose fields are valid."""
        targets = self._targets
        self._check_name("push_id", request.push_id)
        self._check_name("conflate_key", request.conflate_key)
        body = self._body(request)
        if request.bind_session_id and request.sync_hint == pb.NSH_IMMEDIATELY:
            raise targets.refuse("INVALID", "bind_session_id: needs a sync_hint")
        if request.conflate_key and request.sync_hint != pb.NSH_IMMEDIATELY:
            raise targets.refuse("INVALID", "conflate_key: not with a sync_hint")
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
