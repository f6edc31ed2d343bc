"""Names with several addresses, scopes, and starts that fail halfway."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from gatesvr.config import TransportConfig
from gatesvr.errors import ConfigError
from gatesvr.transport import door, listener
from gatesvr.transport.addresses import resolve
from gatesvr.transport.client import open_connection
from gatesvr.transport.listener import ConnectionListener
from gatesvr.transport.tls import client_tls
from gatesvr.transport.udp import sockets

from .harness import DEADLINE_S, Recorder, serving
from .test_listener import initial

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gatesvr.transport.addresses import Address

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
NOT_OURS = "192.0.2.77"  # of a network that is nobody's

on_both_loops = pytest.mark.parametrize("loop", LOOPS)


def run(loop: str, main: Coroutine[Any, Any, None]) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] = LOOPS[loop]
    with asyncio.Runner(loop_factory=factory, debug=True) as runner:
        runner.run(main)


def named(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let every name have these addresses."""

    async def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, Address]]:
        return [
            (socket.AF_INET6, (host, port, 0, 0)) if ":" in host else (socket.AF_INET, (host, port))
            for host in hosts
        ]

    monkeypatch.setattr(door, "resolve", resolve)


@pytest.mark.parametrize("batch_io", [True, False], ids=["batch", "plain"])
async def test_a_name_with_several_addresses(
    backend: str, batch_io: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, "127.0.0.1", "::1")
    async with serving(backend, bind="several.test:0", batch_io=batch_io) as gateway:
        assert gateway.listener.address[0] == "127.0.0.1"
        port = gateway.listener.address[1]
        for asked in ("127.0.0.1", "::1"):
            made: list[Recorder] = []

            def make(link: object, made: list[Recorder] = made) -> Recorder:
                made.append(Recorder(link))  # type: ignore[arg-type]
                return made[-1]

            tls = client_tls(asked, insecure=True)
            connection = await open_connection(asked, port, make, backend=backend, tls=tls)
            await made[0].exchange(b"x" * 50_000)
            await connection.close()
        counters = gateway.listener.counters
        assert counters.accepted == 2
        assert counters.bytes_received > 100_000 < counters.bytes_sent


async def test_addresses_that_this_host_has_not_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named(monkeypatch, NOT_OURS, "127.0.0.1")
    async with serving("aioquic", bind="several.test:0") as gateway:
        assert gateway.listener.address[0] == "127.0.0.1"
        assert gateway.listener.address[1] > 0
    named(monkeypatch, NOT_OURS)
    with pytest.raises(ConfigError, match=r"cannot listen on UDP several\.test:0"):
        async with serving("aioquic", bind="several.test:0"):
            pass


async def test_a_port_that_is_free_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, "127.0.0.1", "::1")
    made: list[socket.socket] = []
    open_socket = sockets.open_socket

    def taken_at_first(address: Address, family: Any, **options: Any) -> socket.socket:
        if len(made) == 1:
            made.append(made[0])
            raise OSError(errno.EADDRINUSE, "taken by another")
        made.append(open_socket(address, family, **options))
        return made[-1]

    monkeypatch.setattr(sockets, "open_socket", taken_at_first)
    async with serving("aioquic", bind="several.test:0"):
        first, _, *kept = made
        assert first.fileno() == -1
        assert len({sock.getsockname()[1] for sock in kept}) == 1
        assert len(kept) == 2
    assert {sock.fileno() for sock in made} == {-1}


def link_local() -> str:
    """Return a link-local address of this host with its scope, empty for none."""
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as lines:
            for line in lines:
                digits, _, _, _, _, name = line.split()
                if digits.startswith("fe80"):
                    return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))}%{name}"
    except OSError:
        return ""
    return ""


@on_both_loops
@pytest.mark.skipif(not link_local(), reason="the host has no link-local address")
def test_a_link_local_address(loop: str) -> None:
    run(loop, _link_local())


async def _link_local() -> None:
    place = link_local()
    running = asyncio.get_running_loop()
    async with serving("aioquic", bind=f"[{place}]:0") as gateway:
        ((family, address),) = await resolve(place, gateway.listener.address[1])
        with socket.socket(family, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.connect(address)
            good = initial()
            async with asyncio.timeout(DEADLINE_S):
                stranger.send(good[:1] + b"\x1a\x2a\x3a\x4a" + good[5:])
                assert await running.sock_recv(stranger, 2000)


@on_both_loops
def test_names_that_are_none(loop: str) -> None:
    run(loop, _no_names())


async def _no_names() -> None:
    for host in ("no.such.host.invalid", "[fe80::1%nowhere]"):
        gateway = ConnectionListener(TransportConfig(bind=f"{host}:0"), Recorder)
        with pytest.raises(ConfigError, match="cannot listen on UDP") as caught:
            await gateway.start()
        assert caught.value.field == "transport.bind"


@on_both_loops
@pytest.mark.parametrize(
    ("what", "hosts"),
    [
        ("is_wildcard", ["127.0.0.1"]),
        ("Endpoint", ["127.0.0.1"]),
        ("EndpointGroup", ["127.0.0.1", "::1"]),
        ("reset_key", ["127.0.0.1"]),
        ("reset_key", ["127.0.0.1", "::1"]),
    ],
)
def test_a_start_that_fails_leaves_nothing_behind(
    loop: str, hosts: list[str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(loop, _fail(hosts, what, monkeypatch))


async def _fail(hosts: list[str], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, *hosts)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    gateway = ConnectionListener(TransportConfig(bind=f"some.test:{port}"), Recorder)

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(listener if what == "reset_key" else door, what, fail)
        with pytest.raises(ZeroDivisionError):
            await gateway.start()
    await gateway.stop()
    await gateway.start()  # on the same port
    await gateway.stop()
