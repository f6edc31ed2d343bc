"""Keeps a client's session on a connection: connects, starts, resumes, and says when it is over."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
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
from ..protocol.client import LEAVE_TIMEOUT_S, ClientProtocol
from ..protocol.client_session import ClientSession
from ..protocol.events import (
    AuthAnswered,
    ClientEvent,
    GoAwayReceived,
    Kicked,
    Started,
    StartRefused,
)
from ..protocol.link import Disconnect, Link
from ..transport.client import CONNECTION_REFUSED, AnyConnection, Server, open_first
from .login import LoginNotMade
from .reconnect import (
    MAX_RECONNECT_HINT_S,
    Action,
    Backoff,
    describe,
    first_verdict,
    verdict_of,
)
from .servers import HOME_S, Servers
from .stream import STOP_TIMEOUT_S, StreamHandler

__all__ = ["Connector", "ConnectorOwner"]

logger = logging.getLogger("gatesvr.client")

STEADY_S = 10.0
"""How long a connection holds before the pauses between tries begin again at the shortest: to a
gateway that falls over as soon as its clients are back they come ever more slowly. A network that
fails again and again under resumed connections does not lengthen them."""
RENEWAL_SHARE = 0.8
"""Credentials are renewed when this much of their time has passed."""
CALM_S = 1.0
"""A connection that lasted for so long is left without a pause where GOAWAY asks for it."""
MIN_RENEWAL_S = 1.0
"""Shortest time between two renewals."""
MIN_CONNECT_S = 0.1
"""A connect gets as long at least, however long its token took."""
MAX_REFUSED_TRIES = 3
"""Tries that lengthen the pauses while a gateway that stops refuses every one."""
MAX_FIRST_PAUSE_S = 1.0
"""Longest pause between the tries of the first connect, beside what the gateway asks for."""


class ConnectorOwner(Protocol):
    """What a connector tells the client that it works for."""

    def handle_event(self, event: ClientEvent, now: float) -> None:
        """Take in what the gateway said."""

    def session_ended(self, error: SessionLost | None) -> SessionLost:
        """The session is over for good, by stop() where error is None; return it in full."""

    def keep_state(self) -> None:
        """Store the session's state: what is written next depends on it."""


