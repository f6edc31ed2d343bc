"""LineWriter and the log's handler: nobody waits for a reader, what is lost is counted and said."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import select
from typing import TYPE_CHECKING

import pytest

from gatesvr.observe.lines import LineWriter
from gatesvr.observe.log import LogHandler, keys, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FLUSH_S = 30.0
SMALL_PIPE = 4096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A small pipe: the descriptors to read from and to write to."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALL_PIPE)
    yield reader, writer
    os.close(reader)  # which ends a write that is held up
    os.close(writer)


def drain(reader: int, is_enough: Callable[[bytes], bool]) -> bytes:
    data = b""
    while not is_enough(data):
        data += os.read(reader, 65536)
    return data


def logger_to(handler: LogHandler) -> logging.Logger:
    logger = logging.getLogger("gatesvr.test")
    logger.setLevel("INFO")
    logger.handlers[:] = [handler]
    logger.propagate = False
    return logger


def test_lines_arrive_in_order(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    writer = LineWriter(descriptor)
    lines = [b"%d\n" % number for number in range(200)]
    for line in lines:
        writer.put(line)
    assert writer.flush(FLUSH_S)
    assert os.read(reader, SMALL_PIPE) == b"".join(lines)
    assert writer.dropped == 0


def test_what_nobody_reads_is_dropped_and_said(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    writer = LineWriter(descriptor, lambda count: b"dropped %d\n" % count, max_bytes=20_000)
    line = b"x" * 99 + b"\n"
    for _ in range(2_000):
        writer.put(line)
    assert not writer.flush(0)
    data = drain(
        reader,
        lambda data: (
            data.count(line) + writer.dropped == 2_000
            and int((re.findall(rb"dropped (\d+)\n", data) or [0])[0]) == writer.dropped
        ),
    )
    assert writer.flush(FLUSH_S)
    assert writer.dropped > 1_000
    assert data.count(b"\n") == 2_001 - writer.dropped


@pytest.mark.parametrize("is_blocking", [True, False])
def test_slow_reader_gets_everything(pipe: tuple[int, int], is_blocking: bool) -> None:
    reader, descriptor = pipe
    os.set_blocking(descriptor, is_blocking)
    writer = LineWriter(descriptor)
    text = b"".join(b"%06d\n" % number for number in range(20_000))
    for line in text.splitlines(keepends=True):
        writer.put(line)
    assert drain(reader, lambda data: len(data) >= len(text)) == text
    assert writer.flush(FLUSH_S)
    assert writer.dropped == 0


def test_what_cannot_be_written_is_counted() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        writer = LineWriter(descriptor, lambda count: b"never\n")
        writer.put(b"line\n")
        assert writer.flush(FLUSH_S)
        writer.put(b"line\n")
        assert writer.flush(FLUSH_S)
        assert writer.dropped == 2
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("style", ["text", "json"])
def test_log_says_what_it_lost(pipe: tuple[int, int], style: str) -> None:
    reader, descriptor = pipe
    handler = LogHandler("json" if style == "json" else "text", descriptor=descriptor)
    logger = logger_to(handler)
    for number in range(20_000):
        logger.info("event", extra=keys(number=number, more="x" * 100))
    data = drain(reader, lambda data: data.count(b"\n") - 1 + handler.dropped == 20_000)
    (line,) = [line for line in data.decode().splitlines() if "dropped" in line]
    if style == "json":
        assert all(json.loads(line) for line in data.splitlines())
        said = json.loads(line)
        assert (said["event"], said["lines"]) == ("log_lines_dropped", handler.dropped)
    else:
        assert line == f"{handler.dropped} log lines were dropped"


def test_event_that_cannot_be_shown_is_told_of(pipe: tuple[int, int]) -> None:
    class Bad:
        def __str__(self) -> str:
            raise ValueError

    reader, descriptor = pipe
    handler = LogHandler(descriptor=descriptor)
    logger_to(handler).info("event", extra=keys(bad=Bad()))
    handler.flush()
    assert b"log_failed of=gatesvr.test" in os.read(reader, SMALL_PIPE)


def test_held_events_come_with_a_warning_or_by_release(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    for end in ("warning", "release"):
        handler = LogHandler(is_held=True, descriptor=descriptor)
        logger = logger_to(handler)
        logger.info("first")
        handler.flush()
        assert not select.select([reader], [], [], 0)[0]
        if end == "warning":
            logger.warning("second")
        else:
            handler.release_held()
            logger.info("second")
        handler.flush()
        lines = os.read(reader, SMALL_PIPE).splitlines()
        assert [line.rpartition(b" ")[2] for line in lines] == [b"first", b"second"]


def test_timestamps_carry_the_zone() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.250[+-]\d\d:\d\d", timestamp(1.25))


def test_json_line_carries_both_times(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    handler = LogHandler("json", descriptor=descriptor)
    logger_to(handler).info("event")
    handler.flush()
    line = json.loads(os.read(reader, SMALL_PIPE))
    assert line["time"] == timestamp(line["at"])


def test_lines_of_several_workers_stay_whole_in_one_pipe(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    handlers = [LogHandler("json", descriptor=descriptor, worker=number) for number in (1, 2)]
    for number in range(400):
        for handler in handlers:
            logger_to(handler).info("event", extra=keys(number=number, more="x" * 100))
    data = drain(reader, lambda data: data.count(b"\n") == 800)
    lines = [json.loads(line) for line in data.splitlines()]
    for worker in (1, 2):
        numbers = [line["number"] for line in lines if line["worker"] == worker]
        assert numbers == list(range(400))


@pytest.mark.parametrize("worker", [None, 0])
def test_a_workers_events_have_its_number(pipe: tuple[int, int], worker: int | None) -> None:
    reader, descriptor = pipe
    handler = LogHandler(descriptor=descriptor, worker=worker)
    logger_to(handler).info("event", extra=keys(more=1))
    handler.flush()
    said = os.read(reader, SMALL_PIPE)
    assert said.endswith(b" event more=1\n" if worker is None else b" event worker=0 more=1\n")
