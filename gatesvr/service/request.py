"""Request, Reply and the counters of a service: what its handlers see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

from .._pb import upstream_pb2 as pb
from ..observe.metrics import Counters
from .push_api import body_fields

if TYPE_CHECKING:
    from typing import Protocol

    from .service import UpstreamService

    class Sink(Protocol):
        """Where a request's answer goes."""

        def answer(
            self, message: pb.UpstreamRequest, reply: Reply, notifies: list[pb.BoundNotify]
        ) -> None: ...


__all__ = ["Handler", "Reply", "Request", "Result", "ServiceCounters"]


@dataclass(slots=True)
class Reply:
    """What a handler answers.

    Attributes:
        code: 200 for success; the client gets it unchanged.
        message: Text for the client.
        data: The payload.
        headers: Headers of the push; of a hello, ``zone`` sets the session's zone.
    """

    code: int = 200
    message: str = ""
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_refused: bool = False
    """Set by the service: the request was not started."""

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
        """Return what a handler's result stands for.

        Raises:
            TypeError: It stands for nothing.
        """
        if isinstance(result, Reply):
            return result
        if result is None:
            return cls()
        if isinstance(result, bytes):
            return cls(data=result)
        if isinstance(result, str):
            return cls(data=result.encode())
        kind = type(result).__name__
        raise TypeError(f"a handler returns Reply, bytes, str or None, not {kind}")

    def why_bad(self) -> str:
        """Return which field no answer can carry, and why; empty where all can."""
        for name, kind in (("code", int), ("message", str), ("data", bytes)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                return f"Reply.{name} must be {kind.__name__}, not {type(value).__name__}"
        for key, value in dict(self.headers).items():
            if not (isinstance(key, str) and isinstance(value, str)):
                return f"Reply.headers must map str to str, not {key!r:.64} to {value!r:.64}"
        return ""


class Request:
    """One client request."""

    __slots__ = ("began", "message", "notifies", "service")

    def __init__(self, message: pb.UpstreamRequest, service: UpstreamService) -> None:
        self.message = message
        """The request as the gateway sent it."""
        self.notifies: list[pb.BoundNotify] = []
        """What goes around its answer."""
        self.service = service
        """The service that runs it."""
        self.began = monotonic()
        """When its handler was called."""

    @property
    def session_id(self) -> str:
        """The session that asks; with client_seq_id it names the request for good."""
        return self.message.session_id

    @property
    def openid(self) -> str:
        """Who asks."""
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
        """What the client wrote into its headers: trust none of it."""
        return dict(self.message.headers)

    @property
    def client_seq_id(self) -> int:
        """The request's number in its session."""
        return self.message.client_seq_id

    @property
    def peer(self) -> pb.PeerInfo:
        """What the gateway vouches for about the session."""
        return self.message.peer

    @property
    def timeout(self) -> float:
        """Seconds from the request's arrival until nobody waits any more; 0 where unknown."""
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
        """Have a notify delivered right before this request's answer."""
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
        """Have a notify delivered right after this request's answer."""
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
    """What a service counts."""

    batches: int = 0
    """Lane messages read."""
    batched_requests: int = 0
    """Requests in them."""
    unary_requests: int = 0
    """Requests that came by themselves."""
    answer_batches: int = 0
    """Lane messages written."""
    answers: int = 0
    """Answers given, by lane or by themselves."""
    refused: int = 0
    """Requests not started: stopping, overloaded, or past their deadline in the queue."""
    expired: int = 0
    """Those of the refused whose deadline had passed."""
    unknown_actions: int = 0
    """Requests that no handler takes."""
    failed: int = 0
    """Handlers that raised, and answers that could not be sent."""
    running: int = 0
    """Handlers that run now (a gauge)."""
    peak_running: int = 0
    """The most handlers that ran at a time."""
    streams: int = 0
    """Lanes open now (a gauge)."""

    @property
    def mean_batch(self) -> float:
        """Requests a lane message, on average."""
        return self.batched_requests / self.batches if self.batches else 0.0
