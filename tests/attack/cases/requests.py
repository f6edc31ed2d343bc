"""Logged-in clients that ask too much, too far ahead, out of order, or again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gatesvr._pb import message_pb2 as pb
from gatesvr.session.session import Session
from gatesvr.session.starting import SessionStarter
from gatesvr.session.state import Verdict

from ...e2e.plain_client import business, frame
from ..case import Off, case, closes, gauge, memory, moved, saw
from .frames import FORGIVING

if TYPE_CHECKING:
    from ...e2e.plain_client import PlainClient
    from ..attacker import Attacker

NO_HELD = {
    "gatesvr.dispatch.handler:MAX_HELD_REQUESTS": 10**9,
    "gatesvr.dispatch.handler:HELD_MESSAGES": 10**6,
}
NO_BOUND_OF_HELD = Off("no bound of what waits for room", patches=NO_HELD)
CHUNK = 1_000


def route(action: str, service: str) -> str:
    """Return a route, as a setting has it."""
    return f'{{action="{action}", service="{service}"}}'


async def pour(client: PlainClient, data: bytes, times: int) -> int:
    """Send data again and again, each time once it has arrived; stop when the gateway closes."""
    for sent in range(times):
        if client.terminated is not None:
            return sent
        client.send_bytes(data)
        try:
            await client.ping()
        except ConnectionError:
            return sent
    return times


@case(
    "requests before START",
    "one client sends 30,000 requests and no START",
    closes(4400, 1),
    moved("session.created", most=0),
    memory(8),
    off=FORGIVING,
)
async def before_start(attacker: Attacker) -> None:
    client = await attacker.connect()
    data = frame(business(1, "echo").SerializeToString()) * CHUNK
    await pour(client, data, 30)
    await attacker.note_closes([client])


@case(
    "requests behind an unanswered hello",
    "one client's hello hangs in its service; it sends 30,000 of the smallest requests behind it",
    closes(4429, 1),
    moved("dispatch.held_overflows", least=1, most=1),
    memory(8),
    off=NO_BOUND_OF_HELD,
)
async def behind_hello(attacker: Attacker) -> None:
    client = await attacker.connect()
    await client.start("bad")
    client.send(business(1, "hello", hang="1"))
    data = frame(pb.ClientRequest(msg_id=1, type=pb.REQUEST_BUSINESS).SerializeToString()) * CHUNK
    await pour(client, data, 30)
    await attacker.note_closes([client])


@case(
    "requests in flight",
    "one client sends 6,000 requests whose service hangs; it may have 128 in flight",
    gauge("dispatch.running", most=128 + 8),
    memory(8),
    off=Off(
        "no bound in flight",
        sets=("session.max_in_flight=1000000", "session.max_queue_size=1000000"),
    ),
)
async def in_flight(attacker: Attacker) -> None:
    client = await attacker.connect()
    await client.login("bad")
    for first in range(2, 6_002, 500):
        client.send(*(business(seq, "hang") for seq in range(first, first + 500)))
        await client.ping()


@case(
    "requests too far ahead",
    "one client has 128 requests in flight and sends 30,000 more",
    closes(4429, 1),
    moved("dispatch.held_overflows", least=1, most=1),
    memory(8),
    off=NO_BOUND_OF_HELD,
)
async def too_far_ahead(attacker: Attacker) -> None:
    client = await attacker.connect()
    await client.login("bad")
    client.send(*(business(seq, "hang") for seq in range(2, 130)))
    for first in range(130, 30_130, CHUNK):
        if client.terminated is not None:
            break
        client.send(*(business(seq, "hang") for seq in range(first, first + CHUNK)))
        try:
            await client.ping()
        except ConnectionError:
            break
    await attacker.note_closes([client])


def _judge_as_next(self: Session, seq: int) -> Verdict:
    return Verdict.NEXT


IN_ANY_ORDER = Off(
    "a request may have any number",
    patches={"gatesvr.session.session:Session._judge": _judge_as_next},
)


@case(
    "duplicates",
    "one client sends the same request 20,000 times: its service runs it once",
    moved("session.duplicates", least=19_999, most=19_999),
    moved("upstream.calls", most=2_000),
    memory(8),
    off=IN_ANY_ORDER,
)
async def duplicates(attacker: Attacker) -> None:
    client = await attacker.connect()
    await client.login("bad")
    await pour(client, frame(business(2, "echo").SerializeToString()) * CHUNK, 20)


@case(
    "numbers out of order",
    "one client sends 10,000 requests with a number far ahead: none is accepted, each is refused",
    moved("session.gaps", least=10_000, most=10_000),
    moved("upstream.calls", most=2_000),
    memory(8),
    off=IN_ANY_ORDER,
)
async def out_of_order(attacker: Attacker) -> None:
    client = await attacker.connect()
    await client.login("bad")
    request = business(1, "echo")
    request.seq_id = 1 << 40
    await pour(client, frame(request.SerializeToString()) * CHUNK, 10)


def _start_logged_in(self: SessionStarter, *arguments: Any) -> Any:
    outcome = _start(self, *arguments)
    if outcome.session is not None:
        outcome.session.is_logged_in = True
    return outcome


_start = SessionStarter.start


@case(
    "requests without a login",
    "one client STARTs, sends no hello and asks 5,000 times: no service hears of it",
    moved("dispatch.not_logged_in", least=900),
    saw("answered by the service", most=0),
    memory(8),
    off=Off(
        "START logs in",
        patches={"gatesvr.session.starting:SessionStarter.start": _start_logged_in},
    ),
)
async def not_logged_in(attacker: Attacker) -> None:
    client = await attacker.connect()
    await client.start("bad")
    for first in range(1, 5_001, 500):
        client.send(*(business(seq, "echo") for seq in range(first, first + 500)))
        await client.ping()
    attacker.seen["answered by the service"] = sum(
        push.type == pb.PUSH_BUSINESS_DATA for push in client.pushes
    )


@case(
    "log flood",
    "10 clients cause 2,000 failed calls and 1,000 undecodable requests: a line for each second",
    moved("log.lines", most=20),
    moved("upstream.calls", least=2_000),
    moved("dispatch.bad_payloads", least=1_000, most=1_000),
    memory(12),
    off=Off("a line for each failure", patches={"gatesvr.observe.limiter:INTERVAL_S": 0.0}),
    sets=(
        'upstream.services.dead=[{address="127.0.0.1:9"}]',
        f"route=[{route('hello', 'hello')}, {route('dead', 'dead')}, {route('*', 'business')}]",
    ),
)
async def log_flood(attacker: Attacker) -> None:
    async def ask(client: PlainClient, number: int) -> None:
        await client.login(f"user{number}")
        bad = business(2, "echo")
        bad.payload = b"\xff\xff"
        for seq in range(2, 302, 3):
            bad.seq_id = seq
            client.send(bad, business(seq + 1, "dead"), business(seq + 2, "dead"))
        await client.until(lambda: len(client.pushes) >= 300)

    await attacker.each(10, ask)
