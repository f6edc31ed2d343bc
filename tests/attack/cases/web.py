"""Clients by TCP that break TLS, HTTP or RFC 6455, say too little, or too much."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.frames import Frame, Opcode

from gatesvr.config import parse_address

from ...e2e.plain_client import business
from ...e2e.web_client import WebClient, client_context, web_client
from ..case import Off, case, gauge, memory, moved, saw
from .slow import NO_QUEUE_CAPS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ..attacker import Attacker

MANY = 30
MIB = 1 << 20
ON = ("transport.web.bind=127.0.0.1:0",)
HEALTHY = 3
"""Of the healthy clients, those by WebSocket."""
ELSEWHERE = "127.0.1.2"
"""An address of another network than that of the healthy clients."""
_CONNECTION = "gatesvr.transport.web.connection"
_FRAMES = "gatesvr.transport.web.frames"


async def each(
    attacker: Attacker, number: int, attack: Callable[[WebClient], Awaitable[None]]
) -> None:
    """Open so many WebSockets, let each attack, and count how the gateway closes them."""

    async def one() -> None:
        async with web_client(attacker.web_address) as client:
            with suppress(OSError):
                await attack(client)
            try:
                async with asyncio.timeout(3):
                    attacker.seen[f"closed {await client.closed()}"] += 1
            except TimeoutError:
                attacker.seen["left open"] += 1
                client.connection.transport.abort()

    await asyncio.gather(*(one() for _ in range(number)))


@case(
    "oversized WebSocket messages",
    f"{MANY} clients announce a message of 64 MiB and send 1 MiB of it",
    saw("closed 4400", least=MANY, most=MANY),
    moved("web.violations", least=MANY),
    memory(32),
    off=Off(
        "a first frame may be as large as any",
        sets=("session.max_login_bytes=512MiB", "session.max_message_bytes=512MiB",
              "session.max_queue_bytes=1GiB"),
    ),
    sets=ON,
)  # fmt: skip
async def oversized(attacker: Attacker) -> None:
    async def attack(client: WebClient) -> None:
        head = b"\x82\xff" + (64 * MIB).to_bytes(8) + bytes(4)
        client.connection.transport.write(head + bytes(MIB))

    await each(attacker, MANY, attack)


@case(
    "WebSocket messages in pieces",
    f"{MANY} clients send a message in 50,000 pieces of one byte",
    saw("closed 4400", least=MANY, most=MANY),
    moved("web.violations", least=MANY),
    memory(32),
    off=Off("any number of pieces", patches={f"{_FRAMES}:MAX_PIECES": 10_000_000}),
    sets=ON,
)
async def pieces(attacker: Attacker) -> None:
    async def attack(client: WebClient) -> None:
        first = Frame(Opcode.BINARY, b"\0", fin=False).serialize(mask=True)
        piece = Frame(Opcode.CONT, b"\0", fin=False).serialize(mask=True)
        client.connection.transport.write(first + piece * 50_000)

    await each(attacker, MANY, attack)


@case(
    "WebSocket pings without pause",
    f"{MANY} clients send 100,000 pings each and read no pong",
    saw("closed 4429", least=MANY - 2),
    moved("web.control_frames_limited", least=MANY),
    memory(32),
    off=Off(
        "any number of pings",
        patches={f"{_CONNECTION}:CONTROL_RATE": 1e9, f"{_CONNECTION}:CONTROL_BURST": 1e9},
    ),
    sets=ON,
)
async def pings(attacker: Attacker) -> None:
    async def attack(client: WebClient) -> None:
        client.connection.transport.write(Frame(Opcode.PING, b"").serialize(mask=True) * 100_000)

    await each(attacker, MANY, attack)


@case(
    "pages of another site",
    "200 requests of an origin that is not let in",
    saw("refused 403", least=200, most=200),
    moved("web.origins_refused", least=200, most=200),
    moved("web.accepted", most=0),
    off=Off("pages of any origin", sets=('transport.web.origins=["*"]',)),
    sets=ON,
)
async def origins(attacker: Attacker) -> None:
    for _ in range(200):
        try:
            async with web_client(attacker.web_address, origin="https://evil.test"):
                pass
        except InvalidStatus as error:
            attacker.seen[f"refused {error.response.status_code}"] += 1


@asynccontextmanager
async def tcp(
    attacker: Attacker, *, tls: bool = False, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect by TCP, and by TLS on it."""
    reader, writer = await asyncio.open_connection(
        *parse_address(attacker.web_address),
        ssl=client_context() if tls else None,
        local_addr=(host, 0),
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def half_a_hello() -> bytes:
    """Return the first half of a client hello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        client_context().wrap_bio(incoming, outgoing).do_handshake()
    hello = outgoing.read()
    return hello[: len(hello) // 2]


async def until_cut(attacker: Attacker, reader: asyncio.StreamReader, within: float = 3.0) -> None:
    """Wait for the end of a connection, and count how it ended."""
    try:
        async with asyncio.timeout(within):
            data = await reader.read()
        attacker.seen[f"answered {data[9:12].decode()}" if data else "cut"] += 1
    except TimeoutError:
        attacker.seen["left open"] += 1
    except OSError:
        attacker.seen["cut"] += 1


async def half_open(attacker: Attacker, number: int) -> None:
    """Connect by TCP; every other one sends half a client hello."""
    hello = half_a_hello()
    async with AsyncExitStack() as stack:
        pairs = []
        for _ in range(number):
            with suppress(OSError):
                pairs.append(await stack.enter_async_context(tcp(attacker)))
        for _, writer in pairs[::2]:
            if not writer.is_closing():
                writer.write(hello)
        await asyncio.gather(*(until_cut(attacker, reader) for reader, _ in pairs))


@case(
    "half-open TLS handshakes",
    "400 TCP connections that send nothing, or half a ClientHello, where 100 may be half open",
    moved("web.accepts_dropped", least=280),
    saw("left open", most=100),
    memory(8),
    off=Off("no bound of half-open handshakes", sets=("transport.web.max_handshakes=1000000",)),
    sets=(*ON, "transport.web.max_handshakes=100", "transport.web.handshake_timeout=30s"),
)
async def half_open_tls(attacker: Attacker) -> None:
    await half_open(attacker, 400)


@case(
    "half-open TLS handshakes end",
    "200 of them; each ends at the handshake deadline, here 1 s, whatever the idle time-out is",
    moved("web.handshakes_timed_out", least=200, most=200),
    gauge("web.handshakes", most=0),
    saw("cut", least=200),
    memory(8),
    off=Off("an hour for a handshake", sets=("transport.web.handshake_timeout=1h",)),
    sets=(*ON, "transport.web.handshake_timeout=1s", "transport.idle_timeout=1h"),
)
async def half_open_tls_ends(attacker: Attacker) -> None:
    await half_open(attacker, 200)


@case(
    "slow HTTP heads",
    "50 clients complete TLS and send their request a byte every 0.2 s; a handshake may take 2 s",
    moved("web.handshakes_timed_out", least=50, most=50),
    gauge("web.handshakes", most=0),
    saw("cut", least=50),
    memory(8),
    off=Off("an hour for a request", sets=("transport.web.handshake_timeout=1h",)),
    sets=(*ON, "transport.web.handshake_timeout=2s"),
)
async def slow_heads(attacker: Attacker) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        for byte in b"GET /gatesvr HTTP/1.1\r\nHost: a":
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.2)

    async def one() -> None:
        async with tcp(attacker, tls=True) as (reader, writer):
            dripping = asyncio.ensure_future(drip(writer))
            await until_cut(attacker, reader, 4.0)
            dripping.cancel()

    await asyncio.gather(*(one() for _ in range(50)))


@case(
    "HTTP heads that are too large",
    "50 clients open a WebSocket with 900 KiB of headers, none of them too long by itself",
    moved("web.requests_refused", least=50, most=50),
    moved("web.accepted", most=0),
    memory(16),
    off=Off("a head may be as large as any", patches={f"{_CONNECTION}:MAX_REQUEST_BYTES": 1 << 30}),
    sets=ON,
)
async def large_heads(attacker: Attacker) -> None:
    head = (
        "GET /gatesvr HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: gatesvr\r\n"
    ) + "".join(f"X-{i:03}: {'y' * 8_000}\r\n" for i in range(115))

    async def one() -> None:
        async with tcp(attacker, tls=True) as (reader, writer):
            writer.write(f"{head}\r\n".encode())
            await until_cut(attacker, reader, 2.0)

    await asyncio.gather(*(one() for _ in range(50)))


@case(
    "TCP connections too fast",
    "1,000 TCP connections as fast as they go, where there may be 50 a second",
    moved("web.accepts_limited", least=600),
    gauge("web.handshakes", most=0),
    memory(8),
    off=Off("no limit of the rate", sets=("transport.web.accept_rate=0",)),
    sets=(*ON, "transport.web.accept_rate=50"),
)
async def too_fast(attacker: Attacker) -> None:
    async def ten() -> None:
        for _ in range(10):
            with suppress(OSError):
                async with tcp(attacker) as (_, writer):
                    writer.write(b"\x16\x03\x01")

    await asyncio.gather(*(ten() for _ in range(100)))
    await asyncio.sleep(0.5)


async def crowd(attacker: Attacker, number: int, host: str) -> None:
    """Open so many WebSockets from an address, all at once, and count those that stay."""

    async def one() -> None:
        try:
            client = await stack.enter_async_context(
                web_client(attacker.web_address, local_addr=(host, 0))
            )
        except (OSError, InvalidMessage):
            attacker.seen["reset"] += 1
            return
        try:
            async with asyncio.timeout(1.5):
                attacker.seen[f"closed {await client.closed()}"] += 1
        except TimeoutError:
            attacker.seen["connected for good"] += 1

    async with AsyncExitStack() as stack:
        await asyncio.gather(*(one() for _ in range(number)))


@case(
    "WebSockets of one network",
    "100 WebSockets at once from one address, which may have 20",
    moved("web.accepts_dropped", least=80),
    saw("connected for good", least=20, most=20),
    memory(16),
    off=Off("no limit by prefix", sets=("transport.max_connections_per_prefix=0",)),
    sets=(*ON, "transport.unlimited_prefixes=[]", "transport.max_connections_per_prefix=20"),
)
async def one_network(attacker: Attacker) -> None:
    await crowd(attacker, 100, ELSEWHERE)


@case(
    "WebSockets above the limit",
    "100 WebSockets at once where 40 may be connected: the rest is told to come back, or reset",
    moved("web.connections_refused", least=1),
    saw("connected for good", least=40 - 2 * HEALTHY, most=40 - 2 * HEALTHY),
    memory(16),
    off=Off("no bound of connections", sets=("transport.max_connections=1000000",)),
    sets=(*ON, "transport.max_connections=40"),
)
async def above_the_limit(attacker: Attacker) -> None:
    await crowd(attacker, 100, ELSEWHERE)


@case(
    "WebSocket answers that are not read",
    "5 clients ask for 20 MiB of answers each and read none: 4 MiB wait for each, no more",
    moved("session.slow_consumers", least=5, most=5),
    gauge("web.connections", most=HEALTHY),
    memory(64),
    off=Off("no caps of a queue", sets=NO_QUEUE_CAPS),
    sets=(*ON, "session.slow_consumer_timeout=1s"),
)
async def unread_answers(attacker: Attacker) -> None:
    async def one(number: int) -> None:
        async with web_client(attacker.web_address) as client:
            await client.login(f"bad{number}")
            client.connection.transport.pause_reading()
            for seq in range(2, 22):
                with suppress(ConnectionClosed):
                    await client.send(business(seq, "giant", bytes=str(1_000_000)))
                await asyncio.sleep(0.02)
            await asyncio.sleep(3.0)
            client.connection.transport.abort()

    await asyncio.gather(*(one(number) for number in range(5)))
