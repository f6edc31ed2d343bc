"""Clients that do WebSocket wrong, or too much: each is bounded, told why, and counted."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from gatesvr.errors import ConfigError
from gatesvr.protocol.link import LOW_WATER_BYTES
from gatesvr.transport.tls import ServerTls, generate_certificate

from ..fakes import until
from .harness import counter, web_gateway
from .plain_client import business, frame, heartbeat, plain_client
from .web_client import WebClient, client_context, web_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatesvr import Gateway


@asynccontextmanager
async def tcp(
    gateway: Gateway, *, tls: bool = True
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect without WebSocket."""
    host, port = gateway.web.address
    reader, writer = await asyncio.open_connection(
        host, port, ssl=client_context() if tls else None
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def moved(gateway: Gateway, name: str, times: int = 1) -> None:
    await until(lambda: counter(gateway, f"web.{name}") == times)


def raw(client: WebClient, *frames: Frame | bytes) -> None:
    """Write WebSocket frames as they are."""
    client.connection.transport.write(
        b"".join(f if isinstance(f, bytes) else f.serialize(mask=True) for f in frames)
    )


BAD_MESSAGES: dict[str, list[Frame | bytes]] = {
    "text": [Frame(Opcode.TEXT, b"hello")],
    "empty": [Frame(Opcode.BINARY, b"")],
    "half a frame": [Frame(Opcode.BINARY, frame(b"abcd")[:-1])],
    "one byte more": [Frame(Opcode.BINARY, frame(b"abcd") + b"x")],
    "oversize": [Frame(Opcode.BINARY, b"\x00\x01\x00\x00" + bytes(1 << 16) + b"x")],
    "no beginning": [Frame(Opcode.CONT, b"abcd")],
    "reserved bit": [b"\xc2\x81\0\0\0\0a"],
    "no mask": [b"\x82\x01a"],
    "many pieces": [
        Frame(Opcode.BINARY, b"\0", fin=False),
        *[Frame(Opcode.CONT, b"\0", fin=False)] * 300,
    ],
    "no protobuf": [Frame(Opcode.BINARY, frame(b"\xff\xff"))],
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
async def test_a_bad_message_is_a_protocol_error(name: str) -> None:
    async with web_gateway() as gateway, web_client(gateway.web_address) as client:
        raw(client, *BAD_MESSAGES[name])
        assert await client.closed() == 4400
        assert counter(gateway, "transport.protocol_errors") == 1
        assert counter(gateway, "web.violations") == (name != "no protobuf")
        assert gateway.figures().closes["local"]["4400"] == 1


async def test_a_message_in_pieces_between_pings_is_whole() -> None:
    async with web_gateway() as gateway, web_client(gateway.web_address) as client:
        await client.login("ann")
        data = frame(heartbeat(5).SerializeToString())
        raw(
            client,
            Frame(Opcode.BINARY, data[:2], fin=False),
            Frame(Opcode.PING, b"are you there"),
            Frame(Opcode.CONT, data[2:]),
        )
        assert (await client.receive()).msg_id == 5
        assert counter(gateway, "web.control_frames_limited") == 0


async def test_a_flood_of_pings_is_cut() -> None:
    async with web_gateway() as gateway, web_client(gateway.web_address) as client:
        raw(client, *[Frame(Opcode.PING, b"")] * 20_000)
        assert await client.closed() == 4429
        assert counter(gateway, "web.control_frames_limited") == 1


async def test_who_pings_and_never_reads_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async with web_gateway() as gateway, web_client(gateway.web_address) as client:
        await client.login("ann")
        (connection,) = gateway.web.connections
        monkeypatch.setattr(type(connection), "unsent_bytes", lambda self: 3 << 20)
        raw(client, Frame(Opcode.PING, b""))
        assert await client.closed() == 4429
        assert counter(gateway, "web.control_frames_limited") == 1


@pytest.mark.parametrize(
    "faulty",
    [
        [b"\xc2\x81\0\0\0\0a"],
        [Frame(Opcode.BINARY, frame(b"\xff\xff")), Frame(Opcode.CLOSE, b"\x03\xe8")],
    ],
)
async def test_a_fault_right_behind_a_request_is_still_4400(faulty: list[Frame | bytes]) -> None:
    async with web_gateway() as gateway, web_client(gateway.web_address) as client:
        await client.login("ann")
        raw(client, Frame(Opcode.BINARY, frame(heartbeat(5).SerializeToString())), *faulty)
        assert await client.closed() == 4400
        assert counter(gateway, "transport.connection_errors") == 0
        await until(lambda: not counter(gateway, "session.sessions"))


async def test_a_message_begun_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.transport.web.connection.MESSAGE_TIMEOUT_S", 0.05)
    async with web_gateway() as gateway, web_client(gateway.web_address) as client:
        raw(client, Frame(Opcode.BINARY, b"\0\0", fin=False))
        assert await client.closed() == 4408
        assert counter(gateway, "web.messages_timed_out") == 1


async def test_start_is_due_as_over_quic() -> None:
    async with (
        web_gateway("session.start_timeout=50ms") as gateway,
        web_client(gateway.web_address) as client,
    ):
        assert await client.closed() == 4408
        assert counter(gateway, "dispatch.start_timeouts") == 1


async def test_an_idle_client_is_pinged_and_a_dead_one_ends() -> None:
    async with (
        web_gateway("transport.idle_timeout=200ms") as gateway,
        web_client(gateway.web_address, ping_interval=None) as client,
    ):
        await until(lambda: counter(gateway, "transport.pings_sent") >= 4)
        client.connection.transport.pause_reading()
        await until(lambda: counter(gateway, "transport.closed_idle") == 1)
        client.connection.transport.abort()


@pytest.mark.parametrize(
    ("sets", "origin", "is_let_in"),
    [
        ((), None, True),
        ((), "https://{}", True),
        ((), "https://elsewhere.test", False),
        ((), "http://{}", False),
        ((), "https://[", False),
        ((), "null", False),
        (('transport.web.origins=["https://game.test"]',), "https://Game.test", True),
        (('transport.web.origins=["https://game.test"]',), "https://{}", False),
        (('transport.web.origins=["https://Game.test:443"]',), "https://game.test", True),
        (('transport.web.origins=["https://game.test"]',), "https://game.test:443", True),
        (('transport.web.origins=["https://game.test:443"]',), "http://game.test:443", False),
        (('transport.web.origins=["http://game.test:80"]',), "http://game.test", True),
        (('transport.web.origins=["*"]',), "https://elsewhere.test", True),
    ],
)
async def test_pages_of_known_origins_are_let_in(
    sets: tuple[str, ...], origin: str | None, is_let_in: bool
) -> None:
    async with web_gateway(*sets) as gateway:
        origin = origin.format(gateway.web_address) if origin else None
        if is_let_in:
            async with web_client(gateway.web_address, origin=origin) as client:
                await client.login("ann")
        else:
            with pytest.raises(InvalidStatus, match="403"):
                async with web_client(gateway.web_address, origin=origin):
                    pass
        assert counter(gateway, "web.origins_refused") == (not is_let_in)
        assert counter(gateway, "transport.connection_errors") == 0


GOOD = (
    "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: {upgrade}\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: {version}\r\n"
    "Sec-WebSocket-Protocol: {protocol}\r\n{more}\r\n"
)
FIELDS = {
    "path": "/gatesvr",
    "upgrade": "websocket",
    "version": "13",
    "protocol": "gatesvr",
    "more": "",
}


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"path": "/gatesvr?room=1"}, b"101"),
        ({"more": "Sec-WebSocket-Extensions: permessage-deflate\r\n"}, b"101"),
        ({"path": "/"}, b"404"),
        ({"upgrade": "h2c"}, b"426"),
        ({"version": "8"}, b"426"),
        ({"protocol": "chat"}, b"400"),
        ({"more": f"Cookie: {'x' * 20_000}\r\n"}, b""),
        ({"more": "".join(f"X-{i}: y\r\n" for i in range(2_000))}, b""),
        ({"path": "\0"}, b"404"),
    ],
)
async def test_a_request_is_judged(changed: dict[str, str], status: bytes) -> None:
    async with web_gateway() as gateway, tcp(gateway) as (reader, writer):
        writer.write(GOOD.format(**{**FIELDS, **changed}).encode())
        head = await reader.readuntil(b"\r\n\r\n") if status else await reader.read()
        assert head[9:12] in (status, b"431", b"400")
        assert b"deflate" not in head
        if status == b"101":
            assert counter(gateway, "web.accepted") == 1
        else:
            await moved(gateway, "requests_refused")
            await until(lambda: not counter(gateway, "web.handshakes"))


