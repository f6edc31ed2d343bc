"""Keeps a client's session on a connection: connects, starts, resumes, and says when it is over."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ..errors import (
    CloseCode,
    ConnectionFailed,
    ErrorCode,
    GatesvrError,
    RequestFailed,
    SessionLost,
)
from ..observe.log import keys
from ..protocol.client import ClientProtocol
from ..protocol.events import ClientEvent, GoAwayReceived, Kicked, Started, StartRefused
from ..protocol.link import Disconnect, Link
from ..transport.client import ClientConnection, open_connection
from ..transport.tls import ClientTls
from .reconnect import MAX_RECONNECT_HINT_S, Action, Backoff, describe, verdict_of
from .stream import STOP_TIMEOUT_S, StreamHandler

__all__ = ["Connector", "ConnectorOwner"]

logger = logging.getLogger("gatesvr.client")


class ConnectorOwner(Protocol):
    """What a connector tells the client that it works for."""

    def handle_event(self, event: ClientEvent, now: float) -> None:
        """Take in what the gateway said."""

    def session_ended(self, error: SessionLost | None) -> None:
        """The session is over for good: by stop() where error is None."""


class Connector:
    """The one task that owns a session's connections, one after the other.

    Args:
        server: Host and UDP port of the gateway.
        protocol: The session; it outlives its connections.
        owner: Whom to tell.
        tls: Certificates to accept.
        backend: The QUIC library: auto, aioquic or qh3.
        connect_timeout: Longest time for a connection and its handshake, seconds.
        reconnect_timeout: How long to try to get the session back, seconds; 0 for not at all.
        login: Called behind each START whose session is not logged in; None for never.
    """

    def __init__(
        self,
        server: tuple[str, int],
        protocol: ClientProtocol,
        owner: ConnectorOwner,
        *,
        tls: ClientTls,
        backend: str,
        connect_timeout: float,
        reconnect_timeout: float,
        login: Callable[[], Coroutine[Any, Any, object]] | None,
    ) -> None:
        self.connects = 0
        """Connections that reached their START_RESP."""
        self.resumes = 0
        """Of these, the ones that took the session up again."""
        self._server = server
        self._protocol = protocol
        self._owner = owner
        self._tls = tls
        self._backend = backend
        self._connect_timeout = connect_timeout
        self._reconnect_timeout = reconnect_timeout
        self._login = login
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._outcome: asyncio.Future[Started] | None = None
        self._refusal: StartRefused | None = None
        self._kick: Kicked | None = None
        self._how: Disconnect | None = None
        self._goaway_delay = 0.0
        self._is_stopping = False
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the session has a connection with an answered START."""
        outcome = self._outcome
        return (
            self._link is not None
            and outcome is not None
            and outcome.done()
            and outcome.exception() is None
        )

    async def start(self) -> None:
        """Connect, START and log in for the first time.

        Raises:
            ConnectionFailed: It did not come to a session.
            RequestFailed: The login was refused.
        """
        self._task = self._loop.create_task(self._run())
        try:
            await asyncio.shield(self._ready)
        except BaseException:
            self._task.cancel()
            await asyncio.gather(self._task, self._ready, return_exceptions=True)
            raise

    async def stop(self) -> None:
        """Wait up to 1 s for the gateway's close behind STOP, then close."""
        self._is_stopping = True
        task = self._task
        if task is None:
            return
        self.flush()
        if self._link is not None:
            await asyncio.wait({task}, timeout=STOP_TIMEOUT_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def flush(self) -> None:
        """Have what the protocol wrote sent at the end of this loop turn."""
        if self._link is not None:
            self._link.request_flush()

    # The task.

    async def _run(self) -> None:
        error: SessionLost | None = None
        try:
            error = await self._keep_session()
        except GatesvrError as failure:
            if not self._ready.done():
                self._ready.set_exception(failure)
            error = SessionLost(str(failure))
        except Exception as failure:
            logger.exception("connector_error")
            error = SessionLost(f"internal error of the client: {failure!r}")
            if not self._ready.done():
                self._ready.set_exception(error)
        finally:
            if not self._ready.done():
                self._ready.cancel()
            self._owner.session_ended(None if self._is_stopping else error)

    async def _keep_session(self) -> SessionLost:
        """Go from connection to connection until the session is over; return why it is."""
        how = await self._serve()  # the first one tells its caller of its failure
        backoff = Backoff()
        while True:
            lost_at = self._loop.time()
            connects = self.connects
            while self.connects == connects:
                if self._is_stopping:
                    return SessionLost("closed")
                verdict = verdict_of(how)
                # S311: jitter wants spread, not secrecy.
                pause = max(verdict.delay, self._goaway_delay, backoff.next(random.random()))  # noqa: S311
                self._goaway_delay = 0.0
                if (
                    verdict.action is Action.STOP
                    or self._loop.time() + pause >= lost_at + self._reconnect_timeout
                ):
                    return self._lost(how)
                logger.info("reconnecting", extra=keys(why=describe(how), pause_s=round(pause, 3)))
                await asyncio.sleep(pause)
                try:
                    how = await self._serve()
                except ConnectionFailed as failure:
                    how = self._how or Disconnect("handshake", 0, str(failure))
            backoff.reset()

    async def _serve(self) -> Disconnect:
        """Connect, START, log in, and stay until the connection has ended; return how it did.

        Raises:
            ConnectionFailed: It did not come to a session.
            RequestFailed: The login was refused.
        """
        self._refusal = self._kick = self._how = None
        self._outcome = outcome = self._loop.create_future()
        connection = await open_connection(
            *self._server,
            self._make_handler,
            tls=self._tls,
            backend=self._backend,
            connect_timeout=self._connect_timeout,
        )
        try:
            started = await outcome
            if self._login is not None and not started.is_logged_in:
                await self._log_in(self._login, connection)
            self.connects += 1
            self.resumes += started.is_resumed
            if self._ready.done():
                logger.info("reconnected", extra=keys(is_resumed=started.is_resumed))
            else:
                self._ready.set_result(None)
            return await connection.wait_ended()
        finally:
            self._link = None
            await connection.close(CloseCode.NORMAL)

    async def _log_in(
        self, login: Callable[[], Coroutine[Any, Any, object]], connection: ClientConnection
    ) -> None:
        """Log in, for as long as the connection lasts."""
        task = self._loop.create_task(login())
        ended = self._loop.create_task(connection.wait_ended())
        try:
            await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ConnectionFailed(
                    f"the connection ended during the login: {describe(ended.result())}",
                    ended.result().code,
                )
            try:
                task.result()
            except RequestFailed as error:
                if not self._ready.done() or error.code < ErrorCode.INTERNAL:
                    raise
                # The login service is away for the moment: that is no reason to give up a session.
                raise ConnectionFailed(str(error)) from None
        finally:
            for each in (task, ended):
                each.cancel()
            await asyncio.gather(task, ended, return_exceptions=True)

    def _make_handler(self, link: Link) -> StreamHandler:
        self._link = link
        return StreamHandler(self, link, self._protocol)

    # What the handler of the current connection calls.

    def handle_events(self, events: list[ClientEvent], now: float) -> None:
        """Take in what the gateway said."""
        for event in events:
            if isinstance(event, Started):
                if self._outcome is not None and not self._outcome.done():
                    self._outcome.set_result(event)
            elif isinstance(event, StartRefused):
                self._refusal = event
            elif isinstance(event, Kicked):
                self._kick = event
            elif isinstance(event, GoAwayReceived):
                self._goaway_delay = min(event.reconnect_after_ms / 1000, MAX_RECONNECT_HINT_S)
            self._owner.handle_event(event, now)

    def is_current(self, link: Link) -> bool:
        """Return whether link is the connection that the session uses."""
        return self._link is link

    def connection_lost(self, how: Disconnect, now: float) -> None:
        """The current connection has ended."""
        self._link = None
        self._how = how
        # What we closed ourselves says nothing of the session.
        events = self._protocol.closed(how.code if how.kind == "peer" else 0)
        self.handle_events(events, now)
        outcome = self._outcome
        if outcome is not None and not outcome.done():
            refusal = self._refusal
            if refusal is not None:
                text = f"the gateway refused the session: {describe(how, refusal.message)}"
            elif how.kind == "local":
                text = "the gateway did not answer START"
            else:
                text = f"the gateway ended the connection: {describe(how)}"
            code = how.code or (refusal.code if refusal is not None else 0)
            outcome.set_exception(ConnectionFailed(text, code))

    def _lost(self, how: Disconnect) -> SessionLost:
        reason = self._kick.reason if self._kick is not None else ""
        return SessionLost(f"the session is over: {describe(how, reason)}", how.code)
