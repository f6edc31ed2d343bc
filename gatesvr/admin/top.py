"""Top: the overview and the session list of a running gateway, in a terminal."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, Horizontal, Vertical
from textual.theme import Theme
from textual.widgets import DataTable, Footer, Input, Sparkline, Static

from ..errors import GatesvrError
from ..observe.log import escape
from .text import NONE, byte_text, rate_text, seconds_text, span_text, workers_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Source", "Top"]

PAGE = 50
KEPT = 60
"""Sessions on a page; seconds behind each figure."""
MAX_ROWS = 8
_SORTS = ("queue", "rate", "age", "openid")
_STAGES = {
    "request": "whole request",
    "queue_wait": "queue wait",
    "send": "send",
    "login": "login",
    "handshake": "handshake",
    "rtt": "round trip",
    "lag": "loop lag",
    "gc_pause": "GC pause",
}
_COLUMNS: dict[str, tuple[tuple[str, int], ...]] = {
    "latency": (("Stage", 17), ("p50", -7), ("p99", -7), ("max", -7)),
    "upstreams": (("Upstream", 24), ("Health", 14), ("p99", -7)),
    "refusals": (("Refusal", 27), ("Rate", -7), ("Total", -7)),
    "workers": (
        ("Worker", 8),
        ("State", 12),
        ("Sessions", -10),
        ("Connections", -12),
        ("Requests", -10),
        ("CPU", -7),
        ("Memory", -9),
        ("Lag", -9),
        ("Moved in", -9),
        ("Moved out", -10),
        ("Handed on", -10),
        ("Restarts", -9),
        ("Up", -8),
        ("PID", -9),
    ),
    "sessions": (
        ("Openid", 24),
        ("State", 11),
        ("Queue", -7),
        ("Bytes", -8),
        ("In flight", -9),
        ("Rate", -8),
        ("RTT", -8),
        ("Idle", -8),
        ("Age", -8),
        ("Zone", 4),
        ("Address", 24),
    ),
}
"""Columns of each table and their widths; numbers, to the right, have a negative one."""
_GOOD, _WARN, _BAD = "#2fbf95", "#e9a72f", "#f0803c"
_WORKER_COLOURS = {
    "ready": _GOOD,
    "starting": _WARN,
    "leaving": _WARN,
    "draining": _WARN,
    "unready": _WARN,
}
_STATE_COLOURS = {"normal": _GOOD, "suspended": _WARN, "inited": "#d68fb8"}

_DARK = Theme(
    name="gatesvr-dark",
    primary="#56b4e9",
    secondary="#8f9aa7",
    accent="#56b4e9",
    success=_GOOD,
    warning=_WARN,
    error=_BAD,
    foreground="#e8ebef",
    background="#0d1014",
    surface="#14181e",
    panel="#1b222b",
    dark=True,
)
_LIGHT = Theme(
    name="gatesvr-light",
    primary="#0072b2",
    secondary="#5f6976",
    accent="#0072b2",
    success="#00795a",
    warning="#865400",
    error="#a83f00",
    foreground="#14181d",
    background="#f4f5f7",
    surface="#ffffff",
    panel="#e3e6ea",
    dark=False,
)


class Source(Protocol):
    """Where the figures come from: the admin API."""

    async def get(self, path: str, query: dict[str, Any]) -> Any:
        """Return a resource below ``/api/v1/``.

        Raises:
            GatesvrError: The gateway does not answer, or refuses.
        """


@dataclass(frozen=True)
class _Figure:
    """One figure of the top row."""

    name: str
    series: str
    value: Callable[[dict[str, Any]], float | None]
    show: Callable[[float | None], str]
    note: Callable[[dict[str, Any]], str]


def _whole(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def _latency(overview: dict[str, Any], name: str) -> float | None:
    stage = overview["latency"].get("request", {})
    return float(stage[name]) if stage.get("count") else None


def _refused(overview: dict[str, Any]) -> float:
    return sum(float(one["rate"]) for one in overview["refusals"])


def _sessions(overview: dict[str, Any]) -> float:
    return float(sum(overview["sessions"].values()))


_FIGURES = (
    _Figure(
        "Requests/s",
        "requests",
        lambda o: o["rates"]["requests"],
        rate_text,
        lambda o: f"{rate_text(o['rates']['answers'])} answers/s",
    ),
    _Figure(
        "Pushes/s",
        "pushes",
        lambda o: o["rates"]["pushes"],
        rate_text,
        lambda o: f"{byte_text(o['rates']['bytes_out'])}/s out",
    ),
    _Figure(
        "Latency p99",
        "p99",
        lambda o: _latency(o, "p99"),
        seconds_text,
        lambda o: f"median {seconds_text(_latency(o, 'p50'))}",
    ),
    _Figure(
        "Sessions",
        "sessions",
        _sessions,
        _whole,
        lambda o: f"{o['connections']:,} connections",
    ),
    _Figure(
        "In flight",
        "in_flight",
        lambda o: o["in_flight"],
        _whole,
        lambda o: f"{o['workers_busy']} of {o['workers']} tasks busy",
    ),
    _Figure(
        "Queue depth",
        "queue_messages",
        lambda o: o["queue_messages"],
        _whole,
        lambda o: f"oldest {seconds_text(o['oldest_unacked_s'])}",
    ),
    _Figure(
        "Refusals/s",
        "refusals",
        _refused,
        rate_text,
        lambda o: f"{sum(one['total'] for one in o['refusals']):,} in all",
    ),
    _Figure(
        "CPU",
        "cpu",
        lambda o: o["rates"]["cpu"],
        lambda value: NONE if value is None else f"{value * 100:.0f} %",
        lambda o: f"{byte_text(o['memory_bytes'])} memory",
    ),
)


class _Tile(Vertical):
    """A figure with its name, its note and its last minute."""

    def __init__(self, figure: _Figure) -> None:
        super().__init__()
        self._figure = figure
        self._values: deque[float] = deque([0.0] * KEPT, maxlen=KEPT)

    def compose(self) -> ComposeResult:
        yield Static(self._figure.name, classes="name")
        yield Static(NONE, classes="value")
        yield Static("", classes="note")
        yield Sparkline(list(self._values), summary_function=max)

    def fill(self, series: dict[str, list[float | None]]) -> None:
        """Take the gateway's past."""
        self._values.extend(value or 0.0 for value in series.get(self._figure.series, ()))

    def show(self, overview: dict[str, Any]) -> None:
        """Show the figure of an overview."""
        value = self._figure.value(overview)
        self._values.append(value or 0.0)
        self.query_one(".value", Static).update(self._figure.show(value))
        self.query_one(".note", Static).update(Text(self._figure.note(overview)))
        self.query_one(Sparkline).data = list(self._values)


