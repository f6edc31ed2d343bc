"""A bad network between clients and the gateway: a seeded UDP proxy on loopback.

It loses, repeats, reorders, delays and throttles datagrams, goes black for a while, changes the
source port that the gateway sees, as a NAT or a change from Wi-Fi to mobile does, and cuts
connections off for good.

The n-th datagram of a path and way meets the same fate in each run with the same seed and weather,
whatever other paths carry meanwhile. What it holds is bounded: MAX_DELAYED datagrams under way,
beyond which the newest are lost, and MAX_PATHS clients, beyond which the longest silent is
forgotten; both are counted.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from .plain_client import host_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    _Send = Callable[[bytes], None]

Address = tuple[str, int]

MAX_DELAYED = 4_096
"""Datagrams under way, both ways together."""
MAX_PATHS = 128
"""Clients' sockets that have an upward socket."""
MAX_BATCH = 64
"""Datagrams read before others get their turn."""
MAX_QUEUE_S = 1.0
"""What would wait longer than this for a rate-limited line is lost, seconds."""
MAX_DATAGRAM = 65_535
BUFFER_BYTES = 1 << 20

UP, DOWN = 0, 1


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
    """What the proxy did, both ways together."""

    forwarded: int = 0
    """Datagrams let through, each once."""
    lost: int = 0
    """Datagrams that the weather took."""
    duplicated: int = 0
    reordered: int = 0
    throttled: int = 0
    """Datagrams lost because a rate-limited line was busy."""
    blacked_out: int = 0
    """Datagrams lost in blackouts."""
    cut_off: int = 0
    """Datagrams lost on paths that were cut."""
    overflowed: int = 0
    """Datagrams lost because too many were under way, or a socket took no more."""
    refused: int = 0
    """Times that nobody listened where the gateway should be."""
    blackouts: int = 0
    rebinds: int = 0
    """Paths that got a new source port, those of sockets that clients have left included."""
    cuts: int = 0
    """Paths cut off for good."""
    forgotten: int = 0
    """Paths given up because there were too many."""


class Fate(NamedTuple):
    """What becomes of a datagram."""

    is_lost: bool
    is_doubled: bool
    is_late: bool


class Dice:
    """Decides over the datagrams of one path and way: the same for the same seed and name."""

    def __init__(self, seed: int, name: str) -> None:
        self._roll = random.Random(f"{seed}/{name}").random

    def fate(self, weather: Weather) -> Fate:
        """Decide over the next datagram."""
        # As many rolls for each datagram, or a change of the weather would shift what follows.
        loss, duplication, reordering = self._roll(), self._roll(), self._roll()
        return Fate(
            loss < weather.loss, duplication < weather.duplication, reordering < weather.reordering
        )


