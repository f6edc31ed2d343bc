"""Resume over real QUIC: what was not acked comes again, once, and nothing else changes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr.bench.checker import DeliveryChecker

from ..fakes import until
from .device import Device
from .harness import counter, pusher, running_gateway
from .plain_client import (
    PlainClient,
    ack,
    answer,
    business,
    error,
    heartbeat,
    plain_client,
    stop,
)
from .plain_upstream import PlainUpstream, plain_upstream

CAP = 1_024
ORDERED = (
    'route=[{action="hello", service="hello"}, {action="turn", service="zone", order="request"},'
    ' {action="*", service="business"}]'
)


async def part(client: PlainClient, how: str) -> None:
    """End a connection as a client does, as a dead network does, or not at all."""
    if how == "closed":
        client.close()
        await client.closed()
    elif how == "abandoned":
        client.abandon()


async def start_hello(
    client: PlainClient, upstream: PlainUpstream, *requests: pb.ClientRequest
) -> pb.StartResponse:
    """START, and send a hello, and requests behind it; the upstream keeps the hello's answer."""
    upstream.hello_gate.clear()
    started = await client.start("alice")
    client.send(business(1, "hello"), *requests)
    await upstream.until_asked("hello")
    return started


@pytest.mark.parametrize("how", ["closed", "abandoned", "alive"])
@pytest.mark.parametrize("unacked", [0, 1, CAP - 1])
async def test_resume_replays_exactly_what_is_not_acked(
    backend: str, unacked: int, how: str
) -> None:
    checker = DeliveryChecker()
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        pusher(gateway) as push,
        plain_client(gateway.address) as old,
        plain_client(gateway.address) as new,
    ):
        device = Device(checker, "alice")
        await device.login(old)
        names = [b"%d" % number for number in range(unacked)]
        if names:
            await push.push_all(device.session_id, *names)
        for name in names:
            checker.pushed(device.session_id, name.decode(), stream="push")
        # Half of it reached the application; what counts is what the client says at START.
        await device.take_until(old, 1 + unacked // 2, acks=False)
        await until(lambda: gateway.session_manager.by_id(device.session_id).queue.unsent == 0)
        await part(old, how)
        if how == "closed":
            await until(lambda: counter(gateway, "session.suspended") == 1)
        first = device.started
        had = device.position
        response = await device.resume(new)
        assert (response.success, response.resumed, response.generation) == (True, True, 2)
        assert (response.session_id, response.state) == (
            first.session_id,
            pb.SESSION_STATE_NORMAL,
        )
        assert (response.max_client_seq, response.lost_to) == (1, 0)
        assert response.resume_token not in (b"", first.resume_token)
        missed = unacked - unacked // 2
        assert (response.replay_from, response.replay_to) == (
            (had + 1, 1 + unacked) if missed else (0, 0)
        )
        await push.push_all(device.session_id, b"live")
        checker.pushed(device.session_id, "live", stream="push")
        new.send(business(2, "echo", b"answer"))
        await device.take_until(new, unacked + 3)
        if how == "alive":
            assert await old.closed() == 4409
        checker.settled(device.session_id, last_seq=unacked + 3, dropped=0)
        assert checker.findings == []
        assert counter(gateway, "session.resumes") == 1
        assert counter(gateway, "session.steals") == (how != "closed")
        assert counter(gateway, "session.suspended") == 0
        assert counter(gateway, "session.sessions") == 1


@pytest.mark.parametrize("attempts", [(1, 2), (2, 1), (1, 1)])
@pytest.mark.parametrize("how", ["closed", "alive"])
async def test_resume_twice_at_once_leaves_one_connection_and_loses_nothing(
    backend: str, how: str, attempts: tuple[int, int]
) -> None:
    checker = DeliveryChecker()
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        pusher(gateway) as push,
        plain_client(gateway.address) as old,
        plain_client(gateway.address) as a,
        plain_client(gateway.address) as b,
    ):
        device = Device(checker, "alice")
        await device.login(old)

        async def push_names(first: int, last: int) -> None:
            await push.push_all(device.session_id, *(b"%d" % n for n in range(first, last)))
            for number in range(first, last):
                checker.pushed(device.session_id, str(number), stream="push")

        await push_names(0, 50)
        await part(old, how)
        first = device.started
        starts = [
            client.resume(first, device.position, attempt)
            for client, attempt in zip((a, b), attempts, strict=True)
        ]
        pushing = asyncio.create_task(push_names(50, 100))
        responses = await asyncio.gather(*starts)
        await pushing
        session = gateway.session_manager.by_id(device.session_id)
        assert session is not None
        good = [i for i, response in enumerate(responses) if response.success]
        assert good, responses
        # Both were let in one after the other, or the lower attempt came too late.
        held = max(good, key=lambda i: responses[i].generation)
        winner, loser = (a, b)[held], (a, b)[1 - held]
        refused = responses[1 - held]
        if not refused.success:
            assert (refused.error.error_code, refused.attempt) == (409, attempts[held])
            assert counter(gateway, "session.resumes_stale") == 1
        assert await loser.closed() == 4409
        if how == "alive":
            assert await old.closed() == 4409
        assert winner.terminated is None
        assert session.link.peer[1] == winner._transport.get_extra_info("sockname")[1]
        device.started, device.attempt = responses[held], 0
        winner.send(heartbeat(1))  # the token before is dead from here on
        await device.take_until(winner, 101)
        checker.settled(device.session_id, last_seq=101, dropped=0)
        assert checker.findings == []
        assert session.generation == 1 + len(good) == responses[held].generation
        assert counter(gateway, "session.sessions") == 1


