"""Runs cases: starts the processes, measures, judges, and measures again what was only slow."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..soak.child import Child
from .attacker import serve_attacker
from .case import Case, Latency, Limit, Measured, Sample
from .processes import resident, serve_gateway, serve_healthy, serve_service

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Coroutine
    from typing import Self

__all__ = ["Finding", "Row", "Runner"]

HEALTHY = 6
IDLE_S = 1.0
TRIES = 3
"""Times that a case is measured before a limit that depends on the machine's speed counts; on a
machine that is busy with other work, before any limit counts."""
BUSY_LOAD = 2.0
"""Load average, for each core, of a busy machine; the table's own processes make less than 1."""
POLL_S = 0.05
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Finding:
    """A limit, what was measured, and whether it was kept."""

    limit: str
    measured: str
    is_kept: bool
    is_soft: bool = False


@dataclass
class Row:
    """A case's row of the table.

    Attributes:
        case: The case.
        backend: The gateway's QUIC library.
        findings: One for each limit.
        wrong: What went wrong with the measurement itself, "" for nothing.
        seen: What the attacker counted.
        tries: How often it was measured.
        seconds: The time that all of it took.
        is_off: Whether the defence was switched off.
    """

    case: Case
    backend: str
    findings: list[Finding] = field(default_factory=list)
    wrong: str = ""
    seen: dict[str, int] = field(default_factory=dict)
    tries: int = 0
    seconds: float = 0.0
    is_off: bool = False

    @property
    def passed(self) -> list[Finding]:
        """The limits that were passed."""
        return [finding for finding in self.findings if not finding.is_kept]

    @property
    def is_held(self) -> bool:
        """Whether every limit was kept."""
        return not self.wrong and not self.passed

    @property
    def is_shown(self) -> bool:
        """With the defence off: whether the case has noticed, by a limit that was passed."""
        is_slow = self.case.off.is_slow
        return any(is_slow or not finding.is_soft for finding in self.passed)

    @property
    def verdict(self) -> str:
        """A word for it."""
        if self.is_off:
            return "shown" if self.is_shown else "NOT SHOWN"
        if self.wrong:
            return "BROKEN"
        return "held" if self.is_held else "PASSED"


def judge(limits: tuple[Limit, ...], measured: Measured) -> list[Finding]:
    """Return a finding for each limit."""
    return [
        Finding(limit.text(), limit.measured_text(measured), limit.is_kept(measured), limit.is_soft)
        for limit in limits
    ]


def is_machine_busy() -> bool:
    """Return whether other work takes so much of the machine that nothing says much."""
    return os.getloadavg()[0] > BUSY_LOAD * (os.cpu_count() or 1)


class Runner:
    """Runs cases one after the other; the gateway is a fresh process for each.

    Args:
        has_latency: Measure latencies and CPU, too; without it only the hard limits count.
    """

    def __init__(self, *, has_latency: bool = True) -> None:
        self._has_latency = has_latency
        self._children = ExitStack()
        self._service: Child
        self._healthy: Child
        self._attacker: Child
        self._services: list[str] = []

    async def __aenter__(self) -> Self:
        self._service = self._child(serve_service)
        self._healthy = self._child(serve_healthy)
        self._attacker = self._child(serve_attacker)
        self._services = await self._service.receive()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._children.close)

    def _child(self, serve: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> Child:
        child = Child(serve, *arguments)
        self._children.callback(child.kill)
        return child

    async def run(self, case: Case, backend: str, *, is_off: bool = False) -> Row:
        """Run a case, up to TRIES times while it fails and the machine may be why."""
        row = Row(case, backend, is_off=is_off)
        began = time.monotonic()
        limits = tuple(limit for limit in case.all_limits if self._has_latency or not limit.is_soft)
        while row.tries < TRIES:
            row.tries += 1
            row.wrong = ""
            try:
                measured, row.wrong = await self._measure(case, backend, is_off)
                row.findings, row.seen = judge(limits, measured), dict(measured.seen)
            except (EOFError, TimeoutError, ConnectionError) as error:
                row.wrong = f"a process ended or hangs: {error!r}"
                row.findings = []
                await self._restart()
            is_firm = bool(row.wrong) or any(not finding.is_soft for finding in row.passed)
            if is_off or row.is_held or (is_firm and not is_machine_busy()):
                break
        row.seconds = time.monotonic() - began
        return row

    async def _restart(self) -> None:
        await self.__aexit__()
        await self.__aenter__()

    async def _measure(self, case: Case, backend: str, is_off: bool) -> tuple[Measured, str]:
        sets, patches = case.sets, dict(case.patches)
        if is_off:
            sets, patches = (*sets, *case.off.sets), {**patches, **case.off.patches}
        gateway = Child(serve_gateway, backend, self._services, sets, patches, dict(case.files))
        try:
            where = await gateway.receive(PATIENCE_S)
            return await self._attack(case, backend, gateway, where)
        finally:
            with suppress(EOFError, TimeoutError, OSError):
                await self._healthy.ask(("leave",))
            await asyncio.to_thread(gateway.kill)

    async def _attack(
        self, case: Case, backend: str, gateway: Child, where: tuple[str, ...]
    ) -> tuple[Measured, str]:
        make = case.token or (lambda _: "")
        openids = [f"healthy{number}" for number in range(HEALTHY)]
        wrong = await self._healthy.ask(
            ("connect", where[0], where[3], {name: make(name) for name in openids})
        )
        if wrong:
            raise ConnectionError(wrong)
        idle, idle_cpu = Latency(), 0.0
        if self._has_latency:
            await self._healthy.ask(("window",))
            first: Sample = await gateway.ask("sample")
            await asyncio.sleep(IDLE_S)
            idle = await self._healthy.ask(("report",))
            idle_cpu = ((await gateway.ask("sample")).cpu - first.cpu) / IDLE_S
        await self._healthy.ask(("window",))
        before: Sample = await gateway.ask("sample")
        began = time.monotonic()
        attack = asyncio.ensure_future(self._attacker.ask((case.name, backend, *where), PATIENCE_S))
        peak = before.rss
        while not attack.done() or time.monotonic() < began + case.min_window:
            peak = max(peak, resident(gateway.pid))
            await asyncio.sleep(POLL_S)
        seen: Counter[str]
        seen, wrong = await attack
        during = await self._healthy.ask(("report",))
        after: Sample = await gateway.ask("sample", PATIENCE_S)
        seconds = time.monotonic() - began
        peak = max(peak, after.rss)
        return Measured(before, after, peak, idle_cpu, seconds, idle, during, seen), wrong
