"""Trace: what passes through one session, message by message, while somebody watches.

Sessions that nobody watches pay nothing: begin_trace() gives the one session, its outbox and its
sender subclasses that tell a Trace what they do, and end_trace() takes them away. No payload is
kept, only numbers, names and lengths.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from .outbox import Outbox
from .sender import OrderedSender
from .session import Session
from .state import Verdict

if TYPE_CHECKING:
    from .._core.codec import ClientRequest
    from ..protocol.link import Link
    from .notify import PushResult

__all__ = ["Trace", "TraceEvent", "begin_trace", "end_trace"]

MAX_EVENTS = 1_000
"""Events that a trace keeps; the oldest go first."""


class TraceEvent(NamedTuple):
    """One thing that a traced session did."""

    time: float
    """Seconds since the epoch."""
    event: str
    """``request``, ``answer``, ``ack``, ``push``, ``bound``, ``sent``, ``attached``, ``detached``.
    """
    detail: str
    """``KEY=VALUE`` pairs."""


class Trace:
    """The last events of one session.

    Args:
        wall_clock: Seconds since the epoch.

    Attributes:
        total: Events so far.
        wakes: Called after each event, without arguments; they must not call the session.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self.total = 0
        self.wakes: set[Callable[[], None]] = set()
        self._wall_clock = wall_clock
        self._events: deque[TraceEvent] = deque(maxlen=MAX_EVENTS)

    def add(self, event: str, detail: str) -> None:
        """Note an event."""
        self.total += 1
        self._events.append(TraceEvent(self._wall_clock(), event, detail))
        for wake in self.wakes:
            wake()

    def since(self, total: int) -> list[TraceEvent]:
        """Return the events after the first total, as far as they are kept."""
        count = min(self.total - total, len(self._events))
        return list(self._events)[-count:] if count > 0 else []


class _TracedSession(Session):
    __slots__ = ()
    trace: ClassVar[Trace]

    def offer(self, request: ClientRequest, order: str, now: float) -> Verdict:
        verdict = super().offer(request, order, now)
        what = "accepted" if verdict is Verdict.NEXT else verdict.name.lower()
        seq, slot = request.seq_id, self.pending.get(request.seq_id, 0) >> 32
        place = f" slot={slot}" if slot else ""
        size = len(request.payload)
        self.trace.add("request", f"client_seq={seq} {what}{place} bytes={size}")
        return verdict

    def answer(
        self,
        client_seq: int,
        body: bytes,
        before: Sequence[bytes] = (),
        after: Sequence[bytes] = (),
        now: float = 0.0,
    ) -> bool:
        slot = self.pending.get(client_seq, 0) >> 32
        is_taken = super().answer(client_seq, body, before, after, now)
        place = f" slot={slot}" if slot else ""
        around = f" before={len(before)} after={len(after)}" if before or after else ""
        what = "" if is_taken else " not waited for"
        self.trace.add("answer", f"client_seq={client_seq}{place} bytes={len(body)}{around}{what}")
        return is_taken

    def ack(self, seq: int, now: float) -> None:
        before = self.queue.last_acked_seq
        super().ack(seq, now)
        if seq > before:
            self.trace.add("ack", f"up_to={seq} messages={seq - before}")

    def attach(self, link: Link, now: float) -> None:
        super().attach(link, now)
        self.trace.add("attached", f"connection={link.connection_id} peer={link.peer[0]}")

    def detach(self, now: float) -> None:
        link = self.link
        super().detach(now)
        if link is not None:
            self.trace.add("detached", f"connection={link.connection_id}")


class _TracedOutbox(Outbox):
    __slots__ = ()
    trace: ClassVar[Trace]

    def push(
        self,
        body: bytes,
        now: float,
        flags: int = 0,
        ttl: float = 0.0,
        push_id: str = "",
        conflate_key: str = "",
    ) -> PushResult:
        result = super().push(body, now, flags, ttl, push_id, conflate_key)
        self.trace.add("push", f"{_outcome(result)} bytes={len(body)}")
        return result

    def bind(
        self, body: bytes, client_seq: int, before: bool, now: float, push_id: str = ""
    ) -> PushResult:
        result = super().bind(body, client_seq, before, now, push_id)
        side = "before" if before else "after"
        detail = f"{_outcome(result)} {side}={client_seq} bytes={len(body)}"
        self.trace.add("bound", detail)
        return result


class _TracedSender(OrderedSender):
    __slots__ = ()
    trace: ClassVar[Trace]

    def feed(self, now: float) -> None:
        queue = self.queue
        first = queue.next_expected_seq - queue.unsent
        super().feed(now)
        last = queue.next_expected_seq - queue.unsent - 1
        if last >= first:
            self.trace.add("sent", f"seq={first}-{last}" if last > first else f"seq={first}")


def _outcome(result: PushResult) -> str:
    return f"refused={result.error_code}" if result.error_code else "taken"


def begin_trace(session: Session, trace: Trace) -> None:
    """Tell trace of everything that session does from now on."""
    for part, traced in (
        (session, _TracedSession),
        (session.outbox, _TracedOutbox),
        (session.sender, _TracedSender),
    ):
        # A class for the one object, because its slots have no room for the trace.
        part.__class__ = type(traced.__name__, (traced,), {"__slots__": (), "trace": trace})


def end_trace(session: Session) -> None:
    """Tell no trace any more."""
    session.__class__ = Session
    session.outbox.__class__ = Outbox
    session.sender.__class__ = OrderedSender
