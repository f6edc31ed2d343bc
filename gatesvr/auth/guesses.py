"""GuessLimit: a network that shows many wrong tokens waits before the next one is looked at."""

from __future__ import annotations

import os

from .._core.limits import TokenBuckets
from ..protocol.network import network_of

__all__ = ["GuessLimit"]

RATE, BURST = 1.0, 10.0
"""Wrong tokens of one network: a second, and at once."""
MAX_NETWORKS = 1 << 12
"""Networks whose wrong tokens are remembered, 16 bytes each."""


class GuessLimit:
    """The wrong tokens of each network (an IPv4 address, an IPv6 /64).

    While a network has to wait none of its tokens is looked at, be it a good one: a good one must
    not be told apart.
    """

    def __init__(self) -> None:
        self._buckets = TokenBuckets(RATE, BURST, MAX_NETWORKS, int.from_bytes(os.urandom(8)))

    def wait(self, ip: str, now: float) -> float:
        """Return the seconds until a token of an address is looked at, 0.0 for now.

        Args:
            ip: The client's address; an empty one, as of a Unix socket, never waits.
            now: Monotonic seconds.
        """
        return self._buckets.wait(_network(ip), now) if ip else 0.0

    def guessed(self, ip: str, now: float) -> None:
        """Enter a wrong token."""
        if ip:
            self._buckets.take(_network(ip), now)


def _network(ip: str) -> bytes:
    return network_of(ip.removeprefix("::ffff:"))
