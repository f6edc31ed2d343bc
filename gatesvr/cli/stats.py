"""``gatesvr stats``."""

from __future__ import annotations

from typing import Any

import click

from ..admin.text import NONE, Amount, byte_text, rate_text, seconds_text, span_text, workers_text
from .remote import Remote, facts, remote_options, show, table
from .terminal import style

__all__ = ["command"]

_REFUSALS = 10


@click.command()
@remote_options
def command(remote: Remote) -> None:
    """Show what a gateway does now: sessions, rates, times, refusals."""
    show(remote, remote.get("overview"), _text)


def _text(now: dict[str, Any]) -> str:
    rates, sessions, fleet = now["rates"], now["sessions"], now.get("fleet")
    ready = "ready" if now["ready"] else f"not ready: {', '.join(now['not_ready'])}"
    head = f"{now['backend']}, pid {now['pid']}, up {seconds_text(now['uptime_s'])}, {ready}"
    parts = [
        f"{style('GateSvr ' + now['version'], bold=True)}, {head}",
        facts(
            {
                "sessions": ", ".join(f"{count} {state}" for state, count in sessions.items()),
                "connections": f"{now['connections']}, {now['handshakes']} in the handshake,"
                f" {rates['connections']:.0f} new a second",
                "requests": f"{rates['requests']:.0f} a second, {now['in_flight']} in flight,"
                f" {now['tasks_queued']} queued",
                "pushes": f"{rates['pushes']:.0f} a second",
                "queues": f"{now['queue_messages']} messages, {byte_text(now['queue_bytes'])},"
                f" oldest {seconds_text(now['oldest_unacked_s'])}",
                "network": f"{byte_text(rates['bytes_in'])}/s in,"
                f" {byte_text(rates['bytes_out'])}/s out",
                "process": f"{rates['cpu'] * 100:.0f} % of a CPU,"
                f" {byte_text(now['memory_bytes'])}, {seconds_text(now['lag_s'])} late",
                **({"workers": workers_text(fleet)} if fleet else {}),
            },
            "  ",
        ),
    ]
    if fleet:
        parts += ["", table(_WORKERS, [_worker(one) for one in fleet["workers"]])]
    timed = [(stage, times) for stage, times in now["latency"].items() if times["count"]]
    if timed:
        rows = [
            (stage, times["count"], *map(seconds_text, (times[q] for q in _QUANTILES)))
            for stage, times in timed
        ]
        columns = ("LAST 10 S", "COUNT", "P50", "P90", "P99", "P99.9", "MAX")
        parts += ["", table(columns, rows)]
    if now["refusals"]:
        rows = [
            (refusal["reason"], refusal["total"], round(refusal["rate"], 1))
            for refusal in now["refusals"][:_REFUSALS]
        ]
        parts += ["", table(("REFUSED", "TOTAL", "PER S"), rows)]
    return "\n".join(parts)


def _worker(one: dict[str, Any]) -> tuple[object, ...]:
    if one["number"] is None:
        return (f"in {one['slot']}", one["state"], *[NONE] * (len(_WORKERS) - 2))
    return (
        one["number"],
        one["state"],
        one["sessions"],
        one["connections"],
        rate_text(one["requests"]),
        Amount(f"{one['cpu'] * 100:.0f} %"),
        byte_text(one["memory_bytes"]),
        one["moves_in"],
        one["moves_out"],
        one["handed_on"],
        one["restarts"],
        span_text(one["uptime_s"]),
        one["pid"],
    )


_WORKERS = (
    "WORKER", "STATE", "SESSIONS", "CONNECTIONS", "REQ/S", "CPU", "MEMORY", "MOVED IN",
    "MOVED OUT", "HANDED ON", "RESTARTS", "UP", "PID",
)  # fmt: skip
_QUANTILES = ("p50", "p90", "p99", "p999", "max")
