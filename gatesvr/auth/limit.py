"""FailureLimit: an address whose authentications fail is not asked about for a while."""

from __future__ import annotations

import ipaddress

__all__ = ["FailureLimit"]

RATE = 1.0
"""Failures a second that an address prefix may have."""
BURST = 20.0
"""Failures at once."""
MAX_PREFIXES = 10_000
"""Prefixes remembered; above it the one that failed longest ago is forgotten."""


class FailureLimit:
    """A token bucket for the failures of each address prefix: an IPv4 address, an IPv6 /64.

    There is none for an openid: whoever knows a user's openid could keep that user out, and a
    signature cannot be guessed.
    """

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}  # prefix: (tokens, loop time)

    def allows(self, ip: str, now: float) -> bool:
        """Return whether another authentication may be tried."""
        return self._tokens(prefix_of(ip), now) >= 1.0

    def failed(self, ip: str, now: float) -> None:
        """Count a failure."""
        prefix = prefix_of(ip)
        tokens = self._tokens(prefix, now) - 1.0
        self._buckets.pop(prefix, None)
        self._buckets[prefix] = (tokens, now)
        if len(self._buckets) > MAX_PREFIXES:
            del self._buckets[next(iter(self._buckets))]

    def _tokens(self, prefix: str, now: float) -> float:
        tokens, at = self._buckets.get(prefix, (BURST, now))
        return min(BURST, tokens + RATE * (now - at))


def prefix_of(ip: str) -> str:
    """Return the addresses that count as one client's: an IPv4 address, or an IPv6 /64."""
    address = ipaddress.ip_address(ip)
    if address.version == 4:
        return ip
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
