"""Many clients behind one address, a school or a carrier's, while logins take their time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gatesvr import Client
from gatesvr.service.request import Reply, Request
from gatesvr.service.service import UpstreamService

from ..fakes import until
from .harness import counter, running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLIENTS = 100
PATIENCE_S = 120.0


@asynccontextmanager
async def slow_hello(gate: asyncio.Event) -> AsyncIterator[str]:
    """Run a service whose logins wait for the gate; yield its address."""
    service = UpstreamService("hello")

    @service.action("hello")
    async def hello(request: Request) -> Reply:
        await gate.wait()
        return Reply(200, f"welcome, {request.openid}")

    try:
        yield await service.serve()
    finally:
        await service.stop()


async def log_in(server: str, backend: str, number: int) -> None:
    async with Client(
        server,
        openid=f"player-{number}",
        transport=backend,
        connect_timeout=PATIENCE_S,
        request_timeout=PATIENCE_S,
    ) as client:
        assert client.is_connected


async def test_the_default_limit_has_room_for_a_school(backend: str) -> None:
    gate = asyncio.Event()
    async with slow_hello(gate) as upstream, running_gateway(backend, upstream) as gateway:
        clients = [log_in(gateway.address, backend, i) for i in range(CLIENTS)]
        logins = asyncio.gather(*clients)
        await until(lambda: counter(gateway, "session.sessions") == CLIENTS)
        assert counter(gateway, "session.refused_address") == 0
        gate.set()
        async with asyncio.timeout(PATIENCE_S):
            await logins


async def test_who_is_told_to_come_back_does(backend: str) -> None:
    gate = asyncio.Event()
    limit = "session.max_inited_per_address=20"
    async with slow_hello(gate) as upstream, running_gateway(backend, upstream, limit) as gateway:
        clients = [log_in(gateway.address, backend, i) for i in range(CLIENTS)]
        logins = asyncio.gather(*clients)
        await until(lambda: counter(gateway, "session.refused_address") >= CLIENTS - 20)
        gate.set()
        async with asyncio.timeout(PATIENCE_S):
            await logins
