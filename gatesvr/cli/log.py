"""``gatesvr log``."""

from __future__ import annotations

import click

from ..errors import ConfigError
from .options import TEXT
from .remote import Remote, remote_options, show

__all__ = ["command"]

_DEFAULT = "default"
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
    gatesvr log level session=ID default

    LEVEL is debug, info, warning or error; a session's own level ends with default. All of it ends
    with the process.
    """
    *scope, level = words
    session = ""
    if scope:
        key, _, session = scope[0].partition("=")
        if len(scope) > 1 or key != "session" or not session:
            raise ConfigError(f"{' '.join(scope)!r} is not session=ID")
    if session and level == _DEFAULT:
        level = ""
    elif level not in _LEVELS:
        raise ConfigError(f"{level!r} is no level: {', '.join(_LEVELS)}")
    done = remote.post("log", level=level, session=session)
    show(remote, done, _text)


def _text(done: dict[str, str]) -> str:
    what = f"{done['level']} and above" if done["level"] else "what is logged of all"
    return f"logs {what}" + (f" of session {done['session']}" if done["session"] else "")
