"""The runs: what each does to a gateway and its upstream, and what must hold afterwards.

Three sums must come out, whatever happened:

- Each request of a client has one end: ``sent == answers + ERRORs``, but for those of clients that
  left. An answer means one execution; an ERROR that says NOT_STARTED none; no request has two.
- Each task of the dispatcher has one: ``dispatch.tasks == dispatch.answers + dispatch.closed_499``.
- Each call to an upstream has one: ``upstream.calls`` is the sum of UPSTREAM_ENDS and of the calls
  that their callers gave up.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..child import Child
from .gateway import serve_gateway
from .load import LEAVER_REQUESTS, Told, serve_load
from .servers import serve_upstream

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RUNS", "UPSTREAM_ENDS", "Plan", "Result", "calls_without_end", "executions_of"]

UPSTREAM_ENDS = (
    "answers",
    "failed_calls",
    "bad_answers",
    "too_large",
    "unanswered",
    "broken_calls",
    "unsent_calls",
    "not_started",
    "overflows",
    "rejected_calls",
    "no_service",
)
"""Counters of the upstream layer, one of which each call moves when it ends."""
TASK_TIMEOUT_S = 2
GIVE_UP_S = 0.2
PATIENCE_S = 600.0
SETTLE_S = 30.0
POLL_S = 0.1
MIB = 1 << 20
MAX_GROWTH_MIB = 5.0
STEPS = 10
"""Parts of the memory run; the first one warms up."""


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        what: ``memory``, ``restarts`` or ``age``.
        lane: ``direct`` or ``grpcio``; empty for the gateway's default.
        kind: ``unary`` or ``stream``.
        backend: The gateway's QUIC library.
        clients: Clients that stay.
        requests: Requests of the memory run.
        rate: Requests a second; the memory run takes what the gateway can do, up to it.
        restarts: Of the upstream.
        how: ``kill`` it, ``stop`` it in order, or ``both`` in turn.
        pause_s: From one restart to the next.
        seconds: Length of the age run.
        age_ms: Oldest that a connection becomes.
        is_go: Say goodbye as Go's servers do, in two steps.
    """

    what: str
    lane: str = ""
    kind: str = "unary"
    backend: str = "qh3"
    clients: int = 100
    requests: int = 200_000
    rate: float = 500.0
    restarts: int = 50
    how: str = "both"
    pause_s: float = 0.5
    seconds: float = 20.0
    age_ms: int = 1_000
    is_go: bool = False


@dataclass
class Result:
    """What a run showed.

    Attributes:
        plan: What was run.
        seconds: How long it took.
        sent: Requests sent, logins included.
        ends: How they ended, by code and outcome.
        left: Requests whose clients left.
        given_up: Calls that were made and given up inside the gateway.
        executed: Executions by the upstream.
        rss_mib: Resident memory of the gateway, after the warm-up and then at each step.
        counters: Those of the gateway's upstream layer that moved.
        figures: Of this kind of run.
        findings: What must not be; empty if all is well.
    """

    plan: Plan
    seconds: float = 0.0
    sent: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    left: int = 0
    given_up: int = 0
    executed: int = 0
    rss_mib: list[float] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def calls_without_end(stats: Mapping[str, int]) -> int:
    """Return how many calls have no end: those given up, where none is under way."""
    return stats["upstream.calls"] - sum(stats[f"upstream.{name}"] for name in UPSTREAM_ENDS)


