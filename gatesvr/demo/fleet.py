"""The three demo services together."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from .business import business_service
from .hello import hello_service
from .zone import zone_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..service.service import UpstreamService

__all__ = ["services", "start_demo"]


def services(gateway: str | Callable[[], str] = "") -> dict[str, UpstreamService]:
    """Return the three services by name, not yet served.

    Args:
        gateway: The gateway's gRPC address for pushes, or a function that returns it at first use.
    """
    made = (hello_service(gateway), business_service(gateway), zone_service(gateway))
    return {service.name: service for service in made}


@asynccontextmanager
async def start_demo(
    host: str = "127.0.0.1", gateway: str | Callable[[], str] = ""
) -> AsyncIterator[dict[str, str]]:
    """Serve the three services on free ports of host; yields a dict of name to address.

    Args:
        host: The address to listen on.
        gateway: As in services().
    """
    async with AsyncExitStack() as stack:
        addresses = {}
        for name, service in services(gateway).items():
            stack.push_async_callback(service.stop)
            addresses[name] = await service.serve(f"{host}:0")
        yield addresses
