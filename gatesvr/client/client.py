"""The asyncio client: one session with a gateway."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..config import Range, check_numbers
from ..errors import ConfigError, ErrorCode, Outcome, QueueFull, RequestFailed, SessionLost
from ..observe.trace import begin_call, global_tracer
from ..protocol import events
from ..protocol.client_session import ClientSession
from ..protocol.messages import MAX_HEADERS, StopReason
from ..transport.client import Server
from ..transport.tls import client_tls
from .checks import check_text, check_type
from .connector import Connector
from .counters import ClientCounters
from .login import ClientLogin, LoginNotMade
from .messages import Answer, Lost, Notify
from .notifies import NotifyBuffer
from .servers import parse_servers

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

__all__ = ["Client"]

logger = logging.getLogger("gatesvr.client")

LOGIN_ACTION = "hello"
LATE_S = 0.1
"""A timer later than this means that the process stalled, seconds."""
_TIMEOUT = Range(0, math.inf)
MAX_WAITING = 10_000
"""Requests that wait for room among those in flight; above it QueueFull."""


class Client:
    """A session with a gateway.

    ::

        async with Client("localhost:8453", openid="ann") as client:
            answer = await client.request("echo", b"hello")
            async for notify in client:
                print(notify.title)

    Any number of requests may be under way; they are sent in the order of the calls. Answers never
    wait behind notifies: those wait in a buffer of their own until they are iterated over.

    A lost connection is replaced by itself and nothing of the session is lost or repeated; requests
    made meanwhile wait. Where the session cannot be resumed, those under way fail with SessionLost,
    so does the iteration, once, and a new session takes the place of the old one. That a gateway
    was killed and is back is noticed in about 2 s while a request is under way, else at the next
    heartbeat: within 15 s by default.

    **Traces.** Where the process has set up OpenTelemetry's SDK before connect(), each request is a
    span, and carries it to the gateway, which goes on with it if it trusts its clients to say so
    (``trace.trust_clients``).

    **Across restarts.** A client whose process may be killed stores its state::

        async with Client(server, openid="ann", resume=load(), on_state=store) as client:
            async for notify in client:
                handle(notify)

    ``on_state`` is called with the new state each time before something is sent that makes the
    stored one too old, so the stored one is good whenever the process ends. With it a notify is
    acknowledged when your code, which must be a single reader, asks for the next one. So the next
    process receives every notify that this one had not finished. The last ones read may come again
    with the same ``server_seq``, which only grows within a session: store the highest one handled,
    skip up to it, and you handle each notify exactly once. Notifies must be read then: with
    1,024 messages unacknowledged the gateway answers nothing more. Requests under way die with
    their process; whether they ran is not known to the next one.

    A state that is older than that, such as a backup's, does no harm: what was acknowledged since
    comes as a Lost, or the session is refused and lost. Two processes must not use one state: the
    later one takes the session over and the other ends.

    Args:
        server: The gateway, ``"HOST:PORT"`` or (host, port) for QUIC; a link-local address with its
            interface: ``"[fe80::1%eth0]:8453"``. Or the URL of its WebSockets, for where UDP is
            blocked: ``"wss://HOST:PORT/gatesvr"``. Of a name's addresses, whichever answers first.
            Or a list of several gateways, the preferred one first: where one goes away, or cannot
            be reached, the client goes to another. A session does not move with it: where the other
            does not know it, a new one begins. Both ways to one gateway may be in the list, and the
            session goes on over either.
        openid: Who logs in. May be left out with resume, and must be the same otherwise; and with
            auth_token, where the token says it.
        client_id: The device or program, for the gateway's operator.
        auth_token: Proof of the openid, if the gateway asks for one; or an async callable that
            returns it. The callable is asked before each connection, and again before the token
            expires, so that a session outlives its first token. What it raises at the first
            connect, connect() raises; later it is asked again until reconnect_timeout is over. It
            is cancelled where it takes longer than connect_timeout, and by close().
        zone: Zone to log in to.
        ca: PEM file with certificates to trust. Without it a loopback server is verified against
            the development certificate, any other against the system's CAs.
        insecure: Accept any certificate.
        transport: QUIC library: auto, aioquic or qh3; a WebSocket needs none.
        login: Log in while connecting; without it call login().
        login_params: For the login service, or what returns them each time: the client logs in by
            itself whenever a new session takes the place of one that is gone, such as after a
            restart of the gateway. Without them it repeats the last login() that was accepted.
        login_data: For the login service, beside the parameters.
        max_notifies: Notifies that wait for the application; what comes above it is dropped, and
            the reader gets a NotifyOverflow in its place.
        connect_timeout: How long connect() tries, whatever its tries meet, unless the gateway says
            no; a login that is under way is waited for. Later the longest time for a connection to
            come up. Seconds.
        request_timeout: Longest time for an answer unless the request says another, seconds.
        reconnect_timeout: How long to try to get back a session whose connection is lost, seconds;
            0 for not at all.
        on_lost: Called with each announced loss when the iteration comes to its place.
        resume: What state() or on_state gave to an earlier process, b"" for nothing.
        on_state: Called with each new state, to be stored in place of the last one before it
            returns: write another file and rename it. It is a secret: whoever has it has the
            session. What the callback raises closes the connection, and the client tries again.

    Raises:
        ConfigError: The server is no HOST:PORT and no wss:// URL, resume is no state or of another
            openid, a text cannot be written as UTF-8, a number is out of its range: only
            reconnect_timeout may be 0.
        TypeError: A parameter has another type; the message names it.
    """

    def __init__(
        self,
        server: str | tuple[str, int] | Sequence[str | tuple[str, int]] = "localhost:8453",
        *,
        openid: str | None = None,
        client_id: str = "",
        auth_token: str | Callable[[], Awaitable[str]] = "",
        zone: str = "",
        ca: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        transport: str = "auto",
        login: bool = True,
        login_params: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        login_data: bytes = b"",
        max_notifies: int = 1_024,
        connect_timeout: float = 10.0,
        request_timeout: float = 30.0,
        reconnect_timeout: float = 600.0,
        on_lost: Callable[[Lost], None] | None = None,
        resume: bytes = b"",
        on_state: Callable[[bytes], None] | None = None,
    ) -> None:
        check_numbers(
            max_notifies=(max_notifies, Range(1, math.inf)),
            connect_timeout=(connect_timeout, Range(0.001, math.inf)),
            request_timeout=(request_timeout, Range(0.001, math.inf)),
            reconnect_timeout=(reconnect_timeout, Range(0, math.inf)),
        )
        texts = {
            "client_id": client_id,
            "zone": zone,
            "transport": transport,
        }
        if openid is not None:
            texts["openid"] = openid
        if callable(auth_token):
            self._auth_token: Callable[[], Awaitable[str]] | None = auth_token
            auth_token = ""
        else:
            self._auth_token = None
            texts["auth_token"] = auth_token
        if ca is not None:
            ca = texts["ca"] = os.fspath(ca) if isinstance(ca, os.PathLike) else ca
        for name, text in texts.items():
            check_text(name, text)
        check_type("resume", resume, bytes)
        for name, callback in (("on_lost", on_lost), ("on_state", on_state)):
            if callback is not None:
                check_type(name, callback, Callable, "callable")  # type: ignore[arg-type]
        self._servers = parse_servers(server)
        has_token = self._auth_token is not None or bool(auth_token)
        self._session = _session(openid, client_id, auth_token, resume, has_token=has_token)
        self._session.carries_acks = on_state is None
        self.openid = self._session.openid
        self.zone = zone
        self.counters = ClientCounters()
        self.connect_timeout = connect_timeout
        self.request_timeout = request_timeout
        self.reconnect_timeout = reconnect_timeout
        self._ca = ca or ""
        self._insecure = insecure
        self._transport = transport
        self._login = ClientLogin(self._send_login, login_data, login_params, is_automatic=login)
        self._connector: Connector | None = None
        self._tracer: Tracer | None = None
        self._on_state = on_state
        self._stored = b""
        self._handled = self._session.position  # the highest server seq that was taken in
        self._notifies = NotifyBuffer(
            max_notifies, on_lost, self._acknowledge_read if on_state is not None else None
        )
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._granted = 0  # waiters that were told to go and have not run yet
        # Whether the application has a session: the loss of one that it has not is not told.
        self._has_session = bool(self._session.session_id)
        self._loss: SessionLost | None = None  # the last session's, while the next one begins
        self._untold: SessionLost | None = None  # a loss that the iteration is still to tell
        self._end: SessionLost | None = None

    def __repr__(self) -> str:
        servers = ", ".join(map(str, self._servers))
        return f"<Client {self.openid!r} session={self.session_id!r} {servers}>"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def session_id(self) -> str:
        """The session's id, empty before there is one."""
        return self._session.session_id

    @property
    def is_connected(self) -> bool:
        """Whether the session has a connection now; without one, requests wait for the next."""
        return self._connector is not None and self._connector.is_connected

    @property
    def transport(self) -> str:
        """The way that the session is connected: ``quic``, ``websocket``, or empty for not now."""
        return "" if self._connector is None else self._connector.transport

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered."""
        return len(self._session.pending)

    @property
    def waiting_notifies(self) -> int:
        """Notifies received and not read yet."""
        return len(self._notifies)

    def state(self) -> bytes:
        """Return what another process resumes the session from (``resume``). It holds a secret.

        Its position is what the application has finished. Notifies received but not read are sent
        again if on_state is used; otherwise they were acknowledged, and are lost.
        """
        return self._session.state(min(self._read_position, self._session.position))

    async def connect(self) -> None:
        """Connect, begin a session, and log in unless the client was made with login=False.

        What fails is tried again within connect_timeout, where the gateway is busy not before it
        says. A session to resume is tried for reconnect_timeout. Where it is gone a new one begins,
        and the iteration says so by a SessionLost.

        Raises:
            ConnectionFailed: No gateway, or it refused the session.
            RequestFailed: It refused the login.
            SessionLost: The session to resume is over and the gateway wants no new one, for
                example because the openid has logged in elsewhere.
            ConfigError: The CA file cannot be read, or the QUIC library is not installed.
            Exception: What login_params raised.
        """
        if self._connector is not None:
            raise RuntimeError("connect() was called before")
        self._tracer = global_tracer()
        self._connector = Connector(
            [
                Server(
                    place.host,
                    place.port,
                    client_tls(place.host, ca=self._ca, insecure=self._insecure),
                    place.path,
                    place.is_plain,
                )
                for place in self._servers
            ],
            self._session,
            self,
            backend=self._transport,
            connect_timeout=self.connect_timeout,
            reconnect_timeout=self.reconnect_timeout,
            login=self._login.repeat,
            token=self._make_token if self._auth_token is not None else None,
        )
        await self._connector.start()

    async def close(self, reason: StopReason = StopReason.APP_CLOSE) -> None:
        """End the session: STOP, and the gateway's close for at most a second. May be repeated."""
        if self._connector is None:
            return
        if self._end is None:
            self._connector.protocol.stop(reason)
        await self._connector.stop()

    async def suspend(self) -> bytes:
        """Close, and leave the session to whoever resumes it in time; return the state for that.

        Everything read is acknowledged. Requests under way fail with SessionLost here.
        """
        self._notifies.settle()
        if self._connector is not None and self._end is None:
            await self._connector.stop(0.0)
        return self.state()

    async def login(self, data: bytes = b"", params: Mapping[str, str] | None = None) -> Answer:
        """Log in, or log in again to have the zone refreshed.

        Args:
            data: For the login service.
            params: For the login service; the client's zone is added to them. Where neither is
                given, login_params and login_data are.

        Raises:
            RequestFailed: The login was refused, by the gateway or by the upstream.
            SessionLost: The session ended first.
        """
        return await self._login.send(data, params)

    async def _make_token(self) -> str:
        """Return what the application's auth_token returns.

        Raises:
            LoginNotMade: It raised, or returned no text.
        """
        assert self._auth_token is not None
        try:
            token = await self._auth_token()
            check_text("what auth_token returns", token)
        except Exception as error:
            raise LoginNotMade(error) from error
        return token

    async def _send_login(self, data: bytes, params: Mapping[str, str] | None) -> Answer:
        params = dict(params or {})
        if self.zone:
            params.setdefault("zone", self.zone)
        send = self._send if self._tracer is None else self._send_traced
        return await send(LOGIN_ACTION, data, params, None, self._now() + self.request_timeout)

    async def request(
        self,
        action: str,
        data: bytes = b"",
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Answer:
        """Send a request and return its answer, of whatever code.

        While there is no connection, or as many requests are in flight as the session allows, it
        waits.

        Args:
            action: What to do; the gateway's routes say who does it.
            data: The payload.
            params: Parameters, at most 64.
            headers: Headers, at most 32.
            timeout: Longest time for the answer, waiting included, seconds.

        Raises:
            RequestFailed: The request was answered by an ERROR, or by nothing in time (504). Its
                outcome is NOT_STARTED where it is certain that it was not and will not be run.
            SessionLost: The session ended before there was an answer.
            QueueFull: Too many requests wait already.
            ValueError: The request is none that the protocol can carry.
            TypeError: A parameter has another type; the message names it.
            ConfigError: The timeout is no number, or negative.
        """
        if timeout is not None:
            check_numbers(timeout=(timeout, _TIMEOUT))
        if self._connector is None:
            raise SessionLost("not connected", outcome=Outcome.NOT_STARTED)
        deadline = self._now() + (self.request_timeout if timeout is None else timeout)
        if self._waiters or not self._has_room():
            await self._wait_for_room(deadline)
        send = self._send if self._tracer is None else self._send_traced
        return await send(action, data, params, headers, deadline)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notify:
        """Return the next notify.

        Raises:
            NotifyOverflow: Some were dropped in this place, because nobody read; iterating again
                goes on behind them.
            SessionLost: The session ended in this place. Unless is_final, iterating again goes on
                with the session that took its place.
        """
        return await self._notifies.get()

    # Sending.

    async def _send(
        self,
        action: str,
        data: bytes,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        deadline: float,
    ) -> Answer:
        connector = self._connector
        if self._end is not None:
            raise _copy(self._end, Outcome.NOT_STARTED)
        if connector is None:
            raise SessionLost("not connected", outcome=Outcome.NOT_STARTED)
        loop = asyncio.get_running_loop()
        seq = connector.protocol.send_request(action, data, params, headers, loop.time())
        future: asyncio.Future[Answer] = loop.create_future()
        self._pending[seq] = future
        self.counters.requests += 1
        connector.flush()
        timer = loop.call_at(deadline, _expire, future, deadline)
        try:
            return await future
        except TimeoutError:
            self.counters.timeouts += 1
            raise RequestFailed("no answer in time", ErrorCode.DEADLINE) from None
        finally:
            timer.cancel()
            if self._pending.get(seq) is future:
                del self._pending[seq]

    async def _send_traced(
        self,
        action: str,
        data: bytes,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        deadline: float,
    ) -> Answer:
        """As _send(), in a span whose context the request carries."""
        assert self._tracer is not None
        server = self._servers[0][:2] if self._connector is None else self._connector.server
        trace = begin_call(self._tracer, action, headers, server)
        if len(trace.headers) <= MAX_HEADERS:
            headers = trace.headers
        try:
            answer = await self._send(action, data, params, headers, deadline)
        except BaseException as error:
            trace.end(error.code if isinstance(error, RequestFailed) else 0, error)
            raise
        trace.end(answer.code)
        return answer

    def _has_room(self) -> bool:
        session = self._session
        return (
            self._connector is not None
            and self._connector.protocol.is_ready
            and (session.is_logged_in or not self._login.is_due)
            and len(session.pending) + self._granted < session.max_in_flight
        )

    async def _wait_for_room(self, deadline: float) -> None:
        if self._end is not None:
            return  # _send() says why
        if len(self._waiters) >= MAX_WAITING:
            self.counters.refused += 1
            raise QueueFull(f"{MAX_WAITING} requests wait already")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        timer = loop.call_at(deadline, _expire, waiter, deadline)
        try:
            await waiter
        except BaseException as error:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            else:
                self._granted -= 1
                self._grant()  # it was told to go and does not: another one may
            if not isinstance(error, TimeoutError):
                raise
            self.counters.timeouts += 1
            raise RequestFailed(
                "not sent in time", ErrorCode.DEADLINE, outcome=Outcome.NOT_STARTED
            ) from None
        finally:
            timer.cancel()
        self._granted -= 1  # from here to the protocol nothing else runs

    def _grant(self) -> None:
        """Let go as many waiting requests as there is room for."""
        while self._waiters and (self._end is not None or self._has_room()):
            waiter = self._waiters.popleft()
            self._granted += 1
            if not waiter.done():
                waiter.set_result(None)

    # ConnectorOwner.

    def handle_event(self, event: events.ClientEvent, now: float) -> None:
        """Take in what the gateway said."""
        # The commonest first. What is handed to a future or to the buffer is the application's.
        if isinstance(event, events.Answered):
            self.counters.answers += 1
            self._acknowledge(event.seq, now)
            if not self._has_session and self._session.is_logged_in:
                self._begin_session()
            future = self._take(event.client_seq)
            if future is not None:
                future.set_result(
                    Answer(
                        event.code,
                        event.message,
                        event.data,
                        event.headers,
                        event.client_seq,
                        event.seq,
                    )
                )
            self._grant()
        elif isinstance(event, events.Notify):
            self.counters.notifies += 1
            get = event.headers.get
            self._notifies.put(
                Notify(
                    get("msg_type", ""),
                    get("title", ""),
                    get("content", ""),
                    event.data,
                    event.headers,
                    event.seq,
                )
            )
            self._acknowledge(event.seq, now)
        elif isinstance(event, events.Failed):
            self._handle_failed(event, now)
        elif isinstance(event, events.Lost):
            self.counters.lost += event.to_seq - event.from_seq + 1
            self._notifies.put_lost(Lost(event.from_seq, event.to_seq, event.reason))
            self._acknowledge(event.seq, now)
        elif isinstance(event, events.Ignored):
            self._acknowledge(event.seq, now)
        elif isinstance(event, events.SessionReset):
            self._handle_reset(event)
        elif isinstance(event, events.Started):
            if event.is_logged_in or not self._login.is_due:
                self._begin_session()
            self._grant()

    def _handle_reset(self, event: events.SessionReset) -> None:
        """The session is gone, another may follow."""
        self._loss = SessionLost(
            f"the session is lost: {event.reason.name.lower()}",
            reason=event.reason,
            session_id=event.session_id,
            lost_from=self._handled + 1,
        )
        if self._has_session:
            self.counters.session_losses += 1
            self._untold = self._loss
        self._has_session = False
        self._handled = 0
        self._notifies.end_session()

    def _begin_session(self) -> None:
        """The application has a session, behind word of what became of the last."""
        self._has_session = True
        self._loss = None
        if self._untold is not None:
            self._notifies.put_error(self._untold)
            self._notifies.end_session()
            self._untold = None

    @property
    def _read_position(self) -> int:
        """The server seq up to which the application is done with everything."""
        first = self._notifies.first_unread
        return first - 1 if first else self._handled

    def _acknowledge(self, seq: int, now: float) -> None:
        """Acknowledge what was taken in, or with on_state what was read."""
        self._handled = seq
        position = seq if self._on_state is None else self._read_position
        if self._connector is not None:
            self._connector.protocol.acknowledge(position, now)

    def _acknowledge_read(self) -> None:
        """The reader is done with something: acknowledge that."""
        if self._connector is not None:
            self._connector.protocol.acknowledge(self._read_position, self._now())
            self._connector.flush()

    def keep_state(self) -> None:
        """Give the state to the application, unless it has it."""
        if self._on_state is None:
            return
        state = self.state()
        if state != self._stored:
            self._on_state(state)
            self._stored = state

    def _handle_failed(self, event: events.Failed, now: float) -> None:
        self.counters.failures += 1
        if event.seq:
            self._acknowledge(event.seq, now)
        future = self._take(event.client_seq)
        if future is not None:
            if event.code or self._loss is None:
                future.set_exception(
                    RequestFailed(
                        event.message,
                        event.code,
                        retry_after_ms=event.retry_after_ms,
                        outcome=event.outcome,
                        detail=event.detail,
                    )
                )
            else:
                future.set_exception(_copy(self._loss, event.outcome))
        self._grant()

    def _take(self, client_seq: int) -> asyncio.Future[Answer] | None:
        """Return the future that waits for an answer, None where nobody waits any more."""
        future = self._pending.pop(client_seq, None)
        if future is None or future.done():
            self.counters.late += 1
            return None
        return future

    def session_ended(self, error: SessionLost | None) -> SessionLost:
        """The session is over for good; return what connect() raises where it still runs."""
        why = error or SessionLost("the client is closed")
        lost = self._untold or self._loss
        if lost is None:
            lost_from = self._handled + 1 if self.session_id else 0
            lost = SessionLost("", session_id=self.session_id, lost_from=lost_from)
        self._end = end = SessionLost(
            str(why),
            why.code,
            reason=lost.reason,
            session_id=lost.session_id,
            lost_from=lost.lost_from,
            is_final=True,
        )
        for future in self._pending.values():
            if not future.done():
                future.set_exception(_copy(end, Outcome.UNKNOWN))
        self._pending.clear()
        if error is not None:
            self._notifies.put_error(end)
        self._notifies.close()
        self._grant()
        # Where the session lives on without us, what is stored may be its next owner's by now.
        if error is None or not self.session_id:
            try:
                self.keep_state()
            except Exception:
                logger.exception("on_state_failed")  # nothing more is sent that depends on it
        return _copy(end, Outcome.UNKNOWN)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _expire(future: asyncio.Future[Any], deadline: float) -> None:
    """Let a future's time run out; after a stall of the process what has arrived goes first.

    An event loop may run timers before it reads (uvloop does).
    """
    if future.done():
        return
    loop = future.get_loop()
    if loop.time() - deadline > LATE_S:
        loop.call_later(LATE_S, _expire, future, inf)
    else:
        future.set_exception(TimeoutError())


def _session(
    openid: str | None, client_id: str, auth_token: str, resume: bytes, *, has_token: bool
) -> ClientSession:
    """Return a new session, or the one that a stored state describes."""
    if not resume:
        if openid is None and not has_token:
            raise ConfigError("is missing, and so is an auth_token that says it", field="openid")
        return ClientSession(openid or "", client_id=client_id, auth_token=auth_token)
    try:
        session = ClientSession.from_state(resume, auth_token=auth_token)
    except ValueError as error:
        raise ConfigError(str(error), field="resume") from None
    if openid is not None and openid != session.openid:
        raise ConfigError(
            f"the state is that of {session.openid!r:.80}, not of {openid!r:.80}", field="resume"
        )
    session.client_id = client_id or session.client_id
    return session


def _copy(lost: SessionLost, outcome: Outcome) -> SessionLost:
    """Return the error for one of several requests: an exception is raised in one place only."""
    return SessionLost(
        str(lost),
        lost.code,
        reason=lost.reason,
        session_id=lost.session_id,
        lost_from=lost.lost_from,
        lost_to=lost.lost_to,
        outcome=outcome,
        is_final=lost.is_final,
    )
