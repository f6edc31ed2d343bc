"""A gateway whose push port is guarded: clients notice nothing of those that it keeps out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatesvr import GatewayClient, UpstreamService
from gatesvr.errors import UpstreamError

from ..grpc_api.certificates import make
from .harness import counter, running_gateway
from .plain_client import answer, business, plain_client
from .plain_upstream import plain_upstream

if TYPE_CHECKING:
    from pathlib import Path


async def test_kick_and_push_of_a_stranger_do_nothing(backend: str, tmp_path: Path) -> None:
    ca, stranger = make(tmp_path, "ca"), make(tmp_path, "stranger-ca")
    server = make(tmp_path, "server", ca)
    own, foreign = make(tmp_path, "own", ca), make(tmp_path, "foreign", stranger)
    token, wrong = tmp_path / "token", tmp_path / "wrong"
    token.write_text("0123456789abcdef")
    wrong.write_text("fedcba9876543210")
    sets = [
        f"push.cert={server.cert}",
        f"push.key={server.key}",
        f"push.client_ca={ca.cert}",
        f"push.token={token}",
    ]
    by_name = {"ca": ca.cert, "cert": own.cert, "key": own.key}
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.start("alice")
        client.send(business(1, "hello"))
        assert answer(await client.receive()).code == 200
        for access, heard in (
            ({}, r"UNAVAILABLE: .*name the CA to trust it by"),
            ({"ca": ca.cert}, "UNAVAILABLE"),
            ({"ca": ca.cert, "cert": foreign.cert, "key": foreign.key}, "UNAVAILABLE"),
            (by_name, "UNAUTHENTICATED: no valid credentials"),
            ({**by_name, "token_file": str(wrong)}, "UNAUTHENTICATED: no valid credentials"),
        ):
            async with GatewayClient(gateway.grpc_address, timeout=20.0, **access) as pusher:
                for call in (pusher.kick("alice"), pusher.push("alice", data=b"x")):
                    with pytest.raises(UpstreamError, match=heard):
                        await call
        async with GatewayClient(gateway.grpc_address, timeout=20.0) as listener:
            with pytest.raises(UpstreamError, match="name the CA to trust it by"):
                async with listener.events():
                    pass
        assert counter(gateway, "push.calls") == counter(gateway, "session.kicked") == 0
        assert counter(gateway, "push.refused_no_credentials") == 2
        assert counter(gateway, "push.refused_token") == 2
        assert counter(gateway, "push.tls_handshakes") >= 5
        client.send(business(2, "echo"))
        assert answer(await client.receive()).code == 200  # and no push before it
        pusher = GatewayClient(gateway.grpc_address, **by_name, token_file=str(token))
        service = UpstreamService("chat", gateway=pusher)
        assert (await service.gateway.kick("alice")).success
        await pusher.close()
        assert await client.closed() == 4410
