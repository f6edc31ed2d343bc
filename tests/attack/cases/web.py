"""Clients by WebSocket that break RFC 6455, say too little, or too much."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from gatesvr._core.limits import TokenBucket

from ...e2e.web_client import WebClient, web_client
from ..case import Off, case, gauge, memory, moved, saw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..attacker import Attacker

MANY = 30
MIB = 1 << 20
ON = ("transport.web.bind=127.0.0.1:0",)
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
        patches={f"{_CONNECTION}:TokenBucket": lambda *_: TokenBucket(1e9, 1e9)},
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
    gauge("web.connections", most=0),
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
