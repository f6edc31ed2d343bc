"""``gatesvr drain``."""

from __future__ import annotations

import time
from typing import Any

import click

from ..admin.text import seconds_text
from ..errors import ConfigError
from .options import ADDRESS, TEXT, TIMEOUT
from .remote import Remote, RemoteError, remote_options
from .terminal import echo, to_json

__all__ = ["command"]

LOOK_S = 1.0


@click.command()
@click.option(
    "--rate", type=TEXT, metavar="N/s", help="Clients a second to ask to leave.  [drain.rate]"
)
@click.option("--timeout", type=TIMEOUT, help="Longest drain.  [drain.timeout]")
@click.option(
    "--to",
    type=ADDRESS,
    help="Gateway to send the clients to. They log in there again: sessions stay behind.",
)
@click.option("--to-web", type=ADDRESS, help="The same for web clients.")
@click.option("--no-wait", is_flag=True, help="Do not wait for its end.")
@remote_options
def command(
    remote: Remote,
    rate: str | None,
    timeout: float | None,
    to: str | None,
    to_web: str | None,
    no_wait: bool,
) -> None:
    """Take a gateway down so that nobody notices, and wait until it has stopped.

    It is not ready first; then new clients are refused, clients are asked to leave at the rate, and
    running requests finish.
    """
    status = remote.post(
        "drain", rate=_rate(rate), timeout=timeout, to=to or "", to_web=to_web or ""
    )
    _show(remote, status)
    while not no_wait and status["phase"] != "stopped":
        time.sleep(LOOK_S)
        try:
            status = remote.get("drain")
        except RemoteError as error:
            if error.code:
                raise
            break  # it has stopped
        _show(remote, status)
    if not no_wait:
        echo("the gateway has stopped", err=True)


def _rate(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        rate = float(text.removesuffix("/s"))
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise ConfigError(f"--rate: {text!r} is no rate: write 200/s")
    return rate


def _show(remote: Remote, status: dict[str, Any]) -> None:
    if remote.as_json:
        echo(to_json(status))
        return
    echo(
        f"{status['phase']:<9}  {status['connections_left']} of"
        f" {max(status['connections_at_start'], status['connections_left'])} clients and"
        f" {status['requests_left']} requests left,"
        f" {seconds_text(status['remaining_s'])} at most"
    )