async def test_answers_made_while_suspended_are_replayed_in_the_order_of_asking(
    backend: str,
) -> None:
    checker = DeliveryChecker()
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, ORDERED) as gateway,
        plain_client(gateway.address) as old,
        plain_client(gateway.address) as new,
    ):
        device = Device(checker, "alice")
        await device.login(old)
        old.send(*(business(seq, "turn", b"%d" % seq) for seq in (2, 3, 4)))
        old.send(business(5, "gate", b"5"))
        await upstream.until_asked("turn", 3)
        await upstream.until_asked("gate")
        await part(old, "closed")
        await until(lambda: counter(gateway, "session.suspended") == 1)
        session = gateway.session_manager.by_id(device.session_id)
        upstream.turns[b"4"].set()
        upstream.gate.set()
        await until(lambda: set(session.pending) == {2, 3})
        response = await device.resume(new)
        # The slot of 2 holds 4 back, across the resume; 5 has none.
        assert (response.replay_from, response.replay_to, response.max_client_seq) == (2, 2, 5)
        push = await new.receive()
        assert (push.seq_id, push.client_seq_id, answer(push).data) == (2, 5, b"5")
        upstream.turns[b"3"].set()
        await until(lambda: set(session.pending) == {2})
        new.send(heartbeat(1))
        assert (await new.receive()).type == pb.PUSH_HEARTBEAT_RESP
        upstream.turns[b"2"].set()
        pushes = [await new.receive() for _ in range(3)]
        assert [(p.seq_id, p.client_seq_id, answer(p).data) for p in pushes] == [
            (3, 2, b"2"),
            (4, 3, b"3"),
            (5, 4, b"4"),
        ]
        # What was accepted before is a duplicate now.
        new.send(business(4, "echo"), business(6, "echo", b"next"), ack(5))
        push = await new.receive()
        assert (push.seq_id, push.client_seq_id, answer(push).data) == (6, 6, b"next")
        assert upstream.calls["turn"] == 3
        assert counter(gateway, "session.duplicates") == 1


async def test_what_drop_oldest_takes_is_announced_as_exactly_that(backend: str) -> None:
    cap, more = 16, 5
    checker = DeliveryChecker()
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, f"session.max_queue_size={cap}") as gateway,
        pusher(gateway) as push,
        plain_client(gateway.address) as old,
        plain_client(gateway.address) as new,
    ):
        device = Device(checker, "alice")
        await device.login(old)
        old.send(business(2, "echo", b"kept"))
        await old.receive()  # seq 2, not acked: an answer is never dropped
        await part(old, "closed")
        await until(lambda: counter(gateway, "session.suspended") == 1)
        names = [b"%d" % number for number in range(cap - 1 + more)]
        await push.push_all(device.session_id, *names)
        for name in names:
            checker.pushed(device.session_id, name.decode(), stream="push")
        assert counter(gateway, "session.notifies_dropped") == more
        info = await push.info(device.session_id)
        assert info.queued_messages == cap
        response = await device.resume(new)
        assert (response.lost_from, response.lost_to) == (3, 2 + more)
        push_2 = await new.receive()
        assert (push_2.seq_id, push_2.client_seq_id) == (2, 2)
        device.take(push_2)
        skip = await new.receive()
        assert (skip.type, skip.seq_id) == (pb.PUSH_SKIP, 2 + more)
        assert pb.Skip.FromString(skip.payload) == pb.Skip(
            from_seq=3, messages=more, reason=pb.LOST_OVERFLOW
        )
        device.take(skip)
        await device.take_until(new, 2 + len(names))
        checker.settled(device.session_id, last_seq=2 + len(names), dropped=more)
        assert checker.findings == []
        assert checker.announced_losses == more


