"""Pushes that reach the owner of their session, whichever process was asked."""

from __future__ import annotations

import asyncio

import pytest

from gatesvr._pb import upstream_pb2 as pb
from gatesvr.service.push_api import Push

from ..dispatch.fakes import settle
from ..dispatch.rig import business
from .rig import travelling
from .routed import RoutedCluster, texts


@travelling
async def test_a_push_reaches_its_session_from_each_process() -> None:
    async with RoutedCluster("abc") as cluster:
        client, session, _ = await cluster.a.log_in()
        for name, member in cluster.members.items():
            one = await member.api.push(
                session.session_id, target_type="session", data=name.encode()
            )
            other = await member.api.push("alice", data=name.upper().encode())
            assert (one.success, one.sessions, other.success, other.sessions) == (True, 1, True, 1)
        assert await texts(client) == ["a", "A", "b", "B", "c", "C"]
        assert cluster.wire.counts["Push"] == 4
        assert cluster.wire.counts["read"] == 2
        for member in cluster.members.values():
            for kind in ("session", "openid"):
                nobody = await member.api.push("nobody", target_type=kind)  # type: ignore[arg-type]
                assert nobody.error_code == "NOT_FOUND"
        counted = [p.engine.commands.counters for p in cluster]
        assert [(c.pushes, c.not_found) for c in counted] == [(4, 2)] * 3


@travelling
async def test_a_copy_that_was_replaced_swallows_no_push_to_its_user() -> None:
    async with RoutedCluster() as cluster:
        old, session, _ = await cluster.a.log_in()
        cluster.wire.order("Replaced", "lose", times=9)
        new, _, _ = await cluster.b.log_in()
        assert session.is_valid  # nobody has told it
        assert await cluster["a"].user("alice", "x") == ""
        assert (await texts(old), await texts(new)) == ([], ["x"])


@travelling
async def test_a_user_with_several_sessions() -> None:
    async with RoutedCluster("abc", on_duplicate="allow") as cluster:
        clients = [(await p.log_in())[0] for p in (cluster.a, cluster.a, cluster.b)]
        response = await cluster["a"].push(target_type="openid", target_id="alice", data=b"x")
        assert (response.success, response.sessions) == (True, 3)
        assert [await texts(c) for c in clients] == [["x"]] * 3
        # One of them may have it or not: nobody can say that all have, nor that none has.
        cluster.wire.order("Push", "lose", times=99)
        response = await cluster["a"].push(target_type="openid", target_id="alice", data=b"y")
        assert (response.success, response.error_code) == (False, "UNKNOWN")
        cluster.wire.faults.clear()
        assert [await texts(c) for c in clients] == [["y"], ["y"], []]


@travelling
async def test_a_bound_notify_names_one_session() -> None:
    async with RoutedCluster("ab", on_duplicate="allow") as cluster:
        client, session, _ = await cluster.b.log_in()
        await client.send(business(2, "echo"))
        bound = {"sync_hint": pb.NSH_AFTER_RESPONSE, "bind_client_seq_id": 2}
        a = cluster["a"]
        assert await a.user("alice", "1", **bound) == ""
        await cluster.a.log_in()
        assert await a.user("alice", "2", **bound) == "AMBIGUOUS"
        assert await a.user("alice", "3", **bound, bind_session_id=session.session_id) == ""
        assert await a.user("alice", "4", **bound, bind_session_id="other") == "NOT_FOUND"
        named = {"target_type": "session", "target_id": session.session_id, "data": b"5", **bound}
        assert (await a.push(**named)).success
        assert (await a.push(**named, bind_session_id="other")).error_code == "NOT_FOUND"
        late = {**named, "bind_client_seq_id": 3}
        assert (await a.push(**late)).error_code == "NO_SUCH_REQUEST"
        cluster.b.upstream.answer(2)
        assert await texts(client) == ["answer", "1", "3", "5"]


@travelling
async def test_a_push_with_a_wrong_field_is_refused_where_it_is_asked() -> None:
    async with RoutedCluster() as cluster:
        await cluster.b.log_in()
        a = cluster["a"]
        assert await a.user("alice", "x", target_type="nobody") == "INVALID"
        assert await a.user("", "x") == "INVALID"
        assert await a.user("nobody", "x", msg_type="\x00") == "INVALID"
        assert await a.user("", "x", target_type="session") == "INVALID"
        assert await a.user("gone", "x", target_type="session", bind_session_id="s") == "INVALID"
        assert a.commands.counters.invalid == 5
        assert cluster.wire.counts["Push"] == 0


@travelling
async def test_a_push_waits_for_a_session_that_moves() -> None:
    async with RoutedCluster("abc") as cluster:
        client, session, token = await cluster.a.log_in()
        held = cluster.wire.order("move", "hold")
        client.lose()
        other = cluster.b.client()
        resuming = asyncio.create_task(
            other.start("", session_id=session.session_id, resume_token=token, last_acked_seq_id=1)
        )
        await settle(20)
        pushing = asyncio.create_task(cluster["c"].user("alice", "x"))
        await settle(20)
        assert not pushing.done()
        held.release()
        assert (await resuming).resumed
        assert await pushing == ""
        assert await texts(other) == ["x"]


