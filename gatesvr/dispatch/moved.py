"""MovedRequests: the unanswered requests of sessions that go to other processes, or came from them.

Of a session that leaves, this process ends the calls that it has made, and starts no more. Of one
that it owns, each request is in one of three places:

- a task of the processor, as always;
- the call of another process, which sends the result when it has it: apply() ends the request;
- answered already, as the hello of a session whose login the directory has not decided.

Calls of others hold their place in a serial route, so that requests behind them wait here, too.
Their deadlines are kept here: sweep() ends those past it by ERROR 504.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._core.codec import RequestDecoder, encode_request
from ..errors import ErrorCode, Outcome
from ..protocol.messages import RequestType
from ..session.moved import MovedCall
from ..session.role import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.codec import ClientRequest
    from ..session.manager import SessionManager
    from ..session.results import Result
    from ..session.session import Session
    from ..upstream.router import Route, UpstreamRouter
    from .login import Login
    from .processor import AsyncProcessor
    from .task import AsyncTask

__all__ = ["MovedRequests"]

LOST = "upstream unreachable or broken off"
LENGTH_BYTES = 4
MAX_FRAME_BYTES = 1 << 30


class MovedRequests:
    """Takes the requests of sessions out of this process, and into it.

    Args:
        sessions: Exports and owns sessions.
        router: Names the service of an action.
        processor: Runs the tasks.
        login: Ends hellos.
        run: Starts a request that its session accepted before: (session, request, deadline, now).
    """

    def __init__(
        self,
        sessions: SessionManager,
        router: UpstreamRouter,
        processor: AsyncProcessor,
        login: Login,
        run: Callable[[Session, ClientRequest, float, float], None],
    ) -> None:
        self._sessions = sessions
        self._router = router
        self._processor = processor
        self._login = login
        self._run = run
        # The sessions, owned here, with calls of other processes; closed ones until the next sweep.
        self._waiting: dict[Session, None] = {}

    def __len__(self) -> int:
        """Return the number of sessions that wait for other processes."""
        return len(self._waiting)

    def export(self, session: Session, node_id: str, now: float) -> bytes:
        """Return a session as bytes; see SessionMover.export().

        Args:
            session: A session without a connection, which this process owns.
            node_id: This process, to which the results of its calls belong.
            now: Loop time.
        """
        waiting = self._processor.withdraw(session)
        if waiting:
            calls = session.moved_calls = dict(session.moved_calls)
            for task in waiting:
                calls[task.client_seq] = _call(task)._replace(request=_message(task.request))
        running = [_call(task)._replace(at=node_id) for task in self._processor.tasks_of(session)]
        data = self._sessions.moves.export(session, running, now)
        self._waiting.pop(session, None)
        return data

    def adopt(self, session: Session, now: float) -> None:
        """Go on with the requests of a session; call it when this process has become its owner.

        Results that this process has kept for it are applied, requests that nobody has started are
        started in their order.
        """
        self.settle(session, now)
        calls = session.moved_calls
        running = set()
        for task in self._processor.tasks_of(session):
            running.add(task.client_seq)
            self._hold_place(session, task.route)
        if session.login_answer is not None:
            running.add(session.hello_seq)
        for client_seq in session.pending.keys() - running - calls.keys():
            # Its call has ended while too many results were kept.
            self._fail(session, client_seq, ErrorCode.UPSTREAM_UNREACHABLE, LOST, now)
        for client_seq in sorted(calls):
            call = calls[client_seq]
            if client_seq not in session.pending:
                del calls[client_seq]
            elif call.at:
                self._waiting[session] = None
                self._hold_place(session, self._router.route(call.action))
            else:
                del calls[client_seq]
                self._start(session, call, now)
            if not session.is_valid:
                return

    def settle(self, session: Session, now: float) -> None:
        """Apply the results that this process has kept for a session that it owns."""
        results = session.context.results
        for result in results.of(session.session_id):
            self.apply(session, result, now)
            results.settle(session.session_id, result.client_seq)

    def apply(self, session: Session, result: Result, now: float) -> bool:
        """End a request of a session by the result of a call that was made for it.

        Returns:
            False where this process does not own the session: try again at its owner. True also
            where the request has its answer already.
        """
        if session.role is not Role.OWN:
            return False
        client_seq = result.client_seq
        if client_seq not in session.pending:
            return True
        if client_seq == session.hello_seq:
            if session.login_answer is None:
                self._login.settle(session, result, now)
                self._end(session, client_seq, now)
            return True
        session.answer(client_seq, result.body, result.before, result.after, now)
        self._end(session, client_seq, now)
        return True

    def lose(self, node_id: str, now: float) -> int:
        """End the calls of a process that has died by ERROR 502; return how many there were."""
        count = 0
        for session in list(self._waiting):
            for call in list(session.moved_calls.values()):
                if call.at == node_id and call.client_seq in session.pending:
                    code = ErrorCode.UPSTREAM_UNREACHABLE
                    self._fail(session, call.client_seq, code, LOST, now)
                    count += 1
        return count

    def nodes(self) -> set[str]:
        """Return the processes whose results sessions wait for."""
        return {call.at for session in self._waiting for call in session.moved_calls.values()}

    def sweep(self, now: float) -> None:
        """End the calls of other processes that are past their deadline. Call it once a second."""
        for session in list(self._waiting):
            for call in list(session.moved_calls.values()):
                if call.client_seq not in session.pending:
                    self._end(session, call.client_seq, now)
                elif 0 < call.deadline <= now:
                    code = ErrorCode.DEADLINE
                    self._fail(session, call.client_seq, code, "deadline passed", now)

    def _fail(
        self, session: Session, client_seq: int, code: ErrorCode, message: str, now: float
    ) -> None:
        self._processor.counters.deadlines += code is ErrorCode.DEADLINE
        session.fail(client_seq, code, message, outcome=Outcome.UNKNOWN, now=now)
        if client_seq == session.hello_seq:
            self._login.let_move(session)
        self._end(session, client_seq, now)

    def _end(self, session: Session, client_seq: int, now: float) -> None:
        """Forget a call of another process: its request has its answer."""
        call = session.moved_calls.pop(client_seq, None)
        if call is None:
            return
        route = self._router.route(call.action)
        if route is not None and route.serial:
            self._processor.give_up_place(session, route, now)
        if not session.moved_calls:
            self._waiting.pop(session, None)

    def _hold_place(self, session: Session, route: Route | None) -> None:
        if route is not None and route.serial:
            self._processor.hold_place(session, route)

    def _start(self, session: Session, call: MovedCall, now: float) -> None:
        frame = len(call.request).to_bytes(LENGTH_BYTES) + call.request
        requests = RequestDecoder(MAX_FRAME_BYTES).feed(frame)
        if len(requests) != 1 or requests[0].seq_id != call.client_seq:
            session.fail(
                call.client_seq,
                ErrorCode.INTERNAL,
                "internal error",
                outcome=Outcome.NOT_STARTED,
                now=now,
            )
            return
        self._run(session, requests[0], call.deadline, now)


def _call(task: AsyncTask) -> MovedCall:
    return MovedCall(task.client_seq, task.request.action or "", task.service, task.deadline)


def _message(request: ClientRequest) -> bytes:
    """Return a ClientRequest without the length before it."""
    return encode_request(
        request.msg_id, request.seq_id, RequestType.BUSINESS, request.payload, request.headers
    )[LENGTH_BYTES:]
