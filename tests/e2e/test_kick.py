"""A user that is thrown out stays out, wherever the login stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatesvr import GatewayClient
from gatesvr._pb import message_pb2 as pb

from ..fakes import until
from .harness import counter, running_gateway
from .plain_client import answer, business, plain_client
from .plain_upstream import PlainUpstream, plain_upstream

if TYPE_CHECKING:
    from gatesvr import Gateway

    from .plain_client import PlainClient

STAGES = ("before hello", "hello in flight", "hello refused", "logged in", "lost during hello")


async def reach(
    stage: str, client: PlainClient, upstream: PlainUpstream, gateway: Gateway
) -> pb.StartResponse:
    """Bring alice's login to a stage, with a request behind her hello."""
    started = await client.start("alice")
    if stage == "before hello":
        return started
    if stage == "hello refused":
        client.send(business(1, "hello", deny="1"))
        assert answer(await client.receive()).code == 403
        return started
    if stage != "logged in":
        upstream.hello_gate.clear()
    client.send(business(1, "hello"), business(2, "echo"))
    await upstream.until_asked("hello")
    if stage == "logged in":
        await upstream.until_asked("echo")
    if stage == "lost during hello":
        client.close()
        await until(lambda: counter(gateway, "transport.connections") == 1)
    return started


@pytest.mark.parametrize("target", ["openid", "session"])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_kick_ends_a_login_wherever_it_stands(
    backend: str, stage: str, target: str
) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
        plain_client(gateway.address) as later,
        GatewayClient(gateway.grpc_address) as pusher,
    ):
        started = await reach(stage, client, upstream, gateway)
        name = "alice" if target == "openid" else started.session_id
        kicked = await pusher.kick(name, target_type=target, reason="banned")  # type: ignore[arg-type]
        assert (kicked.success, kicked.sessions) == (True, 1)
        assert counter(gateway, "session.sessions") == 0
        logins = counter(gateway, "session.logins")
        upstream.hello_gate.set()
        if stage != "lost during hello":
            assert await client.closed() == 4410
            assert client.pushes[-1].type == pb.PUSH_KICK
            assert pb.Kick.FromString(client.pushes[-1].payload).reason == "banned"
        if stage in ("hello in flight", "lost during hello"):
            # What its login came to is dropped: nobody gets in by it.
            await until(lambda: counter(gateway, "dispatch.closed_499") == 1)
        assert counter(gateway, "session.logins") == logins == (stage == "logged in")
        assert upstream.calls["echo"] == (stage == "logged in")
        response = await later.resume(started, 0, openid="alice")
        assert (response.success, response.lost_reason) == (False, pb.LOST_KICKED)


async def test_an_embedded_gateway_pushes_and_kicks_itself(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
        plain_client(gateway.address) as other,
    ):
        await client.login("alice")
        await other.start("bob")
        assert [(s.openid, s.state) async for s in gateway.sessions()] == [
            ("alice", "Normal"),
            ("bob", "Inited"),
        ]
        assert (await gateway.push("alice", data=b"1")).success
        assert (await gateway.multicast(["alice", "bob"], data=b"2")).sessions == 1
        assert (await gateway.broadcast(data=b"3")).sessions == 1
        assert [answer(await client.receive()).data for _ in range(3)] == [b"1", b"2", b"3"]
        assert (await gateway.kick("bob")).success
        assert await other.closed() == 4410
        assert [s.openid async for s in gateway.sessions()] == ["alice"]
