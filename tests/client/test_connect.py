"""The first connect: what is tried again, when, and what is not."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
from typing import TYPE_CHECKING, Any

import pytest

import gatesvr.client.connector as connector_module
from gatesvr import Client
from gatesvr.errors import ConnectionFailed, GatesvrError, Outcome, RequestFailed

from .fake_gateway import fake_gateway

if TYPE_CHECKING:
    from gatesvr.client.connector import Connector
    from gatesvr.transport.client import ClientConnection

PATIENCE_S = 60.0


def pauses(caplog: pytest.LogCaptureFixture) -> list[float]:
    """Return the pauses that were made so far."""
    return [r.keys["pause_s"] for r in caplog.records if r.getMessage() == "reconnecting"]


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gatesvr.client")


async def test_a_gateway_that_starts_after_its_client(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_gateway(backend) as gone:
        server = gone.server
    client = Client(server, openid="ann", transport=backend, connect_timeout=PATIENCE_S)
    connecting = asyncio.create_task(client.connect())
    async with asyncio.timeout(PATIENCE_S):
        while not pauses(caplog):
            await asyncio.sleep(0.001)
        async with fake_gateway(backend, server):
            await connecting
            assert (await client.request("echo", b"x")).data == b"x"
            await client.close()


@pytest.mark.parametrize(
    ("code", "reason", "wait_s"),
    [
        (4408, "silent", 0.0),
        (4413, "", 0.0),
        (4429, "retry_after_ms=300", 0.3),
        (4500, "", 0.0),
        (4503, "reconnect_after_ms=200", 0.2),
        (4599, "", 0.0),
    ],
)
@pytest.mark.parametrize("when", ["start_closes", "hello_closes"])
async def test_a_close_that_is_no_no(
    backend: str, when: str, code: int, reason: str, wait_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_gateway(backend) as gateway:
        setattr(gateway, when, [(code, reason), (code, reason)])
        async with Client(
            gateway.server, openid="ann", transport=backend, connect_timeout=PATIENCE_S
        ) as client:
            assert client.counters.session_losses == 0
            assert (await client.request("echo", b"x")).data == b"x"
        # Each try is a session of its own: the one before it was nobody's yet.
        assert [start.session_id for start in gateway.starts] == ["", "", ""]
        assert len(pauses(caplog)) == 2
        assert min(pauses(caplog)) >= wait_s


@pytest.mark.parametrize(
    ("code", "retry_ms", "outcome"),
    [
        (403, 200, Outcome.DONE),  # another device's session lives: 4411 follows
        (502, 0, Outcome.UNKNOWN),
        (503, 200, Outcome.NOT_STARTED),
        (503, 0, Outcome.DONE),
        (504, 0, Outcome.UNKNOWN),
    ],
)
async def test_a_login_service_that_is_away(
    backend: str, code: int, retry_ms: int, outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_gateway(backend) as gateway:
        gateway.hello_errors = [(code, retry_ms, outcome)]
        async with Client(
            gateway.server, openid="ann", transport=backend, connect_timeout=PATIENCE_S
        ):
            assert len(gateway.starts) == 2
        (pause,) = pauses(caplog)
        assert pause >= retry_ms / 1000


@pytest.mark.parametrize(
    ("what", "raised"),
    [
        ({"start_closes": [(4401, "")]}, ConnectionFailed),
        ({"start_closes": [(4426, "")]}, ConnectionFailed),
        ({"start_closes": [(4400, "")]}, ConnectionFailed),
        ({"start_closes": [(4429, "retry_after_ms=61000")]}, ConnectionFailed),  # too late
        ({"hello_closes": [(4410, "")]}, GatesvrError),
        ({"hello_errors": [(404, 0, 1)]}, RequestFailed),
        ({"hello_errors": [(501, 0, 2)]}, RequestFailed),
        ({"hello_code": 500}, RequestFailed),
    ],
)
async def test_a_no_is_final(
    backend: str, what: dict[str, object], raised: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_gateway(backend) as gateway:
        for name, value in what.items():
            setattr(gateway, name, copy.copy(value))
        client = Client(gateway.server, openid="ann", transport=backend, connect_timeout=PATIENCE_S)
        with pytest.raises(raised):
            await client.connect()
        assert len(gateway.starts) == 1
        assert pauses(caplog) == []
        await client.close()


async def test_the_last_failure_is_raised_when_time_is_up(backend: str) -> None:
    async with fake_gateway(backend) as gateway:
        gateway.start_closes = [(4503, "")] * 1000
        client = Client(gateway.server, openid="ann", transport=backend, connect_timeout=0.5)
        with pytest.raises(ConnectionFailed, match="4503 the gateway cannot serve now") as caught:
            await client.connect()
        assert caught.value.code == 4503
        await client.close()


async def test_a_connect_that_is_given_up_stops(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_gateway(backend) as gateway:
        gateway.start_closes = [(4503, "")] * 1000
        client = Client(gateway.server, openid="ann", transport=backend, connect_timeout=PATIENCE_S)
        connecting = asyncio.create_task(client.connect())
        async with asyncio.timeout(PATIENCE_S):
            while not pauses(caplog):
                await asyncio.sleep(0.001)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        connector: Connector | None = client._connector
        assert connector is not None
        assert connector._task is not None
        assert connector._task.done()


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_connect_given_up_before_start_is_answered_leaves_nothing(
    backend: str,
    is_open: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given up while the connection opens, or after that, while START is not answered."""
    asked = asyncio.Event()
    monkeypatch.setattr("tests.client.fake_gateway._Handler.start", lambda *_: asked.set())
    opened = connector_module.open_first

    async def open_slowly(*args: Any, **options: Any) -> ClientConnection:
        connection = await opened(*args, **options)
        try:
            await asyncio.Event().wait()
        finally:
            await connection.close()
        return connection

    if not is_open:
        monkeypatch.setattr(connector_module, "open_first", open_slowly)
    async with fake_gateway(backend) as gateway:
        client = Client(gateway.server, openid="ann", transport=backend, connect_timeout=PATIENCE_S)
        connecting = asyncio.create_task(client.connect())
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        assert not client.is_connected
        await client.close()
        del client, connecting
        gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def test_no_try_begins_behind_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    clock, stalled_s = loop.time, 0.0
    timeouts: list[float] = []

    def stall() -> None:
        nonlocal stalled_s
        stalled_s += 2 * PATIENCE_S

    async def refuse(*_: object, connect_timeout: float, **__: object) -> None:
        timeouts.append(connect_timeout)
        loop.call_soon(stall)  # it hits the pause behind this try
        raise ConnectionFailed("refused")

    monkeypatch.setattr(loop, "time", lambda: clock() + stalled_s)
    monkeypatch.setattr("gatesvr.client.connector.open_first", refuse)
    with pytest.raises(ConnectionFailed, match="refused"):
        await Client("localhost:9", openid="ann", connect_timeout=PATIENCE_S).connect()
    assert len(timeouts) == 1
    assert timeouts[0] > 0
