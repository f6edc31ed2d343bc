"""Each bound and deadline over real QUIC, with the counter that moved."""

from __future__ import annotations

import grpc.aio
import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr._pb import upstream_pb2_grpc as rpc

from ..fakes import until
from .harness import counter, running_gateway
from .plain_client import ack, answer, business, error, heartbeat, plain_client, stop
from .plain_upstream import plain_upstream


async def test_full_task_queue_is_503_at_once_and_sequenced(backend: str) -> None:
    sets = ("dispatch.workers=1", "dispatch.max_workers=1", "dispatch.max_queue_size=1")
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(business(2, "gate"))
        await upstream.until_asked("gate")
        client.send(business(3, "gate"), business(4, "gate"))
        push = await client.receive()  # while both others still run
        refusal = error(push)
        assert (push.seq_id, push.client_seq_id) == (2, 4)
        assert refusal.error_code == 503
        assert refusal.outcome == pb.OUTCOME_NOT_STARTED
        assert 50 <= refusal.retry_after_ms <= 5000
        assert counter(gateway, "dispatch.refused_full") == 1
        upstream.gate.set()
        assert [(await client.receive()).client_seq_id for _ in range(2)] == [2, 3]


async def test_held_hello_holds_requests_and_nothing_else(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.start("alice")
        upstream.hello_gate.clear()
        client.send(business(1, "HELLO"), business(2, "echo", b"x"), ack(0), heartbeat(7))
        await upstream.until_asked("HELLO")
        assert (await client.receive()).type == pb.PUSH_HEARTBEAT_RESP
        assert upstream.calls["echo"] == 0
        upstream.hello_gate.set()
        pushes = [await client.receive() for _ in range(2)]
        assert [(push.seq_id, push.client_seq_id) for push in pushes] == [(1, 1), (2, 2)]
        assert answer(pushes[1]).data == b"x"


async def test_deadline_is_504_and_no_answer_follows(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, "dispatch.task_timeout=2s") as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(business(2, "gate", b"late"), business(3, "echo", b"not blocked"))
        assert answer(await client.receive()).data == b"not blocked"
        push = await client.receive()
        assert (error(push).error_code, push.client_seq_id) == (504, 2)
        assert error(push).outcome == pb.OUTCOME_UNKNOWN
        assert counter(gateway, "dispatch.deadlines") == 1
        assert counter(gateway, "upstream.unanswered") == 1
        upstream.gate.set()
        client.send(business(4, "echo", b"next"))
        push = await client.receive()
        assert (answer(push).data, push.seq_id) == (b"next", 4)


async def test_stop_with_requests_running_counts_499(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(*(business(seq, "gate") for seq in range(2, 7)))
        await upstream.until_asked("gate", 5)
        client.send(stop())
        assert await client.closed() == 0
        assert counter(gateway, "session.sessions") == 0
        upstream.gate.set()
        await until(lambda: counter(gateway, "dispatch.closed_499") == 5)


async def test_ack_shows_in_get_session(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
        grpc.aio.insecure_channel(gateway.grpc_address) as channel,
    ):
        started = await client.login("alice", client_id="phone")
        client.send(*(business(seq, "echo") for seq in range(2, 12)))
        for _ in range(10):
            await client.receive()
        stub = rpc.GatewayServiceStub(channel)
        ask = up.GetSessionRequest(target_type="openid", target_id="alice")
        info = await stub.GetSession(ask)
        assert (info.session_id, info.state, info.client_id) == (
            started.session_id,
            "Normal",
            "phone",
        )
        assert (info.last_acked_seq, info.queued_messages, info.last_sent_seq) == (0, 11, 11)
        client.send(ack(7), heartbeat(1))
        assert (await client.receive()).type == pb.PUSH_HEARTBEAT_RESP  # so the ack was read too
        info = await stub.GetSession(ask)
        assert (info.last_acked_seq, info.client_ack_server_seq, info.queued_messages) == (7, 7, 4)
        assert (info.max_client_seq, info.next_expected_seq, info.zone) == (11, 12, "001")


async def test_ack_above_what_was_sent_closes_4400(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(ack(2))
        assert await client.closed() == 4400
        assert counter(gateway, "session.sessions") == 0


async def test_silence_after_a_heartbeat_closes_4408(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, "session.heartbeat_interval=1s") as gateway,
        plain_client(gateway.address) as client,
    ):
        started = await client.login("alice")
        assert started.heartbeat_interval == 1
        client.send(heartbeat(1))
        assert await client.closed() == 4408
        assert counter(gateway, "dispatch.heartbeat_timeouts") == 1
        assert counter(gateway, "session.suspended") == 1


async def test_no_start_closes_4408(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, "session.start_timeout=200ms") as gateway,
        plain_client(gateway.address) as client,
    ):
        assert await client.closed() == 4408
        assert counter(gateway, "dispatch.start_timeouts") == 1


async def test_no_login_closes_4408_and_the_session(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(
            backend,
            upstream.address,
            "session.login_timeout=200ms",
        ) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.start("alice")
        assert await client.closed() == 4408
        assert counter(gateway, "session.login_timeouts") == 1
        assert counter(gateway, "session.sessions") == 0


async def test_client_that_never_acks_is_bounded_and_closed_4413(backend: str) -> None:
    sets = (
        "session.max_queue_size=64",
        "session.max_in_flight=16",
        "session.slow_consumer_timeout=3s",
    )
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        plain_client(gateway.address) as client,
        grpc.aio.insecure_channel(gateway.grpc_address) as channel,
    ):
        started = await client.login("alice")
        stub = rpc.GatewayServiceStub(channel)
        push = up.UnicastPushRequest(
            target_type="session", target_id=started.session_id, data=bytes(1000)
        )
        busy = 0
        for _ in range(200):
            response = await stub.PushToClient(push)
            busy += response.error_code == "BUSY"
        assert busy > 100
        info = await stub.GetSession(
            up.GetSessionRequest(target_type="session", target_id=started.session_id)
        )
        assert info.queued_messages <= 64
        assert info.queued_bytes <= 64 * 1200
        assert await client.closed() == 4413
        assert counter(gateway, "session.slow_consumers") == 1


async def test_pool_grows_while_tasks_wait_and_shrinks_when_idle(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.dispatch.processor.IDLE_WORKER_TIMEOUT_S", 0.2)
    sets = ("dispatch.workers=2",)
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(*(business(seq, "gate") for seq in range(2, 102)))
        await upstream.until_asked("gate", 100)  # a pool of 2 would never get there
        assert counter(gateway, "dispatch.workers") >= 100
        upstream.gate.set()
        for _ in range(100):
            await client.receive()
        await until(lambda: counter(gateway, "dispatch.workers") == 2)
        assert counter(gateway, "dispatch.peak_workers") >= 100


async def test_registering_revives_a_dead_service_until_its_lease_ends(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        plain_upstream() as late,
        running_gateway(
            backend,
            upstream.address,
            'upstream.services.business=[{address="127.0.0.1:9"}]',
            'push.register="add"',
        ) as gateway,
        plain_client(gateway.address) as client,
        grpc.aio.insecure_channel(gateway.grpc_address) as channel,
    ):
        await client.login("alice")
        client.send(business(2, "gate", b"x"))
        assert error(await client.receive()).error_code == 502
        late.gate.set()
        registered = await rpc.GatewayServiceStub(channel).RegisterUpstream(
            up.UpstreamRegisterRequest(
                address=late.address, service_name="business", lease_seconds=1
            )
        )
        assert registered.success, registered
        seq = 2

        async def is_alive() -> bool:
            nonlocal seq
            seq += 1
            client.send(business(seq, "gate", b"x"))
            push = await client.receive()
            client.send(ack(push.seq_id))
            if push.type == pb.PUSH_ERROR:
                assert error(push).error_code == 502
                return False
            return answer(push).data == b"x"

        while not await is_alive():
            pass
        while await is_alive():
            pass
        assert counter(gateway, "upstream.leases_expired") == 1
