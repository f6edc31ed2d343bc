"""The DeliveryChecker's records of sessions and clients; settled ones are dropped."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

__all__ = ["BundleEntry", "ClientEntry", "PushEntry", "RequestEntry", "SeqSet", "SessionEntry"]

ANSWER_TOO_LARGE = 413
ANSWER_NOT_KEPT = 507


class SeqSet:
    """A set of positive numbers kept as ranges, so that dense sets stay small."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._starts, number) - 1
        return index >= 0 and number <= self._ends[index]

    def add(self, number: int) -> bool:
        """Add number; return False if it was there already."""
        if number in self:
            return False
        starts, ends = self._starts, self._ends
        index = bisect_right(starts, number)
        joins_left = index > 0 and ends[index - 1] == number - 1
        joins_right = index < len(starts) and starts[index] == number + 1
        if joins_left and joins_right:
            ends[index - 1] = ends.pop(index)
            del starts[index]
        elif joins_left:
            ends[index - 1] = number
        elif joins_right:
            starts[index] = number
        else:
            starts.insert(index, number)
            ends.insert(index, number)
        return True

    def discard(self, number: int) -> None:
        """Remove number."""
        index = bisect_right(self._starts, number) - 1
        if index < 0 or number > self._ends[index]:
            return
        start, end = self._starts.pop(index), self._ends.pop(index)
        if number < end:
            self._starts.insert(index, number + 1)
            self._ends.insert(index, end)
        if start < number:
            self._starts.insert(index, start)
            self._ends.insert(index, number - 1)


@dataclass(slots=True)
class PushEntry:
    """A plain notify on its way; number is its place in its stream."""

    number: int
    seq: int
    stream: str
    is_sure: bool


@dataclass(slots=True)
class BundleEntry:
    """The notifies around one answer: pushed and carried, before and after."""

    pushed_before: list[str] = field(default_factory=list)
    carried_before: list[str] = field(default_factory=list)
    pushed_after: list[str] = field(default_factory=list)
    carried_after: list[str] = field(default_factory=list)

    def around(self, code: int) -> tuple[list[str], list[str]]:
        """Return the notifies before and after an answer (code 0) or an ERROR of that code."""
        if code == ANSWER_NOT_KEPT:
            return [], []  # its notifies are dropped with it
        if code and code != ANSWER_TOO_LARGE:
            return self.pushed_before, self.pushed_after  # without an answer, none are carried
        return (
            self.pushed_before + self.carried_before,
            self.pushed_after + self.carried_after,
        )


@dataclass(slots=True)
class SessionEntry:
    """The unsettled state of a session."""

    position: int = 0
    pushes: dict[str, PushEntry] = field(default_factory=dict)
    by_seq: dict[int, str] = field(default_factory=dict)
    next_number: int = 0
    last_numbers: dict[str, int] = field(default_factory=dict)
    early: dict[str, int] = field(default_factory=dict)  # delivered before they were reported
    bundles: dict[int, BundleEntry] = field(default_factory=dict)
    bundle_of: dict[str, int] = field(default_factory=dict)
    open_bundle: int = 0  # client seq of the bundle being delivered
    open_before: list[str] = field(default_factory=list)
    open_after: list[str] = field(default_factory=list)
    answered: SeqSet = field(default_factory=SeqSet)
    executed: SeqSet = field(default_factory=SeqSet)
    refused: SeqSet = field(default_factory=SeqSet)
    lanes: dict[str, int] = field(default_factory=dict)
    orders: dict[str, int] = field(default_factory=dict)
    lost: int = 0  # seqs announced as lost
    connection: int = 0
    is_ended: bool = False
    login: int = 0


@dataclass(slots=True)
class RequestEntry:
    """A request on its way."""

    number: int
    is_login: bool
    is_executed: bool = False
    is_refused: bool = False


@dataclass(slots=True)
class ClientEntry:
    """The unsettled requests of a client."""

    session_id: str = ""
    requests: dict[str, RequestEntry] = field(default_factory=dict)
    asked: int = 0
    login: int | None = None  # the number of the first hello that was answered 200
    refused: list[tuple[int, str]] = field(default_factory=list)  # with 401, before such a hello
