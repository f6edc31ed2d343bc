"""Runs a command's coroutine on the loop that was asked for."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["run", "spare_collector", "stop_event"]

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, loop: str = "uvloop") -> T:
    """Run main to its end on a loop of its own.

    Args:
        main: The command.
        loop: ``uvloop`` where it is installed, or ``asyncio``.
    """
    with asyncio.Runner(loop_factory=_factory(loop)) as runner:
        return runner.run(main)


def spare_collector() -> None:
    """Have the garbage collector run seldom in this process, and leave alone what is loaded by now.

    A gateway's messages form no cycles: reference counts free them. At Python's own settings the
    collector took a tenth of the CPU at 64 clients.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def stop_event() -> asyncio.Event:
    """Return an event that a first Ctrl-C or SIGTERM sets; a second ends the process at once."""
    event = asyncio.Event()

    def stop() -> None:
        if event.is_set():
            # What has not stopped by itself by now is what is being stopped: no finally, no flush.
            os._exit(1)
        event.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return event


def _factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
