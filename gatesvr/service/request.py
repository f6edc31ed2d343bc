"""Request and Reply, which handlers receive and return; and the counters of a service."""

from __future__ import annotations

import reprlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

from .._pb import upstream_pb2 as pb
from ..observe.metrics import Counter, Counters, Gauge
from .push_api import body_fields

if TYPE_CHECKING:
    from typing import Protocol

    from .service import UpstreamService

    class Sink(Protocol):
        """Receives a request's answer."""

        def answer(
            self, message: pb.UpstreamRequest, reply: Reply, notifies: list[pb.BoundNotify]
        ) -> None: ...


__all__ = ["Handler", "Reply", "Request", "Result", "ServiceCounters"]


@dataclass(slots=True)
class Reply:
    """A handler's answer.

    Attributes:
        code: 200 for success; the client gets it unchanged.
        message: Text for the client.
        data: The payload.
        headers: Headers of the push; in the answer to hello, ``zone`` sets the session's zone.
    """

    code: int = 200
    message: str = ""
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_refused: bool = False
    """Set by the service for a request that it did not start."""

    def size(self, notifies: list[pb.BoundNotify]) -> int:
        """Return an upper bound of the answer's size on the wire, bytes."""
        size = 64 + len(self.data) + 4 * len(self.message)
        for key, value in self.headers.items() if self.headers else ():
            size += 16 + 4 * (len(key) + len(value))
        for notify in notifies:
            size += 8 + notify.ByteSize()
        return size

    @classmethod
    def of(cls, result: Result) -> Reply:
        """Return the reply for a handler's result.

        Raises:
            TypeError: The result is of no supported type.
            ValueError: The result is text that UTF-8 cannot encode.
        """
        if isinstance(result, Reply):
            return result
        if result is None:
            return cls()
        if isinstance(result, bytes):
            return cls(data=result)
        if isinstance(result, str):
            try:
                return cls(data=result.encode())
            except UnicodeEncodeError:
                raise ValueError("a handler must return text that UTF-8 can encode") from None
        kind = type(result).__name__
        raise TypeError(f"a handler must return Reply, bytes, str or None, not {kind}")

    def why_bad(self) -> str:
        """Return which field has the wrong type, and why; empty if all are good."""
        for name, kind in (("code", int), ("message", str), ("data", bytes)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                return f"Reply.{name} must be {kind.__name__}, not {type(value).__name__}"
        if not isinstance(self.headers, Mapping):
            return f"Reply.headers must map str to str, not {type(self.headers).__name__}"
        for key, value in self.headers.items():
            if not (isinstance(key, str) and isinstance(value, str)):
                # reprlib, because a value's own repr may raise.
                names = f"{reprlib.repr(key)} to {reprlib.repr(value)}"
                return f"Reply.headers must map str to str, not {names}"
        return ""


class Request:
    """One client request."""

    __slots__ = ("began", "message", "notifies", "service")

    def __init__(self, message: pb.UpstreamRequest, service: UpstreamService) -> None:
        self.message = message
        """The request as the gateway sent it."""
        self.notifies: list[pb.BoundNotify] = []
        """Notifies to deliver right before or after the answer."""
        self.service = service
        """The service that runs it."""
        self.began = monotonic()
        """When its handler was called, monotonic seconds."""

    @property
    def session_id(self) -> str:
        """The client's session; together with client_seq_id it identifies the request for good."""
        return self.message.session_id

    @property
    def openid(self) -> str:
        """The user who sent it."""
        return self.message.openid

    @property
    def action(self) -> str:
        """The action, as the client wrote it."""
        return self.message.action

    @property
    def params(self) -> dict[str, str]:
        """The client's parameters."""
        return dict(self.message.params)

    @property
    def data(self) -> bytes:
        """The client's payload."""
        return self.message.data

    @property
    def headers(self) -> dict[str, str]:
        """The client's headers: untrusted."""
        return dict(self.message.headers)

    @property
    def traceparent(self) -> str:
        """The W3C trace context of the gateway's call, empty where the request is not traced."""
        return self.message.headers.get("traceparent", "")

    @property
    def client_seq_id(self) -> int:
        """The request's number in its session."""
        return self.message.client_seq_id

    @property
    def peer(self) -> pb.PeerInfo:
        """Facts about the session that the gateway vouches for."""
        return self.message.peer

    @property
    def timeout(self) -> float:
        """Seconds from the request's arrival to its deadline; 0 if unknown."""
        return self.message.timeout_ms / 1000

    def notify_before(
        self,
        msg_type: str,
        *,
        title: str = "",
        content: str = "",
        data: bytes = b"",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Deliver a notify right before this request's answer."""
        self._notify(pb.NSH_BEFORE_RESPONSE, msg_type, title, content, data, metadata)

    def notify_after(
        self,
        msg_type: str,
        *,
        title: str = "",
        content: str = "",
        data: bytes = b"",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Deliver a notify right after this request's answer."""
        self._notify(pb.NSH_AFTER_RESPONSE, msg_type, title, content, data, metadata)

    def _notify(
        self,
        hint: pb.NotifySyncHint,
        msg_type: str,
        title: str,
        content: str,
        data: bytes,
        metadata: Mapping[str, str] | None,
    ) -> None:
        self.notifies.append(
            pb.BoundNotify(sync_hint=hint, **body_fields(msg_type, title, content, data, metadata))
        )


Result: TypeAlias = Reply | bytes | str | None
Handler: TypeAlias = Callable[[Request], Result | Awaitable[Result]]


@dataclass(slots=True)
class ServiceCounters(Counters):
    """Counters of a service."""

    batches: Counter = 0
    """Lane messages read."""
    batched_requests: Counter = 0
    """Requests in lane messages."""
    unary_requests: Counter = 0
    """Requests that came as unary calls."""
    answer_batches: Counter = 0
    """Lane messages written."""
    answers: Counter = 0
    """Answers given, by lane or unary."""
    refused: Counter = 0
    """Requests not started: stopping, overloaded, or past their deadline in the queue."""
    expired: Counter = 0
    """Refused requests whose deadline had passed."""
    unknown_actions: Counter = 0
    """Requests whose action has no handler."""
    admitted: Counter = 0
    """Clients let in by the handler of authenticate()."""
    denied: Counter = 0
    """Clients that it did not let in."""
    failed: Counter = 0
    """Handlers that raised, and answers that could not be sent."""
    running: Gauge = 0
    """Handlers running now."""
    peak_running: Counter = 0
    """Most handlers running at the same time."""
    streams: Gauge = 0
    """Lanes open now."""

    @property
    def mean_batch(self) -> float:
        """Mean number of requests in a lane message."""
        return self.batched_requests / self.batches if self.batches else 0.0
