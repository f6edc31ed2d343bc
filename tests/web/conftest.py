"""Pages of a real browser on a gateway of its own process: Debian's Chromium, driven by playwright
(`make browser`, which builds the JavaScript client first)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import pytest_asyncio

from gatesvr._pb import upstream_pb2 as up
from gatesvr._pb import upstream_pb2_grpc as rpc
from gatesvr.transport.tls import generate_certificate

from ..cli.process import FREE_PORTS, Server, serving
from ..e2e.harness import Pusher

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page, Playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGS = ("--no-sandbox", "--disable-dev-shm-usage")
HERE = Path(__file__).parent
JS = HERE.parents[1] / "clients" / "js"
BUNDLE = JS / "dist" / "bundle.js"
CERTIFICATE_DAYS = 10  # a browser accepts 14 by a hash
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Way:
    """How a page comes to its gateway, and the gateway's QUIC backend."""

    transport: str
    backend: str

    def __str__(self) -> str:
        return self.transport if self.transport == "websocket" else f"webtransport-{self.backend}"


WAYS = [Way("websocket", "qh3"), Way("webtransport", "aioquic"), Way("webtransport", "qh3")]


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    """Run the test on each way in."""
    found: Way = request.param
    return found


@dataclass
class Certificate:
    """A certificate and key for development, and the hash by which a browser accepts it."""

    cert: Path
    key: Path
    sha256: str


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    cert_pem, key_pem = generate_certificate(days=CERTIFICATE_DAYS)
    folder = tmp_path_factory.mktemp("certificate")
    found = Certificate(
        folder / "cert.pem",
        folder / "key.pem",
        hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert_pem.decode())).hexdigest(),
    )
    found.cert.write_bytes(cert_pem)
    found.key.write_bytes(key_pem)
    return found


@dataclass
class Gateway:
    """A gateway of its own process, with the demo's services.

    Attributes:
        server: The process.
        quic: HOST:PORT of QUIC.
        web: HOST:PORT of WebSocket and WebTransport.
        services: Pushes and asks as a service does.
        stub: Of all that a service may call.
    """

    server: Server
    quic: str
    web: str
    services: Pusher
    stub: rpc.GatewayServiceStub

    async def push(self, openid: str, numbers: range) -> None:
        """Push numbers to all sessions of an openid, each of which has to be taken."""
        for number in numbers:
            pushed = await self.stub.PushToClient(
                up.UnicastPushRequest(target_type="openid", target_id=openid, data=b"%d" % number)
            )
            assert pushed.success, pushed


