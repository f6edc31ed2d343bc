"""Play: what a script does with the client under test and with its connections."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from ..config import join_address
from .broken import Broken, DriverError
from .peer import Peer, Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from .driver import Driver
    from .gateway import Doors

__all__ = ["Play", "Said"]

BACKOFF_MS = 20
"""Longest first pause between tries that the kit asks clients for."""
QUIET_S = 0.25
"""How long nothing may happen where a client is to stay away."""
TRANSCRIPT = 40
"""Lines of the transcript that are kept."""

Said = dict[str, Any]
"""An event of the client."""
T = TypeVar("T")

_DELIVERIES = ("notify", "lost", "session_lost", "closed")
_OUTCOMES = ("answer", "error")


class Play:
    """One case under way.

    Args:
        driver: The client.
        doors: How to listen.
        stack: Ends what the case has opened.
        slowness: How many times longer than usual the client may take.

    Attributes:
        table: The session.
        transcript: What happened, the newest last.
        awaited: What the script waits for, in words.
    """

    def __init__(
        self, driver: Driver, doors: Doors, stack: AsyncExitStack, slowness: float = 1.0
    ) -> None:
        self.table = Table("s")
        self.transcript: deque[str] = deque(maxlen=TRANSCRIPT)
        self.awaited = "the client's answer"
        self._driver = driver
        self._doors = doors
        self._stack = stack
        self._slowness = slowness
        self._began = time.monotonic()
        self._connections: deque[Peer] = deque()
        self._peers: list[Peer] = []
        self._deliveries: deque[Said] = deque()
        self._ends: dict[object, Said] = {}
        self._others: deque[Said] = deque()
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._requests = 0
        self._url = ""
        self._doors_open = 0

    def tell(self, text: str) -> None:
        """Add a line to the transcript."""
        self.transcript.append(f"{(time.monotonic() - self._began) * 1000:6.0f} ms  {text}")

    @property
    def is_quic(self) -> bool:
        """Whether the client comes by QUIC."""
        return self._doors.transport == "quic"

    def check(self) -> None:
        """Raise what was broken while the script waited for something else."""
        for peer in self._peers:
            peer.check()
        if self._failure is not None:
            raise self._failure

    # The doors.

    async def open(self) -> tuple[str, str]:
        """Listen; return the URL and HOST:PORT."""
        from .gateway import open_door

        self._doors_open += 1
        door = self._doors_open
        return await self._stack.enter_async_context(
            open_door(self._doors, lambda peer: self._accept(peer, door), self.tell)
        )

    def unused_address(self) -> str:
        """Return a HOST:PORT that nobody listens on."""
        kind = socket.SOCK_DGRAM if self.is_quic else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in self._doors.host else socket.AF_INET
        with socket.socket(family, kind) as unused:
            unused.bind((self._doors.host, 0))
            return join_address(self._doors.host, unused.getsockname()[1])

    def _accept(self, peer: Peer, door: int) -> None:
        peer.table = self.table
        peer.door = door
        peer.on_change = self._changed.set
        peer.on_wait = self._waits
        self._peers.append(peer)
        self.tell("client connected")
        self._connections.append(peer)
        self._changed.set()

    # The client's events.

    async def listen(self) -> None:
        """Take the client's events in, for as long as the case lasts."""
        try:
            while True:
                event = await self._driver.receive()
                kind = event["event"]
                self.tell(f"client says {_describe(event)}")
                if kind == "ended":
                    raise DriverError('the client printed "ended" in the middle of a case')
                if kind in _DELIVERIES:
                    self._deliveries.append(event)
                elif kind in _OUTCOMES:
                    if event.get("id") in self._ends:
                        raise Broken("one end of each request", f"a second {kind}", "3.5")
                    self._ends[event.get("id")] = event
                else:
                    self._others.append(event)
                self._changed.set()
        except (DriverError, Broken) as error:
            self._failure = error
            self._changed.set()

    async def _until(
        self, found: Callable[[], T | None], refuse: Callable[[], None] = lambda: None
    ) -> T:
        """Wait until there is something, and return it.

        Args:
            found: Returns it, None while there is nothing.
            refuse: Raises Broken where something else has happened.
        """
        while True:
            if (value := found()) is not None:
                return value
            refuse()
            self.check()
            self._changed.clear()
            await self._changed.wait()

    def _refuse_return(self) -> None:
        if self._connections:
            raise Broken("no new connection", "the client connected again")

    def _refuse_delivery(self) -> None:
        if self._deliveries:
            told = _describe(self._deliveries[0])
            raise Broken("nothing to be handed over", f"the client says {told}")

    def _refuse_end(self) -> None:
        if any(event["event"] == "closed" for event in self._deliveries):
            raise Broken("a new connection", "the client says that it is closed for good")

    def _waits(self, what: str) -> None:
        self.awaited = what

    # What a script does.

    def command(self, do: str, **fields: Any) -> None:
        """Give the client a command."""
        self._driver.send({"do": do, **fields})

    async def connect(self, **options: Any) -> Peer:
        """Make the client connect; return its connection."""
        if not self._url:
            self._url, _ = await self.open()
        self.command(
            "connect",
            url=self._url,
            ca=self._doors.cert,
            ca_pem=self._doors.cert_pem,
            openid="ann",
            client_id="kit",
            backoff_ms=BACKOFF_MS,
            **options,
        )
        return await self.connection()

    async def log_in(self, *, options: Said | None = None, **fields: Any) -> Peer:
        """Make the client connect and log in; server seq 1 is the login's answer.

        Args:
            options: Of connect().
            fields: Of the START_RESP.
        """
        peer = await self.connect(**(options or {}))
        self._waits("START")
        await peer.start()
        peer.respond(**fields)
        await self.hello(peer)
        await self.connected()
        return peer

    async def hello(self, peer: Peer, seq: int = 1) -> None:
        """Take the client's login, and accept it."""
        peer.answer(await peer.business(seq, "hello"))

    async def connected(self) -> None:
        """Wait until the client says that it is logged in."""
        self._waits('the event "connected"')
        event = await self._until(lambda: _pop(self._others))
        if event["event"] != "connected":
            raise Broken("a login that works", f"the client says {_describe(event)}")

    async def failed(self) -> Said:
        """Wait until the client says that it gave up connecting."""
        self._waits('the event "failed"')
        event: Said = await self._until(lambda: _pop(self._others))
        if event["event"] != "failed":
            raise Broken("a login that fails", f"the client says {_describe(event)}")
        return event

    async def connection(self) -> Peer:
        """Return the client's next connection."""
        self._waits("a new connection")
        return await self._until(
            lambda: _pop(self._connections),
            self._refuse_end,
        )

    async def resumed(self, max_client_seq: int, **fields: Any) -> Peer:
        """Let the client resume on its next connection; return that."""
        peer = await self.resume_asked()
        peer.respond_resumed(max_client_seq, **fields)
        return peer

    async def resume_asked(self) -> Peer:
        """Return the client's next connection, with a START that resumes the session."""
        peer = await self.connection()
        self._waits("a START that resumes the session")
        start = await peer.start()
        expect_resume(start, self.table)
        return peer

    def request(self, action: str = "echo", data: str = "") -> int:
        """Make the client send a request; return the id by which its end is asked for."""
        self._requests += 1
        self.tell(f"client is told to request {action} (id {self._requests})")
        self.command("request", id=self._requests, action=action, data=data)
        return self._requests

    async def end_of(self, request: int) -> Said:
        """Return the client's word of a request's end: ``answer`` or ``error``."""
        self._waits(f"the end of request {request}")
        return await self._until(lambda: self._ends.get(request), self._refuse_return)

    async def answered(self, request: int, data: str | None = None, code: int = 200) -> Said:
        """Wait for the answer of a request."""
        event = await self.end_of(request)
        if event["event"] != "answer" or event.get("code") != code:
            raise Broken(f"an answer {code}", f"the client says {_describe(event)}")
        if data is not None and event.get("data") != data:
            raise Broken(f"the answer {data!r:.40}", f"the client got {event.get('data')!r:.40}")
        return event

    async def failed_request(
        self, request: int, code: int | None = None, outcome: str = "", retry_after_ms: int = 0
    ) -> Said:
        """Wait for the failure of a request."""
        event = await self.end_of(request)
        wanted = {
            "code": code,
            "outcome": outcome or None,
            "retry_after_ms": retry_after_ms or None,
        }
        wrong = event["event"] != "error" or any(
            value is not None and event.get(name) != value for name, value in wanted.items()
        )
        if wrong:
            told = ", ".join(f"{name} {v}" for name, v in wanted.items() if v is not None)
            raise Broken(f"a failure ({told})", f"the client says {_describe(event)}")
        return event

    async def delivered(self, *wanted: str | int) -> None:
        """Wait for deliveries in their order.

        Args:
            wanted: A number is a notify with that server seq, ``lost 2-4`` a loss, ``session lost``
                the session's, ``closed`` the client's end.
        """
        for each in wanted:
            self._waits(_name(each))
            event = await self._until(lambda: _pop(self._deliveries), self._refuse_return)
            if _delivery(event) != str(each):
                raise Broken(_name(each), f"the client says {_describe(event)}")

    async def fence(self, peer: Peer) -> None:
        """Push two more notifies; they must be told next, and nothing before them."""
        peer.notify(b"fence", 2)
        await self.delivered(peer.table.seq - 1, peer.table.seq)

    async def left(self, peer: Peer, why: str) -> None:
        """Wait until the client has closed a connection; nothing may be told meanwhile."""
        self._waits(f"the client to close the connection: {why}")
        await self._until(lambda: peer.is_ended or None, self._refuse_delivery)
        self._refuse_delivery()

    async def refused(self, request: int, peer: Peer) -> None:
        """Wait until the client says that it does not send a request."""
        self._waits(f"the refusal of request {request}")

        def refuse() -> None:
            if peer.waiting:
                raise Broken("no such request", "the client sent it")

        event = await self._until(lambda: self._ends.get(request), refuse)
        if event["event"] != "error":
            raise Broken("a refusal by the client", f"the client says {_describe(event)}")

    async def stays_away(self) -> None:
        """Wait until the client says that it is closed for good; it must not connect again."""
        self._waits('the event "closed", and no new connection')
        while True:
            event = await self._until(lambda: _pop(self._deliveries), self._refuse_return)
            if event["event"] == "closed":
                break
            if event["event"] != "session_lost":
                raise Broken('the event "closed"', f"the client says {_describe(event)}")
        await self.quiet()

    async def quiet(self, seconds: float = QUIET_S) -> None:
        """Let time pass; the client must not connect."""
        try:
            async with asyncio.timeout(seconds):
                await self._until(lambda: None, self._refuse_return)
        except TimeoutError:
            return

    async def session_lost(self) -> None:
        """Wait until the client says that the session is lost, and that another one follows."""
        await self.delivered("session lost")

    def slow(self, seconds: float) -> float:
        """Return a longest time, for this client."""
        return seconds * self._slowness


def expect_resume(start: Any, table: Table) -> None:
    """Check that a START resumes the session, with its newest token."""
    if start.session_id != table.session_id:
        raise Broken(
            f"a START with session_id {table.session_id}",
            f"it names {start.session_id!r}" if start.session_id else "it names no session",
            "4.1",
        )
    if start.resume_token != table.token:
        raise Broken("the newest resume_token", "START has another", "4.2")
    if not start.attempt:
        raise Broken("an attempt from 1", "START has none", "4.3")


def _pop(queue: deque[T]) -> T | None:
    return queue.popleft() if queue else None


def _delivery(event: Said) -> str:
    kind = event["event"]
    if kind == "notify":
        return str(event.get("seq"))
    if kind == "lost":
        return f"lost {event.get('from')}-{event.get('to')}"
    return str(kind).replace("_", " ")


def _name(wanted: str | int) -> str:
    return f"notify {wanted}" if isinstance(wanted, int) else f"word of {wanted}"


def _describe(event: Said) -> str:
    parts = [f"{name} {value!r:.60}" for name, value in event.items() if name != "event"]
    return str(event["event"]) + (f" ({', '.join(parts)})" if parts else "")
