"""Api: what the admin server answers, one method a route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from ..drain import DrainStatus
from ..observe.version import package_version
from ..reload import ReloadReport
from .access import COOKIE, LOGIN_S
from .answers import (
    Done,
    FleetView,
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
    UpgradeStatus,
    UpstreamView,
)
from .openapi import ApiRoute, document
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
    StacksQuery,
    TraceBody,
)
from .settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config.load import Origins
    from .access import Access
    from .figures import Sampler
    from .source import Source
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
    ApiRoute("GET", "workers", "workers", "The processes of a gateway of several.", FleetView),
    ApiRoute("GET", "routes", "routes", "The routes; the first that matches.", list[RouteView]),
    ApiRoute("GET", "config", "config", "The configuration in force.", Settings),
    ApiRoute("POST", "reload", "reload", "Read the configuration again.", ReloadReport),
    ApiRoute("GET", "drain", "drain_status", "How far a drain is.", DrainStatus),
    ApiRoute("POST", "drain", "drain", "Begin to drain.", DrainStatus, body=DrainBody),
    ApiRoute("GET", "upgrade", "upgrade_status", "How far an upgrade is.", UpgradeStatus),
    ApiRoute("POST", "upgrade", "upgrade", "Begin to replace the workers.", UpgradeStatus),
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
    ApiRoute("GET", "stacks", "stacks", "Where all tasks and threads are.", Stacks, StacksQuery),
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


class Api:
    """Answers the routes. Each method has its name from ROUTES, and takes (id, query, body).

    login() takes the client's address, empty on a Unix socket, where the others take an id.

    Args:
        source: The gateway.
        sampler: Has the figures.
        streams: Makes the event streams.
        access: Trades tokens for cookies.
        origins: Returns what set the settings; None where nobody knows.
    """

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        streams: Streams,
        access: Access,
        origins: Callable[[], Origins | None] | None,
    ) -> None:
        self._source = source
        self._sampler = sampler
        self._streams = streams
        self._access = access
        self._origins = origins

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
        return await self._source.page(query)

    async def session(self, session_id: str, _query: Any, _body: Any) -> SessionView:
        """Return everything about a session."""
        return await self._source.view(session_id)

    async def session_stream(self, session_id: str, _query: Any, _body: Any) -> EventResponse:
        """Return a stream of a session."""
        return await self._streams.session(session_id)

    async def upstreams(self, _id: str, _query: Any, _body: Any) -> list[UpstreamView]:
        """Return every endpoint."""
        return await self._sampler.upstreams()

    async def workers(self, _id: str, _query: Any, _body: Any) -> FleetView:
        """Return the processes of a gateway of several."""
        overview = self._sampler.overview
        return (overview.fleet if overview is not None else None) or FleetView()

    async def routes(self, _id: str, _query: Any, _body: Any) -> list[RouteView]:
        """Return the routes."""
        config = self._source.config
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
        return settings(self._source.config, self._origins() if self._origins else None)

    async def profile(self, _id: str, query: ProfileQuery, _body: Any) -> Response:
        """Return the folded stacks of the next seconds."""
        folded = await self._source.profile(query.seconds, query.worker)
        return Response(folded, media_type="text/plain")

    async def stacks(self, _id: str, query: StacksQuery, _body: Any) -> Stacks:
        """Return where all tasks and threads are."""
        return await self._source.stacks(query.worker)

    async def openapi(self, _id: str, _query: Any, _body: Any) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return document(ROUTES, package_version())

    # Changing.

    async def kick_session(self, session_id: str, _query: Any, body: KickBody) -> Done:
        """Close a session."""
        return await self._source.kick_session(session_id, body)

    async def kick(self, _id: str, _query: Any, body: KickUserBody) -> Done:
        """Close all sessions of a user."""
        return await self._source.kick(body)

    async def push(self, session_id: str, _query: Any, body: PushBody) -> Done:
        """Push a notify to a session."""
        return await self._source.push(session_id, body)

    async def trace(self, session_id: str, _query: Any, body: TraceBody) -> Traced:
        """Trace a session, or not."""
        await self._source.trace(session_id, on=body.on)
        return Traced(traced=body.on)

    async def reload(self, _id: str, _query: Any, _body: Any) -> ReloadReport:
        """Read the configuration again."""
        return await self._source.reload()

    async def drain_status(self, _id: str, _query: Any, _body: Any) -> DrainStatus:
        """Return how far a drain is."""
        return await self._source.drain_status()

    async def drain(self, _id: str, _query: Any, body: DrainBody) -> DrainStatus:
        """Begin to drain, or return how far the drain is that has begun."""
        return await self._source.drain(body)

    async def upgrade_status(self, _id: str, _query: Any, _body: Any) -> UpgradeStatus:
        """Return how far an upgrade is."""
        return await self._source.upgrade_status()

    async def upgrade(self, _id: str, _query: Any, _body: Any) -> UpgradeStatus:
        """Begin to replace the workers."""
        return await self._source.upgrade()

    async def log(self, _id: str, _query: Any, body: LogBody) -> LogLevel:
        """Set what is logged."""
        await self._source.log(body)
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
