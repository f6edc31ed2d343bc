"""What is written to a terminal: text from outside made harmless, colours only where they show."""

from __future__ import annotations

import os
import sys

import click

__all__ = ["escape_control", "show_data", "style"]


def escape_control(text: str) -> str:
    """Return text with control characters escaped, line ends and tabs kept.

    A terminal obeys escape sequences, so text from a peer must not bring its own.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def show_data(data: bytes) -> None:
    """Write an answer's data to standard output: unchanged, or printable on a terminal."""
    if sys.stdout.isatty():
        click.echo(escape_control(data.decode("utf-8", "backslashreplace")))
    else:
        click.echo(data)


def style(text: str, *, err: bool = False, **how: object) -> str:
    """Return text styled as click.style() does, or unchanged where nobody sees or wants it.

    Source: https://no-color.org
    """
    stream = sys.stderr if err else sys.stdout
    is_wanted = stream.isatty() and not os.environ.get("NO_COLOR")
    return click.style(text, **how) if is_wanted else text  # type: ignore[arg-type]
