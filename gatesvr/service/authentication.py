"""The AuthService of an UpstreamService: says who a client is (PROTOCOL 3.10)."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from .._pb import auth_pb2 as pb
from .._pb import auth_pb2_grpc as rpc
from ..observe.log import keys

if TYPE_CHECKING:
    from .service import UpstreamService

__all__ = ["Admission", "AuthHandler", "AuthServicer"]

logger = logging.getLogger("gatesvr.service")


@dataclass(frozen=True, slots=True)
class Admission:
    """Who a client is.

    Attributes:
        openid: The user.
        subject: For services, as ``request.peer.auth_subject``.
        claims: For services, as ``request.peer.auth_claims``: at most 16, 4 KiB in all.
        expires_at: Seconds since the epoch at which the session ends unless the client renews its
            credentials, 0 for never.
    """

    openid: str
    subject: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)
    expires_at: float = 0.0


AuthResult: TypeAlias = Admission | str | None
AuthHandler: TypeAlias = Callable[[pb.AuthenticateRequest], AuthResult | Awaitable[AuthResult]]


class AuthServicer(rpc.AuthServiceServicer):
    """Runs the handler for each Authenticate.

    Args:
        service: The service it belongs to.
        handler: Returns who the client is: an Admission, an openid, or None for nobody.
    """

    def __init__(self, service: UpstreamService, handler: AuthHandler) -> None:
        self._service = service
        self._handler = handler

    async def Authenticate(  # noqa: N802
        self, request: pb.AuthenticateRequest, context: Any
    ) -> pb.AuthenticateResponse:
        service = self._service
        if service.is_stopping:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")
        try:
            result: Any = self._handler(request)
            if inspect.isawaitable(result):
                result = await result
            answer = _answer(result)
        except Exception as error:
            service.counters.failed += 1
            logger.exception("auth_failed", extra=keys(service=service.name, openid=request.openid))
            # The gateway lets nobody in, and tells the client to try later.
            await context.abort(grpc.StatusCode.INTERNAL, type(error).__name__)
            raise
        if answer.ok:
            service.counters.admitted += 1
        else:
            service.counters.denied += 1
        return answer


def _answer(result: Any) -> pb.AuthenticateResponse:
    if result is None:
        return pb.AuthenticateResponse(ok=False)
    if isinstance(result, str):
        result = Admission(result)
    if not isinstance(result, Admission):
        kind = type(result).__name__
        raise TypeError(f"an auth handler must return Admission, str or None, not {kind}")
    if not result.openid:
        raise ValueError("an Admission must name an openid")
    return pb.AuthenticateResponse(
        ok=True,
        openid=result.openid,
        subject=result.subject,
        claims=result.claims,
        expires_at_ms=int(result.expires_at * 1000),
    )
