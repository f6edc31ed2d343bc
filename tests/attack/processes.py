"""The processes beside the attacker: the gateway, its service, the healthy clients.

Each ends when the runner does: its commands come through a pipe (tests/soak/child.py).
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed

from gatesvr import Client, Gateway
from gatesvr.admin.server import AdminServer
from gatesvr.cli.loop import spare_collector
from gatesvr.config import load
from gatesvr.errors import GatesvrError
from gatesvr.observe.log import configure
from gatesvr.protocol import events
from gatesvr.service.request import Reply, Request
from gatesvr.service.service import UpstreamService

from ..e2e.plain_client import answer, business
from ..e2e.web_client import web_client
from ..soak.child import Commands
from .case import Latency, Sample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection as Pipe

    from gatesvr._pb import auth_pb2 as auth_pb
    from gatesvr._pb import message_pb2 as pb

__all__ = ["serve_gateway", "serve_healthy", "serve_service"]

SERVICES = {"hello": 0, "business": 0, "zone": 1}
INTERVAL_S = 0.025
"""From one request of a healthy client to its next; it does not wait for answers."""
REQUEST_TIMEOUT_S = 5.0
WARM_UP_S = 0.2


# The gateway.


async def serve_gateway(
    pipe: Pipe,
    backend: str,
    addresses: Sequence[str],
    sets: Sequence[str],
    patches: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> None:
    """Run a gateway as ``gatesvr serve`` does; its zone service is at the second address.

    Says its addresses, empty those of an admin server and of WebSocket that it has not; at
    ``sample`` a Sample; ends with the pipe.

    Args:
        pipe: To the runner.
        backend: The QUIC library.
        addresses: Where its services are.
        sets: Settings; ``{folder}`` is where the files are, ``{service}`` the second address.
        patches: What to replace in this process first, and by what.
        files: Files to write first.
    """
    commands = Commands(pipe)
    for target, value in patches.items():
        patch(target, value)
    lines = Lines()
    configure("info", stream=lines)  # type: ignore[arg-type]
    # Without a pause a flood of exceptions in the gateway would be asyncio's to print.
    asyncio.get_running_loop().set_exception_handler(lambda *_: lines.write("loop\n"))
    with TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)  # noqa: ASYNC240  before anything runs
        config = load(
            sets=[
                f"transport.backend={backend}",
                "transport.bind=127.0.0.1:0",
                "push.bind=127.0.0.1:0",
                *(
                    f'upstream.services.{name}=[{{address="{addresses[number]}"}}]'
                    for name, number in SERVICES.items()
                ),
                *(
                    text.replace("{folder}", folder).replace("{service}", addresses[1])
                    for text in sets
                ),
            ]
        )
        async with AsyncExitStack() as stack:
            gateway = await stack.enter_async_context(Gateway(config))
            admin_url = ""
            if config.admin.enabled:
                admin = AdminServer(gateway, config.admin)
                await admin.start()
                stack.push_async_callback(admin.stop)
                admin_url = admin.url
            spare_collector()
            pipe.send((gateway.address, gateway.grpc_address, admin_url, gateway.web_address))
            with suppress(EOFError):
                while await commands.next() == "sample":
                    pipe.send(_sample(gateway, lines))


def patch(target: str, value: Any) -> None:
    """Set ``module:name.name`` to a value."""
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    getattr(owner, name)  # a patch of nothing would switch nothing off
    setattr(owner, name, value)


class Lines:
    """Counts the lines of the log."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, text: str) -> None:
        self.count += text.count("\n")

    def flush(self) -> None: ...


def _sample(gateway: Gateway, lines: Lines) -> Sample:
    stats = {
        f"{layer}.{name}": int(value)
        for layer, group in gateway.stats().items()
        for name, value in group.items()
    }
    stats["log.lines"] = lines.count
    return Sample(stats, time.process_time(), resident())


