"""The load's process: clients that ask at a rate, and a note of how each request ended."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from gatesvr.config import parse_address
from gatesvr.protocol.client import ClientProtocol
from gatesvr.protocol.client_session import ClientSession
from gatesvr.protocol.events import Answered, Failed, HeartbeatAnswered, Started
from gatesvr.transport.client import open_connection
from gatesvr.transport.tls import client_tls
from gatesvr.transport.udp.driver import Driver

from ..child import Commands
from .servers import CANCEL, ECHO, HANG

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

    from gatesvr.protocol.link import Disconnect, Link
    from gatesvr.transport.client import ClientConnection

__all__ = ["Load", "Told", "serve_load"]

NUMBER = struct.Struct(">Q")
TICK_S = 0.01
MAX_IN_FLIGHT = 12
"""Requests of one client; above it a request is left out of the rate."""
CONNECT_S = 30.0
SETTLE_S = 90.0
"""Longest wait for the last answers."""
LEAVER_REQUESTS = 10
BACKEND = "qh3"


class Told:
    """How the requests ended.

    Attributes:
        sent: Requests sent, logins included.
        logins: Logins answered.
        ends: Answers and ERRORs by code, as "200" or "504 UNKNOWN".
        outcomes: By request number: "answered", or the outcome that its ERROR says.
        left: Requests whose client left before their end.
        wrong: What must not be: answers that came twice or to another request.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.logins = 0
        self.ends: Counter[str] = Counter()
        self.outcomes: dict[int, str] = {}
        self.left = 0
        self.unanswered = 0
        self.wrong: list[str] = []


class Asker:
    """A client, and the ConnectionHandler of its connection."""

    def __init__(self, load: Load, name: str) -> None:
        self._load = load
        self._protocol = ClientProtocol(ClientSession(name))
        self._link: Link | None = None
        self._hello = 0
        self.open: dict[int, int] = {}  # the requests' numbers by client seq
        self.has_left = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connection: ClientConnection | None = None

    def attach(self, link: Link) -> Asker:
        self._link = link
        return self

    def ask(self, action: str, now: float) -> None:
        """Send a request whose data is its number."""
        load = self._load
        number = next(load.numbers)
        load.told.sent += 1
        seq = self._protocol.send_request(action, NUMBER.pack(number), now=now)
        self.open[seq] = number
        self.flush()

    def leave(self) -> None:
        """End the session; what is open gets no answer any more."""
        self.has_left = True
        self._load.told.left += len(self.open)
        self.open.clear()
        self._protocol.stop()
        self.flush()

    def flush(self) -> None:
        if (data := self._protocol.data_to_send()) and self._link is not None:
            self._link.write(data)
            self._link.request_flush()

    # ConnectionHandler.

    def connection_made(self, now: float) -> None:
        self._protocol.connect(now)
        self.flush()

    def data_received(self, data: bytes, now: float) -> None:
        protocol = self._protocol
        for event in protocol.receive_data(data, now):
            if isinstance(event, Answered):
                protocol.acknowledge(event.seq, now)
                if event.client_seq == self._hello:
                    self._load.told.logins += 1
                    self.ready.set_result(None)
                else:
                    self._ended(event.client_seq, str(event.code), "answered", event.data)
            elif isinstance(event, Failed):
                if event.seq:
                    protocol.acknowledge(event.seq, now)
                text = f"{event.code} {event.outcome.name}"
                self._ended(event.client_seq, text, event.outcome.name)
            elif isinstance(event, Started):
                self._load.told.sent += 1
                self._hello = protocol.login(now=now)
            elif not isinstance(event, HeartbeatAnswered):
                self._load.told.wrong.append(f"unexpected: {event}")
        if protocol.error is not None:
            self._load.told.wrong.append(f"protocol: {protocol.error}")
        self.flush()

    def _ended(self, seq: int, end: str, outcome: str, data: bytes | None = None) -> None:
        told = self._load.told
        number = self.open.pop(seq, None)
        if number is None:
            if not self.has_left:
                told.wrong.append(f"an end to no open request: {end}")
            return
        told.ends[end] += 1
        told.outcomes[number] = outcome
        if data is not None and data != NUMBER.pack(number):
            told.wrong.append(f"request {number} got the answer {data!r}")

    async def work(self) -> None: ...

    def write_ready(self, now: float) -> None: ...

    def get_timer(self) -> float | None:
        return self._protocol.get_timer()

    def handle_timer(self, now: float) -> None:
        self._protocol.handle_timer(now)
        self.flush()

    def stream_ended(self, now: float) -> None: ...

    def path_limit_near(self, now: float) -> None: ...

    def connection_lost(self, how: Disconnect, now: float) -> None:
        if not self.has_left:
            self._load.told.wrong.append(f"connection lost: {how.kind} {how.code} {how.reason}")


