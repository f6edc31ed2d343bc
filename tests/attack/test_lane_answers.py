"""Upstreams that answer twice, out of thin air, too late or not at all: each call ends once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from gatesvr._pb import upstream_pb2 as pb
from gatesvr.upstream.call import Call
from gatesvr.upstream.lane import Lane, LaneState
from gatesvr.upstream.lanes import LANES
from gatesvr.upstream.manager import UpstreamManager

from ..upstream.servers import endpoints, settings

if TYPE_CHECKING:
    from gatesvr._core.codec import UpstreamAnswer
    from gatesvr.errors import UpstreamError

SEEDS = range(40)
STEPS = 200


class Network:
    """Two lanes without a network, and a caller that asks again from within its answers."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        services = {"zone": endpoints("127.0.0.1:1", "127.0.0.1:2")}
        self.manager = UpstreamManager(
            settings(services=services, max_open=self.chance.choice([3, 100]), max_waiting=20),
            1 << 20,
        )
        self.made = 0
        self.ends: Counter[int] = Counter()
        self.given_up: set[int] = set()
        self.calls: list[Call] = []

    @property
    def lanes(self) -> list[Lane]:
        return list(self.manager._lanes.values())

    def send(self) -> None:
        number = self.manager.next_request_id()
        self.made += 1
        is_short = self.chance.random() < 0.2
        deadline = self.loop.time() + (-1.0 if is_short else 1_000.0)

        def ended(answer: UpstreamAnswer | None, error: UpstreamError | None) -> None:
            assert (answer is None) is not (error is None)
            assert answer is None or answer.request_id == number
            self.ends[number] += 1
            if self.made < 5 * STEPS and self.chance.random() < 0.3:
                self.send()

        request = pb.UpstreamRequest(request_id=number).SerializeToString()
        call = Call(ended, request, number, deadline, "zone", "alice")
        self.calls.append(call)
        before = self.ends[number]
        self.manager.send(call)
        assert self.ends[number] == before, "never from in here"

    def batch(self, lane: Lane) -> bytes:
        """Return answers, right and wrong, to some of what is open and to what never was."""
        chance = self.chance
        known = [*lane._open, *(call.request_id for call in self.calls[-20:]), 1 << 60, 0]
        answers = pb.UpstreamResponseBatch()
        for _ in range(chance.randrange(6)):
            status = pb.UPSTREAM_REFUSED if chance.random() < 0.2 else pb.UPSTREAM_OK
            answer = pb.UpstreamResponse(request_id=chance.choice(known), status=status, code=200)
            answers.responses.extend([answer] * chance.choice([1, 1, 2]))
        data: bytes = answers.SerializeToString()
        return data

    def act(self) -> None:
        """Have one thing happen."""
        chance = self.chance
        lane = chance.choice(self.lanes)
        kind = chance.random()
        if kind < 0.3:
            self.send()
        elif kind < 0.5:
            if lane.state is LaneState.STREAM:
                lane._gather(is_fresh=False)
        elif kind < 0.75:
            if lane.state is LaneState.STREAM:
                lane._take_answers(self.batch(lane))
        elif kind < 0.8:
            with pytest.raises(ValueError, match="undecodable"):
                lane._take_answers(self.batch(lane) + b"\x0a\xff")
        elif kind < 0.85:
            lane._break("broken off")
        elif kind < 0.9:
            lane._expire()
        elif kind < 0.93:
            call = chance.choice(self.calls)
            if call.on_end is not None:
                self.given_up.add(call.request_id)
                call.give_up()
        elif kind < 0.96:
            lane._enter(LaneState.STREAM, "")
        elif kind < 0.98:
            lane._enter(LaneState.CONNECTING, "lost")
            lane._strand("lost", keep=True)
        else:
            lane._enter(LaneState.DOWN, "lost")
            lane._break("lost")
            lane._strand("lost")


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_call_ends_once_whatever_the_upstream_does(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in LANES.values():
        monkeypatch.setattr(kind, "start", lambda lane: None)
    network = Network(seed)
    manager, chance = network.manager, network.chance
    await manager.start()
    for lane in network.lanes:
        lane._enter(LaneState.STREAM, "")
    network.send()
    for _ in range(STEPS):
        for _ in range(chance.randrange(4)):
            network.act()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
        places = Counter(
            call.request_id
            for lane in network.lanes
            for call in (*lane._open.values(), *lane._waiting)
        )
        assert max(places.values(), default=0) <= 1
        for call in network.calls:
            assert network.ends[call.request_id] <= 1
            if call.on_end is not None:
                assert places[call.request_id] == 1, "nobody would end it"
    await manager.stop(0.0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not network.given_up & set(network.ends)
    for call in network.calls:
        assert call.on_end is None
        assert network.ends[call.request_id] + (call.request_id in network.given_up) == 1
