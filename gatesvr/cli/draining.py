"""Shows a drain: a bar on a terminal, else lines of text or JSON, all of them on standard error."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from typing import TYPE_CHECKING

from ..observe.log import keys
from .terminal import is_dumb

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..drain import DrainStatus
    from ..observe.log import LogHandler

__all__ = ["bar", "say_stopping", "show_drain"]

logger = logging.getLogger("gatesvr.cli")

LOOK_S = 0.1
"""How often the bar moves."""
LINE_S = 1.0
"""Longest time between two lines, where there is no bar."""
BAR_WIDTH = 24
_WORDS = {
    "serving": "serving",
    "unready": "not ready, still taking clients",
    "goaway": "asking clients to leave",
    "finishing": "waiting for answers",
    "stopped": "stopped",
}


def say_stopping(log: LogHandler, clients: int) -> None:
    """Say that a gateway begins to stop."""
    if log.style == "json":
        logger.info("stopping", extra=keys(clients=clients))
    else:
        log.say("stopping (Ctrl-C again: at once)")


async def show_drain(
    look: Callable[[], DrainStatus], log: LogHandler, draining: asyncio.Future[None]
) -> None:
    """Show how far a drain has come until it has ended, and raise what it raised.

    Args:
        look: Returns how far it has come.
        log: Where to show it.
        draining: Done when it has ended.
    """
    is_bar = log.style == "text" and sys.stderr.isatty() and not is_dumb()
    loop = asyncio.get_running_loop()
    phase, said_at = "", loop.time()
    try:
        while not draining.done():
            await asyncio.wait({draining}, timeout=LOOK_S)
            status, now = look(), loop.time()
            if is_bar:
                log.show_status(bar(status, shutil.get_terminal_size().columns))
            elif not draining.done() and (status.phase != phase or now - said_at >= LINE_S):
                phase, said_at = status.phase, now
                _say(log, status)
    finally:
        if is_bar:
            log.show_status("")
    await draining


def bar(status: DrainStatus, columns: int) -> str:
    """Return the bar of a drain, no wider than a terminal of so many columns."""
    clients = max(status.connections_at_start, status.connections_left)
    gone = 1.0 if not clients else 1 - status.connections_left / clients
    filled = "#" * int(gone * BAR_WIDTH)
    return f"draining [{filled:.<{BAR_WIDTH}}] {_words(status)}"[: max(0, columns - 1)]


def _words(status: DrainStatus) -> str:
    limit = status.elapsed_s + status.remaining_s
    return (
        f"{status.connections_left} of {status.connections_at_start} clients and "
        f"{status.requests_left} requests left, {status.elapsed_s:.0f} s of {limit:.0f} s: "
        f"{_WORDS[status.phase]}"
    )


def _say(log: LogHandler, status: DrainStatus) -> None:
    if log.style == "text":
        log.say(f"draining: {_words(status)}")
        return
    logger.info(
        "draining",
        extra=keys(
            phase=status.phase,
            clients=status.connections_at_start,
            clients_told=status.connections_told,
            clients_left=status.connections_left,
            requests_left=status.requests_left,
            elapsed_s=round(status.elapsed_s, 3),
            remaining_s=round(status.remaining_s, 3),
            rate=status.rate,
        ),
    )
