"""Renewal: a node's lease, and what it learns when it renews it (M6, M10)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ..session.role import Role
from .directory import DirectoryUnreachableError

if TYPE_CHECKING:
    from .context import NodeContext
    from .ends import Ends
    from .entries import Entry, Tombstone
    from .entries import Renewal as Renewed
    from .owning import Owning

__all__ = ["Renewal"]

logger = logging.getLogger(__name__)

RENEWALS = 3
"""Renewals within a lease."""


class Renewal:
    """Renews a node's lease, and compares what the node owns with the directory.

    Args:
        context: The node's.
        owning: Drops sessions that are not the node's any more.
        ends: Removes entries.
        address: Where the node's siblings reach it.
    """

    def __init__(self, context: NodeContext, owning: Owning, ends: Ends, address: str) -> None:
        self._context = context
        self._owning = owning
        self._ends = ends
        self._address = address

    async def join(self) -> None:
        """Enter the node, certainly."""
        context = self._context
        while True:
            sent = context.time()
            try:
                await context.ask(context.directory.join, context.node_id, self._address)
            except DirectoryUnreachableError:
                await asyncio.sleep(context.lease / RENEWALS)
            else:
                context.renewed_at = sent
                return

    async def run(self) -> None:
        """Renew the lease as long as the node lives."""
        pause = self._context.lease / RENEWALS
        while True:
            await asyncio.sleep(pause)
            try:
                await self.renew()
                await self.watch_nodes()
            except DirectoryUnreachableError:
                continue
            except Exception:  # without its lease the node would lose every session
                self._context.counters.internal_errors += 1
                logger.exception("renewal_failed")

    async def renew(self) -> None:
        """Renew the lease once, and drop what is not the node's any more.

        Judged are only copies that are own now, in the epoch in which they were named.

        Raises:
            DirectoryUnreachableError: The directory has not answered.
        """
        context = self._context
        owned = {
            session.session_id: session.epoch
            for session in context.sessions.index.by_id.values()
            if session.role is Role.OWN
        }
        sent = context.time()
        renewed = await context.ask(context.directory.renew, context.node_id, owned)
        context.counters.renewals += 1
        if renewed is None:
            await self._return(owned)
            return
        context.renewed_at = sent
        self._compare(owned, renewed)

    def _compare(self, owned: dict[str, int], renewed: Renewed) -> None:
        context = self._context
        for session_id, found in renewed.changed.items():
            self._lose(session_id, owned[session_id], found)
        for entry in renewed.unnamed:
            session_id = entry.session_id
            if context.copy(session_id) is None and session_id not in self._ends:
                # A create that came late.
                context.counters.orphans += 1
                self._ends.add(session_id, entry.epoch)

    async def _return(self, owned: dict[str, int]) -> None:
        """Enter the node again, which the directory had forgotten with all its sessions."""
        context = self._context
        context.counters.forgotten += 1
        for session_id, epoch in owned.items():
            self._lose(session_id, epoch, None)
        await self.join()

    def _lose(self, session_id: str, epoch: int, found: Entry | Tombstone | None) -> None:
        """Drop a session of which the directory has something else, if it is as it was named."""
        session = self._context.copy(session_id)
        if session is not None and session.role is Role.OWN and session.epoch == epoch:
            self._owning.lose(session, found)

    async def watch_nodes(self) -> None:
        """End the calls of nodes whose lease is out by ERROR 502.

        Raises:
            DirectoryUnreachableError: The directory has not answered.
        """
        context = self._context
        moved = context.dispatcher.moved
        for node_id in sorted(moved.nodes() - {context.node_id, ""}):
            if not await context.ask(context.directory.is_leased, node_id):
                context.counters.lost_calls += moved.lose(node_id, context.clock())
