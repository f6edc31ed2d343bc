"""Fleet: a gateway of several processes as one, for the admin server beside the supervisor.

It asks the workers, each with a deadline, and puts their answers together: figures are added up
(sums.py), lists of sessions merged, and what concerns one session is asked of its owner. A worker
that does not answer in time is shown as silent; the others' answers are told without it, and its
figures stay as they were.

The gateway is ready while any worker is: a new client that comes to the sockets of another one is
handed on to it, and the sockets of a place whose process has died are read by a neighbour.

Nothing is asked but what somebody wants to see, and once a second the figures, for the history.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from ..admin.answers import Done, FleetView, WorkerView
from ..admin.pages import merged
from ..admin.profile import Profiler, stacks
from ..admin.refusal import Refused
from ..admin.sessions import TRACE_S, slow_sessions
from ..admin.source import Sample
from ..cluster.entries import Entry
from ..cluster.peer_link import PeerCounters
from ..cluster.peers import PeerUnreachableError
from ..errors import ConfigError, GatesvrError
from ..figures import CLUSTER_COUNTERS, COUNTERS, Figures
from ..observe.log import keys, set_level
from ..observe.metrics import Counters
from ..observe.version import package_version
from ..overload import resident_bytes
from .counters import WorkerCounters
from .questions import (
    KICK,
    KICK_SESSION,
    LOG,
    PAGE,
    PROFILE,
    PUSH,
    SAMPLE,
    STACKS,
    TRACE,
    TRACED,
    VIEW,
    Nothing,
    OfSession,
    SampleAsked,
    TracedAsked,
    figures_from_bytes,
)
from .sums import Own, Past, add_up, endpoints

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from ..admin.answers import SessionPage, SessionView, Stacks, UpgradeStatus
    from ..admin.questions import (
        DrainBody,
        KickBody,
        KickUserBody,
        LogBody,
        PushBody,
        SessionQuery,
    )
    from ..admin.sessions import TraceEvents, TraceMark
    from ..cluster.entries import Entries
    from ..cluster.peers import Peers
    from ..config import Config
    from ..drain import DrainStatus
    from ..reload import ReloadReport
    from .facts import WorkerFacts
    from .questions import Question

__all__ = ["LAYERS", "Fleet", "Supervision"]

logger = logging.getLogger("gatesvr.admin")

Q = TypeVar("Q")
A = TypeVar("A")

LAYERS: dict[str, type[Counters]] = {
    **COUNTERS,
    **CLUSTER_COUNTERS,
    "peers": PeerCounters,
    "workers": WorkerCounters,
}
"""The counters of each layer of a gateway of several processes, the supervisor's own the last."""
SAMPLE_S = 0.8
"""Longest wait for a worker's figures, which are asked once a second."""
ASK_S = 3.0
"""Longest wait for everything else that a worker says."""
LOOKS = 3
"""How often the owner of a session is looked up: it may move while it is asked."""
LOOK_AGAIN_S = 0.05
RATE_S = 0.4
"""Shortest time that a worker's rates are taken over."""
MAX_TRACED = 64
"""Sessions traced at a time."""

_NOBODY = WorkerView(
    number=None,
    slot=0,
    pid=0,
    state="down",
    not_ready=[],
    version="",
    uptime_s=0.0,
    answered_s=None,
    restarts=0,
    connections=0,
    sessions=0,
    in_flight=0,
    requests=0.0,
    cpu=0.0,
    memory_bytes=0,
    lag_s=0.0,
    moves_in=0,
    moves_out=0,
    handed_on=0,
)
"""A place that has no process, but for its number."""


class Supervision(Protocol):
    """What a fleet needs of the supervisor."""

    on_last_figures: Callable[[str, bytes], None] | None
    """Called with the node id of a worker that ends, and its last figures."""

    @property
    def config(self) -> Config:
        """The configuration in force."""

    @property
    def counters(self) -> WorkerCounters:
        """What became of the workers."""

    def view(self) -> Sequence[WorkerFacts]:
        """Return the live workers, by number."""

    async def drain(
        self,
        rate: float | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - what it ends is not this call
        *,
        to: str = "",
        to_web: str = "",
    ) -> None:
        """Drain all workers, and end."""

    def upgrade_status(self) -> UpgradeStatus:
        """Return how far an upgrade is."""

    def drain_status(self) -> DrainStatus:
        """Return how far a drain is."""


