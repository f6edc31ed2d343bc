"""The settings of a gateway of several processes."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from .checks import HOUR, MINUTE, MS, Wait
from .kinds import Duration, Range, Seconds, Section

__all__ = ["MAX_WORKERS", "WorkersConfig", "usable_cpus"]

MAX_WORKERS = 64
"""A slot needs numbers for the worker that serves it, for the next one and for the last dead ones;
there are 256."""


class WorkersConfig(Section, frozen=True, kw_only=True):
    """Several processes that serve as one gateway, on the same ports. The limits of all other
    sections hold for all of them together."""

    restart = frozenset({"count", "lease", "steer"})

    count: Annotated[int, Range(1, MAX_WORKERS, "this process alone, without a supervisor")] = 0
    """Worker processes; `gatesvr serve --workers auto` starts one per usable CPU."""
    lease: Annotated[Seconds, Range(1, MINUTE)] = 5.0
    """How long a worker that has fallen silent keeps its sessions. One that has died loses them at
    once: the supervisor sees it."""
    steer: Literal["auto", "bpf", "forward"] = "auto"
    """How datagrams come to the worker that has their connection. bpf: a program in the kernel
    picks its socket (Linux). forward: the worker that gets them hands them on. auto: bpf where
    that can be had."""
    start_timeout: Wait = 30.0
    """Longest start of a worker; then it is killed, and another one is started."""
    restart_min: Annotated[Seconds, Range(10 * MS, HOUR)] = 0.1
    """Pause before the first restart of a worker that has died. It doubles with each death, until
    one has lived for a minute."""
    restart_max: Annotated[Seconds, Range(10 * MS, HOUR)] = 10.0
    """Longest pause."""
    upgrade_timeout: Annotated[Seconds, Range(10 * MS, 24 * HOUR)] = 60.0
    """Longest upgrade; then the clients that the old workers still have are cut off."""

    def check(self) -> None:
        if self.restart_min > self.restart_max:
            raise self.refusal(
                "restart_min",
                f"{Duration.spell(self.restart_min)} is above restart_max"
                f" ({Duration.spell(self.restart_max)})",
            )


def usable_cpus() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
