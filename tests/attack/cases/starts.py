"""Clients that connect and do not log in, or try to log in as somebody else."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ...e2e.plain_client import business, heartbeat
from ..case import Off, case, closes, gauge, memory, moved, saw

if TYPE_CHECKING:
    from ...e2e.plain_client import PlainClient
    from ..attacker import Attacker

HEALTHY = 6
MANY = 50


@case(
    "START never comes",
    f"{MANY} clients connect and say nothing; START is due in 1 s",
    closes(4408, MANY),
    moved("dispatch.start_timeouts", least=MANY, most=MANY),
    memory(12),
    off=Off("an hour for START", sets=("session.start_timeout=1h",)),
    sets=("session.start_timeout=1s",),
)
async def no_start(attacker: Attacker) -> None:
    await attacker.note_closes(await attacker.connect_all(MANY))


@case(
    "hello never comes",
    f"{MANY} clients START and do not log in; a login is due in 1 s",
    closes(4408, MANY),
    moved("session.login_timeouts", least=MANY, most=MANY),
    gauge("session.sessions", most=HEALTHY),
    memory(12),
    off=Off("an hour for a login", sets=("session.login_timeout=1h",)),
    sets=("session.login_timeout=1s",),
)
async def no_hello(attacker: Attacker) -> None:
    async def start(client: PlainClient, number: int) -> None:
        await client.start(f"user{number}")

    await attacker.note_closes(await attacker.each(MANY, start))


@case(
    "heartbeats in place of hello",
    f"{MANY} clients START and send a heartbeat every 200 ms: it puts nothing off",
    closes(4408, MANY),
    moved("session.login_timeouts", least=MANY, most=MANY),
    gauge("session.sessions", most=HEALTHY),
    memory(12),
    off=Off("an hour for a login", sets=("session.login_timeout=1h",)),
    sets=("session.login_timeout=1s",),
)
async def heartbeats_only(attacker: Attacker) -> None:
    async def beat(client: PlainClient, number: int) -> None:
        await client.start(f"user{number}")
        for n in range(15):
            if client.terminated is not None:
                return
            client.send(heartbeat(n + 1))
            await asyncio.sleep(0.2)

    await attacker.note_closes(await attacker.each(MANY, beat))


@case(
    "sessions that do not log in",
    f"{MANY} STARTs of one address, which may have 10 sessions that have not logged in",
    moved("session.created", least=10, most=10),
    moved("session.refused_address", least=MANY - 10, most=MANY - 10),
    closes(4429, MANY - 10),
    memory(12),
    off=Off("no bound for an address", sets=("session.max_inited_per_address=1000000",)),
    sets=("session.max_inited_per_address=10",),
)
async def inited(attacker: Attacker) -> None:
    async def start(client: PlainClient, number: int) -> None:
        await client.start(f"user{number}")

    await attacker.note_closes(await attacker.each(MANY, start))


@case(
    "sessions left behind",
    "70 clients log in and vanish; there may be 40 sessions, suspended ones included",
    gauge("session.sessions", most=40),
    moved("session.refused_full", least=30),
    memory(12),
    off=Off(
        "no bound of sessions",
        patches={"gatesvr.session.starting:SESSIONS_PER_CONNECTION": 10**6},
    ),
    sets=("transport.max_connections=20",),
)
async def sessions_left(attacker: Attacker) -> None:
    for number in range(70):
        client = await attacker.connect()
        response = await client.start(f"user{number}")
        if response.success:
            client.send(business(1, "hello"))
            await client.receive()
        client.close()


@case(
    "openids that are too long",
    f"{MANY} STARTs whose openid has 129 bytes: each such key would stay as long as its session",
    closes(4400, MANY),
    moved("session.created", most=0),
    moved("session.refused_starts", least=MANY),
    memory(12),
    off=Off(
        "an openid may have any length",
        patches={"gatesvr.session.starting:MAX_OPENID_BYTES": 10**6},
    ),
)
async def long_openids(attacker: Attacker) -> None:
    async def start(client: PlainClient, number: int) -> None:
        await client.start(f"{number:0>129}")

    await attacker.note_closes(await attacker.each(MANY, start))


# Authentication.

EC_KEY = ec.derive_private_key(2**200 + 7, ec.SECP256R1())
PUBLIC_KEY = EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
JWT = (
    'auth.mode="jwt"',
    'auth.algorithms=["ES256"]',
    'auth.key="{folder}/key.pem"',
    'auth.audience="gatesvr"',
    'auth.issuer="https://id.test"',
)
NO_AUTH = Off("no authentication", sets=('auth.mode="none"',))


def claims(openid: str, **changes: Any) -> dict[str, Any]:
    """Return good claims with some changed."""
    exp = int(time.time()) + 600
    return {"sub": openid, "aud": "gatesvr", "iss": "https://id.test", "exp": exp, **changes}


def token(openid: str, key: Any = EC_KEY, **changes: Any) -> str:
    """Return a token that is good but for the changes."""
    return jwt.encode(claims(openid, **changes), key, algorithm="ES256")


def forged(algorithm: str, secret: bytes = b"") -> str:
    """Return a token whose header names an algorithm that the gateway does not allow."""
    parts = ({"alg": algorithm, "typ": "JWT"}, claims("alice"))
    text = b".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts
    )
    signature = hmac.digest(secret, text, "sha256") if secret else b""
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def forgeries() -> dict[str, str]:
    """Return tokens that are no good, by what is wrong with them."""
    hour_ago, hour_on = int(time.time()) - 3_600, int(time.time()) + 3_600
    return {
        "none": "",
        "rubbish": "rubbish",
        "alg none": forged("none"),
        "HS256 by the public key": forged("HS256", PUBLIC_KEY),
        "another key": token("alice", ec.derive_private_key(2**200 + 9, ec.SECP256R1())),
        "expired": token("alice", exp=hour_ago),
        "not valid yet": token("alice", nbf=hour_on),
        "another audience": token("alice", aud="other"),
        "another issuer": token("alice", iss="https://evil.test"),
        "another openid": token("mallory"),
        "cut short": token("alice")[:-10],
        "32 KiB of claims": token("alice", more="x" * (32 << 10)),
    }


@case(
    "forged tokens",
    "STARTs with 12 tokens: alg none, HS256 by the public key, expired, another audience, …",
    closes(4401, len(forgeries())),
    moved("session.created", most=0),
    saw("refused in less than 100 ms", most=0),
    memory(12),
    off=NO_AUTH,
    sets=JWT,
    files={"key.pem": PUBLIC_KEY},
    token=token,
)
async def forged_tokens(attacker: Attacker) -> None:
    tokens = list(forgeries().values())

    async def start(client: PlainClient, number: int) -> None:
        began = time.monotonic()
        await client.start("alice", auth_token=tokens[number])
        attacker.seen["refused in less than 100 ms"] += time.monotonic() - began < 0.1

    await attacker.note_closes(await attacker.each(len(tokens), start))


@case(
    "a flood of bad tokens",
    "25 STARTs with badly signed tokens, then 40 more: 20 are looked at, and 1 more each second",
    saw("closed 4401", least=20, most=30),
    saw("closed 4429", least=35, most=45),
    moved("auth.refused_limited", least=30),
    moved("session.created", most=0),
    memory(24),
    off=Off("no limit of failures", sets=("auth.address_failures=0", "auth.openid_failures=0")),
    sets=JWT,
    files={"key.pem": PUBLIC_KEY},
    token=token,
)
async def bad_tokens(attacker: Attacker) -> None:
    bad = token("alice", ec.derive_private_key(2**200 + 9, ec.SECP256R1()))
    clients = await attacker.connect_all(65)

    for wave in (clients[:25], clients[25:]):
        await asyncio.gather(*(client.start("alice", auth_token=bad) for client in wave))
    await attacker.note_closes(clients)


# A service that says who a client is.

ASKED = ('auth.mode="upstream"', 'upstream.services.auth=[{address="{service}"}]')


def answered(openid: str) -> str:
    """Return a token that the service of the table lets in."""
    return f"good {openid}"


@case(
    "an authentication that hangs",
    "30 STARTs with tokens that the service never answers: none gets in, each is told to come back",
    closes(4503, 30),
    moved("auth.unavailable", least=30, most=30),
    moved("session.created", most=0),
    memory(12),
    off=NO_AUTH,
    sets=(*ASKED, "auth.timeout=500ms"),
    token=answered,
)
async def hanging_authentication(attacker: Attacker) -> None:
    async def start(client: PlainClient, number: int) -> None:
        await client.start(f"user{number}", auth_token="hang")

    await attacker.note_closes(await attacker.each(30, start))


@case(
    "guesses at one user's token",
    "60 STARTs with a user's openid and wrong tokens, from 30 addresses in two waves",
    saw("closed 4401", least=20, most=30),
    saw("closed 4429", least=30, most=40),
    moved("auth.refused_limited", least=20),
    moved("session.created", most=0),
    memory(12),
    off=Off("no limit of guesses", sets=("auth.openid_failures=0",)),
    sets=ASKED,
    token=answered,
)
async def guessed_tokens(attacker: Attacker) -> None:
    clients = [await attacker.connect(host=f"127.0.1.{1 + n % 30}") for n in range(60)]
    for wave in (clients[:30], clients[30:]):
        await asyncio.gather(*(client.start("victim", auth_token="wrong") for client in wave))
    await attacker.note_closes(clients)
