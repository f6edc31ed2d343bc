"""``gatesvr reload``."""

from __future__ import annotations

from typing import Any

import click

from .remote import Remote, RemoteError, remote_options, show, table

__all__ = ["command"]


@click.command()
@remote_options
def command(remote: Remote) -> None:
    """Make a gateway read its configuration and certificates again, and show what changed.

    If something is wrong with them, everything stays as it is, and the exit code is 1.
    """
    report = remote.post("reload", within=30.0)
    if report["error"] and not remote.as_json:
        raise RemoteError(report["error"], "INVALID")
    show(remote, report, _text)
    if report["error"]:
        raise click.exceptions.Exit(1)


def _text(report: dict[str, Any]) -> str:
    parts = []
    if report["changed"]:
        rows = [(change["name"], change["old"], change["new"]) for change in report["changed"]]
        parts.append(table(("CHANGED", "OLD", "NEW"), rows))
    if report["needs_restart"]:
        parts.append(f"only a restart changes: {', '.join(report['needs_restart'])}")
    return "\n".join(parts) or "nothing has changed"
