"""The pool: its bounds, its growth, its order, and that every request ends exactly once."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr.config import DispatchConfig, UpstreamConfig
from gatesvr.dispatch.processor import AsyncProcessor
from gatesvr.dispatch.task import AsyncTask
from gatesvr.errors import ErrorCode, Outcome, UpstreamError
from gatesvr.observe.stages import Stages
from gatesvr.upstream.breaker import Breakers
from gatesvr.upstream.call import Call, UpstreamCounters
from gatesvr.upstream.registry import Registration
from gatesvr.upstream.router import Route

from .fakes import FakeAnswer, FakeRequest, FakeSession, FakeUpstream, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOT_STARTED = 1
DONE = 2
UNKNOWN = 0
ZONE = Route("zone", "completion")
CHAT = Route("chat", "completion")
SINGLE = Route("zone", "completion", serial=True)


class Clock:
    """Loop time that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(
    upstream: FakeUpstream, **settings: Any
) -> AsyncIterator[tuple[AsyncProcessor, Clock]]:
    clock = Clock()
    config = DispatchConfig(**{"workers": 2, **settings})
    processor = AsyncProcessor(config, upstream, clock=clock)  # type: ignore[arg-type]
    processor.start()
    try:
        yield processor, clock
    finally:
        await processor.stop()


def task(session: FakeSession, seq: int, **fields: Any) -> AsyncTask:
    fields = {"task_id": seq, "route": ZONE, "context": 130.0, **fields}
    return AsyncTask(session=session, request=FakeRequest(seq), **fields)  # type: ignore[arg-type]


async def test_start_twice_raises_and_stop_is_idempotent() -> None:
    processor = AsyncProcessor(DispatchConfig(), FakeUpstream())  # type: ignore[arg-type]
    processor.start()
    with pytest.raises(RuntimeError):
        processor.start()
    await processor.stop()
    await processor.stop()
    assert processor.counters.workers == 0
    with pytest.raises(RuntimeError):
        processor.start()


async def test_stop_without_start() -> None:
    processor = AsyncProcessor(DispatchConfig(), FakeUpstream())  # type: ignore[arg-type]
    await processor.stop()
    assert not processor.submit(task(FakeSession(), 1), 0.0)
    assert processor.counters.refused_draining == 1


async def test_answer_carries_its_notifies_as_one() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    async with running(upstream) as (processor, clock):
        assert processor.submit(task(session, 1), clock.now)
        await settle()
        assert upstream.calls == [("zone", b"1:30000")]
        upstream.answer(1, FakeAnswer(before=[b"b"], after=[b"a"]))
        await settle()
        assert session.ended == {1: (b"b", b"answer 1", b"a")}
        assert processor.counters.answers == 1
        assert processor.counters.running == 0


async def test_requests_reach_the_upstream_in_order_and_answers_come_as_they_are_ready() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    async with running(upstream) as (processor, clock):
        for seq in range(1, 41):
            assert processor.submit(task(session, seq), clock.now)
        await settle()
        assert [request for _, request in upstream.calls] == [
            b"%d:30000" % seq for seq in range(1, 41)
        ]
        for seq in (40, 1, 20):
            upstream.answer(seq)
            await settle()
        assert session.order == [40, 1, 20]


async def test_order_holds_while_workers_finish_and_start() -> None:
    upstream, session = FakeUpstream(is_instant=True), FakeSession()
    async with running(upstream, max_workers=3) as (processor, clock):
        for seq in range(1, 301):
            assert processor.submit(task(session, seq), clock.now)
            if seq % 7 == 0:
                await asyncio.sleep(0)
        await settle(300)
        assert len(session.ended) == 300
        assert [request for _, request in upstream.calls] == [
            b"%d:30000" % seq for seq in range(1, 301)
        ]


