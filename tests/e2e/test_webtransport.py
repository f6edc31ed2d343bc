"""Sessions over WebTransport: the same life as over QUIC, and from one way to the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr.errors import CloseCode, ConfigError
from gatesvr.transport.web import webtransport
from gatesvr.transport.web.http3 import Code

from ..fakes import DEADLINE_S, until
from .harness import WEB, counter, pusher, running_gateway, web_gateway
from .plain_client import ack, answer, business, heartbeat, plain_client, stop
from .plain_upstream import plain_upstream
from .web_client import web_client
from .wt_client import H3Client, h3_client, wt_client


async def test_a_whole_session(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, WEB) as gateway,
        pusher(gateway) as services,
        wt_client(gateway.web_address) as client,
    ):
        assert client.h3.headers.get(b"sec-webtransport-http3-draft") is None
        started = await client.login("ann")
        await client.send(*(business(seq, "echo", b"%d" % seq, ack=1) for seq in range(2, 12)))
        got = [await client.receive() for _ in range(10)]
        assert sorted(answer(push).data for push in got) == sorted(b"%d" % n for n in range(2, 12))
        await services.push_all(started.session_id, b"news")
        push = await client.receive()
        assert (answer(push).data, push.seq_id) == (b"news", 12)
        info = await services.info(started.session_id)
        assert info.transport == "webtransport"
        assert upstream.requests[-1].peer.transport == "webtransport"
        await client.send(heartbeat(7))
        assert (await client.receive()).type == pb.PUSH_HEARTBEAT_RESP
        large = b"x" * 900_000
        await client.send(business(12, "echo", large, ack=12))
        assert answer(await client.receive()).data == large
        assert gateway.figures().connections == 1
        assert counter(gateway, "web.webtransport_sessions") == 1
        assert counter(gateway, "transport.datagrams_received") > 600
        await client.send(stop())
        assert await client.closed() == 0
        await until(lambda: not counter(gateway, "web.webtransport_sessions"))
        assert counter(gateway, "web.webtransport_accepted") == 1
        assert gateway.figures().closes["local"]["0"] == 1


async def test_a_session_goes_from_way_to_way(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, WEB) as gateway,
        pusher(gateway) as services,
        plain_client(gateway.address) as quic,
        wt_client(gateway.web_address) as webtransport,
        web_client(gateway.web_address) as websocket,
        wt_client(gateway.web_address) as again,
        plain_client(gateway.address) as back,
    ):
        started = await quic.login("ann")
        await services.push_all(started.session_id, b"one", b"two")
        resumed = await webtransport.resume(started, 1)
        assert (resumed.resumed, resumed.replay_from, resumed.replay_to) == (True, 2, 3)
        assert await quic.closed() == 4409
        assert [answer(await webtransport.receive()).data for _ in range(2)] == [b"one", b"two"]
        await webtransport.send(ack(2), business(2, "echo", b"three"))
        assert answer(await webtransport.receive()).data == b"three"
        assert upstream.requests[-1].peer.transport == "webtransport"
        last = resumed
        for client, old, name in (
            (websocket, webtransport, "websocket"),
            (again, websocket, "webtransport"),
            (back, again, "quic"),
        ):
            last = await client.resume(last, 3)  # type: ignore[attr-defined]
            assert (last.resumed, last.max_client_seq) == (True, 2)
            assert await old.closed() == 4409
            assert answer(await client.receive()).data == b"three"  # type: ignore[attr-defined]
            assert (await services.info(started.session_id)).transport == name


async def test_closes_say_their_code(backend: str) -> None:
    async with web_gateway(backend=backend) as gateway:
        async with wt_client(gateway.web_address) as client:
            await client.login("ann")
            await gateway.kick("ann", reason="enough")
            push = await client.receive()
            assert push.type == pb.PUSH_KICK
            assert await client.close_info() == (4410, "enough")
            assert client.stream in client.h3.ended  # behind the last push
            await until(lambda: counter(gateway, "transport.last_pushes") == 1)
            assert (await client.h3.closed())[0] == Code.NO_ERROR
        async with wt_client(gateway.web_address) as client:
            await client.send_bytes(b"\xff\xff\xff\xff")
            code, reason = await client.close_info()
            assert code == 4400
            assert reason.startswith("frame of length")
        assert counter(gateway, "transport.connection_errors") == 0


async def test_a_client_closes_or_vanishes(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, WEB) as gateway,
        pusher(gateway) as services,
    ):
        async with wt_client(gateway.web_address) as client:
            started = await client.login("ann")
            client.close_session(4000, "bye")
            assert (await client.h3.closed())[0] == Code.NO_ERROR
        await until(lambda: counter(gateway, "session.suspended") == 1)
        assert counter(gateway, "transport.closed_peer") == 1
        async with wt_client(gateway.web_address) as client:
            started = await client.resume(started, 1)
            assert started.resumed
            client.h3.write(client.session, b"", end=True)  # the same as code 0
            await client.h3.closed()
        await until(lambda: counter(gateway, "transport.closed_peer") == 2)
        async with wt_client(gateway.web_address) as client:
            started = await client.resume(started, 1)
            assert started.resumed
        # It has closed QUIC, with no word of the session's.
        await until(lambda: counter(gateway, "transport.closed_transport") == 1)
        await services.push_all(started.session_id, b"missed")
        async with wt_client(gateway.web_address) as client:
            assert (await client.resume(started, 1)).replay_to == 2
            assert answer(await client.receive()).data == b"missed"


async def test_a_stop_says_goodbye(backend: str) -> None:
    async with plain_upstream() as upstream:
        gateway_cm = running_gateway(backend, upstream.address, WEB)
        gateway = await gateway_cm.__aenter__()
        async with wt_client(gateway.web_address) as client:
            await client.login("ann")
            stopping = asyncio.ensure_future(gateway_cm.__aexit__(None, None, None))
            assert (await client.receive()).type == pb.PUSH_GOAWAY
            assert await client.closed() == 4503
            await stopping


async def test_a_full_gateway_says_when_to_come_back(backend: str) -> None:
    async with (
        web_gateway("transport.max_connections=1", backend=backend) as gateway,
        wt_client(gateway.web_address) as first,
    ):
        await first.login("ann")
        async with wt_client(gateway.web_address) as second:
            assert await second.close_info() == (4503, "retry_after_ms=5000")
        assert counter(gateway, "transport.connections_refused") == 1


async def test_requests_that_are_refused(backend: str) -> None:
    async with web_gateway(backend=backend) as gateway:
        address = gateway.web_address
        async with h3_client(address) as client:
            wrong = (
                client.request(address, "/elsewhere"),
                client.request(address, "/gatesvr", _method="GET"),
                client.request(address, "/gatesvr", _protocol="websocket"),
            )
            assert [await client.answer(stream_id) for stream_id in wrong] == [404, 404, 404]
            assert counter(gateway, "web.requests_refused") == 3
            other = client.request(address, "/gatesvr", origin="https://evil.test")
            assert await client.answer(other) == 403
            assert counter(gateway, "web.origins_refused") == 1
            # The gateway ends a connection that got no more than refusals.
            assert (await client.closed())[0] == Code.NO_ERROR
        async with wt_client(
            f"{address}", origin=f"https://{address}", **{"sec-webtransport-http3-draft02": "1"}
        ) as session:
            assert session.h3.headers[b"sec-webtransport-http3-draft"] == b"draft02"
            second = session.h3.request(address, "/gatesvr")
            await session.h3.until(lambda: second in session.h3.resets)
            assert set(session.h3.resets[second]) == {Code.REQUEST_REJECTED}
            await session.login("ann")
        assert counter(gateway, "transport.handshakes_timed_out") == 0


async def test_a_client_that_asks_for_no_session(backend: str) -> None:
    async with (
        web_gateway("transport.handshake_timeout=300ms", backend=backend) as gateway,
        h3_client(gateway.web_address) as client,
    ):
        assert counter(gateway, "transport.handshakes") == 1
        assert (await client.closed())[0] == Code.REQUEST_INCOMPLETE
        assert counter(gateway, "transport.handshakes_timed_out") == 1
        assert counter(gateway, "transport.handshakes_failed") == 1
        assert counter(gateway, "transport.accepted") == 0


async def test_other_streams_are_refused_by_themselves(backend: str) -> None:
    async with web_gateway(backend=backend) as gateway, wt_client(gateway.web_address) as client:
        await client.login("ann")
        h3 = client.h3
        http = h3.http
        streams = [
            http.create_webtransport_stream(client.session),
            http.create_webtransport_stream(client.session, is_unidirectional=True),
        ]
        for stream_id in streams:
            h3.write(stream_id, b"data")
        unknown = h3.quic.get_next_available_stream_id(is_unidirectional=True)
        h3.write(unknown, b"\x21")
        await h3.until(lambda: {*streams, unknown} <= set(h3.resets))
        assert set(h3.resets[streams[0]]) == {Code.BUFFERED_STREAM_REJECTED}
        assert h3.resets[unknown] == [Code.STREAM_CREATION_ERROR]
        assert counter(gateway, "transport.streams_refused") == 3
        h3.quic.send_datagram_frame(b"\0nothing")
        await client.send(business(2, "echo", b"alive", ack=1))
        assert answer(await client.receive()).data == b"alive"
        # The stream that carries messages may end, as stream 0 of a QUIC client.
        h3.write(client.stream, b"", end=True)
        assert await client.closed() == 0


async def test_a_broken_rule_ends_the_connection(backend: str) -> None:
    async with web_gateway(backend=backend) as gateway:
        async with wt_client(gateway.web_address) as client:
            await client.login("ann")
            client.h3.write(client.session, b"\x04\x00")  # SETTINGS
            assert (await client.h3.closed())[0] == Code.FRAME_UNEXPECTED
        await until(lambda: counter(gateway, "session.suspended") == 1)
        async with h3_client(gateway.web_address) as client:
            client.write(client.quic.get_next_available_stream_id(), b"\x01\x50\x01")
            assert (await client.closed())[0] == Code.EXCESSIVE_LOAD
        assert counter(gateway, "web.http3_violations") == 2
        assert gateway.figures().closes["local"]["other"] == 1
        assert counter(gateway, "transport.handshakes_failed") == 1
        await until(lambda: not counter(gateway, "web.webtransport_sessions"))


@pytest.mark.parametrize("path", ["/gatesvr", "/elsewhere"])
async def test_a_client_that_wants_no_answer(backend: str, path: str) -> None:
    async with web_gateway(backend=backend) as gateway, h3_client(gateway.web_address) as client:
        await until(lambda: counter(gateway, "transport.handshakes") == 1)
        stream_id = client.request("localhost", path)
        client.quic.stop_stream(stream_id, Code.NO_ERROR)
        client.transmit()  # both datagrams are there before either is handled
        assert (await client.closed())[0] == Code.NO_ERROR
        await until(lambda: not counter(gateway, "web.webtransport_sessions"))
        assert counter(gateway, "transport.connection_errors") == 0


async def test_a_close_nobody_wants_to_read(backend: str) -> None:
    async with web_gateway(backend=backend) as gateway, wt_client(gateway.web_address) as client:
        await client.login("ann")
        client.h3.quic.stop_stream(client.session, Code.NO_ERROR)
        await client.send_bytes(b"\xff\xff\xff\xff")
        assert (await client.h3.closed())[0] == Code.NO_ERROR
        await until(lambda: not counter(gateway, "web.webtransport_sessions"))
        assert counter(gateway, "transport.connection_errors") == 0


async def test_a_page_may_read_the_last_push_before_the_session_closes(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser acknowledges for its page, and drops what is unread when the session closes."""
    monkeypatch.setattr(webtransport, "HAND_OVER_S", DEADLINE_S)
    async with web_gateway(backend=backend) as gateway, wt_client(gateway.web_address) as client:
        await client.login("ann")
        client.h3.reads_at_once = False
        await gateway.kick("ann")
        assert (await client.receive()).type == pb.PUSH_KICK
        await until(lambda: counter(gateway, "transport.last_pushes") == 1)
        assert client.session not in client.h3.ended
        client.h3.write(client.stream, b"", end=True)
        assert await client.closed() == CloseCode.KICKED
        assert counter(gateway, "transport.last_pushes") == 1


