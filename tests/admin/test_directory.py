"""Lists of sessions: search, sort, pages, and the turns of the loop that they take."""

from __future__ import annotations

import asyncio

import pytest

from gatesvr import Gateway
from gatesvr.admin import sessions as directories
from gatesvr.admin.answers import SessionPage
from gatesvr.admin.counters import AdminCounters
from gatesvr.admin.figures import Sampler
from gatesvr.admin.questions import SessionQuery
from gatesvr.admin.refusal import Refused
from gatesvr.admin.sessions import Directory
from gatesvr.admin.source import OneProcess
from gatesvr.config import load
from gatesvr.session.session import Session
from gatesvr.session.state import Event
from gatesvr.session.traced import MAX_EVENTS
from tests.fakes import FakeLink

COUNT = 1_000


class Town:
    """A gateway with COUNT sessions, of which each hundredth is suspended."""

    def __init__(self) -> None:
        self.gateway = Gateway(load(sets=["transport.bind=127.0.0.1:0", "push.bind=127.0.0.1:0"]))
        self.directory = Directory(self.gateway, AdminCounters(), lambda: 1_000_000.0)
        manager = self.gateway.session_manager
        now = self.gateway.engine.clock()
        for i in range(COUNT):
            # The identity of a user does not follow the order of the sessions.
            session = Session(
                manager.context, f"{i:032x}", f"User-{i * 7 % COUNT:04}", now - COUNT + i
            )
            session.user_ip = f"192.0.2.{i % 256}"
            manager.index.add(session)
            manager.index.log_in(session)
            session.move(Event.LOGIN)
            session.set_zone(str(i % 3))
            session.attach(FakeLink(peer=(session.user_ip, 1)), now)
            for _ in range(i % 11):
                session.outbox.push(b"x", now)
            if i % 100 == 0:
                session.detach(now)
                session.move(Event.DETACH)

    async def page(self, **query: object) -> SessionPage:
        return await self.directory.page(SessionQuery(**query))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def town() -> Town:
    async def build() -> Town:
        return Town()

    return asyncio.run(build())


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["queue", "age", "rate", "openid"])
async def test_pages_have_every_session_once_and_in_order(
    town: Town, sort: str, order: str
) -> None:
    seen = []
    page = await town.page(sort=sort, order=order, limit=300)
    while True:
        seen += page.sessions
        assert page.total == COUNT
        if page.next is None:
            break
        page = await town.page(sort=sort, order=order, limit=300, page=page.next)
    if sort != "rate":  # rates move while the pages are read
        assert len({row.session for row in seen}) == len(seen) == COUNT
        names = {"queue": "queue_messages", "age": "created", "openid": "openid"}
        keys = [getattr(row, names[sort]) for row in seen]
        # The oldest was created first.
        assert keys == sorted(keys, reverse=(order == "desc") is not (sort == "age"))


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"q": "user-0007"}, 1),
        ({"q": f"{7:032x}"}, 1),
        ({"q": "nobody"}, 0),
        ({"state": "suspended"}, 10),
        ({"state": "inited"}, 0),
        ({"zone": "1"}, 333),
        ({"zone": "001", "state": "suspended"}, 3),
        ({"ip": "192.0.2.255"}, 3),
        ({"ip": "192.0.2."}, COUNT),
    ],
)
async def test_filters(town: Town, query: dict[str, str], count: int) -> None:
    assert (await town.page(**query)).total == count


async def test_page_of_another_list_is_refused(town: Town) -> None:
    token = (await town.page(sort="age")).next
    assert token is not None
    for query in ({"sort": "queue"}, {"sort": "age", "order": "asc"}, {"sort": "openid"}):
        with pytest.raises(Refused):
            await town.page(page=token, **query)


async def test_list_leaves_the_loop_to_others(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "SLICE", 20)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    await town.page(limit=100)
    other.cancel()
    assert turns >= COUNT // 20 + 100 // 5 - 1


async def test_only_so_many_sessions_are_traced(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "MAX_TRACED", 2)
    ids = [f"{i:032x}" for i in range(3)]
    for session_id in ids[:2]:
        town.directory.trace(session_id)
    assert town.directory.trace(ids[0]) is town.directory.trace(ids[0])
    with pytest.raises(Refused, match="2 sessions are traced"):
        town.directory.trace(ids[2])
    for session_id in ids[:2]:
        assert town.directory.view(session_id).traced
        town.directory.untrace(session_id)
        assert not town.directory.view(session_id).traced
        assert type(town.directory.find(session_id)) is Session


async def test_overview_names_the_slowest(town: Town) -> None:
    sampler = Sampler(OneProcess(town.gateway, AdminCounters()), AdminCounters())
    await sampler.take()
    assert sampler.overview is not None
    queues = [session.queue_messages for session in sampler.overview.slowest]
    assert queues == [10] * 10


async def test_trace_that_nobody_follows_ends(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id, directory = f"{0:032x}", town.directory
    trace, now = directory.trace(session_id), directory._clock()
    monkeypatch.setattr(directories, "TRACE_S", 1.0)
    for later, is_traced in ((0.9, True), (1.1, False)):
        monkeypatch.setattr(directory, "_clock", lambda later=later: now + later)
        directory.end_traces()
        assert (directory.trace(session_id) is trace) == is_traced
        monkeypatch.setattr(directory, "_clock", lambda: now)
        await directory.traced(session_id, None, 0.0)
    directory.untrace(session_id)


async def test_reader_of_a_trace_hears_what_is_new_and_what_was_missed(town: Town) -> None:
    session_id, directory = f"{0:032x}", town.directory
    assert (await directory.traced(session_id, None, 0.0)).mark is None
    trace = directory.trace(session_id)
    trace.add("push", "before")
    first = await directory.traced(session_id, (0, 0), 0.0)
    assert first.events == [], "the view has what was before"
    asyncio.get_running_loop().call_soon(trace.add, "push", "number=0")
    second = await directory.traced(session_id, first.mark, 60.0)
    assert [event.detail for event in second.events] == ["number=0"]
    assert not trace.wakes
    for i in range(MAX_EVENTS + 5):
        trace.add("push", f"number={i}")
    third = await directory.traced(session_id, second.mark, 0.0)
    assert [event.detail for event in third.events[:2]] == ["events=5", "number=5"]
    assert len(third.events) == MAX_EVENTS + 1
    assert (await directory.traced(session_id, third.mark, 0.0)).events == []
    directory.untrace(session_id)