class Load:
    """Clients on one loop.

    Args:
        address: The gateway's.
    """

    def __init__(self, address: str) -> None:
        self.told = Told()
        self.numbers = count(1)
        self._address = parse_address(address)
        self._driver = Driver()
        self._clients: list[Asker] = []
        self._names = count(1)
        self._running: asyncio.Task[None] | None = None
        self._is_over = False

    async def connect(self, clients: int) -> None:
        """Connect and log in so many clients."""
        self._clients += [await self._connect() for _ in range(clients)]

    async def run(self, requests: int, rate: float, hang: float, cancel: float) -> None:
        """Send so many requests at a rate, these shares of which hang or are cancelled."""
        loop = asyncio.get_running_loop()
        sent, began = 0, loop.time()
        every_hang = round(1 / hang) if hang else 0
        every_cancel = round(1 / cancel) if cancel else 0
        turn = 0
        while sent < requests and not self._is_over:
            now = loop.time()
            due = min(requests, int((now - began) * rate) + 1)
            for _ in range(len(self._clients)):
                if sent >= due:
                    break
                turn += 1
                client = self._clients[turn % len(self._clients)]
                if len(client.open) >= MAX_IN_FLIGHT:
                    continue
                sent += 1
                action = ECHO
                if every_hang and sent % every_hang == 0:
                    action = HANG
                elif every_cancel and sent % every_cancel == 1:
                    action = CANCEL
                client.ask(action, now)
            if sent < due:
                began += TICK_S  # the gateway is slower than the rate: do not catch up in a burst
            await asyncio.sleep(TICK_S)

    async def begin(self, rate: float) -> None:
        """Send requests at a rate until end()."""
        self._is_over = False
        self._running = asyncio.ensure_future(self.run(1 << 40, rate, 0.0, 0.0))

    async def end(self) -> None:
        """End what begin() began."""
        assert self._running is not None
        self._is_over = True
        await self._running

    async def leave(self, clients: int) -> None:
        """Let so many further clients ask for what hangs, and leave while it is open."""
        for _ in range(clients):
            client = await self._connect()
            now = asyncio.get_running_loop().time()
            for _ in range(LEAVER_REQUESTS - 1):
                client.ask(HANG, now)
            client.ask(ECHO, now)
            async with asyncio.timeout(SETTLE_S):
                while len(client.open) == LEAVER_REQUESTS:  # the gateway has taken them all
                    await asyncio.sleep(TICK_S)
            client.leave()
            assert client.connection is not None
            await client.connection.close()

    async def settle(self) -> None:
        """Wait until nothing is open."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while any(client.open for client in self._clients):
                    await asyncio.sleep(TICK_S)
        self.told.unanswered = sum(len(client.open) for client in self._clients)

    async def close(self) -> None:
        for client in self._clients:
            client.has_left = True
            assert client.connection is not None
            await client.connection.close()
        self._driver.close()

    async def _connect(self) -> Asker:
        client = Asker(self, f"soak-{next(self._names)}")
        client.connection = await open_connection(
            *self._address,
            client.attach,
            tls=client_tls(self._address[0], insecure=True),
            backend=BACKEND,
            driver=self._driver,
            connect_timeout=CONNECT_S,
        )
        async with asyncio.timeout(CONNECT_S):
            await client.ready
        return client


async def serve_load(pipe: Pipe, address: str) -> None:
    """Run a Load: commands are (method, arguments...); says Told at ``told``, else ``done``."""
    commands = Commands(pipe)
    load = Load(address)
    with suppress(EOFError):
        while True:
            method, *arguments = await commands.next()
            if method == "told":
                pipe.send(load.told)
            else:
                await getattr(load, method)(*arguments)
                pipe.send("done")
