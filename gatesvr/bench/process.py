"""CPU time and memory of processes and the machine; tells which side was saturated."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

__all__ = ["CLOCK_S", "Sample", "Sampler", "Usage", "verdict"]

FULL_SHARE = 0.9
"""A process at this share of a core counts as saturated."""
FULL_MACHINE_SHARE = 0.95
CLOCK_S = 1e-6 if sys.platform == "linux" else 0.01
"""Resolution of CPU times."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Resources used up to a point in time.

    Attributes:
        at: Monotonic seconds.
        cpu: For each name: CPU time, user and system, seconds.
        rss: For each name: resident memory, bytes.
        machine_busy: Busy time of all cores together, seconds.
    """

    at: float
    cpu: Mapping[str, float]
    rss: Mapping[str, int]
    machine_busy: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources used between two samples.

    Attributes:
        seconds: Time between the samples.
        cpu: For each name: CPU time, seconds.
        machine_share: Busy share of all cores.
        cores: Number of cores.
    """

    seconds: float
    cpu: Mapping[str, float]
    machine_share: float
    cores: int

    @classmethod
    def between(cls, first: Sample, last: Sample, cores: int) -> Usage:
        """Return the use between two samples."""
        seconds = max(last.at - first.at, 1e-9)
        cpu = {name: last.cpu[name] - first.cpu[name] for name in last.cpu if name in first.cpu}
        share = (last.machine_busy - first.machine_busy) / seconds / cores
        return cls(seconds, cpu, min(1.0, max(0.0, share)), cores)

    @property
    def others_share(self) -> float:
        """The share of all cores that other processes used."""
        ours = sum(self.cpu.values()) / self.seconds / self.cores
        return max(0.0, self.machine_share - ours)

    def share(self, name: str) -> float:
        """Return the share of one core that a process used."""
        return self.cpu[name] / self.seconds


class Sampler:
    """Measures processes; each counts together with all its children.

    Args:
        pids: For each name: process id.

    Raises:
        ConfigError: A process does not exist, or the library that reads it is not installed.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        try:
            import psutil
        except ImportError:
            raise ConfigError(
                "needs the package psutil: pip install 'gatesvr[bench]'", source="bench"
            ) from None
        self._psutil: Any = psutil
        self.cores: int = psutil.cpu_count() or 1
        self._processes: dict[str, Any] = {}
        for name, pid in pids.items():
            try:
                self._processes[name] = psutil.Process(pid)
            except psutil.Error:
                raise ConfigError(f"no process {pid} to look at", source="--pid") from None

    def sample(self) -> Sample:
        """Return the use of every process that is still running."""
        cpu: dict[str, float] = {}
        rss: dict[str, int] = {}
        for name, process in self._processes.items():
            try:
                family = [process, *process.children(recursive=True)]
            except self._psutil.Error:
                continue  # it has ended
            times, memory = 0.0, 0
            for each in family:
                try:
                    with each.oneshot():
                        spent = each.cpu_times()
                        resident = each.memory_info().rss
                except self._psutil.Error:
                    continue  # the child has ended
                times += _cpu_time(each.pid, spent)
                memory += resident
            cpu[name], rss[name] = times, memory
        machine = self._psutil.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        busy = sum(machine[:8]) - idle  # the rest is guest time, which user already contains
        return Sample(time.monotonic(), cpu, rss, busy)


def _cpu_time(pid: int, spent: Any) -> float:
    """Return the CPU time of a process, seconds.

    Args:
        pid: Its id.
        spent: Its times by psutil, which on Linux count whole ticks of 10 ms.
    """
    if sys.platform == "linux":
        try:
            # CPUCLOCK_SCHED of another process, as clock_getcpuclockid(3) makes it.
            return time.clock_gettime(~pid << 3 | 2)
        except OSError:
            pass  # it has ended, or the kernel has no such clock
    total: float = spent.user + spent.system
    return total


def verdict(usage: Usage, load_names: Sequence[str], *, is_closed: bool) -> str:
    """Say which side was saturated.

    Args:
        usage: During the measurement; includes ``gateway`` and ``upstream`` if known.
        load_names: The load processes' names in it.
        is_closed: Whether the load was closed, that is, always as fast as possible.
    """
    words = []
    load = max((usage.share(name) for name in load_names), default=0.0)
    if load >= FULL_SHARE:
        words.append(
            f"the load client was saturated ({load:.0%} of a core): throughput and latencies say"
            " little about the gateway (try --processes, or fewer clients)"
        )
    for name in ("gateway", "upstream"):
        if name in usage.cpu and usage.share(name) >= FULL_SHARE:
            words.append(f"the {name} was saturated ({usage.share(name):.0%} of a core)")
    if usage.machine_share >= FULL_MACHINE_SHARE:
        words.append(
            f"the machine was saturated ({usage.machine_share:.0%} of its {usage.cores} cores,"
            f" {usage.others_share:.0%} by others): all sides competed for CPU"
        )
    if words:
        return "; ".join(words)
    if "gateway" not in usage.cpu:
        return (
            "the load client was not saturated; the gateway's CPU is unknown (name it with --pid)"
        )
    pace = " (more --clients or --in-flight would load it more)" if is_closed else ""
    return f"no side was saturated{pace}"
