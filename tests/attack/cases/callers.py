"""Callers of the push port that may not call it, or not for that."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import grpc.aio

from gatesvr._pb import upstream_pb2 as up
from gatesvr.config import parse_address
from gatesvr.transport.tls import DEVELOPMENT_NAMES, generate_certificate

from ..case import Off, case, moved, saw

if TYPE_CHECKING:
    from ..attacker import Attacker

PUSHER = "a-token-of-somebody-who-pushes"
ADMIN = "a-token-of-somebody-who-does-everything"
GAME = '{name="game", token="{folder}/pusher", services=["chat"]}'
OPERATOR = '{name="operator", role="admin", token="{folder}/admin"}'
GUARDED = (f"push.caller=[{GAME}, {OPERATOR}]", "upstream.services.chat=[]")
GUESSES = 200
UNGUARDED = Off("anybody may call", sets=("push.caller=[]",))
FILES = {"pusher": PUSHER.encode(), "admin": ADMIN.encode()}


async def call_all(
    attacker: Attacker,
    session_id: str,
    authorization: str | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> None:
    """Call every method of the push port; count those that are done and those that are refused."""
    stub = attacker.stub(credentials)
    metadata = (("authorization", authorization),) if authorization is not None else ()
    target = {"target_type": "session", "target_id": session_id}
    for method, request in (
        (stub.PushToClient, up.UnicastPushRequest(**target, data=b"x")),
        (stub.BroadcastToClients, up.BroadcastRequest(data=b"x")),
        (stub.GetSession, up.GetSessionRequest(**target)),
        (
            stub.RegisterUpstream,
            up.UpstreamRegisterRequest(address="127.0.0.1:9", service_name="other"),
        ),
        (stub.KickClient, up.KickRequest(**target)),
    ):
        try:
            await method(request, metadata=metadata, timeout=2.0)
            attacker.seen["done"] += 1
        except grpc.aio.AioRpcError as error:
            attacker.seen[f"refused {error.code().name}"] += 1


@case(
    "push port without credentials",
    "a caller without a token, with a wrong one and with no bearer's tries to push, kick, register",
    saw("done", most=0),
    saw("refused UNAUTHENTICATED", least=20, most=20),
    moved("push.refused_no_credentials", least=5),
    moved("push.refused_token", least=15),
    saw("victim kicked", most=0),
    off=UNGUARDED,
    sets=GUARDED,
    files=FILES,
    patches={"gatesvr.auth.guesses:BURST": 1_000},
)
async def no_credentials(attacker: Attacker) -> None:
    victim = await attacker.connect()
    started = await victim.login("victim")
    for authorization in (None, "Bearer wrong-but-long-enough", "Basic YTpi", f"Bearer {ADMIN}x"):
        await call_all(attacker, started.session_id, authorization)
    attacker.seen["victim kicked"] = victim.terminated is not None


@case(
    "guesses at push tokens",
    f"a caller shows ten wrong tokens and {GUESSES} more, of which every tenth is right; a service"
    " at its address pushes on",
    saw("let in", most=0),
    saw("looked at", least=10, most=10),
    moved("push.guesses_limited", least=GUESSES, most=GUESSES),
    saw("pushes of the service", least=2, most=2),
    off=Off("no limit", patches={"gatesvr.auth.guesses:BURST": 1e6}),
    sets=GUARDED,
    files=FILES,
    patches={"gatesvr.auth.guesses:RATE": 0.01},  # else one is looked at each second
)
async def guesses(attacker: Attacker) -> None:
    victim = await attacker.connect()
    started = await victim.login("victim")
    target = {"target_type": "session", "target_id": started.session_id}
    stub = attacker.stub()

    async def push() -> None:
        await stub.PushToClient(
            up.UnicastPushRequest(**target, data=b"x"),
            metadata=(("authorization", f"Bearer {PUSHER}"),),
            timeout=2.0,
        )
        attacker.seen["pushes of the service"] += 1

    await push()
    for i in range(-10, GUESSES):
        token = ADMIN if i >= 0 and i % 10 == 0 else f"a-wrong-token-of-nobody-{i}"
        try:
            await stub.GetSession(
                up.GetSessionRequest(**target),
                metadata=(("authorization", f"Bearer {token}"),),
                timeout=2.0,
            )
            attacker.seen["let in"] += 1
            attacker.seen["looked at"] += 1
        except grpc.aio.AioRpcError as error:
            limited = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            attacker.seen["looked at"] += not limited
    await push()


_CERT, _KEY = generate_certificate(DEVELOPMENT_NAMES)
_CA, _ = generate_certificate(["a CA that signs nobody here"])


@case(
    "push port without a certificate",
    "a caller without a certificate, and one with a stranger's, tries to push, kick and register",
    saw("done", most=0),
    saw("refused UNAVAILABLE", least=15, most=15),
    moved("push.tls_handshakes", least=2),
    moved("push.calls", most=0),
    saw("victim kicked", most=0),
    off=Off("no certificate is asked for", sets=('push.client_ca=""',)),
    sets=(
        'push.cert="{folder}/cert"',
        'push.key="{folder}/key"',
        'push.client_ca="{folder}/ca"',
    ),
    files={"cert": _CERT, "key": _KEY, "ca": _CA},
)
async def no_certificate(attacker: Attacker) -> None:
    victim = await attacker.connect()
    started = await victim.login("victim")
    where = parse_address(attacker.push_address)
    server = (await asyncio.to_thread(ssl.get_server_certificate, where)).encode()
    cert, key = generate_certificate(["a stranger"])
    for credentials in (
        None,
        grpc.ssl_channel_credentials(server),
        grpc.ssl_channel_credentials(server, key, cert),
    ):
        await call_all(attacker, started.session_id, credentials=credentials)
    attacker.seen["victim kicked"] = victim.terminated is not None


@case(
    "push port with another's role",
    "a caller that may push and register its chat tries to kick, look and register another service",
    saw("done", least=2, most=2),
    saw("refused PERMISSION_DENIED", least=3, most=3),
    moved("push.refused_role", least=3, most=3),
    saw("victim kicked", most=0),
    off=UNGUARDED,
    sets=GUARDED,
    files=FILES,
)
async def other_role(attacker: Attacker) -> None:
    victim = await attacker.connect()
    started = await victim.login("victim")
    await call_all(attacker, started.session_id, f"Bearer {PUSHER}")
    attacker.seen["victim kicked"] = victim.terminated is not None


@case(
    "registrations without number",
    "a caller registers an endpoint in each of 60 zones; it may have 20",
    saw("registered", most=20),
    moved("upstream.register_refused", least=40),
    off=Off(
        "no bound of a caller's endpoints",
        patches={"gatesvr.upstream.registry:MAX_A_CALLER": 10**6},
    ),
    sets=("upstream.services.chat=[]",),
    patches={"gatesvr.upstream.registry:MAX_A_CALLER": 20},
)
async def registrations(attacker: Attacker) -> None:
    stub = attacker.stub()
    for number in range(60):
        response = await stub.RegisterUpstream(
            up.UpstreamRegisterRequest(
                address=f"127.0.{number}.1:9", service_name="chat", zone_id=f"z{number}"
            )
        )
        attacker.seen["registered"] += response.success
