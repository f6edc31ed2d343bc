"""Supervisor: starts the workers of a gateway, watches them, and holds what they share.

It has no clients and no upstreams. It opens the ports, holds the directory (who owns each session),
starts a worker for each slot, starts another one where one dies, and passes orders on: drain,
reload. slots.py has the states of a worker, assignment.py its start, calls.py what the two say to
each other after that.

A supervisor that is gone, however it ended, closes the channels of its workers: they drain and end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ..cluster.entries import Entries
from ..cluster.hub import HUB, HubServer
from ..cluster.peer_link import PeerLinks
from ..cluster.peers import PeerUnreachableError
from ..config.changes import changes, within_reach
from ..drain import DrainStatus, check_drain
from ..errors import ConfigError, GatesvrError
from ..observe.log import keys
from ..reload import ReloadReport, follow_log, log_changes
from ..transport.siblings import shared_secret, steering_key
from .assignment import (
    Assignment,
    Cover,
    Failed,
    Go,
    Hurry,
    Leave,
    Ready,
    board_file,
    datagram_socket,
    hub_socket,
)
from .board import BEAT_S, Board
from .calls import (
    RELOAD,
    STATUS,
    Reloaded,
    ReloadOrder,
    WorkerStatus,
    pack,
    unpack,
)
from .counters import WorkerCounters
from .crew import WorkerCrew
from .drains import gone, sum_up
from .facts import WorkerFacts
from .ports import Ports
from .process import WorkerProcess, spell_end, worker_command
from .shares import Balancer
from .slots import Slots
from .upgrade import Upgrade, UpgradeError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from google.protobuf.wrappers_pb2 import BytesValue

    from ..admin.answers import UpgradeStatus
    from ..cluster.calls import Call
    from ..config import Config

__all__ = ["Supervisor"]

logger = logging.getLogger("gatesvr.workers")

T = TypeVar("T")

CALL_S = 5.0
"""Longest wait for a worker's answer."""
LOOK_S = 0.2
"""How often workers that drain are asked how far they are."""
LATE_S = 10.0
"""Time that workers get beyond the drain's; then they are killed."""
STOP_S = 5.0
"""Time that workers get to end in a hurry; then they are killed."""
MAX_TOMBSTONES = 65_536
"""Sessions that were replaced or kicked, and are remembered for their clients."""
NODE_ID_BYTES = 16


