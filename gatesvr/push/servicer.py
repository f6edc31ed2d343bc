"""GatewayServicer: the rpcs that upstreams push through (PROTOCOL 7.5-7.8).

A push is handed to its session before anything is awaited, so that what one caller sends in order
stays in order. Only what goes to many sessions at once is done in slices.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import ipaddress
import logging
import time
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from .._core.codec import notify_body
from .._pb import upstream_pb2 as pb
from .._pb import upstream_pb2_grpc as pb_grpc
from ..errors import CloseCode, QueueFull
from ..observe.log import keys
from ..observe.metrics import Counters
from ..protocol.messages import (
    MAX_HEADERS,
    MAX_HEADERS_BYTES,
    MAX_OPENID_BYTES,
    is_valid_text,
)
from ..upstream.channel import CALL_ENDED
from .events import EventStream

if TYPE_CHECKING:
    from ..observe.events import SessionEvent
    from ..session.manager import SessionManager
    from ..session.session import PushResult, Session
    from ..upstream.registry import RegistryResult, UpstreamRegistry

    _Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["GatewayServicer", "PushCounters", "caller_ip"]

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

logger = logging.getLogger("gatesvr.push")


@dataclass(slots=True)
class PushCounters(Counters):
    """What the push API counts."""

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
    queued: int = 0
    """Sessions that took a push."""
    broadcasts: int = 0
    multicasts: int = 0
    bulk_queued: int = 0
    """Sessions that took a broadcast or multicast."""
    kicked: int = 0
    registrations: int = 0
    registrations_refused: int = 0
    leases_kept: int = 0
    leases_refused: int = 0
    """Leases to keep or to end that are not there."""
    deregistrations: int = 0
    not_found: int = 0
    ambiguous: int = 0
    too_late: int = 0
    no_such_request: int = 0
    busy: int = 0
    too_large: int = 0
    invalid: int = 0
    internal_errors: int = 0


class _RefusedError(Exception):
    """A push that is answered with an error_code."""

    def __init__(self, error_code: str, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.retry_after_ms = retry_after_ms


def _rpc(
    method: Callable[[GatewayServicer, Any, _Context], Any],
) -> Callable[..., Awaitable[Any]]:
    """Make a unary rpc of a method: count it, and tell the caller nothing of our faults."""

    @functools.wraps(method)
    async def call(self: GatewayServicer, request: Any, context: _Context) -> Any:
        self.counters.calls += 1
        try:
            response = method(self, request, context)
            return await response if inspect.isawaitable(response) else response
        except Exception:
            self.counters.internal_errors += 1
            logger.exception("push_failed", extra=keys(rpc=method.__name__))
        return await context.abort(grpc.StatusCode.INTERNAL, "internal error")

    return call


class GatewayServicer(pb_grpc.GatewayServiceServicer):
    """The rpcs of GatewayService.

    Args:
        manager: Where the sessions are.
        registry: Where upstreams register.
        counters: Counts what is asked and what is refused.
        max_message_bytes: The largest frame that any client takes.
        clock: Loop time.
        wall_clock: Seconds since the epoch.
    """

    def __init__(
        self,
        manager: SessionManager,
        registry: UpstreamRegistry,
        counters: PushCounters,
        max_message_bytes: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.counters = counters
        self._manager = manager
        self._registry = registry
        self._max_message_bytes = max_message_bytes
        self._clock = clock
        self._wall_clock = wall_clock
        self._event_streams: set[EventStream] = set()
        self._is_ended = False

    # Pushes.

    @_rpc
    def PushToClient(  # noqa: N802 - the name is the schema's
        self, request: pb.UnicastPushRequest, context: object
    ) -> pb.UnicastPushResponse:
        """Queue a notify for a session, or for every session of an openid."""
        return self.push(request)

    async def PushStream(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.UnicastPushBatch],
        context: _Context,
    ) -> AsyncIterator[pb.UnicastPushBatchResponse]:
        """Answer each batch with one of the same length, in order.

        A batch of more than MAX_BATCH is INVALID_ARGUMENT, and none of it is done.
        """
        self.counters.calls += 1
        self.counters.streams += 1
        try:
            async for batch in request_iterator:
                if len(batch.requests) > MAX_BATCH:
                    raise _RefusedError(
                        "TOO_LARGE", f"{len(batch.requests)} pushes, {MAX_BATCH} at most a message"
                    )
                responses = []
                for request in batch.requests:
                    responses.append(self.push(request))
                    if len(responses) % SLICE == 0:
                        await asyncio.sleep(0)
                yield pb.UnicastPushBatchResponse(responses=responses)
        except _RefusedError as refusal:
            message = self._refused(refusal).message
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        except Exception:
            self.counters.internal_errors += 1
            logger.exception("push_failed", extra=keys(rpc="PushStream"))
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        finally:
            self.counters.streams -= 1

    @_rpc
    async def BroadcastToClients(  # noqa: N802
        self, request: pb.BroadcastRequest, context: object
    ) -> pb.BroadcastResponse:
        """Queue a notify for every session that is logged in (PROTOCOL 5.6)."""
        self.counters.broadcasts += 1
        try:
            body = self._bulk_body(request)
        except _RefusedError as refusal:
            return pb.BroadcastResponse(message=self._refused(refusal).message)
        return await self._push_bulk(self._manager.logged_in_sessions(), body, request)

    @_rpc
    async def MulticastToClients(  # noqa: N802
        self, request: pb.MulticastRequest, context: object
    ) -> pb.BroadcastResponse:
        """Queue a notify for each session that the targets name, once for each."""
        self.counters.multicasts += 1
        push = request.push
        sessions: dict[str, Session] = {}
        try:
            if len(request.targets) > MAX_TARGETS:
                raise _RefusedError(
                    "TOO_LARGE", f"{len(request.targets)} targets, {MAX_TARGETS} at most"
                )
            body = self._bulk_body(push)
            for target in request.targets:
                self._check_target(target.target_type, target.target_id)
                for session in self._manager.find(target.target_type, target.target_id):
                    sessions[session.session_id] = session
        except _RefusedError as refusal:
            return pb.BroadcastResponse(message=self._refused(refusal).message)
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
        self.counters.bulk_queued += count
        return pb.BroadcastResponse(sent_count=count)

    def push(self, request: pb.UnicastPushRequest) -> pb.UnicastPushResponse:
        """Do what PushToClient does; raises nothing for what a caller may get wrong."""
        self.counters.pushes += 1
        try:
            count = self._push(request)
        except _RefusedError as refusal:
            return self._refused(refusal)
        self.counters.queued += count
        return pb.UnicastPushResponse(success=True, sessions=count)

    def _push(self, request: pb.UnicastPushRequest) -> int:
        """Queue or bind a notify; return how many sessions took it."""
        self._check_target(request.target_type, request.target_id)
        self._check_name("push_id", request.push_id)
        self._check_name("conflate_key", request.conflate_key)
        body = self._body(request)
        if request.bind_session_id and request.sync_hint == pb.NSH_IMMEDIATELY:
            raise _RefusedError("INVALID", "bind_session_id: needs a sync_hint")
        if request.conflate_key and request.sync_hint != pb.NSH_IMMEDIATELY:
            raise _RefusedError("INVALID", "conflate_key: not with a sync_hint")
        sessions = self._manager.find(request.target_type, request.target_id)
        now = self._clock()
        ttl = request.ttl_ms / 1000
        before = request.sync_hint == pb.NSH_BEFORE_RESPONSE
        if before or request.sync_hint == pb.NSH_AFTER_RESPONSE:
            session = self._one_to_bind(request, sessions)
            seq = request.bind_client_seq_id
            result = session.bind(body, seq, before, now=now, ttl=ttl, push_id=request.push_id)
            _raise_refused([result])
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
        return _raise_refused(results)

    def _one_to_bind(self, request: pb.UnicastPushRequest, sessions: list[Session]) -> Session:
        """Return the session whose request a notify is bound to (PROTOCOL 7.7)."""
        if request.bind_session_id:
            sessions = [s for s in sessions if s.session_id == request.bind_session_id]
        if not sessions:
            raise _RefusedError("NOT_FOUND", "no such session")
        if len(sessions) > 1:
            raise _RefusedError(
                "AMBIGUOUS", f"{len(sessions)} sessions, name one in bind_session_id"
            )
        return sessions[0]

    # Sessions.

    @_rpc
    async def KickClient(  # noqa: N802
        self, request: pb.KickRequest, context: object
    ) -> pb.UnicastPushResponse:
        """Close a session, or every session of an openid, telling the clients why.

        Those that have not logged in yet end too, wherever their hello stands.
        """
        try:
            self._check_target(request.target_type, request.target_id)
            code = request.code or CloseCode.KICKED
            if code < MIN_KICK_CODE:
                raise _RefusedError("INVALID", f"code: {code} is below {MIN_KICK_CODE}")
            if not is_valid_text(request.reason, MAX_REASON_BYTES):
                raise _RefusedError(
                    "INVALID", f"reason: not {MAX_REASON_BYTES} bytes of plain text"
                )
            sessions = self._manager.find(request.target_type, request.target_id, with_inited=True)
            if not sessions:
                raise _RefusedError("NOT_FOUND", "no such session")
        except _RefusedError as refusal:
            return self._refused(refusal)
        # Whoever likes may claim an openid: there may be very many.
        for start in range(0, len(sessions), SLICE):
            if start:
                await asyncio.sleep(0)
            now = self._clock()
            for session in sessions[start : start + SLICE]:
                self._manager.kick(session, request.reason, now, code)
                self.counters.kicked += 1
        return pb.UnicastPushResponse(success=True, sessions=len(sessions))

    async def GetSession(  # noqa: N802
        self, request: pb.GetSessionRequest, context: _Context
    ) -> pb.SessionInfo:
        """Return a session and its queue; found is false where there is none.

        An openid with several sessions is FAILED_PRECONDITION: ask by session id.
        """
        self.counters.calls += 1
        try:
            self._check_target(request.target_type, request.target_id)
        except _RefusedError as refusal:
            self.counters.invalid += 1
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refusal))
        sessions = self._manager.find(request.target_type, request.target_id)
        if not sessions:
            self.counters.not_found += 1
            return pb.SessionInfo()
        if len(sessions) > 1:
            self.counters.ambiguous += 1
            message = f"AMBIGUOUS: {len(sessions)} sessions, ask for one by its session id"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)
        return sessions[0].info(self._clock(), int(self._wall_clock() * 1000))

    # Upstreams.

    @_rpc
    def RegisterUpstream(  # noqa: N802
        self, request: pb.UpstreamRegisterRequest, context: _Context
    ) -> pb.UpstreamRegisterResponse:
        """Add an endpoint of a service (PROTOCOL 7.8)."""
        result = self._registry.register(
            request.address,
            request.zone_id,
            request.service_name,
            request.lease_seconds,
            request.weight,
            caller_ip(context.peer()),
        )
        if result.success:
            self.counters.registrations += 1
        else:
            self.counters.registrations_refused += 1
        return _register_response(result)

    @_rpc
    def KeepUpstreamAlive(  # noqa: N802
        self, request: pb.LeaseRequest, context: object
    ) -> pb.UpstreamRegisterResponse:
        """Start an endpoint's lease anew."""
        result = self._registry.keep_alive(request.lease_id)
        if result.success:
            self.counters.leases_kept += 1
        else:
            self.counters.leases_refused += 1
        return _register_response(result)

    @_rpc
    def DeregisterUpstream(  # noqa: N802
        self, request: pb.LeaseRequest, context: object
    ) -> pb.UpstreamRegisterResponse:
        """Take an endpoint away."""
        result = self._registry.deregister(request.lease_id)
        if result.success:
            self.counters.deregistrations += 1
        else:
            self.counters.leases_refused += 1
        return _register_response(result)

    # Events.

    async def SubscribeEvents(  # noqa: N802
        self, request: pb.SubscribeRequest, context: _Context
    ) -> None:
        """Write session events until the caller goes or the gateway stops.

        A kind that there is not is INVALID_ARGUMENT, a subscriber too many RESOURCE_EXHAUSTED.
        """
        counters = self.counters
        counters.calls += 1
        if self._is_ended:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway stops")
        stream = EventStream(self._manager.events, request.kinds)
        try:
            stream.begin()
        except ValueError as error:
            counters.invalid += 1
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"kinds: {error}")
        except QueueFull as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        self._event_streams.add(stream)
        counters.event_streams += 1
        try:
            # At once: from here on the caller knows that it hears of everything.
            await context.send_initial_metadata(())
            async for event in stream:
                await context.write(_event_message(event))
                counters.events_sent += 1
        except CALL_ENDED:
            # The caller went while we wrote; where we wait, gRPC cancels this task.
            logger.debug("subscriber_gone", extra=keys(peer=context.peer()))
        except Exception:
            counters.internal_errors += 1
            logger.exception("push_failed", extra=keys(rpc="SubscribeEvents"))
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        finally:
            stream.end()
            self._event_streams.discard(stream)
            counters.event_streams -= 1

    def end_events(self) -> None:
        """End the event streams, behind what has happened by now, and refuse new ones."""
        self._is_ended = True
        for stream in self._event_streams:
            stream.end()

    # Input limits (PROTOCOL 1.6, 7.6).

    def _check_target(self, target_type: str, target_id: str) -> None:
        if target_type not in ("session", "openid"):
            raise _RefusedError("INVALID", "target_type: neither session nor openid")
        if not target_id or not is_valid_text(target_id, MAX_OPENID_BYTES):
            raise _RefusedError(
                "INVALID", f"target_id: not 1-{MAX_OPENID_BYTES} bytes of plain text"
            )

    def _check_name(self, field: str, name: str) -> None:
        if not is_valid_text(name, MAX_NAME_BYTES):
            raise _RefusedError("INVALID", f"{field}: not {MAX_NAME_BYTES} bytes of plain text")

    def _bulk_body(self, push: pb.BroadcastRequest) -> bytes:
        body = self._body(push)
        if len(body) > self._max_message_bytes:
            raise _RefusedError("TOO_LARGE", f"{len(body)} bytes are more than any client takes")
        return body

    def _body(self, push: pb.UnicastPushRequest | pb.BroadcastRequest) -> bytes:
        """Encode a push once, for all that get it."""
        if not is_valid_text(push.msg_type, MAX_MSG_TYPE_BYTES):
            raise _RefusedError(
                "INVALID", f"msg_type: not {MAX_MSG_TYPE_BYTES} bytes of plain text"
            )
        metadata = push.metadata
        if metadata:
            if len(metadata) > MAX_HEADERS:
                raise _RefusedError("INVALID", f"metadata: more than {MAX_HEADERS} entries")
            size = sum(len(k.encode()) + len(v.encode()) for k, v in metadata.items())
            if size > MAX_HEADERS_BYTES:
                raise _RefusedError("INVALID", f"metadata: more than {MAX_HEADERS_BYTES} bytes")
        return notify_body(push.msg_type, push.title, push.content, push.data, metadata.items())

    def _refused(self, refusal: _RefusedError) -> pb.UnicastPushResponse:
        name = refusal.error_code.lower()
        setattr(self.counters, name, getattr(self.counters, name) + 1)
        return pb.UnicastPushResponse(
            message=str(refusal),
            error_code=refusal.error_code,
            retry_after_ms=refusal.retry_after_ms,
        )


