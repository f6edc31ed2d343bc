"""A drain: readiness first, then refusals, paced GOAWAYs, answers, and an end in time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr import Client, Gateway, drain
from gatesvr._pb import message_pb2 as pb
from gatesvr.config import load
from gatesvr.errors import ConfigError, ConnectionFailed, SessionLost

from .e2e.harness import counter, running_gateway
from .e2e.plain_client import answer, business, error, plain_client
from .e2e.plain_upstream import plain_upstream
from .fakes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .e2e.plain_client import PlainClient

DEADLINE_S = 60.0


def make_client(*gateways: Gateway, openid: str = "ann", backend: str = "auto") -> Client:
    servers = [gateway.address for gateway in gateways]
    return Client(servers, openid=openid, insecure=True, transport=backend)


@asynccontextmanager
async def drained(gateway: Gateway, **how: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Drain at once, and wait for the end behind the block."""
    async with asyncio.timeout(DEADLINE_S):
        task = asyncio.create_task(gateway.drain(**{"ready_wait": 0.0, **how}))
        await until(lambda: gateway.drain_status().phase not in ("serving", "unready"))
        try:
            yield task
        finally:
            await task


async def told(client: PlainClient) -> pb.GoAway:
    push = await client.receive()
    assert push.type == pb.PUSH_GOAWAY
    return pb.GoAway.FromString(push.payload)


async def test_nobody_is_refused_before_readiness_is_false(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
    ):
        assert (gateway.is_ready, gateway.drain_status().phase) == (True, "serving")
        draining = asyncio.create_task(gateway.drain(ready_wait=600, timeout=3600))
        await until(lambda: not gateway.is_ready)
        assert gateway.not_ready() == ["draining"]
        status = gateway.drain_status()
        assert (status.phase, status.connections_at_start) == ("unready", 0)
        async with make_client(gateway, backend=backend) as client:  # as if nothing had happened
            assert (await client.request("echo", b"x")).data == b"x"
        assert counter(gateway, "transport.initials_refused") == 0
        gateway.end_drain()
        await draining
        assert gateway.not_ready() == ["stopping"]
        assert gateway.drain_status().phase == "stopped"


async def test_requests_finish_and_then_the_client_goes(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "STAY_S", 0.05)
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(business(2, "gate", b"x"))
        await upstream.until_asked("gate")
        async with drained(gateway):
            assert (await told(client)).reconnect_after_ms == 1000
            assert gateway.drain_status().requests_left == 1
            # Who does not know what GOAWAY means is served as before.
            client.send(business(3, "echo", b"y"))
            push = await client.receive()
            assert (answer(push).data, push.client_seq_id) == (b"y", 3)
            upstream.gate.set()
            push = await client.receive()
            assert (answer(push).data, push.client_seq_id) == (b"x", 2)
            client.send(pb.ClientRequest(type=pb.REQUEST_ACK, payload=ack(3)))
            assert await client.closed() == 4503
            assert client.terminated is not None
            assert client.terminated.reason_phrase == "reconnect_after_ms=1000"
        assert gateway.stats()["drain"] == {
            "goaways": 1,
            "dismissed": 1,
            "connections_cut": 0,
            "requests_cut": 0,
            "sessions_cut": 0,
        }


async def test_nobody_else_comes_in(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "STAY_S", DEADLINE_S)
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
        plain_client(gateway.address) as late,
        plain_client(gateway.address) as resuming,
    ):
        before = await client.login("alice")
        await until(lambda: counter(gateway, "transport.connections") == 3)
        async with drained(gateway):
            # No START, whether it resumes or not, and no handshake.
            response = await late.start("bob")
            assert (response.success, response.error.error_code) == (False, 503)
            response = await resuming.resume(before, 1)
            assert (response.success, response.error.error_code) == (False, 503)
            assert await late.closed() == await resuming.closed() == 4503
            assert late.terminated is not None
            assert late.terminated.reason_phrase == "retry_after_ms=1000"
            stranger = Client(
                gateway.address, openid="eve", insecure=True, transport=backend, connect_timeout=0.2
            )
            with pytest.raises(ConnectionFailed, match="the gateway stops"):
                await stranger.connect()
            gateway.end_drain()
        assert counter(gateway, "session.refused_draining") == 2
        assert counter(gateway, "transport.initials_refused") >= 1


def ack(seq: int) -> bytes:
    return pb.ClientAck(acked_seq_id=seq).SerializeToString()


async def test_the_end_comes_in_time() -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(business(2, "silent"))
        await upstream.until_asked("silent")
        async with drained(gateway, timeout=0.2):
            await told(client)
            push = await client.receive()
            assert (error(push).error_code, error(push).outcome) == (503, pb.OUTCOME_UNKNOWN)
            assert await client.closed() == 4503
        counters = gateway.stats()["drain"]
        assert (counters["connections_cut"], counters["requests_cut"]) == (1, 1)


