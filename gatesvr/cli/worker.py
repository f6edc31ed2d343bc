"""``gatesvr worker``: a process of ``gatesvr serve --workers``; its supervisor starts it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from typing import TYPE_CHECKING

import click
import msgspec

from ..errors import GatesvrError
from ..observe.log import configure
from ..workers.assignment import Channel, Failed, read_assignment
from .loop import run, spare_collector
from .serving import start_tracing

if TYPE_CHECKING:
    from ..workers.assignment import Assignment

__all__ = ["command"]

logger = logging.getLogger("gatesvr.cli")


@click.command()
@click.argument("descriptor", type=int)
def command(descriptor: int) -> int:
    """Serve as one of several processes. DESCRIPTOR is that of the channel to the supervisor."""
    # A terminal, or a service manager, signals all processes; only the supervisor acts on that.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    assignment = read_assignment(channel)
    if assignment is None:
        return 1
    return run(_serve(assignment, channel), loop=assignment.loop)


async def _serve(assignment: Assignment, sock: socket.socket) -> int:
    config = assignment.config
    log = configure(config.log.level, config.log.format, is_held=True, worker=assignment.number)
    assert log is not None
    channel = Channel(sock)
    await channel.open()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(channel.close)
        try:
            from ..workers.worker import WorkerServer
            from .banner import summarize
            from .page import open_page

            if config.trace.enabled:
                stack.callback(start_tracing())
            worker = WorkerServer(assignment, channel)
            stack.push_async_callback(worker.stop)
            await worker.start()
            gateway = worker.gateway
            page = await open_page(gateway) if assignment.is_demo else ""
        except GatesvrError as error:
            channel.send(Failed.of(error))
            return 1
        spare_collector()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.leave)
        summary = summarize(gateway, is_demo=assignment.is_demo, page=page)
        await worker.run(msgspec.to_builtins(summary), log.release_held)
    return 1 if worker.is_hurried else 0
