"""GatewayClient: the push API for upstream services."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from .._pb import upstream_pb2 as pb
from .._pb import upstream_pb2_grpc as rpc
from ..config import Range, check_numbers
from ..credentials import Access
from ..errors import ConfigError, UpstreamError
from ..grpcio import STREAM_MOVES, make_channel, status_text
from .closing import AsyncClosing
from .event_stream import GatewayEvents
from .push_api import PushApi
from .push_stream import GrpcPushStream
from .repeats import Repeats
from .results import RegistryResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .push_api import PushStream

__all__ = ["GatewayClient"]

TIMEOUT_S = 5.0
KEEPALIVE_MS = 60_000
"""Silence after which a ping checks that the gateway is still there."""
RECONNECT_MS = 100
"""Pause after the first attempt to connect that failed."""
CONNECT_MS = 1_000
"""Longest first attempt to connect: a process that stops may not answer it."""
_QUESTIONS = frozenset(("GetSession", "ListSessions"))
"""What may be asked twice."""


class GatewayClient(PushApi, AsyncClosing):
    """Calls a gateway's GatewayService. The first call opens the channel; close() it at the end.

    Every method raises UpstreamError if the gateway is unreachable or does not answer in time, and
    ConfigError if no address is set. A call that no process of the gateway has begun, because it
    came to one that stopped, is repeated for a second; so is a push with a push_id whose connection
    was lost.

    Args:
        address: The gateway's gRPC address, HOST:PORT; or a function that returns it at first use.
        timeout: Longest wait for an answer, seconds.
        ca: PEM file with the certificates to trust the gateway by, or ``system``: TLS. Empty: plain
            text.
        cert: PEM file with the certificate to show.
        key: PEM file with its private key.
        token_file: File whose first line is the bearer token to send; read again when it changes.

    Raises:
        ConfigError: A file cannot be used.
    """

    def __init__(
        self,
        address: str | Callable[[], str] = "",
        timeout: float = TIMEOUT_S,
        *,
        ca: str = "",
        cert: str = "",
        key: str = "",
        token_file: str = "",
    ) -> None:
        check_numbers(timeout=(timeout, Range(0.001, math.inf)))
        self.address = address
        self._access = Access(ca, cert, key, token_file)
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._streams: set[GatewayEvents] = set()
        self._pushing: set[GrpcPushStream] = set()

    def push_stream(self) -> PushStream:
        """Return a stream of pushes to the gateway; see PushApi."""

        def begin() -> Any:
            metadata = (*self._access.metadata(), STREAM_MOVES)
            return self._connected().PushStream(metadata=metadata)

        return GrpcPushStream(begin, self._pushing, self._timeout)

    async def register(
        self, address: str, service: str, *, zone: str = "", lease: int = 0, weight: int = 1
    ) -> RegistryResult:
        """Register an endpoint: ``:PORT`` or HOST:PORT; lease in seconds, 0 for none."""
        return await self._lease(
            "RegisterUpstream",
            pb.UpstreamRegisterRequest(
                address=address,
                zone_id=zone,
                service_name=service,
                lease_seconds=lease,
                weight=weight,
            ),
        )

    async def keep_alive(self, lease_id: str) -> RegistryResult:
        """Renew the lease of a registered endpoint."""
        return await self._lease("KeepUpstreamAlive", pb.LeaseRequest(lease_id=lease_id))

    async def deregister(self, lease_id: str) -> RegistryResult:
        """Remove a registered endpoint."""
        return await self._lease("DeregisterUpstream", pb.LeaseRequest(lease_id=lease_id))

    def events(self, kinds: Iterable[str] = ()) -> GatewayEvents:
        """Return the stream of session events, for use with ``async with``::

            async with gateway.events(["expired", "closed"]) as events:
                async for event in events:
                    print(event.kind, event.openid, event.undelivered)

        It ends when the gateway stops, and raises UpstreamError when the gateway is lost. Events
        between two subscriptions are not kept: call sessions() after each new subscription.

        Args:
            kinds: The events to subscribe to, EventKind or their names; empty for all.
        """
        request = pb.SubscribeRequest(kinds=kinds)

        def subscribe() -> Any:
            metadata = self._access.metadata()
            return self._connected().SubscribeEvents(request, metadata=metadata)

        return GatewayEvents(subscribe, self._streams, self._timeout, self._failed)

    async def close(self) -> None:
        """End the streams, wait for the calls under way, and close the channel."""
        for events in list(self._streams):
            await events.close()
        for pushes in list(self._pushing):
            await pushes.close()
        if self._calls:
            await asyncio.wait(self._calls)
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _connected(self) -> Any:
        """Return the stub; the first call opens its channel."""
        if self._channel is None:
            address = self.address if isinstance(self.address, str) else self.address()
            if not address:
                raise ConfigError("the gateway's gRPC address is not set", field="gateway")
            options = (
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
                ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
            )
            self._channel = make_channel(address, options, self._access.credentials)
            self._stub = rpc.GatewayServiceStub(self._channel)  # type: ignore[no-untyped-call]
        return self._stub

    async def _lease(self, method: str, request: Any) -> RegistryResult:
        answer: pb.UpstreamRegisterResponse = await self._call(method, request)
        return RegistryResult(answer.success, answer.message, answer.error_code, answer.lease_id)

    async def _call(self, method: str, request: Any) -> Any:
        call = getattr(self._connected(), method)
        is_safe = method in _QUESTIONS or bool(getattr(request, "push_id", ""))
        # A separate task: cancelling the caller must not cancel the gRPC call, which would leak.
        task = asyncio.ensure_future(self._ask(call, request, Repeats(is_safe=is_safe)))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return await asyncio.shield(task)

    async def _ask(self, method: Any, request: Any, repeats: Repeats) -> Any:
        while True:
            try:
                metadata = self._access.metadata()
                return await method(request, timeout=self._timeout, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                if not await repeats.pause(error.code(), error.details()):
                    raise self._failed(error.code(), error.details()) from None

    def _failed(self, code: grpc.StatusCode, details: str | None) -> UpstreamError:
        is_plain = self._access.credentials is None
        return UpstreamError(f"gateway: {status_text(code, details, is_plain=is_plain)}")
