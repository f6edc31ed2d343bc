"""Dispatcher: what becomes of an accepted request, and of a hello's answer.

All connections share one. It makes the handler of each new connection and knows those that live,
so that a login can lift its connection's frame limit and a stop can tell every client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CloseCode, ErrorCode
from ..protocol.messages import LOGIN_ACTION, OK, Outcome
from ..session.state import Verdict
from .handlers import ClientHandler
from .task import AsyncTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.codec import ClientRequest, UpstreamAnswer
    from ..config import Config
    from ..protocol.link import Link
    from ..session.login import LoginVerdict
    from ..session.manager import SessionManager
    from ..session.session import Session
    from ..upstream.manager import UpstreamManager
    from ..upstream.router import UpstreamRouter
    from .processor import AsyncProcessor

__all__ = ["Dispatcher"]

_LOGIN_LENGTH = len(LOGIN_ACTION)
_NEXT = Verdict.NEXT


class Dispatcher:
    """Routes accepted requests to the task queue and settles logins.

    Args:
        config: The whole configuration: sessions' limits and the tasks' deadline are read.
        sessions: Makes, resumes and ends sessions.
        router: Says which service answers an action.
        upstream: Numbers the calls.
        processor: Runs the tasks; its login hooks are taken over.
        clock: Loop time.
    """

    def __init__(
        self,
        config: Config,
        sessions: SessionManager,
        router: UpstreamRouter,
        upstream: UpstreamManager,
        processor: AsyncProcessor,
        clock: Callable[[], float],
    ) -> None:
        self.config = config.session
        self.high_water = int(config.transport.high_water)
        self.sessions = sessions
        self.clock = clock
        self.counters = processor.counters
        self._router = router
        self._next_request_id = upstream.next_request_id
        self._processor = processor
        self._task_timeout = float(config.dispatch.task_timeout)
        self._handlers: dict[int, ClientHandler] = {}
        processor.on_login = self._login_answered
        processor.on_login_ended = self._login_ended

    def __len__(self) -> int:
        """Return the connections handled now."""
        return len(self._handlers)

    def handler(self, link: Link) -> ClientHandler:
        """Return the handler of a new connection."""
        handler = ClientHandler(link, self)
        self._handlers[link.connection_id] = handler
        return handler

    def forget(self, link: Link) -> None:
        """Drop the handler of a connection that has ended."""
        self._handlers.pop(link.connection_id, None)

    def go_away(self, reason: str, reconnect_after_ms: int = 0) -> None:
        """Tell every client that this gateway is about to stop."""
        for handler in list(self._handlers.values()):
            handler.go_away(reason, reconnect_after_ms)

    def close_all(self, code: CloseCode, reason: str) -> None:
        """Close every connection."""
        for handler in list(self._handlers.values()):
            handler.close(code, reason)

    def offer(self, session: Session, request: ClientRequest, now: float) -> Verdict:
        """Offer a request to its session, and run it if that has accepted it.

        The route comes first: it decides the order of the answer, which accepting needs.

        Returns:
            The session's verdict; after NEXT the request gets exactly one answer or ERROR.
        """
        action = request.action
        if request.error or action is None:
            verdict = session.offer(request, "completion", now)
            if verdict is _NEXT:
                self.counters.bad_payloads += 1
                self._refuse(session, request, ErrorCode.BAD_REQUEST, request.error, now)
            return verdict
        if len(action) == _LOGIN_LENGTH and action.lower() == LOGIN_ACTION:
            verdict = session.offer(request, "completion", now)
            if verdict is _NEXT:
                self._run_login(session, request, now)
            return verdict
        route = self._router.route(action)
        verdict = session.offer(request, "completion" if route is None else route.order, now)
        if verdict is not _NEXT:
            return verdict
        if not session.is_logged_in:
            self.counters.not_logged_in += 1
            self._refuse(session, request, ErrorCode.NOT_LOGGED_IN, "not logged in", now)
            return verdict
        if route is None:
            self._refuse_unrouted(session, request, now)
            return verdict
        task = AsyncTask(self._next_request_id(), session, request, route, now + self._task_timeout)
        if not self._processor.submit(task, now):
            self._refuse_busy(session, request, now)
        return verdict

    def _run_login(self, session: Session, request: ClientRequest, now: float) -> None:
        route = self._router.route(LOGIN_ACTION)
        if route is None:
            self._refuse_unrouted(session, request, now)
        elif not self._processor.is_accepting:
            self.counters.refused_draining += 1
            self._refuse_busy(session, request, now)
        else:
            task = AsyncTask(
                self._next_request_id(),
                session,
                request,
                route,
                now + self._task_timeout,
                is_login=True,
            )
            session.hello_pending = True
            self._processor.login(task, now)

    def _login_answered(self, task: AsyncTask, answer: UpstreamAnswer, now: float) -> None:
        """Settle a hello: log the session in, or count the refusal; then answer it."""
        session = task.session
        sessions = self.sessions
        if not session.is_valid:
            self.counters.closed_499 += 1
            return
        if answer.code == OK:
            verdict = sessions.logged_in(session, answer.zone or "", now)
            if verdict.close_code is not None:
                self._refuse_login(task, verdict, now)
                return
            self._lift_limit(session)
            self._processor.reply(task, answer, now)
            return
        self._processor.reply(task, answer, now)
        sessions.refuse_login(session)
        if not session.is_logged_in and session.refused_logins >= self.config.max_refused_logins:
            self._end(session, CloseCode.AUTH_FAILED, "too many refused logins", now)

    def _refuse_login(self, task: AsyncTask, verdict: LoginVerdict, now: float) -> None:
        """End a login that on_duplicate forbids: ERROR, then the close (PROTOCOL 3.3)."""
        session = task.session
        retry_after_ms = verdict.retry_after_ms
        self.counters.answers += session.fail(
            task.client_seq,
            verdict.error_code,
            verdict.reason,
            outcome=Outcome.DONE,
            retry_after_ms=retry_after_ms,
            now=now,
        )
        reason = f"retry_after_ms={retry_after_ms}" if retry_after_ms else verdict.reason
        self._end(session, verdict.close_code or CloseCode.NORMAL, reason, now)

    def _login_ended(self, task: AsyncTask) -> None:
        """Open the gate that the hello closed: what waited behind it moves."""
        session = task.session
        session.hello_pending = False
        if session.link is not None:
            session.link.wake()

    def _lift_limit(self, session: Session) -> None:
        link = session.link
        handler = self._handlers.get(link.connection_id) if link is not None else None
        if handler is not None:
            handler.lift_limit()

    def _end(self, session: Session, code: int, reason: str, now: float) -> None:
        """Close a session behind what it was just answered."""
        session.sender.feed(now)
        self.sessions.close(session, code, reason, now)

    def _refuse(
        self,
        session: Session,
        request: ClientRequest,
        code: ErrorCode,
        message: str,
        now: float,
        retry_after_ms: int = 0,
    ) -> None:
        """Answer an accepted request by an ERROR that consumed its number."""
        session.fail(
            request.seq_id,
            code,
            message,
            outcome=Outcome.NOT_STARTED,
            retry_after_ms=retry_after_ms,
            now=now,
        )

    def _refuse_unrouted(self, session: Session, request: ClientRequest, now: float) -> None:
        self.counters.no_route += 1
        self._refuse(session, request, ErrorCode.NO_ROUTE, "no route", now)

    def _refuse_busy(self, session: Session, request: ClientRequest, now: float) -> None:
        retry_after_ms = self._processor.retry_after_ms()
        self._refuse(session, request, ErrorCode.BUSY, "busy", now, retry_after_ms)