async def test_a_client_that_lets_us_open_no_stream(backend: str) -> None:
    class Mean(H3Client):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.quic._local_max_streams_uni.value = 0

    async with (
        web_gateway(backend=backend) as gateway,
        h3_client(gateway.web_address, protocol=Mean) as client,
    ):
        assert (await client.closed())[0] == Code.GENERAL_PROTOCOL_ERROR
        assert counter(gateway, "web.http3_violations") == 1
        assert counter(gateway, "transport.connection_errors") == 0


async def test_either_way_can_be_off() -> None:
    async with web_gateway("transport.web.websocket=false") as gateway:
        async with wt_client(gateway.web_address) as client:
            await client.login("ann")
        with pytest.raises(ConnectionRefusedError):
            async with web_client(gateway.web_address):
                pass
    async with web_gateway("transport.web.webtransport=false") as gateway:
        async with web_client(gateway.web_address) as client:
            await client.login("ann")
        assert len(gateway.listener._doors) == 1
    with pytest.raises(ConfigError, match="there is no way in"):
        async with web_gateway("transport.web.websocket=false", "transport.web.webtransport=false"):
            pass


async def test_a_new_certificate_is_shown_here_too(backend: str) -> None:
    async with web_gateway(backend=backend) as gateway:
        doors = gateway.listener._doors
        before = [door.server for door in doors]
        gateway.apply(gateway.config)
        assert all(door.server is not old for door, old in zip(doors, before, strict=True))
        async with wt_client(gateway.web_address) as client:
            await client.login("ann")


