"""EventStream: session events as an async iterator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from ..observe.events import SessionEvent
    from ..session.events import EventHub, Subscription

__all__ = ["EventStream"]


class EventStream:
    """Yields session events from the moment it is entered, to one task at a time::

        async with gateway.events(["suspended", "resumed"]) as stream:
            async for event in stream:
                print(event.kind, event.session_id, event.reason)

    Leaving it unsubscribes. When the gateway stops, it ends after the events up to then. A reader
    that is too slow misses events; SessionEvent.missed counts them.

    Args:
        hub: Source of the events.
        kinds: Kinds to deliver; none for all.

    Raises:
        ValueError: On entering: an unknown kind.
        QueueFull: On entering: ``push.max_event_subscribers`` are subscribed already.
    """

    def __init__(self, hub: EventHub, kinds: Iterable[str] = ()) -> None:
        self._hub = hub
        self._kinds = tuple(kinds)
        self._subscription: Subscription | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        self.begin()
        await self.ready()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionEvent:
        subscription = self._subscription
        if subscription is None:
            raise RuntimeError("the stream is not entered: async with gateway.events() as stream")
        if self._waiter is not None:
            raise RuntimeError("another task waits for the stream's next event")
        while (event := subscription.take()) is None:
            if subscription.is_ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return event

    def begin(self) -> None:
        """Subscribe, as entering does; the caller must call end()."""
        if self._subscription is not None:
            raise RuntimeError("the stream was entered before")
        self._subscription = self._hub.subscribe(self._wake, self._kinds)

    async def ready(self) -> None:
        """Wait until no event is missed any more, after begin()."""

    def end(self) -> None:
        """Unsubscribe; events that wait can still be read."""
        if self._subscription is not None:
            self._subscription.end()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
