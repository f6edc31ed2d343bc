"""``gatesvr events``."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import click

from ..observe.events import CHOICE, EventKind
from ..observe.log import escape, format_keys, timestamp
from .loop import run, stop_event
from .options import push_options, push_server_option
from .terminal import echo, to_json

if TYPE_CHECKING:
    from ..observe.events import SessionEvent
    from ..service.event_stream import GatewayEvents
    from ..service.gateway_client import GatewayClient

__all__ = ["command"]


@click.command()
@push_server_option
@click.option(
    "--kind",
    "kinds",
    type=click.Choice([kind.value for kind in CHOICE]),
    multiple=True,
    help="Print only this kind; repeatable.",
)
@push_options
@click.option("--json", "as_json", is_flag=True, help="Print each event as a JSON object.")
def command(
    server: str,
    kinds: tuple[str, ...],
    as_json: bool,
    push_ca: str,
    push_cert: str,
    push_key: str,
    push_token_file: str,
) -> None:
    """Print session events, one a line, until Ctrl-C or until the gateway stops.

    If events arrived faster than they were read, "missed" counts those left out.
    """
    from ..service.gateway_client import GatewayClient

    gateway = GatewayClient(
        server, ca=push_ca, cert=push_cert, key=push_key, token_file=push_token_file
    )
    run(_events(gateway, server, kinds, as_json))


async def _events(
    gateway: GatewayClient, server: str, kinds: tuple[str, ...], as_json: bool
) -> None:
    stop = stop_event()
    try:
        async with gateway.events(kinds) as events:
            echo(f"events of {server}", err=True)
            printing = asyncio.ensure_future(_print(events, as_json))
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait({printing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not printing.done():
                # This ends the printing, too.
                await events.close()
            await printing
            if not stop.is_set():
                echo("the gateway is stopping", err=True)
    finally:
        await gateway.close()


async def _print(events: GatewayEvents, as_json: bool) -> None:
    async for event in events:
        echo(_as_json(event) if as_json else _as_text(event))


def _as_json(event: SessionEvent) -> str:
    return to_json(dataclasses.asdict(event))


def _as_text(event: SessionEvent) -> str:
    """Return ``2026-01-31T12:00:01.250+01:00 resumed session=… openid=alice generation=2 …``."""
    values: dict[str, str | int] = {}
    if event.kind != EventKind.MISSED:
        values = {
            "session": event.session_id,
            "openid": event.openid,
            "generation": event.generation,
            "reason": event.reason,
            "sent": event.last_sent_seq,
            "acked": event.last_acked_seq,
            "client_seq": event.max_client_seq,
            "undelivered": event.undelivered,
            "transport": event.transport,
        }
    if event.missed:
        values["missed"] = event.missed
    return f"{timestamp(event.at_ms / 1000)} {escape(event.kind)} {format_keys(values)}"