class Run:
    """The processes of a run, and what all kinds of run check."""

    delay = 0.02
    """Time that the upstream takes for an answer, seconds: some are always under way."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.result = Result(plan)
        self.upstream: Child
        self.gateway: Child
        self.load: Child
        self.address = ""
        self._stack = AsyncExitStack()
        self._executed = Path()

    async def run(self) -> Result:
        """Run it and return what it showed."""
        began = time.monotonic()
        try:
            await self._start()
            await self.work()
            await self._check()
        finally:
            await self._stack.aclose()
        self.result.seconds = round(time.monotonic() - began, 1)
        return self.result

    async def work(self) -> None:
        raise NotImplementedError

    def age_ms(self) -> int:
        """Return the age that the upstream's connections reach, 0 for any."""
        return 0

    async def new_upstream(self) -> Child:
        """Return an upstream that listens nowhere yet."""
        executed = str(self._executed)
        upstream = self._child(
            serve_upstream, self.plan.kind, executed, self.delay, self.age_ms(), self.plan.is_go
        )
        await upstream.receive(PATIENCE_S)
        return upstream

    def _child(self, serve: Any, *arguments: Any) -> Child:
        child = Child(serve, *arguments)
        self._stack.push_async_callback(asyncio.to_thread, child.kill)
        return child

    async def _start(self) -> None:
        plan = self.plan
        folder = self._stack.enter_context(TemporaryDirectory())
        self._executed = Path(folder, "executed")
        self.upstream = await self.new_upstream()
        self.address = await self.upstream.ask(0)
        sets = [
            f"transport.backend={plan.backend}",
            f"dispatch.task_timeout={TASK_TIMEOUT_S}s",
            f"session.max_inited_per_address={10 * plan.clients}",
            "transport.max_connections=20000",
            # An ejected upstream would get no calls for seconds after each restart.
            "upstream.consecutive_failures=0",
            "upstream.reconnect_max=500ms",
            *([f"upstream.lane={plan.lane}"] if plan.lane else []),
        ]
        self.gateway = self._child(serve_gateway, self.address, sets)
        gateway = await self.gateway.receive(PATIENCE_S)
        self.load = self._child(serve_load, gateway)
        await self.ask_load("connect", plan.clients)

    async def ask_load(self, *command: Any) -> Any:
        return await self.load.ask(command, PATIENCE_S)

    async def sample(self) -> dict[str, int]:
        """Return the gateway's counters and memory."""
        found: dict[str, int] = await self.gateway.ask("sample", PATIENCE_S)
        return found

    async def settle(self) -> dict[str, int]:
        """Wait until the gateway has nothing under way; return its counters then."""
        await self.ask_load("settle")
        deadline = time.monotonic() + SETTLE_S
        while True:
            stats = await self.sample()
            busy = {
                name: stats[name]
                for name in ("upstream.open", "upstream.waiting", "dispatch.running")
                if stats[name]
            }
            if not busy:
                return stats
            if time.monotonic() > deadline:
                self.result.findings.append(f"still under way after {SETTLE_S:.0f} s: {busy}")
                return stats
            await asyncio.sleep(POLL_S)

    async def _check(self) -> None:
        stats = await self.settle()
        told: Told = await self.ask_load("told")
        await self.ask_load("close")
        result = self.result
        result.sent, result.left, result.ends = told.sent, told.left, dict(told.ends)
        result.counters = {
            name.partition(".")[2]: value
            for name, value in stats.items()
            if name.startswith("upstream.") and value
        }
        finding = result.findings.append
        for wrong in told.wrong[:20]:
            finding(wrong)
        if told.unanswered:
            finding(f"{told.unanswered} requests have no end")
        ended = sum(told.ends.values()) + told.logins + told.left + told.unanswered
        if told.sent != ended:
            finding(f"{told.sent} requests were sent, {ended} are known to have an end")
        if (without := calls_without_end(stats)) != result.given_up:
            finding(f"{without} calls have no end, {result.given_up} were given up")
        tasks, task_ends = (
            stats["dispatch.tasks"],
            (stats["dispatch.answers"] + stats["dispatch.closed_499"]),
        )
        if tasks != task_ends:
            finding(f"{tasks} tasks, {task_ends} ends of tasks")
        refused = stats["dispatch.refused_full"] + stats["dispatch.refused_draining"]
        if told.sent != tasks + refused:
            finding(f"{told.sent} requests were sent, {tasks} tasks made and {refused} refused")
        self._check_executions(told)

    def _check_executions(self, told: Told) -> None:
        self.result.executed, found = executions_of(self._executed.read_bytes(), told.outcomes)
        self.result.findings += found


