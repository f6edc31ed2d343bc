"""OrderedSender: slots, flushes, and feeding up to high water."""

from __future__ import annotations

from gatesvr._core.queue import OrderedQueue
from gatesvr.session.sender import OrderedSender

from ..fakes import FakeLink
from .rig import answer_body, notify, sent_data


def make(high_water: int = 1000) -> tuple[OrderedSender, FakeLink]:
    sender = OrderedSender(OrderedQueue(), high_water)
    link = FakeLink()
    sender.link = link
    return sender, link


def test_feeding_stops_at_high_water():
    sender, link = make(1000)
    for _ in range(10):
        sender.notify(notify(bytes(300)))
    assert link.flushes == 10
    link.unsent = 100
    sender.feed(0.0)
    assert 900 <= len(link.written) < 900 + 320  # the frame that reaches it is the last
    count = len(sent_data(link.take()))
    link.unsent = 1000
    sender.feed(0.0)
    assert link.take() == b""
    link.unsent = 999
    sender.feed(0.0)
    assert len(sent_data(link.take())) == 1  # at least one, whatever its size
    link.unsent = 0
    while sender.queue.unsent:
        sender.feed(0.0)
    assert len(sent_data(link.take())) == 10 - count - 1


def test_slots_keep_the_order_of_asking_and_notifies_wait_for_none():
    sender, link = make()
    first, second = sender.queue.reserve(), sender.queue.reserve()
    sender.answer(2, second, answer_body(2, b"2"))
    sender.notify(notify(b"n"))
    sender.feed(0.0)
    assert sent_data(link.take()) == [b"n"]
    sender.bundle(first, [(0, notify(b"b"), 1), (1, answer_body(1, b"1"), 1)])
    sender.feed(0.0)
    assert sent_data(link.take()) == [b"b", b"1", b"2"]


def test_without_a_connection_everything_stays():
    sender, _ = make()
    sender.link = None
    sender.notify(notify(b"n"))
    sender.flush()
    sender.feed(0.0)
    assert sender.queue.unsent == 1


def test_marks_that_the_client_cannot_read_end_the_feeding():
    sender, link = make()
    sender.queue.can_skip = False
    sender.notify(notify(b"n"), 0, 5.0)
    sender.queue.expire(6.0)
    sender.feed(6.0)
    assert link.take() == b""
    assert sender.queue.unsent == 0
