"""Sessions that come and go in large numbers leave nothing behind: no index, object or memory."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from gatesvr._core.queue import BULK
from gatesvr.session.notify import NotifyOrderingManager
from gatesvr.session.outbox import Outbox
from gatesvr.session.resume import ResumeToken
from gatesvr.session.sender import OrderedSender
from gatesvr.session.session import Session

from ..fakes import FakeLink
from .rig import CUT, Sessions, index_sizes, notify, start_request

SESSIONS = 10_000
ROUNDS = 5
MAX_GROWTH = 5 << 20
"""Bytes that the process may grow by from the second round to the last."""
CLASSES = (
    Session,
    Outbox,
    OrderedSender,
    ResumeToken,
    NotifyOrderingManager,
    FakeLink,
)

BODIES = [notify(bytes(size)) for size in (20, 200, 300, 10, 1_000)]


def rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def live_objects() -> list[object]:
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, CLASSES)]


def one_session(sessions: Sessions, number: int) -> None:
    """Make a session and leave it in one of the states in which a client leaves it."""
    manager, now = sessions.manager, sessions.now
    openid = f"player-{number % (SESSIONS - 100)}"  # the last hundred replace the first
    link = sessions.link(f"192.0.{number % 200}.{number // 200 % 200}")
    session, _, response = sessions.start(openid, link)
    kind = number % 10
    if kind == 0:  # never asks for anything
        session.push(BODIES[0], now=now, ttl=9.0)
        if number % 20:
            manager.detach(session, link, CUT, now)
        return
    sessions.hello(session)
    session.push(BODIES[1], now=now, push_id="one")
    session.push(BODIES[2], now=now, ttl=30.0, flags=BULK)
    seq = sessions.ask(session, "request")
    session.bind(BODIES[3], seq, True, now=now)
    session.sender.feed(now)
    if kind == 1:  # a wrong token, then the right one
        for token in (bytes(16), response.resume_token):
            link = sessions.link(link.peer[0])
            start = start_request(
                openid, session_id=session.session_id, resume_token=token, attempt=1
            )
            manager.start(start, link, now)
        assert session.link is link
    elif kind == 2:
        manager.kick(session, "enough", now)
        return
    elif kind == 3:  # its queue is full when it goes
        while session.push(BODIES[4], now=now).is_ok:
            pass
    manager.detach(session, link, CUT, now)


@pytest.mark.long
def test_ten_thousand_sessions_five_times_leave_nothing_behind() -> None:
    before = len(live_objects())  # what other tests hold
    sessions = Sessions(max_queue_size=16, max_start_rate=0)
    rss = []
    for _ in range(ROUNDS):
        for number in range(SESSIONS):
            one_session(sessions, number)
        assert len(sessions.manager) > SESSIONS * 0.8
        sizes = index_sizes(sessions.manager)
        assert min(sizes.values()) > 0, sizes
        assert len(live_objects()) > before + SESSIONS
        while any(index_sizes(sessions.manager).values()):
            sessions.now += 1
            sessions.manager.sweep(sessions.now)
            assert sessions.now < 100_000, index_sizes(sessions.manager)
        assert len(live_objects()) == before
        rss.append(rss_bytes())
    counters = sessions.counters
    assert counters["created"] == counters["closed"] == ROUNDS * SESSIONS
    for name in ("expired", "login_timeouts", "replaced", "kicked", "resumes", "resumes_denied"):
        assert counters[name] >= ROUNDS, name
    assert counters["queued_bytes"] == counters["sessions"] == counters["suspended"] == 0
    assert rss[-1] <= rss[1] + MAX_GROWTH, rss
