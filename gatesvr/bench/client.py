"""LoadClient: one session over its connections, without a task a request. Fleet: many clients."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from ..errors import CloseCode, ConnectionFailed, GatesvrError
from ..protocol.client import ClientProtocol
from ..protocol.client_session import ClientSession
from ..protocol.events import (
    Answered,
    ClientEvent,
    Failed,
    Ignored,
    Lost,
    Notify,
    SessionReset,
    Started,
    StartRefused,
)
from ..protocol.link import Disconnect, Link
from ..protocol.messages import OK
from ..transport.client import AnyConnection, Server, open_first
from ..transport.tls import client_tls
from ..transport.udp.driver import Driver
from .checker import DeliveryChecker
from .meter import Recorder
from .scenario import Plan

__all__ = ["CONNECTING", "MAX_DRAIN_S", "Fleet", "LoadClient"]

CONNECTING = 32
"""Clients of all load processes connecting at the same time: a gateway accepts 64 sessions an
address that have not logged in."""
POLL_S = 0.01
MAX_DRAIN_S = 60.0
"""Longest wait for open operations at the end, even while messages still arrive: twice the
gateway's default deadline for a request."""
HEAD = struct.Struct(">IIQ")
"""Start of a request's data: the run, the client's number, the request's own number."""


class LoadClient:
    """A client, and the ConnectionHandler of its current connection.

    It acknowledges every message and reports it to the fleet's checker.

    Args:
        fleet: The clients of this load process.
        number: The client's number, unique in the run.

    Attributes:
        session_id: The session's id; empty before START_RESP.
        is_up: Whether it is connected and logged in.
    """

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.fleet = fleet
        self.number = number
        self.openid = f"bench-{fleet.plan.run:08x}-{number}"
        self._session = ClientSession(self.openid, auth_token=fleet.plan.token_for(self.openid))
        self.protocol = ClientProtocol(self._session)
        self.session_id = ""
        self.is_up = False
        self.connection: AnyConnection | None = None
        self._link: Link | None = None
        self._login_seq = 0
        self._cuts = 0  # connections cut here whose end is not reported yet
        self._ready: asyncio.Future[bool] | None = None

    # Connections.

    async def connect(self) -> bool:
        """Connect, START or resume, log in if needed; return whether it went well."""
        fleet = self.fleet
        self._ready = ready = fleet.loop.create_future()
        try:
            async with asyncio.timeout(fleet.plan.timeout):
                self.connection = await open_first(
                    [fleet.server],
                    self._attach,
                    backend=fleet.plan.backend,
                    connect_timeout=fleet.plan.timeout,
                    driver=fleet.driver,
                )
                is_up: bool = await ready
                return is_up
        except TimeoutError:
            fleet.fail("no answer to START or to the login: time-out")
        except ConnectionFailed as error:
            fleet.fail(f"cannot connect: {error}")
        finally:
            ready.cancel()
        return False

    @property
    def is_connecting(self) -> bool:
        """Whether connect() is running."""
        return self._ready is not None and not self._ready.done()

    def connect_soon(self) -> None:
        """Connect in a task of the fleet."""
        self._ready = self.fleet.loop.create_future()
        self.fleet.spawn(self.connect())

    def cut(self) -> None:
        """Abandon the connection: close the socket without telling the gateway."""
        if self.connection is not None and not self.connection.is_closing:
            self._cuts += 1
            self.is_up = False
            self._link = None
            self.connection.discard("cut")

    async def close(self) -> None:
        """End the session and the connection."""
        if self.connection is None:
            return
        if self.is_up:
            self.is_up = False
            self.protocol.stop()
            self.flush()
        await self.connection.close(CloseCode.NORMAL)

    def _attach(self, link: Link) -> LoadClient:
        self._link = link
        return self

    def _came_up(self) -> None:
        self.is_up = True
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(True)

    def _stayed_down(self, why: str) -> None:
        self.fleet.fail(why)
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(False)

    # ConnectionHandler.

    def connection_made(self, now: float) -> None:
        """Begin or resume the session."""
        self.protocol = ClientProtocol(self._session)
        self.protocol.connect(now)
        self.flush()

    def data_received(self, data: bytes, now: float) -> None:
        """Handle the gateway's messages."""
        protocol = self.protocol
        self.fleet.received += 1
        for event in protocol.receive_data(data, now):
            kind = type(event)
            if kind is Answered:
                self.answered(event, now)  # type: ignore[arg-type]
            elif kind is Notify:
                self.notified(event, now)  # type: ignore[arg-type]
            else:
                self.handle(event, now)
        if protocol.error is not None:
            self.fleet.checker.broken(self.session_id or self.openid, str(protocol.error))
            raise protocol.error
        self.flush()

    async def work(self) -> None:
        """Do nothing: no work waits for a task."""

    def write_ready(self, now: float) -> None:
        """Do nothing: flush() writes at once."""

    def get_timer(self) -> float | None:
        """Return when handle_timer() is due."""
        return self.protocol.get_timer()

    def handle_timer(self, now: float) -> None:
        """Ack, or send a heartbeat."""
        self.protocol.handle_timer(now)
        if self.protocol.is_silent and self._link is not None:
            self._link.close(CloseCode.TIMEOUT, "silent")
        self.flush()

    def stream_ended(self, now: float) -> None:
        """Do nothing: the close code that follows explains it."""

    def path_limit_near(self, now: float) -> None:
        """Do nothing: a client's server does not move."""

    def connection_lost(self, how: Disconnect, now: float) -> None:
        """Report a connection's end unless this client caused it."""
        if self._cuts:
            self._cuts -= 1
            return
        was_up, self.is_up, self._link = self.is_up, False, None
        for event in self.protocol.closed(how.code if how.kind == "peer" else 0):
            self.handle(event, now)
        if was_up or self.is_connecting:
            self.lost_connection(f"connection lost: {how.kind} {how.code} {how.reason}".rstrip())

    # Overridden by the scenarios.

    def lost_connection(self, why: str) -> None:
        """The connection ended unexpectedly."""
        self._stayed_down(why)

    def answered(self, event: Answered, now: float) -> None:
        """A request was answered; in this class, the hello."""
        checker = self.fleet.checker
        checker.delivered(self.session_id, event.seq, client_seq=event.client_seq)
        name = f"{self.openid}/{event.client_seq}"
        checker.answered(self.openid, name, name, event.code)
        self.protocol.acknowledge(event.seq, now)
        self._handle_login(event)

    def notified(self, event: Notify, now: float) -> None:
        """A notify arrived."""
        # Not from this run: only its seq can be checked.
        name = f"foreign {event.seq}"
        self.fleet.checker.pushed(self.session_id, name, is_sure=False)
        self.fleet.checker.delivered(self.session_id, event.seq, push=name)
        self.protocol.acknowledge(event.seq, now)

    def handle(self, event: ClientEvent, now: float) -> None:
        """Handle the rare events."""
        fleet = self.fleet
        if isinstance(event, Started):
            self.session_id = event.session_id
            fleet.checker.started(self.openid, event.session_id, is_resumed=event.is_resumed)
            self.started(event, now)
        elif isinstance(event, StartRefused):
            self._stayed_down(f"START refused: {event.code} {event.message}")
        elif isinstance(event, SessionReset):
            fleet.checker.session_lost(self.openid, event.session_id, event.reason.name)
            fleet.fail(f"session lost: {event.reason.name}")
        elif isinstance(event, Lost):
            fleet.checker.lost(self.session_id, event.from_seq, event.to_seq, event.reason.name)
            self.protocol.acknowledge(event.seq, now)
            self.lost(event)
        elif isinstance(event, Ignored):
            fleet.checker.broken(self.session_id, f"push {event.seq} answers no request")
            self.protocol.acknowledge(event.seq, now)
        elif isinstance(event, Failed):
            self.failed(event, now)

    def started(self, event: Started, now: float) -> None:
        """START_RESP arrived: log in if needed."""
        if event.is_logged_in:
            self._came_up()
        else:
            self._login_seq = self.protocol.login(now=now)
            name = f"{self.openid}/{self._login_seq}"
            self.fleet.checker.asked(self.openid, name, is_login=True)

    def lost(self, event: Lost) -> None:
        """The gateway announced a loss: allowed, but not expected here."""
        count = event.to_seq - event.from_seq + 1
        self.fleet.fail(f"messages lost: {event.reason.name}", count)

    def failed(self, event: Failed, now: float) -> None:
        """A request failed; in this class, the hello."""
        fleet = self.fleet
        if event.seq:
            fleet.checker.delivered(
                self.session_id, event.seq, client_seq=event.client_seq, code=event.code
            )
            self.protocol.acknowledge(event.seq, now)
        name = f"{self.openid}/{event.client_seq}"
        fleet.checker.failed(self.openid, name, event.code, int(event.outcome))
        if event.client_seq == self._login_seq:
            self._stayed_down(f"login failed: {event.code} {event.message}")
        else:
            fleet.fail(f"error {event.code} {event.message}")

    def _handle_login(self, event: Answered) -> None:
        if event.client_seq != self._login_seq:
            return
        if event.code == OK:
            self._came_up()
        else:
            self._stayed_down(f"login refused: {event.code} {event.message}")

    def flush(self) -> None:
        """Send the protocol's pending bytes."""
        if self._link is not None and (data := self.protocol.data_to_send()):
            self._link.write(data)

    # The end.

    def settle(self) -> None:
        """Check that nothing is missing; called once at the end, while the session is alive."""
        self.fleet.checker.settled(self.session_id)
        self.fleet.checker.client_settled(self.openid)


