"""Slots: numbers, phases and pauses of workers, without any process."""

from __future__ import annotations

import random

import pytest

from gatesvr.workers.slots import NUMBERS, STEADY_S, Slots


def slots_of(count: int) -> Slots:
    return Slots(count, restart_min=0.1, restart_max=10.0)


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_steady_life() -> None:
    slots, now, pauses = slots_of(1), 0.0, []
    for _ in range(9):
        number = slots.begin(0)
        slots.ready(number, now)
        now += 1
        pauses.append(slots.ended(number, now))
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    number = slots.begin(0)
    slots.ready(number, now)
    assert slots.ended(number, now + STEADY_S) == pytest.approx(0.1)
    assert slots.deaths(0) == 1


def test_a_worker_that_never_served_counts_as_dead() -> None:
    slots = slots_of(2)
    assert slots.ended(slots.begin(0), 1e6) == pytest.approx(0.1)
    assert slots.ended(slots.begin(0), 2e6) == pytest.approx(0.2)
    assert slots.ended(slots.begin(1), 3e6) == pytest.approx(0.1)


def test_one_that_was_asked_to_leave_has_no_successor() -> None:
    slots = slots_of(1)
    number = slots.begin(0)
    slots.ready(number, 0.0)
    slots.retire(number)
    assert slots.phase(number) == "leaving"
    assert slots.ended(number, 1.0) is None
    assert slots.phase(number) is None
    assert slots.deaths(0) == 0


def test_a_slot_that_has_another_worker_gets_no_third() -> None:
    slots = slots_of(1)
    old, new = slots.begin(0), slots.begin(0)
    slots.ready(old, 0.0)
    assert slots.ended(new, 1.0) is None
    assert slots.numbers() == [old]


def test_a_slot_without_a_worker_is_covered_by_the_next_one_that_serves() -> None:
    slots = slots_of(4)
    for slot in range(4):
        slots.begin(slot)
    assert slots.covers() == {}
    slots.ready(1, 0.0)
    assert slots.covers() == {1: [3, 2, 0]}
    slots.ready(3, 0.0)
    assert slots.covers() == {1: [0], 3: [2]}
    slots.ready(0, 0.0)
    slots.ready(2, 0.0)
    assert slots.covers() == {0: [], 1: [], 2: [], 3: []}
    slots.retire(2)
    slots.ended(3, 1.0)
    assert slots.covers() == {0: [3, 2], 1: []}
    slots.begin(3)
    assert slots.covers() == {0: [3, 2], 1: []}
    slots.ready(7, 2.0)
    assert slots.covers() == {0: [], 1: [], 7: [2]}


def test_a_number_says_the_slot_and_comes_again_last() -> None:
    slots = slots_of(3)
    seen = []
    for _ in range(NUMBERS // 3):
        number = slots.begin(1)
        seen.append(number)
        slots.ended(number, 0.0)
    assert seen == list(range(1, NUMBERS, 3))[: len(seen)]
    assert slots.begin(1) == 1


def test_numbers_of_a_slot_can_run_out() -> None:
    slots = slots_of(64)
    assert [slots.begin(5) for _ in range(4)] == [5, 69, 133, 197]
    with pytest.raises(LookupError):
        slots.begin(5)
    slots.ended(133, 0.0)
    assert slots.begin(5) == 133


def test_no_two_live_workers_have_the_same_number() -> None:
    chance = random.Random(1)
    slots = slots_of(5)
    for _ in range(2_000):
        live = slots.numbers()
        assert len(set(live)) == len(live)
        if len(live) < 12 and chance.random() < 0.6:
            slot = chance.randrange(5)
            number = slots.begin(slot)
            assert number not in live
            assert number % 5 == slot
            assert number < NUMBERS
            if chance.random() < 0.8:
                slots.ready(number, 0.0)
        elif live:
            number = chance.choice(live)
            if chance.random() < 0.3 and slots.phase(number) != "leaving":
                slots.retire(number)
            else:
                slots.ended(number, 1.0)
