"""Peers: how a process of a gateway reaches its siblings; peer_link.py does it over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from .calls import Call

__all__ = ["Handlers", "PeerNotAskedError", "PeerUnreachableError", "Peers"]

Q = TypeVar("Q", bound="Message")
A = TypeVar("A", bound="Message")

Handlers: TypeAlias = "Mapping[Call[Any, Any], Callable[[Any, float], Any | Awaitable[Any]]]"
"""What serves each call: takes the request and the loop time at which nobody waits any longer for
the answer, which it returns, or a coroutine of it. It may run twice for one call."""


class PeerUnreachableError(Exception):
    """A sibling has not answered in time; what was asked of it may have been done or not."""


class PeerNotAskedError(PeerUnreachableError):
    """Nothing was sent to a sibling: it is not known, not reached, or has too much to answer."""


class Peers(Protocol):
    """Reaches the processes of the gateway by their node ids; the own one is among them."""

    async def call(self, node_id: str, call: Call[Q, A], request: Q, within: float) -> A:
        """Ask a node, and return its answer.

        Args:
            node_id: The node.
            call: What is asked.
            request: The question.
            within: Seconds to wait, connecting included.

        Raises:
            PeerNotAskedError: It was not sent.
            PeerUnreachableError: There is no answer: the time is up, the node is gone, or it failed
                there.
        """

    def tell(self, node_id: str, call: Call[Q, A], request: Q) -> None:
        """Send a hint, which may be lost; nobody waits for an answer."""
