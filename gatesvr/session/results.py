"""Results: what services answered to this process's calls, for sessions that it does not own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

from .._pb import cluster_pb2 as pb

__all__ = ["MAX_RESULTS", "Result", "Results"]

MAX_RESULTS = 65_536
"""Results kept; beyond it a new one is dropped, and its client gets ERROR 504 from the owner."""


class Result(NamedTuple):
    """How a request ended: by an answer or by an ERROR.

    Attributes:
        client_seq: The request's number.
        body: Fields 3-5 and 10 of its push.
        before: Bodies of the notifies that the answer carries, to go before it.
        after: Bodies of those to go behind it.
        hello_code: The code of a hello's answer; 0 of every other request, and of an ERROR.
        zone: The zone that a hello's answer names.
    """

    client_seq: int
    body: bytes
    before: tuple[bytes, ...] = ()
    after: tuple[bytes, ...] = ()
    hello_code: int = 0
    zone: str = ""

    @classmethod
    def of(cls, client_seq: int, answer: pb.MovedAnswer, hello_code: int) -> Self:
        """Return the result that another process has told of."""
        before, after = tuple(answer.before), tuple(answer.after)
        return cls(client_seq, answer.body, before, after, hello_code, answer.zone)

    def answer(self) -> pb.MovedAnswer:
        """Return what of it travels with whatever names its request."""
        return pb.MovedAnswer(body=self.body, before=self.before, after=self.after, zone=self.zone)


class Results:
    """The results by session id, each kept until it is settled.

    A result is settled when this process has applied it to a session that it owns, when the owner
    has taken it, or when the session is known to have ended.

    Attributes:
        wake: Called with the session id when a result is kept; it must not call the session.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[int, Result]] = {}
        self._count = 0
        self.wake: Callable[[str], None] = lambda session_id: None

    def __len__(self) -> int:
        """Return the number of results kept."""
        return self._count

    def keep(self, session_id: str, result: Result) -> bool:
        """Keep a result, unless its request has one; return whether there was room."""
        kept = self._kept.get(session_id)
        if kept is not None and result.client_seq in kept:
            return True
        if self._count >= MAX_RESULTS:
            return False
        if kept is None:
            kept = self._kept[session_id] = {}
        kept[result.client_seq] = result
        self._count += 1
        self.wake(session_id)
        return True

    def of(self, session_id: str) -> list[Result]:
        """Return a session's results, in the order in which they came."""
        return list(self._kept.get(session_id, {}).values())

    def settle(self, session_id: str, client_seq: int) -> None:
        """Forget a result; nothing happens if there is none."""
        kept = self._kept.get(session_id)
        if kept is not None and kept.pop(client_seq, None) is not None:
            self._count -= 1
            if not kept:
                del self._kept[session_id]

    def drop(self, session_id: str) -> None:
        """Forget all results of a session: it has ended."""
        self._count -= len(self._kept.pop(session_id, ()))
