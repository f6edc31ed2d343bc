"""Entries: who owns each session of a cluster, as one table without loop, clock or wire.

Each method is one transaction. Whoever holds the table calls them one after the other: that is
what makes a Directory linearizable. Nothing here rests on clocks but the leases, and these are
hints: owner and epoch decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..protocol.messages import LostReason

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Again", "Busy", "Done", "Entries", "Entry", "Found", "Node", "Renewal", "Tombstone"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Who owns a session.

    Attributes:
        session_id: The session.
        owner: The id of the node that owns it.
        epoch: Counts its owners. No two sessions, nor two lives of one, have an epoch in common.
        openid: Its user.
        logged_in: Whether its login is done.
    """

    session_id: str
    owner: str
    epoch: int
    openid: str
    logged_in: bool


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Why a session ended that had been replaced or kicked."""

    reason: LostReason


@dataclass(frozen=True, slots=True)
class Found:
    """The logged-in sessions of a user.

    Attributes:
        entries: In the order of their logins.
        version: Of this set: each login and each end of one makes a new one, a move does not.
        leased: The owners among them whose lease is good.
    """

    entries: tuple[Entry, ...]
    version: int
    leased: frozenset[str]


@dataclass(frozen=True, slots=True)
class Done:
    """A login took effect; ``replaced`` lost their entries by it, and have tombstones."""

    replaced: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Busy:
    """A session that was made because a resume failed replaces no other (PROTOCOL 3.3)."""


@dataclass(frozen=True, slots=True)
class Again:
    """The user's sessions have changed since they were judged: look again."""


@dataclass(frozen=True, slots=True)
class Node:
    """A process of the cluster.

    Attributes:
        node_id: Made anew at each start, never used again.
        address: Where its siblings reach it.
        leased: Whether its lease is good.
    """

    node_id: str
    address: str
    leased: bool


@dataclass(frozen=True, slots=True)
class Renewal:
    """What an owner learns when it renews its lease.

    Attributes:
        changed: Of the sessions that it named: those whose entry is not (owner, epoch) any more,
            with what there is instead.
        unnamed: Entries that name it of sessions that it did not name.
    """

    changed: Mapping[str, Entry | Tombstone | None]
    unnamed: tuple[Entry, ...]


@dataclass(slots=True)
class _Lease:
    address: str
    until: float
    out_since: float | None = None


@dataclass(slots=True)
class _Named:
    """What a node's last renewal by number has named, and where that differs from the table."""

    number: int = 0
    epochs: dict[str, int] = field(default_factory=dict)
    differs: dict[str, None] = field(default_factory=dict)


