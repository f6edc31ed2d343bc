"""Calls that block, in threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


def in_thread(call: Callable[[], T], name: str) -> Future[T]:
    """Return the result to come of a call in a thread of its own.

    It is for calls that nothing ends before their time, such as the look-up of a name: a few that
    hang would use up a pool, and hold up everybody else's. The caller bounds how many there are.
    The thread is a daemon, so it does not hold up the end of the process either.

    Args:
        call: What blocks.
        name: The thread's.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # from now on nobody can cancel it

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
