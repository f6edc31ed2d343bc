"""WorkerCrew: the workers of a supervisor, as an upgrade sees them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..cluster.peers import PeerUnreachableError
from .assignment import Failed, Leave
from .calls import STATUS, WorkerStatus
from .upgrade import UpgradeError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ..config import Config
    from .process import WorkerProcess
    from .supervisor import Supervisor

__all__ = ["WorkerCrew"]


class WorkerCrew:
    """The Crew of an Upgrade.

    Args:
        supervisor: Whose workers they are.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        # Those that were started here: a worker that has ended is no longer among the supervisor's.
        self._started: dict[int, WorkerProcess] = {}

    def serving(self) -> list[int]:
        """See Crew."""
        return [worker.number for worker in self._supervisor.serving()]

    def start(self, config: Config) -> list[int]:
        """See Crew."""
        supervisor = self._supervisor
        slots = range(supervisor.slots.count)
        for slot in slots:
            if supervisor.slots.is_full(slot):  # of workers that an upgrade has left leaving
                raise UpgradeError(f"all numbers of slot {slot} are in use: try again later")
        for slot in slots:
            worker = supervisor.begin(slot, config)
            self._started[worker.number] = worker
        return list(self._started)

    def failure(self, number: int) -> str | None:
        """See Crew."""
        if self._supervisor.is_leaving:
            return "is not needed: the gateway drains"
        worker = self._started[number]
        if not worker.reported.done():
            return None
        report = worker.reported.result()
        if isinstance(report, Failed):
            return f"cannot serve: {report.why}"
        return "has ended" if worker.ended.done() else None

    def is_started(self, number: int) -> bool:
        """See Crew."""
        return self._started[number].ready is not None

    async def status(self, number: int) -> WorkerStatus | None:
        """See Crew."""
        worker = self._supervisor.workers.get(number)
        if worker is None:
            return None
        try:
            return await self._supervisor.ask(worker, STATUS, None, WorkerStatus)
        except PeerUnreachableError:
            return None

    def leave(self, number: int, to: Sequence[int], rate: float, within: float) -> None:
        """See Crew."""
        supervisor = self._supervisor
        nodes = [supervisor.workers[each].node_id for each in to if each in supervisor.workers]
        supervisor.slots.retire(number)
        supervisor.workers[number].tell(
            Leave(rate=rate, timeout=within, ready_wait=0.0, nodes=nodes)
        )
        supervisor.cover()

    def kill(self, number: int) -> None:
        """See Crew."""
        self._supervisor.slots.retire(number)
        self._supervisor.workers[number].kill()

    def living(self, numbers: Collection[int]) -> list[int]:
        """See Crew."""
        return [number for number in numbers if number in self._supervisor.workers]

    async def wait(self, numbers: Collection[int], within: float) -> None:
        """See Crew."""
        waits: set[asyncio.Future[object]] = set()
        for number in self.living(numbers):
            worker = self._supervisor.workers[number]
            each = worker.ended if worker.reported.done() else worker.reported
            waits.add(asyncio.ensure_future(asyncio.shield(each)))
        if waits:
            await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
            for waiting in waits:
                waiting.cancel()
        else:
            await asyncio.sleep(within)
