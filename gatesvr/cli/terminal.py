"""Terminal output: text from outside made harmless, colours only where they show.

``open_streams()`` makes the standard streams safe, once for all commands: a closed descriptor
becomes the null device, a character that the console cannot show is escaped, output that standard
error cannot take is lost silently, and the first failure of standard output raises OutputLost.
"""

from __future__ import annotations

import errno
import io
import json
import os
import select
import sys
from typing import TYPE_CHECKING, Any, TextIO

import click

from ..observe.descriptors import open_descriptors
from ..observe.lines import LineWriter
from ..observe.log import FLUSH_S

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "OutputLost",
    "ServerOutput",
    "echo",
    "escape_control",
    "is_dumb",
    "open_streams",
    "show_data",
    "style",
    "to_json",
]


class OutputLost(OSError):
    """Standard output cannot be written."""

    @property
    def is_unread(self) -> bool:
        """Whether its reader has gone, as with ``| head``."""
        return self.errno == errno.EPIPE


def open_streams() -> None:
    """Make the standard streams safe to write to; see the top of this file."""
    open_descriptors()
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    # A test's replacement for a stream stays.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.stdout, is_quiet=False)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.stderr, is_quiet=True)


def echo(text: str | bytes = "", *, err: bool = False, nl: bool = True) -> None:
    """Write text and a line end to standard output or error, at once.

    Raises:
        OutputLost: Standard output failed for the first time.
    """
    stream = sys.stderr if err else sys.stdout
    if isinstance(text, bytes):
        stream.buffer.write(text + b"\n" * nl)
    else:
        # A terminal's prompt may stand in for the stream, and writes ? for what it cannot show.
        encoding = stream.encoding or "utf-8"
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        stream.write(shown + "\n" * nl)
    stream.flush()


def to_json(value: object, indent: int | None = None) -> str:
    """Return value as JSON that standard output can show."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def escape_control(text: str) -> str:
    """Return text with control characters escaped, line ends and tabs kept.

    A terminal obeys escape sequences, so text from a peer must not bring its own.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def show_data(data: bytes) -> None:
    """Write an answer's data to standard output: unchanged, or printable on a terminal."""
    if sys.stdout.isatty():
        echo(escape_control(data.decode("utf-8", "backslashreplace")))
    else:
        echo(data)


def style(text: str, *, err: bool = False, **how: object) -> str:
    """Return text styled as by click.style(), or unchanged if no one sees or wants styles.

    Source: https://no-color.org
    """
    stream = sys.stderr if err else sys.stdout
    is_wanted = stream.isatty() and not is_dumb() and not os.environ.get("NO_COLOR")
    return click.style(text, **how) if is_wanted else text  # type: ignore[arg-type]


def is_dumb() -> bool:
    """Return whether the terminal obeys no escape sequences, as prompt_toolkit decides it."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


class ServerOutput:
    """Standard output of a server command: a failing write ends the output, not the server.

    A thread writes, so that a slow reader delays nothing.
    """

    def __init__(self) -> None:
        self._encoding = sys.stdout.encoding or "utf-8"
        self._writer = LineWriter(1)

    def echo(self, text: str) -> None:
        """Queue text and a line end for writing."""
        self._writer.put(f"{text}\n".encode(self._encoding, "backslashreplace"))

    def flush(self) -> None:
        """Wait a moment for the queued text."""
        self._writer.flush(FLUSH_S)


class _Output(io.FileIO):
    """A standard stream's descriptor. Reports at most one failure, then drops all output."""

    def __init__(self, descriptor: int, *, is_quiet: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._is_quiet = is_quiet
        self._is_lost = False

    def write(self, data: ReadableBuffer, /) -> int:
        size = memoryview(data).nbytes
        if self._is_lost:
            return size
        try:
            while (written := super().write(data)) is None:
                # Another process that shares the file made it non-blocking.
                poll = select.poll()
                poll.register(self.fileno(), select.POLLOUT)
                poll.poll()
        except OSError as error:
            self._is_lost = True
            if self._is_quiet:
                return size
            raise OutputLost(error.errno, error.strerror) from None
        return written


def _stream(descriptor: int, old: TextIO | None, *, is_quiet: bool) -> TextIO:
    encoding: Any = getattr(old, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor, is_quiet=is_quiet)),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
