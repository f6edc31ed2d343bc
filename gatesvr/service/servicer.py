"""The gRPC side of an UpstreamService: its rpcs, its lanes and the standard health service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .._pb import upstream_pb2 as pb
from .._pb import upstream_pb2_grpc as rpc
from ..observe.log import keys

if TYPE_CHECKING:
    from .request import Reply
    from .service import UpstreamService

__all__ = ["Health", "Servicer", "Stream"]

logger = logging.getLogger("gatesvr.service")

SERVICE_NAME = "gatesvr.proto.UpstreamService"
MAX_BATCH_BYTES = 1 << 20
"""Largest lane message, unless a single answer is larger."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Servicer(rpc.UpstreamServiceServicer):
    """The three rpcs of UpstreamService."""

    def __init__(self, service: UpstreamService) -> None:
        self._service = service

    async def ProcessRequest(  # noqa: N802
        self, request: pb.UpstreamRequest, context: Any
    ) -> pb.UpstreamResponse:
        self._service.counters.unary_requests += 1
        single = _Single(self._service)
        self._service.accept(request, single)
        return await single.response

    async def ProcessStream(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        if not self._service.has_stream:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ProcessRequest only")
        if self._service.is_stopping:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")
        await Stream(self._service, context).serve()

    async def GetStatus(  # noqa: N802
        self, request: pb.StatusRequest, context: Any
    ) -> pb.StatusResponse:
        service = self._service
        return pb.StatusResponse(
            status="STOPPING" if service.is_stopping else "SERVING",
            uptime=int(time.monotonic() - service.began),
            active_connections=service.counters.streams,
            metadata={name: str(value) for name, value in service.counters.snapshot().items()},
        )


class _Single:
    """Receives the answer of one ProcessRequest."""

    def __init__(self, service: UpstreamService) -> None:
        self._service = service
        self.response: asyncio.Future[pb.UpstreamResponse] = (
            asyncio.get_running_loop().create_future()
        )

    def answer(
        self, message: pb.UpstreamRequest, reply: Reply, notifies: list[pb.BoundNotify]
    ) -> None:
        if not self.response.done():
            response = pb.UpstreamResponse()
            self._service.fill(response, message, reply, notifies)
            self.response.set_result(response)


class Stream:
    """One lane: reads batches, and writes the answers collected during the last write."""

    def __init__(self, service: UpstreamService, context: Any) -> None:
        self._service = service
        self._context = context
        self._open = 0  # requests not answered
        self._batches: deque[pb.UpstreamResponseBatch] = deque()
        self._size = 0  # of the last batch, bytes
        self._is_ended = False
        self._is_broken = False  # the reader failed
        self._is_closed = False
        self._waker: asyncio.Future[None] | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the stream has ended."""

    async def serve(self) -> None:
        """Serve the stream to its end; this coroutine writes, another task reads."""
        # First of all: until the metadata arrives, the gateway sends its calls one by one.
        await self._context.send_initial_metadata(())
        loop = asyncio.get_running_loop()
        self._service.streams.add(self)
        self._service.counters.streams += 1
        reader = loop.create_task(self._read(), name="gatesvr-service-reader")
        reader.add_done_callback(self._reader_ended)
        try:
            while True:
                if self._is_broken:
                    # Nobody reads any more. The end makes the gateway open another lane.
                    await self._context.abort(
                        grpc.StatusCode.INTERNAL, "the stream's reader failed"
                    )
                elif self._batches:
                    batch = self._batches.popleft()
                    self._service.counters.answer_batches += 1
                    await self._context.write(batch)
                elif self._is_ended and not self._open:
                    return
                else:
                    self._waker = loop.create_future()
                    await self._waker
        finally:
            self._is_closed = True
            self.closed.set_result(None)
            self._batches.clear()
            self._service.streams.discard(self)
            self._service.counters.streams -= 1
            reader.cancel()
            await asyncio.wait({reader})

    async def _read(self) -> None:
        counters = self._service.counters
        accept = self._service.accept
        try:
            while (batch := await self._context.read()) is not grpc.aio.EOF:
                requests = batch.requests
                counters.batches += 1
                counters.batched_requests += len(requests)
                self._open += len(requests)
                for message in requests:
                    accept(message, self)
        except (grpc.RpcError, grpc.aio.BaseError) as error:
            logger.debug("lane_ended", extra=keys(service=self._service.name, error=error))

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        """End the stream: in order after its last request, or at once if the reader failed."""
        if self._is_closed:
            return
        error = asyncio.CancelledError() if reader.cancelled() else reader.exception()
        if error is not None:
            self._is_broken = True
            logger.error(
                "lane_reader_failed",
                extra=keys(service=self._service.name, open=self._open, error=error),
                exc_info=error,
            )
        self.end()

    def answer(
        self, message: pb.UpstreamRequest, reply: Reply, notifies: list[pb.BoundNotify]
    ) -> None:
        self._open -= 1
        if self._is_closed:
            return
        try:
            size = reply.size(notifies)
        except Exception:
            size = 0  # a bad reply; fill() replaces it with a small one
        if not self._batches or self._size + size > MAX_BATCH_BYTES:
            self._batches.append(pb.UpstreamResponseBatch())
            self._size = 0
        self._size += size
        self._service.fill(self._batches[-1].responses.add(), message, reply, notifies)
        self._wake()

    def end(self) -> None:
        """Write the answers still due, then end the stream."""
        self._is_ended = True
        self._wake()

    def _wake(self) -> None:
        waker = self._waker
        if waker is not None:
            self._waker = None
            if not waker.done():
                waker.set_result(None)


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The standard health service; unlike grpc_health's, its watches end when the service stops."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.watchers = 0
        """Watches under way: gateways that will see the service stop."""

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in ("", SERVICE_NAME):
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        status = _NOT_SERVING if self.stopped.is_set() else _SERVING
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> None:
        is_known = request.service in ("", SERVICE_NAME)
        if not self.stopped.is_set():
            status = _SERVING if is_known else _SERVICE_UNKNOWN
            await context.write(health_pb2.HealthCheckResponse(status=status))
        self.watchers += 1
        try:
            await self.stopped.wait()
        finally:
            self.watchers -= 1
        await context.write(health_pb2.HealthCheckResponse(status=_NOT_SERVING))
