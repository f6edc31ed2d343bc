"""OrderedQueue against its model: a state machine, and seeded stress."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gatesvr._core.queue import BULK, KEEP

from .queue_pair import BODIES, Message, Pair

times = st.integers(0, 160).map(lambda eighths: eighths / 8)  # whole ms
flags = st.sampled_from((0, 0, 0, KEEP, BULK, BULK | KEEP))
bodies = st.sampled_from(BODIES)
msg_ids = st.sampled_from((0, 1, 127, 128, 2**31, 2**32 - 1))
messages = st.one_of(
    st.tuples(msg_ids, bodies),
    st.tuples(msg_ids, bodies, flags),
    st.tuples(msg_ids, bodies, flags, times),
)
batches = st.lists(messages, max_size=6)


class QueueMachine(RuleBasedStateMachine):
    pair: Pair

    @initialize(size=st.sampled_from((1, 4, 16, 64)), max_bytes=st.sampled_from((1, 300, 5000)))
    def start(self, size: int, max_bytes: int) -> None:
        self.pair = Pair(size, max_bytes)

    @rule()
    def reserve(self) -> None:
        self.pair.call("reserve")

    @rule(count=st.integers(2, 9))
    def reserve_many(self, count: int) -> None:
        for _ in range(count):
            self.pair.call("reserve")

    @rule(behind=st.integers(0, 8), batch=batches)
    def fill(self, behind: int, batch: list[Message]) -> None:
        self.pair.call("fill", self.pair.model.first_slot + behind, batch)

    @rule(batch=batches, force=st.booleans())
    def append(self, batch: list[Message], force: bool) -> None:
        self.pair.call("append", batch, force)

    @rule(message=messages, force=st.booleans())
    def append_one(self, message: Message, force: bool) -> None:
        self.pair.call("append_one", *message, *(0, 0.0)[len(message) - 2 :], force)

    @rule(count=st.integers(10, 60), flag=flags, expires_at=times)
    def burst(self, count: int, flag: int, expires_at: float) -> None:
        self.pair.call("append", [(0, b"b", flag, expires_at)] * count, True)

    @rule(max_bytes=st.sampled_from((-1, 0, 20, 50, 400, 1 << 20)))
    def take(self, max_bytes: int) -> None:
        self.pair.call("take", max_bytes)

    @rule(ahead=st.integers(-1, 40))
    def ack(self, ahead: int) -> None:
        self.pair.call("ack_up_to", max(0, self.pair.model.last_acked_seq + ahead))

    @rule(back=st.integers(-2, 40))
    def rewind(self, back: int) -> None:
        self.pair.call("rewind", max(0, self.pair.model.next_expected_seq - back))

    @rule(step=st.integers(0, 48))
    def expire(self, step: int) -> None:
        self.pair.now += step / 8
        self.pair.call("expire", self.pair.now)

    @rule(count=st.integers(0, 20), max_bytes=st.sampled_from((0, 1, 200, 4000)))
    def drop_oldest(self, count: int, max_bytes: int) -> None:
        self.pair.call("drop_oldest", count, max_bytes)

    @rule(back=st.integers(-1, 40))
    def conflate(self, back: int) -> None:
        self.pair.call("conflate", max(0, self.pair.model.next_expected_seq - back))

    @rule(reserved=st.integers(0, 5))
    def set_reserved(self, reserved: int) -> None:
        self.pair.set("reserved", reserved)

    @rule(can_skip=st.booleans())
    def set_can_skip(self, can_skip: bool) -> None:
        self.pair.set("can_skip", can_skip)

    @rule()
    def move(self) -> None:
        self.pair.move()

    @rule(chance=st.integers(0, 30))
    def stop(self, chance: int) -> None:
        if chance == 30:
            self.pair.call("stop")

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "pair"):
            self.pair.check()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.drain()


class LongQueueMachine(QueueMachine):
    """The same for many more lives."""


def machine(lives: int) -> settings:
    return settings(
        max_examples=lives,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = machine(50)
TestQueueMachineLong = pytest.mark.long(LongQueueMachine.TestCase)
TestQueueMachineLong.settings = machine(1_000)


@pytest.mark.parametrize("seed", range(6))
def test_stress(seed: int) -> None:
    """A long life of one queue: bursts that grow and shrink it, slots filled out of order."""
    choose = random.Random(seed)
    pair = Pair(choose.choice((32, 300)), choose.choice((4000, 100_000)))
    open_slots: list[int] = []

    def message() -> Message:
        flag = choose.choice((0, 0, KEEP, BULK))
        expires_at = choose.choice((0.0, pair.now + choose.random() * 5))
        return choose.randrange(2**32), choose.choice(BODIES), flag, expires_at

    def batch() -> list[Message]:
        return [message() for _ in range(choose.choice((0, 1, 1, 2, 5, 40)))]

    def reserve() -> None:
        open_slots.append(pair.call("reserve"))

    def fill() -> None:
        if open_slots:
            slot = open_slots.pop(choose.randrange(min(len(open_slots), 30)))
            pair.call("fill", slot, batch())

    def ack() -> None:
        model = pair.model
        pair.call("ack_up_to", choose.randint(model.last_acked_seq, model.next_expected_seq))

    def rewind() -> None:
        model = pair.model
        pair.call("rewind", choose.randint(model.last_acked_seq, model.next_expected_seq + 1))

    def conflate() -> None:
        model = pair.model
        pair.call("conflate", choose.randint(model.last_acked_seq, model.next_expected_seq))

    def expire() -> None:
        pair.now += choose.random()
        pair.call("expire", pair.now)

    actions: list[tuple[int, Callable[[], object]]] = [
        (8, reserve),
        (8, fill),
        (6, lambda: pair.call("append", batch(), choose.random() < 0.1)),
        (6, lambda: pair.call("append_one", *message())),
        (8, lambda: pair.call("take", choose.choice((0, 100, 2000, 60_000)))),
        (2, ack),
        (1, rewind),
        (2, expire),
        (3, conflate),
        (2, lambda: pair.call("drop_oldest", choose.randrange(40), choose.randrange(1000))),
        (1, lambda: pair.set("can_skip", choose.random() < 0.8)),
        (1, lambda: pair.set("reserved", choose.randrange(8))),
    ]
    weights = [weight for weight, _ in actions]
    for step in range(4000):
        choose.choices(actions, weights)[0][1]()
        if step % 10 == 0:
            pair.check()
    while open_slots:
        fill()
    pair.drain()
    pair.call("stop")
    pair.check()
