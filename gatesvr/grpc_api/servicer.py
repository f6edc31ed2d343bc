"""GatewayServicer: the rpcs of GatewayService, each on a command of control."""

from __future__ import annotations

import asyncio
import functools
import inspect
import ipaddress
import logging
import urllib.parse
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message

from .._core.codec import has_more_entries
from .._pb import upstream_pb2 as pb
from ..control.targets import RefusedError
from ..errors import QueueFull
from ..grpcio import CALL_ENDED, STREAM_MOVES, STREAM_OPEN, raise_if_cancelled
from ..observe.event_pb import to_pb
from ..observe.log import keys

if TYPE_CHECKING:
    from ..control.events import EventStream
    from ..control.interface import CommandSet
    from .guard import Guard

    _Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["SERVICE", "GatewayServicer", "caller_ip", "decoder"]

logger = logging.getLogger("gatesvr.grpc_api")

MAX_ENTRIES = 50_000
"""Pushes of a batch, or targets of a multicast, above which it is not even decoded: each takes a
hundred times the two bytes that it may have on the wire. Up to here the commands say the limit."""
MAX_AHEAD = 10_000
"""Pushes of a PushStream under way at which no other batch of it is read."""
_LISTS = (pb.UnicastPushBatch, pb.MulticastRequest)

SERVICE = pb.DESCRIPTOR.services_by_name["GatewayService"]


def _rpc(
    method: Callable[[GatewayServicer, Any, _Context], Any],
) -> Callable[..., Awaitable[Any]]:
    """Return a method as a unary rpc: counted, and without details of internal errors."""

    @functools.wraps(method)
    async def call(self: GatewayServicer, request: Any, context: _Context) -> Any:
        self.counters.calls += 1
        try:
            if request is None:
                raise self.undecodable()
            response = method(self, request, context)
            return await response if inspect.isawaitable(response) else response
        except RefusedError as refusal:
            name, text = refusal.as_status()
            status = grpc.StatusCode[name]
        except asyncio.CancelledError:
            raise_if_cancelled()
            # What it waited for was. gRPC would answer CANCELLED: that nothing has begun.
            status, text = grpc.StatusCode.UNAVAILABLE, "the gateway stops"
        except Exception:
            self.counters.internal_errors += 1
            logger.exception("push_failed", extra=keys(rpc=method.__name__))
            status, text = grpc.StatusCode.INTERNAL, "internal error"
        return await context.abort(status, text)

    return call


