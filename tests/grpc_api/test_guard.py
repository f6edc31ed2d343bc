"""Who may call the push port: tokens, certificates, roles, and what callers without them get."""

from __future__ import annotations

import logging
import math
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gatesvr import GatewayClient, Push, credentials
from gatesvr._pb import upstream_pb2 as pb
from gatesvr.auth import guesses
from gatesvr.config import PushCaller, PushConfig
from gatesvr.credentials import Access, FileWatch, ServerCertificate, TokenFile
from gatesvr.errors import ConfigError, UpstreamError
from gatesvr.grpc_api import guard

from .certificates import Signed, make
from .test_service import Rig, running, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ADMIN, PUSH, OTHER, NOBODY = (f"{name}-{'x' * 16}" for name in ("admin", "push", "other", "none"))
LIMITED = "RESOURCE_EXHAUSTED: too many wrong tokens from this network"
UNKNOWN = "UNAUTHENTICATED: no valid credentials"
FORBIDDEN = "PERMISSION_DENIED: not allowed to this caller"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed files are read at the next look."""
    monkeypatch.setattr(credentials, "SETTLE_S", 0.0)
    monkeypatch.setattr(credentials, "LOOK_S", 0.0)


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    """Return a file for each token, by the token."""
    files = {}
    for token in (ADMIN, PUSH, OTHER, NOBODY):
        file = tmp_path / f"{token.partition('-')[0]}.token"
        file.write_text(f"# of {token.partition('-')[0]}\n\n{token}\n")
        files[token] = str(file)
    return files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Signed]:
    folder = tmp_path_factory.mktemp("certificates")
    ca = make(folder, "ca")
    stranger = make(folder, "stranger-ca")
    return {
        "ca": ca,
        "server": make(folder, "server", ca),
        "pusher": make(folder, "pusher", ca, dns="pusher.svc", uri="spiffe://game/pusher"),
        "ops": make(folder, "ops", ca),
        "nobody": make(folder, "nobody", ca, dns="nobody.svc"),
        # Its common name is that of ops, but the subjectAltName counts.
        "ops-too": make(folder, "ops-too", ca, common_name="ops", dns="ops-too.svc"),
        "stranger": make(folder, "stranger", stranger, common_name="ops"),
        "expired": make(folder, "expired", ca, dns="pusher.svc", days=-1),
    }


def by_token(tokens: dict[str, str], **more: Any) -> PushConfig:
    return PushConfig(
        bind="127.0.0.1:0",
        token=tokens[ADMIN],
        caller=[PushCaller(name="pusher", token=tokens[PUSH], services=["chat"])],
        **more,
    )


def by_certificate(made: dict[str, Signed]) -> PushConfig:
    server = made["server"]
    return PushConfig(
        bind="127.0.0.1:0",
        cert=server.cert,
        key=server.key,
        client_ca=made["ca"].cert,
        caller=[
            PushCaller(name="pusher", certificates=["spiffe://game/pusher"]),
            PushCaller(name="ops", role="admin", certificates=["ops"]),
        ],
    )


@asynccontextmanager
async def calling(rig: Rig, **access: str) -> AsyncIterator[GatewayClient]:
    async with GatewayClient(rig.service.address, timeout=20.0, **access) as client:
        yield client


async def refused(client: GatewayClient, *, is_known: bool = False) -> set[str]:
    """Make each call that a caller without a role is refused; return what it heard."""
    heard = set()

    async def subscribe() -> None:
        async with client.events():
            pass

    async def push_stream() -> None:
        async with client.push_stream() as stream:
            await stream.push(Push("alice"))

    calls = [
        client.kick("alice"),
        client.get_session("alice"),
        anext(client.sessions()),
        client.keep_alive("lease"),
        client.deregister("lease"),
        client.register(":9", "chat"),
        subscribe(),
    ]
    if not is_known:
        calls += [client.push("alice"), client.broadcast(), client.multicast(["alice"])]
        calls.append(push_stream())
    for call in calls:
        with pytest.raises(UpstreamError) as caught:
            await call
        heard.add(str(caught.value).removeprefix("gateway: "))
    return heard


def untouched(rig: Rig) -> bool:
    """Return whether nothing was done: no push, no kick, no endpoint, no call let in."""
    sessions = [s for s in rig.manager.find("openid", "alice") if s.is_valid]
    return (
        rig.counters["calls"] == rig.counters["pushes"] == rig.counters["kicks"] == 0
        and len(sessions) == 1
        and texts(sessions[0]) == []
        and rig.registry.endpoints == []
    )


async def test_without_a_token_nothing_is_done(tokens: dict[str, str]) -> None:
    async with running(by_token(tokens)) as rig:
        rig.session("alice")
        async with calling(rig) as client:
            assert await refused(client) == {UNKNOWN}
        assert untouched(rig)
        assert rig.counters["refused_no_credentials"] == 11


async def test_with_a_wrong_token_nothing_is_done(
    tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "BURST", 100.0)
    async with running(by_token(tokens)) as rig:
        rig.session("alice")
        async with calling(rig, token_file=tokens[OTHER]) as client:
            assert await refused(client) == {UNKNOWN}
        assert untouched(rig)
        assert rig.counters["refused_token"] == 11


async def test_with_a_token_of_another_role_nothing_is_done(tokens: dict[str, str]) -> None:
    config = PushConfig(
        bind="127.0.0.1:0",
        token=tokens[ADMIN],
        caller=[PushCaller(name="pusher", token=tokens[PUSH])],
    )
    async with running(config) as rig:
        rig.session("alice")
        async with calling(rig, token_file=tokens[PUSH]) as client:
            assert await refused(client, is_known=True) == {FORBIDDEN}
            assert untouched(rig)
            assert (await client.push("alice")).success
            assert await client.push_many([]) == []
        assert rig.counters["refused_role"] == 7


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", f"Basic {ADMIN}", ADMIN, f"Bearer {ADMIN}x", f"Bearer {ADMIN[:-1]}"],
)
async def test_header_that_is_no_known_token(tokens: dict[str, str], value: str) -> None:
    async with running(by_token(tokens)) as rig:
        with pytest.raises(grpc.aio.AioRpcError, match="no valid credentials"):
            await rig.stub.BroadcastToClients(
                pb.BroadcastRequest(), metadata=(("authorization", value),)
            )
        assert rig.counters["refused_token"] == 1


async def test_message_of_a_stranger_is_not_read(tokens: dict[str, str]) -> None:
    async with running(by_token(tokens)) as rig:
        call: Any = rig.channel.unary_unary("/gatesvr.proto.GatewayService/PushToClient")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff")
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff", metadata=(("authorization", f"bearer {ADMIN}"),))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # read: undecodable


async def test_everything_with_the_admins_token(tokens: dict[str, str]) -> None:
    async with running(by_token(tokens)) as rig:
        rig.session("alice")
        async with calling(rig, token_file=tokens[ADMIN]) as client:
            assert (await client.push("alice")).success
            async with client.push_stream() as stream, client.events():
                assert [r.success for r in await stream.push(Push("alice"))] == [True]
            lease = await client.register(":9", "chat")
            assert (await client.deregister(lease.lease_id)).success
            assert (await client.kick("alice")).success
        assert not [n for name, n in rig.counters.items() if name.startswith("refused") and n]


async def test_a_pusher_registers_its_own_services_alone(tokens: dict[str, str]) -> None:
    async with running(by_token(tokens)) as rig:
        async with calling(rig, token_file=tokens[PUSH]) as client:
            lease = await client.register(":9", "chat", lease=9)
            assert (await client.keep_alive(lease.lease_id)).success
            for service, zone in (("hello", ""), ("upstream-zone-001", ""), ("any", "001")):
                with pytest.raises(UpstreamError, match=FORBIDDEN):
                    await client.register(":9", service, zone=zone)
            assert [e.service for e in rig.registry.endpoints] == ["chat"]
            assert rig.counters["refused_role"] == 3
        async with calling(rig, token_file=tokens[ADMIN]) as admin:
            stolen = await admin.register(":9", "chat")
            assert (stolen.success, stolen.error_code) == (False, "INVALID")


async def test_health_needs_no_credentials(tokens: dict[str, str]) -> None:
    async with running(by_token(tokens)) as rig:
        stub = health_pb2_grpc.HealthStub(rig.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="no valid credentials"):
            await stub.Watch(health_pb2.HealthCheckRequest()).read()
        with pytest.raises(grpc.aio.AioRpcError, match="no valid credentials"):
            await rig.channel.unary_unary("/no.Such/Method")(b"")


async def test_refusals_are_one_line_a_second(
    tokens: dict[str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "gatesvr.grpc_api")
    monkeypatch.setattr(guesses, "BURST", 100.0)
    async with running(by_token(tokens)) as rig:
        found = rig.service._guard
        assert found is not None
        found._clock = lambda: 100.0
        async with calling(rig, token_file=tokens[OTHER]) as client:
            for _ in range(20):
                with pytest.raises(UpstreamError):
                    await client.kick("alice")
            found._clock = lambda: 101.0
            with pytest.raises(UpstreamError):
                await client.kick("alice")
    lines = [r.keys for r in caplog.records if r.getMessage() == "call_refused"]  # type: ignore[attr-defined]
    assert [line["suppressed"] for line in lines] == [0, 19]
    assert lines[0]["why"] == "token"
    assert lines[0]["peer"].startswith("ipv4:127.0.0.1:")
    assert lines[0]["rpc"].endswith("/KickClient")
    assert OTHER not in caplog.text


async def test_guesses_wait_and_who_is_known_goes_on(
    tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guesses, "RATE", 1e-6)
    async with running(by_token(tokens)) as rig:
        rig.session("alice")
        async with (
            calling(rig, token_file=tokens[PUSH]) as pusher,
            calling(rig, token_file=tokens[ADMIN]) as admin,
            calling(rig, token_file=tokens[OTHER]) as guesser,
        ):
            assert (await pusher.push("alice")).success
            for _ in range(10):
                with pytest.raises(UpstreamError, match=UNKNOWN):
                    await guesser.kick("alice")
            for client in (guesser, admin):  # a good token must not be told apart
                with pytest.raises(UpstreamError, match=LIMITED):
                    await client.kick("alice")
            call = rig.channel.unary_unary("/gatesvr.proto.GatewayService/KickClient")
            for token in (ADMIN, OTHER):  # not by a call without a message, either
                with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
                    await call(b"\xff\xff", metadata=(("authorization", f"Bearer {token}"),))
            assert (await pusher.push("alice")).success
            async with pusher.push_stream() as stream:
                assert [r.success for r in await stream.push(Push("alice"))] == [True]
        assert rig.counters["guesses_limited"] == 4
        assert rig.counters["refused_token"] == 10
        assert rig.counters["kicks"] == 0
    lines = [r.keys for r in caplog.records if r.getMessage() == "guesses_limited"]  # type: ignore[attr-defined]
    assert len(lines) + sum(line["suppressed"] for line in lines) == 4
    assert {line["peer"] for line in lines} == {"127.0.0.1"}


async def test_known_tokens_are_bounded(
    tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_KNOWN", 1)
    async with running(by_token(tokens)) as rig:
        rig.session("alice")
        for token in (PUSH, ADMIN, PUSH):
            async with calling(rig, token_file=tokens[token]) as client:
                assert (await client.push("alice")).success
        assert rig.service._guard is not None
        assert len(rig.service._guard._known) == 1


async def test_call_without_a_message(tokens: dict[str, str]) -> None:
    async with running(by_token(tokens)) as rig:
        assert rig.service._guard is not None
        rig.service._guard._limited_until = math.inf
        call: Any = rig.channel.stream_unary("/gatesvr.proto.GatewayService/PushToClient")
        with pytest.raises(grpc.aio.AioRpcError, match="no message"):
            await call(iter(()), metadata=(("authorization", f"Bearer {ADMIN}"),))
        unknown: Any = rig.channel.unary_unary("/no.Such/Method")
        with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
            await unknown(b"", metadata=(("authorization", f"Bearer {ADMIN}"),))


# TLS.


async def unreached(rig: Rig, **access: str) -> None:
    """Check that a caller gets no connection and moves nothing but the handshakes."""
    before = rig.counters["tls_handshakes"]
    async with calling(rig, **access) as client:
        with pytest.raises(UpstreamError, match="UNAVAILABLE"):
            await client.kick("alice")
    assert rig.counters["tls_handshakes"] > before
    assert untouched(rig)


async def test_certificate_of_a_role(made: dict[str, Signed]) -> None:
    ca = made["ca"].cert
    async with running(by_certificate(made)) as rig:
        rig.session("alice")
        for name, heard, counter, count in (
            ("nobody", UNKNOWN, "refused_certificate", 11),
            ("ops-too", UNKNOWN, "refused_certificate", 22),
            ("pusher", FORBIDDEN, "refused_role", 7),
        ):
            shown = made[name]
            async with calling(rig, ca=ca, cert=shown.cert, key=shown.key) as client:
                assert await refused(client, is_known=name == "pusher") == {heard}
            assert rig.counters[counter] == count
            assert untouched(rig)

        pusher, ops = made["pusher"], made["ops"]
        async with calling(rig, ca=ca, cert=pusher.cert, key=pusher.key) as client:
            assert (await client.push("alice")).success
            async with client.push_stream() as stream:
                assert [r.success for r in await stream.push(Push("alice"))] == [True]
        async with calling(rig, ca=ca, cert=ops.cert, key=ops.key) as client, client.events():
            assert (await client.kick("alice")).success


@pytest.fixture
def pusher(made: dict[str, Signed]) -> grpc.ChannelCredentials:
    """Return the certificate of a pusher."""
    files = (made["ca"].cert, made["pusher"].key, made["pusher"].cert)
    return grpc.ssl_channel_credentials(*(Path(file).read_bytes() for file in files))


async def test_reflection_by_certificate_and_by_token(
    made: dict[str, Signed], tokens: dict[str, str], pusher: grpc.ChannelCredentials
) -> None:
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    async with (
        running(by_certificate(made)) as rig,
        grpc.aio.secure_channel(rig.service.address, pusher) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        [names] = [answer async for answer in stub.ServerReflectionInfo(iter([question]))]
        assert len(names.list_services_response.service) == 3
    for is_limited in (False, True):
        async with running(by_token(tokens)) as rig:
            assert rig.service._guard is not None
            rig.service._guard._limited_until = math.inf if is_limited else 0.0
            stub = reflection_pb2_grpc.ServerReflectionStub(rig.channel)
            bearer = (("authorization", f"Bearer {PUSH}"),)
            answers = stub.ServerReflectionInfo(iter([question]), metadata=bearer)
            [names] = [answer async for answer in answers]
            assert len(names.list_services_response.service) == 3


async def test_without_a_certificate_of_the_ca_there_is_no_connection(
    made: dict[str, Signed],
) -> None:
    ca = made["ca"].cert
    async with running(by_certificate(made)) as rig:
        rig.session("alice")
        await unreached(rig)  # plain text
        await unreached(rig, ca=ca)
        for name in ("stranger", "expired"):
            await unreached(rig, ca=ca, cert=made[name].cert, key=made[name].key)
        # A caller knows an impostor, too.
        await unreached(rig, ca=made["stranger"].cert)


async def test_any_certificate_of_the_ca_is_an_admins_where_callers_have_no_names(
    made: dict[str, Signed], tokens: dict[str, str]
) -> None:
    server, shown = made["server"], made["nobody"]
    tls = {"cert": server.cert, "key": server.key, "client_ca": made["ca"].cert}
    access = {"ca": made["ca"].cert, "cert": shown.cert, "key": shown.key}
    async with running(PushConfig(bind="127.0.0.1:0", **tls)) as rig:
        rig.session("alice")
        async with calling(rig, **access) as client:
            assert (await client.kick("alice")).success
    # With a token both are needed.
    async with running(PushConfig(bind="127.0.0.1:0", token=tokens[ADMIN], **tls)) as rig:
        rig.session("alice")
        async with calling(rig, **access) as client:
            assert await refused(client) == {UNKNOWN}
            assert untouched(rig)
        async with calling(rig, **access, token_file=tokens[ADMIN]) as client:
            assert (await client.kick("alice")).success


async def test_token_over_tls(made: dict[str, Signed], tokens: dict[str, str]) -> None:
    server = made["server"]
    config = by_token(tokens, cert=server.cert, key=server.key)
    async with running(config) as rig:
        rig.session("alice")
        await unreached(rig, token_file=tokens[ADMIN])  # plain text: the token is not sent
        async with calling(rig, ca=made["ca"].cert, token_file=tokens[ADMIN]) as client:
            assert (await client.kick("alice")).success


@pytest.mark.parametrize("proof", ["token", "certificate"])
async def test_other_addresses_are_for_those_who_prove_something(
    made: dict[str, Signed], tokens: dict[str, str], proof: str
) -> None:
    server = made["server"]
    tls = {"cert": server.cert, "key": server.key}
    with pytest.raises(ConfigError, match=r"push\.token"):
        async with running(PushConfig(bind="0.0.0.0:0", **tls)):
            pass
    config = {"token": {"token": tokens[ADMIN]}, "certificate": {"client_ca": made["ca"].cert}}
    async with running(PushConfig(bind="0.0.0.0:0", **tls, **config[proof])) as rig:
        assert rig.service.address.startswith("0.0.0.0:")


# Files that change.


@pytest.mark.usefixtures("at_once")
async def test_tokens_are_exchanged_without_a_restart(
    tokens: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "admin.token"
    async with (
        running(by_token(tokens)) as rig,
        calling(rig, token_file=tokens[ADMIN]) as old,
        calling(rig, token_file=tokens[OTHER]) as new,
    ):
        rig.session("alice")
        with pytest.raises(UpstreamError, match=UNKNOWN):
            await new.push("alice")
        kept = tmp_path / "old.token"
        kept.write_text(ADMIN)
        async with calling(rig, token_file=str(kept)) as stale:
            file.write_text(f"{ADMIN}\n{OTHER}\n")
            assert (await new.push("alice")).success
            assert (await stale.push("alice")).success
            file.write_text(f"{OTHER}\n")
            assert (await new.push("alice")).success
            assert (await old.push("alice")).success  # it reads its file again, too
            with pytest.raises(UpstreamError, match=UNKNOWN):
                await stale.push("alice")
            for broken in (b"", b"\n# nothing\n", b"short\n", b"\xff" * 40, b"two words in a line"):
                file.write_bytes(broken)
                assert (await new.push("alice")).success
            file.unlink()
            assert (await new.push("alice")).success


def test_a_file_that_goes_for_good_is_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("a" * 16)
    watch = FileWatch(str(file), settle=0.0)
    file.unlink()
    assert not watch.has_changed()  # it may be replaced right now
    monkeypatch.setattr(credentials, "GONE_S", 0.0)
    assert [watch.has_changed() for _ in range(3)] == [True, False, False]
    file.write_text("b" * 16)
    assert [watch.has_changed() for _ in range(2)] == [True, False]


def test_a_file_is_not_read_while_it_may_be_half_written(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a" * 16)
    now = 0.0
    held = TokenFile(str(file), "push.token", lambda: now)
    file.write_text("b" * 16)  # and more to come
    now = 10.0
    assert held.first == "a" * 16


@pytest.mark.usefixtures("at_once")
async def test_certificate_is_renewed_without_a_restart(tmp_path: Path) -> None:
    old_ca, new_ca = make(tmp_path, "old-ca"), make(tmp_path, "new-ca")
    server = make(tmp_path, "server", old_ca)
    renewed = make(tmp_path, "server", new_ca)
    config = PushConfig(bind="127.0.0.1:0", cert=server.cert, key=server.key)
    (tmp_path / "server.pem").write_bytes(server.cert_pem)
    (tmp_path / "server.key.pem").write_bytes(server.key_pem)
    async with running(config) as rig:

        async def trusts(ca: Signed) -> bool:
            async with calling(rig, ca=ca.cert) as client:
                try:
                    await client.push("alice")
                except UpstreamError:
                    return False
                return True

        assert (await trusts(old_ca), await trusts(new_ca)) == (True, False)
        (tmp_path / "server.pem").write_bytes(renewed.cert_pem)  # its key comes later
        assert (await trusts(old_ca), await trusts(new_ca)) == (True, False)
        (tmp_path / "server.key.pem").write_bytes(renewed.key_pem[:100])
        assert await trusts(old_ca)
        (tmp_path / "server.key.pem").write_bytes(renewed.key_pem)
        assert (await trusts(old_ca), await trusts(new_ca)) == (False, True)
        counters = rig.commands.counters
        assert (counters.certificates_kept, counters.certificates_renewed) == (2, 1)


async def test_callers_and_certificates_are_exchanged_by_other_settings(
    tokens: dict[str, str], tmp_path: Path
) -> None:
    old_ca, new_ca = make(tmp_path, "old-ca"), make(tmp_path, "new-ca")
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = make(tmp_path / "old", "server", old_ca), make(tmp_path / "new", "server", new_ca)
    bind = "127.0.0.1:0"
    config = PushConfig(bind=bind, cert=old.cert, key=old.key, token=tokens[ADMIN])
    async with running(config) as rig:

        async def kick(ca: Signed, token: str) -> str:
            async with calling(rig, ca=ca.cert, token_file=tokens[token]) as client:
                try:
                    await client.kick("alice")
                except UpstreamError as error:
                    return str(error)
                return ""

        assert await kick(old_ca, ADMIN) == ""
        assert UNKNOWN in await kick(old_ca, PUSH)
        callers = [PushCaller(name="p", role="admin", token=tokens[PUSH])]
        for bad in (
            PushConfig(bind=bind, cert=new.cert, key=old.key, caller=callers),
            PushConfig(bind=bind, cert=new.cert, key=new.key, token=str(tmp_path / "none")),
        ):
            with pytest.raises(ConfigError):
                rig.service.prepare(bad)
        assert await kick(old_ca, ADMIN) == ""
        other = PushConfig(bind=bind, cert=new.cert, key=new.key, caller=callers)
        rig.service.prepare(other)()
        assert await kick(new_ca, PUSH) == ""
        assert UNKNOWN in await kick(new_ca, ADMIN)
        assert await kick(old_ca, PUSH) != ""


# Files that cannot be used.


def test_unusable_files_are_named(made: dict[str, Signed], tmp_path: Path) -> None:
    server, other, expired = made["server"], made["ops"], made["expired"]
    text = tmp_path / "text"
    text.write_text("no certificate")
    for (cert, key, ca), message in (
        ((str(tmp_path / "none"), server.key, ""), r"none: push\.cert: No such file"),
        ((str(text), server.key, ""), r"text: push\.cert: no usable certificate"),
        ((server.cert, str(text), ""), r"text: push\.key: no usable private key"),
        ((server.cert, other.key, ""), r"push\.key: this is not the key of the certificate"),
        ((server.cert, server.key, str(text)), r"push\.client_ca: no usable certificate"),
        ((expired.cert, expired.key, ""), r"push\.cert: the certificate expired on"),
    ):
        with pytest.raises(ConfigError, match=message):
            ServerCertificate(cert, key, ca, "push")
    for access, message in (
        ({"cert": other.cert, "ca": "x"}, "cert: cert and key go together, key is missing"),
        ({"cert": other.cert, "key": other.key}, "cert: a certificate needs TLS"),
        ({"ca": str(text)}, "ca: no usable certificate"),
        ({"ca": server.cert, "cert": other.cert, "key": server.key}, "key: this is not the key"),
    ):
        with pytest.raises(ConfigError, match=message):
            Access(**access)
    assert Access(ca="system").credentials is not None


def test_a_token_in_the_place_of_its_file_is_not_told() -> None:
    with pytest.raises(ConfigError) as caught:
        TokenFile(ADMIN, "push.token")
    assert str(caught.value) == "push.token: No such file or directory"


def test_a_token_file_has_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    for content, message in (
        ("", "there is no token in the file"),
        (f"{ADMIN}\nshort", "token 2 of the file is not a token"),
        ("\n".join("x" * n for n in range(16, 81)), "more than 64 tokens"),
        ("x" * (1 << 21), "more than 1048576 bytes"),
    ):
        file.write_text(content)
        with pytest.raises(ConfigError, match=message):
            TokenFile(str(file), "push.token")
