"""The client over WebSocket: what is its own there, and sessions that change their way."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from gatesvr import Client
from gatesvr.client.reconnect import Backoff
from gatesvr.errors import CloseCode, ConfigError, ConnectionFailed, SessionLost
from gatesvr.protocol.messages import goaway_frame
from gatesvr.transport.addresses import Place, parse_place
from gatesvr.transport.tls import generate_certificate
from gatesvr.transport.web import client_socket

from ..conftest import BACKENDS
from ..e2e.bad_network import bad_network
from ..e2e.harness import counter, pusher, running_gateway
from ..e2e.plain_upstream import plain_upstream
from ..fakes import until
from .fake_gateway import WEBSOCKET, fake_gateway
from .test_client import DEADLINE_S, both, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

WEB = "transport.web.bind=127.0.0.1:0"
ACCEPT = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_session_over_websocket(loop: str) -> None:
    async def main() -> None:
        async with both(WEBSOCKET) as (gateway, client):
            assert client.transport == "websocket"
            big = b"x" * 300_000
            answers = await asyncio.gather(*(client.request("echo", big) for _ in range(8)))
            assert {answer.data for answer in answers} == {big}
            small = [str(number).encode() for number in range(500)]
            answers = await asyncio.gather(*(client.request("echo", text) for text in small))
            assert [answer.data for answer in answers] == small
            await client.request("push", b"3")
            assert [notify.data for notify in await read(client, 3)] == [b"0", b"1", b"2"]
        assert gateway.stops == 1
        await until(lambda: gateway.lost)
        assert gateway.lost[0].kind == "local"  # the close behind STOP

    run: Any = asyncio.run if loop == "asyncio" else uvloop.run
    run(main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_connect_that_is_given_up_leaves_nothing(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Given up while TLS comes up, while the HTTP answer is due, while START is not answered."""

    async def main() -> None:
        heard = asyncio.Event()

        async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.set()
            await reader.read()
            writer.close()

        silent = await asyncio.start_server(be_silent, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        async with fake_gateway(WEBSOCKET) as gateway:
            gateway.is_mute = True
            for url in (f"wss://127.0.0.1:{port}", f"ws://127.0.0.1:{port}", gateway.server):
                heard.clear()
                client = Client(url, openid="ann")
                connecting = asyncio.create_task(client.connect())
                await until(lambda: heard.is_set() or gateway.listener.connections)
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)
                await client.close()
            await until(lambda: not gateway.listener.connections)
        silent.close()
        del client, connecting
        gc.collect()

    run: Any = asyncio.run if loop == "asyncio" else uvloop.run
    run(main())
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def test_a_list_of_frames_fits_a_gateway_of_short_ones() -> None:
    limits = "session.max_message_bytes=16384", "session.max_login_bytes=16384"
    async with (
        asyncio.timeout(DEADLINE_S),
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, WEB, *limits) as gateway,
        Client(f"wss://{gateway.web_address}", openid="ann", insecure=True) as client,
    ):
        texts = [b"%d" % number + bytes(1_000) for number in range(25)]
        answers = await asyncio.gather(*(client.request("echo", text) for text in texts))
        assert [answer.data for answer in answers] == texts
        assert counter(gateway, "web.accepted") == 1


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_quic_port_of_web_clients_is_none_of_ours(backend: str) -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, WEB) as gateway,
    ):
        client = Client(gateway.web_address, openid="ann", insecure=True, transport=backend)
        with pytest.raises(ConnectionFailed, match="does not speak the gatesvr protocol"):
            await client.connect()


async def test_goaway_leads_to_another_gateways_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self, random, delay=0.0: delay)
    async with both(WEBSOCKET) as (gateway, client), fake_gateway(WEBSOCKET) as other:
        assert gateway.session.link is not None
        gateway.session.link.write(goaway_frame("go there", 0, other.server.removeprefix("wss://")))
        await until(lambda: other.starts and client.is_connected)
        assert client.transport == "websocket"


