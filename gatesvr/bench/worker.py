"""A load process: follows its parent's commands from a pipe, and ends when the parent is gone.

The parent sends connect, go, measure, stop, drain. The process answers ready, connected, stopped,
done, and reports ticks and progress in between.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import GatesvrError
from .client import Fleet, LoadClient
from .connections import Connecting, Idling, Resuming, ResumingClient
from .meter import TICK_S, Recorder
from .pushes import Broadcasting, ListeningClient, Pushing
from .requests import Asking, AskingClient

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

    from .findings import Finding
    from .scenario import Plan

__all__ = ["Outcome", "run_worker"]

MAX_FINDINGS = 1_000
"""Most findings reported in full to the parent; the rest are only counted."""

_CLIENTS: dict[str, type[LoadClient]] = {
    "connect": LoadClient,
    "echo": AskingClient,
    "mix": AskingClient,
    "push": ListeningClient,
    "slow": ListeningClient,
    "broadcast": ListeningClient,
    "resume": ResumingClient,
    "idle": LoadClient,
}


class Load(Protocol):
    """A scenario's part in one load process."""

    async def begin(self, now: float) -> None:
        """Start the load."""

    def measure(self) -> None:
        """Begin the measurement behind figures(); without a warm-up, also the load."""

    async def end(self) -> None:
        """Start nothing more; wait for operations that must finish to count."""

    def is_settled(self) -> bool:
        """Return whether everything under way has arrived."""

    async def close(self) -> None:
        """Close what the scenario opened."""

    def figures(self, now: float) -> dict[str, float]:
        """Return the figures besides latencies; now is when the load stopped."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a load process.

    Attributes:
        findings: Broken promises, the first MAX_FINDINGS of them.
        found: Number of all broken promises.
        failures: Reasons of other failures, with their counts.
        alive: Clients that were up at the end.
        figures: The scenario's figures besides latencies.
    """

    findings: list[Finding]
    found: int
    failures: Counter[str]
    alive: int
    figures: dict[str, float]


def run_worker(pipe: Pipe, process: int) -> None:
    """Run a load process until it is done or the parent is gone.

    Args:
        pipe: The pipe to the parent.
        process: Its number, from 0.
    """
    # Events form no cycles, and everything loaded so far stays.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        import uvloop
    except ImportError:
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(_Worker(pipe, process).run())
        except GatesvrError as error:
            pipe.send(("failed", str(error)))
        except BrokenPipeError:
            return  # the parent is gone


class _Worker:
    def __init__(self, pipe: Pipe, process: int) -> None:
        self._pipe = pipe
        self._process = process
        self._commands: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._recorder = Recorder()
        self._broadcasting: Broadcasting | None = None
        self._tick_at = 0.0
        self._ticker: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Go through the phases."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pipe.fileno(), self._readable)
        self._tell("ready")
        plan: Plan = await self._expect("connect")
        fleet = Fleet(plan, _CLIENTS[plan.scenario], plan.share(self._process), self._recorder)
        load = self._load(plan, fleet)
        if plan.scenario != "connect":
            await fleet.connect(lambda done: self._tell("progress", done))
        self._tell("connected", sum(client.is_up for client in fleet.clients))
        await self._expect("go")
        fleet.is_running = True
        await load.begin(time.monotonic())
        await self._expect("measure")
        self._recorder.clear()
        load.measure()
        self._tick_at = loop.time() + TICK_S
        self._ticker = loop.call_at(self._tick_at, self._tick)
        await self._expect("stop")
        stopped_at = time.monotonic()
        fleet.is_running = False
        await load.end()
        self._ticker.cancel()
        self._tell("tick", self._recorder.take())
        self._tell("stopped")
        await self._expect("drain")
        await fleet.drain(load.is_settled)
        figures = load.figures(stopped_at)
        alive = sum(client.is_up for client in fleet.clients)
        await load.close()
        await fleet.close()
        found = fleet.checker.findings
        self._tell(
            "done", Outcome(found[:MAX_FINDINGS], len(found), fleet.failures, alive, figures)
        )
        loop.remove_reader(self._pipe.fileno())

    def _load(self, plan: Plan, fleet: Fleet) -> Load:
        process = self._process
        if plan.scenario == "connect":
            return Connecting(fleet, process, lambda: self._tell("finished"))
        if plan.scenario in ("echo", "mix"):
            return Asking(fleet, process)
        if plan.scenario in ("push", "slow"):
            return Pushing(fleet, process)
        if plan.scenario == "broadcast":
            self._broadcasting = Broadcasting(
                fleet, process, lambda number, is_sure: self._tell("broadcast", (number, is_sure))
            )
            return self._broadcasting
        if plan.scenario == "resume":
            return Resuming(fleet, process)
        return Idling()

    def _tick(self) -> None:
        self._tell("tick", self._recorder.take())
        # In step with the start, so that one late tick does not delay the next.
        self._tick_at += TICK_S
        self._ticker = asyncio.get_running_loop().call_at(self._tick_at, self._tick)

    def _tell(self, what: str, more: object = None) -> None:
        self._pipe.send((what, more))

    async def _expect(self, command: str) -> Any:
        said, more = await self._commands.get()
        if said != command:
            raise RuntimeError(f"{said} instead of {command}")
        return more

    def _readable(self) -> None:
        try:
            said, more = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            # The parent is gone: no one needs the result.
            os._exit(1)
        if said == "broadcast":
            assert self._broadcasting is not None
            self._broadcasting.told(*more)
        else:
            self._commands.put_nowait((said, more))
