"""A bad network for TCP: a seeded relay on loopback, as BadNetwork is one for datagrams.

TCP hides loss: what is lost comes later, and all behind it too. So the relay delays, stops for a
while, goes black, and ends connections: by a reset that both sides see, or by a hole that neither
is told of, as when a phone leaves its Wi-Fi. The buffers of its sockets bound what it holds.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bad_network import Weather

__all__ = ["BadLine", "LineTally"]

CHUNK_BYTES = 16 << 10
BUFFER_BYTES = 64 << 10
RETRANSMISSION_S = 0.2
"""How much later something arrives that was lost."""
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close that resets


@dataclass
class LineTally:
    """What the relay did, both ways together."""

    tcp_connections: int = 0
    """Connections that clients made."""
    tcp_chunks: int = 0
    """Reads passed on."""
    tcp_stalls: int = 0
    """Of these, the ones that came later, for what TCP lost."""
    tcp_resets: int = 0
    """Connections reset on both sides."""
    tcp_holes: int = 0
    """Connections on which nothing arrives any more."""
    tcp_blackouts: int = 0
    tcp_refused: int = 0
    """Times that nobody listened where the gateway should be."""


class BadLine:
    """The relay of one client.

    Args:
        gateway: Where its connections go.
        seed: Of every decision.
        weather: Delay and loss; the rest is for datagrams.

    Attributes:
        address: For the client, once start() has returned.
        tally: What was done so far.
    """

    def __init__(self, gateway: tuple[str, int], seed: int, weather: Weather) -> None:
        self.address = ("", 0)
        self.tally = LineTally()
        self.weather = weather
        self._gateway = gateway
        self._random = random.Random(f"{seed}/line")
        self._light = asyncio.Event()
        self._light.set()
        self._light_handle: asyncio.TimerHandle | None = None
        self._paths: set[_Path] = set()
        self._numbers = count(1)
        self._seed = seed
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> None:
        """Listen on a port of loopback, 0 for any free one.

        Raises:
            OSError: It is taken.
        """
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", port, limit=BUFFER_BYTES
        )
        self.address = self._server.sockets[0].getsockname()

    def black_out(self, seconds: float) -> None:
        """Let nothing through for so many seconds from now; then all of it, as TCP does."""
        self.end_blackout()
        self._light.clear()
        loop = asyncio.get_running_loop()
        self._light_handle = loop.call_later(seconds, self.end_blackout)
        self.tally.tcp_blackouts += 1

    def end_blackout(self) -> None:
        """Let everything through again before the time."""
        if self._light_handle is not None:
            self._light_handle.cancel()
        self._light.set()

    def change_source_ports(self) -> None:
        """Make a hole of each connection: TCP knows no other port."""
        for path in self._paths:
            if not path.is_hole:
                path.is_hole = True
                self.tally.tcp_holes += 1

    def cut(self) -> None:
        """End each connection, in one way or the other."""
        if self._random.random() < 0.5:
            self.change_source_ports()
            return
        for path in self._paths:
            if not path.is_hole:
                path.reset()
                self.tally.tcp_resets += 1

    async def close(self) -> None:
        """End all connections, and listen no more."""
        self.end_blackout()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.tally.tcp_connections += 1
        path = _Path(writer)
        self._paths.add(path)
        dice = random.Random(f"{self._seed}/{next(self._numbers)}")
        try:
            await self._light.wait()
            there, here = await asyncio.open_connection(*self._gateway, limit=BUFFER_BYTES)
            path.writers.append(here)
            pumps = [
                asyncio.ensure_future(self._pump(path, reader, here, dice)),
                asyncio.ensure_future(self._pump(path, there, writer, dice)),
            ]
            try:
                await asyncio.wait(pumps)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            self.tally.tcp_refused += 1
        except asyncio.CancelledError:
            path.reset()
        finally:
            self._paths.discard(path)
            self._tasks.discard(task)
            for each in path.writers:
                each.close()

    async def _pump(
        self,
        path: _Path,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        dice: random.Random,
    ) -> None:
        """Carry one way until its end."""
        try:
            while data := await reader.read(CHUNK_BYTES):
                delay = self.weather.delay_s
                if dice.random() < self.weather.loss:
                    delay += RETRANSMISSION_S
                    self.tally.tcp_stalls += 1
                await asyncio.sleep(delay)
                await self._light.wait()
                if not path.is_hole:
                    self.tally.tcp_chunks += 1
                    writer.write(data)
                    await writer.drain()
            if not path.is_hole:
                writer.close()
        except OSError:
            writer.close()


class _Path:
    """One connection: its two sockets."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.is_hole = False
        self.writers = [writer]

    def reset(self) -> None:
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and not writer.transport.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
