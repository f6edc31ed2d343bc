"""The gateway's process, with its counters and its memory."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import TYPE_CHECKING

from gatesvr import Gateway
from gatesvr._pb import upstream_pb2 as pb
from gatesvr.cli.loop import spare_collector
from gatesvr.config import load
from gatesvr.errors import UpstreamError
from gatesvr.observe.log import configure

from ...attack.processes import Lines, resident
from ..child import Commands
from .servers import HANG

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection as Pipe

__all__ = ["serve_gateway"]

SERVICES = ("hello", "business")
WITHIN_S = 2.0
"""Deadline of a call that is given up before it."""
AT_ONCE = 50
METHOD = "/gatesvr.proto.UpstreamService/ProcessRequest"


async def serve_gateway(pipe: Pipe, address: str, sets: Sequence[str]) -> None:
    """Run a gateway until the pipe ends; its services are at the address.

    Says its own address; at ``sample`` its counters, with its resident bytes as ``rss``; at
    ``(times, each)`` makes calls that hang and gives them up, each after so many seconds.
    """
    commands = Commands(pipe)
    configure("warning", stream=Lines())  # type: ignore[arg-type]
    config = load(
        sets=[
            "transport.bind=127.0.0.1:0",
            "push.bind=127.0.0.1:0",
            *(f'upstream.services.{name}=[{{address="{address}"}}]' for name in SERVICES),
            *sets,
        ]
    )
    async with Gateway(config) as gateway:
        spare_collector()
        pipe.send(gateway.address)
        with suppress(EOFError):
            while True:
                command = await commands.next()
                if command == "sample":
                    gc.collect()
                    stats = gateway.stats()
                    sample = {
                        f"{layer}.{name}": int(value)
                        for layer, group in stats.items()
                        for name, value in group.items()
                    }
                    pipe.send({**sample, "rss": resident()})
                else:
                    times, each = command
                    pipe.send(await give_up(gateway, times, each))


async def give_up(gateway: Gateway, times: int, each: float) -> int:
    """Call the upstream, wait for a moment, and cancel the call; return how many were cancelled."""
    request = pb.UpstreamRequest(action=HANG).SerializeToString()
    given_up = 0

    async def one() -> None:
        nonlocal given_up
        try:
            await asyncio.wait_for(
                gateway.upstream.ask("business", METHOD, request, WITHIN_S), each
            )
        except TimeoutError:
            given_up += 1
        except UpstreamError:
            pass  # it ended before it was given up, and counts as that

    for first in range(0, times, AT_ONCE):
        await asyncio.gather(*(one() for _ in range(min(AT_ONCE, times - first))))
    return given_up
