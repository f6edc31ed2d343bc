"""The table of authentication: what a client shows, what it sees, how long that takes, what counts.

``python -m tests.auth`` prints it, tests/e2e/test_auth_table.py asserts it.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest.mock import patch

import jwt

from gatesvr._pb import message_pb2 as pb
from gatesvr.auth import keys

from ..e2e.harness import running_gateway
from ..e2e.plain_client import PlainClient, plain_client
from ..e2e.plain_upstream import plain_upstream
from ..fakes import until
from .servers import AuthServer, JwksServer, auth_server, jwks_server
from .tokens import EC, RSA, claims, forged, jwks, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gatesvr.gateway import Gateway

__all__ = ["CASES", "Case", "Row", "Scene", "run_cases", "scene"]

IN = "let in"
REFUSED = "401, 4401"
LATER = "503, 4503"


@dataclass
class Scene:
    """A gateway, and what it asks about clients.

    Attributes:
        gateway: The gateway.
        jwks: Its JWKS server, in mode jwt.
        auth: Its AuthService, in mode upstream.
    """

    gateway: Gateway
    jwks: JwksServer | None = None
    auth: AuthServer | None = None


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        name: What is wrong.
        show: Makes the client's auth_token; bytes are what is no UTF-8.
        sees: What the client sees.
        counts: The counters of ``auth`` that move, or one of another layer.
        openid: START's.
        begin: How the JWKS server begins: ``good``, ``down``, ``slow`` or ``lying``; in mode
            upstream ``down`` is a service that nobody serves. A case that is not ``good`` has a
            gateway of its own.
        change: Done to the scene before the client connects; such a case has its own gateway, too.
    """

    name: str
    show: Callable[[], str | bytes]
    sees: str
    counts: tuple[str, ...]
    openid: str = "alice"
    begin: str = "good"
    change: Callable[[Scene], Awaitable[None]] | None = None


@dataclass
class Row:
    """The result of a case; it took so long until START_RESP, or the close where there was none."""

    case: Case
    sees: str
    counts: tuple[str, ...]
    took_ms: float = field(compare=False)


def now(seconds: float = 0) -> int:
    return int(time.time() + seconds)


async def rotate(scene: Scene) -> None:
    """Replace the keys: the token's is new, and the gateway has not heard of it."""
    assert scene.jwks is not None
    scene.jwks.document = jwks(new=EC)


async def go_down(scene: Scene) -> None:
    assert scene.jwks is not None
    scene.jwks.document = None


JWT = (
    Case("good", lambda: token(kid="r"), IN, ("authenticated",)),
    Case("good, openid left to it", lambda: token(kid="r"), IN, ("authenticated",), openid=""),
    Case("no token", lambda: "", REFUSED, ("refused_missing",)),
    Case("expired", lambda: token(kid="r", exp=now(-3_600)), REFUSED, ("refused_expired",)),
    Case("not yet valid", lambda: token(kid="r", nbf=now(3_600)), REFUSED, ("refused_not_yet",)),
    Case("wrong audience", lambda: token(kid="r", aud="other"), REFUSED, ("refused_audience",)),
    Case("wrong issuer", lambda: token(kid="r", iss="evil"), REFUSED, ("refused_issuer",)),
    Case(
        "alg none",
        lambda: jwt.encode(claims(), None, algorithm="none"),
        REFUSED,
        ("refused_algorithm",),
    ),
    Case(
        "HS256 with the RSA public key",
        lambda: forged({"alg": "HS256", "kid": "r"}),
        REFUSED,
        ("refused_algorithm",),
    ),
    Case(
        "RS256 header, HS256 signature",
        lambda: forged({"alg": "RS256", "kid": "r"}),
        REFUSED,
        ("refused_signature",),
    ),
    Case("unknown kid", lambda: token(kid="x"), REFUSED, ("refused_unknown_key",)),
    Case("huge", lambda: token(kid="r", pad="x" * 9_000), REFUSED, ("refused_too_large",)),
    Case("bad UTF-8", lambda: b"\xff\xfe", "4400", ("transport.protocol_errors",)),
    Case("wrong openid", lambda: token(kid="r"), REFUSED, ("refused_openid",), openid="bob"),
    Case(
        "rotated key",
        lambda: token(EC, "ES256", "new"),
        IN,
        ("authenticated", "key_refreshes"),
        change=rotate,
    ),
    Case("keys known, JWKS down", lambda: token(kid="r"), IN, ("authenticated",), change=go_down),
    Case(
        "JWKS down from the start",
        lambda: token(kid="r"),
        LATER,
        ("key_failures", "unavailable"),
        begin="down",
    ),
    Case(
        "JWKS slow from the start",
        lambda: token(kid="r"),
        LATER,
        ("key_failures", "unavailable"),
        begin="slow",
    ),
    Case(
        "JWKS lies from the start",
        lambda: token(kid="r"),
        LATER,
        ("key_failures", "unavailable"),
        begin="lying",
    ),
    Case(
        "JWKS giant from the start",
        lambda: token(kid="r"),
        LATER,
        ("key_failures", "unavailable"),
        begin="giant",
    ),
)

