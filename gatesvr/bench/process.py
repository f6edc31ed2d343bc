"""CPU time and memory of processes by their ids, and of the machine; says which side was full."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

__all__ = ["Sample", "Sampler", "Usage", "verdict"]

FULL_SHARE = 0.9
"""A process that takes this much of a core can hardly take more."""
FULL_MACHINE_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Sample:
    """What processes have used up to a time.

    Attributes:
        at: Monotonic seconds.
        cpu: Name to CPU time, user and system, seconds.
        rss: Name to resident memory, bytes.
        machine_busy: Of all cores together, seconds.
    """

    at: float
    cpu: Mapping[str, float]
    rss: Mapping[str, int]
    machine_busy: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes used between two samples.

    Attributes:
        seconds: Between them.
        cpu: Name to CPU time, seconds.
        machine_share: Busy part of all cores.
        cores: How many there are.
    """

    seconds: float
    cpu: Mapping[str, float]
    machine_share: float
    cores: int

    @classmethod
    def between(cls, first: Sample, last: Sample, cores: int) -> Usage:
        """Return what was used from one sample to a later one."""
        seconds = max(last.at - first.at, 1e-9)
        cpu = {name: last.cpu[name] - first.cpu[name] for name in last.cpu if name in first.cpu}
        share = (last.machine_busy - first.machine_busy) / seconds / cores
        return cls(seconds, cpu, min(1.0, max(0.0, share)), cores)

    @property
    def others_share(self) -> float:
        """The part of all cores that processes other than these took."""
        ours = sum(self.cpu.values()) / self.seconds / self.cores
        return max(0.0, self.machine_share - ours)

    def share(self, name: str) -> float:
        """Return the parts of one core that a process took."""
        return self.cpu[name] / self.seconds


class Sampler:
    """Reads what processes use; a process counts with all its children.

    Args:
        pids: Name to process id.

    Raises:
        ConfigError: There is no such process, or the library that reads it is not installed.
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
        """Return what every process that is still there has used."""
        cpu: dict[str, float] = {}
        rss: dict[str, int] = {}
        for name, process in self._processes.items():
            try:
                family = [process, *process.children(recursive=True)]
            except self._psutil.Error:
                continue  # it has ended
            times = memory = 0
            for each in family:
                try:
                    with each.oneshot():
                        spent = each.cpu_times()
                        resident = each.memory_info().rss
                except self._psutil.Error:
                    continue  # a child that has ended
                times += spent.user + spent.system
                memory += resident
            cpu[name], rss[name] = times, memory
        machine = self._psutil.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        busy = sum(machine[:8]) - idle  # beyond the first eight: guests, which user counts too
        return Sample(time.monotonic(), cpu, rss, busy)


def verdict(usage: Usage, load_names: Sequence[str], *, is_closed: bool) -> str:
    """Say which side was full.

    Args:
        usage: During what was measured; ``gateway`` and ``upstream`` where they are known.
        load_names: The names of the load processes in it.
        is_closed: Whether it was the closed model, which always goes as fast as it can.
    """
    words = []
    load = max((usage.share(name) for name in load_names), default=0.0)
    if load >= FULL_SHARE:
        words.append(
            f"the load client was full ({load:.0%} of a core): throughput and latencies say"
            " little about the gateway (try --processes, or fewer clients)"
        )
    for name in ("gateway", "upstream"):
        if name in usage.cpu and usage.share(name) >= FULL_SHARE:
            words.append(f"the {name} was full ({usage.share(name):.0%} of a core)")
    if usage.machine_share >= FULL_MACHINE_SHARE:
        words.append(
            f"the machine was full ({usage.machine_share:.0%} of its {usage.cores} cores,"
            f" {usage.others_share:.0%} by others): all sides took time from each other"
        )
    if words:
        return "; ".join(words)
    if "gateway" not in usage.cpu:
        return "the load client was not full; the gateway's CPU is not known (name it with --pid)"
    pace = " (more --clients or --in-flight would ask more of it)" if is_closed else ""
    return f"no side was full{pace}"
