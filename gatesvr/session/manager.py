"""SessionManager: makes, finds, logs in, resumes and ends sessions (PROTOCOL 3-5).

What a connection's end, a START or a login may do to a session is decided here and nowhere else.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .._core.queue import BULK
from .._pb import message_pb2 as pb
from ..config import PushConfig, SessionConfig, TransportConfig
from ..errors import CloseCode, ErrorCode
from ..observe.events import EventKind
from ..observe.log import keys
from ..protocol.messages import (
    CAPABILITIES,
    LATEST_PROTOCOL,
    MAX_CLIENT_ID_BYTES,
    MAX_OPENID_BYTES,
    LostReason,
    StopReason,
    is_valid_text,
    kick_frame,
)
from .context import RECOUNT_SHARE, SessionContext, SessionCounters
from .events import ELSEWHERE, EventHub, close_reason, loss_reason
from .login import LOGGED_IN, LoginVerdict
from .notify import OK
from .resume import ResumeJudge, ResumeToken
from .session import Session
from .start import StartOutcome, accept_start, refuse_start
from .state import Event, State
from .tombstones import Tombstones

if TYPE_CHECKING:
    from ..protocol.link import Disconnect, Link

__all__ = ["LoginVerdict", "SessionManager"]

logger = logging.getLogger("gatesvr.session")

SESSIONS_PER_CONNECTION = 2
"""Sessions at most, for each connection allowed (PROTOCOL 5.5)."""
SIGN_OF_LIFE_S = 5.0
"""on_duplicate = "reject" counts a session whose connection showed life within this (3.3)."""
RETRY_MS = 1_000
"""What a client is told to wait where a limit stands in its way."""
OPERATOR_CODES = range(4600, 4700)

# The closes after which there is no session to come back to (PROTOCOL 6).
_FATAL_CODES = frozenset(
    (CloseCode.PROTOCOL_ERROR, CloseCode.AUTH_FAILED, CloseCode.KICKED, CloseCode.OPENID_BUSY)
)


class SessionManager:
    """All sessions of one gateway.

    Args:
        config: Sessions' settings.
        transport: For the bound on sessions and the high water.
        push: For the bounds on push ids and bound notifies.
        random_bytes: Where session ids and tokens come from.
        wall_ms: Returns the ms since the epoch at a loop time, for events.

    Attributes:
        events: Tells subscribers what happens to sessions.
    """

    def __init__(
        self,
        config: SessionConfig | None = None,
        transport: TransportConfig | None = None,
        push: PushConfig | None = None,
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
        wall_ms: Callable[[float], int] = lambda now: int(now * 1000),
    ) -> None:
        self._config = config = config or SessionConfig()
        transport = transport or TransportConfig()
        push = push or PushConfig()
        self._random_bytes = random_bytes
        self._max_sessions = SESSIONS_PER_CONNECTION * transport.max_connections
        self._context = SessionContext(
            config, push, int(transport.high_water), self._close_full, self._count_memory
        )
        self.events = EventHub(
            self._context.counters, push.max_event_subscribers, push.max_event_queue, wall_ms
        )
        self._judge = ResumeJudge(self._context.counters)
        # In the order in which they were made.
        self._by_id: dict[str, Session] = {}
        self._last_number = 0
        # Logged-in sessions, in the order of their logins.
        self._by_openid: dict[str, tuple[Session, ...]] = {}
        # Not logged in, in the order of their STARTs; and how many of them an address has.
        self._inited: dict[Session, str] = {}
        self._inited_by_ip: dict[str, int] = {}
        self._inited_by_openid: dict[str, dict[Session, None]] = {}
        # Without a connection, in the order in which they lost it.
        self._detached: dict[Session, None] = {}
        self._tombstones = Tombstones(config.max_tombstones, config.resume_window)

    def __len__(self) -> int:
        """Return the sessions that are not Closed."""
        return len(self._by_id)

    @property
    def counters(self) -> SessionCounters:
        """The layer's counters, gauges brought up to date."""
        counters = self._context.counters
        counters.sessions = len(self._by_id)
        counters.inited = len(self._inited)
        counters.suspended = sum(session.is_logged_in for session in self._detached)
        counters.tombstones = len(self._tombstones)
        counters.event_subscribers = len(self.events)
        return counters

    # Finding.

    def by_id(self, session_id: str) -> Session | None:
        """Return the session of that id, None for none."""
        return self._by_id.get(session_id)

    def by_openid(self, openid: str) -> tuple[Session, ...]:
        """Return the logged-in sessions of a user, in the order of their logins."""
        return self._by_openid.get(openid, ())

    def find(self, target_type: str, target_id: str, *, with_inited: bool = False) -> list[Session]:
        """Return the sessions that a push or a kick names.

        Args:
            target_type: ``session`` (logged in or not) or ``openid`` (logged in).
            target_id: A session id or an openid.
            with_inited: Whether an openid names those too that have only claimed it in START. They
                get nothing that is meant for the user; but a kick that left them out would let a
                user in whose hello is under way.
        """
        if target_type == "session":
            session = self._by_id.get(target_id)
            return [] if session is None else [session]
        if target_type == "openid":
            found = list(self._by_openid.get(target_id, ()))
            if with_inited:
                found.extend(self._inited_by_openid.get(target_id, ()))
            return found
        return []

    def sessions_behind(self, number: int, openid: str = "") -> list[Session]:
        """Return the sessions made after that of a number, logged in or not, in their order.

        Args:
            number: Session.number; 0 for all.
            openid: Whose, empty for everybody's.
        """
        found: Iterable[Session] = self._by_id.values()
        if openid:
            same = self.find("openid", openid, with_inited=True)
            found = sorted(same, key=lambda session: session.number)
        return [session for session in found if session.number > number]

    # START.

    def start(self, start: pb.StartRequest, link: Link, now: float) -> StartOutcome:
        """Make or resume the session that a START asks for (PROTOCOL 3.1, 4).

        Write the response at once, before anything else is written to link.

        Args:
            start: The START's payload.
            link: The connection it came on.
            now: Loop time.
        """
        outcome = self._start(start, link, now)
        if outcome.session is None:
            self._context.counters.refused_starts += 1
        return outcome

    def _start(self, start: pb.StartRequest, link: Link, now: float) -> StartOutcome:
        if not is_valid_text(start.openid, MAX_OPENID_BYTES) or not is_valid_text(
            start.client_id, MAX_CLIENT_ID_BYTES
        ):
            return _refuse_bad("openid or client_id is no valid text")
        if start.session_id:
            session = self._by_id.get(start.session_id)
            if session is None:
                return self._resume_nothing(start, link, now)
            match = self._judge.judge(session, start, link.peer[0], now)
            if isinstance(match, StartOutcome):
                return match
            if start.last_acked_seq_id >= session.queue.next_expected_seq:
                return self._refuse_ahead(session, now)
            assert session.token is not None
            token = session.token.accept(match, start.attempt, self._random_bytes)
            self._context.counters.resumes += 1
            reason = "resume" if session.link is None else "steal"
            return self._take_over(session, token, start.last_acked_seq_id, link, reason, now)
        if not start.openid:
            return _refuse_bad("openid is empty")
        if start.last_acked_seq_id and not start.protocol and self._config.base_resume:
            session = self._find_base(start)
            if session is not None:
                refusal = self._judge.limit(session, now)
                if refusal is not None:
                    return refusal
                self._context.counters.base_resumes += 1
                last_acked = start.last_acked_seq_id
                return self._take_over(session, b"", last_acked, link, "base_resume", now)
        return self._create(start, link, "start", now)

    def _resume_nothing(self, start: pb.StartRequest, link: Link, now: float) -> StartOutcome:
        """Answer the resume of a session that there is no more (PROTOCOL 3.3, 4.7)."""
        counters = self._context.counters
        reason = self._tombstones.find(start.session_id, now)
        if reason is not None:
            counters.resumes_tombstoned += 1
            return refuse_start(
                ErrorCode.FORBIDDEN,
                CloseCode.KICKED,
                reason.name.lower(),
                lost_reason=reason,
            )
        counters.resumes_unknown += 1
        if not start.openid:
            # Nobody to make a new session for: let it come back with a START of its own.
            return refuse_start(
                ErrorCode.FORBIDDEN,
                CloseCode.RESUME_DENIED,
                "unknown session",
                lost_reason=LostReason.UNKNOWN_SESSION,
            )
        if self._config.on_duplicate != "allow" and start.openid in self._by_openid:
            # PROTOCOL 3.3: "if the openid has another logged-in session, it is refused".
            return refuse_start(
                ErrorCode.FORBIDDEN,
                CloseCode.KICKED,
                "logged in elsewhere",
                lost_reason=LostReason.UNKNOWN_SESSION,
            )
        outcome = self._create(start, link, "unknown_session", now)
        if outcome.session is not None:
            outcome.session.is_after_failed_resume = True
            outcome.response.lost_reason = pb.LOST_UNKNOWN_SESSION
        return outcome

    def _refuse_ahead(self, session: Session, now: float) -> StartOutcome:
        """Answer the resume from a position that was never given out (PROTOCOL 2.5).

        Its token is the session's own, so this is the session's client, and its protocol error
        ends the session as any other does (1.4): the two do not mean the same messages any more.
        """
        reason = "last_acked_seq_id was never given out"
        self._context.counters.resumes_ahead += 1
        self.close(session, CloseCode.PROTOCOL_ERROR, reason, now)
        return _refuse_bad(reason)

    def _find_base(self, start: pb.StartRequest) -> Session | None:
        """Return the session that a base client comes back to (PROTOCOL 9), None for none."""
        for session in reversed(self._by_openid.get(start.openid, ())):
            if session.protocol == 0:
                is_known = start.last_acked_seq_id < session.queue.next_expected_seq
                return session if is_known else None
        return None

    def _take_over(
        self,
        session: Session,
        token: bytes,
        last_acked: int,
        link: Link,
        reason: str,
        now: float,
    ) -> StartOutcome:
        """Give a session to the connection that a good resume came on (PROTOCOL 4.4).

        Generation fences connections, never content: what is in flight goes on as it is (4.5).
        """
        old = session.link
        if old is not None:
            self._context.counters.steals += 1
            session.detach(now)
            session.move(Event.DETACH)
            old.close(CloseCode.SUPERSEDED, "newer connection")
        else:
            self._detached.pop(session, None)
        session.move(Event.RESUME)
        session.generation += 1
        session.ack(last_acked, now)
        queue = session.queue
        queue.rewind(last_acked + 1)
        session.attach(link, now)
        outcome = accept_start(session, token, link, self._config)
        response = outcome.response
        response.resumed = True
        if queue.unsent:
            response.replay_from = queue.last_acked_seq + 1
            response.replay_to = queue.next_expected_seq - 1
            if queue.can_skip:
                response.lost_from, response.lost_to = queue.lost_range()
        session.sender.flush()
        self.events.emit(EventKind.RESUMED, session, reason, now)
        logger.debug(
            "session_resumed",
            extra=keys(session=session.session_id, generation=session.generation),
        )
        return outcome

    def _create(self, start: pb.StartRequest, link: Link, reason: str, now: float) -> StartOutcome:
        """Make a new session."""
        config = self._config
        counters = self._context.counters
        ip = link.peer[0]
        if len(self._by_id) >= self._max_sessions:
            counters.refused_full += 1
            return refuse_start(
                ErrorCode.BUSY, CloseCode.OVERLOADED, "too many sessions", retry_after_ms=RETRY_MS
            )
        if self._inited_by_ip.get(ip, 0) >= config.max_inited_per_address:
            counters.refused_address += 1
            return refuse_start(
                ErrorCode.RATE_LIMITED,
                CloseCode.RATE_LIMITED,
                "too many sessions of this address are not logged in",
                retry_after_ms=RETRY_MS,
            )
        protocol = min(start.protocol, LATEST_PROTOCOL)
        session = Session(
            self._context,
            self._random_bytes(16).hex(),
            start.openid,
            now,
            client_id=start.client_id,
            protocol=protocol,
            capabilities=start.capabilities & CAPABILITIES if protocol else 0,
            max_message_bytes=min(
                start.max_message_bytes or config.max_message_bytes, config.max_message_bytes
            ),
        )
        session.token = ResumeToken()
        token = session.token.issue(self._random_bytes)
        session.attach(link, now)
        self._last_number += 1
        session.number = self._last_number
        self._by_id[session.session_id] = session
        self._inited[session] = ip
        self._inited_by_ip[ip] = self._inited_by_ip.get(ip, 0) + 1
        self._inited_by_openid.setdefault(session.openid, {})[session] = None
        counters.created += 1
        self.events.emit(EventKind.CONNECTED, session, reason, now)
        logger.debug("session_made", extra=keys(session=session.session_id, peer=ip))
        return accept_start(session, token, link, config)

    # Login.

    def logged_in(self, session: Session, zone: str, now: float) -> LoginVerdict:
        """Log a session in, its hello was answered 200; or refresh its zone (PROTOCOL 3.2, 3.3).

        Call it before session.answer(). Where the verdict has a close code, end the hello by
        fail() and close the session with that code instead.

        Args:
            session: The session.
            zone: The answer's header ``zone``, empty for none.
            now: Loop time.
        """
        if session.state is State.CLOSED:
            return LoginVerdict(CloseCode.NORMAL, ErrorCode.FORBIDDEN, "session is closed")
        if not session.is_logged_in:
            verdict = self._settle_duplicates(session, now)
            if verdict.close_code is not None:
                self.refuse_login(session)
                return verdict
            self._leave_inited(session)
            openid = session.openid
            self._by_openid[openid] = (*self._by_openid.get(openid, ()), session)
            session.move(Event.LOGIN)
            self.events.emit(EventKind.LOGGED_IN, session, "hello", now)
            if session.link is None:
                session.move(Event.DETACH)
                self.events.emit(EventKind.SUSPENDED, session, "lost_before_login", now)
            self._context.counters.logins += 1
            logger.info(
                "session_logged_in",
                extra=keys(
                    session=session.session_id, openid=openid, peer=session.user_ip, zone=zone
                ),
            )
        if zone or not session.zone:
            session.set_zone(zone)
        return LOGGED_IN

    def refuse_login(self, session: Session) -> None:
        """Count a refused hello; logged_in() does so itself."""
        session.refused_logins += 1
        self._context.counters.refused_logins += 1

    def time_out_login(self, session: Session, now: float) -> None:
        """Close a session that has not logged in in time.

        Source: PROTOCOL 3.1: "login within 30 s of START (4408, Closed)".
        """
        self._context.counters.login_timeouts += 1
        self.close(session, CloseCode.TIMEOUT, "no login", now)

    def _settle_duplicates(self, session: Session, now: float) -> LoginVerdict:
        """Apply on_duplicate to the other logged-in sessions of session's openid."""
        others = self._by_openid.get(session.openid, ())
        if not others:
            return LOGGED_IN
        policy = self._config.on_duplicate
        if policy != "allow" and session.is_after_failed_resume:
            # PROTOCOL 3.3: it never replaces.
            return LoginVerdict(CloseCode.KICKED, ErrorCode.FORBIDDEN, "logged in elsewhere")
        if policy == "reject" and any(
            other.link is not None and now - other.link.last_heard <= SIGN_OF_LIFE_S
            for other in others
        ):
            return LoginVerdict(
                CloseCode.OPENID_BUSY, ErrorCode.FORBIDDEN, "logged in elsewhere", RETRY_MS
            )
        if policy == "allow":
            if len(others) < self._config.max_logged_in:
                return LOGGED_IN
            others = tuple(other for other in others if other.link is None)[:1]
            if not others or session.is_after_failed_resume:
                return LoginVerdict(
                    CloseCode.OPENID_BUSY, ErrorCode.FORBIDDEN, "too many logins", RETRY_MS
                )
        for other in others:
            self._replace(other, now)
        return LOGGED_IN

    def _replace(self, session: Session, now: float) -> None:
        self._context.counters.replaced += 1
        self._tombstones.add(session.session_id, LostReason.REPLACED, now)
        kind = EventKind.REPLACED
        self._end_by_kick(session, CloseCode.KICKED, "replaced", now, kind, ELSEWHERE)

    # Ends.

    def detach(self, session: Session, link: Link, how: Disconnect, now: float) -> None:
        """Take note of a connection's end; nothing happens where it is not the session's own.

        Args:
            session: The session that the connection had.
            link: The connection.
            how: How it ended.
            now: Loop time.
        """
        if session.link is not link:
            return
        if how.kind == "local" and how.code in _FATAL_CODES:
            self.close(session, how.code, how.reason, now)
            return
        session.detach(now)
        is_login_open = session.hello_pending or session.has_unacked
        if session.state is State.INITED and not is_login_open:
            # PROTOCOL 3.9: it outlives its connection only for the sake of its hello.
            why = loss_reason(how)
            self.close(session, how.code, "connection lost before login", now, why=why)
            return
        self._suspend(session, loss_reason(how), now)
        logger.debug("session_suspended", extra=keys(session=session.session_id, how=how.kind))

    def stop(self, session: Session, reason: StopReason, now: float) -> None:
        """Close a session because its client said STOP (PROTOCOL 3.9)."""
        self._context.counters.stopped += 1
        name = StopReason(reason).name.lower()
        why = "stop" if reason == StopReason.UNKNOWN else name
        self.close(session, CloseCode.NORMAL, name, now, why=why)

    def kick(self, session: Session, reason: str, now: float, code: int = CloseCode.KICKED) -> None:
        """Close a session because an upstream said so.

        Args:
            session: The session.
            reason: Text for the client.
            now: Loop time.
            code: What KICK says; the connection closes with it where it is an operator's own
                (46xx), else 4410.
        """
        if session.state is State.CLOSED:
            return
        self._context.counters.kicked += 1
        self._tombstones.add(session.session_id, LostReason.KICKED, now)
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
            session: The session; nothing happens where it is Closed already.
            code: The close code.
            reason: The close's reason text.
            now: Loop time.
            last: Frames to flush by themselves first; see Link.close.
            kind: What the event says, one of the ends.
            why: The event's reason; the close code's name where it is empty.
        """
        if session.state is State.CLOSED:
            return
        if session.state is State.INITED:
            self._leave_inited(session)
        else:
            self._forget_login(session)
        session.move(Event.CLOSE)
        why = why or close_reason(code)
        self.events.emit(kind, session, why, now)
        link = session.link
        session.detach(now)
        session.clear()
        del self._by_id[session.session_id]
        self._detached.pop(session, None)
        self._context.watched.discard(session)
        self._context.counters.closed += 1
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
        session.move(Event.DETACH)
        self._detached[session] = None
        if session.state is State.SUSPENDED:  # else its login is under way
            self.events.emit(EventKind.SUSPENDED, session, why, now)

    def _end_by_kick(
        self, session: Session, code: int, reason: str, now: float, kind: EventKind, why: str
    ) -> None:
        close_code = code if code in OPERATOR_CODES else CloseCode.KICKED
        last = kick_frame(code, reason)
        self.close(session, close_code, reason, now, last=last, kind=kind, why=why)

    def _close_full(self, session: Session, reason: str, now: float) -> None:
        """Close a suspended session whose queue is full, by the policy ``close``."""
        self.close(session, CloseCode.SLOW_CONSUMER, reason, now, why="queue_full")

    def _leave_inited(self, session: Session) -> None:
        ip = self._inited.pop(session)
        count = self._inited_by_ip[ip] - 1
        if count:
            self._inited_by_ip[ip] = count
        else:
            del self._inited_by_ip[ip]
        same = self._inited_by_openid[session.openid]
        del same[session]
        if not same:
            del self._inited_by_openid[session.openid]

    def _forget_login(self, session: Session) -> None:
        left = tuple(s for s in self._by_openid.get(session.openid, ()) if s is not session)
        if left:
            self._by_openid[session.openid] = left
        else:
            self._by_openid.pop(session.openid, None)

    # Pushes to many.

    def logged_in_sessions(self) -> list[Session]:
        """Return the sessions that are logged in now, with a connection or without."""
        return [session for sessions in self._by_openid.values() for session in sessions]

    def multicast(
        self,
        sessions: Iterable[Session],
        body: bytes,
        now: float,
        suspended: bool = False,
        ttl: float = 0.0,
    ) -> int:
        """Push to those of sessions that are logged in; return the queues that took it.

        Source: PROTOCOL 5.6.

        Args:
            sessions: Whom to push to; all that are logged in for a broadcast.
            body: Fields 3-5 of the push; all recipients share it.
            now: Loop time.
            suspended: Whether suspended sessions get it too.
            ttl: Seconds it is worth keeping, 0 for ever.
        """
        states = (State.NORMAL, State.SUSPENDED) if suspended else (State.NORMAL,)
        return sum(
            session.push(body, now=now, flags=BULK, ttl=ttl) is OK
            for session in sessions
            if session.state in states
        )

    # Time.

    def sweep(self, now: float) -> None:
        """End what has expired: sessions, logins, messages, tombstones. Call it once a second."""
        self._sweep_logins(now)
        self._sweep_detached(now)
        self._sweep_watched(now)
        self._count_memory(now)
        self._judge.sweep(now)
        self._tombstones.sweep(now)

    def _sweep_logins(self, now: float) -> None:
        deadline = now - self._config.login_timeout
        while self._inited:
            session = next(iter(self._inited))
            if session.create_time > deadline:
                break
            self.time_out_login(session, now)

    def _sweep_detached(self, now: float) -> None:
        deadline = now - self._config.resume_window
        while self._detached:
            session = next(iter(self._detached))
            if session.detached_at > deadline:
                break
            self._context.counters.expired += 1
            kind = EventKind.EXPIRED
            self.close(session, CloseCode.NORMAL, "expired", now, kind=kind, why="resume_window")

    def _sweep_watched(self, now: float) -> None:
        counters = self._context.counters
        watched = self._context.watched
        for session in list(watched):
            queue = session.queue
            expired = queue.expire(now)
            if expired:
                counters.notifies_expired += expired
                session.sender.flush()
            if session.full_since and session.link is not None:
                if session.full_since < 0:
                    session.full_since = now
                elif now - session.full_since >= self._config.slow_consumer_timeout:
                    self._cut_slow(session, now)
            if not session.full_since and queue.next_expiry() == float("inf"):
                watched.discard(session)

    def _count_memory(self, now: float) -> None:
        """Keep all queues together under their bound (PROTOCOL 5.5).

        Each sweep does, and a push where notifies have taken what was left since: a second is long.
        """
        context = self._context
        limit = context.max_queues_bytes
        queued = sum(session.memory_bytes() for session in self._by_id.values())
        if queued > limit:
            # The longest-suspended first; unacked answers were promised.
            for session in list(self._detached):
                if session.queue.kept or session.pending:
                    continue
                queued -= session.memory_bytes()
                context.counters.memory_closed += 1
                kind = EventKind.EXPIRED
                self.close(session, CloseCode.OVERLOADED, "memory", now, kind=kind, why="memory")
                if queued <= limit:
                    break
        context.counters.queued_bytes = queued
        context.is_memory_full = queued > limit
        context.memory_left = max(limit - queued, limit // RECOUNT_SHARE)

    def _cut_slow(self, session: Session, now: float) -> None:
        """Part with a connection on which no ack moved while the queue was at a cap (5.3)."""
        if not session.has_unacked:
            session.full_since = 0.0
            return
        link = session.link
        assert link is not None
        self._context.counters.slow_consumers += 1
        logger.info("slow_consumer", extra=keys(session=session.session_id, peer=session.user_ip))
        session.detach(now)
        self._suspend(session, "slow_consumer", now)
        link.close(CloseCode.SLOW_CONSUMER, f"retry_after_ms={RETRY_MS}")


def _refuse_bad(message: str) -> StartOutcome:
    return refuse_start(ErrorCode.BAD_REQUEST, CloseCode.PROTOCOL_ERROR, message)