_UNUSABLE = ("unavailable", "unusable_answers")
UPSTREAM = (
    Case("good", lambda: "good", IN, ("authenticated",)),
    Case("good, openid left to it", lambda: "good", IN, ("authenticated",), openid=""),
    Case("no token", lambda: "", REFUSED, ("refused_missing",)),
    Case("refused", lambda: "who knows", REFUSED, ("refused_denied",)),
    Case("wrong openid", lambda: "good", REFUSED, ("refused_openid",), openid="bob"),
    Case("expired", lambda: "expired", REFUSED, ("refused_expired",)),
    Case("huge", lambda: "x" * 9_000, REFUSED, ("refused_too_large",)),
    Case("bad UTF-8", lambda: b"\xff\xfe", "4400", ("transport.protocol_errors",)),
    Case("names nobody", lambda: "nobody", LATER, _UNUSABLE),
    Case("openid is no text", lambda: "control", LATER, _UNUSABLE),
    Case("17 claims", lambda: "claims", LATER, _UNUSABLE),
    Case("claims above 4 KiB", lambda: "large claims", LATER, _UNUSABLE),
    Case("expiry before 1970", lambda: "before time", LATER, _UNUSABLE),
    Case("answer of 8 MiB", lambda: "giant", LATER, _UNUSABLE),
    Case("answer is garbage", lambda: "garbage", LATER, _UNUSABLE),
    Case("gRPC status", lambda: "abort", LATER, ("unavailable",)),
    Case("slow", lambda: "slow", LATER, ("unavailable",)),
    Case("nobody serves it", lambda: "good", LATER, ("unavailable",), begin="down"),
)
CASES = {"jwt": JWT, "upstream": UPSTREAM}
"""The cases of each mode."""


@asynccontextmanager
async def scene(mode: str, backend: str, *sets: str, begin: str = "good") -> AsyncIterator[Scene]:
    """Run a gateway that authenticates clients in a mode."""
    async with AsyncExitStack() as stack:
        jwks_at, auth_at = None, None
        if mode == "jwt":
            jwks_at = await stack.enter_async_context(jwks_server(_DOCUMENTS.get(begin)))
            jwks_at.is_slow = begin == "slow"
            sets = (
                "auth.mode=jwt",
                "auth.algorithms=['RS256', 'ES256']",
                f"auth.jwks={jwks_at.url}",
                "auth.audience=gatesvr",
                "auth.issuer=https://id.test",
                *sets,
            )
        else:
            auth_at = await stack.enter_async_context(auth_server())
            address = "127.0.0.1:1" if begin == "down" else auth_at.address
            sets = (
                "auth.mode=upstream",
                f'upstream.services.auth=[{{address="{address}"}}]',
                *sets,
            )
        upstream = await stack.enter_async_context(plain_upstream())
        gateway = await stack.enter_async_context(running_gateway(backend, upstream.address, *sets))
        if jwks_at is not None:
            # The first fetch, however it ends: a case counts its own.
            counters = gateway.engine.auth_counters
            await until(lambda: counters.key_refreshes + counters.key_failures > 0)
        yield Scene(gateway, jwks_at, auth_at)


_DOCUMENTS = {"good": jwks(r=RSA), "lying": b'{"keys": "none"}', "giant": b" " * (2 << 20)}


async def run_cases(mode: str, backend: str, *sets: str) -> AsyncIterator[Row]:
    """Yield the row of each case."""
    sets = ("auth.address_failures=0", "auth.openid_failures=0", *sets)
    async with scene(mode, backend, *sets) as shared:
        for case in CASES[mode]:
            if case.begin == "good" and case.change is None:
                yield await _run(case, shared)
                continue
            async with scene(mode, backend, *sets, begin=case.begin) as own:
                if case.change is not None:
                    await case.change(own)
                # An unknown kid makes the gateway look at once, not 30 s after its last look.
                with patch.object(keys, "UNKNOWN_PAUSE_S", 0.0):
                    yield await _run(case, own)


async def _run(case: Case, scene: Scene) -> Row:
    before = counters(scene.gateway)
    async with plain_client(scene.gateway.address) as client:
        sees, took_ms = await _show(client, case.openid, case.show())
    after = counters(scene.gateway)
    moved = tuple(sorted(name for name, value in after.items() if value != before[name]))
    return Row(case, sees, moved, took_ms)


def counters(gateway: Gateway) -> dict[str, int]:
    """Return the counters that a case may move."""
    stats = gateway.stats()
    counts = {name: int(value) for name, value in stats["auth"].items() if name != "keys"}
    return {**counts, "transport.protocol_errors": int(stats["transport"]["protocol_errors"])}


async def _show(client: PlainClient, openid: str, auth_token: str | bytes) -> tuple[str, float]:
    """START with a token; return what the client sees, and after how many milliseconds."""
    began = time.perf_counter()
    if isinstance(auth_token, bytes):
        start = pb.StartRequest(openid=openid, protocol=1).SerializeToString()
        start += bytes((3 << 3 | 2, len(auth_token))) + auth_token
        client.send(pb.ClientRequest(msg_id=1, type=pb.REQUEST_START, payload=start))
        return str(await client.closed()), 1000 * (time.perf_counter() - began)
    response = await client.start(openid, auth_token=auth_token)
    took_ms = 1000 * (time.perf_counter() - began)
    if response.success:
        return IN, took_ms
    return f"{response.error.error_code}, {await client.closed()}", took_ms
