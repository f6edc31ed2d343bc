"""Directory: finds, sorts and shows sessions, a slice of them a turn of the loop."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from typing import TYPE_CHECKING, Any, TypeAlias

from .._pb import message_pb2
from ..config import join_address, normalize_zone
from ..observe.log import format_keys
from ..session.traced import Trace, begin_trace, end_trace
from .answers import (
    ConnectionView,
    MessageRates,
    OpenSlot,
    PathChange,
    Pending,
    SequenceView,
    SessionEventView,
    SessionPage,
    SessionRow,
    SessionView,
)
from .refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..dispatch.task import AsyncTask
    from ..gateway import Gateway
    from ..observe.events import SessionEvent
    from ..session.session import Session
    from ..session.traced import TraceEvent
    from .counters import AdminCounters
    from .questions import SessionQuery

__all__ = ["MAX_LIMIT", "Directory", "event_view"]

SLICE = 250
"""Sessions looked at in a turn of the loop, half a millisecond; of those shown, a quarter."""
MAX_LIMIT = 500
"""Sessions of one page at most."""
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

_Place: TypeAlias = tuple[Any, int]
"""What a list is sorted by: a number or a text, and Session.number."""


@dataclass(frozen=True, slots=True)
class _Look:
    """The positions of a session when somebody looked at it, and the rates told then."""

    time: float
    client_seq: int
    server_seq: int
    rates: MessageRates | None = None


class _Filter:
    """Finds the sessions that a query asks for, and their place in its order."""

    def __init__(self, query: SessionQuery) -> None:
        self._q = query.q.casefold()
        self._state = query.state
        self._zone = normalize_zone(query.zone)
        self._ip = query.ip
        self._sort = query.sort
        self.is_descending = query.order == "desc"
        self._after = self._read_token(query.page) if query.page else None

    def matches(self, session: Session) -> bool:
        """Return whether a session is asked for."""
        q = self._q
        return (
            session.is_valid
            and (not self._state or session.state.name.lower() == self._state)
            and (not self._zone or session.zone == self._zone)
            and (not self._ip or session.user_ip.startswith(self._ip))
            and (not q or q in session.openid.casefold() or q in session.session_id.casefold())
        )

    def is_behind(self, place: _Place) -> bool:
        """Return whether a place is behind the page before."""
        after = self._after
        if after is None:
            return True
        return place < after if self.is_descending else place > after

    def token(self, place: _Place) -> str:
        """Return the token of the page behind a place."""
        text = json.dumps([self._sort, self.is_descending, *place], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def _read_token(self, token: str) -> _Place:
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            sort, is_descending, value, number = json.loads(raw)
        except (ValueError, TypeError, RecursionError):
            raise Refused.invalid("page: not one of ours") from None
        kind = str if self._sort == "openid" else int | float
        if (
            (sort, is_descending) != (self._sort, self.is_descending)
            or not isinstance(value, kind)
            or not isinstance(number, int)
        ):
            raise Refused.invalid("page: of another list")
        return value, number


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
        self._traces: dict[str, Trace] = {}
        self._traced_at: dict[str, float] = {}  # when somebody last followed it
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
        """Return a page of the sessions that match.

        Raises:
            Refused: The page is not one of this list.
        """
        wanted = _Filter(query)
        now = self._clock()
        key = self._key_of(query.sort, now)
        pick = nlargest if wanted.is_descending else nsmallest
        best: list[tuple[_Place, Session]] = []
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
                    place = (key(session), session.number)
                    if wanted.is_behind(place):
                        found.append((place, session))
            # One more than fits tells whether there is a next page.
            best = pick(query.limit + 1, [*best, *found], key=lambda entry: entry[0])
        if marks:
            self._mark(now, marks)
        has_more = len(best) > query.limit
        del best[query.limit :]
        rows = []
        for index, (_, session) in enumerate(best, 1):
            rows.append(self._row(session))
            if index % (SLICE // 4) == 0:
                await asyncio.sleep(0)
        return SessionPage(
            total=total,
            sessions=rows,
            next=wanted.token(best[-1][0]) if has_more else None,
        )

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
        trace = self._traces.get(session_id)
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
            traced=trace is not None,
            events=self._events(session_id, trace),
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
            events += map(event_view, trace.since(trace.total - MAX_EVENTS))
            events.sort(key=lambda event: event.time)
        return events[-MAX_EVENTS:]

    # Traces.

    def trace(self, session_id: str) -> Trace:
        """Trace a session from now on, or return the trace that it has.

        Raises:
            Refused: There is none of that id, or MAX_TRACED are traced.
        """
        session = self.find(session_id)
        trace = self._traces.get(session_id)
        if trace is None:
            if len(self._traces) >= MAX_TRACED:
                raise Refused(503, "BUSY", f"{MAX_TRACED} sessions are traced, no more can be")
            trace = self._traces[session_id] = Trace(self._wall_clock)
            self._traced_at[session_id] = self._clock()
            begin_trace(session, trace)
            self._counters.traces += 1
        return trace

    def trace_of(self, session_id: str) -> Trace | None:
        """Return the trace of a session, None where it is not traced."""
        return self._traces.get(session_id)

    def end_traces(self) -> None:
        """End the traces of sessions that are over, and those that nobody has followed for long."""
        now = self._clock()
        for session_id, trace in list(self._traces.items()):
            if trace.wakes:
                self._traced_at[session_id] = now
            is_over = self._manager.by_id(session_id) is None
            if is_over or now - self._traced_at[session_id] >= TRACE_S:
                self.untrace(session_id)

    def untrace(self, session_id: str) -> None:
        """Trace a session no more."""
        if self._traces.pop(session_id, None) is not None:
            del self._traced_at[session_id]
            session = self._manager.by_id(session_id)
            if session is not None:
                end_trace(session)


def event_view(event: TraceEvent) -> SessionEventView:
    """Return an event of a trace."""
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
