"""SessionStarter: a START makes a session, resumes one or is refused (PROTOCOL 3.1, 4)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._pb import message_pb2 as pb
from ..errors import CloseCode, ErrorCode
from ..observe.events import EventKind
from ..observe.log import keys
from ..protocol.messages import (
    CAPABILITIES,
    LATEST_PROTOCOL,
    MAX_CLIENT_ID_BYTES,
    MAX_OPENID_BYTES,
    LostReason,
    is_valid_text,
)
from .context import RETRY_MS, SHED_RETRY_MS
from .outcome import StartOutcome, accept_start, refuse_start, refuse_unauthenticated
from .rates import SessionRates
from .resume import ResumeToken
from .session import Session
from .state import Event

if TYPE_CHECKING:
    from ..config import SessionConfig
    from ..protocol.identity import Identity
    from ..protocol.link import Link
    from .context import SessionContext
    from .events import EventHub
    from .index import SessionIndex
    from .resume import ResumeJudge
    from .tombstones import Tombstones

__all__ = ["SessionStarter"]

logger = logging.getLogger("gatesvr.session")

SESSIONS_PER_CONNECTION = 2
"""Sessions at most, for each connection allowed (PROTOCOL 5.5)."""


class SessionStarter:
    """Starts and resumes sessions for a SessionManager.

    Args:
        config: Sessions' settings.
        max_connections: Bounds the sessions.
        context: Shared by all sessions.
        index: All sessions.
        judge: Judges resumes.
        tombstones: Why sessions ended.
        events: Told of new and resumed sessions.
        random_bytes: Source of session ids and tokens.
        close: Closes a session: (session, code, reason, now).
        authenticate: Sets who the client of a session is, and until when: (session, identity,
            deadline).
        needs_auth: Whether a new session needs an identity; turn_away() goes before its check.
        is_shedding: Asked before a new session is made: whether to refuse it.

    Attributes:
        is_draining: Whether every START is refused, because the gateway is about to stop.
    """

    def __init__(
        self,
        config: SessionConfig,
        max_connections: int,
        context: SessionContext,
        index: SessionIndex,
        judge: ResumeJudge,
        tombstones: Tombstones,
        events: EventHub,
        random_bytes: Callable[[int], bytes],
        close: Callable[[Session, int, str, float], None],
        authenticate: Callable[[Session, Identity, float], None],
        *,
        needs_auth: bool,
        is_shedding: Callable[[], bool],
    ) -> None:
        self._config = config
        self._max_sessions = SESSIONS_PER_CONNECTION * max_connections
        self._context = context
        self._counters = context.counters
        self._index = index
        self._judge = judge
        self._tombstones = tombstones
        self._events = events
        self._random_bytes = random_bytes
        self._close = close
        self._authenticate = authenticate
        self._needs_auth = needs_auth
        self._is_shedding = is_shedding
        self.is_draining = False
        self._rates = SessionRates(config, context.counters)

    def apply(
        self,
        config: SessionConfig,
        max_connections: int,
        context: SessionContext,
        *,
        needs_auth: bool,
    ) -> None:
        """Take other settings for the sessions to come; rates go on where theirs are the same."""
        if _rates_of(config) != _rates_of(self._config):
            self._rates = SessionRates(config, context.counters)
        self._config = config
        self._max_sessions = SESSIONS_PER_CONNECTION * max_connections
        self._context = context
        self._needs_auth = needs_auth

    def limit(self, max_connections: int) -> None:
        """Take another bound of the sessions, until the next apply()."""
        self._max_sessions = SESSIONS_PER_CONNECTION * max_connections

    def turn_away(self, link: Link, now: float) -> StartOutcome | None:
        """Return the refusal of any new session, before its client is known; see
        SessionManager.turn_away()."""
        return self._refuse_new(link.peer[0]) or self._rates.refuse_unknown(now)

    def start(
        self,
        start: pb.StartRequest,
        link: Link,
        now: float,
        identity: Identity | None,
        auth_deadline: float,
    ) -> StartOutcome:
        """Make or resume the session that a START asks for; see SessionManager.start()."""
        if self.is_draining:
            self._counters.refused_draining += 1
            return refuse_start(
                ErrorCode.BUSY,
                CloseCode.OVERLOADED,
                "the gateway is about to stop",
                retry_after_ms=RETRY_MS,
            )
        if identity is not None and not start.openid:
            start.openid = identity.openid
        outcome = self._start(start, link, now, identity)
        return self._authenticated(outcome, identity, auth_deadline)

    def welcome(
        self,
        session: Session,
        link: Link,
        now: float,
        identity: Identity | None,
        auth_deadline: float,
    ) -> StartOutcome:
        """Attach a session that has moved here; see SessionMover.attach()."""
        assert session.token is not None
        outcome = self.attach(session, session.token.text, link, "move", now)
        return self._authenticated(outcome, identity, auth_deadline)

    def _authenticated(
        self, outcome: StartOutcome, identity: Identity | None, auth_deadline: float
    ) -> StartOutcome:
        """Set who the client of a good START is, and tell it until when that holds."""
        session = outcome.session
        if session is None:
            return outcome
        if identity is not None:
            self._authenticate(session, identity, auth_deadline)
        if session.auth is not None and session.auth_deadline != math.inf:
            outcome.response.auth_expires_at_ms = int(session.auth.expires_at * 1000)
        return outcome

    def _start(
        self, start: pb.StartRequest, link: Link, now: float, identity: Identity | None
    ) -> StartOutcome:
        if not is_valid_text(start.openid, MAX_OPENID_BYTES) or not is_valid_text(
            start.client_id, MAX_CLIENT_ID_BYTES
        ):
            return _refuse_bad("openid or client_id is no valid text")
        if start.session_id:
            session = self._index.by_id.get(start.session_id)
            if session is None:
                if self._needs_auth and identity is None:
                    self._counters.resumes_unknown += 1
                    return refuse_unauthenticated()
                return self._resume_nothing(start, link, now)
            return self.refuse_other(session, identity) or self._resume(session, start, link, now)
        if not start.openid:
            return _refuse_bad("openid is empty")
        if self.may_be_base(start, identity):
            session = self._find_base(start)
            if session is not None:
                return self._resume_base(session, start, link, now)
        return self._create(start, link, "start", now)

    # Resumes.

    def refuse_other(self, session: Session, identity: Identity | None) -> StartOutcome | None:
        """Return the refusal of a resume by somebody who has proved to be another user."""
        if identity is None or identity.openid == session.openid:
            return None
        self._counters.resumes_denied += 1
        return _refuse_lost(CloseCode.RESUME_DENIED, "denied", LostReason.DENIED)

    def turn(
        self, session: Session, start: pb.StartRequest, ip: str, now: float
    ) -> StartOutcome | bytes:
        """Do all of a resume that the session's owner does, wherever the client is now.

        The session is left without a connection, for attach(); here, or where it moves.

        Args:
            session: The session, which this process owns.
            start: A START that names it.
            ip: The address that it came from.
            now: Loop time.

        Returns:
            The START's refusal; where it is good, the token to hand out, which session.token.text
            is until it is proved.
        """
        match = self._judge.judge(session, start, ip, now)
        if isinstance(match, StartOutcome):
            return match
        if start.last_acked_seq_id >= session.queue.next_expected_seq:
            return self._refuse_ahead(session, now)
        assert session.token is not None
        token = session.token.accept(match, start.attempt, self._random_bytes)
        self._counters.resumes += 1
        self._leave_connection(session, start.last_acked_seq_id, now)
        return token

    def _resume(
        self, session: Session, start: pb.StartRequest, link: Link, now: float
    ) -> StartOutcome:
        reason = "resume" if session.link is None else "steal"
        token = self.turn(session, start, link.peer[0], now)
        if isinstance(token, StartOutcome):
            return token
        return self.attach(session, token, link, reason, now)

    def _resume_nothing(self, start: pb.StartRequest, link: Link, now: float) -> StartOutcome:
        """Answer the resume of a session that no longer exists (PROTOCOL 3.3, 4.7)."""
        counters = self._counters
        reason = self._tombstones.find(start.session_id, now)
        if reason is not None:
            counters.resumes_tombstoned += 1
            return _refuse_lost(CloseCode.KICKED, reason.name.lower(), reason)
        counters.resumes_unknown += 1
        unknown = LostReason.UNKNOWN_SESSION
        if not start.openid:
            # A new session would be nobody's: the client has to send a START of its own.
            return _refuse_lost(CloseCode.RESUME_DENIED, "unknown session", unknown)
        if self._config.on_duplicate != "allow" and start.openid in self._index.by_openid:
            # PROTOCOL 3.3: "if the openid has another logged-in session, it is refused".
            return _refuse_lost(CloseCode.KICKED, "logged in elsewhere", unknown)
        outcome = self._create(start, link, "unknown_session", now)
        if outcome.session is not None:
            outcome.session.is_after_failed_resume = True
            outcome.response.lost_reason = pb.LOST_UNKNOWN_SESSION
        return outcome

    def _refuse_ahead(self, session: Session, now: float) -> StartOutcome:
        """Answer the resume from a position that was never given out (PROTOCOL 2.5).

        The token is good, so this is the session's own client, and its protocol error ends the
        session (1.4): the two no longer mean the same messages.
        """
        reason = "last_acked_seq_id was never given out"
        self._counters.resumes_ahead += 1
        self._close(session, CloseCode.PROTOCOL_ERROR, reason, now)
        return _refuse_bad(reason)

    def may_be_base(self, start: pb.StartRequest, identity: Identity | None) -> bool:
        """Return whether a START that names no session may be of a base client that comes back."""
        return (
            start.last_acked_seq_id > 0
            and not start.protocol
            and (self._config.base_resume or identity is not None)
        )

    def is_base(self, session: Session, start: pb.StartRequest) -> bool:
        """Return whether a base client's START continues a session of its openid."""
        return (
            session.protocol == 0
            and session.is_logged_in
            and session.openid == start.openid
            and start.last_acked_seq_id < session.queue.next_expected_seq
        )

    def _find_base(self, start: pb.StartRequest) -> Session | None:
        """Return the session that a base client comes back to (PROTOCOL 9), None for none."""
        for session in reversed(self._index.by_openid.get(start.openid, ())):
            if session.protocol == 0:
                return session if self.is_base(session, start) else None
        return None

    def turn_base(
        self, session: Session, start: pb.StartRequest, now: float
    ) -> StartOutcome | None:
        """Do as turn() does, without a token; return the START's refusal, None where it is good."""
        refusal = self._judge.limit(session, now)
        if refusal is not None:
            return refusal
        self._counters.base_resumes += 1
        self._leave_connection(session, start.last_acked_seq_id, now)
        return None

    def _resume_base(
        self, session: Session, start: pb.StartRequest, link: Link, now: float
    ) -> StartOutcome:
        refusal = self.turn_base(session, start, now)
        if refusal is not None:
            return refusal
        return self.attach(session, b"", link, "base_resume", now)

    def _leave_connection(self, session: Session, last_acked: int, now: float) -> None:
        """Part a session with the connection that a good resume takes it from (PROTOCOL 4.4).

        Generation fences connections, never content: requests in flight go on as they are (4.5).
        """
        old = session.link
        if old is not None:
            self._counters.steals += 1
            session.detach(now)
            session.move(Event.DETACH)
            self._index.detached[session] = None
            old.close(CloseCode.SUPERSEDED, "newer connection")
        session.generation += 1
        session.ack(last_acked, now)

    def attach(
        self, session: Session, token: bytes, link: Link, reason: str, now: float
    ) -> StartOutcome:
        """Attach a session to the connection that a good resume came on; turn() went before.

        Args:
            session: The session, which this process owns.
            token: The token to hand out.
            link: The connection.
            reason: Why, for the event.
            now: Loop time.
        """
        self._index.detached.pop(session, None)
        session.move(Event.RESUME)
        queue = session.queue
        # The client's position is acked by now, if nothing beyond it was (PROTOCOL 4.4).
        self._counters.replayed += queue.rewind(queue.last_acked_seq + 1)
        session.attach(link, now)
        self._index.place(session)
        outcome = accept_start(session, token, link, self._config)
        response = outcome.response
        response.resumed = True
        if queue.unsent:
            response.replay_from = queue.last_acked_seq + 1
            response.replay_to = queue.next_expected_seq - 1
            if queue.can_skip:
                response.lost_from, response.lost_to = queue.lost_range()
        session.sender.flush()
        self._events.emit(EventKind.RESUMED, session, reason, now)
        logger.debug(
            "session_resumed",
            extra=keys(session=session.session_id, generation=session.generation),
        )
        return outcome

    # New sessions.

    def _create(self, start: pb.StartRequest, link: Link, reason: str, now: float) -> StartOutcome:
        config = self._config
        is_asked = self._needs_auth and not start.session_id  # by turn_away()
        refusal = self._refuse_new(link.peer[0], is_asked=is_asked) or self._rates.refuse(
            start.openid, now
        )
        if refusal is not None:
            return refusal
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
        self._index.add(session)
        self._counters.created += 1
        self._events.emit(EventKind.CONNECTED, session, reason, now)
        logger.debug("session_made", extra=keys(session=session.session_id, peer=session.user_ip))
        return accept_start(session, token, link, config)

    def _refuse_new(self, ip: str, *, is_asked: bool = False) -> StartOutcome | None:
        """Return the refusal of any new session from an address, None where there is room.

        Args:
            ip: The address.
            is_asked: Whether is_shedding() has let it pass before.
        """
        if not is_asked and self._is_shedding():
            return refuse_start(
                ErrorCode.BUSY, CloseCode.OVERLOADED, "overloaded", retry_after_ms=SHED_RETRY_MS
            )
        if len(self._index) >= self._max_sessions:
            self._counters.refused_full += 1
            return refuse_start(
                ErrorCode.BUSY, CloseCode.OVERLOADED, "too many sessions", retry_after_ms=RETRY_MS
            )
        if self._index.inited_of(ip) >= self._config.max_inited_per_address:
            self._counters.refused_address += 1
            return refuse_start(
                ErrorCode.RATE_LIMITED,
                CloseCode.RATE_LIMITED,
                "too many sessions of this address are not logged in",
                retry_after_ms=RETRY_MS,
            )
        return None


def _rates_of(config: SessionConfig) -> tuple[object, ...]:
    return config.max_start_rate, config.max_start_rate_per_openid, config.dry_run


def _refuse_bad(message: str) -> StartOutcome:
    return refuse_start(ErrorCode.BAD_REQUEST, CloseCode.PROTOCOL_ERROR, message)


def _refuse_lost(code: CloseCode, message: str, reason: LostReason) -> StartOutcome:
    return refuse_start(ErrorCode.FORBIDDEN, code, message, lost_reason=reason)
