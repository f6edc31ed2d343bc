"""Breakers: endpoints whose calls fail get none for a while (outlier ejection, circuit breaker).

Each endpoint has a breaker. It opens (the endpoint is *ejected*) in one of two cases:

- *consecutive failures*: that many failures, with no answer between them. Failures within BURST_S
  count as one, because a broken connection or an outage ends many calls at once.
- *failure percentage*: at least that share of the endpoint's calls failed in the last window, and
  there were enough calls to tell.

::

    CLOSED ───── too many failures ─────▶ OPEN ◀────── a probe fails ──────┐
       ▲                                    └── its ejection time passes ──▶ HALF_OPEN
       └───────────────────────── every probe is answered ─────────────────────┘

A half-open endpoint gets a few calls, its probes, and no others. The ejection time grows with every
ejection and shrinks again while the endpoint stays closed.

Endpoints of one service and zone are a *group*. A share of a group may be ejected, and never the
whole of it: what fails everywhere is not the fault of an endpoint. An endpoint *alone* in its group
has a plain circuit breaker, which costs its clients the whole service, so it opens by consecutive
failures only, and one client's requests are not enough to open it: each openid counts for half of
them at most. One answered probe closes it, all of them have to fail to open it again, and its
ejection time does not grow.
"""

from __future__ import annotations

import logging
from enum import Enum
from math import inf
from typing import TYPE_CHECKING

from ..observe.log import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..config import UpstreamConfig
    from .call import UpstreamCounters
    from .registry import Registration

__all__ = ["Breaker", "BreakerState", "Breakers"]

logger = logging.getLogger("gatesvr.upstream")

BURST_S = 0.01
"""Failures that follow one within this time are the same failure, for consecutive_failures."""
MIN_RETRY_MS, MAX_RETRY_MS = 50, 5_000
"""Bounds of retry_after_ms (PROTOCOL 6)."""
PROBE_RETRY_MS = 1_000
"""Retry delay for the client while probes are under way."""


