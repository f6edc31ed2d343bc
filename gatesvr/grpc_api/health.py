"""The standard health service (grpc.health.v1) of the push port.

``""`` is the whole gateway: it serves while the gateway is ready, as ``/readyz`` says. The push API
``gatesvr.proto.GatewayService`` serves until the gateway stops, because sessions live that long.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2

from ..grpcio import CALL_ENDED
from ..observe.log import keys
from .servicer import decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..control.counters import PushCounters

    _Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["HEALTH", "HealthServicer"]

logger = logging.getLogger("gatesvr.grpc_api")

MAX_WATCHES = 64
"""Watches open at a time, of all callers together."""

HEALTH = "grpc.health.v1.Health"

_Request = health_pb2.HealthCheckRequest
_Response = health_pb2.HealthCheckResponse


class HealthServicer:
    """Answers Check and Watch.

    Args:
        service: Full name of the push API.
        is_ready: Asked whether the gateway is ready.
        counters: Counts the watches.
    """

    def __init__(self, service: str, is_ready: Callable[[], bool], counters: PushCounters) -> None:
        self._service = service
        self._is_ready = is_ready
        self._counters = counters
        self._was_ready = False
        self._is_ended = False
        self._changed = asyncio.Event()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what a server takes."""
        how = (decoder(_Request), _Response.SerializeToString)
        return grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self.check, *how),
                "Watch": grpc.unary_stream_rpc_method_handler(self.watch, *how),
            },
        )

    async def check(
        self, request: health_pb2.HealthCheckRequest | None, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        """Return the status of a service."""
        status = self._status(await self._service_of(request, context))
        if status == _Response.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _Response(status=status)

    async def watch(self, request: health_pb2.HealthCheckRequest | None, context: _Context) -> None:
        """Send the status of a service, and again whenever it changes."""
        service = await self._service_of(request, context)
        counters = self._counters
        if counters.health_watches >= MAX_WATCHES:
            counters.watches_refused += 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches")
        counters.health_watches += 1
        try:
            last = None
            while True:
                changed = self._changed
                status = self._status(service)
                if status != last:
                    await context.write(_Response(status=status))
                    last = status
                if self._is_ended:
                    return
                await changed.wait()
        except CALL_ENDED:
            logger.debug("watcher_gone", extra=keys(peer=context.peer()))
        finally:
            counters.health_watches -= 1

    def look(self) -> None:
        """Tell watchers if readiness has changed; call it a few times a second."""
        is_ready = self._is_ready()
        if is_ready != self._was_ready:
            self._was_ready = is_ready
            self._tell()

    def end(self) -> None:
        """Tell everybody from now on that nothing serves, and end the watches."""
        self._is_ended = True
        self._tell()

    async def _service_of(
        self, request: health_pb2.HealthCheckRequest | None, context: _Context
    ) -> str:
        if request is None:
            self._counters.invalid += 1
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message does not decode")
        return str(request.service)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> int:
        if service not in ("", self._service):
            return int(_Response.SERVICE_UNKNOWN)
        is_serving = not self._is_ended and (bool(service) or self._is_ready())
        return int(_Response.SERVING if is_serving else _Response.NOT_SERVING)
