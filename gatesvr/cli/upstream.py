"""``gatesvr upstream``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import click

from ..config import parse_address
from ..observe.log import configure
from .loop import run, stop_event
from .options import ADDRESS
from .terminal import ServerOutput

__all__ = ["command", "serving"]

_PORTS = {"hello": 8081, "business": 8082, "zone": 8083}


@click.command()
@click.argument("service", type=click.Choice([*_PORTS, "all"]))
@click.option(
    "--bind",
    type=ADDRESS,
    help="TCP address; for `all` the first of three consecutive ports, or 0 for free ones."
    " [127.0.0.1 and the service's own port: 8081, 8082, 8083]",
)
@click.option(
    "--gateway",
    type=ADDRESS,
    default="127.0.0.1:8092",
    show_default=True,
    help="The gateway's push address.",
)
def command(service: str, bind: str | None, gateway: str) -> None:
    """Run demo upstream services: hello (login), business, zone, or all three."""
    names = list(_PORTS) if service == "all" else [service]
    if bind is None:
        binds = {name: f"127.0.0.1:{_PORTS[name]}" for name in names}
    else:
        host, port = bind.rpartition(":")[0], parse_address(bind)[1]
        binds = {name: f"{host}:{port + i if port else 0}" for i, name in enumerate(names)}
    run(_serve(gateway, binds))


async def _serve(gateway: str, binds: Mapping[str, str]) -> None:
    log = configure("warning")
    assert log is not None
    stop = stop_event()
    out = ServerOutput()
    async with serving(gateway, binds) as addresses:
        for name, address in addresses.items():
            out.echo(f"{name:<8}  {address} (TCP, gRPC)")
        await stop.wait()
        log.say("stopping (Ctrl-C again: at once)")
    out.flush()


@asynccontextmanager
async def serving(
    gateway: str | Callable[[], str], binds: Mapping[str, str] | None = None
) -> AsyncIterator[dict[str, str]]:
    """Serve demo services; yields their names and real addresses.

    Args:
        gateway: The gateway's push address, or a function that returns it at first use.
        binds: For each service name: HOST:PORT; by default all three on free loopback ports.
    """
    from ..demo import services

    async with AsyncExitStack() as stack:
        addresses = {}
        wanted = services(gateway)
        for name, bind in (binds or dict.fromkeys(wanted, "127.0.0.1:0")).items():
            service = wanted[name]
            stack.push_async_callback(service.stop)
            addresses[name] = await service.serve(bind)
        yield addresses
