"""Strangers at the admin server: they guess, or say nothing, or are pages of other sites."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx

from gatesvr.transport.tls import DEVELOPMENT_NAMES, generate_certificate

from ..case import Off, case, moved, saw

if TYPE_CHECKING:
    from ..attacker import Attacker

TOKEN = "a-token-of-the-operators-1234"
GUESSES = 200
CROWD = 300
CHANGE = {"X-GateSvr": "1"}
ADMIN = ("admin.enabled=true", "admin.bind=127.0.0.1:0")
_CERT, _KEY = generate_certificate(DEVELOPMENT_NAMES)


def http(attacker: Attacker) -> httpx.AsyncClient:
    """Return a client of the admin server."""
    return httpx.AsyncClient(
        base_url=attacker.admin_url, verify=False, trust_env=False, timeout=5.0
    )


@case(
    "guesses at admin tokens",
    f"a client shows ten wrong tokens and {GUESSES} more, to log in or as a bearer; every tenth of"
    " those is right",
    saw("let in", most=0),
    saw("looked at", least=10, most=10),
    moved("admin.guesses_limited", least=GUESSES, most=GUESSES),
    off=Off("no limit", patches={"gatesvr.auth.guesses:BURST": 1e6}),
    sets=(*ADMIN, 'admin.token="{folder}/token"'),
    patches={"gatesvr.auth.guesses:RATE": 0.01},  # else one is looked at each second
    files={"token": TOKEN.encode()},
)
async def guesses(attacker: Attacker) -> None:
    async with http(attacker) as client:
        for i in range(-10, GUESSES):
            token = TOKEN if i >= 0 and i % 10 == 0 else f"a-wrong-token-of-nobody-{i}"
            if i % 2:
                answer = await client.post("api/v1/login", json={"token": token}, headers=CHANGE)
                client.cookies.clear()
            else:
                bearer = {"Authorization": f"Bearer {token}"}
                answer = await client.get("api/v1/config", headers=bearer)
            attacker.seen["let in"] += answer.is_success
            attacker.seen["looked at"] += answer.status_code != 429


@case(
    "admin TLS handshakes never begun",
    f"{CROWD} connections say nothing; an operator asks meanwhile",
    saw("held", most=64),
    saw("operator answered", least=1),
    moved("admin.tls_cut", least=CROWD - 64),
    off=Off("no bound of handshakes", patches={"gatesvr.admin.tls:MAX_HANDSHAKES": 10**6}),
    sets=(*ADMIN, 'admin.cert="{folder}/cert"', 'admin.key="{folder}/key"'),
    files={"cert": _CERT, "key": _KEY},
)
async def handshakes(attacker: Attacker) -> None:
    url = httpx.URL(attacker.admin_url)
    crowd = [await asyncio.open_connection(url.host, url.port) for _ in range(CROWD)]
    async with http(attacker) as client:
        attacker.seen["operator answered"] += (await client.get("livez")).is_success
    for reader, writer in crowd:
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0.005):
                await reader.read()
        attacker.seen["held"] += not (reader.at_eof() or reader.exception())
        writer.transport.abort()


def _pass(*_: Any, **__: Any) -> None:
    """Let every page ask."""


@case(
    "pages of other sites at the admin server",
    "a page in an operator's browser asks, profiles, kicks and sets the log, as a browser lets it",
    saw("done", most=0),
    saw("refused", least=12, most=12),
    moved("admin.refused_origins", least=12),
    moved("push.kicks", most=0),
    off=Off("pages are not told apart", patches={"gatesvr.admin.access:Access._check_page": _pass}),
    sets=ADMIN,
)
async def pages(attacker: Attacker) -> None:
    async with http(attacker) as client:
        for headers in (
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "https://evil.example"},
        ):
            for method, path, body in (
                ("GET", "overview", None),
                ("GET", "profile?seconds=0.05", None),
                ("POST", "kick", '{"openid": "healthy0"}'),
                ("POST", "log", '{"level": "info"}'),
            ):
                answer = await client.request(
                    method, f"api/v1/{path}", content=body, headers=headers
                )
                attacker.seen["done"] += answer.is_success
                attacker.seen["refused"] += answer.status_code == 403
