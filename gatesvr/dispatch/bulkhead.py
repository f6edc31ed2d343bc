"""Bulkhead: the places of one service, and the tasks that wait for one.

Each service has its own places and its own queue, so a service that hangs holds up nobody but
those who ask it.

Within a service, sessions take turns: a free place goes to the oldest task of the session that has
waited longest since its last turn. A session's tasks stay in their order. A session takes of the
queue at most one part in QUEUE_SHARE of what it leaves to others, so those with the most waiting
are refused first. And of the last places, one part in RESERVE_SHARE, it takes no more than it
leaves: they only begin a task while as many are free as its session has requests in flight. So a
few sessions cannot shut the others out, however slow the service is.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .task import AsyncTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._core.histogram import Histogram
    from ..session.session import Session
    from ..upstream.router import Route

__all__ = ["Bulkhead"]

QUEUE_SHARE = 4
"""Of a half each, four sessions would leave one place in sixteen; of a fourth, two in five."""
RESERVE_SHARE = 8
MAX_LOOKED = 8
"""Sessions looked at for one place."""
MIN_RETRY_MS = 50
MAX_RETRY_MS = 5_000


class _Share(deque[AsyncTask]):
    """The tasks of one session that are ready for a place.

    Attributes:
        chained: Its tasks that wait behind another one on a serial route.
    """

    __slots__ = ("chained",)

    def __init__(self) -> None:
        super().__init__()
        self.chained = 0


class Bulkhead:
    """The places and the queue of one service.

    Args:
        max_running: Places.
        max_waiting: Tasks that wait, those behind another on a serial route included.
        now: Loop time.
        times: Takes how long its calls take, None for nobody.

    Attributes:
        times: As given.
        open_places: Places for any session's tasks; the rest are the last ones.
        begun: Tasks that ever had a place.
        ended: Those of them that have given it back.
        waiting: Tasks that wait.
        turns: The sessions with a task ready for a place, in the order of their turns.
        is_handing_out: Whether places are being given out; the processor's.
    """

    __slots__ = (
        "_chains",
        "_marks",
        "_max_running",
        "_max_waiting",
        "_shares",
        "begun",
        "ended",
        "is_handing_out",
        "open_places",
        "times",
        "turns",
        "waiting",
    )

    def __init__(
        self, max_running: int, max_waiting: int, now: float, times: Histogram | None = None
    ) -> None:
        self.times = times
        self.resize(max_running, max_waiting)
        self.begun = 0
        self.ended = 0
        self.waiting = 0
        self.turns: deque[_Share] = deque()
        self.is_handing_out = False
        self._shares: dict[Session, _Share] = {}  # of the sessions with a task waiting
        # The tasks behind the one that has a place or is ready for it.
        self._chains: dict[tuple[Session, Route], deque[AsyncTask]] = {}
        # (time, ended) one to two ticks ago, and at the last tick.
        self._marks = ((now, 0), (now, 0))

    def resize(self, max_running: int, max_waiting: int) -> None:
        """Have other bounds; tasks that have a place, or wait, stay."""
        self._max_running = max_running
        self.open_places = max_running - max_running // RESERVE_SHARE
        self._max_waiting = max_waiting

    def has_room(self, session: Session) -> bool:
        """Return whether one more task of a session may wait."""
        room = self._max_waiting - self.waiting
        share = self._shares.get(session)
        return room > 0 and (share is None or QUEUE_SHARE * (len(share) + share.chained) <= room)

    def has_place(self, session: Session) -> bool:
        """Return whether a task of a session may begin, ahead of other sessions' that may not."""
        return session not in self._shares and self._may_begin(session)

    def add(self, task: AsyncTask) -> None:
        """Queue a task behind those of its session."""
        self.waiting += 1
        self._make_ready(task)

    def is_behind(self, task: AsyncTask) -> bool:
        """Return whether a task of a serial route has to wait for another; it is kept if so."""
        key = (task.session, task.route)
        chain = self._chains.get(key)
        if chain is None:
            self._chains[key] = deque()
            return False
        chain.append(task)
        self.waiting += 1
        self._share(task.session).chained += 1
        return True

    def hold(self, session: Session, route: Route) -> None:
        """Let the tasks of a session on a serial route wait for a call that is under way."""
        self._chains.setdefault((session, route), deque())

    def release(self, session: Session, route: Route) -> None:
        """Queue the task behind one of a serial route that has ended."""
        key = (session, route)
        chain = self._chains.get(key)
        if chain:
            self._shares[session].chained -= 1
            self._make_ready(chain.popleft())
        else:
            self._chains.pop(key, None)

    def take(self) -> AsyncTask | None:
        """Return the task whose turn it is, None where none may begin."""
        turns = self.turns
        for _ in range(min(len(turns), MAX_LOOKED)):
            if self._may_begin(turns[0][0].session):
                return self._pop()
            turns.rotate(-1)
        return None

    def _may_begin(self, session: Session) -> bool:
        running = self.begun - self.ended
        if running < self.open_places:
            return True
        free = self._max_running - running
        return 0 < free >= len(session.pending)

    def _pop(self) -> AsyncTask:
        share = self.turns.popleft()
        task = share.popleft()
        self.waiting -= 1
        if share:
            self.turns.append(share)
        elif not share.chained:
            del self._shares[task.session]
        return task

    def tasks_of(self, session: Session) -> Iterator[AsyncTask]:
        """Yield the tasks of a session that wait."""
        share = self._shares.get(session)
        if share is not None:
            yield from share
            for (owner, _), chain in self._chains.items():
                if owner is session:
                    yield from chain

    def withdraw(self, session: Session) -> list[AsyncTask]:
        """Take out and return the tasks of a session that wait, and the places it holds."""
        share = self._shares.pop(session, None)
        tasks = list(share or ())
        if share:
            self.turns.remove(share)
        for key in [key for key in self._chains if key[0] is session]:
            tasks.extend(self._chains.pop(key))
        self.waiting -= len(tasks)
        return tasks

    def clear(self) -> Iterator[AsyncTask]:
        """Yield every task that waits, each session's in order, and forget it."""
        while self.turns:
            yield self._pop()
        chains, self._chains = self._chains, {}
        for chain in chains.values():
            while chain:
                self.waiting -= 1
                yield chain.popleft()
        self._shares.clear()

    def tick(self, now: float) -> None:
        """Move the window in which retry_after_ms() counts."""
        self._marks = (self._marks[1], (now, self.ended))

    def retry_after_ms(self, now: float) -> int:
        """Return the time after which to send a refused request again: queue ÷ ends a second."""
        since, ended_then = self._marks[0]
        ended = self.ended - ended_then
        elapsed = now - since
        if ended <= 0 or elapsed <= 0:
            return MAX_RETRY_MS
        wait_ms = int(1000 * self.waiting * elapsed / ended)
        return max(MIN_RETRY_MS, min(wait_ms, MAX_RETRY_MS))

    def _make_ready(self, task: AsyncTask) -> None:
        share = self._share(task.session)
        if not share:
            self.turns.append(share)
        share.append(task)

    def _share(self, session: Session) -> _Share:
        share = self._shares.get(session)
        if share is None:
            share = self._shares[session] = _Share()
        return share
