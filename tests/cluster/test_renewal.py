"""What a node learns when it renews its lease, and what it does while it cannot."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gatesvr._pb import message_pb2 as pb
from gatesvr.protocol.messages import LostReason

from ..dispatch.fakes import settle
from .rig import LEASE, Cluster, travelling

if TYPE_CHECKING:
    import pytest


@travelling
async def test_a_session_that_another_node_has_goes() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        entry = cluster.entry(session.session_id)
        cluster.entries.move(entry.session_id, "a", entry.epoch, "b", a.now)
        await cluster.pass_time(3)
        assert a.session(session.session_id) is None
        assert client.closed is not None
        assert client.closed[0] == 4503
        # An entry that names a node which has no such session goes, too.
        await cluster.pass_time(3)
        assert cluster.entry(session.session_id) is None
        assert b.moves["orphans"] == 1
        _, response, _ = await b.resume(session, token)
        assert response.lost_reason == pb.LOST_UNKNOWN_SESSION


@travelling
async def test_a_session_that_was_buried_goes() -> None:
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        cluster.wire.cut("a")
        cluster.wire.cut("a", "b")
        await cluster.pass_time(8)
        _, response, _ = await b.resume(session, token)
        assert response.lost_reason == pb.LOST_UNKNOWN_SESSION
        assert session.is_valid
        cluster.wire.mend("a")
        await cluster.pass_time(3)
        assert not session.is_valid
        assert client.closed is not None
        assert client.closed[0] == 4503
        assert a.moves["lost"] == 1


@travelling
async def test_only_what_was_named_in_its_epoch_is_judged() -> None:
    """While the question is on its way, a session leaves and comes back, another is made."""
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        client, session, token = await a.log_in()
        client.lose()
        held = cluster.wire.order("renew", "hold", "a")
        await asyncio.sleep(LEASE / 3 + 0.1)
        assert held.seen == 1
        assert await a.node.give(session, "b")
        _, response, _ = await a.resume(session, token, 1)
        assert response.resumed
        _, other, _ = await a.log_in("bob")
        back = a.session(session.session_id)
        assert back is not None
        held.release()
        await settle(20)
        assert back.is_valid
        assert other.is_valid
        assert a.moves["lost"] == a.moves["orphans"] == 0
        del b


@travelling
async def test_an_answer_that_comes_late_judges_nothing_newer() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client, session, _ = await a.log_in()
        client.lose()
        asked = a.node._renewal._compare
        owned = {session.session_id: session.epoch}
        renewed = cluster.entries.renew("a", {session.session_id: session.epoch + 7}, a.now)
        assert renewed is not None
        assert await a.node.give(session, "b")
        assert await cluster.b.node.give(cluster.b.session(session.session_id), "a")  # type: ignore[arg-type]
        asked(owned, renewed)
        back = a.session(session.session_id)
        assert back is not None
        assert back.is_valid


@travelling
async def test_a_node_that_stood_still_knows_that_its_lease_is_out() -> None:
    """Its sessions do not count that time, the directory and its siblings do."""
    async with Cluster(resume_window=8) as cluster:
        a, b = cluster.a, cluster.b
        client, session, _ = await a.log_in()
        client.lose()
        cluster.wire.cut("a")
        held = cluster.wire.order("Push", "hold", times=9)
        pushing = asyncio.create_task(b.push(session.session_id, push_id="p"))
        await settle()
        await asyncio.sleep(60)
        a.lost_s = 60
        assert await pushing == "UNKNOWN"
        held.release()
        await settle(20)
        assert a.moves["pushes_late"] == 1
        assert a.moves["cut_off"] == 1
        a.engine.sweep()
        assert session.is_valid
        assert (await a.client().start("bob")).error.error_code == 503
        assert a.moves["starts_cut_off"] == 1


@travelling
async def test_a_node_that_was_forgotten_drops_its_sessions_and_joins_again() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        client, session, _ = await a.log_in()
        cluster.entries.leave("a", a.now)
        assert len(cluster.entries) == 0
        await cluster.pass_time(3)
        assert not session.is_valid
        assert client.closed is not None
        assert client.closed[0] == 4503
        assert a.moves["forgotten"] == 1
        await a.log_in()


@travelling
async def test_the_end_of_a_session_is_certain() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        _, session, _ = await a.log_in()
        cluster.wire.cut("a")
        a.sessions.close(session, 0, "", a.now)
        await cluster.pass_time(20)
        assert a.moves["closing"] == 1
        cluster.wire.mend("a")
        await cluster.pass_time(3)
        assert a.moves["closing"] == 0
        assert cluster.entry(session.session_id) is None
        assert a.moves["orphans"] == 0


@travelling
async def test_a_renewal_leaves_an_end_that_is_on_its_way_alone() -> None:
    """Its entry is there still, and names this node; a kick's tombstone must not get lost."""
    async with Cluster() as cluster:
        a = cluster.a
        _, session, _ = await a.log_in()
        held = cluster.wire.order("remove", "hold", times=9)
        a.sessions.kick(session, "", a.now)
        await cluster.pass_time(3)
        assert a.moves["orphans"] == 0
        assert cluster.owner(session.session_id) == "a"
        held.release()
        await cluster.pass_time(3)
        assert cluster.entry(session.session_id).reason is LostReason.KICKED


