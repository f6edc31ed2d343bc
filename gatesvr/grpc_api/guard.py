"""Guard: who may call the push port, and do what there.

A caller proves who it is by a bearer token, or by its certificate if it sends none. A token is
looked at before anything of the call's message is read. Every refusal says the same; the counters
and a line of the log, one a second at most, say more.

Roles: ``push`` may push, and register endpoints of the services named for it; ``admin`` may do
everything.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

from ..credentials import TokenFile, token_digest
from ..observe.limiter import LogLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ..config import PushConfig
    from ..control.counters import PushCounters

    _Context = grpc.aio.ServicerContext[Any, Any]
    _Metadata = Iterable[tuple[str, str | bytes]]

__all__ = ["Caller", "Guard"]

logger = logging.getLogger("gatesvr.grpc_api")

_SERVICE = "/gatesvr.proto.GatewayService/"
_OPEN = frozenset({"/grpc.health.v1.Health/Check"})
"""For everybody: it tells that the gateway serves, and probes have no credentials."""
_READ = frozenset(
    (
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    )
)
"""For every caller that has a role. Both take one of a few places, which strangers could hold."""
_PUSH = frozenset(
    _SERVICE + name
    for name in ("PushToClient", "PushStream", "BroadcastToClients", "MulticastToClients")
)
_REGISTER = frozenset(
    _SERVICE + name for name in ("RegisterUpstream", "KeepUpstreamAlive", "DeregisterUpstream")
)


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """Somebody who may call, and what it may do.

    Attributes:
        name: For the log, and for what it registers.
        is_admin: Whether it may do everything.
        tokens: Its tokens; None for a caller with certificates alone.
        certificates: Its certificates' names.
        services: Services that it may register.
    """

    name: str
    is_admin: bool
    tokens: TokenFile | None
    certificates: frozenset[str]
    services: frozenset[str]

    def may_call(self, method: str) -> bool:
        """Return whether it may call a method, given by its full name."""
        if self.is_admin or method in _PUSH or method in _READ:
            return True
        return bool(self.services) and method in _REGISTER

    def may_register(self, service: str) -> bool:
        """Return whether it may register endpoints of a service."""
        return self.is_admin or service in self.services


class Guard(grpc.aio.ServerInterceptor):
    """Lets callers in by their role, and counts and logs those that it refuses.

    Args:
        config: The callers and their credentials.
        counters: Counts refusals by reason.
        clock: Loop time.

    Raises:
        ConfigError: A token file cannot be used.
    """

    def __init__(
        self, config: PushConfig, counters: PushCounters, clock: Callable[[], float]
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._lines = LogLimiter(logger)
        self._callers: list[Caller] = []
        self._has_certificates = False
        self.prepare(config)()

    def prepare(self, config: PushConfig) -> Callable[[], None]:
        """Read the callers' tokens; return a function that lets in these callers and no others.

        Raises:
            ConfigError: A token file cannot be used.
        """
        clock = self._clock
        callers = [
            Caller(
                caller.name,
                caller.role == "admin",
                TokenFile(caller.token, f"push.caller[{i}].token", clock) if caller.token else None,
                frozenset(caller.certificates),
                frozenset(caller.services),
            )
            for i, caller in enumerate(config.caller)
        ]
        if config.token:
            tokens = TokenFile(config.token, "push.token", clock)
            callers.append(Caller("token", True, tokens, frozenset(), frozenset()))

        def commit() -> None:
            self._callers = callers
            self._has_certificates = any(caller.certificates for caller in callers)

        return commit

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the call's handler, or one that refuses the call without reading it."""
        method = str(handler_call_details.method)
        if method in _OPEN:
            return await continuation(handler_call_details)
        metadata: Any = handler_call_details.invocation_metadata
        token = _token(metadata)
        if token is not None:
            caller = self._by_token(token)
            if caller is not None and caller.may_call(method):
                return await continuation(handler_call_details)
            return self._refusal(method, caller)
        if not self._has_certificates:
            return self._refusal(method, None, is_bare=True)
        handler = await continuation(handler_call_details)
        return self._by_certificates(method, handler) if handler is not None else None

    async def registrant(self, context: _Context, service: str) -> str:
        """Return the name of the caller that registers a service; end the call if it may not."""
        metadata: Any = context.invocation_metadata() or ()
        token = _token(metadata)
        caller = self._by_certificate(context) if token is None else self._by_token(token)
        if caller is None or not caller.may_register(service):
            proof = "certificate" if token is None else "token"
            await self._refuse(f"{_SERVICE}RegisterUpstream", caller, context, proof)
        return caller.name

    def sweep(self) -> None:
        """Log what was suppressed and no later refusal brings out. Call it once a second."""
        self._lines.tick(self._clock())

    def close(self) -> None:
        """Log what was suppressed."""
        self._lines.close()

    def _by_token(self, token: str) -> Caller | None:
        digest = token_digest(token)
        found = None
        for caller in self._callers:  # all of them: the time tells nothing
            if caller.tokens is not None and caller.tokens.holds(digest):
                found = found or caller
        return found

    def _by_certificate(self, context: _Context) -> Caller | None:
        known = context.auth_context()
        names = {*known.get("peer_dns", ()), *known.get("peer_uri", ())}
        if not names:
            names = set(known.get("x509_common_name", ()))
        texts = {name.decode("utf-8", "replace") for name in names}
        return next((c for c in self._callers if not texts.isdisjoint(c.certificates)), None)

    def _by_certificates(self, method: str, handler: Any) -> Any:
        """Return handler behind a look at the caller's certificate."""
        kind = (
            f"{'stream' if handler.request_streaming else 'unary'}_"
            f"{'stream' if handler.response_streaming else 'unary'}"
        )
        behaviour = getattr(handler, kind)

        async def call(request: Any, context: _Context) -> Any:
            caller = self._by_certificate(context)
            if caller is None or not caller.may_call(method):
                await self._refuse(method, caller, context, "certificate")
            return await behaviour(request, context)

        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(call, handler.request_deserializer, handler.response_serializer)

    def _refusal(self, method: str, caller: Caller | None, *, is_bare: bool = False) -> Any:
        """Return a handler that refuses a call without reading its message."""

        async def refuse(requests: Any, context: _Context) -> None:
            await self._refuse(method, caller, context, "no_credentials" if is_bare else "token")

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _refuse(
        self, method: str, caller: Caller | None, context: _Context, proof: str
    ) -> NoReturn:
        """End a call: its caller is unknown, or may not do that."""
        counters = self._counters
        reason = proof if caller is None else "role"
        if reason == "role":
            counters.refused_role += 1
        elif reason == "token":
            counters.refused_token += 1
        elif reason == "certificate":
            counters.refused_certificate += 1
        else:
            counters.refused_no_credentials += 1
        self._lines.log(
            logging.WARNING,
            "call_refused",
            self._clock(),
            reason,
            why=reason,
            caller=caller.name if caller is not None else "",
            peer=context.peer(),
            rpc=method,
        )
        if caller is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no valid credentials")
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not allowed to this caller")


def _token(metadata: _Metadata) -> str | None:
    """Return the bearer token in a call's metadata, None without one; the last one counts."""
    found = None
    for name, value in metadata:
        if name == "authorization":
            text = value if isinstance(value, str) else value.decode("utf-8", "replace")
            scheme, _, rest = text.partition(" ")
            found = rest.strip() if scheme.lower() == "bearer" else ""
    return found
