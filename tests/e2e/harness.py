"""What the end-to-end tests share: a real gateway in this process, real QUIC, real gRPC."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gatesvr import Gateway
from gatesvr.config import load

from .plain_client import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@asynccontextmanager
async def running_gateway(backend: str, upstream: str, *sets: str) -> AsyncIterator[Gateway]:
    """Run a gateway whose services are all one upstream at HOST:PORT; sets are ``--set`` texts."""
    services = [f'upstream.services.{name}=[{{address="{upstream}"}}]' for name in SERVICES]
    config = load(
        sets=[
            f"transport.backend={backend}",
            "transport.bind=127.0.0.1:0",
            "push.bind=127.0.0.1:0",
            *services,
            *sets,
        ]
    )
    async with Gateway(config) as gateway:
        yield gateway


SERVICES = ("hello", "business", "zone")


def counter(gateway: Gateway, name: str) -> int:
    """Return the counter ``layer.name``."""
    layer, _, key = name.partition(".")
    return int(gateway.stats()[layer][key])


async def until(found: Callable[[], object]) -> None:
    """Let the loop run until found() is true; TimeoutError after DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not found():
            await asyncio.sleep(0.001)
