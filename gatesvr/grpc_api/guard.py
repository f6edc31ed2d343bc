"""Guard: who may call the push port, and do what there.

A caller proves who it is by a bearer token, or by its certificate if it sends none. A token is
looked at before anything of the call's message is read. Every refusal says the same; the counters
and a line of the log, one a second at most, say more.

A network that shows many wrong tokens has to wait before the next one is looked at, be it a good
one. Whoever has shown its token from there before goes on: a service whose token was not rotated
must not cut off those beside it.

Roles: ``push`` may push, and register endpoints of the services named for it; ``admin`` may do
everything.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

from ..auth.guesses import GuessLimit
from ..credentials import TokenFile, token_digest
from ..observe.limiter import LogLimiter
from .servicer import caller_ip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

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

MAX_KNOWN = 1_024
"""Good tokens remembered with the address that they came from."""
_NOTHING = object()


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
        self._guesses = GuessLimit()
        self._limited_until = 0.0  # no network waits from then on
        self._known: dict[tuple[str, bytes], None] = {}
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
        """Return the call's handler, behind a look at its caller."""
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        if method in _OPEN:
            return handler
        metadata: Any = handler_call_details.invocation_metadata
        token = _token(metadata)
        if handler is None or not self._may_read(method, token):
            return self._unread(method, token, handler)
        return self._guarded(method, token, handler)

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
        return self._by_digest(token_digest(token))

    def _by_digest(self, digest: bytes) -> Caller | None:
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

    def _may_read(self, method: str, token: str | None) -> bool:
        """Return whether a call's message may be read before its caller is looked at again.

        Not while a network waits: then the time of the answer must not tell a good token.
        """
        if token is None:
            return self._has_certificates
        caller = self._by_token(token)
        is_let_in = caller is not None and caller.may_call(method)
        return is_let_in and self._clock() >= self._limited_until

    def _guarded(self, method: str, token: str | None, handler: Any) -> Any:
        """Return a method's handler behind a look at the caller."""
        kind = _kind(handler)
        behaviour = getattr(handler, kind)

        async def call(request: Any, context: _Context) -> Any:
            await self._admit(method, token, context)
            return await behaviour(request, context)

        async def generate(request: Any, context: _Context) -> AsyncIterator[Any]:
            await self._admit(method, token, context)
            async for response in behaviour(request, context):
                yield response

        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            generate if inspect.isasyncgenfunction(behaviour) else call,
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unread(self, method: str, token: str | None, handler: Any) -> Any:
        """Return the same, with no message read before; it costs a call half as much again."""

        async def call(requests: AsyncIterator[Any], context: _Context) -> None:
            await self._admit(method, token, context)
            if handler is None:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
            await _run(handler, requests, context)

        # Of whatever kind the method is: a unary handler would get the message first.
        return grpc.stream_stream_rpc_method_handler(
            call,
            handler and handler.request_deserializer,
            handler and handler.response_serializer,
        )

    async def _admit(self, method: str, token: str | None, context: _Context) -> None:
        """End the call unless its caller is known and may make it."""
        if token is not None:
            caller, proof = await self._admit_token(method, token, context), "token"
        elif self._has_certificates:
            caller, proof = self._by_certificate(context), "certificate"
        else:
            caller, proof = None, "no_credentials"
        if caller is None or not caller.may_call(method):
            await self._refuse(method, caller, context, proof)

    async def _admit_token(self, method: str, token: str, context: _Context) -> Caller | None:
        """Return whose token it is; end the call if too many of its network were wrong."""
        ip, digest, now = caller_ip(context.peer()), token_digest(token), self._clock()
        is_known = (ip, digest) in self._known
        if not is_known and self._guesses.wait(ip, now):
            self._counters.guesses_limited += 1
            self._lines.log(logging.WARNING, "guesses_limited", now, ip, peer=ip, rpc=method)
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "too many wrong tokens from this network"
            )
        caller = self._by_digest(digest)
        if caller is None:
            self._guesses.guessed(ip, now)
            self._limited_until = max(self._limited_until, now + self._guesses.wait(ip, now))
        elif not is_known:
            self._known[ip, digest] = None
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return caller

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


def _kind(handler: Any) -> str:
    """Return a handler's kind, as gRPC names it."""
    takes, gives = (
        "stream" if is_streaming else "unary"
        for is_streaming in (handler.request_streaming, handler.response_streaming)
    )
    return f"{takes}_{gives}"


async def _run(handler: Any, requests: AsyncIterator[Any], context: _Context) -> None:
    """Run a method's handler of any kind as one of streams."""
    behaviour = getattr(handler, _kind(handler))
    argument: Any = requests
    if not handler.request_streaming:
        argument = await anext(aiter(requests), _NOTHING)
        if argument is _NOTHING:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
    if inspect.isasyncgenfunction(behaviour):
        async for response in behaviour(argument, context):
            await context.write(response)
        return
    response = await behaviour(argument, context)
    if not handler.response_streaming:
        await context.write(response)


def _token(metadata: _Metadata) -> str | None:
    """Return the bearer token in a call's metadata, None without one; the last one counts."""
    found = None
    for name, value in metadata:
        if name == "authorization":
            text = value if isinstance(value, str) else value.decode("utf-8", "replace")
            scheme, _, rest = text.partition(" ")
            found = rest.strip() if scheme.lower() == "bearer" else ""
    return found
