"""Upgrades of a supervisor whose workers pretend: what is given up changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from gatesvr.config import Config, WebConfig
from gatesvr.errors import ConfigError
from gatesvr.workers import slots
from gatesvr.workers.upgrade import UpgradeError

from ..workers.test_supervisor import config, is_alive, supervising, until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("crash-later", "cannot serve: was ended by SIGKILL"),
        ("fail-later", "cannot serve: transport.cert: it is none"),
    ],
)
async def test_new_workers_that_cannot_serve_change_nothing(
    how: str, why: str, tmp_path: Path
) -> None:
    async with supervising(how, tmp_path, 1) as supervisor:
        before, was = supervisor.view(), supervisor.config
        with pytest.raises(UpgradeError, match=f"the new worker 1 {why}"):
            await supervisor.upgrade(lambda: config(2, start_timeout=7))
        await until(lambda: len(supervisor.workers) == 1)
        assert [view[:4] for view in supervisor.view()] == [view[:4] for view in before]
        assert supervisor.config is was
        status = supervisor.upgrade_status()
        assert (status.phase, status.workers, status.workers_ready) == ("given_up", 1, 0)
        assert why in status.why
        assert status.needs_restart == ["workers.count"]
        counters = supervisor.counters
        assert (counters.upgrades, counters.upgrades_given_up, counters.running) == (1, 1, 1)


async def test_new_workers_that_do_not_get_ready_are_ended(tmp_path: Path) -> None:
    # These say that they serve, and do not answer when they are asked how they are.
    async with supervising("serve", tmp_path, 1) as supervisor:
        old = supervisor.serving()[0]
        upgrading = asyncio.create_task(supervisor.upgrade(lambda: config(1, start_timeout=0.3)))
        await until(lambda: supervisor.upgrade_status().phase == "starting")
        with pytest.raises(UpgradeError, match="an upgrade is under way"):
            await supervisor.upgrade(lambda: config(1))
        with pytest.raises(UpgradeError, match=r"was not ready within 0\.3 s: it does not answer"):
            await upgrading
        await until(lambda: [worker.number for worker in supervisor.workers.values()] == [0])
        assert supervisor.serving() == [old]
        assert is_alive(old.pid)
        assert (supervisor.counters.upgrades, supervisor.counters.deaths) == (1, 0)


async def test_a_slot_whose_worker_dies_meanwhile_gets_another_one(tmp_path: Path) -> None:
    async with supervising("serve", tmp_path, 1) as supervisor:
        old = supervisor.serving()[0]
        upgrading = asyncio.create_task(supervisor.upgrade(lambda: config(1, start_timeout=0.3)))
        await until(lambda: len(supervisor.workers) == 2)
        os.kill(old.pid, signal.SIGKILL)
        with pytest.raises(UpgradeError):
            await upgrading
        await until(lambda: [worker.number for worker in supervisor.serving()] == [2])


async def test_a_drain_ends_an_upgrade_and_is_its_reason(tmp_path: Path) -> None:
    async with supervising("hang", tmp_path, 1) as supervisor:
        upgrading = asyncio.create_task(supervisor.upgrade(lambda: config(1)))
        await until(lambda: len(supervisor.workers) == 2)
        draining = asyncio.create_task(supervisor.drain(ready_wait=0))
        with pytest.raises(
            UpgradeError, match="the new worker 1 is not needed: the gateway drains"
        ):
            await upgrading
        await draining


async def test_a_configuration_that_cannot_be_read_starts_nothing(tmp_path: Path) -> None:
    def read() -> Config:
        raise ConfigError("is none", field="transport.bind")

    async with supervising("serve", tmp_path, 1) as supervisor:
        with pytest.raises(UpgradeError, match=r"transport\.bind: is none"):
            await supervisor.upgrade(read)
        assert (supervisor.counters.starts, supervisor.counters.upgrades_given_up) == (1, 1)
        assert supervisor.upgrade_status().phase == "none"


async def test_none_begins_while_the_gateway_drains(tmp_path: Path) -> None:
    async with supervising("serve", tmp_path, 1) as supervisor:
        supervisor.hurry()
        with pytest.raises(UpgradeError, match="the gateway drains"):
            await supervisor.upgrade(lambda: config(1))
        assert supervisor.counters.upgrades == 0


def test_new_workers_get_what_a_reload_cannot_change() -> None:
    from gatesvr.config import TransportConfig
    from gatesvr.config.changes import within_reach

    old = config(2)
    new = Config(
        transport=TransportConfig(
            bind="127.0.0.1:1", backend="aioquic", web=WebConfig(bind="127.0.0.1:2")
        ),
        push=old.push,
        workers=config(3, upgrade_timeout=7).workers,
    )
    found, kept = within_reach(old, new, is_upgrade=True)
    assert sorted(kept) == ["transport.bind", "transport.web.bind", "workers.count"]
    assert (found.transport.backend, found.workers.upgrade_timeout) == ("aioquic", 7)
    assert (found.transport.bind, found.workers.count) == (old.transport.bind, 2)


async def test_one_that_waited_for_a_reload_does_not_begin_in_a_drain(tmp_path: Path) -> None:
    async with supervising("serve", tmp_path, 1) as supervisor:
        await supervisor._reloading.acquire()
        upgrading = asyncio.create_task(supervisor.upgrade(lambda: config(1)))
        await asyncio.sleep(0)
        draining = asyncio.create_task(supervisor.drain(ready_wait=0))
        await asyncio.sleep(0)
        supervisor._reloading.release()
        with pytest.raises(UpgradeError, match="the gateway drains"):
            await upgrading
        await draining
        assert supervisor.counters.starts == 1


async def test_one_that_finds_no_numbers_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "NUMBERS", 3)  # two for slot 0, one for slot 1
    async with supervising("serve", tmp_path, 2) as supervisor:
        with pytest.raises(UpgradeError, match="all numbers of slot 1 are in use"):
            await supervisor.upgrade(lambda: config(2))
        await until(lambda: len(supervisor.workers) == 2)
        assert [worker.number for worker in supervisor.serving()] == [0, 1]
