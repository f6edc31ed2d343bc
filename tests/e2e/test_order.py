"""Orders of answers: ``request`` keeps the order of asking, ``serial`` runs one at a time."""

from __future__ import annotations

from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up

from ..fakes import until
from .harness import counter, pusher, running_gateway
from .plain_client import ack, answer, business, error, heartbeat, plain_client
from .plain_upstream import plain_upstream

ORDERED = (
    'route=[{action="hello", service="hello"}, {action="silent", service="zone", order="request"},'
    ' {action="turn", service="zone", order="request"}, {action="*", service="business"}]'
)
SERIAL = (
    'route=[{action="hello", service="hello"}, {action="single", service="zone", serial=true},'
    ' {action="lonely", service="zone", serial=true}, {action="*", service="zone"}]'
)
REQUESTS = 20


async def test_answers_come_in_the_order_of_asking_though_upstreams_answer_in_reverse(
    backend: str,
) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, ORDERED) as gateway,
        pusher(gateway) as push,
        plain_client(gateway.address) as client,
    ):
        started = await client.login("alice")
        session = gateway.session_manager.by_id(started.session_id)
        assert session is not None
        seqs = range(2, 2 + REQUESTS)
        client.send(*(business(seq, "turn", b"%d" % seq) for seq in seqs))
        await upstream.until_asked("turn", REQUESTS)
        expected = 1
        for seq in reversed(seqs[1:]):
            upstream.turns[b"%d" % seq].set()
            await until(lambda seq=seq: seq not in session.pending)
            # The answer is there and has to wait; pushes and other routes do not.
            await push.push_all(started.session_id, b"push %d" % seq)
            notify = await client.receive()
            expected += 1
            assert (notify.seq_id, answer(notify).data) == (expected, b"push %d" % seq)
        client.send(business(seqs[-1] + 1, "echo", b"completion"))
        echo = await client.receive()
        expected += 1
        assert (echo.seq_id, answer(echo).data) == (expected, b"completion")
        upstream.turns[b"2"].set()
        pushes = [await client.receive() for _ in seqs]
        assert [p.client_seq_id for p in pushes] == list(seqs)
        assert [p.seq_id for p in pushes] == list(range(expected + 1, expected + 1 + REQUESTS))
        assert [answer(p).data for p in pushes] == [b"%d" % seq for seq in seqs]


async def test_a_time_out_delays_and_never_blocks_what_is_behind_it(backend: str) -> None:
    # What has to go ahead of the time-out takes some ms.
    sets = (ORDERED, "dispatch.task_timeout=3s")
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        pusher(gateway) as push,
        plain_client(gateway.address) as client,
    ):
        started = await client.login("alice")
        for data in (b"2", b"4", b"5"):
            upstream.turns[data].set()
        client.send(
            business(2, "turn", b"2"),
            business(3, "silent"),
            business(4, "turn", b"4"),
            business(5, "turn", b"5"),
        )
        first = await client.receive()
        assert (first.seq_id, first.client_seq_id) == (2, 2)
        session = gateway.session_manager.by_id(started.session_id)
        assert session is not None
        await until(lambda: set(session.pending) == {3})
        await push.push_all(started.session_id, b"push")
        notify = await client.receive()
        assert (notify.seq_id, answer(notify).data) == (3, b"push")
        assert counter(gateway, "dispatch.deadlines") == 0  # the push went ahead of the time-out
        pushes = [await client.receive() for _ in range(3)]
        assert [(p.seq_id, p.client_seq_id) for p in pushes] == [(4, 3), (5, 4), (6, 5)]
        assert error(pushes[0]).error_code == 504
        assert error(pushes[0]).outcome == pb.OUTCOME_UNKNOWN
        assert [answer(p).data for p in pushes[1:]] == [b"4", b"5"]
        assert counter(gateway, "dispatch.deadlines") == 1