def executions_of(data: bytes, outcomes: Mapping[int, str]) -> tuple[int, list[str]]:
    """Compare what was executed with what clients were told.

    Args:
        data: The number of each request that was executed, eight bytes each.
        outcomes: How the requests ended, by number.

    Returns:
        The executions, and what must not be.
    """
    executed = Counter(int.from_bytes(data[at : at + 8]) for at in range(0, len(data), 8))
    twice = sum(times > 1 for times in executed.values())
    unsaid = sum(end == "answered" and not executed[number] for number, end in outcomes.items())
    denied = sum(end == "NOT_STARTED" and executed[number] > 0 for number, end in outcomes.items())
    found = {
        "requests were executed twice": twice,
        "answered requests were not executed": unsaid,
        "executed requests were reported as not started": denied,
    }
    return executed.total(), [f"{number} {what}" for what, number in found.items() if number]


class Memory(Run):
    """Many requests, a tenth of which time out, are cancelled, given up, or left by a client."""

    delay = 0.0

    async def work(self) -> None:
        plan, result = self.plan, self.result
        part = plan.requests // STEPS
        # Of each part: 5 % hang (4 % of the clients that stay, 1 % of those that leave) and 5 %
        # are cancelled (3 % by the upstream, 2 % given up here).
        leavers = part // 100 // LEAVER_REQUESTS
        given_up = part // 50
        asked = part - leavers * LEAVER_REQUESTS - given_up
        began = time.monotonic()
        for step in range(STEPS):
            result.given_up += (
                await asyncio.gather(
                    self._load_part(asked, leavers),
                    self.gateway.ask((given_up, GIVE_UP_S), PATIENCE_S),
                )
            )[1]
            stats = await self.settle()
            result.rss_mib.append(round(stats["rss"] / MIB, 1))
            if step == 0:
                result.figures["warm-up MiB"] = result.rss_mib[0]
        result.figures["requests a second"] = round(plan.requests / (time.monotonic() - began))
        grown = result.rss_mib[-1] - result.rss_mib[0]
        result.figures["growth MiB"] = round(grown, 1)
        if grown >= MAX_GROWTH_MIB:
            result.findings.append(f"the gateway grew by {grown:.1f} MiB")
        late = sum(n for end, n in (await self.ask_load("told")).ends.items() if end[:3] == "504")
        result.figures["time-outs"] = late

    async def _load_part(self, requests: int, leavers: int) -> None:
        await self.ask_load("run", requests, self.plan.rate, 0.04, 0.03)
        await self.ask_load("leave", leavers)


class Restarts(Run):
    """The upstream goes away under load and comes back at the same address, again and again."""

    async def work(self) -> None:
        plan = self.plan
        port = int(self.address.rpartition(":")[2])
        await self.ask_load("begin", plan.rate)
        for number in range(plan.restarts):
            following = await self.new_upstream()
            await asyncio.sleep(plan.pause_s)
            if plan.how == "stop" or (plan.how == "both" and number % 2):
                self.upstream.send("stop")
                await self.upstream.receive(PATIENCE_S)
            await asyncio.to_thread(self.upstream.kill)
            self.upstream = following
            await following.ask(port)
        await asyncio.sleep(plan.pause_s)
        await self.ask_load("end")
        told: Told = await self.ask_load("told")
        answered = sum(number for end, number in told.ends.items() if end == "200")
        self.result.figures["answered %"] = round(100 * answered / sum(told.ends.values()), 1)


class Age(Run):
    """The upstream says goodbye to each connection at its age, under load."""

    def age_ms(self) -> int:
        return self.plan.age_ms

    async def work(self) -> None:
        plan, result = self.plan, self.result
        await self.ask_load("run", int(plan.seconds * plan.rate), plan.rate, 0.0, 0.0)
        told: Told = await self.ask_load("told")
        errors = {end: number for end, number in told.ends.items() if end != "200"}
        if errors:
            result.findings.append(f"requests have failed: {errors}")
        connects = (await self.sample())["upstream.connects"]
        result.figures["connections"] = connects
        if connects < plan.seconds * 1000 / plan.age_ms / 2:
            result.findings.append(f"only {connects} connections: they did not age")


RUNS: dict[str, type[Run]] = {"memory": Memory, "restarts": Restarts, "age": Age}
"""By name."""
