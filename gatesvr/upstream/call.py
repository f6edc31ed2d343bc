"""Call: one request to an upstream; and the counters of the upstream layer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from .._pb import upstream_pb2 as pb
from ..errors import ErrorCode, Outcome, UpstreamError
from ..observe.metrics import Counter, Counters, Gauge

if TYPE_CHECKING:
    from .._core.codec import UpstreamAnswer
    from .breaker import Breaker

__all__ = ["Call", "Carrier", "MethodCall", "OnEnd", "UpstreamCounters"]

OnEnd: TypeAlias = "Callable[[UpstreamAnswer | None, UpstreamError | None], None]"


class Carrier(Protocol):
    """What a unary call is under way on."""

    def cancel(self, call: Call) -> None:
        """Tell the endpoint that nobody waits for the call."""


class Call:
    """One request, from the manager's send() to its end.

    It ends once: with its answer, with an UpstreamError, or when its caller gives up. An answer is
    handed on at once. An error waits for the loop's next turn, so that no callback runs in the
    middle of a lane's cleanup.

    Attributes:
        on_end: Called with either the answer or the error, the other one None; None after the end.
        upstream_req: The serialized UpstreamRequest.
        request_id: Matches the answer to this call.
        deadline: On the clock of the manager and its lanes.
        service: The service to call.
        openid: For consistent hashing and the default zone.
        zone: The session's zone, empty for none.
        is_refused: Whether one endpoint has already refused it.
        breaker: The breaker of the endpoint that has it, None before one was chosen.
        carrier: What can cancel it at its endpoint, while it is under way as a unary call on a
            connection of ours; None otherwise.
        stream: The carrier's own: what it is under way as.
    """

    method = ""
    """The gRPC method of a MethodCall; a lane's own calls have none."""

    __slots__ = (
        "breaker",
        "carrier",
        "deadline",
        "is_refused",
        "on_end",
        "openid",
        "request_id",
        "service",
        "stream",
        "upstream_req",
        "zone",
    )

    def __init__(
        self,
        on_end: OnEnd | None,
        upstream_req: bytes,
        request_id: int,
        deadline: float,
        service: str = "",
        openid: str = "",
        zone: str = "",
    ) -> None:
        self.on_end = on_end
        self.upstream_req = upstream_req
        self.request_id = request_id
        self.deadline = deadline
        self.service = service
        self.openid = openid
        self.zone = zone
        self.is_refused = False
        self.breaker: Breaker | None = None
        self.carrier: Carrier | None = None
        self.stream: object = None

    @property
    def address(self) -> str:
        """Address of the endpoint that has the call; empty before one was chosen."""
        return "" if self.breaker is None else self.breaker.address

    @property
    def asker(self) -> str:
        """Whose call it is, for the breaker: the failures of one do not close an only endpoint."""
        return self.openid

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """The metadata of a unary gRPC call, None for none."""
        return None

    def request_at(self, now: float) -> bytes:
        """Return the request with its remaining time (PROTOCOL 7.3)."""
        # protobuf takes the last value of a repeated field, so appending is enough.
        left_ms = max(1, int((self.deadline - now) * 1000))
        return self.upstream_req + pb.UpstreamRequest(timeout_ms=left_ms).SerializeToString()

    def answer(self, answer: UpstreamAnswer) -> None:
        """End the call with its answer; does nothing after the end."""
        on_end = self.on_end
        if on_end is not None:
            self.on_end = None
            breaker = self.breaker
            if breaker is not None:
                breaker.answered += 1
                if breaker.is_half_open and self.is_own(answer):
                    breaker.probe_answered(self.request_id)
            on_end(answer, None)

    def is_own(self, answer: UpstreamAnswer) -> bool:
        """Return whether an answer is to this call; if not, disown_answer() follows."""
        return True

    def fail(
        self,
        message: str,
        code: ErrorCode = ErrorCode.UPSTREAM_UNREACHABLE,
        *,
        outcome: Outcome = Outcome.NOT_STARTED,
        status: str = "",
        address: str = "",
        retry_after_ms: int = 0,
        is_fault: bool = False,
    ) -> None:
        """End the call with an UpstreamError; does nothing after the end.

        Args:
            message: As in UpstreamError, and so are the next five.
            code: The wire error code.
            outcome: What is known of the request.
            status: The gRPC status's name, or our own word.
            address: The endpoint.
            retry_after_ms: When to try again.
            is_fault: Whether the endpoint failed the call, which counts for its breaker.
        """
        on_end = self.on_end
        if on_end is not None:
            self.on_end = None
            self._report(outcome, is_fault)
            error = UpstreamError(
                message,
                code,
                outcome=outcome,
                status=status,
                address=address,
                retry_after_ms=retry_after_ms,
            )
            asyncio.get_running_loop().call_soon(on_end, None, error)

    def give_up(self) -> None:
        """End the call without a callback: its caller no longer waits."""
        self.on_end = None
        if self.breaker is not None:
            self.breaker.release(self.request_id)
        if self.carrier is not None:
            self.carrier.cancel(self)

    def disown_answer(self) -> None:
        """Count the answer that the call ended with as a failure of the endpoint."""
        if self.breaker is not None:
            self.breaker.answered -= 1
            self.breaker.failed(self.request_id, self.asker)

    def _report(self, outcome: Outcome, is_fault: bool) -> None:
        """Tell the endpoint's breaker how the call failed."""
        breaker = self.breaker
        if breaker is None:
            return
        if is_fault:
            breaker.failed(self.request_id, self.asker)
        elif outcome is Outcome.DONE:
            # The service itself said so: it works.
            breaker.answered += 1
            breaker.probe_answered(self.request_id)
        else:
            breaker.release(self.request_id)


