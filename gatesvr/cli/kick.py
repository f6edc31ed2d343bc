"""``gatesvr kick``."""

from __future__ import annotations

import click

from .options import TEXT
from .remote import Remote, remote_options, session_path, show

__all__ = ["command"]


@click.command()
@click.argument("target", type=TEXT)
@click.option("--openid", "is_openid", is_flag=True, help="TARGET is a user, not a session.")
@click.option(
    "--code",
    type=click.IntRange(1_000, 0xFFFFFFFF),
    help="Told to the client. 46xx also closes its connection.  [4410]",
)
@click.option("--reason", type=TEXT, default="", help="Text for the client, 64 bytes at most.")
@remote_options
def command(remote: Remote, target: str, is_openid: bool, code: int | None, reason: str) -> None:
    """Close a session for good, or all sessions of a user.

    TARGET is a session's id. The client is told why and does not come back by itself.
    """
    if is_openid:
        done = remote.post("kick", openid=target, code=code or 0, reason=reason)
    else:
        done = remote.post(f"{session_path(target)}/kick", code=code or 0, reason=reason)
    show(remote, done, lambda done: f"closed {done['sessions']}")
