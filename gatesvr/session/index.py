"""SessionIndex: every session that is not Closed, by id, by openid and by what it waits for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..protocol.network import network_of
from .role import Role

if TYPE_CHECKING:
    from .session import Session

__all__ = ["SessionIndex"]


class SessionIndex:
    """The sessions of one gateway. It finds them; it changes none.

    Copies of sessions that this process does not own are in by_id and by_network alone.

    Attributes:
        by_id: All, in the order in which they were made or came here.
        by_openid: The logged-in ones of each user, in the order of their logins.
        inited: Those that have not logged in, in the order of their STARTs, with their network.
        inited_by_network: How many of them each network has: an IPv4 address, an IPv6 /64.
        inited_by_openid: Those of each openid that was claimed.
        detached: Those without a connection, in the order in which they lost it.
        networks: The network that each came from last.
        by_network: How many came from each.
    """

    __slots__ = (
        "_last_number",
        "by_id",
        "by_network",
        "by_openid",
        "detached",
        "inited",
        "inited_by_network",
        "inited_by_openid",
        "networks",
    )

    def __init__(self) -> None:
        self._last_number = 0
        self.by_id: dict[str, Session] = {}
        self.by_openid: dict[str, tuple[Session, ...]] = {}
        self.inited: dict[Session, bytes] = {}
        self.inited_by_network: dict[bytes, int] = {}
        self.inited_by_openid: dict[str, dict[Session, None]] = {}
        self.detached: dict[Session, None] = {}
        self.networks: dict[Session, bytes] = {}
        self.by_network: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Return the number of sessions."""
        return len(self.by_id)

    # Changes.

    def add(self, session: Session) -> None:
        """Enter a session, and number it."""
        self._last_number += 1
        session.number = self._last_number
        self.place(session)
        self.by_id[session.session_id] = session
        if session.role is Role.OWN:
            self.show(session)

    def show(self, session: Session) -> None:
        """Enter a session that this process owns, to be found by all but its id."""
        if session.is_logged_in:
            openid = session.openid
            self.by_openid[openid] = (*self.by_openid.get(openid, ()), session)
        else:
            self.inited[session] = network = self.networks[session]
            _count(self.inited_by_network, network)
            self.inited_by_openid.setdefault(session.openid, {})[session] = None
        if session.link is None:
            self.detached[session] = None

    def hide(self, session: Session) -> None:
        """Forget a session but for its id and its network: this process does not own it."""
        self.detached.pop(session, None)
        if session in self.inited:
            self._leave_inited(session)
            return
        openid = session.openid
        left = tuple(other for other in self.by_openid.get(openid, ()) if other is not session)
        if left:
            self.by_openid[openid] = left
        else:
            self.by_openid.pop(openid, None)

    def place(self, session: Session) -> bytes:
        """Enter the network that a session's connection comes from; return it."""
        network = network_of(session.user_ip)
        before = self.networks.get(session)
        if before != network:
            if before is not None:
                _uncount(self.by_network, before)
            self.networks[session] = network
            _count(self.by_network, network)
        return network

    def log_in(self, session: Session) -> None:
        """Move a session to those that are logged in."""
        self._leave_inited(session)
        openid = session.openid
        self.by_openid[openid] = (*self.by_openid.get(openid, ()), session)

    def remove(self, session: Session) -> None:
        """Forget a session."""
        del self.by_id[session.session_id]
        _uncount(self.by_network, self.networks.pop(session))
        self.hide(session)

    def _leave_inited(self, session: Session) -> None:
        _uncount(self.inited_by_network, self.inited.pop(session))
        same = self.inited_by_openid[session.openid]
        del same[session]
        if not same:
            del self.inited_by_openid[session.openid]

    # Finding.

    def inited_of(self, ip: str) -> int:
        """Return the number of sessions of an address's network that have not logged in."""
        return self.inited_by_network.get(network_of(ip), 0)

    def find(self, target_type: str, target_id: str, with_inited: bool = False) -> list[Session]:
        """Return the sessions that a target names; see SessionManager.find()."""
        if target_type == "session":
            session = self.by_id.get(target_id)
            return [] if session is None else [session]
        if target_type == "openid":
            found = list(self.by_openid.get(target_id, ()))
            if with_inited:
                found.extend(self.inited_by_openid.get(target_id, ()))
            return found
        return []

    def behind(self, number: int, openid: str = "") -> list[Session]:
        """Return the sessions made after that of a number; see SessionManager.sessions_behind()."""
        found: Iterable[Session] = self.by_id.values()
        if openid:
            same = self.find("openid", openid, with_inited=True)
            found = sorted(same, key=lambda session: session.number)
        return [session for session in found if session.number > number]

    def logged_in(self) -> list[Session]:
        """Return the sessions that are logged in, with a connection or without."""
        return [session for sessions in self.by_openid.values() for session in sessions]


def _count(counts: dict[bytes, int], network: bytes) -> None:
    counts[network] = counts.get(network, 0) + 1


def _uncount(counts: dict[bytes, int], network: bytes) -> None:
    count = counts[network] - 1
    if count:
        counts[network] = count
    else:
        del counts[network]
