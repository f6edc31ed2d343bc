"""``gatesvr demo``: things to try a gateway with."""

from __future__ import annotations

import click

from .chat import chat

__all__ = ["command"]


@click.group()
def command() -> None:
    """Things to try a gateway with."""


command.add_command(chat)
