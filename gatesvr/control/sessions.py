"""SessionCommands: kick, get and list sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._pb import upstream_pb2 as pb
from ..config import normalize_zone
from ..errors import CloseCode
from ..protocol.messages import is_valid_text
from .targets import SLICE, RefusedError, Targets

if TYPE_CHECKING:
    from collections.abc import Callable

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
        self._counters.kicks += 1
        targets = self._targets
        try:
            sessions = targets.find(request.target_type, request.target_id, with_inited=True)
            code = request.code or CloseCode.KICKED
            if code < MIN_KICK_CODE:
                raise targets.refuse("INVALID", f"code: {code} is below {MIN_KICK_CODE}")
            if not is_valid_text(request.reason, MAX_REASON_BYTES):
                raise targets.refuse(
                    "INVALID", f"reason: not {MAX_REASON_BYTES} bytes of plain text"
                )
            if not sessions:
                raise targets.refuse("NOT_FOUND", "no such session")
        except RefusedError as refusal:
            return refusal.as_response()
        # Any client may claim an openid in START, so an openid may have very many sessions.
        for index, session in enumerate(sessions):
            if index % SLICE == 0:
                await self._turns.take()
            self._manager.kick(session, request.reason, self._clock(), code)
        return pb.UnicastPushResponse(success=True, sessions=len(sessions))

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
            raise self._targets.refuse(
                "AMBIGUOUS", f"{len(sessions)} sessions, ask for one by its session id"
            )
        return self._info(sessions[0])

    async def list(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
        """Return a page of the sessions, oldest first.

        Raises:
            RefusedError: INVALID.
        """
        refuse = self._targets.refuse
        size = request.page_size or PAGE_SIZE
        if size > MAX_PAGE_SIZE:
            raise refuse("INVALID", f"page_size: {size} is above {MAX_PAGE_SIZE}")
        token = request.page_token
        if token and not (token.isascii() and token.isdigit() and len(token) < 20):
            raise refuse("INVALID", "page_token: not one of ours")
        if request.state and request.state not in STATES:
            raise refuse("INVALID", f"state: none of {', '.join(STATES)}")
        found = self._manager.sessions_behind(int(token or 0), request.openid)
        zone = normalize_zone(request.zone)
        response = pb.ListSessionsResponse()
        last = 0
        for index, session in enumerate(found):
            if index % SLICE == 0:
                await self._turns.take()
            if (
                not session.is_valid
                or (zone and session.zone != zone)
                or (request.state and session.state.name.capitalize() != request.state)
            ):
                continue
            if len(response.sessions) == size:
                response.next_page_token = str(last)
                break
            response.sessions.append(self._info(session))
            last = session.number
        return response

    def _info(self, session: Session) -> pb.SessionInfo:
        return session.info(self._clock(), int(self._wall_clock() * 1000))
