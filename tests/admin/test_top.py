"""``gatesvr top``: what the API says stands on the terminal, and an absent gateway is said so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from gatesvr.admin.text import NONE, byte_text, rate_text, seconds_text, span_text
from gatesvr.admin.top import Top
from gatesvr.errors import ConnectionFailed

SESSIONS = 25
PAGE = 10


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.admin.top.PAGE", PAGE)


def _overview() -> dict[str, Any]:
    stage = {"count": 9, "p50": 0.0014, "p90": 0.003, "p99": 0.0061, "p999": 0.01, "max": 0.02}
    return {
        "time": 1_000.0,
        "uptime_s": 7_500.0,
        "version": "0.1.0",
        "backend": "qh3",
        "pid": 41,
        "ready": True,
        "not_ready": [],
        "connections": 240,
        "sessions": {"inited": 1, "normal": 239, "suspended": 10},
        "in_flight": 12,
        "workers": 8,
        "workers_busy": 2,
        "queue_messages": 410,
        "oldest_unacked_s": 0.2,
        "lag_s": 0.0009,
        "memory_bytes": 412_000_000,
        "rates": {
            "requests": 1180.0,
            "answers": 1179.0,
            "pushes": 760.0,
            "bytes_out": 4e5,
            "cpu": 0.31,
        },
        "latency": {"request": stage, "send": {**stage, "count": 0}, "upstream:zone": stage},
        "refusals": [{"reason": "auth.logins_refused", "total": 14, "rate": 0.0}],
        "upstreams": [
            {
                "service": "zone",
                "address": "10.4.0.1:9021",
                "state": "down",
                "health": "down",
                "breaker": "closed",
                "p99": 0.0,
            }
        ],
        "drain": None,
    }


def _session(number: int) -> dict[str, Any]:
    return {
        "session": f"{number:032x}",
        "openid": f"player-{number:03d}",
        "state": "normal",
        "ip": "203.0.113.7",
        "zone": "001",
        "age_s": 60.0,
        "idle_s": 1.0,
        "rtt_s": 0.03,
        "queue_messages": number,
        "queue_bytes": 164 * number,
        "in_flight": 1,
        "rate": 0.4,
    }


class FakeSource:
    """An admin API in memory."""

    def __init__(self) -> None:
        self.overview = _overview()
        self.sessions = [_session(number) for number in range(SESSIONS)]
        self.is_absent = False

    async def get(self, path: str, query: dict[str, str]) -> Any:
        if self.is_absent:
            raise ConnectionFailed("127.0.0.1:1 does not answer; trying again")
        if path == "overview":
            return self.overview
        if path == "history":
            return {"time": [], "series": {"requests": [1.0, None, 2.0]}}
        found = [one for one in self.sessions if query.get("q", "") in one["openid"]]
        start, limit = int(query.get("page", "0")), int(query["limit"])
        rows = found[start : start + limit]
        following = str(start + limit) if start + limit < len(found) else None
        return {"total": len(found), "sessions": rows, "next": following}


async def _until(pilot: Pilot[None], is_so: Callable[[], bool]) -> None:
    """Give the application its turns until is_so."""
    async with asyncio.timeout(30):
        while not is_so():
            await pilot.pause(0.01)


def _shown(app: Top, selector: str) -> str:
    return " ".join(str(item.render()) for item in app.query(selector).results(Static))


async def test_figures_and_sessions_are_those_of_the_api() -> None:
    app = Top(FakeSource(), "127.0.0.1:1", interval_s=0.1)
    async with app.run_test(size=(160, 40)) as pilot:
        await _until(pilot, lambda: app.query_one("#sessions", DataTable).row_count > 0)
        assert _shown(app, ".value") == "1,180 760 6.10 ms 250 12 410 0 31 %"
        assert "ready" in _shown(app, "#line")
        assert _shown(app, "#title") == "Sessions by queue: 1 to 10 of 25"
        sick = app.query_one("#upstreams", DataTable).get_row_at(0)
        assert "down" in str(sick[1])
        latency = app.query_one("#latency", DataTable)
        assert str(latency.get_row_at(0)[2]).strip() == "6.10 ms"
        assert str(latency.get_row_at(2)[2]).strip() == "–"  # noqa: RUF001


def _worker(slot: int, **values: Any) -> dict[str, Any]:
    return {
        "number": slot,
        "slot": slot,
        "state": "ready",
        "sessions": 120,
        "connections": 118,
        "requests": 590.0,
        "cpu": 0.16,
        "memory_bytes": 103_000_000,
        "lag_s": 0.0004,
        "moves_in": 7,
        "moves_out": 5,
        "handed_on": 1_042,
        "restarts": 1,
        "uptime_s": 3_700.0,
        "pid": 4_242,
        **values,
    }


async def test_workers_stand_there_where_there_are_some() -> None:
    source = FakeSource()
    down = _worker(1, number=None, state="down")
    source.overview["fleet"] = {"slots": 2, "restarts": 1, "workers": [_worker(0), down]}
    app = Top(source, "127.0.0.1:1", interval_s=0.02)
    async with app.run_test(size=(160, 40)) as pilot:
        workers = app.query_one("#workers", DataTable)
        await _until(pilot, lambda: workers.row_count == 2)
        assert workers.display
        assert "workers: 1 of 2 ready, 1 restart" in _shown(app, "#line")
        assert [str(cell).strip() for cell in workers.get_row_at(0)] == [
            *("0", "● ready", "120", "118", "590/s", "16 %", "103 MB", "400 µs", "7", "5"),
            *("1,042", "1", "1h 01m", "4242"),
        ]
        assert [str(cell).strip() for cell in workers.get_row_at(1)][:3] == ["in 1", "● down", NONE]
        source.overview = _overview()
        await _until(pilot, lambda: not workers.display)


async def test_pages_search_and_sort() -> None:
    app = Top(FakeSource(), interval_s=9)
    async with app.run_test(size=(80, 30)) as pilot:
        await _until(pilot, lambda: "1 to 10 " in _shown(app, "#title"))
        await pilot.press("right_square_bracket", "right_square_bracket")
        await _until(pilot, lambda: "21 to 25 " in _shown(app, "#title"))
        await pilot.press("left_square_bracket", "s")
        await _until(pilot, lambda: "by rate: 1 to 10 " in _shown(app, "#title"))
        await pilot.press("slash", *"r-01")
        await _until(pilot, lambda: "1 to 10 of 10" in _shown(app, "#title"))
        await pilot.press("escape", "t")
        await _until(pilot, lambda: "of 25" in _shown(app, "#title"))
        assert app.theme == "gatesvr-light"


async def test_an_absent_gateway_is_said_and_comes_back() -> None:
    source = FakeSource()
    source.is_absent = True
    app = Top(source, interval_s=0.1)
    async with app.run_test(size=(160, 40)) as pilot:
        await _until(pilot, lambda: "does not answer" in _shown(app, "#line"))
        assert app.screen.has_class("stale")
        source.is_absent = False
        source.overview["drain"] = {"connections_left": 30, "connections_at_start": 240}
        await _until(pilot, lambda: "30 of 240 connections left" in _shown(app, "#line"))
        assert not app.screen.has_class("stale")


async def test_text_from_clients_is_harmless() -> None:
    source = FakeSource()
    source.sessions[0]["openid"] = "[red]x\x1b[2J"
    app = Top(source, interval_s=0.1)
    async with app.run_test(size=(160, 40)) as pilot:
        await _until(pilot, lambda: app.query_one("#sessions", DataTable).row_count > 0)
        shown = str(app.query_one("#sessions", DataTable).get_row_at(0)[0])
        assert shown == "[red]x\\x1b[2J"


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (seconds_text(0.00084), "840 µs"),
        (seconds_text(0.0014), "1.40 ms"),
        (seconds_text(0.9999), "1.00 s"),
        (seconds_text(252), "4m 12s"),
        (span_text(11_100), "3h 05m"),
        (span_text(187_200), "2d 4h"),
        (byte_text(999), "999 B"),
        (byte_text(412e6), "412 MB"),
        (rate_text(0.42), "0.42"),
        (rate_text(1180), "1,180"),
        (rate_text(0), "0"),
    ],
)
def test_figures_as_text(shown: str, wanted: str) -> None:
    assert shown == wanted
