"""Admission, routing, hostile datagrams, address changes and the end of a listener."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any, Self

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from gatesvr.config import TransportConfig
from gatesvr.errors import ConfigError, ConnectionFailed
from gatesvr.protocol.link import Disconnect
from gatesvr.transport.client import ClientConnection, open_connection
from gatesvr.transport.connection import TICK_S
from gatesvr.transport.listener import ConnectionListener
from gatesvr.transport.quic.choose import pick_backend
from gatesvr.transport.tls import client_tls
from gatesvr.transport.udp.endpoint import Endpoint
from gatesvr.transport.udp.sockets import open_socket

from .harness import BACKENDS, DEADLINE_S, PAIRS, Echo, Recorder, Server, serving

if TYPE_CHECKING:
    from gatesvr.protocol.link import Link


def initial(token: bytes = b"") -> bytes:
    """Return the first datagram of a client that will never go on."""
    quic = QuicConnection(
        configuration=QuicConfiguration(is_client=True, alpn_protocols=["gatesvr"], token=token)
    )
    quic.connect(("127.0.0.1", 1), 0.0)
    ((data, _),) = quic.datagrams_to_send(0.0)
    return data


class Stranger:
    """A UDP socket that sends what it likes."""

    def __init__(self, gateway: Server) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.connect(gateway.listener.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    async def receive(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await asyncio.get_running_loop().sock_recv(self.sock, 65535)


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_qh3_answers_a_padded_datagram_with_retry(client: str, server: str) -> None:
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        handler.send(b"x")
        await handler.until(lambda: handler.data)
        counters = gateway.listener.counters
        retries = 1 if (client, server) == ("aioquic", "qh3") else 0
        assert (counters.retries_sent, counters.retries_validated) == (retries, retries)
        # No probe after a time-out was among what the client sent (qh3's hello takes two).
        assert connection.counters.datagrams_sent <= (5 if client == "aioquic" else 8)
        await connection.close()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_an_initial_without_crypto_begins_nothing(backend: str) -> None:
    """A probe that comes where the client hello is lost, or overtaken, must not end it."""
    quic = pick_backend("qh3").client(client_tls("127.0.0.1", insecure=True), "127.0.0.1", 60.0)
    quic.connect(("127.0.0.1", 1), 0.0)
    quic.datagrams_to_send(0.0)  # all lost
    probe_at = quic.get_timer()
    assert probe_at is not None
    quic.handle_timer(probe_at)
    hello, ping = (data for data, _ in quic.datagrams_to_send(probe_at))
    async with serving(backend) as gateway:
        counters = gateway.listener.counters
        with Stranger(gateway) as stranger:
            stranger.send(ping)
            await gateway.until(lambda: counters.initials_without_crypto == 1)
            assert (counters.handshakes, counters.drained, counters.datagrams_sent) == (0, 0, 0)
            # The same connection id; answered as if nothing had been there before.
            stranger.send(hello)
            assert pull_quic_header(Buffer(data=await stranger.receive()), 8).packet_type in (
                QuicPacketType.INITIAL,
                QuicPacketType.RETRY,
            )
            assert counters.handshakes_failed == 0


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_retry_for_everybody(client: str, server: str) -> None:
    async with serving(server, retry="always") as gateway:
        handler, connection = await gateway.connect(client)
        handler.send(b"x")
        await handler.until(lambda: handler.data)
        counters = gateway.listener.counters
        # qh3's hello takes two datagrams, and each is answered.
        assert counters.retries_sent == (1 if client == "aioquic" else 2)
        assert (counters.retries_validated, counters.retries_refused) == (1, 0)
        await connection.close()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_token_that_is_not_ours_counts_as_none(backend: str) -> None:
    async with serving(backend) as gateway:
        with Stranger(gateway) as stranger:
            counters = gateway.listener.counters
            stranger.send(initial(token=b"somebody else's token, of any length"))
            await gateway.until(lambda: counters.retries_refused)
            assert counters.retries_validated == 0
            assert counters.handshakes == (1 if backend == "aioquic" else 0)
            assert counters.retries_sent == (0 if backend == "aioquic" else 1)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_more_than_max_connections(backend: str) -> None:
    async with serving(backend, max_connections=1) as gateway:
        healthy, healthy_connection = await gateway.connect("aioquic")
        refused, refused_connection = await gateway.connect("aioquic")
        how = await refused.until_lost()
        assert (how.kind, how.code) == ("peer", 4503)
        assert how.reason.startswith("retry_after_ms=")
        await refused_connection.wait_ended()
        counters = gateway.listener.counters
        assert counters.connections_refused == 1
        assert len(gateway.handlers) == 1
        healthy.send(b"fine")
        await healthy.until(lambda: healthy.data == b"fine")
        await healthy_connection.close()


async def test_five_percent_above_max_connections() -> None:
    async with serving("aioquic", max_connections=1, handshake_timeout=DEADLINE_S) as gateway:
        with Stranger(gateway) as stranger:
            counters = gateway.listener.counters
            for _ in range(2):
                stranger.send(initial())
            await gateway.until(lambda: counters.handshakes == 2)
            connecting = asyncio.create_task(gateway.connect("aioquic"))
            await gateway.until(lambda: counters.connections_dropped)
            assert not connecting.done()
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            assert counters.handshakes == 2


async def test_more_than_max_handshakes_until_they_time_out() -> None:
    async with serving("aioquic", max_handshakes=1, handshake_timeout=1.0) as gateway:
        with Stranger(gateway) as stranger:
            counters = gateway.listener.counters
            stranger.send(initial())
            stranger.send(initial())
            await gateway.until(lambda: counters.handshakes_dropped == 1)
            await gateway.until(lambda: counters.handshakes_timed_out == 1)
            assert (counters.handshakes, counters.handshakes_failed) == (0, 1)
        _, connection = await gateway.connect("aioquic")
        await connection.close()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_garbage_reaches_nobody(backend: str) -> None:
    good = initial()
    id_length = good[5]
    corrupt = bytearray(good)
    corrupt[500] ^= 1
    short_id = bytes((*good[:5], 4)) + good[6:10] + good[6 + id_length :] + b"\0" * 4
    garbage = {
        "datagrams_malformed": [
            b"",
            b"\x40",
            b"\xc0" + b"\xff" * 8,
            good[:5] + b"\xff" + good[6:],
            good[:1] + b"\0\0\0\1" + b"\x14" + b"x" * 20 + b"\x14" + b"x" * 1200,
        ],
        "datagrams_unknown": [
            b"\x40" + b"x" * 40,
            b"\x40" + b"x" * 1300,
            good[:600],
            short_id,
            b"\xe0" + good[1:],
            b"\xd0" + good[1:],
        ],
    }
    async with serving(backend) as gateway:
        healthy, connection = await gateway.connect(backend)
        counters = gateway.listener.counters
        with Stranger(gateway) as stranger:
            for kind, datagrams in garbage.items():
                for datagram in datagrams:
                    before = counters.datagrams_malformed + counters.datagrams_unknown
                    stranger.send(datagram)
                    await gateway.until(
                        lambda before=before: (
                            counters.datagrams_malformed + counters.datagrams_unknown > before
                        )
                    )
                    assert counters.connections == 1, (kind, datagram[:30])
            if backend == "aioquic":
                stranger.send(bytes(corrupt))
                await gateway.until(lambda: counters.initials_undecryptable == 1)
        assert counters.handshakes == 0
        assert counters.connection_errors == 0
        healthy.send(b"fine")
        await healthy.until(lambda: healthy.data == b"fine")
        await connection.close()


async def test_version_negotiation() -> None:
    async with serving("aioquic") as gateway:
        with Stranger(gateway) as stranger:
            good = initial()
            stranger.send(good[:1] + b"\x1a\x2a\x3a\x4a" + good[5:])
            answer = pull_quic_header(Buffer(data=await stranger.receive()), 8)
            assert answer.packet_type is QuicPacketType.VERSION_NEGOTIATION
            assert answer.supported_versions == [1]
            counters = gateway.listener.counters
            assert counters.versions_negotiated == 1
            # Never an answer to an answer, nor to one that is too small.
            stranger.send(good[:1] + b"\0\0\0\0" + good[5:])
            stranger.send(good[:1] + b"\x1a\x2a\x3a\x4a" + good[5:600])
            await gateway.until(lambda: gateway.listener.counters.datagrams_received == 3)
            assert (counters.versions_negotiated, counters.datagrams_sent) == (1, 1)


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_a_close_that_was_lost_is_said_again(client: str, server: str) -> None:
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        handler.send(b"x")
        await handler.until(lambda: handler.data)
        endpoint = connection._endpoint
        connection.pause_reading()
        gateway.handlers[0].link.close(4408, "time-out")
        await gateway.handlers[0].until_lost()
        await gateway.until(lambda: _discarded(endpoint._sock))
        connection.resume_reading()
        handler.send(b"more")
        assert await handler.until_lost() == Disconnect("peer", 4408, "time-out")
        assert gateway.listener.counters.datagrams_after_close >= 1


def _discarded(sock: socket.socket) -> bool:
    try:
        sock.recv(65535)
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_a_client_that_moves(client: str, server: str) -> None:
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        handler.send(b"0")
        await handler.until(lambda: handler.data == b"0")
        peer = gateway.handlers[0]
        counters = gateway.listener.counters
        for move in range(1, 4):
            address = _rebind(connection)
            handler.send(b"%d" % move)
            await handler.until(lambda move=move: len(handler.data) == move + 1)
            # qh3 moves when the client has answered its challenge, aioquic before.
            await gateway.until(lambda address=address: peer.link.peer == address)
            assert counters.address_changes == move
        # qh3 follows a client to three more addresses and then no further.
        limits = 1 if server == "qh3" else 0
        assert (peer.path_limits, counters.path_limits) == (limits, limits)
        assert handler.data == peer.data == b"0123"
        await connection.close()


class Forger:
    """Sends a client's datagrams from another address, where nobody reads the answers."""

    def __init__(self, gateway: Server) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(gateway.listener.address)

    def send(self, datagrams: list[tuple[bytes, object]]) -> None:
        for data, _ in datagrams:
            self.sock.send(data)


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_an_address_that_the_peer_has_not_proved_is_not_its_own(
    client: str, server: str
) -> None:
    async with serving(server, Recorder) as gateway:
        handler, connection = await gateway.connect(client)
        handler.send(b"0")
        peer = await gateway.handler()
        await peer.until(lambda: peer.data == b"0")
        proved = peer.link.peer
        own: Any = connection.connection._endpoint
        forger: Any = Forger(gateway)
        connection.connection._endpoint = forger
        handler.send(b"1")
        await peer.until(lambda: peer.data == b"01")
        assert peer.link.peer == proved
        connection.connection._endpoint = own
        handler.send(b"2")
        await peer.until(lambda: peer.data == b"012")
        assert peer.link.peer == proved
        forger.sock.close()
        await connection.close()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_handshake_ends_where_it_began(backend: str) -> None:
    loop = asyncio.get_running_loop()
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["gatesvr"], verify_mode=ssl.CERT_NONE
    )
    client = QuicConnection(configuration=configuration)
    async with serving(backend, Recorder) as gateway:
        with Stranger(gateway) as own, Stranger(gateway) as other:

            def send(stranger: Stranger) -> None:
                for data, _ in client.datagrams_to_send(loop.time()):
                    stranger.send(data)

            client.connect(gateway.listener.address, loop.time())
            send(own)
            is_complete = False
            while not is_complete:
                data = await own.receive()
                client.receive_datagram(data, gateway.listener.address, loop.time())
                while (event := client.next_event()) is not None:
                    is_complete |= isinstance(event, HandshakeCompleted)
                if not is_complete:
                    send(own)
            client.send_stream_data(0, b"0")
            send(other)
            await gateway.until(lambda: gateway.listener.counters.datagrams_elsewhere > 0)
            assert gateway.handlers == []
            async with asyncio.timeout(DEADLINE_S):
                while not gateway.handlers:
                    timer = client.get_timer()
                    assert timer is not None
                    await asyncio.sleep(timer - loop.time())
                    client.handle_timer(loop.time())
                    send(own)
                    await asyncio.sleep(0.01)
            assert gateway.handlers[0].link.peer == own.sock.getsockname()


