"""TLS to upstreams by lanes of both kinds, and the line of the log where it fails."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from gatesvr.config import Endpoint, PushConfig, UpstreamTls
from gatesvr.upstream.manager import UpstreamManager

from ..fakes import until
from .certificates import Authority, Pair
from .servers import Streaming, ask, parse, serving, settings

pytestmark = pytest.mark.usefixtures("lane_kind")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def credentials(authority: Authority, pair: Pair, *, wants: bool = False) -> Any:
    """Return what a gRPC server speaks TLS with, and whether callers need a certificate."""
    chain = [(Path(pair.key).read_bytes(), Path(pair.cert).read_bytes())]
    roots = Path(authority.path).read_bytes() if wants else None
    return grpc.ssl_server_credentials(chain, roots, wants)


@asynccontextmanager
async def managing(
    address: str, authority_name: str = "", **tls: Any
) -> AsyncIterator[UpstreamManager]:
    """Run a manager with one endpoint."""
    services = {"zone": [Endpoint(address=address, authority=authority_name)]}
    values = UpstreamTls(**{"enabled": True, **tls})
    manager = UpstreamManager(settings(services=services, tls=values), 1 << 20)
    await manager.start()
    try:
        yield manager
    finally:
        await manager.stop(1.0)


async def is_answered(manager: UpstreamManager) -> bool:
    return parse(await ask(manager)).message == "a"


async def down_line(caplog: pytest.LogCaptureFixture) -> str:
    """Return why the upstream is down, by its line in the log."""

    def found() -> list[str]:
        records: list[Any] = [r for r in caplog.records if r.message == "upstream_down"]
        return [record.keys["why"] for record in records]

    await until(found)
    return found()[0]


async def test_calls_go_over_tls(authority: Authority) -> None:
    server = credentials(authority, authority.sign("127.0.0.1", "chat.example"))
    async with serving(Streaming("a"), credentials=server) as address:
        async with managing(address, ca=authority.path) as manager:
            assert await is_answered(manager)
            await until(lambda: manager.endpoints()[0].state == "stream")
            assert await is_answered(manager)
        async with managing(address, "chat.example:1", ca=authority.path) as manager:
            assert await is_answered(manager)
        name = "chat.example"
        for own in ("", "other.example:1"):
            async with managing(address, own, ca=authority.path, server_name=name) as manager:
                assert await is_answered(manager)


async def test_the_gateway_shows_its_certificate(
    authority: Authority, caplog: pytest.LogCaptureFixture, lane_kind: str
) -> None:
    server = credentials(authority, authority.sign("127.0.0.1"), wants=True)
    own = authority.sign("gate")
    async with serving(Streaming("a"), credentials=server) as address:
        async with managing(address, ca=authority.path, cert=own.cert, key=own.key) as manager:
            assert await is_answered(manager)
        async with managing(address, ca=authority.path):
            why = await down_line(caplog)
    if lane_kind == "direct":
        assert "client certificate" in why


async def test_certificates_that_prove_nothing(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, lane_kind: str
) -> None:
    stranger = Authority(tmp_path).sign("127.0.0.1")
    for pair, expected in (
        (stranger, "TLS: the certificate is not signed by upstream.tls.ca"),
        (authority.sign("127.0.0.2"), "TLS: the certificate is not for 127.0.0.1"),
        (authority.sign("127.0.0.1", days=-1), "TLS: the certificate has expired"),
    ):
        caplog.clear()
        async with (
            serving(Streaming("a"), credentials=credentials(authority, pair)) as address,
            managing(address, ca=authority.path) as manager,
        ):
            why = await down_line(caplog)
            error = str(await asyncio.wait_for(failed(manager), 20.0))
        if lane_kind == "direct":
            assert why == expected
            assert not error or "zone" in error or expected in error


async def failed(manager: UpstreamManager) -> str:
    try:
        await ask(manager)
    except Exception as error:
        return str(error)
    return ""


async def test_plain_text_and_tls_do_not_meet(
    authority: Authority, caplog: pytest.LogCaptureFixture, lane_kind: str
) -> None:
    async with serving(Streaming("a")) as address, managing(address, ca=authority.path):
        why = await down_line(caplog)
        if lane_kind == "direct":
            assert why == "TLS: the server does not speak TLS"
    caplog.clear()
    server = credentials(authority, authority.sign("127.0.0.1"))
    async with (
        serving(Streaming("a"), credentials=server) as address,
        managing(address, enabled=False),
    ):
        why = await down_line(caplog)
        if lane_kind == "direct":
            assert "TLS" in why


@pytest.mark.only_lane("direct", "the words are ours")
@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
async def test_http2_is_not_offered(
    authority: Authority, caplog: pytest.LogCaptureFixture, protocols: tuple[str, ...]
) -> None:
    context = authority.server_context(authority.sign("127.0.0.1"), protocols=protocols)
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    host, port = server.sockets[0].getsockname()
    async with managing(f"{host}:{port}", ca=authority.path):
        assert await down_line(caplog) == "the server speaks no HTTP/2 (ALPN)"
    server.close()
    await server.wait_closed()


async def test_renewed_files_are_used(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.credentials.SETTLE_S", 0.0)
    stranger = Authority(tmp_path, "other")
    wrong, right = stranger.path, shutil.copy(authority.path, tmp_path / "right.pem")
    server = credentials(authority, authority.sign("127.0.0.1"))
    async with (
        serving(Streaming("a"), credentials=server) as address,
        managing(address, ca=wrong) as manager,
    ):
        await until(lambda: manager.endpoints()[0].state == "down")
        manager.sweep(0.0)
        os.replace(right, wrong)
        manager.sweep(0.0)
        await until(lambda: manager.endpoints()[0].is_up)
        assert await is_answered(manager)


async def test_other_settings_make_other_lanes(authority: Authority) -> None:
    pair = authority.sign("127.0.0.1")
    async with (
        serving(Streaming("a")) as plain,
        serving(Streaming("a"), credentials=credentials(authority, pair)) as secret,
        managing(plain, enabled=False) as manager,
    ):
        assert await is_answered(manager)
        config = settings(
            services={"zone": [Endpoint(address=secret)]},
            tls=UpstreamTls(enabled=True, ca=authority.path),
        )
        manager.prepare(config, push=PushConfig(), rules=[], auth_service="")()
        assert await is_answered(manager)
        before = [*manager._lanes.values()]
        manager.prepare(config, push=PushConfig(), rules=[], auth_service="")()
        assert [*manager._lanes.values()] == before
        config = settings(
            services={"zone": [Endpoint(address=secret)]},
            tls=UpstreamTls(enabled=True, ca=authority.path, server_name="127.0.0.1"),
        )
        manager.prepare(config, push=PushConfig(), rules=[], auth_service="")()
        assert [*manager._lanes.values()] != before
        assert await is_answered(manager)
