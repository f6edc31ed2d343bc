"""A session that moves at random while requests are under way: none is lost, none runs twice."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from gatesvr._pb import message_pb2 as pb

from .fakes import settle
from .rig import Client, Rig, ack, business, start

if TYPE_CHECKING:
    from gatesvr.session.session import Session

ACTIONS = ("echo", "echo", "ordered", "ordered", "single", "single", "lonely")
STEPS = 120


class World:
    """One client, its session, and the processes that it is in by turns.

    Each request has to be started once, wherever, and answered once; those of a serial route one at
    a time and in their order, those of an ordered one are answered in it.
    """

    session: Session
    token: bytes

    def __init__(self, seed: int, rigs: list[Rig]) -> None:
        self.random = random.Random(seed)
        self.rigs = rigs
        self.owner = rigs[0]
        self.client: Client | None = None
        self.actions: dict[int, str] = {}
        self.position = 0
        self.answered: list[int] = []
        self.seen = [0] * len(rigs)  # calls looked at
        self.started: list[int] = []
        self.running: set[int] = set()
        self.epoch = 0
        self.moves = 0

    async def begin(self) -> None:
        self.client = client = Client(self.owner)
        response = await client.start()
        self.token = response.resume_token
        session = self.owner.sessions.by_id(response.session_id)
        assert session is not None
        self.session = session
        await self.send(business(1, "hello"))
        self.actions[1] = "hello"

    # The client.

    async def send(self, *requests: pb.ClientRequest) -> None:
        assert self.client is not None
        for push in await self.client.send(*requests):
            if push.seq_id == self.position + 1:
                self.position = push.seq_id
                self.answered.append(push.client_seq_id)
            else:
                assert push.seq_id <= self.position, "a gap"

    async def ask(self) -> None:
        if self.client is not None and len(self.session.pending) < 40:
            seq = len(self.actions) + 1
            self.actions[seq] = self.random.choice(ACTIONS)
            ack_seq = self.random.choice((0, self.position))
            await self.send(business(seq, self.actions[seq], ack=ack_seq))

    async def read(self) -> None:
        if self.client is not None:
            await self.send(*([ack(self.position)] if self.position else []))

    async def cut(self) -> None:
        if self.client is not None:
            self.client.lose()
            self.client = None
            await settle()

    async def resume(self) -> None:
        if self.client is None:
            for rig in self.rigs:
                rig.now += 1  # more resumes would be refused
            self.client = client = Client(self.owner)
            fields = {"session_id": self.session.session_id, "resume_token": self.token}
            first, *pushes = await client.send(start("", last_acked_seq_id=self.position, **fields))
            response = pb.StartResponse.FromString(first.payload)
            assert response.resumed
            assert response.max_client_seq <= len(self.actions)
            self.token = response.resume_token
            for push in pushes:
                assert push.seq_id == self.position + 1
                self.position = push.seq_id
                self.answered.append(push.client_seq_id)
            # What an old connection held was never accepted: it is sent again (PROTOCOL 4.6).
            again = range(response.max_client_seq + 1, len(self.actions) + 1)
            await self.send(ack(self.position), *(business(n, self.actions[n]) for n in again))

    # Services.

    def look(self) -> None:
        """Note which calls have been made."""
        for number, rig in enumerate(self.rigs):
            for call in rig.upstream.calls[self.seen[number] :]:
                seq = call.client_seq_id
                action = self.actions[seq]
                if action in ("single", "lonely"):
                    same = [other for other in self.running if self.actions[other] == action]
                    assert not same, "serial requests overlap"
                    before = [other for other in self.started if self.actions[other] == action]
                    assert not before or before[-1] < seq, "serial order broken"
                self.started.append(seq)
                self.running.add(seq)
            self.seen[number] = len(rig.upstream.calls)

    async def answer(self) -> None:
        waiting = [(rig, seq) for rig in self.rigs for seq in rig.upstream.waiting]
        if waiting:
            rig, seq = self.random.choice(waiting)
            self.running.discard(seq)
            rig.upstream.answer(seq, headers={"zone": "1"} if seq == 1 else {})
            await settle()

    async def forward(self) -> None:
        """Let results that were kept reach the owner, in any order."""
        session_id = self.session.session_id
        for rig in self.rigs:
            results = rig.sessions.context.results
            found = results.of(session_id)
            self.random.shuffle(found)
            for result in found[: self.random.randint(0, len(found))]:
                assert self.owner.dispatcher.moved.apply(self.session, result, self.owner.now)
                if self.random.random() < 0.8:  # else it is sent again
                    results.settle(session_id, result.client_seq)

    # Moves.

    async def move(self) -> None:
        if self.client is not None:
            return
        here, before = self.owner, self.session
        data = here.dispatcher.moved.export(before, here.name, here.now)
        for _ in range(self.random.randrange(3)):
            await self.answer()
        self.epoch += 1
        self.moves += 1
        if self.random.random() < 0.3:
            here.sessions.moves.own(before, self.epoch, here.now)
            here.dispatcher.moved.adopt(before, here.now)
            return
        there = self.random.choice([rig for rig in self.rigs if rig is not here])
        session = there.sessions.moves.install(data, there.now)
        for _ in range(self.random.randrange(3)):
            await self.answer()
        assert there.sessions.moves.own(session, self.epoch, there.now)
        self.owner, self.session = there, session
        there.dispatcher.moved.adopt(session, there.now)
        here.sessions.moves.forget(before, here.now)

    async def run(self) -> None:
        await self.begin()
        acts = [self.ask, self.ask, self.ask, self.answer, self.answer, self.forward, self.read]
        acts += [self.cut, self.resume, self.move, self.move]
        for _ in range(STEPS):
            await self.random.choice(acts)()
            self.look()
        while self.client is None or len(self.answered) < len(self.actions):
            for act in (self.resume, self.answer, self.forward, self.read):
                await act()
                self.look()
            self.owner.dispatcher.moved.sweep(self.owner.now)

    def check(self) -> None:
        every = list(range(1, len(self.actions) + 1))
        assert sorted(self.started) == every
        assert sorted(self.answered) == every
        ordered = [seq for seq in self.answered if self.actions[seq] == "ordered"]
        assert ordered == sorted(ordered)
        assert not self.session.pending
        assert len(self.owner.dispatcher.moved) == 0
        for rig in self.rigs:
            assert rig.processor.unfinished == 0
            assert not any(part._chains for part in rig.processor._bulkheads.values())
            assert rig.counters.closed_499 == 0
        counts = Counter[str]()
        for rig in self.rigs:
            counts.update(rig.counters.snapshot())
        assert counts["answers"] == len(every)
        assert counts["tasks"] == counts["answers"] + counts["withdrawn"]


async def live(seed: int) -> int:
    """Live one history; return how often the session moved."""
    places = random.Random(seed).choice((1, 2, 64))
    settings = {"max_workers": places, "workers": 1, "task_timeout": 3_000}
    async with AsyncExitStack() as stack:
        rigs = [await stack.enter_async_context(Rig(dispatch=settings)) for _ in range(3)]
        for number, rig in enumerate(rigs):
            rig.name = f"node {number}"
            rig.now += 1_000 * number
        world = World(seed, rigs)
        await world.run()
        world.check()
        return world.moves


@pytest.mark.parametrize("seed", range(12))
async def test_histories(seed: int) -> None:
    assert await live(seed) > 0


@pytest.mark.long
async def test_more_histories() -> None:
    assert sum([await live(seed) for seed in range(100, 250)]) > 1_000
