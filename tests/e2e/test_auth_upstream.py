"""A service that says who clients are: what it learns, and what its word is worth."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gatesvr import Client
from gatesvr._pb import message_pb2 as pb

from ..auth.servers import AuthServer, auth_server
from ..fakes import until
from .harness import counter, running_gateway
from .plain_client import answer, business, plain_client
from .plain_upstream import PlainUpstream, plain_upstream
from .test_auth import auth, auth_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatesvr.gateway import Gateway


@asynccontextmanager
async def scene(
    backend: str, *sets: str
) -> AsyncIterator[tuple[Gateway, AuthServer, PlainUpstream]]:
    async with (
        auth_server() as service,
        plain_upstream() as upstream,
        running_gateway(
            backend,
            upstream.address,
            "auth.mode=upstream",
            "auth.min_refusal_time=1ms",
            "auth.leeway=0",
            f'upstream.services.auth=[{{address="{service.address}"}}]',
            *sets,
        ) as gateway,
    ):
        yield gateway, service, upstream


def until_ms(seconds: float) -> str:
    """Return a token that is good for so long."""
    return f"until:{int((time.time() + seconds) * 1000)}"


async def test_the_service_learns_of_the_client_and_services_of_its_word(backend: str) -> None:
    async with (
        scene(backend) as (gateway, service, upstream),
        plain_client(gateway.address) as client,
    ):
        started = await client.login("", auth_token="good", client_id="phone")
        assert started.auth_expires_at_ms == 0
        asked = service.requests[-1]
        assert (asked.openid, asked.client_id, asked.ip) == ("", "phone", "127.0.0.1")
        assert asked.port > 0
        client.send(business(2, "echo", b"x"))
        assert answer(await client.receive()).data == b"x"
        seen = upstream.requests[-1]
        assert (seen.openid, seen.peer.auth_subject) == ("alice", "a-17")
        assert dict(seen.peer.auth_claims) == {"role": "admin"}


async def test_credentials_expire_are_renewed_and_let_a_session_resume(backend: str) -> None:
    async with (
        scene(backend) as (gateway, service, _),
        plain_client(gateway.address) as first,
        plain_client(gateway.address) as second,
        plain_client(gateway.address) as thief,
        plain_client(gateway.address) as forgets,
    ):
        soon = until_ms(2)
        await forgets.login("alice", auth_token=soon)
        started = await first.login("alice", auth_token=soon)
        assert started.auth_expires_at_ms == int(soon.partition(":")[2])
        for refused, code in (("who knows", 401), ("for:bob", 403), ("garbage", 503)):
            first.send(auth(refused))
            assert (await auth_response(first)).error.error_code == code
        first.send(auth(until_ms(600)))
        assert (await auth_response(first)).success
        assert service.requests[-1].is_renewal
        assert service.requests[-1].session_id == started.session_id
        denied = await thief.resume(started, 1, auth_token="for:bob")
        assert denied.lost_reason == pb.LOST_DENIED
        resumed = await second.resume(started, 1, auth_token=until_ms(900))
        assert resumed.resumed
        assert service.requests[-1].session_id == started.session_id
        assert not service.requests[-1].is_renewal
        assert await forgets.closed() in (4401, 4410)
        second.send(business(2, "echo", b"still here"))
        assert answer(await second.receive()).data == b"still here"


async def test_a_service_that_comes_back_lets_clients_in_again(backend: str) -> None:
    async with scene(backend, "upstream.reconnect_min=20ms", "upstream.reconnect_max=50ms") as (
        gateway,
        service,
        _,
    ):
        await service.stop()
        async with plain_client(gateway.address) as client:
            refused = await client.start("alice", auth_token="good")
            assert (refused.error.error_code, await client.closed()) == (503, 4503)
            assert refused.error.retry_after_ms > 0
        await service.start()
        await until(lambda: gateway.upstreams()[-1].is_up)
        # A client that keeps trying gets in by itself.
        client_of_ours = Client(
            gateway.address, openid="alice", auth_token="good", insecure=True, transport=backend
        )
        async with client_of_ours as ours:
            assert (await ours.request("echo", b"x")).data == b"x"
        assert counter(gateway, "auth.unavailable") == 1


async def test_a_slow_service_holds_up_no_client_that_is_in(backend: str) -> None:
    async with (
        scene(backend) as (gateway, service, _),
        plain_client(gateway.address) as inside,
        plain_client(gateway.address) as outside,
    ):
        await inside.login("alice", auth_token="good")
        starting = asyncio.create_task(outside.start("", auth_token="slow"))
        inside.send(auth("slow"), business(2, "echo", b"x"))
        assert answer(await inside.receive()).data == b"x"
        await until(lambda: len(service.requests) == 3)
        service.gate.set()
        assert (await auth_response(inside)).success
        assert (await starting).success
