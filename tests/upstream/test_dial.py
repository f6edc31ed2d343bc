"""dial(): the connection, or the one reason why there is none."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from gatesvr.upstream.dial import DialError, dial, early_end, reason_of
from gatesvr.upstream.target import Target

from .certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
LONG_S = 20.0
SHORT_S = 0.05


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a coroutine on each kind of loop."""

    def run(body: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(body, LONG_S))

    return run


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


class Peer(asyncio.Protocol):
    """What the dial connects; says when the connection is lost, and why."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@asynccontextmanager
async def listening(
    context: ssl.SSLContext | None = None, *, first: bytes = b""
) -> AsyncIterator[int]:
    """A server on loopback that says something, or nothing, and keeps its connections; its port."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if first:
            await reader.read(1)
            writer.write(first)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


def client_context(authority: Authority, pair: Any = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.path)
    context.set_alpn_protocols(["h2"])
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    return context


def local(port: int) -> Target:
    return Target.of(f"127.0.0.1:{port}")


def unused_port() -> int:
    """A port that nobody listens on: its socket is bound and does not listen."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def why(target: Target, context: ssl.SSLContext | None = None, within: float = LONG_S) -> str:
    with pytest.raises(DialError) as caught:
        await dial(target, context, Peer, within)
    return str(caught.value)


def test_plain_tcp(run: Any) -> None:
    async def body() -> None:
        async with listening() as port:
            transport, peer = await dial(local(port), None, Peer, LONG_S)
            assert transport.get_extra_info("peername") == ("127.0.0.1", port)
            transport.abort()
            await peer.lost

    run(body())


def test_a_socket_file(run: Any, tmp_path: Path) -> None:
    async def body() -> None:
        path = str(tmp_path / "a.sock")
        assert await why(Target.of(f"unix:{path}")) == "no such socket"
        server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), path)
        transport, peer = await dial(Target.of(f"unix:{path}"), None, Peer, LONG_S)
        await peer.lost
        transport.close()
        server.close()
        await server.wait_closed()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "left.sock"))
        reason = await why(Target.of(f"unix:{tmp_path / 'left.sock'}"))
        assert reason == "connection refused"

    run(body())


def test_nobody_listens(run: Any) -> None:
    async def body() -> None:
        assert await why(local(unused_port())) == "connection refused"

    run(body())


def test_the_places_are_tried_in_order(run: Any) -> None:
    async def body() -> None:
        async with listening() as port:
            places = [("127.0.0.1", unused_port()), ("127.0.0.1", port)]
            transport, peer = await dial(Target.of("x:1").at(places), None, Peer, LONG_S)
            assert transport.get_extra_info("peername") == places[1]
            transport.abort()
            await peer.lost
            closed = Target.of("x:1").at([places[0], places[0]])
            assert await why(closed) == "connection refused"

    run(body())


@pytest.mark.parametrize("authority", [".game.test:443", ".", ":443"])
def test_no_certificate_can_be_for_the_authority(run: Any, authority: str) -> None:
    async def body() -> None:
        target = Target.of(f"127.0.0.1:{unused_port()}", authority)
        assert (await why(target, ssl.create_default_context())).startswith("TLS: no certificate")
        assert await why(target) == "connection refused"

    run(body())


def test_no_such_name(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async def nothing(*args: Any, **options: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        loop = asyncio.get_running_loop()
        if isinstance(loop, asyncio.BaseEventLoop):  # uvloop's cannot be replaced
            monkeypatch.setattr(loop, "getaddrinfo", nothing)
            assert await why(Target.of("nobody.invalid:80")) == "no such name"

    run(body())


def test_tls(run: Any, authority: Authority) -> None:
    async def body() -> None:
        server, caller = authority.sign("127.0.0.1"), authority.sign("caller")
        async with listening(authority.server_context(server)) as port:
            transport, peer = await dial(local(port), client_context(authority), Peer, LONG_S)
            transport.abort()
            await peer.lost
            named = Target.of(f"127.0.0.1:{port}", "chat.example")
            reason = await why(named, client_context(authority))
            assert reason == "TLS: the certificate is not for chat.example"
        async with listening(authority.server_context(server, wants=True)) as port:
            context = client_context(authority, caller)
            transport, peer = await dial(local(port), context, Peer, LONG_S)
            transport.abort()
            await peer.lost

    run(body())


def test_certificates_that_prove_nothing(run: Any, authority: Authority, tmp_path: Path) -> None:
    async def body() -> None:
        context = client_context(authority)
        for pair, expected in (
            (authority.sign("127.0.0.2"), "the certificate is not for 127.0.0.1"),
            (authority.sign("127.0.0.1", days=-1), "the certificate has expired"),
            (
                Authority(tmp_path).sign("127.0.0.1"),
                "the certificate is not signed by upstream.tls.ca",
            ),
        ):
            async with listening(authority.server_context(pair)) as port:
                assert await why(local(port), context) == f"TLS: {expected}"

    run(body())


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
def test_http2_is_not_offered(run: Any, authority: Authority, protocols: tuple[str, ...]) -> None:
    async def body() -> None:
        server = authority.server_context(authority.sign("127.0.0.1"), protocols=protocols)
        async with listening(server) as port:
            reason = await why(local(port), client_context(authority))
            assert reason == "the server speaks no HTTP/2 (ALPN)"

    run(body())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_wanted(
    run: Any, authority: Authority, version: ssl.TLSVersion
) -> None:
    def refuse(listener: socket.socket, context: ssl.SSLContext) -> None:
        # The loops' servers close without the alert that others send.
        with listener.accept()[0] as sock, pytest.raises(ssl.SSLError, match="CERTIFICATE"):
            context.wrap_socket(sock, server_side=True)

    async def body() -> None:
        server = authority.server_context(authority.sign("127.0.0.1"), wants=True)
        server.maximum_version = version
        with socket.create_server(("127.0.0.1", 0)) as listener:
            refusal = asyncio.create_task(asyncio.to_thread(refuse, listener, server))
            target = local(listener.getsockname()[1])
            try:
                _, peer = await dial(target, client_context(authority), Peer, LONG_S)
            except DialError as error:  # TLS 1.2 tells within the handshake
                reason = str(error)
            else:
                reason = early_end(await peer.lost, b"", is_tls=True)
            await refusal
        assert "client certificate" in reason

    run(body())


def test_plain_text_behind_tls(run: Any, authority: Authority) -> None:
    async def body() -> None:
        context = client_context(authority)
        async with listening(first=b"\0\0\0\4\0\0\0\0\0") as port:
            assert await why(local(port), context) == "TLS: the server does not speak TLS"
        async with listening() as port:
            reason = await why(local(port), context, SHORT_S)
            assert reason == f"timed out after {SHORT_S:g} s"

    run(body())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError(104, "x"), "connection reset by peer"),
        (OSError(113, "x"), "no route to host"),
        (PermissionError(13, "x"), "permission denied"),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "the name cannot be resolved now"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "no such name"),
        (ConnectionAbortedError(), "the server closed the connection"),
        (ValueError("odd"), "odd"),
        (
            ssl.SSLError(1, "[SSL] tlsv1 alert no application protocol (_ssl.c:1)"),
            "the server speaks no HTTP/2 (ALPN)",
        ),
        (ssl.SSLError(1, "[SSL: ODD] odd one (_ssl.c:1)"), "TLS: [SSL: ODD] odd one (_ssl.c:1)"),
    ],
)
def test_reasons(error: Exception, expected: str) -> None:
    assert reason_of(error) == expected


@pytest.mark.parametrize(
    ("error", "opening", "is_tls", "expected"),
    [
        (None, b"\x15\x03\x01\0\2\2\x46", False, "the server speaks TLS, and upstream.tls is off"),
        (None, b"HTTP/1.1 400 Bad Request", False, "the server speaks HTTP/1, not HTTP/2"),
        (None, b"220 mail", False, "the server does not speak HTTP/2"),
        (ConnectionResetError(104, "x"), b"", False, "connection reset by peer"),
        (None, b"", False, "the server closed the connection at once (it may want TLS)"),
        (
            None,
            b"",
            True,
            (
                "the server closed the connection at once"
                " (it may want a client certificate, or another one)"
            ),
        ),
    ],
)
def test_early_ends(error: Any, opening: bytes, is_tls: bool, expected: str) -> None:
    assert early_end(error, opening, is_tls=is_tls) == expected
