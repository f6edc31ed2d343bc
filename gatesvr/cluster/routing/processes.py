"""Processes: asks every process of the gateway the same thing at once."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from ..peers import PeerUnreachableError
from .tries import TRY_S, ask_patiently

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from ..calls import Call
    from ..directory import Directory
    from ..entries import Node
    from ..peers import Handlers, Peers

__all__ = ["Processes"]

Q = TypeVar("Q", bound="Message")
A = TypeVar("A", bound="Message")


class Processes:
    """The processes of the gateway, this one among them.

    Args:
        node_id: This process.
        directory: Knows them.
        peers: Reaches them.
        handlers: Returns what serves calls here: one to this process itself takes no detour.
    """

    def __init__(
        self, node_id: str, directory: Directory, peers: Peers, handlers: Callable[[], Handlers]
    ) -> None:
        self.node_id = node_id
        self._directory = directory
        self._peers = peers
        self._handlers = handlers

    async def nodes(self) -> tuple[Node, ...]:
        """Return them in the order in which they have joined.

        Raises:
            DirectoryUnreachableError: No answer for TRY_S, however often the directory was asked.
        """
        return await ask_patiently(self._directory.nodes)

    def others(self, nodes: tuple[Node, ...]) -> list[str]:
        """Return the ids of those with a good lease, without this process."""
        return [n.node_id for n in nodes if n.leased and n.node_id != self.node_id]

    async def call(self, node_id: str, call: Call[Q, A], request: Q, within: float = TRY_S) -> A:
        """Ask one of them; see Peers.call().

        Raises:
            PeerUnreachableError: There is no answer.
        """
        if node_id != self.node_id:
            return await self._peers.call(node_id, call, request, within)
        deadline = asyncio.get_running_loop().time() + within
        answer: Any = self._handlers()[call](request, deadline)
        return await answer if inspect.isawaitable(answer) else answer  # type: ignore[no-any-return]

    async def ask_all(
        self, call: Call[Q, A], request: Q, within: float = TRY_S, *, tries: int = 1
    ) -> tuple[list[A], int]:
        """Ask all; return the answers, and how many with a good lease have not answered.

        Args:
            call: What is asked.
            request: The question.
            within: Seconds to wait for each answer.
            tries: How often each is asked at most; more than once only what may be repeated.

        Raises:
            DirectoryUnreachableError: Nobody knows who they are.
        """
        nodes = await self.nodes()

        async def ask(node: Node) -> A | None:
            for _ in range(tries):
                try:
                    return await self.call(node.node_id, call, request, within)
                except PeerUnreachableError:
                    if not node.leased:
                        break
            return None

        answers = await asyncio.gather(*map(ask, nodes))
        silent = sum(
            answer is None and node.leased for node, answer in zip(nodes, answers, strict=True)
        )
        return [answer for answer in answers if answer is not None], silent
