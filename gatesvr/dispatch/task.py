"""AsyncTask: one accepted request on its way to an upstream; and the layer's counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from ..observe.metrics import Counter, Gauge
from ..protocol.server import ProtocolCounters
from ..upstream.call import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.codec import ClientRequest, UpstreamAnswer
    from ..observe.trace import RequestTrace
    from ..session.session import Session
    from ..upstream.router import Route

__all__ = ["AsyncTask", "DispatchCounters", "MakeTask"]


MakeTask: TypeAlias = "Callable[[int, Session, ClientRequest, Route, float, float], AsyncTask]"
"""Makes a task from what AsyncTask() takes."""


class AsyncTask(Call):
    """One accepted request, and the call that the upstream layer makes for it.

    Attributes:
        session: The session that asked; it gets the answer on the connection it has by then.
        request: The client's message.
        route: The service, and the order of its answers.
        asked_at: Loop time at which the request was accepted.
        trace: Its spans, None where it is not traced; a TracedTask has them.
        is_login: Whether it is a hello, which runs beside the pool; see Login.
    """

    __slots__ = ("asked_at", "request", "route", "session", "trace")

    is_login: ClassVar[bool] = False

    def __init__(
        self,
        task_id: int,
        session: Session,
        request: ClientRequest,
        route: Route,
        context: float,
        asked_at: float = 0.0,
    ) -> None:
        # Sets all fields of Call, whose own __init__ would cost one more call a request.
        self.on_end = None
        self.upstream_req = b""  # until a worker makes it
        self.request_id = task_id
        self.deadline = context
        self.service = route.service
        self.openid = session.openid
        self.zone = session.zone
        self.is_refused = False
        self.breaker = None
        self.carrier = None
        self.stream = None
        self.session = session
        self.request = request
        self.route = route
        self.asked_at = asked_at
        self.trace: RequestTrace | None = None

    def is_own(self, answer: UpstreamAnswer) -> bool:
        """Return whether an answer is to this request (PROTOCOL 7.3)."""
        return answer.client_seq_id in (0, self.request.seq_id)

    @property
    def task_id(self) -> int:
        """Number of the task in this process; the request_id that the upstream sees."""
        return self.request_id

    @property
    def context(self) -> float:
        """Loop time of the deadline: acceptance + ``dispatch.task_timeout``."""
        return self.deadline

    @property
    def service_type(self) -> str:
        """Name of the upstream service that answers."""
        return self.service

    @property
    def session_id(self) -> str:
        """The id of the session that asked."""
        return self.session.session_id

    @property
    def business_req(self) -> bytes:
        """The serialized BusinessRequest, as the client sent it."""
        return self.request.payload

    @property
    def client_seq(self) -> int:
        """The request's number in its session."""
        return self.request.seq_id

    def ids(self) -> dict[str, str | int]:
        """Return the keys of the log that name the request; ERROR.detail has the same number."""
        ids: dict[str, str | int] = {"request_id": self.request_id, "session": self.session_id}
        if self.trace is not None and self.trace.trace_id:
            ids["trace_id"] = self.trace.trace_id
        return ids


@dataclass(slots=True)
class DispatchCounters(ProtocolCounters):
    """Counts what dispatch and the protocol below it do; every refusal has a counter of its own.

    The session layer counts what happens to sessions (STARTs, logins, ends), and transport counts
    the connections closed for a protocol error.
    """

    heartbeats: Counter = 0
    """HEARTBEATs answered."""
    acks: Counter = 0
    """ACK frames; an ack on another frame does not count."""
    start_timeouts: Counter = 0
    """Connections closed 4408 because no START came."""
    frame_timeouts: Counter = 0
    """Connections closed 4408 because a frame was begun and not finished in time."""
    heartbeat_timeouts: Counter = 0
    """Connections closed 4408 because the client was silent."""
    held_overflows: Counter = 0
    """Connections closed 4429 because the client sent too far ahead."""
    unread_overflows: Counter = 0
    """Connections closed 4429 because the client kept asking and read no answers."""
    auths_refused: Counter = 0
    """AUTHs answered 429: the one before was under way, or there were too many."""
    fenced: Counter = 0
    """Messages read on a connection after its session moved to another."""
    bad_payloads: Counter = 0
    """Requests answered by ERROR 400 because their payload does not decode."""
    not_logged_in: Counter = 0
    """Requests answered by ERROR 401."""
    no_route: Counter = 0
    """Requests answered by ERROR 404 because no route matches their action."""
    requests_limited: Counter = 0
    """Requests above ``session.max_requests_per_second``."""
    refused_full: Counter = 0
    """Requests answered by ERROR 503 because the task queue was full."""
    refused_draining: Counter = 0
    """Requests answered by ERROR 503 because the gateway was about to stop."""
    traced: Counter = 0
    """Requests whose spans are recorded."""
    tasks: Counter = 0
    """Tasks made, hellos included; each ends as one of answers, closed_499 or withdrawn."""
    answers: Counter = 0
    """Tasks whose client got an answer or an ERROR."""
    closed_499: Counter = 0
    """Tasks whose session was closed before their answer."""
    withdrawn: Counter = 0
    """Tasks that were not started when their session went to another process; it starts them."""
    deadlines: Counter = 0
    """Tasks answered by ERROR 504, at whatever step their deadline passed."""
    foreign_answers: Counter = 0
    """Answers that carried the client_seq_id of another request."""
    internal_errors: Counter = 0
    """Exceptions in the gateway's own code while it handled a task or an AUTH."""
    workers: Gauge = 0
    """Workers now."""
    idle_workers: Gauge = 0
    """Workers without a task now."""
    peak_workers: Counter = 0
    """Most workers at a time."""
    queued: Gauge = 0
    """Tasks waiting now."""
    running: Gauge = 0
    """Tasks begun and not ended, hellos included."""
