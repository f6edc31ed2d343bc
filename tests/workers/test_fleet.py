"""Several processes shown, and acted on, as one gateway."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gatesvr.admin.api import ROUTES
from gatesvr.admin.questions import (
    DrainBody,
    KickBody,
    KickUserBody,
    LogBody,
    PushBody,
    SessionQuery,
)
from gatesvr.admin.refusal import Refused
from gatesvr.admin.server import AdminServer
from gatesvr.drain import DrainStatus
from gatesvr.errors import GatesvrError
from gatesvr.reload import ReloadReport
from gatesvr.upstream.manager import EndpointStatus
from gatesvr.workers import fleet as fleets
from gatesvr.workers import sums
from gatesvr.workers.questions import figures_to_bytes
from tests.fakes import until

from .fleet_rig import FleetRig

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def fleet_of(count: int = 3, *sets: str) -> Iterator[FleetRig]:
    rig = FleetRig(count, *sets)
    try:
        yield rig
    finally:
        rig.close()


# Lists of sessions.


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["queue", "age", "openid"])
async def test_pages_have_every_session_of_every_worker_once_and_in_order(
    sort: str, order: str
) -> None:
    with fleet_of() as rig:
        for name in range(100):
            # Most are equal by their queues: the order goes on by their ids.
            rig.add_session(name % 3, name, queue=name % 4 // 3, age=name * 7 % 100)
        seen, token = [], ""
        while True:
            page = await rig.fleet.page(
                SessionQuery(sort=sort, order=order, limit=17, page=token)  # type: ignore[arg-type]
            )
            assert (page.total, page.silent) == (100, [])
            seen += page.sessions
            if page.next is None:
                break
            token = page.next
        assert len(seen) == len({row.session for row in seen}) == 100
        keys = {
            "queue": [(row.queue_messages, row.session) for row in seen],
            "age": [round(row.age_s) for row in seen],
            "openid": [row.openid for row in seen],
        }[sort]
        assert keys == sorted(keys, reverse=order == "desc")
        assert all(row.worker == int(row.session, 16) % 3 for row in seen)


async def test_session_that_moves_between_two_pages_is_on_neither_twice() -> None:
    with fleet_of(2) as rig:
        for name in range(20):
            rig.add_session(name % 2, name)
        query = SessionQuery(sort="openid", order="asc", limit=10)
        first = await rig.fleet.page(query)
        for row in first.sessions:  # what is behind stays there
            moved = rig.gateways[0].session_manager.by_id(row.session)
            if moved is not None:
                rig.gateways[0].session_manager.index.remove(moved)
                rig.add_session(1, int(row.session, 16))
        assert first.next is not None
        second = await rig.fleet.page(msgspec.structs.replace(query, page=first.next))
        names = [row.openid for row in (*first.sessions, *second.sessions)]
        assert names == [f"user-{name:04}" for name in range(20)]


async def test_session_on_its_way_is_listed_once() -> None:
    with fleet_of(2) as rig:
        for number in range(2):
            rig.add_session(number, 7)
        page = await rig.fleet.page(SessionQuery())
        assert [row.openid for row in page.sessions] == ["user-0007"]


async def test_page_of_another_list_is_refused() -> None:
    with fleet_of(2) as rig:
        for name in range(4):
            rig.add_session(name % 2, name)
        token = (await rig.fleet.page(SessionQuery(sort="age", limit=1))).next
        with pytest.raises(Refused, match="of another list"):
            await rig.fleet.page(SessionQuery(sort="openid", page=token or ""))


# One session.


async def test_owner_is_asked_for_its_session_wherever_it_has_gone() -> None:
    with fleet_of() as rig:
        session = rig.add_session(1, 5)
        view = await rig.fleet.view(session.session_id)
        assert (view.openid, view.worker) == ("user-0005", 1)
        assert {node for node, _ in rig.peers.asked} == {"node-1"}
        with pytest.raises(Refused) as refused:
            await rig.fleet.view("nobody")
        assert refused.value.status == 404
        # The owner has just handed it over; the directory knows a moment later.
        rig.gateways[1].session_manager.index.remove(session)
        asking = asyncio.create_task(rig.fleet.view(session.session_id))
        await until(lambda: len(rig.peers.asked) == 2)
        entry = rig.entries.read(session.session_id, 0.0)
        now = asyncio.get_running_loop().time()
        rig.entries.move(session.session_id, "node-1", entry.epoch, "node-2", now)  # type: ignore[union-attr]
        rig.add_session(2, 5)
        assert (await asking).worker == 2


async def test_push_and_kick_reach_the_owner() -> None:
    with fleet_of() as rig:
        session = rig.add_session(2, 5)
        assert (await rig.fleet.push(session.session_id, PushBody(content="hello"))).sessions == 1
        assert len(session.queue) == 1
        assert {node for node, _ in rig.peers.asked} == {"node-2"}
        await rig.fleet.kick_session(session.session_id, KickBody(code=4410, reason="enough"))
        assert not session.is_valid
        with pytest.raises(Refused) as refused:
            await rig.fleet.push(session.session_id, PushBody(content="hello"))
        assert refused.value.status == 404


async def test_kick_of_a_user_asks_a_worker_that_answers() -> None:
    with fleet_of() as rig:
        rig.peers.silent.add("node-0")
        rig.add_session(1, 5)
        with pytest.raises(Refused) as refused:  # nobody knows yet that it is silent
            await rig.fleet.kick(KickUserBody(openid="user-0005"))
        assert (refused.value.status, refused.value.code) == (504, "UNKNOWN")
        rig.peers.silent.clear()
        await rig.fleet.sample()
        rig.peers.silent.add("node-0")
        await rig.fleet.sample()
        assert (await rig.fleet.kick(KickUserBody(openid="user-0005"))).sessions == 1


async def test_trace_follows_its_session_to_another_worker() -> None:
    with fleet_of(2) as rig:
        session = rig.add_session(0, 5)
        await rig.fleet.trace(session.session_id, on=True)
        first = await rig.fleet.traced(session.session_id, None, 0.0)
        session.outbox.push(b"x", 0.0)
        events = await rig.fleet.traced(session.session_id, first.mark, 60.0)
        assert [event.event for event in events.events] == ["push"]
        rig.gateways[0].session_manager.index.remove(session)
        entry = rig.entries.read(session.session_id, 0.0)
        now = asyncio.get_running_loop().time()
        rig.entries.move(session.session_id, "node-0", entry.epoch, "node-1", now)  # type: ignore[union-attr]
        there = rig.add_session(1, 5)
        assert (await rig.fleet.traced(session.session_id, events.mark, 0.0)).mark is None
        again = await rig.fleet.traced(session.session_id, events.mark, 0.0)
        there.outbox.push(b"x", 0.0)
        assert (await rig.fleet.traced(session.session_id, again.mark, 60.0)).events
        await rig.fleet.trace(session.session_id, on=False)
        assert (await rig.fleet.traced(session.session_id, again.mark, 0.0)).mark is None


async def test_traces_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets, "MAX_TRACED", 1)
    with fleet_of(2) as rig:
        first, second = rig.add_session(0, 1), rig.add_session(1, 2)
        await rig.fleet.trace(first.session_id, on=True)
        with pytest.raises(Refused, match="1 sessions are traced"):
            await rig.fleet.trace(second.session_id, on=True)
        entry = rig.entries.read(first.session_id, 0.0)
        rig.entries.remove(first.session_id, "node-0", entry.epoch, None, 0.0)  # type: ignore[union-attr]
        rig.fleet.look()
        await rig.fleet.trace(second.session_id, on=True)


# Figures.


async def test_figures_are_sums_that_do_not_fall_when_a_worker_ends() -> None:
    with fleet_of() as rig:
        for number, gateway in enumerate(rig.gateways):
            gateway.engine.stages.login.record(0.01 * (number + 1))
            gateway.session_manager.context.errors.add(503)
            counters = gateway.engine.counters()
            counters["dispatch"].tasks += 10 * (number + 1)  # type: ignore[attr-defined]
            counters["dispatch"].peak_workers = number  # type: ignore[attr-defined]
            rig.add_session(number, number)
        before = (await rig.fleet.sample()).figures
        assert before.counters["dispatch"]["tasks"] == 60
        assert before.counters["dispatch"]["peak_workers"] == 2
        assert sum(before.sessions.values()) == 3
        assert before.histograms["login"].count == 3
        assert before.histograms["login"].max == pytest.approx(0.03, rel=0.04)
        assert before.errors["503"] == 3
        assert before.memory_bytes > 3 * rig.gateways[0].figures().memory_bytes

        rig.lose(2)
        after = (await rig.fleet.sample()).figures
        assert after.counters["dispatch"]["tasks"] == 60
        assert after.histograms["login"].buckets() == before.histograms["login"].buckets()
        assert after.errors["503"] == 3
        assert sum(after.sessions.values()) == 2, "what rises and falls goes with the worker"
        assert after.cpu_s >= before.cpu_s
        assert after.counters["workers"]["deaths"] == 1


async def test_what_a_worker_counts_until_its_end_is_in_the_sums() -> None:
    with fleet_of(2) as rig:
        counters = rig.gateways[0].engine.counters()
        await rig.fleet.sample()
        counters["dispatch"].tasks = 7  # type: ignore[attr-defined]
        assert rig.supervision.on_last_figures is not None
        rig.supervision.on_last_figures("node-0", figures_to_bytes(rig.gateways[0].figures()))
        rig.supervision.on_last_figures("node-0", b"of another release")
        rig.lose(0)
        for _ in range(2):
            assert (await rig.fleet.sample()).figures.counters["dispatch"]["tasks"] == 7


async def test_worker_that_does_not_answer_is_shown_as_such_and_the_rest_is_told() -> None:
    with fleet_of() as rig:
        for name in range(6):
            rig.add_session(name % 3, name)
        rig.gateways[1].engine.counters()["dispatch"].tasks = 7  # type: ignore[attr-defined]
        await rig.fleet.sample()
        rig.peers.silent.add("node-1")
        sample = await rig.fleet.sample()
        assert sample.fleet is not None
        assert [worker.state for worker in sample.fleet.workers] == ["ready", "silent", "ready"]
        assert sample.figures.counters["dispatch"]["tasks"] == 7, "its counters stay"
        page = await rig.fleet.page(SessionQuery())
        assert (len(page.sessions), page.total, page.silent) == (4, 4, [1])
        with pytest.raises(Refused, match="worker 1 does not answer"):
            await rig.fleet.view(f"{1:032x}")
        with pytest.raises(Refused, match="worker 1 does not answer"):
            await rig.fleet.log(LogBody(level="info"))
        rig.peers.silent.clear()
        sample = await rig.fleet.sample()
        assert sample.fleet is not None
        assert {worker.state for worker in sample.fleet.workers} == {"ready"}


async def test_answers_that_were_overtaken_change_nothing() -> None:
    with fleet_of(1) as rig:
        newer = rig.gateways[0].figures()
        seen = fleets._Seen(newer, 5.0)
        seen.take(msgspec.structs.replace(newer, uptime_s=newer.uptime_s - 1, pid=1), 6.0)
        assert (seen.figures, seen.at) == (newer, 5.0)


async def test_states_of_workers() -> None:
    with fleet_of(4) as rig:
        rig.change(0, phase="leaving")
        rig.change(1, phase="starting", restarts=3)
        rig.gateways[2].engine.overload.is_short_of_memory = True
        rig.lose(3)
        replacement = rig.add_worker()
        assert replacement.slot == 0
        sample = await rig.fleet.sample()
        assert sample.fleet is not None
        assert [(w.slot, w.number, w.state) for w in sample.fleet.workers] == [
            (0, 0, "leaving"),
            (0, 4, "ready"),
            (1, 1, "starting"),
            (2, 2, "unready"),
            (3, None, "down"),
        ]
        assert sample.fleet.workers[2].restarts == 3
        assert sample.fleet.workers[3].not_ready == ["short of memory"]
        assert sample.fleet.restarts == 1
        assert {node for node, _ in rig.peers.asked} == {"node-0", "node-2", "node-4"}


async def test_gateway_is_ready_while_a_worker_is() -> None:
    with fleet_of(2) as rig:
        await rig.fleet.sample()
        assert rig.fleet.not_ready() == []
        rig.gateways[0].engine.overload.is_short_of_memory = True
        rig.peers.silent.add("node-1")
        await rig.fleet.sample()
        assert rig.fleet.not_ready() == ["short of memory", "does not answer"]
        for number in range(2):
            rig.change(number, phase="starting")
        assert rig.fleet.not_ready() == ["no worker serves"]
        rig.supervision.status = DrainStatus(phase="goaway")
        assert rig.fleet.not_ready() == ["draining"]
        assert (await rig.fleet.sample()).figures.draining


async def test_endpoints_are_listed_once_as_the_worst_off_sees_them() -> None:
    with fleet_of(2, 'upstream.services.hello=[{address="127.0.0.1:1"}]') as rig:
        for gateway in rig.gateways:
            await gateway.upstream.start()
        alone = [e for e in rig.gateways[0].upstreams() if e.service == "hello"]
        merged = (await rig.fleet.sample()).endpoints
        for gateway in rig.gateways:
            await gateway.upstream.stop(0)
        (hello,) = (endpoint for endpoint in merged if endpoint.service == "hello")
        assert hello.max_open == 2 * alone[0].max_open
        assert hello.address == alone[0].address


def test_worst_state_of_an_endpoint_is_told() -> None:
    good = EndpointStatus(
        service="zone",
        zone="",
        address="10.0.0.1:1",
        name="",
        state="stream",
        is_up=True,
        is_registered=True,
        weight=1,
        open_calls=2,
        waiting_calls=0,
        max_open=10,
        breaker="closed",
        ejections=0,
        answered=100,
        faults=0,
    )
    bad = replace(good, state="down", is_up=False, breaker="open", ejections=2, faults=5)
    other = replace(good, address="10.0.0.2:1")
    found = sums.endpoints([good, other, bad])
    assert found == [replace(bad, open_calls=4, max_open=20, answered=200), other]


# Orders.


async def test_drain_and_reload_go_by_the_supervisor() -> None:
    with fleet_of(2) as rig:
        assert (await rig.fleet.drain(DrainBody(rate=5, timeout=7, to="b:1"))).phase == "unready"
        await rig.fleet.drain(DrainBody())
        assert rig.supervision.drains == [(5, 7, "b:1", "")]
        assert rig.fleet.not_ready() == ["draining"]
        with pytest.raises(Refused) as refused:
            await rig.fleet.reload()
        assert refused.value.status == 501

        async def reload() -> ReloadReport:
            return ReloadReport(needs_restart=["transport.bind"])

        rig.fleet._reload = reload
        assert (await rig.fleet.reload()).needs_restart == ["transport.bind"]


async def test_a_worker_that_is_named_is_looked_at() -> None:
    with fleet_of(2) as rig:
        for worker in (None, 1):
            assert (await rig.fleet.stacks(worker)).tasks
            await rig.fleet.profile(0.01, worker)
        assert rig.peers.asked == [("node-1", "AdminStacks"), ("node-1", "AdminProfile")]
        with pytest.raises(Refused, match="no worker 7"):
            await rig.fleet.stacks(7)


async def test_too_much_at_a_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.workers.desk.MAX_UNDER_WAY", 0)
    with fleet_of(1) as rig:
        session = rig.add_session(0, 1)
        with pytest.raises(Refused, match="too much is asked"):
            await rig.fleet.view(session.session_id)


# The admin server.


async def test_an_upgrade_goes_by_the_supervisor_and_says_why_not() -> None:
    with fleet_of(1) as rig:
        with pytest.raises(Refused, match="cannot be replaced"):
            await rig.fleet.upgrade()
        may_end = asyncio.Event()

        async def upgrade() -> None:
            await may_end.wait()

        async def refuse() -> None:
            raise GatesvrError("an upgrade is under way")

        rig.fleet._upgrade = upgrade
        assert (await rig.fleet.upgrade()).phase == "starting"
        rig.fleet._upgrade = refuse
        with pytest.raises(Refused, match="no upgrade: an upgrade is under way") as caught:
            await rig.fleet.upgrade()
        assert (caught.value.status, caught.value.code) == (409, "REFUSED")
        may_end.set()


async def test_every_route_of_the_admin_server_answers_for_a_fleet() -> None:
    with fleet_of(2, "admin.bind=127.0.0.1:0") as rig:
        session = rig.add_session(1, 5, queue=3)
        admin = AdminServer(rig.fleet, rig.supervision.config.admin)
        await admin.start()
        try:
            async with httpx.AsyncClient(base_url=admin.url, timeout=30, trust_env=False) as http:
                for route in ROUTES:
                    if route.method == "GET" and route.name not in ("stream", "session_stream"):
                        path = route.path.replace("{id}", session.session_id)
                        answer = await http.get(f"api/v1/{path}", params=_least(route.name))
                        assert answer.status_code == 200, (route.name, answer.text)
                        if route.answer is not None:
                            msgspec.json.decode(answer.content, type=route.answer)
                workers = (await http.get("api/v1/workers")).json()
                assert [worker["sessions"] for worker in workers["workers"]] == [0, 1]
                overview = (await http.get("api/v1/overview")).json()
                assert overview["slowest"][0]["queue_messages"] == 3
                assert overview["fleet"]["slots"] == 2
                assert (await http.get("readyz")).status_code == 200
                page = (await http.get("metrics")).text
                async with http.stream(
                    "GET", f"api/v1/sessions/{session.session_id}/stream"
                ) as stream:
                    lines = stream.aiter_lines()
                    assert await anext(lines) == "event: session"
        finally:
            await admin.stop()
        families = {family.name: family for family in text_string_to_metric_families(page)}
        by_worker = families["gatesvr_worker_sessions"].samples
        assert {s.labels["worker"]: s.value for s in by_worker} == {"0": 0, "1": 1}
        assert families["gatesvr_worker_restarts"].samples[0].value == 0
        assert families["gatesvr_workers_deaths"].samples[0].value == 0
        assert sum(sample.value for sample in families["gatesvr_sessions"].samples) == 1


def _least(name: str) -> dict[str, str]:
    return {"seconds": "0.05"} if name == "profile" else {}