@travelling
async def test_a_late_end_harms_no_other_life_of_the_session() -> None:
    """Another node has it by then: its entry stays."""
    async with Cluster() as cluster:
        a, b = cluster.a, cluster.b
        _, session, _ = await a.log_in()
        entry = cluster.entry(session.session_id)
        cluster.entries.move(entry.session_id, "a", entry.epoch, "b", a.now)
        a.sessions.close(session, 0, "", a.now)
        await settle(20)
        assert cluster.owner(session.session_id) == "b"
        assert a.moves["closing"] == 0
        del b


@travelling
async def test_many_ends_are_removed_a_few_at_a_time() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        for number in range(150):
            cluster.entries.create(f"s{number}", "a", "alice", a.now)
        held = cluster.wire.order("remove", "hold", times=999)
        for number in range(150):
            entry = cluster.entry(f"s{number}")
            a.node._ends.add(entry.session_id, entry.epoch, LostReason.KICKED)
            a.node._ends.add(entry.session_id, entry.epoch)
        await settle()
        assert held.seen == 64
        assert "s149" in a.node._ends
        held.release()
        await a.node._ends.wait()
        assert len(cluster.entries) == 0
        assert cluster.entry("s149").reason is LostReason.KICKED


@travelling
async def test_a_node_that_stops_leaves_nothing() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        _, session, _ = await a.log_in()
        _, other, _ = await a.log_in("bob")
        a.sessions.kick(other, "", a.now)
        await a.stop()
        a.is_alive = False
        assert len(cluster.entries) == 0
        assert cluster.entry(other.session_id).reason is LostReason.KICKED
        assert [node.node_id for node in await cluster.directory.nodes()] == ["b"]
        del session


@travelling
async def test_a_node_stops_without_the_directory() -> None:
    async with Cluster() as cluster:
        a = cluster.a
        _, session, _ = await a.log_in()
        cluster.wire.cut("a")
        a.sessions.close(session, 0, "", a.now)
        await a.stop()
        a.is_alive = False
        assert cluster.owner(session.session_id) == "a"


@travelling
async def test_a_node_joins_as_soon_as_there_is_a_directory() -> None:
    async with Cluster("a") as cluster:
        cluster.wire.cut("b")
        booting = asyncio.create_task(cluster.boot("b"))
        await cluster.pass_time(5)
        assert not booting.done()
        cluster.wire.mend("b")
        process = await booting
        await process.log_in()


@travelling
async def test_a_fault_of_one_renewal_does_not_end_the_lease(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Cluster() as cluster:
        a = cluster.a
        _, session, _ = await a.log_in()
        watch = a.node._renewal.watch_nodes

        async def fail() -> None:
            a.node._renewal.watch_nodes = watch  # type: ignore[method-assign]
            raise RuntimeError("unexpected")

        a.node._renewal.watch_nodes = fail  # type: ignore[method-assign]
        await cluster.pass_time(3 * LEASE)
        assert session.is_valid
        assert cluster.entry(session.session_id) is not None
        assert "renewal_failed" in caplog.text
