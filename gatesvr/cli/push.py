"""``gatesvr push``."""

from __future__ import annotations

import click

from .options import TEXT
from .remote import Remote, remote_options, session_path, show

__all__ = ["command"]


@click.command()
@click.argument("session", type=TEXT)
@click.argument("content", type=TEXT)
@click.option("--type", "msg_type", type=TEXT, default="", help="The kind of notify.")
@click.option("--title", type=TEXT, default="", help="Its title.")
@remote_options
def command(remote: Remote, session: str, content: str, msg_type: str, title: str) -> None:
    """Push a notify to a session."""
    done = remote.post(
        f"{session_path(session)}/push", content=content, msg_type=msg_type, title=title
    )
    show(remote, done, lambda done: "pushed")
