"""The client over real QUIC, against a gateway that does what a test says."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from gatesvr.client import Client, Notify
from gatesvr.client import client as client_module
from gatesvr.errors import (
    ConfigError,
    ConnectionFailed,
    NotifyOverflow,
    QueueFull,
    RequestFailed,
    SessionLost,
)
from gatesvr.transport.udp import sockets

from ..fakes import until
from .fake_gateway import FakeGateway, fake_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DEADLINE_S = 20.0


@asynccontextmanager
async def both(backend: str, **options: Any) -> AsyncIterator[tuple[FakeGateway, Client]]:
    async with (
        asyncio.timeout(DEADLINE_S),
        fake_gateway(backend) as gateway,
        Client(gateway.server, openid="ann", transport=backend, **options) as client,
    ):
        yield gateway, client


async def read(client: Client, count: int) -> list[Notify]:
    return [await anext(client) for _ in range(count)]


async def test_login_request_close(backend: str) -> None:
    async with both(backend, client_id="device", auth_token="t0p", zone="001") as (gateway, client):
        assert client.is_connected
        assert client.session_id == gateway.session.session_id
        start = gateway.starts[0]
        assert (start.openid, start.client_id, start.auth_token) == ("ann", "device", "t0p")
        answer = await client.request("echo", b"hello")
        assert (answer.code, answer.message, answer.data) == (200, "ok", b"hello")
        assert (answer.client_seq, answer.server_seq, answer.headers) == (2, 2, {"h": "v"})
        assert answer.is_ok
    assert gateway.requests == [("hello", 1), ("echo", 2)]
    assert gateway.stops == 1
    assert not client.is_connected
    with pytest.raises(SessionLost):
        await client.request("echo")
    assert [notify async for notify in client] == []


async def test_answer_of_another_code_is_an_answer(backend: str) -> None:
    async with both(backend) as (_, client):
        answer = await client.request("nothing-like-it")
        assert answer.code == 404
        assert not answer.is_ok


async def test_error_raises(backend: str) -> None:
    async with both(backend) as (_, client):
        with pytest.raises(RequestFailed) as caught:
            await client.request("fail")
        error = caught.value
        assert (error.code, error.retry_after_ms, error.outcome) == (503, 250, 1)
        assert (error.detail, str(error)) == ("id-1", "503: busy")
        assert (await client.request("echo", b"on")).data == b"on"


async def test_request_that_would_end_the_session_is_refused_here(backend: str) -> None:
    async with both(backend) as (_, client):
        with pytest.raises(ValueError, match="limit of 1048576"):
            await client.request("echo", bytes(1 << 20))
        with pytest.raises(ValueError, match="limit"):
            await client.request("echo", bytes((1 << 20) - 200), headers={"k": "v" * 200})
        data = bytes((1 << 20) - 200)
        assert (await client.request("echo", data)).data == data


async def test_many_in_flight_at_once(backend: str) -> None:
    async with both(backend) as (gateway, client):
        answers = await asyncio.gather(
            *(client.request("echo", str(number).encode()) for number in range(1_000))
        )
        assert [int(answer.data) for answer in answers] == list(range(1_000))
        assert [seq for _, seq in gateway.requests] == list(range(1, 1_002))
        assert client.in_flight == 0


async def test_in_flight_limit_is_waited_for(backend: str) -> None:
    async with fake_gateway(backend) as gateway:
        gateway.max_in_flight = 4
        async with Client(gateway.server, openid="ann", transport=backend) as client:
            held = [asyncio.create_task(client.request("hold")) for _ in range(10)]
            await until(lambda: len(gateway.session.held) == 4)
            await client_turns(client)
            assert len(gateway.session.held) == 4
            held[0].cancel()  # what was sent stays in flight
            held[9].cancel()  # what waits is never sent
            await client_turns(client)
            assert client.in_flight == 4
            for size in (4, 4, 1):
                await until(lambda size=size: len(gateway.session.held) == size)
                gateway.session.release()
            done = await asyncio.gather(*held, return_exceptions=True)
            assert [type(each).__name__ for each in done] == [
                "CancelledError",
                *["Answer"] * 8,
                "CancelledError",
            ]
            assert client.counters.late == 1


async def client_turns(client: Client) -> None:
    """Let what is ready happen: a few turns of the loop that they share."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_too_many_waiting_are_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_WAITING", 2)
    async with fake_gateway(backend) as gateway:
        gateway.max_in_flight = 1
        async with Client(gateway.server, openid="ann", transport=backend) as client:
            tasks = [asyncio.create_task(client.request("hold")) for _ in range(3)]
            await until(lambda: gateway.session.held)
            with pytest.raises(QueueFull):
                await client.request("echo")
            assert client.counters.refused == 1
        for task in tasks:
            with pytest.raises(SessionLost):
                await task


