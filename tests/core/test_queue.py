"""OrderedQueue: unit tests."""

from __future__ import annotations

import copy
import gc
import math
import sys
import weakref
from collections.abc import Callable, Iterator

import pytest

from gatesvr._core.queue import BULK, KEEP, OrderedQueue
from gatesvr._pb import message_pb2 as pb
from gatesvr.errors import CloseCode, ProtocolError, QueueFull, SessionError

ALL = 1 << 30


def parse(data: bytes) -> list[pb.ServerPush]:
    """Return the pushes of whole frames."""
    pushes = []
    while data:
        size = int.from_bytes(data[:4], "big")
        assert len(data) >= 4 + size
        pushes.append(pb.ServerPush.FromString(data[4 : 4 + size]))
        data = data[4 + size :]
    return pushes


def body(text: str) -> bytes:
    """Return a body as push_body would make it."""
    return pb.ServerPush(type=pb.PUSH_BUSINESS_DATA, payload=text.encode()).SerializeToString()


def taken(queue: OrderedQueue, max_bytes: int = ALL) -> list[tuple[int, str]]:
    """Take, and return (seq, text) a push; a SKIP's text is its from_seq, messages and reason."""
    found = []
    for push in parse(queue.take(max_bytes)):
        if push.type != pb.PUSH_SKIP:
            text = push.payload.decode()
        else:
            skip = pb.Skip.FromString(push.payload)
            text = f"skip {skip.from_seq} {skip.messages} {pb.LostReason.Name(skip.reason)}"
        found.append((push.seq_id, text))
    queue._check()
    return found


@pytest.fixture
def queue() -> Iterator[OrderedQueue]:
    made = OrderedQueue("s-1", 8, 1000)
    yield made
    made._check()


def test_the_oldest_message_ages_from_when_it_was_first_seen(queue: OrderedQueue) -> None:
    assert queue.oldest_age(5.0) == 0.0
    queue.append([(0, body("a")), (0, body("b"))])
    assert [queue.oldest_age(now) for now in (6.0, 8.5, 8.0)] == [0.0, 2.5, 2.0]
    queue.take(ALL)
    assert queue.oldest_age(9.0) == 3.0, "taken is not acked"
    queue.ack_up_to(1)
    assert [queue.oldest_age(now) for now in (9.0, 10.0)] == [0.0, 1.0]
    queue.ack_up_to(2)
    assert queue.oldest_age(11.0) == 0.0
    queue.append([(0, body("c"))])
    assert queue.oldest_age(12.0) == 0.0
    assert queue.oldest_age(13.0) == 1.0


