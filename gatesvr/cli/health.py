"""``gatesvr health``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .loop import run
from .options import TIMEOUT, push_options, push_server_option
from .terminal import echo

if TYPE_CHECKING:
    from ..credentials import Access

__all__ = ["command"]


@click.command()
@push_server_option
@click.option(
    "--timeout",
    type=TIMEOUT,
    default="3s",
    show_default=True,
    help="Longest wait for the answer.",
)
@click.option("--live", is_flag=True, help="Exit with 0 if it answers at all.")
@push_options
def command(
    server: str,
    timeout: float,
    push_ca: str,
    push_cert: str,
    push_key: str,
    push_token_file: str,
    *,
    live: bool,
) -> int:
    """Ask a gateway whether it takes clients: exits with 0 if it does, else with 1.

    For a container's health check and for probes; one that restarts the gateway wants --live, or
    it would end one that is draining. It asks grpc.health.v1.Health on the push port,
    which needs no token; where the port has TLS, name its certificate by --push-ca.
    """
    from ..credentials import Access

    access = Access(push_ca, push_cert, push_key, push_token_file)
    return run(_check(server, timeout, access, is_live_enough=live))


async def _check(server: str, wait_s: float, access: Access, *, is_live_enough: bool) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from ..grpcio import make_channel

    async with make_channel(server, (), access.credentials) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            answer = await check(
                health_pb2.HealthCheckRequest(), timeout=wait_s, metadata=access.metadata()
            )
        except grpc.aio.AioRpcError as error:
            echo(f"gatesvr: {server} does not answer: {error.code().name}", err=True)
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    echo(status.lower().replace("_", " "))
    return 0 if is_live_enough or answer.status == health_pb2.HealthCheckResponse.SERVING else 1
