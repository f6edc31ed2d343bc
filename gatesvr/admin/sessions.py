"""Directory: finds, sorts and shows sessions, a slice of them a turn of the loop."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from .._pb import message_pb2
from ..config import join_address
from ..observe.log import format_keys
from ..session.traced import Trace, TraceEvent, begin_trace, end_trace
from .answers import (
    ConnectionView,
    MessageRates,
    OpenSlot,
    PathChange,
    Pending,
    SequenceView,
    SessionEventView,
    SessionRow,
    SessionView,
    SlowSession,
)
from .pages import Filter, Found, merged
from .refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..dispatch.task import AsyncTask
    from ..gateway import Gateway
    from ..observe.events import SessionEvent
    from ..session.session import Session
    from .answers import SessionPage
    from .counters import AdminCounters
    from .pages import Place
    from .questions import SessionQuery

__all__ = ["TRACE_S", "Directory", "TraceEvents", "TraceMark", "slow_sessions"]

SLICE = 250
"""Sessions looked at in a turn of the loop, half a millisecond; of those shown, a quarter."""
SLOW_SLICE = 2_000
"""The same where only their queues are looked at."""
SLOWEST = 10
"""Sessions in an overview's list of the slowest."""
MAX_EVENTS = 100
"""Events of a session's view."""
MAX_RECENT = 8_192
"""Events of all sessions that are remembered."""
MAX_SHOWN = 256
"""Slots and requests of a session's view."""
MAX_TRACED = 64
"""Sessions traced at a time."""
TRACE_S = 600.0
"""How long a trace goes on that nobody follows."""
LOOK_S = 0.5
"""Shortest time that the rates of one session are taken over."""
MAX_LOOKS = 256
"""Sessions whose positions are remembered for their rates."""
MARK_S = 60.0
"""Longest time that a rate is taken over, unless it is the session's whole life."""
RATE_S = 5.0
"""How far back the rates of a list look, about."""

TraceMark: TypeAlias = tuple[int, int]
"""How far a trace was read: the number of the trace, and the events seen of it."""


class TraceEvents(msgspec.Struct, frozen=True, kw_only=True):
    """What a trace has had since somebody read it.

    Attributes:
        mark: Where to read on; None where the session is not traced.
        events: The events, the oldest first.
    """

    mark: TraceMark | None = None
    events: list[SessionEventView] = []


@dataclass(frozen=True, slots=True)
class _Look:
    """The positions of a session when somebody looked at it, and the rates told then."""

    time: float
    client_seq: int
    server_seq: int
    rates: MessageRates | None = None


@dataclass(slots=True)
class _Traced:
    """A trace, its number, which no other process has, and when somebody last followed it."""

    trace: Trace
    number: int
    followed_at: float


