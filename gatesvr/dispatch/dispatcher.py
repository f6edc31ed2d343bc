"""Dispatcher: routes accepted requests to the task queue, and hellos to Login.

All connections share one. It makes the handler of each new connection and keeps those of the open
ones, so that a login can lift its connection's frame limit and a stop can tell every client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ErrorCode
from ..protocol.link import HIGH_WATER_BYTES
from ..protocol.messages import LOGIN_ACTION
from ..session.state import Verdict
from .failures import refuse
from .handler import ClientHandler
from .login import Login, LoginTask
from .moved import MovedRequests
from .task import AsyncTask, MakeTask
from .traced import TaskTracer, TracedLogin, TracedTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.codec import ClientRequest
    from ..auth.gate import Gate
    from ..config import Config
    from ..observe.trace import RequestTracer
    from ..protocol.link import Link
    from ..session.manager import SessionManager
    from ..session.session import Session
    from ..upstream.manager import UpstreamManager
    from ..upstream.router import UpstreamRouter
    from .cluster import ClusterNode
    from .processor import AsyncProcessor

__all__ = ["Dispatcher"]

_LOGIN_LENGTH = len(LOGIN_ACTION)
_NEXT = Verdict.NEXT


class Dispatcher:
    """Turns accepted requests into tasks.

    Args:
        config: The whole configuration; it reads the sessions' limits and the tasks' deadline.
        sessions: Makes, resumes and ends sessions.
        router: Names the service that answers an action.
        upstream: Numbers the calls.
        processor: Runs the tasks.
        clock: Loop time.
        gate: Lets clients in; None lets everybody in.
        high_water: Bytes not yet transmitted at which a session stops feeding its link.
        tracer: Chooses the requests to trace; None traces none.
    """

    def __init__(
        self,
        config: Config,
        sessions: SessionManager,
        router: UpstreamRouter,
        upstream: UpstreamManager,
        processor: AsyncProcessor,
        clock: Callable[[], float],
        high_water: int = HIGH_WATER_BYTES,
        gate: Gate | None = None,
        tracer: RequestTracer | None = None,
    ) -> None:
        self.session_config = config.session
        self.high_water = high_water
        self.gate = gate
        self.sessions = sessions
        self.clock = clock
        self.counters = processor.counters
        self._router = router
        self._next_request_id = upstream.next_request_id
        self._processor = processor
        self._task_timeout = config.dispatch.task_timeout
        self._only_counts_rate = "max_requests_per_second" in config.session.dry_run
        self._handlers: dict[int, ClientHandler] = {}
        self.login = Login(
            sessions,
            router,
            processor,
            self._handlers,
            upstream.next_request_id,
            task_timeout=self._task_timeout,
        )
        self._node: ClusterNode | None = None
        self.moved = MovedRequests(sessions, router, processor, self.login, self._run)
        """The requests of sessions that come from other processes of the gateway, or go there."""
        self.trace(tracer)

    def apply(self, config: Config, gate: Gate | None) -> None:
        """Take other settings, and another gate, for the connections and the requests to come."""
        self.session_config = config.session
        self.gate = gate
        self._task_timeout = config.dispatch.task_timeout
        self._only_counts_rate = "max_requests_per_second" in config.session.dry_run
        self.login.apply(self._task_timeout)

    @property
    def node(self) -> ClusterNode | None:
        """This process among those of its gateway, None where it is the only one."""
        return self._node

    @node.setter
    def node(self, node: ClusterNode | None) -> None:
        self._node = self.login.node = node

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._handlers)

    def trace(self, tracer: RequestTracer | None) -> None:
        """Trace the requests to come, or those of them that tracer chooses; None traces none."""
        # Decided here and not for each request, so that it costs nothing while nothing is traced.
        make_task: MakeTask = AsyncTask
        make_login: MakeTask = LoginTask
        if tracer is not None:
            make_task = TaskTracer(tracer, self.counters, AsyncTask, TracedTask).make
            make_login = TaskTracer(tracer, self.counters, LoginTask, TracedLogin).make
        self._make_task = make_task
        self.login.make_task = make_login

    def handler(self, link: Link) -> ClientHandler:
        """Return the handler of a new connection."""
        handler = ClientHandler(link, self)
        self._handlers[link.connection_id] = handler
        return handler

    def handlers(self) -> list[ClientHandler]:
        """Return the handlers of the open connections, the oldest first."""
        return list(self._handlers.values())

    def forget(self, link: Link) -> None:
        """Drop the handler of a connection that has ended."""
        self._handlers.pop(link.connection_id, None)

    def go_away(self, reason: str, reconnect_after_ms: int = 0) -> None:
        """Send GOAWAY to every client: the gateway is about to stop."""
        for handler in list(self._handlers.values()):
            handler.go_away(reason, reconnect_after_ms)

    def offer(self, session: Session, request: ClientRequest, now: float) -> Verdict:
        """Offer a request to its session, and run it if the session has accepted it.

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
                self.login.accept(session, request, now)
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
            self.counters.no_route += 1
            self._refuse(session, request, ErrorCode.NO_ROUTE, "no route", now)
            return verdict
        if session.request_rate is not None and (wait := session.request_rate.take(now)):
            self.counters.requests_limited += 1
            if not self._only_counts_rate:
                code, retry_after_ms = ErrorCode.RATE_LIMITED, int(wait * 1000) + 1
                self._refuse(session, request, code, "too many requests", now, retry_after_ms)
                return verdict
        deadline = now + self._task_timeout
        task = self._make_task(self._next_request_id(), session, request, route, deadline, now)
        if not self._processor.submit(task, now):
            self._refuse_busy(session, request, task, now)
        return verdict

    def _run(self, session: Session, request: ClientRequest, deadline: float, now: float) -> None:
        """Run a request that another process has accepted for its session."""
        action = request.action
        if action is None or request.error:
            self._refuse(session, request, ErrorCode.BAD_REQUEST, request.error, now)
            return
        route = self._router.route(action)
        if route is None:
            self.counters.no_route += 1
            self._refuse(session, request, ErrorCode.NO_ROUTE, "no route", now)
            return
        task = self._make_task(self._next_request_id(), session, request, route, deadline, now)
        if not self._processor.submit(task, now):
            self._refuse_busy(session, request, task, now)

    def _refuse_busy(
        self, session: Session, request: ClientRequest, task: AsyncTask, now: float
    ) -> None:
        retry_after_ms = self._processor.retry_after_ms(task.service)
        self._refuse(session, request, ErrorCode.BUSY, "busy", now, retry_after_ms, task)

    def _refuse(
        self,
        session: Session,
        request: ClientRequest,
        code: ErrorCode,
        message: str,
        now: float,
        retry_after_ms: int = 0,
        task: AsyncTask | None = None,
    ) -> None:
        """Refuse a request, with the number of its task or one of its own."""
        request_id = self._next_request_id() if task is None else task.task_id
        lines = self._processor.lines
        refuse(session, request, request_id, code, message, now, lines, retry_after_ms)
        if task is not None and task.trace is not None:
            task.trace.end(code)
