"""Broadcasts, kicks, queries and registrations over all processes."""

from __future__ import annotations

import asyncio

import pytest

from gatesvr._pb import upstream_pb2 as pb
from gatesvr.control.targets import RefusedError
from gatesvr.errors import GatesvrError, LostReason, UpstreamError

from ..dispatch.fakes import settle
from ..dispatch.rig import business
from .rig import travelling
from .routed import RoutedCluster, texts

TURNS = 5
"""Resumes that a session has at once."""

# Broadcast and multicast.


@travelling
async def test_each_process_broadcasts_once() -> None:
    async with RoutedCluster("abc") as cluster:
        clients = [(await p.log_in(name))[0] for p, name in zip(cluster, "xyz", strict=True)]
        clients[2].lose()
        result = await cluster["b"].api.broadcast(data=b"1")
        assert (result.success, result.sessions) == (True, 2)
        result = await cluster["b"].api.broadcast(data=b"2", suspended=True)
        assert (result.success, result.sessions) == (True, 3)
        assert [await texts(c) for c in clients[:2]] == [["1", "2"]] * 2
        named = await cluster["a"].api.multicast(["x", "y", "x", "nobody"], data=b"3")
        assert (named.success, named.sessions) == (True, 2)
        assert [await texts(c) for c in clients[:2]] == [["3"]] * 2
        counters = [p.engine.commands.counters for p in cluster]
        assert [(c.broadcasts, c.multicasts) for c in counters] == [(0, 1), (2, 0), (0, 0)]


@travelling
async def test_a_process_that_does_not_answer_a_broadcast_is_told_of() -> None:
    async with RoutedCluster("abc") as cluster:
        client, _, _ = await cluster.a.log_in("x")
        cluster.wire.order("Bulk", "lose")
        result = await cluster["a"].api.broadcast(data=b"1")
        assert (result.success, result.sessions, result.error_code) == (False, 1, "UNKNOWN")
        assert result.is_unknown
        assert result.message.startswith("1 of 3 processes have not answered")
        await cluster.c.die()
        await cluster.pass_time(10)
        result = await cluster["a"].api.broadcast(data=b"2")  # without a lease it has no sessions
        assert (result.success, result.sessions) == (True, 1)
        assert await texts(client) == ["1", "2"]
        cluster.wire.cut("a")
        assert (await cluster["a"].api.broadcast(data=b"3")).error_code == "BUSY"


@travelling
async def test_a_bulk_push_that_is_refused_reaches_nobody() -> None:
    async with RoutedCluster() as cluster:
        await cluster.b.log_in()
        api = cluster["a"].api
        assert (await api.broadcast(data=bytes(1 << 20))).error_code == "TOO_LARGE"
        assert (await api.multicast(["a"] * 10_001)).error_code == "TOO_LARGE"
        assert (await api.multicast([""])).error_code == "INVALID"
        cluster["a"].commands.pushes.apply(1)
        assert (await api.broadcast(data=b"x")).success
        assert (await api.broadcast(data=b"x")).error_code == "BUSY"
        assert cluster.wire.counts["Bulk"] == 1


@pytest.mark.parametrize("arrives", ["behind", "before"])
def test_a_session_that_moves_takes_a_broadcast_once(arrives: str) -> None:
    @travelling
    async def run() -> None:
        async with RoutedCluster() as cluster:
            client, session, token = await cluster.a.log_in()
            held = cluster.wire.order("Bulk" if arrives == "before" else "move", "hold")
            if arrives == "before":
                # b hears of the broadcast when it has the session, which had it from a.
                sending = asyncio.create_task(cluster["a"].api.broadcast(data=b"x"))
                await settle(20)
                other, response, _ = await cluster.b.resume(session, token, 1)
                held.release()
                await sending
            else:
                # Both have carried it out while neither owned the session.
                client.lose()
                other = cluster.b.client()
                resuming = asyncio.create_task(
                    other.start(
                        "", session_id=session.session_id, resume_token=token, last_acked_seq_id=1
                    )
                )
                await settle(20)
                await cluster["a"].api.broadcast(data=b"x", suspended=True)
                held.release()
                response = await resuming
            assert response.resumed
            await settle(20)
            moved = cluster.b.session(session.session_id)
            assert moved is not None
            assert moved.queue.next_expected_seq == 3

    run()


