"""The admin server: TLS, and the files and packages that it needs."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import sys
from pathlib import Path

import httpx
import pytest

from gatesvr import Gateway
from gatesvr.admin.server import AdminServer
from gatesvr.cli import main
from gatesvr.config import AdminConfig, load
from gatesvr.errors import ConfigError
from tests.admin.rig import running_admin
from tests.fakes import until
from tests.grpc_api.certificates import Signed, make


async def serial(url: str, context: ssl.SSLContext) -> int:
    """Return the serial number of the certificate that a server shows."""
    host, _, port = url.removeprefix("https://").rstrip("/").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    certificate = writer.get_extra_info("peercert")
    writer.close()
    return int(certificate["serialNumber"], 16)


def trust(ca: Signed, own: Signed | None = None) -> ssl.SSLContext:
    """Return a client's context."""
    context = ssl.create_default_context(cafile=ca.cert)
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    return context


async def test_clients_of_the_ca_are_let_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = make(tmp_path, "ca")
    server, client = make(tmp_path, "server", ca), make(tmp_path, "ops", ca)
    async with running_admin() as rig:
        config = AdminConfig(
            bind="127.0.0.1:0", cert=server.cert, key=server.key, client_ca=ca.cert
        )
        admin = AdminServer(rig.gateway, config)
        await admin.start()
        assert admin.url.startswith("https://")
        try:
            async with httpx.AsyncClient(verify=trust(ca)) as http:
                with pytest.raises(httpx.HTTPError):
                    await http.get(f"{admin.url}api/v1/overview")
            async with httpx.AsyncClient(verify=trust(ca, client)) as http:
                assert (await http.get(f"{admin.url}api/v1/overview")).status_code == 200
            options = ["--server", admin.url, "--ca", ca.cert]
            for more, code in (["--cert", client.cert, "--key", client.key], 0), ([], 1):
                with pytest.raises(SystemExit) as caught:
                    await asyncio.to_thread(main, ["stats", *options, *more])
                assert caught.value.code == code
            assert "ready" in capsys.readouterr().out
        finally:
            await admin.stop()


async def test_a_handshake_that_nobody_finishes_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.admin.tls.HANDSHAKE_S", 0.1)
    own = make(tmp_path, "server", make(tmp_path, "ca"))
    async with running_admin() as rig:
        config = AdminConfig(bind="127.0.0.1:0", cert=own.cert, key=own.key)
        admin = AdminServer(rig.gateway, config)
        await admin.start()
        try:
            host, _, port = admin.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()
            assert admin.counters.tls_failed == 1
        finally:
            await admin.stop()


async def test_handshakes_that_nobody_finishes_leave_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.admin.tls.MAX_HANDSHAKES", 4)
    ca = make(tmp_path, "ca")
    own = make(tmp_path, "server", ca)
    async with running_admin() as rig:
        config = AdminConfig(bind="127.0.0.1:0", cert=own.cert, key=own.key)
        admin = AdminServer(rig.gateway, config)
        await admin.start()
        host, _, port = admin.address.rpartition(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(6)]
        try:
            async with asyncio.timeout(60):
                for reader, _ in held[:2]:
                    assert await reader.read() == b""
            assert admin.counters.tls_cut == 2
            async with httpx.AsyncClient(verify=trust(ca)) as http:
                assert (await http.get(f"{admin.url}livez")).status_code == 200
            assert admin.counters.tls_cut == 3
        finally:
            await admin.stop()
            for reader, writer in held[2:]:
                assert await reader.read() == b""
                writer.close()
            for _, writer in held:
                writer.close()


async def test_certificate_follows_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.credentials.SETTLE_S", 0.0)
    ca = make(tmp_path, "ca")
    first = make(tmp_path, "server", ca)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(first.cert, cert)
    shutil.copy(first.key, key)
    async with running_admin() as rig:
        config = AdminConfig(bind="127.0.0.1:0", cert=str(cert), key=str(key))
        admin = AdminServer(rig.gateway, config)
        await admin.start()
        try:
            assert await serial(admin.url, trust(ca)) == first.certificate.serial_number
            cert.write_text("half a certificate")
            assert await admin._sampler.next(60)
            assert await serial(admin.url, trust(ca)) == first.certificate.serial_number
            second = make(tmp_path, "server", ca)
            shutil.copy(second.key, key)
            shutil.copy(second.cert, cert)
            while await serial(admin.url, trust(ca)) != second.certificate.serial_number:
                assert await admin._sampler.next(60)
        finally:
            await admin.stop()


@pytest.mark.parametrize("field", ["cert", "client_ca", "token"])
async def test_file_that_cannot_be_used_is_named(tmp_path: Path, field: str) -> None:
    server = make(tmp_path, "server")
    files = {"cert": server.cert, "key": server.key, "client_ca": server.cert}
    empty = tmp_path / "empty"
    empty.write_text("")
    gateway = Gateway(load(sets=["transport.bind=127.0.0.1:0", "push.bind=127.0.0.1:0"]))
    config = AdminConfig(**{**files, field: str(empty)})
    with pytest.raises(ConfigError, match=rf"admin\.{field}"):
        AdminServer(gateway, config)


async def test_tls_hides_the_cookie_from_plain_connections(tmp_path: Path) -> None:
    ca = make(tmp_path, "ca")
    server = make(tmp_path, "server", ca)
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-the-file-1234\n")
    async with running_admin() as rig:
        config = AdminConfig(
            bind="127.0.0.1:0", cert=server.cert, key=server.key, token=str(tokens)
        )
        admin = AdminServer(rig.gateway, config)
        await admin.start()
        try:
            async with httpx.AsyncClient(verify=trust(ca)) as http:
                answer = await http.post(
                    f"{admin.url}api/v1/login",
                    json={"token": "a-token-of-the-file-1234"},
                    headers={"X-GateSvr": "1"},
                )
            assert "secure" in answer.headers["set-cookie"].lower()
            await until(lambda: admin.counters.requests)
        finally:
            await admin.stop()


@pytest.mark.parametrize("package", ["uvicorn", "starlette.responses", "prometheus_client.core"])
def test_without_the_extra_it_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(load(sets=["transport.bind=127.0.0.1:0", "push.bind=127.0.0.1:0"]))
    for name in ("api", "app", "http", "metrics"):
        monkeypatch.delitem(sys.modules, f"gatesvr.admin.{name}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"gatesvr\[admin\]"):
        AdminServer(gateway, gateway.config.admin)