class BadNetwork:
    """The proxy: a socket for clients, and an upward socket for each of them.

    Args:
        gateway: Where the datagrams go.
        seed: Of every decision.
        weather: How bad it is; none for a perfect network.

    Attributes:
        address: For the clients.
        weather: May be changed at any time.
        tally: What was done so far.
    """

    def __init__(self, gateway: Address, seed: int, weather: Weather | None = None) -> None:
        self.weather = weather or Weather()
        self.tally = Tally()
        self._gateway = gateway
        self._seed = seed
        self._loop = asyncio.get_running_loop()
        self._black_until = 0.0
        self._paths: dict[Address, _Path] = {}
        self._path_numbers = count(1)
        self._free_at = [0.0, 0.0]  # when the rate-limited line is free again: up, down
        self._delayed: list[tuple[float, int, bytes, _Send]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._sock = _udp_socket()
        self._sock.bind(("127.0.0.1", 0))
        self.address: Address = self._sock.getsockname()
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def black_out(self, seconds: float) -> None:
        """Lose everything both ways for so many seconds from now; what is under way arrives."""
        self._black_until = self._loop.time() + seconds
        self.tally.blackouts += 1

    def end_blackout(self) -> None:
        """Have the light again before the time."""
        self._black_until = 0.0

    def change_source_ports(self) -> None:
        """Give every client's datagrams a new source port; what comes to the old one is lost."""
        for path in self._paths.values():
            if not path.is_cut:
                path.rebind()
                self.tally.rebinds += 1

    def cut(self) -> None:
        """Cut every client off for good: neither side is told; new sockets of clients get through.

        So it is for a phone that has left its network.
        """
        for path in self._paths.values():
            if not path.is_cut:
                path.is_cut = True
                path.close()
                self.tally.cuts += 1

    def close(self) -> None:
        """Close the sockets; what is under way is dropped."""
        for path in self._paths.values():
            path.close()
        if self._timer is not None:
            self._timer.cancel()
        self._delayed.clear()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    # Datagrams.

    def _readable(self) -> None:
        for _ in range(MAX_BATCH):
            try:
                data, client = self._sock.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                return
            path = self._paths.get(client)
            if path is None:
                path = self._add_path(client)
            path.used_at = next(self._order)
            if path.is_cut:
                self.tally.cut_off += 1
            else:
                self.carry(data, UP, path.up, path.send)

    def _add_path(self, client: Address) -> _Path:
        if len(self._paths) >= MAX_PATHS:
            oldest = min(self._paths, key=lambda each: self._paths[each].used_at)
            self._paths.pop(oldest).close()
            self.tally.forgotten += 1
        number = next(self._path_numbers)
        path = self._paths[client] = _Path(
            self,
            client,
            self._gateway,
            up=Dice(self._seed, f"{number}/up"),
            down=Dice(self._seed, f"{number}/down"),
        )
        return path

    def carry(self, data: bytes, way: int, dice: Dice, send: _Send) -> None:
        """Do to a datagram what the weather does, and send what is left of it."""
        weather, tally = self.weather, self.tally
        fate = dice.fate(weather)
        now = self._loop.time()
        if now < self._black_until:
            tally.blacked_out += 1
            return
        if fate.is_lost:
            tally.lost += 1
            return
        delay = weather.delay_s
        if weather.bytes_per_s:
            start = max(now, self._free_at[way])
            if start - now > MAX_QUEUE_S:
                tally.throttled += 1
                return
            self._free_at[way] = start + len(data) / weather.bytes_per_s
            delay += self._free_at[way] - now
        if fate.is_late:
            tally.reordered += 1
            delay += weather.reorder_delay_s
        tally.forwarded += 1
        self._send_in(delay, data, send)
        if fate.is_doubled:
            tally.duplicated += 1
            self._send_in(delay, data, send)

    def send_down(self, data: bytes, client: Address) -> None:
        """Send a datagram to a client."""
        try:
            self._sock.sendto(data, client)
        except BlockingIOError:
            self.tally.overflowed += 1

    def _send_in(self, delay: float, data: bytes, send: _Send) -> None:
        if delay <= 0.0:
            send(data)
        elif len(self._delayed) >= MAX_DELAYED:
            self.tally.overflowed += 1
        else:
            due = self._loop.time() + delay
            heapq.heappush(self._delayed, (due, next(self._order), data, send))
            if self._delayed[0][0] == due:
                self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._delayed[0][0], self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._delayed and self._delayed[0][0] <= now:
            _, _, data, send = heapq.heappop(self._delayed)
            send(data)
        if self._delayed:
            self._set_timer()


class _Path:
    """One client's way up: the socket whose port the gateway sees."""

    def __init__(
        self, network: BadNetwork, client: Address, gateway: Address, up: Dice, down: Dice
    ) -> None:
        self.up = up
        self.is_cut = False
        self.used_at = 0
        self._down = down
        self._network = network
        self._client = client
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self.rebind()

    def rebind(self) -> None:
        old = self._sock
        # The new one first, or the system might hand out the old port again.
        sock = _udp_socket()
        sock.connect(self._gateway)
        self._close(old)
        self._sock = sock
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, data: bytes) -> None:
        if self._sock is None:
            return  # cut off, or forgotten, while this was under way
        try:
            self._sock.send(data)
        except BlockingIOError:
            self._network.tally.overflowed += 1
        except ConnectionRefusedError:
            self._network.tally.refused += 1

    def close(self) -> None:
        self._close(self._sock)
        self._sock = None

    def _readable(self) -> None:
        for _ in range(MAX_BATCH):
            if self._sock is None:
                return
            try:
                data = self._sock.recv(MAX_DATAGRAM)
            except (BlockingIOError, ConnectionRefusedError):
                return
            self._network.carry(data, DOWN, self._down, self._send_down)

    def _send_down(self, data: bytes) -> None:
        self._network.send_down(data, self._client)

    def _close(self, sock: socket.socket | None) -> None:
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()


def _udp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return sock


@asynccontextmanager
async def bad_network(
    gateway: Address | str, seed: int, weather: Weather | None = None
) -> AsyncIterator[BadNetwork]:
    """Run a proxy to the gateway on a free port of loopback; its ``address`` is for the clients."""
    network = BadNetwork(host_port(gateway), seed, weather)
    try:
        yield network
    finally:
        network.close()
