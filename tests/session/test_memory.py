"""MemoryBudget: the bound on all queues together, between sweeps too."""

from __future__ import annotations

from gatesvr.session.memory import MESSAGE_BYTES, SLICE
from gatesvr.session.outbox import Outbox
from gatesvr.session.session import Session

from .rig import CUT, Sessions, notify


def test_all_queues_together_are_bounded():
    size = len(notify(bytes(1000))) + MESSAGE_BYTES
    sessions = Sessions(max_queues_bytes=3 * size)
    made = [sessions.login(f"user{number}") for number in range(4)]
    for session, link, _ in made[:3]:
        sessions.manager.detach(session, link, CUT, sessions.now)
        sessions.now += 1
    seq = made[3][0].max_client_seq + 1
    promised = made[0][0]
    promised.pending[seq] = 1  # an answer is to come
    for session, _, _ in made:
        assert session.push(notify(bytes(1000)), now=sessions.now).is_ok
    sessions.manager.sweep(sessions.now)
    assert [session.is_valid for session, _, _ in made] == [True, False, True, True]
    assert sessions.counters["memory_closed"] == 1
    assert sessions.counters["queued_bytes"] == 3 * size
    assert made[3][0].push(notify(b""), now=sessions.now).is_ok
    promised.pending[seq + 1] = 1
    made[2][0].pending[1] = 1
    sessions.manager.sweep(sessions.now)
    assert made[3][0].push(notify(b""), now=sessions.now).error_code == "BUSY"
    made[3][0].ack(0, sessions.now)
    sessions.manager.close(made[2][0], 0, "", sessions.now)
    sessions.manager.sweep(sessions.now)
    assert made[3][0].push(notify(b""), now=sessions.now).is_ok


def test_the_memory_of_small_messages_and_of_names_counts():
    """As measured: 1,024 notifies of 15 bytes take 80 KB, 256 names of 128 bytes 64 KB."""
    sessions = Sessions()
    session, link, _ = sessions.login()
    sessions.manager.detach(session, link, CUT, sessions.now)
    for number in range(1_024):
        name = f"{number:0128d}"
        assert session.push(notify(b"."), now=sessions.now, push_id=name, conflate_key=name).is_ok
    sessions.manager.sweep(sessions.now)
    assert sessions.counters["queued_bytes"] >= 80_000 + 2 * 64_000


