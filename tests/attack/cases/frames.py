"""Streams that are no protocol: frames too large, never ended, undecodable or out of turn."""

from __future__ import annotations

import asyncio
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from gatesvr._pb import message_pb2 as pb
from gatesvr.dispatch.handler import ClientHandler
from gatesvr.errors import ProtocolError
from gatesvr.transport.connection import Connection

from ...e2e.plain_client import ack, business, frame
from ..case import Off, case, closes, gauge, memory, moved, saw

if TYPE_CHECKING:
    from ...e2e.plain_client import PlainClient
    from ..attacker import Attacker

HEALTHY = 6
MANY = 20
MIB = 1 << 20


def _forgiving(self: ClientHandler, data: bytes, now: float) -> None:
    with suppress(ProtocolError):
        _data_received(self, data, now)
        return
    self._is_ended = False


_data_received = ClientHandler.data_received

FORGIVING = Off(
    "a broken rule closes no connection",
    patches={"gatesvr.dispatch.handler:ClientHandler.data_received": _forgiving},
)


@case(
    "oversized frames before login",
    f"{MANY} clients announce a first frame of 64 KiB + 1 and send 1 MiB of it",
    closes(4400, MANY),
    memory(12),
    off=Off(
        "a first frame may be as large as any",
        sets=("session.max_login_bytes=512MiB", "session.max_message_bytes=512MiB",
              "session.max_queue_bytes=1GiB"),
    ),
)  # fmt: skip
async def oversized_first(attacker: Attacker) -> None:
    async def send(client: PlainClient, _: int) -> None:
        client.send_bytes(struct.pack(">I", 2 * MIB) + bytes(MIB))

    await attacker.note_closes(await attacker.each(MANY, send))


@case(
    "oversized frames after login",
    f"{MANY} logged-in clients announce a frame of 4 MiB where 1 MiB is the most, and send 1 MiB",
    closes(4400, MANY),
    gauge("session.sessions", most=HEALTHY),
    memory(12),
    off=Off(
        "frames of any size",
        sets=("session.max_message_bytes=512MiB", "session.max_queue_bytes=1GiB"),
    ),
)
async def oversized(attacker: Attacker) -> None:
    async def send(client: PlainClient, number: int) -> None:
        await client.login(f"user{number}")
        client.send_bytes(struct.pack(">I", 4 * MIB) + bytes(MIB))

    await attacker.note_closes(await attacker.each(MANY, send))


@case(
    "frames that never end",
    f"{MANY} logged-in clients begin a frame and send a byte of it every 200 ms; it may take 1 s",
    closes(4408, MANY),
    moved("dispatch.frame_timeouts", least=MANY, most=MANY),
    memory(8),
    off=Off("a frame may take for ever", patches={"gatesvr.dispatch.handler:FRAME_TIMEOUT_S": 1e6}),
    patches={"gatesvr.dispatch.handler:FRAME_TIMEOUT_S": 1.0},
)
async def slow_frames(attacker: Attacker) -> None:
    async def drip(client: PlainClient, number: int) -> None:
        await client.login(f"user{number}")
        client.send_bytes(struct.pack(">I", 1_000))
        for _ in range(12):
            if client.terminated is not None:
                return
            client.send_bytes(b"x")
            await asyncio.sleep(0.2)

    await attacker.note_closes(await attacker.each(MANY, drip))


@case(
    "frames of noise",
    f"{MANY} clients START and send 1,000 frames of random bytes",
    closes(4400, MANY),
    moved("transport.protocol_errors", least=MANY, most=MANY),
    gauge("session.sessions", most=HEALTHY),
    memory(8),
    off=FORGIVING,
)
async def noise(attacker: Attacker) -> None:
    async def send(client: PlainClient, number: int) -> None:
        await client.start(f"user{number}")
        client.send_bytes(b"".join(frame(b"\xff" + os.urandom(99)) for _ in range(1_000)))

    await attacker.note_closes(await attacker.each(MANY, send))


@case(
    "messages out of turn",
    f"{MANY} clients send a second START",
    closes(4400, MANY),
    gauge("session.sessions", most=HEALTHY),
    memory(8),
    off=FORGIVING,
)
async def second_start(attacker: Attacker) -> None:
    async def send(client: PlainClient, number: int) -> None:
        await client.login(f"user{number}")
        client.send(pb.ClientRequest(msg_id=9, type=pb.REQUEST_START))

    await attacker.note_closes(await attacker.each(MANY, send))


@case(
    "acks of messages never sent",
    f"{MANY} logged-in clients acknowledge seq 2^40",
    closes(4400, MANY),
    gauge("session.sessions", most=HEALTHY),
    memory(8),
    off=FORGIVING,
)
async def acks_ahead(attacker: Attacker) -> None:
    async def send(client: PlainClient, number: int) -> None:
        await client.login(f"user{number}")
        client.send(ack(1 << 40))

    await attacker.note_closes(await attacker.each(MANY, send))


def _keep_stream(self: Connection, stream_id: int, *, is_end: bool) -> None: ...


@case(
    "second streams",
    "one client opens 2,000 streams beside its one and ends none",
    moved("transport.streams_refused", least=1, most=1_200),
    saw("answered afterwards", least=1),
    memory(8),
    off=Off(
        "streams are not refused",
        patches={"gatesvr.transport.connection:Connection._refuse": _keep_stream},
    ),
)
async def streams(attacker: Attacker) -> None:
    client = await attacker.connect()
    await client.login("bad")
    handlers = client._quic._QuicConnection__frame_handlers  # type: ignore[attr-defined]
    handlers[0x05] = (_ignore_stop, handlers[0x05][1])
    for wave in range(25):
        for stream in range(80 * wave + 1, 80 * (wave + 1) + 1):
            client._quic.send_stream_data(4 * stream, b"x" * 100)
        client.transmit()
        await client.ping()
    client.send(business(2, "echo", b"fine"))
    await client.receive()
    attacker.seen["answered afterwards"] += 1


def _ignore_stop(context: object, frame_type: int, buf: object) -> None:
    buf.pull_uint_var()  # type: ignore[attr-defined]
    buf.pull_uint_var()  # type: ignore[attr-defined]
