"""PrefixLimits: how much of the gateway one network may take.

An address counts in two networks: a narrow one, which one customer has (an IPv4 address, an IPv6
/64), and the wide one around it (/24, /56), which may have WIDE_SHARE times as much.

Anybody can forge an address. So what has not proved its address may take half of a network's limits
only; the other half is for those that have, by a Retry.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections import Counter
from typing import TypeAlias

from .._core.limits import TokenBuckets
from ..config import TransportConfig
from .counters import TransportCounters

__all__ = ["PrefixLimits", "Prefixes"]

Prefixes: TypeAlias = "tuple[bytes, bytes]"
"""The narrow and the wide network of an address: their bits."""

WIDE_SHARE = 4
MAX_NARROW = 1 << 15
"""Narrow networks whose rate is kept, 16 bytes each."""
MAX_WIDE = 1 << 14


class PrefixLimits:
    """Counts connections and handshakes by network, and their rate.

    Args:
        config: The limits; 0 is none.
        counters: Where to count refusals.
    """

    def __init__(self, config: TransportConfig, counters: TransportCounters) -> None:
        self._counters = counters
        self._connections: Counter[bytes] = Counter()
        self._handshakes: Counter[bytes] = Counter()
        self._rate: tuple[int, int, bool] | None = None
        self._rates: tuple[TokenBuckets, TokenBuckets] | None = None
        self._unproved: tuple[TokenBuckets, TokenBuckets] | None = None
        self.apply(config)

    def apply(self, config: TransportConfig) -> None:
        """Take other limits; what is counted stays, and so do rates where theirs is the same."""
        self._max_connections = config.max_connections_per_prefix
        self._max_handshakes = config.max_handshakes_per_prefix
        self._dry_run = frozenset(config.dry_run)
        self._unlimited = [
            ipaddress.ip_network(text, strict=False) for text in config.unlimited_prefixes
        ]
        rate, burst = config.max_connection_rate_per_prefix, config.connection_burst_per_prefix
        is_enforced = "max_connection_rate_per_prefix" not in self._dry_run
        if self._rate == (rate, burst, is_enforced):
            return
        self._rate = (rate, burst, is_enforced)
        self._rates = _buckets(rate, burst) if rate else None
        self._unproved = None
        if rate and is_enforced:
            self._unproved = _buckets(rate / 2, max(1.0, burst / 2))

    def __len__(self) -> int:
        """Return the number of networks that have connections."""
        return len(self._connections)

    def prefixes(self, ip: str) -> Prefixes | None:
        """Return the networks of an address; None where it has no limits."""
        if self._unlimited:
            address = ipaddress.ip_address(ip)
            if any(address in network for network in self._unlimited):
                return None
        if ":" in ip:
            packed = socket.inet_pton(socket.AF_INET6, ip)
            return packed[:8], packed[:7]
        packed = socket.inet_aton(ip)
        return packed, packed[:3]

    def needs_proof(self, prefixes: Prefixes, now: float) -> bool:
        """Return whether a client of these networks has to prove its address first."""
        half = (self._max_handshakes + 1) // 2
        if (
            self._is_above(self._handshakes, half, prefixes)
            and "max_handshakes_per_prefix" not in self._dry_run
        ):
            return True
        return self._unproved is not None and any(
            rate.take(prefix, now) for rate, prefix in zip(self._unproved, prefixes, strict=True)
        )

    def admits(self, prefixes: Prefixes, now: float) -> bool:
        """Return whether another connection of these networks may begin; count why not."""
        counters, dry_run = self._counters, self._dry_run
        if self._is_above(self._connections, self._max_connections, prefixes):
            counters.prefix_connections_limited += 1
            if "max_connections_per_prefix" not in dry_run:
                return False
        if self._is_above(self._handshakes, self._max_handshakes, prefixes):
            counters.prefix_handshakes_limited += 1
            if "max_handshakes_per_prefix" not in dry_run:
                return False
        if self._rates is not None and any(
            rate.take(prefix, now) for rate, prefix in zip(self._rates, prefixes, strict=True)
        ):
            counters.prefix_rate_limited += 1
            return "max_connection_rate_per_prefix" in dry_run
        return True

    def begin(self, prefixes: Prefixes) -> None:
        """Count a connection whose handshake begins."""
        self._connections.update(prefixes)
        self._handshakes.update(prefixes)

    def complete(self, prefixes: Prefixes) -> None:
        """Count the end of a handshake."""
        _remove(self._handshakes, prefixes)

    def end(self, prefixes: Prefixes) -> None:
        """Count the end of a connection."""
        _remove(self._connections, prefixes)

    @staticmethod
    def _is_above(counts: Counter[bytes], limit: int, prefixes: Prefixes) -> bool:
        narrow, wide = prefixes
        return limit > 0 and (counts[narrow] >= limit or counts[wide] >= limit * WIDE_SHARE)


def _buckets(rate: float, burst: float) -> tuple[TokenBuckets, TokenBuckets]:
    """Return the buckets of narrow and of wide networks."""
    seed = int.from_bytes(os.urandom(8))
    return (
        TokenBuckets(rate, burst, MAX_NARROW, seed),
        TokenBuckets(rate * WIDE_SHARE, burst * WIDE_SHARE, MAX_WIDE, seed),
    )


def _remove(counts: Counter[bytes], prefixes: Prefixes) -> None:
    for prefix in prefixes:
        counts[prefix] -= 1
        if not counts[prefix]:
            del counts[prefix]
