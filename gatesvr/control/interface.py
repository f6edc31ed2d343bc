"""The commands as transports see them: of a gateway of one process, or of all its processes.

Commands carries them out in this process. Where there are several, another implementation hands
each one on to the process that owns the session; what has to wait for it returns an awaitable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from .._pb import upstream_pb2 as pb
    from .counters import PushCounters
    from .events import EventStream

__all__ = ["CommandSet", "OrderedPushes", "Pushes", "Registrations", "Sessions"]


class OrderedPushes(Protocol):
    """The pushes of one PushStream."""

    def push_batch(
        self, requests: Sequence[pb.UnicastPushRequest]
    ) -> Awaitable[list[pb.UnicastPushResponse]]:
        """Push in order; return one response for each request.

        The next batch may begin before this one's responses are there: for each session all pushes
        of the stream keep their order.
        """


class Pushes(Protocol):
    """Push, broadcast and multicast; see PushCommands."""

    max_batches: int
    """Batches of one stream under way at a time."""

    def push(
        self, request: pb.UnicastPushRequest
    ) -> pb.UnicastPushResponse | Awaitable[pb.UnicastPushResponse]:
        """Queue a notify for a session, or for every session of an openid."""

    def stream(self) -> OrderedPushes:
        """Return what carries out the pushes of one PushStream."""

    def check_batch(self, count: int) -> None:
        """Refuse a batch that is too long before any of it is done."""

    async def broadcast(self, request: pb.BroadcastRequest) -> pb.BroadcastResponse:
        """Queue a notify for every logged-in session."""

    async def multicast(self, request: pb.MulticastRequest) -> pb.BroadcastResponse:
        """Queue a notify once for each session of the targets."""


class Sessions(Protocol):
    """Kick, get and list sessions; see SessionCommands."""

    async def kick(self, request: pb.KickRequest) -> pb.UnicastPushResponse:
        """Close a session, or every session of an openid."""

    def get(self, request: pb.GetSessionRequest) -> pb.SessionInfo | Awaitable[pb.SessionInfo]:
        """Return a session and its queue."""

    async def list(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
        """Return a page of the sessions."""


class Registrations(Protocol):
    """Upstreams register, keep their lease and leave; see RegistrationCommands."""

    def register(
        self, request: pb.UpstreamRegisterRequest, caller_ip: str, owner: str = ""
    ) -> pb.UpstreamRegisterResponse | Awaitable[pb.UpstreamRegisterResponse]:
        """Add an endpoint of a service."""

    def keep_alive(
        self, request: pb.LeaseRequest
    ) -> pb.UpstreamRegisterResponse | Awaitable[pb.UpstreamRegisterResponse]:
        """Restart an endpoint's lease."""

    def deregister(
        self, request: pb.LeaseRequest
    ) -> pb.UpstreamRegisterResponse | Awaitable[pb.UpstreamRegisterResponse]:
        """Remove an endpoint."""


class CommandSet(Protocol):
    """All of them; see Commands."""

    @property
    def counters(self) -> PushCounters:
        """Counters of the commands in this process, and of the transports on them."""

    @property
    def pushes(self) -> Pushes:
        """Push, broadcast and multicast."""

    @property
    def sessions(self) -> Sessions:
        """Kick, get and list sessions."""

    @property
    def registration(self) -> Registrations:
        """Register, keep and remove endpoints."""

    def events(self, kinds: Iterable[str] = ()) -> EventStream:
        """Return a stream of session events; enter it to subscribe."""
