"""The asyncio client: one session with a gateway."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ..config import parse_address
from ..errors import ConfigError, ErrorCode, QueueFull, RequestFailed, SessionLost
from ..observe.metrics import Counters
from ..protocol import events
from ..protocol.client import ClientProtocol
from ..protocol.messages import Outcome, StopReason
from ..transport.tls import client_tls
from .connector import Connector
from .messages import Answer, Lost, Notify
from .notifies import NotifyBuffer

__all__ = ["Client", "ClientCounters"]

LOGIN_ACTION = "hello"
MAX_WAITING = 10_000
"""Requests that wait for room among those in flight; above it QueueFull."""


@dataclass(slots=True)
class ClientCounters(Counters):
    """What a client did."""

    requests: int = 0
    """Requests sent."""
    answers: int = 0
    """Answers received, of any code."""
    failures: int = 0
    """Requests answered by an ERROR."""
    timeouts: int = 0
    """Requests whose caller was told of a time-out."""
    late: int = 0
    """Answers and ERRORs that nobody waited for any more."""
    refused: int = 0
    """Requests refused here because too many waited."""
    notifies: int = 0
    """Notifies received."""
    lost: int = 0
    """Messages that the gateway announced as lost."""
    session_losses: int = 0
    """Sessions that could not be resumed."""


class Client:
    """A session with a gateway.

    ::

        async with Client("localhost:8453", openid="ann") as client:
            answer = await client.request("echo", b"hello")
            async for notify in client:
                print(notify.title)

    Any number of requests may be under way; they are sent in the order of the calls. Answers never
    wait behind notifies: those wait in a buffer of their own until they are iterated over.

    Args:
        server: The gateway, HOST:PORT.
        openid: Who logs in.
        client_id: The device or program, for the gateway's operator.
        auth_token: Proof of the openid, where the gateway asks for one.
        zone: Zone to log in to.
        ca: PEM file with certificates to trust. Without it a loopback server is verified against
            the development certificate, any other against the system's CAs.
        insecure: Accept any certificate.
        transport: QUIC library: auto, aioquic or qh3.
        login: Log in while connecting; without it call login().
        max_notifies: Notifies that wait for the application; what comes above it is dropped, and
            the reader gets a NotifyOverflow in its place.
        connect_timeout: Longest time for a connection to come up, seconds.
        request_timeout: Longest time for an answer unless the request says another, seconds.
        reconnect_timeout: How long to try to get back a session whose connection is lost, seconds;
            0 for not at all.
        on_lost: Called with each announced loss when the iteration comes to its place.
    """

    def __init__(
        self,
        server: str = "localhost:8453",
        *,
        openid: str,
        client_id: str = "",
        auth_token: str = "",
        zone: str = "",
        ca: str | None = None,
        insecure: bool = False,
        transport: str = "auto",
        login: bool = True,
        max_notifies: int = 1_024,
        connect_timeout: float = 10.0,
        request_timeout: float = 30.0,
        reconnect_timeout: float = 300.0,
        on_lost: Callable[[Lost], None] | None = None,
    ) -> None:
        try:
            host, port = parse_address(server)
        except ValueError as error:
            raise ConfigError(str(error), field="server") from None
        self.openid = openid
        self.zone = zone
        self.counters = ClientCounters()
        self.connect_timeout = connect_timeout
        self.request_timeout = request_timeout
        self.reconnect_timeout = reconnect_timeout
        self._server = (host or "localhost", port)
        self._ca = ca or ""
        self._insecure = insecure
        self._transport = transport
        self._is_auto_login = login
        self._protocol = ClientProtocol(openid, client_id=client_id, auth_token=auth_token)
        self._connector: Connector | None = None
        self._notifies = NotifyBuffer(max_notifies, on_lost)
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._granted = 0  # waiters that were told to go and have not run yet
        self._is_open = False  # whether requests other than the login may go
        self._reset: SessionLost | None = None  # a session that is gone while the next one begins
        self._end: SessionLost | None = None

    def __repr__(self) -> str:
        host, port = self._server
        return f"<Client {self.openid!r} session={self.session_id!r} {host}:{port}>"

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
        return self._protocol.session_id

    @property
    def is_connected(self) -> bool:
        """Whether the session has a connection now; without one, requests wait for the next."""
        return self._connector is not None and self._connector.is_connected

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered."""
        return len(self._protocol.pending)

    @property
    def waiting_notifies(self) -> int:
        """Notifies received and not read yet."""
        return len(self._notifies)

    async def connect(self) -> None:
        """Connect, begin a session, and log in unless the client was made with login=False.

        Raises:
            ConnectionFailed: No gateway, or it refused the session.
            RequestFailed: It refused the login.
            ConfigError: The CA file cannot be read, or the QUIC library is not installed.
        """
        if self._connector is not None:
            raise RuntimeError("connect() was called before")
        self._connector = Connector(
            self._server,
            self._protocol,
            self,
            tls=client_tls(self._server[0], ca=self._ca, insecure=self._insecure),
            backend=self._transport,
            connect_timeout=self.connect_timeout,
            reconnect_timeout=self.reconnect_timeout,
            login=self.login if self._is_auto_login else None,
        )
        self._is_open = not self._is_auto_login
        await self._connector.start()

    async def close(self, reason: StopReason = StopReason.APP_CLOSE) -> None:
        """End the session: STOP, and the gateway's close for at most a second. May be repeated."""
        if self._connector is None:
            return
        if self._end is None:
            self._protocol.stop(reason)
        await self._connector.stop()

    async def login(self, data: bytes = b"", params: Mapping[str, str] | None = None) -> Answer:
        """Log in, or log in again to have the zone refreshed.

        Args:
            data: For the login service.
            params: For the login service; the client's zone is added to them.

        Raises:
            RequestFailed: The login was refused, by the gateway or by the upstream.
            SessionLost: The session ended first.
        """
        params = dict(params or {})
        if self.zone:
            params.setdefault("zone", self.zone)
        answer = await self._send(
            LOGIN_ACTION, data, params, None, self._now() + self.request_timeout
        )
        if not answer.is_ok:
            raise RequestFailed(f"login refused: {answer.message}", answer.code)
        self._open()
        return answer

    async def request(
        self,
        action: str,
        data: bytes = b"",
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Answer:
        """Send a request and return its answer, of whatever code.

        Where as many requests are in flight as the session allows it waits for room first.

        Args:
            action: What to do; the gateway's routes say who does it.
            data: The payload.
            params: Parameters, at most 64.
            headers: Headers, at most 32.
            timeout: Longest time for the answer, waiting included, seconds.

        Raises:
            RequestFailed: The request was answered by an ERROR, or by nothing in time (504).
            SessionLost: The session ended before there was an answer.
            QueueFull: Too many requests wait already.
            ValueError: The request is none that the protocol can carry.
        """
        deadline = self._now() + (self.request_timeout if timeout is None else timeout)
        if self._waiters or not self._has_room():
            await self._wait_for_room(deadline)
        return await self._send(action, data, params, headers, deadline)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notify:
        """Return the next notify.

        Raises:
            NotifyOverflow: Some were dropped in this place, because nobody read; iterating again
                goes on behind them.
            SessionLost: The session ended in this place.
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
            raise SessionLost(str(self._end), self._end.code)
        if connector is None:
            raise SessionLost("not connected")
        loop = asyncio.get_running_loop()
        seq = self._protocol.send_request(action, data, params, headers, loop.time())
        future: asyncio.Future[Answer] = loop.create_future()
        self._pending[seq] = future
        self.counters.requests += 1
        connector.flush()
        timer = loop.call_at(deadline, self._time_out, future)
        try:
            return await future
        finally:
            timer.cancel()
            if self._pending.get(seq) is future:
                del self._pending[seq]

    def _time_out(self, future: asyncio.Future[Answer]) -> None:
        if not future.done():
            self.counters.timeouts += 1
            future.set_exception(RequestFailed("no answer in time", ErrorCode.DEADLINE))

    def _has_room(self) -> bool:
        return (
            self._is_open
            and len(self._protocol.pending) + self._granted < self._protocol.max_in_flight
        )

    async def _wait_for_room(self, deadline: float) -> None:
        if self._end is not None:
            return  # _send() says why
        if len(self._waiters) >= MAX_WAITING:
            self.counters.refused += 1
            raise QueueFull(f"{MAX_WAITING} requests wait already")
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
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
        self._granted -= 1  # from here to the protocol nothing else runs

    def _grant(self) -> None:
        """Let go as many waiting requests as there is room for."""
        while self._waiters and (self._end is not None or self._has_room()):
            waiter = self._waiters.popleft()
            self._granted += 1
            if not waiter.done():
                waiter.set_result(None)

    def _open(self) -> None:
        self._is_open = True
        self._grant()

    # ConnectorOwner.

    def handle_event(self, event: events.ClientEvent, now: float) -> None:
        """Take in what the gateway said."""
        # The commonest first. What is handed to a future or to the buffer is the application's.
        if isinstance(event, events.Answered):
            self.counters.answers += 1
            self._protocol.acknowledge(event.seq, now)
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
            self._protocol.acknowledge(event.seq, now)
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
        elif isinstance(event, events.Failed):
            self._handle_failed(event, now)
        elif isinstance(event, events.Lost):
            self.counters.lost += event.to_seq - event.from_seq + 1
            self._protocol.acknowledge(event.seq, now)
            self._notifies.put_lost(Lost(event.from_seq, event.to_seq, event.reason))
        elif isinstance(event, events.Ignored):
            self._protocol.acknowledge(event.seq, now)
        elif isinstance(event, events.SessionReset):
            self.counters.session_losses += 1
            self._is_open = not self._is_auto_login
            self._reset = SessionLost(f"the session is lost: {event.reason.name.lower()}")
        elif isinstance(event, events.Started):
            if self._reset is not None:
                self._notifies.put_error(self._reset)
                self._reset = None
            if event.is_logged_in:
                self._is_open = True
            self._grant()

    def _handle_failed(self, event: events.Failed, now: float) -> None:
        self.counters.failures += 1
        if event.seq:
            self._protocol.acknowledge(event.seq, now)
        future = self._take(event.client_seq)
        if future is not None:
            if event.code:
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
                why = event.message if self._reset is None else str(self._reset)
                future.set_exception(SessionLost(why, outcome=event.outcome))
        self._grant()

    def _take(self, client_seq: int) -> asyncio.Future[Answer] | None:
        """Return the future that waits for an answer, None where nobody waits any more."""
        future = self._pending.pop(client_seq, None)
        if future is None or future.done():
            self.counters.late += 1
            return None
        return future

    def session_ended(self, error: SessionLost | None) -> None:
        """The session is over for good."""
        self._end = end = error or SessionLost("the client is closed")
        for future in self._pending.values():
            if not future.done():
                future.set_exception(SessionLost(str(end), end.code))
        self._pending.clear()
        if error is not None:
            self._notifies.put_error(error)
        self._notifies.close()
        self._grant()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
