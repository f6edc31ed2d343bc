"""Log set-up: one logger a layer (``gatesvr.transport`` ...), one line an event, keys and no prose.

An event is logged as ``logger.info("session_ended", extra=keys(session=..., reason=...))``: the
message is the event's name, what belongs to it are keys. Text from outside is escaped and cut.

A line is made where it is logged and written by a thread (LineWriter): a log that nobody reads
holds up nothing. What it loses is counted, and said by ``log_lines_dropped``.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import select
import sys
import threading
from collections.abc import Mapping
from typing import Any, Literal, TextIO

from .lines import LineWriter

__all__ = [
    "LogHandler",
    "configure",
    "escape",
    "format_keys",
    "keys",
    "restyle",
    "set_level",
    "timestamp",
]

MAX_TEXT_BYTES = 128
"""Longest text from outside that is written, bytes of what is written (PROTOCOL 8)."""
CUT = "…"
"""Stands where a text was cut."""
CLEAR_LINE = "\r\x1b[K"
MAX_HELD = 1_000
FLUSH_S = 1.0
"""Longest wait for what is not written yet when the process ends."""

LEVELS = ("debug", "info", "warning", "error")
MAX_SESSIONS = 64
"""Sessions with a level of their own."""
_ROOT = "gatesvr"

Style = Literal["text", "json"]


def keys(**values: Any) -> dict[str, Any]:
    """Return the ``extra`` of a log call that carries values as the event's keys."""
    return {"keys": values}


def configure(
    level: str = "info",
    style: Style = "text",
    stream: TextIO | None = None,
    *,
    is_held: bool = False,
    worker: int | None = None,
) -> LogHandler | None:
    """Send the ``gatesvr`` loggers' events to standard error, from a thread.

    Warnings of other libraries, and exceptions that nobody catches, go the same way.

    Args:
        level: Lowest level written.
        style: How a line looks.
        stream: Write to it, at once, instead.
        is_held: Keep events below warning back until LogHandler.release_held().
        worker: The number that every event has as its first key, of a process that shares standard
            error with others; None for one that does not.

    Returns:
        The handler, None with stream.
    """
    logger = logging.getLogger("gatesvr")
    logger.setLevel(level.upper())
    logger.propagate = False
    if stream is not None:
        direct = logging.StreamHandler(stream)
        direct.setFormatter(_formatter(style))
        logger.handlers[:] = [direct]
        return None
    handler = LogHandler(style, is_held=is_held, worker=worker)
    logger.handlers[:] = [handler]
    logging.getLogger().handlers[:] = [handler]
    logging.captureWarnings(True)
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread_error
    return handler


def restyle(style: Style) -> None:
    """Have the lines of configure()'s handler look otherwise from now on."""
    for handler in logging.getLogger(_ROOT).handlers:
        if isinstance(handler, LogHandler):
            handler.restyle(style)


def set_level(level: str, *, layer: str = "", session: str = "") -> None:
    """Set the lowest level written from now on: of everything, of one layer, or of one session.

    A session's events are those with the key ``session``. While no session has a level of its own,
    an event below the others' costs what it always costs.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``; empty to undo one of a layer or of a
            session.
        layer: A layer's name, for example ``transport``; empty for all that have no level of their
            own.
        session: A session id; empty for none.

    Raises:
        ValueError: There is no such level or layer, or MAX_SESSIONS have one of their own.
    """
    if level not in LEVELS and (level or not (layer or session)):
        raise ValueError(f"{level!r} is not one of {', '.join(LEVELS)}")
    number = logging.getLevelNamesMapping()[level.upper()] if level else None
    loggers = _loggers()
    if layer and f"{_ROOT}.{layer}" not in loggers:
        known = ", ".join(name.removeprefix(f"{_ROOT}.") for name in sorted(loggers)[1:])
        raise ValueError(f"{layer!r} is not one of {known}")
    handlers = loggers[_ROOT].handlers or logging.getLogger().handlers
    found = (f for handler in handlers for f in handler.filters if isinstance(f, _Levels))
    levels = next(found, None) or _Levels({name: each.level for name, each in loggers.items()})
    if session:
        levels.set_session(session, number)
    else:
        levels.loggers[f"{_ROOT}.{layer}" if layer else _ROOT] = number or logging.NOTSET
    for name, each in loggers.items():
        own = levels.loggers.get(name, logging.NOTSET)
        each.setLevel(min([own, *levels.sessions.values()]) if own else own)
    for handler in handlers:
        if levels.sessions:
            handler.addFilter(levels)
        else:
            handler.removeFilter(levels)


