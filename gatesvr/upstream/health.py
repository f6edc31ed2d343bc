"""HealthWatch: an upstream's own health reports, where it has the standard health service."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from ..grpcio import raise_if_cancelled
from ..observe.log import keys

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HealthWatch"]

logger = logging.getLogger("gatesvr.upstream")

METHOD = "/grpc.health.v1.Health/Watch"
MAX_BURST = 10
INTERVAL_S = 1.0
"""Reports of one watch that are read at once, and the pause after each further one: every change
moves calls and is logged."""
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthWatch:
    """Follows one Watch at a time, from start() until the connection ends.

    Args:
        channel: The lane's channel.
        on_status: Called with each report: whether the upstream serves.
        on_end: Called when a watch ends, with its length in seconds; not called where the upstream
            has no health service.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        on_status: Callable[[bool], None],
        on_end: Callable[[float], None],
    ) -> None:
        self.task: asyncio.Task[None] | None = None
        """The task that reads the watch."""
        self._watch: Any = channel.unary_stream(METHOD)
        self._call: Any = None
        self._on_status = on_status
        self._on_end = on_end

    def start(self) -> bool:
        """Begin a watch unless one is running; return whether it began."""
        if self.task is not None and not self.task.done():
            return False
        self.task = asyncio.create_task(self._follow(), name="gatesvr-lane-health")
        return True

    def cancel(self) -> None:
        """Cancel the call. Only for the lane's end, because cancelled calls leak in gRPC."""
        if self._call is not None:
            self._call.cancel()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        reports = 0
        self._call = self._watch(health_pb2.HealthCheckRequest().SerializeToString())
        try:
            while (data := await self._call.read()) is not grpc.aio.EOF:
                status = health_pb2.HealthCheckResponse.FromString(data).status
                self._on_status(status != NOT_SERVING)
                reports += 1
                if reports >= MAX_BURST:
                    await asyncio.sleep(INTERVAL_S)
        except DecodeError as error:
            # As where there is no health service.
            logger.warning("health_undecodable", extra=keys(why=error))
            self._call.cancel()
            self._on_status(True)
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._on_status(True)
                return
        except asyncio.CancelledError:
            raise_if_cancelled()
        finally:
            self._call = None
        self._on_end(loop.time() - began)
