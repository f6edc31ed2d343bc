"""``gatesvr top``."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from ..errors import ConfigError
from .remote import NEEDS_EXTRA, Remote, remote_options
from .terminal import echo, to_json

__all__ = ["command"]


class _RemoteSource:
    """The admin API, asked in a thread so that the keys go on working."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    async def get(self, path: str, query: dict[str, Any]) -> Any:
        return await asyncio.to_thread(lambda: self._remote.get(path, **query))


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 60),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@remote_options
def command(remote: Remote, interval: float) -> None:
    """Show what a gateway does, second by second: its figures and its sessions.

    With --json it prints the figures once.
    """
    if remote.as_json:
        echo(to_json(remote.get("overview")))
        return
    try:
        from ..admin.top import Top
    except ImportError:
        raise ConfigError(NEEDS_EXTRA) from None
    remote.get("overview")  # what is wrong from the start is said here, not on the screen
    Top(_RemoteSource(remote), remote.server, interval_s=interval).run()