def _loggers() -> dict[str, logging.Logger]:
    """Return the package's loggers: that of everything, and those of the layers."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith(f"{_ROOT}.")]
    return {name: logging.getLogger(name) for name in (_ROOT, *names)}


class _Levels(logging.Filter):
    """Lets through what a level of its logger, or of its session, lets through.

    It is there only while a session has a level of its own; then the loggers let more through.

    Attributes:
        loggers: The loggers' own levels, by name; 0 for none.
        sessions: The sessions' levels, by id.
    """

    def __init__(self, loggers: dict[str, int]) -> None:
        super().__init__()
        self.loggers = loggers
        self.sessions: dict[str, int] = {}

    def set_session(self, session: str, level: int | None) -> None:
        """Give a session a level, or take it away."""
        if level is None:
            self.sessions.pop(session, None)
        elif session not in self.sessions and len(self.sessions) >= MAX_SESSIONS:
            raise ValueError(f"{MAX_SESSIONS} sessions have a level of their own already")
        else:
            self.sessions[session] = level

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is to be written."""
        name = record.name
        if name != _ROOT and not name.startswith(f"{_ROOT}."):
            return True
        if record.levelno >= (self.loggers.get(name) or self.loggers[_ROOT]):
            return True
        level = self.sessions.get(getattr(record, "keys", {}).get("session", ""))
        return level is not None and record.levelno >= level


class LogHandler(logging.Handler):
    """Writes events to standard error without ever waiting for it.

    Args:
        style: How a line looks.
        is_held: Keep events below warning back until release_held(), or until a worse one comes.
        descriptor: What to write to.
        worker: See configure().
    """

    def __init__(
        self,
        style: Style = "text",
        *,
        is_held: bool = False,
        descriptor: int = 2,
        worker: int | None = None,
    ) -> None:
        super().__init__()
        self._worker = worker
        # Another process may keep a line below all others (show_status()).
        self._clear = CLEAR_LINE if worker is not None and os.isatty(descriptor) else ""
        self.restyle(style)
        self._writer = LineWriter(descriptor, self._notice)
        self._held: list[logging.LogRecord] | None = [] if is_held else None
        self._status = ""
        if worker is not None:
            self.share()

    def restyle(self, style: Style) -> None:
        """Have lines look otherwise from now on."""
        self.style = style
        # JSON is UTF-8 wherever it goes; a console is shown what it can show.
        encoding = None if style == "json" else getattr(sys.stderr, "encoding", None)
        self._encoding = encoding or "utf-8"
        self.setFormatter(_formatter(style, self._worker))

    def share(self) -> None:
        """Keep lines whole although other processes write to the same pipe."""
        self._writer.chunk_bytes = select.PIPE_BUF

    @property
    def dropped(self) -> int:
        """Lines that were lost: nobody read fast enough, or they could not be written."""
        return self._writer.dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Make the record's line and hand it to the thread."""
        if self._held is not None:
            if record.levelno < logging.WARNING and len(self._held) < MAX_HELD:
                self._held.append(record)
                return
            self.release_held()
        if self._writer.is_full:
            self._writer.drop()
            return
        try:
            line = self.format(record)
        except Exception as error:
            bad = _record(logging.ERROR, "log_failed", of=record.name, error=type(error))
            line = self.format(bad)
        self.say(line)

    def say(self, line: str) -> None:
        """Write a line that is no event."""
        clear = CLEAR_LINE if self._status else self._clear
        line = f"{clear}{line}\n{self._status}"
        self._writer.put(line.encode(self._encoding, "backslashreplace"))

    def show_status(self, text: str) -> None:
        """Keep a line below all others, in the place of the last one; empty for none.

        Only for terminals that obey escape sequences.
        """
        self._status = text
        self._writer.put(f"{CLEAR_LINE}{text}".encode(self._encoding, "backslashreplace"))

    def release_held(self) -> None:
        """Write the events that were kept back, and keep none back any more."""
        held, self._held = self._held, None
        for record in held or ():
            self.emit(record)

    def flush(self) -> None:
        """Wait a moment for what is not written yet; the process's end calls it, too."""
        self._writer.flush(FLUSH_S)

    def _notice(self, count: int) -> bytes:
        if self.style == "text":
            text = f"{count} log lines were dropped"
        else:
            text = self.format(_record(logging.WARNING, "log_lines_dropped", lines=count))
        return f"{text}\n".encode()