@pytest.mark.parametrize(("policy", "code"), [("refuse", "BUSY"), ("close", "NOT_FOUND")])
async def test_a_suspended_sessions_full_queue_does_what_is_configured(
    backend: str, policy: str, code: str
) -> None:
    sets = ("session.max_queue_size=16", f"session.when_full={policy}")
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        pusher(gateway) as push,
        plain_client(gateway.address) as old,
        plain_client(gateway.address) as new,
    ):
        device = Device(DeliveryChecker(), "alice")
        await device.login(old)
        await part(old, "closed")
        await until(lambda: counter(gateway, "session.suspended") == 1)
        await push.push_all(device.session_id, *[b"x"] * 16)
        (response,) = await push.push(device.session_id, b"one too many")
        assert response.error_code == code
        resumed = await device.resume(new, openid="alice")
        assert resumed.success
        assert resumed.resumed is (policy == "refuse")
        if policy == "refuse":
            assert (resumed.replay_from, resumed.replay_to) == (2, 17)
        else:
            assert resumed.lost_reason == pb.LOST_UNKNOWN_SESSION


async def test_a_ttl_that_ends_while_suspended_is_announced(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        pusher(gateway) as push,
        plain_client(gateway.address) as old,
        plain_client(gateway.address) as new,
    ):
        device = Device(DeliveryChecker(), "alice")
        await device.login(old)
        await part(old, "closed")
        await until(lambda: counter(gateway, "session.suspended") == 1)
        await push.push_all(device.session_id, b"stays")
        await push.push_all(device.session_id, b"goes", b"goes too", ttl_ms=1)
        await push.push_all(device.session_id, b"stays too")
        await until(lambda: counter(gateway, "session.notifies_expired") == 2)
        response = await device.resume(new)
        assert (response.lost_from, response.lost_to, response.replay_to) == (3, 4, 5)
        pushes = [await new.receive() for _ in range(3)]
        assert [p.seq_id for p in pushes] == [2, 4, 5]
        assert pb.Skip.FromString(pushes[1].payload) == pb.Skip(
            from_seq=3, messages=2, reason=pb.LOST_EXPIRED
        )


async def test_an_expired_session_makes_way_for_a_new_one(backend: str) -> None:
    sets = ("session.resume_window=200ms",)
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        plain_client(gateway.address) as old,
        plain_client(gateway.address) as new,
    ):
        device = Device(DeliveryChecker(), "alice")
        await device.login(old)
        assert device.started.resume_window_ms == 200
        await part(old, "closed")
        await until(lambda: counter(gateway, "session.expired") == 1)
        assert counter(gateway, "session.sessions") == 0
        first = device.session_id
        response = await device.resume(new, openid="alice")
        assert (response.success, response.resumed) == (True, False)
        assert (response.lost_reason, response.state) == (
            pb.LOST_UNKNOWN_SESSION,
            pb.SESSION_STATE_INITED,
        )
        assert (response.max_client_seq, response.generation) == (0, 1)
        assert response.session_id not in ("", first)
        new.send(business(1, "hello"))
        push = await new.receive()
        assert (push.seq_id, answer(push).code) == (1, 200)


async def test_an_inited_session_outlives_its_connection_for_its_hello_alone(
    backend: str,
) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as idle,
        plain_client(gateway.address) as old,
        plain_client(gateway.address) as new,
    ):
        # One that asked for no login goes with its connection.
        await idle.start("idle")
        idle.close()
        await until(lambda: counter(gateway, "session.sessions") == 0)
        started = await start_hello(old, upstream)
        old.close()
        await until(lambda: counter(gateway, "transport.connections") == 1)
        assert counter(gateway, "session.inited") == 1
        response = await new.resume(started, 0)
        assert (response.resumed, response.state) == (True, pb.SESSION_STATE_INITED)
        assert (response.max_client_seq, response.generation) == (1, 2)
        # Its hello is out: what is asked on the new connection waits for it.
        new.send(business(2, "echo", b"x"), heartbeat(7))
        assert (await new.receive()).type == pb.PUSH_HEARTBEAT_RESP
        assert upstream.calls["echo"] == 0
        upstream.hello_gate.set()
        pushes = [await new.receive() for _ in range(2)]
        assert [(p.seq_id, p.client_seq_id) for p in pushes] == [(1, 1), (2, 2)]
        assert counter(gateway, "session.logins") == 1


