"""Random pushes of several streams, while sessions move and the processes lose calls."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from gatesvr._pb import message_pb2
from gatesvr._pb import upstream_pb2 as pb

from .rig import resuming, travelling
from .routed import RoutedCluster

if TYPE_CHECKING:
    from gatesvr._core.codec import ServerPush

    from ..dispatch.rig import Client

CALLS = ("Push", "Push", "Push", "find", "read", "Take", "Taken", "Give", "move", "Bulk")
KINDS = ("lose", "deaf", "repeat", "hold")


@dataclass
class User:
    """A client that reads, and comes back wherever it likes."""

    openid: str
    session_id: str
    token: bytes
    client: Client
    seen: int = 1  # the hello's answer
    attempt: int = 0
    log: list[str] = field(default_factory=list)

    def read(self, pushes: list[ServerPush]) -> None:
        for push in pushes:
            if push.seq_id <= self.seen:
                continue
            assert push.seq_id == self.seen + 1, "a gap, with no SKIP"
            self.seen = push.seq_id
            self.log.append(message_pb2.BusinessResponse.FromString(push.payload).data.decode())


@dataclass
class Pushed:
    """A push, and what its pusher was told."""

    stream: int
    number: int
    user: User
    response: pb.UnicastPushResponse | None = None

    @property
    def text(self) -> str:
        return f"{self.stream}.{self.number}"


class History:
    """One random history."""

    def __init__(self, cluster: RoutedCluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.users: list[User] = []
        self.pushes: list[Pushed] = []
        self.is_calm = False

    async def run(self) -> None:
        cluster, rand = self.cluster, self.random
        for number in range(4):
            process = rand.choice(list(cluster))
            client, session, token = await process.log_in(f"u{number}")
            self.users.append(User(f"u{number}", session.session_id, token, client))
        living = [asyncio.create_task(self.live(user)) for user in self.users]
        breaking = asyncio.create_task(self.break_wires())
        streams = [asyncio.create_task(self.push(number)) for number in range(3)]
        alone = asyncio.create_task(self.push_alone(3))
        await asyncio.gather(*streams, alone)
        self.is_calm = True
        await breaking
        await asyncio.gather(*living)
        self.check()

    async def pause(self, longest: float) -> None:
        await asyncio.sleep(self.random.uniform(0.001, longest))

    async def live(self, user: User) -> None:
        while True:
            is_last = self.is_calm
            if is_last or self.random.random() < 0.4:
                await self.come_back(user)
            user.read(await user.client.run())
            if is_last and user.client.closed is None:
                return
            await self.pause(0.2)

    async def come_back(self, user: User) -> None:
        rand = self.random
        way = rand.random()
        if way < 0.5:
            user.client.lose()
            await self.pause(0.1)
        if way < 0.2:  # while it is away it is handed over
            here = self.cluster.processes.get(self.cluster.owner(user.session_id))
            session = here and here.session(user.session_id)
            if here is not None and session is not None and session.is_valid:
                to = rand.choice([p.name for p in self.cluster if p is not here])
                await here.node.give(session, to)
        for _ in range(30):
            client = rand.choice(list(self.cluster)).client()
            user.attempt += 1
            start = resuming(user.session_id, user.token, user.seen, attempt=user.attempt)
            pushes = await client.send(start)
            while not pushes:
                await self.pause(0.1)
                pushes = await client.run()
            response = message_pb2.StartResponse.FromString(pushes[0].payload)
            if response.success:
                assert response.resumed
                user.client, user.token, user.attempt = client, response.resume_token, 0
                user.read(pushes[1:])
                return
            assert response.error.error_code in (409, 429, 503), response
            await self.pause(1.0)
        raise AssertionError("the session is out of reach")

    async def break_wires(self) -> None:
        rand, wire = self.random, self.cluster.wire
        while not self.is_calm:
            await self.pause(0.1)
            fault = wire.order(rand.choice(CALLS), rand.choice(KINDS))
            if fault.kind == "hold":
                asyncio.get_running_loop().call_later(rand.uniform(0.01, 2), fault.release)
            if rand.random() < 0.05:
                one, other = rand.sample([p.name for p in self.cluster], 2)
                wire.cut(one, other)
                await self.pause(0.5)
                wire.mend(one, other)
        for fault in wire.faults:
            fault.release()

    def request(self, push: Pushed) -> pb.UnicastPushRequest:
        by_id = self.random.random() < 0.5
        return pb.UnicastPushRequest(
            target_type="session" if by_id else "openid",
            target_id=push.user.session_id if by_id else push.user.openid,
            data=push.text.encode(),
            push_id=push.text if self.random.random() < 0.3 else "",
        )

    def new(self, stream: int, number: int) -> Pushed:
        push = Pushed(stream, number, self.random.choice(self.users))
        self.pushes.append(push)
        return push

    async def push(self, stream: int) -> None:
        rand = self.random
        pushes = self.cluster[rand.choice("abc")].commands.pushes
        order = pushes.stream()
        number = 0
        sent = []
        for _ in range(12):
            batch = [self.new(stream, number + n) for n in range(rand.randint(1, 12))]
            number += len(batch)
            requests = [self.request(push) for push in batch]
            sent.append((batch, asyncio.ensure_future(order.push_batch(requests))))
            await self.pause(0.3)
            if len(sent) - sum(done.done() for _, done in sent) >= pushes.max_batches:
                await sent[-1][1]
        for batch, done in sent:
            for push, response in zip(batch, await done, strict=True):
                push.response = response

    async def push_alone(self, stream: int) -> None:
        for number in range(30):
            push = self.new(stream, number)
            request = self.request(push)
            answer = self.cluster[self.random.choice("abc")].commands.pushes.push(request)
            push.response = await answer if asyncio.iscoroutine(answer) else answer  # type: ignore[assignment]
            await self.pause(0.1)

    def check(self) -> None:
        for push in self.pushes:
            response = push.response
            assert response is not None
            times = Counter(push.user.log)[push.text]
            assert sum(user.log.count(push.text) for user in self.users) == times
            if response.success:
                assert (times, response.sessions) == (1, 1), push
            elif response.error_code == "UNKNOWN":
                assert times <= 1, push
            else:
                assert response.error_code == "BUSY", push
                assert times == 0, push
        for user in self.users:
            last: dict[str, int] = defaultdict(lambda: -1)
            for text in user.log:
                stream, _, number = text.partition(".")
                assert stream == "3" or int(number) > last[stream], (user.openid, text)
                last[stream] = int(number)


def play(seed: int) -> Counter[str]:
    outcome: Counter[str] = Counter()

    @travelling
    async def run() -> None:
        async with RoutedCluster("abc") as cluster:
            history = History(cluster, seed)
            await history.run()
            for push in history.pushes:
                assert push.response is not None
                outcome[push.response.error_code or "ok"] += 1
            outcome["moves"] += sum(p.sessions.counters.moved_in for p in cluster)

    run()
    return outcome


@pytest.mark.parametrize("seed", range(4))
def test_pushes_are_delivered_once_and_in_order(seed: int) -> None:
    outcome = play(seed)
    assert outcome["ok"] > 100
    assert outcome["moves"] > 5


@pytest.mark.long
def test_pushes_are_delivered_once_and_in_order_for_long() -> None:
    total: Counter[str] = Counter()
    for seed in range(100, 130):
        total += play(seed)
    assert total["UNKNOWN"]
    assert total["BUSY"]
