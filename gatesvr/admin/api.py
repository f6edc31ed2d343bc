"""Api: what the admin server answers, one method a route."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from ..drain import DrainStatus
from ..errors import ConfigError
from ..observe.log import set_level
from ..reload import ReloadReport
from .access import COOKIE, LOGIN_S
from .answers import (
    Done,
    History,
    LoginView,
    LogLevel,
    Overview,
    RouteView,
    SessionPage,
    SessionView,
    Settings,
    Stacks,
    Traced,
    UpstreamView,
)
from .openapi import ApiRoute, document
from .profile import stacks
from .questions import (
    DrainBody,
    HistoryQuery,
    KickBody,
    KickUserBody,
    LogBody,
    LoginBody,
    ProfileQuery,
    PushBody,
    SessionQuery,
    TraceBody,
)
from .refusal import Refused
from .settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config.load import Origins
    from ..gateway import Gateway
    from ..service.results import PushResult
    from .access import Access
    from .figures import Sampler
    from .profile import Profiler
    from .sessions import Directory
    from .streams import EventResponse, Streams

__all__ = ["ROUTES", "Api"]

EVENTS = "text/event-stream"
ROUTES = [
    ApiRoute("GET", "overview", "overview", "The whole gateway now.", Overview),
    ApiRoute("GET", "history", "history", "The last minutes.", History, HistoryQuery),
    ApiRoute("GET", "stream", "stream", "An overview a second.", None, media=EVENTS),
    ApiRoute("GET", "sessions", "sessions", "A page of sessions.", SessionPage, SessionQuery),
    ApiRoute("GET", "sessions/{id}", "session", "Everything about a session.", SessionView),
    ApiRoute(
        "GET",
        "sessions/{id}/stream",
        "session_stream",
        "A session's view a second, and its messages while it is traced.",
        None,
        media=EVENTS,
    ),
    ApiRoute("POST", "sessions/{id}/kick", "kick_session", "Close a session.", Done, body=KickBody),
    ApiRoute("POST", "kick", "kick", "Close all sessions of a user.", Done, body=KickUserBody),
    ApiRoute(
        "POST", "sessions/{id}/push", "push", "Push a notify to a session.", Done, body=PushBody
    ),
    ApiRoute(
        "POST", "sessions/{id}/trace", "trace", "Trace a session, or not.", Traced, body=TraceBody
    ),
    ApiRoute("GET", "upstreams", "upstreams", "Every endpoint.", list[UpstreamView]),
    ApiRoute("GET", "routes", "routes", "The routes; the first that matches.", list[RouteView]),
    ApiRoute("GET", "config", "config", "The configuration in force.", Settings),
    ApiRoute("POST", "reload", "reload", "Read the configuration again.", ReloadReport),
    ApiRoute("GET", "drain", "drain_status", "How far a drain is.", DrainStatus),
    ApiRoute("POST", "drain", "drain", "Begin to drain.", DrainStatus, body=DrainBody),
    ApiRoute("POST", "log", "log", "Set what is logged.", LogLevel, body=LogBody),
    ApiRoute(
        "GET",
        "profile",
        "profile",
        "Folded stacks of the next seconds.",
        None,
        ProfileQuery,
        media="text/plain",
    ),
    ApiRoute("GET", "stacks", "stacks", "Where all tasks and threads are.", Stacks),
    ApiRoute("GET", "openapi.json", "openapi", "This document.", dict[str, Any]),
    ApiRoute(
        "POST",
        "login",
        "login",
        "Trade a token for a cookie.",
        LoginView,
        body=LoginBody,
        by_address=True,
    ),
]

_STATUSES = {
    "NOT_FOUND": 404,
    "INVALID": 400,
    "TOO_LARGE": 413,
    "AMBIGUOUS": 409,
    "TOO_LATE": 409,
    "BUSY": 503,
}
"""The status of a command's error_code."""


