"""Login: the whole way of a hello, from its acceptance to its answer (PROTOCOL 3.1-3.3).

::

    accept ─▶ ask its upstream, in no queue ─▶ answered 200 ─▶ SessionManager's verdict
       │          │                                │               ├▶ logged in, answered
       │          │                                │               └▶ ERROR 403, session closed
       │          │                                └▶ any other code: answered; the last one
       │          │                                   allowed also closes the session, 4401
       │          └▶ call failed ─▶ ERROR
       └▶ no route, or the gateway stops ─▶ ERROR

However it ends, BUSINESS that waited for it moves on. Login decides what a client gets.
SessionManager owns the rest: the on_duplicate policy, the login deadline (its sweep ends sessions
that miss it, with a connection or without) and the counters of logins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CloseCode, ErrorCode
from ..protocol.messages import LOGIN_ACTION, OK, Outcome
from ..session.results import Result
from ..session.role import Role
from .failures import refuse
from .task import AsyncTask, MakeTask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._core.codec import ClientRequest, UpstreamAnswer
    from ..session.login import LoginVerdict
    from ..session.manager import SessionManager
    from ..session.session import Session
    from ..upstream.router import UpstreamRouter
    from .cluster import ClusterNode
    from .handler import ClientHandler
    from .processor import AsyncProcessor

__all__ = ["Login", "LoginTask"]


MAX_REFUSED_LOGINS = 5
"""Refusals after which a session is closed (PROTOCOL 3.1)."""


class LoginTask(AsyncTask):
    """The task of a hello."""

    __slots__ = ()

    is_login = True


class Login:
    """Takes the hellos of all sessions through their steps.

    Args:
        sessions: Judges logins and holds the sessions.
        router: Names the service that answers a hello.
        processor: Runs the calls.
        handlers: The handlers of the open connections, by connection id.
        next_request_id: Numbers the calls.
        task_timeout: From acceptance to the answer, seconds.

    Attributes:
        make_task: LoginTask, or what takes its place.
        node: Decides the logins, None in a gateway of one process.
    """

    def __init__(
        self,
        sessions: SessionManager,
        router: UpstreamRouter,
        processor: AsyncProcessor,
        handlers: Mapping[int, ClientHandler],
        next_request_id: Callable[[], int],
        *,
        task_timeout: float,
    ) -> None:
        self._sessions = sessions
        self._router = router
        self._processor = processor
        self._counters = processor.counters
        self._handlers = handlers
        self._next_request_id = next_request_id
        self.make_task: MakeTask = LoginTask
        self.node: ClusterNode | None = None
        self._task_timeout = task_timeout

    def apply(self, task_timeout: float) -> None:
        """Take another deadline for the hellos to come."""
        self._task_timeout = task_timeout

    def accept(self, session: Session, request: ClientRequest, now: float) -> None:
        """Ask the upstream of an accepted hello; BUSINESS of its session waits until it ends."""
        request_id, lines = self._next_request_id(), self._processor.lines
        route = self._router.route(LOGIN_ACTION)
        if route is None:
            self._counters.no_route += 1
            refuse(session, request, request_id, ErrorCode.NO_ROUTE, "no route", now, lines)
        elif not self._processor.is_accepting:
            self._counters.refused_draining += 1
            wait = self._processor.retry_after_ms(route.service)
            refuse(session, request, request_id, ErrorCode.BUSY, "busy", now, lines, wait)
        else:
            deadline = now + self._task_timeout
            task = self.make_task(request_id, session, request, route, deadline, now)
            session.hello_seq = request.seq_id
            self._processor.run_at_once(task, now, self._answered, self._ended)

    def settle(self, session: Session, result: Result, now: float) -> None:
        """End a hello whose call was made for this process's session by another one.

        Args:
            session: The session, which this process owns.
            result: The hello's answer, or its ERROR.
            now: Loop time.
        """
        if result.hello_code:
            self._decide(session, result, 0, now)
        else:
            _reply(session, result, now)
        if session.login_answer is None:
            self.let_move(session)

    def decided(self, session: Session, verdict: LoginVerdict, now: float) -> None:
        """End a hello whose login was up to the directory.

        Args:
            session: The session, which this process owns; its login_answer waits.
            verdict: Whether it logs in; those that it replaces have gone.
            now: Loop time.
        """
        result = session.login_answer
        assert result is not None
        session.login_answer = None
        if verdict.close_code is None:
            self._sessions.log_in(session, result.zone, now)
            self._lift_limit(session)
            _reply(session, result, now)
        else:
            self._sessions.refuse_login(session)
            self._refuse(session, result.client_seq, 0, verdict, verdict.close_code, now)
        self.let_move(session)

    def let_move(self, session: Session) -> None:
        """Let the BUSINESS move that waited for the hello, however that ended."""
        session.hello_seq = 0
        if session.link is not None:
            session.link.wake()

    def _answered(self, task: AsyncTask, answer: UpstreamAnswer, now: float) -> None:
        session, client_seq = task.session, task.client_seq
        before, after = answer.notifies()
        result = Result(
            client_seq,
            answer.body(client_seq),
            tuple(before),
            tuple(after),
            answer.code,
            answer.zone or "",
        )
        is_taken = (
            self._decide(session, result, task.task_id, now)
            if session.is_valid
            else session.keep(result)
        )
        self._counters.answers += is_taken
        self._counters.closed_499 += not is_taken

    def _decide(self, session: Session, result: Result, request_id: int, now: float) -> bool:
        """Log a session in, or not, by its hello's answer, and pass that on, or an ERROR.

        Returns:
            Whether the session took it.
        """
        if result.hello_code != OK:
            is_taken = _reply(session, result, now)
            self._sessions.refuse_login(session)
            if not session.is_logged_in and session.refused_logins >= MAX_REFUSED_LOGINS:
                self._end_session(session, CloseCode.AUTH_FAILED, "too many refused logins", now)
            return is_taken
        if self.node is not None and not session.is_logged_in:
            session.login_answer = result
            self.node.log_in(session)
            return True
        verdict = self._sessions.logged_in(session, result.zone, now)
        if verdict.close_code is None:
            self._lift_limit(session)
            return _reply(session, result, now)
        close_code = verdict.close_code
        return self._refuse(session, result.client_seq, request_id, verdict, close_code, now)

    def _refuse(
        self,
        session: Session,
        client_seq: int,
        request_id: int,
        verdict: LoginVerdict,
        close_code: CloseCode,
        now: float,
    ) -> bool:
        """End a login that on_duplicate forbids: ERROR, then the close (PROTOCOL 3.3)."""
        retry_after_ms = verdict.retry_after_ms
        is_taken = session.fail(
            client_seq,
            verdict.error_code,
            verdict.reason,
            outcome=Outcome.DONE,
            retry_after_ms=retry_after_ms,
            detail=str(request_id) if request_id else "",
            now=now,
        )
        reason = f"retry_after_ms={retry_after_ms}" if retry_after_ms else verdict.reason
        self._end_session(session, close_code, reason, now)
        return is_taken

    def _end_session(self, session: Session, code: int, reason: str, now: float) -> None:
        """Close a session after the answer that it was just given."""
        session.sender.feed(now)
        self._sessions.close(session, code, reason, now)

    def _lift_limit(self, session: Session) -> None:
        """Allow full-size frames on the session's connection, if it has one."""
        link = session.link
        handler = self._handlers.get(link.connection_id) if link is not None else None
        if handler is not None:
            handler.lift_limit()

    def _ended(self, task: AsyncTask) -> None:
        """Let BUSINESS move, unless the directory has not decided the login yet.

        Where another process may own the session, it will do so.
        """
        session = task.session
        if session.role is Role.OWN and session.login_answer is None:
            self.let_move(session)


def _reply(session: Session, result: Result, now: float) -> bool:
    return session.answer(result.client_seq, result.body, result.before, result.after, now)
