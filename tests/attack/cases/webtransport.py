"""Clients by HTTP/3 that break its rules, say too much, or ask for nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gatesvr.transport.web.http3 import DATA, HEADERS, Code, frame, varint

from ...e2e.wt_client import H3Client, h3_client
from ..case import Off, case, gauge, memory, moved, saw

if TYPE_CHECKING:
    from gatesvr.transport.web.http3 import Http3Error
    from gatesvr.transport.web.webtransport import WebTransportConnection

    from ..attacker import Attacker

MANY = 24
CONNECTING = 8
BIG = 1 << 40
ON = ("transport.web.bind=127.0.0.1:0",)
_HTTP3 = "gatesvr.transport.web.http3"
_CONNECTION = "gatesvr.transport.web.webtransport:WebTransportConnection"
_UNKNOWN_CAPSULE = 0x2D0F


async def each(
    attacker: Attacker, number: int, attack: Callable[[H3Client], Awaitable[None]], wait_s: float
) -> None:
    """Connect so many clients, let each attack, and count how the gateway closes them."""
    turns = asyncio.Semaphore(CONNECTING)

    async def one() -> None:
        async with turns:
            client_cm = h3_client(attacker.web_address)
            client = await client_cm.__aenter__()
        try:
            await attack(client)
            async with asyncio.timeout(wait_s):
                code, _ = await client.closed()
                attacker.seen[f"closed {code:#x}"] += 1
                attacker.seen["closed"] += 1
        except TimeoutError:
            attacker.seen["left open"] += 1
        finally:
            await client_cm.__aexit__(None, None, None)

    await asyncio.gather(*(one() for _ in range(number)))


def drop(connection: WebTransportConnection, error: Http3Error, now: float) -> None:
    """Stands for _handle_violation()."""


async def session(client: H3Client) -> int:
    """Open a session; return its stream."""
    stream_id = client.request("localhost", "/gatesvr")
    assert await client.answer(stream_id) == 200
    return stream_id


@case(
    "HTTP/3 frame garbage",
    f"{MANY} clients send random bytes as frames of their control, QPACK and request streams",
    saw("closed", least=MANY, most=MANY),
    moved("web.http3_violations", least=MANY),
    memory(32),
    off=Off(
        "what is broken is dropped",
        patches={f"{_CONNECTION}._handle_violation": drop},
    ),
    sets=ON,
)
async def frame_garbage(attacker: Attacker) -> None:
    rng = random.Random(1)

    async def attack(client: H3Client) -> None:
        http = client.http
        request = client.quic.get_next_available_stream_id()
        for stream_id in (request, http._local_encoder_stream_id, http._local_control_stream_id):
            client.quic.send_stream_data(stream_id, rng.randbytes(2_000))
        # Whatever came out of that, this is a frame of another kind of stream.
        client.write(request + 4, frame(7, b"\0"))

    await each(attacker, MANY, attack, 2)


@case(
    "QPACK bombs",
    f"{MANY} clients send 60,000 references to the static table in a header block of 120 kB, "
    f"{MANY} fill the dynamic table",
    saw(f"closed {Code.EXCESSIVE_LOAD:#x}", least=MANY, most=MANY),
    saw(f"closed {Code.ENCODER_STREAM_ERROR:#x}", least=MANY, most=MANY),
    moved("web.http3_violations", least=2 * MANY),
    memory(32),
    off=Off(
        "header blocks of any length",
        patches={
            f"{_HTTP3}:MAX_HEADER_BYTES": BIG,
            f"{_HTTP3}:MAX_FIELDS_BYTES": BIG,
            f"{_HTTP3}:MAX_BYTES": BIG,
        },
    ),
    sets=ON,
)
async def qpack_bombs(attacker: Attacker) -> None:
    async def references(client: H3Client) -> None:
        block = b"\0\0" + b"\xff\x16" * 60_000  # content-security-policy, with its longest value
        client.write(client.quic.get_next_available_stream_id(), frame(HEADERS, block))

    async def entries(client: H3Client) -> None:
        data = b"\x3f\xe1\x1f" + b"\x41a\x01b" * 10_000
        client.write(client.http._local_encoder_stream_id, data)

    await asyncio.gather(*(each(attacker, MANY, attack, 2) for attack in (references, entries)))


@case(
    "a thousand streams",
    f"{MANY} clients open 1,000 streams each beside their session, whatever the limit",
    saw("closed", least=MANY, most=MANY),
    moved("transport.streams_refused", most=100 * MANY),
    memory(32),
    off=Off(
        "any number of streams",
        patches={
            f"{_HTTP3}:MAX_STREAMS": BIG,
            "gatesvr.transport.quic.aioquic_core:MAX_OTHER_STREAMS": 1 << 20,
        },
        backends=("aioquic",),
    ),
    sets=ON,
)
async def streams(attacker: Attacker) -> None:
    async def attack(client: H3Client) -> None:
        session_id = await session(client)
        client.quic._remote_max_streams_uni = client.quic._remote_max_streams_bidi = 1 << 20
        head = varint(0x54) + varint(session_id)
        for number in range(1_000):
            stream_id = client.quic.get_next_available_stream_id(is_unidirectional=True)
            client.quic.send_stream_data(stream_id, head + b"x")
            if number % 50 == 49:
                client.transmit()
                await asyncio.sleep(0)

    await each(attacker, MANY, attack, 2)


@case(
    "capsule garbage",
    f"{MANY} sessions get 250 kB of an unknown capsule of 1 TiB, {MANY} a close of 1 GiB",
    saw(f"closed {Code.EXCESSIVE_LOAD:#x}", least=MANY, most=MANY),
    saw(f"closed {Code.MESSAGE_ERROR:#x}", least=MANY, most=MANY),
    moved("web.http3_violations", least=2 * MANY),
    memory(32),
    off=Off(
        "capsules of any length",
        patches={f"{_HTTP3}:MAX_BYTES": BIG, f"{_HTTP3}:MAX_CLOSE_BYTES": BIG},
    ),
    sets=ON,
)
async def capsule_garbage(attacker: Attacker) -> None:
    async def unknown(client: H3Client) -> None:
        stream_id = await session(client)
        client.write(stream_id, frame(DATA, varint(_UNKNOWN_CAPSULE) + varint(BIG)))
        client.write(stream_id, frame(DATA, bytes(250_000)))

    async def close(client: H3Client) -> None:
        stream_id = await session(client)
        client.write(stream_id, frame(DATA, varint(0x2843) + varint(1 << 30) + bytes(50_000)))

    await asyncio.gather(*(each(attacker, MANY, attack, 2) for attack in (unknown, close)))


@case(
    "HTTP/3 clients that ask for nothing",
    "100 clients complete the handshake, send SETTINGS and no request",
    saw(f"closed {Code.REQUEST_INCOMPLETE:#x}", least=100, most=100),
    moved("transport.handshakes_timed_out", least=100),
    gauge("transport.handshakes", most=0),
    memory(32),
    off=Off("an hour for the request", sets=("transport.handshake_timeout=1h",)),
    sets=(*ON, "transport.handshake_timeout=1s"),
)
async def no_request(attacker: Attacker) -> None:
    async def attack(client: H3Client) -> None: ...

    await each(attacker, 100, attack, 2.5)