@pytest.mark.parametrize("how", ["closed", "cut", "goaway"])
async def test_a_lost_websocket_is_replaced(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self, random, delay=0.0: delay)
    async with both(WEBSOCKET) as (gateway, client):
        held = asyncio.create_task(client.request("hold"))
        await until(lambda: gateway.session.held)
        link = gateway.session.link
        assert link is not None
        if how == "closed":
            link.close(CloseCode.SLOW_CONSUMER)
        elif how == "cut":
            link._connection.abort()  # type: ignore[attr-defined]
        else:
            link.write(goaway_frame("drain", 0, ""))
        await until(lambda: len(gateway.starts) == 2 and client.is_connected)
        assert (gateway.starts[1].session_id, client.transport) == (client.session_id, "websocket")
        gateway.session.notify(b"after")
        assert (await anext(client)).data == b"after"
        gateway.session.release()
        assert (await held).data == b"released"
        assert len(gateway.sessions) == 1


async def test_a_kick_is_final() -> None:
    async with both(WEBSOCKET) as (gateway, client):
        assert gateway.session.link is not None
        gateway.session.link.close(CloseCode.KICKED, "enough")
        with pytest.raises(SessionLost, match="enough") as caught:
            await anext(client)
        assert (caught.value.code, caught.value.is_final) == (4410, True)
        assert len(gateway.starts) == 1


async def test_a_silent_gateway_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self, random, delay=0.0: delay)
    async with asyncio.timeout(DEADLINE_S), fake_gateway(WEBSOCKET) as gateway:
        gateway.heartbeat_interval = 1
        async with Client(gateway.server, openid="ann") as client:
            gateway.is_mute = True
            # It wants an answer, and so asks soon whether the gateway is still there.
            asking = asyncio.create_task(client.request("echo", b"again"))
            await until(lambda: not client.is_connected)
            gateway.is_mute = False
            assert (await asking).data == b"again"
            assert len(gateway.starts) == 2
        assert gateway.lost[0].kind in ("peer", "peer_transport")


async def test_a_session_goes_from_quic_to_websocket_and_back(backend: str) -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, WEB) as gateway,
        pusher(gateway) as services,
    ):
        state, session_id = b"", ""
        url = f"wss://{gateway.web_address}/gatesvr"
        ways = [(gateway.address, "quic"), (url, "websocket")]
        for number, (server, way) in enumerate([*ways, *ways]):
            client = Client(server, openid="ann", transport=backend, insecure=True, resume=state)
            await client.connect()
            assert (client.transport, client.session_id) == (way, session_id or client.session_id)
            session_id = client.session_id
            assert (await services.info(session_id)).transport == way
            if number:
                assert (await anext(client)).data == b"for %d" % number
            assert (await client.request("echo", b"%d" % number)).data == b"%d" % number
            state = await client.suspend()
            await services.push_all(session_id, b"for %d" % (number + 1))
        assert counter(gateway, "session.resumes") == 3


async def test_a_list_may_hold_both_ways(backend: str) -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, WEB) as gateway,
    ):
        url = f"wss://{gateway.web_address}"
        loop = asyncio.get_running_loop()
        blocked, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
        try:
            servers = [blocked.get_extra_info("sockname")[:2], url]
            client = Client(servers, openid="ann", transport=backend, insecure=True)
            async with client:
                assert client.transport == "websocket"
        finally:
            blocked.close()
        servers = [gateway.address, url]
        async with Client(servers, openid="ann", transport=backend, insecure=True) as client:
            assert client.transport == "quic"


