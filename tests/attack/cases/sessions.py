"""Other people's sessions: nobody takes one over, ends it or learns whether it is there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gatesvr._pb import message_pb2 as pb
from gatesvr.session.resume import ResumeToken, TokenMatch

from ...e2e.plain_client import answer, business
from ..case import Off, case, closes, memory, moved, saw

if TYPE_CHECKING:
    from ...e2e.plain_client import PlainClient
    from ..attacker import Attacker


async def is_served(victim: PlainClient, seq: int) -> bool:
    """Whether a client's session is still its own."""
    if victim.terminated is not None:
        return False
    victim.send(business(seq, "echo", b"mine"))
    push = await victim.receive()
    return answer(push).data == b"mine"


def _match_anything(self: ResumeToken, token: bytes) -> TokenMatch:
    return TokenMatch.CURRENT


@case(
    "takeover of a session",
    "4 STARTs with a session id that is known and no token, a wrong one, another session's, …",
    closes(4403, 4),
    moved("session.resumes_denied", least=4, most=4),
    moved("session.steals", most=0),
    saw("victim served", least=1),
    off=Off(
        "any token is good",
        patches={"gatesvr.session.resume:ResumeToken.match": _match_anything},
    ),
)
async def takeover(attacker: Attacker) -> None:
    victim, other = await attacker.connect_all(2)
    started = await victim.login("victim")
    others = await other.login("other")
    tokens = (b"", bytes(16), others.resume_token, started.resume_token[:-1] + b"x")

    async def steal(client: PlainClient, number: int) -> None:
        await client.resume(started, 1, resume_token=tokens[number])

    await attacker.note_closes(await attacker.each(4, steal))
    attacker.seen["victim served"] = await is_served(victim, 2)


@case(
    "guessed tokens",
    "60 resumes with random tokens: 5 at once are looked at, then 1 a second; the owner gets in",
    moved("session.resumes_denied", most=10),
    moved("session.resumes_limited", least=50),
    saw("owner resumed", least=1),
    memory(12),
    off=Off("no limit of wrong tokens", patches={"gatesvr.session.resume:RESUME_BURST": 10**6}),
)
async def guesses(attacker: Attacker) -> None:
    victim = await attacker.connect()
    started = await victim.login("victim")

    async def guess(client: PlainClient, _: int) -> None:
        await client.resume(started, 1, resume_token=os.urandom(16))

    await attacker.note_closes(await attacker.each(60, guess))
    owner = await attacker.connect()
    attacker.seen["owner resumed"] = (await owner.resume(started, 1)).resumed


@case(
    "resumes again and again",
    "the owner of a session resumes it 40 times: 5 at once, then 1 a second",
    moved("session.resumes", most=10),
    moved("session.resumes_limited", least=30),
    memory(12),
    off=Off("no limit of resumes", patches={"gatesvr.session.resume:RESUME_BURST": 10**6}),
)
async def resumes(attacker: Attacker) -> None:
    client = await attacker.connect()
    started = await client.login("bad")
    for attempt in range(1, 41):
        client = await attacker.connect()
        response = await client.resume(started, 1, attempt)
        attacker.seen["resumed"] += response.resumed


@case(
    "forgotten sessions in another's name",
    "20 resumes of sessions that there are not, with the openid of somebody who is logged in",
    closes(4410, 20),
    moved("session.created", least=1, most=1),
    saw("victim served", least=1),
    memory(12),
    off=Off("any number of sessions for an openid", sets=('session.on_duplicate="allow"',)),
)
async def forgotten(attacker: Attacker) -> None:
    victim = await attacker.connect()
    await victim.login("victim")

    async def resume(client: PlainClient, _: int) -> None:
        gone = pb.StartResponse(session_id=os.urandom(16).hex(), resume_token=bytes(16))
        await client.resume(gone, 1, openid="victim")

    await attacker.note_closes(await attacker.each(20, resume))
    attacker.seen["victim served"] = await is_served(victim, 2)
