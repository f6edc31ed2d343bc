"""Pool: one service's endpoints, and the choice among them (PROTOCOL 7.9)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .breaker import Breaker
    from .lane import Lane
    from .registry import Registration

__all__ = ["BASE_ZONES", "Member", "Pool", "default_zone"]

BASE_ZONES = frozenset(f"{i:03d}" for i in range(1, 7))
"""Sessions without a zone are spread over these zones, where endpoints have them."""

MAX_KNOWN = 1_024
"""Zones with a remembered endpoint list; the bound matters because upstreams name them at login."""

_MASK = (1 << 64) - 1


def default_zone(openid: str) -> str:
    """Return the zone for an openid whose session has none."""
    digest = hashlib.md5(openid.encode(), usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'big') % 6 + 1:03d}"


@dataclass(slots=True, eq=False)
class Member:
    """One endpoint of a pool, or one address of its name, the lane that reaches it, its breaker."""

    endpoint: Registration
    lane: Lane
    breaker: Breaker
    seed: int = field(init=False)
    credit: int = 0

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(self.lane.address.encode(), digest_size=8).digest()
        self.seed = int.from_bytes(digest, "big")


class Pool:
    """Chooses among a service's endpoints.

    Calls of a session go to endpoints of its zone; if none of those is up, to endpoints without a
    zone. An endpoint that is down gets nothing. An endpoint never reached so far gets calls only
    while no other is up. An ejected endpoint gets probes when its time is over; where nothing else
    can be reached it gets calls all the same, unless it is alone (see breaker.py). By round robin,
    an endpoint at its limit of open calls gets no more while others have room; by hash, its calls
    wait, because they belong there.

    Args:
        members: The endpoints.
        balance: ``round_robin`` (smooth, weighted) or ``consistent_hash`` (rendezvous, weighted).
    """

    def __init__(
        self, members: Iterable[Member], balance: Literal["round_robin", "consistent_hash"]
    ) -> None:
        self.members = list(members)
        self._is_hashed = balance == "consistent_hash"
        zones = {member.endpoint.zone for member in self.members}
        self._has_base_zones = not zones.isdisjoint(BASE_ZONES)
        self._usable: dict[str, list[Member]] = {}  # by zone

    @property
    def is_usable(self) -> bool:
        """Whether an endpoint, of any zone, is up and not ejected."""
        return any(member.lane.is_up and member.breaker.takes_calls for member in self.members)

    def lanes_changed(self) -> None:
        """Read the lanes' states again at the next pick."""
        self._usable.clear()

    def pick(self, openid: str, zone: str, avoid: Lane | None = None) -> Member | None:
        """Return the endpoint for a call, or None if none can be reached or all are ejected.

        Args:
            openid: The session's.
            zone: The session's, empty for none.
            avoid: A lane that failed or refused the call.
        """
        if not zone and self._has_base_zones:
            zone = default_zone(openid)
        usable = self._usable.get(zone)
        if usable is None:
            if len(self._usable) >= MAX_KNOWN:
                self._usable.clear()
            usable = self._usable[zone] = self._find_usable(zone)
        if avoid is not None:
            usable = [member for member in usable if member.lane is not avoid] or self._find_usable(
                zone, avoid
            )
        if len(usable) < 2:
            return usable[0] if usable else None
        return self._hash(usable, openid) if self._is_hashed else self._next(usable)

    def ejected(self, openid: str, zone: str) -> list[Breaker]:
        """Return the breakers that keep a call from endpoints that it could reach."""
        if not zone and self._has_base_zones:
            zone = default_zone(openid)
        return [
            member.breaker
            for tier in self._tiers(zone)
            for member in tier
            if (member.lane.is_up or member.lane.is_connecting) and not member.breaker.takes_calls
        ]

    def _tiers(self, zone: str) -> list[list[Member]]:
        """Return the endpoints for a zone, the preferred ones first."""
        everywhere = [member for member in self.members if not member.endpoint.zone]
        if zone:
            return [[m for m in self.members if m.endpoint.zone == zone], everywhere]
        # A session without a zone may use any endpoint.
        return [everywhere, self.members]

    def _find_usable(self, zone: str, avoid: Lane | None = None) -> list[Member]:
        tiers = [[m for m in tier if m.lane is not avoid] for tier in self._tiers(zone)]
        for tier in tiers:
            if found := [m for m in tier if m.lane.is_up and m.breaker.takes_calls]:
                if self._is_hashed:
                    return found
                return [m for m in found if not m.lane.is_full] or found
        for tier in tiers:
            if found := [m for m in tier if m.lane.is_connecting and m.breaker.takes_calls]:
                return found
        for tier in tiers:
            if found := [m for m in tier if m.lane.is_up and not m.breaker.is_alone]:
                return found
        return []

    @staticmethod
    def _next(usable: list[Member]) -> Member:
        """Smooth weighted round robin: each earns its weight, the richest pays the total."""
        total = 0
        best = usable[0]
        for member in usable:
            weight = member.endpoint.weight
            total += weight
            member.credit += weight
            if member.credit > best.credit:
                best = member
        best.credit -= total
        return best

    @staticmethod
    def _hash(usable: list[Member], openid: str) -> Member:
        """Rendezvous hashing: an openid moves only when its endpoint goes or a better one comes."""
        digest = hashlib.blake2b(openid.encode(), digest_size=8).digest()
        key = int.from_bytes(digest, "big")
        best, best_score = usable[0], -math.inf
        for member in usable:
            mixed = (key ^ member.seed) * 0xBF58476D1CE4E5B9 & _MASK
            mixed = (mixed ^ mixed >> 31) * 0x94D049BB133111EB & _MASK
            unit = ((mixed ^ mixed >> 29) >> 11) + 0.5
            score = member.endpoint.weight / -math.log(unit / (1 << 53))
            if score > best_score:
                best, best_score = member, score
        return best