async def test_rejections_and_bound_notifies_keep_the_order_of_asking_too(backend: str) -> None:
    sets = (ORDERED, "dispatch.workers=1", "dispatch.max_workers=1", "dispatch.max_queue_size=1")
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        pusher(gateway) as push,
        plain_client(gateway.address) as client,
    ):
        started = await client.login("alice")
        client.send(business(2, "turn", b"2"))
        await upstream.until_asked("turn")
        client.send(business(3, "turn", b"3"), business(4, "turn", b"4"))  # 4 finds no room
        await until(lambda: counter(gateway, "dispatch.refused_full") == 1)
        for hint, data in ((up.NSH_BEFORE_RESPONSE, b"before"), (up.NSH_AFTER_RESPONSE, b"after")):
            await push.push_all(started.session_id, data, sync_hint=hint, bind_client_seq_id=3)
        client.send(heartbeat(1))
        assert (await client.receive()).type == pb.PUSH_HEARTBEAT_RESP  # and no 503 yet
        upstream.turns[b"2"].set()
        upstream.turns[b"3"].set()
        pushes = [await client.receive() for _ in range(5)]
        assert [(p.seq_id, p.client_seq_id) for p in pushes] == [
            (2, 2),
            (3, 0),
            (4, 3),
            (5, 0),
            (6, 4),
        ]
        assert [answer(p).data for p in pushes[:4]] == [b"2", b"before", b"3", b"after"]
        assert error(pushes[4]).error_code == 503


async def test_order_may_be_the_default_of_all_routes(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, 'upstream.order="request"') as gateway,
        plain_client(gateway.address) as client,
    ):
        started = await client.login("alice")
        client.send(business(2, "gate", b"2"), business(3, "echo", b"3"))
        session = gateway.session_manager.by_id(started.session_id)
        assert session is not None
        await until(lambda: set(session.pending) == {2})
        client.send(heartbeat(1))
        assert (await client.receive()).type == pb.PUSH_HEARTBEAT_RESP
        upstream.gate.set()
        assert [(await client.receive()).client_seq_id for _ in range(2)] == [2, 3]


async def test_serial_routes_run_one_of_a_sessions_at_a_time_each(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, SERIAL) as gateway,
        plain_client(gateway.address) as client,
        plain_client(gateway.address) as other,
    ):
        await client.login("alice")
        await other.login("bob")
        actions = ("single", "single", "lonely", "single", "lonely")
        client.send(*(business(2 + i, a, b"%d" % (2 + i)) for i, a in enumerate(actions)))
        other.send(business(2, "single", b"bob"))
        await upstream.until_asked("single", 2)
        await upstream.until_asked("lonely")
        # Nothing that is not serial waits behind those, though the service is the same.
        client.send(business(7, "echo", b"free"))
        free = await client.receive()
        assert (free.client_seq_id, answer(free).data) == (7, b"free")
        assert (upstream.calls["single"], upstream.calls["lonely"]) == (2, 1)
        upstream.turns[b"bob"].set()
        assert answer(await other.receive()).data == b"bob"
        for seq, asked in ((2, 3), (3, 4)):
            upstream.turns[b"%d" % seq].set()
            assert (await client.receive()).client_seq_id == seq
            await upstream.until_asked("single", asked)
        assert upstream.calls["lonely"] == 1
        for seq in (4, 5, 6):
            upstream.turns[b"%d" % seq].set()
        assert {(await client.receive()).client_seq_id for _ in range(3)} == {4, 5, 6}
        asked = [(r.action, r.client_seq_id) for r in upstream.requests if r.openid == "alice"]
        assert [seq for action, seq in asked if action == "single"] == [2, 3, 5]
        assert [seq for action, seq in asked if action == "lonely"] == [4, 6]
        client.send(ack(7))


async def test_a_serial_route_goes_on_behind_a_time_out_and_across_a_resume(
    backend: str,
) -> None:
    sets = (SERIAL, "dispatch.task_timeout=2s")
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        plain_client(gateway.address) as old,
        plain_client(gateway.address) as new,
    ):
        started = await old.login("alice")
        old.send(business(2, "single", b"never"))
        await upstream.until_asked("single")
        resumed = await new.resume(started, 1)
        assert resumed.max_client_seq == 2
        assert await old.closed() == 4409
        refusal = await new.receive()
        assert (refusal.client_seq_id, error(refusal).error_code) == (2, 504)
        upstream.turns[b"next"].set()
        new.send(business(3, "single", b"next"))
        push = await new.receive()
        assert (push.client_seq_id, answer(push).data) == (3, b"next")