async def test_pool_grows_to_its_maximum_and_shrinks_when_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gatesvr.dispatch.processor.IDLE_WORKER_TIMEOUT_S", 60)
    upstream, session = FakeUpstream(), FakeSession()
    async with running(upstream, max_workers=5) as (processor, clock):
        assert processor.counters.workers == 2
        for seq in range(1, 11):
            assert processor.submit(task(session, seq), clock.now)
        await settle()
        assert (processor.counters.workers, len(upstream.calls), len(processor)) == (5, 5, 5)
        for seq in range(1, 11):
            upstream.answer(seq)
            await settle()
        assert len(session.ended) == 10
        clock.now += 59
        processor.tick(clock.now)
        await settle()
        assert processor.counters.workers == 5
        clock.now += 2
        processor.tick(clock.now)
        await settle()
        counters = processor.counters
        assert (counters.workers, counters.peak_workers) == (2, 5)
        assert processor.submit(task(session, 11, context=1000.0), clock.now)
        await settle()
        assert len(upstream.calls) == 11


async def test_full_queue_refuses_and_says_when_to_come_back() -> None:
    upstream, sessions = FakeUpstream(), [FakeSession(f"s{seq}") for seq in range(7)]
    async with running(upstream, workers=1, max_workers=1, max_queue_size=4) as (processor, clock):
        for seq in range(1, 6):
            assert processor.submit(task(sessions[seq], seq), clock.now)
        assert not processor.submit(task(sessions[6], 6), clock.now)
        assert processor.counters.refused_full == 1
        assert processor.retry_after_ms("zone") == 5000  # nothing was answered yet
        clock.now += 1.0
        upstream.answer(1)
        await settle()
        assert processor.retry_after_ms("zone") == 3000  # three wait, one a second
        processor.tick(clock.now)
        for seq in range(2, 6):
            upstream.answer(seq)
        assert processor.retry_after_ms("zone") == 50


async def test_service_that_hangs_holds_up_no_other() -> None:
    """On the way to one service, tasks find neither its places nor its queue taken by another's."""
    upstream = FakeUpstream()
    hanging, healthy = FakeSession("s1"), FakeSession("s2")
    async with running(upstream, max_workers=4, max_queue_size=8) as (processor, clock):
        seqs = range(1, 20)
        taken = [processor.submit(task(hanging, seq), clock.now) for seq in seqs]
        assert 0 < processor.counters.refused_full == taken.count(False)
        assert len(upstream.open) == 4
        for seq in range(101, 111):
            assert processor.submit(task(healthy, seq, route=CHAT), clock.now)
            upstream.answer(seq)
        assert healthy.order == list(range(101, 111))
        assert (hanging.ended, processor.counters.deadlines) == ({}, 0)


async def test_sessions_take_turns_and_each_keeps_its_order() -> None:
    upstream = FakeUpstream()
    many, few, one = FakeSession("s1"), FakeSession("s2"), FakeSession("s3")
    async with running(upstream, workers=1, max_workers=1) as (processor, clock):
        for session, seqs in ((many, range(1, 7)), (few, (11, 12)), (one, (21,))):
            for seq in seqs:
                assert processor.submit(task(session, seq), clock.now)
        for seq in (1, 2, 11, 21, 3, 12, 4, 5, 6):
            assert list(upstream.open) == [seq]
            upstream.answer(seq)
        assert len(processor) == 0


async def test_last_places_are_for_sessions_with_little_in_flight() -> None:
    upstream = FakeUpstream()
    greedy = [FakeSession(f"s{number}") for number in range(4)]
    async with running(upstream, workers=1, max_workers=32) as (processor, clock):
        for seq in range(40):
            session = greedy[seq % 4]
            session.pending[seq] = 0
            assert processor.submit(task(session, seq), clock.now)
        assert len(upstream.open) == 32 - 4
        modest = FakeSession("modest")
        for seq in range(100, 103):  # four places are free, then three, then two
            modest.pending[seq] = 0
            assert processor.submit(task(modest, seq), clock.now)
        assert [seq for seq in upstream.open if seq >= 100] == [100, 101]
        upstream.answer(100)
        del modest.pending[100]
        upstream.answer(0)
        assert 102 in upstream.open
        while upstream.open:  # and nobody waits for ever
            upstream.answer(next(iter(upstream.open)))
        assert sum(len(session.ended) for session in (*greedy, modest)) == 43


