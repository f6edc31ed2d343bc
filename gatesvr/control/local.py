"""LocalPushApi: the push API in the gateway's own process, without gRPC."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ..errors import UpstreamError
from ..service.push_api import PushApi, PushStream
from .targets import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._pb import upstream_pb2 as pb
    from .interface import CommandSet, OrderedPushes

__all__ = ["LocalPushApi"]


class LocalPushApi(PushApi):
    """The methods of GatewayClient, carried out in process.

    Args:
        commands: Carries them out.
    """

    def __init__(self, commands: CommandSet) -> None:
        self._pushes = commands.pushes
        self._methods: dict[str, Callable[[Any], Any]] = {
            "PushToClient": commands.pushes.push,
            "BroadcastToClients": commands.pushes.broadcast,
            "MulticastToClients": commands.pushes.multicast,
            "KickClient": commands.sessions.kick,
            "GetSession": commands.sessions.get,
            "ListSessions": commands.sessions.list,
        }

    def push_stream(self) -> PushStream:
        """Return a stream of pushes; see PushApi."""
        return _LocalPushStream(self._pushes.stream())

    async def _call(self, method: str, request: Any) -> Any:
        try:
            answer = self._methods[method](request)
            return await answer if inspect.isawaitable(answer) else answer
        except RefusedError as refusal:
            status, text = refusal.as_status()
            raise UpstreamError(f"gateway: {status}: {text}") from None


class _LocalPushStream(PushStream):
    def __init__(self, pushes: OrderedPushes) -> None:
        self._pushes = pushes
        self._is_closed = False

    async def close(self) -> None:
        """End the stream; may be called any number of times."""
        self._is_closed = True

    async def _push(self, requests: list[pb.UnicastPushRequest]) -> list[pb.UnicastPushResponse]:
        if self._is_closed:
            raise RuntimeError("the stream is closed")
        return await self._pushes.push_batch(requests)
