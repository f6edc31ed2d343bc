"""``gatesvr upgrade``."""

from __future__ import annotations

import time
from typing import Any

import click

from ..admin.text import seconds_text
from .remote import Remote, remote_options
from .terminal import echo, to_json

__all__ = ["command"]

LOOK_S = 0.5
START_S = 60.0
"""Longest wait for the answer: reading the configuration may take a moment."""


@click.command()
@click.option("--no-wait", is_flag=True, help="Do not wait for its end.")
@remote_options
def command(remote: Remote, no_wait: bool) -> int:
    """Replace the workers of a gateway by new ones, so that nobody notices.

    The new ones are started with the code that is installed now and with the configuration as it is
    now, on the same ports. When all are ready the old ones hand their clients and sessions over,
    and end. Where one does not get ready, nothing changes, and the exit code is 1.
    """
    status = remote.post("upgrade", START_S)
    _show(remote, status)
    while not no_wait and status["phase"] in ("starting", "leaving"):
        time.sleep(LOOK_S)
        status = remote.get("upgrade")
        _show(remote, status)
    return 1 if status["phase"] == "given_up" else 0


def _show(remote: Remote, status: dict[str, Any]) -> None:
    echo(to_json(status) if remote.as_json else _text(status), err=status["phase"] == "given_up")


def _text(status: dict[str, Any]) -> str:
    match status["phase"]:
        case "starting":
            return (
                f"starting   {status['workers_ready']} of {status['workers']} new workers ready,"
                f" {seconds_text(status['remaining_s'])} at most"
            )
        case "leaving":
            return (
                f"leaving    {status['workers_left']} old workers with"
                f" {status['connections_left']} clients, {status['sessions_left']} sessions and"
                f" {status['requests_left']} requests left,"
                f" {seconds_text(status['remaining_s'])} at most"
            )
        case "given_up":
            return f"given up: {status['why']}; nothing has changed"
        case _:
            text = (
                f"upgraded: {status['workers']} new workers in {seconds_text(status['elapsed_s'])}"
            )
            if kept := status["needs_restart"]:
                text += f"\nonly a restart changes: {', '.join(kept)}"
            return text