async def test_messages_on_their_way_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "STAY_S", 0.01)
    monkeypatch.setattr(drain, "LOOK_S", 0.01)
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        async with drained(gateway):
            await told(client)
            await until(lambda: gateway.drain_status().phase == "finishing")
            await gateway.push("alice", content="last words")
            push = await client.receive()
            assert push.seq_id == 2
            for _ in range(20):  # looked at, and let be
                await asyncio.sleep(0.005)
            assert client.terminated is None
            client.send(pb.ClientRequest(type=pb.REQUEST_ACK, payload=ack(2)))
            assert await client.closed() == 4503


async def test_goaways_are_paced_and_in_time_whatever_the_rate() -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address) as gateway,
        plain_client(gateway.address) as client,
        plain_client(gateway.address) as other,
    ):
        for each, openid in ((client, "alice"), (other, "bob")):
            await each.login(openid)
            each.send(pb.ClientRequest(type=pb.REQUEST_ACK, payload=ack(1)))
        began = asyncio.get_running_loop().time()
        async with drained(gateway, rate=0.001, timeout=1.0):
            # Both within the first half of the second, not one in 1,000 s.
            assert gateway.drain_status().rate >= 4
            await asyncio.gather(told(client), told(other))
            status = gateway.drain_status()
            assert (status.connections_at_start, status.connections_told) == (2, 2)
        assert asyncio.get_running_loop().time() - began < DEADLINE_S


async def test_a_connection_without_a_session_is_dismissed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drain, "STAY_S", 0.01)
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await until(lambda: len(gateway.dispatcher))
        async with drained(gateway):
            assert await client.closed() == 4503
        counters = gateway.stats()["drain"]
        assert (counters["goaways"], counters["dismissed"]) == (0, 1)


async def test_clients_that_know_another_gateway_move_there(backend: str) -> None:
    """What their applications see: answers, and word that the session is another."""
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as first,
        running_gateway(backend, upstream.address) as second,
        make_client(first, second, backend=backend) as client,
    ):
        session_id = client.session_id
        assert len(first.dispatcher) == 1  # the preferred one
        running = asyncio.create_task(client.request("gate", b"begun"))
        await upstream.until_asked("gate")
        async with drained(first):
            await until(lambda: counter(first, "drain.goaways"))
            waiting = asyncio.create_task(client.request("echo", b"waits"))
            upstream.gate.set()
            assert (await running).data == b"begun"
            assert (await waiting).data == b"waits"
            with pytest.raises(SessionLost):
                await anext(client)
        assert counter(second, "session.logins") == 1
        assert client.session_id != session_id
        assert (await client.request("echo", b"on")).data == b"on"
        counters = first.stats()["drain"]
        assert (counters["dismissed"], counters["connections_cut"]) == (0, 0)


async def test_clients_go_where_the_drain_sends_them(backend: str) -> None:
    """They know one gateway, wait for their answers there, and are told of the other one."""
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as first,
        running_gateway(backend, upstream.address) as second,
        make_client(first, backend=backend) as client,
        plain_client(first.address) as plain,
    ):
        await plain.login("bob")
        running = asyncio.create_task(client.request("gate", b"begun"))
        await upstream.until_asked("gate")
        async with drained(first, to=second.address):
            goaway = await told(plain)
            assert (goaway.address, goaway.reconnect_after_ms) == (second.address, 1)
            assert first.drain_status().to == second.address
            plain.send(pb.ClientRequest(type=pb.REQUEST_ACK, payload=ack(1)))
            waiting = asyncio.create_task(client.request("echo", b"waits"))
            upstream.gate.set()
            assert (await running).data == b"begun"
            assert (await waiting).data == b"waits"
            with pytest.raises(SessionLost):
                await anext(client)
        assert counter(second, "session.logins") == 1
        assert counter(first, "drain.connections_cut") == 0


async def test_web_clients_go_to_an_address_of_their_own() -> None:
    async with plain_upstream() as upstream, running_gateway("auto", upstream.address) as gateway:
        rig = gateway.dispatcher
        said: list[tuple[str, str]] = []

        class Told:
            is_ended = False
            is_done = True

            def __init__(self, transport: str) -> None:
                self.transport = transport

            def go_away(self, reason: str, reconnect_after_ms: int, address: str) -> bool:
                said.append((self.transport, address))
                self.is_ended = True
                rig._handlers.clear()
                return True

            def close(self, *args: Any) -> None:
                pass

        for number, transport in enumerate(("quic", "websocket", "webtransport")):
            rig._handlers[number] = Told(transport)  # type: ignore[assignment]
        async with drained(gateway, to="a.example:1", to_web="b.example:2"):
            pass
        assert said == [
            ("quic", "a.example:1"),
            ("websocket", "b.example:2"),
            ("webtransport", "b.example:2"),
        ]


