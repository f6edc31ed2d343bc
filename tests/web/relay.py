"""A relay in front of a gateway's web port, TCP and UDP of one port, that can be cut."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ..e2e.bad_line import BadLine
from ..e2e.bad_network import BadNetwork, Weather
from ..e2e.plain_client import host_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_TRIES = 100
FOREVER_S = 3_600.0


class Relay:
    """A network that forwards everything, nothing, or TCP alone.

    Attributes:
        address: HOST:PORT for the clients.
    """

    def __init__(self, tcp: BadLine, udp: BadNetwork | None) -> None:
        self.address = "{}:{}".format(*tcp.address)
        self._tcp = tcp
        self._udp = udp

    def cut(self) -> None:
        """Let nothing through any more: neither side is told. TCP sends it again after mend()."""
        self._tcp.black_out(FOREVER_S)
        self.cut_udp()

    def cut_udp(self) -> None:
        """Lose every datagram."""
        if self._udp is not None:
            self._udp.black_out(FOREVER_S)

    def rebind(self) -> None:
        """Let the gateway see every datagram's sender at another port, as behind a new NAT."""
        assert self._udp is not None
        self._udp.change_source_ports()

    def mend(self) -> None:
        """Let everything through again."""
        self._tcp.end_blackout()
        if self._udp is not None:
            self._udp.end_blackout()


@asynccontextmanager
async def relay(gateway: str, *, has_udp: bool = True) -> AsyncIterator[Relay]:
    """Run a relay to a gateway's HOST:PORT; without UDP its port is closed for that."""
    target = host_port(gateway)
    tcp = BadLine(target, 1, Weather())
    for tries_left in reversed(range(MAX_TRIES)):
        udp = BadNetwork(target, seed=1)
        try:
            await tcp.start(udp.address[1])
            break
        except OSError:  # that number is taken for TCP
            udp.close()
            if not tries_left:
                raise
    if not has_udp:
        udp.close()
    try:
        yield Relay(tcp, udp if has_udp else None)
    finally:
        await tcp.close()
        if has_udp:
            udp.close()
