"""However a hostile stream is cut into reads, the same becomes of it."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr.errors import ProtocolError

from ..dispatch.rig import Client, Rig, ack, business, frame, heartbeat, start, stop

SEEDS = range(25)
ANSWERED = 20
"""Requests answered before, and not acked."""
HIGHEST_ACK = ANSWERED + 1
ACTIONS = ("echo", "echo", "echo", "ordered", "single", "nowhere", "hello")


def stream(chance: random.Random) -> bytes:
    """Return legal and illegal frames, none of which ends the connection."""
    seq = ANSWERED + 1
    data = b""
    for _ in range(chance.randint(1, 60)):
        kind = chance.random()
        acked = chance.choice([0, 0, 1, HIGHEST_ACK, chance.randint(1, HIGHEST_ACK)])
        if kind < 0.6:
            seq += 1
            request = business(seq, chance.choice(ACTIONS), ack=acked)
        elif kind < 0.7:
            request = business(chance.randint(1, seq), "echo", ack=acked)
        elif kind < 0.75:
            request = business(seq + chance.randint(2, 9), "echo", ack=acked)
        elif kind < 0.8:
            request = business(seq + 1, "echo", ack=acked)
            request.msg_id = 0
        elif kind < 0.85:
            request = ack(acked or 1)
        elif kind < 0.9:
            request = heartbeat()
            request.ack_seq_id = acked
        elif kind < 0.95:
            request = pb.ClientRequest(msg_id=5, type=9, ack_seq_id=acked)
        else:
            seq += 1
            request = business(seq, "echo", ack=acked)
            request.payload = b"\xff"
        data += frame(request)
    return data


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


async def outcome(reads: list[bytes], max_in_flight: int, *, is_pipelined: bool) -> Any:
    """Return all that is left of the reads, and all that came back."""
    async with Rig(session={"max_in_flight": max_in_flight}) as rig:
        client = Client(rig)
        await client.login()
        for seq in range(2, ANSWERED + 2):
            await client.send(business(seq, "echo"))
            rig.upstream.answer(seq)
            await client.run()
        pushes = []
        for read in reads:
            client.handler.data_received(read, rig.now)
            if not is_pipelined:
                pushes += await client.run()
        pushes += await client.run()
        while rig.upstream.waiting:
            rig.upstream.answer(min(rig.upstream.waiting), headers={"zone": "1"})
            pushes += await client.run()
        session = client.handler.session
        assert session is not None
        assert not client.handler._held
        assert client.handler._held_bytes == 0
        seen = [(push.type, push.msg_id, push.seq_id, push.client_seq_id) for push in pushes]
        return {
            "calls": [(call.client_seq_id, call.action) for call in rig.upstream.calls],
            "sequenced": [push for push in seen if push[2]],
            "others": sorted(push for push in seen if not push[2]),
            "session": (
                session.max_client_seq,
                session.queue.last_acked_seq,
                session.next_server_seq,
                len(session.pending),
            ),
            "counters": [
                value for name, value in vars_of(rig.counters).items() if "workers" not in name
            ],
        }


def vars_of(counters: Any) -> dict[str, int]:
    return {name: getattr(counters, name) for name in counters.__dataclass_fields__}


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_same_comes_of_a_stream_however_it_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    data = stream(chance)
    max_in_flight = chance.choice([1, 3, 64])
    whole = await outcome([data], max_in_flight, is_pipelined=True)
    some = [chance.randrange(len(data) + 1) for _ in range(chance.randint(1, 9))]
    for places in (some, list(range(1, len(data)))):
        for is_pipelined in (True, False):
            reads = cut(data, places)
            if len(reads) > 500 and not is_pipelined:
                continue
            assert await outcome(reads, max_in_flight, is_pipelined=is_pipelined) == whole


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_ends_a_connection_ends_it_however_it_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    end, code = chance.choice(
        [
            (business(1 << 20, "echo", ack=1 << 30), 4400),
            (ack(1 << 30), 4400),
            (start("alice"), 4400),
            (b"\0\0\0\0", 4400),
            (b"\xff\xff\xff\xff", 4400),
            (stop(), 0),
        ]
    )
    data = stream(chance) + (end if isinstance(end, bytes) else frame(end)) + stream(chance)
    for places in ([], [chance.randrange(len(data))], list(range(1, len(data)))):
        async with Rig() as rig:
            client = Client(rig)
            await client.login()
            for seq in range(2, ANSWERED + 2):
                await client.send(business(seq, "echo"))
                rig.upstream.answer(seq)
                await client.run()
            for read in cut(data, places):
                try:
                    client.handler.data_received(read, rig.now)
                except ProtocolError as error:
                    client.close(error.close_code, str(error))
            await client.run()
            assert client.closed is not None
            assert client.closed[0] == code
            assert client.handler._is_ended
            assert not client.handler._held
            # Nothing behind the end was looked at, and each request before it at most once.
            called = [call.client_seq_id for call in rig.upstream.calls]
            assert called == sorted(set(called))
            client.lose()
            for seq in list(rig.upstream.waiting):
                rig.upstream.answer(seq)
            assert rig.counters.running == 0
