"""Ports: the sockets of a gateway of several processes, held by its supervisor.

Sockets for clients are opened here, one a slot, and inherited by all workers: each reads those of
its slot, and while another slot has no worker, a neighbour reads that one's, too. The push port is
only reserved, by a socket that is bound and does not listen: gRPC opens sockets itself, each
worker's beside this one (SO_REUSEPORT), and the kernel spreads new connections over those that
listen.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

import msgspec

from ..config import join_address, parse_address
from ..errors import ConfigError
from ..transport.addresses import resolve
from ..transport.steering import (
    QUIC,
    WEB_PLAIN,
    WEB_QUIC,
    WEB_TCP,
    attach,
    close_group,
    open_groups,
)
from ..transport.web.sockets import open_plain

if TYPE_CHECKING:
    from ..config import Config
    from ..transport.addresses import Address

__all__ = ["Ports", "reserve"]

MAX_PORTS = 20
"""Free ports tried until one is free on all addresses of a host."""
PLAIN_PORT = 8080
"""Of the demo's page without TLS, where it is free."""


class Ports:
    """The sockets of a gateway of several processes.

    Args:
        slots: Sockets of each address.
        is_any_web_port: Whether to take a free port where that for web clients is taken.
        has_page: Whether the demo's page is served on loopback, too.
    """

    def __init__(
        self, slots: int, *, is_any_web_port: bool = False, has_page: bool = False
    ) -> None:
        self._slots = slots
        self._is_any_web_port = is_any_web_port
        self._has_page = has_page
        self._groups: dict[str, list[list[socket.socket]]] = {}
        self._reserved: list[socket.socket] = []
        self._push = 0

    async def open(self, config: Config) -> None:
        """Open and reserve them.

        Raises:
            ConfigError: One is in use, or its address is not of this machine.
        """
        try:
            self._groups = await self._open_groups(config)
            self._reserved = await reserve(config.push.bind, "push.bind")
            self._push = self._reserved[0].getsockname()[1]
            if self._has_page and WEB_TCP in self._groups:
                # Who wants any free port for the other clients has the usual ones in use.
                port = PLAIN_PORT if parse_address(config.transport.web.bind)[1] else 0
                self._groups[WEB_PLAIN] = [await open_plain(port)] * self._slots
        except BaseException:
            self.close()
            raise

    async def _open_groups(self, config: Config) -> dict[str, list[list[socket.socket]]]:
        transport = config.transport
        try:
            return await open_groups(transport, self._slots)
        except ConfigError as error:
            if not self._is_any_web_port or error.field != "transport.web.bind":
                raise
        web = msgspec.structs.replace(transport.web, bind=_with_port(transport.web.bind, 0))
        return await open_groups(msgspec.structs.replace(transport, web=web), self._slots)

    def steer(self, key: bytes, how: str) -> bool:
        """Make the kernel steer datagrams to their workers' slots; return whether it does.

        Args:
            key: Of the connection ids.
            how: ``workers.steer``.

        Raises:
            ConfigError: It is ``bpf``, and the kernel does not.
        """
        if how == "forward":
            return False
        groups = [self._groups[name][0] for name in (QUIC, WEB_QUIC) if name in self._groups]
        steers = True
        for sock in (sock for socks in groups for sock in socks):
            steers &= attach(sock, key, self._slots)
        if how == "bpf" and not steers:
            raise ConfigError("the kernel takes no program for it here", field="workers.steer")
        return steers

    def pinned(self, config: Config) -> Config:
        """Return a configuration with the ports that are open here in the place of others."""
        web, transport, push = config.transport.web, config.transport, config.push
        for name in (WEB_TCP, WEB_QUIC):
            if name in self._groups:
                web = msgspec.structs.replace(web, bind=_with_port(web.bind, self._port(name)))
        bind = _with_port(transport.bind, self._port(QUIC))
        transport = msgspec.structs.replace(transport, bind=bind, web=web)
        push = msgspec.structs.replace(push, bind=_with_port(push.bind, self._push))
        return msgspec.structs.replace(config, transport=transport, push=push)

    def sockets(self, slot: int) -> dict[str, list[socket.socket]]:
        """Return the sockets of a slot, by the name of their group."""
        return {name: group[slot] for name, group in self._groups.items()}

    def others(self, slot: int) -> dict[int, dict[str, list[socket.socket]]]:
        """Return the sockets of each other slot, without those that are this slot's, too."""
        return {
            other: {
                name: group[other]
                for name, group in self._groups.items()
                if group[other] is not group[slot]
            }
            for other in range(self._slots)
            if other != slot
        }

    def stop_listening(self) -> None:
        """Refuse TCP connections, once the workers do: those that connect find the port closed."""
        for name in (WEB_TCP, WEB_PLAIN):
            close_group(self._groups.pop(name, []))

    def close(self) -> None:
        """Close all of them."""
        for group in self._groups.values():
            close_group(group)
        for sock in self._reserved:
            sock.close()
        self._groups.clear()
        self._reserved.clear()

    def _port(self, name: str) -> int:
        port: int = self._groups[name][0][0].getsockname()[1]
        return port


async def reserve(bind: str, field: str) -> list[socket.socket]:
    """Return sockets that keep a TCP port for the workers, one for each address of a host.

    Args:
        bind: HOST:PORT; port 0 for any free one.
        field: The setting that names it.

    Raises:
        ConfigError: The port is in use, or the address is not of this machine.
    """
    host, port = parse_address(bind)
    try:
        found = await resolve(host or "::", port)
        for attempt in range(1, MAX_PORTS + 1):
            try:
                return await asyncio.to_thread(_reserve, found)
            except OSError as error:
                # A port that is free on one address may not be on the next one.
                is_unlucky = len(found) > 1 and not port and error.errno == errno.EADDRINUSE
                if not is_unlucky or attempt == MAX_PORTS:
                    raise
    except OSError as error:
        raise ConfigError(f"{bind}: {error.strerror or error}", field=field) from None
    raise AssertionError


def _reserve(found: list[tuple[socket.AddressFamily, Address]]) -> list[socket.socket]:
    socks: list[socket.socket] = []
    try:
        for family, address in found:
            if socks and not address[1]:
                address = (address[0], socks[0].getsockname()[1], *address[2:])
            if address[1]:
                _probe(family, address)
            socks.append(_bound(family, address, is_shared=True))
    except OSError:
        for sock in socks:
            sock.close()
        raise
    return socks


def _probe(family: socket.AddressFamily, address: Address) -> None:
    """Refuse a port on which somebody listens; SO_REUSEPORT alone would share it with them."""
    with _bound(family, address, is_shared=False) as sock:
        sock.listen(1)


def _bound(family: socket.AddressFamily, address: Address, *, is_shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _with_port(bind: str, port: int) -> str:
    return join_address(parse_address(bind)[0], port)
