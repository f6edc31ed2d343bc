"""Log set-up: one logger a layer (``gatesvr.transport`` ...), one line an event, keys and no prose.

An event is logged as ``logger.info("session_closed", extra=keys(session=..., reason=...))``: the
message is the event's name, what belongs to it are keys. Text from outside is escaped and cut.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Literal, TextIO

__all__ = ["configure", "escape", "format_keys", "keys"]

MAX_TEXT_BYTES = 128
"""Longest text from outside that is written, bytes of what is written (PROTOCOL 8)."""
CUT = "…"
"""Stands where a text was cut."""


def keys(**values: Any) -> dict[str, Any]:
    """Return the ``extra`` of a log call that carries values as the event's keys."""
    return {"keys": values}


def configure(
    level: str = "info", style: Literal["text", "json"] = "text", stream: TextIO | None = None
) -> None:
    """Send the ``gatesvr`` loggers' events to stream (standard error by default)."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    logger = logging.getLogger("gatesvr")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


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


class _TextFormatter(logging.Formatter):
    """``12:00:01 info gatesvr.session session_closed session=… reason=…``."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        parts = [
            self.formatTime(record),
            record.levelname.lower(),
            record.name,
            escape(record.getMessage()),
        ]
        if values := getattr(record, "keys", {}):
            parts.append(format_keys(values))
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, logger, event, then the event's keys."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": escape(record.getMessage()),
        }
        for key, value in getattr(record, "keys", {}).items():
            line[key] = value if isinstance(value, int | float | bool) else escape(value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
