"""PushCommands: what upstreams may do to sessions, without a transport (PROTOCOL 7.5-7.7).

A push is handed to its session before anything is awaited, so that what one caller sends in order
stays in order. Only what goes to many sessions at once is done in slices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._core.codec import notify_body
from .._pb import upstream_pb2 as pb
from ..errors import CloseCode
from ..observe.metrics import Counters
from ..protocol.messages import (
    MAX_HEADERS,
    MAX_HEADERS_BYTES,
    MAX_OPENID_BYTES,
    is_valid_text,
)
from ..session.info import normalize_zone

if TYPE_CHECKING:
    from ..session.manager import SessionManager
    from ..session.notify import PushResult
    from ..session.session import Session

__all__ = ["PushCommands", "PushCounters", "RefusedError"]

MAX_MSG_TYPE_BYTES = 64
MAX_NAME_BYTES = 128
"""Longest push_id and conflate_key."""
MAX_REASON_BYTES = 64
"""Of a kick; as much as a QUIC close carries (PROTOCOL 6)."""
MAX_TARGETS = 10_000
"""Of one multicast."""
MAX_BATCH = 10_000
"""Pushes to one message of a PushStream: its answer would grow larger than gRPC lets it be."""
MIN_KICK_CODE = 1_000
SLICE = 256
"""Pushes of one rpc after which other tasks get their turn."""

PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
"""Sessions of one page: by default, and at most."""
STATES = ("Inited", "Normal", "Suspended")


@dataclass(slots=True)
class PushCounters(Counters):
    """What the push API counts: what was asked, over gRPC or inside, and what it refused itself.

    What sessions took and did not take is counted in session, endpoints in upstream.
    """

    calls: int = 0
    """rpcs, streams as one."""
    streams: int = 0
    """PushStreams open (a gauge)."""
    event_streams: int = 0
    """SubscribeEvents open (a gauge)."""
    events_sent: int = 0
    """Events written to those, gaps included."""
    pushes: int = 0
    """Pushes asked for, those of streams included."""
    broadcasts: int = 0
    """Broadcasts asked for."""
    multicasts: int = 0
    """Multicasts asked for."""
    kicks: int = 0
    """Kicks asked for."""
    not_found: int = 0
    """Times that no session was there for what was asked."""
    ambiguous: int = 0
    """Times that several sessions were there where one was needed."""
    too_large: int = 0
    """Broadcasts larger than any client takes; batches and multicasts of too many."""
    invalid: int = 0
    """Times that a field was wrong."""
    internal_errors: int = 0
    """rpcs that raised."""


class RefusedError(Exception):
    """Something that is answered with an error_code (PROTOCOL 7.5)."""

    def __init__(self, error_code: str, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.retry_after_ms = retry_after_ms

    def as_status(self) -> tuple[str, str]:
        """Return gRPC status and text, for an rpc whose answer has no place for an error_code."""
        if self.error_code == "INVALID":
            return "INVALID_ARGUMENT", str(self)
        return "FAILED_PRECONDITION", f"{self.error_code}: {self}"


class PushCommands:
    """Pushes, kicks and the look at sessions; takes and returns the messages of the rpcs.

    Args:
        manager: Where the sessions are.
        max_message_bytes: The largest frame that any client takes.
        clock: Loop time.
        wall_clock: Seconds since the epoch.
    """

    def __init__(
        self,
        manager: SessionManager,
        max_message_bytes: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.counters = PushCounters()
        self._manager = manager
        self._max_message_bytes = max_message_bytes
        self._clock = clock
        self._wall_clock = wall_clock

    # Pushes.

    def push(self, request: pb.UnicastPushRequest) -> pb.UnicastPushResponse:
        """Queue a notify for a session, or for every session of an openid."""
        self.counters.pushes += 1
        try:
            count = self._push(request)
        except RefusedError as refusal:
            return _refused(refusal)
        return pb.UnicastPushResponse(success=True, sessions=count)

    async def push_batch(
        self, requests: Iterable[pb.UnicastPushRequest]
    ) -> list[pb.UnicastPushResponse]:
        """Push in order; other traffic gets its turn between slices."""
        responses = []
        for request in requests:
            responses.append(self.push(request))
            if len(responses) % SLICE == 0:
                await asyncio.sleep(0)
        return responses

    def check_batch(self, count: int) -> None:
        """Refuse a batch that is too long, before any of it is done.

        Raises:
            RefusedError: It has more than MAX_BATCH pushes.
        """
        if count > MAX_BATCH:
            raise self._refuse("TOO_LARGE", f"{count} pushes, {MAX_BATCH} at most a message")

    async def broadcast(self, request: pb.BroadcastRequest) -> pb.BroadcastResponse:
        """Queue a notify for every session that is logged in (PROTOCOL 5.6)."""
        self.counters.broadcasts += 1
        try:
            body = self._bulk_body(request)
        except RefusedError as refusal:
            return _bulk_refused(refusal)
        return await self._push_bulk(self._manager.logged_in_sessions(), body, request)

    async def multicast(self, request: pb.MulticastRequest) -> pb.BroadcastResponse:
        """Queue a notify for each session that the targets name, once for each."""
        self.counters.multicasts += 1
        push = request.push
        sessions: dict[str, Session] = {}
        try:
            if len(request.targets) > MAX_TARGETS:
                raise self._refuse(
                    "TOO_LARGE", f"{len(request.targets)} targets, {MAX_TARGETS} at most"
                )
            body = self._bulk_body(push)
            for target in request.targets:
                self._check_target(target.target_type, target.target_id)
                for session in self._manager.find(target.target_type, target.target_id):
                    sessions[session.session_id] = session
        except RefusedError as refusal:
            return _bulk_refused(refusal)
        return await self._push_bulk(list(sessions.values()), body, push)

    async def _push_bulk(
        self, sessions: list[Session], body: bytes, push: pb.BroadcastRequest
    ) -> pb.BroadcastResponse:
        """Queue one body for many sessions; other traffic gets its turn between slices of them."""
        ttl = push.ttl_ms / 1000
        count = 0
        for start in range(0, len(sessions), SLICE):
            if start:
                await asyncio.sleep(0)
            part = sessions[start : start + SLICE]
            count += self._manager.multicast(part, body, self._clock(), push.suspended, ttl)
        return pb.BroadcastResponse(sent_count=count)

    def _push(self, request: pb.UnicastPushRequest) -> int:
        """Queue or bind a notify; return how many sessions took it."""
        self._check_target(request.target_type, request.target_id)
        self._check_name("push_id", request.push_id)
        self._check_name("conflate_key", request.conflate_key)
        body = self._body(request)
        if request.bind_session_id and request.sync_hint == pb.NSH_IMMEDIATELY:
            raise self._refuse("INVALID", "bind_session_id: needs a sync_hint")
        if request.conflate_key and request.sync_hint != pb.NSH_IMMEDIATELY:
            raise self._refuse("INVALID", "conflate_key: not with a sync_hint")
        sessions = self._manager.find(request.target_type, request.target_id)
        now = self._clock()
        ttl = request.ttl_ms / 1000
        before = request.sync_hint == pb.NSH_BEFORE_RESPONSE
        if before or request.sync_hint == pb.NSH_AFTER_RESPONSE:
            session = self._one_to_bind(request, sessions)
            seq = request.bind_client_seq_id
            result = session.bind(body, seq, before, now=now, ttl=ttl, push_id=request.push_id)
            self._settle([result])
            return 1
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
            raise self._refuse("NOT_FOUND", "no such session")
        if len(sessions) > 1:
            raise self._refuse(
                "AMBIGUOUS", f"{len(sessions)} sessions, name one in bind_session_id"
            )
        return sessions[0]

    # Sessions.

    async def kick(self, request: pb.KickRequest) -> pb.UnicastPushResponse:
        """Close a session, or every session of an openid, telling the clients why.

        Those that have not logged in yet end too, wherever their hello stands.
        """
        self.counters.kicks += 1
        try:
            self._check_target(request.target_type, request.target_id)
            code = request.code or CloseCode.KICKED
            if code < MIN_KICK_CODE:
                raise self._refuse("INVALID", f"code: {code} is below {MIN_KICK_CODE}")
            if not is_valid_text(request.reason, MAX_REASON_BYTES):
                raise self._refuse("INVALID", f"reason: not {MAX_REASON_BYTES} bytes of plain text")
            sessions = self._manager.find(request.target_type, request.target_id, with_inited=True)
            if not sessions:
                raise self._refuse("NOT_FOUND", "no such session")
        except RefusedError as refusal:
            return _refused(refusal)
        # Whoever likes may claim an openid: there may be very many.
        for index, session in enumerate(sessions):
            if index and index % SLICE == 0:
                await asyncio.sleep(0)
            self._manager.kick(session, request.reason, self._clock(), code)
        return pb.UnicastPushResponse(success=True, sessions=len(sessions))

    def get_session(self, request: pb.GetSessionRequest) -> pb.SessionInfo:
        """Return a session and its queue; found is false where there is none.

        Raises:
            RefusedError: INVALID, or AMBIGUOUS where the openid has several.
        """
        self._check_target(request.target_type, request.target_id)
        sessions = self._manager.find(request.target_type, request.target_id)
        if not sessions:
            self.counters.not_found += 1
            return pb.SessionInfo()
        if len(sessions) > 1:
            raise self._refuse(
                "AMBIGUOUS", f"{len(sessions)} sessions, ask for one by its session id"
            )
        return self._info(sessions[0])

    async def list_sessions(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
        """Return a page of the sessions, in the order in which they were made.

        Raises:
            RefusedError: INVALID.
        """
        size = request.page_size or PAGE_SIZE
        if size > MAX_PAGE_SIZE:
            raise self._refuse("INVALID", f"page_size: {size} is above {MAX_PAGE_SIZE}")
        token = request.page_token
        if token and not (token.isascii() and token.isdigit() and len(token) < 20):
            raise self._refuse("INVALID", "page_token: not one of ours")
        if request.state and request.state not in STATES:
            raise self._refuse("INVALID", f"state: none of {', '.join(STATES)}")
        found = self._manager.sessions_behind(int(token or 0), request.openid)
        zone = normalize_zone(request.zone)
        response = pb.ListSessionsResponse()
        last = 0
        for index, session in enumerate(found):
            if index and index % SLICE == 0:
                await asyncio.sleep(0)
            if (
                not session.is_valid
                or (zone and session.zone != zone)
                or (request.state and session.state.name.capitalize() != request.state)
            ):
                continue
            if len(response.sessions) == size:
                response.next_page_token = str(last)
                break
            response.sessions.append(self._info(session))
            last = session.number
        return response

    def _info(self, session: Session) -> pb.SessionInfo:
        return session.info(self._clock(), int(self._wall_clock() * 1000))

    # Input limits (PROTOCOL 1.6, 7.6).

    def _check_target(self, target_type: str, target_id: str) -> None:
        if target_type not in ("session", "openid"):
            raise self._refuse("INVALID", "target_type: neither session nor openid")
        if not target_id or not is_valid_text(target_id, MAX_OPENID_BYTES):
            raise self._refuse(
                "INVALID", f"target_id: not 1-{MAX_OPENID_BYTES} bytes of plain text"
            )

    def _check_name(self, field: str, name: str) -> None:
        if not is_valid_text(name, MAX_NAME_BYTES):
            raise self._refuse("INVALID", f"{field}: not {MAX_NAME_BYTES} bytes of plain text")

    def _bulk_body(self, push: pb.BroadcastRequest) -> bytes:
        body = self._body(push)
        if len(body) > self._max_message_bytes:
            raise self._refuse("TOO_LARGE", f"{len(body)} bytes are more than any client takes")
        return body

    def _body(self, push: pb.UnicastPushRequest | pb.BroadcastRequest) -> bytes:
        """Encode a push once, for all that get it."""
        if not is_valid_text(push.msg_type, MAX_MSG_TYPE_BYTES):
            raise self._refuse("INVALID", f"msg_type: not {MAX_MSG_TYPE_BYTES} bytes of plain text")
        metadata = push.metadata
        if metadata:
            if len(metadata) > MAX_HEADERS:
                raise self._refuse("INVALID", f"metadata: more than {MAX_HEADERS} entries")
            size = sum(len(k.encode()) + len(v.encode()) for k, v in metadata.items())
            if size > MAX_HEADERS_BYTES:
                raise self._refuse("INVALID", f"metadata: more than {MAX_HEADERS_BYTES} bytes")
        return notify_body(push.msg_type, push.title, push.content, push.data, metadata.items())

    def _settle(self, results: list[PushResult]) -> int:
        """Return how many sessions took a push.

        Raises:
            RefusedError: None did; sessions have counted why.
        """
        count = sum(result.is_ok for result in results)
        if count:
            return count
        if not results:
            raise self._refuse("NOT_FOUND", "no such session")
        worst = max(results, key=lambda result: result.retry_after_ms)
        raise RefusedError(worst.error_code, _WHY.get(worst.error_code, ""), worst.retry_after_ms)

    def _refuse(self, error_code: str, message: str) -> RefusedError:
        """Count what is refused here, and return it to be raised."""
        counters = self.counters
        if error_code == "NOT_FOUND":
            counters.not_found += 1
        elif error_code == "AMBIGUOUS":
            counters.ambiguous += 1
        elif error_code == "TOO_LARGE":
            counters.too_large += 1
        else:
            counters.invalid += 1
        return RefusedError(error_code, message)


def _refused(refusal: RefusedError) -> pb.UnicastPushResponse:
    return pb.UnicastPushResponse(
        message=str(refusal),
        error_code=refusal.error_code,
        retry_after_ms=refusal.retry_after_ms,
    )


def _bulk_refused(refusal: RefusedError) -> pb.BroadcastResponse:
    return pb.BroadcastResponse(message=str(refusal), error_code=refusal.error_code)


_WHY = {
    "NOT_FOUND": "no such session",
    "NO_SUCH_REQUEST": "bind_client_seq_id: the session has not sent it",
    "TOO_LATE": "bind_client_seq_id: answered already",
    "BUSY": "the queue is full",
    "TOO_LARGE": "larger than the client takes",
}
