"""Who is let in at START, by whom a session is resumed, and how credentials end."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr import Client, ConnectionFailed
from gatesvr._pb import message_pb2 as pb
from gatesvr.auth.applicant import Applicant
from gatesvr.auth.reasons import AuthUnavailable

from ..auth.tokens import RSA, pem, token
from ..fakes import until
from .harness import counter, running_gateway
from .plain_client import PlainClient, answer, business, plain_client
from .plain_upstream import PlainUpstream, plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatesvr.gateway import Gateway


@asynccontextmanager
async def scene(
    backend: str, folder: Path, *sets: str
) -> AsyncIterator[tuple[Gateway, PlainUpstream]]:
    key = folder / "key.pem"
    key.write_bytes(pem(RSA))
    settings = (
        "auth.mode=jwt",
        "auth.algorithms=['RS256']",
        f"auth.key={key}",
        "auth.audience=gatesvr",
        "auth.issuer=https://id.test",
        "auth.min_refusal_time=1ms",
        "auth.claims=['role']",
        *sets,
    )
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *settings) as gateway,
    ):
        yield gateway, upstream


def auth(value: str, msg_id: int = 77) -> pb.ClientRequest:
    payload = pb.AuthRequest(auth_token=value).SerializeToString()
    return pb.ClientRequest(msg_id=msg_id, type=pb.REQUEST_AUTH, payload=payload)


async def auth_response(client: PlainClient) -> pb.AuthResponse:
    push = await client.receive()
    assert (push.type, push.seq_id) == (pb.PUSH_AUTH_RESP, 0)
    return pb.AuthResponse.FromString(push.payload)


async def test_a_good_token_lets_in_and_upstreams_learn_who_it_is(
    backend: str, tmp_path: Path
) -> None:
    async with (
        scene(backend, tmp_path) as (gateway, upstream),
        plain_client(gateway.address) as client,
    ):
        started = await client.login("", auth_token=token(role="admin"))
        assert started.auth_expires_at_ms > time.time() * 1000
        client.send(business(2, "echo", b"x"))
        assert answer(await client.receive()).data == b"x"
        asked = upstream.requests[-1]
        assert asked.openid == "alice"
        assert asked.peer.auth_subject == "alice"
        assert dict(asked.peer.auth_claims) == {"role": "admin"}
        assert counter(gateway, "auth.authenticated") == 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no token": ({}, "refused_missing"),
    "expired": ({"auth_token": token(exp=int(time.time()) - 3_600)}, "refused_expired"),
    "another openid": ({"auth_token": token(sub="mallory")}, "refused_openid"),
    "rubbish": ({"auth_token": "rubbish"}, "refused_malformed"),
    "unknown session": ({"session_id": "x" * 32, "resume_token": b"t" * 16}, "resumes_unknown"),
}


@pytest.mark.parametrize("name", BAD)
async def test_every_refusal_says_the_same(backend: str, name: str, tmp_path: Path) -> None:
    fields, counted = BAD[name]
    async with (
        scene(backend, tmp_path) as (gateway, upstream),
        plain_client(gateway.address) as client,
    ):
        response = await client.start("alice", **fields)
        assert not response.success
        assert (response.error.error_code, response.error.error_message) == (
            401,
            "not authenticated",
        )
        assert await client.closed() == 4401
        assert counter(gateway, "session.sessions") == 0
        assert upstream.requests == []
        layer = "session" if name == "unknown session" else "auth"
        assert counter(gateway, f"{layer}.{counted}") == 1


async def test_a_resume_needs_no_token_and_a_token_of_its_own_openid_if_any(
    backend: str, tmp_path: Path
) -> None:
    async with (
        scene(backend, tmp_path) as (gateway, _),
        plain_client(gateway.address) as first,
        plain_client(gateway.address) as thief,
        plain_client(gateway.address) as second,
        plain_client(gateway.address) as third,
    ):
        started = await first.login("alice", auth_token=token())
        stolen = await thief.resume(started, 1, auth_token=token(sub="mallory"))
        assert (stolen.success, stolen.error.error_code) == (False, 403)
        assert stolen.lost_reason == pb.LOST_DENIED
        assert await thief.closed() == 4403
        resumed = await second.resume(started, 1)
        assert resumed.success
        assert resumed.resumed
        assert resumed.auth_expires_at_ms == started.auth_expires_at_ms
        again = await third.resume(resumed, 1, auth_token=token(exp=int(time.time()) + 9_000))
        assert again.resumed
        assert again.auth_expires_at_ms > started.auth_expires_at_ms


async def test_expired_credentials_end_the_session_and_auth_renews_them(
    backend: str, tmp_path: Path
) -> None:
    async with (
        scene(backend, tmp_path, "auth.leeway=0") as (gateway, _),
        plain_client(gateway.address) as keeps,
        plain_client(gateway.address) as forgets,
    ):
        soon = int(time.time()) + 4
        await keeps.login("alice", auth_token=token(exp=soon))
        await forgets.login("bob", auth_token=token(sub="bob", exp=soon))
        keeps.send(auth("rubbish"))
        refused = await auth_response(keeps)
        assert (refused.success, refused.error.error_code) == (False, 401)
        keeps.send(auth(token(sub="bob")))
        refused = await auth_response(keeps)
        assert (refused.success, refused.error.error_code) == (False, 403)
        keeps.send(auth(token(exp=soon + 600)))
        renewed = await auth_response(keeps)
        assert renewed.success
        assert renewed.expires_at_ms == (soon + 600) * 1000
        kick = await forgets.receive()
        assert kick.type == pb.PUSH_KICK
        assert await forgets.closed() == 4401
        assert counter(gateway, "session.auth_expired") == 1
        keeps.send(business(2, "echo", b"still here"))
        assert answer(await keeps.receive()).data == b"still here"


async def test_expiry_that_is_not_enforced(backend: str, tmp_path: Path) -> None:
    sets = ("auth.leeway=0", "auth.enforce_expiry=false")
    async with (
        scene(backend, tmp_path, *sets) as (gateway, _),
        plain_client(gateway.address) as client,
    ):
        started = await client.login("alice", auth_token=token(exp=int(time.time()) + 60))
        assert started.auth_expires_at_ms == 0
        assert len(gateway.session_manager._credentials) == 0


async def test_too_many_failures_of_an_address_are_not_looked_at(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.auth.limit.RATE", 0.0)
    async with scene(backend, tmp_path, "auth.address_failures=3") as (gateway, _):
        for code in (401, 401, 401, 429):
            async with plain_client(gateway.address) as client:
                response = await client.start("alice", auth_token="rubbish")
                assert response.error.error_code == code
                assert await client.closed() == 4000 + code
                assert (response.error.retry_after_ms > 0) is (code == 429)
        assert counter(gateway, "auth.refused_malformed") == 3
        assert counter(gateway, "auth.refused_limited") == 1


async def test_failures_of_others_do_not_end_a_session(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client behind the same address that comes back with its good token is told to wait."""
    monkeypatch.setattr("gatesvr.auth.limit.RATE", 0.0)
    async with scene(backend, tmp_path, "auth.address_failures=1") as (gateway, _):
        async with plain_client(gateway.address) as client:
            started = await client.login("alice", auth_token=token())
        async with plain_client(gateway.address) as other:
            await other.start("bob", auth_token="rubbish")
        resume = {
            "session_id": started.session_id,
            "resume_token": started.resume_token,
        }
        async with plain_client(gateway.address) as client:
            response = await client.start("alice", auth_token=token(), **resume)
            assert response.error.error_code == 429
        assert gateway.session_manager.by_id(started.session_id) is not None


