"""Streams: server-sent events, a bounded number of them, each cut where nobody reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, closing
from typing import TYPE_CHECKING

import msgspec

from ..session.traced import TraceEvent
from .refusal import Refused
from .sessions import event_view

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from ..session.traced import Trace
    from .counters import AdminCounters
    from .figures import Sampler
    from .sessions import Directory

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
        directory: Has the sessions.
        counters: Counts streams.
    """

    def __init__(self, sampler: Sampler, directory: Directory, counters: AdminCounters) -> None:
        self._sampler = sampler
        self._directory = directory
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

    def session(self, session_id: str) -> EventResponse:
        """Return a stream of a session's view, one a second, and of its traced messages.

        Raises:
            Refused: There are MAX_STREAMS, or there is no such session.
        """
        self._directory.find(session_id)
        return self._response(self._session(session_id))

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

    async def _session(self, session_id: str) -> AsyncGenerator[bytes, None]:
        directory, loop = self._directory, asyncio.get_running_loop()
        awake = asyncio.Event()
        due = loop.time()
        with closing(_Watch(awake)) as watch:
            while not self._stopped.is_set():
                awake.clear()
                watch.follow(directory.trace_of(session_id))
                if traced := watch.take():
                    yield traced
                if loop.time() >= due:
                    try:
                        view = directory.view(session_id)
                    except Refused:
                        break
                    yield event("session", msgspec.json.encode(view))
                    due = loop.time() + SESSION_S
                await self._pause(awake, due - loop.time())
        yield GOODBYE

    async def _pause(self, awake: asyncio.Event, seconds: float) -> None:
        """Wait for the next view, a traced message or the end; a little in any case."""
        waits = [asyncio.ensure_future(e.wait()) for e in (awake, self._stopped)]
        try:
            await asyncio.wait(
                waits, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        if awake.is_set() and seconds > BURST_S:
            await asyncio.sleep(BURST_S)


class _Watch:
    """Reads the trace of a session as it goes on, and a newer one in its place.

    Args:
        awake: Set when there is something to take.
    """

    def __init__(self, awake: asyncio.Event) -> None:
        self._awake = awake
        self._trace: Trace | None = None
        self._seen = 0

    def follow(self, trace: Trace | None) -> None:
        """Read this trace from now on; its events from before are in the session's view."""
        if trace is self._trace:
            return
        self.close()
        self._trace = trace
        if trace is not None:
            self._seen = trace.total
            trace.wakes.add(self._awake.set)

    def take(self) -> bytes:
        """Return the events since the last call, ready to be sent."""
        trace, seen = self._trace, self._seen
        if trace is None:
            return b""
        self._seen = trace.total
        new = trace.since(seen)
        missed = trace.total - seen - len(new)
        if missed:
            new.insert(0, TraceEvent(new[0].time, "missed", f"events={missed}"))
        encode = msgspec.json.encode
        return b"".join(event("trace", encode(event_view(item))) for item in new)

    def close(self) -> None:
        """Read it no more."""
        if self._trace is not None:
            self._trace.wakes.discard(self._awake.set)


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