async def test_timeout_is_504_and_its_answer_is_dropped(backend: str) -> None:
    async with both(backend) as (gateway, client):
        with pytest.raises(RequestFailed) as caught:
            await client.request("hold", timeout=0.02)
        assert caught.value.code == 504
        await until(lambda: gateway.session.held)
        gateway.session.release()
        assert (await client.request("echo", b"on")).data == b"on"
        assert client.counters.timeouts == 1
        assert client.counters.late == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_stall_expires_no_request_whose_answer_has_arrived(
    backend: str, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process stood still beyond the time-out; the answer came, behind more than one read."""
    monkeypatch.setattr(sockets, "HAS_BATCH", False)
    monkeypatch.setattr(sockets, "MAX_BATCH", 1)

    async def main() -> None:
        async with both(backend) as (gateway, client):
            assert client._connector is not None
            assert gateway.listener is not None
            link: Any = client._connector._link
            listener = gateway.listener
            timeout_s = 1.0
            ends_at = time.monotonic() + timeout_s
            request = asyncio.create_task(client.request("hold", timeout=timeout_s))
            await until(lambda: gateway.session.held)
            link._connection._endpoint.pause_reading()
            sent = listener.counters.datagrams_sent
            for _ in range(6):
                gateway.session.notify(bytes(1_000))
            gateway.session.release()
            await until(lambda: listener.counters.datagrams_sent > sent + 5)
            while time.monotonic() < ends_at + 2 * client_module.LATE_S:
                pass  # the stall: no other task runs
            link._connection._endpoint.resume_reading()
            assert (await request).data == b"released"

    run: Any = asyncio.run if loop == "asyncio" else uvloop.run
    run(main())


async def test_timeout_while_waiting_for_room(backend: str) -> None:
    async with fake_gateway(backend) as gateway:
        gateway.max_in_flight = 1
        async with Client(gateway.server, openid="ann", transport=backend) as client:
            first = asyncio.create_task(client.request("hold"))
            await until(lambda: gateway.session.held)
            with pytest.raises(RequestFailed) as caught:
                await client.request("echo", timeout=0.02)
            assert (caught.value.code, caught.value.outcome) == (504, 1)
            gateway.session.release()
            await first
            assert (await client.request("echo", b"on")).data == b"on"


async def test_notifies_come_in_order(backend: str) -> None:
    async with both(backend) as (_, client):
        await client.request("push", b"50")
        notifies = await read(client, 50)
        assert [int(notify.data) for notify in notifies] == list(range(50))
        assert [notify.server_seq for notify in notifies] == list(range(2, 52))
        assert (notifies[0].msg_type, notifies[0].title) == ("news", "title")


async def test_reader_that_never_reads_gets_an_error_and_answers_never_wait(backend: str) -> None:
    async with both(backend, max_notifies=10) as (gateway, client):
        assert (await client.request("push", b"25")).data == b"pushed"
        assert client.waiting_notifies == 11  # ten, and word of the others
        assert [int(notify.data) for notify in await read(client, 10)] == list(range(10))
        with pytest.raises(NotifyOverflow) as caught:
            await anext(client)
        assert (caught.value.count, caught.value.first_seq, caught.value.last_seq) == (15, 12, 26)
        gateway.session.notify(b"later")
        assert (await anext(client)).data == b"later"


async def test_losses_are_told_once_in_their_place(backend: str) -> None:
    lost: list[tuple[int, int]] = []
    async with both(backend, on_lost=lambda each: lost.append((each.first_seq, each.last_seq))) as (
        gateway,
        client,
    ):
        gateway.session.notify(b"1")
        gateway.session.skip(3)
        gateway.session.notify(b"2")
        assert (await anext(client)).data == b"1"
        assert lost == []
        assert (await anext(client)).data == b"2"
        assert lost == [(3, 5)]
        assert client.counters.lost == 3


async def test_everything_is_acknowledged(backend: str) -> None:
    async with both(backend) as (gateway, client):
        await client.request("push", b"20")
        await until(lambda: gateway.session.acked == gateway.session.last_seq)


async def test_heartbeats_and_silence(backend: str) -> None:
    async with fake_gateway(backend) as gateway:
        gateway.heartbeat_interval = 1
        async with Client(gateway.server, openid="ann", transport=backend) as client:
            await until(lambda: gateway.heartbeats)
            gateway.is_mute = True
            await until(lambda: not client.is_connected)
            gateway.is_mute = False
            await until(lambda: client.is_connected)
            assert gateway.starts[-1].session_id == client.session_id


@pytest.mark.parametrize("hello_code", [401, 500])
async def test_refused_login_raises(backend: str, hello_code: int) -> None:
    async with fake_gateway(backend) as gateway:
        gateway.hello_code = hello_code
        client = Client(gateway.server, openid="ann", transport=backend)
        with pytest.raises(RequestFailed) as caught:
            await client.connect()
        assert caught.value.code == hello_code
        await client.close()


async def test_login_later(backend: str) -> None:
    async with both(backend, login=False) as (gateway, client):
        assert gateway.requests == []
        answer = await client.login(b"", {"k": "v"})
        assert answer.is_ok
        assert gateway.requests == [("hello", 1)]


async def test_refused_start_says_why(backend: str) -> None:
    async with fake_gateway(backend) as gateway:
        gateway.refuse_start = (401, 4401, "bad token")
        client = Client(gateway.server, openid="ann", transport=backend)
        with pytest.raises(ConnectionFailed) as caught:
            await client.connect()
        assert caught.value.code == 4401
        assert "not you" in str(caught.value)
        await client.close()


async def test_nobody_there(backend: str) -> None:
    async with fake_gateway(backend) as gateway:
        server = gateway.server
    client = Client(server, openid="ann", transport=backend, connect_timeout=0.5)
    with pytest.raises(ConnectionFailed):
        await client.connect()


async def test_certificate_of_another_is_refused(backend: str, tmp_path: Path) -> None:
    from gatesvr.transport.tls import generate_certificate

    other = tmp_path / "other.pem"
    other.write_bytes(generate_certificate()[0])
    async with fake_gateway(backend) as gateway:
        client = Client(gateway.server, openid="ann", transport=backend, ca=str(other))
        with pytest.raises(ConnectionFailed, match="certificate"):
            await client.connect()
        insecure = Client(gateway.server, openid="ann", transport=backend, insecure=True)
        async with insecure:
            assert (await insecure.request("echo", b"x")).data == b"x"


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("localhost", "'localhost' is not HOST:PORT"),
        ("a..b:1", r"'a\.\.b' is no host name: it has an empty label"),
        (("a" * 64, 1), "is no host name: a label has at most 63 characters"),
        (("localhost",), "server: "),
        (("localhost", "8453"), "is no port"),
        (("localhost", 70_000), "70000 is no port"),
        (8453, "server: "),
    ],
)
def test_bad_server(server: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Client(server, openid="ann")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("openid", 5),
        ("openid", "\ud800"),
        ("client_id", 1),
        ("client_id", "\udcff"),
        ("auth_token", b"x"),
        ("zone", 7),
        ("transport", None),
        ("ca", 5),
        ("login_params", [1]),
        ("login_params", {"a": 1}),
        ("login_params", {1: "a"}),
        ("login_params", {"a": "\ud800"}),
        ("login_data", "x"),
        ("resume", "x"),
        ("on_lost", 1),
        ("on_state", "x"),
        ("server", 1),
    ],
)
def test_wrong_parameter_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ConfigError), match=name):
        Client(**{"openid": "ann", name: value})


@pytest.mark.parametrize("seconds", ["x", -1, float("nan"), True, 10**400])
async def test_wrong_timeout_of_a_request_is_refused_by_name(seconds: Any) -> None:
    client = Client(openid="ann")
    with pytest.raises(ConfigError, match="timeout: "):
        await client.request("echo", timeout=seconds)


def raises() -> dict[str, str]:
    raise ZeroDivisionError("no ticket")


WRONG_LOGINS: dict[str, tuple[Any, type[Exception], str]] = {
    "raises": (raises, ZeroDivisionError, "no ticket"),
    "list": (lambda: [1], TypeError, "what login_params returns must be a mapping, not list"),
    "number": (lambda: {"a": 1}, TypeError, r"login_params returns\['a'\] must be str, not int"),
    "exhausted": (iter([]).__next__, RuntimeError, "StopIteration"),
    "too large": (lambda: {"a": "x" * 70_000}, ValueError, "limit of 65536"),
}


@pytest.mark.parametrize("case", WRONG_LOGINS)
async def test_login_params_that_make_no_login_fail_the_connect_as_they_are(
    backend: str, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    callback, kind, words = WRONG_LOGINS[case]
    async with asyncio.timeout(DEADLINE_S), fake_gateway(backend) as gateway:
        client = Client(gateway.server, openid="ann", transport=backend, login_params=callback)
        with pytest.raises(kind, match=words):
            await client.connect()
    assert "connector_error" not in caplog.text


async def test_login_params_that_make_no_second_login_end_the_session_in_words(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    tickets = iter([{"ticket": "1"}])
    async with both(backend, login_params=lambda: next(tickets)) as (gateway, client):
        gateway.sessions.clear()
        assert gateway.listener is not None
        gateway.listener.close_all(4500)
        with pytest.raises(SessionLost, match="login_params raised StopIteration") as caught:
            await anext(client)
        assert caught.value.is_final
    assert "connector_error" not in caplog.text
    assert "internal error" not in str(caught.value)


async def test_missing_ca_file(tmp_path: Path) -> None:
    for ca in (tmp_path / "none.pem", str(tmp_path / "none.pem")):
        client = Client("localhost:1", openid="ann", ca=ca)
        with pytest.raises(ConfigError, match=r"none\.pem"):
            await client.connect()


async def test_final_close_ends_requests_and_iteration(backend: str) -> None:
    async with both(backend) as (gateway, client):
        request = asyncio.create_task(client.request("hold"))
        await until(lambda: gateway.session.held)
        gateway.session.notify(b"last")
        assert gateway.session.link is not None
        gateway.session.link.close(4410, "elsewhere")
        with pytest.raises(SessionLost):
            await request
        assert (await anext(client)).data == b"last"
        with pytest.raises(SessionLost) as caught:
            await anext(client)
        assert caught.value.code == 4410
        assert "elsewhere" in str(caught.value)
        with pytest.raises(StopAsyncIteration):
            await anext(client)


async def test_session_survives_its_connection(backend: str) -> None:
    async with both(backend) as (gateway, client):
        session = gateway.session
        held = asyncio.create_task(client.request("hold"))
        await until(lambda: session.held)
        assert session.link is not None
        session.link.close(4500, "oops")
        await until(lambda: session.link is None)
        session.notify(b"while away")
        session.release()
        assert (await client.request("echo", b"sent while away")).data == b"sent while away"
        assert (await held).data == b"released"
        assert (await anext(client)).data == b"while away"
        assert client.session_id == session.session_id
        assert gateway.starts[-1].attempt == 1
        assert [seq for _, seq in gateway.requests] == [1, 2, 3]


async def test_session_that_is_gone_is_told_and_begun_again(backend: str) -> None:
    async with both(backend) as (gateway, client):
        first = gateway.session
        held = asyncio.create_task(client.request("hold"))
        await until(lambda: first.held)
        gateway.sessions.clear()
        assert first.link is not None
        first.link.close(4503, "retry_after_ms=1")
        with pytest.raises(SessionLost):
            await held
        with pytest.raises(SessionLost):
            await anext(client)
        assert (await client.request("echo", b"again")).data == b"again"
        assert client.session_id == gateway.session.session_id != first.session_id
        assert client.counters.session_losses == 1


@pytest.mark.parametrize("form", ["mapping", "callback", "last"])
async def test_new_session_is_logged_in_to_as_the_last(backend: str, form: str) -> None:
    """With its parameters, before anything else is sent, and where a callback says them anew."""
    tickets = iter(["1", "2"])
    options: dict[str, Any] = {
        "mapping": {"login_params": {"ticket": "1"}},
        "callback": {"login_params": lambda: {"ticket": next(tickets)}},
        "last": {"login": False},
    }[form]
    async with both(backend, zone="007", **options) as (gateway, client):
        if form == "last":
            await client.login(params={"ticket": "1"})
        gateway.sessions.clear()
        assert gateway.listener is not None
        gateway.listener.close_all(4500)
        await until(lambda: not client.is_connected)
        assert (await client.request("echo", b"x")).data == b"x"
        assert [action for action, _ in gateway.requests] == ["hello", "hello", "echo"]
        second = "2" if form == "callback" else "1"
        assert gateway.hello_params == [
            {"ticket": "1", "zone": "007"},
            {"ticket": second, "zone": "007"},
        ]


async def test_server_of_either_form(backend: str) -> None:
    async with fake_gateway(backend) as gateway:
        assert gateway.listener is not None
        for server in (gateway.listener.address, gateway.server):
            async with Client(server, openid="ann", transport=backend) as client:
                assert (await client.request("echo", b"x")).data == b"x"


async def test_no_reconnect_where_none_is_wanted(backend: str) -> None:
    async with both(backend, reconnect_timeout=0) as (gateway, client):
        assert gateway.session.link is not None
        gateway.session.link.close(4500)
        with pytest.raises(SessionLost):
            await anext(client)


async def test_gap_is_resumed_from(backend: str) -> None:
    async with both(backend) as (gateway, client):
        session = gateway.session
        link, session.link = session.link, None
        session.notify(b"first")
        session.link = link
        session.notify(b"second")  # comes without the first: the client resumes
        assert [notify.data for notify in await read(client, 2)] == [b"first", b"second"]
        assert len(gateway.starts) == 2
