"""GatewayClient: the push API as upstream services call it."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Literal

import grpc
import grpc.aio

from .._pb import upstream_pb2 as pb
from .._pb import upstream_pb2_grpc as rpc
from ..config import Range, check_numbers
from ..errors import ConfigError, UpstreamError
from .event_stream import GatewayEvents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from .request import Request

__all__ = ["GatewayClient"]

TIMEOUT_S = 5.0
KEEPALIVE_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
"""A gateway that is silent for the first, and then for the second, is gone."""

Target = Literal["session", "openid"]


class GatewayClient:
    """Calls a gateway's GatewayService. The channel is opened by the first call; close() it.

    Every method raises UpstreamError where the gateway cannot be reached or does not answer in
    time, and ConfigError where no address is known.

    Args:
        address: The gateway's gRPC address, HOST:PORT; or what returns it when it is first needed.
        timeout: Longest wait for an answer, seconds.
    """

    def __init__(self, address: str | Callable[[], str] = "", timeout: float = TIMEOUT_S) -> None:
        check_numbers(timeout=(timeout, Range(0.001, math.inf)))
        self.address = address
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._streams: set[GatewayEvents] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def push(
        self,
        target_id: str,
        *,
        target_type: Target = "openid",
        msg_type: str = "",
        title: str = "",
        content: str = "",
        data: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        push_id: str = "",
        ttl: float = 0.0,
        conflate_key: str = "",
    ) -> pb.UnicastPushResponse:
        """Push a notify to one session, or to all sessions of one openid.

        Args:
            target_id: The session's id, or the openid.
            target_type: Which of both it is.
            msg_type: What the client tells notifies apart by.
            title: Text for people.
            content: Text for people; it is the payload where data is empty.
            data: The payload.
            metadata: Headers of the push.
            push_id: A name of the caller's own; a repeated one is not queued again.
            ttl: Seconds after which it need not be delivered any more; 0 for ever.
            conflate_key: What it tells the newest of: it replaces the last notify with this key
                that was not sent yet, and the client is told of a loss (CONFLATED) in its place.

        Returns:
            The gateway's answer: look at ``success`` and ``error_code``.
        """
        request = pb.UnicastPushRequest(
            target_type=target_type,
            target_id=target_id,
            msg_type=msg_type,
            title=title,
            content=content,
            data=data,
            metadata=metadata,
            push_id=push_id,
            ttl_ms=int(ttl * 1000),
            conflate_key=conflate_key,
        )
        answer: pb.UnicastPushResponse = await self._call("PushToClient", request)
        return answer

    async def push_bound(
        self,
        request: Request,
        *,
        before: bool,
        msg_type: str = "",
        title: str = "",
        content: str = "",
        data: bytes = b"",
        metadata: Mapping[str, str] | None = None,
    ) -> pb.UnicastPushResponse:
        """Push a notify that goes right before or after the answer to a request in flight."""
        push = pb.UnicastPushRequest(
            target_type="session",
            target_id=request.session_id,
            msg_type=msg_type,
            title=title,
            content=content,
            data=data,
            metadata=metadata,
            sync_hint=pb.NSH_BEFORE_RESPONSE if before else pb.NSH_AFTER_RESPONSE,
            bind_client_seq_id=request.client_seq_id,
            bind_session_id=request.session_id,
        )
        answer: pb.UnicastPushResponse = await self._call("PushToClient", push)
        return answer

    async def broadcast(
        self,
        *,
        msg_type: str = "",
        title: str = "",
        content: str = "",
        data: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        suspended: bool = False,
        ttl: float = 0.0,
    ) -> int:
        """Push a notify to every logged-in session; return how many it was queued for.

        Args:
            msg_type: As in push(); so are title, content, data, metadata and ttl.
            suspended: Also to sessions whose client is away.
        """
        request = pb.BroadcastRequest(
            msg_type=msg_type,
            title=title,
            content=content,
            data=data,
            metadata=metadata,
            suspended=suspended,
            ttl_ms=int(ttl * 1000),
        )
        return int((await self._call("BroadcastToClients", request)).sent_count)

    async def kick(
        self, target_id: str, *, target_type: Target = "openid", reason: str = "", code: int = 1000
    ) -> pb.UnicastPushResponse:
        """Close sessions for good; reason and code (at least 1000) are for their clients."""
        answer: pb.UnicastPushResponse = await self._call(
            "KickClient",
            pb.KickRequest(target_type=target_type, target_id=target_id, reason=reason, code=code),
        )
        return answer

    async def get_session(
        self, target_id: str, *, target_type: Target = "openid"
    ) -> pb.SessionInfo:
        """Return a session and its queue; ``found`` says whether there is one."""
        answer: pb.SessionInfo = await self._call(
            "GetSession", pb.GetSessionRequest(target_type=target_type, target_id=target_id)
        )
        return answer

    async def register(
        self, address: str, service: str, *, zone: str = "", lease: int = 0, weight: int = 1
    ) -> pb.UpstreamRegisterResponse:
        """Register an endpoint: ``:PORT`` or HOST:PORT; lease in seconds, 0 for none."""
        answer: pb.UpstreamRegisterResponse = await self._call(
            "RegisterUpstream",
            pb.UpstreamRegisterRequest(
                address=address,
                zone_id=zone,
                service_name=service,
                lease_seconds=lease,
                weight=weight,
            ),
        )
        return answer

    async def keep_alive(self, lease_id: str) -> pb.UpstreamRegisterResponse:
        """Start the lease of a registered endpoint anew."""
        answer: pb.UpstreamRegisterResponse = await self._call(
            "KeepUpstreamAlive", pb.LeaseRequest(lease_id=lease_id)
        )
        return answer

    async def deregister(self, lease_id: str) -> pb.UpstreamRegisterResponse:
        """Remove a registered endpoint."""
        answer: pb.UpstreamRegisterResponse = await self._call(
            "DeregisterUpstream", pb.LeaseRequest(lease_id=lease_id)
        )
        return answer

    def events(self, kinds: Iterable[str] = ()) -> GatewayEvents:
        """Return what happens to sessions, as it happens, to be entered by ``async with``::

            async with gateway.events(["expired", "closed"]) as events:
                async for event in events:
                    print(event.kind, event.openid, event.undelivered)

        It ends when the gateway stops, and raises UpstreamError when the gateway is lost. What
        happens until the next subscription is told to nobody: look at the sessions by
        get_session() then.

        Args:
            kinds: Which events, EventKind or their names; none for all.
        """
        request = pb.SubscribeRequest(kinds=kinds)
        return GatewayEvents(
            lambda: self._connected().SubscribeEvents(request), self._streams, self._timeout
        )

    async def close(self) -> None:
        """End event streams, wait for the calls under way, and close the channel."""
        for stream in list(self._streams):
            await stream.close()
        if self._calls:
            await asyncio.wait(self._calls)
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _connected(self) -> Any:
        """Return the stub, of a channel that is opened by the first call."""
        if self._channel is None:
            address = self.address if isinstance(self.address, str) else self.address()
            if not address:
                raise ConfigError("the gateway's gRPC address is not set", field="gateway")
            self._channel = grpc.aio.insecure_channel(
                address,
                options=[
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.enable_http_proxy", 0),
                    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
                    # gRPC waits for this one, a minute unless it is set.
                    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
                    ("grpc.http2.max_pings_without_data", 0),
                ],
            )
            self._stub = rpc.GatewayServiceStub(self._channel)  # type: ignore[no-untyped-call]
        return self._stub

    async def _call(self, method: str, request: Any) -> Any:
        call = getattr(self._connected(), method)
        # A task of its own: cancelling the caller must not reach gRPC, whose cancelled calls leak.
        task = asyncio.ensure_future(self._ask(call, request))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return await asyncio.shield(task)

    async def _ask(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise UpstreamError(f"gateway: {error.code().name}: {error.details()}") from None