async def test_session_with_the_most_waiting_is_refused_first() -> None:
    upstream = FakeUpstream()
    greedy = FakeSession("s1")
    async with running(upstream, workers=1, max_workers=1, max_queue_size=20) as (processor, clock):
        taken = [processor.submit(task(greedy, seq), clock.now) for seq in range(20)]
        assert taken.count(True) == 1 + 5  # the place, and a fourth of what it leaves free
        for number in range(2, 17):
            assert processor.submit(task(FakeSession(f"s{number}"), 100 + number), clock.now)
        assert not processor.submit(task(FakeSession("late"), 99), clock.now)
        upstream.answer(0)
        assert not processor.submit(task(greedy, 50), clock.now)
        assert processor.submit(task(FakeSession("late"), 99), clock.now)


async def test_late_task_is_504_without_a_call() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    async with running(upstream, workers=1, max_workers=1) as (processor, clock):
        for seq in (1, 2):
            assert processor.submit(task(session, seq), clock.now)
        await settle()
        clock.now = 130.0
        upstream.answer(1)
        await settle()
        assert session.ended[2] == {"code": 504, "outcome": NOT_STARTED}
        assert len(upstream.calls) == 1
        assert processor.counters.deadlines == 1


async def test_closed_session_is_499_before_and_after_the_call() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    async with running(upstream, workers=1, max_workers=1) as (processor, clock):
        assert processor.submit(task(session, 1), clock.now)
        assert processor.submit(task(session, 2), clock.now)
        session.is_valid = False
        upstream.answer(1)
        assert (len(upstream.calls), processor.counters.closed_499) == (1, 2)
        assert session.ended == {}


@pytest.mark.parametrize(
    ("error", "code", "outcome"),
    [
        (UpstreamError("down"), 502, NOT_STARTED),
        (UpstreamError("broken off", outcome=Outcome.UNKNOWN), 502, UNKNOWN),
        (UpstreamError("full", ErrorCode.BUSY), 503, NOT_STARTED),
        (UpstreamError("late", ErrorCode.DEADLINE, outcome=Outcome.UNKNOWN), 504, UNKNOWN),
        (UpstreamError("denied", ErrorCode.FORBIDDEN, outcome=Outcome.DONE), 403, DONE),
        (UpstreamError("unknown", ErrorCode.NO_ROUTE), 404, NOT_STARTED),
    ],
)
async def test_failed_call_is_an_error_with_its_outcome(
    error: UpstreamError, code: int, outcome: int
) -> None:
    upstream, session = FakeUpstream(), FakeSession()
    async with running(upstream) as (processor, clock):
        assert processor.submit(task(session, 1), clock.now)
        await settle()
        upstream.fail(1, error)
        await settle()
        assert session.ended == {1: {"code": code, "outcome": outcome}}
        assert processor.counters.internal_errors == 0
        assert processor.counters.deadlines == (code == 504)
        assert processor.submit(task(session, 2), clock.now)  # the worker lives
        await settle()
        assert len(upstream.calls) == 2


async def test_step_that_raises_is_an_error_and_the_worker_goes_on() -> None:
    class BadAnswer(FakeAnswer):
        def body(self, client_seq_id: int) -> bytes:
            raise ValueError("a bug")

    upstream, session = FakeUpstream(), FakeSession()
    async with running(upstream, workers=1, max_workers=1) as (processor, clock):
        upstream.error = ValueError("a bug")
        assert processor.submit(task(session, 1), clock.now)
        assert session.ended == {1: {"code": 500, "outcome": NOT_STARTED}}
        upstream.error = None
        assert processor.submit(task(session, 2), clock.now)
        upstream.answer(2, BadAnswer())
        assert session.ended[2] == {"code": 500, "outcome": UNKNOWN}
        assert processor.counters.internal_errors == 2
        assert processor.submit(task(session, 3), clock.now)
        upstream.answer(3)
        assert session.ended[3] == (b"answer 3",)
        assert processor.counters.running == 0


