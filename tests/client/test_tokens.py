"""A client whose auth_token is a function that fails, or takes for ever."""

from __future__ import annotations

import asyncio

import pytest

from gatesvr.client import Client
from gatesvr.client.reconnect import Backoff
from gatesvr.errors import ConnectionFailed, SessionLost

from ..fakes import until
from .fake_gateway import fake_gateway

DEADLINE_S = 20.0


class Issuer:
    """Makes tokens, unless a test says otherwise.

    Attributes:
        error: Raised instead of a token.
        hangs: Whether there is no answer at all.
        calls: How often it was asked.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False
        self.calls = 0
        self.cancelled = 0

    async def token(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return f"token {self.calls}"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self, random, delay=0.0: 0.01)


async def test_a_token_that_fails_is_asked_for_again() -> None:
    issuer = Issuer()
    async with (
        asyncio.timeout(DEADLINE_S),
        fake_gateway("aioquic") as gateway,
        Client(gateway.server, openid="ann", auth_token=issuer.token) as client,
    ):
        issuer.error = OSError("no network")
        gateway.session.link.close(4503)  # type: ignore[union-attr]
        await until(lambda: issuer.calls >= 4)
        assert not client.is_connected
        issuer.error = None
        assert (await client.request("echo", b"back")).data == b"back"
        assert len(gateway.sessions) == 1
        assert gateway.starts[-1].auth_token == f"token {issuer.calls}"


async def test_a_token_that_hangs_costs_one_try_and_no_close_waits_for_it() -> None:
    issuer = Issuer()
    async with (
        asyncio.timeout(DEADLINE_S),
        fake_gateway("aioquic") as gateway,
    ):
        client = Client(gateway.server, openid="ann", auth_token=issuer.token)
        await client.connect()
        client._connector._connect_timeout = 0.05  # type: ignore[union-attr]
        issuer.hangs = True
        gateway.session.link.close(4503)  # type: ignore[union-attr]
        await until(lambda: issuer.cancelled >= 2)
        client._connector._connect_timeout = 1_000.0  # type: ignore[union-attr]
        calls = issuer.calls
        await until(lambda: issuer.calls > calls)
        await client.close()
        assert issuer.cancelled == issuer.calls - 1


async def test_no_token_in_time_loses_the_session() -> None:
    issuer = Issuer()
    async with (
        asyncio.timeout(DEADLINE_S),
        fake_gateway("aioquic") as gateway,
        Client(
            gateway.server, openid="ann", auth_token=issuer.token, reconnect_timeout=0.2
        ) as client,
    ):
        issuer.error = OSError("no network")
        gateway.session.link.close(4503)  # type: ignore[union-attr]
        with pytest.raises(SessionLost, match="no token: OSError: no network") as caught:
            await anext(client)
        assert caught.value.is_final


async def test_at_first_the_application_hears_what_its_token_raises() -> None:
    issuer = Issuer()
    async with fake_gateway("aioquic") as gateway:
        issuer.error = KeyError("user")
        client = Client(gateway.server, openid="ann", auth_token=issuer.token)
        with pytest.raises(KeyError):
            await client.connect()
        issuer.error, issuer.hangs = None, True
        client = Client(gateway.server, openid="ann", auth_token=issuer.token, connect_timeout=0.05)
        with pytest.raises(ConnectionFailed, match="no token in time"):
            await client.connect()
        assert not gateway.starts
