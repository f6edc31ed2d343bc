"""An asyncio event loop whose time moves when it is told to, and which never waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

START_TIME = 1_000.0


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready, in the order in which it became so; nothing comes from outside."""

    # What BaseEventLoop keeps, which its stubs do not show.
    _ready: Any
    _scheduled: Any
    _run_once: Any
    _clock_resolution: float

    def __init__(self) -> None:
        super().__init__()
        self._now = START_TIME
        self._selector = self
        self.failures: list[str] = []
        self.set_debug(False)
        self.set_exception_handler(self._note_failure)

    def time(self) -> float:
        return self._now

    def settle(self) -> None:
        """Run until nothing is ready and no timer is due."""
        if self._ready or (self._scheduled and self._scheduled[0]._when <= self._now):
            # asyncio runs a timer before time() plus this. Its own nanosecond is lost in the
            # rounding of a time above 2**24 s, and a timer that is due now never runs.
            self._clock_resolution = math.ulp(self._now)
            before = asyncio._get_running_loop()
            asyncio._set_running_loop(self)
            try:
                while self._ready or (self._scheduled and self._scheduled[0]._when <= self._now):
                    self._run_once()
            finally:
                asyncio._set_running_loop(before)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self.settle()

    def advance_to(self, when: float) -> None:
        """Let time pass until then, but to the next timer at most."""
        scheduled = self._scheduled
        if scheduled and scheduled[0]._when < when:
            when = scheduled[0]._when
        self._now = max(self._now, when)
        self.settle()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run what takes no time until it is done."""
        task = self.create_task(coroutine)
        self.settle()
        task.result()

    def call(self, function: Any, *args: Any) -> Any:
        """Call something that wants a running loop."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            return function(*args)
        finally:
            asyncio._set_running_loop(before)

    # What BaseEventLoop wants of a selector.

    def select(self, timeout: float | None) -> list[Any]:
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")