async def test_session_that_raises_does_not_take_the_lane_down() -> None:
    class BrokenSession(FakeSession):
        def _end(self, client_seq: int, how: Any) -> bool:
            raise ValueError("a bug")

    upstream = FakeUpstream()
    async with running(upstream, workers=1, max_workers=1) as (processor, clock):
        assert processor.submit(task(BrokenSession(), 1), clock.now)
        upstream.answer(1)  # as a lane does, in the middle of a message with others' answers
        assert processor.counters.internal_errors == 2  # neither the answer nor an ERROR for it
        assert processor.counters.idle_workers == 1


async def test_task_that_cannot_even_be_refused_costs_no_worker() -> None:
    class BrokenSession(FakeSession):
        def _end(self, client_seq: int, how: Any) -> bool:
            raise ValueError("a bug")

    upstream, session = FakeUpstream(), FakeSession()
    async with running(upstream, workers=1, max_workers=1) as (processor, clock):
        assert processor.submit(task(session, 1), clock.now)
        assert processor.submit(task(BrokenSession("s2"), 2, context=clock.now), clock.now)
        assert processor.submit(task(session, 3), clock.now)
        upstream.answer(1)
        assert processor.counters.internal_errors == 1
        upstream.answer(3)
        assert session.order == [1, 3]
        assert processor.submit(task(BrokenSession("s2"), 4), clock.now)
        assert processor.submit(task(session, 5), clock.now)
        await processor.stop()
        assert session.ended[5] == {"code": 503, "outcome": NOT_STARTED}
        assert processor.counters.internal_errors == 2


async def test_error_that_is_on_its_way_when_the_pool_stops() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    async with running(upstream) as (processor, clock):
        assert processor.submit(task(session, 1), clock.now)
        stopping = asyncio.create_task(processor.stop())
        await asyncio.sleep(0)  # what stops it begins in the next turn, ahead of the error
        upstream.fail(1, UpstreamError("down"))
        await stopping
        await settle()
        assert session.ended == {1: {"code": 503, "outcome": UNKNOWN}}


async def test_task_beside_the_pool_that_ends_at_once_says_so() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    ended: list[int] = []
    async with running(upstream) as (processor, clock):
        upstream.error = ValueError("a bug")
        processor.run_at_once(
            task(session, 1), clock.now, processor.reply, lambda task: ended.append(task.client_seq)
        )
        assert ended == [1]
        assert session.ended == {1: {"code": 500, "outcome": NOT_STARTED}}
        assert processor.counters.running == 0


def test_task_is_a_whole_call() -> None:
    made = task(FakeSession(), 1)
    call = Call(None, b"", 1, 130.0, "zone", "alice", "001")
    assert [getattr(made, name) for name in Call.__slots__] == [
        getattr(call, name) for name in Call.__slots__
    ]


async def test_tasks_that_end_at_once_take_no_stack() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    places = {"workers": 1, "max_workers": 1, "max_queue_size": 20_000}
    async with running(upstream, **places) as (processor, clock):
        for seq in range(1, 3_001):
            assert processor.submit(
                task(session, seq, route=SINGLE if seq > 1 else ZONE), clock.now
            )
        session.is_valid = False
        upstream.answer(1)
        assert processor.counters.closed_499 == 3_000
        assert len(processor) == processor.counters.running == 0


async def test_answer_of_another_request_is_502_and_its_endpoint_s_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstream, session = FakeUpstream(), FakeSession()
    counters = UpstreamCounters()
    breakers = Breakers(UpstreamConfig(consecutive_failures=1), counters, float, lambda: None)
    async with running(upstream) as (processor, clock):
        made = task(session, 1)
        made.breaker = breakers.add(Registration("zone", "h:1"))
        assert processor.submit(made, clock.now)
        await settle()
        upstream.answer(1, FakeAnswer(client_seq_id=9))
        await settle()
        assert session.ended == {1: {"code": 502, "outcome": UNKNOWN}}
        assert processor.counters.foreign_answers == 1
        assert counters.ejections == 1
        line = next(r for r in caplog.records if r.message == "call_failed")
        assert line.__dict__["keys"]["address"] == "h:1"


