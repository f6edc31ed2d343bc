"""One run: starts the load processes, leads them through the phases, collects their reports."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..errors import ConfigError, ConnectionFailed, GatesvrError
from .client import CONNECTING, MAX_DRAIN_S
from .meter import TICK_S, Meter
from .process import Sample, Sampler, Usage
from .worker import Outcome, run_worker

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe
    from multiprocessing.context import SpawnProcess

    from .findings import Finding
    from .scenario import Plan

__all__ = ["Crew", "Progress", "Result", "raise_file_limit"]

START_TIMEOUT_S = 30.0
GRACE_S = 15.0
"""Time added to the plan's own time-outs before a phase counts as stuck."""
PROGRESS_S = 0.1
MIN_SESSIONS = 50
"""With fewer sessions, shared costs would dominate the memory a session."""
SPARE_FILES = 100

Progress = Callable[[str, float], None]
"""Called with the phase and its progress, 0 to 1."""


@dataclass(slots=True)
class Result:
    """The result of a run.

    Attributes:
        plan: The run's plan.
        meter: Latencies.
        seconds: Length of the measurement.
        connected: Clients that came up before the load began (scenario ``connect``: during it).
        alive: Clients that were up at the end of the load.
        usage: CPU during the measurement; the load processes are ``load 0``, ``load 1`` …
        rss: For each name: resident memory at the end of the measurement, bytes.
        session_bytes: Growth of the gateway's memory for a logged-in session and its connection;
            None if unknown, or with fewer than MIN_SESSIONS.
        figures: The scenario's figures besides latencies.
        findings: The broken promises reported; ``found`` counts all.
        failures: Reasons of other failures, with their counts.
        is_interrupted: Whether it was stopped early.
    """

    plan: Plan
    meter: Meter
    seconds: float
    connected: int
    alive: int
    usage: Usage
    rss: Mapping[str, int]
    session_bytes: int | None
    figures: dict[str, float]
    findings: list[Finding]
    found: int
    failures: Counter[str]
    is_interrupted: bool
    samples: list[Sample] = field(default_factory=list)

    @property
    def load_names(self) -> list[str]:
        """The load processes' names in usage."""
        return [name for name in self.usage.cpu if name.startswith("load ")]