@travelling
async def test_a_session_that_moves_again_and_again_takes_a_broadcast_once() -> None:
    async with RoutedCluster("ab") as cluster:
        _, session, token = await cluster.a.log_in()
        await cluster["a"].api.broadcast(data=b"x", suspended=True)
        for turn in range(TURNS):
            to = cluster.b if turn % 2 else cluster.a
            _, response, _ = await to.resume(session, token, 1)
            assert response.resumed
            token = response.resume_token
            # With the next push, those push_ids are forgotten that are old.
            assert not await to.push(session.session_id, "y", push_id=str(turn))
            await asyncio.sleep(0.7)
        moved = to.session(session.session_id)
        assert moved is not None
        assert moved.queue.next_expected_seq == 3 + TURNS


@travelling
async def test_a_broadcast_is_for_those_who_have_logged_in_before_it() -> None:
    async with RoutedCluster("ab") as cluster:
        result = await cluster["a"].api.broadcast(data=b"x", suspended=True)
        assert (result.success, result.sessions) == (True, 0)
        _, session, token = await cluster.a.log_in()
        _, response, _ = await cluster.b.resume(session, token, 1)
        assert response.resumed
        await settle(20)
        moved = cluster.b.session(session.session_id)
        assert moved is not None
        assert moved.queue.next_expected_seq == 2


# Kick.


@travelling
async def test_a_kick_reaches_every_session_of_a_user() -> None:
    async with RoutedCluster("abc", on_duplicate="allow") as cluster:
        clients = [(await p.log_in())[0] for p in (cluster.a, cluster.b)]
        inited = cluster.c.client()
        await inited.start("alice")
        other, session, _ = await cluster.b.log_in("bob")
        result = await cluster["a"].api.kick("alice", reason="off", code=4600)
        assert (result.success, result.sessions) == (True, 3)
        for client in (*clients, inited):
            assert client.closed is not None
            assert client.closed[:2] == (4600, "off")
        assert other.closed is None
        result = await cluster["a"].api.kick(session.session_id, target_type="session")
        assert (result.success, result.sessions) == (True, 1)
        for target in ("alice", "bob"):
            assert (await cluster["c"].api.kick(target)).error_code == "NOT_FOUND"
        assert (await cluster["c"].api.kick("bob", code=1)).error_code == "INVALID"
        assert cluster.a.engine.commands.counters.kicks == 2


@travelling
async def test_a_session_that_moves_is_kicked_where_it_arrives() -> None:
    async with RoutedCluster("abc") as cluster:
        _, session, token = await cluster.a.log_in()
        held = cluster.wire.order("move", "hold")
        other = cluster.b.client()
        resuming = asyncio.create_task(
            other.start("", session_id=session.session_id, resume_token=token, last_acked_seq_id=1)
        )
        await settle(20)
        kicking = asyncio.create_task(cluster["c"].api.kick("alice"))
        await settle(20)
        held.release()
        await resuming
        result = await kicking
        assert (result.success, result.sessions) == (True, 1)
        assert other.closed is not None


@travelling
async def test_a_session_that_moves_before_its_login_is_kicked_when_it_arrives() -> None:
    async with RoutedCluster("abc") as cluster:
        client = cluster.a.client()
        response = await client.start("alice")
        await client.send(business(1, "hello"))
        client.lose()
        held = cluster.wire.order("move", "hold")
        other = cluster.b.client()
        token = response.resume_token
        resuming = asyncio.create_task(
            other.start("", session_id=response.session_id, resume_token=token)
        )
        await settle(20)
        await cluster["c"].api.kick("alice")
        held.release()
        await resuming
        await settle(20)
        assert other.closed is not None
        assert other.closed[0] in (4410, 4503)  # with its session, or before it had it
        assert cluster.entry(response.session_id).reason == LostReason.KICKED
        later = cluster.b.client()
        assert (await later.start("alice")).success


@travelling
async def test_a_kick_that_may_have_been_done_is_unknown() -> None:
    async with RoutedCluster("ab") as cluster:
        _, session, _ = await cluster.b.log_in()
        cluster.wire.cut("a", "b")
        for target in (("alice", "openid"), (session.session_id, "session")):
            result = await cluster["a"].api.kick(target[0], target_type=target[1])  # type: ignore[arg-type]
            assert result.error_code == "UNKNOWN"
        cluster.wire.cut("a")
        assert (await cluster["a"].api.kick("alice")).error_code == "UNKNOWN"


# Get and list.


@travelling
async def test_a_session_is_shown_by_its_owner() -> None:
    async with RoutedCluster("abc", on_duplicate="allow") as cluster:
        _, session, _ = await cluster.b.log_in()
        for member in cluster.members.values():
            for target, kind in ((session.session_id, "session"), ("alice", "openid")):
                found = await member.api.get_session(target, target_type=kind)  # type: ignore[arg-type]
                assert found is not None
                assert (found.session_id, found.state) == (session.session_id, "Normal")
                assert await member.api.get_session("nobody", target_type=kind) is None  # type: ignore[arg-type]
        await cluster.a.log_in()
        with pytest.raises(UpstreamError, match="AMBIGUOUS"):
            await cluster["c"].api.get_session("alice")
        with pytest.raises(UpstreamError, match="INVALID"):
            await cluster["c"].api.get_session("")
        assert cluster.c.engine.commands.counters.not_found == 2


