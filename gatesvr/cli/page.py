"""The page of ``gatesvr serve --demo``: a chat room between the tabs of a browser.

Its files are in gatesvr/demo/page, and are read once. One of them, client.js, is the JavaScript
client, bundled from clients/js; where nobody has built it, the page says how to.
"""

from __future__ import annotations

import base64
import html
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..config import join_address, parse_address

if TYPE_CHECKING:
    from ..config import TransportConfig
    from ..gateway import Gateway
    from ..transport.tls import ServerTls
    from ..transport.web.pages import Page

__all__ = ["DemoPage", "open_page", "page_settings"]

WEB_PORT = 8443
PLAIN_PORT = 8080
INDEX = "index.html"
CLIENT = "/client.js"
PLACE = "{{settings}}"
"""Where index.html takes the settings of its scripts."""
MEDIA = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def page_settings(transport: TransportConfig) -> dict[str, Any]:
    """Return the settings that a demo has the page by, where nothing is said of web clients."""
    # Who wants any free port for the other clients has the usual ones in use.
    port = WEB_PORT if parse_address(transport.bind)[1] else 0
    return {"transport.web.bind": f"127.0.0.1:{port}"}


async def open_page(gateway: Gateway) -> str:
    """Serve the page, of a gateway that has started; return where, empty for nowhere.

    It is on the address of web clients, and for browsers that refuse the certificate on a port of
    loopback without TLS.

    Raises:
        ConfigError: There is no port left.
    """
    web = gateway.config.transport.web
    if not (web.bind and web.websocket):
        return ""
    pages = gateway.web.pages = DemoPage(gateway)
    port = await gateway.web.start_plain(PLAIN_PORT if parse_address(web.bind)[1] else 0)
    host, secure = gateway.web.address
    local = ("localhost", "127.0.0.1", "[::1]")
    origins = [f"http://{name}:{port}" for name in local]
    if _is_local(host):
        host = "localhost"
        # From a page by one of its names, WebTransport goes to another.
        origins += [f"https://{name}:{secure}" for name in local]
    gateway.web.page_origins = frozenset(origins)
    without = "" if pages(CLIENT) else " (its client is not built: that takes npm)"
    return (
        f"https://{join_address(host, secure)}/, or http://localhost:{port}/ without TLS{without}"
    )


class DemoPage:
    """The files of the page by their paths.

    Args:
        gateway: The gateway, started: its web address and its certificate are in the page.
    """

    def __init__(self, gateway: Gateway) -> None:
        from ..transport.web.pages import Page

        self._gateway = gateway
        self._tls: ServerTls | None = None
        self._template = ""
        self._pages: dict[str, Page] = {}
        folder = resources.files("gatesvr.demo") / "page"
        for entry in folder.iterdir():
            media = MEDIA.get(entry.name.rpartition(".")[2])
            if entry.name == INDEX:
                self._template = entry.read_text("utf-8")
            elif media is not None:
                self._pages[f"/{entry.name}"] = Page(media, entry.read_bytes())

    def __call__(self, path: str) -> Page | None:
        """Return the page at a path, None for none."""
        if path == "/" and self._tls is not self._gateway.listener.tls:
            self._tls = self._gateway.listener.tls
            self._pages["/"] = self._index(self._tls)
        return self._pages.get(path)

    def _index(self, tls: ServerTls) -> Page:
        """Return the page's document for a certificate."""
        from ..transport.web.pages import Page

        web = self._gateway.config.transport.web
        host, port = self._gateway.web.address
        if _is_local(host):
            # By address: a browser may take localhost for ::1, where nothing listens.
            host = "::1" if host == "::1" else "127.0.0.1"
        own = join_address(host, port)
        settings = {
            "path": web.path,
            "port": port,
            "loopback": own,
            "hash": base64.b64encode(tls.web_hash()).decode(),
            "webtransport": web.webtransport,
        }
        text = self._template.replace(PLACE, html.escape(json.dumps(settings)))
        return Page(MEDIA["html"], text.encode(), (f"https://{own}",))


def _is_local(host: str) -> bool:
    """Return whether a browser of this machine reaches an address as localhost."""
    from ..transport.addresses import is_loopback

    return host in ("0.0.0.0", "::") or is_loopback(host)  # noqa: S104  # compared only
