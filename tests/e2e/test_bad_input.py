"""What a broken or hostile peer gets, and that a healthy client beside it notices nothing."""

from __future__ import annotations

import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gatesvr._pb import message_pb2 as pb

from .harness import counter, running_gateway
from .plain_client import PlainClient, ack, answer, business, error, frame, plain_client
from .plain_upstream import plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatesvr import Gateway

HALF = 100


@asynccontextmanager
async def beside_a_healthy_client(backend: str, *sets: str) -> AsyncIterator[Gateway]:
    """Run a gateway; a healthy client gets 100 answers before and 100 after, on one connection."""
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        plain_client(gateway.address) as healthy,
    ):
        await healthy.login("healthy")
        await ask(healthy, range(2, 2 + HALF))
        yield gateway
        await ask(healthy, range(2 + HALF, 2 + 2 * HALF))
        assert healthy.terminated is None


async def ask(client: PlainClient, seqs: range) -> None:
    client.send(*(business(seq, "echo", b"%d" % seq) for seq in seqs))
    got = {}
    for _ in seqs:
        push = await client.receive()
        got[push.client_seq_id] = answer(push).data
    client.send(ack(seqs[-1]))
    assert got == {seq: b"%d" % seq for seq in seqs}


START = pb.ClientRequest(
    msg_id=1, type=pb.REQUEST_START, payload=pb.StartRequest(openid="bad").SerializeToString()
)
BROKEN_STREAMS = {
    "length 0": struct.pack(">I", 0),
    "length above the limit before login": struct.pack(">I", (64 << 10) + 1) + b"x",
    "no protobuf": frame(b"\xff\xff\xff"),
    "bad UTF-8 in a header": frame(b"\x18\x01\x2a\x06\x0a\x01\xff\x12\x01x"),
    "first message is not START": frame(business(1, "hello").SerializeToString()),
    "second START": 2 * frame(START.SerializeToString()),
}


@pytest.mark.parametrize("what", BROKEN_STREAMS)
async def test_broken_stream_closes_4400(backend: str, what: str) -> None:
    async with beside_a_healthy_client(backend) as gateway, plain_client(gateway.address) as bad:
        before = counter(gateway, "transport.protocol_errors")
        bad.send_bytes(BROKEN_STREAMS[what])
        assert await bad.closed() == 4400
        assert counter(gateway, "transport.protocol_errors") == before + 1
        assert counter(gateway, "session.sessions") == 1


async def test_oversize_after_login_closes_4400(backend: str) -> None:
    async with beside_a_healthy_client(backend) as gateway, plain_client(gateway.address) as bad:
        await bad.login("bad")
        bad.send(business(2, "echo", bytes(100 << 10)))  # above the limit before login, fine now
        assert len(answer(await bad.receive()).data) == 100 << 10
        bad.send_bytes(struct.pack(">I", (1 << 20) + 1))
        assert await bad.closed() == 4400
        assert counter(gateway, "session.sessions") == 1


async def test_refused_requests_leave_the_connection_alone(backend: str) -> None:
    async with (
        beside_a_healthy_client(
            backend,
            'route=[{action="hello", service="hello"}, {action="echo", service="zone"},'
            ' {action="lost", service="nowhere"}]',
            "upstream.services.nowhere=[]",
        ) as gateway,
        plain_client(gateway.address) as bad,
    ):
        await bad.start("bad")
        bad.send(business(1, "echo"))
        push = await bad.receive()
        assert (error(push).error_code, push.seq_id, push.client_seq_id) == (401, 1, 1)

        bad.send(business(2, "hello"))
        assert answer(await bad.receive()).code == 200

        bad.send(business(3, "nobody_routes_this"))
        push = await bad.receive()
        assert (error(push).error_code, push.seq_id, push.client_seq_id) == (404, 3, 3)

        bad.send(business(4, "lost"))
        assert error(await bad.receive()).error_code == 502

        bad.send(business(9, "echo"))  # a gap: nothing is consumed
        push = await bad.receive()
        assert (error(push).error_code, push.seq_id) == (400, 0)

        broken = business(5, "echo")
        broken.payload = b"\xff\xff"
        bad.send(broken)
        push = await bad.receive()
        assert (error(push).error_code, push.seq_id, push.client_seq_id) == (400, 5, 5)

        bad.send(business(5, "echo"))  # a duplicate is dropped
        bad.send(business(6, "echo", b"still here"))
        assert answer(await bad.receive()).data == b"still here"
        assert counter(gateway, "session.duplicates") == 1
        assert counter(gateway, "session.gaps") == 1


async def test_one_bad_string_in_a_burst_costs_one_error(backend: str) -> None:
    async with beside_a_healthy_client(backend) as gateway, plain_client(gateway.address) as client:
        await client.login("burst")
        requests = [business(seq, "echo", b"%d" % seq) for seq in range(2, 66)]
        requests[30].payload = b"\x0a\x04echo\x12\x06\x0a\x01k\x12\x01\xff"
        client.send(*requests)
        pushes = [await client.receive() for _ in requests]
        refused = [push for push in pushes if push.type == pb.PUSH_ERROR]
        assert [error(push).error_code for push in refused] == [400]
        assert refused[0].client_seq_id == requests[30].seq_id
        good = {push.client_seq_id: answer(push).data for push in pushes if push not in refused}
        assert good == {r.seq_id: b"%d" % r.seq_id for r in requests if r is not requests[30]}


async def test_no_upstream_answers_502_and_recovers(backend: str) -> None:
    async with plain_upstream() as upstream:
        sets = 'upstream.services.business=[{address="127.0.0.1:9"}]'
        async with (
            running_gateway(backend, upstream.address, sets) as gateway,
            plain_client(gateway.address) as client,
        ):
            await client.login("alice")
            client.send(business(2, "anything"))
            push = await client.receive()
            assert (error(push).error_code, push.seq_id) == (502, 2)
            client.send(business(3, "zone_echo", b"zone lives"))
            assert answer(await client.receive()).data == b"zone lives"
