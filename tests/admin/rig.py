"""What the admin server's tests share: a gateway with an upstream, and its admin server."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from gatesvr.admin.server import AdminServer
from tests.e2e.harness import gateway_sets, running_gateway
from tests.e2e.plain_upstream import PlainUpstream, plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatesvr import Gateway

CHANGE = {"X-GateSvr": "1"}
"""What a request that changes something carries."""


@dataclass
class Rig:
    """A gateway, its only upstream, its admin server, an HTTP client of that, and its settings."""

    gateway: Gateway
    upstream: PlainUpstream
    admin: AdminServer
    http: httpx.AsyncClient
    sets: tuple[str, ...]

    async def get(self, path: str, status: int = 200) -> Any:
        """Return an answer of the API."""
        answer = await self.http.get(f"api/v1/{path}")
        assert answer.status_code == status, answer.text
        return answer.json()

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """Post to the API as its own page does."""
        answer = await self.http.post(f"api/v1/{path}", json=body or {}, headers=CHANGE)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def events(self, path: str) -> AsyncIterator[tuple[str, Any]]:
        """Yield (name, data) of each event of a stream, until it ends."""
        async with self.http.stream("GET", f"api/v1/{path}") as stream:
            assert stream.status_code == 200
            name = ""
            async for line in stream.aiter_lines():
                key, _, value = line.partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    yield name, json.loads(value)


@asynccontextmanager
async def running_admin(*sets: str, backend: str = "qh3") -> AsyncIterator[Rig]:
    """Run a gateway and its admin server; sets are ``--set`` texts."""
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, "admin.bind=127.0.0.1:0", *sets) as gateway,
    ):
        admin = AdminServer(gateway, gateway.config.admin)
        await admin.start()
        try:
            async with httpx.AsyncClient(base_url=admin.url, timeout=30, trust_env=False) as http:
                yield Rig(
                    gateway, upstream, admin, http, gateway_sets(backend, upstream.address, *sets)
                )
        finally:
            await admin.stop()
