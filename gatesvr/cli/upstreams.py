"""``gatesvr upstreams``."""

from __future__ import annotations

from typing import Any

import click

from .remote import Remote, duration_text, remote_options, show, table

__all__ = ["command"]

_HEAD = (
    "SERVICE", "ADDRESS", "NAME", "ZONE", "HEALTH", "STATE", "BREAKER", "CALLS", "FAILED", "OPEN",
    "WAITING", "P50", "P99",
)  # fmt: skip


@click.command()
@remote_options
def command(remote: Remote) -> None:
    """Show every endpoint of the services behind a gateway.

    P50 and P99 are those of the service, over the last ten seconds.
    """
    show(remote, remote.get("upstreams"), _text)


def _text(upstreams: list[dict[str, Any]]) -> str:
    if not upstreams:
        return "no endpoint"
    return table(_HEAD, [_row(upstream) for upstream in upstreams])


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    return (
        row["service"],
        row["address"],
        row["name"] or "-",
        row["zone"] or "-",
        row["health"],
        row["state"],
        row["breaker"],
        row["requests"],
        row["failures"],
        row["in_flight"],
        row["waiting"],
        duration_text(row["p50"]),
        duration_text(row["p99"]),
    )