def test_memory_is_bounded_between_sweeps():
    limit = 1 << 20
    sessions = Sessions(max_queues_bytes=limit)
    made = [sessions.login(f"user{number}")[0] for number in range(40)]
    results = [
        session.push(notify(bytes(1000)), now=sessions.now) for _ in range(100) for session in made
    ]
    taken = sum(result.is_ok for result in results)
    assert (limit * 9 // 10) // 1_100 <= taken <= (limit + limit // 64) // 1_000 + 1
    assert {result.error_code for result in results} == {"", "BUSY"}
    for session in made:
        session.ack(session.next_server_seq - 1, sessions.now)
    assert made[0].push(notify(b""), now=sessions.now).error_code == "BUSY"
    sessions.manager.sweep(sessions.now)
    assert made[0].push(notify(b""), now=sessions.now).is_ok


def test_want_of_memory_ends_the_longest_suspended_between_sweeps():
    limit = 1 << 20
    sessions = Sessions(max_queues_bytes=limit)
    made = [sessions.login(f"user{number}") for number in range(40)]
    for session, link, _ in made:
        sessions.manager.detach(session, link, CUT, sessions.now)
        sessions.now += 0.01
    results = [
        session.push(notify(bytes(1000)), now=sessions.now)
        for _ in range(100)
        for session, _, _ in made
    ]
    assert sum(session.outbox.memory_bytes() for session, _, _ in made) <= limit + limit // 64
    valid = [session.is_valid for session, _, _ in made]
    assert valid == sorted(valid)  # the oldest went
    assert 0 < sum(valid) < 40
    assert sessions.counters["memory_closed"] == valid.count(False)
    assert {result.error_code for result in results} == {"", "NOT_FOUND"}


def test_nothing_is_held_for_a_login_where_memory_is_full():
    sessions = Sessions(max_queues_bytes=512)
    session, _, _ = sessions.login()
    assert session.push(notify(bytes(512)), now=sessions.now).is_ok
    sessions.manager.sweep(sessions.now)
    inited, _, _ = sessions.start("bob")
    assert inited.push(notify(b"."), now=sessions.now).error_code == "BUSY"


def crowd(limit: int) -> tuple[Sessions, Session, list[Session]]:
    """Return one suspended session, and more live ones than a push counts anew."""
    sessions = Sessions(max_queues_bytes=limit)
    away, link, _ = sessions.login("away")
    sessions.manager.detach(away, link, CUT, sessions.now)
    assert away.push(notify(b"."), now=sessions.now).is_ok
    return sessions, away, [sessions.login(f"user{number}")[0] for number in range(4 * SLICE)]


def test_a_spent_budget_is_believed_once_all_sessions_are_counted_anew():
    sessions, away, made = crowd(1 << 20)
    body = notify(bytes(10_000))
    results = [session.push(body, now=sessions.now).error_code for session in made]
    taken = results.count("")
    assert 100 <= taken <= 106
    assert set(results[taken:]) == {"BUSY"}
    assert not away.is_valid
    assert sessions.counters["memory_closed"] == 1


def test_one_push_counts_no_more_than_a_slice(monkeypatch):
    sessions, away, made = crowd(1 << 20)
    counted = []
    memory_bytes = Outbox.memory_bytes
    monkeypatch.setattr(Outbox, "memory_bytes", lambda o: counted.append(o) or memory_bytes(o))
    for session in made * 2:
        counted.clear()
        session.push(notify(bytes(10_000)), now=sessions.now)
        assert len(counted) <= SLICE
    assert not away.is_valid


def test_no_session_is_closed_because_acks_were_not_counted():
    sessions, away, made = crowd(1 << 20)
    for _ in range(10):  # ten times what fits, all of it acked at once
        for session in made:
            assert session.push(notify(bytes(4_000)), now=sessions.now).is_ok
            session.ack(session.next_server_seq - 1, sessions.now)
    assert away.is_valid
    sessions.manager.sweep(sessions.now)
    assert sessions.counters["queued_bytes"] < 200


def test_the_count_follows_what_is_held_bound_queued_and_closed():
    sessions = Sessions()
    session, _, _ = sessions.login()
    inited, _, _ = sessions.start("bob")
    seq = sessions.ask(session)
    assert inited.push(notify(bytes(100)), now=sessions.now).is_ok
    assert session.bind(notify(bytes(100)), seq, True, now=sessions.now).is_ok
    assert session.push(notify(bytes(100)), now=sessions.now).is_ok
    size = len(notify(bytes(100)))
    assert sessions.counters["queued_bytes"] == size + MESSAGE_BYTES
    sessions.manager.sweep(sessions.now)
    assert sessions.counters["queued_bytes"] == 3 * size + 2 * MESSAGE_BYTES
    sessions.manager.close(inited, 0, "", sessions.now)
    assert sessions.counters["queued_bytes"] == 2 * size + MESSAGE_BYTES
    sessions.manager.close(session, 0, "", sessions.now)
    assert sessions.counters["queued_bytes"] == 0


def test_closing_a_session_that_holds_nothing_is_no_way_out():
    sessions = Sessions(max_queues_bytes=1 << 20)
    idle, link, _ = sessions.login("idle")
    sessions.feed(idle)
    idle.ack(idle.queue.last_sent_seq, sessions.now)
    sessions.manager.detach(idle, link, CUT, sessions.now)
    busy, _, _ = sessions.login("busy")
    while busy.push(notify(bytes(1000)), now=sessions.now).is_ok:
        assert len(busy.queue) < 2_000
    sessions.manager.sweep(sessions.now)
    assert sessions.counters["memory_closed"] == 0
    assert idle.is_valid
