"""Places the processes of a measurement so that the gateway's part of a latency can be told.

The gateway has a core to itself. Everything else shares another one, in this order: clients that
are measured preempt services, and both preempt the neighbour's clients, which get what is left. So
a latency holds the gateway's part, the measured client's and the service's, and nothing of the
neighbour's own processes. It takes two cores, and the right to raise priorities (CAP_SYS_NICE).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Placement", "Role"]

MEASURED_PRIORITY = 20
SERVICE_PRIORITY = 10
GATEWAY_PRIORITY = 5
"""Of SCHED_FIFO: other programs of the machine do not come between, either. The kernel halts a
real-time process at most for those that it would starve, 50 ms a second."""

NEIGHBOUR_NICE = -10
"""Behind all real-time processes, and ahead of what else runs on the machine."""


class Role(Enum):
    """A process's core and rank."""

    GATEWAY = "gateway"
    MEASURED = "measured"
    SERVICE = "service"
    NEIGHBOUR = "neighbour"
    REST = "rest"


_RANKS = {
    Role.GATEWAY: ("SCHED_FIFO", GATEWAY_PRIORITY, 0),
    Role.MEASURED: ("SCHED_FIFO", MEASURED_PRIORITY, 0),
    Role.SERVICE: ("SCHED_FIFO", SERVICE_PRIORITY, 0),
    Role.NEIGHBOUR: ("SCHED_OTHER", 0, NEIGHBOUR_NICE),
    Role.REST: ("SCHED_OTHER", 0, 0),
}
"""Policy by its name in os, priority, niceness."""


class Placement:
    """Gives processes their places, as far as the system allows.

    Args:
        is_wanted: Whether to place them at all.

    Attributes:
        missing: Why the processes are not all in their places, empty if they are.
    """

    def __init__(self, *, is_wanted: bool = True) -> None:
        self.missing = "" if is_wanted else "not asked for"
        self._cores: list[int] = []
        if not is_wanted:
            return
        if not hasattr(os, "sched_setscheduler"):  # macOS
            self.missing = "this system cannot place them"
            return
        self._cores = sorted(os.sched_getaffinity(0))
        if len(self._cores) < 2:
            self.missing, self._cores = "there is one core only", []

    @contextmanager
    def starting(self, place: Role) -> Iterator[None]:
        """Give a place to the processes that start within; their threads and children follow."""
        if self._cores:
            self._take(place)
        try:
            yield
        finally:
            if self._cores:
                self._take(Role.REST)

    def _take(self, place: Role) -> None:
        """Put this process in a place, which its children inherit."""
        policy, priority, nice = _RANKS[place]
        try:
            os.sched_setaffinity(0, {self._cores[0 if place is Role.GATEWAY else 1]})
            os.sched_setscheduler(0, getattr(os, policy), os.sched_param(priority))
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        except OSError as error:
            self.missing = f"{place.value}: {error.strerror}"
