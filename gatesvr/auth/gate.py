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

from ..observe.log import keys
from .limit import FailureLimit
from .reasons import AuthFailed, AuthUnavailable, Reason

if TYPE_CHECKING:
    from ..config import AuthConfig
    from ..protocol.identity import Identity
    from .reasons import AuthCounters

__all__ = ["Authenticator", "Gate"]

logger = logging.getLogger("gatesvr.auth")

TIMEOUT_S = 10.0
"""Longest authentication; then the answer is that it is unavailable."""


class Authenticator(Protocol):
    """Says who the bearer of a token is."""

    async def authenticate(self, token: str, openid: str) -> Identity:
        """Return who the bearer is.

        Raises:
            AuthFailed: Not who it says it is.
            AuthUnavailable: Nothing can be said now.
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
        self._authenticator = authenticator
        self._min_refusal_time = config.min_refusal_time
        self._leeway = config.leeway
        self._enforces_expiry = config.enforce_expiry
        self._clock = clock
        self._wall_clock = wall_clock
        self._limit = FailureLimit()

    def start(self) -> None:
        """Begin what runs in the background."""
        self._authenticator.start()

    async def stop(self) -> None:
        """End it."""
        await self._authenticator.stop()

    async def admit(
        self, token: str, openid: str, ip: str, *, is_renewal: bool = False
    ) -> tuple[Identity, float]:
        """Return who a client is, and the loop time at which its credentials expire.

        Args:
            token: Its auth_token.
            openid: What it says it is, empty where it leaves that to the token.
            ip: Its address.
            is_renewal: Whether it has a session already.

        Raises:
            AuthFailed: It is not let in.
            AuthUnavailable: Nothing can be said now.
        """
        began = self._clock()
        try:
            if not self._limit.allows(ip, began):
                raise AuthFailed(Reason.LIMITED)
            async with asyncio.timeout(TIMEOUT_S):
                identity = await self._authenticator.authenticate(token, openid)
        except AuthFailed as failure:
            self.counters.refused(failure.reason)
            if failure.reason is not Reason.LIMITED:
                self._limit.failed(ip, began)
            logger.info(
                "auth_refused",
                extra=keys(peer=ip, openid=openid, reason=failure.reason, detail=str(failure)),
            )
            await self._wait(began)
            raise
        except (TimeoutError, AuthUnavailable) as error:
            self.counters.unavailable += 1
            logger.warning("auth_unavailable", extra=keys(peer=ip, error=str(error) or "time-out"))
            await self._wait(began)
            raise AuthUnavailable from None
        if is_renewal:
            self.counters.renewed += 1
        else:
            self.counters.authenticated += 1
        return identity, self._deadline(identity)

    async def _wait(self, began: float) -> None:
        """Wait until a refusal has taken its least time."""
        await asyncio.sleep(max(0.0, began + self._min_refusal_time - self._clock()))

    def _deadline(self, identity: Identity) -> float:
        if not identity.expires_at or not self._enforces_expiry:
            return math.inf
        left = identity.expires_at + self._leeway - self._wall_clock()
        return self._clock() + left