@travelling
async def test_a_session_is_not_found_only_where_there_is_none() -> None:
    async with RoutedCluster("abc") as cluster:
        client, session, token = await cluster.a.log_in()
        held = cluster.wire.order("move", "hold")
        client.lose()
        other = cluster.b.client()
        resuming = asyncio.create_task(
            other.start("", session_id=session.session_id, resume_token=token)
        )
        await settle(20)
        with pytest.raises(UpstreamError, match="UNAVAILABLE"):
            await cluster["c"].api.get_session("alice")
        asking = asyncio.create_task(cluster["c"].api.get_session("alice"))
        await settle(20)
        held.release()
        await resuming
        assert (await asking) is not None
        cluster.wire.cut("c")
        with pytest.raises(UpstreamError, match="UNAVAILABLE"):
            await cluster["c"].api.get_session("nobody")


@travelling
async def test_sessions_are_listed_over_all_processes() -> None:
    async with RoutedCluster("abc") as cluster:
        made = []
        for number in range(30):
            process = cluster.processes["abc"[number % 3]]
            made.append(await process.log_in(f"u{number}"))
        ids = sorted(session.session_id for _, session, _ in made)
        listed = [each.session_id async for each in cluster["a"].api.sessions(page_size=7)]
        assert listed == ids
        # One that moves between two pages is listed once all the same.
        listed = []
        async for each in cluster["b"].api.sessions(page_size=4):
            listed.append(each.session_id)
            if len(listed) == 6:
                _, session, token = next(m for m in made if m[1].session_id == ids[0])
                await cluster.c.resume(session, token, 1)
                _, session, token = next(m for m in made if m[1].session_id == ids[-1])
                await cluster.a.resume(session, token, 1)
                await settle(20)
        assert listed == ids
        (one,) = [each async for each in cluster["c"].api.sessions(openid="u7")]
        assert one.openid == "u7"
        assert [e async for e in cluster["c"].api.sessions(state="Suspended")] == []
        assert len([e async for e in cluster["c"].api.sessions(zone="1")]) == 30


@travelling
async def test_a_list_with_a_hole_is_an_error() -> None:
    async with RoutedCluster("abc") as cluster:
        await cluster.a.log_in()
        cluster.wire.order("Page", "lose")
        assert len([e async for e in cluster["b"].api.sessions()]) == 1  # it was asked again
        cluster.wire.cut("a", "b")
        with pytest.raises(UpstreamError, match="UNAVAILABLE"):
            [e async for e in cluster["b"].api.sessions()]
        sessions = cluster["b"].commands.sessions
        for wrong in ({"page_token": "\x00"}, {"page_size": 1001}, {"state": "x"}):
            with pytest.raises(RefusedError):
                await sessions.list(pb.ListSessionsRequest(**wrong))  # type: ignore[arg-type]


# Registration.


def endpoint(port: int = 7000, **fields: object) -> pb.UpstreamRegisterRequest:
    fields = {"address": f":{port}", "service_name": "chat", "lease_seconds": 30, **fields}
    return pb.UpstreamRegisterRequest(**fields)  # type: ignore[arg-type]


def tables(cluster: RoutedCluster) -> list[set[tuple[str, str]]]:
    return [
        {(e.address, e.lease_id) for e in member.registry.endpoints}
        for name, member in cluster.members.items()
        if cluster.processes[name].is_alive
    ]


@travelling
async def test_registrations_are_known_to_all() -> None:
    async with RoutedCluster("abc") as cluster:
        first = await cluster["c"].commands.registration.register(endpoint(), "127.0.0.1")
        assert first.success
        assert tables(cluster) == [{("127.0.0.1:7000", first.lease_id)}] * 3
        again = await cluster["b"].commands.registration.register(endpoint(weight=3), "127.0.0.1")
        assert again.lease_id == first.lease_id
        assert [m.registry.endpoints[0].weight for m in cluster.members.values()] == [3, 3, 3]
        assert [m.added for m in cluster.members.values()] == [["127.0.0.1:7000"] * 2] * 3
        # The rules are those of one place.
        foreign = await cluster["b"].commands.registration.register(endpoint(), "127.0.0.1", "eve")
        assert foreign.error_code == "INVALID"
        other = await cluster["b"].commands.registration.register(endpoint(7001), "127.0.0.1")
        assert tables(cluster) == [{("127.0.0.1:7001", other.lease_id)}] * 3
        await cluster.boot("d")
        assert tables(cluster)[3] == tables(cluster)[0]
        lease = pb.LeaseRequest(lease_id=other.lease_id)
        for member in cluster.members.values():
            assert (await member.commands.registration.keep_alive(lease)).success
        gone = await cluster["d"].commands.registration.deregister(lease)
        assert gone.success
        assert tables(cluster) == [set()] * 4
        assert (
            await cluster["a"].commands.registration.keep_alive(lease)
        ).error_code == "NOT_FOUND"


