"""Load clients of the end-to-end benchmarks: rounds of echo requests on lasting connections.

They use the sans-IO client without a task a request, and so cost little: the benchmark measures the
server.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import uvloop

from gatesvr.protocol.client import ClientProtocol
from gatesvr.protocol.client_session import ClientSession
from gatesvr.protocol.events import Answered, HeartbeatAnswered, Started
from gatesvr.transport.client import open_connection
from gatesvr.transport.tls import client_tls
from gatesvr.transport.udp.driver import Driver

from .load import Idle

if TYPE_CHECKING:
    from gatesvr.protocol.link import Disconnect, Link
    from gatesvr.transport.client import ClientConnection

PAYLOAD = os.urandom(128)
BACKEND = "qh3"  # the library that costs this process less
TIMEOUT = 60.0
SETTLE_S = 0.03  # for the last acks: QUIC delays them by 25 ms


class Round:
    """The work of all clients in one round: requests to send, answers to await.

    Attributes:
        unsent: Requests not begun yet.
    """

    def __init__(self, requests: int) -> None:
        self.unsent = requests
        self._unanswered = requests
        self._done = asyncio.get_running_loop().create_future()

    def answered(self) -> None:
        self._unanswered -= 1
        if self._unanswered == 0 and not self._done.done():
            self._done.set_result(None)

    def failed(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    async def wait(self) -> None:
        """Wait for the last answer; raise the first failure."""
        async with asyncio.timeout(TIMEOUT):
            await self._done


class Client(Idle):
    """A client's part in a round; the ConnectionHandler of its connection."""

    round: Round

    def begin(self, in_flight: int, now: float) -> None:
        for _ in range(min(in_flight, self.round.unsent)):
            self._send(now)
        self._flush()

    def data_received(self, data: bytes, now: float) -> None: ...

    def connection_lost(self, how: Disconnect, now: float) -> None:
        self.round.failed(ConnectionError(f"{how.kind} {how.code} {how.reason}"))

    def _answered(self, now: float) -> None:
        self.round.answered()
        if self.round.unsent:
            self._send(now)

    def _send(self, now: float) -> None:
        self.round.unsent -= 1

    def _flush(self) -> None:
        self.link.request_flush()


class EchoClient(Client):
    """Talks to the bare echo, whose stream has no frames."""

    def connection_made(self, now: float) -> None:
        self._received = 0
        self.round.answered()

    def data_received(self, data: bytes, now: float) -> None:
        self._received += len(data)
        while self._received >= len(PAYLOAD):
            self._received -= len(PAYLOAD)
            self._answered(now)
        self._flush()

    def _send(self, now: float) -> None:
        super()._send(now)
        self.link.write(PAYLOAD)


class GatewayClient(Client):
    """Talks to the gateway; logs in first."""

    def connection_made(self, now: float) -> None:
        self._protocol = ClientProtocol(ClientSession(f"bench-{self.link.connection_id}"))
        self._protocol.connect(now)
        self._hello = 0
        self._flush()

    def data_received(self, data: bytes, now: float) -> None:
        protocol = self._protocol
        for event in protocol.receive_data(data, now):
            if type(event) is Answered:
                protocol.acknowledge(event.seq, now)
                if event.client_seq == self._hello:
                    self.round.answered()
                elif event.code == 200 and event.data == PAYLOAD:
                    self._answered(now)
                else:
                    self.round.failed(RuntimeError(f"a wrong answer: {event}"))
            elif type(event) is Started:
                self._hello = protocol.login(now=now)
            elif type(event) is not HeartbeatAnswered:
                self.round.failed(RuntimeError(f"unexpected: {event}"))
        if protocol.error is not None:
            self.round.failed(protocol.error)
        self._flush()

    def get_timer(self) -> float | None:
        return self._protocol.get_timer()

    def handle_timer(self, now: float) -> None:
        self._protocol.handle_timer(now)
        self._flush()

    def _send(self, now: float) -> None:
        super()._send(now)
        self._protocol.send_request("echo", PAYLOAD, now=now)

    def _flush(self) -> None:
        data = self._protocol.data_to_send()
        if data:
            self.link.write(data)
            self.link.request_flush()


class Clients:
    """Connected clients, and the loop they run on.

    Args:
        kind: The class of the clients.
        count: Number of connections.
        in_flight: Requests that each keeps under way.
    """

    def __init__(self, kind: type[Client], count: int, in_flight: int) -> None:
        self._kind = kind
        self._count = count
        self._in_flight = in_flight
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._clients: list[Client] = []
        self._connections: list[ClientConnection] = []

    def connect(self, address: tuple[str, int]) -> None:
        """Connect all clients, and log them in if they have a login."""
        self._runner.run(self._connect(address))

    def run_round(self, requests: int) -> None:
        """Send this many requests, and wait for the last answer."""
        self._runner.run(self._run_round(requests))

    def close(self) -> None:
        with self._runner:
            self._runner.run(self._close())

    def _made(self, link: Link) -> Client:
        client = self._kind(link)
        client.round = self._round
        self._clients.append(client)
        return client

    async def _connect(self, address: tuple[str, int]) -> None:
        self._driver = Driver()
        self._round = Round(self._count)
        tls = client_tls(address[0], insecure=True)
        for _ in range(self._count):
            connection = await open_connection(
                *address, self._made, tls=tls, backend=BACKEND, driver=self._driver
            )
            self._connections.append(connection)
        await self._round.wait()

    async def _run_round(self, requests: int) -> None:
        round_ = Round(requests)
        now = asyncio.get_running_loop().time()
        for client in self._clients:
            client.round = round_
        for client in self._clients:
            client.begin(self._in_flight, now)
        await round_.wait()
        await asyncio.sleep(SETTLE_S)

    async def _close(self) -> None:
        for connection in self._connections:
            await connection.close()
        self._driver.close()
