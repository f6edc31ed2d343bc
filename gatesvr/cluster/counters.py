"""The counters of a process among those of its gateway."""

from __future__ import annotations

from dataclasses import dataclass

from ..observe.metrics import Counter, Counters, Gauge

__all__ = ["ClusterCounters"]


@dataclass(slots=True)
class ClusterCounters(Counters):
    """Counts what a node and its siblings do for each other.

    The session layer counts the sessions that moved, were taken back or logged in.
    """

    leaving: Gauge = 0
    """Sessions on their way to another process."""
    closing: Gauge = 0
    """Sessions that have ended, and of whose end the directory does not know yet."""
    cut_off: Gauge = 0
    """Whether the directory was not reached for a whole lease: 1, else 0."""
    internal_errors: Counter = 0
    """Exceptions in the node's own code."""
    directory_failures: Counter = 0
    """Questions that the directory has not answered in time."""
    renewals: Counter = 0
    """Renewals of the lease."""
    lost: Counter = 0
    """Sessions dropped because the directory gives them to nobody, or to another process."""
    orphans: Counter = 0
    """Entries removed that named this process, which had no such session."""
    forgotten: Counter = 0
    """Times that the directory had forgotten this process, and all its sessions with it."""
    lost_calls: Counter = 0
    """Requests answered by ERROR 502 because the process that had asked a service has died."""
    starts_moving: Counter = 0
    """STARTs answered 503 because their session was moving, or its owner did not answer."""
    starts_undecided: Counter = 0
    """STARTs answered 503 because the directory did not answer in time."""
    starts_cut_off: Counter = 0
    """STARTs of new sessions answered 503 at once because the directory was out of reach."""
    buried: Counter = 0
    """Sessions ended because the lease of the process that owned them was out."""
    takes: Counter = 0
    """Sessions handed over to the process that their client had come to."""
    takes_refused: Counter = 0
    """Sessions not handed over: moving, owned by another process, or their START was refused."""
    states_refused: Counter = 0
    """Sessions not installed: their bytes make none, or there was a copy."""
    arrivals_lost: Counter = 0
    """Sessions installed, and dropped because the directory gave them to no or another process."""
    gives: Counter = 0
    """Sessions handed over although no client had come for them."""
    gives_failed: Counter = 0
    """Of these, the sessions that nobody has taken; they stay here."""
    forwards: Counter = 0
    """Results of services that the owner of their session has taken."""
    forwards_repeated: Counter = 0
    """Times that an owner did not take a result, which is then sent again."""
    life_questions: Counter = 0
    """Times that another process was asked whether a session shows life, for a login."""
    logins_lost: Counter = 0
    """Logins without effect because the session was not this process's any more."""
    pushes_routed: Counter = 0
    """Pushes handed to the process that owns their session."""
    pushes_unsure: Counter = 0
    """Pushes answered UNKNOWN: their owner may have taken them."""
    pushes_unrouted: Counter = 0
    """Pushes answered BUSY because no owner of their session was found in time."""
    pushes_late: Counter = 0
    """Pushes of other processes not taken because nobody waited for them any longer."""
    kicks_routed: Counter = 0
    """Kicks handed to the process that owns their session."""
    kicks_unrouted: Counter = 0
    """Kicks given up because no owner of their session answered in time."""
