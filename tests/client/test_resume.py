"""A client that stores its state and goes on from it; what it is told when that cannot be."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr.client import Client
from gatesvr.client.reconnect import Backoff
from gatesvr.errors import (
    ConfigError,
    ConnectionFailed,
    LostReason,
    Outcome,
    RequestFailed,
    SessionLost,
)
from gatesvr.protocol import pacing
from gatesvr.protocol.messages import goaway_frame

from ..fakes import until
from . import fake_gateway as module
from .fake_gateway import FakeGateway, FakeSession, fake_gateway
from .test_client import DEADLINE_S, both, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Disk:
    """What a client stored.

    Attributes:
        state: The last state.
        stores: How many there were.
        error: Raised instead of storing, where there is one.
    """

    def __init__(self) -> None:
        self.state = b""
        self.stores = 0
        self.error: Exception | None = None

    def store(self, state: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.state = state
        self.stores += 1

    @property
    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.state)
        return fields


@asynccontextmanager
async def life(gateway: FakeGateway, disk: Disk, **options: Any) -> AsyncIterator[Client]:
    """One process of a client that stores its state; its end is a kill."""
    client = Client(
        gateway.server,
        resume=disk.state,
        transport=gateway.backend,
        on_state=disk.store,
        **{"openid": "ann", **options},
    )
    try:
        await client.connect()
        yield client
    finally:
        disk_then, stores = disk.state, disk.stores
        await client.suspend()  # closes the connection, and stores: which a killed one does not
        disk.state, disk.stores = disk_then, stores


@asynccontextmanager
async def gateway_of(backend: str) -> AsyncIterator[FakeGateway]:
    async with asyncio.timeout(DEADLINE_S), fake_gateway(backend) as gateway:
        yield gateway


def drop(session: FakeSession, code: int = 4500, reason: str = "") -> None:
    assert session.link is not None
    session.link.close(code, reason)


async def test_unread_notifies_come_again_in_the_next_life(backend: str) -> None:
    async with gateway_of(backend) as gateway:
        disk = Disk()
        async with life(gateway, disk) as client:
            session = gateway.session
            assert (await client.request("push", b"5")).data == b"pushed"
            assert [int(each.data) for each in await read(client, 2)] == [0, 1]
            # 1 is in the reader's hand: done with is 0 alone, whatever was answered behind it.
            await until(lambda: session.acked == 2)
            assert disk.fields["position"] == 2
        async with life(gateway, disk, openid=None) as client:
            assert client.openid == "ann"
            assert client.session_id == session.session_id
            assert [int(each.data) for each in await read(client, 4)] == [1, 2, 3, 4]
            assert (await client.request("echo", b"on")).data == b"on"
            session.notify(b"5")
            assert int((await anext(client)).data) == 5
            await until(lambda: session.acked == 8)  # all but what is in hand
        assert len(gateway.sessions) == 1
        assert [start.attempt for start in gateway.starts] == [0, 1]
        assert [seq for _, seq in gateway.requests] == [1, 2, 3]


async def test_what_is_stored_is_always_good(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway looks at the disk whenever something arrives that makes an older state bad."""
    disk = Disk()
    acks = 0

    def acknowledge(self: FakeSession, seq: int) -> None:
        nonlocal acks
        acks += 1
        assert disk.fields["position"] >= seq
        assert disk.fields["session_id"] == self.session_id
        plain(self, seq)

    def business(self: Any, session: FakeSession, request: Any) -> None:
        assert disk.fields["resume_token"] == token_of(session)
        plain_business(self, session, request)

    def start(self: Any, request: Any) -> None:
        if request.session_id:
            assert disk.fields["attempt"] >= request.attempt
        plain_start(self, request)

    plain, plain_business = FakeSession.acknowledge, module._Handler.business
    plain_start = module._Handler.start
    monkeypatch.setattr(FakeSession, "acknowledge", acknowledge)
    monkeypatch.setattr(module._Handler, "business", business)
    monkeypatch.setattr(module._Handler, "start", start)
    async with gateway_of(backend) as gateway, life(gateway, disk) as client:
        for number in range(3):
            await client.request("push", b"40")
            await read(client, 40)
            await until(lambda number=number: acks > number)
            drop(gateway.session)
            await until(lambda: not client.is_connected)
        await client.request("echo")
        assert all(how.kind == "local" for how in gateway.lost)
        assert client.counters.session_losses == 0
        # Not for each of the 124 messages.
        assert disk.stores < 40


