"""The demo's page, as a browser asks for it: its files, and who may open a WebSocket from it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import re
import socket
import ssl
from importlib import resources
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from gatesvr import ConfigError, Gateway
from gatesvr._pb import message_pb2 as pb
from gatesvr.cli.page import open_page
from gatesvr.config import load, parse_address
from gatesvr.transport.tls import ServerTls, generate_certificate

from .harness import WEB, counter, gateway_sets, running_gateway
from .plain_upstream import plain_upstream
from .web_client import WebClient, client_context, web_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE_S = 20.0


class Answer:
    """An HTTP answer: status, headers in lower case, body."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in lines)


async def get(address: str, path: str, *, is_plain: bool = False) -> Answer:
    """Ask for a path, and read until the connection ends."""
    host, port = parse_address(address)
    async with asyncio.timeout(DEADLINE_S):
        context = None if is_plain else client_context()
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
        raw = await reader.read()
        writer.close()
        return Answer(raw)


def plain_port(where: str) -> int:
    """Return the port of the address without TLS in what open_page() returns."""
    match = re.search(r"http://localhost:(\d+)/", where)
    assert match is not None
    return int(match[1])


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, WEB) as it,
    ):
        yield it


async def test_a_gateway_has_no_page(gateway: Gateway) -> None:
    answer = await get(gateway.web_address, "/")
    assert (answer.status, answer.body) == (404, b"there is nothing here\n")
    assert counter(gateway, "web.requests_refused") == 1
    assert counter(gateway, "web.pages_served") == 0


async def test_a_page_without_its_client_is_told(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.cli.page.CLIENT", "/nothing.js")
    where = await open_page(gateway)
    assert where.endswith("/ without TLS (its client is not built: that takes npm)")


async def test_the_demo_has_one(gateway: Gateway) -> None:
    where = await open_page(gateway)
    secure = gateway.web_address
    port = parse_address(secure)[1]
    plain = f"127.0.0.1:{plain_port(where)}"
    assert where.startswith(f"https://localhost:{port}/")
    for address, is_plain in ((secure, False), (plain, True)):
        answer = await get(address, "/?name=ann", is_plain=is_plain)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert int(answer.headers["content-length"]) == len(answer.body)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
        assert f"connect-src 'self' https://127.0.0.1:{port};" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        found = re.search(rb'name="gatesvr" content="([^"]*)"', answer.body)
        assert found is not None
        settings = json.loads(html.unescape(found[1].decode()))
        der = ssl.PEM_cert_to_DER_cert(gateway.listener.tls.cert_pem.decode())
        assert base64.b64decode(settings["hash"]) == hashlib.sha256(der).digest()
        assert settings["path"] == "/gatesvr"
        assert settings["loopback"] == f"127.0.0.1:{port}"
    assert counter(gateway, "web.pages_served") == 2


async def test_the_hash_is_that_of_the_certificate_shown_now(gateway: Gateway) -> None:
    plain = f"127.0.0.1:{plain_port(await open_page(gateway))}"
    cert, key = generate_certificate(days=3)
    for shown in (ServerTls(cert, key, ""), ServerTls(*generate_certificate(days=30), "")):
        gateway.listener.tls = shown
        page = html.unescape((await get(plain, "/", is_plain=True)).body.decode())
        assert f'"hash": "{base64.b64encode(shown.web_hash()).decode()}"' in page
    assert '"hash": ""' in page  # 30 days are too long


async def test_its_files_are_all_that_is_served(gateway: Gateway) -> None:
    plain = f"127.0.0.1:{plain_port(await open_page(gateway))}"
    media = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    folder = resources.files("gatesvr.demo") / "page"
    for file in folder.iterdir():
        if file.name == "index.html":
            continue  # at /
        answer = await get(plain, f"/{file.name}", is_plain=True)
        assert (answer.status, answer.body) == (200, file.read_bytes())
        assert answer.headers["content-type"].startswith(media[file.name.rpartition(".")[2]])
        assert "content-security-policy" in answer.headers
    for path in (
        "/index.html",
        "/../page.py",
        "/..%2f__init__.py",
        "//etc/passwd",
        "/page/main.js",
        "/main.js/",
        "/%6dain.js",
        "/gatesvr.toml",
    ):
        assert (await get(plain, path, is_plain=True)).status == 404, path


@pytest.mark.parametrize(
    ("origin", "host", "is_let_in"),
    [
        ("http://localhost:{port}", "localhost:{port}", True),
        ("http://127.0.0.1:{port}", "127.0.0.1:{port}", True),
        ("http://evil.example:{port}", "evil.example:{port}", False),
        ("https://evil.example", "localhost:{port}", False),
        ("null", "localhost:{port}", False),
    ],
)
async def test_who_may_open_a_websocket_without_tls(
    gateway: Gateway, origin: str, host: str, is_let_in: bool
) -> None:
    port = plain_port(await open_page(gateway))
    opening = connect(
        f"ws://127.0.0.1:{port}/gatesvr",
        subprotocols=[Subprotocol("gatesvr")],
        origin=Origin(origin.format(port=port)),
        additional_headers={"Host": host.format(port=port)},
        compression=None,
        proxy=None,
    )
    if not is_let_in:
        with pytest.raises(InvalidStatus, match="403"):
            await opening
        assert counter(gateway, "web.origins_refused") == 1
        return
    async with opening as connection:
        client = WebClient(connection)
        await client.login("ann")
    assert counter(gateway, "web.accepted") == 1


async def test_pages_of_the_demo_are_let_in_beside_the_origins() -> None:
    origins = 'transport.web.origins=["https://app.example"]'
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, WEB, origins) as gateway,
    ):
        own = f"https://{gateway.web_address}"
        with pytest.raises(InvalidStatus, match="403"):
            async with web_client(gateway.web_address, origin=own):
                pass
        await open_page(gateway)
        for origin in (own, "https://app.example"):
            async with web_client(gateway.web_address, origin=origin) as client:
                await client.login("ann")


async def test_a_port_that_is_taken_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr("gatesvr.cli.page.PLAIN_PORT", port)
        sets = gateway_sets("aioquic", "127.0.0.1:1", f"transport.web.bind=127.0.0.1:{port}")
        with pytest.raises(ConfigError, match="cannot listen on TCP"):
            async with Gateway(load(sets=sets)):
                pass
        gateway = Gateway(load(sets=sets))
        gateway.web.is_any_port = True
        async with gateway:
            where = await open_page(gateway)
            assert str(port) not in where
            answer = await get(f"127.0.0.1:{plain_port(where)}", "/", is_plain=True)
            assert answer.status == 200
            assert parse_address(gateway.web_address)[1] != port


async def test_a_web_client_that_is_asked_to_leave_is_sent_to_no_other_address(
    gateway: Gateway,
) -> None:
    async with web_client(gateway.web_address) as client:
        await client.login("ann")
        draining = asyncio.ensure_future(gateway.drain(ready_wait=0))
        push = await client.receive()
        assert push.type == pb.PUSH_GOAWAY
        # The UDP port would be no use to it, and the URL that it has is.
        assert pb.GoAway.FromString(push.payload).address == ""
        await client.connection.close()
        await draining
