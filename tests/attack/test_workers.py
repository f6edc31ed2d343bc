"""Upstreams and sessions that do anything at all: no worker is lost, every request ends once."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr.config import DispatchConfig
from gatesvr.dispatch.processor import AsyncProcessor
from gatesvr.dispatch.task import AsyncTask
from gatesvr.errors import ErrorCode, Outcome
from gatesvr.upstream.router import Route

from ..dispatch.fakes import FakeAnswer, FakeRequest, FakeSession, FakeUpstream, settle

if TYPE_CHECKING:
    from gatesvr.dispatch.bulkhead import Bulkhead
    from gatesvr.upstream.call import Call

ROUTES = (
    Route("zone", "completion"),
    Route("zone", "request"),
    Route("zone", "completion", serial=True),
    Route("chat", "completion", serial=True),
)
SEEDS = range(60)
STEPS = 150


class Broken(Exception):
    """What a step of ours raises in these tests."""


class OddSession(FakeSession):
    """Counts how often each request ended; raises when it is told to."""

    def __init__(self, name: str, chance: random.Random) -> None:
        super().__init__(name)
        self.chance = chance
        self.break_share = 0.0
        self.ends: Counter[int] = Counter()
        self.broken: set[int] = set()

    def _end(self, client_seq: int, how: Any) -> bool:
        if self.chance.random() < self.break_share:
            self.broken.add(client_seq)
            raise Broken
        if self.is_valid:
            self.ends[client_seq] += 1
        return self.is_valid


class OddRequest(FakeRequest):
    """A request that cannot be passed on."""

    def upstream_request(self, *args: Any) -> bytes:
        raise Broken


class OddAnswer(FakeAnswer):
    """An answer that knows whose it is; notes where it goes elsewhere."""

    def __init__(self, call: Call, mixed_up: list[int], **fields: Any) -> None:
        super().__init__(**fields)
        self.request_id = call.request_id
        self.mixed_up = mixed_up

    def body(self, client_seq_id: int) -> bytes:
        if client_seq_id != self.request_id:
            self.mixed_up.append(client_seq_id)
        return b"answer"


class OddUpstream(FakeUpstream):
    """Keeps every call for ever, so that it can be answered again."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.all: list[Call] = []
        self.mixed_up: list[int] = []

    def send(self, call: Call) -> None:
        kind = self.chance.random()
        self.all.append(call)
        if kind < 0.03:
            raise Broken
        if kind < 0.06:
            call.fail("no service", ErrorCode.NO_ROUTE)
        elif kind < 0.12:
            answer: Any = OddAnswer(call, self.mixed_up)
            asyncio.get_running_loop().call_soon(call.answer, answer)

    def do_something(self) -> None:
        """Answer a call, or fail it, whatever has become of it."""
        if not self.all:
            return
        call = self.chance.choice(self.all[-30:])
        kind = self.chance.random()
        answer: Any = OddAnswer(call, self.mixed_up)
        if kind < 0.2:
            answer = OddAnswer(call, self.mixed_up, client_seq_id=1 << 40)
        if kind < 0.7:
            call.answer(answer)
            if kind < 0.4:
                call.answer(answer)
        elif kind < 0.85:
            # The deadline, or the lane's end; and the answer in the same turn.
            call.fail("no answer", ErrorCode.DEADLINE, outcome=Outcome.UNKNOWN)
            call.answer(answer)
            call.fail("broken off", outcome=Outcome.UNKNOWN)
        elif kind < 0.95:
            for broken in self.all[-30:]:
                broken.fail("broken off", outcome=Outcome.UNKNOWN)


def check_queue(bulkhead: Bulkhead) -> None:
    """Every task that waits is counted, and every session with a ready one has its turn."""
    chained = Counter(task.session_id for chain in bulkhead._chains.values() for task in chain)
    ready = [share for share in bulkhead._shares.values() if share]
    assert len(bulkhead.turns) == len(ready)
    assert {id(share) for share in bulkhead.turns} == {id(share) for share in ready}
    for session, share in bulkhead._shares.items():
        assert share.chained == chained[session.session_id]
        assert share or share.chained
    assert bulkhead.waiting == sum(map(len, ready)) + chained.total()


