"""``gatesvr completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .terminal import echo

__all__ = ["command"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes a shell complete gatesvr's commands and options.

    \b
    bash:  gatesvr completion bash >> ~/.bashrc
    zsh:   gatesvr completion zsh >> ~/.zshrc
    fish:  gatesvr completion fish > ~/.config/fish/completions/gatesvr.fish
    """
    from .main import commands

    kind = get_completion_class(shell)
    assert kind is not None
    echo(kind(commands, {}, "gatesvr", "_GATESVR_COMPLETE").source())
