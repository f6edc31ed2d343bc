"""Sessions over WebSocket: the same life as over QUIC, and from one way to the other."""

from __future__ import annotations

import asyncio

import pytest

from gatesvr._pb import message_pb2 as pb

from ..fakes import until
from .harness import WEB, counter, pusher, running_gateway
from .plain_client import ack, answer, business, heartbeat, plain_client, stop
from .plain_upstream import plain_upstream
from .web_client import web_client


async def test_a_whole_session() -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, WEB) as gateway,
        pusher(gateway) as services,
        web_client(gateway.web_address) as client,
    ):
        started = await client.login("ann")
        await client.send(*(business(seq, "echo", b"%d" % seq, ack=1) for seq in range(2, 12)))
        got = [await client.receive() for _ in range(10)]
        assert sorted(answer(push).data for push in got) == sorted(b"%d" % n for n in range(2, 12))
        assert [push.seq_id for push in got] == list(range(2, 12))
        await services.push_all(started.session_id, b"news")
        push = await client.receive()
        assert (answer(push).data, push.seq_id) == (b"news", 12)
        info = await services.info(started.session_id)
        assert info.transport == "websocket"
        assert upstream.requests[-1].peer.transport == "websocket"
        await client.send(heartbeat(7))
        assert (await client.receive()).type == pb.PUSH_HEARTBEAT_RESP
        large = b"x" * 900_000
        await client.send(business(12, "echo", large, ack=12))
        assert answer(await client.receive()).data == large
        await client.send(stop())
        assert await client.closed() == 1000
        await until(lambda: not counter(gateway, "web.connections"))
        assert counter(gateway, "web.accepted") == 1
        assert counter(gateway, "web.messages_received") == 6
        assert counter(gateway, "web.messages_sent") >= 5
        assert counter(gateway, "web.bytes_received") > 900_000
        assert counter(gateway, "web.bytes_sent") > 900_000
        assert gateway.figures().closes["local"]["0"] == 1


async def test_a_session_goes_from_quic_to_websocket_and_back(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, WEB) as gateway,
        pusher(gateway) as services,
        plain_client(gateway.address) as first,
        web_client(gateway.web_address) as second,
        plain_client(gateway.address) as third,
        gateway.events(["logged_in", "resumed"]) as events,
    ):
        started = await first.login("ann")
        assert upstream.requests[-1].peer.transport == "quic"
        await services.push_all(started.session_id, b"one", b"two")
        resumed = await second.resume(started, 1)
        assert (resumed.resumed, resumed.replay_from, resumed.replay_to) == (True, 2, 3)
        assert await first.closed() == 4409
        assert [answer(await second.receive()).data for _ in range(2)] == [b"one", b"two"]
        await second.send(ack(2), business(2, "echo", b"three"))
        assert answer(await second.receive()).data == b"three"
        assert upstream.requests[-1].peer.transport == "websocket"
        assert (await services.info(started.session_id)).transport == "websocket"
        back = await third.resume(resumed, 3)
        assert (back.resumed, back.generation, back.max_client_seq) == (True, 3, 2)
        assert await second.closed() == 4409
        assert answer(await third.receive()).data == b"three"
        assert (await services.info(started.session_id)).transport == "quic"
        told = [(await anext(events)).transport for _ in range(3)]
        assert told == ["quic", "websocket", "quic"]


async def test_a_kick_comes_before_its_close() -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, WEB) as gateway,
        web_client(gateway.web_address) as client,
    ):
        await client.login("ann")
        await gateway.kick("ann", reason="enough")
        push = await client.receive()
        assert push.type == pb.PUSH_KICK
        assert pb.Kick.FromString(push.payload).reason == "enough"
        assert await client.closed() == 4410
        await until(lambda: counter(gateway, "transport.last_pushes") == 1)


async def test_a_client_that_vanishes_is_resumed() -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, WEB) as gateway,
        pusher(gateway) as services,
    ):
        async with web_client(gateway.web_address) as first:
            started = await first.login("ann")
            first.connection.transport.abort()
        await until(lambda: counter(gateway, "session.suspended") == 1)
        assert counter(gateway, "transport.closed_transport") == 1
        await services.push_all(started.session_id, b"missed")
        async with web_client(gateway.web_address) as second:
            assert (await second.resume(started, 1)).replay_to == 2
            assert answer(await second.receive()).data == b"missed"
        await until(lambda: counter(gateway, "transport.closed_peer") == 1)


async def test_a_stop_says_goodbye() -> None:
    async with plain_upstream() as upstream:
        gateway_cm = running_gateway("aioquic", upstream.address, WEB)
        gateway = await gateway_cm.__aenter__()
        async with web_client(gateway.web_address) as client:
            await client.login("ann")
            stopping = asyncio.ensure_future(gateway_cm.__aexit__(None, None, None))
            assert (await client.receive()).type == pb.PUSH_GOAWAY
            assert await client.closed() == 4503
            await stopping
        with pytest.raises(ConnectionRefusedError):
            async with web_client(gateway.web_address):
                pass


async def test_a_slow_reader_costs_its_queue_only() -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, WEB) as gateway,
        pusher(gateway) as services,
        web_client(gateway.web_address, max_queue=1) as client,
    ):
        started = await client.login("ann")
        pieces = [bytes([n]) * 200_000 for n in range(15)]
        client.connection.transport.pause_reading()
        for piece in pieces:
            await services.push_all(started.session_id, piece)
        (connection,) = gateway.web.connections
        assert connection.stream.unsent_bytes() < 600_000
        client.connection.transport.resume_reading()
        assert [answer(await client.receive()).data for _ in pieces] == pieces


async def test_a_slow_reader_gets_the_rest_though_it_says_nothing() -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, WEB, "transport.idle_timeout=60s") as gateway,
        pusher(gateway) as services,
        web_client(gateway.web_address, ping_interval=None) as client,
    ):
        started = await client.login("ann")
        (connection,) = gateway.web.connections
        client.connection.transport.pause_reading()
        sent = 0
        while connection.unsent_bytes() < 32 << 10:
            await services.push_all(started.session_id, b"x" * 10_000)
            sent += 1
        await services.push_all(started.session_id, b"last")
        client.connection.transport.resume_reading()
        for _ in range(sent):
            await client.receive()
        assert answer(await client.receive()).data == b"last"
        assert counter(gateway, "transport.pings_sent") == 0