async def test_answer_of_another_request_does_not_restore_an_endpoint() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    counters = UpstreamCounters()
    now = [0.0]
    config = UpstreamConfig(consecutive_failures=1, probes=1)
    breakers = Breakers(config, counters, lambda: now[0], lambda: None)
    breaker = breakers.add(Registration("zone", "h:1"))
    breaker.failed(0, "")
    now[0] = breaker.until
    breakers.handle_timer(now[0])
    async with running(upstream) as (processor, clock):
        for seq, (answer, state) in enumerate(((9, "open"), (2, "closed")), 1):
            if seq == 2:
                now[0] = breaker.until
                breakers.handle_timer(now[0])
            made = task(session, seq)
            made.breaker = breaker
            breaker.begin_probe(made.request_id)
            assert processor.submit(made, clock.now)
            await settle()
            upstream.answer(seq, FakeAnswer(client_seq_id=answer))
            await settle()
            assert breaker.state.value == state
    assert (counters.ejections, counters.restorations) == (2, 1)


def failed(status: str, address: str = "h:1", code: int = 502) -> UpstreamError:
    return UpstreamError(
        f"text of {status}", ErrorCode(code), outcome=Outcome.DONE, status=status, address=address
    )


async def test_failed_calls_are_logged_once_a_second_and_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "gatesvr.dispatch")
    upstream, session = FakeUpstream(), FakeSession()

    def lines() -> list[Any]:
        found = [r.keys for r in caplog.records if r.message == "call_failed"]  # type: ignore[attr-defined]
        caplog.clear()
        return [
            (k["service"], k["address"], k["status"], k["request_id"], k["suppressed"])
            for k in found
        ]

    async with running(upstream) as (processor, clock):
        for seq in range(1, 8):
            assert processor.submit(task(session, seq), clock.now)
        upstream.fail(1, failed("NOT_FOUND"))
        upstream.fail(2, failed("NOT_FOUND"))
        upstream.fail(3, failed("INTERNAL"))
        upstream.fail(4, failed("NOT_FOUND", "h:2"))
        upstream.fail(5, failed("NOT_FOUND"))
        await settle()
        assert lines() == [
            ("zone", "h:1", "NOT_FOUND", 1, 0),
            ("zone", "h:1", "INTERNAL", 3, 0),
            ("zone", "h:2", "NOT_FOUND", 4, 0),
        ]
        clock.now += 1.0
        upstream.fail(6, failed("NOT_FOUND"))  # the next one tells of those left out
        upstream.fail(7, failed("NOT_FOUND"))
        await settle()
        assert lines() == [("zone", "h:1", "NOT_FOUND", 6, 2)]
        clock.now += 1.0
        processor.tick(clock.now)  # where none comes the second's end does
        assert lines() == [("zone", "h:1", "NOT_FOUND", 7, 0)]
        clock.now += 1.0
        processor.tick(clock.now)
        assert lines() == []


async def test_failed_call_leaves_no_cycle_behind() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    alive = weakref.ref(session)
    async with running(upstream) as (processor, clock):
        gc.disable()
        try:
            assert processor.submit(task(session, 1), clock.now)
            await settle()
            upstream.fail(1, UpstreamError("down"))
            upstream.calls.clear()
            await settle()
            assert session.ended == {1: {"code": 502, "outcome": NOT_STARTED}}
            del session
            assert alive() is None
        finally:
            gc.enable()


async def test_serial_route_runs_one_of_a_session_at_a_time() -> None:
    upstream, session, other = FakeUpstream(), FakeSession(), FakeSession("s2")
    async with running(upstream, max_queue_size=6) as (processor, clock):
        assert processor.submit(task(session, 1, route=SINGLE), clock.now)
        assert processor.submit(task(other, 4, route=SINGLE), clock.now)
        for seq in (2, 3):
            assert processor.submit(task(session, seq, route=SINGLE), clock.now)
        assert not processor.submit(
            task(session, 5, route=SINGLE), clock.now
        )  # chained tasks count too
        await settle()
        assert [request for _, request in upstream.calls] == [b"1:30000", b"4:30000"]
        upstream.answer(1)
        await settle()
        upstream.fail(2, UpstreamError("down"))
        await settle()
        upstream.answer(3)
        await settle()
        assert session.order == [1, 2, 3]
        assert len(processor) == 0
        assert processor.submit(task(session, 6, route=SINGLE), clock.now)
        await settle()
        assert len(upstream.calls) == 5


