"""The published protocol, spoken by peers that share no code with the gateway."""

from __future__ import annotations

from gatesvr._pb import message_pb2 as pb

from .harness import counter, running_gateway
from .plain_client import ack, answer, business, error, frame, heartbeat, plain_client
from .plain_upstream import plain_upstream


async def test_thousand_requests_pipelined(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(*(business(seq, "echo", b"%d" % seq) for seq in range(2, 1002)))
        data: dict[int, bytes] = {}
        for server_seq in range(2, 1002):
            push = await client.receive()
            assert push.seq_id == server_seq
            assert push.msg_id == 1000 + push.client_seq_id
            data[push.client_seq_id] = answer(push).data
            if server_seq % 16 == 0:
                client.send(ack(server_seq))
        assert data == {seq: b"%d" % seq for seq in range(2, 1002)}
        assert upstream.calls["echo"] == 1000


async def test_upstream_sees_who_asks(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        started = await client.login("alice", client_id="phone")
        assert started.session_id == started.connection_id
        request = business(2, "echo", b"x", shape="round")
        request.headers["x-trace"] = "7"
        request.headers["Authorization"] = "secret"
        client.send(request)
        assert answer(await client.receive()).data == b"x"
        seen = upstream.requests[-1]
        assert (seen.session_id, seen.openid) == (started.session_id, "alice")
        assert (seen.action, seen.client_seq_id) == ("echo", 2)
        assert dict(seen.params) == {"shape": "round"}
        assert dict(seen.headers) == {"x-trace": "7"}
        assert (seen.peer.client_id, seen.peer.zone, seen.peer.ip) == ("phone", "001", "127.0.0.1")
        assert 0 < seen.timeout_ms <= 30_000


async def test_heartbeat_unknown_type_and_unknown_fields(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(heartbeat(77))
        beat = await client.receive()
        assert (beat.type, beat.msg_id, beat.seq_id) == (pb.PUSH_HEARTBEAT_RESP, 77, 0)
        assert pb.HeartbeatResponse.FromString(beat.payload).client_timestamp == 77

        client.send(pb.ClientRequest(msg_id=5, type=99))  # type: ignore[arg-type]
        refusal = await client.receive()
        assert (refusal.seq_id, error(refusal).error_code) == (0, 501)

        odd = business(2, "echo", b"odd").SerializeToString() + b"\xf2\x7f\x03abc"  # field 2046
        client.send_bytes(frame(odd))
        assert answer(await client.receive()).data == b"odd"


async def test_another_stream_is_refused_and_the_connection_lives(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send_bytes(b"hello", stream_id=4)
        client.send_bytes(b"hello", stream_id=2)
        await client.until(lambda: {e.stream_id for e in client.events} >= {2, 4})
        assert {e.error_code for e in client.events} == {4}
        client.send(business(2, "echo", b"alive"))
        assert answer(await client.receive()).data == b"alive"
        assert counter(gateway, "transport.streams_refused") == 2
