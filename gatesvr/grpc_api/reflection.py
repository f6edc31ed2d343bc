"""Server reflection: tools such as grpcurl read the push port's schema from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
from grpc_reflection.v1alpha.reflection import aio as reflection

if TYPE_CHECKING:
    from ..control.counters import PushCounters

    _Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["ReflectionServicer"]

MAX_STREAMS = 16
"""Reflection streams open at a time, of all callers together."""


class ReflectionServicer(reflection.ReflectionServicer):  # type: ignore[misc]
    """Answers questions about the services, in a bounded number of streams.

    Args:
        services: Full names of the services.
        counters: Counts the streams.
    """

    def __init__(self, services: tuple[str, ...], counters: PushCounters) -> None:
        super().__init__(services)
        self._counters = counters

    async def ServerReflectionInfo(  # noqa: N802 - the name is the schema's
        self, requests: AsyncIterator[Any], context: _Context
    ) -> AsyncIterator[Any]:
        """Answer each question of a stream."""
        counters = self._counters
        if counters.reflections >= MAX_STREAMS:
            counters.reflections_refused += 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams are open")
        counters.reflections += 1
        try:
            async for answer in super().ServerReflectionInfo(requests, context):
                yield answer
        finally:
            counters.reflections -= 1
