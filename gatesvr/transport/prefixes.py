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
from typing import TypeAlias

from .._core.limits import TokenBuckets
from ..config import TransportConfig
from ..protocol.network import network_of
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
        self._connections: dict[bytes, int] = {}
        self._handshakes: dict[bytes, int] = {}
        self._rate: tuple[int, int, bool] | None = None
        self._rates: tuple[TokenBuckets, TokenBuckets] | None = None
        self._unproved: tuple[TokenBuckets, TokenBuckets] | None = None
        self.apply(config)

    def apply(self, config: TransportConfig) -> None:
        """Take other limits; what is counted stays, and so do rates where theirs is the same."""
        self._max_connections = config.max_connections_per_prefix
        self._max_handshakes = config.max_handshakes_per_prefix
        self._dry_run = frozenset(config.dry_run)
        self._unlimited = [_Unlimited(text) for text in config.unlimited_prefixes]
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
        for network in self._unlimited:
            if network.has(ip):
                return None
        narrow = network_of(ip)
        return narrow, narrow[:-1]

    def needs_proof(self, prefixes: Prefixes, now: float) -> bool:
        """Return whether a client of these networks has to prove its address first."""
        half = (self._max_handshakes + 1) // 2
        if (
            self._is_above(self._handshakes, half, prefixes)
            and "max_handshakes_per_prefix" not in self._dry_run
        ):
            return True
        return self._unproved is not None and _is_above_rate(self._unproved, prefixes, now)

    def is_full(self, prefixes: Prefixes) -> bool:
        """Return whether these networks have as many connections or handshakes as they may."""
        dry_run = self._dry_run
        return (
            self._is_above(self._connections, self._max_connections, prefixes)
            and "max_connections_per_prefix" not in dry_run
        ) or (
            self._is_above(self._handshakes, self._max_handshakes, prefixes)
            and "max_handshakes_per_prefix" not in dry_run
        )

    def admits(self, prefixes: Prefixes, now: float) -> bool:
        """Return whether another connection of these networks may begin; count why not."""
        if not self.has_place(prefixes):
            return False
        if self._rates is not None and _is_above_rate(self._rates, prefixes, now):
            self._counters.prefix_rate_limited += 1
            return "max_connection_rate_per_prefix" in self._dry_run
        return True

    def has_place(self, prefixes: Prefixes) -> bool:
        """Return whether another connection of these networks has a place; count why not."""
        counters, dry_run = self._counters, self._dry_run
        if self._is_above(self._connections, self._max_connections, prefixes):
            counters.prefix_connections_limited += 1
            if "max_connections_per_prefix" not in dry_run:
                return False
        if self._is_above(self._handshakes, self._max_handshakes, prefixes):
            counters.prefix_handshakes_limited += 1
            return "max_handshakes_per_prefix" in dry_run
        return True

    def begin(self, prefixes: Prefixes) -> None:
        """Count a connection whose handshake begins."""
        for prefix in prefixes:
            self._connections[prefix] = self._connections.get(prefix, 0) + 1
            self._handshakes[prefix] = self._handshakes.get(prefix, 0) + 1

    def complete(self, prefixes: Prefixes) -> None:
        """Count the end of a handshake."""
        _remove(self._handshakes, prefixes)

    def end(self, prefixes: Prefixes) -> None:
        """Count the end of a connection."""
        _remove(self._connections, prefixes)

    @staticmethod
    def _is_above(counts: dict[bytes, int], limit: int, prefixes: Prefixes) -> bool:
        narrow, wide = prefixes
        return limit > 0 and (
            counts.get(narrow, 0) >= limit or counts.get(wide, 0) >= limit * WIDE_SHARE
        )


class _Unlimited:
    """A network without limits; ipaddress's own would cost each client five microseconds."""

    def __init__(self, text: str) -> None:
        network = ipaddress.ip_network(text, strict=False)
        self._family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        self._shift = network.max_prefixlen - network.prefixlen
        self._bits = int(network.network_address) >> self._shift

    def has(self, ip: str) -> bool:
        """Return whether an address is one of it."""
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        if family != self._family:
            return False
        return int.from_bytes(socket.inet_pton(family, ip)) >> self._shift == self._bits


def _buckets(rate: float, burst: float) -> tuple[TokenBuckets, TokenBuckets]:
    """Return the buckets of narrow and of wide networks."""
    seed = int.from_bytes(os.urandom(8))
    return (
        TokenBuckets(rate, burst, MAX_NARROW, seed),
        TokenBuckets(rate * WIDE_SHARE, burst * WIDE_SHARE, MAX_WIDE, seed),
    )


def _is_above_rate(
    rates: tuple[TokenBuckets, TokenBuckets], prefixes: Prefixes, now: float
) -> bool:
    """Take a token of both networks, unless one has none: then neither pays."""
    (narrow_rate, wide_rate), (narrow, wide) = rates, prefixes
    if wide_rate.wait(wide, now) or narrow_rate.take(narrow, now):
        return True
    wide_rate.take(wide, now)
    return False


def _remove(counts: dict[bytes, int], prefixes: Prefixes) -> None:
    for prefix in prefixes:
        count = counts[prefix] - 1
        if count:
            counts[prefix] = count
        else:
            del counts[prefix]
