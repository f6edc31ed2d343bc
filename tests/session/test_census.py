"""Census: what waits in all queues together, a slice of the sessions at a time."""

from __future__ import annotations

import pytest

from gatesvr.session import census

from .rig import Sessions, notify


def test_queues_are_summed_up_and_the_oldest_message_has_an_age():
    sessions = Sessions()
    ann, bob = (sessions.login(name)[0] for name in ("ann", "bob"))
    counted = sessions.manager.census
    sessions.manager.sweep(sessions.now)
    assert (counted.messages, counted.bytes, counted.oldest_s) == (0, 0, 0.0)
    body = notify(b"x" * 100)
    assert ann.push(body, now=sessions.now).is_ok
    sessions.manager.sweep(sessions.now)
    sessions.now += 5
    assert ann.push(body, now=sessions.now).is_ok
    assert bob.push(body, now=sessions.now).is_ok
    sessions.manager.sweep(sessions.now)
    assert (counted.messages, counted.bytes, counted.oldest_s) == (3, 3 * len(body), 5.0)
    ann.sender.feed(sessions.now)
    ann.ack(ann.queue.last_acked_seq + 1, sessions.now)  # the older one
    sessions.now += 2
    sessions.manager.sweep(sessions.now)
    assert (counted.messages, counted.oldest_s) == (2, 2.0)
    sessions.manager.close(ann, 0, "", sessions.now)
    sessions.manager.close(bob, 0, "", sessions.now)
    sessions.manager.sweep(sessions.now)
    assert (counted.messages, counted.bytes, counted.oldest_s) == (0, 0, 0.0)


def test_more_sessions_than_a_slice_take_several_calls(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(census, "SLICE", 2)
    sessions = Sessions()
    made = [sessions.login(f"user{number}")[0] for number in range(5)]
    for session in made:
        assert session.push(notify(b""), now=sessions.now).is_ok
    counted = sessions.manager.census
    for _ in range(2):
        counted.count(sessions.now)
        assert counted.messages == 0, "of the round before"
    counted.count(sessions.now)
    assert counted.messages == 5
