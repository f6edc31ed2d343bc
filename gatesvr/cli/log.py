"""``gatesvr log``."""

from __future__ import annotations

import click

from ..errors import ConfigError
from .options import TEXT
from .remote import Remote, remote_options, show

__all__ = ["command"]

_LEVELS = ("debug", "info", "warning", "error")


@click.group()
def command() -> None:
    """Change what a running gateway logs."""


@command.command("level")
@click.argument("words", type=TEXT, nargs=-1, required=True, metavar="[session=ID] LEVEL")
@remote_options
def level(remote: Remote, words: tuple[str, ...]) -> None:
    """Set the lowest level that is logged, for everything or for one session.

    \b
    gatesvr log level debug
    gatesvr log level session=ID debug

    LEVEL is debug, info, warning or error. A reload or a restart sets it back.
    """
    *scope, level = words
    session = ""
    if scope:
        key, _, session = scope[0].partition("=")
        if len(scope) > 1 or key != "session" or not session:
            raise ConfigError(f"{' '.join(scope)!r} is not session=ID")
    if level not in _LEVELS:
        raise ConfigError(f"{level!r} is no level: {', '.join(_LEVELS)}")
    done = remote.post("log", level=level, session=session)
    show(remote, done, lambda done: f"logs {done['level']} and above")
