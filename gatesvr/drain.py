"""Drain: takes a gateway out of service so that its users do not notice.

The phases follow one another::

    serving     no drain; everything is served
    unready     the gateway is not ready, and serves everything: load balancers send new clients
                elsewhere (ready_wait)
    goaway      new clients and every START are refused; GOAWAY goes out to `rate` clients a second,
                each at a random moment within its turn
    finishing   clients leave as soon as they have their answers; one that stays is closed when
                nothing is under way on its session, STAY_S after its GOAWAY at the earliest
    stopped     everybody has left and no request runs, or the time is up; the gateway stops

Requests are served until the end, also those of clients that were told to leave. What is unfinished
after the timeout is cut off, counted and logged.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Literal

import msgspec

from .errors import CloseCode
from .observe.log import keys
from .observe.metrics import Counter, Counters

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import DrainConfig
    from .dispatch.dispatcher import Dispatcher
    from .dispatch.handler import ClientHandler
    from .dispatch.processor import AsyncProcessor

__all__ = ["STOP_REASON", "Drain", "DrainCounters", "DrainStatus", "Phase"]

logger = logging.getLogger("gatesvr.drain")

STAY_S = 2.0
"""How long a client that was told to leave may stay although nothing is under way."""
POLL_S = 0.05
"""How often the drain looks who has left."""
LOOK_S = 0.25
"""How often it looks at a client that stays because something is under way."""
STOP_REASON = "gateway stops"

Phase = Literal["serving", "unready", "goaway", "finishing", "stopped"]


@dataclass(slots=True)
class DrainCounters(Counters):
    """What a drain did."""

    goaways: Counter = 0
    """Clients asked to leave by GOAWAY."""
    dismissed: Counter = 0
    """Clients closed 4503 that did not leave although nothing was under way."""
    connections_cut: Counter = 0
    """Connections that were still open when the time was up."""
    requests_cut: Counter = 0
    """Requests that were not answered when the time was up."""


class DrainStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a drain has come.

    Attributes:
        phase: See the top of this file.
        connections_at_start: Clients when it began.
        connections_told: Clients that got their GOAWAY.
        connections_left: Clients that are still connected.
        requests_left: Requests that are not answered yet.
        elapsed_s: Seconds since it began.
        remaining_s: Seconds after which what is left is cut off.
        rate: GOAWAYs a second.
    """

    phase: Phase = "serving"
    connections_at_start: int = 0
    connections_told: int = 0
    connections_left: int = 0
    requests_left: int = 0
    elapsed_s: float = 0.0
    remaining_s: float = 0.0
    rate: float = 0.0