def token_of(session: FakeSession) -> str:
    return base64.b64encode(session.token).decode()


async def test_session_that_expired_meanwhile_is_told_once(backend: str) -> None:
    async with gateway_of(backend) as gateway:
        disk = Disk()
        async with life(gateway, disk) as client:
            await client.request("push", b"3")
            await read(client, 3)
            await until(lambda: gateway.session.acked == 3)
            lost = client.session_id
        gateway.sessions.clear()
        async with life(gateway, disk) as client:
            with pytest.raises(SessionLost) as caught:
                await anext(client)
            error = caught.value
            assert (error.session_id, error.reason) == (lost, LostReason.UNKNOWN_SESSION)
            assert (error.lost_from, error.lost_to, error.is_final) == (4, 0, False)
            assert client.session_id == gateway.session.session_id != lost
            gateway.session.notify(b"new")
            assert (await anext(client)).data == b"new"
            assert (await client.request("echo", b"in")).data == b"in"
            assert disk.fields["session_id"] == client.session_id
            assert client.counters.session_losses == 1


async def test_session_that_is_denied_is_begun_anew(backend: str) -> None:
    async with gateway_of(backend) as gateway:
        disk = Disk()
        async with life(gateway, disk):
            pass
        gateway.refuse_start = (403, 4403, "denied")
        gateway.refuses_resumes_only = True
        async with life(gateway, disk) as client:
            with pytest.raises(SessionLost) as caught:
                await anext(client)
            assert caught.value.reason is LostReason.DENIED
            assert (await client.request("echo", b"in")).data == b"in"


async def test_session_that_was_replaced_is_over(backend: str) -> None:
    async with gateway_of(backend) as gateway:
        disk = Disk()
        async with life(gateway, disk):
            pass
        gateway.refuse_start = (403, 4410, "replaced")
        with pytest.raises(SessionLost, match="logged in elsewhere") as caught:
            async with life(gateway, disk):
                pass
        assert caught.value.code == 4410
        assert caught.value.is_final


async def test_saved_session_waits_for_a_gateway_that_is_away(backend: str) -> None:
    async with gateway_of(backend) as gateway:
        disk = Disk()
        async with life(gateway, disk):
            session = gateway.session
        gateway.refuse_start = (503, 4503, "retry_after_ms=1")
        starts = len(gateway.starts)

        async def come_back() -> None:
            await until(lambda: len(gateway.starts) > starts + 1)
            gateway.refuse_start = None

        task = asyncio.create_task(come_back())
        async with life(gateway, disk) as client:
            assert client.session_id == session.session_id
        await task
        gateway.refuse_start = (503, 4503, "")
        with pytest.raises(ConnectionFailed):
            async with life(gateway, disk, reconnect_timeout=0):
                pass


async def test_suspend_keeps_the_session_and_close_ends_it(backend: str) -> None:
    async with gateway_of(backend) as gateway:
        async with Client(gateway.server, openid="ann", transport=backend) as client:
            session_id = client.session_id
            gateway.session.notify(b"read")
            assert (await anext(client)).data == b"read"
            state = await client.suspend()
            assert await client.suspend() == state
        assert gateway.stops == 0
        assert json.loads(state)["position"] == 2
        disk = Disk()
        async with Client(
            gateway.server, resume=state, transport=backend, on_state=disk.store
        ) as client:
            assert client.session_id == session_id
        assert gateway.stops == 1
        assert disk.fields["session_id"] == ""
        async with Client(gateway.server, resume=disk.state, transport=backend) as client:
            assert client.session_id != session_id
            assert client.counters.session_losses == 0