@dataclass(slots=True)
class _Seen:
    """What a worker said last.

    Attributes:
        figures: Its figures.
        at: When they came, loop time.
        is_silent: Whether it has not answered since.
        requests, cpu: Its rates.
        since: The figures that the rates are taken from next.
    """

    figures: Figures
    at: float
    is_silent: bool = False
    requests: float = 0.0
    cpu: float = 0.0
    since: Figures | None = None

    def take(self, figures: Figures, now: float) -> None:
        """Take in newer figures."""
        self.is_silent = False
        if figures.uptime_s < self.figures.uptime_s:
            return  # an answer that was overtaken
        self.figures, self.at = figures, now
        since = self.since
        if since is None:
            self.since = figures
        elif (passed := figures.uptime_s - since.uptime_s) >= RATE_S:
            tasks = figures.counters["dispatch"]["tasks"] - since.counters["dispatch"]["tasks"]
            self.requests = round(tasks / passed, 3)
            self.cpu = round((figures.cpu_s - since.cpu_s) / passed, 3)
            self.since = figures


class Fleet:
    """The source of an admin server beside a supervisor; see admin.source.Source.

    Args:
        supervision: The supervisor.
        peers: Reaches its workers.
        entries: Knows the owner of each session.
        slots: Places, each with a worker in the normal case.
        reload: Reads the configuration again, and puts it in force in all workers.
        upgrade: Replaces the workers by new ones.
    """

    def __init__(
        self,
        supervision: Supervision,
        peers: Peers,
        entries: Entries,
        *,
        slots: int,
        reload: Callable[[], Awaitable[ReloadReport]] | None = None,
        upgrade: Callable[[], Coroutine[None, None, object]] | None = None,
    ) -> None:
        self.layers = LAYERS
        self.more_counters: dict[str, Counters] = {"workers": supervision.counters}
        supervision.on_last_figures = self._take_last
        self._supervision = supervision
        self._peers = peers
        self._entries = entries
        self._slots = slots
        self._reload = reload
        self._upgrade = upgrade
        self._upgrading: asyncio.Task[object] | None = None
        self._profiler = Profiler()
        self._clock = asyncio.get_running_loop().time
        self._start_time, self._started_at = time.time(), self._clock()
        self._past = Past(self.layers)
        self._seen: dict[str, _Seen] = {}
        self._traced: dict[str, float] = {}  # when somebody last followed it
        self._draining: asyncio.Task[None] | None = None

    @property
    def config(self) -> Config:
        """See Source."""
        return self._supervision.config

    def not_ready(self) -> list[str]:
        """See Source."""
        if self._is_draining:
            return ["draining"]
        reasons: list[str] = []
        for worker in self._supervision.view():
            if worker.phase != "serving":
                continue
            seen = self._seen.get(worker.node_id)
            if seen is None or (seen.figures.ready and not seen.is_silent):
                return []
            reasons += ["does not answer"] if seen.is_silent else seen.figures.not_ready
        return list(dict.fromkeys(reasons)) or ["no worker serves"]

    @property
    def _is_draining(self) -> bool:
        return self._draining is not None or self._supervision.drain_status().phase != "serving"

    # All workers.

    async def sample(self, *, with_slowest: bool = False) -> Sample:
        """See Source."""
        asked = self._asked()
        answers = await self._ask_all(
            asked, SAMPLE, SampleAsked(with_slowest=with_slowest), SAMPLE_S
        )
        for worker in asked:
            answer = answers[worker.number]
            if answer is not None:
                self._take(worker.node_id, answer.figures)
            elif (seen := self._seen.get(worker.node_id)) is not None:
                seen.is_silent = True
        workers = self._supervision.view()
        for node_id in self._seen.keys() - {worker.node_id for worker in workers}:
            self._past.add(self._seen.pop(node_id).figures)
        found = [answer for answer in answers.values() if answer is not None]
        return Sample(
            figures=self._figures(),
            endpoints=endpoints(one for answer in found for one in answer.endpoints),
            drain=self._supervision.drain_status(),
            slowest=slow_sessions(one for answer in found for one in answer.slowest),
            fleet=self._view(workers),
        )

    def _take(self, node_id: str, figures: Figures) -> None:
        """Take in what a worker says of itself."""
        now, seen = self._clock(), self._seen.get(node_id)
        if seen is None:
            self._seen[node_id] = _Seen(figures, now, since=figures)
        else:
            seen.take(figures, now)

    def _take_last(self, node_id: str, data: bytes) -> None:
        """Take in what a worker says at its end; another release may say it otherwise."""
        try:
            self._take(node_id, figures_from_bytes(data))
        except (msgspec.MsgspecError, ValueError) as error:
            logger.warning("last_figures_not_understood", extra=keys(why=error))

    def _figures(self) -> Figures:
        own = Own(
            start_time=self._start_time,
            uptime_s=self._clock() - self._started_at,
            version=package_version(),
            pid=os.getpid(),
            not_ready=self.not_ready(),
            draining=self._is_draining,
            memory_bytes=resident_bytes(),
            cpu_s=time.process_time(),
        )
        figures = add_up(own, self._past, [seen.figures for seen in self._seen.values()])
        for layer, counters in self.more_counters.items():
            figures.counters[layer] = counters.snapshot()
        return figures

    def _view(self, workers: Sequence[WorkerFacts]) -> FleetView:
        views = [self._worker(worker) for worker in workers]
        free = set(range(self._slots)) - {worker.slot for worker in workers}
        views += [msgspec.structs.replace(_NOBODY, slot=slot) for slot in free]
        views.sort(key=lambda view: (view.slot, -view.uptime_s))
        return FleetView(
            slots=self._slots,
            restarts=self._supervision.counters.deaths,
            workers=views,
        )

    def _worker(self, worker: WorkerFacts) -> WorkerView:
        view = msgspec.structs.replace(
            _NOBODY,
            number=worker.number,
            slot=worker.slot,
            pid=worker.pid,
            state="ready" if worker.phase == "serving" else worker.phase,
            uptime_s=worker.uptime_s,
            restarts=worker.restarts,
        )
        seen = self._seen.get(worker.node_id)
        if seen is None:
            return view
        figures = seen.figures
        state = view.state
        if seen.is_silent:
            state = "silent"
        elif state == "ready" and not figures.ready:
            state = "draining" if figures.draining else "unready"
        counters = figures.counters
        session, transport = counters.get("session", {}), counters.get("transport", {})
        return msgspec.structs.replace(
            view,
            state=state,
            not_ready=figures.not_ready,
            version=figures.version,
            answered_s=self._clock() - seen.at,
            connections=figures.connections,
            sessions=sum(figures.sessions.values()),
            in_flight=figures.in_flight,
            requests=seen.requests,
            cpu=seen.cpu,
            memory_bytes=figures.memory_bytes,
            lag_s=figures.lag_s,
            moves_in=session.get("moved_in", 0),
            moves_out=session.get("moved_out", 0),
            handed_on=transport.get("handed_on", 0),
        )

    async def page(self, query: SessionQuery) -> SessionPage:
        """See Source."""
        answers = await self._ask_all(self._asked(), PAGE, query, ASK_S)
        return merged(query, answers)

    async def log(self, body: LogBody) -> None:
        """See Source."""
        answers = await self._ask_all(self._asked(), LOG, body, ASK_S)
        try:
            set_level(body.level, session=body.session)
        except ValueError as error:
            raise Refused.invalid(str(error)) from None
        if silent := [str(number) for number, answer in answers.items() if answer is None]:
            raise _silent(f"worker {', '.join(silent)}")

    # One session.

    async def view(self, session_id: str) -> SessionView:
        """See Source."""
        worker, view = await self._ask_owner(session_id, VIEW, Nothing())
        return msgspec.structs.replace(view, worker=worker.number)

    async def trace(self, session_id: str, *, on: bool) -> None:
        """See Source."""
        if on and session_id not in self._traced and len(self._traced) >= MAX_TRACED:
            raise Refused(503, "BUSY", f"{MAX_TRACED} sessions are traced, no more can be")
        await self._ask_owner(session_id, TRACE, on)
        if on:
            self._traced[session_id] = self._clock()
        else:
            self._traced.pop(session_id, None)

    async def traced(self, session_id: str, mark: TraceMark | None, within: float) -> TraceEvents:
        """See Source."""
        asked = TracedAsked(mark=mark, within=within)
        _, found = await self._ask_owner(session_id, TRACED, asked, within)
        if session_id in self._traced:
            self._traced[session_id] = self._clock()
            if found.mark is None:
                await self._ask_owner(session_id, TRACE, True)  # it has moved; its trace has not
        return found

    async def push(self, session_id: str, body: PushBody) -> Done:
        """See Source."""
        _, done = await self._ask_owner(session_id, PUSH, body)
        return done

    async def kick_session(self, session_id: str, body: KickBody) -> Done:
        """See Source."""
        _, done = await self._ask_owner(session_id, KICK_SESSION, body)
        return done

    async def kick(self, body: KickUserBody) -> Done:
        """See Source."""
        serving = [worker for worker in self._asked() if worker.phase == "serving"]
        if not serving:
            raise Refused(503, "BUSY", "no worker serves")
        silent = {node_id for node_id, seen in self._seen.items() if seen.is_silent}
        # Whichever is asked reaches the others.
        worker = next((one for one in serving if one.node_id not in silent), serving[0])
        return await self._ask(worker, KICK, body, ASK_S)

    # The gateway.

    async def reload(self) -> ReloadReport:
        """See Source."""
        if self._reload is None:
            raise Refused.missing("this gateway's configuration cannot be read again")
        return await self._reload()

    async def drain_status(self) -> DrainStatus:
        """See Source."""
        status = self._supervision.drain_status()
        if self._draining is not None and status.phase == "serving":
            return msgspec.structs.replace(status, phase="unready")  # it has just begun
        return status

    async def drain(self, body: DrainBody) -> DrainStatus:
        """See Source."""
        if self._draining is None:
            asked = self._supervision.drain(body.rate, body.timeout, to=body.to, to_web=body.to_web)
            draining = asyncio.create_task(asked, name="gatesvr-admin-drain")
            await asyncio.sleep(0)
            if draining.done() and isinstance(error := draining.exception(), ConfigError):
                raise Refused.invalid(str(error))
            self._draining = draining
        return await self.drain_status()

    async def upgrade_status(self) -> UpgradeStatus:
        """See Source."""
        return self._supervision.upgrade_status()

    async def upgrade(self) -> UpgradeStatus:
        """See Source."""
        if self._upgrade is None:
            raise Refused.missing("this gateway's workers cannot be replaced")
        upgrading = asyncio.create_task(self._upgrade(), name="gatesvr-admin-upgrade")
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it has begun, so that the answer shows it
        if upgrading.done():
            error = upgrading.exception()
            if isinstance(error, GatesvrError):
                raise Refused(409, "REFUSED", f"no upgrade: {error}")
        upgrading.add_done_callback(_ended)
        self._upgrading = upgrading
        return self._supervision.upgrade_status()

    async def profile(self, seconds: float, worker: int | None) -> str:
        """See Source."""
        if worker is None:
            return await self._profiler.run(seconds)
        return await self._ask(self._numbered(worker), PROFILE, seconds, seconds + ASK_S)

    async def stacks(self, worker: int | None) -> Stacks:
        """See Source."""
        if worker is None:
            return await stacks()
        return await self._ask(self._numbered(worker), STACKS, Nothing(), ASK_S)

    def look(self) -> None:
        """See Source."""
        now = self._clock()
        for session_id, followed_at in list(self._traced.items()):
            is_over = not isinstance(self._entries.read(session_id, now), Entry)
            if is_over or now - followed_at >= TRACE_S:
                del self._traced[session_id]

    def close(self) -> None:
        """See Source."""
        self._profiler.close()
        self._traced.clear()

    # Asking.

    def _asked(self) -> list[WorkerFacts]:
        """Return the workers that can be asked: all but those that start."""
        return [worker for worker in self._supervision.view() if worker.phase != "starting"]

    def _numbered(self, number: int) -> WorkerFacts:
        for worker in self._asked():
            if worker.number == number:
                return worker
        raise Refused(404, "NOT_FOUND", f"there is no worker {number}")

    async def _ask_all(
        self, workers: Sequence[WorkerFacts], question: Question[Q, A], asked: Q, within: float
    ) -> dict[int | None, A | None]:
        """Ask all at the same time; return their answers by their numbers, None for none.

        Raises:
            Refused: One refuses.
        """

        async def ask(worker: WorkerFacts) -> A | None:
            try:
                return await self._ask(worker, question, asked, within)
            except Refused as refusal:
                if refusal.status >= 500:
                    return None
                raise

        answers = await asyncio.gather(*map(ask, workers))
        return {worker.number: answer for worker, answer in zip(workers, answers, strict=True)}

    async def _ask_owner(
        self, session_id: str, question: Question[OfSession[Q], A], body: Q, longer: float = 0.0
    ) -> tuple[WorkerFacts, A]:
        """Ask the worker that owns a session; look again where it has just moved."""
        asked = OfSession(session=session_id, body=body)
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(LOOK_AGAIN_S)
            entry = self._entries.read(session_id, self._clock())
            owner = entry.owner if isinstance(entry, Entry) else ""
            worker = next((one for one in self._asked() if one.node_id == owner), None)
            if worker is None:
                break
            try:
                return worker, await self._ask(worker, question, asked, ASK_S + longer)
            except Refused as refusal:
                if refusal.status != 404:
                    raise
        self._traced.pop(session_id, None)
        raise Refused(404, "NOT_FOUND", "no such session")

    async def _ask(
        self, worker: WorkerFacts, question: Question[Q, A], asked: Q, within: float
    ) -> A:
        """Ask a worker.

        Raises:
            Refused: It refuses, or does not answer in time (504): whether it has done what it was
                asked nobody knows then.
        """
        request = question.request(asked)
        try:
            answer = await self._peers.call(worker.node_id, question.call, request, within)
            return question.found(answer)
        except (PeerUnreachableError, msgspec.MsgspecError):
            raise _silent(f"worker {worker.number}") from None


def _silent(who: str) -> Refused:
    return Refused(504, "UNKNOWN", f"{who} does not answer: it may have been done, or not")


def _ended(upgrading: asyncio.Task[object]) -> None:
    """Log what is no reason for an upgrade to be given up; its status has the others."""
    if upgrading.cancelled():
        return
    error = upgrading.exception()
    if error is not None and not isinstance(error, GatesvrError):
        logger.error("internal_error", exc_info=error)