@travelling
async def test_a_directory_that_does_not_answer_makes_a_push_busy() -> None:
    async with RoutedCluster() as cluster:
        _, session, _ = await cluster.a.log_in()
        cluster.wire.cut("a")
        response = await cluster["a"].push(target_type="openid", target_id="alice", data=b"x")
        assert (response.error_code, response.retry_after_ms) == ("BUSY", 50)
        named = {"target_type": "session", "target_id": session.session_id}
        assert (await cluster["a"].push(**named, data=b"y")).success
        cluster.wire.mend("a")


@travelling
async def test_a_session_that_is_replaced_while_it_is_looked_for() -> None:
    async with RoutedCluster() as cluster:
        old, _, _ = await cluster.b.log_in()
        held = cluster.wire.order("Push", "hold")
        pushing = asyncio.create_task(cluster["a"].user("alice", "x"))
        await settle(20)
        new, _, _ = await cluster.a.log_in()
        await settle(20)
        held.release()
        assert await pushing == ""
        assert await texts(new) == ["x"]
        assert "x" not in await texts(old)


# Streams.


@travelling
async def test_a_stream_keeps_the_order_however_a_session_is_named() -> None:
    async with RoutedCluster("ab", max_queue_size=5000) as cluster:
        alice, session, _ = await cluster.b.log_in("alice")
        bob, other, _ = await cluster.a.log_in("bob")
        async with cluster["a"].api.push_stream() as stream:
            cluster.wire.order("find", "hold", behind=1).release()
            pushes = []
            for number in range(100):
                data = b"%d" % number
                pushes.append(
                    Push("alice", data=data)
                    if number % 3
                    else Push(session.session_id, "session", data=data)
                )
                pushes.append(
                    Push(
                        "bob" if number % 2 else other.session_id,
                        "openid" if number % 2 else "session",
                        data=data,
                    )
                )
            pushes.append(Push("nobody"))
            results = await stream.push(*pushes)
        assert [r.error_code for r in results] == [""] * 200 + ["NOT_FOUND"]
        numbers = [str(number) for number in range(100)]
        assert await texts(alice) == numbers
        assert await texts(bob) == numbers


@travelling
async def test_a_session_that_moves_holds_up_no_other() -> None:
    async with RoutedCluster("abc") as cluster:
        client, session, token = await cluster.b.log_in("alice")
        bob, _, _ = await cluster.b.log_in("bob")
        held = cluster.wire.order("move", "hold")
        client.lose()
        moving = cluster.c.client()
        resuming = asyncio.create_task(
            moving.start("", session_id=session.session_id, resume_token=token, last_acked_seq_id=1)
        )
        await settle(20)
        order = cluster["a"].commands.pushes.stream()

        def batch(data: bytes) -> asyncio.Future[list[pb.UnicastPushResponse]]:
            pushes = (
                Push("alice", data=data),
                Push(session.session_id, "session", data=data + b"!"),
                Push("bob", data=data),
            )
            return asyncio.ensure_future(order.push_batch([push.message() for push in pushes]))

        first, second = batch(b"1"), batch(b"2")
        await settle(30)
        assert await texts(bob) == ["1", "2"]
        assert not first.done()
        held.release()
        await resuming
        assert [r.error_code for r in await first + await second] == [""] * 6
        assert await texts(moving) == ["1", "1!", "2", "2!"]


@travelling
async def test_a_stream_s_push_does_not_follow_later_ones_to_another_session() -> None:
    async with RoutedCluster() as cluster:
        await cluster.b.log_in()
        order = cluster["a"].commands.pushes.stream()
        held = cluster.wire.order("Push", "hold")
        first = asyncio.ensure_future(order.push_batch([Push("alice", data=b"1").message()]))
        await settle(20)
        new, session, _ = await cluster.a.log_in()
        await settle(20)
        later = Push(session.session_id, "session", data=b"2").message()
        assert (await order.push_batch([later]))[0].success
        held.release()
        (response,) = await first
        assert response.error_code == "BUSY"
        assert await texts(new) == ["2"]


@travelling
async def test_an_error_ends_one_push_and_not_the_line() -> None:
    async with RoutedCluster() as cluster:
        client, session, _ = await cluster.b.log_in()
        order = cluster["a"].commands.pushes.stream()
        node = cluster.a.node
        push, calls = node.push, []

        async def broken(*args: object, **kwargs: object) -> object:
            calls.append(args)
            if len(calls) == 1:
                raise RuntimeError("broken")
            return await push(*args, **kwargs)  # type: ignore[arg-type]

        node.push = broken  # type: ignore[method-assign,assignment]
        named = [Push(session.session_id, "session", data=d).message() for d in (b"1", b"2")]
        first, second = order.push_batch(named[:1]), order.push_batch(named[1:])
        done = asyncio.gather(first, second, return_exceptions=True)
        failed, fine = await done
        assert isinstance(failed, RuntimeError)
        assert not isinstance(fine, BaseException)
        assert fine[0].success
        assert await texts(client) == ["2"]


@pytest.mark.parametrize("count", [1, 3])
def test_pushes_of_one_turn_share_a_question(count: int) -> None:
    @travelling
    async def run() -> None:
        async with RoutedCluster() as cluster:
            await cluster.b.log_in()
            cluster.wire.counts.clear()
            pushing = [cluster["a"].user("alice", str(n)) for n in range(count)]
            assert await asyncio.gather(*pushing) == [""] * count
            assert cluster.wire.counts["find"] == 1
            assert await cluster["a"].user("alice", "later") == ""
            assert cluster.wire.counts["find"] == 2

    run()
