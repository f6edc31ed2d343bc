"""Several gateways in one process behind a fleet, without sockets and without processes."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gatesvr import Gateway
from gatesvr.admin.answers import UpgradeStatus
from gatesvr.cluster.entries import Entries
from gatesvr.cluster.peers import PeerUnreachableError
from gatesvr.config import Config, load
from gatesvr.drain import DrainStatus
from gatesvr.session.session import Session
from gatesvr.session.state import Event
from gatesvr.workers.counters import WorkerCounters
from gatesvr.workers.desk import AdminDesk
from gatesvr.workers.facts import WorkerFacts
from gatesvr.workers.fleet import Fleet
from tests.fakes import FakeLink

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from gatesvr.cluster.calls import Call
    from gatesvr.cluster.peers import Handlers


class MemoryPeers:
    """Peers of one process: calls pass as bytes, and a silent node's are never answered."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handlers] = {}
        self.silent: set[str] = set()
        self.asked: list[tuple[str, str]] = []

    async def call(
        self, node_id: str, call: Call[Any, Any], request: Message, within: float
    ) -> Any:
        self.asked.append((node_id, call.name))
        if node_id in self.silent or node_id not in self.handlers:
            raise PeerUnreachableError(node_id)
        handler = self.handlers[node_id][call]
        until = asyncio.get_running_loop().time() + within
        try:
            answer = handler(call.request.FromString(request.SerializeToString()), until)
            answer = await answer if inspect.isawaitable(answer) else answer
        except Exception as error:
            raise PeerUnreachableError(repr(error)) from error
        return call.answer.FromString(answer.SerializeToString())

    def tell(self, node_id: str, call: Call[Any, Any], request: Message) -> None:
        raise NotImplementedError


@dataclass
class FakeSupervision:
    """A supervisor that has been told what to say."""

    config: Config
    counters: WorkerCounters = field(default_factory=WorkerCounters)
    workers: list[WorkerFacts] = field(default_factory=list)
    status: DrainStatus = field(default_factory=DrainStatus)
    on_last_figures: Callable[[str, bytes], None] | None = None
    drains: list[tuple[float | None, float | None, str, str]] = field(default_factory=list)

    def view(self) -> list[WorkerFacts]:
        return list(self.workers)

    async def drain(
        self,
        rate: float | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as Supervisor.drain()
        *,
        to: str = "",
        to_web: str = "",
    ) -> None:
        self.drains.append((rate, timeout, to, to_web))

    def drain_status(self) -> DrainStatus:
        return self.status

    def upgrade_status(self) -> UpgradeStatus:
        return UpgradeStatus(phase="starting", workers=2)


class FleetRig:
    """Gateways that were not started, as workers 0, 1, ... with their sessions, behind a fleet.

    Args:
        count: Workers.
        sets: ``--set`` texts of their configuration.
    """

    def __init__(self, count: int = 3, *sets: str) -> None:
        config = load(
            sets=["transport.bind=127.0.0.1:0", "push.bind=127.0.0.1:0", *sets], environ={}
        )
        self.peers = MemoryPeers()
        self.supervision = FakeSupervision(config)
        loop = asyncio.get_running_loop()
        self.entries = Entries(lease=3600, resume_window=60, max_tombstones=100, now=loop.time())
        self.gateways: list[Gateway] = []
        self.desks: list[AdminDesk] = []
        self.slots = count
        for _ in range(count):
            self.add_worker()
        self.fleet = Fleet(self.supervision, self.peers, self.entries, slots=count)

    def add_worker(self) -> WorkerFacts:
        """Add a worker in the next place, and return it."""
        number = len(self.gateways)
        worker = WorkerFacts(
            number, number % self.slots, f"node-{number}", 4_000 + number, "serving", 60.0, 0
        )
        gateway = Gateway(self.supervision.config)
        gateway._is_serving = True
        desk = AdminDesk(gateway)
        self.gateways.append(gateway)
        self.desks.append(desk)
        self.peers.handlers[worker.node_id] = desk.handlers()
        self.supervision.workers.append(worker)
        self.entries.join(worker.node_id, "", asyncio.get_running_loop().time())
        return worker

    def change(self, number: int, **values: Any) -> None:
        """Change what the supervisor knows of a worker."""
        workers = self.supervision.workers
        at = next(i for i, worker in enumerate(workers) if worker.number == number)
        workers[at] = workers[at]._replace(**values)

    def lose(self, number: int) -> None:
        """End a worker; the directory forgets it, too."""
        (worker,) = (one for one in self.supervision.workers if one.number == number)
        self.supervision.workers.remove(worker)
        self.supervision.counters.deaths += 1
        del self.peers.handlers[worker.node_id]
        self.entries.leave(worker.node_id, asyncio.get_running_loop().time())

    def add_session(self, number: int, name: int, *, queue: int = 0, age: float = 0.0) -> Session:
        """Add a session at a worker, its queue so long and so old."""
        gateway = self.gateways[number]
        manager, now = gateway.session_manager, gateway.engine.clock()
        session = Session(manager.context, f"{name:032x}", f"user-{name:04}", now - age)
        session.user_ip = "192.0.2.1"
        manager.index.add(session)
        manager.index.log_in(session)
        session.move(Event.LOGIN)
        session.attach(FakeLink(), now)
        for _ in range(queue):
            session.outbox.push(b"x", now)
        loop = asyncio.get_running_loop()
        self.entries.create(session.session_id, f"node-{number}", session.openid, loop.time())
        return session

    def close(self) -> None:
        """End what was begun."""
        self.fleet.close()
        for desk in self.desks:
            desk.close()