class Forged:
    """A client's transport that sends from another address, where nobody reads the answers."""

    def __init__(self, host: str) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))

    def sendto(self, data: bytes, address: tuple[Any, ...]) -> None:
        self.sock.sendto(data, ("127.0.0.1", address[1]))


@pytest.mark.skipif(sys.platform != "linux", reason="the host has one IPv4 loopback")
async def test_a_failure_counts_for_the_address_that_was_proved(
    backend: str, tmp_path: Path
) -> None:
    async with (
        scene(backend, tmp_path) as (gateway, _),
        plain_client(gateway.address) as client,
    ):
        own: Any = client._transport
        forged: Any = Forged("127.0.0.9")
        client._transport = forged
        start = pb.StartRequest(protocol=1, auth_token="rubbish").SerializeToString()
        client.send(pb.ClientRequest(msg_id=1, type=pb.REQUEST_START, payload=start))
        await until(lambda: counter(gateway, "auth.refused_malformed") == 1)
        assert gateway.engine.gate is not None
        assert list(gateway.engine.gate._limit._addresses._buckets) == ["127.0.0.1"]
        client._transport = own
        forged.sock.close()


async def test_little_is_kept_for_a_client_that_is_not_let_in_yet(
    backend: str, tmp_path: Path
) -> None:
    async with (
        scene(backend, tmp_path, "auth.min_refusal_time=10s") as (gateway, _),
        plain_client(gateway.address) as client,
    ):
        start = pb.StartRequest(protocol=1, auth_token="rubbish").SerializeToString()
        client.send(pb.ClientRequest(msg_id=1, type=pb.REQUEST_START, payload=start))
        client.send(*[business(seq, "echo", bytes(50_000)) for seq in range(1, 4)])
        assert await client.closed() == 4429
        assert counter(gateway, "dispatch.held_overflows") == 1


