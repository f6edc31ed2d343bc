"""AsyncTask: one accepted request on its way through an upstream; and the layer's counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..protocol.server import ProtocolCounters
from ..upstream.call import Call

if TYPE_CHECKING:
    from .._core.codec import ClientRequest
    from ..session.session import Session
    from ..upstream.router import Route

__all__ = ["AsyncTask", "DispatchCounters"]


class AsyncTask(Call):
    """One accepted request; to the upstream layer it is the call that it needs.

    Attributes:
        session: The session that asked; it gets the answer, whatever connection it has by then.
        request: The client's message.
        route: Where it goes.
        is_login: Whether it is a hello, which runs outside the pool.
    """

    __slots__ = ("is_login", "request", "route", "session")

    def __init__(
        self,
        task_id: int,
        session: Session,
        request: ClientRequest,
        route: Route,
        context: float,
        *,
        is_login: bool = False,
    ) -> None:
        # All of Call's fields are set here: its own __init__ would be one more call a request.
        self.on_end = None
        self.upstream_req = b""  # until a worker makes it
        self.request_id = task_id
        self.deadline = context
        self.service = route.service
        self.openid = session.openid
        self.zone = session.zone
        self.is_refused = False
        self.session = session
        self.request = request
        self.route = route
        self.is_login = is_login

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


@dataclass(slots=True)
class DispatchCounters(ProtocolCounters):
    """What dispatch, and the protocol under it, count; every refusal has its own.

    What becomes of sessions (STARTs, logins, ends) is counted in session, and protocol errors where
    the connection is closed for them, in transport.
    """

    heartbeats: int = 0
    """HEARTBEATs answered."""
    acks: int = 0
    """ACK frames; acks that other frames carry are none."""
    start_timeouts: int = 0
    """Connections closed 4408 because no START came."""
    frame_timeouts: int = 0
    """Connections closed 4408 because a frame was begun and not ended."""
    heartbeat_timeouts: int = 0
    """Connections closed 4408 because the client was silent."""
    held_overflows: int = 0
    """Connections closed 4429 because the client sent too far ahead."""
    unread_overflows: int = 0
    """Connections closed 4429 because the client asked on and read no answers."""
    fenced: int = 0
    """Messages read on a connection that its session had already left."""
    bad_payloads: int = 0
    """Requests answered by ERROR 400 because their payload does not decode."""
    not_logged_in: int = 0
    """Requests answered by ERROR 401."""
    no_route: int = 0
    """Requests answered by ERROR 404 because no route takes their action."""
    refused_full: int = 0
    """Requests answered by ERROR 503 because the task queue was full."""
    refused_draining: int = 0
    """Requests answered by ERROR 503 because the gateway was about to stop."""
    tasks: int = 0
    """Requests taken on, hellos included; each ends as one of answers or of closed_499."""
    answers: int = 0
    """Tasks whose client got an answer, be it an ERROR."""
    closed_499: int = 0
    """Tasks whose session was closed before their answer."""
    deadlines: int = 0
    """Tasks answered by ERROR 504, wherever they were when their time was over."""
    foreign_answers: int = 0
    """Answers that carried the client_seq_id of another request."""
    internal_errors: int = 0
    """Exceptions of ours on a task's way."""
    workers: int = 0
    """Workers now (a gauge)."""
    idle_workers: int = 0
    """Workers without a task now (a gauge)."""
    peak_workers: int = 0
    """The most workers that there were at a time."""
    queued: int = 0
    """Tasks waiting now (a gauge)."""
    running: int = 0
    """Tasks begun and not ended now (a gauge)."""
