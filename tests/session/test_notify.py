"""Bound notifies: their order, their bounds, and that they go around an ERROR too."""

from __future__ import annotations

import random

from gatesvr._core.queue import KEEP
from gatesvr.session.notify import NotifyOrderingManager

from .rig import Sessions, answer_body, notify, pushes


def test_a_bundle_has_the_order_of_the_protocol():
    notifies = NotifyOrderingManager()
    assert notifies.add(7, b"pushed after", False)
    assert notifies.add(7, b"pushed before 1", True)
    assert notifies.add(8, b"other", True)
    assert notifies.add(7, b"pushed before 2", True)
    messages, dropped = notifies.bundle(7, 3, b"answer", [b"carried before"], [b"carried after"])
    assert messages == [
        (0, b"pushed before 1", KEEP),
        (0, b"pushed before 2", KEEP),
        (0, b"carried before", KEEP),
        (3, b"answer", KEEP),
        (0, b"pushed after", KEEP),
        (0, b"carried after", KEEP),
    ]
    assert dropped == 0
    assert len(notifies) == 1
    assert notifies.held_bytes == len(b"other")


def test_a_request_has_a_bound_on_notifies():
    notifies = NotifyOrderingManager(max_notifies=3)
    assert notifies.add(1, b"a", True)
    assert notifies.add(1, b"b", False)
    assert notifies.add(1, b"c", False)
    assert not notifies.add(1, b"d", True)
    assert notifies.add(2, b"e", True)
    messages, dropped = notifies.bundle(2, 1, b"!", [b"f", b"g"], [b"h"])
    assert [body for _, body, _ in messages] == [b"e", b"f", b"g", b"!"]
    assert dropped == 1


def test_a_session_has_a_bound_on_bytes():
    notifies = NotifyOrderingManager(max_bytes=10)
    assert notifies.add(1, b"12345", True)
    assert not notifies.add(2, b"123456", True)
    assert notifies.add(2, b"12345", False)
    messages, dropped = notifies.bundle(1, 1, b"!", [], [b"x"])
    assert [body for _, body, _ in messages] == [b"12345", b"!"]
    assert dropped == 1
    assert notifies.held_bytes == 5


def test_a_carried_notify_that_the_client_cannot_take_is_dropped():
    notifies = NotifyOrderingManager()
    messages, dropped = notifies.bundle(1, 1, b"!", [b"12"], [b"123"], max_body_bytes=2)
    assert [body for _, body, _ in messages] == [b"12", b"!"]
    assert dropped == 1


def test_a_thousand_bundles_amid_other_pushes_are_never_split():
    sessions = Sessions()
    session, link, _ = sessions.login()
    chance = random.Random(7)
    open_requests: list[int] = []
    answered = 0
    told: list[tuple[int, int, bytes]] = []
    while answered < 1000:
        what = chance.random()
        if what < 0.4 and sessions.has_room(session):
            seq = sessions.ask(session, chance.choice(["completion", "request"]))
            open_requests.append(seq)
            session.bind(notify(b"pb%d" % seq), seq, True, now=sessions.now)
            session.bind(notify(b"pa%d" % seq), seq, False, now=sessions.now)
        elif what < 0.7 and open_requests:
            seq = open_requests.pop(chance.randrange(len(open_requests)))
            is_good = chance.random() < 0.8
            if is_good:
                before, after = [notify(b"cb%d" % seq)], [notify(b"ca%d" % seq)]
                session.answer(seq, answer_body(seq, b"an%d" % seq), before, after, sessions.now)
            else:
                session.fail(seq, 504, "late", now=sessions.now)
            answered += 1
        else:
            session.push(notify(b"push"), now=sessions.now)
        session.sender.feed(sessions.now)
        for push in pushes(link.take()):
            data = push.business()[2] if push.type == 3 else b"!"
            told.append((push.seq_id, push.client_seq_id, data))
            session.ack(push.seq_id, sessions.now)
    assert [seq for seq, _, _ in told] == list(range(2, len(told) + 2))
    for at, (_, client_seq, data) in enumerate(told):
        if data == b"!":
            around = [told[at - 1][2], told[at + 1][2]]
            assert around == [b"pb%d" % client_seq, b"pa%d" % client_seq]
        elif client_seq:
            around = [entry[2] for entry in told[at - 2 : at + 3]]
            names = (b"pb", b"cb", b"an", b"pa", b"ca")
            assert around == [name + b"%d" % client_seq for name in names]
    assert session.outbox.notifies is None or len(session.outbox.notifies) == len(open_requests) * 2


def test_binding_follows_the_request(monkeypatch):
    monkeypatch.setattr("gatesvr.session.outbox.MAX_BOUND_NOTIFIES", 2)
    sessions = Sessions()
    session, _, _ = sessions.login()
    now = sessions.now
    assert session.bind(notify(b"x"), 2, True, now=now).error_code == "NO_SUCH_REQUEST"
    assert session.bind(notify(b"x"), 0, True, now=now).error_code == "NO_SUCH_REQUEST"
    seq = sessions.ask(session)
    assert session.bind(notify(b"before"), seq, True, now=now, push_id="p").is_ok
    assert session.bind(notify(b"again"), seq, True, now=now, push_id="p").is_ok
    assert session.bind(notify(b"after"), seq, False, now=now).is_ok
    result = session.bind(notify(b"third"), seq, False, now=now)
    assert result.error_code == "BUSY"
    assert result.retry_after_ms > 0
    assert sessions.feed(session) == []
    session.fail(seq, 502, "gone", now=now)
    assert sessions.feed(session) == [b"before", b"!502", b"after"]
    assert session.bind(notify(b"late"), seq, True, now=now).error_code == "TOO_LATE"
    assert session.bind(notify(b"again"), seq, True, now=now, push_id="p").is_ok
    assert session.bind(notify(b"behind"), seq, False, now=now).is_ok
    assert sessions.feed(session) == [b"behind"]
    assert session.outbox.notifies is None
    large = bytes(2 << 20)
    sessions.ask(session)
    assert session.bind(large, 3, True, now=now).error_code == "TOO_LARGE"
    sessions.manager.close(session, 0, "", now)
    assert session.bind(notify(b"x"), 3, True, now=now).error_code == "NOT_FOUND"
