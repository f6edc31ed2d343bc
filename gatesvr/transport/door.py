"""Door: a UDP address that clients come in by, and the kind of connection made for them.

The ConnectionListener has one for its own protocol, and may open others.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..config import parse_address
from ..errors import ConfigError
from ..observe.log import keys
from .addresses import resolve
from .counters import EndpointCounters
from .udp.endpoint import Endpoint, EndpointGroup, add_up
from .udp.sockets import is_wildcard, open_sockets

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Sequence

    from ..config import TransportConfig
    from .addresses import Address, Datagram
    from .connection import Connection
    from .quic.interface import ServerFactory
    from .udp.driver import Driver

__all__ = ["Door"]

logger = logging.getLogger("gatesvr.transport")


class Door:
    """A UDP address, and the connections that begin there.

    Args:
        alpn: The protocol that clients speak.
        make: Makes their connections; Connection's arguments.
        name: Names its sockets among those of all processes: steering.QUIC, steering.WEB_QUIC.

    Attributes:
        alpn: The protocol.
        make: Makes connections.
        name: Names the sockets.
        counters: The sockets'.
        server: Makes their QUIC, with the certificate of now; the listener's.
        endpoint: The sockets; None until the door is open.
    """

    __slots__ = ("_covers", "_read", "alpn", "counters", "endpoint", "make", "name", "server")

    def __init__(self, alpn: str, make: Callable[..., Connection], name: str) -> None:
        self.alpn = alpn
        self.make = make
        self.name = name
        self.counters = EndpointCounters()
        self.server: ServerFactory
        self.endpoint: Endpoint | EndpointGroup | None = None
        self._read: Callable[[socket.socket], Endpoint]
        self._covers: dict[socket.socket, Endpoint] = {}

    async def open(
        self,
        bind: str,
        field: str,
        config: TransportConfig,
        driver: Driver,
        receive: Callable[[list[Datagram], float], None],
        inherited: Sequence[socket.socket] = (),
    ) -> Address:
        """Listen; return the address, with the real port.

        Args:
            bind: The address to listen on.
            field: The setting that it comes from.
            config: The sockets' buffers.
            driver: Drives the sockets.
            receive: Takes batches of datagrams.
            inherited: Sockets that are open already, in the place of ones on the address.

        Raises:
            ConfigError: The address cannot be used.
        """
        socks = list(inherited) or await self._open_sockets(bind, field, config)
        is_batched = config.batch_io
        self._read = lambda sock: Endpoint(
            driver,
            sock,
            receive,
            is_batched=is_batched,
            with_local=len(socks) > 1 or is_wildcard(sock),
        )
        try:
            if len(socks) == 1:
                self.endpoint = self._read(socks[0])
            else:
                self.endpoint = group = EndpointGroup(driver, socks, receive, is_batched=is_batched)
                addresses = " ".join(str(address[:2]) for address in group.addresses)
                logger.info("listening", extra=keys(udp=addresses))
        except BaseException:
            for sock in socks:
                sock.close()
            raise
        return self.endpoint.address

    async def _open_sockets(
        self, bind: str, field: str, config: TransportConfig
    ) -> list[socket.socket]:
        host, port = parse_address(bind)
        try:
            return open_sockets(
                # An empty host is every address, as in config.
                await resolve(host or "0.0.0.0", port),  # noqa: S104
                receive_buffer=config.receive_buffer,
                send_buffer=config.send_buffer,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on UDP {bind}: {error.strerror or error}", field=field
            ) from None

    def set_reading(self, *, is_reading: bool) -> None:
        """Read what arrives, or leave it in the sockets to another process that reads them."""
        assert self.endpoint is not None
        if is_reading:
            self.endpoint.resume_reading()
        else:
            self.endpoint.pause_reading()
            self.cover(())

    def cover(self, socks: Collection[socket.socket]) -> None:
        """Read these sockets too, whose process has died, and none that were covered before.

        Answers leave by the door's own sockets, which have the same addresses.
        """
        for sock, endpoint in self._covers.items():
            if sock not in socks:
                endpoint.pause_reading()
        for sock in socks:
            if sock in self._covers:
                self._covers[sock].resume_reading()
            else:
                self._covers[sock] = endpoint = self._read(sock)
                # Gauges of a socket that another process has.
                endpoint.counters.receive_buffer_bytes = endpoint.counters.send_buffer_bytes = 0

    def send(self, data: bytes, address: Address) -> None:
        """Send a datagram at the end of this turn."""
        assert self.endpoint is not None
        self.endpoint.send([(data, address)])

    def close(self) -> None:
        """Close the sockets; does nothing where they are not open."""
        if self.endpoint is not None:
            self.endpoint.close()
        for endpoint in self._covers.values():
            endpoint.close()

    def count(self) -> None:
        """Bring the counters up to date."""
        if self.endpoint is not None:
            parts = [self.endpoint, *self._covers.values()]
            add_up(self.counters, [part.counters for part in parts])
