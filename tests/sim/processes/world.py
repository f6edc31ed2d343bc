"""One history of several processes: their sessions move while everything goes wrong."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from gatesvr.cluster.directory import MemoryDirectory
from gatesvr.cluster.entries import Entry
from gatesvr.config import Config, DispatchConfig, PushConfig, SessionConfig
from gatesvr.errors import CloseCode, ErrorCode
from gatesvr.protocol.messages import LostReason
from gatesvr.session.role import Role
from gatesvr.session.state import State

from ..device import Device
from ..network import SIGN_OF_LIFE_S, Connection
from ..upstream import Call
from ..world import ROUTES, World
from .process import Process, ProcessConnection, ProcessUpstream
from .pushers import ProcessPushers
from .wire import Wire

if TYPE_CHECKING:
    from gatesvr.session.session import Session

EVENTS = 120
"""Events of a history before the network is left alone."""
CALM_EVENTS = 2_500
"""Events within which everything must have arrived from then on."""
TIMER_S = 0.01
"""Timers of devices and connections run that late at most."""
END_EVERY = 10
"""One history of so many goes on until everything has expired."""
LATEST_RESULT_S = 12.0
"""Within which a result reaches the owner of its session, whatever is lost of it on the way."""


class ProcessesWorld(World):
    """A history.

    Args:
        seed: All there is to it: the same seed gives the same history.
        is_verbose: Keep a trace.
        events: How many before the calm, 0 for the usual number.
    """

    EVENTS = EVENTS
    DRAWS: Mapping[str, Any] = {}
    """Attributes of the world, its wire (``wire_``) and its weights (``weight_``), drawn or not."""

    def __init__(self, seed: int, *, is_verbose: bool = False, events: int = 0) -> None:
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.next_look = 0.0
        self.calls: list[Call] = []
        self.automatic: set[str] = set()
        self.ended: dict[str, str] = {}
        self.ended_at: dict[str, float] = {}
        self.answered: dict[str, tuple[Process, float]] = {}
        self.kickers: dict[str, Process] = {}
        self.asker = ""
        self.found: dict[tuple[str, str], tuple[float, frozenset[str]]] = {}
        self.attached_at: dict[str, float] = {}
        events = events or self.DRAWS.get("length", 0)
        super().__init__(seed, is_verbose=is_verbose, events=events)

    def _begin(self) -> None:
        self.wire = Wire(self)
        for name, value in self.DRAWS.items():
            kind, _, rest = name.partition("_")
            if kind == "wire":
                setattr(self.wire, rest, value)
            elif kind == "weight":
                self.weight[rest] = value
            elif hasattr(self, name):
                setattr(self, name, value)
        self.directory: MemoryDirectory = self.loop.call(
            lambda: MemoryDirectory(
                lease=self.lease, resume_window=self.config.session.resume_window
            )
        )
        self._tap()
        self.pushers: Any = ProcessPushers(self)
        self.by_node_id: dict[str, Process] = {}
        self.processes = [self.new_process(number) for number in range(self.size)]
        self.upstream = ProcessUpstream(self.processes[0])

    def _draw_config(self) -> None:
        draw = self.random.choice
        drawn = self.DRAWS
        self.size = drawn.get("size") or draw((2, 3, 3, 4))
        self.has_lag = draw((False, True))
        self.is_sloppy = draw((False, True))
        self.is_insistent = draw((False, False, True))
        self.login_refusals = draw((0.06, 0.06, 0.3))
        self.login_weight = draw((0.1, 0.4, 1.0))
        self.max_message_bytes = 1 << 20
        self.window = draw((1_000, 100_000))
        self.high_water = draw((600, 65_536))
        self.low_water = self.high_water // 2
        self.lease = drawn.get("lease") or draw((2.0, 4.0, 8.0))
        self.alone_s = 3 * self.lease
        self.pace = draw((0.004, 0.02, 0.06))
        self.stickiness = draw((0.0, 0.3, 0.7))
        self.weight = {
            "crash": draw((0.0, 0.004, 0.02)),
            "cut": draw((0.0, 0.02, 0.05)),
            "outage": draw((0.0, 0.0, 0.01)),
            "give": draw((0.0, 0.1, 0.4)),
            "leave": draw((0.0, 0.0, 0.01)),
            "kick": draw((0.0, 0.004, 0.012)),
            "sleep": draw((0.0, 0.01)),
            "push": draw((0.1, 0.4)),
            "given_up": draw((0.1, 0.3, 0.8)),
            "given_up_early": draw((0.0, 0.0, 0.2)),
            "answer": draw((0.1, 0.4, 0.4)),
            "isolate": draw((0.0, 0.0, 0.01)),
        }
        policy = drawn.get("policy") or draw(("replace", "replace", "reject", "allow"))
        self.has_three = policy == "allow"
        self.config = Config(
            session=SessionConfig(
                max_queue_size=drawn.get("max_queue_size") or draw((8, 40, 1_024)),
                max_in_flight=draw((3, 6, 128)),
                max_logged_in=2 if self.has_three else 1,
                on_duplicate=policy,
                when_full=drawn.get("when_full") or draw(("drop_oldest", "refuse")),
                resume_window=draw((7.0, 12.0)),
                login_timeout=draw((6.0, 12.0)),
            ),
            dispatch=DispatchConfig(
                workers=1,
                max_workers=draw((4, 16)),
                max_queue_size=draw((4, 100)),
                task_timeout=drawn.get("task_timeout") or draw((4.0, 30.0)),
            ),
            push=PushConfig(),
            route=list(ROUTES),
        )

    # The processes.

    def new_process(self, number: int) -> Process:
        process = Process(self, number)
        self.by_node_id[process.node_id] = process
        self.note("%s begins as %s", process, process.node_id)
        return process

    def process_of(self, node_id: str) -> Process | None:
        return self.by_node_id.get(node_id)

    def living(self) -> list[Process]:
        return [process for process in self.processes if not process.is_dead]

    def some_process(self) -> Process | None:
        """Return one that clients and services reach."""
        ready = [p for p in self.living() if p.is_ready and not p.is_leaving]
        return self.random.choice(ready) if ready else None

    def watch(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let something run; it must not fail while its process lives."""
        task = self.loop.create_task(coroutine)
        self.tasks[task] = None
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.failures.append(f"a task: {error!r}")

    def owners(self, session_id: str) -> list[tuple[Process, Session]]:
        """Return the copies whose processes take themselves for the owner."""
        found = []
        for process in self.living():
            session = process.sessions.by_id(session_id)
            if session is not None and session.role is Role.OWN:
                found.append((process, session))
        return found

    def known_sessions(self) -> list[str]:
        """Return the sessions that services know: those in the directory, and some that ended."""
        known = list(self.directory.entries._entries)
        if self.ended and self.random.random() < 0.1:
            known.append(self.random.choice(list(self.ended)))
        return known

    # What the directory and the owners decide.

    def _tap(self) -> None:
        entries: Any = self.directory.entries
        drop, log_in, mark, find = entries._drop, entries._log_in, entries._mark, entries.find
        move, remove, bury, leave = entries.move, entries.remove, entries.bury, entries.leave
        create, is_leased = entries.create, entries.is_leased
        why = ["by nobody"]

        def because(reason: str, function: Any, *args: Any, **kwargs: Any) -> Any:
            why.append(reason)
            try:
                return function(*args, **kwargs)
            finally:
                why.pop()

        def drop_(entry: Entry) -> None:
            drop(entry)
            self.entry_ended(entry, why[-1])

        def mark_(session_id: str, reason: LostReason, now: float) -> None:
            mark(session_id, reason, now)
            self.ended[session_id] = reason.name.lower()

        def log_in_(entry: Entry, replaced: tuple[Entry, ...], now: float) -> Any:
            self.logged_in(entry, replaced)
            return because("replaced", log_in, entry, replaced, now)

        def find_(openid: str, now: float) -> Any:
            found = find(openid, now)
            self.found[openid, self.asker] = (now, found.leased)
            return found

        def move_(session_id: str, owner: str, epoch: int, to: str, now: float) -> Any:
            before = entries._entries.get(session_id)
            after = move(session_id, owner, epoch, to, now)
            if after is not before and isinstance(after, Entry):
                self.counts["moves" if owner != to else "taken_back"] += after != before
            return after

        def is_leased_(node_id: str, now: float) -> bool:
            is_good = is_leased(node_id, now)
            if not is_good and (process := self.process_of(node_id)) is not None:
                process.was_out = True
            return bool(is_good)

        def create_(session_id: str, *args: Any) -> Any:
            is_there = session_id in entries._entries
            entry = create(session_id, *args)
            if entry is not None and not is_there and session_id in self.ended:
                self.counts["late_creates"] += 1
            return entry

        def remove_(*args: Any) -> Any:
            return because("removed", remove, *args)

        def bury_(session_id: str, owner: str, epoch: int, now: float) -> Any:
            why = "buried alive" if entries._is_leased(owner, now) else "buried"
            return because(why, bury, session_id, owner, epoch, now)

        def leave_(node_id: str, now: float) -> Any:
            return because("left", leave, node_id, now)

        entries._drop, entries._mark, entries._log_in, entries.find = drop_, mark_, log_in_, find_
        entries.move, entries.remove, entries.bury, entries.leave = move_, remove_, bury_, leave_
        entries.create, entries.is_leased = create_, is_leased_

    def owner_began(self, process: Process, session: Session, epoch: int) -> None:
        """A process takes itself for the owner from now on."""
        session_id = session.session_id
        for other, _ in self.owners(session_id):
            if other is not process:
                self.checker.broken(session_id, f"owned by {other} and by {process}")
        self.note("%s owns %s in epoch %d", process, session_id[:4], epoch)

    def owner_ended(self, session: Session) -> None:
        """The owner has ended a session; the directory hears of it later."""
        self.ended.setdefault(session.session_id, "closed")
        self.ended_at.setdefault(session.session_id, self.now)
        self.checker.ended(session.session_id)

    def entry_ended(self, entry: Entry, why: str) -> None:
        """The directory has no entry of a session any more."""
        session_id = entry.session_id
        self.note("  directory: %s ends: %s", session_id[:4], why)
        self.counts[f"entries_{why}"] += 1
        if why == "removed" and session_id not in self.ended:
            # Its owner has not ended it, so nobody may have it.
            if any(d.session.session_id == session_id for d in self.devices):
                self.checker.broken(session_id, "its entry was removed, and its client has it")
            return
        if why == "buried alive":
            self.checker.broken(session_id, "buried, and its owner's lease is good")
            return
        self.ended.setdefault(session_id, why)
        self.ended_at.setdefault(session_id, self.now)
        self.checker.ended(session_id)

    def logged_in(self, entry: Entry, replaced: tuple[Entry, ...]) -> None:
        """The directory logs a session in, in place of others."""
        policy = self.config.session.on_duplicate
        session_id = entry.session_id
        is_automatic = session_id in self.automatic
        others = self.directory.entries._by_openid.get(entry.openid, {})
        self.counts["logins"] += 1
        self.counts["duplicate_logins"] += bool(others)
        self.counts["duplicate_logins_elsewhere"] += any(
            self.directory.entries._entries[other].owner != entry.owner for other in others
        )
        self.counts["replaced"] += len(replaced)
        self.checker.logged_in(session_id, entry.openid, is_automatic=is_automatic)
        for other in replaced:
            if is_automatic:
                self.checker.broken(other.session_id, "replaced after a failed resume")
            elif policy != "replace" and self._shows_life(other, entry.owner):
                self.checker.broken(other.session_id, "replaced while it showed life")
            self.checker.ended(other.session_id, replaced_in=other.openid)

    def _shows_life(self, entry: Entry, judge: str) -> bool:
        """Say whether a session shows life for sure, since before it was judged."""
        process = self.by_node_id[entry.owner]
        found_at, leased = self.found.get((entry.openid, judge), (0.0, frozenset()))
        if process.is_dead or entry.owner not in leased:
            return False
        if not self.directory.entries._is_leased(entry.owner, self.now):
            return False
        session = process.sessions.by_id(entry.session_id)
        if session is None or session.role is not Role.OWN or session.link is None:
            return False
        link: Any = session.link
        return bool(
            max(link.alive_since, self.attached_at.get(entry.session_id, 0.0)) < found_at
            and self.now - link.last_heard < SIGN_OF_LIFE_S - 0.1
        )

    # The run.

    def connect(self, device: Device) -> Connection:
        number = sum(d.connections for d in self.devices) + self.strangers
        before = device.last_process
        process = before
        if (
            process is None
            or process.is_dead
            or process.is_leaving
            or self.random.random() >= self.stickiness
        ):
            process = self.some_process()
        assert process is not None
        device.last_process = process
        connection = ProcessConnection(self, device, process, number)
        connection.is_calm = self.is_calm
        self.connections.append(connection)
        return connection

    def run(self) -> ProcessesWorld:
        """Run the whole history and check it."""
        self.loop.call(self._run)
        return self

    def _run(self) -> None:
        try:
            while self.events < self.max_events:
                self.step()
            self.note("-- calm --")
            self.is_calm = True
            self.wire.calm()
            self.pace = 0.05
            for device in self.devices:
                device.is_slow = False
            while not self.is_settled():
                if self.events > self.max_events + CALM_EVENTS:
                    self.checker.broken("", f"it never settles: {self.unsettled()}")
                    break
                self.step()
            self.check()
            if self.seed % END_EVERY == 0:
                self.check_end()
            for finding in self.checker.findings:
                self.note("!! %s", finding)
        finally:
            self._end()

    def _end(self) -> None:
        for process in self.processes:
            process.is_dead = True
        for process in self.by_node_id.values():
            self.loop.create_task(process.processor.stop())
        self.loop.settle()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.settle()
        self.loop.close()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and do what is due, each at its time."""
        until = self.now + seconds
        while True:
            self.loop.advance_to(min(until, self.next_sweep))
            if self.now >= until:
                break
            if self.now >= self.next_sweep:
                self._do_due()
        self._do_due()
        if self.connections and self.connections[0].is_over:
            self.connections = [c for c in self.connections if not c.is_over]
        for connection in self.connections:
            if connection.gateway_open:
                self._check_open(connection)

    def _do_due(self) -> None:
        now = self.now
        if now < self.next_look and now < self.next_sweep:
            self.loop.settle()
            return
        self.next_look = now + TIMER_S
        if self.calls:
            self.upstream.expire()
        if self.next_sweep <= now:
            self.next_sweep += 1.0
            self.directory.entries.sweep(now)
            for process in self.living():
                process.engine.sweep()
                self._check_waiting(process)
        for connection in self.connections:
            if connection.gateway_open:
                timer = connection.handler.get_timer()
                if timer is not None and timer <= now:
                    connection.handler.handle_timer(now)
        for device in self.devices:
            device.handle_timer()
        self.loop.settle()

    def _check_waiting(self, process: Process) -> None:
        """Check what holds of a process once a second."""
        is_leased = self.directory.entries._is_leased(process.node_id, self.now)
        if not is_leased or self.wire.is_directory_down or self.wire.slow_call:
            return
        for session in process.dispatcher.moved._waiting:
            for call in session.moved_calls.values():
                other = self.by_node_id.get(call.at)
                if other is not None and self.now > other.died_at + 4 * self.lease + 5.0:
                    self.checker.broken(session.session_id, f"waits for {other}, which is dead")
                    other.died_at = math.inf

    # What can happen.

    def _offer_device(self, device: Device, actions: list[Any]) -> None:
        if device.connection is None and self.some_process() is None:
            return
        super()._offer_device(device, actions)
        if device.is_live and not self.is_calm:
            is_early = not device.session.is_logged_in
            weight = self.weight["given_up_early" if is_early else "given_up"]
            actions.append((weight, self._leave, device))

    def _offer_rest(self, actions: list[Any]) -> None:
        for call in self.calls[:8]:
            weight = self.login_weight if call.action == "hello" else self.weight["answer"]
            actions.append((weight, self.upstream.answer, call))
        actions.append((0.3, self._wait, None))
        for push in self.pushers.again():
            actions.append((0.4, self.pushers.try_it, push))
        for process in self.processes:
            if process.is_dead:
                actions.append((0.3, self._replace, process))
        if self.is_calm:
            return
        weight = self.weight
        actions.append((weight["push"], self.pushers.push, None))
        actions.append((0.12, self.pushers.bind, None))
        actions.append((weight["kick"], self.pushers.kick, None))
        actions.append((0.02, self._wait_long, None))
        actions.append((weight["sleep"], self._sleep, None))
        actions.append((weight["crash"], self._crash, None))
        actions.append((weight["cut"], self._cut_wire, None))
        if self.wire.cuts:
            actions.append((0.05, self._heal, None))
        actions.append((weight["outage"], self._take_directory_down, None))
        actions.append((weight["give"], self._give, None))
        actions.append((weight["isolate"], self._isolate, None))
        actions.append((weight["leave"], self._begin_leaving, None))

    def _wait_long(self) -> None:
        self.note("time passes")
        self.pass_time(self.random.choice((1.5, 2.5, 5.0, 12.0)))

    def _sleep(self) -> None:
        """A device is out of reach for longer than its session lives on."""
        device = self.random.choice(self.devices)
        if device.connection is not None:
            self._cut(device.connection)
            self._time_out(device.connection)
        self.note("%s sleeps", device)
        self.pass_time(self.config.session.resume_window + 1.5)

    def _crash(self) -> None:
        living = self.living()
        if len(living) > 1:
            self.crash(self.random.choice(living))

    def crash(self, process: Process) -> None:
        """End a process at once; the supervisor may tell the directory of it."""
        self.note("%s crashes with %s", process, [s.session_id[:4] for s in process.copies()])
        self.counts["crashes"] += 1
        self._end_process(process)
        if self.random.random() < 0.6:
            leave = self.directory.entries.leave
            node_id = process.node_id
            self.loop.call_later(self.random.random(), lambda: leave(node_id, self.now))

    def _end_process(self, process: Process) -> None:
        for connection in self.connections:
            if connection.gateway is process:
                connection.crash()
        process.crash()
        self.pushers.forget(process)

    def _begin_leaving(self) -> None:
        """A process is drained: its sessions go to the others, and it ends."""
        living = [p for p in self.living() if p.is_ready and not p.is_leaving]
        if len(living) > 1:
            process = self.random.choice(living)
            process.is_leaving = True
            self.counts["drains"] += 1
            self.note("%s leaves", process)
            self.watch(self._leave_others(process))

    async def _leave_others(self, process: Process) -> None:
        process.dispatcher.go_away("stopping", 100)
        for _ in range(self.random.randint(1, 8)):
            await asyncio.sleep(0.4)
            if process.is_dead:
                return
            for connection in self.connections:
                if connection.gateway is process and self.random.random() < 0.5:
                    connection.handler.close(CloseCode.OVERLOADED, "reconnect_after_ms=0")
            others = [p for p in self.living() if p.is_ready and not p.is_leaving]
            for session in process.copies():
                if others and session.role is Role.OWN and session.link is None:
                    to = self.random.choice(others)
                    self.watch(process.node.give(session, to.node_id))
        await process.node.stop()
        if not process.is_dead:
            self.note("%s ends with %s", process, [s.session_id[:4] for s in process.copies()])
            self._end_process(process)

    def _replace(self, process: Process) -> None:
        self.processes[process.number] = self.new_process(process.number)

    def _cut_wire(self) -> None:
        living = self.living()
        one = self.random.choice(living).node_id
        other = self.random.choice(["", "", *(p.node_id for p in living)])
        if one != other:
            self.note("%s and %s do not reach each other", one[:3], other[:3] or "the directory")
            self.counts["directory_cuts" if not other else "peer_cuts"] += 1
            self.wire.cuts.add(frozenset((one, other)))

    def _heal(self) -> None:
        self.wire.cuts.discard(self.random.choice(sorted(self.wire.cuts, key=sorted)))

    def _take_directory_down(self) -> None:
        self.note("nobody reaches the directory")
        self.counts["outages"] += 1
        self.wire.is_directory_down = True
        self.loop.call_later(self.random.random() * 2 * self.lease, self._bring_directory_up)

    def _bring_directory_up(self) -> None:
        self.wire.is_directory_down = False

    def _isolate(self) -> None:
        """A process reaches nobody but its clients, for longer than its lease may be."""
        node_id = self.random.choice(self.living()).node_id
        self.note("%s reaches its clients alone", node_id[:3])
        self.counts["isolated"] += 1
        within = self.random.random() * self.alone_s
        self.wire.alone[node_id] = self.now + within
        self.loop.call_later(within, self.wire.alone.pop, node_id, None)

    def _give(self) -> None:
        """A process gives a suspended session to another one."""
        living = [p for p in self.living() if p.is_ready]
        found = [
            (process, session)
            for process in living
            for session in process.copies()
            if session.role is Role.OWN and session.link is None and session.is_valid
        ]
        if found and len(living) > 1:
            process, session = self.random.choice(found)
            to = self.random.choice([p for p in living if p is not process])
            self.counts["gives"] += 1
            self.note("%s gives %s to %s", process, session.session_id[:4], to)
            self.watch(process.node.give(session, to.node_id))

    # The end.

    def is_settled(self) -> bool:
        return not self.unsettled()

    def unsettled(self) -> str:
        """Return what is not as it will be; empty where all is."""
        if self.calls or not self.pushers.is_quiet():
            return "a call or a push is under way"
        for process in self.processes:
            if process.is_dead or not process.is_ready:
                return f"{process} is not there"
            if len(process.sessions.context.results):
                return f"{process} keeps results"
            for session in process.copies():
                if session.role is not Role.OWN or session.state is State.CLOSED:
                    return f"{process} has {session} as {session.role.name}"
        entries = self.directory.entries
        for entry in entries._entries.values():
            owners = self.owners(entry.session_id)
            if len(owners) != 1 or owners[0][0].node_id != entry.owner:
                return f"{entry} is owned by {owners}"
            if owners[0][1].epoch != entry.epoch:
                return f"{entry} is in epoch {owners[0][1].epoch}"
        for process in self.processes:
            for session in process.copies():
                if session.session_id not in entries._entries:
                    return f"{process} owns {session}, which has no entry"
        for device in self.devices:
            if device.is_over or not device.connections:
                continue
            why = self._unsettled_device(device)
            if why:
                return f"{device}: {why}"
        return ""

    def _unsettled_device(self, device: Device) -> str:
        connection = device.connection
        if connection is None or not device.is_live or device.inbox or device.session.pending:
            return f"{connection}, live {device.is_live}, {device.session.pending.keys()}"
        session = connection.handler.session
        if session is None or session.session_id != device.session.session_id:
            return "its connection has another session"
        if session.link is not connection or session.outbox.has_unacked:
            return "not all is acked"
        if not session.is_logged_in or connection.up or connection.down or connection.unsent:
            return "not all has arrived"
        return ""

    def check(self) -> None:
        """Tell the checker that this is all, for the sessions that live."""
        for process in self.processes:
            for counters in (process.sessions.counters, process.processor.counters):
                self.counts["gw_internal_errors"] += int(
                    counters.snapshot().get("internal_errors", 0)
                )
        for text in self.loop.failures:
            self.checker.broken("", f"loop: {text}")
        if self.counts["gw_internal_errors"]:
            self.checker.broken("", "internal errors")
        for device in self.devices:
            connection = device.connection
            if connection is None or not device.is_live or self._unsettled_device(device):
                continue
            session = connection.handler.session
            assert session is not None
            self.checker.settled(session.session_id, last_seq=session.queue.next_expected_seq - 1)
            self.checker.client_settled(device.name)
            self.check_queue(session)
        entries = self.directory.entries
        for openid, logged_in in entries._by_openid.items():
            if len(logged_in) > self.config.session.max_logged_in:
                self.checker.broken("", f"{openid} is logged in as {list(logged_in)}")
        for process in self.processes:
            for session in process.copies():
                entry = entries._entries.get(session.session_id)
                if entry is not None and entry.logged_in != session.is_logged_in:
                    self.checker.broken(
                        session.session_id, f"logged in: {session.is_logged_in}, {entry}"
                    )
        self.pushers.check()

    def check_end(self) -> None:
        """Let everything expire: nothing may be left of it."""
        self.let_expire(2)
        for process in self.processes:
            for name, count in process.leftovers().items():
                if count:
                    self.checker.broken("", f"{count} {name} are left at the end")
        entries = self.directory.entries
        for name in ("_entries", "_by_openid", "_versions", "_tombstones", "_by_owner"):
            if getattr(entries, name):
                self.checker.broken("", f"the directory's {name} is left at the end")

    # Told to the devices.

    def told_failed(self, name: str, code: int) -> None:
        """A client was told that a request has failed."""
        process, left = self.answered.get(name, (None, 0.0))
        if process is None or process.is_dead or process.was_out:
            return
        counts = self.counts
        is_hurt = counts["peer_cuts"] or counts["directory_cuts"]
        is_hurt = is_hurt or counts["outages"] or counts["isolated"]
        if code == ErrorCode.UPSTREAM_UNREACHABLE or (
            code == ErrorCode.DEADLINE and not is_hurt and left > LATEST_RESULT_S
        ):
            self.checker.broken("", f"{name} was answered, and failed by {code}")

    def told_lost(self, session_id: str, reason: str) -> None:
        """A client was told why its session is gone."""
        why = self.ended.get(session_id, "")
        kicker = self.kickers.get(session_id)
        if kicker is not None and (kicker.is_dead or kicker.was_out):
            return
        age = self.now - self.ended_at.get(session_id, self.now)
        if (
            reason == "UNKNOWN_SESSION"
            and why in ("replaced", "kicked")
            and age < self.config.session.resume_window / 2
        ):
            self.checker.broken(session_id, f"was {why}, and its client told {reason}")
        self.counts[f"told_{reason.lower()}"] += 1


def run(seed: int, *, is_verbose: bool = False) -> ProcessesWorld:
    """Run the history of a seed."""
    return ProcessesWorld(seed, is_verbose=is_verbose).run()
