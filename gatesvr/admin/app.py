"""The admin server's application: routes, the gates before them, and what every answer carries."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import mimetypes
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ..observe.log import keys
from .answers import ApiError, ErrorAnswer
from .api import ROUTES
from .measures import Scrape
from .openapi import PREFIX
from .refusal import Refused
from .streams import SEND_S, EventResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from importlib.resources.abc import Traversable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .access import Access
    from .api import Api
    from .counters import AdminCounters
    from .metrics import MetricsPage
    from .openapi import ApiRoute
    from .source import Source

__all__ = ["make_app"]

logger = logging.getLogger("gatesvr.admin")

MAX_BODY_BYTES = 1 << 20
MAX_READERS = 2
"""Requests that read the gateway at a time. Each does a slice a turn of the loop: all of a crowd's
together would hold it up."""
BODY_S = 10.0
"""Longest wait for a request's body."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HEALTH = ("/livez", "/readyz")


def make_app(
    source: Source, api: Api, access: Access, counters: AdminCounters, metrics: MetricsPage
) -> ASGIApp:
    """Return the application.

    Args:
        source: The gateway.
        api: Answers the API.
        access: Judges requests.
        counters: Counts them.
        metrics: Writes the page of /metrics.
    """

    async def livez(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        reasons = source.not_ready()
        if not reasons:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("".join(f"{why}\n" for why in reasons), 503)

    readers = asyncio.Semaphore(MAX_READERS)

    async def show_metrics(request: Request) -> Response:
        async with readers:
            scrape = Scrape.of(await source.sample(), source.config)
            text, media = await metrics.write(scrape, request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": media})

    routes = [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/metrics", show_metrics),
        *(
            Route(
                PREFIX + route.path,
                _endpoint(api, route, counters, readers),
                methods=[route.method],
            )
            for route in ROUTES
        ),
        *_files(),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _not_served})
    return _Gates(app, access, counters)


def _endpoint(
    api: Api, route: ApiRoute, counters: AdminCounters, readers: asyncio.Semaphore
) -> Callable[[Request], Awaitable[Response]]:
    handler = getattr(api, route.name)
    # A profile takes seconds, but of another thread.
    is_reader = route.method == "GET" and route.name != "profile"
    in_line = readers if is_reader else contextlib.nullcontext()

    async def answer(request: Request) -> Any:
        try:
            query = _convert(dict(request.query_params), route.query)
            body = None
            if route.method == "POST":
                body = await _read(request, route, counters)
            async with in_line:
                found = await handler(
                    _ip(request.scope) if route.by_address else request.path_params.get("id", ""),
                    query,
                    body,
                )
        except Refused as refusal:
            return _refusal(refusal)
        except Exception:
            counters.internal_errors += 1
            logger.exception("request_failed", extra=keys(route=route.name))
            return _refusal(Refused(500, "INTERNAL", "the gateway failed; its log says why"))
        if isinstance(found, Response | EventResponse):
            return found
        return Response(msgspec.json.encode(found), media_type="application/json")

    return answer


def _ip(scope: Scope) -> str:
    """Return the client's address; empty on a Unix socket."""
    return str(scope["client"][0]) if scope["client"] else ""


def _convert(values: dict[str, str], kind: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refused.invalid(_text(error)) from None


async def _read(request: Request, route: ApiRoute, counters: AdminCounters) -> msgspec.Struct:
    """Return a request's body.

    Raises:
        Refused: It is too large, comes too slowly, or is not what the route takes.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise Refused(413, "TOO_LARGE", f"more than {MAX_BODY_BYTES} bytes")
        return msgspec.json.decode(bytes(body) or b"{}", type=route.body)
    except ClientDisconnect:
        counters.refused_bodies += 1
        raise Refused(400, "INVALID", "the body did not come") from None  # nobody hears it
    except TimeoutError:
        counters.refused_bodies += 1
        raise Refused(408, "TIMEOUT", "the body did not come in time") from None
    except msgspec.MsgspecError as error:
        counters.refused_bodies += 1
        raise Refused.invalid(_text(error)) from None
    except UnicodeDecodeError:
        counters.refused_bodies += 1
        raise Refused.invalid("no UTF-8 text") from None
    except Refused:
        counters.refused_bodies += 1
        raise


def _text(error: msgspec.MsgspecError) -> str:
    """Return msgspec's complaint with the field in front, as ours have it."""
    message, at, path = str(error).rpartition(" - at `$.")
    return f"{path.rstrip('`')}: {message}" if at else str(error)


def _refusal(refusal: Refused) -> Response:
    answer = ErrorAnswer(error=ApiError(code=refusal.code, message=str(refusal)))
    return Response(
        msgspec.json.encode(answer),
        status_code=refusal.status,
        media_type="application/json",
        headers={"Retry-After": str(refusal.retry_after)} if refusal.retry_after else None,
    )


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "METHOD" if error.status_code == 405 else "NOT_FOUND"
    return _refusal(Refused(error.status_code, code, error.detail))


def _files() -> list[Route]:
    """Return the routes of the console, whose files are read once."""
    found: list[Route] = []

    def add(folder: Traversable, path: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                add(entry, f"{path}{entry.name}/")
            else:
                found.append(Route(path + entry.name, _file(entry)))
                if path + entry.name == "/static/index.html":
                    found.append(Route("/", _file(entry)))

    add(resources.files(__package__) / "console", "/static/")
    return found


def _file(entry: Traversable) -> Callable[[Request], Awaitable[Response]]:
    content = entry.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    media = mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
    headers = {"ETag": tag, "Cache-Control": "no-cache"}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media, headers=headers)

    return answer


class _Gates:
    """Lets a request pass or not, and adds the headers of every answer."""

    def __init__(self, app: ASGIApp, access: Access, counters: AdminCounters) -> None:
        self._app = app
        self._access = access
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._counters.requests += 1

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            async with asyncio.timeout(SEND_S):
                await send(message)

        try:
            path = scope["path"]
            if path not in _HEALTH:
                self._access.check(scope["method"], path, Headers(scope=scope), _ip(scope))
            await self._app(scope, receive, send_with_headers)
        except Refused as refusal:
            await self._refuse(refusal, scope, receive, send_with_headers)
        except TimeoutError:
            scope["state"]["abort"]()  # the answers before are not read
        except Exception:
            # A stream has begun: there is no other way to tell its reader.
            self._counters.internal_errors += 1
            logger.exception("stream_failed")
            scope["state"]["abort"]()

    @staticmethod
    async def _refuse(refusal: Refused, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _refusal(refusal)(scope, receive, send)
        except TimeoutError:
            scope["state"]["abort"]()
