"""Server reflection: tools such as grpcurl read the push port's schema from it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME, aio

from .servicer import decoder

if TYPE_CHECKING:
    from ..control.counters import PushCounters

    _Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["ReflectionServicer"]

MAX_STREAMS = 16
"""Reflection streams open at a time, of all callers together."""


class ReflectionServicer:
    """Answers questions about the services, in a bounded number of streams.

    Args:
        services: Full names of the other services.
        counters: Counts the streams.
    """

    def __init__(self, services: Iterable[str], counters: PushCounters) -> None:
        self._answers = aio.ReflectionServicer((*services, SERVICE_NAME))
        self._counters = counters

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what a server takes."""
        handler = grpc.stream_stream_rpc_method_handler(
            self.answer,
            decoder(reflection_pb2.ServerReflectionRequest),
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE_NAME, {"ServerReflectionInfo": handler})

    async def answer(
        self, requests: AsyncIterator[Any], context: _Context
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answer each question of a stream."""
        counters = self._counters
        if counters.reflections >= MAX_STREAMS:
            counters.reflections_refused += 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams are open")

        async def decoded() -> AsyncIterator[Any]:
            async for request in requests:
                if request is None:
                    counters.invalid += 1
                    why = "the message does not decode"
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
                yield request

        counters.reflections += 1
        try:
            async for answer in self._answers.ServerReflectionInfo(decoded(), context):
                yield answer
        finally:
            counters.reflections -= 1
