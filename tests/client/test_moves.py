"""GOAWAY: the next connection is up before the last one is left, and what its address means."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr import Client
from gatesvr.client import connector
from gatesvr.errors import ConnectionFailed
from gatesvr.protocol.messages import goaway_frame
from gatesvr.transport.tls import generate_certificate

from ..fakes import until
from .fake_gateway import FakeGateway, FakeSession, fake_gateway
from .test_client import DEADLINE_S, both

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector.Connector, "jitter", staticmethod(lambda: 0.0))


class Gate:
    """Holds back the connections that a client opens, or lets them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.failures = 0
        self.is_open = asyncio.Event()
        monkeypatch.setattr(connector, "open_first", self._wrap(connector.open_first))

    def _wrap(self, open_first: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.asked += 1
            if self.failures:
                self.failures -= 1
                raise ConnectionFailed("no way")
            await self.is_open.wait()
            return await open_first(*args, **kwargs)

        return wrapper


def recall(session: FakeSession, address: str = "") -> None:
    assert session.link is not None
    session.link.write(goaway_frame("moved", 0, address))
    session.link.request_flush()


async def begin_slow(gateway: FakeGateway, client: Client) -> asyncio.Task[Any]:
    slow = asyncio.create_task(client.request("hold"))
    await until(lambda: gateway.session.held)
    return slow


async def test_the_last_connection_serves_until_the_next_one_is_up(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both(backend) as (gateway, client):
        gate = Gate(monkeypatch)
        slow = await begin_slow(gateway, client)
        session = gateway.session
        gate.failures = 2  # the first tries fail
        recall(session)
        await until(lambda: gate.asked == 3)
        assert client.is_connected
        assert (await client.request("echo", b"here")).data == b"here"
        session.notify(b"told")
        assert (await anext(client)).data == b"told"
        assert (len(gateway.starts), gateway.lost) == (1, [])
        gate.is_open.set()
        await until(lambda: len(gateway.starts) == 2 and client.is_connected)
        session.release()
        assert (await slow).data == b"released"
        assert (await client.request("echo", b"there")).data == b"there"
        await until(lambda: len(gateway.lost) == 1)
        assert client.session_id == session.session_id
        # And again, at once.
        recall(session)
        await until(lambda: len(gateway.starts) == 3 and client.is_connected)
        assert client.counters.session_losses == 0


async def test_a_connection_that_ends_meanwhile_is_followed_by_the_next_one(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both(backend) as (gateway, client):
        gate = Gate(monkeypatch)
        slow = await begin_slow(gateway, client)
        session = gateway.session
        recall(session)
        await until(lambda: gate.asked)
        assert session.link is not None
        session.link.close(4503, "reconnect_after_ms=0")
        await until(lambda: not client.is_connected)
        gate.is_open.set()
        await until(lambda: len(gateway.starts) == 2 and client.is_connected)
        session.release()
        assert (await slow).data == b"released"


async def test_a_client_that_is_closed_meanwhile_says_stop_and_begins_nothing(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both(backend) as (gateway, client):
        gate = Gate(monkeypatch)
        recall(gateway.session)
        await until(lambda: gate.asked)
        await client.close()
        assert (gateway.stops, len(gateway.starts)) == (1, 1)


async def test_a_refusal_of_the_next_one_is_tried_again(backend: str) -> None:
    async with both(backend) as (gateway, client):
        slow = await begin_slow(gateway, client)
        session = gateway.session
        gateway.start_closes.append((4503, "retry_after_ms=0"))
        recall(session)
        await until(lambda: len(gateway.starts) == 3 and client.is_connected)
        session.release()
        assert (await slow).data == b"released"


# Addresses, and who may be there.


@pytest.mark.parametrize("name", ["localhost", "another.example"])
async def test_where_goaway_leads_the_certificate_must_be_for_the_name_that_is_known(
    backend: str, name: str, tmp_path: Path
) -> None:
    """Their certificates are for names, and GOAWAY has an address."""
    pems = {covered: generate_certificate((covered,)) for covered in ("localhost", name)}
    for covered, parts in pems.items():
        (tmp_path / covered).write_bytes(b"".join(parts))
    trusted = tmp_path / "ca"
    trusted.write_bytes(b"".join(cert for cert, _ in pems.values()))
    async with (
        asyncio.timeout(DEADLINE_S),
        fake_gateway(backend, cert=str(tmp_path / "localhost")) as home,
        fake_gateway(backend, cert=str(tmp_path / name)) as away,
    ):
        away.sessions = home.sessions
        server = home.server.replace("127.0.0.1", "localhost")
        async with Client(server, openid="ann", transport=backend, ca=str(trusted)) as client:
            recall(home.session, away.server)
            if name == "localhost":
                await until(lambda: len(away.starts) == 1 and client.is_connected)
                assert client.session_id == away.session.session_id
            else:  # it comes home
                await until(lambda: len(home.starts) == 2 and client.is_connected)
                assert away.starts == []
