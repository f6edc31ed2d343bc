"""A bad network between clients and the gateway: a seeded UDP proxy on loopback.

It loses, repeats, reorders, delays and throttles datagrams, goes black for a while, and changes the
source port that the gateway sees, as a NAT or a change from Wi-Fi to mobile does.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    _Send = Callable[[bytes], None]

Address = tuple[str, int]


@dataclass
class Weather:
    """How bad the network is; every field may be changed while it runs.

    Attributes:
        loss: Share of datagrams that vanish, 0 to 1, each way.
        duplication: Share of datagrams that arrive twice.
        reordering: Share of datagrams that later ones overtake.
        delay_s: Seconds that every datagram takes.
        reorder_delay_s: Seconds more that an overtaken datagram takes.
        bytes_per_s: Rate of each way, 0 for unlimited; what waits longer than a second is lost.
    """

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    delay_s: float = 0.0
    reorder_delay_s: float = 0.005
    bytes_per_s: float = 0.0


@dataclass
class Tally:
    """What the proxy did to datagrams, both ways together."""

    forwarded: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    blacked_out: int = 0
    rebinds: int = 0


class BadNetwork(asyncio.DatagramProtocol):
    """The proxy's client-facing socket; every client gets an upward socket of its own."""

    def __init__(self, gateway: Address, seed: int, weather: Weather) -> None:
        self.address: Address = ("", 0)
        self.weather = weather
        self.tally = Tally()
        self._gateway = gateway
        self._random = random.Random(seed)
        self._black_until = 0.0
        self._paths: dict[Address, _Path] = {}
        self._loop = asyncio.get_running_loop()
        self._free_at = [0.0, 0.0]  # when the rate-limited line is free again: up, down

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport
        self.address = transport.get_extra_info("sockname")[:2]

    def datagram_received(self, data: bytes, addr: Address) -> None:
        path = self._paths.get(addr)
        if path is None:
            path = self._paths[addr] = _Path(self, addr)
        self._carry(data, 0, path.send_up)

    def black_out(self, seconds: float) -> None:
        """Lose everything both ways for so many seconds from now."""
        self._black_until = self._loop.time() + seconds

    def change_source_ports(self) -> None:
        """Give every client's datagrams a new source port from now on."""
        for path in self._paths.values():
            path.rebind()
            self.tally.rebinds += 1

    def _carry(self, data: bytes, way: int, send: _Send) -> None:
        weather, chance, now = self.weather, self._random.random, self._loop.time()
        if now < self._black_until:
            self.tally.blacked_out += 1
            return
        if chance() < weather.loss:
            self.tally.lost += 1
            return
        delay = weather.delay_s
        if weather.bytes_per_s:
            start = max(now, self._free_at[way])
            if start - now > 1.0:
                self.tally.lost += 1
                return
            self._free_at[way] = start + len(data) / weather.bytes_per_s
            delay += self._free_at[way] - now
        if chance() < weather.reordering:
            self.tally.reordered += 1
            delay += weather.reorder_delay_s
        copies = 1
        if chance() < weather.duplication:
            self.tally.duplicated += 1
            copies = 2
        for _ in range(copies):
            if delay:
                self._loop.call_later(delay, send, data)
            else:
                send(data)
        self.tally.forwarded += 1

    def send_down(self, data: bytes, client: Address) -> None:
        self._carry(data, 1, lambda datagram: self._transport.sendto(datagram, client))

    def close(self) -> None:
        for path in self._paths.values():
            path.close()
        self._transport.close()


class _Path:
    """One client's way up: the socket whose port the gateway sees."""

    def __init__(self, network: BadNetwork, client: Address) -> None:
        self._network = network
        self._client = client
        self._waiting: list[bytes] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self.rebind()

    def rebind(self) -> None:
        task = asyncio.get_running_loop().create_task(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Upward(self._network, self._client), remote_addr=self._network._gateway
        )
        if self._transport is not None:
            self._transport.close()  # what still comes to the old port is lost, as behind a NAT
        self._transport = transport
        for data in self._waiting:
            transport.sendto(data)
        self._waiting.clear()

    def send_up(self, data: bytes) -> None:
        if self._transport is None:
            self._waiting.append(data)
        elif not self._transport.is_closing():
            self._transport.sendto(data)

    def close(self) -> None:
        for task in self._opening:
            task.cancel()
        if self._transport is not None:
            self._transport.close()


class _Upward(asyncio.DatagramProtocol):
    def __init__(self, network: BadNetwork, client: Address) -> None:
        self._network = network
        self._client = client

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._network.send_down(data, self._client)


@asynccontextmanager
async def bad_network(
    gateway: Address, seed: int, weather: Weather | None = None
) -> AsyncIterator[BadNetwork]:
    """Run a proxy to the gateway on a free port of loopback; its ``address`` is for the clients."""
    _, network = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: BadNetwork(gateway, seed, weather or Weather()), local_addr=("127.0.0.1", 0)
    )
    try:
        yield network
    finally:
        network.close()
