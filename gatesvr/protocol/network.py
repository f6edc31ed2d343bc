"""The network of an address: the addresses that count as one client's."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

__all__ = ["network_of"]


@lru_cache(maxsize=1024)
def network_of(ip: str) -> bytes:
    """Return the bits of an IPv4 address, or of an IPv6 address's /64.

    A customer has at least a /64 to send from, so a limit by IPv6 address would limit nobody. A
    login asks five times.
    """
    if ":" in ip:
        return ipaddress.IPv6Address(ip).packed[:8]
    return bytes(map(int, ip.split(".")))
