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

HURRY_S = 0.5
"""What a second signal allows for closing connections."""
_SIGNALS = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def run(main: Coroutine[Any, Any, T], *, loop: str = "uvloop") -> T:
    """Run main to its end on a loop of its own.

    Args:
        main: The command.
        loop: ``uvloop`` where it is installed, or ``asyncio``.

    Raises:
        KeyboardInterrupt: A signal ended it.
    """
    try:
        with asyncio.Runner(loop_factory=_factory(loop)) as runner:
            return runner.run(_with_signals(main))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def spare_collector() -> None:
    """Have the garbage collector run seldom in this process, and leave alone what is loaded by now.

    A gateway's messages form no cycles: reference counts free them. At Python's own settings the
    collector took a tenth of the CPU at 64 clients.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def stop_event(hurry: Callable[[], None] | None = None) -> asyncio.Event:
    """Return an event that a first Ctrl-C, SIGTERM or SIGHUP sets.

    A second one closes what is open and ends the process HURRY_S later at the latest, with code 1;
    a third one ends it at once.

    Args:
        hurry: Closes what is open without waiting for anything; by default every task is cancelled.
    """
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    is_hurried = False

    def stop() -> None:
        nonlocal is_hurried
        if not event.is_set():
            event.set()
            return
        if is_hurried:
            os._exit(1)
        is_hurried = True
        # What has not stopped by itself by now is what is being stopped: no finally counts on it.
        loop.call_later(HURRY_S, os._exit, 1)
        (hurry or _cancel_all)()

    for number in _ending():
        loop.add_signal_handler(number, stop)
    return event


async def _with_signals(main: Coroutine[Any, Any, T]) -> T:
    """Run main; the signals that end a process cancel it, so that it closes what it has open.

    Ctrl-C does so by itself, see asyncio.Runner; stop_event() takes their place.
    """
    task = asyncio.current_task()
    assert task is not None
    for number in _ending() - {signal.SIGINT}:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await main


def _ending() -> frozenset[signal.Signals]:
    """Return the signals that end the process: under nohup a hangup does not."""
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
