"""``gatesvr session``."""

from __future__ import annotations

from typing import Any

import click

from ..admin.text import byte_text, seconds_text
from ..observe.log import timestamp
from .options import TEXT
from .remote import (
    Remote,
    facts,
    remote_options,
    session_path,
    show,
    table,
)
from .terminal import echo, escape_control, style, to_json

__all__ = ["command"]

SILENCE_S = 30.0


@click.command()
@click.argument("session", type=TEXT)
@click.option("--trace", is_flag=True, help="Print its messages as they pass, until Ctrl-C.")
@remote_options
def command(remote: Remote, session: str, trace: bool) -> None:
    """Show everything about a session: its positions, its connection, its last events."""
    path = session_path(session)
    if not trace:
        show(remote, remote.get(path), _text)
        return
    was_traced = remote.get(path)["traced"]
    remote.post(f"{path}/trace", on=True)
    try:
        for name, event in remote.events(f"{path}/stream", SILENCE_S):
            if name == "trace":
                echo(to_json(event) if remote.as_json else _event(event))
    finally:
        if not was_traced:
            _end_trace(remote, path)
    echo("the session has ended", err=True)


def _end_trace(remote: Remote, path: str) -> None:
    from .remote import RemoteError

    try:
        remote.post(f"{path}/trace", on=False)
    except RemoteError as error:
        if error.code != "NOT_FOUND":  # it has ended, and its trace with it
            echo(f"the session is still traced: {error}", err=True)


def _event(event: dict[str, Any]) -> str:
    return f"{timestamp(event['time'])} {event['event']:<9} {escape_control(event['detail'])}"


def _text(view: dict[str, Any]) -> str:
    sequence, connection = view["sequence"], view["connection"]
    parts = [
        facts(
            {
                "session": view["session"],
                "openid": view["openid"],
                "state": view["state"] + (", hello not answered" if view["hello_pending"] else ""),
                "client": view["client_id"] or "-",
                "address": f"{view['ip']}:{view['user_port']}",
                "zone": view["zone"] or "-",
                "proved": view["auth_subject"] or "-",
                "created": f"{timestamp(view['created'])}, {seconds_text(view['age_s'])} ago",
                "idle": seconds_text(view["idle_s"]),
                "generation": f"{view['generation']}, came back {view['resumes']} times",
                "traced": "yes" if view["traced"] else "no",
                **({"worker": view["worker"]} if view.get("worker") is not None else {}),
            }
        )
    ]
    parts.append(style("connection", bold=True))
    if connection is None:
        parts.append(f"  none; {seconds_text(view['tombstone_s'])} left to come back")
    else:
        parts.append(
            facts(
                {
                    "number": connection["number"],
                    "address": connection["address"],
                    "backend": connection["backend"],
                    "round trip": seconds_text(connection["rtt_s"]),
                    "window": byte_text(connection["cwnd"]),
                    "in flight": byte_text(connection["in_flight_bytes"]),
                    "lost packets": connection["lost"],
                    "moves": len(connection["path_changes"]),
                },
                "  ",
            )
        )
    waiting = " ".join(map(str, sequence["waiting"][:16])) or "none"
    parts += [
        style("order", bold=True),
        facts(
            {
                "acknowledged": sequence["acked"],
                "sent": sequence["sent"],
                "next": sequence["next"],
                "queue": f"{view['queue_messages']} of {view['max_queue_size']} messages,"
                f" {byte_text(sequence['unacked_bytes'])},"
                f" oldest {seconds_text(view['oldest_unacked_s'])}",
                "slots open": sequence["open_count"],
                "slots waiting": waiting,
                "client seq": sequence["client_seq"],
            },
            "  ",
        ),
    ]
    if view["pending"]:
        rows = [
            (p["client_seq"], p["action"] or "-", p["service"] or "-", p["slot"] or "-",
             seconds_text(p["age_s"]))
            for p in view["pending"]
        ]  # fmt: skip
        parts += [
            style("requests", bold=True),
            table(("SEQ", "ACTION", "SERVICE", "SLOT", "AGE"), rows),
        ]
    if view["events"]:
        parts += [style("events", bold=True), *map(_event, view["events"][-20:])]
    return "\n".join(parts)
