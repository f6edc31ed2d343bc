"""GatewayEvents: a gateway's stream of session events, for upstream services."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from ..errors import UpstreamError
from ..grpcio import is_let_in
from ..observe.event_pb import from_pb
from .closing import AsyncClosing
from .repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ..observe.events import SessionEvent

__all__ = ["GatewayEvents"]


class GatewayEvents(AsyncClosing):
    """Session events from the moment of entering, for one task at a time.

    GatewayClient.events() makes it. It ends when the gateway stops, or its process that serves the
    stream. Cancelling the wait for an
    event, with ``asyncio.timeout()`` for example, loses nothing: the next read returns that event.

    Args:
        subscribe: Begins the call.
        streams: The client's open streams; holds this one from entering to close().
        timeout: Longest wait for the gateway to confirm the subscription, seconds.
        failed: Returns the error for a gRPC status and its details.

    Raises:
        UpstreamError: On entering or reading: the gateway is unreachable or lost, or it refuses
            (an unknown kind, too many subscribers).
    """

    def __init__(
        self,
        subscribe: Callable[[], Any],
        streams: set[GatewayEvents],
        timeout: float,
        failed: Callable[[grpc.StatusCode, str | None], UpstreamError],
    ) -> None:
        self._subscribe = subscribe
        self._streams = streams
        self._timeout = timeout
        self._failed = failed
        self._call: Any = None
        # A future, because cancelling the reader must not cancel the read: that ends the call.
        self._read: asyncio.Future[Any] | None = None
        self._is_waiting = False

    async def __aenter__(self) -> Self:
        if self._call is not None:
            raise RuntimeError("the stream was entered before")
        repeats = Repeats(is_safe=True)
        self._streams.add(self)
        while (refusal := await self._begin()) is not None:
            if not await repeats.pause(*refusal):
                await self.close()
                raise self._failed(*refusal)
        return self

    async def _begin(self) -> tuple[grpc.StatusCode, str | None] | None:
        """Begin the call; return its status and details if it was not let in."""
        self._call = self._subscribe()
        answered = asyncio.ensure_future(self._call.initial_metadata())
        try:
            await asyncio.wait({answered}, timeout=self._timeout)
            if not answered.done():
                raise UpstreamError(f"gateway: no answer in {self._timeout:g} s")
            if is_let_in(self._result(answered)):
                return None
            refused = asyncio.ensure_future(self._call.code())
            await asyncio.wait({refused}, timeout=self._timeout)
            if not refused.done():
                raise UpstreamError(f"gateway: no answer in {self._timeout:g} s")
            return refused.result(), await self._call.details()
        except BaseException:
            await self.close()
            await asyncio.wait({answered})
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionEvent:
        if self._call is None:
            raise RuntimeError("the stream is not entered: async with gateway.events() as events")
        if self._is_waiting:
            raise RuntimeError("another task waits for the stream's next event")
        if self._read is None:
            self._read = asyncio.ensure_future(self._call.read())
        self._is_waiting = True
        try:
            await asyncio.wait({self._read})
        finally:
            self._is_waiting = False
        read, self._read = self._read, None
        if read.cancelled():  # by close()
            raise StopAsyncIteration
        message = self._result(read)
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return from_pb(message)

    async def close(self) -> None:
        """Unsubscribe. Idempotent."""
        self._streams.discard(self)
        if self._call is not None:
            self._call.cancel()
        if self._read is not None:
            await asyncio.wait({self._read})

    def _result(self, done: asyncio.Future[Any]) -> Any:
        try:
            return done.result()
        except grpc.aio.AioRpcError as error:
            raise self._failed(error.code(), error.details()) from None
