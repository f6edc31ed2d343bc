"""SessionMover: sessions that go to other processes of the gateway, and come from them (role.py).

::

    the owner                                another process
    turn() ─▶ export(), frozen ─▶ bytes ───▶ install(), frozen
                 │                              │ the directory says that it owns it
    forget() ◀───┤ taken                        ▼
    own() ◀──────┘ not taken                  own() ─▶ attach(), or suspended

The directory decides who owns a session, and the caller asks it; nothing here waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from ..errors import CloseCode, ExportError, SessionError
from .moved import export_session, install_session
from .outcome import StartOutcome
from .role import Role
from .state import Event, State

if TYPE_CHECKING:
    from .._pb import message_pb2 as pb
    from ..config import SessionConfig
    from ..protocol.identity import Identity
    from ..protocol.link import Link
    from .context import SessionContext
    from .credentials import CredentialExpiry
    from .index import SessionIndex
    from .memory import MemoryBudget
    from .moved import MovedCall
    from .session import Session
    from .starting import SessionStarter

__all__ = ["SessionMover"]


class SessionMover:
    """Moves sessions for a SessionManager.

    Args:
        config: Sessions' settings.
        context: Shared by all sessions.
        index: All sessions.
        budget: Bounds their memory.
        credentials: Knows when they expire.
        starter: Judges and carries out resumes.
        close: Closes a session: (session, code, reason, now).
        drop: Takes a session out of all lists: (session).
        expire: Closes a session that nobody came back to: (session, now).
        time_out_login: Closes a session that has not logged in: (session, now).

    Attributes:
        arrived: Called with each session that this process owns again, or for the first time after
            another one.
        logged_in: Called with each session that logs in.
    """

    def __init__(
        self,
        config: SessionConfig,
        context: SessionContext,
        index: SessionIndex,
        budget: MemoryBudget,
        credentials: CredentialExpiry,
        starter: SessionStarter,
        close: Callable[[Session, int, str, float], None],
        drop: Callable[[Session], None],
        expire: Callable[[Session, float], None],
        time_out_login: Callable[[Session, float], None],
    ) -> None:
        self._config = config
        self._context = context
        self._counters = context.counters
        self._index = index
        self._budget = budget
        self._credentials = credentials
        self._starter = starter
        self._close = close
        self._drop = drop
        self._expire = expire
        self._time_out_login = time_out_login
        # Sessions that came from other processes, by when their time may be up: they stand in the
        # index behind some that have lost their connection, or have come, after them.
        self._moved: list[tuple[float, int, Session]] = []
        self._awaited: set[Session] = set()  # those in it
        self.arrived: Callable[[Session], None] = lambda session: None
        self.logged_in: Callable[[Session], None] = lambda session: None

    def apply(self, config: SessionConfig, context: SessionContext) -> None:
        """Take other settings."""
        self._config = config
        self._context = context

    def turn(
        self, start: pb.StartRequest, ip: str, now: float, identity: Identity | None = None
    ) -> StartOutcome | Session:
        """Judge a START that another process has got, and turn its session to the new connection.

        What a resume does to the session is done then, but for the connection: export() and
        attach() follow.

        Args:
            start: The START; it names a session that this process owns.
            ip: The address that it came from.
            now: Loop time.
            identity: Who the client has proved to be, None if it showed no token.

        Returns:
            The session, or the START's refusal.
        """
        session = self._index.by_id[start.session_id]
        outcome = self._starter.refuse_other(session, identity) or self._starter.turn(
            session, start, ip, now
        )
        return self._turned(session, outcome)

    def turn_base(
        self, session: Session, start: pb.StartRequest, now: float
    ) -> StartOutcome | Session | None:
        """Do as turn() does for the START of a base client, which names no session (PROTOCOL 9).

        Args:
            session: A logged-in session of its openid, which this process owns.
            start: The START.
            now: Loop time.

        Returns:
            None where it does not continue this session.
        """
        if not self._starter.is_base(session, start):
            return None
        return self._turned(session, self._starter.turn_base(session, start, now))

    def _turned(self, session: Session, outcome: object) -> StartOutcome | Session:
        if not isinstance(outcome, StartOutcome):
            return session
        self._counters.refused_starts += 1
        return outcome

    def export(self, session: Session, calls: Iterable[MovedCall], now: float) -> bytes:
        """Return a session as bytes for another process, and stop to act as its owner.

        Args:
            session: A session without a connection, which this process owns.
            calls: Its requests that this process has started, or not yet; in any order. Start and
                end none of them any more: whoever owns the session starts those that wait.
            now: Loop time.
        """
        if session.role is not Role.OWN or session.link is not None or not session.is_valid:
            raise SessionError("only a session without a connection is exported, by its owner")
        data = export_session(session, calls, now)
        self._index.hide(session)
        self._credentials.discard(session)
        session.freeze(Role.LEAVING)
        self._counters.exports += 1
        return data

    def create(self, session: Session) -> None:
        """Let a session that a START has just made wait for the directory.

        own() or discard() follows; until then START is not answered. It counts as one of those
        that have not logged in, and ends with them.
        """
        session.freeze(Role.CREATING)

    def discard(self, session: Session, now: float) -> None:
        """Drop a session that a START has made, and that the directory does not take."""
        session.detach(now)
        self._close(session, CloseCode.OVERLOADED, "not entered", now)

    def install(self, data: bytes, now: float) -> Session:
        """Return the session that another process has exported; own() follows, or forget().

        Raises:
            ExportError: The bytes are of another major version, were damaged, or make no session.
            SessionError: There is a copy of it, in whatever role.
        """
        try:
            session = install_session(data, self._context, now)
        except ExportError:
            self._counters.exports_refused += 1
            raise
        if session.session_id in self._index.by_id:
            raise SessionError("a copy of the session is here")
        session.freeze(Role.ARRIVING)
        self._index.add(session)
        self._budget.add(session)
        return session

    def own(self, session: Session, epoch: int, now: float, *, is_awaited: bool = False) -> bool:
        """Own a session that was made or has arrived, or take one back that nobody took.

        Args:
            session: A creating, arriving or leaving copy.
            epoch: Its new epoch.
            now: Loop time.
            is_awaited: Whether attach() follows soon, else end_idle().

        Returns:
            False where it was closed, because it had no reason to outlive its connection.
        """
        is_new = session.role is Role.CREATING
        self._counters.taken_back += session.role is Role.LEAVING
        self._counters.moved_in += session.role is Role.ARRIVING
        session.own(epoch)
        if not is_new:
            self._index.show(session)
            self._credentials.add(session)
            self._await_end(session)
            self.arrived(session)
        return is_awaited or not self.end_idle(session, now)

    def end_idle(self, session: Session, now: float) -> bool:
        """Close a session that has no reason to outlive its connection; return whether it did."""
        if session.link is not None or session.outlives_connection:
            return False
        self._close(session, CloseCode.NORMAL, "connection lost before login", now)
        return True

    def attach(
        self,
        session: Session,
        link: Link,
        now: float,
        identity: Identity | None = None,
        auth_deadline: float = math.inf,
    ) -> StartOutcome:
        """Attach a session that has moved here to the connection whose START made it move.

        Args:
            session: The session, which this process owns by now.
            link: The connection.
            now: Loop time.
            identity: Who the client has proved to be, None if it showed no token.
            auth_deadline: Loop time at which its credentials expire.
        """
        return self._starter.welcome(session, link, now, identity, auth_deadline)

    def forget(self, session: Session, now: float) -> None:
        """Drop a copy: another process owns the session. Its calls here may go on."""
        link = session.link
        if link is not None:
            session.detach(now)
            # Its client comes back, and is told what became of it; 4409 would stop it.
            link.close(CloseCode.OVERLOADED, "reconnect_after_ms=0")
        if session.role is Role.LEAVING:
            session.moved_calls.clear()
        self._counters.moved_out += session.role in (Role.OWN, Role.LEAVING)
        self._drop(session)
        session.role = Role.GONE
        session.move(Event.CLOSE)
        session.clear()
        self._budget.release(session)

    def sweep(self, now: float) -> None:
        """End the sessions that came from other processes and whose time is up."""
        moved = self._moved
        while moved and moved[0][0] <= now:
            _, _, session = heappop(moved)
            self._awaited.discard(session)
            if not session.is_valid:
                continue
            if session.state is State.INITED:
                if session.create_time <= now - self._config.login_timeout:
                    self._time_out_login(session, now)
                    continue
            elif session.link is not None:
                continue
            if session.link is None and session.detached_at <= now - self._config.resume_window:
                self._expire(session, now)
            else:
                self._await_end(session)

    def _await_end(self, session: Session) -> None:
        """Look again at a session that has come from another process when its time may be up."""
        if session in self._awaited:
            return
        config = self._config
        due = session.detached_at + config.resume_window if session.link is None else math.inf
        if session.state is State.INITED:
            due = min(due, session.create_time + config.login_timeout)
        self._awaited.add(session)
        heappush(self._moved, (due, session.number, session))
