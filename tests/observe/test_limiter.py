"""Lines that a peer can cause as often as it likes."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gatesvr.observe import limiter
from gatesvr.observe.limiter import INTERVAL_S, LogLimiter


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> LogLimiter:
    caplog.set_level(logging.INFO, "gatesvr")
    return LogLimiter(logging.getLogger("gatesvr.test"))


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    """Event, ``n`` and ``suppressed`` of each line."""
    keys = [(record.msg, vars(record)["keys"]) for record in caplog.records]
    return [(event, values["n"], values["suppressed"]) for event, values in keys]


def test_one_line_a_second_says_how_many_it_stands_for(
    lines: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(5):
        lines.log(logging.INFO, "failed", 10.0 + n / 10, "a", n=n)
    lines.log(logging.INFO, "failed", 10.0 + INTERVAL_S, "a", n=5)
    assert said(caplog) == [("failed", 0, 0), ("failed", 5, 4)]


def test_kinds_and_events_do_not_suppress_each_other(
    lines: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    for event, kind in (("failed", "a"), ("failed", "b"), ("refused", "a"), ("failed", "a")):
        lines.log(logging.WARNING, event, 10.0, kind, n=kind)
    assert said(caplog) == [("failed", "a", 0), ("failed", "b", 0), ("refused", "a", 0)]


def test_tick_tells_what_no_later_event_does(
    lines: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(3):
        lines.log(logging.INFO, "failed", 10.0, n=n)
    lines.tick(10.5)
    assert len(caplog.records) == 1
    lines.tick(11.0)
    assert said(caplog)[1:] == [("failed", 2, 1)]
    lines.tick(12.0)
    lines.log(logging.INFO, "failed", 12.0, n=9)
    assert said(caplog)[2:] == [("failed", 9, 0)]


def test_close_tells_the_rest(lines: LogLimiter, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(3):
        lines.log(logging.INFO, "failed", 10.0, n=n)
    lines.close()
    lines.close()
    assert said(caplog) == [("failed", 0, 0), ("failed", 2, 1)]


def test_kinds_are_bounded_and_no_number_is_lost(
    lines: LogLimiter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter, "MAX_KINDS", 2)
    for kind in ("a", "a", "b", "c"):
        lines.log(logging.INFO, "failed", 10.0, kind, n=kind)
    told = said(caplog)
    assert told == [("failed", n, 0) for n in ("a", "b", "a", "c")]