class GatewayServicer:
    """The rpcs of GatewayService.

    Args:
        commands: Carries them out.
        guard: Knows who calls; None where callers prove nothing.
        max_streams: PushStreams open at a time.
    """

    def __init__(
        self, commands: CommandSet, guard: Guard | None = None, max_streams: int = 128
    ) -> None:
        self.counters = commands.counters
        self._commands = commands
        self._guard = guard
        self._max_streams = max_streams
        self._pushes = commands.pushes
        self._event_streams: set[EventStream] = set()
        # What PushStreams wait for, and whether their callers know STREAM_MOVES.
        self._readings: dict[asyncio.Future[Any], bool] = {}
        self._is_ended = False
        self._is_leaving = self._is_reading_over = False

    def apply(self, max_streams: int) -> None:
        """Take another bound on streams; open ones stay."""
        self._max_streams = max_streams

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what a server takes.

        In the place of a message that does not decode the methods get None: gRPC itself would write
        a traceback for each into the log.
        """
        table = {}
        for method in SERVICE.methods:
            kind = "unary" if not method.client_streaming else "stream"
            kind += "_unary" if not method.server_streaming else "_stream"
            make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
            takes, gives = (
                message_factory.GetMessageClass(message)
                for message in (method.input_type, method.output_type)
            )
            behaviour = getattr(self, method.name)
            table[method.name] = make(behaviour, decoder(takes), gives.SerializeToString)
        return grpc.method_handlers_generic_handler(SERVICE.full_name, table)

    def undecodable(self) -> RefusedError:
        """Count a message that does not decode, and return the error for the caller to raise."""
        self.counters.invalid += 1
        return RefusedError("INVALID", "the message does not decode, or is too long")

    # Pushes.

    @_rpc
    def PushToClient(  # noqa: N802 - the name is the schema's
        self, request: pb.UnicastPushRequest, context: object
    ) -> pb.UnicastPushResponse | Awaitable[pb.UnicastPushResponse]:
        """Queue a notify for a session, or for every session of an openid."""
        return self._pushes.push(request)

    async def PushStream(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.UnicastPushBatch | None],
        context: _Context,
    ) -> None:
        """Answer each batch with one of the same length, in order.

        A batch of more than MAX_BATCH pushes gets INVALID_ARGUMENT, and none of it is done.
        """
        self.counters.calls += 1
        if self.counters.streams >= self._max_streams:
            self.counters.refused_streams += 1
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._max_streams} streams are open"
            )
        self.counters.streams += 1
        try:
            await context.send_initial_metadata(STREAM_OPEN)
            if self._pushes.max_batches > 1:
                await self._push_ahead(context)
                return
            stream = self._pushes.stream()
            async for batch in request_iterator:
                responses = await stream.push_batch(self._checked(batch))
                await context.write(pb.UnicastPushBatchResponse(responses=responses))
        except RefusedError as refusal:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refusal))
        except CALL_ENDED:
            logger.debug("pusher_gone", extra=keys(peer=context.peer()))
        except Exception:
            self.counters.internal_errors += 1
            logger.exception("push_failed", extra=keys(rpc="PushStream"))
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        finally:
            self.counters.streams -= 1

    async def _push_ahead(self, context: _Context) -> None:
        """Begin batches of a PushStream while earlier ones wait for other processes."""
        stream = self._pushes.stream()
        can_move = STREAM_MOVES in (context.invocation_metadata() or ())
        answers: deque[tuple[int, asyncio.Future[list[pb.UnicastPushResponse]]]] = deque()
        reading: asyncio.Future[Any] | None = None
        is_over = False
        try:
            while True:
                is_moving = can_move and self._is_leaving
                is_over = is_over or self._is_reading_over
                has_room = len(answers) < self._pushes.max_batches
                has_room = has_room and sum(count for count, _ in answers) < MAX_AHEAD
                if has_room and not is_over and not is_moving and reading is None:
                    reading = asyncio.ensure_future(context.read())
                    self._readings[reading] = can_move
                waited: list[asyncio.Future[Any]] = [reading] if reading is not None else []
                if answers:
                    waited.append(answers[0][1])
                if not waited:
                    if is_moving and not is_over:
                        await context.write(pb.UnicastPushBatchResponse(moves=True))
                    return
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                while answers and answers[0][1].done():
                    _, done = answers.popleft()
                    answer = pb.UnicastPushBatchResponse(responses=done.result())
                    answer.moves = self._is_leaving
                    await context.write(answer)
                if reading is not None and reading.done():
                    self._readings.pop(reading, None)
                    read, reading = reading, None
                    if read.cancelled():  # by leave() or end_reading()
                        continue
                    is_over = read.result() is grpc.aio.EOF
                    if not is_over:
                        requests = self._checked(read.result())
                        done = asyncio.ensure_future(stream.push_batch(requests))
                        answers.append((len(requests), done))
        finally:
            if reading is not None:
                self._readings.pop(reading, None)
                reading.cancel()

    def _checked(self, batch: pb.UnicastPushBatch | None) -> Sequence[pb.UnicastPushRequest]:
        if batch is None:
            raise self.undecodable()
        self._pushes.check_batch(len(batch.requests))
        return batch.requests

    @_rpc
    async def BroadcastToClients(  # noqa: N802
        self, request: pb.BroadcastRequest, context: object
    ) -> pb.BroadcastResponse:
        """Queue a notify for every logged-in session (PROTOCOL 5.6)."""
        return await self._pushes.broadcast(request)

    @_rpc
    async def MulticastToClients(  # noqa: N802
        self, request: pb.MulticastRequest, context: object
    ) -> pb.BroadcastResponse:
        """Queue a notify once for each session of the targets."""
        return await self._pushes.multicast(request)

    # Sessions.

    @_rpc
    async def KickClient(  # noqa: N802
        self, request: pb.KickRequest, context: object
    ) -> pb.UnicastPushResponse:
        """Close a session, or every session of an openid, and tell the clients why."""
        return await self._commands.sessions.kick(request)

    @_rpc
    def GetSession(  # noqa: N802
        self, request: pb.GetSessionRequest, context: object
    ) -> pb.SessionInfo | Awaitable[pb.SessionInfo]:
        """Return a session and its queue; found is false where there is none.

        An openid with several sessions gets FAILED_PRECONDITION; ask by session id then.
        """
        return self._commands.sessions.get(request)

    @_rpc
    async def ListSessions(  # noqa: N802
        self, request: pb.ListSessionsRequest, context: object
    ) -> pb.ListSessionsResponse:
        """Return a page of the sessions; an invalid field gets INVALID_ARGUMENT."""
        return await self._commands.sessions.list(request)

    # Upstreams.

    @_rpc
    async def RegisterUpstream(  # noqa: N802
        self, request: pb.UpstreamRegisterRequest, context: _Context
    ) -> pb.UpstreamRegisterResponse:
        """Add an endpoint of a service (PROTOCOL 7.8)."""
        owner = ""
        if self._guard is not None:
            owner = await self._guard.registrant(context, request.service_name)
        registration = self._commands.registration
        answer = registration.register(request, caller_ip(context.peer()), owner)
        return await answer if inspect.isawaitable(answer) else answer

    @_rpc
    def KeepUpstreamAlive(  # noqa: N802
        self, request: pb.LeaseRequest, context: object
    ) -> pb.UpstreamRegisterResponse | Awaitable[pb.UpstreamRegisterResponse]:
        """Restart an endpoint's lease."""
        return self._commands.registration.keep_alive(request)

    @_rpc
    def DeregisterUpstream(  # noqa: N802
        self, request: pb.LeaseRequest, context: object
    ) -> pb.UpstreamRegisterResponse | Awaitable[pb.UpstreamRegisterResponse]:
        """Remove an endpoint."""
        return self._commands.registration.deregister(request)

    # Events.

    async def SubscribeEvents(  # noqa: N802
        self, request: pb.SubscribeRequest | None, context: _Context
    ) -> None:
        """Write session events until the caller leaves or the gateway stops.

        An unknown kind gets INVALID_ARGUMENT, one subscriber too many RESOURCE_EXHAUSTED.
        """
        counters = self.counters
        counters.calls += 1
        if request is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(self.undecodable()))
        if self._is_ended:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway stops")
        stream = self._commands.events(request.kinds)
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
            await stream.ready()
            # Sent at once: it tells the caller that no event is missed from here on.
            await context.send_initial_metadata(STREAM_OPEN)
            async for event in stream:
                await context.write(to_pb(event))
                counters.events_sent += 1
        except CALL_ENDED:
            # The caller left during a write; while this task waits, gRPC cancels it instead.
            logger.debug("subscriber_gone", extra=keys(peer=context.peer()))
        except Exception:
            counters.internal_errors += 1
            logger.exception("push_failed", extra=keys(rpc="SubscribeEvents"))
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        finally:
            stream.end()
            self._event_streams.discard(stream)
            counters.event_streams -= 1

    def leave(self) -> None:
        """Have the callers of PushStreams go on at another process.

        Those who know STREAM_MOVES are told at once, when all that was read is answered; others
        with their next answer.
        """
        self._is_leaving = True
        for reading, can_move in self._readings.items():
            if can_move:
                reading.cancel()

    def end_reading(self) -> None:
        """End the PushStreams that are left, when all that was read is answered."""
        self._is_reading_over = True
        for reading in self._readings:
            reading.cancel()

    def end_events(self) -> None:
        """End the event streams after the events so far, and refuse new ones."""
        self._is_ended = True
        for stream in self._event_streams:
            stream.end()


def decoder(kind: type[Message]) -> Callable[[bytes], Message | None]:
    """Return what decodes messages of a kind, those that do not decode as None."""

    def decode(data: bytes) -> Message | None:
        if kind in _LISTS and has_more_entries(data, MAX_ENTRIES):
            return None
        try:
            return kind.FromString(data)
        except DecodeError:
            return None

    return decode


@functools.lru_cache(maxsize=1024)
def caller_ip(peer: str) -> str:
    """Return the IP address in a gRPC peer name, empty where there is none.

    ``ipv4:127.0.0.1:5000`` and ``ipv6:[::1]:5000`` (brackets may be percent-encoded) contain one,
    ``unix:`` does not.
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