async def test_stop_lets_running_tasks_finish() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    async with running(upstream, max_workers=2) as (processor, clock):
        for seq in (1, 2, 3):
            assert processor.submit(task(session, seq), clock.now)
        await settle()
        stopping = asyncio.create_task(processor.stop(drain_timeout=60))
        await settle()
        assert not processor.submit(task(session, 4), clock.now)
        for seq in (1, 2, 3):
            upstream.answer(seq)
            await settle()
        await stopping
        assert session.order == [1, 2, 3]
        assert processor.counters.workers == 0


async def test_stop_ends_every_task_that_did_not_finish() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    async with running(upstream, max_workers=2) as (processor, clock):
        for seq in (1, 2, 3):
            assert processor.submit(task(session, seq), clock.now)
        assert processor.submit(task(session, 4, route=SINGLE), clock.now)
        assert processor.submit(task(session, 5, route=SINGLE), clock.now)
        await settle()
        await processor.stop(drain_timeout=0.001)
        assert session.ended == {
            1: {"code": 503, "outcome": UNKNOWN},
            2: {"code": 503, "outcome": UNKNOWN},
            3: {"code": 503, "outcome": NOT_STARTED},
            4: {"code": 503, "outcome": NOT_STARTED},
            5: {"code": 503, "outcome": NOT_STARTED},
        }


async def test_task_beside_the_pool_waits_for_no_worker() -> None:
    upstream, session = FakeUpstream(), FakeSession()
    seen: list[tuple[str, int]] = []
    async with running(upstream, workers=1, max_workers=1) as (processor, clock):

        def run_at_once(seq: int) -> None:
            processor.run_at_once(
                task(session, seq),
                clock.now,
                lambda task, answer, now: seen.append(("answer", answer.code)),
                lambda task: seen.append(("ended", task.client_seq)),
            )

        assert processor.submit(task(session, 1), clock.now)
        await settle()
        run_at_once(2)
        await settle()
        upstream.answer(2)
        await settle()
        assert seen == [("answer", 200), ("ended", 2)]
        run_at_once(3)
        await settle()
        upstream.fail(3, UpstreamError("down"))
        await settle()
        assert seen[2:] == [("ended", 3)]
        assert session.ended == {3: {"code": 502, "outcome": NOT_STARTED}}


async def test_the_stages_of_tasks_are_timed() -> None:
    upstream, session, clock, stages = FakeUpstream(), FakeSession(), Clock(), Stages()
    config = DispatchConfig(workers=1, max_workers=1)
    processor = AsyncProcessor(config, upstream, clock=clock, stages=stages)  # type: ignore[arg-type]
    processor.start()
    for seq in (1, 2):
        assert processor.submit(task(session, seq, asked_at=clock.now), clock.now)
    clock.now += 2
    upstream.answer(1)
    await settle()  # the second one is called now
    assert stages.requests.pending == 1
    clock.now += 3
    late = task(session, 3, context=clock.now, asked_at=clock.now)
    assert processor.submit(late, clock.now)
    upstream.answer(2)
    await settle()  # the third one is not called: its time is up
    stages.requests.flushed(clock.now + 1)
    await processor.stop()
    found = {name: s for name, s in stages.snapshot().items() if s.count}
    assert {name: s.count for name, s in found.items()} == {
        "queue_wait": 2,
        "upstream:zone": 2,
        "send": 2,
        "request": 2,
    }
    sums = {name: round(s.sum, 3) for name, s in found.items()}
    assert sums == {"queue_wait": 2, "upstream:zone": 5, "send": 5, "request": 12}