class Crew:
    """The load processes of a run.

    Args:
        processes: Number of load processes.
    """

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes: list[SpawnProcess] = []
        self._pipes: list[Pipe] = []
        with _interrupts_ignored():  # inherited by the children: Ctrl-C is the parent's to handle
            for number in range(processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=run_worker, args=(theirs, number), daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
                self._pipes.append(ours)

    @property
    def pids(self) -> list[int]:
        """The process ids."""
        return [process.pid or 0 for process in self._processes]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in self._pipes:
            pipe.close()  # ends a process that is still running
        for process in self._processes:
            process.join(GRACE_S)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()

    def run(
        self,
        plan: Plan,
        pids: Mapping[str, int],
        progress: Progress,
        check: Callable[[], None] = lambda: None,
    ) -> Result:
        """Run a plan.

        Args:
            plan: The run's plan.
            pids: Process ids of ``gateway`` and ``upstream``, if known.
            progress: Called with the run's progress.
            check: Called regularly; an exception from it ends the run.

        Raises:
            ConnectionFailed: No client could connect, or the push API is unreachable.
            GatesvrError: A load process failed.
        """
        names = {f"load {i}": pid for i, pid in enumerate(self.pids)}
        sampler = Sampler({**names, **pids})
        run = _Run(self._pipes, plan, sampler, progress, check)
        return run.run()


class _Run:
    def __init__(
        self,
        pipes: list[Pipe],
        plan: Plan,
        sampler: Sampler,
        progress: Progress,
        check: Callable[[], None],
    ) -> None:
        self._pipes = pipes
        self._talking = list(pipes)
        self._plan = plan
        self._sampler = sampler
        self._progress = progress
        self._check = check
        self._meter = Meter()
        self._said: dict[str, list[Any]] = {}
        self._progresses: dict[int, int] = {}
        self._is_interrupted = False

    def run(self) -> Result:
        """Go through the phases."""
        plan = self._plan
        self._progress("starting", 0.0)
        self._wait_for("ready", START_TIMEOUT_S)
        before = self._sampler.sample()
        self._tell("connect", plan)
        connect_s = GRACE_S + plan.timeout * (1 + plan.clients / CONNECTING)
        connected = sum(self._wait_for("connected", connect_s))
        is_ramp = plan.scenario == "connect"
        session_bytes = self._session_bytes(before, connected)
        if not connected and not is_ramp:
            self._finish_early()
        samples, seconds = self._measure()
        first, last = samples[0], samples[-1]
        self._tell("drain")
        self._progress("draining", 1.0)
        outcomes: list[Outcome] = self._wait_for("done", GRACE_S + MAX_DRAIN_S + 2 * plan.timeout)
        if is_ramp:
            connected = self._meter.total.count
            session_bytes = self._session_bytes(first, connected, last)
        failures: Counter[str] = Counter()
        for outcome in outcomes:
            failures.update(outcome.failures)
        return Result(
            plan=plan,
            meter=self._meter,
            seconds=seconds,
            connected=connected,
            alive=sum(outcome.alive for outcome in outcomes),
            usage=Usage.between(first, last, self._sampler.cores),
            rss=last.rss,
            session_bytes=session_bytes,
            figures=_merge([outcome.figures for outcome in outcomes]),
            findings=[finding for outcome in outcomes for finding in outcome.findings],
            found=sum(outcome.found for outcome in outcomes),
            failures=failures,
            is_interrupted=self._is_interrupted,
            samples=samples,
        )

    def _finish_early(self) -> None:
        """Find out why no client came up, and raise it."""
        for command in ("go", "measure", "stop", "drain"):
            self._tell(command)
        outcomes: list[Outcome] = self._wait_for("done", GRACE_S + MAX_DRAIN_S)
        reasons: Counter[str] = Counter()
        for outcome in outcomes:
            reasons.update(outcome.failures)
        most = ", ".join(reason for reason, _ in reasons.most_common(2))
        raise ConnectionFailed(f"no client could log in: {most or 'no reason given'}")

    def _measure(self) -> tuple[list[Sample], float]:
        """Warm up, measure, stop; return a sample for each tick, and the seconds measured."""
        plan = self._plan
        self._tell("go")
        samples: list[Sample] = []
        with _on_interrupt(self._interrupt):
            if plan.scenario not in ("connect", "resume", "idle"):
                self._pass("warming up", plan.warmup)
            samples.append(self._sampler.sample())
            began = time.monotonic()
            self._tell("measure")
            self._pass("measuring", plan.duration, samples)
        self._tell("stop")
        self._wait_for("stopped", GRACE_S + 4 * plan.timeout)
        seconds = time.monotonic() - began
        samples.append(self._sampler.sample())
        return samples, seconds

    def _pass(self, phase: str, seconds: float, samples: list[Sample] | None = None) -> None:
        """Let the load run; return early when interrupted, or when every process is finished."""
        began = time.monotonic()
        sample_at = began + TICK_S
        while (now := time.monotonic()) < began + seconds and not self._is_interrupted:
            self._progress(phase, (now - began) / seconds)
            if len(self._said.get("finished", ())) == len(self._pipes):
                return
            if now >= sample_at:
                sample_at += TICK_S
                self._check()
                if samples is not None:
                    samples.append(self._sampler.sample())
            self._pump(min(began + seconds, sample_at, now + PROGRESS_S))
        self._check()

    def _interrupt(self) -> None:
        self._is_interrupted = True

    # Messages.

    def _tell(self, command: str, more: object = None) -> None:
        for pipe in self._pipes:
            pipe.send((command, more))

    def _wait_for(self, what: str, timeout: float) -> list[Any]:
        """Return every process's message of this kind."""
        end = time.monotonic() + timeout
        while len(said := self._said.get(what, [])) < len(self._pipes):
            if time.monotonic() >= end:
                raise GatesvrError(f"the load processes are stuck: not {what} in {timeout:g} s")
            self._check()
            self._pump(min(end, time.monotonic() + TICK_S))
        return said

    def _pump(self, until: float) -> None:
        """Handle the processes' messages; wait for them until the given time."""
        ready = connection.wait(self._talking, max(0.0, until - time.monotonic()))
        for number, pipe in enumerate(self._pipes):
            if pipe not in ready:
                continue
            try:
                said, more = pipe.recv()
            except (EOFError, ConnectionResetError):
                raise GatesvrError(f"load process {number} has ended, see above") from None
            if said == "tick":
                self._meter.add(more)
            elif said == "progress":
                self._progresses[number] = more
                self._progress("connecting", sum(self._progresses.values()) / self._plan.clients)
            elif said == "broadcast":
                for other in self._pipes:
                    if other is not pipe:
                        other.send((said, more))
            elif said == "failed":
                raise ConnectionFailed(more)
            else:
                self._said.setdefault(said, []).append(more)
                if said == "done":
                    self._talking.remove(pipe)  # the process ends now

    def _session_bytes(
        self, before: Sample, sessions: int, after: Sample | None = None
    ) -> int | None:
        if "gateway" not in before.rss or sessions < MIN_SESSIONS:
            return None
        after = after or self._sampler.sample()
        if "gateway" not in after.rss:
            return None
        return max(0, after.rss["gateway"] - before.rss["gateway"]) // sessions


def raise_file_limit(clients: int) -> None:
    """Raise the limit of open files for this process and its children, for that many clients each.

    Raises:
        ConfigError: The system does not allow it.
    """
    wanted = clients + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigError(
            f"{clients} clients a load process need {wanted} open files, the system allows {hard}"
            " (ulimit -Hn): take more --processes or fewer",
            source="--clients",
        )
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError) as error:  # macOS enforces less than the limit it reports
        raise ConfigError(
            f"{clients} clients a load process need {wanted} open files: {error}",
            source="--clients",
        ) from None


def _merge(figures: list[dict[str, float]]) -> dict[str, float]:
    """Return the figures of all load processes: sums, but maxima of times and rounds."""
    merged: dict[str, float] = {}
    for one in figures:
        for name, value in one.items():
            is_greatest = name.endswith("_ms") or name == "rounds"
            known = merged.get(name, 0.0)
            merged[name] = max(known, value) if is_greatest else known + value
    return merged


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _on_interrupt(note: Callable[[], None]) -> Iterator[None]:
    """Call note on Ctrl-C and SIGTERM, unless the process was started to ignore them."""
    wanted = (signal.SIGINT, signal.SIGTERM)
    numbers = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, lambda *_: note()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