class Fleet:
    """The clients of one load process, and their shared checker and counters.

    Args:
        plan: The run's plan.
        make: Makes a client.
        numbers: The clients' numbers.

    Attributes:
        checker: Hears of everything that the clients see.
        failures: Reasons of failures that broke no promise, with their counts.
        is_running: Whether clients keep sending.
        received: Counts the reads of all clients.
    """

    def __init__(
        self,
        plan: Plan,
        make: Callable[[Fleet, int], LoadClient],
        numbers: Iterable[int],
        recorder: Recorder,
    ) -> None:
        self.plan = plan
        self.loop = asyncio.get_running_loop()
        self.driver = Driver(self.loop)
        host, port, path, is_plain = plan.server
        tls = client_tls(host, ca=plan.ca, insecure=plan.insecure)
        self.server = Server(host, port, tls, path, is_plain)
        self.recorder = recorder
        self.checker = DeliveryChecker(knows_ends=False)
        self.failures: Counter[str] = Counter()
        self.is_running = False
        self.received = 0
        self.clients = [make(self, number) for number in numbers]
        self._tasks: set[asyncio.Task[bool]] = set()

    def spawn(self, connecting: Coroutine[Any, Any, bool]) -> None:
        """Run a client's connect() in a task."""
        task = self.loop.create_task(connecting)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def fail(self, why: str, count: int = 1) -> None:
        """Count a failure."""
        self.failures[why] += count
        self.recorder.failed += count

    async def connect(self, progress: Callable[[int], None]) -> None:
        """Connect and log in all clients, some at a time; stop if none of the first succeeds."""
        waiting = iter(self.clients)
        done = 0

        async def connect_some() -> None:
            nonlocal done
            for client in waiting:
                await client.connect()
                done += 1
                progress(done)
                if done >= at_a_time and not any(client.is_up for client in self.clients[:done]):
                    return

        at_a_time = max(1, CONNECTING // self.plan.processes)
        await asyncio.gather(*(connect_some() for _ in range(at_a_time)))

    async def drain(self, is_settled: Callable[[], bool]) -> None:
        """Wait until everything under way has arrived or nothing more comes; then check."""
        now = time.monotonic()
        end, quiet_at, received = now + MAX_DRAIN_S, now + self.plan.timeout, self.received
        while not is_settled() and now < min(end, quiet_at):
            await asyncio.sleep(POLL_S)
            now = time.monotonic()
            if self.received != received:
                received, quiet_at = self.received, now + self.plan.timeout
        for client in self.clients:
            if client.is_up:
                client.settle()

    async def close(self) -> None:
        """End every session and connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        results = await asyncio.gather(
            *(client.close() for client in self.clients), return_exceptions=True
        )
        for error in results:
            if isinstance(error, GatesvrError | OSError):
                self.fail(f"close: {error}")
            elif error is not None:
                raise error
        self.driver.close()
