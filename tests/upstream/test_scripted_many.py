"""Many calls at once to scripted servers: what they share is windows, connections and goodbyes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hyperframe.frame import Frame, HeadersFrame

import gatesvr
from gatesvr._pb import upstream_pb2 as pb
from gatesvr.upstream.lane import LaneState

from ..fakes import until
from .scripted import (
    HEAD,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    LAST,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    REQUEST,
    Asked,
    Peer,
    Script,
    among_others,
    cut,
    echoed,
    echoed_batch,
    framed,
    one_byte_frames,
    scripted,
    unknown,
)
from .servers import ask, endpoints, lane_to, parse
from .test_manager import managing, until_up
from .test_scripted import BROKEN, LARGE, change, ended, ping

ALL = 1 << 30
UNSENT = "502 NOT_STARTED"


async def all_ended(calls: list[asyncio.Future[Any]]) -> list[tuple[str, bytes, str]]:
    await asyncio.wait(calls)
    return [ended(call) for call in calls]


async def test_answers_in_turns_byte_by_byte() -> None:
    """Ten answers are written in turns, a byte of each, and end in reverse order."""
    waiting: list[tuple[Peer, Asked, bytes]] = []
    everybody = asyncio.Event()

    async def play(peer: Peer, asked: Asked) -> None:
        waiting.append((peer, asked, framed(echoed(await peer.request(asked)))))
        if len(waiting) < 10:
            await everybody.wait()
            return
        for _, each, _ in waiting:
            peer.headers(each, HEAD)
        for at in range(max(len(answer) for _, _, answer in waiting)):
            for _, each, answer in waiting:
                if at < len(answer):
                    await peer.data(each, answer[at : at + 1])
        for _, each, _ in reversed(waiting):
            peer.status(each)
        everybody.set()

    script = Script(answer=play, times=ALL)
    async with scripted(script) as server, lane_to(server.address) as under_test:
        sent = [b"%d" % i * i for i in range(10)]
        ends = await all_ended([under_test.call(data=data) for data in sent])
        assert ends == [("answer", data, "") for data in sent]
        assert len(server.peers) == 1


async def test_large_messages_at_once_both_ways() -> None:
    async with (
        scripted(Script(settings={INITIAL_WINDOW_SIZE: 100_000})) as server,
        lane_to(server.address, max_message_bytes=2 * LARGE) as under_test,
    ):
        sent = [bytes([i]) * (LARGE // 4) for i in range(6)]
        ends = await all_ended([under_test.call(data=data) for data in sent])
        assert ends == [("answer", data, "") for data in sent]


@pytest.mark.parametrize("most", [1, 3])
async def test_streams_are_bounded_and_all_calls_answered(most: int) -> None:
    settings = {MAX_CONCURRENT_STREAMS: most, INITIAL_WINDOW_SIZE: 40}
    async with (
        scripted(Script(settings=settings)) as server,
        lane_to(server.address, max_connections=2) as under_test,
    ):
        sent = [b"%d" % i * 30 for i in range(60)]
        ends = await all_ended([under_test.call(data=data) for data in sent])
        assert ends == [("answer", data, "") for data in sent]
        assert len(server.peers) <= 2


async def test_goodbye_in_the_middle_of_calls() -> None:
    """Of six open calls two are answered, two more after GOAWAY, and two were never begun."""
    asked_for: list[Asked] = []

    async def play(peer: Peer, asked: Asked) -> None:
        asked_for.append(asked)
        if len(asked_for) < 6:
            return
        for each in asked_for[:2]:
            await peer.echo(each)
        peer.goaway(asked_for[3].id)
        await ping(peer, asked)
        for each in asked_for[2:4]:
            await peer.echo(each)

    script = Script(answer=play, times=6)
    async with scripted(script) as server, lane_to(server.address) as under_test:
        sent = [b"%d" % i for i in range(6)]
        ends = await all_ended([under_test.call(data=data) for data in sent])
        assert ends == [("answer", data, "") for data in sent]
        assert (server.requests, len(server.peers)) == (8, 2)
        counters = under_test.counters
        assert (counters.retried_calls, counters.goodbyes, counters.broken_calls) == (2, 1, 0)


async def test_goodbye_and_a_reset_in_the_middle_of_requests() -> None:
    """The windows are closed when the server says goodbye; what it began with is sent on."""
    asked_for: list[Asked] = []

    async def play(peer: Peer, asked: Asked) -> None:
        asked_for.append(asked)
        if len(asked_for) < 3:
            return
        await peer.until(lambda: all(len(each.body) == 10 for each in asked_for))
        peer.reset(asked_for[0], 0x8)
        peer.goaway(LAST)
        await ping(peer, asked)
        for each in asked_for[1:]:
            peer.grant(each, 10_000)
            await peer.echo(each)
        assert len(asked_for[0].body) == 10

    script = Script(answer=play, times=3, settings={INITIAL_WINDOW_SIZE: 10}, gives_credit=False)
    async with scripted(script) as server, lane_to(server.address) as under_test:
        sent = [b"%d" % i * 1_000 for i in range(3)]
        ends = await all_ended([under_test.call(data=data) for data in sent])
        assert [end for end, _, _ in ends] == [BROKEN, "answer", "answer"]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_goodbye_behind_every_answer(is_stream: bool) -> None:
    """Connections that end in order, however soon, cost no request."""

    async def play(peer: Peer, asked: Asked) -> None:
        await peer.echo(asked)
        peer.goaway(asked.id)

    async def stream(peer: Peer, asked: Asked) -> None:
        peer.headers(asked, HEAD)
        await peer.message(asked, echoed_batch(await peer.batch(asked)))
        peer.goaway(asked.id)
        while batch := await peer.batch(asked):
            await peer.message(asked, echoed_batch(batch))
        peer.status(asked)

    script = Script(answer=play, stream=stream if is_stream else None, times=ALL)
    async with (
        scripted(script) as server,
        lane_to(server.address, reconnect_min=5, reconnect_max=10) as under_test,
    ):
        for i in range(8):
            if is_stream:
                await under_test.until_state(LaneState.STREAM)
            assert parse(await under_test.call(data=b"%d" % i)).data == b"%d" % i
        assert len(server.peers) >= 8
        assert under_test.counters.downs == 0


@pytest.mark.parametrize("how", ["REFUSED_STREAM", "GOAWAY"])
async def test_what_was_not_begun_goes_to_another_server(how: str) -> None:
    async def play(peer: Peer, asked: Asked) -> None:
        await peer.request(asked)
        if how == "GOAWAY":
            peer.goaway(asked.id - 2)
        else:
            peer.reset(asked, 0x7)

    async with (
        scripted(Script(answer=play, times=ALL)) as one,
        scripted(Script()) as other,
        managing({"zone": endpoints(one.address, other.address)}) as manager,
    ):
        await until_up(manager, 2)
        for i in range(4):
            assert parse(await ask(manager, data=b"%d" % i)).data == b"%d" % i
        assert one.requests
        assert other.requests == 4
        assert manager.counters.retried_calls == one.requests


async def test_calls_nobody_waits_for_are_reset() -> None:
    heads: list[Asked] = []

    async def play(peer: Peer, asked: Asked) -> None:
        heads.append(asked)
        await peer.until(lambda: asked.reset is not None)

    script = Script(answer=play, times=2)
    async with scripted(script) as server, lane_to(server.address) as under_test:
        await under_test.until_state(LaneState.UNARY)
        late, given_up = under_test.call(timeout=1), under_test.call(timeout=20)
        await until(lambda: len(heads) == 2)
        given_up.cancel()
        await asyncio.wait([late])
        assert ended(late)[0] == "504 UNKNOWN"
        await until(lambda: [each.reset for each in heads] == [0x8, 0x8])
        assert under_test.counters.cancelled_calls == 2
        assert parse(await under_test.call(data=b"next")).data == b"next"

        head = dict(heads[1].headers)
        timeout = head.pop("grpc-timeout")
        assert timeout.endswith("m")
        assert 10_000 < int(timeout[:-1]) <= 20_000
        assert head.pop("user-agent") == f"gatesvr/{gatesvr.__version__}"
        assert head == {
            ":method": "POST",
            ":scheme": "http",
            ":path": REQUEST,
            ":authority": server.address,
            "content-type": "application/grpc",
            "te": "trailers",
            "grpc-accept-encoding": "identity",
        }


# Whatever is legal, in any order.


class Whim:
    """A server that behaves in a random, legal way; what became of each request is in ends."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.begun: Counter[int] = Counter()
        self.refused: set[int] = set()
        self.ends: dict[int, str] = {}
        self.left = self.chance.randrange(0, 4)  # goodbyes
        chance = self.chance
        self.script = Script(
            answer=self.play,
            stream=self.stream if chance.random() < 0.5 else None,
            times=ALL,
            settings={
                INITIAL_WINDOW_SIZE: chance.choice([1, 30, 1_000, 65_535, 1 << 20]),
                MAX_CONCURRENT_STREAMS: chance.choice([2, 5, 100]),
                HEADER_TABLE_SIZE: chance.choice([0, 100, 4_096, 65_536]),
            },
            shape=chance.choice([None, self.shape, self.shape]),
            piece=chance.choice([0, 0, 0, 9, 100]),
        )

    def shape(self, frame: Frame) -> Iterator[Frame]:
        chance = self.chance
        shapes = [one_byte_frames, self.cut, self.padded, None]
        shape = chance.choice(
            [*shapes, among_others] if isinstance(frame, HeadersFrame) else shapes
        )
        if frame.stream_id and shape is not None and len(getattr(frame, "data", b"")) < 100:
            yield from shape(frame)
        else:
            yield frame

    def cut(self, frame: Frame) -> Iterator[Frame]:
        if isinstance(frame, HeadersFrame):
            sizes = [self.chance.randrange(0, 9) for _ in range(self.chance.randrange(0, 5))]
            yield from cut(frame, sizes)
        else:
            yield frame

    def padded(self, frame: Frame) -> Iterator[Frame]:
        if isinstance(frame, HeadersFrame) and "PADDED" not in frame.flags:
            frame.flags.add("PADDED")
            frame.pad_length = self.chance.randrange(0, 256)
        yield frame

    async def bother(self, peer: Peer, asked: Asked) -> None:
        """Do something that changes nothing."""
        chance = self.chance
        kind = chance.randrange(0, 8)
        if kind == 0:
            await ping(peer, asked)
        elif kind == 1 and self.script.stream is None:
            # h2 takes the end of a stream below zero for a breach (not so RFC 9113 6.9).
            await change(peer, asked, {INITIAL_WINDOW_SIZE: chance.choice([1, 50, 65_535])})
        elif kind == 2:
            await change(peer, asked, {HEADER_TABLE_SIZE: chance.choice([0, 60, 4_096])})
        elif kind == 3:
            await change(peer, asked, {MAX_FRAME_SIZE: chance.choice([16_384, 1 << 20])})
        elif kind == 4:
            encoder, size = peer.h2.encoder, chance.choice([0, 50, 4_096])
            # At most two updates a block (RFC 7541 4.2); hpack forgets one that is repeated.
            if len(encoder.table_size_changes) < 2 and encoder.header_table_size != size:
                encoder.header_table_size = size
        elif kind == 5:
            peer.raw(unknown(chance.choice([0, asked.id, 99_999]), bytes(chance.randrange(0, 50))))
        elif kind == 6:
            await asyncio.sleep(0)

    async def play(self, peer: Peer, asked: Asked) -> None:
        chance = self.chance
        request = await peer.request(asked)
        number = pb.UpstreamRequest.FromString(request).request_id
        if self.left and chance.random() < 0.1:
            self.left -= 1
            peer.goaway(chance.choice([max(peer.asked), LAST]))
        elif number not in self.refused and chance.random() < 0.1:
            self.refused.add(number)  # the second time it would end the call
            peer.reset(asked, 0x7)
            return
        self.begun[number] += 1
        await self.bother(peer, asked)
        end = chance.choice(["answer"] * 6 + ["status", "reset", "nothing"])
        if end == "status":
            self.ends[number] = "404 DONE"
            peer.status(asked, 5, "whim")
            return
        answer = framed(echoed(request))
        at = chance.randrange(0, len(answer))
        self.ends[number] = "answer" if end == "answer" else BROKEN
        peer.headers(asked, HEAD)
        await self.bother(peer, asked)
        pad = chance.choice([-1, -1, 0, 7])
        await peer.data(asked, answer[:at], pad=pad)
        await self.bother(peer, asked)
        if end == "reset":
            peer.reset(asked, chance.choice([0x0, 0x2, 0x8]))
            return
        await peer.data(asked, answer[at:], end=end == "nothing", frame=chance.choice([1 << 20, 7]))
        if end == "answer":
            await self.bother(peer, asked)
            peer.status(asked)

    async def stream(self, peer: Peer, asked: Asked) -> None:
        peer.headers(asked, HEAD)
        while batch := await peer.batch(asked):
            answers = pb.UpstreamResponseBatch()
            for request in pb.UpstreamRequestBatch.FromString(batch).requests:
                self.begun[request.request_id] += 1
                self.ends[request.request_id] = "answer"
                answer = echoed(request.SerializeToString())
                answers.responses.add().MergeFromString(answer)
                if self.chance.random() < 0.3:
                    await self.bother(peer, asked)
            await peer.data(asked, framed(answers.SerializeToString()), pad=3)
        peer.status(asked)


@pytest.mark.parametrize(
    "seed", [pytest.param(i, marks=[pytest.mark.long] if i >= 12 else []) for i in range(100)]
)
async def test_whatever_is_legal(seed: int) -> None:
    whim = Whim(seed)
    chance = random.Random(~seed)
    async with scripted(whim.script) as server, lane_to(server.address) as under_test:
        for _ in range(3):
            sent = [
                chance.randbytes(chance.choice([0, 10, 10, 300, 1_000]))
                for _ in range(chance.randrange(1, 13))
            ]
            first = under_test._next_id + 1
            ends = await all_ended([under_test.call(data=data) for data in sent])
            for number, (data, end) in enumerate(zip(sent, ends, strict=True), first):
                assert not server.faults
                assert end[0] == whim.ends.get(number, UNSENT), (number, end)
                assert end[1] == (data if end[0] == "answer" else b"")
        assert set(whim.begun.values()) == {1}
        counters = under_test.counters
        assert counters.protocol_errors == counters.floods == 0
        assert counters.unknown_answers == counters.late_answers == 0