class Connector:
    """The one task that owns a session's connections, one after the other.

    A gateway whose GOAWAY asks its clients back at once keeps their sessions and serves them until
    they have moved. So the connection that is left serves on until the next one is up, and is
    closed when that has taken the session over: nobody waits for a handshake. Behind any other
    GOAWAY the connection is closed once its answers are here, and then the next one is opened.

    Args:
        servers: The gateways.
        session: The session; it outlives its connections.
        owner: Whom to tell.
        backend: The QUIC library: auto, aioquic or qh3.
        connect_timeout: How long to try to connect for the first time, and the longest time for a
            connection and its handshake later, seconds.
        reconnect_timeout: How long to try to get the session back, seconds; 0 for not at all.
        login: Called behind each START whose session is not logged in; may raise LoginNotMade.
        token: Returns an auth_token; called before each connection, and before the one that was
            sent last expires, each time for connect_timeout at most. May raise LoginNotMade.
    """

    jitter: Callable[[], float] = staticmethod(random.random)
    """Chance of the pauses between tries, 0 to 1; the conformance kit has no time for long ones."""

    def __init__(
        self,
        servers: Sequence[Server],
        session: ClientSession,
        owner: ConnectorOwner,
        *,
        backend: str,
        connect_timeout: float,
        reconnect_timeout: float,
        login: Callable[[], Coroutine[Any, Any, object]],
        token: Callable[[], Coroutine[Any, Any, str]] | None = None,
    ) -> None:
        self.connects = 0
        """Connections that reached their START_RESP."""
        self.resumes = 0
        """Of these, the ones that took the session up again."""
        self._servers = Servers(servers)
        self._server: Server | None = None  # of the connection that is up
        self.protocol = ClientProtocol(session)
        """The newest connection's; between connections it keeps requests for the next."""
        self._session = session
        self._owner = owner
        self._backend = backend
        self._connect_timeout = connect_timeout
        self._reconnect_timeout = reconnect_timeout
        self._login = login
        self._token = token
        self._renewed: asyncio.Future[AuthAnswered] | None = None
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._outcome: asyncio.Future[Started] | None = None
        self._refusal: StartRefused | None = None
        self._kick: Kicked | None = None
        self._how: Disconnect | None = None
        self._goaway_delay = 0.0
        self._recalled = asyncio.Event()  # by GOAWAY, to come back at once
        self._moving: asyncio.Task[AnyConnection | None] | None = None  # opens the next connection
        self._connections: list[AnyConnection] = []  # the session's, and before it one that is left
        self._was_resumed = False  # whether that START had resumed the session
        self._was_started = False  # whether START had been answered on what ended last
        self._up_at = 0.0
        self._is_stopping = False
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the session has a connection with an answered START."""
        return self._link is not None and self._is_started

    @property
    def transport(self) -> str:
        """The way that the session is connected, empty for not."""
        return self._link.transport if self._link is not None and self._is_started else ""

    @property
    def server(self) -> tuple[str, int]:
        """Host and port of the gateway that it is connected to, else of the preferred one."""
        server = self._server or self._servers.first
        return server.host, server.port

    @property
    def _is_started(self) -> bool:
        outcome = self._outcome
        if outcome is None or not outcome.done() or outcome.cancelled():
            return False
        return outcome.exception() is None

    async def start(self) -> None:
        """Connect, START and log in for the first time.

        What fails is tried again within connect_timeout unless the gateway has said no. A session
        that was saved is tried for as long as one whose connection is lost.

        Raises:
            ConnectionFailed: It did not come to a session.
            RequestFailed: The login was refused.
            SessionLost: The session that was saved is over, and the gateway wants no new one.
            Exception: What kept the login from being made.
        """
        self._task = self._loop.create_task(self._run())
        try:
            await asyncio.shield(self._ready)
        except BaseException:
            self._task.cancel()
            await asyncio.gather(self._task, self._ready, return_exceptions=True)
            raise

    async def stop(self, wait_s: float = STOP_TIMEOUT_S) -> None:
        """Close, once the gateway has or time is up.

        Args:
            wait_s: Longest wait for the gateway's close behind STOP; 0 where there was none.
        """
        self._is_stopping = True
        task = self._task
        if task is None:
            return
        if self._moving is not None:
            self._moving.cancel()
        self.flush()
        if self._link is not None and wait_s:
            await asyncio.wait({task}, timeout=wait_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def flush(self) -> None:
        """Send what the protocol has queued at the end of this loop turn."""
        if self._link is not None:
            self._link.request_flush()

    # The task.

    async def _run(self) -> None:
        error: SessionLost | None = None
        failure: Exception | None = None
        try:
            error = await self._keep_session()
        except GatesvrError as raised:
            failure = raised
            error = SessionLost(str(raised), getattr(raised, "code", 0))
        except LoginNotMade as raised:
            failure = raised.error
            error = SessionLost(str(raised))
        except Exception as raised:
            logger.exception("connector_error")
            error = SessionLost(f"internal error of the client: {raised!r}")
        finally:
            end = self._owner.session_ended(None if self._is_stopping else error)
            if not self._ready.done():
                if error is None:
                    self._ready.cancel()
                else:
                    self._ready.set_exception(failure or end)

    async def _keep_session(self) -> SessionLost:
        """Go from connection to connection until the session is over; return why it is.

        Raises:
            ConnectionFailed: The first one did not come to a session.
            RequestFailed: A login was refused.
            SessionLost: The session ended during its first login.
        """
        is_saved = bool(self._session.session_id)
        patience = self._reconnect_timeout if is_saved else self._connect_timeout
        backoff = Backoff() if is_saved else Backoff(longest=MAX_FIRST_PAUSE_S)
        lost_at = self._loop.time()
        earlier: Exception | None = None
        while True:
            connects = self.connects
            failure: ConnectionFailed | RequestFailed | SessionLost | None = None
            left = lost_at + patience - self._loop.time()
            is_new = not connects and not is_saved
            is_elsewhere = False
            if is_new and earlier is not None and left <= 0:
                raise earlier  # the process stalled in the pause until time was up
            try:
                how = await self._serve(min(left, self._connect_timeout) if is_new else None)
                verdict = verdict_of(how, is_started=self._was_started)
            except (ConnectionFailed, RequestFailed, SessionLost) as error:
                how = self._how or Disconnect("handshake", 0, str(error))
                verdict = verdict_of(how, is_started=self._was_started)
                if not self._ready.done():
                    failure = error
                    verdict = first_verdict(error) or verdict
                elif not isinstance(error, ConnectionFailed):
                    raise
                is_elsewhere = self._servers.failed(self._server)
                if isinstance(error, ConnectionFailed) and error.code == CONNECTION_REFUSED:
                    # It is there, and goes; what takes its place may be there soon.
                    backoff.tries = min(backoff.tries, MAX_REFUSED_TRIES)
            now = self._loop.time()
            if self.connects != connects:
                lost_at = now
                patience = self._reconnect_timeout
                # What ended a resumed connection without a word of the gateway's was the network.
                if now - self._up_at >= STEADY_S or (self._was_resumed and how.kind != "peer"):
                    backoff.reset()
                if not connects:
                    backoff = Backoff()
            if self._is_stopping:
                return SessionLost("closed")
            if is_elsewhere and verdict.action is not Action.STOP:
                pause = 0.0
            else:
                delay = 0.0 if self._servers.goes_elsewhere else verdict.delay
                pause = backoff.next(self.jitter(), max(delay, self._goaway_delay))
            self._goaway_delay = 0.0
            if verdict.action is Action.STOP or now + pause >= lost_at + patience:
                if failure is not None and (
                    # The saved session is none the worse: it may be tried again.
                    is_new or self._session.session_id or isinstance(failure, RequestFailed)
                ):
                    # A try that was cut short says less than the one before it.
                    raise failure if earlier is None or now < lost_at + patience else earlier
                return self._lost(how)
            earlier = failure
            if is_new and failure is not None:
                # Nobody has seen it. As a resume that fails it would be refused where the openid
                # has logged in elsewhere, which a first START is not (PROTOCOL 3.3).
                self.handle_events(self._session.abandon(), now)
            logger.info("reconnecting", extra=keys(why=describe(how), pause_s=round(pause, 3)))
            await asyncio.sleep(pause)

    async def _serve(self, timeout_s: float | None) -> Disconnect:
        """Connect, START, log in, and stay, on one connection behind the other as the gateway asks.

        Args:
            timeout_s: Longest time for token and handshake; None for connect_timeout.

        Returns:
            How the last one has ended.

        Raises:
            ConnectionFailed: It did not come to a session.
            RequestFailed: The login was refused.
            SessionLost: The session ended during the login.
        """
        self._how = None
        self._server = None
        try:
            connection = await self._open(self._connect_timeout if timeout_s is None else timeout_s)
            while (following := await self._hold(connection)) is not None:
                connection = following
            return await connection.wait_ended()
        finally:
            self._link = None
            await self._close_all_but(0)

    async def _open(self, timeout_s: float) -> AnyConnection:
        """Return a connection on which START was sent: the session's own from now on.

        Args:
            timeout_s: Longest time for token and handshake.

        Raises:
            ConnectionFailed: There is none.
        """
        if self._token is not None:
            began = self._loop.time()
            self._session.auth_token = await self._make_token(self._token, timeout_s)
            timeout_s = max(MIN_CONNECT_S, timeout_s - (self._loop.time() - began))
        connection = await open_first(
            self._servers.next(),
            self._make_handler,
            backend=self._backend,
            connect_timeout=min(timeout_s, HOME_S) if self._servers.is_home_next else timeout_s,
        )
        self._connections.append(connection)
        return connection

    async def _close_all_but(self, count: int) -> None:
        """Close the older connections: the newest ``count`` stay."""
        while len(self._connections) > count:
            await self._connections.pop(0).close(CloseCode.NORMAL)

    async def _hold(self, connection: AnyConnection) -> AnyConnection | None:
        """Await START_RESP, log in, and stay until the connection has ended or another follows it.

        Returns:
            The one that follows; None where this one has ended.

        Raises:
            ConnectionFailed: It did not come to a session.
            RequestFailed: The login was refused.
            SessionLost: The session ended during the login.
        """
        assert self._outcome is not None
        self._server = connection.asked
        renewal: asyncio.Task[None] | None = None
        try:
            started = await self._outcome
            await self._close_all_but(1)
            if self._token is not None:
                renewal = self._loop.create_task(self._keep_credentials(self._token))
            if not started.is_logged_in:
                await self._log_in(connection)
            self.connects += 1
            self._servers.started(connection.asked)
            self._up_at = self._loop.time()
            self.resumes += started.is_resumed
            self._was_resumed = started.is_resumed
            if self._ready.done():
                logger.info("reconnected", extra=keys(is_resumed=started.is_resumed))
            else:
                self._ready.set_result(None)
            return await self._stay(connection)
        finally:
            if renewal is not None:
                renewal.cancel()
                await asyncio.gather(renewal, return_exceptions=True)

    async def _stay(self, connection: AnyConnection) -> AnyConnection | None:
        """Stay until the connection has ended, or GOAWAY has led to another one; return that."""
        ended = self._loop.create_task(connection.wait_ended())
        recalled = self._loop.create_task(self._recalled.wait())
        tasks: list[asyncio.Task[Any]] = [ended, recalled]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._recalled.is_set() and not self._is_stopping:
                self._moving = moving = self._loop.create_task(self._open_next(ended))
                tasks.append(moving)
                await asyncio.wait({moving})
                if not moving.cancelled():  # by stop()
                    return moving.result()
                await asyncio.wait({ended})
            return None
        finally:
            self._moving = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _open_next(self, ended: asyncio.Task[Disconnect]) -> AnyConnection | None:
        """Open the connection that follows, again and again while the one before lasts.

        Args:
            ended: Done when that has ended.
        """
        backoff = Backoff()
        # Who is sent on and on goes ever more slowly; meanwhile the session is served.
        is_calm = self._loop.time() - self._up_at >= CALM_S
        pause = 0.0 if is_calm else backoff.next(self.jitter())
        while True:
            await asyncio.wait({ended}, timeout=pause)
            try:
                return await self._open(self._connect_timeout)
            except ConnectionFailed as error:
                if ended.done():
                    return None
                pause = backoff.next(self.jitter())
                logger.info("move_failed", extra=keys(why=str(error), pause_s=round(pause, 3)))

    async def _make_token(
        self,
        token: Callable[[], Coroutine[Any, Any, str]],
        timeout_s: float,
    ) -> str:
        """Return what the application's token returns, in time.

        Raises:
            ConnectionFailed: It takes too long; or it fails, and not for the first time: there may
                be no network for it either.
            LoginNotMade: It fails at the first connect, where the application hears of it.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await token()
        except TimeoutError:
            raise ConnectionFailed("no token in time") from None
        except LoginNotMade as error:
            if not self._ready.done():
                raise
            cause = error.error
            raise ConnectionFailed(f"no token: {type(cause).__name__}: {cause}") from cause

    async def _keep_credentials(self, token: Callable[[], Coroutine[Any, Any, str]]) -> None:
        """Renew the session's credentials before they expire, for as long as it is connected.

        A renewal that fails is tried again while the old credentials last; then the gateway ends
        the session.
        """
        while expires_at := self._session.auth_expires_at:
            left = expires_at - time.time()
            await asyncio.sleep(max(MIN_RENEWAL_S, left * RENEWAL_SHARE))
            try:
                new = await self._make_token(token, self._connect_timeout)
            except (ConnectionFailed, LoginNotMade) as error:
                logger.warning("auth_token_failed", extra=keys(error=str(error)))
                continue
            self._renewed = renewed = self._loop.create_future()
            self.protocol.renew(new)
            self.flush()
            try:
                answer = await renewed
            finally:
                self._renewed = None
            if answer.code:
                logger.warning(
                    "auth_not_renewed", extra=keys(code=answer.code, message=answer.message)
                )

    async def _log_in(self, connection: AnyConnection) -> None:
        """Log in, for as long as the connection lasts."""
        task = self._loop.create_task(self._login())
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
            except (RequestFailed, SessionLost) as error:
                if not self._ready.done():
                    raise
                if error.code < ErrorCode.INTERNAL:
                    # Behind an ERROR the gateway's close says what to do: 4411 is for now only.
                    await asyncio.wait({ended}, timeout=STOP_TIMEOUT_S)
                    if not ended.done():
                        raise
                # Or the login service is away: that is no reason to give up a session.
                raise ConnectionFailed(str(error)) from None
        finally:
            for each in (task, ended):
                each.cancel()
            await asyncio.gather(task, ended, return_exceptions=True)

    def _make_handler(self, link: Link) -> StreamHandler:
        """Make a new connection the session's; one before it that is still there is ignored."""
        self._moving = None  # not to be stopped any more: STOP goes this way
        self._recalled.clear()
        self._refusal = self._kick = self._how = None
        self._was_started = self._was_resumed = False
        self._outcome = self._loop.create_future()
        # A connect that is cancelled while the connection opens never awaits it.
        self._outcome.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._link = link
        self.protocol = ClientProtocol(self._session)
        return StreamHandler(self, link, self.protocol)

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
                self._handle_goaway(event, now)
            elif isinstance(event, AuthAnswered) and self._renewed is not None:
                self._renewed.set_result(event)
                self._renewed = None
            self._owner.handle_event(event, now)

    def _handle_goaway(self, event: GoAwayReceived, now: float) -> None:
        """Leave the connection, unless the client is to have only this one."""
        if not self._reconnect_timeout or self._is_stopping:
            return
        delay = min(event.reconnect_after_ms / 1000, MAX_RECONNECT_HINT_S)
        self._goaway_delay = delay
        named = None
        if event.address:
            named = self._servers.named(event.address, self._server or self._servers.first)
            if named is None:
                logger.warning("goaway_address_ignored", extra=keys(address=event.address))
        logger.info("leaving", extra=keys(why=event.reason, address=event.address))
        if not delay and named is None:
            # Who wants its clients back at once keeps their sessions, and serves them meanwhile.
            self._recalled.set()
            return
        # Who does not is about to go, and its answers with it: they are waited for.
        if self._servers.leave(named) and named is None:
            self._goaway_delay = 0.0
        self.protocol.leave(now, LEAVE_TIMEOUT_S)

    def keep_state(self) -> None:
        """Store the session's state: what is written next depends on it."""
        self._owner.keep_state()

    def is_current(self, link: Link) -> bool:
        """Return whether link is the connection that the session uses."""
        return self._link is link

    def connection_lost(self, how: Disconnect, now: float) -> None:
        """The current connection has ended."""
        self._link = None
        self._how = how
        self._was_started = self._is_started
        # What we closed ourselves says nothing of the session.
        events = self.protocol.closed(how.code if how.kind == "peer" else 0)
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