async def test_a_session_goes_on_where_udp_is_no_more(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self, random, delay=0.0: delay)
    async with (
        asyncio.timeout(DEADLINE_S),
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, WEB, "session.heartbeat_interval=1s") as gateway,
        pusher(gateway) as services,
        bad_network(gateway.address, 1) as network,
    ):
        servers = [network.address, f"wss://{gateway.web_address}"]
        client = Client(servers, openid="ann", transport=backend, insecure=True)
        async with client:
            assert client.transport == "quic"
            session_id = client.session_id
            network.black_out(2 * DEADLINE_S)
            await services.push_all(session_id, b"over TCP")
            assert (await client.request("echo", b"asked")).data == b"asked"
            assert (await anext(client)).data == b"over TCP"
            assert (client.transport, client.session_id) == ("websocket", session_id)
        assert counter(gateway, "session.resumes") == 1


async def test_what_has_arrived_goes_before_a_timer_that_is_late() -> None:
    async with both(WEBSOCKET) as (_, client):
        link: Any = client._connector._link  # type: ignore[union-attr]
        handled: list[float] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(link.handler, "get_timer", lambda: 10.0)
            patch.setattr(link.handler, "handle_timer", handled.append)
            link._connection._on_timer(20.0)
            assert handled == []
            link._connection._on_timer(20.1)
            assert handled == [20.1]


async def test_a_certificate_that_is_not_trusted_is_final(tmp_path: Path) -> None:
    async with fake_gateway(WEBSOCKET) as gateway:
        other = tmp_path / "other.pem"
        other.write_bytes(generate_certificate()[0])
        client = Client(gateway.server, openid="ann", ca=other)
        with pytest.raises(ConnectionFailed, match=r"certificate of 127.*\(trusting .*other.pem"):
            await client.connect()
        insecure = Client(gateway.server, openid="ann", insecure=True)
        async with insecure:
            assert insecure.is_connected


@asynccontextmanager
async def web_server(*answers: str) -> AsyncIterator[tuple[str, list[str]]]:
    """Answer each connection by the next answer, the last one again and again."""
    requests: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        answer = answers[min(len(requests), len(answers) - 1)]
        requests.append(request)
        key = request.partition("Sec-WebSocket-Key: ")[2].partition("\r\n")[0]
        accept = base64.b64encode(hashlib.sha1((key + ACCEPT).encode()).digest()).decode()
        writer.write(answer.replace("ACCEPT", accept).replace("\n", "\r\n").encode("latin-1"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests
    finally:
        server.close()


UPGRADE = (
    "HTTP/1.1 101 Yes\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: ACCEPT\n"
)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("HTTP/1.1 404 Not Found\n\nnothing", "answers HTTP 404 Not Found .is the path right"),
        ("HTTP/1.1 200 OK\n\na page", "answers HTTP 200 OK .is the path right"),
        ("HTTP/1.1 403 Forbidden\nContent-Length: 0\n\n", "answers HTTP 403 Forbidden"),
        ("HTTP/1.1 301 Moved\nLocation: /\nContent-Length: 0\n\n", "answers HTTP 301 Moved"),
        (f"{UPGRADE}\n", "takes no subprotocol 'gatesvr'"),
        (f"{UPGRADE}Sec-WebSocket-Protocol: chat\n\n", "unsupported subprotocol: chat"),
        ("HTTP/1.1 101 Yes\n\n", "is no WebSocket server"),
        ("220 mail.example\n", "is no WebSocket server"),
    ],
)
async def test_an_answer_that_is_no_gateways_is_final(answer: str, said: str) -> None:
    async with web_server(answer) as (url, requests):
        with pytest.raises(ConnectionFailed, match=said) as caught:
            await Client(f"{url}/here?x=1", openid="ann").connect()
        assert f"{url}/here?x=1 " in str(caught.value)
        assert len(requests) == 1
        assert requests[0].startswith("GET /here?x=1 HTTP/1.1\r\n")
        assert "\r\nSec-WebSocket-Protocol: gatesvr\r\n" in requests[0]
        assert "Sec-WebSocket-Extensions" not in requests[0]


