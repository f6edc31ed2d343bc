"""LocalPushApi: the push API inside the gateway's own process, without gRPC."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ..errors import UpstreamError
from ..service.push_api import PushApi, PushStream
from .commands import PushCommands, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._pb import upstream_pb2 as pb

__all__ = ["LocalPushApi"]

_COMMANDS: dict[str, Callable[[PushCommands, Any], Any]] = {
    "PushToClient": PushCommands.push,
    "BroadcastToClients": PushCommands.broadcast,
    "MulticastToClients": PushCommands.multicast,
    "KickClient": PushCommands.kick,
    "GetSession": PushCommands.get_session,
    "ListSessions": PushCommands.list_sessions,
}


class LocalPushApi(PushApi):
    """What GatewayClient asks over gRPC, done at once.

    Args:
        commands: Does it.
    """

    def __init__(self, commands: PushCommands) -> None:
        self._commands = commands

    def push_stream(self) -> PushStream:
        """Return a stream of pushes; see PushApi."""
        return _LocalPushStream(self._commands)

    async def _call(self, method: str, request: Any) -> Any:
        try:
            answer = _COMMANDS[method](self._commands, request)
            return await answer if inspect.isawaitable(answer) else answer
        except RefusedError as refusal:
            status, text = refusal.as_status()
            raise UpstreamError(f"gateway: {status}: {text}") from None


class _LocalPushStream(PushStream):
    def __init__(self, commands: PushCommands) -> None:
        self._commands = commands
        self._is_closed = False

    async def close(self) -> None:
        """End the stream; may be called any number of times."""
        self._is_closed = True

    async def _push(self, requests: list[pb.UnicastPushRequest]) -> list[pb.UnicastPushResponse]:
        if self._is_closed:
            raise RuntimeError("the stream is closed")
        return await self._commands.push_batch(requests)