class BreakerState(Enum):
    """Whether an endpoint gets calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """The breaker of one endpoint; its calls report how they end.

    Attributes:
        endpoint: The endpoint.
        address: Its address, or that of its name's addresses that this breaker is for.
        state: Whether it gets calls.
        takes_calls: Whether a call may go to the endpoint now: it is closed, or half-open and has
            room for a probe.
        is_half_open: Whether the next call is a probe.
        answered: Calls answered so far.
        faults: Calls that the endpoint failed so far.
        ejections: Ejections in a row; shrinks while the endpoint stays closed.
        until: When an open breaker becomes half-open.
        probes: request_ids of the probes under way.
    """

    __slots__ = (
        "_answered_at_failure",
        "_breakers",
        "_burst_until",
        "_counted",
        "_failures",
        "_lost",
        "_marks",
        "_passed",
        "_row",
        "address",
        "answered",
        "ejections",
        "endpoint",
        "faults",
        "is_half_open",
        "probes",
        "state",
        "takes_calls",
        "until",
    )

    def __init__(self, endpoint: Registration, address: str, breakers: Breakers) -> None:
        self.endpoint = endpoint
        self.address = address
        self.state = BreakerState.CLOSED
        self.takes_calls = True
        self.is_half_open = False
        self.answered = 0
        self.faults = 0
        self.ejections = 0
        self.until = inf
        self.probes: set[int] = set()
        self._breakers = breakers
        # Probes answered, and failed, since it became half-open.
        self._passed = 0
        self._lost = 0
        # Failures in a row.
        self._row = 0
        self._answered_at_failure = 0
        self._burst_until = 0.0
        self._counted: dict[str, int] = {}  # failures of the row, by openid
        # Failures in this half of the window and in the half before it, and `answered` when each
        # of the two began.
        self._failures = [0, 0]
        self._marks = [0, 0]

    @property
    def is_alone(self) -> bool:
        """Whether its group has no other endpoint."""
        return len(self._breakers.group(self.endpoint)) < 2

    def retry_after_ms(self, now: float) -> int:
        """Return when a client that was refused may try again."""
        if self.state is not BreakerState.OPEN:
            return PROBE_RETRY_MS
        return min(max(int((self.until - now) * 1000), MIN_RETRY_MS), MAX_RETRY_MS)

    # The calls' side.

    def begin_probe(self, request_id: int) -> None:
        """Make a call the next probe, where there is room for one."""
        if self.takes_calls:
            self._breakers.counters.probes += 1
            self.probes.add(request_id)
            self._limit_probes()

    def probe_answered(self, request_id: int) -> None:
        """Take the answer to a probe; other calls do not count."""
        if request_id in self.probes:
            self.probes.discard(request_id)
            self._passed += 1
            # Those lost were of an endpoint that was alone; it may have company by now.
            used = self._passed + self._lost
            if self.is_alone or used >= self._breakers.config.probes:
                self._breakers.restore(self)

    def release(self, request_id: int) -> None:
        """Forget a call that ended without telling anything of the endpoint."""
        if request_id in self.probes:
            self.probes.discard(request_id)
            self._limit_probes()

    def failed(self, request_id: int, openid: str) -> None:
        """Count a call that the endpoint failed."""
        self.faults += 1
        if self.state is not BreakerState.CLOSED:
            if request_id in self.probes:
                self.probes.discard(request_id)
                self._lost += 1
                if not self.is_alone or self._lost >= self._breakers.config.probes:
                    self._breakers.eject(self, "probes failed")
            return  # calls from before the ejection tell nothing new
        breakers = self._breakers
        now = breakers.clock()
        if self._is_row_full(openid, now):
            breakers.eject(self, f"{self._row} consecutive failures")
            return
        percent = breakers.config.failure_percent
        self._failures[0] += 1
        if percent and not self.is_alone:
            failures = sum(self._failures)
            calls = failures + self.answered - self._marks[1]
            if calls >= breakers.config.failure_calls and 100 * failures >= percent * calls:
                breakers.eject(self, f"{failures} of {calls} calls failed")

    def _is_row_full(self, openid: str, now: float) -> bool:
        if self.answered != self._answered_at_failure:
            self._answered_at_failure = self.answered
            self._end_row()
        if now < self._burst_until:
            return False
        limit = self._breakers.config.consecutive_failures
        if limit and self.is_alone:
            counted = self._counted.get(openid, 0)
            if counted >= max(limit // 2, 1):
                return False
            self._counted[openid] = counted + 1
        self._burst_until = now + BURST_S
        self._row += 1
        return 0 < limit <= self._row

    # The group's side.

    def enter(self, state: BreakerState) -> None:
        """Change the state; only for Breakers."""
        self.state = state
        self.is_half_open = state is BreakerState.HALF_OPEN
        self.probes.clear()
        self._passed = self._lost = 0
        self.forget()
        self._limit_probes()

    def forget(self) -> None:
        """Forget the failures counted so far."""
        self._end_row()
        self._failures = [0, 0]
        self._marks = [self.answered] * 2

    def turn(self) -> None:
        """Begin the next half of the window."""
        self._failures = [0, self._failures[0]]
        self._marks = [self.answered, self._marks[0]]
        if self.state is BreakerState.CLOSED and self.ejections:
            self.ejections -= 1

    def _end_row(self) -> None:
        self._row = 0
        self._counted.clear()

    def _limit_probes(self) -> None:
        used = len(self.probes) + self._passed + self._lost
        takes_calls = self.state is BreakerState.CLOSED or (
            self.is_half_open and used < self._breakers.config.probes
        )
        if takes_calls is not self.takes_calls:
            self.takes_calls = takes_calls
            self._breakers.on_change()


class Breakers:
    """All breakers: which endpoints may be ejected together, and when their time is over.

    Args:
        config: Limits and times.
        counters: The layer's counters.
        clock: Returns the time, seconds.
        on_change: Called when takes_calls of a breaker, or the timer, has changed.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        counters: UpstreamCounters,
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self.config = config
        self.counters = counters
        self.clock = clock
        self.on_change = on_change
        self._groups: dict[tuple[str, str], list[Breaker]] = {}
        self._turn_due = inf

    def apply(self, config: UpstreamConfig) -> None:
        """Take other limits and times; an ejection under way ends when it was to end."""
        self.config = config
        self._begin_windows()

    def _begin_windows(self) -> None:
        config = self.config
        if self._turn_due == inf and (config.consecutive_failures or config.failure_percent):
            self._turn_due = self.clock() + config.failure_window / 2

    def __iter__(self) -> Iterator[Breaker]:
        for group in self._groups.values():
            yield from group

    def add(self, endpoint: Registration, address: str = "") -> Breaker:
        """Return the breaker of a new endpoint, or of one address of its name."""
        breaker = Breaker(endpoint, address or endpoint.address, self)
        self._groups.setdefault((endpoint.service, endpoint.zone), []).append(breaker)
        self._begin_windows()
        return breaker

    def remove(self, breaker: Breaker) -> None:
        """Forget an endpoint that was removed."""
        group = self.group(breaker.endpoint)
        group.remove(breaker)
        if not group:
            del self._groups[breaker.endpoint.service, breaker.endpoint.zone]
        if not self._groups:
            self._turn_due = inf

    def group(self, endpoint: Registration) -> list[Breaker]:
        """Return the breakers of an endpoint's service and zone."""
        return self._groups.get((endpoint.service, endpoint.zone), [])

    @property
    def ejected(self) -> int:
        """Endpoints ejected now, half-open ones included."""
        return sum(breaker.state is not BreakerState.CLOSED for breaker in self)

    def eject(self, breaker: Breaker, why: str) -> None:
        """Open a breaker, unless too many of its group are open."""
        group = self.group(breaker.endpoint)
        if breaker not in group:
            return  # removed; its last calls end
        if breaker.state is BreakerState.CLOSED and not self._may_eject(group):
            self.counters.ejections_overflow += 1
            breaker.forget()
            return
        breaker.ejections += 1
        config = self.config
        times = 1 if len(group) == 1 else breaker.ejections
        longest = max(config.ejection_time, config.max_ejection_time)
        seconds = min(times * config.ejection_time, longest)
        breaker.until = self.clock() + seconds
        self.counters.ejections += 1
        logger.warning(
            "endpoint_ejected",
            extra=_keys(breaker, why=why, seconds=seconds, ejections=breaker.ejections),
        )
        breaker.enter(BreakerState.OPEN)
        self.on_change()

    def restore(self, breaker: Breaker) -> None:
        """Close a breaker."""
        breaker.until = inf
        self.counters.restorations += 1
        logger.info("endpoint_restored", extra=_keys(breaker))
        breaker.enter(BreakerState.CLOSED)
        self.on_change()

    def get_timer(self) -> float | None:
        """Return when handle_timer() has something to do, or None."""
        due = min((b.until for b in self if b.state is BreakerState.OPEN), default=inf)
        due = min(due, self._turn_due)
        return None if due == inf else due

    def handle_timer(self, now: float) -> None:
        """Let probes through where an ejection is over; move the window on. Safe to call early."""
        for breaker in self:
            if breaker.state is BreakerState.OPEN and breaker.until <= now:
                breaker.enter(BreakerState.HALF_OPEN)
        if self._turn_due <= now:
            self._turn_due = now + self.config.failure_window / 2
            for breaker in self:
                breaker.turn()

    def _may_eject(self, group: list[Breaker]) -> bool:
        out = 1 + sum(breaker.state is not BreakerState.CLOSED for breaker in group)
        most = -(-len(group) * self.config.max_ejection_percent // 100)  # rounded up
        return len(group) == 1 or out <= min(most, len(group) - 1)


def _keys(breaker: Breaker, **more: object) -> dict[str, object]:
    endpoint = breaker.endpoint
    return keys(service=endpoint.service, zone=endpoint.zone, address=breaker.address, **more)
