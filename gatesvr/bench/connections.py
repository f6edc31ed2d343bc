"""Scenarios ``connect``, ``resume`` and ``idle``: the cost of connections and sessions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..protocol.events import Started
from .client import LoadClient
from .pusher import Pusher
from .pushes import ListeningClient, push_data
from .schedule import Alarm, Schedule

if TYPE_CHECKING:
    from .._pb import upstream_pb2 as pb
    from .client import Fleet

__all__ = ["Connecting", "Idling", "Resuming", "ResumingClient"]

ROUND_S = 1.25
"""A session may resume once a second (PROTOCOL 4.8)."""


class Connecting:
    """The load of connect: clients connect, log in and stay.

    Args:
        fleet: LoadClients, not connected yet.
        process: Number of the load process.
        finished: Called once every client has had its turn.
    """

    def __init__(self, fleet: Fleet, process: int, finished: Callable[[], None]) -> None:
        self._fleet = fleet
        self._plan = fleet.plan
        self._process = process
        self._finished = finished
        self._waiting: Iterator[LoadClient] = iter(fleet.clients)
        self._latencies = fleet.recorder.series("connect")
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = len(fleet.clients)
        self._schedule: Schedule | None = None
        self._alarm: Alarm | None = None

    async def begin(self, now: float) -> None:
        """Do nothing: a client connected now would be missing from the measurement."""

    def measure(self) -> None:
        """Start the load."""
        plan = self._plan
        if plan.rate:
            rate = plan.rate * len(self._fleet.clients) / plan.clients
            self._schedule = Schedule(rate, time.monotonic() + self._process / plan.rate)
            self._alarm = Alarm(self._connect_due)
            self._alarm.set(self._schedule.next_at)
            return
        for _ in range(max(1, plan.in_flight // plan.processes)):
            self._spawn(self._connect_on())

    async def end(self) -> None:
        """Begin no more connections and wait for those under way."""
        if self._alarm is not None:
            self._alarm.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def is_settled(self) -> bool:
        """Return True: end() has already waited."""
        return True

    async def close(self) -> None:
        """Do nothing: no resources are open."""

    def figures(self, now: float) -> dict[str, float]:
        """Return how well the schedule was kept."""
        if self._schedule is None:
            return {}
        return {"max_lag_ms": round(self._schedule.max_lag * 1e3, 3)}

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._fleet.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_on(self) -> None:
        """Connect clients one after another."""
        while self._fleet.is_running:
            client = next(self._waiting, None)
            if client is None:
                return
            await self._connect(client, time.monotonic())

    async def _connect(self, client: LoadClient, meant_at: float) -> None:
        if await client.connect():
            self._latencies.append(int((time.monotonic() - meant_at) * 1e6))
        self._left -= 1
        if not self._left:
            self._finished()

    def _connect_due(self, now: float) -> None:
        schedule, alarm = self._schedule, self._alarm
        if schedule is None or alarm is None or not self._fleet.is_running:
            return
        while schedule.next_at <= now:
            client = next(self._waiting, None)
            if client is None:
                return
            meant_at = schedule.take(now)
            assert meant_at is not None
            self._spawn(self._connect(client, meant_at))
        alarm.set(schedule.next_at)


class Idling:
    """The load of idle: no messages at all."""

    async def begin(self, now: float) -> None:
        """Do nothing."""

    def measure(self) -> None:
        """Do nothing: there is no load."""

    async def end(self) -> None:
        """Do nothing."""

    def is_settled(self) -> bool:
        """Return True: nothing is under way."""
        return True

    async def close(self) -> None:
        """Do nothing: no resources are open."""

    def figures(self, now: float) -> dict[str, float]:
        """Return no figures."""
        return {}


class ResumingClient(ListeningClient):
    """A client whose connections are cut; its latency runs from the cut to START_RESP."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        super().__init__(fleet, number)
        self._resumes = fleet.recorder.series("resume")
        self._cut_at = 0.0

    def cut_now(self, now: float) -> None:
        """Abandon the connection."""
        self._cut_at = now
        self.cut()

    def started(self, event: Started, now: float) -> None:
        """Record how long a resume took."""
        if self._cut_at:
            if event.is_resumed:
                self._resumes.append(int((now - self._cut_at) * 1e6))
            else:
                self.fleet.fail("resumed into a new session")
        super().started(event, now)

    def time(self, meant_at: float, now: float) -> None:
        """Do nothing: a push waits for the resume, so its time has no meaning."""


class Resuming:
    """The load of resume: cut all, push one notify to each, resume all, in rounds.

    Args:
        fleet: ResumingClients.
        process: Number of the load process.
    """

    def __init__(self, fleet: Fleet, process: int) -> None:
        self._fleet = fleet
        self._clients = [client for client in fleet.clients if isinstance(client, ResumingClient)]
        self._pusher: Pusher | None = None
        if fleet.plan.push_server:
            plan = fleet.plan
            self._pusher = Pusher(plan.push_server, plan.timeout, fleet.fail, plan.push_access())
        self._task: asyncio.Task[None] | None = None
        self._is_over = asyncio.Event()
        self._rounds: list[float] = []
        self._pushes = 0

    async def begin(self, now: float) -> None:
        """Connect to the push API."""
        if self._pusher is not None:
            await self._pusher.start()

    def measure(self) -> None:
        """Start the load; there is no warm-up."""
        self._task = self._fleet.loop.create_task(self._storm())

    async def end(self) -> None:
        """Wait for the current round."""
        self._is_over.set()
        if self._task is not None:
            await self._task

    def is_settled(self) -> bool:
        """Return whether every accepted push has arrived."""
        is_pushed = self._pusher is None or not self._pusher.unanswered
        return is_pushed and not len(self._fleet.checker)

    async def close(self) -> None:
        """End the stream of pushes."""
        if self._pusher is not None:
            await self._pusher.close()

    def figures(self, now: float) -> dict[str, float]:
        """Return how long it took until all clients were back."""
        if not self._rounds:
            return {}
        return {
            "rounds": len(self._rounds),
            "all_back_ms": round(max(self._rounds) * 1e3, 1),
            "pushed_while_away": self._pushes,
        }

    async def _storm(self) -> None:
        while self._fleet.is_running:
            began = time.monotonic()
            clients = [client for client in self._clients if client.is_up]
            if not clients:
                self._fleet.fail("no client is left to resume")
                return
            for client in clients:
                client.cut_now(began)
                self._push(client, began)
            await asyncio.sleep(0)  # lets the old connections report their ends
            if all(await asyncio.gather(*(client.connect() for client in clients))):
                self._rounds.append(time.monotonic() - began)
            with contextlib.suppress(TimeoutError):
                pause = began + ROUND_S - time.monotonic()
                await asyncio.wait_for(self._is_over.wait(), max(0.0, pause))

    def _push(self, client: ResumingClient, now: float) -> None:
        if self._pusher is None:
            return
        self._pushes += 1
        data = push_data(self._fleet, self._pushes, now)
        done = partial(self._answered, client.session_id, self._pushes)
        if not self._pusher.push(client.session_id, data, done):
            self._fleet.fail("push not sent: too many wait for the gateway")

    def _answered(self, session_id: str, number: int, response: pb.UnicastPushResponse) -> None:
        if response.success:
            self._fleet.checker.pushed(session_id, str(number))
        else:
            self._fleet.fail(f"push refused: {response.error_code}")