def timestamp(seconds: float) -> str:
    """Return ``2026-01-31T12:00:01.250+01:00``: a time since the epoch, in this machine's zone."""
    at = datetime.datetime.fromtimestamp(round(seconds, 3), datetime.UTC)
    return at.astimezone().isoformat(timespec="milliseconds")


def escape(value: object) -> str:
    """Return value as printable text of at most MAX_TEXT_BYTES in UTF-8, without line ends."""
    text = value if isinstance(value, str) else str(value)
    head = text[: MAX_TEXT_BYTES + 1]  # no character takes less than a byte
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in head)
    written = escaped.encode()
    if len(written) <= MAX_TEXT_BYTES:
        return escaped
    return written[: MAX_TEXT_BYTES - len(CUT.encode())].decode(errors="ignore") + CUT


def format_keys(values: Mapping[str, object]) -> str:
    """Return ``session=… reason="…"``: text from outside is escaped and stays in its quotes."""
    parts = []
    for key, value in values.items():
        text = escape(value)
        if not text or " " in text or '"' in text:
            # Else text from outside could end its quotes, and write keys of its own.
            text = text.replace("\\", "\\\\").replace('"', '\\"')
            text = f'"{text}"'
        parts.append(f"{key}={text}")
    return " ".join(parts)


class _Formatter(logging.Formatter):
    """Formats an event and its keys.

    Args:
        worker: See configure().
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._own = {} if worker is None else {"worker": worker}

    def keys(self, record: logging.LogRecord) -> Mapping[str, object]:
        """Return the keys of an event."""
        values: Mapping[str, object] = getattr(record, "keys", {})
        return {**self._own, **values} if self._own else values


class _TextFormatter(_Formatter):
    """``2026-01-31T12:00:01.250+01:00 info gatesvr.session session_ended session=… reason=…``."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [
            timestamp(record.created),
            record.levelname.lower(),
            record.name,
            escape(record.getMessage()),
        ]
        if values := self.keys(record):
            parts.append(format_keys(values))
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(_Formatter):
    """One JSON object a line: at, time, level, logger, event, then the event's keys.

    ``at`` is seconds since the epoch, ``time`` the same with date and zone.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": round(record.created, 3),
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": escape(record.getMessage()),
        }
        for key, value in self.keys(record).items():
            line[key] = value if isinstance(value, int | float | bool) else escape(value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _formatter(style: Style, worker: int | None = None) -> logging.Formatter:
    return _JsonFormatter(worker) if style == "json" else _TextFormatter(worker)


def _record(level: int, event: str, **values: object) -> logging.LogRecord:
    """Return a record of the log's own."""
    name = "gatesvr.observe"
    return logging.makeLogRecord(
        {
            "name": name,
            "msg": event,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "keys": values,
        }
    )


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    where, error = unraisable.object, unraisable.exc_value
    logging.getLogger("gatesvr").error(
        "exception_ignored", extra=keys(where=type(where).__qualname__), exc_info=error
    )


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    thread = args.thread.name if args.thread is not None else ""
    if args.exc_type is not SystemExit:
        logging.getLogger("gatesvr").error(
            "thread_failed", extra=keys(thread=thread), exc_info=args.exc_value
        )
