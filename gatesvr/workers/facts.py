"""WorkerFacts: what a supervisor knows of a worker without asking it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["WorkerFacts"]


class WorkerFacts(NamedTuple):
    """What a supervisor knows of a worker.

    Attributes:
        number: Its number, which no other live worker has.
        slot: Whose datagrams it reads.
        node_id: Its name among the peers and in the directory, which is never used again.
        pid: Its process.
        phase: ``starting``, ``serving`` or ``leaving``.
        uptime_s: Seconds since its start.
        restarts: How often the worker of its slot has died.
    """

    number: int
    slot: int
    node_id: str
    pid: int
    phase: str
    uptime_s: float
    restarts: int