class MethodCall(Call):
    """A call of another method than the lane's own: unary, and answered by the bytes that came.

    Attributes:
        method: ``/package.Service/Method``.
        reply: The response, serialized; set before on_end is called without an error.
    """

    __slots__ = ("method", "reply")

    def __init__(
        self,
        on_end: OnEnd,
        method: str,
        request: bytes,
        request_id: int,
        deadline: float,
        service: str,
        openid: str,
    ) -> None:
        super().__init__(on_end, request, request_id, deadline, service, openid)
        self.method = method
        self.reply = b""

    @property
    def asker(self) -> str:
        """One for all: it asks who a client is, and until then an openid is free to claim."""
        return ""

    def request_at(self, now: float) -> bytes:
        """Return the request as it is: only an UpstreamRequest has room for the time left."""
        return self.upstream_req

    def take_reply(self, reply: bytes) -> None:
        """End the call with its response; does nothing after the end."""
        on_end = self.on_end
        if on_end is not None:
            self.on_end = None
            self.reply = reply
            self._report(Outcome.DONE, is_fault=False)
            on_end(None, None)


@dataclass(slots=True)
class UpstreamCounters(Counters):
    """Counters of the upstream layer; each kind of refusal has its own."""

    calls: Counter = 0
    """Calls made; each also counts by how it ended, unless its caller gave up."""
    answers: Counter = 0
    """Answers handed to their callers."""
    failed_calls: Counter = 0
    """Calls that the service itself ended with a gRPC status."""
    bad_answers: Counter = 0
    """Calls ended with 502 because their answer did not decode."""
    too_large: Counter = 0
    """Calls ended with 413: the request or its answer was above a gRPC message limit."""
    batches: Counter = 0
    """Lane messages written."""
    batched_requests: Counter = 0
    """Requests written in lane messages; divided by batches: the mean batch."""
    unary_calls: Counter = 0
    """Requests written as unary calls, where the upstream has no lane."""
    cancelled_calls: Counter = 0
    """Unary calls that were cancelled at their upstream, because their deadline passed or their
    caller went. With upstream.lane = grpcio none are: cancelled calls leak there."""
    retried_calls: Counter = 0
    """Calls that an upstream did not begin with, by its own word (REFUSED_STREAM, GOAWAY), and that
    went elsewhere or back into the line."""
    late_answers: Counter = 0
    """Answers whose deadline had passed or whose caller was gone; dropped."""
    unknown_answers: Counter = 0
    """Answers whose request_id is unknown or repeated; dropped."""
    bad_batches: Counter = 0
    """Lane messages that did not decode or had too many answers, and streams with too many answers
    to nothing that was asked; each breaks its lane."""
    unanswered: Counter = 0
    """Calls ended with 504: no answer in time; dispatch.deadlines counts what clients got."""
    broken_calls: Counter = 0
    """Calls that were written, or may have been, when their connection ended."""
    unsent_calls: Counter = 0
    """Calls ended with 502 before they were written."""
    moved_calls: Counter = 0
    """Calls moved to another endpoint, because they were not written or not begun with."""
    refused_calls: Counter = 0
    """Times an upstream answered REFUSED."""
    not_started: Counter = 0
    """Calls ended with 503 because every endpoint tried refused."""
    overflows: Counter = 0
    """Calls ended with 503 because a lane had too many waiting, or too many large ones."""
    rejected_calls: Counter = 0
    """Calls ended with 503 because every endpoint that could take them is ejected."""
    ejections: Counter = 0
    """Times an endpoint was ejected: its breaker opened."""
    ejections_overflow: Counter = 0
    """Times a failing endpoint was kept, because too many of its service's are ejected."""
    probes: Counter = 0
    """Calls that went to a half-open endpoint."""
    restorations: Counter = 0
    """Times an ejected endpoint was taken back: its breaker closed."""
    limited: Counter = 0
    """Times a lane had as many open calls as it may, so that further ones go elsewhere or wait."""
    no_service: Counter = 0
    """Calls ended with 404: no such service."""
    goodbyes: Counter = 0
    """Times a lane left a stream because its connection was given up, in order or not."""
    connects: Counter = 0
    """Attempts to reach an upstream, or to open its stream again."""
    protocol_errors: Counter = 0
    """Connections ended because the upstream broke the rules of HTTP/2, or does not speak it."""
    floods: Counter = 0
    """Connections ended because the upstream sent too much that brings nothing: pings, settings,
    header blocks without an end."""
    ups: Counter = 0
    """Times an upstream became reachable."""
    downs: Counter = 0
    """Times an upstream became unreachable."""
    lookups: Counter = 0
    """Times the addresses of an endpoint's name were looked up."""
    failed_lookups: Counter = 0
    """Look-ups that gave no address; addresses found before stay in use."""
    registered: Counter = 0
    """Registrations, renewals included."""
    register_refused: Counter = 0
    """Registrations refused."""
    leases_kept: Counter = 0
    """Leases renewed."""
    leases_unknown: Counter = 0
    """Requests to keep or end an unknown lease."""
    leases_expired: Counter = 0
    """Endpoints removed because their lease ended."""
    deregistered: Counter = 0
    """Endpoints removed by their service."""
    endpoints: Gauge = 0
    """Endpoints now; of one with a name, each of its addresses."""
    lanes: Gauge = 0
    """Lanes now."""
    lanes_up: Gauge = 0
    """Lanes whose upstream is reachable now."""
    connections: Gauge = 0
    """Connections of lanes now; not those of upstream.lane = grpcio."""
    ejected: Gauge = 0
    """Endpoints ejected now."""
    open: Gauge = 0
    """Calls written and not yet ended."""
    waiting: Gauge = 0
    """Calls not yet written."""