def _raise_refused(results: Iterable[PushResult]) -> int:
    """Return how many sessions took a push; raise why where none did."""
    results = list(results)
    count = sum(result.is_ok for result in results)
    if count:
        return count
    if not results:
        raise _RefusedError("NOT_FOUND", "no such session")
    worst = max(results, key=lambda result: result.retry_after_ms)
    raise _RefusedError(worst.error_code, _WHY.get(worst.error_code, ""), worst.retry_after_ms)


_WHY = {
    "NOT_FOUND": "no such session",
    "NO_SUCH_REQUEST": "bind_client_seq_id: the session has not sent it",
    "TOO_LATE": "bind_client_seq_id: answered already",
    "BUSY": "the queue is full",
    "TOO_LARGE": "larger than the client takes",
}


def _event_message(event: SessionEvent) -> pb.SessionEvent:
    return pb.SessionEvent(
        kind=event.kind,
        session_id=event.session_id,
        openid=event.openid,
        generation=event.generation,
        reason=event.reason,
        at_ms=event.at_ms,
        last_sent_seq=event.last_sent_seq,
        last_acked_seq=event.last_acked_seq,
        max_client_seq=event.max_client_seq,
        undelivered=event.undelivered,
        missed=event.missed,
    )


def _register_response(result: RegistryResult) -> pb.UpstreamRegisterResponse:
    return pb.UpstreamRegisterResponse(
        success=result.success,
        message=result.message,
        error_code=result.error_code,
        lease_id=result.lease_id,
    )


def caller_ip(peer: str) -> str:
    """Return the address in a gRPC peer name, empty where it has none.

    ``ipv4:127.0.0.1:5000`` and ``ipv6:[::1]:5000`` (brackets may be percent-encoded) have one,
    ``unix:`` has none.
    """
    family, _, rest = urllib.parse.unquote(peer).partition(":")
    if family not in ("ipv4", "ipv6"):
        return ""
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
