"""LineWriter: writes lines to a descriptor that may block or fail, without blocking the caller."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["LineWriter"]

MAX_WAITING_BYTES = 1 << 20
CHUNK_BYTES = 65536


class LineWriter:
    """Writes lines from a thread of its own.

    A terminal that is stopped by Ctrl-S, a pipe that nobody reads, a full disk: each holds up or
    fails the thread and nothing else. Lines above the bound, and lines that cannot be written, are
    dropped and counted; once writing works again a notice says how many.

    A forked child has no such thread: its lines wait until they are dropped. We start processes by
    spawn or exec; a service that forks its own workers sets up logging again in each.

    Args:
        descriptor: An open file descriptor; it stays open.
        notice: Returns the notice's line from the number of lines dropped; None for no notice.
        max_bytes: Of lines that wait; above it the newest are dropped.

    Attributes:
        dropped: Lines that were dropped.
        chunk_bytes: Most that one write has, but for a longer line. Where several processes write to
            a pipe, PIPE_BUF keeps their lines whole: it takes so much at once, or nothing.
    """

    def __init__(
        self,
        descriptor: int,
        notice: Callable[[int], bytes] | None = None,
        max_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self.dropped = 0
        self.chunk_bytes = CHUNK_BYTES
        self._descriptor = descriptor
        self._notice = notice
        self._max_bytes = max_bytes
        self._told = 0
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        # Reentrant: a finalizer that logs may run in the middle of put().
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_writing = False

    @property
    def is_full(self) -> bool:
        """Whether the next line is dropped."""
        return self._waiting_bytes >= self._max_bytes

    def drop(self) -> None:
        """Count a line that is not even made because of is_full."""
        with self._changed:
            self.dropped += 1

    def put(self, line: bytes) -> None:
        """Queue a line, its line end included."""
        with self._changed:
            if self.is_full:
                self.dropped += 1
                return
            if self._thread is None:
                # A daemon: the process can end while a write is held up.
                thread = threading.Thread(target=self._run, name="lines", daemon=True)
                self._thread = thread  # before it starts: what logs meanwhile starts no other
                try:
                    thread.start()
                except RuntimeError:  # the interpreter ends
                    self._thread = None
                    self.dropped += 1
                    return
            self._lines.append(line)
            self._waiting_bytes += len(line)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until everything is written, at most timeout seconds; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._is_writing, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                while not self._lines:
                    self._changed.wait()
                self._is_writing = True
                chunk = [self._take()]
                size = len(chunk[0])
                while self._lines and size + len(self._lines[0]) <= self.chunk_bytes:
                    chunk.append(self._take())
                    size += len(chunk[-1])
            is_written = self._write(b"".join(chunk))
            with self._changed:
                if not is_written:
                    self.dropped += len(chunk)
                missing = self.dropped - self._told
            if is_written and missing and self._notice is not None:
                self._told += missing
                if not self._write(self._notice(missing)):
                    self._told -= missing

    def _take(self) -> bytes:
        line = self._lines.popleft()
        self._waiting_bytes -= len(line)
        return line

    def _write(self, data: bytes) -> bool:
        """Write all of data, however long it takes; return False where it cannot be."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                # Another process made the file that we share with it non-blocking.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True
