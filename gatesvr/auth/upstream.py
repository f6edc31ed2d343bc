"""UpstreamAuthenticator: a client is who the operator's AuthService says it is (PROTOCOL 3.10)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from google.protobuf.message import DecodeError

from .._pb import auth_pb2 as pb
from ..config import MAX_CLAIMS
from ..errors import UpstreamError
from ..protocol.identity import MAX_CLAIMS_BYTES, MAX_EXPIRES_AT, Identity
from ..protocol.messages import MAX_CLIENT_ID_BYTES, MAX_OPENID_BYTES, is_valid_text
from .applicant import MAX_TOKEN_BYTES, Applicant
from .reasons import AuthFailed, AuthUnavailable, Reason

if TYPE_CHECKING:
    from ..config import AuthConfig
    from .reasons import AuthCounters

    class Ask(Protocol):
        """Calls a method of a service: UpstreamManager.ask()."""

        def __call__(
            self, service: str, method: str, request: bytes, within: float, openid: str = ""
        ) -> Awaitable[bytes]: ...


__all__ = ["UpstreamAuthenticator"]

METHOD = "/gatesvr.proto.AuthService/Authenticate"
MAX_UNDER_WAY = 128
"""Calls at the same time; the rest wait, each until its own deadline. A service that hangs must not
use up the unary calls of a lane, which it may share with other services."""
MAX_ANSWER_BYTES = 16_384
"""Largest answer that is looked at: an openid, a subject, the claims, a reason."""
MAX_SUBJECT_BYTES = 1_024


class UpstreamAuthenticator:
    """Asks the service.

    Args:
        config: Its name, the deadline, the leeway.
        counters: Where to count.
        ask: Calls it.
        wall_clock: Seconds since the epoch.
    """

    def __init__(
        self,
        config: AuthConfig,
        counters: AuthCounters,
        ask: Ask,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = config.service
        self._timeout = config.timeout
        self._leeway = config.leeway
        self._counters = counters
        self._ask = ask
        self._wall_clock = wall_clock
        self._places = asyncio.Semaphore(MAX_UNDER_WAY)

    @property
    def is_fresh(self) -> bool:
        """Return True: it knows nothing itself."""
        return True

    def start(self) -> None:
        """Do nothing: the upstream layer keeps the lanes."""

    async def stop(self) -> None:
        """Do nothing."""

    async def authenticate(self, applicant: Applicant) -> Identity:
        """Return who the service says the client is.

        Raises:
            AuthFailed: The service says no, or that it is somebody else.
            AuthUnavailable: The service gave no answer in time, or one that cannot be used.
        """
        if not applicant.token:
            raise AuthFailed(Reason.MISSING)
        if len(applicant.token.encode()) > MAX_TOKEN_BYTES:
            raise AuthFailed(Reason.TOO_LARGE)
        if applicant.openid and not is_valid_text(applicant.openid, MAX_OPENID_BYTES):
            raise AuthFailed(Reason.OPENID)  # of no user
        answer = await self._call(applicant)
        if not answer.ok:
            raise AuthFailed(Reason.DENIED, answer.reason[:200])
        identity = self._identity(answer)
        if applicant.openid and applicant.openid != identity.openid:
            raise AuthFailed(Reason.OPENID)
        if identity.expires_at and identity.expires_at + self._leeway <= self._wall_clock():
            raise AuthFailed(Reason.EXPIRED)
        return identity

    async def _call(self, applicant: Applicant) -> pb.AuthenticateResponse:
        is_named = is_valid_text(applicant.client_id, MAX_CLIENT_ID_BYTES)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self._places.acquire()
        except TimeoutError:
            raise AuthUnavailable(f"{MAX_UNDER_WAY} calls are under way") from None
        try:
            left = max(deadline - loop.time(), 0.001)
            request = pb.AuthenticateRequest(
                auth_token=applicant.token,
                openid=applicant.openid,
                client_id=applicant.client_id if is_named else "",
                ip=applicant.ip,
                port=applicant.port,
                session_id=applicant.session_id,
                is_renewal=applicant.is_renewal,
                timeout_ms=int(left * 1000),
            )
            data = await self._ask(
                self._service, METHOD, request.SerializeToString(), left, applicant.openid
            )
        except UpstreamError as error:
            raise AuthUnavailable(f"{error.status}: {error}"[:200]) from None
        finally:
            self._places.release()
        if len(data) > MAX_ANSWER_BYTES:
            raise self._unusable(f"{len(data)} bytes")
        try:
            return pb.AuthenticateResponse.FromString(data)
        except DecodeError:
            raise self._unusable("it does not decode") from None

    def _identity(self, answer: pb.AuthenticateResponse) -> Identity:
        claims = dict(answer.claims)
        size = sum(len(name.encode()) + len(value.encode()) for name, value in claims.items())
        if not answer.openid or not is_valid_text(answer.openid, MAX_OPENID_BYTES):
            raise self._unusable("openid")
        if len(answer.subject.encode()) > MAX_SUBJECT_BYTES:
            raise self._unusable("subject")
        if len(claims) > MAX_CLAIMS or size > MAX_CLAIMS_BYTES:
            raise self._unusable(f"{len(claims)} claims, {size} bytes")
        if answer.expires_at_ms < 0:
            raise self._unusable("expires_at_ms")
        expires_at = float(min(answer.expires_at_ms / 1000, MAX_EXPIRES_AT))
        return Identity(answer.openid, answer.subject, claims, expires_at)

    def _unusable(self, what: str) -> AuthUnavailable:
        self._counters.unusable_answers += 1
        return AuthUnavailable(f"unusable answer of {self._service}: {what}")
