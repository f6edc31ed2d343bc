"""``gatesvr upstream``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import click

from ..config import parse_address
from ..observe.log import configure
from .loop import run, stop_event
from .options import ADDRESS, push_options
from .terminal import ServerOutput

if TYPE_CHECKING:
    from ..service.gateway_client import GatewayClient

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
@click.option(
    "--unary",
    "is_unary",
    is_flag=True,
    help="Serve one call a request (ProcessRequest), as a service without the SDK does.",
)
@push_options
def command(
    service: str,
    bind: str | None,
    gateway: str,
    is_unary: bool,
    push_ca: str,
    push_cert: str,
    push_key: str,
    push_token_file: str,
) -> None:
    """Run demo upstream services: hello (login), business, zone, or all three."""
    names = list(_PORTS) if service == "all" else [service]
    if bind is None:
        binds = {name: f"127.0.0.1:{_PORTS[name]}" for name in names}
    else:
        host, port = bind.rpartition(":")[0], parse_address(bind)[1]
        binds = {name: f"{host}:{port + i if port else 0}" for i, name in enumerate(names)}
    from ..service.gateway_client import GatewayClient

    def client() -> GatewayClient:
        return GatewayClient(
            gateway, ca=push_ca, cert=push_cert, key=push_key, token_file=push_token_file
        )

    run(_serve(client, binds, is_unary=is_unary))


async def _serve(
    client: Callable[[], GatewayClient], binds: Mapping[str, str], *, is_unary: bool
) -> None:
    log = configure("warning")
    assert log is not None
    stop = stop_event()
    out = ServerOutput()
    async with serving(client, binds, is_unary=is_unary) as addresses:
        for name, address in addresses.items():
            out.echo(f"{name:<8}  {address} (TCP, gRPC)")
        await stop.wait()
        log.say("stopping (Ctrl-C again: at once)")
    out.flush()


@asynccontextmanager
async def serving(
    client: Callable[[], GatewayClient],
    binds: Mapping[str, str] | None = None,
    *,
    is_unary: bool = False,
) -> AsyncIterator[dict[str, str]]:
    """Serve demo services; yields their names and real addresses.

    Args:
        client: Makes a service's client of the gateway.
        binds: For each service name: HOST:PORT; by default all three on free loopback ports.
        is_unary: Serve no ProcessStream.
    """
    from ..demo import services

    async with AsyncExitStack() as stack:
        addresses = {}
        wanted = services()
        for name, bind in (binds or dict.fromkeys(wanted, "127.0.0.1:0")).items():
            service = wanted[name]
            service.gateway = client()
            service.has_stream = not is_unary
            stack.push_async_callback(service.stop)
            addresses[name] = await service.serve(bind)
        yield addresses
