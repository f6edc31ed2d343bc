"""Datagrams that belong to no connection: they cost little, and no answer is worth the cause."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

from gatesvr.transport.admission import Admission
from gatesvr.transport.quic.reset import MAX_RESET_BURST, MAX_RESET_BYTES, MIN_RESET_BYTES

from ..attacker import client_hello, crypto_frame, initial
from ..case import Off, amplifies, answers, case, costs, gauge, memory, moved, saw

if TYPE_CHECKING:
    from ..attacker import Attacker

NO_LEAST_INITIAL = Off(
    "no least size of an Initial", patches={"gatesvr.transport.admission:MIN_INITIAL_BYTES": 0}
)
UNKNOWN_VERSION = bytes.fromhex("babababa")


def long_header(version: bytes, size: int) -> bytes:
    """Return a datagram of this size that begins like an Initial."""
    head = b"\xc3" + version + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + b"\0\x10"
    return head + os.urandom(max(0, size - len(head)))


@case(
    "junk",
    "20,000 datagrams of random bytes, 1 to 1,199 long",
    answers(0),
    memory(4),
    costs(10),
    off=NO_LEAST_INITIAL,
)
async def junk(attacker: Attacker) -> None:
    chance = random.Random(1)
    await attacker.flood(
        long_header(chance.randbytes(4), chance.randint(60, 1199))
        if i % 2
        else b"\xc0" + chance.randbytes(chance.randint(0, 100))
        for i in range(20_000)
    )


@case(
    "small Initials",
    "5,000 good Initials in datagrams below 1,200 bytes, as spoofed ones are cheapest",
    answers(0),
    memory(4),
    moved("transport.datagrams_unknown", least=4_500),
    gauge("transport.handshakes", most=0),
    off=NO_LEAST_INITIAL,
)
async def small_initials(attacker: Attacker) -> None:
    hello, source_id = client_hello()
    data = [initial(crypto_frame(hello), source_id=source_id, size=0) for _ in range(250)]
    assert len(data[0]) < 1200
    await attacker.flood((data[i % len(data)] for i in range(5_000)), rate=5_000)


@case(
    "unknown versions",
    "5,000 datagrams of a version that there is not, half of them 60 bytes long, half 1,200",
    amplifies(0.1),
    saw("small ones answered", most=0),
    memory(4),
    off=NO_LEAST_INITIAL,
)
async def unknown_versions(attacker: Attacker) -> None:
    await attacker.flood(long_header(UNKNOWN_VERSION, 60) for _ in range(2_500))
    attacker.seen["small ones answered"] = attacker.seen["answers"]
    await attacker.flood(long_header(UNKNOWN_VERSION, 1200) for _ in range(2_500))


def _judge_without_version_0(self: Admission, data: bytes, *arguments: object) -> object:
    """Take a Version Negotiation packet for any other one of an unknown version."""
    if data[1:5] == bytes(4):
        data = data[:1] + UNKNOWN_VERSION + data[5:]
    return _judge(self, data, *arguments)  # type: ignore[arg-type]


_judge = Admission.judge


@case(
    "Version Negotiation packets",
    "5,000 of them: two servers that answered each other would never stop",
    answers(0),
    memory(4),
    off=Off(
        "version 0 is a version like any other",
        patches={"gatesvr.transport.admission:Admission.judge": _judge_without_version_0},
    ),
)
async def version_negotiation(attacker: Attacker) -> None:
    await attacker.flood(long_header(bytes(4), 1200) for _ in range(5_000))


def short_header(size: int) -> bytes:
    return b"\x40" + os.urandom(size - 1)


@case(
    "unknown connection ids",
    "20,000 datagrams for connections that there are not, 1,200 bytes long, as fast as they go",
    amplifies(0.1),
    saw("longest answer", most=MAX_RESET_BYTES),
    saw("answers beyond the rate", most=0),
    memory(8),
    off=Off(
        "no rate of stateless resets",
        patches={"gatesvr.transport.quic.reset:MAX_RESET_BURST": 10**9},
    ),
    patches={"gatesvr.transport.quic.reset:MAX_RESETS_PER_S": 1_000},
)
async def unknown_ids(attacker: Attacker) -> None:
    data = [short_header(1200) for _ in range(500)]
    began = time.monotonic()
    await attacker.flood((data[i % 500] for i in range(20_000)), rate=20_000)
    allowed = MAX_RESET_BURST + 1_000 * (time.monotonic() - began)
    attacker.seen["answers beyond the rate"] = max(0, int(attacker.seen["answers"] - allowed))


@case(
    "smallest unknown datagrams",
    f"5,000 datagrams of {MIN_RESET_BYTES} bytes: a reset is always smaller than its cause",
    answers(0),
    memory(4),
    off=Off(
        "a reset may be as small as it likes",
        patches={"gatesvr.transport.quic.reset:MIN_RESET_BYTES": MIN_RESET_BYTES - 1},
    ),
)
async def smallest_unknown(attacker: Attacker) -> None:
    await attacker.flood(short_header(MIN_RESET_BYTES) for _ in range(5_000))


def _always(_: object) -> bool:
    return True


@case(
    "late datagrams",
    "a connection is closed, then 5,000 more datagrams come for it: its close is repeated rarely",
    answers(20),
    memory(4),
    moved("transport.datagrams_after_close", least=4_500),
    off=Off(
        "every late datagram is answered",
        patches={"gatesvr.transport.routes:Draining.answers": _always},
    ),
    patches={"gatesvr.transport.routes:DRAINING_S": 5.0},
)
async def late(attacker: Attacker) -> None:
    client = await attacker.connect()
    target_id = client._quic._peer_cid.cid
    client.send_bytes(bytes(4))  # a frame of no length
    await client.closed()
    await attacker.flood(b"\x40" + target_id + os.urandom(40) for _ in range(5_000))
