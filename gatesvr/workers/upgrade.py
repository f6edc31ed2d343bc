"""Upgrade: workers of a new version or configuration in the place of those that serve.

::

    starting ──all are ready──▶ leaving ──the old ones have ended──▶ done
        │
        └─ one fails, or is not ready in time ─▶ given_up

While the new workers start, the old ones serve as if nothing were. An upgrade that is given up has
changed nothing: new workers that were not ready are killed, and those that were, and may have
clients by then, leave as old ones do. In *leaving* the new ones serve, and the old ones drain: no
session ends, each moves to a new worker (gatesvr/drain.py).

What happens to processes is behind the Crew, so that all of this runs without any.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from ..admin.answers import UpgradeStatus
from ..errors import GatesvrError
from ..observe.log import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ..admin.answers import UpgradePhase
    from ..config import Config
    from ..drain import DrainStatus
    from .calls import WorkerStatus

__all__ = ["Crew", "Upgrade", "UpgradeError"]

logger = logging.getLogger("gatesvr.workers")

LOOK_S = 0.1
"""How often workers are asked how far they are."""
LATE_S = 10.0
"""Time that old workers get beyond the upgrade's; then they are killed."""


class UpgradeError(GatesvrError):
    """The upgrade was given up, and changed nothing; or another one is under way."""


class Crew(Protocol):
    """The workers, by their numbers."""

    def serving(self) -> Sequence[int]:
        """Return those that serve."""

    def start(self, config: Config) -> Sequence[int]:
        """Start a worker for each slot, beside those that it has; return them.

        Raises:
            UpgradeError: A slot has no number left; none was started.
        """

    def failure(self, number: int) -> str | None:
        """Return why a worker that was started does not run; None where it starts or serves."""

    def is_started(self, number: int) -> bool:
        """Return whether a worker has said that it serves."""

    async def status(self, number: int) -> WorkerStatus | None:
        """Ask a worker how it is; None where it does not answer."""

    def leave(self, number: int, to: Sequence[int], rate: float, within: float) -> None:
        """Ask a worker to drain, and to leave its sessions to others.

        Args:
            number: The worker.
            to: The others.
            rate: GOAWAYs a second.
            within: Longest time, seconds.
        """

    def kill(self, number: int) -> None:
        """End a worker at once."""

    def living(self, numbers: Collection[int]) -> Sequence[int]:
        """Return those of the workers that have not ended."""

    async def wait(self, numbers: Collection[int], within: float) -> None:
        """Wait until one of the workers reports or ends, or for so many seconds."""


class Upgrade:
    """One upgrade.

    Args:
        crew: The workers.
        clock: Loop time.
        start_timeout: Longest time until all new workers are ready, seconds.
        timeout: Longest time for the old ones to leave, seconds.
        rate: GOAWAYs a second, of all old workers together.
        needs_restart: Settings that it cannot change.
    """

    def __init__(
        self,
        crew: Crew,
        clock: Callable[[], float],
        *,
        start_timeout: float,
        timeout: float,
        rate: float,
        needs_restart: Sequence[str] = (),
    ) -> None:
        self._crew = crew
        self._clock = clock
        self._start_timeout = start_timeout
        self._timeout = timeout
        self._rate = rate
        self._needs_restart = needs_restart
        self._phase: UpgradePhase = "none"
        self._why = ""
        self._new: Sequence[int] = ()
        self._old: Sequence[int] = ()
        self._ready: set[int] = set()
        self._known: dict[int, DrainStatus] = {}
        self._began_at = clock()
        self._ended_at = self._deadline = 0.0

    def status(self) -> UpgradeStatus:
        """Return how far it has come; up to LOOK_S old."""
        now = self._ended_at or self._clock()
        left = self._crew.living(self._old) if self._phase == "leaving" else ()
        known = [self._known[number] for number in left if number in self._known]
        return UpgradeStatus(
            phase=self._phase,
            why=self._why,
            needs_restart=list(self._needs_restart),
            workers=len(self._new),
            workers_ready=len(self._ready),
            workers_left=len(left),
            connections_left=sum(s.connections_left for s in known),
            sessions_left=sum(s.sessions_left for s in known),
            requests_left=sum(s.requests_left for s in known),
            elapsed_s=now - self._began_at,
            remaining_s=max(0.0, self._deadline - now),
        )

    async def start(self, config: Config) -> None:
        """Start the new workers, and wait until all are ready.

        Raises:
            UpgradeError: They do not get ready, and are gone or leave.
        """
        crew = self._crew
        self._phase = "starting"
        self._old = crew.serving()
        self._deadline = self._clock() + self._start_timeout
        logger.info("upgrade_began", extra=keys(workers=len(self._old)))
        try:
            self._new = crew.start(config)
            await self._until_ready()
        except BaseException as error:
            self._give_up(str(error) or "it was interrupted")
            raise

    async def _until_ready(self) -> None:
        crew = self._crew
        reasons: dict[int, str] = {}
        while True:
            for number in self._new:
                why = crew.failure(number)
                if why is not None:
                    raise UpgradeError(f"the new worker {number} {why}")
                if not crew.is_started(number):
                    reasons[number] = "it has not started"
                    self._ready.discard(number)
                    continue
                status = await crew.status(number)
                reasons[number] = (
                    "it does not answer" if status is None else ", ".join(status.not_ready)
                )
                if reasons[number]:
                    self._ready.discard(number)
                else:
                    self._ready.add(number)
            if len(self._ready) == len(self._new):
                return
            left = self._deadline - self._clock()
            if left <= 0:
                number = next(number for number in self._new if number not in self._ready)
                raise UpgradeError(
                    f"the new worker {number} was not ready within {self._start_timeout:g} s:"
                    f" {reasons[number]}"
                )
            await crew.wait(self._new, min(left, LOOK_S))

    def _give_up(self, why: str) -> None:
        """End the new workers: nothing has changed."""
        crew = self._crew
        for number in crew.living(self._new):
            if crew.is_started(number):
                crew.leave(number, self._old, self._rate / len(self._new), self._timeout)
            else:
                crew.kill(number)
        self._why = why
        self._end("given_up")
        logger.error("upgrade_given_up", extra=keys(why=why))

    async def finish(self) -> None:
        """Let the old workers leave, and wait until they have ended."""
        crew = self._crew
        self._phase = "leaving"
        self._deadline = self._clock() + self._timeout
        old = crew.living(self._old)
        for number in old:
            crew.leave(number, self._new, self._rate / len(old), self._timeout)
        while left := crew.living(self._old):
            if self._clock() >= self._deadline + LATE_S:
                logger.error("workers_late", extra=keys(workers=len(left)))
                for number in left:
                    crew.kill(number)
            for number in left:
                status = await crew.status(number)
                if status is not None:
                    self._known[number] = status.drain
            await crew.wait(left, LOOK_S)
        self._end("done")
        logger.info(
            "upgrade_done",
            extra=keys(workers=len(self._new), seconds=round(self._ended_at - self._began_at, 3)),
        )

    def _end(self, phase: UpgradePhase) -> None:
        self._phase = phase
        self._ended_at = self._clock()
