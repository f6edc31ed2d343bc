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

Where clients are sent to another gateway (``to``), GOAWAY names it; sessions stay behind, and end.

A process that leaves while its siblings go on (a Handover) loses nothing of its sessions. It takes
no more connections, but serves each START on those that it has. GOAWAY asks the clients back at
once: they come to a sibling, which takes the session. Sessions without a connection are given to
siblings. Clients of protocol 0 do not know GOAWAY, and stay until they leave or the time is up:
then their connections are closed, and their sessions given too. It has ended when no connection, no
session and no call is left, and the owners of the sessions have what those calls have brought.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from .config import Range, check_numbers, parse_address
from .config.kinds import shown
from .errors import CloseCode, ConfigError
from .observe.log import keys
from .observe.metrics import Counter, Counters

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import DrainConfig
    from .dispatch.dispatcher import Dispatcher
    from .dispatch.handler import ClientHandler
    from .dispatch.processor import AsyncProcessor

__all__ = [
    "STOP_REASON",
    "Drain",
    "DrainCounters",
    "DrainStatus",
    "Handover",
    "Phase",
    "check_drain",
]

logger = logging.getLogger("gatesvr.drain")

STAY_S = 2.0
"""How long a client that was told to leave may stay although nothing is under way."""
POLL_S = 0.05
"""How often the drain looks who has left."""
LOOK_S = 0.25
"""How often it looks at a client that stays because something is under way."""
STOP_REASON = "gateway stops"
LEAVE_REASON = "moved within the gateway"
MAX_HOST_BYTES = 253
"""Longest name of a host."""
WITH_ANSWERS_MS = 1
"""Clients that are sent elsewhere need not wait. With 0 those of older versions of our client would
not stay for their answers."""
GIVE_S = 2.0
"""Longest time to give away the sessions that were left when the time was up."""

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
    sessions_cut: Counter = 0
    """Sessions that no sibling had taken when the time was up."""


class Handover(Protocol):
    """The other processes of the gateway, as the drain of one knows them."""

    @property
    def left(self) -> int:
        """Sessions here, and results of calls that the owners of their sessions are yet to get."""

    def give(self, now: float, idle_s: float) -> None:
        """Begin to give away the sessions that have had no connection for so long."""

    async def finish(self, within: float) -> None:
        """Wait until nothing is left, or for so many seconds."""


class DrainStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a drain has come.

    Attributes:
        phase: See the top of this file.
        connections_at_start: Clients when it began.
        connections_told: Clients that got their GOAWAY.
        connections_left: Clients that are still connected.
        requests_left: Requests that are not answered yet.
        sessions_left: Sessions that are still here, where siblings take them; else 0.
        elapsed_s: Seconds since it began.
        remaining_s: Seconds after which what is left is cut off.
        rate: GOAWAYs a second.
        to: Where clients are sent, ``HOST:PORT``; empty for nowhere.
    """

    phase: Phase = "serving"
    connections_at_start: int = 0
    connections_told: int = 0
    connections_left: int = 0
    requests_left: int = 0
    sessions_left: int = 0
    elapsed_s: float = 0.0
    remaining_s: float = 0.0
    rate: float = 0.0
    to: str = ""


class Drain:
    """The one drain of a gateway.

    Args:
        config: Rate and times.
        dispatcher: Knows the clients.
        processor: Knows the requests that run.
        stop_accepting: Makes the gateway refuse new clients.
        refuse: Makes it refuse every START, too.
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
        stop_accepting: Callable[[], None],
        refuse: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.counters = DrainCounters()
        self.phase: Phase = "serving"
        self._config = config
        self._dispatcher = dispatcher
        self._processor = processor
        self._stop_accepting = stop_accepting
        self._refuse = refuse
        self._clock = clock
        self._limit: asyncio.Timeout | None = None
        self._ended = asyncio.Event()
        self._began_at = self._ended_at = self._deadline = 0.0
        self._clients = 0
        self._handover: Handover | None = None
        self._is_hurried = False
        self._to = self._to_web = ""
        self._rate = float(config.rate)
        # A heap of the clients that were told to leave: (when to look whether they have, number).
        self._scan_at = 0.0
        self._numbers = 0
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
            sessions_left=self._handover.left if self._handover is not None else 0,
            elapsed_s=now - self._began_at,
            remaining_s=max(0.0, self._deadline - now),
            rate=self._rate,
            to=self._to,
        )

    async def run(
        self,
        rate: float | None = None,
        within: float | None = None,
        ready_wait: float | None = None,
        *,
        to: str = "",
        to_web: str = "",
        handover: Handover | None = None,
    ) -> None:
        """Drain; return when everybody has left or the time is up. Stop the gateway then.

        Args:
            rate: GOAWAYs a second; None for ``drain.rate``.
            within: Longest time, seconds; None for ``drain.timeout``.
            ready_wait: Seconds to be not ready first; None for ``drain.ready_wait``.
            to: The gateway to send QUIC clients to, ``HOST:PORT``; empty for none.
            to_web: The same for web clients.
            handover: Takes the sessions; None where they end.
        """
        config = self._config
        within = config.timeout if within is None else within
        ready_wait = config.ready_wait if ready_wait is None else ready_wait
        self._rate = float(config.rate) if rate is None else rate
        self._began_at = self._clock()
        self._deadline = self._began_at + within
        self._clients = len(self._dispatcher)
        self._handover = handover
        self._to, self._to_web = to, to_web
        logger.info(
            "drain_began",
            extra=keys(
                clients=self._clients,
                requests=self._processor.unfinished,
                rate=self._rate,
                timeout_s=within,
                to=to,
            ),
        )
        self.phase = "unready"
        try:
            async with asyncio.timeout(within) as self._limit:
                await asyncio.sleep(min(ready_wait, within / 2))
                self.phase = "goaway"
                self._stop_accepting()
                if handover is None:
                    self._refuse()
                await self._tell(
                    self._dispatcher.handlers(), max(POLL_S, (self._deadline - self._clock()) / 2)
                )
                self.phase = "finishing"
                while self._is_work_left():
                    await self._look()
        except TimeoutError:
            self.counters.connections_cut += len(self._dispatcher)
            self.counters.requests_cut += self._processor.unfinished
            if handover is not None and not self._is_hurried:
                self._dismiss_all()
                await handover.finish(GIVE_S)
                self.counters.sessions_cut += handover.left
        finally:
            self._refuse()
            self._ended_at = self._clock()
            self._told.clear()
            self._ended.set()
        self._log_end()

    def end_now(self) -> None:
        """Cut off what is left of a drain that runs. Idempotent."""
        # A limit that has expired already cannot be moved; the drain ends in the next turns.
        self._is_hurried = True
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

    def _is_work_left(self) -> bool:
        if len(self._dispatcher) or self._processor.unfinished:
            return True
        return self._handover is not None and self._handover.left > 0

    async def _look(self) -> None:
        """Wait a moment, and see who has left and who can go."""
        now = self._clock()
        if self._handover is not None and now >= self._scan_at:
            # Connections may have come up, and STARTs been served, since all were told.
            self._scan_at = now + LOOK_S
            await self._tell(self._dispatcher.handlers(), 0.0)
        self._go_on(now)
        await asyncio.sleep(POLL_S)

    def _go_on(self, now: float) -> None:
        self._dismiss(now)
        if self._handover is not None:
            # A client that was told needs a moment to come back elsewhere.
            self._handover.give(now, STAY_S)

    async def _tell(self, clients: list[ClientHandler], within: float) -> None:
        """Send GOAWAY to those of the clients that have not got it, paced.

        Args:
            clients: Some, or all.
            within: Longest time for all, seconds: where the rate would need more, it is raised; 0
                for at once.
        """
        if within:
            self._rate = max(self._rate, len(clients) / within)
        began_at = self._clock()
        for i, client in enumerate(clients):
            if within:
                # S311: jitter wants spread, not secrecy.
                due = began_at + (i + random.random()) / self._rate  # noqa: S311
                while (pause := due - self._clock()) > 0:
                    self._go_on(self._clock())
                    await asyncio.sleep(min(pause, POLL_S))
            self._tell_one(client)
            if not i % 16:
                await asyncio.sleep(0)  # where the loop is late, others get their turn

    def _tell_one(self, client: ClientHandler) -> None:
        if self._handover is None:
            is_web = client.transport != "quic"
            address = self._to_web if is_web else self._to
            after_ms = WITH_ANSWERS_MS if address else int(self._config.reconnect_after * 1000)
            self.counters.goaways += client.go_away(STOP_REASON, after_ms, address)
        elif not client.knows_goaway:
            return  # it stays, with its session
        elif client.go_away(LEAVE_REASON, 0):
            self.counters.goaways += 1
        else:
            return  # it has been told
        self._numbers += 1
        heappush(self._told, (self._clock() + STAY_S, self._numbers, client))

    def _dismiss(self, now: float) -> None:
        """Close clients that were told to leave, have nothing under way and are still there."""
        told = self._told
        while told and told[0][0] <= now:
            _, number, client = heappop(told)
            if client.is_ended:
                continue
            if client.is_done:
                self.counters.dismissed += 1
                client.close(CloseCode.OVERLOADED, self._reason)
            else:
                heappush(told, (now + LOOK_S, number, client))

    def _dismiss_all(self) -> None:
        for client in self._dispatcher.handlers():
            client.close(CloseCode.OVERLOADED, self._reason)

    @property
    def _reason(self) -> str:
        """Why a connection is closed: when to come back."""
        after_s = self._config.reconnect_after if self._handover is None else 0.0
        return f"reconnect_after_ms={int(after_s * 1000)}"

    def _log_end(self) -> None:
        counters = self.counters
        is_cut = counters.connections_cut or counters.requests_cut or counters.sessions_cut
        logger.log(
            logging.WARNING if is_cut else logging.INFO,
            "drain_ended",
            extra=keys(
                seconds=round(self._ended_at - self._began_at, 3),
                clients=self._clients,
                dismissed=counters.dismissed,
                connections_cut=counters.connections_cut,
                requests_cut=counters.requests_cut,
                sessions_cut=counters.sessions_cut,
            ),
        )


def check_drain(
    rate: float | None, timeout: float | None, ready_wait: float | None, to: str, to_web: str
) -> None:
    """Refuse parameters that Gateway.drain() does not take.

    Raises:
        ConfigError: A number is none, or out of range, or an address is none.
    """
    given = {
        "rate": (rate, Range(0.001, math.inf)),
        "timeout": (timeout, Range(0, math.inf)),
        "ready_wait": (ready_wait, Range(0, math.inf)),
    }
    check_numbers(**{name: pair for name, pair in given.items() if pair[0] is not None})
    for name, address in (("to", to), ("to_web", to_web)):
        _check_target(name, address)


def _check_target(name: str, address: str) -> None:
    """Refuse what is no address that clients can be sent to; empty is none to send them to.

    Raises:
        ConfigError: It is none.
    """
    if not address:
        return
    try:
        host, port = parse_address(address)
    except ValueError as error:
        raise ConfigError(str(error), field=name) from None
    if not host or not port or len(host.encode()) > MAX_HOST_BYTES:
        raise ConfigError(f"{shown(address)} names no host, or no port", field=name)
