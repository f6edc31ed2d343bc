"""The TCP sockets that the WebListener listens on."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

from ...errors import ConfigError
from ..addresses import Address, resolve, without_scope

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["listen_on", "open_listening", "open_plain"]

BACKLOG = 1_024


async def listen_on(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets on all addresses of a host, all of one port.

    Raises:
        OSError: One of them cannot be used.
    """
    return open_listening(await resolve(host or "0.0.0.0", port))  # noqa: S104


async def open_plain(port: int) -> list[socket.socket]:
    """Return sockets that listen on loopback, for pages without TLS.

    Args:
        port: The port; where it is taken, or 0, any free one.

    Raises:
        ConfigError: There is none.
    """
    try:
        try:
            found = await listen_on("127.0.0.1", port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            found = await listen_on("127.0.0.1", 0)
    except OSError as error:
        raise ConfigError(f"cannot listen on TCP 127.0.0.1: {error.strerror}") from None
    with contextlib.suppress(OSError):
        found += await listen_on("::1", found[0].getsockname()[1])  # where there is IPv6
    return found


def open_listening(
    addresses: Iterable[tuple[socket.AddressFamily, Address]], *, is_shared: bool = False
) -> list[socket.socket]:
    """Return a listening socket for each address, all of one port.

    Args:
        addresses: Families and addresses with one port; for port 0 a free one is taken.
        is_shared: Let other sockets of this user have the same addresses (SO_REUSEPORT).

    Raises:
        OSError: One of them cannot be used.
    """
    found: list[socket.socket] = []
    try:
        for family, address in addresses:
            if found and not address[1]:
                address = (address[0], found[0].getsockname()[1], *address[2:])
            found.append(_listen(family, address, is_shared=is_shared))
    except OSError:
        for sock in found:
            sock.close()
        raise
    return found


def _listen(family: socket.AddressFamily, address: Address, *, is_shared: bool) -> socket.socket:
    is_dual = family == socket.AF_INET6 and without_scope(address[0]) == "::"
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not is_dual))
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