class Top(App[None]):
    """The terminal's console.

    Args:
        source: The admin API.
        server: Its name, for the top line.
        interval_s: Seconds between two readings.
    """

    TITLE = "gatesvr top"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (140, "-wide")]  # noqa: RUF012
    CSS = """
    Screen { background: $background; }
    #line { height: 1; padding: 0 1; background: $surface; }
    #figures { grid-size: 8 1; grid-gutter: 0 1; height: 6; padding: 1 1 0 1; }
    _Tile { height: 5; }
    .name { color: $secondary; }
    .value { text-style: bold; }
    .note { color: $secondary; text-overflow: ellipsis; text-wrap: nowrap; }
    Sparkline { height: 1; }
    Sparkline > .sparkline--max-color, Sparkline > .sparkline--min-color { color: $primary; }
    #tables { height: 10; padding: 1 1 0 1; }
    #tables DataTable { overflow: hidden; }
    #latency { width: 46; margin-right: 1; }
    #upstreams { width: 51; margin-right: 1; }
    #refusals { width: 1fr; }
    #workers { display: none; height: auto; overflow: hidden; margin: 0 1; padding-top: 1; }
    #workers.shown { display: block; }
    DataTable { background: $background; scrollbar-size: 1 1; }
    DataTable > .datatable--header { background: $surface; color: $secondary; text-style: none; }
    DataTable > .datatable--cursor { background: $panel; color: $foreground; }
    #search { display: none; height: 1; border: none; padding: 0 1; background: $panel; }
    #search.shown { display: block; }
    #title { height: 1; padding: 0 1; margin-top: 1; color: $secondary; }
    #sessions { height: 1fr; padding: 0 1; }
    .-narrow #figures { grid-size: 4 2; height: 12; }
    .-narrow #upstreams { width: 1fr; margin-right: 0; }
    .-narrow #refusals { display: none; }
    .stale #figures, .stale #tables, .stale #sessions { opacity: 55%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search"),
        Binding("s", "sort", "Sort"),
        Binding("left_square_bracket", "turn(-1)", "Previous page"),
        Binding("right_square_bracket", "turn(1)", "Next page"),
        Binding("j", "move('down')", "Down", show=False),
        Binding("k", "move('up')", "Up", show=False),
        Binding("t", "theme", "Light or dark"),
        Binding("escape", "leave_search", "Clear search", show=False),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, source: Source, server: str = "", *, interval_s: float = 1.0) -> None:
        super().__init__()
        self._source = source
        self._server = server
        self._interval_s = interval_s
        self._sort = _SORTS[0]
        self._search = ""
        self._pages: list[str] = [""]
        self._next = ""
        self._overview: dict[str, Any] = {}
        self._wanted = asyncio.Event()

    def compose(self) -> ComposeResult:
        yield Static("", id="line")
        with Grid(id="figures"):
            for figure in _FIGURES:
                yield _Tile(figure)
        with Horizontal(id="tables"):
            for name in ("latency", "upstreams", "refusals"):
                yield DataTable[Text](id=name, cursor_type="none")
        yield DataTable[Text](id="workers", cursor_type="none")
        yield Static("", id="title")
        yield Input(placeholder="openid or session id", id="search", compact=True)
        yield DataTable[Text](id="sessions", cursor_type="row")
        yield Footer()

    async def on_mount(self) -> None:
        self.register_theme(_DARK)
        self.register_theme(_LIGHT)
        self.theme = _DARK.name
        for name, columns in _COLUMNS.items():
            for label, width in columns:
                shown = label.rjust(-width) if width < 0 else label
                self._table(name).add_column(Text(shown), key=label, width=abs(width))
        self.query_one("#sessions").focus()
        self._say("connecting", _WARN)
        self.run_worker(self._follow())

    def _table(self, name: str) -> DataTable[Text]:
        found: DataTable[Text] = self.query_one(f"#{name}", DataTable)
        return found

    async def _follow(self) -> None:
        with contextlib.suppress(GatesvrError):
            past = await self._source.get("history", {"seconds": str(KEPT)})
            for tile in self.query(_Tile) if self.is_running else ():
                tile.fill(past["series"])
        while True:
            self._wanted.clear()
            await self._read()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._interval_s)

    async def _read(self) -> None:
        query = {"q": self._search, "sort": self._sort, "limit": str(PAGE)}
        query["order"] = "asc" if self._sort == "openid" else "desc"
        query["page"] = self._pages[-1]
        try:
            overview = await self._source.get("overview", {})
            page = await self._source.get(
                "sessions", {name: value for name, value in query.items() if value}
            )
        except GatesvrError as error:
            if self.is_running:
                self.screen.add_class("stale")
                self._say(str(error), _WARN)
            return
        if not self.is_running:
            return
        self.screen.remove_class("stale")
        self._show(overview)
        self._show_sessions(page)

    def _show(self, overview: dict[str, Any]) -> None:
        self._overview = overview
        drain = overview.get("drain")
        if drain:
            left, start = drain["connections_left"], drain["connections_at_start"]
            self._say(f"draining, {left:,} of {start:,} connections left", _WARN)
        elif overview["ready"]:
            self._say("ready", _GOOD)
        else:
            self._say(f"not ready: {', '.join(overview['not_ready'])}", _BAD)
        for tile in self.query(_Tile):
            tile.show(overview)
        stages = overview["latency"]
        order = ["request", *sorted(stages.keys() - _STAGES.keys()), *_STAGES]
        order = list(dict.fromkeys(name for name in order if name in stages))
        self._fill("latency", [_stage_row(name, stages[name]) for name in order])
        self._fill("upstreams", [_upstream_row(one) for one in overview["upstreams"]])
        fleet = overview.get("fleet")
        self._table("workers").set_class(bool(fleet), "shown")
        self._fill("workers", [_worker_row(one) for one in fleet["workers"]] if fleet else [])
        refusals = [_refusal_row(one) for one in overview["refusals"]]
        self._fill("refusals", refusals or [("nothing was refused", NONE, NONE)])

    def _say(self, state: str, colour: str) -> None:
        line = Text.assemble(("GateSvr", "bold"), " ", self._server, "  ", ("● ", colour))
        line.append(escape(state))
        if self._overview:
            o = self._overview
            about = f"{o['version']} on {o['backend']}, pid {o['pid']}"
            if o.get("fleet"):
                about += f", workers: {workers_text(o['fleet'])}"
            about += f", up {span_text(o['uptime_s'])}, loop lag {seconds_text(o['lag_s'])}"
            line.append(f"  {about}", "dim")
        self.query_one("#line", Static).update(line)

    def _fill(self, name: str, rows: list[tuple[Text | str, ...]]) -> None:
        grid = self._table(name)
        grid.clear()
        for row in rows[:MAX_ROWS]:
            grid.add_row(*_aligned(name, row))

    def _show_sessions(self, page: dict[str, Any]) -> None:
        self._next = page["next"] or ""
        first = (len(self._pages) - 1) * PAGE
        shown = page["sessions"]
        until = f"{first + 1:,} to {first + len(shown):,} of " if shown else ""
        found = f", found by {escape(self._search)!r}" if self._search else ""
        self.query_one("#title", Static).update(
            Text(f"Sessions by {self._sort}: {until}{page['total']:,}{found}")
        )
        grid = self._table("sessions")
        row, scroll = grid.cursor_row, grid.scroll_y
        grid.clear()
        for one in shown:
            grid.add_row(*_aligned("sessions", _session_row(one)), key=one["session"])
        if shown:
            grid.move_cursor(row=min(row, len(shown) - 1), scroll=False)
            grid.scroll_to(y=scroll, animate=False)

    def action_search(self) -> None:
        """Open the search line."""
        search = self.query_one("#search", Input)
        search.add_class("shown")
        search.focus()

    def action_leave_search(self) -> None:
        """Clear and close the search line."""
        search = self.query_one("#search", Input)
        search.value = ""
        search.remove_class("shown")
        self.query_one("#sessions").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._search = event.value.strip()
        self._pages = [""]
        self._wanted.set()

    def on_input_submitted(self) -> None:
        self.query_one("#sessions").focus()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._sort = _SORTS[(_SORTS.index(self._sort) + 1) % len(_SORTS)]
        self._pages = [""]
        self._wanted.set()

    def action_turn(self, step: int) -> None:
        """Show the next page, or the previous one."""
        if step > 0 and self._next:
            self._pages.append(self._next)
        elif step < 0 and len(self._pages) > 1:
            self._pages.pop()
        else:
            return
        self._wanted.set()

    def action_move(self, direction: str) -> None:
        """Move the cursor of the session list."""
        grid = self._table("sessions")
        grid.move_cursor(row=grid.cursor_row + (1 if direction == "down" else -1))

    def action_theme(self) -> None:
        """Switch between light and dark."""
        self.theme = _LIGHT.name if self.theme == _DARK.name else _DARK.name


def _aligned(name: str, row: tuple[Text | str, ...]) -> Iterator[Text]:
    """Yield a table's cells, each as wide as its column."""
    for (_, width), cell in zip(_COLUMNS[name], row, strict=True):
        text = Text(escape(cell)) if isinstance(cell, str) else cell
        text.truncate(abs(width), overflow="ellipsis")
        if width < 0:
            text.pad_left(-width - text.cell_len)
        yield text


