"""A relay in front of a gateway's web port, TCP and UDP of one port, that can be cut."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

from ..e2e.bad_network import BadNetwork
from ..e2e.plain_client import host_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_TRIES = 100
PIECE_BYTES = 64 << 10
FOREVER_S = 3_600.0


class Relay:
    """A network that forwards everything, nothing, or TCP alone.

    Attributes:
        address: HOST:PORT for the clients.
    """

    def __init__(self, gateway: str, tcp: socket.socket, udp: BadNetwork | None) -> None:
        self.address = "{}:{}".format(*tcp.getsockname())
        self._gateway = host_port(gateway)
        self._tcp = tcp
        self._udp = udp
        self._is_up = asyncio.Event()
        self._is_up.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Let nothing through any more: neither side is told. TCP sends it again after mend()."""
        self._is_up.clear()
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
        self._is_up.set()
        if self._udp is not None:
            self._udp.end_blackout()

    async def run(self) -> None:
        """Accept TCP connections, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                client, _ = await loop.sock_accept(self._tcp)
                task = asyncio.create_task(self._serve(client))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        client.setblocking(False)
        with closing(client), closing(socket.socket()) as server:
            server.setblocking(False)
            await self._is_up.wait()
            try:
                await loop.sock_connect(server, self._gateway)
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(client, server))
                    pumps.create_task(self._pump(server, client))
            except* OSError:
                pass  # one of them is gone, and with it the other

    async def _pump(self, source: socket.socket, target: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(source, PIECE_BYTES):
            await self._is_up.wait()
            await loop.sock_sendall(target, data)
        target.shutdown(socket.SHUT_WR)


@asynccontextmanager
async def relay(gateway: str, *, has_udp: bool = True) -> AsyncIterator[Relay]:
    """Run a relay to a gateway's HOST:PORT; without UDP its port is closed for that."""
    udp: BadNetwork | None = None
    for _ in range(MAX_TRIES):
        udp = BadNetwork(host_port(gateway), seed=1)
        tcp = socket.socket()
        try:
            tcp.bind(udp.address)
            break
        except OSError:  # that number is taken for TCP
            tcp.close()
            udp.close()
    if not has_udp:
        udp.close()
        udp = None
    tcp.listen()
    tcp.setblocking(False)
    found = Relay(gateway, tcp, udp)
    running = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        tcp.close()
        if udp is not None:
            udp.close()