@travelling
async def test_a_lease_ends_everywhere() -> None:
    async with RoutedCluster("abc") as cluster:
        await cluster["c"].commands.registration.register(endpoint(), "127.0.0.1")
        assert [m.registry.get_timer() is None for m in cluster.members.values()] == [
            False,
            True,
            True,
        ]
        await cluster.pass_time(31)
        cluster["a"].registry.handle_timer(cluster.a.now)
        await cluster.pass_time(3)
        assert tables(cluster) == [set()] * 3


@travelling
async def test_the_next_process_decides_when_one_is_gone() -> None:
    async with RoutedCluster("abc") as cluster:
        first = await cluster["b"].commands.registration.register(endpoint(), "127.0.0.1")
        await cluster["a"].commands.stop()
        await cluster.a.die()
        lease = pb.LeaseRequest(lease_id=first.lease_id)
        busy = await cluster["c"].commands.registration.keep_alive(lease)
        assert busy.error_code == "BUSY"  # its lease is good still
        await cluster.pass_time(10)
        assert (await cluster["c"].commands.registration.keep_alive(lease)).success
        assert cluster["b"].registry.get_timer() is not None
        second = await cluster["c"].commands.registration.register(
            endpoint(7001, zone_id="001"), "127.0.0.1"
        )
        assert [len(table) for table in tables(cluster)] == [2, 2]
        assert second.success


@travelling
async def test_one_that_stops_decides_nothing_and_mirrors_nothing() -> None:
    """Its registry is at rest by then: it knows no time any more."""
    async with RoutedCluster("ab") as cluster:
        await cluster["b"].commands.registration.register(endpoint(), "127.0.0.1")
        (table,) = tables(cluster)[:1]
        stopped = cluster["a"].commands
        await stopped.stop()
        busy = await cluster["b"].commands.registration.register(endpoint(7001), "127.0.0.1")
        assert busy.error_code == "BUSY"
        await cluster.pass_time(2)
        newer = cluster["b"].commands.registration.table()
        newer.version += 100
        assert not stopped.registration.mirrored(newer, 0.0).is_taken
        assert tables(cluster)[0] == table


@travelling
async def test_one_that_decides_again_has_what_was_decided_meanwhile() -> None:
    async with RoutedCluster("abc") as cluster:
        await cluster["a"].commands.registration.register(endpoint(), "127.0.0.1")
        cluster.wire.cut("a")
        await cluster.pass_time(10)
        late = await cluster["a"].commands.registration.register(endpoint(7009), "127.0.0.1")
        assert late.error_code == "BUSY"
        await cluster["c"].commands.registration.register(
            endpoint(7001, zone_id="001"), "127.0.0.1"
        )
        cluster.wire.mend("a")
        await cluster.pass_time(5)
        await cluster["a"].commands.registration.register(
            endpoint(7002, zone_id="002"), "127.0.0.1"
        )
        assert [len(table) for table in tables(cluster)] == [3, 3, 3]


@travelling
async def test_a_table_that_was_not_taken_is_told_again() -> None:
    async with RoutedCluster("abc") as cluster:
        cluster.wire.order("Table", "lose", times=2)
        await cluster["a"].commands.registration.register(endpoint(), "127.0.0.1")
        assert [len(table) for table in tables(cluster)] == [1, 0, 0]
        await cluster.pass_time(3)
        assert [len(table) for table in tables(cluster)] == [1, 1, 1]
        cluster["b"].registry.version += 7  # its configuration has changed
        await cluster["a"].commands.registration.register(endpoint(7001), "127.0.0.1")
        assert len(set(map(frozenset, tables(cluster)))) == 1


@travelling
async def test_a_process_is_not_ready_before_it_has_the_table() -> None:
    async with RoutedCluster("ab") as cluster:
        cluster.wire.order("Greet", "lose", "c", times=99)
        with pytest.raises(GatesvrError, match="do not answer"):
            await cluster.boot("c")
