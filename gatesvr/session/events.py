"""EventHub: tells subscribers about changes of sessions, each at its own pace.

It knows no clock and no loop: a callback wakes a subscriber, which takes events when it likes.
If it is too slow, the newest events are left out and a gap is reported in their place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import CloseCode, QueueFull
from ..observe.events import EventKind, SessionEvent, event_kinds

if TYPE_CHECKING:
    from ..protocol.link import Disconnect
    from .counters import SessionCounters
    from .session import Session

__all__ = ["ELSEWHERE", "EventHub", "Subscription", "close_reason", "loss_reason"]

ELSEWHERE = "logged_in_elsewhere"
# Kicks and replacements have kinds of their own, so 4410 is left with this.
_CLOSE_REASONS: dict[int, str] = {
    **{code: code.name.lower() for code in CloseCode},
    CloseCode.KICKED: ELSEWHERE,
}


class Subscription:
    """One subscriber: its kinds and the events that it has not taken yet.

    Made by EventHub.subscribe(). Take until None, then wait for wake().

    Attributes:
        is_ended: Whether no more events are added; those that wait can still be taken.
        kinds: What it has chosen.
    """

    __slots__ = (
        "_hub",
        "_max_queue",
        "_missed",
        "_missed_at_ms",
        "_queue",
        "_wake",
        "is_ended",
        "kinds",
    )

    def __init__(
        self,
        hub: EventHub,
        wake: Callable[[], None],
        kinds: frozenset[EventKind],
        max_queue: int,
    ) -> None:
        self.is_ended = False
        self._hub = hub
        self._wake = wake
        self.kinds = kinds
        self._max_queue = max_queue
        self._queue: deque[SessionEvent] = deque()
        self._missed = 0
        self._missed_at_ms = 0

    def __len__(self) -> int:
        """Return the number of events that wait."""
        return len(self._queue)

    def take(self) -> SessionEvent | None:
        """Return the next event, None if there is none now.

        The first event behind a gap carries the number of events left out. If none has come behind
        it yet, an event of kind MISSED does.
        """
        if self._queue:
            return self._queue.popleft()
        if self._missed:
            missed, self._missed = self._missed, 0
            return SessionEvent(EventKind.MISSED, at_ms=self._missed_at_ms, missed=missed)
        return None

    def offer(self, event: SessionEvent) -> bool:
        """Add an event; return False if it was left out."""
        if event.kind not in self.kinds:
            return True
        if len(self._queue) >= self._max_queue:
            self._missed += 1
            self._missed_at_ms = event.at_ms
            return False
        if self._missed:
            event = replace(event, missed=self._missed)
            self._missed = 0
        self._queue.append(event)
        self._wake()
        return True

    def skip(self, kind: str, count: int, at_ms: int) -> int:
        """Count events that were left out elsewhere; return how many of them it has missed."""
        if kind not in self.kinds:
            return 0
        self._missed += count
        self._missed_at_ms = at_ms
        self._wake()
        return count

    def end(self) -> None:
        """Add no more events, and wake the subscriber for the rest."""
        if not self.is_ended:
            self.is_ended = True
            self._hub.forget(self)
            self._wake()


class EventHub:
    """The subscribers of a gateway's session events.

    Args:
        counters: The layer's.
        max_subscribers: The bound on subscribers; another one is refused.
        max_queue: The bound on events that wait for one subscriber; newer ones are left out.
        wall_ms: Returns the ms since the epoch at a loop time.

    Attributes:
        recent: Keeps the last events whoever subscribes; None keeps none.
        relays: Called with each event, for the subscribers at other processes of the gateway.
            Replaced, never changed in place.
    """

    def __init__(
        self,
        counters: SessionCounters,
        max_subscribers: int,
        max_queue: int,
        wall_ms: Callable[[float], int],
    ) -> None:
        self._counters = counters
        self._max_subscribers = max_subscribers
        self._max_queue = max_queue
        self._wall_ms = wall_ms
        # Replaced, never changed in place: an emit() may be going through it.
        self._subscriptions: tuple[Subscription, ...] = ()
        self._is_ended = False
        self.recent: deque[SessionEvent] | None = None
        self.relays: tuple[Callable[[SessionEvent], None], ...] = ()

    def apply(self, max_subscribers: int) -> None:
        """Take another bound on subscribers; those that there are stay."""
        self._max_subscribers = max_subscribers

    def __len__(self) -> int:
        """Return the number of subscribers."""
        return len(self._subscriptions)

    def subscribe(self, wake: Callable[[], None], kinds: Iterable[str] = ()) -> Subscription:
        """Return a new subscription to events from now on; the caller ends it.

        Args:
            wake: Called when there is something to take, or the subscription has ended. It must not
                call back into sessions: they are in the middle of a change.
            kinds: The kinds of events; none for all.

        Raises:
            ValueError: A kind is unknown.
            QueueFull: There are max_subscribers already.
        """
        chosen = event_kinds(kinds)
        if len(self._subscriptions) >= self._max_subscribers:
            self._counters.event_subscribers_refused += 1
            raise QueueFull(f"{self._max_subscribers} subscribers of events, no more are served")
        subscription = Subscription(self, wake, chosen, self._max_queue)
        if self._is_ended:
            subscription.end()
        else:
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def emit(self, kind: EventKind, session: Session, reason: str, now: float) -> None:
        """Tell subscribers of a session's change; call it before its queue is cleared."""
        if not self._subscriptions and self.recent is None and not self.relays:
            return
        queue = session.queue
        event = SessionEvent(
            kind,
            session_id=session.session_id,
            openid=session.openid,
            generation=session.generation,
            reason=reason,
            at_ms=self._wall_ms(now),
            last_sent_seq=queue.last_sent_seq,
            last_acked_seq=queue.last_acked_seq,
            max_client_seq=session.max_client_seq,
            undelivered=len(queue),
            transport=session.transport,
        )
        if self.recent is not None:
            self.recent.append(event)
        self._counters.events += bool(self._subscriptions or self.relays)
        self.offer(event)
        for relay in self.relays:
            relay(event)

    def offer(self, event: SessionEvent) -> None:
        """Tell subscribers of an event of this process, or of another one."""
        for subscription in self._subscriptions:
            if not subscription.offer(event):
                self._counters.events_missed += 1

    def skip(self, kind: str, count: int, at_ms: int) -> None:
        """Count events that another process has left out."""
        for subscription in self._subscriptions:
            self._counters.events_missed += subscription.skip(kind, count, at_ms)

    @property
    def kinds(self) -> frozenset[EventKind]:
        """The kinds that subscribers have chosen."""
        return frozenset().union(*(each.kinds for each in self._subscriptions))

    def forget(self, subscription: Subscription) -> None:
        """Drop a subscription that has ended."""
        self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)

    def end(self) -> None:
        """End all subscriptions, and every later one at once: the gateway stops."""
        self._is_ended = True
        for subscription in self._subscriptions:
            subscription.end()


def close_reason(code: int) -> str:
    """Return a close code as an event's reason."""
    return _CLOSE_REASONS.get(code, str(code))


def loss_reason(how: Disconnect) -> str:
    """Return a connection's end as an event's reason; our own closes go by their code."""
    return _CLOSE_REASONS.get(how.code, how.kind) if how.kind == "local" else how.kind