@pytest.mark.parametrize("more", [b"\xff\xff", b"\x82\x81\0\0\0\0a", GOOD.encode(), b"\x82"])
async def test_nothing_comes_behind_a_request(more: bytes) -> None:
    async with web_gateway() as gateway, tcp(gateway) as (reader, writer):
        writer.write(GOOD.format(**FIELDS).encode() + more)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"behind the request\n")
        assert counter(gateway, "web.requests_refused") == 1
        assert counter(gateway, "transport.connection_errors") == 0


async def test_what_is_no_tls_fails() -> None:
    async with web_gateway() as gateway, tcp(gateway, tls=False) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()
        await moved(gateway, "handshakes_failed")


@pytest.mark.parametrize("tls", [False, True])
async def test_half_open_clients_are_cut(tls: bool) -> None:
    async with (
        web_gateway("transport.web.handshake_timeout=100ms") as gateway,
        AsyncExitStack() as stack,
    ):
        pairs = [await stack.enter_async_context(tcp(gateway, tls=tls)) for _ in range(5)]
        for reader, writer in pairs:
            if tls:
                writer.write(b"GET /gatesvr HTTP/1.1\r\n")  # and no more
            with suppress(OSError):
                await reader.read()
        await moved(gateway, "handshakes_timed_out", 5)
        await until(lambda: not counter(gateway, "web.handshakes"))
        assert not gateway.web._prefixes


