"""``gatesvr sessions``."""

from __future__ import annotations

from typing import Any

import click

from ..admin.text import byte_text, seconds_text
from .options import TEXT
from .remote import Remote, remote_options, show, table

__all__ = ["command"]

_HEAD = (
    "SESSION", "OPENID", "STATE", "IP", "VIA", "ZONE", "AGE", "IDLE", "RTT", "QUEUE", "BYTES",
    "OPEN", "MSG/S",
)  # fmt: skip


@click.command()
@click.argument("text", type=TEXT, default="")
@click.option(
    "--state", type=click.Choice(["inited", "normal", "suspended"]), help="In this state."
)
@click.option("--zone", type=TEXT, help="In this zone.")
@click.option("--ip", type=TEXT, help="From this address, or its beginning.")
@click.option(
    "--sort",
    type=click.Choice(["queue", "age", "rate", "openid"]),
    default="queue",
    show_default=True,
    help="By messages in the queue, age, messages a second, or user.",
)
@click.option("--asc", "is_ascending", is_flag=True, help="The least first.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="Rows.")
@click.option("--page", type=TEXT, help="The page that the one before named.")
@remote_options
def command(remote: Remote, text: str, is_ascending: bool, **wanted: Any) -> None:
    """List the sessions of a gateway, those whose openid or id has TEXT in it.

    OPEN counts requests that are not answered.
    """
    order = "asc" if is_ascending else "desc"
    show(remote, remote.get("sessions", q=text, order=order, **wanted), _text)


def _text(page: dict[str, Any]) -> str:
    rows = page["sessions"]
    if not rows:
        return "no session matches"
    is_fleet = any(row.get("worker") is not None for row in rows)
    head = (*_HEAD, "WORKER") if is_fleet else _HEAD
    lines = [table(head, [(*_row(row), row.get("worker"))[: len(head)] for row in rows])]
    if page["total"] > len(rows):
        lines.append(f"{len(rows)} of {page['total']}")
    if silent := page.get("silent"):
        lines.append(f"worker {', '.join(map(str, silent))} does not answer; its own are missing")
    if page["next"]:
        lines.append(f"more: --page {page['next']}")
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    return (
        row["session"],
        row["openid"],
        row["state"],
        row["ip"],
        row["transport"],
        row["zone"] or "-",
        seconds_text(row["age_s"]),
        seconds_text(row["idle_s"]),
        seconds_text(row["rtt_s"]),
        row["queue_messages"],
        byte_text(row["queue_bytes"]),
        row["in_flight"],
        round(row["rate"], 1),
    )