Serve = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture(scope="session")
def serve(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Return a function that runs a gateway for pages of any origin."""

    @asynccontextmanager
    async def run(
        backend: str = "auto", *sets: str, bind: str = "127.0.0.1:0"
    ) -> AsyncIterator[Gateway]:
        settings = (
            f"transport.backend={backend}",
            f"transport.web.bind={bind}",
            'transport.web.origins=["*"]',
            "session.on_duplicate=allow",
            *sets,
        )
        args = [word for text in settings for word in ("--set", text)]
        files = ("--cert", str(certificate.cert), "--key", str(certificate.key))
        state = tmp_path_factory.mktemp("state")
        async with (
            serving(
                state, "serve", "--demo", "--admin", "off", *FREE_PORTS, *files, *args
            ) as server,
            grpc.aio.insecure_channel(server.address("push")) as channel,
        ):
            yield Gateway(
                server,
                server.address("clients"),
                server.address("web clients").partition("//")[2],
                Pusher(channel),
                rpc.GatewayServiceStub(channel),
            )
            if server.process.returncode is None:
                server.process.kill()  # in order it would take a second

    return run


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateways(serve: Serve) -> AsyncIterator[Callable[[str], Any]]:
    """Return a function that returns the gateway of a backend, which many tests share."""
    running: dict[str, Gateway] = {}
    async with AsyncExitStack() as stack:

        async def find(backend: str) -> Gateway:
            if backend not in running:
                running[backend] = await stack.enter_async_context(serve(backend))
            return running[backend]

        yield find


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(way: Way, gateways: Callable[[str], Any]) -> Gateway:
    """Return a gateway for the test's way in; other tests use it too."""
    found: Gateway = await gateways(way.backend)
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def playwright() -> AsyncIterator[Playwright]:
    api = pytest.importorskip("playwright.async_api", reason="the extra browser is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: make browser installs it")
    async with api.async_playwright() as driver:
        yield driver


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(playwright: Playwright) -> AsyncIterator[Browser]:
    """Start a Chromium for all tests of this process."""
    # Pages that are left may be kept and shown again, as in a browser of a user.
    chromium = await playwright.chromium.launch(
        executable_path=CHROMIUM, args=ARGS, ignore_default_args=["--disable-back-forward-cache"]
    )
    yield chromium
    await chromium.close()


@pytest.fixture(scope="session")
def bundle() -> bytes:
    """Return the JavaScript client as one file."""
    if not BUNDLE.exists():
        pytest.skip("clients/js is not built: make browser builds it")
    newest = max(source.stat().st_mtime for source in (JS / "src").iterdir())
    assert BUNDLE.stat().st_mtime >= newest, "clients/js has changed: make browser builds it"
    return BUNDLE.read_bytes()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def site(bundle: bytes) -> AsyncIterator[str]:
    """Serve the page on plain HTTP, which a browser trusts on loopback; return its address."""
    script = (HERE / "page.js").read_bytes()
    page = (
        b'<!doctype html><link rel="icon" href="data:,">'
        b'<script type="module" src="page.js"></script>'
    )
    files = {
        "/": (b"text/html", page),
        "/page.js": (b"text/javascript", script),
        "/gatesvr.js": (b"text/javascript", bundle),
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode().partition("?")[0]
            kind, body = files[path]
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
                b"Connection: close\r\n\r\n%b" % (kind, len(body), body)
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # a connection that the browser opened for later, and did not need
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.close()


@dataclass
class Tab:
    """A page with a client.

    Attributes:
        page: The page.
        complaints: Errors of its scripts.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)

    async def connected(self) -> int:
        """Wait until the client is connected for the first time; return the ms it took."""
        await self.until("window.connected !== undefined")
        return int(await self.page.evaluate("connected"))

    async def until(self, condition: str, arg: Any = None) -> None:
        """Wait until an expression of the page is true; it survives reloads."""
        async with asyncio.timeout(DEADLINE_S):
            while not await self.page.evaluate(condition, arg):
                await asyncio.sleep(0.02)

    async def get(self, expression: str, arg: Any = None) -> Any:
        return await self.page.evaluate(expression, arg)

    async def numbers(self) -> list[int]:
        """Return the numbers that were pushed to it, over all reloads."""
        return [int(text) for _, text in await self.get("told('notifies')")]

    async def has_numbers(self, wanted: range) -> None:
        """Wait until so many numbers were pushed to it, and expect each once and in order."""
        await self.until("wanted => told('notifies').length >= wanted", len(wanted))
        assert await self.numbers() == list(wanted)
        assert await self.get("[told('lost'), told('sessionLost')]") == [[], []]


Open = Callable[..., AbstractAsyncContextManager[Tab]]


def watched(page: Page) -> Tab:
    """Return a page with its complaints."""
    tab = Tab(page)
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    return tab


def page_url(
    site: str, certificate: Certificate, address: str, way: Way | None, **options: Any
) -> str:
    """Return the URL of a page whose client connects to a HOST:PORT; see page.js."""
    options["url"] = f"https://{address}/gatesvr"
    options["hashes"] = [certificate.sha256]
    if way is not None:
        options["transports"] = [way.transport]
    return f"{site}/?{urllib.parse.urlencode({'options': json.dumps(options)})}"


@pytest.fixture
def open_tab(site: str, certificate: Certificate, browser: Browser) -> Open:
    """Return a function that opens a page whose client connects to a HOST:PORT."""

    @asynccontextmanager
    async def opened(
        address: str,
        way: Way | None,
        *,
        context: BrowserContext | None = None,
        **options: Any,
    ) -> AsyncIterator[Tab]:
        url = page_url(site, certificate, address, way, **{"storage": True, **options})
        own = context or await browser.new_context(ignore_https_errors=True)
        try:
            tab = watched(await own.new_page())
            await tab.page.goto(url)
            yield tab
            assert tab.complaints == []
        finally:
            if own is not context:
                await own.close()

    return opened
