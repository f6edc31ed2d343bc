"""Timers that run late run behind what has arrived, whichever the loop would do first."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

import pytest
import uvloop

from gatesvr.transport.udp.driver import LATE_S
from gatesvr.transport.udp.sockets import MAX_BATCH

from .harness import Recorder, serving

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Silence(Recorder):
    """Has a deadline that every message puts off."""

    def data_received(self, data: bytes, now: float) -> None:
        super().data_received(data, now)
        self.timer = now + 2 * LATE_S


@pytest.mark.parametrize("loop", LOOPS)
def test_what_waits_is_handled_first(loop: str, backend: str) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] = LOOPS[loop]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_late(backend))


async def _late(backend: str) -> None:
    async with serving(backend, Silence) as gateway:
        handler, connection = await gateway.connect(backend)
        handler.send(b"a")
        server = await gateway.handler()
        await server.until(lambda: server.data == b"a")
        gateway.listener._driver.flush()  # type: ignore[union-attr]  the deadline is scheduled
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for _ in range(2 * MAX_BATCH):  # more than is read at a time
                stranger.sendto(b"noise", gateway.listener.address)
        handler.send(b"b")
        connection._driver.flush()
        time.sleep(4 * LATE_S)  # noqa: ASYNC251  the loop stands still
        await server.until(lambda: server.data == b"ab" or server.timer_runs)
        assert server.timer_runs == []
        await connection.close()