def _rebind(connection: ClientConnection) -> tuple[str, int]:
    """Move a client to another port, as a NAT would; return its new address."""
    connection._endpoint.close()
    sock = open_socket(connection.server, socket.AF_INET, is_server=False)
    endpoint = Endpoint(connection._driver, sock, connection._datagrams_received)
    connection._endpoint = connection.connection._endpoint = endpoint
    host, port = endpoint.address
    return host, port


@pytest.mark.parametrize("backend", BACKENDS)
async def test_distant_timers_of_all_connections_are_due_together(backend: str) -> None:
    async with serving(backend) as gateway:
        for _ in range(2):
            handler, _ = await gateway.connect(backend)
            handler.send(b"x")
            await handler.until(lambda handler=handler: handler.data)  # type: ignore[misc]
        connections = gateway.listener.connections
        assert len(connections) == 2
        await gateway.until(
            lambda: all(connection._due % TICK_S == 0 for connection in connections)
        )


@pytest.mark.parametrize("backend", BACKENDS)
async def test_stop_closes_every_connection(backend: str) -> None:
    async with serving(backend) as gateway:
        clients = [await gateway.connect("aioquic") for _ in range(3)]
        with Stranger(gateway) as stranger:
            stranger.send(initial())
            await gateway.until(lambda: len(gateway.handlers) == 3)
            await gateway.listener.stop(4503, "restart")
        for handler, connection in clients:
            assert await handler.until_lost() == Disconnect("peer", 4503, "restart")
            await connection.wait_ended()
        assert [h.lost for h in gateway.handlers] == [[Disconnect("local", 4503, "restart")]] * 3
        assert not gateway.listener.connections
        assert not gateway.listener._routes
        await gateway.listener.stop()
        with pytest.raises(RuntimeError):
            await gateway.listener.start()