class Drain:
    """The one drain of a gateway.

    Args:
        config: Rate and times.
        dispatcher: Knows the clients.
        processor: Knows the requests that run.
        refuse: Makes the gateway refuse new clients and STARTs.
        clock: Loop time.

    Attributes:
        counters: What it did.
        phase: See the top of this file.
    """

    def __init__(
        self,
        config: DrainConfig,
        dispatcher: Dispatcher,
        processor: AsyncProcessor,
        refuse: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.counters = DrainCounters()
        self.phase: Phase = "serving"
        self._config = config
        self._dispatcher = dispatcher
        self._processor = processor
        self._refuse = refuse
        self._clock = clock
        self._limit: asyncio.Timeout | None = None
        self._ended = asyncio.Event()
        self._began_at = self._ended_at = self._deadline = 0.0
        self._clients = 0
        self._rate = float(config.rate)
        # A heap of the clients that were told to leave: (when to look whether they have, number).
        self._told: list[tuple[float, int, ClientHandler]] = []

    def apply(self, config: DrainConfig) -> None:
        """Take other settings; a drain under way goes on as it began."""
        self._config = config
        if not self._began_at:
            self._rate = float(config.rate)

    def status(self) -> DrainStatus:
        """Return how far the drain has come."""
        if not self._began_at:
            return DrainStatus(
                phase=self.phase, connections_left=len(self._dispatcher), rate=self._rate
            )
        now = self._ended_at or self._clock()
        return DrainStatus(
            phase=self.phase,
            connections_at_start=self._clients,
            connections_told=self.counters.goaways,
            connections_left=len(self._dispatcher),
            requests_left=self._processor.unfinished,
            elapsed_s=now - self._began_at,
            remaining_s=max(0.0, self._deadline - now),
            rate=self._rate,
        )

    async def run(
        self,
        rate: float | None = None,
        within: float | None = None,
        ready_wait: float | None = None,
    ) -> None:
        """Drain; return when everybody has left or the time is up. Stop the gateway then.

        Args:
            rate: GOAWAYs a second; None for ``drain.rate``.
            within: Longest time, seconds; None for ``drain.timeout``.
            ready_wait: Seconds to be not ready first; None for ``drain.ready_wait``.
        """
        config = self._config
        within = config.timeout if within is None else within
        ready_wait = config.ready_wait if ready_wait is None else ready_wait
        self._rate = float(config.rate) if rate is None else rate
        self._began_at = self._clock()
        self._deadline = self._began_at + within
        self._clients = len(self._dispatcher)
        logger.info(
            "drain_began",
            extra=keys(
                clients=self._clients,
                requests=self._processor.unfinished,
                rate=self._rate,
                timeout_s=within,
            ),
        )
        self.phase = "unready"
        try:
            async with asyncio.timeout(within) as self._limit:
                await asyncio.sleep(min(ready_wait, within / 2))
                self.phase = "goaway"
                self._refuse()
                await self._tell(max(POLL_S, (self._deadline - self._clock()) / 2))
                self.phase = "finishing"
                while len(self._dispatcher) or self._processor.unfinished:
                    self._dismiss(self._clock())
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            self.counters.connections_cut += len(self._dispatcher)
            self.counters.requests_cut += self._processor.unfinished
        finally:
            self._refuse()
            self._ended_at = self._clock()
            self._told.clear()
            self._ended.set()
        self._log_end()

    def end_now(self) -> None:
        """Cut off what is left of a drain that runs. Idempotent."""
        # A limit that has expired already cannot be moved; the drain ends in the next turns.
        if self._limit is not None and not self._ended_at and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def cut_short(self) -> None:
        """Cut off what is left of a drain that runs, and wait for its end."""
        self.end_now()
        if self._began_at:
            await self._ended.wait()

    def stopped(self) -> None:
        """The gateway has stopped, after a drain or without one."""
        self.phase = "stopped"

    async def _tell(self, within: float) -> None:
        """Send every client its GOAWAY, paced.

        Args:
            within: Longest time for all, seconds: where the rate would need more, it is raised.
        """
        clients = self._dispatcher.handlers()
        self._rate = max(self._rate, len(clients) / within)
        after_ms = int(self._config.reconnect_after * 1000)
        began_at = self._clock()
        for i, client in enumerate(clients):
            # S311: jitter wants spread, not secrecy.
            due = began_at + (i + random.random()) / self._rate  # noqa: S311
            while (pause := due - self._clock()) > 0:
                self._dismiss(self._clock())
                await asyncio.sleep(min(pause, POLL_S))
            self.counters.goaways += client.go_away(STOP_REASON, after_ms)
            heappush(self._told, (self._clock() + STAY_S, i, client))
            if not i % 16:
                await asyncio.sleep(0)  # where the loop is late, others get their turn

    def _dismiss(self, now: float) -> None:
        """Close clients that were told to leave, have nothing under way and are still there."""
        told = self._told
        after_ms = int(self._config.reconnect_after * 1000)
        while told and told[0][0] <= now:
            _, number, client = heappop(told)
            if client.is_ended:
                continue
            if client.is_done:
                self.counters.dismissed += 1
                client.close(CloseCode.OVERLOADED, f"reconnect_after_ms={after_ms}")
            else:
                heappush(told, (now + LOOK_S, number, client))

    def _log_end(self) -> None:
        counters = self.counters
        is_cut = counters.connections_cut or counters.requests_cut
        logger.log(
            logging.WARNING if is_cut else logging.INFO,
            "drain_ended",
            extra=keys(
                seconds=round(self._ended_at - self._began_at, 3),
                clients=self._clients,
                dismissed=counters.dismissed,
                connections_cut=counters.connections_cut,
                requests_cut=counters.requests_cut,
            ),
        )