def resident(pid: int | str = "self") -> int:
    """Return a process's resident memory, bytes; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (FileNotFoundError, ProcessLookupError):
        return 0


# The service.


async def serve_service(pipe: Pipe) -> None:
    """Run the services behind the gateway; says two addresses, at ``calls`` the calls by action."""
    commands = Commands(pipe)
    logging.getLogger("gatesvr").setLevel(logging.ERROR)
    calls: Counter[str] = Counter()
    services = [_service(calls) for _ in range(2)]
    pipe.send([await service.serve() for service in services])
    with suppress(EOFError):
        while await commands.next() == "calls":
            pipe.send(dict(calls))
            calls.clear()
    for service in services:
        await service.stop()


def _service(calls: Counter[str]) -> UpstreamService:
    """Return a service that counts its calls by action."""
    service = UpstreamService("attacked", max_running=20_000, max_waiting=20_000)

    @service.action("*")
    def answer(request: Request) -> Reply:
        calls[request.action] += 1
        return Reply(200, "", request.data)

    @service.authenticate
    async def authenticate(request: auth_pb.AuthenticateRequest) -> str | None:
        """Let in whoever says that it is good; ``hang`` is never answered."""
        if request.auth_token == "hang":
            await asyncio.Event().wait()
        word, _, openid = request.auth_token.partition(" ")
        return openid if word == "good" else None

    @service.action("hello")
    async def hello(request: Request) -> Reply:
        if request.params.get("hang"):
            await asyncio.Event().wait()
        return Reply(200)

    @service.action("slow")
    @service.action("zone_slow")
    async def slow(request: Request) -> bytes:
        calls[request.action] += 1
        await asyncio.sleep(float(request.params["ms"]) / 1000)
        return request.data

    @service.action("hang")
    @service.action("zone_hang")
    async def hang(request: Request) -> None:
        calls[request.action] += 1
        await asyncio.Event().wait()

    @service.action("giant")
    @service.action("zone_giant")
    def giant(request: Request) -> Reply:
        calls["giant"] += 1
        return Reply(200, "", bytes(int(request.params["bytes"])))

    return service


# The healthy clients.


async def serve_healthy(pipe: Pipe) -> None:
    """Run healthy clients beside an attack.

    Commands: ``("connect", address, web address, tokens)``, ``("window",)`` begins a measurement,
    ``("report",)`` ends it and is answered by its Latency, ``("leave",)`` ends the clients.
    """
    commands = Commands(pipe)
    logging.getLogger("gatesvr").setLevel(logging.CRITICAL)
    healthy = Healthy()
    with suppress(EOFError):
        while True:
            command, *arguments = await commands.next()
            pipe.send(await getattr(healthy, command)(*arguments))
    await healthy.leave()


class Healthy:
    """Clients that each ask for an echo every INTERVAL_S, whatever became of the last one."""

    def __init__(self) -> None:
        self._clients: list[_HealthyClient | _HealthyWebClient] = []
        self._askers: list[asyncio.Task[None]] = []
        self._asked: set[asyncio.Task[None]] = set()
        self._latencies: list[float] = []
        self._failed = 0

    async def connect(self, address: str, web_address: str, tokens: Mapping[str, str]) -> str:
        """Log in clients with these openids and auth_tokens, and let them ask.

        Where there is a web address, every other one goes there.

        Returns:
            What went wrong, "" for nothing.
        """
        self._clients = [
            _HealthyWebClient(web_address, openid, token)
            if web_address and number % 2
            else _HealthyClient(
                address,
                openid=openid,
                insecure=True,
                auth_token=token,
                request_timeout=REQUEST_TIMEOUT_S,
            )
            for number, (openid, token) in enumerate(tokens.items())
        ]
        try:
            await asyncio.gather(*(client.connect() for client in self._clients))
        except (GatesvrError, OSError) as error:
            return f"the healthy clients could not connect: {error}"
        self._askers = [
            asyncio.ensure_future(self._ask_on(client, INTERVAL_S * number / len(tokens)))
            for number, client in enumerate(self._clients)
        ]
        await asyncio.sleep(WARM_UP_S)
        return ""

    async def window(self) -> str:
        """Begin a measurement: requests from now on count."""
        self._latencies, self._failed = [], 0
        self._asked = set()
        for client in self._clients:
            client.losses = 0
        return "begun"

    async def report(self) -> Latency:
        """Wait for what is under way and return the measurement."""
        asked = set(self._asked)
        if asked:
            await asyncio.wait(asked, timeout=REQUEST_TIMEOUT_S + 1.0)
        found = sorted(self._latencies)
        if not found:
            return Latency(failed=self._failed, dropped=self._dropped())
        return Latency(
            found[len(found) // 2],
            found[min(len(found) - 1, int(len(found) * 0.99))],
            len(found),
            self._failed,
            self._dropped(),
        )

    async def leave(self) -> str:
        """End the clients."""
        for task in (*self._askers, *self._asked):
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.gather(*(client.close() for client in self._clients))
        self._clients, self._askers = [], []
        return "left"

    def _dropped(self) -> int:
        return sum(client.losses > 0 or not client.is_connected for client in self._clients)

    async def _ask_on(self, client: _HealthyClient | _HealthyWebClient, offset: float) -> None:
        await asyncio.sleep(offset)
        while True:
            task = asyncio.ensure_future(self._ask(client))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
            await asyncio.sleep(INTERVAL_S)

    async def _ask(self, client: _HealthyClient | _HealthyWebClient) -> None:
        began = time.perf_counter()  # the loop's own time stands still while it works
        latencies = self._latencies
        try:
            reply = await client.request("echo", b"healthy")
            if reply.code != 200:
                self._failed += 1
        except GatesvrError:
            self._failed += 1
        latencies.append(time.perf_counter() - began)


class _HealthyClient(Client):
    """Counts the connections that it lost, by those that it made again."""

    losses = 0
    _is_started = False

    def handle_event(self, event: events.ClientEvent, now: float) -> None:
        if isinstance(event, events.Started):
            self.losses += self._is_started
            self._is_started = True
        super().handle_event(event, now)


class _HealthyWebClient:
    """The same by WebSocket: it stays gone where its connection is lost."""

    losses = 0

    def __init__(self, address: str, openid: str, token: str) -> None:
        self.is_connected = False
        self._address = address
        self._openid = openid
        self._token = token
        self._stack = AsyncExitStack()
        self._seq = 1  # the hello
        self._acked = 1
        self._asked: dict[int, asyncio.Future[pb.BusinessResponse]] = {}

    async def connect(self) -> None:
        self._client = await self._stack.enter_async_context(web_client(self._address))
        await self._client.login(self._openid, auth_token=self._token)
        self.is_connected = True
        self._reading = asyncio.ensure_future(self._read())

    async def request(self, action: str, data: bytes) -> pb.BusinessResponse:
        self._seq += 1
        asked = self._asked[self._seq] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self._client.send(business(self._seq, action, data, ack=self._acked))
                return await asked
        except (ConnectionClosed, TimeoutError) as error:
            raise GatesvrError(repr(error)) from None

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._stack.aclose()

    async def _read(self) -> None:
        try:
            while True:
                push = await self._client.receive()
                self._acked = max(self._acked, push.seq_id)
                asked = self._asked.pop(push.client_seq_id, None)
                if asked is not None and not asked.done():
                    asked.set_result(answer(push))
        except (ConnectionClosed, TimeoutError):
            self.is_connected = False
            self.losses += 1
