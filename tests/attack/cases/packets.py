"""Clients that complete their handshake and then break the rules of QUIC, packet by packet."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aioquic.quic.connection import QuicConnection

from gatesvr._pb import message_pb2 as pb

from ...e2e.plain_client import frame
from .. import hostile
from ..case import Off, case, costs, memory, moved, saw
from ..hostile import HostilePeer, hostile_peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..attacker import Attacker


class _AioquicAsItIs(QuicConnection):
    """aioquic's own connection, with the stateless reset tokens that the listener needs."""

    def __init__(
        self,
        token_of: Callable[[bytes], bytes] | None = None,
        make_id: Callable[[], bytes] | None = None,
        **arguments: Any,
    ) -> None:
        del make_id  # aioquic makes its own
        super().__init__(**arguments)
        if token_of is not None:
            first = self._host_cids[0]
            first.stateless_reset_token = token_of(first.cid)

    def forget_acknowledgements(self) -> None: ...


def as_it_is(*, is_slow: bool = False) -> Off:
    """Return the Off of bounds that are ours on aioquic and the library's own on qh3."""
    return Off(
        "aioquic as it is",
        patches={"gatesvr.transport.quic.aioquic:AioquicCore": _AioquicAsItIs},
        backends=("aioquic",),
        is_slow=is_slow,
    )


BY_LIBRARY = Off("the QUIC libraries bound it by themselves", backends=())
CLOSED = saw("closed by a QUIC error", least=1, most=1)
VIOLATION = moved("transport.quic_violations", least=1, most=1)


async def send_all(
    attacker: Attacker,
    packets: Callable[[HostilePeer, int], None],
    number: int,
    batch: int = 20,
) -> None:
    """Let a client do something so many times; count its datagrams, what came back and its end."""
    seen = attacker.seen
    async with hostile_peer(*attacker.server) as peer:
        start = pb.ClientRequest(
            msg_id=1,
            type=pb.REQUEST_START,
            payload=pb.StartRequest(openid="bad", protocol=1).SerializeToString(),
        )
        peer.send(hostile.stream(0, frame(start.SerializeToString())))
        await peer.settle()
        before = peer.bytes_received
        for i in range(number):
            if peer.client.close_reason is not None:
                break
            packets(peer, i)
            seen["datagrams"] += 1
            if i % batch == batch - 1:
                await asyncio.sleep(0.002)
        with suppress(TimeoutError):
            await peer.settle(2.0)
        seen["answer bytes"] += peer.bytes_received - before
        reason = peer.client.close_reason
        seen["closed by a QUIC error"] += reason is not None and reason[0] < 0x100
        seen["left open"] += reason is None


@case(
    "sparse offsets",
    "one client sends 400 single bytes, each as far ahead as the gateway gives it credit for",
    memory(8),
    saw("credit, KiB", least=64, most=4_096),
    off=as_it_is(),
)
async def sparse(attacker: Attacker) -> None:
    def jump(peer: HostilePeer, _: int) -> None:
        stream = peer.quic._streams[0]
        credit = min(peer.quic._remote_max_data, stream.max_stream_data_remote)
        peer.send(hostile.stream(0, b"x", offset=credit - 1))
        attacker.seen["credit, KiB"] = credit >> 10

    await send_all(attacker, jump, 400, batch=1)


@case(
    "every other byte missing",
    "one client sends 300 datagrams of 40 single bytes with a gap before each",
    costs(1_500),
    memory(12),
    off=as_it_is(is_slow=True),
)
async def every_other_byte(attacker: Attacker) -> None:
    def gaps(peer: HostilePeer, i: int) -> None:
        first = 1_000 + 80 * i
        peer.send(*(hostile.stream(0, b"x", offset=first + 2 * n) for n in range(40)))

    await send_all(attacker, gaps, 300)


@case(
    "acknowledgements of packets never sent",
    "one client acknowledges packets up to 1,000,000",
    CLOSED,
    VIOLATION,
    off=as_it_is(),
)
async def optimistic(attacker: Attacker) -> None:
    await send_all(attacker, lambda peer, _: peer.send(hostile.ack(1_000_000)), 1)


@case(
    "acknowledgements full of holes",
    "one client sends 3,000 ACK frames with hundreds of ranges",
    CLOSED,
    memory(8),
    costs(1_000),
    off=as_it_is(),
)
async def holes(attacker: Attacker) -> None:
    await send_all(attacker, lambda peer, _: peer.send(hostile.holes(1_000, 400)), 3_000)


@case(
    "TLS messages without end",
    "one client sends 1,000 CRYPTO frames of 1,000 bytes with gaps between them",
    CLOSED,
    memory(16),
    off=BY_LIBRARY,
)
async def crypto(attacker: Attacker) -> None:
    await send_all(
        attacker, lambda peer, i: peer.send(hostile.crypto(bytes(1_000), 1_001 * i + 1)), 1_000
    )


@case(
    "connection ids",
    "one client issues 2,000 connection ids, each of which retires those before it",
    memory(8),
    costs(1_000),
    saw("answer bytes", most=100_000),
    off=BY_LIBRARY,
)
async def connection_ids(attacker: Attacker) -> None:
    await send_all(
        attacker, lambda peer, i: peer.send(hostile.new_connection_id(i + 8, i + 8)), 2_000
    )


@case(
    "path challenges",
    "one client sends 1,000 datagrams of 60 PATH_CHALLENGE frames",
    memory(8),
    costs(2_000),
    saw("answer bytes", most=1_000_000),
    off=Off(
        "packets beyond the window are remembered without number",
        patches={"gatesvr.transport.quic.qh3:MAX_BEYOND_WINDOW": 10**9},
        backends=("qh3",),
    ),
)
async def challenges(attacker: Attacker) -> None:
    def challenge(peer: HostilePeer, i: int) -> None:
        peer.send(*(hostile.path_challenge(b"%d" % (60 * i + n)) for n in range(60)))

    await send_all(attacker, challenge, 1_000)


@case(
    "packets full of frames",
    "one client sends 2,000 packets of 1,100 PING frames",
    costs(1_000),
    memory(8),
    off=as_it_is(is_slow=True),
)
async def pings(attacker: Attacker) -> None:
    await send_all(attacker, lambda peer, _: peer.send(hostile.ping() * 1_100), 2_000)
