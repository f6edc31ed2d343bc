"""Levels and looks of the log, changed while it is written."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

import pytest

from gatesvr.observe import log
from gatesvr.observe.log import LogHandler, configure, keys, restyle, set_level

if TYPE_CHECKING:
    from collections.abc import Iterator

SESSION = logging.getLogger("gatesvr.session")
TRANSPORT = logging.getLogger("gatesvr.transport")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The log's text, of level info."""
    stream = io.StringIO()
    configure("info", "text", stream)
    yield stream
    for name in ("session", "transport"):
        set_level("", layer=name)


def say(*sessions: str) -> None:
    """Write an event of level debug for each session, one of a layer, and one of level info."""
    for session in sessions:
        SESSION.debug("seen", extra=keys(session=session))
    TRANSPORT.debug("moved", extra=keys(peer="p"))
    TRANSPORT.info("came")


def events(stream: io.StringIO) -> list[str]:
    """Return what was written since the last call, without times."""
    lines = [line.split(" ", 3)[3] for line in stream.getvalue().splitlines()]
    stream.seek(0)
    stream.truncate()
    return lines


def test_level_of_everything_of_a_layer_and_of_a_session(written: io.StringIO) -> None:
    say("a")
    assert events(written) == ["came"]
    set_level("debug", session="a")
    say("a", "b")
    assert events(written) == ["seen session=a", "came"]
    set_level("debug", layer="transport")
    set_level("warning")
    say("a", "b")
    assert events(written) == ["seen session=a", "moved peer=p", "came"]
    set_level("", layer="transport")
    set_level("info", session="a")
    say("a", "b")
    assert events(written) == []
    set_level("", session="a")
    set_level("debug")
    say("a")
    assert events(written) == ["seen session=a", "moved peer=p", "came"]


def test_without_a_session_nothing_is_asked_of_an_event(written: io.StringIO) -> None:
    set_level("debug", session="a")
    handler = logging.getLogger("gatesvr").handlers[0]
    assert SESSION.isEnabledFor(logging.DEBUG)
    assert handler.filters
    set_level("", session="a")
    set_level("", session="b")
    assert not SESSION.isEnabledFor(logging.DEBUG)
    assert handler.filters == []


def test_others_events_pass(written: io.StringIO) -> None:
    set_level("debug", session="a")
    handler = logging.getLogger("gatesvr").handlers[0]
    record = logging.makeLogRecord({"name": "asyncio", "levelno": logging.DEBUG})
    assert handler.filter(record)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"level": "loud"}, "'loud' is not one of debug, info, warning, error"),
        ({"level": ""}, "'' is not one of debug"),
        ({"level": "debug", "layer": "nothing"}, "'nothing' is not one of .*session"),
    ],
)
@pytest.mark.usefixtures("written")
def test_what_there_is_not_is_refused(given: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        set_level(**given)


@pytest.mark.usefixtures("written")
def test_sessions_with_a_level_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_SESSIONS", 2)
    for session in ("a", "b", "a"):
        set_level("debug", session=session)
    with pytest.raises(ValueError, match="2 sessions have a level"):
        set_level("debug", session="c")
    for session in ("a", "b"):
        set_level("", session=session)


def test_lines_look_otherwise_from_now_on() -> None:
    handler = configure("info", "text")
    assert isinstance(handler, LogHandler)
    record = logging.makeLogRecord({"name": "gatesvr", "msg": "came", "levelname": "INFO"})
    assert "came" in handler.format(record)
    restyle("json")
    assert handler.style == "json"
    assert '"event": "came"' in handler.format(record)
