"""Scenarios ``push``, ``slow`` and ``broadcast``: clients that listen, and the load they get."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ..errors import ConnectionFailed
from ..protocol.events import Lost, Notify
from .client import POLL_S, LoadClient
from .findings import Reordered
from .pusher import Pusher
from .schedule import Alarm, Schedule

if TYPE_CHECKING:
    from .._pb import upstream_pb2 as pb
    from .client import Fleet

__all__ = ["Broadcasting", "ListeningClient", "Pushing"]

HEAD = struct.Struct(">IQd")
"""Start of a push's data: the run, its number, its intended send time (monotonic)."""
MIN_RETRY_S = 0.05
MAX_BROADCASTS = 64
"""Most broadcasts under way; later ones are sent late."""
QUIET_S = 1.0
"""Quiet time after which the rest counts as arrived. Needed if a broadcast reached fewer sessions
than there are, because the gateway does not say which."""


class ListeningClient(LoadClient):
    """A client that receives pushes.

    Attributes:
        is_slow: Whether it stops reading during the load; its deliveries are not timed.
        is_ordered: Whether pushes arrive in the order of their numbers, as those of a stream do.
        slow_lost: Messages that the gateway dropped, with an announcement, because it was slow.
        on_delivery: Called for each push of this run.
    """

    def __init__(self, fleet: Fleet, number: int) -> None:
        super().__init__(fleet, number)
        self.is_slow = False
        self.is_ordered = True
        self.slow_lost = 0
        self._last = 0
        self.on_delivery: Callable[[ListeningClient, float], None] | None = None
        self._latencies = fleet.recorder.series("delivery")

    def notified(self, event: Notify, now: float) -> None:
        """Report the push to the checker, and time it."""
        fleet = self.fleet
        head = event.data[: HEAD.size]
        run, number, meant_at = HEAD.unpack(head) if len(head) == HEAD.size else (None, 0, 0.0)
        if run != fleet.plan.run:
            super().notified(event, now)
            return
        fleet.checker.delivered(self.session_id, event.seq, push=str(number))
        if number < self._last and self.is_ordered:
            finding = Reordered(self.session_id, "push", number, self._last)
            fleet.checker.findings.append(finding)
        self._last = number
        self.protocol.acknowledge(event.seq, now)
        if len(event.data) != fleet.plan.payload:
            fleet.checker.broken(self.session_id, f"push {number} has {len(event.data)} bytes")
        self.time(meant_at, now)
        if self.on_delivery is not None:
            self.on_delivery(self, now)

    def time(self, meant_at: float, now: float) -> None:
        """Record how long a push took."""
        if not self.is_slow:
            self._latencies.append(int((now - meant_at) * 1e6))

    def stop_reading(self) -> None:
        """Leave everything in the socket, and so acknowledge nothing."""
        self.is_slow = True
        if self.connection is not None:
            self.connection.pause_reading()

    def read_again(self) -> None:
        """Resume reading."""
        if self.connection is not None:
            self.connection.resume_reading()

    def lost(self, event: Lost) -> None:
        """Accept that the queue of a slow reader drops its oldest messages."""
        if self.is_slow:
            self.slow_lost += event.to_seq - event.from_seq + 1
        else:
            super().lost(event)

    def lost_connection(self, why: str) -> None:
        """Accept that the gateway drops a slow reader, which will come back."""
        if not self.is_slow:
            super().lost_connection(why)


def push_data(fleet: Fleet, number: int, meant_at: float) -> bytes:
    """Return a push's data."""
    plan = fleet.plan
    return HEAD.pack(plan.run, number, meant_at) + bytes(plan.payload - HEAD.size)


