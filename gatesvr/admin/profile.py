"""Where the process spends its time, and where it is: a sampling profiler and dumps of stacks."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING

from .answers import Stack, Stacks
from .refusal import Refused

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Profiler", "stacks"]

SAMPLE_S = 0.005
"""Between two samples. One costs some 50 us, a hundredth of the time."""
MAX_DEPTH = 128
"""Frames of a stack; the outermost are left out beyond it."""
MAX_STACKS = 10_000
"""Different stacks of a profile; later ones count as OTHER."""
OTHER = "(other)"
TASK_SLICE = 200
"""Tasks looked at in a turn of the loop."""
MAX_GROUPS = 200
"""Different places in a dump of tasks."""


class Profiler:
    """Samples the stacks of all threads from a thread of its own."""

    def __init__(self) -> None:
        self._stop: threading.Event | None = None

    def close(self) -> None:
        """End a profile that is under way; it is answered with what it has."""
        if self._stop is not None:
            self._stop.set()

    async def run(self, seconds: float) -> str:
        """Return the folded stacks of the next seconds: ``outer;inner COUNT`` a line.

        Raises:
            Refused: A profile is under way.
        """
        if self._stop is not None:
            raise Refused(409, "BUSY", "another profile is under way")
        self._stop = stop = threading.Event()
        try:
            counts = await asyncio.to_thread(_sample, seconds, stop)
        finally:
            stop.set()
            self._stop = None
        lines = [f"{stack} {count}" for stack, count in counts.most_common()]
        return "".join(f"{line}\n" for line in lines)


def _sample(seconds: float, stop: threading.Event) -> Counter[str]:
    counts: Counter[str] = Counter()
    own = threading.get_ident()
    ends = time.monotonic() + seconds
    while not stop.wait(SAMPLE_S):
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != own:
                stack = _folded(names.get(ident, "thread"), frame)
                counts[stack if stack in counts or len(counts) < MAX_STACKS else OTHER] += 1
        if time.monotonic() >= ends:
            break
    return counts


def _folded(thread: str, innermost: FrameType) -> str:
    parts: list[str] = []
    frame: FrameType | None = innermost
    while frame is not None and len(parts) < MAX_DEPTH:
        code = frame.f_code
        parts.append(f"{PurePath(code.co_filename).stem}:{code.co_qualname}".replace(";", ","))
        frame = frame.f_back
    return ";".join([thread.replace(";", ","), *reversed(parts)])


async def stacks() -> Stacks:
    """Return where all tasks and threads are, those at the same place together."""
    tasks: dict[tuple[str, ...], tuple[str, int]] = {}
    for i, task in enumerate(list(asyncio.all_tasks())):
        if i % TASK_SLICE == TASK_SLICE - 1:
            await asyncio.sleep(0)
        if not task.done():
            _group(tasks, task.get_name(), tuple(map(_place, task.get_stack(limit=MAX_DEPTH))))
    threads: dict[tuple[str, ...], tuple[str, int]] = {}
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, innermost in sys._current_frames().items():
        frames: list[str] = []
        frame: FrameType | None = innermost
        while frame is not None and len(frames) < MAX_DEPTH:
            frames.append(_place(frame))
            frame = frame.f_back
        _group(threads, names.get(ident, "thread"), tuple(reversed(frames)))
    return Stacks(tasks=_listed(tasks), threads=_listed(threads))


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_qualname} {PurePath(code.co_filename).name}:{frame.f_lineno}"


def _group(
    groups: dict[tuple[str, ...], tuple[str, int]], name: str, frames: tuple[str, ...]
) -> None:
    first, count = groups.get(frames, (name, 0))
    groups[frames] = (first, count + 1)


def _listed(groups: dict[tuple[str, ...], tuple[str, int]]) -> list[Stack]:
    listed = [
        Stack(name=name, count=count, frames=list(frames))
        for frames, (name, count) in groups.items()
    ]
    listed.sort(key=lambda stack: (-stack.count, stack.name))
    return listed[:MAX_GROUPS]
