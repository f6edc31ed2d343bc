"""Socket addresses, and the names that they are looked up by."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote, urlsplit

from ..config import join_address, parse_address

__all__ = [
    "Address",
    "Datagram",
    "Place",
    "host_name",
    "is_loopback",
    "parse_place",
    "plain_address",
    "resolve",
    "unscoped",
    "without_local",
    "without_scope",
]

Address: TypeAlias = Any
"""A socket address as the socket gives it: (host, port), for IPv6 (host, port, flow, scope).

Where a socket receives for several addresses of this host, the one that the peer sent to follows,
as bytes. So each answer leaves from the address that was asked, and a change of it is a new path.
"""
Datagram: TypeAlias = "tuple[bytes, Address]"

WEB_PATH = "/gatesvr"
"""Path of a gateway's WebSocket where the URL has none."""
MAX_URL = 2_048
_WEB_PORTS = {"wss": 443, "ws": 80}
_PATH_CHARACTERS = "/%:@!$&'()*+,;=~"


class Place(NamedTuple):
    """Where a gateway is, and the way to it; str() writes it as a person would.

    Attributes:
        host: Its name or address, a link-local one with its interface: ``fe80::1%eth0``.
        port: Its UDP port, or the TCP port of its WebSockets.
        path: Path and query of its WebSocket's URL; empty for QUIC.
        is_plain: Whether the WebSocket is without TLS.
    """

    host: str
    port: int
    path: str = ""
    is_plain: bool = False

    def __str__(self) -> str:
        address = join_address(self.host, self.port)
        if not self.path:
            return address
        return f"{'ws' if self.is_plain else 'wss'}://{address}{self.path}"


def parse_place(text: str) -> Place:
    """Return the gateway that ``HOST:PORT`` or ``wss://HOST[:PORT][/PATH]`` names.

    ``ws://``, without TLS, is for a host of this machine only.

    Raises:
        ValueError: It is neither; the message says why.
    """
    if "://" not in text:
        return Place(*parse_address(text))
    shown = f"{text!r:.80}"
    if len(text) > MAX_URL or not text.isprintable() or " " in text:
        raise ValueError(f"{shown} is no URL")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise ValueError(f"{shown} is no URL: {error}") from None
    host = (url.hostname or "").replace("%25", "%")
    if url.scheme not in _WEB_PORTS:
        raise ValueError(f"{shown} is neither HOST:PORT nor wss://HOST:PORT{WEB_PATH}")
    if not host or "@" in url.netloc or url.fragment:
        raise ValueError(f"{shown} is not wss://HOST:PORT{WEB_PATH}")
    if url.scheme == "ws" and not is_loopback(host):
        raise ValueError(f"{shown} is without TLS, which is for this machine only: write wss://")
    path = quote(url.path or WEB_PATH, _PATH_CHARACTERS)
    if url.query:
        path += "?" + quote(url.query, _PATH_CHARACTERS + "?")
    return Place(host, _WEB_PORTS[url.scheme] if port is None else port, path, url.scheme == "ws")


def is_loopback(host: str) -> bool:
    """Return whether host is this machine by name or by address."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(without_scope(host)).is_loopback
    except ValueError:
        return False


def without_scope(host: str) -> str:
    """Return a host without the scope of a link-local address: ``fe80::1%eth0`` → ``fe80::1``."""
    return host.partition("%")[0]


def unscoped(address: Address) -> Address:
    """Return an address without the scope's name: its number is in the tuple, qh3 takes no name."""
    host = address[0]
    return (without_scope(host), *address[1:]) if "%" in host else address


def without_local(address: Address) -> Address:
    """Return a peer's address without our own address after it."""
    return address[:-1] if type(address[-1]) is bytes else address


def plain_address(address: Address) -> tuple[str, int]:
    """Return (ip, port) without a scope or a v4-mapping."""
    host = without_scope(str(address[0]))
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return host, int(address[1])


def host_name(host: str) -> str:
    """Return the name of a host as the network knows it: an international one in ASCII.

    Raises:
        ValueError: It is not a host name; the message says why.
    """
    if ":" in host:
        return host  # an IPv6 address, whose scope is any text
    try:
        return host.encode("idna").decode()
    except UnicodeError as error:
        # The codec's message fits one label only: "label empty or too long".
        reason = "it has an empty label" if ".." in host or host.startswith(".") else ""
        if not reason and any(len(label) > 63 for label in host.split(".")):
            reason = "a label has at most 63 characters"
        raise ValueError(f"{host!r:.80} is no host name: {reason or error}") from None


async def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, Address]]:
    """Return family and socket address of each address of a host, each once.

    IPv4 comes first, because the gateway listens on 0.0.0.0 by default; then the families take
    turns (RFC 8305 4).

    Args:
        host: A name or an address, with a scope or without.
        port: UDP port.

    Raises:
        OSError: There is no such host or interface, or the name cannot be one.
    """

    def look_up(flags: int = 0) -> Iterable[tuple[socket.AddressFamily, Address]]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)
        return [(entry[0], unscoped(entry[4])) for entry in found if entry[0] in families]

    families = (socket.AF_INET, socket.AF_INET6)
    try:
        try:
            found = look_up(socket.AI_NUMERICHOST)
        except socket.gaierror:
            scope = host.partition("%")[2] if ":" in host else ""
            if scope:
                raise OSError(0, f"there is no network interface {scope!r:.40}") from None
            # Not the loop's own getaddrinfo: uvloop's drops the scope of an address.
            found = await asyncio.get_running_loop().run_in_executor(None, look_up)
    except UnicodeError as error:  # a label that is empty or too long
        raise OSError(errno.EINVAL, f"not a host name: {error}") from None
    by_family = [[entry for entry in found if entry[0] == family] for family in families]
    mixed = chain.from_iterable(zip_longest(*by_family))
    return list(dict.fromkeys(entry for entry in mixed if entry is not None))
