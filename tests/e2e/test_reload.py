"""Reloads and exchanged certificates under load: nothing is lost, and no connection ends."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gatesvr import Client, Gateway
from gatesvr.config import load
from gatesvr.errors import ConnectionFailed
from gatesvr.reload import Reloader
from gatesvr.transport.tls import generate_certificate

from ..fakes import until
from .harness import counter
from .plain_upstream import PlainUpstream, plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CLIENTS = 4


@pytest.fixture(autouse=True)
def _read_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.transport.tls.SETTLE_S", 0.0)


class Load:
    """Clients that ask all the time, and are pushed to all the time."""

    def __init__(self, gateway: Gateway, clients: list[Client]) -> None:
        self._gateway = gateway
        self._clients = clients
        self.answers = 0
        self.notifies = [0] * len(clients)
        self._pushed = 0
        self._is_over = False

    async def run(self) -> None:
        """Ask, push and check until stop()."""
        reading = [asyncio.create_task(self._read(i)) for i in range(len(self._clients))]
        async with asyncio.TaskGroup() as group:
            for i in range(len(self._clients)):
                group.create_task(self._ask(i))
            group.create_task(self._push())
        await until(lambda: set(self.notifies) == {self._pushed})
        for task in reading:
            task.cancel()
        for result in await asyncio.gather(*reading, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError)

    def stop(self) -> None:
        self._is_over = True

    async def go_on(self) -> None:
        """Wait until every part of it has got on."""
        answers, notifies = self.answers, min(self.notifies)
        await until(lambda: self.answers > answers + 50 and min(self.notifies) > notifies + 5)

    async def _ask(self, number: int) -> None:
        asked = 0
        while not self._is_over:
            asked += 1
            data = b"%d of %d" % (asked, number)
            answer = await self._clients[number].request("echo", data)
            assert (answer.code, answer.data) == (200, data)
            self.answers += 1

    async def _push(self) -> None:
        while not self._is_over:
            self._pushed += 1
            for number in range(len(self._clients)):
                await self._gateway.push(f"user-{number}", content=str(self._pushed))
            await asyncio.sleep(0.001)

    async def _read(self, number: int) -> None:
        async for notify in self._clients[number]:
            self.notifies[number] += 1
            assert notify.content == str(self.notifies[number])


@asynccontextmanager
async def loaded(file: Path, ca: Path | None) -> AsyncIterator[tuple[Gateway, Load]]:
    """Run a gateway of a configuration file, and a load whose every message must arrive."""
    async with Gateway(load(file)) as gateway:
        clients = [Client(gateway.address, openid=f"user-{i}", ca=ca) for i in range(CLIENTS)]
        await asyncio.gather(*(client.connect() for client in clients))
        connections = set(gateway.listener.connections)
        running = Load(gateway, clients)
        task = asyncio.create_task(running.run())
        try:
            await running.go_on()
            yield gateway, running
            running.stop()
            await task
            assert set(gateway.listener.connections) >= connections
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.gather(*(client.close() for client in clients))


def written(file: Path, backend: str, *upstreams: PlainUpstream, more: str = "") -> str:
    """Write a configuration file; return its text."""
    text = (
        f"transport.backend = '{backend}'\ntransport.bind = '127.0.0.1:0'\n"
        f"push.bind = '127.0.0.1:0'\n{more}\n"
    )
    for service in ("hello", "business", "zone"):
        for upstream in upstreams:
            text += f"[[upstream.services.{service}]]\naddress = '{upstream.address}'\n"
    file.write_text(text)
    return text


async def test_reload_under_load_loses_nothing(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    async with plain_upstream() as first, plain_upstream() as second:
        written(file, backend, first)
        async with loaded(file, None) as (gateway, running):
            reloader = Reloader(gateway, lambda: load(file))
            text = written(
                file, backend, first, second, more="session.max_in_flight = 9\nupstream.max_open=7"
            )
            report = reloader.reload()
            assert (report.error, report.needs_restart) == ("", [])
            await second.until_asked("echo", 20)
            await running.go_on()

            file.write_text(text.replace("max_in_flight = 9", "max_in_flight = -9"))
            assert f"{file}:4: session.max_in_flight: -9" in reloader.reload().error
            file.write_text(text[:-20])  # half-written
            assert reloader.reload().error.startswith(f"{file}:")
            await running.go_on()
            assert gateway.config.session.max_in_flight == 9

            # What the endpoint that goes was asked, it still answers.
            async with Client(gateway.address, openid="patient") as patient:
                slow = [asyncio.create_task(patient.request("gate", b"%d" % i)) for i in range(6)]
                await first.until_asked("gate")
                await second.until_asked("gate")
                # Other options of the channel: the lane that stays is made anew, too.
                written(file, backend, second, more="upstream.keepalive = '10m'")
                assert reloader.reload().error == ""
                await until(lambda: counter(gateway, "upstream.endpoints") == 3)
                asked = first.calls["echo"]
                await running.go_on()
                first.gate.set()
                second.gate.set()
                assert [(await answer).data for answer in slow] == [b"%d" % i for i in range(6)]
                assert first.calls["echo"] <= asked + CLIENTS
            assert counter(gateway, "transport.accepted") == CLIENTS + 1


async def test_certificate_is_exchanged_under_load(backend: str, tmp_path: Path) -> None:
    file, current = tmp_path / "gate.toml", tmp_path / "current"
    for name in ("one", "two", "three"):
        cert, key = generate_certificate()
        (tmp_path / name).mkdir()
        (tmp_path / name / "cert.pem").write_bytes(cert)
        (tmp_path / name / "key.pem").write_bytes(key)

    def point_to(name: str) -> None:
        # As Kubernetes does: the link changes, the files do not.
        (tmp_path / "next").symlink_to(name)
        os.replace(tmp_path / "next", current)

    async def is_let_in(gateway: Gateway, name: str) -> bool:
        """Say whether a new client that trusts this certificate alone comes in."""
        try:
            async with Client(
                gateway.address, openid="new", ca=tmp_path / name / "cert.pem", login=False
            ):
                return True
        except ConnectionFailed:
            return False

    point_to("one")
    async with plain_upstream() as upstream:
        written(
            file,
            backend,
            upstream,
            more=f"transport.cert = '{current}/cert.pem'\ntransport.key = '{current}/key.pem'",
        )
        async with loaded(file, current / "cert.pem") as (gateway, running):
            assert await is_let_in(gateway, "one")
            point_to("two")
            await until(lambda: counter(gateway, "transport.certificates_renewed") == 1)
            assert await is_let_in(gateway, "two")
            assert not await is_let_in(gateway, "one")
            await running.go_on()

            # The key of another certificate: that before stays, which is said once.
            key = (tmp_path / "three" / "key.pem").read_bytes()
            (tmp_path / "two" / "key.pem").write_bytes(key)
            await until(lambda: counter(gateway, "transport.certificates_kept") == 1)
            await running.go_on()
            assert await is_let_in(gateway, "two")
            assert counter(gateway, "transport.certificates_kept") == 1
            point_to("three")
            await until(lambda: counter(gateway, "transport.certificates_renewed") == 2)
            assert await is_let_in(gateway, "three")
