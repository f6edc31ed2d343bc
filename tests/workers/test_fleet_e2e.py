"""A fleet of real processes: what an operator sees of them, and does."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from gatesvr.admin.server import AdminServer
from gatesvr.config import load
from gatesvr.workers.fleet import Fleet
from gatesvr.workers.supervisor import Supervisor
from tests.e2e.harness import gateway_sets
from tests.e2e.plain_client import plain_client
from tests.e2e.plain_upstream import plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.long

CHANGE = {"X-GateSvr": "1"}
DEADLINE_S = 60.0


@asynccontextmanager
async def running_fleet(count: int) -> AsyncIterator[tuple[Supervisor, str, httpx.AsyncClient]]:
    """Run workers and an admin server; yield both, and between them the clients' address."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(plain_upstream())
        sets = gateway_sets("auto", upstream.address, "admin.bind=127.0.0.1:0")
        config = load(
            sets=[*sets, f"workers.count={count}", "workers.restart_min=0.01"], environ={}
        )
        supervisor = Supervisor(config)
        stack.push_async_callback(supervisor.stop)
        ready = await supervisor.start()
        supervisor.go()
        fleet = Fleet(supervisor, supervisor.links, supervisor.entries, slots=count)
        admin = AdminServer(fleet, config.admin)
        await admin.start()
        stack.push_async_callback(admin.stop)
        http = httpx.AsyncClient(base_url=f"{admin.url}api/v1/", timeout=30, trust_env=False)
        yield supervisor, ready[0].udp, await stack.enter_async_context(http)


async def until(ask: Callable[[], Any]) -> Any:
    """Ask until the answer is true; return it."""
    async with asyncio.timeout(DEADLINE_S):
        while not (answer := await ask()):
            await asyncio.sleep(0.02)
        return answer


async def test_operator_sees_all_processes_and_reaches_every_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gatesvr.admin.figures.INTERVAL_S", 0.05)
    async with running_fleet(2) as (supervisor, address, http), AsyncExitStack() as stack:

        async def get(path: str) -> Any:
            answer = await http.get(path)
            assert answer.status_code == 200, answer.text
            return answer.json()

        users = {}
        for number in range(8):
            client = await stack.enter_async_context(plain_client(address))
            users[f"user-{number}"] = client
            await client.login(f"user-{number}")
        page = await get("sessions?sort=openid&order=asc&limit=5")
        assert page["total"] == 8
        rest = await get(f"sessions?sort=openid&order=asc&limit=5&page={page['next']}")
        rows = [*page["sessions"], *rest["sessions"]]
        assert [row["openid"] for row in rows] == sorted(users)

        async def is_counted() -> Any:
            overview = await get("overview")
            return sum(overview["sessions"].values()) == 8 and overview

        overview = await until(is_counted)
        workers = overview["fleet"]["workers"]
        assert [worker["state"] for worker in workers] == ["ready", "ready"]
        assert [worker["pid"] for worker in workers] == [w.pid for w in supervisor.serving()]
        for worker in workers:
            owned = [row for row in rows if row["worker"] == worker["number"]]
            assert worker["sessions"] == len(owned)

        first, second = rows[0], rows[1]
        path = f"sessions/{first['session']}"
        assert (await http.post(f"{path}/trace", json={"on": True}, headers=CHANGE)).is_success
        push = {"msg_type": "notice", "content": "hello"}
        assert (await http.post(f"{path}/push", json=push, headers=CHANGE)).json() == {
            "sessions": 1
        }
        events = [event["event"] for event in (await get(path))["events"]]
        assert "push" in events
        kick = {"openid": second["openid"]}
        assert (await http.post("kick", json=kick, headers=CHANGE)).json() == {"sessions": 1}
        assert (await http.get(f"sessions/{second['session']}")).status_code == 404

        assert await _logins(http) == 8
        victim = supervisor.serving()[0]
        os.kill(victim.pid, signal.SIGKILL)

        async def is_replaced() -> Any:
            fleet = await get("workers")
            ready = [worker["number"] for worker in fleet["workers"] if worker["state"] == "ready"]
            return ready == [2, 1] and fleet

        fleet = await until(is_replaced)
        assert fleet["restarts"] == 1
        assert await _logins(http) == 8, "what a dead worker has counted stays"


async def test_an_upgrade_loses_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_fleet(2) as (supervisor, address, http):
        for number in range(4):
            async with plain_client(address) as client:
                await client.login(f"user-{number}")
        # From now on nothing is heard of workers but what they say themselves.
        monkeypatch.setattr("gatesvr.workers.fleet.SAMPLE_S", 0.0)
        await supervisor.upgrade(lambda: supervisor.config)

        async def has_left() -> Any:
            return len(supervisor.workers) == 2

        await until(has_left)
        monkeypatch.undo()

        async def all_counted() -> Any:
            return await _logins(http) == 4

        await until(all_counted)


async def _logins(http: httpx.AsyncClient) -> float:
    page = (await http.get(http.base_url.join("/metrics"))).text
    (line,) = (
        line for line in page.splitlines() if line.startswith("gatesvr_session_logins_total")
    )
    return float(line.split()[1])