def _stage_row(name: str, stage: dict[str, Any]) -> tuple[Text | str, ...]:
    label = _STAGES.get(name, name.replace(":", " "))
    values = (stage[key] if stage["count"] else None for key in ("p50", "p99", "max"))
    return (label, *map(seconds_text, values))


def _upstream_row(one: dict[str, Any]) -> tuple[Text | str, ...]:
    health = "breaker open" if one["breaker"] == "open" else str(one["health"])
    is_bad = one["health"] != "up"
    name = Text.assemble(escape(one["service"]), " ", (escape(one["address"]), "dim"))
    return (name, _dot(_BAD if is_bad else _GOOD, health), seconds_text(one["p99"] or None))


def _refusal_row(one: dict[str, Any]) -> tuple[Text | str, ...]:
    rate = f"{rate_text(one['rate'])}/s" if one["rate"] else NONE
    name = str(one["reason"]).replace("_", " ")
    return (name, Text(rate, style=_BAD if one["rate"] else ""), f"{one['total']:,}")


def _worker_row(one: dict[str, Any]) -> tuple[Text | str, ...]:
    state = str(one["state"])
    dot = _dot(_WORKER_COLOURS.get(state, _BAD), state)
    if one["number"] is None:
        return (f"in {one['slot']}", dot, *[NONE] * (len(_COLUMNS["workers"]) - 2))
    return (
        str(one["number"]),
        dot,
        f"{one['sessions']:,}",
        f"{one['connections']:,}",
        f"{rate_text(one['requests'])}/s",
        f"{one['cpu'] * 100:.0f} %",
        byte_text(one["memory_bytes"]),
        seconds_text(one["lag_s"]),
        f"{one['moves_in']:,}",
        f"{one['moves_out']:,}",
        f"{one['handed_on']:,}",
        f"{one['restarts']:,}",
        span_text(one["uptime_s"]),
        str(one["pid"]),
    )


def _session_row(one: dict[str, Any]) -> tuple[Text | str, ...]:
    state = str(one["state"]).lower()
    return (
        one["openid"] or NONE,
        _dot(_STATE_COLOURS.get(state, _BAD), state),
        f"{one['queue_messages']:,}",
        byte_text(one["queue_bytes"]),
        str(one["in_flight"]),
        f"{rate_text(one['rate'])}/s" if one["rate"] else NONE,
        seconds_text(one["rtt_s"] or None),
        span_text(one["idle_s"]),
        span_text(one["age_s"]),
        one["zone"] or NONE,
        one["ip"] or NONE,
    )


def _dot(colour: str, word: str) -> Text:
    return Text.assemble(("● ", colour), escape(word))
