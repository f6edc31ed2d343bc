"""The addresses of endpoints' names: they are looked up again and again while the gateway runs."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..config import parse_address
from ..observe.log import keys
from ..threads import in_thread
from .dial import NO_NAME, reason_of
from .lane import Lane, LaneState
from .pauses import jitter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..config import UpstreamConfig
    from .call import Call, UpstreamCounters
    from .registry import Registration
    from .target import Target

__all__ = ["LookUp", "NameLane", "NameWatch", "choose", "look_up"]

LookUp = Callable[[str, int], Awaitable[Sequence[tuple[str, int]]]]
"""Returns the addresses of a host and a port."""

logger = logging.getLogger("gatesvr.upstream")

MAX_ADDRESSES = 64
"""Addresses of one name that are used; each makes a lane. Of more, those left out are the last in
the order of addresses, so that every gateway uses the same."""


async def look_up(host: str, port: int) -> list[tuple[str, int]]:
    """Return the addresses of a name, in the system's order.

    Raises:
        OSError: There are none, or they cannot be had now.
        UnicodeError: It is no name.
    """
    # Not by the loop's own, whose few threads are everybody's: a slow DNS would take them all.
    call = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.wrap_future(in_thread(call, "gatesvr-name"))
    # An IPv6 address has more parts; its text has those that matter.
    return [(str(at[0]), int(at[1])) for family, _, _, _, at in found if family in _FAMILIES]


_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def choose(places: Iterable[tuple[str, int]]) -> list[tuple[tuple[str, int], ...]]:
    """Return what to use of a name's addresses: each item is one upstream, a tuple of its places.

    One address of each family is one upstream with two ways to it, as of localhost. Of several,
    those of the family that the system puts first are one upstream each.

    Args:
        places: Addresses and ports, in the system's order.
    """
    places = list(dict.fromkeys(places))
    if not places:
        return []
    first = [place for place in places if (":" in place[0]) is (":" in places[0][0])]
    if len(first) == 1 and len(places) == 2:
        return [tuple(places)]
    first.sort(key=lambda place: ipaddress.ip_address(place[0]).packed)
    return [(place,) for place in first[:MAX_ADDRESSES]]


class NameWatch:
    """Looks up one name at the start, every resolve_interval, and when an address is lost.

    A name that cannot be resolved any more keeps its addresses.

    Args:
        name: The target whose host is the name.
        config: Times.
        counters: The layer's counters.
        on_addresses: Called when there are targets for the first time, and when they have changed.
        on_failure: Called with the reason when a look-up failed and there are none yet.
        is_broken: Tells whether one of them cannot be reached now, so that others may be found.
        look_up: Returns a name's addresses.
    """

    def __init__(
        self,
        name: Target,
        config: UpstreamConfig,
        counters: UpstreamCounters,
        *,
        on_addresses: Callable[[NameWatch], None],
        on_failure: Callable[[NameWatch, str], None],
        is_broken: Callable[[NameWatch], bool],
        look_up: LookUp = look_up,
    ) -> None:
        self.name = name
        self.targets: tuple[Target, ...] = ()
        """What it was resolved to last; empty before the first answer."""
        self.endpoints: list[Registration] = []
        """Endpoints with this name; the manager keeps the list."""
        self._config = config
        self._counters = counters
        self._on_addresses = on_addresses
        self._on_failure = on_failure
        self._is_broken = is_broken
        self._look_up = look_up
        self._under_way: asyncio.Future[Sequence[tuple[str, int]]] | None = None
        self._is_kept = False  # the last look-up failed, and that was logged
        self._rest = asyncio.Event()  # ends the time until the next look
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look it up for the first time."""
        name = f"gatesvr-name-{self.name.address}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)
        self._task.add_done_callback(self._ended)

    def stop(self) -> None:
        """Look no more."""
        for future in (self._task, self._under_way):
            if future is not None:
                future.cancel()

    def apply(self, config: UpstreamConfig) -> None:
        """Take other times."""
        if config.resolve_interval != self._config.resolve_interval:
            self._rest.set()
        self._config = config

    def look_now(self) -> None:
        """Look it up now; where that has just failed, after the pause that follows a failure."""
        self._rest.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("resolver_failed", extra=keys(name=self.name.address), exc_info=error)

    async def _run(self) -> None:
        pause = 0.0
        while True:
            self._rest.clear()
            try:
                is_resolved = await self._look()
            except Exception as error:  # whatever it is, the name is looked up again
                logger.exception("resolver_failed", extra=keys(name=self.name.address))
                self._fail(reason_of(error))
                is_resolved = False
            config = self._config
            if is_resolved and not self._is_broken(self):
                pause = 0.0
                try:
                    async with asyncio.timeout(config.resolve_interval):
                        await self._rest.wait()
                except TimeoutError:
                    pass
            else:
                pause = min(2 * pause or config.reconnect_min, config.reconnect_max)
                await asyncio.sleep(min(jitter(pause), config.resolve_interval))

    async def _look(self) -> bool:
        """Look it up once; return whether that gave addresses."""
        self._counters.lookups += 1
        host, port = parse_address(self.name.address)
        if self._under_way is None:
            self._under_way = asyncio.ensure_future(self._look_up(host, port))
        within = self._config.connect_timeout
        # A look-up runs in a thread and cannot be stopped; so the next one waits for it to end.
        done, _ = await asyncio.wait({self._under_way}, timeout=within)
        if not done:
            self._fail(f"the name was not resolved within {within:g} s")
            return False
        under_way, self._under_way = self._under_way, None
        try:
            groups = choose(under_way.result())
        except (OSError, UnicodeError) as error:
            self._fail(reason_of(error))
            return False
        if not groups:
            self._fail(NO_NAME)
            return False
        self._is_kept = False
        targets = tuple(self.name.at(places) for places in groups)
        if targets != self.targets:
            self.targets = targets
            if any(target.name for target in targets):
                addresses = " ".join(target.address for target in targets)
                logger.info(
                    "upstream_resolved",
                    extra=keys(name=self.name.address, addresses=addresses),
                )
            self._on_addresses(self)
        return True

    def _fail(self, reason: str) -> None:
        self._counters.failed_lookups += 1
        if not self.targets:
            self._on_failure(self, reason)
        elif not self._is_kept:
            self._is_kept = True
            logger.warning("addresses_kept", extra=keys(name=self.name.address, why=reason))


class NameLane(Lane):
    """Stands for a name that has no address yet; calls wait here as they do for a first connection.

    Attributes:
        on_retry: Called when somebody wants to know at once.
    """

    on_retry: Callable[[], None] | None = None

    def start(self) -> None:
        """Wait; whoever looks the name up says what comes of it."""

    def fail(self, reason: str) -> None:
        """Say that the name could not be resolved."""
        self._enter(LaneState.DOWN, reason)
        self._strand(reason)

    def retry_now(self) -> None:
        """Ask for another look."""
        if self.on_retry is not None:
            self.on_retry()

    async def stop(self, grace: float) -> None:
        """End; calls that wait go to other lanes, or end with 502."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._state = LaneState.STOPPED
        self._on_change()
        self._strand("stopped")
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self) -> None:
        if self._state is not LaneState.CONNECTING:
            self._strand("down")

    def _send_alone(self, call: Call) -> None:
        """Nothing is sent from here."""

    def _unary_expired(self, call: Call) -> None:
        """Nothing is sent from here."""
