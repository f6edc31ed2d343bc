"""Traced tasks: those whose request has spans, beside AsyncTask so that the others pay nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .._pb import message_pb2 as pb
from ..errors import ErrorCode
from ..observe.trace import RequestTrace
from .login import LoginTask
from .task import AsyncTask
from .worker import CLOSED

if TYPE_CHECKING:
    from .._core.codec import ClientRequest, UpstreamAnswer
    from ..observe.trace import RequestTracer
    from ..session.session import Session
    from ..upstream.router import Route
    from .task import DispatchCounters

__all__ = ["TaskTracer", "TracedLogin", "TracedTask"]


class TracedTask(AsyncTask):
    """A task that tells its spans what becomes of its call."""

    __slots__ = ()

    def answer(self, answer: UpstreamAnswer) -> None:
        """End the call with its answer, and by then the request, too."""
        trace = self.trace
        assert trace is not None
        trace.call_ended(self.address, "OK", answer.code)
        code = answer.code if self.session.is_valid else CLOSED
        ended = time.time_ns()  # the worker goes on with other tasks before it returns
        super().answer(answer)
        trace.end(code, ended)

    def fail(
        self,
        message: str,
        code: ErrorCode = ErrorCode.UPSTREAM_UNREACHABLE,
        *,
        status: str = "",
        address: str = "",
        **more: Any,
    ) -> None:
        """End the call with an error; the request ends with its ERROR."""
        assert self.trace is not None
        self.trace.call_ended(address, status, code)
        super().fail(message, code, status=status, address=address, **more)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """The trace, for a service that is instrumented as gRPC services are."""
        assert self.trace is not None
        headers = self.trace.call_headers
        return tuple((key, value) for key, value in headers.items() if key != "baggage")


class TracedLogin(TracedTask, LoginTask):
    """The same of a hello."""

    __slots__ = ()


class TaskTracer:
    """Makes the tasks of one kind of a gateway that traces requests.

    Args:
        tracer: Chooses the requests, and makes their spans.
        counters: The layer's counters.
        plain: The class of the tasks of other requests.
        traced: The class of those of chosen ones.
    """

    def __init__(
        self,
        tracer: RequestTracer,
        counters: DispatchCounters,
        plain: type[AsyncTask],
        traced: type[TracedTask],
    ) -> None:
        self._tracer = tracer
        self._counters = counters
        self._plain = plain
        self._traced = traced

    def make(
        self,
        task_id: int,
        session: Session,
        request: ClientRequest,
        route: Route,
        context: float,
        asked_at: float,
    ) -> AsyncTask:
        """Return the task of a request; as AsyncTask()."""
        trace = self._begin(task_id, session, request, route)
        kind = self._plain if trace is None else self._traced
        task = kind(task_id, session, request, route, context, asked_at)
        task.trace = trace
        return task

    def _begin(
        self, task_id: int, session: Session, request: ClientRequest, route: Route
    ) -> RequestTrace | None:
        """Begin the spans of a request, if it is chosen."""
        tracer = self._tracer
        headers = request.headers if tracer.trusts_clients else None
        parent = tracer.choose(headers)
        if parent is None:
            return None
        attributes: dict[str, str | int] = {
            "gatesvr.action": request.action or "",
            "network.protocol.name": "quic",
            "gatesvr.request_id": str(task_id),
            "gatesvr.session_id": session.session_id,
            "gatesvr.client_seq_id": request.seq_id,
        }
        if session.user_ip:
            attributes["client.address"] = session.user_ip
            attributes["client.port"] = session.user_port
        method = f"{route.service}/{route.action}"
        trace = RequestTrace(tracer, parent, method, attributes, headers)
        if trace.is_recording:
            self._counters.traced += 1
            header = pb.ServerPush(headers=trace.answer_headers).SerializeToString()
            session.outbox.add_header(request.seq_id, header)
        return trace
