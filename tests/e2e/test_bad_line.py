"""The bad network for TCP does what it says."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ..fakes import until
from .bad_line import BadLine
from .bad_network import Weather

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE_S = 20.0


@asynccontextmanager
async def echo_behind_a_line(weather: Weather, seed: int = 1) -> AsyncIterator[BadLine]:
    open_writers: set[asyncio.StreamWriter] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()
            open_writers.discard(writer)

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    line = BadLine(server.sockets[0].getsockname(), seed, weather)
    await line.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield line
    finally:
        await line.close()
        server.close()
        await until(lambda: not open_writers)


async def test_everything_arrives_in_order_late_or_in_the_dark() -> None:
    async with echo_behind_a_line(Weather(loss=0.05, delay_s=0.001)) as line:
        reader, writer = await asyncio.open_connection(*line.address)
        data = b"".join(number.to_bytes(4) for number in range(100_000))
        line.black_out(DEADLINE_S)
        writer.write(data)
        answer = asyncio.create_task(reader.readexactly(len(data)))
        await until(lambda: line.tally.tcp_connections)
        assert line.tally.tcp_chunks == 0
        line.end_blackout()
        assert await answer == data
        assert line.tally.tcp_chunks >= 50
        assert line.tally.tcp_stalls > 0
        writer.close()


async def test_a_cut_is_a_reset_or_a_hole_and_the_next_connection_gets_through() -> None:
    async with echo_behind_a_line(Weather()) as line:
        in_holes: list[asyncio.Task[bytes]] = []
        writers: list[asyncio.StreamWriter] = []
        while len(in_holes) < 2 or not line.tally.tcp_resets:
            reader, writer = await asyncio.open_connection(*line.address)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            holes = line.tally.tcp_holes
            line.cut()
            if line.tally.tcp_holes > holes:
                writer.write(b"lost")
                in_holes.append(asyncio.create_task(reader.read()))
                writers.append(writer)
            else:
                with pytest.raises(ConnectionError):
                    await reader.readexactly(1)
                writer.close()
        # Others have been there and back since.
        assert not in_holes[0].done()
        for each in in_holes:
            each.cancel()
        for writer in writers:
            writer.close()