async def test_a_client_accepted_as_the_gateway_stops_is_let_go() -> None:
    async with web_gateway() as gateway:
        ours, theirs = socket.socketpair()
        with theirs:
            assert gateway.web._admit(ours, ("127.0.0.1", 1))
            await gateway.web.stop()
            assert ours.fileno() == -1
            assert counter(gateway, "web.handshakes") == 0


async def refused(gateway: Gateway) -> None:
    """Connect, and be reset."""
    with pytest.raises((ConnectionError, ssl.SSLError)):
        async with tcp(gateway) as (reader, _):
            await reader.read(1)


async def test_half_open_places_are_bounded() -> None:
    async with (
        web_gateway("transport.web.max_handshakes=2") as gateway,
        tcp(gateway, tls=False),
        tcp(gateway, tls=False),
    ):
        await until(lambda: counter(gateway, "web.handshakes") == 2)
        await refused(gateway)
        assert counter(gateway, "web.accepts_dropped") == 1


async def test_the_accept_rate_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with web_gateway("transport.web.accept_rate=1") as gateway:
        monkeypatch.setattr(gateway.listener.driver, "clock", lambda: 0.0)
        async with tcp(gateway, tls=False), tcp(gateway, tls=False):
            await until(lambda: counter(gateway, "web.handshakes") == 2)
            await refused(gateway)
            assert counter(gateway, "web.accepts_limited") == 1
        monkeypatch.undo()


async def test_max_connections_are_of_both_ways() -> None:
    async with (
        web_gateway("transport.max_connections=1") as gateway,
        web_client(gateway.web_address) as first,
    ):
        await first.login("ann")
        async with web_client(gateway.web_address) as second:
            assert await second.closed() == 4503
        assert counter(gateway, "web.connections_refused") == 1
        await until(lambda: counter(gateway, "web.connections") == 1)
        async with plain_client(gateway.address) as third:
            assert await third.closed() == 4503
        assert counter(gateway, "transport.connections_refused") == 1


async def test_a_want_of_descriptors_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async with web_gateway() as gateway:
        (sock,) = gateway.web._sockets

        class Failing:
            fileno = sock.fileno

            def accept(self) -> tuple[socket.socket, object]:
                raise OSError(24, "too many open files")

        gateway.web._accept(Failing())  # type: ignore[arg-type]
        assert counter(gateway, "web.accept_errors") == 1
        gateway.web._read(sock)
        async with web_client(gateway.web_address) as client:
            await client.login("ann")


async def test_a_certificate_waits_for_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(24, "too many open files")

    async def shown(gateway: Gateway) -> bytes:
        async with tcp(gateway) as (_, writer):
            der: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return der

    async with web_gateway() as gateway:
        before = await shown(gateway)
        gateway.listener.tls = ServerTls(*generate_certificate(), "")
        with monkeypatch.context() as patched:
            patched.setattr("gatesvr.transport.web.tls.tempfile.mkstemp", fail)
            assert await shown(gateway) == before
        after = ssl.PEM_cert_to_DER_cert(gateway.listener.tls.cert_pem.decode())
        assert await shown(gateway) == after


async def test_a_gateway_without_room_for_a_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("gatesvr.transport.web.tls.tempfile.mkstemp", fail)
    with pytest.raises(ConfigError, match="Read-only file system"):
        async with web_gateway():
            pass


async def test_who_never_reads_its_close_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.transport.web.connection.CLOSE_LINGER_S", 0.05)
    async with web_gateway() as gateway, web_client(gateway.web_address) as client:
        await client.login("ann")
        client.connection.transport.pause_reading()
        await gateway.kick("ann")
        await moved(gateway, "closes_expired")
        await until(lambda: counter(gateway, "transport.last_pushes_expired") == 1)
        await until(lambda: not counter(gateway, "web.connections"))
        client.connection.transport.abort()


async def test_a_queue_that_stops_the_feeding_is_told_of_its_end() -> None:
    async with web_gateway() as gateway, web_client(gateway.web_address) as client:
        await client.login("ann")
        (connection,) = gateway.web.connections
        _, limit = connection._transport._tcp.get_write_buffer_limits()  # type: ignore[attr-defined]
        # A transport tells of what has been above the limit, and no feeding is at low water.
        assert limit < LOW_WATER_BYTES


async def test_who_never_reads_its_answers_is_cut() -> None:
    async with (
        web_gateway("session.slow_consumer_timeout=100ms") as gateway,
        web_client(gateway.web_address) as client,
    ):
        await client.login("ann")
        client.connection.transport.pause_reading()
        large = b"x" * 500_000
        for seq in range(2, 40):
            raw(client, Frame(Opcode.BINARY, _bytes_of(seq, large)))
        await until(lambda: not counter(gateway, "web.connections"))
        assert gateway.figures().closes["local"]["4413"] + sum(
            gateway.figures().closes["local"][code] for code in ("4429", "4408")
        )
        client.connection.transport.abort()


def _bytes_of(seq: int, data: bytes) -> bytes:
    return frame(business(seq, "echo", data).SerializeToString())
