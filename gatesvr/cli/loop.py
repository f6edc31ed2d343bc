"""Runs a command's coroutine on the requested event loop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["StopEvent", "run", "spare_collector", "stop_event"]

T = TypeVar("T")

HURRY_S = 0.5
"""Time that a second signal leaves for closing connections."""
_SIGNALS = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def run(main: Coroutine[Any, Any, T], *, loop: str = "uvloop") -> T:
    """Run main to its end on a new loop.

    Args:
        main: The command's coroutine.
        loop: ``uvloop`` (if installed) or ``asyncio``.

    Raises:
        KeyboardInterrupt: A signal ended it.
    """
    try:
        with asyncio.Runner(loop_factory=_factory(loop)) as runner:
            return runner.run(_with_signals(main))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def spare_collector() -> None:
    """Make the garbage collector run rarely, and skip everything loaded so far.

    A gateway's messages form no cycles; reference counts free them. With Python's defaults the
    collector took a tenth of the CPU at 64 clients.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class StopEvent(asyncio.Event):
    """Set when the command has to end.

    Attributes:
        is_interrupt: Whether a Ctrl-C came first, so that somebody waits for the end.
    """

    is_interrupt = False


def stop_event(hurry: Callable[[], None] | None = None) -> StopEvent:
    """Return an event that the first Ctrl-C, SIGTERM or SIGHUP sets.

    A second signal closes what is open and ends the process within HURRY_S, with code 1. A third
    ends it at once.

    Args:
        hurry: Closes everything without waiting; by default all tasks are cancelled.
    """
    loop = asyncio.get_running_loop()
    event = StopEvent()
    signals = 0

    def stop(number: int) -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            event.is_interrupt = number == signal.SIGINT
            event.set()
        elif signals == 2:
            # os._exit() skips every finally, but code that still runs by then is stuck.
            loop.call_later(HURRY_S, os._exit, 1)
            (hurry or _cancel_all)()
        else:
            os._exit(1)

    for number in _ending():
        loop.add_signal_handler(number, stop, number)
    return event


async def _with_signals(main: Coroutine[Any, Any, T]) -> T:
    """Run main; a signal that ends the process cancels it, so that it can close what it has open.

    asyncio.Runner already does so for Ctrl-C. stop_event() replaces these handlers.
    """
    task = asyncio.current_task()
    assert task is not None
    for number in _ending() - {signal.SIGINT}:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await main


def _ending() -> frozenset[signal.Signals]:
    """Return the signals that end the process; under nohup, a hangup does not."""
    is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return _SIGNALS - {signal.SIGHUP} if is_nohup else _SIGNALS


def _cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


def _factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
