"""Directory: the one place where a cluster decides who owns a session and who is logged in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from .entries import Entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..protocol.messages import LostReason
    from .entries import Again, Busy, Done, Entry, Found, Node, Renewal, Tombstone

__all__ = ["Directory", "DirectoryUnreachableError", "MemoryDirectory"]


class DirectoryUnreachableError(Exception):
    """The directory has not answered; what was asked of it may have taken effect or not."""


class Directory(Protocol):
    """What a node asks of the directory. Each call is one transaction, and linearizable.

    Each call may raise DirectoryUnreachableError. Calls that write are safe to repeat until they
    are answered, and the answer of a repeated one says what is true: that is how they become
    certain. See Entries for what each does and returns.
    """

    async def join(self, node_id: str, address: str) -> None:
        """Enter a node."""

    async def leave(self, node_id: str) -> tuple[Entry, ...]:
        """Forget a node, and the sessions that it owned."""

    async def nodes(self) -> tuple[Node, ...]:
        """Return the nodes."""

    async def is_leased(self, node_id: str) -> bool:
        """Return whether a node's lease is good."""

    async def renew(self, node_id: str, owned: Mapping[str, int]) -> Renewal | None:
        """Renew a node's lease; None where it has left or was forgotten."""

    async def read(self, session_id: str) -> Entry | Tombstone | None:
        """Return what there is of a session."""

    async def create(self, session_id: str, owner: str, openid: str) -> Entry | None:
        """Enter a new session; None where that is refused."""

    async def move(
        self, session_id: str, owner: str, epoch: int, to: str
    ) -> Entry | Tombstone | None:
        """Exchange a session's owner, if it is (owner, epoch); return what there is afterwards."""

    async def remove(
        self, session_id: str, owner: str, epoch: int, reason: LostReason | None = None
    ) -> bool:
        """End a session; False where another owner or epoch has it."""

    async def bury(self, session_id: str, owner: str, epoch: int) -> bool:
        """End a session of a node whose lease is out; return whether this call has done it."""

    async def find(self, openid: str) -> Found:
        """Return the logged-in sessions of a user."""

    async def find_all(self, openids: Sequence[str]) -> list[Found]:
        """Return the same of several users: a transaction each, in one question."""

    async def login_replacing(
        self, session_id: str, owner: str, epoch: int, *, after_failed_resume: bool
    ) -> Done | Busy | None:
        """Log a session in, in place of the user's others; None where it is lost."""

    async def login_judged(
        self, session_id: str, owner: str, epoch: int, *, version: int, victims: Iterable[str] = ()
    ) -> Done | Again | None:
        """Log a session in, in place of those that its owner has judged; None where it is lost."""


class MemoryDirectory:
    """A Directory of one process, in its memory: the loop takes one transaction after another.

    Attributes:
        entries: The table itself, for who holds it.
    """

    def __init__(
        self, *, lease: float = 5.0, resume_window: float = 60.0, max_tombstones: int = 65_536
    ) -> None:
        self._clock = asyncio.get_running_loop().time
        self.entries = Entries(
            lease=lease,
            resume_window=resume_window,
            max_tombstones=max_tombstones,
            now=self._clock(),
        )

    async def join(self, node_id: str, address: str) -> None:
        """See Directory."""
        self.entries.join(node_id, address, self._clock())

    async def leave(self, node_id: str) -> tuple[Entry, ...]:
        """See Directory."""
        return self.entries.leave(node_id, self._clock())

    async def nodes(self) -> tuple[Node, ...]:
        """See Directory."""
        return self.entries.nodes(self._clock())

    async def is_leased(self, node_id: str) -> bool:
        """See Directory."""
        return self.entries.is_leased(node_id, self._clock())

    async def renew(self, node_id: str, owned: Mapping[str, int]) -> Renewal | None:
        """See Directory."""
        return self.entries.renew(node_id, owned, self._clock())

    async def read(self, session_id: str) -> Entry | Tombstone | None:
        """See Directory."""
        return self.entries.read(session_id, self._clock())

    async def create(self, session_id: str, owner: str, openid: str) -> Entry | None:
        """See Directory."""
        return self.entries.create(session_id, owner, openid, self._clock())

    async def move(
        self, session_id: str, owner: str, epoch: int, to: str
    ) -> Entry | Tombstone | None:
        """See Directory."""
        return self.entries.move(session_id, owner, epoch, to, self._clock())

    async def remove(
        self, session_id: str, owner: str, epoch: int, reason: LostReason | None = None
    ) -> bool:
        """See Directory."""
        return self.entries.remove(session_id, owner, epoch, reason, self._clock())

    async def bury(self, session_id: str, owner: str, epoch: int) -> bool:
        """See Directory."""
        return self.entries.bury(session_id, owner, epoch, self._clock())

    async def find(self, openid: str) -> Found:
        """See Directory."""
        return self.entries.find(openid, self._clock())

    async def find_all(self, openids: Sequence[str]) -> list[Found]:
        """See Directory."""
        return [self.entries.find(openid, self._clock()) for openid in openids]

    async def login_replacing(
        self, session_id: str, owner: str, epoch: int, *, after_failed_resume: bool
    ) -> Done | Busy | None:
        """See Directory."""
        return self.entries.login_replacing(
            session_id, owner, epoch, after_failed_resume=after_failed_resume, now=self._clock()
        )

    async def login_judged(
        self, session_id: str, owner: str, epoch: int, *, version: int, victims: Iterable[str] = ()
    ) -> Done | Again | None:
        """See Directory."""
        return self.entries.login_judged(
            session_id, owner, epoch, version=version, victims=victims, now=self._clock()
        )