class Api:
    """Answers the routes. Each method has its name from ROUTES, and takes (id, query, body).

    login() takes the client's address, empty on a Unix socket, where the others take an id.

    Args:
        gateway: The gateway.
        sampler: Has the figures.
        directory: Has the sessions.
        streams: Makes the event streams.
        profiler: Profiles.
        access: Trades tokens for cookies.
        origins: Returns what set the settings; None where nobody knows.
        reload: Reads the configuration again; None where it cannot be.
    """

    def __init__(
        self,
        gateway: Gateway,
        sampler: Sampler,
        directory: Directory,
        streams: Streams,
        profiler: Profiler,
        access: Access,
        origins: Callable[[], Origins] | None,
        reload: Callable[[], ReloadReport] | None,
    ) -> None:
        self._gateway = gateway
        self._sampler = sampler
        self._directory = directory
        self._streams = streams
        self._profiler = profiler
        self._access = access
        self._origins = origins
        self._reload = reload
        self._draining: asyncio.Task[None] | None = None

    # Looking.

    async def overview(self, _id: str, _query: Any, _body: Any) -> Overview:
        """Return the whole gateway now."""
        overview = self._sampler.overview
        assert overview is not None
        return overview

    async def history(self, _id: str, query: HistoryQuery, _body: Any) -> History:
        """Return the last minutes."""
        return self._sampler.history(query.seconds)

    async def stream(self, _id: str, _query: Any, _body: Any) -> EventResponse:
        """Return a stream of overviews."""
        return self._streams.overview()

    async def sessions(self, _id: str, query: SessionQuery, _body: Any) -> SessionPage:
        """Return a page of sessions."""
        return await self._directory.page(query)

    async def session(self, session_id: str, _query: Any, _body: Any) -> SessionView:
        """Return everything about a session."""
        return self._directory.view(session_id)

    async def session_stream(self, session_id: str, _query: Any, _body: Any) -> EventResponse:
        """Return a stream of a session."""
        return self._streams.session(session_id)

    async def upstreams(self, _id: str, _query: Any, _body: Any) -> list[UpstreamView]:
        """Return every endpoint."""
        return self._sampler.upstreams()

    async def routes(self, _id: str, _query: Any, _body: Any) -> list[RouteView]:
        """Return the routes."""
        config = self._gateway.config
        return [
            RouteView(
                action=rule.action,
                service=rule.service,
                order=rule.order or config.upstream.order,
                serial=rule.serial,
            )
            for rule in config.route
        ]

    async def config(self, _id: str, _query: Any, _body: Any) -> Settings:
        """Return the configuration in force."""
        return settings(self._gateway.config, self._origins() if self._origins else None)

    async def profile(self, _id: str, query: ProfileQuery, _body: Any) -> Response:
        """Return the folded stacks of the next seconds."""
        return Response(await self._profiler.run(query.seconds), media_type="text/plain")

    async def stacks(self, _id: str, _query: Any, _body: Any) -> Stacks:
        """Return where all tasks and threads are."""
        return await stacks()

    async def openapi(self, _id: str, _query: Any, _body: Any) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return document(ROUTES, self._gateway.figures().version)

    # Changing.

    async def kick_session(self, session_id: str, _query: Any, body: KickBody) -> Done:
        """Close a session."""
        result = await self._gateway.kick(
            session_id, target_type="session", reason=body.reason, code=body.code
        )
        return _done(result)

    async def kick(self, _id: str, _query: Any, body: KickUserBody) -> Done:
        """Close all sessions of a user."""
        result = await self._gateway.kick(body.openid, reason=body.reason, code=body.code)
        return _done(result)

    async def push(self, session_id: str, _query: Any, body: PushBody) -> Done:
        """Push a notify to a session."""
        result = await self._gateway.push(
            session_id,
            target_type="session",
            msg_type=body.msg_type,
            title=body.title,
            content=body.content,
            data=body.data,
            ttl=body.ttl,
        )
        return _done(result)

    async def trace(self, session_id: str, _query: Any, body: TraceBody) -> Traced:
        """Trace a session, or not."""
        if body.on:
            self._directory.trace(session_id)
        else:
            self._directory.find(session_id)
            self._directory.untrace(session_id)
        return Traced(traced=body.on)

    async def reload(self, _id: str, _query: Any, _body: Any) -> ReloadReport:
        """Read the configuration again."""
        if self._reload is None:
            raise Refused.missing("this gateway's configuration cannot be read again")
        return self._reload()

    async def drain_status(self, _id: str, _query: Any, _body: Any) -> DrainStatus:
        """Return how far a drain is."""
        return self._gateway.drain_status()

    async def drain(self, _id: str, _query: Any, body: DrainBody) -> DrainStatus:
        """Begin to drain, or return how far the drain is that has begun."""
        if self._draining is None:
            asked = self._gateway.drain(body.rate, body.timeout, to=body.to, to_web=body.to_web)
            draining = asyncio.create_task(asked, name="gatesvr-admin-drain")
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # it has begun, so that the answer shows it
            if draining.done() and isinstance(error := draining.exception(), ConfigError):
                raise Refused.invalid(str(error))
            self._draining = draining
        return self._gateway.drain_status()

    async def log(self, _id: str, _query: Any, body: LogBody) -> LogLevel:
        """Set what is logged."""
        try:
            set_level(body.level, session=body.session)
        except ValueError as error:
            raise Refused.invalid(str(error)) from None
        return LogLevel(level=body.level, session=body.session)

    async def login(self, ip: str, _query: Any, body: LoginBody) -> Response:
        """Trade a token for a cookie."""
        cookie, ends = self._access.login(body.token, ip)
        answer = Response(
            msgspec.json.encode(LoginView(expires=ends)), media_type="application/json"
        )
        if cookie:
            answer.set_cookie(
                COOKIE,
                cookie,
                max_age=LOGIN_S,
                httponly=True,
                samesite="strict",
                secure=self._access.is_tls,
            )
        return answer


def _done(result: PushResult) -> Done:
    """Return a command's success.

    Raises:
        Refused: It was refused.
    """
    if result.error_code:
        status = _STATUSES.get(result.error_code, 400)
        raise Refused(status, result.error_code, result.message or result.error_code)
    return Done(sessions=result.sessions)