async def test_what_was_received_and_not_read_is_not_in_the_state(backend: str) -> None:
    async with both(backend) as (gateway, client):
        await client.request("push", b"3")
        await anext(client)
        await until(lambda: gateway.session.acked == 5)  # acknowledged when received
        assert json.loads(client.state())["position"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resume": b"nonsense"}, "resume: no client state"),
        ({"resume": b"nonsense", "openid": "ann"}, "resume: no client state"),
        ({}, "openid: is missing"),
        ({"auth_token": ""}, "openid: is missing"),
    ],
)
def test_bad_state_is_a_wrong_setting(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Client("localhost:1", **options)


def test_state_of_another_is_a_wrong_setting() -> None:
    state = Client("localhost:1", openid="ann", client_id="phone").state()
    with pytest.raises(ConfigError, match="resume: the state is that of 'ann', not of 'bob'"):
        Client("localhost:1", openid="bob", resume=state)
    assert Client("localhost:1", openid="ann", resume=state).state() == state


async def test_disk_that_is_full_for_a_while_breaks_nothing(backend: str) -> None:
    async with gateway_of(backend) as gateway:
        disk = Disk()
        async with life(gateway, disk) as client:
            session = gateway.session
            session.notify(b"1")
            session.notify(b"2")
            disk.error = OSError("disk full")
            assert [each.data for each in await read(client, 2)] == [b"1", b"2"]
            await until(lambda: not client.is_connected)
            assert session.acked < 2
            disk.error = None
            await until(lambda: client.is_connected)
            session.notify(b"3")
            assert (await anext(client)).data == b"3"
            await until(lambda: session.acked == 3)


# What waits while there is no connection.


async def test_request_that_could_not_be_sent_in_time_is_never_sent(backend: str) -> None:
    async with both(backend) as (gateway, client):
        session = gateway.session
        gateway.refuse_start = (503, 4503, "retry_after_ms=1")
        held = asyncio.create_task(client.request("hold", timeout=DEADLINE_S))
        await until(lambda: session.held)
        under_way = asyncio.create_task(client.request("hold", timeout=0.05))
        await until(lambda: len(session.held) == 2)
        drop(session)
        await until(lambda: not client.is_connected)
        later = asyncio.create_task(client.request("echo", b"later", timeout=DEADLINE_S))
        with pytest.raises(RequestFailed) as caught:
            await client.request("echo", b"too late", timeout=0.01)
        assert (caught.value.code, caught.value.outcome) == (504, Outcome.NOT_STARTED)
        with pytest.raises(RequestFailed) as caught:
            await under_way
        assert (caught.value.code, caught.value.outcome) == (504, Outcome.UNKNOWN)
        cancelled = asyncio.create_task(client.request("echo", b"cancelled"))
        await asyncio.sleep(0)
        cancelled.cancel()
        gateway.refuse_start = None
        assert (await later).data == b"later"
        session.release()
        assert (await held).data == b"released"
        assert [seq for _, seq in gateway.requests] == [1, 2, 3, 4]


async def test_request_that_waits_goes_on_in_a_new_session(backend: str) -> None:
    async with both(backend) as (gateway, client):
        gateway.sessions.clear()
        drop_all(gateway)
        await until(lambda: not client.is_connected)
        assert (await client.request("echo", b"new")).data == b"new"
        with pytest.raises(SessionLost):
            await anext(client)


def drop_all(gateway: FakeGateway, code: int = 4500, reason: str = "") -> None:
    assert gateway.listener is not None
    gateway.listener.close_all(code, reason)


# GOAWAY.


def go_away(session: FakeSession, after_ms: int = 0, address: str = "") -> None:
    assert session.link is not None
    session.link.write(goaway_frame("move", after_ms, address))
    session.link.request_flush()


async def test_goaway_for_later_waits_for_answers(backend: str) -> None:
    async with both(backend) as (gateway, client):
        session = gateway.session
        held = asyncio.create_task(client.request("hold"))
        await until(lambda: session.held)
        acked: list[int] = []
        session.on_detached = lambda: acked.append(session.acked)
        go_away(session, after_ms=1)
        await until(lambda: client._connector.protocol.is_leaving)
        later = asyncio.create_task(client.request("echo", b"later"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(gateway.starts) == 1
        assert [action for action, _ in gateway.requests] == ["hello", "hold"]
        session.release()
        assert (await held).data == b"released"
        assert (await later).data == b"later"
        assert len(gateway.starts) == 2
        assert gateway.lost[0].kind == "peer"
        assert client.session_id == session.session_id
        # PROTOCOL 3.9: "wait for the answers to what was sent, ack, close the connection".
        assert acked == [2]


async def test_goaway_for_now_takes_the_answers_along(backend: str) -> None:
    async with both(backend) as (gateway, client):
        session = gateway.session
        held = asyncio.create_task(client.request("hold"))
        await until(lambda: session.held)
        go_away(session)
        await until(lambda: len(gateway.starts) == 2)
        session.release()
        assert (await held).data == b"released"


@pytest.mark.parametrize(
    "address", ["nonsense", ":1", "127.0.0.1:0", "127.0.0.1:99999", "a" * 99 + ":1", "a\0b:1"]
)
async def test_goaway_to_no_address_comes_back(backend: str, address: str) -> None:
    async with both(backend) as (gateway, client):
        go_away(gateway.session, address=address)
        await until(lambda: len(gateway.starts) == 2 and client.is_connected)


async def test_goaway_to_another_gateway(backend: str) -> None:
    async with both(backend) as (gateway, client), fake_gateway(backend) as other:
        other.sessions = gateway.sessions
        session = gateway.session
        go_away(session, address=other.server)
        await until(lambda: other.starts and client.is_connected)
        assert (await client.request("echo", b"there")).data == b"there"
        assert client.session_id == session.session_id
        # Where that one is gone, the one that it was made for is asked again.
        assert other.listener is not None
        other.refuse_start = (503, 4503, "")
        drop(session)
        await until(lambda: len(gateway.starts) == 2 and client.is_connected)


async def test_goaway_means_nothing_to_a_client_of_one_connection(backend: str) -> None:
    async with both(backend, reconnect_timeout=0) as (gateway, client):
        go_away(gateway.session)
        assert (await client.request("echo", b"on")).data == b"on"
        assert client.is_connected


# Ends.


async def test_loss_says_what_and_from_where(backend: str) -> None:
    async with both(backend) as (gateway, client):
        session = gateway.session
        await client.request("push", b"2")
        held = asyncio.create_task(client.request("hold"))
        await until(lambda: session.held)
        gateway.sessions.clear()
        drop(session)
        with pytest.raises(SessionLost) as caught:
            await held
        assert caught.value.outcome is Outcome.UNKNOWN
        assert caught.value.session_id == session.session_id
        # What was received before stands before it, unread or not.
        assert [int(each.data) for each in await read(client, 2)] == [0, 1]
        with pytest.raises(SessionLost) as caught:
            await anext(client)
        error = caught.value
        assert (error.session_id, error.lost_from, error.lost_to) == (session.session_id, 5, 0)
        assert (error.reason, error.is_final) == (LostReason.UNKNOWN_SESSION, False)
        gateway.session.notify(b"new")
        assert (await anext(client)).data == b"new"


async def test_session_taken_over_by_another_process_is_over(backend: str) -> None:
    async with both(backend) as (gateway, client):
        drop(gateway.session, 4409, "newer connection")
        with pytest.raises(SessionLost) as caught:
            await anext(client)
        assert (caught.value.code, caught.value.is_final) == (4409, True)
        assert len(gateway.starts) == 1
        with pytest.raises(SessionLost) as caught:
            await client.request("echo")
        assert caught.value.outcome is Outcome.NOT_STARTED


async def test_state_of_the_process_that_took_over_is_left_alone(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "ACK_DELAY_S", 2 * DEADLINE_S)  # so that there is more to store
    async with gateway_of(backend) as gateway:
        disk = Disk()
        async with life(gateway, disk) as client:
            gateway.session.notify(b"read")
            await anext(client)
            disk.state = b"the other's"
            drop(gateway.session, 4409)
            with pytest.raises(SessionLost):
                await anext(client)
            assert disk.state == b"the other's"


async def test_session_that_ended_leaves_no_state_of_it(backend: str) -> None:
    async with gateway_of(backend) as gateway:
        disk = Disk()
        async with life(gateway, disk) as client:
            assert disk.fields["session_id"] == client.session_id
            drop(gateway.session, 4410)
            with pytest.raises(SessionLost) as caught:
                await anext(client)
            assert caught.value.reason is LostReason.KICKED
            assert disk.fields["session_id"] == ""


async def test_one_loss_however_many_logins_it_takes(backend: str) -> None:
    async with both(backend) as (gateway, client):
        gateway.hello_code = 503
        gateway.is_forgetful = True
        drop(gateway.session)
        await until(lambda: len(gateway.starts) >= 3)
        gateway.hello_code = 200
        assert (await client.request("echo", b"in")).data == b"in"
        with pytest.raises(SessionLost):
            await anext(client)
        assert client.counters.session_losses == 1
        gateway.session.notify(b"new")
        assert (await anext(client)).data == b"new"


async def test_openid_that_is_busy_at_a_new_login_is_tried_again(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Callable[..., None] = module._Handler.business
    refused = 0

    def business(self: Any, session: FakeSession, request: Any) -> None:
        nonlocal refused
        if request.action != "hello" or refused:
            plain(self, session, request)
            return
        refused += 1
        del self.gateway.sessions[session.session_id]
        last = self.protocol.error_push(request.msg_id, 403, "busy", client_seq_id=1)
        self.link.close(4411, "retry_after_ms=1", last=last)

    async with both(backend) as (gateway, client):
        monkeypatch.setattr(module._Handler, "business", business)
        session = gateway.session
        gateway.sessions.clear()
        drop(session)
        await until(lambda: not client.is_connected)
        assert (await client.request("echo", b"in")).data == b"in"
        assert refused == 1


async def test_a_login_refused_after_a_reconnect_ends_with_its_code(backend: str) -> None:
    async with both(backend) as (gateway, client):
        session = gateway.session
        gateway.sessions.clear()
        gateway.hello_code = 403
        drop(session)
        with pytest.raises(SessionLost) as caught:
            await anext(client)
        assert (caught.value.code, caught.value.is_final) == (403, True)


@pytest.mark.parametrize("is_network", [True, False])
async def test_pauses_grow_for_a_gateway_that_falls_over_not_for_a_bad_network(
    backend: str, monkeypatch: pytest.MonkeyPatch, is_network: bool
) -> None:
    tries: list[int] = []

    def no_pause(self: Backoff, random: float, least: float = 0.0) -> float:
        tries.append(self.tries)
        self.tries += 1
        return 0.0

    monkeypatch.setattr(Backoff, "next", no_pause)
    async with both(backend) as (gateway, client):
        for number in range(1, 4):
            if is_network:
                link = client._connector._link  # type: ignore[union-attr]
                assert link is not None
                link.close(4408, "silent")
            else:
                drop(gateway.session)
            await until(lambda: not client.is_connected)
            await until(lambda: client.is_connected and len(gateway.starts) > number)  # noqa: B023
            assert (await client.request("echo", b"in")).data == b"in"
    assert tries == ([0, 0, 0] if is_network else [0, 1, 2])
