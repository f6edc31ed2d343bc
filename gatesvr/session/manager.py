"""SessionManager: finds, starts, logs in and ends sessions (PROTOCOL 3-5).

It is the layer's one face to the outside. SessionIndex holds the sessions, SessionStarter decides a
START, LoginPolicy a login, MemoryBudget bounds the queues; the manager carries out every change of
state and sweeps once a second.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable
from heapq import nlargest
from typing import TYPE_CHECKING

from .._core.queue import BULK
from .._pb import message_pb2 as pb
from ..config import PushConfig, SessionConfig, TransportConfig
from ..errors import CloseCode, ErrorCode
from ..observe.events import EventKind
from ..observe.log import keys
from ..protocol.link import HIGH_WATER_BYTES
from ..protocol.messages import LostReason, StopReason, kick_frame
from ..protocol.network import network_of
from .census import Census
from .context import RETRY_MS, SHED_RETRY_MS, SessionContext
from .counters import SessionCounters
from .credentials import CredentialExpiry
from .events import ELSEWHERE, EventHub, close_reason, loss_reason
from .index import SessionIndex
from .login import LOGGED_IN, LoginPolicy, LoginVerdict
from .memory import MemoryBudget
from .mover import SessionMover
from .notify import OK
from .resume import ResumeJudge
from .role import Role
from .starting import SessionStarter
from .state import Event, State
from .tombstones import Tombstones

if TYPE_CHECKING:
    from ..observe.stages import Stages
    from ..protocol.identity import Identity
    from ..protocol.link import Disconnect, Link
    from .outcome import StartOutcome
    from .session import Session

__all__ = ["SessionManager"]

logger = logging.getLogger("gatesvr.session")

MAX_TOMBSTONES = 10_000
"""Replaced and kicked sessions remembered to tell their clients why (PROTOCOL 4.7)."""
MAX_EVENT_QUEUE = 1_024
"""Events that wait for one subscriber; above it the newest are left out, and counted."""
SLOWEST_SHARE = 100
"""While the gateway is overloaded, a sweep cuts one in this many sessions."""
OPERATOR_CODES = range(4600, 4700)

# The closes after which there is no session to come back to (PROTOCOL 6).
_FATAL_CODES = frozenset(
    (CloseCode.PROTOCOL_ERROR, CloseCode.AUTH_FAILED, CloseCode.KICKED, CloseCode.OPENID_BUSY)
)


class SessionManager:
    """All sessions of one gateway.

    Args:
        config: Sessions' settings.
        transport: For the bound on sessions.
        push: For the bound on subscribers of events.
        random_bytes: Source of session ids and tokens.
        wall_ms: Returns the ms since the epoch at a loop time, for events.
        high_water: Bytes not yet transmitted at which a session stops feeding its link.
        needs_auth: Whether a new session needs an identity.
        is_shedding: Asked before a new session is made: whether to refuse it.
        stages: Takes how long logins take, None for nobody.

    Attributes:
        events: Tells subscribers about changes of sessions.
        index: The sessions.
        census: Sums up their queues.
        context: Shared by all sessions.
        judge: Judges resumes.
        moves: Takes sessions to other processes of the gateway, and takes in theirs.
        tombstones: Why sessions ended.
        ended: Called with each session that has ended, and the kind of its end, before its
            connection is closed; in a gateway of several processes the directory hears of it.
        is_cut_off: Whether this process cannot tell if it still owns its sessions. Those without a
            connection do not expire then.
    """

    def __init__(
        self,
        config: SessionConfig | None = None,
        transport: TransportConfig | None = None,
        push: PushConfig | None = None,
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
        wall_ms: Callable[[float], int] = lambda now: int(now * 1000),
        high_water: int = HIGH_WATER_BYTES,
        needs_auth: bool = False,
        is_shedding: Callable[[], bool] = lambda: False,
        stages: Stages | None = None,
    ) -> None:
        self._stages = stages
        self._config = config = config or SessionConfig()
        transport = transport or TransportConfig()
        push = push or PushConfig()
        self.index = index = SessionIndex()
        self._budget = MemoryBudget(
            config.max_queues_bytes, index.by_id, index.detached, self._close_for_memory
        )
        self.census = Census(index.by_id)
        self.context = context = SessionContext(config, high_water, self._budget, self._close_full)
        self._counters = context.counters
        self.events = EventHub(
            context.counters, push.max_event_subscribers, MAX_EVENT_QUEUE, wall_ms
        )
        self.judge = ResumeJudge(context.counters)
        self.tombstones = Tombstones(MAX_TOMBSTONES, config.resume_window)
        self.ended: Callable[[Session, EventKind], None] = lambda session, kind: None
        self.is_cut_off: Callable[[], bool] = lambda: False
        self._policy = LoginPolicy(config)
        self._credentials = CredentialExpiry()
        self._starter = SessionStarter(
            config,
            transport.max_connections,
            context,
            index,
            self.judge,
            self.tombstones,
            self.events,
            random_bytes,
            self.close,
            self.authenticate,
            needs_auth=needs_auth,
            is_shedding=is_shedding,
        )
        self.moves = SessionMover(
            config,
            context,
            index,
            self._budget,
            self._credentials,
            self._starter,
            self.close,
            self._drop,
            self._expire,
            self.time_out_login,
        )

    def apply(
        self,
        config: SessionConfig,
        transport: TransportConfig,
        push: PushConfig,
        *,
        needs_auth: bool,
    ) -> None:
        """Take other settings; sessions that there are keep the limits that they began with."""
        self._config = config
        self._budget.apply(config.max_queues_bytes)
        self.context = context = self.context.renewed(config)
        self.events.apply(push.max_event_subscribers)
        self.tombstones.apply(config.resume_window)
        self._policy = LoginPolicy(config)
        self._starter.apply(config, transport.max_connections, context, needs_auth=needs_auth)
        self.moves.apply(config, context)

    def limit(self, *, connections: int, queues_bytes: int, event_subscribers: int) -> None:
        """Take other limits of all sessions together, until the next apply()."""
        self._budget.apply(max(queues_bytes, 1))  # 0 would be the default
        self.events.apply(event_subscribers)
        self._starter.limit(connections)

    def __len__(self) -> int:
        """Return the number of sessions that are not Closed."""
        return len(self.index)

    @property
    def counters(self) -> SessionCounters:
        """The layer's counters, gauges brought up to date."""
        counters = self._counters
        index = self.index
        counters.sessions = len(index)
        counters.inited = len(index.inited)
        counters.suspended = sum(session.is_logged_in for session in index.detached)
        counters.tombstones = len(self.tombstones)
        counters.event_subscribers = len(self.events)
        counters.queued_bytes = self._budget.queued_bytes
        return counters

    @property
    def queued_bytes(self) -> int:
        """Memory of all queues, as counted; so much of the limits' ``queues_bytes`` is used."""
        return self._budget.queued_bytes

    # Finding.

    def by_id(self, session_id: str) -> Session | None:
        """Return the session of that id, None for none."""
        return self.index.by_id.get(session_id)

    def by_openid(self, openid: str) -> tuple[Session, ...]:
        """Return the logged-in sessions of a user, in the order of their logins."""
        return self.index.by_openid.get(openid, ())

    def find(self, target_type: str, target_id: str, *, with_inited: bool = False) -> list[Session]:
        """Return the sessions that a push or a kick names.

        Args:
            target_type: ``session`` (logged in or not) or ``openid`` (logged in).
            target_id: A session id or an openid.
            with_inited: Whether an openid also names sessions that have only claimed it in START.
                They get nothing that is meant for the user; but a kick without them would let in
                a user whose hello is under way.
        """
        return self.index.find(target_type, target_id, with_inited)

    def sessions_behind(self, number: int, openid: str = "") -> list[Session]:
        """Return the sessions made after that of a number, logged in or not, in their order.

        Args:
            number: Session.number; 0 for all.
            openid: The user, empty for everybody.
        """
        return self.index.behind(number, openid)

    def logged_in_sessions(self) -> list[Session]:
        """Return the sessions that are logged in now, with a connection or without."""
        return self.index.logged_in()

    def is_known(self, ip: str) -> bool:
        """Whether a session was last seen in an address's network: who comes from it may resume."""
        return network_of(ip) in self.index.by_network

    @property
    def is_draining(self) -> bool:
        """Whether every START is refused; see stop_starting()."""
        return self._starter.is_draining

    def stop_starting(self, now: float) -> None:
        """Refuse every START from now on, also those that resume: the gateway is about to stop.

        So a session ends with its connection, and those without one end now. Their pushers hear at
        once that nobody is there.
        """
        self._starter.is_draining = True
        for session in list(self.index.detached):
            self._close_drained(session, now)

    # START.

    def turn_away(self, link: Link, now: float) -> StartOutcome | None:
        """Return the refusal of a START for a new session, whoever it is; None where there is room.

        Call it before the client is authenticated, which costs more (PROTOCOL 3.1).

        Args:
            link: The connection that it came on.
            now: Loop time.
        """
        outcome = self._starter.turn_away(link, now)
        if outcome is not None:
            self._counters.refused_starts += 1
        return outcome

    def may_be_base(self, start: pb.StartRequest, identity: Identity | None) -> bool:
        """Return whether a START that names no session may be of a base client that comes back."""
        return self._starter.may_be_base(start, identity)

    def start(
        self,
        start: pb.StartRequest,
        link: Link,
        now: float,
        identity: Identity | None = None,
        auth_deadline: float = math.inf,
    ) -> StartOutcome:
        """Make or resume the session that a START asks for (PROTOCOL 3.1, 4).

        Write the response at once, before anything else is written to link.

        Args:
            start: The START's payload.
            link: The connection that it came on.
            now: Loop time.
            identity: Who the client has proved to be, None if it showed no token.
            auth_deadline: Loop time at which its credentials expire.
        """
        outcome = self._starter.start(start, link, now, identity, auth_deadline)
        if outcome.session is None:
            self._counters.refused_starts += 1
        return outcome

    def authenticate(self, session: Session, identity: Identity, deadline: float) -> None:
        """Set who the client of a session has proved to be, and until when (PROTOCOL 3.10)."""
        self._credentials.discard(session)
        session.set_auth(identity, deadline)
        self._credentials.add(session)

    # Login.

    def logged_in(self, session: Session, zone: str, now: float) -> LoginVerdict:
        """Log a session in, its hello was answered 200; or refresh its zone (PROTOCOL 3.2, 3.3).

        Call it before session.answer(). If the verdict has a close code, end the hello by fail()
        and close the session with that code instead.

        Args:
            session: The session.
            zone: The answer's header ``zone``, empty for none.
            now: Loop time.
        """
        if session.state is State.CLOSED:
            return LoginVerdict(CloseCode.NORMAL, ErrorCode.FORBIDDEN, "session is closed")
        if not session.is_logged_in:
            verdict = self._policy.judge(session, self.by_openid(session.openid), now)
            if verdict.close_code is not None:
                self.refuse_login(session)
                return verdict
            for other in verdict.replaced:
                self.replace(other, now)
        self.log_in(session, zone, now)
        return LOGGED_IN

    def log_in(self, session: Session, zone: str, now: float) -> None:
        """Log a session in whose login is decided; or refresh its zone."""
        if not session.is_logged_in:
            self.index.log_in(session)
            session.move(Event.LOGIN)
            self.events.emit(EventKind.LOGGED_IN, session, "hello", now)
            if session.link is None:
                session.move(Event.DETACH)
                self.events.emit(EventKind.SUSPENDED, session, "lost_before_login", now)
            self._counters.logins += 1
            self.moves.logged_in(session)
            if self._stages is not None:
                self._stages.login.record(now - session.create_time)
            logger.info(
                "session_logged_in",
                extra=keys(
                    session=session.session_id,
                    openid=session.openid,
                    peer=session.user_ip,
                    zone=zone,
                ),
            )
        if zone or not session.zone:
            session.set_zone(zone)

    def refuse_login(self, session: Session) -> None:
        """Count a refused hello; logged_in() does so itself."""
        session.refused_logins += 1
        self._counters.refused_logins += 1

    def time_out_login(self, session: Session, now: float) -> None:
        """Close a session that has not logged in in time.

        Source: PROTOCOL 3.1: "login within 30 s of START (4408, Closed)".
        """
        self._counters.login_timeouts += 1
        self.close(session, CloseCode.TIMEOUT, "no login", now)

    def replace(self, session: Session, now: float) -> None:
        """Close a session because its user logged in elsewhere."""
        self._counters.replaced += 1
        self.tombstones.add(session.session_id, LostReason.REPLACED, now)
        kind = EventKind.REPLACED
        self._end_by_kick(session, CloseCode.KICKED, "replaced", now, kind, ELSEWHERE)

    # Ends.

    def _drop(self, session: Session) -> None:
        """Take a copy out of all lists."""
        self.index.remove(session)
        self._credentials.discard(session)
        self.context.watched.discard(session.outbox)

    def detach(self, session: Session, link: Link, how: Disconnect, now: float) -> None:
        """Suspend or close a session whose connection has ended.

        Nothing happens if link is no longer the session's connection.

        Args:
            session: The session that the connection had.
            link: The connection.
            how: How it ended.
            now: Loop time.
        """
        if session.link is not link:
            return
        if session.role is not Role.OWN:
            session.detach(now)
            return
        if how.kind == "local" and how.code in _FATAL_CODES:
            self.close(session, how.code, how.reason, now)
            return
        session.detach(now)
        if not session.outlives_connection:
            why = loss_reason(how)
            self.close(session, how.code, "connection lost before login", now, why=why)
            return
        self._suspend(session, loss_reason(how), now)
        logger.debug("session_suspended", extra=keys(session=session.session_id, how=how.kind))

    def stop(self, session: Session, reason: StopReason, now: float) -> None:
        """Close a session because its client said STOP (PROTOCOL 3.9)."""
        self._counters.stopped += 1
        name = StopReason(reason).name.lower()
        why = "stop" if reason == StopReason.UNKNOWN else name
        self.close(session, CloseCode.NORMAL, name, now, why=why)

    def kick(self, session: Session, reason: str, now: float, code: int = CloseCode.KICKED) -> None:
        """Close a session because an upstream said so.

        Args:
            session: The session.
            reason: Text for the client.
            now: Loop time.
            code: The code in KICK; the connection closes with it if it is an operator's own
                (46xx), else with 4410.
        """
        if session.state is State.CLOSED:
            return
        self._counters.kicked += 1
        self.tombstones.add(session.session_id, LostReason.KICKED, now)
        self._end_by_kick(session, code, reason, now, EventKind.KICKED, reason or "kicked")

    def close(
        self,
        session: Session,
        code: int,
        reason: str,
        now: float,
        *,
        last: bytes = b"",
        kind: EventKind = EventKind.CLOSED,
        why: str = "",
    ) -> None:
        """Close a session for good, and its connection with code.

        Args:
            session: The session; nothing happens if it is Closed already.
            code: The close code.
            reason: The close's reason text.
            now: Loop time.
            last: Frames to flush by themselves first; see Link.close.
            kind: The event's kind, one of the ends.
            why: The event's reason; the close code's name if it is empty.
        """
        if session.state is State.CLOSED:
            return
        self._drop(session)
        session.move(Event.CLOSE)
        why = why or close_reason(code)
        self.events.emit(kind, session, why, now)
        link = session.link
        session.detach(now)
        session.clear()
        self._budget.release(session)
        self.context.results.drop(session.session_id)
        self._counters.closed += 1
        self.ended(session, kind)
        logger.info(
            "session_ended",
            extra=keys(
                session=session.session_id,
                openid=session.openid,
                peer=session.user_ip,
                how=kind,
                reason=why,
            ),
        )
        if link is not None:
            link.close(code, reason, last=last)

    def _suspend(self, session: Session, why: str, now: float) -> None:
        """Keep a session that has just lost its connection for the resume window."""
        if self._starter.is_draining:
            self._close_drained(session, now)
            return
        session.move(Event.DETACH)
        self.index.detached[session] = None
        if session.state is State.SUSPENDED:  # else its login is under way
            self.events.emit(EventKind.SUSPENDED, session, why, now)

    def _end_by_kick(
        self, session: Session, code: int, reason: str, now: float, kind: EventKind, why: str
    ) -> None:
        close_code = code if code in OPERATOR_CODES else CloseCode.KICKED
        last = kick_frame(code, reason)
        self.close(session, close_code, reason, now, last=last, kind=kind, why=why)

    def _close_full(self, session_id: str, now: float) -> None:
        session = self.index.by_id[session_id]
        self.close(session, CloseCode.SLOW_CONSUMER, "queue is full", now, why="queue_full")

    def _close_drained(self, session: Session, now: float) -> None:
        self._counters.ended_draining += 1
        self.close(session, CloseCode.OVERLOADED, "drain", now, why="drain")

    def _close_for_memory(self, session: Session, now: float) -> None:
        self._counters.memory_closed += 1
        kind = EventKind.EXPIRED
        self.close(session, CloseCode.OVERLOADED, "memory", now, kind=kind, why="memory")

    # Pushes to many.

    def multicast(
        self,
        sessions: Iterable[Session],
        body: bytes,
        now: float,
        suspended: bool = False,
        ttl: float = 0.0,
        push_id: str = "",
    ) -> int:
        """Push to those of sessions that are logged in; return the number that took it.

        Source: PROTOCOL 5.6.

        Args:
            sessions: The recipients; all that are logged in for a broadcast.
            body: Fields 3-5 of the push; all recipients share it.
            now: Loop time.
            suspended: Whether suspended sessions get it too.
            ttl: Seconds that it is worth keeping, 0 for ever.
            push_id: Keeps a session from taking it twice; may be empty.
        """
        states = (State.NORMAL, State.SUSPENDED) if suspended else (State.NORMAL,)
        return sum(
            session.outbox.push(body, now, BULK, ttl, push_id) is OK
            for session in sessions
            if session.state in states
        )

    # Time.

    def sweep(self, now: float) -> None:
        """End expired sessions, logins, messages and tombstones. Call it once a second."""
        self._sweep_credentials(now)
        self._sweep_logins(now)
        if not self.is_cut_off():
            self._sweep_detached(now)
            self.moves.sweep(now)
        self._sweep_watched(now)
        self._budget.recount(now)
        self.tombstones.sweep(now)
        self.census.count(now)

    def _sweep_credentials(self, now: float) -> None:
        for session in self._credentials.take(now):
            self._counters.auth_expired += 1
            code, reason = CloseCode.AUTH_FAILED, "credentials expired"
            last = kick_frame(code, reason)
            self.close(session, code, reason, now, last=last, why="auth_expired")

    def _sweep_logins(self, now: float) -> None:
        deadline = now - self._config.login_timeout
        inited = self.index.inited
        while inited:
            session = next(iter(inited))
            if session.create_time > deadline:
                break
            self.time_out_login(session, now)

    def _sweep_detached(self, now: float) -> None:
        deadline = now - self._config.resume_window
        detached = self.index.detached
        while detached:
            session = next(iter(detached))
            if session.detached_at > deadline:
                break
            self._expire(session, now)

    def _expire(self, session: Session, now: float) -> None:
        self._counters.expired += 1
        kind = EventKind.EXPIRED
        self.close(session, CloseCode.NORMAL, "expired", now, kind=kind, why="resume_window")

    def _sweep_watched(self, now: float) -> None:
        watched = self.context.watched
        for outbox in list(watched):
            outbox.expire(now)
            if outbox.check_stuck(now, self._config.slow_consumer_timeout):
                self._cut_stuck(self.index.by_id[outbox.queue.session_id], now)
            if not outbox.is_watched:
                watched.discard(outbox)

    def cut_slowest(self, now: float) -> None:
        """Suspend the connected sessions with the most to be sent, one in a hundred of all.

        Those are left alone that have no more to be sent than a stream takes at once.
        """
        least = self.context.high_water
        sessions = [
            s
            for s in self.index.logged_in()
            if s.link is not None and s.queue.unsent and s.queue.queued_bytes > least
        ]
        count = max(1, len(self.index) // SLOWEST_SHARE)
        for session in nlargest(count, sessions, key=lambda s: s.queue.queued_bytes):
            self._counters.slowest_cut += 1
            self._cut(session, CloseCode.OVERLOADED, SHED_RETRY_MS, "overloaded", now)

    def _cut_stuck(self, session: Session, now: float) -> None:
        """Close a connection on which no ack moved while the queue was at a cap (PROTOCOL 5.3)."""
        self._counters.slow_consumers += 1
        logger.info("slow_consumer", extra=keys(session=session.session_id, peer=session.user_ip))
        self._cut(session, CloseCode.SLOW_CONSUMER, RETRY_MS, "slow_consumer", now)

    def _cut(
        self, session: Session, code: CloseCode, retry_after_ms: int, why: str, now: float
    ) -> None:
        """Suspend a session, and close its connection; it may resume after retry_after_ms."""
        link = session.link
        assert link is not None
        session.detach(now)
        self._suspend(session, why, now)
        link.close(code, f"retry_after_ms={retry_after_ms}")
