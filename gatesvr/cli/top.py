"""``gatesvr top``."""

from __future__ import annotations

import click

from ..errors import GatesvrError

__all__ = ["command"]


@click.command()
@click.option(
    "--server",
    metavar="HOST:PORT|URL|unix:PATH",
    default="127.0.0.1:8090",
    show_default=True,
    help="The gateway's admin address.",
)
@click.option("--token", envvar="GATESVR_ADMIN_TOKEN", default="", help="Its admin token.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds."
)
def command(server: str, token: str, interval: float) -> None:
    """Show what a gateway does, second by second: its figures, its sessions."""
    try:
        from ..admin.top import HttpSource, Top
    except ImportError as error:
        raise GatesvrError(f"{error.name} is missing: install gatesvr[admin]") from error
    Top(HttpSource(server, token), server, interval_s=interval).run()
