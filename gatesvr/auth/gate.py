"""Gate: lets a client in at START, and again at AUTH, or refuses it (PROTOCOL 3.1, 3.10).

Every refusal says the same and takes at least ``auth.min_refusal_time``, whatever its reason: only
the counters and the log tell reasons apart.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..observe.limiter import LogLimiter
from .applicant import Applicant
from .limit import FailureLimit
from .reasons import AuthFailed, AuthUnavailable, Reason

if TYPE_CHECKING:
    from ..config import AuthConfig
    from ..protocol.identity import Identity
    from .reasons import AuthCounters

__all__ = ["Authenticator", "Gate"]

logger = logging.getLogger("gatesvr.auth")

LEAVE_S = 15.0
"""How long an authenticator that was replaced may still answer; no authentication takes longer."""


class Authenticator(Protocol):
    """Says who a client is."""

    @property
    def is_fresh(self) -> bool:
        """Whether it keeps what it knows fresh, so that a reload need not make another."""

    async def authenticate(self, applicant: Applicant) -> Identity:
        """Return who it is; it bounds its own waits.

        Raises:
            AuthFailed: Not who it says it is.
            AuthUnavailable: It cannot be told now.
        """

    def authenticate_now(self, applicant: Applicant) -> Identity | None:
        """Return who it is, None where that takes a wait: authenticate() follows then.

        Raises:
            AuthFailed: Not who it says it is.
        """

    def start(self) -> None:
        """Begin what runs in the background."""

    async def stop(self) -> None:
        """End it."""


class Gate:
    """Asks the authenticator, counts, limits and delays refusals.

    Args:
        authenticator: Says who a client is.
        config: Expiry and the least time of a refusal.
        counters: The layer's counters.
        clock: Loop time.
        wall_clock: Seconds since the epoch.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        config: AuthConfig,
        counters: AuthCounters,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.counters = counters
        self._authenticator: Authenticator | None = authenticator
        self._stops: set[asyncio.Task[None]] = set()
        self._left: dict[asyncio.Task[None], Authenticator] = {}  # each waits for its last ones
        self._set(config)
        self._clock = clock
        self._wall_clock = wall_clock
        self._beside: set[asyncio.Task[tuple[Identity, float]]] = set()
        self._lines = LogLimiter(logger)
        self._limit = FailureLimit(config.address_failures, config.openid_failures)

    def _set(self, config: AuthConfig) -> None:
        self._min_refusal_time = config.min_refusal_time
        self._leeway = config.leeway
        self._enforces_expiry = config.enforce_expiry

    @property
    def authenticator(self) -> Authenticator | None:
        """What it asks; None while nobody has to prove anything."""
        return self._authenticator

    def apply(self, authenticator: Authenticator | None, config: AuthConfig) -> None:
        """Ask another authenticator from now on, None for nobody; the gate has been started.

        The one before still answers what it was asked.
        """
        self._set(config)
        self._limit.apply(config.address_failures, config.openid_failures)
        old, self._authenticator = self._authenticator, authenticator
        if old is authenticator:
            return
        if authenticator is not None:
            authenticator.start()
        if old is not None:
            task = asyncio.create_task(asyncio.sleep(LEAVE_S), name="gatesvr-auth-left")
            self._left[task] = old
            task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[None]) -> None:
        """Stop an authenticator that has nothing under way any more."""
        old = self._left.pop(task, None)
        if old is not None:
            stop = asyncio.create_task(old.stop(), name="gatesvr-auth-stop")
            self._stops.add(stop)
            stop.add_done_callback(self._stops.discard)

    def start(self) -> None:
        """Begin what runs in the background."""
        if self._authenticator is not None:
            self._authenticator.start()

    def sweep(self, now: float) -> None:
        """Log what was suppressed and no later refusal brings out. Call it once a second."""
        self._lines.tick(now)

    async def stop(self) -> None:
        """End it, and the authentications of admit_beside()."""
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        left, self._left = self._left, {}
        for timer in left:
            timer.cancel()
        await asyncio.gather(*left, *self._stops, return_exceptions=True)
        for authenticator in (self._authenticator, *left.values()):
            if authenticator is not None:
                await authenticator.stop()
        self._lines.close()

    async def admit(self, applicant: Applicant) -> tuple[Identity, float]:
        """Return who a client is, and the loop time at which its credentials expire.

        Raises:
            AuthFailed: It is not let in.
            AuthUnavailable: It cannot be told now.
        """
        began = self._clock()
        try:
            identity = await self._authenticate(applicant, began)
        except AuthFailed as failure:
            self.counters.refused(failure.reason)
            self._log(logging.INFO, "auth_refused", applicant, failure.reason, failure, began)
            await self._wait(began)
            raise
        except AuthUnavailable as error:
            self.counters.unavailable += 1
            self._log(logging.WARNING, "auth_unavailable", applicant, "unavailable", error, began)
            await self._wait(began)
            raise AuthUnavailable from None
        if applicant.is_renewal:
            self.counters.renewed += 1
        else:
            self.counters.authenticated += 1
        return identity, self._deadline(identity)

    def admit_beside(self, applicant: Applicant) -> asyncio.Task[tuple[Identity, float]]:
        """Return a task that does admit(); stop() cancels it."""
        task = asyncio.create_task(self.admit(applicant), name="gatesvr-auth")
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    async def _authenticate(self, applicant: Applicant, began: float) -> Identity:
        """Ask the authenticator, unless too many have failed before."""
        limit, authenticator = self._limit, self._authenticator
        if authenticator is None:
            raise AuthUnavailable("nobody has to prove anything any more")
        if not limit.allows(applicant.ip, applicant.openid, began):
            raise AuthFailed(Reason.LIMITED)
        try:
            identity = authenticator.authenticate_now(applicant)
        except AuthFailed as error:
            limit.failed(applicant.ip, applicant.openid, error.reason, began)
            raise
        if identity is None:
            return await self._authenticate_later(authenticator, applicant, began)
        limit.let_in(identity.openid, applicant.ip)
        return identity

    async def _authenticate_later(
        self, authenticator: Authenticator, applicant: Applicant, began: float
    ) -> Identity:
        """Wait for the authenticator; the attempt counts meanwhile."""
        attempt = self._limit.begin(applicant.ip, applicant.openid, began)
        if attempt is None:
            raise AuthFailed(Reason.LIMITED)
        failure, openid = None, ""
        try:
            identity = await authenticator.authenticate(applicant)
            openid = identity.openid
        except AuthFailed as error:
            failure = error.reason
            raise
        finally:
            attempt.end(self._clock(), failure=failure, openid=openid)
        return identity

    def _log(
        self,
        level: int,
        event: str,
        applicant: Applicant,
        reason: str,
        error: Exception,
        now: float,
    ) -> None:
        """Write a line, at most one a second for each reason."""
        self._lines.log(
            level,
            event,
            now,
            reason,
            peer=applicant.ip,
            openid=applicant.openid,
            reason=reason,
            detail=str(error) or type(error).__name__,
        )

    async def _wait(self, began: float) -> None:
        """Wait until a refusal has taken its least time."""
        await asyncio.sleep(max(0.0, began + self._min_refusal_time - self._clock()))

    def _deadline(self, identity: Identity) -> float:
        if not identity.expires_at or not self._enforces_expiry:
            return math.inf
        left = identity.expires_at + self._leeway - self._wall_clock()
        return self._clock() + left