def check(processor: AsyncProcessor, max_workers: int) -> None:
    """Every worker is idle or has one task, and no task has two."""
    workers, idle = processor._workers, processor._idle
    assert len(set(idle)) == len(idle)
    assert set(idle) <= set(workers)
    assert all(worker.task is None for worker in idle)
    busy = [worker for worker in workers if worker.task is not None]
    assert len(busy) + len(idle) == len(workers)
    tasks = [worker.task for worker in (*busy, *processor._beside)]
    assert None not in tasks
    assert len({id(task) for task in tasks}) == len(tasks)
    running = Counter(worker.task.service for worker in busy if worker.task is not None)
    for service, bulkhead in processor._bulkheads.items():
        check_queue(bulkhead)
        assert not bulkhead.is_handing_out
        assert bulkhead.begun - bulkhead.ended == running[service] <= max_workers
        if bulkhead.turns and not processor._is_stopped:
            assert running[service] == max_workers
    counters = processor.counters
    assert counters.running == len(tasks)


@pytest.mark.parametrize("is_breaking", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_comes_no_worker_is_lost(
    seed: int,
    is_breaking: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.CRITICAL, "gatesvr.dispatch")
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    chance = random.Random(seed)
    upstream = OddUpstream(chance)
    now = 100.0
    max_workers = chance.choice([1, 1, 2, 5])
    config = DispatchConfig(
        workers=1,
        max_workers=max_workers,
        max_queue_size=chance.choice([1, 3, 20]),
    )
    monkeypatch.setattr(
        "gatesvr.dispatch.processor.IDLE_WORKER_TIMEOUT_S", chance.choice([0.02, 5.0])
    )
    processor = AsyncProcessor(config, upstream, clock=lambda: now)  # type: ignore[arg-type]
    sessions = [OddSession(f"s{number}", chance) for number in range(3)]
    for session in sessions:
        session.break_share = 0.2 if is_breaking else 0.0
    login_ends: Counter[int] = Counter()

    def login_ended(task: AsyncTask) -> None:
        login_ends[task.task_id] += 1
        if is_breaking and chance.random() < 0.2:
            raise Broken

    accepted: list[AsyncTask] = []
    logins: list[int] = []
    numbers = iter(range(1, 10_000))

    def make() -> AsyncTask:
        number = next(numbers)
        kind = OddRequest if chance.random() < 0.03 else FakeRequest
        return AsyncTask(
            number,
            chance.choice(sessions),  # type: ignore[arg-type]
            kind(number),  # type: ignore[arg-type]
            chance.choice(ROUTES),
            now + chance.choice([-1.0, 3.0, 30.0, 30.0]),
        )

    processor.start()
    stopping: asyncio.Task[None] | None = None
    for step in range(STEPS):
        for _ in range(chance.choice([1, 1, 2, 8])):
            task = make()
            if chance.random() < 0.1 and processor.is_accepting:
                logins.append(task.task_id)
                accepted.append(task)
                processor.run_at_once(task, now, processor.reply, login_ended)
            elif processor.submit(task, now):
                accepted.append(task)
            check(processor, max_workers)
        for _ in range(chance.randrange(4)):
            upstream.do_something()
            check(processor, max_workers)
        kind = chance.random()
        if kind < 0.02:
            chance.choice(sessions).is_valid = False
        elif kind < 0.2:
            now += chance.choice([0.1, 2.0])
            processor.tick(now)
        if kind < 0.7:
            await settle(chance.choice([1, 2, 3]))
        check(processor, max_workers)
        if stopping is None and step > STEPS // 2 and chance.random() < 0.02:
            drain = chance.choice([0.0, 3600.0])
            stopping = asyncio.ensure_future(processor.stop(drain))
            if chance.random() < 0.5:
                # Errors that are on their way when the pool gives up.
                await settle(chance.choice([1, 2]))
                for call in upstream.all[-30:]:
                    call.fail("broken off", outcome=Outcome.UNKNOWN)
    # An upstream that comes to its senses: all that is left is answered, and drained.
    if stopping is None:
        stopping = asyncio.ensure_future(processor.stop(3600.0))
    for _ in range(2_000):
        if stopping.done():
            break
        for call in upstream.all:
            answer: Any = OddAnswer(call, upstream.mixed_up)
            call.answer(answer)
        await settle(1)
    assert stopping.done()
    await stopping
    await settle(3)
    assert len(processor) == 0
    assert processor.counters.running == 0
    assert login_ends == Counter(logins)
    for task in accepted:
        session = task.session
        assert isinstance(session, OddSession)
        ends = session.ends[task.client_seq]
        if session.is_valid and task.client_seq not in session.broken:
            assert ends == 1
        else:
            assert ends <= 1
    assert not failures
    assert not upstream.mixed_up
    counters = processor.counters
    if not is_breaking:
        assert counters.tasks == len(accepted) == counters.answers + counters.closed_499