async def test_a_hello_answered_while_away_is_replayed(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as old,
        plain_client(gateway.address) as new,
    ):
        started = await start_hello(old, upstream)
        old.close()
        await until(lambda: counter(gateway, "transport.connections") == 1)
        upstream.hello_gate.set()
        await until(lambda: counter(gateway, "session.suspended") == 1)
        response = await new.resume(started, 0)
        assert (response.state, response.replay_from, response.replay_to) == (
            pb.SESSION_STATE_NORMAL,
            1,
            1,
        )
        assert answer(await new.receive()).code == 200


async def test_stop_during_a_hello_ends_the_session(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
        plain_client(gateway.address) as later,
    ):
        started = await start_hello(client, upstream, business(2, "echo"))
        client.send(stop())
        assert await client.closed() == 0
        assert counter(gateway, "session.stopped") == 1
        assert counter(gateway, "session.sessions") == 0
        upstream.hello_gate.set()
        await until(lambda: counter(gateway, "dispatch.closed_499") == 1)
        assert counter(gateway, "session.logins") == 0
        assert upstream.calls["echo"] == 0
        response = await later.resume(started, 0, openid="alice")
        assert (response.resumed, response.lost_reason) == (False, pb.LOST_UNKNOWN_SESSION)


async def test_requests_of_a_stolen_connection_are_not_handled(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as old,
        plain_client(gateway.address) as new,
    ):
        started = await start_hello(old, upstream, business(2, "echo", b"held on the old one"))
        response = await new.resume(started, 0)
        assert response.max_client_seq == 1
        assert await old.closed() == 4409
        new.send(business(2, "echo", b"asked again"))
        upstream.hello_gate.set()
        pushes = [await new.receive() for _ in range(2)]
        assert answer(pushes[1]).data == b"asked again"
        assert upstream.calls["echo"] == 1


async def test_a_base_client_comes_back_by_its_openid(backend: str) -> None:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(plain_upstream())
        gateway = await stack.enter_async_context(
            running_gateway(backend, upstream.address, "session.base_resume=true")
        )
        push = await stack.enter_async_context(pusher(gateway))
        old, new, fresh, other = [
            await stack.enter_async_context(plain_client(gateway.address)) for _ in range(4)
        ]
        started = await old.start("alice", protocol=0, capabilities=0)
        assert (started.protocol, started.capabilities) == (0, 0)
        old.send(business(41, "hello"))  # the first one sets the counter
        assert answer(await old.receive()).code == 200
        old.send(ack(1), business(42, "echo", b"asked"))
        assert answer(await old.receive()).data == b"asked"
        old.send(business(42, "echo", b"asked"))  # a duplicate is answered like a gap
        refusal = await old.receive()
        assert (refusal.seq_id, error(refusal).error_code) == (0, 400)
        old.abandon()
        await push.push_all(started.session_id, b"missed", b"missed too")

        back = await new.start("alice", protocol=0, capabilities=0, last_acked_seq_id=1)
        assert (back.success, back.resumed, back.session_id) == (True, True, started.session_id)
        assert (back.generation, back.max_client_seq) == (2, 42)
        replay = [await new.receive() for _ in range(3)]
        assert [(p.seq_id, answer(p).data) for p in replay] == [
            (2, b"asked"),
            (3, b"missed"),
            (4, b"missed too"),
        ]
        new.send(ack(4), business(43, "echo", b"next"))
        assert answer(await new.receive()).data == b"next"
        assert counter(gateway, "session.base_resumes") == 1

        # Nobody of that name, a position it never had, and version 1 all start afresh.
        stranger = await fresh.start("bob", protocol=0, capabilities=0, last_acked_seq_id=1)
        assert (stranger.success, stranger.resumed) == (True, False)
        unknown = await other.start("alice", protocol=0, capabilities=0, last_acked_seq_id=999)
        assert (unknown.success, unknown.resumed) == (True, False)
        assert new.terminated is None


async def test_a_session_of_version_1_is_not_to_be_had_by_openid(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, "session.base_resume=true") as gateway,
        plain_client(gateway.address) as owner,
        plain_client(gateway.address) as thief,
    ):
        started = await owner.login("alice")
        response = await thief.start("alice", protocol=0, capabilities=0, last_acked_seq_id=1)
        assert (response.resumed, response.session_id != started.session_id) == (False, True)
        owner.send(business(2, "echo", b"mine"))
        assert answer(await owner.receive()).data == b"mine"
        assert counter(gateway, "session.base_resumes") == 0