async def test_clients_find_another_gateway_when_theirs_is_gone(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed: the session's gateway is asked first, then the others."""
    async with plain_upstream() as upstream, running_gateway(backend, upstream.address) as second:
        first = Gateway(second.config)
        await first.start()
        client = make_client(first, second, backend=backend)
        with monkeypatch.context() as patch:
            # However late the first one answers on a busy machine, it is taken.
            patch.setattr("gatesvr.transport.client.RACE_DELAY_S", 60.0)
            await client.connect()
        try:
            assert len(first.dispatcher) == 1
            # A connection that is lost is no reason to leave a session behind.
            first.listener.close_all(4500)
            await until(lambda: counter(first, "session.resumes") == 1 and client.is_connected)
            assert counter(second, "transport.accepted") == 0
            for connection in list(first.listener.connections):
                connection.discard()
            await first.listener.stop()
            assert client._connector is not None
            assert client._connector._link is not None
            client._connector._link.close(4408, "silent")  # as after the heartbeats' patience
            await until(lambda: not client.is_connected)
            assert (await client.request("echo", b"on")).data == b"on"
            assert counter(second, "session.logins") == 1
        finally:
            await client.close()
            await first.stop()


async def test_a_first_connect_takes_the_gateway_that_there_is(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as first,
        running_gateway(backend, upstream.address) as second,
    ):
        async with drained(first):
            pass
        async with make_client(first, second, backend=backend) as client:
            assert (await client.request("echo", b"x")).data == b"x"


async def test_drain_twice_is_one_and_stop_cuts_it_short() -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(business(2, "silent"))
        await upstream.until_asked("silent")
        heard = []
        gateway.on_drain = lambda: heard.append(gateway.drain_status().phase)
        draining = [asyncio.create_task(gateway.drain(ready_wait=0)) for _ in range(2)]
        await told(client)
        cancelled = asyncio.create_task(gateway.drain())
        await asyncio.sleep(0)
        cancelled.cancel()
        assert gateway.drain_status().phase == "finishing"
        await gateway.stop()
        await asyncio.gather(*draining)
        await gateway.drain()
        assert heard == ["serving"]
        assert counter(gateway, "drain.requests_cut") == 1


async def test_a_drain_that_is_ended_may_be_stopped_in_the_same_turn() -> None:
    async with plain_upstream() as upstream, running_gateway("auto", upstream.address) as gateway:
        draining = asyncio.create_task(gateway.drain(ready_wait=600, timeout=3600))
        await until(lambda: not gateway.is_ready)
        gateway.end_drain()
        await gateway.stop()
        await draining
        assert gateway.drain_status().phase == "stopped"


@pytest.mark.parametrize(
    "how",
    [
        {"rate": 0},
        {"timeout": -1},
        {"ready_wait": "1s"},
        {"to": "elsewhere"},
        {"to": ":8453"},
        {"to": "a.example:0"},
        {"to_web": "a" * 254 + ":1"},
    ],
)
async def test_what_is_out_of_range_begins_no_drain(how: Any) -> None:
    gateway = Gateway(load(sets=["transport.bind=127.0.0.1:0", "push.bind=127.0.0.1:0"]))
    with pytest.raises(ConfigError, match=next(iter(how))):
        await gateway.drain(**how)
    assert gateway.drain_status().phase == "serving"


# Readiness.


async def test_a_gateway_is_ready_once_it_has_started() -> None:
    gateway = Gateway(load(sets=["transport.bind=127.0.0.1:0", "push.bind=127.0.0.1:0"]))
    assert gateway.not_ready() == ["not started"]
    await gateway.start()
    assert gateway.is_ready
    await gateway.stop()
    assert gateway.not_ready() == ["stopping"]
    assert gateway.drain_status().phase == "stopped"


async def test_a_required_service_has_to_be_there() -> None:
    async with plain_upstream() as upstream:
        nobody = 'upstream.services.chat=[{address="127.0.0.1:1"}]'
        required = 'upstream.required=["hello", "chat"]'
        async with running_gateway("aioquic", upstream.address, nobody, required) as gateway:
            await until(lambda: gateway.upstream.is_usable("hello"))
            assert gateway.not_ready() == ["no usable endpoint of chat"]
            assert not gateway.upstream.is_usable("nonsense")


async def test_want_of_memory_is_a_reason() -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, "overload.max_memory=1MiB") as gateway,
    ):
        gateway.engine.overload.tick()
        assert gateway.not_ready() == ["short of memory"]
