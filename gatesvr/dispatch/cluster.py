"""ClusterNode: what dispatch asks of a gateway of several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .._pb import message_pb2 as pb
    from ..protocol.identity import Identity
    from ..protocol.link import Link
    from ..session.outcome import StartOutcome
    from ..session.session import Session

__all__ = ["ClusterNode"]


class ClusterNode(Protocol):
    """This process among those of its gateway; cluster/node.py has it."""

    async def start_session(
        self,
        start: pb.StartRequest,
        link: Link,
        identity: Identity | None,
        auth_deadline: float,
    ) -> StartOutcome:
        """Make, resume or fetch the session that a START asks for.

        Write the response before anything else is awaited, or detach the session.

        Args:
            start: The START's payload.
            link: The connection that it came on.
            identity: Who the client has proved to be, None if it showed no token.
            auth_deadline: Loop time at which its credentials expire.
        """

    def log_in(self, session: Session) -> None:
        """Decide the login of a session whose login_answer waits; Login.decided() follows."""
