"""Streams: server-sent events, a bounded number of them, each cut where nobody reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .refusal import Refused

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from .counters import AdminCounters
    from .figures import Sampler
    from .sessions import TraceEvents, TraceMark
    from .source import Source

T = TypeVar("T")

__all__ = ["EventResponse", "Streams", "event"]

MAX_STREAMS = 64
HEARTBEAT_S = 15.0
"""Silence after which a comment is sent."""
SEND_S = 15.0
"""Longest wait for a reader; then its connection is cut."""
SESSION_S = 1.0
"""Between two views of a session."""
BURST_S = 0.1
"""Shortest time between two batches of traced messages."""

HEARTBEAT = b":\n\n"
GOODBYE = b"event: goodbye\ndata: null\n\n"


def event(name: str, data: bytes) -> bytes:
    """Return an event whose data is JSON."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class Streams:
    """All event streams of the server.

    Args:
        sampler: Has the overviews.
        source: Has the sessions.
        counters: Counts streams.
    """

    def __init__(self, sampler: Sampler, source: Source, counters: AdminCounters) -> None:
        self._sampler = sampler
        self._source = source
        self._counters = counters
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Say goodbye on every stream, and end it."""
        self._stopped.set()

    def overview(self) -> EventResponse:
        """Return a stream of overviews, one a second.

        Raises:
            Refused: There are MAX_STREAMS.
        """
        return self._response(self._overviews())

    async def session(self, session_id: str) -> EventResponse:
        """Return a stream of a session's view, one a second, and of its traced messages.

        Raises:
            Refused: There are MAX_STREAMS, or there is no such session.
        """
        first = await self._source.traced(session_id, None, 0.0)
        return self._response(self._session(session_id, first.mark))

    def _response(self, events: AsyncGenerator[bytes, None]) -> EventResponse:
        if self._counters.sse_streams >= MAX_STREAMS or self._stopped.is_set():
            self._counters.sse_refused += 1
            raise Refused(503, "BUSY", f"{MAX_STREAMS} event streams are open, no more can be")
        return EventResponse(events, self._counters)

    async def _overviews(self) -> AsyncGenerator[bytes, None]:
        sampler = self._sampler
        while not self._stopped.is_set():
            yield event("overview", sampler.encoded)
            while not await sampler.next(HEARTBEAT_S):
                yield HEARTBEAT
        yield GOODBYE

    async def _session(
        self, session_id: str, mark: TraceMark | None
    ) -> AsyncGenerator[bytes, None]:
        source, loop = self._source, asyncio.get_running_loop()
        due = loop.time()
        while not self._stopped.is_set():
            try:
                if loop.time() >= due:
                    view = await source.view(session_id)
                    yield event("session", msgspec.json.encode(view))
                    due = loop.time() + SESSION_S
                wait = max(due - loop.time(), 0.0)
                traced = await self._until_stop(source.traced(session_id, mark, wait))
            except Refused as refusal:
                if refusal.status == 404:
                    break
                yield HEARTBEAT  # its process does not answer; it may soon
                await self._until_stop(asyncio.sleep(SESSION_S))
                continue
            if traced is not None:
                mark = traced.mark
                if traced.events:
                    yield _trace(traced)
                    await self._until_stop(asyncio.sleep(BURST_S))
        yield GOODBYE

    async def _until_stop(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what some work has brought; None where stop() has cut it short."""
        doing = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            doing.cancel()
        return doing.result() if doing.done() else None


def _trace(traced: TraceEvents) -> bytes:
    encode = msgspec.json.encode
    return b"".join(event("trace", encode(found)) for found in traced.events)


class EventResponse:
    """An ASGI response that sends events until they end or its reader leaves.

    Args:
        events: The events, ready to be sent.
        counters: Counts streams.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], counters: AdminCounters) -> None:
        self._events = events
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        abort: Callable[[], None] = scope["state"]["abort"]
        counters = self._counters
        counters.sse_streams += 1
        sending = asyncio.create_task(self._send(send, abort))
        leaving = asyncio.create_task(_until_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            counters.sse_streams -= 1
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait({sending, leaving})
        for task in (sending, leaving):
            if not task.cancelled():
                task.result()  # raises what went wrong

    async def _send(self, send: Send, abort: Callable[[], None]) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async with aclosing(self._events) as events:
                async for data in events:
                    async with asyncio.timeout(SEND_S):
                        await send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            self._counters.sse_stuck += 1
            abort()
            return
        await send({"type": "http.response.body", "body": b""})


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