async def test_a_client_whose_connection_id_has_no_bytes(backend: str) -> None:
    async with (
        web_gateway(backend=backend) as gateway,
        wt_client(gateway.web_address, id_length=0) as client,
    ):
        await client.login("ann")
        large = b"x" * 300_000
        await client.send(business(2, "echo", large, ack=1))
        assert answer(await client.receive()).data == large
        # qh3 takes such a client only at an id of ours, which a Retry gives.
        assert (counter(gateway, "transport.retries_validated") > 0) == (backend == "qh3")
        await client.send(stop())
        assert await client.closed() == 0


async def test_a_client_without_connection_id_moves(backend: str) -> None:
    async with (
        web_gateway(backend=backend) as gateway,
        wt_client(gateway.web_address, id_length=0) as client,
    ):
        await client.login("ann")
        loop = asyncio.get_running_loop()
        before = client.h3._transport
        other, _ = await loop.create_datagram_endpoint(
            lambda: client.h3, local_addr=(*before.get_extra_info("sockname")[:1], 0)
        )
        for seq in range(2, 6):
            await client.send(business(seq, "echo", b"%d" % seq, ack=seq - 1))
            assert answer(await client.receive()).data == b"%d" % seq
        await until(lambda: counter(gateway, "transport.address_changes") == 1)
        before.close()
        await client.send(business(6, "echo", b"there", ack=5))
        assert answer(await client.receive()).data == b"there"
        other.close()


async def test_start_is_due_as_over_quic(backend: str) -> None:
    async with (
        web_gateway("session.start_timeout=50ms", backend=backend) as gateway,
        wt_client(gateway.web_address) as client,
    ):
        assert await client.closed() == 4408
        assert counter(gateway, "dispatch.start_timeouts") == 1


async def test_who_asks_and_wants_no_answer(backend: str) -> None:
    async with web_gateway("transport.handshake_timeout=300ms", backend=backend) as gateway:
        for path in ("/gatesvr", "/elsewhere"):
            async with h3_client(gateway.web_address) as client:
                client.request(gateway.web_address, path, is_stopped=True)
                await client.closed()
        assert counter(gateway, "transport.connection_errors") == 0
        assert counter(gateway, "web.webtransport_sessions") == 0
