"""How a client finds its gateway: names with several addresses, scopes, international names."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr.errors import ConnectionFailed
from gatesvr.transport import client as client_module
from gatesvr.transport.addresses import host_name
from gatesvr.transport.client import ClientConnection, open_connection
from gatesvr.transport.tls import client_tls, generate_certificate, load_server_tls

from .harness import BACKENDS, Echo, Recorder, serving

if TYPE_CHECKING:
    from pathlib import Path

V4, V6 = socket.AF_INET, socket.AF_INET6


def _has_ipv6() -> bool:
    try:
        with socket.socket(V6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names and their addresses, in the place of the resolver's."""
    known: dict[str, list[str]] = {}
    plain = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **named: Any) -> list[Any]:
        if host not in known:
            return plain(host, port, *args, **named)
        if named.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [entry for address in known[host] for entry in plain(address, port, *args, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@needs_ipv6
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bind", ["[::1]:0", "127.0.0.1:0"])
@pytest.mark.parametrize("order", [["127.0.0.1", "::1"], ["::1", "127.0.0.1"]])
async def test_a_name_with_two_addresses(
    backend: str, bind: str, order: list[str], names: dict[str, list[str]]
) -> None:
    names["localhost"] = order
    async with serving(backend, bind=bind) as gateway:
        _, port = gateway.listener.address
        connection = await open_connection("localhost", port, Echo, backend=backend)
        await connection.close()
        await gateway.until(lambda: not gateway.listener.connections)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_an_address_that_is_silent_holds_up_nobody(
    backend: str, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "RACE_DELAY_S", 0.01)
    names["gate.test"] = ["127.0.0.2", "127.0.0.1"]
    async with serving(backend) as gateway:
        _, port = gateway.listener.address
        with socket.socket(V4, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.2", port))
            made: list[Recorder] = []

            def make(link: Any) -> Recorder:
                made.append(Recorder(link))
                return made[-1]

            connection = await open_connection(
                "gate.test", port, make, backend=backend, tls=client_tls("x", insecure=True)
            )
            assert connection.server[0] == "127.0.0.1"
            assert len(made) == 1
            await connection.close()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_one_connection_is_taken_and_the_others_are_closed(
    backend: str, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both answer: one handler is made, and the gateway that lost hears of it at once."""
    monkeypatch.setattr(client_module, "RACE_DELAY_S", 0.0)
    names["gate.test"] = ["127.0.0.1", "127.0.0.2"]
    async with serving(backend) as one:
        _, port = one.listener.address
        async with serving(backend, bind=f"127.0.0.2:{port}") as two:
            made: list[Recorder] = []

            def make(link: Any) -> Recorder:
                made.append(Recorder(link))
                return made[-1]

            connection = await open_connection(
                "gate.test", port, make, backend=backend, tls=client_tls("x", insecure=True)
            )
            assert len(made) == 1
            loser = two if connection.server[0] == "127.0.0.1" else one
            counters = loser.listener.counters
            await loser.until(lambda: not counters.handshakes and not counters.connections)
            assert counters.handshakes_timed_out == 0
            await connection.close()
            assert len(made) == 1


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_error_names_all_that_was_tried(
    backend: str, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "RACE_DELAY_S", 0.0)
    with socket.socket(V4, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.2", 0))
        port = sock.getsockname()[1]
        names["gate.test"] = ["127.0.0.1", "127.0.0.2"]
        with pytest.raises(ConnectionFailed) as caught:
            await open_connection("gate.test", port, Recorder, backend=backend, connect_timeout=0.5)
        assert str(caught.value) == (
            f"nobody listens on UDP 127.0.0.1 port {port} (refused); "
            f"no answer from 127.0.0.2 port {port}: time-out"
        )


async def test_a_name_without_an_address(names: dict[str, list[str]]) -> None:
    names["gate.test"] = []
    with pytest.raises(ConnectionFailed, match=r"gate\.test port 1: the name has no address"):
        await open_connection("gate.test", 1, Recorder)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_who_gives_up_leaves_nothing_half_open(backend: str) -> None:
    async with serving(backend) as gateway:
        opening = asyncio.create_task(
            open_connection(*gateway.listener.address, Recorder, backend=backend)
        )
        counters = gateway.listener.counters
        await gateway.until(lambda: counters.handshakes or counters.accepted)
        opening.cancel()
        (opened,) = await asyncio.gather(opening, return_exceptions=True)
        if isinstance(opened, ClientConnection):  # it was faster than we are
            await opened.close()
        await gateway.until(lambda: not counters.handshakes and not counters.connections)
        assert counters.handshakes_timed_out == 0


@needs_ipv6
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_link_local_address_is_reached(backend: str, loop: str, tmp_path: Path) -> None:
    """A scope is part of the address, and no part of what the certificate is for."""
    scoped = _link_local()
    if scoped is None:
        pytest.skip("this machine has no link-local address")
    (address, interface, index) = scoped
    cert, key = generate_certificate([address])
    (tmp_path / "pair.pem").write_bytes(cert + key)
    pem = str(tmp_path / "pair.pem")

    async def reach() -> None:
        async with serving(backend, cert=pem, key=pem, bind="[::]:0") as gateway:
            _, port = gateway.listener.address
            for scope in (interface, str(index)):
                connection = await open_connection(
                    f"{address}%{scope}",
                    port,
                    Echo,
                    backend=backend,
                    tls=client_tls(address, ca=pem),
                )
                await connection.close()

    _run(loop, reach)


async def test_a_scope_that_is_missing_or_wrong() -> None:
    with pytest.raises(ConnectionFailed, match="there is no network interface 'nope'"):
        await open_connection("fe80::1%nope", 1, Recorder, connect_timeout=5.0)
    if _link_local() is None:
        pytest.skip("this machine has no link-local address")
    with pytest.raises(ConnectionFailed, match=r"needs its interface, as in \[fe80::1%eth0\]"):
        await open_connection("fe80::1", 1, Recorder, connect_timeout=5.0)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_an_international_name(
    backend: str, names: dict[str, list[str]], tmp_path: Path
) -> None:
    names["xn--bcher-kva.test"] = ["127.0.0.1"]
    cert, key = generate_certificate(["xn--bcher-kva.test"])
    (tmp_path / "pair.pem").write_bytes(cert + key)
    pem = str(tmp_path / "pair.pem")
    async with serving(backend, cert=pem, key=pem) as gateway:
        _, port = gateway.listener.address
        for host in ("bücher.test", "BÜCHER.test", "xn--bcher-kva.test"):
            connection = await open_connection(
                host, port, Echo, backend=backend, tls=client_tls(host, ca=pem)
            )
            await connection.close()
        names["xn--bcher-kvb.test"] = ["127.0.0.1"]
        with pytest.raises(ConnectionFailed, match="not accepted"):
            await open_connection(
                "xn--bcher-kvb.test", port, Echo, backend=backend, tls=client_tls("x", ca=pem)
            )


def test_what_is_no_host_name() -> None:
    assert host_name("bücher.test") == "xn--bcher-kva.test"
    assert host_name("localhost.") == "localhost."
    assert host_name("fe80::1%über") == "fe80::1%über"
    with pytest.raises(ValueError, match=r"'a\.\.b' is no host name: it has an empty label"):
        host_name("a..b")
    with pytest.raises(ValueError, match="is no host name: a label has at most 63 characters"):
        host_name("a" * 64 + ".test")
    with pytest.raises(ValueError, match="is no host name"):
        host_name("\ud800.test")


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
async def test_the_error_names_the_host(host: str) -> None:
    with pytest.raises(ConnectionFailed, match=f"'{host}' is no host name"):
        await open_connection(host, 1, Recorder)


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    """Run the test on each kind of event loop."""
    kind: str = request.param
    return kind


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_half_built_is_undone(
    backend: str, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On uvloop, a socket that is closed while the loop watches it ends the process."""

    def broken(self: object, now: float) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(client_module.Connection, "connect", broken)

    async def connect() -> None:
        with pytest.raises(RuntimeError, match="broken"):
            await open_connection("127.0.0.1", 1, Recorder, backend=backend)
        for _ in range(3):
            await asyncio.sleep(0)

    load_server_tls()
    _run(loop, connect)


def _run(loop: str, main: Any) -> None:
    if loop == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())


def _link_local() -> tuple[str, str, int] | None:
    """Return a link-local address of this machine, its interface and that one's number."""
    try:
        with open("/proc/net/if_inet6") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    for digits, index, _, scope, _, name in lines:
        if scope == "20":
            return socket.inet_ntop(V6, bytes.fromhex(digits)), name, int(index, 16)
    return None