async def test_stop_waits_for_last_pushes_and_cancels_what_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gatesvr.transport.listener.CLOSE_LINGER_S", 0.2)

    class Hanging(Recorder):
        async def work(self) -> None:
            self.works += 1
            await asyncio.get_running_loop().create_future()

    async with serving("aioquic", Hanging) as gateway:
        told, _ = await gateway.connect("aioquic")
        told.send(b"x")
        peer = await gateway.handler()
        await peer.until(lambda: peer.data)
        peer.link.wake()
        await gateway.until(lambda: peer.works)
        peer.link.close(4503, "drain", last=b"GOAWAY")
        await gateway.listener.stop()
        assert await told.until_lost() == Disconnect("peer", 4503, "drain")
        assert told.data == b"GOAWAY"
        assert gateway.listener.counters.tasks == 0


async def test_no_new_client_after_stop_accepting() -> None:
    async with serving("aioquic") as gateway:
        handler, connection = await gateway.connect("aioquic")
        await gateway.until(lambda: gateway.listener.counters.accepted)
        gateway.listener.stop_accepting()
        with pytest.raises(ConnectionFailed, match="the gateway stops"):
            await gateway.connect("aioquic")
        assert gateway.listener.counters.initials_refused
        handler.send(b"still here")
        await handler.until(lambda: handler.data)
        await connection.close()