async def test_a_plain_url_of_a_server_that_hangs_up_is_asked_about() -> None:
    async with web_server("") as (url, _):
        with pytest.raises(ConnectionFailed, match=r"no answer \(is it TLS, wss://\?\)"):
            await Client(url, openid="ann", connect_timeout=0.2).connect()


async def test_a_server_that_is_busy_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self, random, delay=0.0: 0.001)
    busy = "HTTP/1.1 503 Busy\nContent-Length: 0\n\n"
    async with web_server(busy, "", f"{UPGRADE}\n") as (url, requests):
        with pytest.raises(ConnectionFailed, match="takes no subprotocol"):
            await Client(url, openid="ann").connect()
        assert len(requests) == 3


async def test_a_close_of_something_between_is_no_word_of_the_gateway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self, random, delay=0.0: 0.001)
    going = f"{UPGRADE}Sec-WebSocket-Protocol: gatesvr\n\n\x88\x02\x03\xe9"  # a close frame, 1001
    async with web_server(going, "HTTP/1.1 404 No\nContent-Length: 0\n\n") as (url, requests):
        with pytest.raises(ConnectionFailed, match="HTTP 404"):
            await Client(url, openid="ann").connect()
        assert len(requests) == 2


async def test_nobody_listens() -> None:
    async with web_server("") as (url, _):
        pass
    client = Client(url, openid="ann", connect_timeout=0.2)
    with pytest.raises(ConnectionFailed, match=r"nobody listens on TCP 127.0.0.1 port \d+"):
        await client.connect()


async def test_a_plain_port_asked_for_tls_says_so() -> None:
    async def say_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(say_hello, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(ConnectionFailed, match="does it speak TLS"):
            await Client(f"wss://127.0.0.1:{port}", openid="ann").connect()
    finally:
        server.close()


@pytest.mark.parametrize(
    ("text", "place", "back"),
    [
        ("h:1", Place("h", 1), "h:1"),
        ("wss://h", Place("h", 443, "/gatesvr"), "wss://h:443/gatesvr"),
        ("wss://H:8443/a/b?c=d&e", Place("h", 8443, "/a/b?c=d&e"), "wss://h:8443/a/b?c=d&e"),
        ("wss://[::1]:9/ä", Place("::1", 9, "/%C3%A4"), "wss://[::1]:9/%C3%A4"),
        (
            "wss://[fe80::1%25eth0]:9",
            Place("fe80::1%eth0", 9, "/gatesvr"),
            "wss://[fe80::1%eth0]:9/gatesvr",
        ),
        ("ws://localhost/x", Place("localhost", 80, "/x", True), "ws://localhost:80/x"),
    ],
)
def test_a_place_and_the_way_to_it(text: str, place: Place, back: str) -> None:
    assert parse_place(text) == place
    assert str(place) == back


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://h:1/x", "neither HOST:PORT nor wss://HOST:PORT"),
        ("ws://h:1/x", "without TLS, which is for this machine only"),
        ("wss://:1/x", "is not wss://HOST:PORT"),
        ("wss://me:secret@h/x", "is not wss://HOST:PORT"),
        ("wss://h/x#y", "is not wss://HOST:PORT"),
        ("wss://h:70000/x", "is no URL"),
        ("wss://h/a b", "is no URL"),
        ("wss://[::1/x", "is no URL"),
        ("wss://h/" + "x" * 3_000, "is no URL"),
    ],
)
def test_a_url_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Client(text, openid="ann")


def test_messages_hold_whole_frames() -> None:
    sizes = [10, 20_000, 20_000, 5, 100_000, 1, 32_000]
    frames = [size.to_bytes(4) + bytes(size) for size in sizes]
    messages = list(client_socket._messages(b"".join(frames)))
    assert b"".join(messages) == b"".join(frames)
    assert [len(message) for message in messages] == [20_018, 20_013, 100_004, 32_009]
