"""GatewayServicer: the rpcs of GatewayService; what they do is in PushCommands."""

from __future__ import annotations

import functools
import inspect
import ipaddress
import logging
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc

from .._pb import upstream_pb2 as pb
from .._pb import upstream_pb2_grpc as pb_grpc
from ..control.commands import RefusedError
from ..control.events import EventStream
from ..errors import QueueFull
from ..grpcio import CALL_ENDED
from ..observe.log import keys

if TYPE_CHECKING:
    from ..control.commands import PushCommands
    from ..observe.events import SessionEvent
    from ..service.results import RegistryResult
    from ..session.events import EventHub
    from ..upstream.registry import UpstreamRegistry

    _Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["GatewayServicer", "caller_ip"]

logger = logging.getLogger("gatesvr.grpc_api")


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
        except RefusedError as refusal:
            name, text = refusal.as_status()
            status = grpc.StatusCode[name]
        except Exception:
            self.counters.internal_errors += 1
            logger.exception("push_failed", extra=keys(rpc=method.__name__))
            status, text = grpc.StatusCode.INTERNAL, "internal error"
        return await context.abort(status, text)

    return call


class GatewayServicer(pb_grpc.GatewayServiceServicer):
    """The rpcs of GatewayService.

    Args:
        commands: Does what is asked of sessions.
        events: Tells what happens to them.
        registry: Where upstreams register.
    """

    def __init__(
        self, commands: PushCommands, events: EventHub, registry: UpstreamRegistry
    ) -> None:
        self.counters = commands.counters
        self._commands = commands
        self._events = events
        self._registry = registry
        self._event_streams: set[EventStream] = set()
        self._is_ended = False

    # Pushes.

    @_rpc
    def PushToClient(  # noqa: N802 - the name is the schema's
        self, request: pb.UnicastPushRequest, context: object
    ) -> pb.UnicastPushResponse:
        """Queue a notify for a session, or for every session of an openid."""
        return self._commands.push(request)

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
                self._commands.check_batch(len(batch.requests))
                responses = await self._commands.push_batch(batch.requests)
                yield pb.UnicastPushBatchResponse(responses=responses)
        except RefusedError as refusal:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refusal))
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
        return await self._commands.broadcast(request)

    @_rpc
    async def MulticastToClients(  # noqa: N802
        self, request: pb.MulticastRequest, context: object
    ) -> pb.BroadcastResponse:
        """Queue a notify for each session that the targets name, once for each."""
        return await self._commands.multicast(request)

    # Sessions.

    @_rpc
    async def KickClient(  # noqa: N802
        self, request: pb.KickRequest, context: object
    ) -> pb.UnicastPushResponse:
        """Close a session, or every session of an openid, telling the clients why."""
        return await self._commands.kick(request)

    @_rpc
    def GetSession(  # noqa: N802
        self, request: pb.GetSessionRequest, context: object
    ) -> pb.SessionInfo:
        """Return a session and its queue; found is false where there is none.

        An openid with several sessions is FAILED_PRECONDITION: ask by session id.
        """
        return self._commands.get_session(request)

    @_rpc
    async def ListSessions(  # noqa: N802
        self, request: pb.ListSessionsRequest, context: object
    ) -> pb.ListSessionsResponse:
        """Return a page of the sessions; a wrong field is INVALID_ARGUMENT."""
        return await self._commands.list_sessions(request)

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
        return _register_response(result)

    @_rpc
    def KeepUpstreamAlive(  # noqa: N802
        self, request: pb.LeaseRequest, context: object
    ) -> pb.UpstreamRegisterResponse:
        """Start an endpoint's lease anew."""
        result = self._registry.keep_alive(request.lease_id)
        return _register_response(result)

    @_rpc
    def DeregisterUpstream(  # noqa: N802
        self, request: pb.LeaseRequest, context: object
    ) -> pb.UpstreamRegisterResponse:
        """Take an endpoint away."""
        result = self._registry.deregister(request.lease_id)
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
        stream = EventStream(self._events, request.kinds)
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