class TestOrder:
    def test_starts_empty(self, queue: OrderedQueue) -> None:
        assert (queue.session_id, queue.max_queue_size, queue.max_queue_bytes) == ("s-1", 8, 1000)
        assert (queue.next_expected_seq, queue.last_sent_seq, queue.last_acked_seq) == (1, 0, 0)
        assert (len(queue), queue.unsent, queue.queued_bytes) == (0, 0, 0)
        assert (queue.open_slots, queue.waiting_slots, queue.reserved) == (0, 0, 0)
        assert (queue.kept, queue.bulk) == (0, 0)
        assert queue.can_skip is True
        assert queue.stopped is False
        assert queue.take(ALL) == b""
        assert set(queue.counters().values()) == {0}
        assert queue.next_expiry() == math.inf

    def test_frames_are_protobuf(self, queue: OrderedQueue) -> None:
        queue.append_one(7, body("a"))
        queue.append([(2**32 - 1, body("b")), (0, b"")])
        want = [
            pb.ServerPush(msg_id=7, seq_id=1, type=pb.PUSH_BUSINESS_DATA, payload=b"a"),
            pb.ServerPush(msg_id=2**32 - 1, seq_id=2, type=pb.PUSH_BUSINESS_DATA, payload=b"b"),
            pb.ServerPush(seq_id=3),
        ]
        frames = queue.take(ALL)
        assert parse(frames) == want
        assert frames == b"".join(
            len(data).to_bytes(4, "big") + data
            for data in (push.SerializeToString() for push in want)
        )

    def test_append_goes_ahead_of_open_slots(self, queue: OrderedQueue) -> None:
        slot = queue.reserve()
        assert queue.append([(0, body("push"))]) == 1
        assert queue.fill(slot, [(5, body("answer"))]) == 1
        assert taken(queue) == [(1, "push"), (2, "answer")]

    def test_slots_release_in_order(self, queue: OrderedQueue) -> None:
        slots = [queue.reserve() for _ in range(4)]
        assert slots == [1, 2, 3, 4]
        assert queue.fill(slots[3], [(4, body("d"))]) == 0
        assert queue.fill(slots[1], [(2, body("b1")), (2, body("b2"))]) == 0
        assert (queue.waiting_slots, queue.open_slots, queue.unsent) == (2, 4, 0)
        assert queue.queued_bytes == len(body("d") + body("b1") + body("b2"))
        assert queue.kept == 3
        assert queue.fill(slots[0], [(1, body("a"))]) == 3
        assert (queue.waiting_slots, queue.open_slots) == (1, 2)
        assert taken(queue) == [(1, "a"), (2, "b1"), (3, "b2")]
        assert queue.fill(slots[2], []) == 1
        assert taken(queue) == [(4, "d")]
        assert queue.counters()["filled"] == 4
        assert queue.counters()["released"] == 4

    def test_a_slot_filled_with_nothing_holds_up_nothing(self, queue: OrderedQueue) -> None:
        first, second = queue.reserve(), queue.reserve()
        assert queue.fill(second, ()) == 0
        assert queue.fill(first, ()) == 0
        assert (queue.open_slots, queue.waiting_slots, queue.next_expected_seq) == (0, 0, 1)

    def test_many_slots_in_any_order(self) -> None:
        queue = OrderedQueue()
        slots = [queue.reserve() for _ in range(1000)]
        order = sorted(slots, key=lambda slot: slot * 7919 % 1009)
        for slot in order:
            queue.fill(slot, [(slot, b"")])
            if slot % 50 == 0:
                queue._check()
        pushes = parse(queue.take(ALL))
        assert [push.msg_id for push in pushes] == slots
        assert [push.seq_id for push in pushes] == slots
        queue.ack_up_to(1000)
        queue._check()
        assert sys.getsizeof(queue) < sys.getsizeof(OrderedQueue()) + 2048

    def test_slots_are_unknown_after_release(self, queue: OrderedQueue) -> None:
        first, second = queue.reserve(), queue.reserve()
        queue.fill(second, [(0, b"x")])
        for slot in (second, 0, 3, -1, 2**64, 2**70):
            with pytest.raises(ValueError, match="slot"):
                queue.fill(slot, [(0, b"y")])
        queue.fill(first, [])
        for slot in (first, second):
            with pytest.raises(ValueError, match="not open"):
                queue.fill(slot, [])
        with pytest.raises(TypeError):
            queue.fill("1", [])  # type: ignore[arg-type]
        assert len(queue) == 1
        assert queue.counters()["filled"] == 2

    def test_any_iterable_will_do(self, queue: OrderedQueue) -> None:
        queue.append((0, body(text)) for text in "ab")
        queue.append(((0, body("c")),))
        queue.append([])
        assert taken(queue) == [(1, "a"), (2, "b"), (3, "c")]

    def test_what_an_iterable_does_meanwhile_comes_first(self, queue: OrderedQueue) -> None:
        def messages() -> Iterator[tuple[int, bytes]]:
            queue.append_one(0, body("inner"))
            yield 0, body("outer")

        queue.append(messages())
        assert taken(queue) == [(1, "inner"), (2, "outer")]
        slot = queue.reserve()

        def stops() -> Iterator[tuple[int, bytes]]:
            queue.stop()
            yield 0, b""

        with pytest.raises(ValueError, match="not open"):
            queue.fill(slot, stops())