class Pushing:
    """The load of push and slow: closed, or at a fixed rate to random clients.

    Args:
        fleet: ListeningClients.
        process: Number of the load process.
    """

    def __init__(self, fleet: Fleet, process: int) -> None:
        self._fleet = fleet
        self._plan = plan = fleet.plan
        self._process = process
        self._clients = [client for client in fleet.clients if isinstance(client, ListeningClient)]
        self._slow = self._clients[: len(plan.share(process)) * plan.slow_clients // plan.clients]
        # S311: choosing clients needs spread, not secrecy.
        self._rng = random.Random(f"{plan.seed} {process}")  # noqa: S311
        self._pusher = Pusher(plan.push_server, plan.timeout, fleet.fail, plan.push_access())
        self._pushes = 0
        self._pushes_before = 0  # pushes of the warm-up
        self._refused_slow = 0
        self._came_back = 0
        self._schedule: Schedule | None = None
        self._alarm: Alarm | None = None

    async def begin(self, now: float) -> None:
        """Start the load."""
        plan = self._plan
        await self._pusher.start()
        self._clients = [client for client in self._clients if client.is_up]
        if not self._clients:
            return
        for client in self._slow:
            client.stop_reading()
        if plan.rate:
            rate = plan.rate * len(self._clients) / plan.clients
            self._schedule = Schedule(rate, time.monotonic() + self._process / plan.rate)
            self._alarm = Alarm(self._push_due)
            self._alarm.set(self._schedule.next_at)
            return
        now = time.monotonic()
        for client in self._clients:
            client.on_delivery = self._push_again
            for _ in range(plan.in_flight):
                self._push(client, now)

    def measure(self) -> None:
        """Drop the warm-up's figures."""
        self._pushes_before = self._pushes
        if self._schedule is not None:
            self._schedule.max_lag = 0.0

    async def end(self) -> None:
        """Stop pushing, and make the slow clients read again."""
        if self._alarm is not None:
            self._alarm.close()
        for client in self._slow:
            client.read_again()

    def is_settled(self) -> bool:
        """Return whether every accepted push has arrived; reconnects slow clients."""
        for client in self._slow:
            if not client.is_up and not client.is_connecting:
                self._came_back += 1
                client.connect_soon()
        lost = sum(client.slow_lost for client in self._slow)
        return not self._pusher.unanswered and len(self._fleet.checker) <= lost

    async def close(self) -> None:
        """End the stream of pushes."""
        await self._pusher.close()

    def figures(self, now: float) -> dict[str, float]:
        """Return the push counts, and how well the schedule was kept."""
        figures: dict[str, float] = {"pushes": self._pushes - self._pushes_before}
        if self._slow:
            figures["slow_clients"] = len(self._slow)
            figures["refused_for_slow"] = self._refused_slow
            figures["slow_resumed"] = self._came_back
            figures["slow_lost"] = sum(client.slow_lost for client in self._slow)
        if self._schedule is not None:
            figures["max_lag_ms"] = round(self._schedule.max_lag * 1e3, 3)
            figures["unsent"] = self._schedule.waiting(now)
        return figures

    def _push_due(self, now: float) -> None:
        schedule, alarm = self._schedule, self._alarm
        if schedule is None or alarm is None or not self._fleet.is_running:
            return
        while (meant_at := schedule.take(now)) is not None:
            self._push(self._rng.choice(self._clients), meant_at)
        alarm.set(schedule.next_at)

    def _push_again(self, client: ListeningClient, now: float) -> None:
        if self._fleet.is_running:
            self._push(client, now)

    def _push(self, client: ListeningClient, meant_at: float) -> None:
        self._pushes += 1
        number = self._pushes
        data = push_data(self._fleet, number, meant_at)
        done = partial(self._answered, client, number)
        if not self._pusher.push(client.session_id, data, done):
            self._fleet.fail("push not sent: too many wait for the gateway")

    def _answered(
        self, client: ListeningClient, number: int, response: pb.UnicastPushResponse
    ) -> None:
        fleet = self._fleet
        if response.success:
            fleet.checker.pushed(client.session_id, str(number))
            return
        if client.is_slow and response.error_code == "BUSY":
            self._refused_slow += 1
        else:
            fleet.fail(f"push refused: {response.error_code}")
        if client.on_delivery is not None:
            pause = max(MIN_RETRY_S, response.retry_after_ms / 1000)
            fleet.loop.call_later(pause, lambda: self._push_again(client, time.monotonic()))


class Broadcasting:
    """The load of broadcast: load process 0 broadcasts, the clients of all processes listen.

    Args:
        fleet: ListeningClients.
        process: Number of the load process.
        tell: Called in process 0 with each answered broadcast, to inform the other processes: its
            number, and whether all sessions took it.
    """

    def __init__(self, fleet: Fleet, process: int, tell: Callable[[int, bool], None]) -> None:
        self._fleet = fleet
        self._plan = fleet.plan
        self._tell = tell
        self._pusher: Pusher | None = None
        if process == 0:
            plan = fleet.plan
            self._pusher = Pusher(plan.push_server, plan.timeout, fleet.fail, plan.push_access())
        self._tasks: set[asyncio.Task[None]] = set()
        self._broadcasts = 0
        self._broadcasts_before = 0  # broadcasts of the warm-up
        self._not_taken = 0
        self._has_unsure = False
        self._heard_at = 0.0
        self._schedule: Schedule | None = None
        self._alarm: Alarm | None = None
        for client in fleet.clients:
            if isinstance(client, ListeningClient):
                client.on_delivery = self._delivered
                client.is_ordered = False  # concurrent calls have no order

    async def begin(self, now: float) -> None:
        """Start the load."""
        if self._pusher is not None:
            await self._pusher.start()
            self._schedule = Schedule(self._plan.rate, time.monotonic())
            self._alarm = Alarm(self._broadcast_due)
            self._alarm.set(self._schedule.next_at)

    def measure(self) -> None:
        """Drop the warm-up's figures."""
        self._broadcasts_before = self._broadcasts
        self._not_taken = 0
        if self._schedule is not None:
            self._schedule.max_lag = 0.0

    async def end(self) -> None:
        """Stop broadcasting; wait for the answers."""
        if self._alarm is not None:
            self._alarm.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._heard_at = time.monotonic()

    def is_settled(self) -> bool:
        """Return whether every broadcast has arrived everywhere."""
        if not len(self._fleet.checker):
            return True
        return self._has_unsure and time.monotonic() - self._heard_at > QUIET_S

    async def close(self) -> None:
        """Close the channel."""
        if self._pusher is not None:
            await self._pusher.close()

    def figures(self, now: float) -> dict[str, float]:
        """Return the broadcast counts."""
        if self._pusher is None or self._schedule is None:
            return {}
        return {
            "broadcasts": self._broadcasts - self._broadcasts_before,
            "not_taken": self._not_taken,
            "max_lag_ms": round(self._schedule.max_lag * 1e3, 3),
            "unsent": self._schedule.waiting(now),
        }

    def told(self, number: int, is_sure: bool) -> None:
        """Handle the news that the gateway answered a broadcast."""
        self._has_unsure = self._has_unsure or not is_sure
        checker = self._fleet.checker
        for client in self._fleet.clients:
            if client.is_up:
                checker.pushed(client.session_id, str(number), is_sure=is_sure)

    def _delivered(self, client: ListeningClient, now: float) -> None:
        self._heard_at = now

    def _broadcast_due(self, now: float) -> None:
        schedule, alarm = self._schedule, self._alarm
        if schedule is None or alarm is None or not self._fleet.is_running:
            return
        if len(self._tasks) >= MAX_BROADCASTS:
            alarm.set(now + POLL_S)
            return
        if (meant_at := schedule.take(now)) is not None:
            task = self._fleet.loop.create_task(self._broadcast(meant_at))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        alarm.set(schedule.next_at)

    async def _broadcast(self, meant_at: float) -> None:
        assert self._pusher is not None
        self._broadcasts += 1
        number = self._broadcasts
        try:
            response = await self._pusher.broadcast(push_data(self._fleet, number, meant_at))
        except ConnectionFailed as error:
            self._fleet.fail(str(error))
            self._answered(number, is_sure=False)
            return
        if response.message:
            self._fleet.fail(f"broadcast refused: {response.message}")
        missing = max(0, self._plan.clients - response.sent_count)
        self._not_taken += missing
        self._answered(number, is_sure=not missing)

    def _answered(self, number: int, *, is_sure: bool) -> None:
        self.told(number, is_sure)
        self._tell(number, is_sure)
