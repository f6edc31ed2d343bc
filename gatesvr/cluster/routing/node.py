"""RoutedNode: what the commands need of this process's node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..._pb import upstream_pb2 as pb

__all__ = ["TRY_S", "RoutedNode"]

TRY_S = 1.0
"""Seconds for which a command looks again where a session moves, or where nobody answers."""
RETRY_S = 0.02
"""Seconds before it looks again."""


class RoutedNode(Protocol):
    """Reaches one session, whichever process owns it."""

    @property
    def node_id(self) -> str:
        """This process."""

    async def push(
        self,
        session_id: str,
        request: pb.UnicastPushRequest,
        *,
        needs_login: bool = False,
        owner: str = "",
    ) -> pb.UnicastPushResponse:
        """Push to a session: its owner's result, NOT_FOUND, BUSY or UNKNOWN (MOVING M9).

        Where the directory has just said who owns it, ``owner`` saves the question.
        """

    async def kick(self, session_id: str, request: pb.KickRequest) -> bool:
        """Close a session; return whether there was one."""
