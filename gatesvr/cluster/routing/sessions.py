"""ClusterSessions: kick, get and list the sessions of all processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..._pb import cluster_pb2, routing_pb2
from ..._pb import upstream_pb2 as pb
from ...control.targets import RefusedError
from ...errors import CloseCode
from ...protocol.messages import is_valid_text
from ...session.role import Role
from ..directory import DirectoryUnreachableError
from ..entries import Entry
from ..leaving import AWAY_S
from ..peers import PeerUnreachableError
from .calls import DESCRIBE, KICK_USER, PAGE
from .tries import RETRY_S, TRY_S

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ...control.commands import Commands
    from ...session.manager import SessionManager
    from ...session.session import Session
    from ..directory import Directory
    from ..node import Node
    from .processes import Processes

__all__ = ["ClusterSessions"]

MAX_TOKEN_BYTES = 128
BUSY_MS = 200
MAX_KEPT = 1_024


class ClusterSessions:
    """Kicks and shows sessions, whichever process owns them.

    Args:
        commands: Those of this process.
        manager: Its sessions.
        node: Kicks those of others.
        directory: Knows who owns a session.
        processes: All of the gateway.
    """

    def __init__(
        self,
        commands: Commands,
        manager: SessionManager,
        node: Node,
        directory: Directory,
        processes: Processes,
    ) -> None:
        self._local = commands.sessions
        self._targets = commands.targets
        self._manager = manager
        self._node = node
        self._directory = directory
        self._processes = processes
        self._kicked: dict[str, tuple[pb.KickRequest, float]] = {}  # by openid, of late

    # Kick.

    async def kick(self, request: pb.KickRequest) -> pb.UnicastPushResponse:
        """Close a session, or every session of an openid, and tell the clients why."""
        try:
            self._local.begin_kick(request)
            if request.target_type == "session":
                count, silent = await self._kick_sessions([request.target_id], request), 0
            else:
                count, silent = await self._kick_user(request)
            if not count and not silent:
                raise self._targets.refuse("NOT_FOUND", "no such session")
        except DirectoryUnreachableError:
            return _unknown("the directory does not answer", 0)
        except PeerUnreachableError:
            return _unknown("the session's owner does not answer", 0)
        except RefusedError as refusal:
            return refusal.as_response()
        if silent:
            return _unknown(f"{silent} processes do not answer", count)
        return pb.UnicastPushResponse(success=True, sessions=count)

    async def _kick_user(self, request: pb.KickRequest) -> tuple[int, int]:
        """Return how many sessions were kicked, and how many processes have not answered.

        The directory knows the sessions that are logged in, also those that move just now; each
        process knows its own, also those that have not logged in.
        """
        ask = routing_pb2.KickUserRequest(kick=request)
        answers, silent = await self._processes.ask_all(KICK_USER, ask)
        count = sum(answer.sessions for answer in answers)
        found = await self._directory.find(request.target_id)
        left = [entry.session_id for entry in found.entries]
        return count + await self._kick_sessions(left, request), silent

    async def _kick_sessions(self, sessions: list[str], request: pb.KickRequest) -> int:
        kicked = await asyncio.gather(*(self._node.kick(each, request) for each in sessions))
        return sum(kicked)

    async def handle_kick_user(
        self, request: routing_pb2.KickUserRequest, deadline: float
    ) -> routing_pb2.KickUserAnswer:
        """Kick the sessions of a user that this process owns."""
        del deadline
        now = asyncio.get_running_loop().time()
        self._forget(now)
        self._kicked[request.kick.target_id] = (request.kick, now)
        sessions = self._manager.find("openid", request.kick.target_id, with_inited=True)
        await self._local.kick_all(sessions, request.kick)
        return routing_pb2.KickUserAnswer(sessions=len(sessions))

    def arrived(self, session: Session) -> None:
        """Kick a session that has not logged in, and was on its way when its user was kicked.

        The directory, which does not know of it by its openid, could not say where it was.
        """
        if session.is_logged_in or not self._kicked:
            return
        loop = asyncio.get_running_loop()
        self._forget(loop.time())
        request, at = self._kicked.get(session.openid, (None, 0.0))
        if request is not None and session.create_time <= at:
            loop.call_soon(self._kick_late, session, request)

    def _kick_late(self, session: Session, request: pb.KickRequest) -> None:
        if session.is_valid:
            code = request.code or CloseCode.KICKED
            now = asyncio.get_running_loop().time()
            self._manager.kick(session, request.reason, now, code)

    def _forget(self, now: float) -> None:
        kicked = self._kicked
        while kicked:
            oldest = next(iter(kicked))
            if kicked[oldest][1] + AWAY_S > now and len(kicked) < MAX_KEPT:
                break
            del kicked[oldest]

    # Get.

    def get(self, request: pb.GetSessionRequest) -> pb.SessionInfo | Awaitable[pb.SessionInfo]:
        """Return a session and its queue; found is false where the directory has none.

        Raises:
            RefusedError: INVALID; AMBIGUOUS where the openid has several; BUSY where the session's
                owner, or the directory, did not answer.
        """
        self._targets.check(request.target_type, request.target_id)
        if request.target_type == "session":
            session = self._manager.by_id(request.target_id)
            if session is not None and session.is_valid:
                return self._local.info(session)
        return self._look(request)

    async def _look(self, request: pb.GetSessionRequest) -> pb.SessionInfo:
        clock = asyncio.get_running_loop().time
        until = clock() + TRY_S
        while True:
            try:
                entry = await self._entry(request)
                if entry is None:
                    self._targets.refuse("NOT_FOUND", "no such session")  # counted, no error
                    return pb.SessionInfo()
                ask = routing_pb2.DescribeRequest(session_id=entry.session_id)
                within = max(until - clock(), RETRY_S)
                answer = await self._processes.call(entry.owner, DESCRIBE, ask, within)
                if answer.result == cluster_pb2.OWNER_DONE:
                    return answer.session
            except (DirectoryUnreachableError, PeerUnreachableError):
                pass  # look again
            if clock() >= until:
                raise RefusedError("BUSY", "the session moves, or nobody answers for it", BUSY_MS)
            await asyncio.sleep(RETRY_S)

    async def _entry(self, request: pb.GetSessionRequest) -> Entry | None:
        if request.target_type == "session":
            entry = await self._directory.read(request.target_id)
            return entry if isinstance(entry, Entry) else None
        entries = (await self._directory.find(request.target_id)).entries
        if len(entries) > 1:
            raise self._local.ambiguous(len(entries))
        return entries[0] if entries else None

    def handle_describe(
        self, request: routing_pb2.DescribeRequest, deadline: float
    ) -> routing_pb2.DescribeAnswer:
        """Describe a session that this process owns."""
        del deadline
        session = self._manager.by_id(request.session_id)
        if session is None:
            return routing_pb2.DescribeAnswer(result=cluster_pb2.OWNER_NOT_OWNER)
        if session.role is not Role.OWN:
            return routing_pb2.DescribeAnswer(result=cluster_pb2.OWNER_MOVING)
        return routing_pb2.DescribeAnswer(
            result=cluster_pb2.OWNER_DONE, session=self._local.info(session)
        )

    # List.

    async def list(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
        """Return a page of the sessions, in the order of their ids.

        No other order is the same at all processes and stays when a session moves. One that moves
        while the page is read may be missing.

        Raises:
            RefusedError: INVALID; BUSY where a process, or the directory, did not answer.
        """
        size = self._local.page_size(request)
        after = request.page_token
        if after and not is_valid_text(after, MAX_TOKEN_BYTES):
            raise self._targets.refuse("INVALID", "page_token: not one of ours")
        # One more than the page has: it shows whether there is another page.
        ask = routing_pb2.PageRequest(filters=request, after=after, count=size + 1)
        try:
            answers, silent = await self._processes.ask_all(PAGE, ask, tries=2)
        except DirectoryUnreachableError:
            silent, answers = 1, []
        if silent:
            raise RefusedError("BUSY", "not every process has answered", BUSY_MS)
        found: dict[str, pb.SessionInfo] = {}
        for answer in answers:
            for info in answer.sessions:
                found[info.session_id] = info
        order = sorted(found)
        response = pb.ListSessionsResponse(sessions=[found[each] for each in order[:size]])
        if len(order) > size:
            response.next_page_token = order[size - 1]
        return response

    async def handle_page(
        self, request: routing_pb2.PageRequest, deadline: float
    ) -> routing_pb2.PageAnswer:
        """Return the first sessions that this process owns."""
        del deadline
        return routing_pb2.PageAnswer(
            sessions=await self._local.list_by_id(request.filters, request.after, request.count)
        )


def _unknown(why: str, count: int) -> pb.UnicastPushResponse:
    return pb.UnicastPushResponse(
        error_code="UNKNOWN",
        message=f"{why}: sessions may have ended or not; a kick may be repeated",
        sessions=count,
    )
