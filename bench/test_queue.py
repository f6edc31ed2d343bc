"""OrderedQueue against a plain heapq and dict: the model used by its tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatesvr._core.queue import KEEP, OrderedQueue
from tests.core.queue_model import OrderedQueueModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

Queue = OrderedQueue | OrderedQueueModel

BODY = b"b" * 128
ALL = 1 << 30
BATCH = 16
WAITING = 1000
TARGET = 10  # times the model (DESIGN 4), in batches of 16

MESSAGES = [(n + 1, BODY) for n in range(BATCH)]
ONE = MESSAGES[:1]


def batch_of_16(queue: Queue) -> Callable[[], object]:
    """Append 16 messages in one call, take them, ack them all."""

    def run() -> None:
        last = queue.append(MESSAGES)
        queue.take(ALL)
        queue.ack_up_to(last)

    return run


def batch_of_1(queue: Queue) -> Callable[[], object]:
    """The same with a single message."""

    def run() -> None:
        last = queue.append(ONE)
        queue.take(ALL)
        queue.ack_up_to(last)

    return run


def one_by_one(queue: Queue) -> Callable[[], object]:
    """Append 16 messages in 16 calls, take them, ack them all."""

    def run() -> None:
        append_one = queue.append_one
        for msg_id, body in MESSAGES:
            append_one(msg_id, body)
        queue.take(ALL)
        queue.ack_up_to(queue.next_expected_seq - 1)

    return run


def answers_one_by_one(queue: Queue) -> Callable[[], object]:
    """Append 16 answers in 16 calls as a session does, take them, ack them all."""

    def run() -> None:
        append_one = queue.append_one
        for msg_id, body in MESSAGES:
            append_one(msg_id, body, KEEP, 0.0, True)
        queue.take(ALL)
        queue.ack_up_to(queue.next_expected_seq - 1)

    return run


def slots_in_order(queue: Queue) -> Callable[[], object]:
    """Reserve 16 slots, fill them in order with an answer each, take, ack."""

    def run() -> None:
        slots = [queue.reserve() for _ in MESSAGES]
        for slot, message in zip(slots, MESSAGES, strict=True):
            queue.fill(slot, (message,))
        queue.take(ALL)
        queue.ack_up_to(queue.next_expected_seq - 1)

    return run


def slots_backwards(queue: Queue) -> Callable[[], object]:
    """Reserve 16 slots, fill the last one first, so that 15 wait; take, ack."""

    def run() -> None:
        slots = [queue.reserve() for _ in MESSAGES]
        for slot, message in zip(reversed(slots), MESSAGES, strict=True):
            queue.fill(slot, (message,))
        queue.take(ALL)
        queue.ack_up_to(queue.next_expected_seq - 1)

    return run


def replay_of_1000(queue: Queue) -> Callable[[], object]:
    """Give 1,000 messages out again after a resume."""
    queue.append([(0, BODY)] * WAITING)
    queue.take(ALL)

    def run() -> None:
        queue.rewind(1)
        while queue.unsent:
            queue.take(1 << 16)

    return run


CASES: list[tuple[str, Callable[[Queue], Callable[[], object]], int, int]] = [
    ("batches of 16", batch_of_16, BATCH, TARGET),
    ("batches of 1", batch_of_1, 1, 0),
    ("16 x append_one", one_by_one, BATCH, 0),
    ("16 x append_one, forced", answers_one_by_one, BATCH, 0),
    ("16 slots in order", slots_in_order, BATCH, 0),
    ("16 slots backwards", slots_backwards, BATCH, 0),
    ("replay of 1,000", replay_of_1000, WAITING, 0),
]


@pytest.mark.parametrize("role", ["yardstick", "gatesvr"])
@pytest.mark.parametrize(
    ("name", "case", "per", "target"), CASES, ids=[case[0].replace(" ", "-") for case in CASES]
)
def test_queue(
    benchmark: BenchmarkFixture,
    role: str,
    name: str,
    case: Callable[[Queue], Callable[[], object]],
    per: int,
    target: int,
) -> None:
    """Measure one case on the queue or on its model."""
    queue: Queue = OrderedQueue() if role == "gatesvr" else OrderedQueueModel()
    benchmark.group = f"queue: {name}"
    benchmark.extra_info.update(role=role, per=per, min_speedup=target)
    benchmark(case(queue))