class Directory:
    """The sessions of a gateway, as people look at them.

    Args:
        gateway: The gateway.
        counters: Counts traces.
        wall_clock: Seconds since the epoch.
    """

    def __init__(
        self, gateway: Gateway, counters: AdminCounters, wall_clock: Callable[[], float]
    ) -> None:
        self._gateway = gateway
        self._manager = gateway.session_manager
        self._counters = counters
        self._clock = gateway.engine.clock
        self._wall_clock = wall_clock
        self._traces: dict[str, _Traced] = {}
        self._recent: deque[SessionEvent] = deque(maxlen=MAX_RECENT)
        self._manager.events.recent = self._recent
        # Positions of sessions, by number, at two times: rates are taken from the older one.
        self._marks: tuple[float, dict[int, int]] = (0.0, {})
        self._newer: tuple[float, dict[int, int]] = (0.0, {})
        self._looks: dict[int, _Look] = {}  # by Session.number, the newest last

    def close(self) -> None:
        """Trace nothing and remember no events any more."""
        for session_id in list(self._traces):
            self.untrace(session_id)
        self._manager.events.recent = None

    def find(self, session_id: str) -> Session:
        """Return a session.

        Raises:
            Refused: There is none of that id.
        """
        session = self._manager.by_id(session_id)
        if session is None:
            raise Refused(404, "NOT_FOUND", "no such session")
        return session

    # Lists.

    async def page(self, query: SessionQuery) -> SessionPage:
        """Return a page of the sessions that match; see search()."""
        return merged(query, {None: await self.search(query)})

    async def search(self, query: SessionQuery) -> Found:
        """Find a page of the sessions that match.

        Raises:
            Refused: The page is not one of this list.
        """
        wanted = Filter(query)
        now = self._clock()
        key = self._key_of(query.sort, now)
        pick = nlargest if wanted.is_descending else nsmallest
        best: list[tuple[Place, Session]] = []
        total = 0
        marks: dict[int, int] = {}
        sessions = self._manager.sessions_behind(0)
        for start in range(0, len(sessions), SLICE):
            if start:
                await asyncio.sleep(0)
            found = []
            for session in sessions[start : start + SLICE]:
                if query.sort == "rate":
                    marks[session.number] = _position(session)
                if wanted.matches(session):
                    total += 1
                    place = (key(session), session.session_id)
                    if wanted.is_behind(place):
                        found.append((place, session))
            # One more than fits tells whether there is a next page.
            best = pick(query.limit + 1, [*best, *found], key=itemgetter(0))
        if marks:
            self._mark(now, marks)
        has_more = len(best) > query.limit
        del best[query.limit :]
        rows = []
        for index, (_, session) in enumerate(best, 1):
            rows.append(self._row(session))
            if index % (SLICE // 4) == 0:
                await asyncio.sleep(0)
        places = [place for place, _ in best]
        return Found(total=total, rows=rows, places=places, has_more=has_more)

    async def slowest(self) -> list[SlowSession]:
        """Return the sessions with the most messages in their queues."""
        found: list[Session] = []
        sessions = list(self._manager.index.by_id.values())
        for start in range(0, len(sessions), SLOW_SLICE):
            if start:
                await asyncio.sleep(0)
            part = [each for each in sessions[start : start + SLOW_SLICE] if len(each.queue)]
            found = nlargest(SLOWEST, [*found, *part], key=lambda session: len(session.queue))
        now = self._clock()
        return [_slow(session, now) for session in found if session.is_valid]

    def _key_of(self, sort: str, now: float) -> Callable[[Session], float | str]:
        if sort == "queue":
            return lambda session: len(session.queue)
        if sort == "age":
            return lambda session: -session.create_time  # the same on every page
        if sort == "rate":
            return lambda session: self._rate(session, now)
        return lambda session: session.openid

    def _mark(self, now: float, marks: dict[int, int]) -> None:
        if now - self._newer[0] >= RATE_S:
            self._marks = self._newer
            self._newer = (now, marks)

    def _rate(self, session: Session, now: float) -> float:
        """Return a session's messages a second since the last mark, or else since it was made."""
        marked_at, marks = self._marks
        before = marks.get(session.number)
        if before is None or now - marked_at > MARK_S:
            before, marked_at = 0, session.create_time
        return round((_position(session) - before) / max(now - marked_at, 1.0), 3)

    def _rates(self, session: Session, now: float) -> MessageRates:
        """Return what a session does a second, since a look at it before or since it was made."""
        client_seq, server_seq = session.max_client_seq, session.queue.next_expected_seq - 1
        mark = self._looks.pop(session.number, None)
        if mark is None or now - mark.time > MARK_S:
            mark = _Look(session.create_time, 0, 0)
        if now - mark.time < LOOK_S and mark.rates is not None:
            rates = mark.rates  # somebody else has just looked
        else:
            passed = max(now - mark.time, LOOK_S)
            rates = MessageRates(
                requests=round((client_seq - mark.client_seq) / passed, 3),
                pushes=round((server_seq - mark.server_seq) / passed, 3),
            )
            mark = _Look(now, client_seq, server_seq, rates)
        self._looks[session.number] = mark
        if len(self._looks) > MAX_LOOKS:
            del self._looks[next(iter(self._looks))]
        return rates

    def _row(self, session: Session) -> SessionRow:
        return SessionRow(**self._basics(session))

    def _basics(self, session: Session) -> dict[str, Any]:
        now = self._clock()
        path = None if session.link is None else session.link.path()
        return {
            "session": session.session_id,
            "openid": session.openid,
            "client_id": session.client_id,
            "state": session.state.name.lower(),
            "ip": session.user_ip,
            "transport": session.transport,
            "zone": session.zone,
            "created": self._wall(session.create_time, now),
            "age_s": now - session.create_time,
            "idle_s": now - session.last_activity,
            "rtt_s": 0.0 if path is None else path.rtt_s,
            "queue_messages": len(session.queue),
            "queue_bytes": session.queue.queued_bytes,
            "in_flight": session.in_flight,
            "rate": self._rate(session, now),
        }

    def _wall(self, when: float, now: float) -> float:
        return self._wall_clock() + when - now

    # One session.

    def view(self, session_id: str) -> SessionView:
        """Return everything about a session.

        Raises:
            Refused: There is none of that id.
        """
        session = self.find(session_id)
        now = self._clock()
        outbox, queue, bound = session.outbox, session.queue, session.outbox.notifies
        pending = self._pending(session, now)
        window = self._gateway.config.session.resume_window
        is_away = session.link is None
        traced = self._traces.get(session_id)
        return SessionView(
            **self._basics(session),
            number=session.number,
            user_port=session.user_port,
            protocol=session.protocol,
            capabilities=session.capabilities,
            max_message_bytes=session.max_message_bytes,
            auth_subject="" if session.auth is None else session.auth.subject,
            logged_in=session.is_logged_in,
            hello_pending=bool(session.hello_seq),
            generation=session.generation,
            resumes=session.generation - 1,
            tombstone_s=max(0.0, window - (now - session.detached_at)) if is_away else None,
            connection=self._connection(session, now),
            sequence=_sequence(session, pending),
            pending=pending[:MAX_SHOWN],
            max_queue_size=queue.max_queue_size,
            max_queue_bytes=queue.max_queue_bytes,
            stopped=queue.stopped,
            before_notifies=0 if bound is None else bound.before,
            after_notifies=0 if bound is None else bound.after,
            held_notifies=len(outbox.held or ()),
            oldest_unacked_s=queue.oldest_age(now),
            queue=queue.counters(),
            rates=self._rates(session, now),
            traced=traced is not None,
            events=self._events(session_id, None if traced is None else traced.trace),
        )

    def _connection(self, session: Session, now: float) -> ConnectionView | None:
        link = session.link
        if link is None:
            return None
        path = link.path()
        return ConnectionView(
            number=link.connection_id,
            address=join_address(*link.peer),
            backend=self._gateway.backend if link.transport == "quic" else link.transport,
            rtt_s=0.0 if path is None else path.rtt_s,
            cwnd=0 if path is None else path.congestion_window,
            in_flight_bytes=0 if path is None else path.in_flight,
            lost=0 if path is None else path.lost,
            unsent_bytes=link.unsent_bytes(),
            path_changes=[
                PathChange(
                    time=self._wall(when, now), from_=join_address(*old), to=join_address(*new)
                )
                for when, old, new in link.moves
            ],
        )

    def _pending(self, session: Session, now: float) -> list[Pending]:
        """Return the requests that are not answered, the oldest first."""
        tasks = {task.client_seq: task for task in self._gateway.processor.tasks_of(session)}
        found = []
        for client_seq, entry in session.pending.items():
            task = tasks.get(client_seq)
            call = session.moved_calls.get(client_seq)
            found.append(
                Pending(
                    client_seq=client_seq,
                    slot=entry >> 32,
                    action=_action(task) if task is not None else call.action if call else "",
                    service=task.service if task is not None else call.service if call else "",
                    age_s=0.0 if task is None else now - task.asked_at,
                )
            )
        return found

    def _events(self, session_id: str, trace: Trace | None) -> list[SessionEventView]:
        """Return what happened to a session last, messages too while it is traced."""
        events = [
            SessionEventView(time=event.at_ms / 1000, event=event.kind, detail=_detail(event))
            for event in self._recent
            if event.session_id == session_id
        ]
        if trace is not None:
            events += map(_event_view, trace.since(trace.total - MAX_EVENTS))
            events.sort(key=lambda event: event.time)
        return events[-MAX_EVENTS:]

    # Traces.

    def trace(self, session_id: str) -> Trace:
        """Trace a session from now on, or return the trace that it has.

        Raises:
            Refused: There is none of that id, or MAX_TRACED are traced.
        """
        session = self.find(session_id)
        traced = self._traces.get(session_id)
        if traced is None:
            if len(self._traces) >= MAX_TRACED:
                raise Refused(503, "BUSY", f"{MAX_TRACED} sessions are traced, no more can be")
            self._counters.traces += 1
            traced = _Traced(Trace(self._wall_clock), secrets.randbits(48), self._clock())
            self._traces[session_id] = traced
            begin_trace(session, traced.trace)
        return traced.trace

    async def traced(self, session_id: str, mark: TraceMark | None, within: float) -> TraceEvents:
        """Return what a session's trace has had since somebody read it, or wait for something.

        Args:
            session_id: The session.
            mark: Where to read on. With None, or with one of another trace, it begins now: the
                session's view has what was before.
            within: Longest wait, seconds; the shortest, too, for a session that is not traced.

        Raises:
            Refused: There is none of that id.
        """
        self.find(session_id)
        found = self._traces.get(session_id)
        if found is None:
            await asyncio.sleep(within)
            return TraceEvents()
        trace = found.trace
        is_same = mark is not None and mark[0] == found.number
        seen = mark[1] if mark is not None and is_same else trace.total
        found.followed_at = self._clock()
        if trace.total == seen and within > 0:
            awake = asyncio.Event()
            trace.wakes.add(awake.set)
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(awake.wait(), within)
            finally:
                trace.wakes.discard(awake.set)
            found.followed_at = self._clock()
        events = trace.since(seen)
        missed = trace.total - seen - len(events)
        if missed:
            events.insert(0, TraceEvent(events[0].time, "missed", f"events={missed}"))
        return TraceEvents(
            mark=(found.number, trace.total), events=[_event_view(event) for event in events]
        )

    def end_traces(self) -> None:
        """End the traces of sessions that are over, and those that nobody has followed for long."""
        now = self._clock()
        for session_id, traced in list(self._traces.items()):
            is_over = self._manager.by_id(session_id) is None
            if is_over or now - traced.followed_at >= TRACE_S:
                self.untrace(session_id)

    def untrace(self, session_id: str) -> None:
        """Trace a session no more."""
        if self._traces.pop(session_id, None) is not None:
            session = self._manager.by_id(session_id)
            if session is not None:
                end_trace(session)


def slow_sessions(found: Iterable[SlowSession]) -> list[SlowSession]:
    """Return the SLOWEST with the most messages in their queues."""
    return nlargest(SLOWEST, found, key=lambda session: session.queue_messages)


def _slow(session: Session, now: float) -> SlowSession:
    return SlowSession(
        session=session.session_id,
        openid=session.openid,
        state=session.state.name.lower(),
        queue_messages=len(session.queue),
        queue_bytes=session.queue.queued_bytes,
        oldest_unacked_s=session.queue.oldest_age(now),
    )


def _event_view(event: TraceEvent) -> SessionEventView:
    return SessionEventView(time=event.time, event=event.event, detail=event.detail)


def _action(task: AsyncTask) -> str:
    request = message_pb2.BusinessRequest.FromString(task.business_req)
    return request.action


def _detail(event: SessionEvent) -> str:
    parts = {
        "reason": event.reason,
        "generation": event.generation,
        "sent": event.last_sent_seq,
        "acked": event.last_acked_seq,
        "client_seq": event.max_client_seq,
        "undelivered": event.undelivered,
        "transport": event.transport,
    }
    return format_keys(parts)


def _sequence(session: Session, pending: list[Pending]) -> SequenceView:
    queue = session.queue
    first, following, early = queue.slots()
    return SequenceView(
        acked=queue.last_acked_seq,
        sent=queue.last_sent_seq,
        next=queue.next_expected_seq,
        unsent=queue.unsent,
        waiting=early[:MAX_SHOWN],
        waiting_count=len(early),
        open_slots=[
            OpenSlot(
                slot=request.slot,
                client_seq=request.client_seq,
                action=request.action,
                age_s=request.age_s,
            )
            for request in pending
            if request.slot
        ][:MAX_SHOWN],
        open_count=following - first,
        unacked_bytes=queue.queued_bytes,
        client_seq=session.max_client_seq,
    )


def _position(session: Session) -> int:
    """Return the number of messages that a session has had, both ways."""
    return session.max_client_seq + session.queue.next_expected_seq - 1