async def test_a_busy_port_is_a_configuration_error() -> None:
    async with serving("aioquic") as gateway:
        host, port = gateway.listener.address
        other = ConnectionListener(TransportConfig(bind=f"{host}:{port}", backend="aioquic"), Echo)
        with pytest.raises(ConfigError, match=rf"transport.bind: .*{port}.*in use"):
            await other.start()
        await other.stop()
        with pytest.raises(RuntimeError):
            _ = other.address


async def test_a_broken_quic_connection_reaches_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving("aioquic") as gateway:
        healthy, connection = await gateway.connect("aioquic")
        broken, broken_connection = await gateway.connect("aioquic")
        broken.send(b"x")
        await broken.until(lambda: broken.data)
        (link,) = [h.link for h in gateway.handlers if h.data]

        def fail(*_: object) -> None:
            raise AssertionError("a bug of the library's")

        for method in ("receive_datagram", "datagrams_to_send", "close"):
            monkeypatch.setattr(link.carrier._quic, method, fail)
        broken.send(b"y")
        await gateway.until(lambda: gateway.listener.counters.connection_errors == 1)
        healthy.send(b"fine")
        await healthy.until(lambda: healthy.data == b"fine")
        assert len(gateway.listener.connections) == 1
        broken_connection.discard()
        await connection.close()
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == ["connection_error"]


async def test_an_exception_while_a_client_is_admitted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving("aioquic") as gateway:
        healthy, connection = await gateway.connect("aioquic")

        def fail(*_: object) -> None:
            raise AssertionError("a bug of the library's")

        monkeypatch.setattr(gateway.listener._door, "server", fail)
        with Stranger(gateway) as stranger:
            stranger.send(initial())
            await gateway.until(lambda: gateway.listener.counters.connection_errors == 1)
        healthy.send(b"fine")
        await healthy.until(lambda: healthy.data == b"fine")
        await connection.close()
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == ["connection_error"]


def _hosts() -> list[tuple[str, str]]:
    """Return (bind, connect) hosts that this machine has."""
    hosts = [("127.0.0.1", "127.0.0.1"), ("", "127.0.0.1"), ("localhost", "127.0.0.1")]
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return hosts
    return [*hosts, ("[::1]", "::1"), ("[::]", "::1"), ("[::]", "127.0.0.1")]


@pytest.mark.parametrize(("client", "server"), PAIRS)
@pytest.mark.parametrize(("bind", "host"), _hosts())
@pytest.mark.parametrize("batch_io", [True, False])
async def test_addresses(client: str, server: str, bind: str, host: str, batch_io: bool) -> None:
    async with serving(server, bind=f"{bind}:0", batch_io=batch_io) as gateway:
        _, port = gateway.listener.address
        made: list[Recorder] = []

        def make(link: Link) -> Recorder:
            made.append(Recorder(link))
            return made[-1]

        connection = await open_connection(host, port, make, backend=client)
        made[0].send(b"x")
        await made[0].until(lambda: made[0].data == b"x")
        assert gateway.handlers[0].link.peer == (host, connection.address[1])
        await connection.close()