async def test_nobody_is_let_in_while_nothing_can_be_said(backend: str, tmp_path: Path) -> None:
    async with (
        scene(backend, tmp_path) as (gateway, _),
        plain_client(gateway.address) as inside,
        plain_client(gateway.address) as outside,
    ):
        await inside.login("alice", auth_token=token())
        gate = gateway.engine.gate
        assert gate is not None
        asked, answered = asyncio.Event(), asyncio.Event()

        async def unavailable(applicant: Applicant) -> Any:
            asked.set()
            await answered.wait()
            raise AuthUnavailable("no keys")

        gate._authenticator.authenticate = unavailable  # type: ignore[method-assign]
        inside.send(auth(token(), 2))
        await asyncio.wait_for(asked.wait(), 30)
        # One is checked at a time, and holds up nothing else.
        inside.send(auth(token(), 3), business(2, "echo", b"meanwhile"))
        push = await inside.receive()
        response = pb.AuthResponse.FromString(push.payload)
        assert (push.msg_id, response.error.error_code) == (3, 429)
        assert counter(gateway, "dispatch.auths_refused") == 1
        assert answer(await inside.receive()).data == b"meanwhile"
        answered.set()
        assert (await auth_response(inside)).error.error_code == 503
        refused = await outside.start("bob", auth_token=token(sub="bob"))
        assert (refused.success, refused.error.error_code) == (False, 503)
        assert refused.error.retry_after_ms > 0
        assert await outside.closed() == 4503
        inside.send(business(3, "echo", b"untouched"))
        assert answer(await inside.receive()).data == b"untouched"


async def test_without_authentication_auth_is_answered(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(auth("anything"))
        assert await auth_response(client) == pb.AuthResponse(success=True)


async def test_a_client_that_leaves_while_it_is_authenticated_leaves_nothing(
    backend: str, tmp_path: Path
) -> None:
    async with scene(backend, tmp_path) as (gateway, _):
        gate = gateway.engine.gate
        assert gate is not None
        asked, answered = asyncio.Event(), asyncio.Event()
        authenticate = gate._authenticator.authenticate

        async def slow(applicant: Applicant) -> Any:
            asked.set()
            await answered.wait()
            return await authenticate(applicant)

        gate._authenticator.authenticate = slow  # type: ignore[method-assign]
        async with plain_client(gateway.address) as client:
            start = pb.StartRequest(openid="alice", auth_token=token(), protocol=1)
            client.send(
                pb.ClientRequest(
                    msg_id=1, type=pb.REQUEST_START, payload=start.SerializeToString()
                ),
                business(1, "hello"),
            )
            await asyncio.wait_for(asked.wait(), 30)
        await until(lambda: counter(gateway, "transport.connections") == 0)
        answered.set()
        await until(lambda: counter(gateway, "transport.tasks") == 0)
        assert counter(gateway, "session.created") == 0


async def test_a_client_renews_its_token_before_it_expires(backend: str, tmp_path: Path) -> None:
    made = 0

    async def fetch() -> str:
        nonlocal made
        made += 1
        return token(exp=int(time.time()) + 4, jti=str(made))

    async with scene(backend, tmp_path, "auth.leeway=0") as (gateway, _):
        client = Client(
            gateway.address, openid="alice", auth_token=fetch, insecure=True, transport=backend
        )
        async with client:
            session_id = client.session_id
            await until(lambda: counter(gateway, "auth.renewed") >= 2)
            assert (await client.request("echo", b"x")).data == b"x"
            assert client.session_id == session_id
        assert made >= 3
        assert counter(gateway, "session.auth_expired") == 0


async def test_a_client_without_a_good_token_is_told_so(backend: str, tmp_path: Path) -> None:
    async with scene(backend, tmp_path) as (gateway, _):

        async def fails() -> str:
            raise KeyError("no token today")

        for auth_token, error, text in (
            ("", ConnectionFailed, "4401"),
            ("rubbish", ConnectionFailed, "not authenticated"),
            (fails, KeyError, "no token today"),
        ):
            client = Client(
                gateway.address,
                openid="alice",
                auth_token=auth_token,  # type: ignore[arg-type]
                insecure=True,
                transport=backend,
            )
            with pytest.raises(error, match=text):
                await client.connect()


async def test_an_exception_while_an_auth_is_checked_ends_its_connection_alone(
    backend: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        scene(backend, tmp_path) as (gateway, _),
        plain_client(gateway.address) as client,
        plain_client(gateway.address) as again,
    ):
        started = await client.login("alice", auth_token=token())
        gate = gateway.engine.gate
        assert gate is not None

        async def broken(applicant: Applicant) -> Any:
            raise ZeroDivisionError("on purpose")

        gate._authenticator.authenticate = broken  # type: ignore[method-assign]
        client.send(auth(token()))
        assert await client.closed() == 4500
        assert counter(gateway, "dispatch.internal_errors") == 1
        assert "auth_lost" in caplog.messages
        assert (await again.resume(started, 1)).resumed


async def test_auths_of_a_connection_are_limited(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.dispatch.handler.AUTH_RATE", 1e-6)
    async with (
        scene(backend, tmp_path) as (gateway, _),
        plain_client(gateway.address) as client,
    ):
        await client.login("alice", auth_token=token())
        codes = []
        for msg_id in range(1, 9):
            client.send(auth(token(), msg_id))
            codes.append((await auth_response(client)).error.error_code)
        assert codes == [0] * 5 + [429] * 3
        assert counter(gateway, "dispatch.auths_refused") == 3
        assert counter(gateway, "auth.renewed") == 5