class Entries:
    """The table.

    ``now`` is the clock of the table's holder, in seconds; no other clock is compared with it.

    Args:
        lease: Seconds that a node's lease lasts.
        resume_window: Seconds that a tombstone is kept, and that the entries of a node without
            lease may wait for their clients.
        max_tombstones: Beyond it the oldest are forgotten.
        now: The time.

    Complexity: O(1) for each transaction on a session but find() and the logins, which are linear
    in the user's logged-in sessions, and renew(), which is linear in the node's; renew_named() is
    linear in what has changed.
    """

    def __init__(
        self, *, lease: float, resume_window: float, max_tombstones: int, now: float
    ) -> None:
        self._lease = lease
        self._window = resume_window
        self._max_tombstones = max_tombstones
        self._heard = now
        self._last_epoch = 0
        self._last_version = 0
        self._entries: dict[str, Entry] = {}
        self._by_owner: dict[str, dict[str, None]] = {}
        self._by_openid: dict[str, dict[str, None]] = {}
        self._versions: dict[str, int] = {}
        self._tombstones: dict[str, tuple[Tombstone, float]] = {}
        self._leases: dict[str, _Lease] = {}
        self._named: dict[str, _Named] = {}

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    # Nodes and their leases.

    def join(self, node_id: str, address: str, now: float) -> None:
        """Enter a node and its first lease; again changes its address."""
        self.wake(now)
        self._leases[node_id] = _Lease(address, now + self._lease)

    def leave(self, node_id: str, now: float) -> tuple[Entry, ...]:
        """Forget a node that has ended; return its entries, which are gone with it."""
        self.wake(now)
        self._leases.pop(node_id, None)
        self._named.pop(node_id, None)
        left = tuple(self._entries[s] for s in self._by_owner.get(node_id, ()))
        for entry in left:
            self._drop(entry)
        return left

    def nodes(self, now: float) -> tuple[Node, ...]:
        """Return the nodes that have joined and have neither left nor been forgotten."""
        self.wake(now)
        return tuple(
            Node(node_id, lease.address, lease.until > now)
            for node_id, lease in self._leases.items()
        )

    def is_leased(self, node_id: str, now: float) -> bool:
        """Return whether a node's lease is good."""
        self.wake(now)
        return self._is_leased(node_id, now)

    def _is_leased(self, node_id: str, now: float) -> bool:
        lease = self._leases.get(node_id)
        return lease is not None and lease.until > now

    def wake(self, now: float) -> None:
        """Give each node a full term after an outage of the table's holder itself.

        Whoever was silent for half a term, stopped or starved, cannot tell who else was.
        """
        if now - self._heard > self._lease / 2:
            for lease in self._leases.values():
                lease.until = max(lease.until, now + self._lease)
        self._heard = now

    def renew(self, node_id: str, owned: Mapping[str, int], now: float) -> Renewal | None:
        """Renew a lease, good or out, and compare what its node holds with the table.

        Args:
            node_id: Who renews.
            owned: The epoch of each session that it owns.
            now: The time.

        Returns:
            None for a node that has left or was forgotten: its sessions are gone.
        """
        if not self._renew_lease(node_id, now):
            return None
        changed: dict[str, Entry | Tombstone | None] = {}
        for session_id, epoch in owned.items():
            if self._owned(session_id, node_id, epoch) is None:
                changed[session_id] = self._read(session_id, now)
        unnamed = tuple(self._entries[s] for s in self._by_owner.get(node_id, ()) if s not in owned)
        return Renewal(changed, unnamed)

    def renew_named(
        self,
        node_id: str,
        number: int,
        base: int,
        owned: Mapping[str, int],
        ended: Iterable[str],
        now: float,
    ) -> Renewal | Again | None:
        """Renew as renew() does, by what has changed since the node's last renewal.

        Args:
            node_id: Who renews.
            number: Of this renewal; no two of a node have the same.
            base: The number of the renewal that it differs from; 0: ``owned`` is all.
            owned: The epoch of each session that it owns and has not named so before.
            ended: Those of the base that it does not own any more.
            now: The time.

        Returns:
            Again where another renewal has come in between, or none was there: name all. None for
            a node that has left or was forgotten.
        """
        if not self._renew_lease(node_id, now):
            return None
        named = self._named.setdefault(node_id, _Named())
        if base == 0:
            named.epochs, named.differs = {}, {}
            for session_id in self._by_owner.get(node_id, ()):
                named.differs[session_id] = None
        elif number != named.number and base != named.number:
            return Again()
        named.number = number
        for session_id in ended:
            if named.epochs.pop(session_id, None) is not None:
                self._compare(node_id, session_id)
        for session_id, epoch in owned.items():
            entry = self._entries.get(session_id)
            named.epochs[session_id if entry is None else entry.session_id] = epoch
            self._compare(node_id, session_id)
        changed = {s: self._read(s, now) for s in named.differs if s in named.epochs}
        unnamed = tuple(self._entries[s] for s in named.differs if s not in named.epochs)
        return Renewal(changed, unnamed)

    def _renew_lease(self, node_id: str, now: float) -> bool:
        self.wake(now)
        lease = self._leases.get(node_id)
        if lease is None:
            return False
        lease.until = now + self._lease
        lease.out_since = None
        return True

    def _compare(self, node_id: str, session_id: str) -> None:
        """Note whether what a node has named of a session is what the table says."""
        named = self._named.get(node_id)
        if named is None:
            return
        entry = self._entries.get(session_id)
        epoch = entry.epoch if entry is not None and entry.owner == node_id else None
        if named.epochs.get(session_id) == epoch:
            named.differs.pop(session_id, None)
        else:
            named.differs[session_id] = None

    # Sessions.

    def read(self, session_id: str, now: float) -> Entry | Tombstone | None:
        """Return a session's entry, else its tombstone, else None."""
        self.wake(now)
        return self._read(session_id, now)

    def _read(self, session_id: str, now: float) -> Entry | Tombstone | None:
        entry = self._entries.get(session_id)
        if entry is not None:
            return entry
        tombstone, until = self._tombstones.get(session_id, (None, 0.0))
        return tombstone if until > now else None

    def _owned(self, session_id: str, owner: str, epoch: int) -> Entry | None:
        """Return a session's entry if it is still (owner, epoch)."""
        entry = self._entries.get(session_id)
        if entry is None or entry.owner != owner or entry.epoch != epoch:
            return None
        return entry

    def create(self, session_id: str, owner: str, openid: str, now: float) -> Entry | None:
        """Enter a new session, in an epoch that was never given before.

        Returns:
            Its entry, also if this owner has entered it before; None where another owner has it
            or it has ended, and for an owner that has left.
        """
        self.wake(now)
        entry = self._entries.get(session_id)
        if entry is not None:
            return entry if entry.owner == owner else None
        if owner not in self._leases or self._read(session_id, now) is not None:
            return None
        self._last_epoch += 1
        entry = Entry(session_id, owner, self._last_epoch, openid, logged_in=False)
        self._put(entry)
        return entry

    def move(
        self, session_id: str, owner: str, epoch: int, to: str, now: float
    ) -> Entry | Tombstone | None:
        """Exchange a session's owner, if it is still (owner, epoch).

        Returns:
            What there is afterwards: the move took effect, now or before, where that is an entry
            of ``to`` in the epoch after ``epoch``.
        """
        self.wake(now)
        entry = self._owned(session_id, owner, epoch)
        if entry is None:
            return self._read(session_id, now)
        if to not in self._leases:
            return entry
        self._disown(entry)
        moved = Entry(session_id, to, epoch + 1, entry.openid, entry.logged_in)
        self._last_epoch = max(self._last_epoch, epoch + 1)
        self._put(moved)
        self._compare(owner, session_id)
        return moved

    def remove(
        self, session_id: str, owner: str, epoch: int, reason: LostReason | None, now: float
    ) -> bool:
        """End a session that is still (owner, epoch).

        Args:
            session_id: The session.
            owner: Who owns it.
            epoch: In which epoch.
            reason: Leaves a tombstone where it was replaced or kicked, else None.
            now: The time.

        Returns:
            Whether the session has no entry of another owner or epoch: a repeated call is true.
        """
        self.wake(now)
        entry = self._owned(session_id, owner, epoch)
        if entry is None:
            return session_id not in self._entries
        self._drop(entry)
        if reason is not None:
            self._mark(session_id, reason, now)
        return True

    def bury(self, session_id: str, owner: str, epoch: int, now: float) -> bool:
        """End a session whose owner's lease is out; return whether this call has done it."""
        self.wake(now)
        entry = self._owned(session_id, owner, epoch)
        if entry is None or self._is_leased(owner, now):
            return False
        self._drop(entry)
        return True

    # Logins.

    def find(self, openid: str, now: float) -> Found:
        """Return the logged-in sessions of a user."""
        self.wake(now)
        entries = tuple(self._entries[s] for s in self._by_openid.get(openid, ()))
        leased = frozenset(e.owner for e in entries if self._is_leased(e.owner, now))
        return Found(entries, self._versions.get(openid, 0), leased)

    def login_replacing(
        self, session_id: str, owner: str, epoch: int, *, after_failed_resume: bool, now: float
    ) -> Done | Busy | None:
        """Log a session in; it takes the place of the user's others, whatever their leases.

        Returns:
            None where the session is not (owner, epoch) any more. A repeated call is Done.
        """
        self.wake(now)
        entry = self._owned(session_id, owner, epoch)
        if entry is None:
            return None
        if entry.logged_in:
            return Done()
        others = tuple(self._entries[s] for s in self._by_openid.get(entry.openid, ()))
        if others and after_failed_resume:
            return Busy()
        return self._log_in(entry, others, now)

    def login_judged(
        self,
        session_id: str,
        owner: str,
        epoch: int,
        *,
        version: int,
        victims: Iterable[str] = (),
        now: float,
    ) -> Done | Again | None:
        """Log a session in; its owner has judged the user's others, found in ``version``.

        Args:
            session_id: The session.
            owner: Who owns it.
            epoch: In which epoch.
            version: Of the set of logged-in sessions that was judged.
            victims: Those whose place it takes.
            now: The time.

        Returns:
            None where the session is not (owner, epoch) any more, Again where the set has changed
            and is not empty. A repeated call is Done.
        """
        self.wake(now)
        entry = self._owned(session_id, owner, epoch)
        if entry is None:
            return None
        if entry.logged_in:
            return Done()
        others = self._by_openid.get(entry.openid, {})
        if others and self._versions.get(entry.openid, 0) != version:
            return Again()
        taken = set(victims)
        return self._log_in(entry, tuple(self._entries[s] for s in others if s in taken), now)

    def _log_in(self, entry: Entry, replaced: tuple[Entry, ...], now: float) -> Done:
        for other in replaced:
            self._drop(other)
            self._mark(other.session_id, LostReason.REPLACED, now)
        self._entries[entry.session_id] = Entry(
            entry.session_id, entry.owner, entry.epoch, entry.openid, logged_in=True
        )
        self._by_openid.setdefault(entry.openid, {})[entry.session_id] = None
        self._turn(entry.openid)
        return Done(replaced)

    # What is past its time.

    def sweep(self, now: float) -> int:
        """Forget tombstones past the window, and nodes without lease for that long.

        Returns:
            The number of entries that ended with their nodes.
        """
        self.wake(now)
        while self._tombstones:
            session_id, (_, until) = next(iter(self._tombstones.items()))
            if until > now:
                break
            del self._tombstones[session_id]
        buried = 0
        for node_id, lease in list(self._leases.items()):
            if lease.until > now:
                lease.out_since = None
            elif lease.out_since is None:
                lease.out_since = now
            elif now - lease.out_since >= self._window:
                buried += len(self.leave(node_id, now))
        return buried

    # The indexes.

    def _put(self, entry: Entry) -> None:
        self._entries[entry.session_id] = entry
        self._by_owner.setdefault(entry.owner, {})[entry.session_id] = None
        self._compare(entry.owner, entry.session_id)

    def _disown(self, entry: Entry) -> None:
        owned = self._by_owner[entry.owner]
        del owned[entry.session_id]
        if not owned:
            del self._by_owner[entry.owner]

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.session_id]
        self._disown(entry)
        self._compare(entry.owner, entry.session_id)
        if entry.logged_in:
            same = self._by_openid[entry.openid]
            del same[entry.session_id]
            if not same:
                del self._by_openid[entry.openid]
            self._turn(entry.openid)

    def _turn(self, openid: str) -> None:
        """Give a user's set of logged-in sessions a new version; an empty one needs none."""
        if openid in self._by_openid:
            self._last_version += 1
            self._versions[openid] = self._last_version
        else:
            self._versions.pop(openid, None)

    def _mark(self, session_id: str, reason: LostReason, now: float) -> None:
        while len(self._tombstones) >= self._max_tombstones:
            del self._tombstones[next(iter(self._tombstones))]
        self._tombstones[session_id] = (Tombstone(reason), now + self._window)
