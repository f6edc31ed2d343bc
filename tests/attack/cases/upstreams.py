"""Services and pushers that are not what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatesvr._pb import upstream_pb2 as up

from ...e2e.plain_client import ack, business
from ..case import Off, case, memory, moved, saw

if TYPE_CHECKING:
    from ..attacker import Attacker

TAKEN = (
    ("127.0.0.1:9", "business"),  # the configuration names it
    ("10.1.2.3:80", "evil"),  # another host
    ("192.168.0.1:80", "evil"),
    ("0.0.0.0:80", "evil"),
)


@case(
    "registrations for other services",
    "a caller of the push port registers a configured service, and hosts that are not its own",
    saw("registered", most=0),
    moved("upstream.register_refused", least=len(TAKEN), most=len(TAKEN)),
    off=Off(
        "whoever asks is registered",
        sets=('push.register="add"', 'push.register_cidrs=["0.0.0.0/0"]'),
    ),
)
async def registrations(attacker: Attacker) -> None:
    stub = attacker.stub()
    for address, service in TAKEN:
        response = await stub.RegisterUpstream(
            up.UpstreamRegisterRequest(address=address, service_name=service)
        )
        attacker.seen["registered"] += response.success


@case(
    "giant answers",
    "another service answers 20 requests with 2.5 MB each, where a message has 1 MiB at most",
    moved("session.answers_too_large", least=20, most=20),
    memory(48),
    off=Off(
        "messages of any size",
        sets=("session.max_message_bytes=64MiB", "session.max_queue_bytes=1GiB"),
    ),
)
async def giant_answers(attacker: Attacker) -> None:
    client = await attacker.connect()
    await client.login("bad")
    for seq in range(2, 22):
        client.send(business(seq, "zone_giant", bytes="2500000"))
    await client.until(lambda: len(client.pushes) >= 20)
    client.send(ack(21))