class Supervisor:
    """The processes of one gateway.

    Args:
        config: The configuration; ``workers.count`` is 1 or more.
        command: Starts a worker; the number of its channel's descriptor follows.
        loop: Name of the workers' event loop.
        is_demo: Whether this is ``gatesvr serve --demo``.
        is_any_web_port: Whether to take a free port where that for web clients is taken.

    Attributes:
        config: In force.
        counters: What became of the workers.
        entries: Who owns each session.
        workers: The live ones by number, those that start or leave included.
        links: The way to them, by their node ids.
        slots: Their phases.
        on_drain: Called when a drain begins, whoever asked for it.
        on_last_figures: Called with the node id of a worker that ends, and its last figures.
    """

    on_drain: Callable[[], None] | None = None
    on_last_figures: Callable[[str, bytes], None] | None = None

    def __init__(
        self,
        config: Config,
        *,
        command: Sequence[str] = (),
        loop: str = "uvloop",
        is_demo: bool = False,
        is_any_web_port: bool = False,
    ) -> None:
        own = config.workers
        self.config = config
        self.counters = WorkerCounters()
        self.workers: dict[int, WorkerProcess] = {}
        self.slots = Slots(own.count, restart_min=own.restart_min, restart_max=own.restart_max)
        self.links = PeerLinks(HUB)
        self._command = list(command) or worker_command()
        self._loop_name = loop
        self._is_demo = is_demo
        self._clock = asyncio.get_running_loop().time
        self._ports = Ports(own.count, is_any_web_port=is_any_web_port, has_page=is_demo)
        self.entries = Entries(
            lease=own.lease,
            resume_window=config.session.resume_window,
            max_tombstones=MAX_TOMBSTONES,
            now=self._clock(),
        )
        self._hub = HubServer(self.entries)
        self._folder = ""
        self._lock = -1
        self._board: Board | None = None
        self._balancer: Balancer | None = None
        self._balancing: asyncio.TimerHandle | None = None
        self._key = self._secret = b""
        self._steers = False
        self._covers: dict[int, list[int]] = {}
        self._silent: set[int] = set()  # slots whose worker is stopped, or starved
        self._is_serving = False
        self._is_leaving = False
        self._is_upgrading = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._restarts: dict[int, asyncio.TimerHandle] = {}
        self._draining: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._drain_status = DrainStatus()
        self._reloading = asyncio.Lock()
        self._upgrade = Upgrade(WorkerCrew(self), self._clock, start_timeout=0, timeout=0, rate=0)

    @property
    def folder(self) -> str:
        """The private folder of the gateway's Unix sockets; empty before start()."""
        return self._folder

    @property
    def is_leaving(self) -> bool:
        """Whether it drains or ends, and starts no worker any more."""
        return self._is_leaving

    def serving(self) -> list[WorkerProcess]:
        """Return the workers that serve, by number, without those that start or leave."""
        return [
            worker
            for number, worker in sorted(self.workers.items())
            if self.slots.phase(number) == "serving"
        ]

    def view(self) -> list[WorkerFacts]:
        """Return every worker, by number."""
        now = self._clock()
        return [
            WorkerFacts(
                number,
                number % self.slots.count,
                worker.node_id,
                worker.pid,
                self.slots.phase(number) or "",
                now - worker.started_at,
                self.slots.deaths(number % self.slots.count),
            )
            for number, worker in sorted(self.workers.items())
        ]

    # Start.

    async def start(self) -> list[Ready]:
        """Start everything; return what the workers say, by slot.

        Raises:
            ConfigError: A port is in use, or a worker finds the configuration at fault.
            GatesvrError: A worker cannot start.
        """
        try:
            await self._ports.open(self.config)
            self._secret = shared_secret(self.config.transport, self._ports.address)
            self._key = steering_key(self._secret)
            self._steers = self._ports.steer(self._key, self.config.workers.steer)
            self._folder = tempfile.mkdtemp(prefix="gatesvr-")  # of this user alone
            # Whoever clears old files away leaves a folder alone that is locked (tmpfiles.d(5)).
            self._lock = os.open(self._folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            await self.links.serve(hub_socket(self._folder), self._hub.handlers())
            self._hub.start()
            self._board = Board(board_file(self._folder), is_new=True)
            self._balancer = Balancer(self._board, self.config)
            workers = [self.begin(slot) for slot in range(self.slots.count)]
            self._balance()
            ready = await self._first_reports(workers)
        except BaseException:
            await self.stop()
            raise
        self._is_serving = True
        logger.info("workers_started", extra=keys(workers=len(workers), steered=self._steers))
        return ready

    def go(self) -> None:
        """Let the workers log, once start() is done and has been told of."""
        for worker in self.workers.values():
            worker.tell(Go())

    async def _first_reports(self, workers: list[WorkerProcess]) -> list[Ready]:
        """Wait until all are ready; the first that fails is raised."""
        waiting = {worker.reported: worker for worker in workers}
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                worker, report = waiting.pop(each), each.result()
                if isinstance(report, Failed):
                    if report.is_config:
                        raise ConfigError(report.why)
                    raise GatesvrError(f"worker {worker.number}: {report.why}")
        await asyncio.sleep(0)  # _reported() of the last one is due
        return [report for w in workers if isinstance(report := w.reported.result(), Ready)]

    def begin(self, slot: int, config: Config | None = None) -> WorkerProcess:
        """Start a worker for a slot, beside those that it has; return it.

        Args:
            slot: The slot.
            config: What it gets in the place of the configuration in force.

        Raises:
            LookupError: The slot has no number left.
        """
        number = self.slots.begin(slot)
        assert self._balancer is not None
        self._balancer.add(number)
        if self._is_serving:
            self._balancer.tick()
        assignment = Assignment(
            number=number,
            slots=self.slots.count,
            node_id=secrets.token_hex(NODE_ID_BYTES),
            config=self._ports.pinned(config or self.config),
            folder=self._folder,
            key=self._key,
            secret=self._secret,
            sockets=_descriptors(self._ports.sockets(slot)),
            others={n: _descriptors(socks) for n, socks in self._ports.others(slot).items()},
            loop=self._loop_name,
            is_demo=self._is_demo,
        )
        worker = self.workers[number] = WorkerProcess(assignment, self._clock())
        self.counters.starts += 1
        self.counters.running = len(self.workers)
        self._spawn(self._watch(worker))
        return worker

    def _balance(self) -> None:
        """Move the workers' shares of the limits, now and from now on."""
        assert self._balancer is not None
        self._balancing = asyncio.get_running_loop().call_later(BEAT_S, self._balance)
        self._balancer.tick()
        self._look_for_silent()

    # What becomes of a worker.

    async def _watch(self, worker: WorkerProcess) -> None:
        """Run a worker, and see to what its end leaves."""
        own = worker.assignment
        groups = (own.sockets, *own.others.values())
        inherited = [fd for group in groups for fds in group.values() for fd in fds]
        worker.reported.add_done_callback(lambda _: self._reported(worker))
        why = ""
        try:
            await worker.run(self._command, inherited, self.config.workers.start_timeout)
        except OSError as error:
            why = error.strerror or str(error)
        finally:
            self._ended(worker, why)

    def _reported(self, worker: WorkerProcess) -> None:
        if worker.ready is None:
            return
        self.slots.ready(worker.number, self._clock())
        self.links.add(worker.node_id, worker.socket)
        if self._is_serving:
            worker.tell(Go())
            self.cover()
        logger.info("worker_ready", extra=keys(worker=worker.number, pid=worker.pid))

    def _look_for_silent(self) -> None:
        """Let others cover the slots whose worker has stopped to say how it is."""
        assert self._board is not None
        silent = set()
        for worker in self.serving():
            row = self._board.row(worker.number)
            if row is not None and row.is_stale:
                silent.add(worker.number % self.slots.count)
        if silent == self._silent:
            return
        for slot in silent - self._silent:
            logger.warning("worker_silent", extra=keys(slot=slot))
        self._silent = silent
        self.cover()

    def cover(self) -> None:
        """See that what comes for a slot without a worker is read by another one.

        That one takes the new clients of the slot, and tells those of a dead worker at once that
        their connections are gone.
        """
        before, self._covers = self._covers, self.slots.covers(self._silent)
        for number, slots in self._covers.items():
            if slots != before.get(number, []):
                self.workers[number].tell(Cover(slots))

    def _ended(self, worker: WorkerProcess, why: str) -> None:
        """Forget a worker that has ended; see that its slot gets another one."""
        number, now = worker.number, self._clock()
        if worker.last_figures is not None and self.on_last_figures is not None:
            self.on_last_figures(worker.node_id, worker.last_figures)
        was_asked = self._is_leaving or self.slots.phase(number) == "leaving"
        del self.workers[number]
        self.counters.running = len(self.workers)
        self.links.remove(worker.node_id)
        if self._balancer is not None:
            self._balancer.remove(number)
        lost = len(self.entries.leave(worker.node_id, now))
        for path in (worker.socket, datagram_socket(worker.assignment)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        pause = self.slots.ended(number, now)
        if self._is_serving:
            self.cover()
        if was_asked:
            logger.info("worker_left", extra=keys(worker=number, pid=worker.pid))
            return
        self.counters.deaths += 1
        self.counters.start_failures += worker.ready is None
        self.counters.sessions_lost += lost
        if not self._is_serving:
            return  # start() says so
        report = worker.reported.result()
        if isinstance(report, Failed):
            why = why or report.why
        code = worker.ended.result() if worker.ended.done() else None
        logger.error(
            "worker_died",
            extra=keys(
                worker=number,
                pid=worker.pid,
                why=why or spell_end(code),
                sessions=lost,
                restart_in_s=pause,
            ),
        )
        if pause is not None:
            slot = number % self.slots.count
            loop = asyncio.get_running_loop()
            self._restarts[slot] = loop.call_later(pause, self._restart, slot)

    def _restart(self, slot: int) -> None:
        del self._restarts[slot]
        self.begin(slot)

    # Orders.

    async def ask(
        self, worker: WorkerProcess, call: Call[BytesValue, BytesValue], order: Any, answer: type[T]
    ) -> T:
        """Ask a worker, and return its answer.

        Raises:
            PeerUnreachableError: There is none.
        """
        found = await self.links.call(worker.node_id, call, pack(order), CALL_S)
        try:
            return unpack(found, answer)
        except msgspec.MsgspecError as error:
            raise PeerUnreachableError(f"{call.name}: not understood: {error}") from None

    async def reload(self, read: Callable[[], Config]) -> ReloadReport:
        """Read the configuration, and put it in force in all workers or in none.

        Args:
            read: Reads it from its sources, as at the start.
        """
        async with self._reloading:
            try:
                config = read()
                changed = changes(self.config, config)
                config, left = within_reach(self.config, config)
                await self._apply(config)
            except GatesvrError as error:
                logger.error("configuration_kept", extra=keys(why=error))
                return ReloadReport(error=str(error))
            before = self.config
            self._take(config)
            log_changes(changed, left)
            follow_log(before.log, config.log)
            return ReloadReport(changed=changed, needs_restart=left)

    async def _apply(self, config: Config) -> None:
        """Put a configuration in force in all workers; where one refuses it, in none.

        Raises:
            GatesvrError: One refuses it, or does not answer.
        """
        order = ReloadOrder(config=self._ports.pinned(config))
        back = ReloadOrder(config=self._ports.pinned(self.config))
        asked: list[WorkerProcess] = []
        for worker in self.serving():
            asked.append(worker)
            try:
                error = (await self.ask(worker, RELOAD, order, Reloaded)).error
            except PeerUnreachableError as problem:
                if worker.number not in self.workers:
                    continue  # the next one in its slot has the new one
                error = f"worker {worker.number}: {problem}"
            if error:
                for each in asked:  # an answer that is late may have been yes
                    with contextlib.suppress(PeerUnreachableError):  # it has ended
                        await self.ask(each, RELOAD, back, Reloaded)
                raise GatesvrError(error)

    def _take(self, config: Config) -> None:
        """Take a configuration that is in force in the workers."""
        self.config = config
        own = config.workers
        if self._balancer is not None:
            self._balancer.apply(config)
        self.slots.apply(restart_min=own.restart_min, restart_max=own.restart_max)

    async def upgrade(self, read: Callable[[], Config]) -> UpgradeStatus:
        """Replace all workers by new ones, which this interpreter starts anew, and return its end.

        No session and no request is lost; see upgrade.py.

        Args:
            read: Reads the configuration from its sources, as at the start.

        Raises:
            UpgradeError: It was given up, and nothing has changed; or one is under way, or the
                gateway drains.
        """
        if self._is_upgrading:
            raise UpgradeError("an upgrade is under way")
        if self._is_leaving or not self._is_serving:
            raise UpgradeError("the gateway drains" if self._is_leaving else "it has not started")
        self.counters.upgrades += 1
        self._is_upgrading = True
        try:
            async with self._reloading:
                await self._begin_upgrade(read)
            await self._upgrade.finish()
        except UpgradeError:
            self.counters.upgrades_given_up += 1
            raise
        finally:
            self._is_upgrading = False
        return self._upgrade.status()

    async def _begin_upgrade(self, read: Callable[[], Config]) -> None:
        if self._is_leaving:  # since it waits for a reload
            raise UpgradeError("the gateway drains")
        try:
            config, kept = within_reach(self.config, read(), is_upgrade=True)
        except ConfigError as error:
            logger.error("upgrade_given_up", extra=keys(why=error))
            raise UpgradeError(str(error)) from None
        if kept:
            logger.warning("needs_restart", extra=keys(settings=", ".join(kept)))
        own = config.workers
        self._upgrade = Upgrade(
            WorkerCrew(self),
            self._clock,
            start_timeout=own.start_timeout,
            timeout=own.upgrade_timeout,
            rate=config.drain.rate,
            needs_restart=kept,
        )
        self._cancel_restarts()  # each slot gets a worker now
        try:
            await self._upgrade.start(config)
        finally:
            self._fill_slots()
        before = self.config
        self._take(config)
        follow_log(before.log, config.log)

    def _fill_slots(self) -> None:
        """Start workers in slots that an upgrade has left without one."""
        if self._is_leaving:
            return
        for slot in range(self.slots.count):
            phases = [self.slots.phase(number) for number in self.slots.numbers(slot)]
            if all(phase == "leaving" for phase in phases):
                self.begin(slot)

    def _cancel_restarts(self) -> None:
        for timer in self._restarts.values():
            timer.cancel()
        self._restarts.clear()

    def upgrade_status(self) -> UpgradeStatus:
        """Return how far the last upgrade has come."""
        return self._upgrade.status()

    # End.

    async def drain(
        self,
        rate: float | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - what it ends is not this call
        *,
        ready_wait: float | None = None,
        to: str = "",
        to_web: str = "",
    ) -> None:
        """Take the gateway out of service so that its users do not notice, then stop it.

        Each worker drains, all at the same time; see Gateway.drain(). A second call waits for the
        first.

        Args:
            rate: Clients asked to leave a second, of all workers together; None for ``drain.rate``.
            timeout: Longest time, seconds; None for ``drain.timeout``.
            ready_wait: Seconds of false readiness first; None for ``drain.ready_wait``.
            to: Another gateway, ``HOST:PORT``, to send QUIC clients to; empty for none.
            to_web: The same for web clients.

        Raises:
            ConfigError: A number is out of range, or an address is none; no drain has begun.
        """
        check_drain(rate, timeout, ready_wait, to, to_web)
        if self._draining is None:
            order = Leave(rate=rate, timeout=timeout, ready_wait=ready_wait, to=to, to_web=to_web)
            self._drain_status = self._before_drain(order)
            self._draining = asyncio.ensure_future(self._drain(order))
            if self.on_drain is not None:
                self.on_drain()
        await asyncio.shield(self._draining)

    def _before_drain(self, order: Leave) -> DrainStatus:
        """Return how far a drain is that begins, as the workers last said; see board.py."""
        found = [] if self._board is None else map(self._board.row, self.workers)
        rows = [row for row in found if row is not None]
        clients = sum(row.connections for row in rows)
        drain = self.config.drain
        return DrainStatus(
            phase="unready",
            connections_at_start=clients,
            connections_left=clients,
            requests_left=sum(row.requests for row in rows),
            remaining_s=drain.timeout if order.timeout is None else order.timeout,
            rate=order.rate or drain.rate,
            to=order.to,
        )

    def drain_status(self) -> DrainStatus:
        """Return how far the drains of all workers have come; up to LOOK_S old."""
        return self._drain_status

    def hurry(self) -> None:
        """Cut a drain short: the workers close all connections, and end."""
        self._leave()
        for worker in self.workers.values():
            worker.tell(Hurry())

    def kill(self) -> None:
        """End the workers that are left, at once."""
        for worker in self.workers.values():
            worker.kill()

    def _leave(self) -> None:
        """Start no worker any more; those that start have no clients, and end."""
        self._is_leaving = True
        self._cancel_restarts()
        for number, worker in self.workers.items():
            if self.slots.phase(number) == "starting":
                worker.kill()

    async def _drain(self, order: Leave) -> None:
        try:
            self._leave()
            share = (order.rate or self.config.drain.rate) / max(1, len(self.workers))
            for worker in self.workers.values():
                worker.tell(msgspec.structs.replace(order, rate=share))
            longest = self.config.drain.timeout if order.timeout is None else order.timeout
            async with asyncio.timeout(longest + LATE_S):
                await self._see_them_off()
        except TimeoutError:
            logger.error("workers_late", extra=keys(workers=len(self.workers)))
        finally:
            await self.stop()

    async def _see_them_off(self) -> None:
        """Add up how far the workers' drains are until all have ended."""
        known: dict[int, DrainStatus] = {}
        while self.workers:
            for worker in list(self.workers.values()):
                try:
                    answer = await self.ask(worker, STATUS, None, WorkerStatus)
                except PeerUnreachableError:
                    continue  # it ends, or is asked again
                known[worker.number] = answer.drain
            for number in known.keys() - self.workers.keys():
                known[number] = gone(known[number])
            if known:
                self._drain_status = status = sum_up(list(known.values()))
                if status.phase not in ("serving", "unready"):
                    self._ports.stop_listening()
            ends = [worker.ended for worker in self.workers.values()]
            if ends:
                await asyncio.wait(ends, timeout=LOOK_S)
        # Those that have ended before they were asked had what was there at the start.
        left = sum_up(list(known.values())) if known else self._drain_status
        self._drain_status = gone(left)

    async def stop(self) -> None:
        """End the workers at once, and close everything. Idempotent."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self._leave()
        try:
            if self.workers:
                self.hurry()
                async with asyncio.timeout(STOP_S):
                    await asyncio.wait([worker.ended for worker in self.workers.values()])
        except TimeoutError:
            logger.error("workers_killed", extra=keys(workers=len(self.workers)))
        finally:
            self.kill()
            while self.workers:
                await asyncio.wait([worker.ended for worker in self.workers.values()])
                await asyncio.sleep(0)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._hub.stop()
            if self._balancing is not None:
                self._balancing.cancel()
            if self._board is not None:
                self._board.close()
            await self.links.close()
            self._ports.close()
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)
            if self._lock >= 0:
                os.close(self._lock)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("internal_error", exc_info=error)


def _descriptors(sockets: dict[str, list[socket.socket]]) -> dict[str, list[int]]:
    return {name: [sock.fileno() for sock in socks] for name, socks in sockets.items()}
