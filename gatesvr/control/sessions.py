"""SessionCommands: kick, get and list sessions."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING

from .._pb import upstream_pb2 as pb
from ..config import normalize_zone
from ..errors import CloseCode
from ..protocol.messages import is_valid_text
from .targets import SLICE, RefusedError, Targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..session.manager import SessionManager
    from ..session.session import Session
    from .counters import PushCounters
    from .turns import Turns

__all__ = ["SessionCommands"]

MAX_REASON_BYTES = 64
"""Longest reason of a kick; a QUIC close carries no more (PROTOCOL 6)."""
MIN_KICK_CODE = 1_000
PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
"""Sessions of one page: by default, and at most."""
STATES = ("Inited", "Normal", "Suspended")


class SessionCommands:
    """Kicks and shows sessions; takes and returns the messages of the rpcs.

    Args:
        manager: Holds the sessions.
        targets: Finds them.
        turns: Shares the loop.
        counters: Counts the commands.
        clock: Loop time.
        wall_clock: Seconds since the epoch.
    """

    def __init__(
        self,
        manager: SessionManager,
        targets: Targets,
        turns: Turns,
        counters: PushCounters,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._manager = manager
        self._targets = targets
        self._turns = turns
        self._counters = counters
        self._clock = clock
        self._wall_clock = wall_clock

    async def kick(self, request: pb.KickRequest) -> pb.UnicastPushResponse:
        """Close a session, or every session of an openid, and tell the clients why.

        Sessions that have not logged in yet end too, at whatever point their hello is.
        """
        targets = self._targets
        try:
            self.begin_kick(request)
            sessions = targets.find(request.target_type, request.target_id, with_inited=True)
            if not sessions:
                raise targets.refuse("NOT_FOUND", "no such session")
        except RefusedError as refusal:
            return refusal.as_response()
        await self.kick_all(sessions, request)
        return pb.UnicastPushResponse(success=True, sessions=len(sessions))

    def begin_kick(self, request: pb.KickRequest) -> None:
        """Count a kick, and check it.

        Raises:
            RefusedError: INVALID.
        """
        self._counters.kicks += 1
        targets = self._targets
        targets.check(request.target_type, request.target_id)
        code = request.code or CloseCode.KICKED
        if code < MIN_KICK_CODE:
            raise targets.refuse("INVALID", f"code: {code} is below {MIN_KICK_CODE}")
        if not is_valid_text(request.reason, MAX_REASON_BYTES):
            raise targets.refuse("INVALID", f"reason: not {MAX_REASON_BYTES} bytes of plain text")

    async def kick_all(self, sessions: Iterable[Session], request: pb.KickRequest) -> None:
        """Close sessions, a slice a turn of the loop."""
        code = request.code or CloseCode.KICKED
        # Any client may claim an openid in START, so an openid may have very many sessions.
        for index, session in enumerate(sessions):
            if index % SLICE == 0:
                await self._turns.take()
            self._manager.kick(session, request.reason, self._clock(), code)

    def get(self, request: pb.GetSessionRequest) -> pb.SessionInfo:
        """Return a session and its queue; found is false where there is none.

        Raises:
            RefusedError: INVALID, or AMBIGUOUS where the openid has several.
        """
        sessions = self._targets.find(request.target_type, request.target_id)
        if not sessions:
            self._counters.not_found += 1
            return pb.SessionInfo()
        if len(sessions) > 1:
            raise self.ambiguous(len(sessions))
        return self.info(sessions[0])

    def ambiguous(self, count: int) -> RefusedError:
        """Return the error for a query that names so many sessions."""
        return self._targets.refuse("AMBIGUOUS", f"{count} sessions, ask for one by its session id")

    async def list(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
        """Return a page of the sessions, oldest first.

        Raises:
            RefusedError: INVALID.
        """
        size = self.page_size(request)
        token = request.page_token
        if token and not (token.isascii() and token.isdigit() and len(token) < 20):
            raise self._targets.refuse("INVALID", "page_token: not one of ours")
        found = self._manager.sessions_behind(int(token or 0), request.openid)
        zone = normalize_zone(request.zone)
        response = pb.ListSessionsResponse()
        last = 0
        for index, session in enumerate(found):
            if index % SLICE == 0:
                await self._turns.take()
            if not _is_listed(session, zone, request.state):
                continue
            if len(response.sessions) == size:
                response.next_page_token = str(last)
                break
            response.sessions.append(self.info(session))
            last = session.number
        return response

    def page_size(self, request: pb.ListSessionsRequest) -> int:
        """Return the number of sessions of a page.

        Raises:
            RefusedError: INVALID: that, or the state.
        """
        refuse = self._targets.refuse
        size = request.page_size or PAGE_SIZE
        if size > MAX_PAGE_SIZE:
            raise refuse("INVALID", f"page_size: {size} is above {MAX_PAGE_SIZE}")
        if request.state and request.state not in STATES:
            raise refuse("INVALID", f"state: none of {', '.join(STATES)}")
        return size

    async def list_by_id(
        self, request: pb.ListSessionsRequest, after: str, count: int
    ) -> Sequence[pb.SessionInfo]:
        """Return the first sessions that this process owns, in the order of their ids.

        Args:
            request: Has the filters.
            after: The id that they follow, empty for the first ones.
            count: How many at most.
        """
        found = self._manager.sessions_behind(0, request.openid)
        zone = normalize_zone(request.zone)
        matches = []
        for index, session in enumerate(found):
            if index % SLICE == 0:
                await self._turns.take()
            if session.session_id > after and _is_listed(session, zone, request.state):
                matches.append(session)
        first = nsmallest(count, matches, key=lambda session: session.session_id)
        return [self.info(session) for session in first if session.is_valid]

    def info(self, session: Session) -> pb.SessionInfo:
        """Return a session and its queue."""
        return session.info(self._clock(), int(self._wall_clock() * 1000))


def _is_listed(session: Session, zone: str, state: str) -> bool:
    return (
        session.is_valid
        and (not zone or session.zone == zone)
        and (not state or session.state.name.capitalize() == state)
    )
