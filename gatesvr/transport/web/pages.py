"""Pages: files that the web listener answers plain GETs with, where it is given any."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from websockets.datastructures import Headers
from websockets.http11 import Response

__all__ = ["Page", "Pages", "page_response"]


class Page(NamedTuple):
    """A file as a browser gets it.

    Attributes:
        media: Its media type.
        content: Its bytes.
        connects_to: Origins that its scripts may connect to, beside its own.
    """

    media: str
    content: bytes
    connects_to: tuple[str, ...] = ()


Pages: TypeAlias = Callable[[str], Page | None]
"""Returns the page at the path of a request, None for none."""


def page_response(page: Page) -> Response:
    """Return the HTTP response; the connection ends with it."""
    connects = " ".join(("'self'", *page.connects_to))
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        f" connect-src {connects}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = Headers(
        {
            "Connection": "close",
            "Content-Length": str(len(page.content)),
            "Content-Type": page.media,
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
    )
    return Response(200, "OK", headers, page.content)
