"""Upstreams that break HTTP/2 or drive it to its limits; the scripts are in hostile_upstream.py."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from gatesvr._pb import upstream_pb2 as up

from ...e2e.plain_client import business
from ..case import Limit, Off, case, costs, memory, moved, saw
from ..hostile_upstream import SCRIPTS, hostile_upstream

if TYPE_CHECKING:
    from ...e2e.plain_client import PlainClient
    from ..attacker import Attacker

CLIENTS, REQUESTS = 6, 8
"""Of each client to the services in turn."""
CONNECT_S, PAUSE_S = 0.3, 0.1
WATCH_S = 1.5
MOST_SCRIPTS = 6
EVIL = [f"evil{number}" for number in range(MOST_SCRIPTS)]
"""Services of one endpoint each: a second one of the same caller would replace the first."""
RULES = [*((f"{name}*", name) for name in EVIL), ("hello", "hello"), ("*", "business")]
SETS = (
    *(f"upstream.services.{name}=[]" for name in EVIL),
    "route=[{}]".format(
        ",".join(f'{{action="{action}",service="{service}"}}' for action, service in RULES)
    ),
    "dispatch.task_timeout=1s",
    "upstream.reconnect_min=100ms",
    "upstream.connect_timeout=1s",
)
OFF = Off("grpcio's own limits in place of the lane's", sets=('upstream.lane="grpcio"',))
MIB = 1 << 20


async def serve(
    attacker: Attacker, *scripts: str, first_bytes: int = 0, pause_s: float = PAUSE_S
) -> None:
    """Register a service for each script, ask them all, and count what they saw.

    Args:
        attacker: The attacker.
        scripts: Of hostile_upstream.py.
        first_bytes: Size of the requests to the first one.
        pause_s: From one request of a client to its next.
    """
    async with AsyncExitStack() as stack:
        upstreams = [
            await stack.enter_async_context(hostile_upstream(SCRIPTS[script])) for script in scripts
        ]
        stub = attacker.stub()
        for name, upstream in zip(EVIL, upstreams, strict=False):
            request = up.UpstreamRegisterRequest(address=upstream.address, service_name=name)
            response = await stub.RegisterUpstream(request)
            assert response.success, response.message

        async def ask(client: PlainClient, number: int) -> None:
            await client.login(f"caller{number}")
            await asyncio.sleep(CONNECT_S)
            for seq in range(2, 2 + REQUESTS):
                turn = (number + seq) % len(scripts)
                client.send(business(seq, EVIL[turn], b"" if turn else bytes(first_bytes)))
                await asyncio.sleep(pause_s)

        clients = await attacker.each(CLIENTS, ask)
        await asyncio.sleep(WATCH_S)
        seen = attacker.seen
        for client in clients:
            seen["calls ended"] += len(client.pushes)
        seen["connections"] = sum(upstream.connections for upstream in upstreams)
        seen["MiB on one connection"] = -(
            -max(max(u.most_sent, *(p.sent for p in u.peers), 0) for u in upstreams) // MIB
        )


def limits(*, ended: int, mib: float, sent: int = 8) -> tuple[Limit, ...]:
    """Return the limits of a case.

    Args:
        ended: Least connections that the gateway ends, for breaking the rules or as floods.
        mib: Most memory, MiB.
        sent: Most that one connection may bring before it is ended, MiB.
    """
    ends = Limit(
        "upstream.protocol_errors and floods",
        lambda m: m.moved("upstream.protocol_errors") + m.moved("upstream.floods"),
        least=ended,
    )
    return (
        *([ends] if ended else []),
        saw("calls ended", least=CLIENTS * REQUESTS, most=CLIENTS * REQUESTS),
        saw("MiB on one connection", most=sent),
        saw("connections", most=60),
        moved("log.lines", most=250),
        memory(mib),
        costs(100_000, "connections"),
    )


@case(
    "upstreams that overflow windows",
    "4 endpoints give more credit than a window holds, or send where they have none",
    *limits(ended=4, mib=24, sent=64),
    sets=SETS,
    off=OFF,
)
async def windows(attacker: Attacker) -> None:
    await serve(attacker, "window_credit", "stream_credit", "initial_window", "data_without_credit")


@case(
    "upstreams that never end their answers",
    "an endpoint begins answers of 16 MiB, sends all but the last byte of each, and goes on",
    *limits(ended=0, mib=90, sent=130),
    sets=SETS,
    off=OFF,
)
async def hoards(attacker: Attacker) -> None:
    await serve(attacker, "hoard")


@case(
    "upstreams with endless header blocks",
    "3 endpoints send HEADERS and then CONTINUATION without end: empty, small and large ones",
    *limits(ended=3, mib=12),
    sets=SETS,
    off=OFF,
)
async def header_blocks(attacker: Attacker) -> None:
    await serve(attacker, "endless_continuation", "empty_continuation", "large_continuation")


@case(
    "upstreams with HPACK bombs",
    "an endpoint names a header of 4 kB 12,000 times in a byte each; another sends corrupt blocks",
    *limits(ended=2, mib=12),
    sets=SETS,
    off=OFF,
)
async def hpack(attacker: Attacker) -> None:
    await serve(attacker, "hpack_bomb", "hpack_garbage")


@case(
    "upstreams with huge frames and messages",
    "an endpoint sends a frame of 16 MiB, another announces messages of 4 GiB",
    *limits(ended=1, mib=12),
    sets=SETS,
    off=OFF,
)
async def huge(attacker: Attacker) -> None:
    await serve(attacker, "huge_frame", "giant_message")


@case(
    "upstreams that flood with SETTINGS and PING",
    "3 endpoints send them without end, and one of them reads no answer",
    *limits(ended=3, mib=12),
    sets=SETS,
    off=OFF,
)
async def settings_and_pings(attacker: Attacker) -> None:
    await serve(attacker, "settings_flood", "settings_changes", "ping_flood")


@case(
    "upstreams with frames that bring nothing",
    "6 endpoints send PRIORITY, unknown frames, DATA without bytes, padding, or a byte a frame",
    *limits(ended=5, mib=24, sent=64),
    sets=SETS,
    off=OFF,
)
async def nothing(attacker: Attacker) -> None:
    await serve(
        attacker,
        "priority_flood",
        "unknown_flood",
        "empty_data",
        "padding",
        "window_trickle",
        "tiny_frames",
    )


@case(
    "upstreams that reset",
    "3 endpoints reset each call, say that none was started, or reset one again and again",
    *limits(ended=1, mib=12),
    moved("upstream.unary_calls", most=1_500),
    sets=SETS,
    off=OFF,
)
async def resets(attacker: Attacker) -> None:
    await serve(attacker, "resets", "refusals", "dead_resets")


@case(
    "upstreams that answer on streams of their own",
    "4 endpoints answer what was not asked, open streams, promise pushes, or go on behind the end",
    *limits(ended=4, mib=12),
    sets=SETS,
    off=OFF,
)
async def streams(attacker: Attacker) -> None:
    await serve(attacker, "idle_stream", "own_stream", "push_promise", "ended_stream")


@case(
    "upstreams that speak no HTTP/2",
    "5 endpoints speak HTTP/1, send random bytes at once or later, close at once, or say nothing",
    *limits(ended=3, mib=12),
    sets=SETS,
    off=OFF,
)
async def garbage(attacker: Attacker) -> None:
    await serve(attacker, "http1", "garbage", "late_garbage", "silence", "closing")


@case(
    "upstreams that read nothing",
    "an endpoint reads no more, and 24 requests of 260 kB are for it; another gives no credit",
    saw("calls ended", least=CLIENTS * REQUESTS, most=CLIENTS * REQUESTS),
    saw("connections", least=3, most=20),
    memory(32),
    sets=SETS,
    patches={"gatesvr.upstream.connection:STALL_S": 0.5},
    off=Off(
        "endless patience with a peer that reads nothing",
        patches={"gatesvr.upstream.connection:STALL_S": 3600.0},
    ),
)
async def unread(attacker: Attacker) -> None:
    await serve(attacker, "never_reads", "no_credit", first_bytes=260_000, pause_s=0.2)


@case(
    "upstreams that say goodbye without end",
    "3 endpoints send GOAWAY at once, before each call, or again and again",
    *limits(ended=1, mib=12),
    sets=SETS,
    off=OFF,
)
async def goodbyes(attacker: Attacker) -> None:
    await serve(attacker, "goaway_loop", "goaway_flood", "goaway_after_each")


@case(
    "upstreams with answers to nothing",
    "2 endpoints take ProcessStream and fill it with answers to nobody, or with empty messages",
    *limits(ended=2, mib=12),
    moved("upstream.bad_batches", least=2, most=30),
    sets=SETS,
    off=OFF,
)
async def unasked(attacker: Attacker) -> None:
    await serve(attacker, "unknown_answers", "empty_messages")