class TestTake:
    def test_budget(self, queue: OrderedQueue) -> None:
        queue.append([(0, b"12345678")] * 4)  # 4 + 2 + 8 bytes each
        assert len(queue.take(28)) == 28
        assert len(queue.take(27)) == 14
        assert queue.unsent == 1
        assert len(queue.take(0)) == 14
        assert queue.take(-5) == b""
        assert queue.last_sent_seq == 4

    @pytest.mark.parametrize("size", [0, 1, 127, 128, 16384, 1 << 20, 9 << 20])
    def test_sizes(self, size: int) -> None:
        queue = OrderedQueue(max_queue_bytes=16 << 20)
        content = bytes(range(256)) * (size // 256) + bytes(size % 256)
        queue.append_one(1, content)
        queue.append_one(0, b"")
        data = queue.take(1)
        assert data == (size + 4).to_bytes(4, "big") + b"\x08\x01\x10\x01" + content
        assert queue.queued_bytes == size

    def test_seqs_grow_past_varint_borders(self) -> None:
        queue = OrderedQueue()
        for start in range(0, 40_000, 1000):
            queue.append([(0, b"")] * 1000)
            assert [push.seq_id for push in parse(queue.take(ALL))] == list(
                range(start + 1, start + 1001)
            )
            assert queue.ack_up_to(start + 1000) == 1000
        queue._check()

    def test_rewind_gives_the_same_bytes_again(self, queue: OrderedQueue) -> None:
        queue.append([(n, body(str(n))) for n in range(5)])
        first = queue.take(ALL)
        assert queue.rewind(1) == 5
        assert queue.take(ALL) == first
        assert queue.rewind(4) == 2
        assert taken(queue) == [(4, "3"), (5, "4")]
        queue.ack_up_to(3)
        assert queue.rewind(0) == 2
        assert queue.unsent == 2
        assert queue.rewind(6) == 0
        assert queue.take(ALL) == b""
        with pytest.raises(ValueError, match="7"):
            queue.rewind(7)
        assert queue.counters()["replayed"] == 7
        assert queue.counters()["taken"] == 12

    def test_rewind_counts_only_what_was_taken(self, queue: OrderedQueue) -> None:
        queue.append([(0, b"x")] * 4)
        queue.take(1)
        assert queue.rewind(1) == 1
        assert queue.rewind(1) == 1


class TestAck:
    def test_batch(self, queue: OrderedQueue) -> None:
        queue.append([(0, b"1234")] * 5)
        queue.take(ALL)
        assert queue.ack_up_to(3) == 3
        assert (queue.last_acked_seq, len(queue), queue.queued_bytes) == (3, 2, 8)
        assert queue.ack_up_to(3) == 0
        assert queue.ack_up_to(0) == 0
        assert queue.ack_up_to(5) == 2
        assert queue.counters()["acked"] == 5

    def test_above_what_was_given_out(self, queue: OrderedQueue) -> None:
        with pytest.raises(ProtocolError, match="ack 1") as caught:
            queue.ack_up_to(1)
        assert caught.value.close_code is CloseCode.PROTOCOL_ERROR
        queue.append([(0, b"x")])
        with pytest.raises(ProtocolError):
            queue.ack_up_to(2)
        with pytest.raises(ProtocolError):
            queue.ack_up_to(2**64 - 1)
        with pytest.raises(OverflowError):
            queue.ack_up_to(2**64)
        with pytest.raises(OverflowError):
            queue.ack_up_to(-1)
        assert (len(queue), queue.last_acked_seq) == (1, 0)

    def test_moves_the_send_position(self, queue: OrderedQueue) -> None:
        queue.append([(0, body(text)) for text in "abcd"])
        queue.take(1)
        assert queue.ack_up_to(3) == 3
        assert queue.unsent == 1
        assert taken(queue) == [(4, "d")]

    def test_frees_bodies(self, queue: OrderedQueue) -> None:
        shared = bytes(100)
        before = sys.getrefcount(shared)
        queue.append([(0, shared), (0, shared)])
        queue.append_one(0, shared)
        slots = [queue.reserve(), queue.reserve()]
        queue.fill(slots[1], [(0, shared)])
        assert sys.getrefcount(shared) == before + 4
        queue.ack_up_to(2)
        assert sys.getrefcount(shared) == before + 2
        queue.drop_oldest(8, 0)
        queue.fill(slots[0], [])
        queue.ack_up_to(queue.next_expected_seq - 1)
        assert sys.getrefcount(shared) == before


class TestCaps:
    def test_count(self, queue: OrderedQueue) -> None:
        queue.append([(0, b"")] * 5)
        queue.reserved = 2
        for _ in range(2):
            with pytest.raises(QueueFull):
                queue.append([(0, b"")] * 2)
        queue.append_one(0, b"")
        with pytest.raises(QueueFull):
            queue.append_one(0, b"")
        assert (len(queue), queue.next_expected_seq) == (6, 7)
        assert queue.counters()["refused"] == 5
        queue.append([(0, b"")] * 20, force=True)
        queue.append_one(0, b"", force=True)
        assert len(queue) == 27
        assert queue.append([]) == 27

    def test_bytes(self, queue: OrderedQueue) -> None:
        shared = bytes(400)
        queue.append([(0, shared), (0, shared)])
        count = sys.getrefcount(shared)
        with pytest.raises(QueueFull):
            queue.append([(0, b""), (0, shared)])
        with pytest.raises(QueueFull):
            queue.append_one(0, bytes(201))
        assert sys.getrefcount(shared) == count
        queue.append_one(0, bytes(200))
        queue.append_one(0, shared, KEEP, 0.0, True)
        assert queue.queued_bytes == 1400

    def test_waiting_slots_count(self, queue: OrderedQueue) -> None:
        queue.reserve()
        queue.fill(queue.reserve(), [(0, bytes(300))] * 3)
        queue.append([(0, b"")] * 5)
        with pytest.raises(QueueFull):
            queue.append_one(0, b"")
        queue.max_queue_size = 20
        with pytest.raises(QueueFull):
            queue.append_one(0, bytes(101))
        queue.append_one(0, bytes(100))

    def test_fill_is_never_refused(self, queue: OrderedQueue) -> None:
        queue.append([(0, b"")] * 8)
        slots = [queue.reserve(), queue.reserve()]
        queue.fill(slots[1], [(0, bytes(900))] * 9)
        assert queue.fill(slots[0], [(0, bytes(900))] * 9) == 18
        assert len(queue) == 26

    def test_settings(self) -> None:
        for size, max_bytes in ((0, 1), (1, 0), (-1, 5)):
            with pytest.raises(ValueError, match="at least 1"):
                OrderedQueue("", size, max_bytes)
        with pytest.raises(TypeError):
            OrderedQueue(None)  # type: ignore[arg-type]


class TestBadMessages:
    @pytest.mark.parametrize(
        ("message", "error"),
        [
            ((), TypeError),
            ((1,), TypeError),
            ((1, b"", 0, 0.0, 0), TypeError),
            ([1, b""], TypeError),
            ("ab", TypeError),
            (None, TypeError),
            (("1", b""), TypeError),
            ((1.0, b""), TypeError),
            ((-1, b""), OverflowError),
            ((2**32, b""), OverflowError),
            ((2**80, b""), OverflowError),
            ((1, "text"), TypeError),
            ((1, bytearray(b"x")), TypeError),
            ((1, None), TypeError),
            ((1, b"", 4), ValueError),
            ((1, b"", -1), ValueError),
            ((1, b"", 2**70), ValueError),
            ((1, b"", 1.0), ValueError),
            ((1, b"", 0, "1"), TypeError),
            ((1, b"", 0, None), TypeError),
        ],
    )
    def test_change_nothing(
        self, queue: OrderedQueue, message: object, error: type[Exception]
    ) -> None:
        shared = bytes(10)
        queue.append_one(0, shared)
        first, second = queue.reserve(), queue.reserve()
        messages = [(0, shared), (0, shared, BULK), message, (0, shared)]
        count = sys.getrefcount(shared)
        calls: list[Callable[[], int]] = [
            lambda: queue.append(messages),  # type: ignore[arg-type]
            lambda: queue.append(messages, force=True),  # type: ignore[arg-type]
            lambda: queue.fill(second, messages),  # type: ignore[arg-type]
            lambda: queue.fill(first, messages),  # type: ignore[arg-type]
        ]
        for call in calls:
            with pytest.raises(error):
                call()
            queue._check()
        assert sys.getrefcount(shared) == count
        assert (len(queue), queue.open_slots, queue.waiting_slots) == (1, 2, 0)
        queue.fill(second, [(0, shared)])
        assert queue.fill(first, []) == 1

    def test_no_sequence(self, queue: OrderedQueue) -> None:
        with pytest.raises(TypeError):
            queue.append(5)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            queue.append((1, b"a message for messages"))  # type: ignore[arg-type]

    def test_append_one(self, queue: OrderedQueue) -> None:
        for msg_id in (-1, 2**32, 2**70):
            with pytest.raises(OverflowError):
                queue.append_one(msg_id, b"")
        with pytest.raises(TypeError):
            queue.append_one(0, "text")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            queue.append_one(0, None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="flags"):
            queue.append_one(0, b"", 4)
        assert len(queue) == 0

    def test_subclasses_of_bytes_are_refused(self, queue: OrderedQueue) -> None:
        class Talkative(bytes):
            def __del__(self) -> None:
                queue.stop()

        with pytest.raises(TypeError):
            queue.append([(0, Talkative(b"x"))])
        with pytest.raises(TypeError):
            queue.append_one(0, Talkative(b"x"))
        gc.collect()


class TestExpiry:
    def test_leaves_a_skip(self, queue: OrderedQueue) -> None:
        queue.append([(0, body("a"), 0, 5.0), (0, body("b"), 0, 4), (0, body("c"))])
        assert queue.next_expiry() == 4.0
        assert queue.expire(3.9) == 0
        assert queue.expire(4.0) == 1
        assert queue.next_expiry() == 5.0
        assert queue.expire(100) == 1
        assert queue.next_expiry() == math.inf
        assert (len(queue), queue.unsent) == (1, 3)
        assert taken(queue) == [(2, "skip 1 2 LOST_EXPIRED"), (3, "c")]
        assert queue.last_sent_seq == 3
        counters = queue.counters()
        assert (counters["skips"], counters["taken"], counters["expired"]) == (1, 1, 2)

    def test_answers_never_expire(self, queue: OrderedQueue) -> None:
        queue.append([(0, b"x", KEEP, 1.0)])
        queue.append_one(0, b"x", KEEP, 1.0)
        queue.fill(queue.reserve(), [(0, b"x", KEEP, 1.0), (0, b"x")])
        assert queue.next_expiry() == math.inf
        assert queue.expire(math.inf) == 0
        assert len(queue) == 4

    def test_flags_of_their_own_in_a_slot(self, queue: OrderedQueue) -> None:
        first, second = queue.reserve(), queue.reserve()
        queue.fill(second, [(0, body("late"), 0, 3.0), (0, body("kept"))])
        assert queue.expire(9.0) == 0
        queue.fill(first, [])
        assert queue.next_expiry() == 3.0
        assert queue.expire(9.0) == 1
        assert taken(queue) == [(1, "skip 1 1 LOST_EXPIRED"), (2, "kept")]

    def test_odd_times_never_expire(self, queue: OrderedQueue) -> None:
        for expires_at in (0, 0.0, -1.0, math.nan, math.inf, -(10**400), 10**400):
            queue.append([(0, b"x", 0, expires_at)])
        assert queue.expire(1e300) == 0
        assert queue.expire(math.nan) == 0
        assert len(queue) == 7

    def test_after_an_ack(self, queue: OrderedQueue) -> None:
        queue.append_one(0, b"x", 0, 5.0)
        queue.append_one(0, b"x")
        queue.ack_up_to(1)
        assert queue.next_expiry() <= 5.0
        assert queue.expire(6.0) == 0
        assert queue.next_expiry() == math.inf
        queue.append_one(0, b"x", 0, 5.0)
        queue.ack_up_to(3)
        assert queue.next_expiry() == math.inf


class TestDropOldest:
    def test_makes_room_by_count(self, queue: OrderedQueue) -> None:
        queue.append([(0, body(text)) for text in "abcdefg"])
        assert queue.drop_oldest(1, 0) == 0
        assert queue.drop_oldest(3, 0) == 2
        queue.append([(0, body(text)) for text in "hij"])
        assert taken(queue)[:2] == [(2, "skip 1 2 LOST_OVERFLOW"), (3, "c")]
        assert queue.counters()["dropped"] == 2

    def test_makes_room_by_bytes(self, queue: OrderedQueue) -> None:
        queue.append([(0, bytes(300))] * 3)
        assert queue.drop_oldest(1, 100) == 0
        assert queue.drop_oldest(1, 101) == 1
        assert queue.drop_oldest(1, 700) == 1
        queue.append_one(0, bytes(700))
        assert queue.queued_bytes == 1000

    def test_bulk_goes_first(self, queue: OrderedQueue) -> None:
        queue.append([(0, body("a")), (0, body("b"), BULK), (0, body("c"), KEEP)])
        queue.append([(0, body("d"), BULK), (0, body("e")), (0, body("f"), BULK | KEEP)])
        assert (queue.bulk, queue.bulk_bytes, queue.kept) == (2, len(body("b") + body("d")), 2)
        assert queue.drop_oldest(5, 0) == 3
        assert queue.bulk == queue.bulk_bytes == 0
        assert taken(queue) == [
            (2, "skip 1 2 LOST_OVERFLOW"),
            (3, "c"),
            (4, "skip 4 1 LOST_OVERFLOW"),
            (5, "e"),
            (6, "f"),
        ]

    def test_drops_nothing_in_vain(self, queue: OrderedQueue) -> None:
        queue.append([(0, bytes(100), KEEP)] * 5 + [(0, bytes(100))] * 3)
        assert queue.drop_oldest(4, 0) == 0
        assert queue.drop_oldest(1, 501) == 0
        assert len(queue) == 8
        assert queue.drop_oldest(3, 0) == 3
        assert queue.drop_oldest(0, 0) == 0
        assert queue.drop_oldest(-3, -3) == 0

    def test_reserved_places_stay_free(self, queue: OrderedQueue) -> None:
        queue.append([(0, b"")] * 4)
        queue.reserved = 4
        assert queue.drop_oldest(1, 0) == 1
        queue.append_one(0, b"")


class TestMarks:
    def test_neighbours_merge_across_reasons(self, queue: OrderedQueue) -> None:
        queue.append([(0, body("a")), (0, body("b"), 0, 1.0), (0, body("c"))])
        queue.expire(1.0)
        queue.max_queue_size = 2
        assert queue.drop_oldest(1, 0) == 1
        assert taken(queue) == [(2, "skip 1 2 LOST_EXPIRED"), (3, "c")]

    def test_one_skip_fits_the_budget_whole(self, queue: OrderedQueue) -> None:
        queue.append([(0, body("a"), KEEP), (0, body("b"), 0, 1.0), (0, body("c"), 0, 1.0)])
        queue.expire(1.0)
        first = queue.take(12)
        assert len(parse(first)) == 1
        assert taken(queue, 1) == [(3, "skip 2 2 LOST_EXPIRED")]

    def test_ack_inside_a_run(self, queue: OrderedQueue) -> None:
        queue.append([(0, body("x"), 0, 1.0)] * 6)
        queue.append_one(0, body("y"))
        queue.take(ALL)
        queue.expire(1.0)
        assert queue.ack_up_to(4) == 4
        queue.rewind(1)
        assert taken(queue) == [(6, "skip 5 2 LOST_EXPIRED"), (7, "y")]
        assert queue.ack_up_to(7) == 3
        assert queue.counters()["acked"] == 1

    def test_rewind_into_a_run(self, queue: OrderedQueue) -> None:
        queue.append([(0, body("x"), 0, 1.0)] * 6)
        queue.expire(1.0)
        assert taken(queue) == [(6, "skip 1 6 LOST_EXPIRED")]
        assert queue.rewind(4) == 3
        assert taken(queue) == [(6, "skip 4 3 LOST_EXPIRED")]
        assert queue.counters()["replayed"] == 0

    def test_what_was_taken_is_not_skipped_again(self, queue: OrderedQueue) -> None:
        queue.append([(0, body("x"), 0, 1.0)] * 4)
        queue.take(20)
        assert queue.last_sent_seq < 4
        sent = queue.last_sent_seq
        queue.expire(1.0)
        assert taken(queue) == [(4, f"skip {sent + 1} {4 - sent} LOST_EXPIRED")]

    def test_peer_without_skip(self, queue: OrderedQueue) -> None:
        queue.can_skip = False
        queue.append([(0, body("a"), 0, 1.0), (0, body("b")), (0, body("c"), 0, 1.0)])
        queue.expire(1.0)
        assert queue.unsent == 3
        assert taken(queue, 1) == [(2, "b")]
        assert queue.unsent == 0
        queue.ack_up_to(3)
        queue.append_one(0, body("d"), 0, 1.0)
        queue.expire(1.0)
        assert queue.take(ALL) == b""
        assert (queue.unsent, queue.last_sent_seq) == (0, 2)

    def test_skip_frame_is_protobuf(self, queue: OrderedQueue) -> None:
        queue.append([(0, b"", 0, 1.0)] * 7)
        queue.expire(1.0)
        skip = pb.Skip(from_seq=1, messages=7, reason=pb.LOST_EXPIRED)
        push = pb.ServerPush(seq_id=7, type=pb.PUSH_SKIP, payload=skip.SerializeToString())
        data = push.SerializeToString()
        assert queue.take(0) == len(data).to_bytes(4, "big") + data

    def test_long_runs(self) -> None:
        queue = OrderedQueue(max_queue_size=100_000)
        queue.append([(0, b"x", 0, 1.0)] * 70_000)
        assert queue.expire(1.0) == 70_000
        assert taken(queue) == [(70_000, "skip 1 70000 LOST_EXPIRED")]

    def test_marks_cost_no_memory(self) -> None:
        queue = OrderedQueue(max_queue_size=32)
        queue.append_one(0, body("first"), KEEP)
        small = sys.getsizeof(queue)
        for n in range(20_000):
            if n % 100 == 0:
                queue._check()
                queue.take(ALL)
            queue.drop_oldest(1, 1)
            queue.append_one(0, body("x"), 0, float(n + 1))
            if n % 7 == 0:
                queue.expire(float(n - 20))
        assert len(queue) <= 32
        assert sys.getsizeof(queue) <= small + 128 * 32
        queue.rewind(1)
        pushes = parse(queue.take(ALL))
        assert pushes[0].seq_id == 1
        assert pushes[1].type == pb.PUSH_SKIP
        assert pushes[-1].seq_id == 20_001


class TestMemory:
    def test_shrinks_after_a_burst(self) -> None:
        queue = OrderedQueue(max_queue_size=100_000)
        empty = sys.getsizeof(queue)
        queue.append([(0, b"")] * 16)
        small = sys.getsizeof(queue)
        assert empty < small < empty + 1024
        queue.append([(0, b"")] * 50_000)
        large = sys.getsizeof(queue)
        assert large > 50_000 * 32
        queue.ack_up_to(40_000)
        assert large // 4 < sys.getsizeof(queue) <= large
        queue.ack_up_to(50_000)
        assert sys.getsizeof(queue) <= small + 512
        queue._check()
        assert len(parse(queue.take(ALL))) == 16

    def test_a_refused_append_does_not_grow(self) -> None:
        queue = OrderedQueue()
        size = sys.getsizeof(queue)
        with pytest.raises(QueueFull):
            queue.append([(0, b"")] * 100_000)
        assert sys.getsizeof(queue) == size

    def test_dies_with_everything_in_it(self) -> None:
        shared = bytes(50)
        before = sys.getrefcount(shared)
        queue = OrderedQueue()
        queue.append([(0, shared)] * 100)
        queue.reserve()
        queue.fill(queue.reserve(), [(0, shared)] * 10)
        del queue
        assert sys.getrefcount(shared) == before

    def test_cannot_be_copied(self, queue: OrderedQueue) -> None:
        with pytest.raises(TypeError):
            copy.copy(queue)
        with pytest.raises(TypeError):
            weakref.ref(queue)


class TestStop:
    def test_frees_everything_for_good(self, queue: OrderedQueue) -> None:
        shared = bytes(50)
        before = sys.getrefcount(shared)
        queue.append([(0, shared), (0, shared, 0, 3.0)])
        slots = [queue.reserve(), queue.reserve()]
        queue.fill(slots[1], [(0, shared)])
        queue.take(1)
        queue.stop()
        assert sys.getrefcount(shared) == before
        queue._check()
        for _ in range(2):
            assert queue.stopped is True
            assert (len(queue), queue.unsent, queue.queued_bytes) == (0, 0, 0)
            assert (queue.open_slots, queue.waiting_slots) == (0, 0)
            assert queue.fill(slots[0], [(0, b"")]) == 0
            for call in (
                lambda: queue.append([(0, b"")]),
                lambda: queue.append_one(0, b""),
                queue.reserve,
            ):
                with pytest.raises(SessionError, match="stopped"):
                    call()
            assert queue.take(ALL) == b""
            assert queue.ack_up_to(2) == 0
            assert queue.ack_up_to(99) == 0
            assert queue.rewind(1) == 0
            assert queue.expire(10.0) == 0
            assert queue.next_expiry() == math.inf
            assert queue.drop_oldest(100, 10_000) == 0
            assert queue.next_expected_seq == 3
            queue.stop()


def test_marks_do_not_outnumber_what_an_ack_leaves() -> None:
    """Marks that wait for being merged are merged when the messages beside them are acked."""
    queue = OrderedQueue("", 100, 10_000)
    queue.append([(0, b"")] * 17)
    queue.append([(0, b"", 0, 1.0)] * 25)
    assert queue.expire(2.0) == 25
    queue.take(12)
    queue.ack_up_to(10)
    queue._check()
    queue.rewind(16)
    assert queue.lost_range() == (18, 42)
    *_, skip = parse(queue.take(ALL))
    assert (skip.type, skip.seq_id) == (pb.PUSH_SKIP, 42)
    assert pb.Skip.FromString(skip.payload).from_seq == 18


def test_slots_are_told() -> None:
    queue = OrderedQueue()
    assert queue.slots() == (1, 1, [])
    slots = [queue.reserve() for _ in range(5)]
    for slot in (slots[4], slots[1], slots[2]):
        queue.fill(slot, [(0, b"x")])
    assert queue.slots() == (1, 6, [2, 3, 5])
    queue.fill(slots[0], [])
    assert queue.slots() == (4, 6, [5])
    queue.stop()
    assert queue.slots()[2] == []
