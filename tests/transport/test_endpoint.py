"""Timers, and a socket that takes no more."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from typing import TYPE_CHECKING

import pytest

from gatesvr.transport.udp.driver import GRANULARITY, MAX_FLUSHES, Driver, Timer, TimerHeap
from gatesvr.transport.udp.endpoint import ERROR_LOG_S, MAX_BACKLOG, Endpoint
from gatesvr.transport.udp.sockets import open_socket

if TYPE_CHECKING:
    from gatesvr.transport.addresses import Datagram


def test_timers_fire_in_time_under_random_changes() -> None:
    rng = random.Random(8453)
    heap = TimerHeap()
    now = 0.0
    wanted: dict[int, float] = {}
    timers: dict[int, Timer] = {}
    fired: list[int] = []

    def make(name: int) -> Timer:
        return Timer(lambda _: fired.append(name))

    for step in range(20_000):
        name = rng.randrange(40)
        action = rng.random()
        if action < 0.6:
            if name not in timers:
                timers[name] = make(name)
            wanted[name] = now + rng.choice((0.001, 0.02, 0.3, 60.0)) * rng.random()
            heap.schedule(timers[name], wanted[name])
        elif action < 0.63 and name in timers:
            heap.cancel(timers.pop(name))
            wanted.pop(name, None)
        else:
            now += rng.random() * 0.01
            fired.clear()
            heap.run(now)
            late = {n for n, when in wanted.items() if when + GRANULARITY < now}
            assert late <= set(fired), step
            assert len(fired) == len(set(fired))
            for name in fired:  # what an owner does: look, and schedule again
                if wanted.get(name, now + 1) <= now + GRANULARITY:
                    del wanted[name]
                elif name in wanted:
                    heap.schedule(timers[name], wanted[name])
        due = heap.get_timer()
        if wanted:
            assert due is not None
            assert due <= min(wanted.values()) + GRANULARITY
    for timer in timers.values():
        heap.cancel(timer)
    assert len(heap) == 0
    assert heap.get_timer() is None


def test_a_deadline_that_only_moves_later_costs_one_entry() -> None:
    heap = TimerHeap()
    timer = Timer(lambda _: None)
    for step in range(1000):
        heap.schedule(timer, 60.0 + step)
    assert len(heap) == 1


def test_near_deadlines_before_a_far_one_leave_no_trail() -> None:
    heap = TimerHeap()
    timer = Timer(lambda _: None)
    for step in range(1000):
        now = step * 0.03
        heap.schedule(timer, now + 0.025)
        heap.schedule(timer, now + 60.0)
        heap.run(now + 0.026)
        heap.schedule(timer, now + 60.0)
        assert len(heap) <= 2


def test_cancelled_timers_do_not_pile_up() -> None:
    heap = TimerHeap()
    for _ in range(10_000):
        timer = Timer(lambda _: None)
        heap.schedule(timer, 60.0)
        heap.cancel(timer)
        heap.cancel(timer)
    assert len(heap) == 0
    assert len(heap._heap) < 200


def test_a_timer_cancelled_by_another_does_not_fire() -> None:
    heap = TimerHeap()
    fired: list[str] = []
    second = Timer(lambda _: fired.append("second"))

    def first(_: float) -> None:
        fired.append("first")
        heap.cancel(second)

    heap.schedule(Timer(first), 1.0)
    heap.schedule(second, 1.5)
    heap.run(2.0)
    assert fired == ["first"]


class _Narrow(Endpoint):
    """An endpoint whose socket takes only so many datagrams."""

    takes = 0
    taken: list[bytes]

    def send_batch(self, datagrams: list[Datagram]) -> int:
        count = min(self.takes, len(datagrams))
        self.takes -= count
        self.taken += [data for data, _ in datagrams[:count]]
        return count


async def test_a_socket_that_takes_no_more() -> None:
    driver = Driver()
    sock = open_socket(("127.0.0.1", 0), socket.AF_INET, is_server=True)
    endpoint = _Narrow(driver, sock, lambda batch, now: None)
    endpoint.taken = []
    try:
        endpoint.takes = 10
        everything = [b"%d" % i for i in range(MAX_BACKLOG + 100)]
        endpoint.send([(data, ("127.0.0.1", 9)) for data in everything])
        endpoint.transmit()
        assert endpoint.counters.send_blocked == 1
        assert endpoint.counters.send_backlog == MAX_BACKLOG
        assert endpoint.counters.send_dropped == 90
        endpoint.send([(b"later", ("127.0.0.1", 9))])
        endpoint.transmit()
        assert endpoint.counters.send_dropped == 91
        endpoint.takes = MAX_BACKLOG
        async with asyncio.timeout(20):
            while endpoint.counters.send_backlog:
                await asyncio.sleep(0)
        assert endpoint.taken == everything[: MAX_BACKLOG + 10]
        endpoint.takes = 1
        endpoint.send([(b"flows again", ("127.0.0.1", 9))])
        endpoint.transmit()
        assert endpoint.taken[-1] == b"flows again"
    finally:
        endpoint.close()
        driver.close()


@pytest.mark.parametrize("is_batched", [True, False])
async def test_an_error_of_one_datagram_does_not_stop_the_rest(is_batched: bool) -> None:
    driver = Driver()
    got: list[bytes] = []
    reader = Endpoint(
        driver,
        open_socket(("127.0.0.1", 0), socket.AF_INET, is_server=True),
        lambda batch, now: got.extend(data for data, _ in batch),
        is_batched=is_batched,
    )
    writer = Endpoint(
        driver,
        open_socket(("127.0.0.1", 0), socket.AF_INET, is_server=True),
        lambda batch, now: None,
        is_batched=is_batched,
    )
    try:
        writer.send(
            [(b"a", reader.address), (bytes(70_000), reader.address), (b"b", reader.address)]
        )
        async with asyncio.timeout(20):
            while got != [b"a", b"b"]:
                await asyncio.sleep(0.001)
        assert writer.counters.send_errors == 1
        assert writer.counters.datagrams_sent == 2
        assert reader.counters.receive_buffer_bytes > 0
    finally:
        reader.close()
        writer.close()
        writer.close()
        driver.close()


class _Faulty:
    """A DatagramSocket whose datagrams that name an error meet it."""

    datagrams_truncated = segments_sent = receive_calls = send_calls = 0
    datagrams_received = bytes_received = datagrams_sent = bytes_sent = 0

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.to_receive: list[int] = []

    def receive_into(self, batch: list[Datagram]) -> None:
        if self.to_receive:
            raise OSError(self.to_receive.pop(), "on purpose")

    def send(self, datagrams: list[Datagram], start: int = 0) -> int:
        data = datagrams[start][0]
        if data.isdigit():
            raise OSError(int(data), "on purpose")
        self.sent.append(data)
        return 1


@pytest.mark.parametrize("number", sorted({*errno.errorcode} - {errno.EAGAIN, errno.EINTR}))
async def test_every_error_costs_its_datagram_and_is_logged_once(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver()
    now = 0.0
    driver.clock = lambda: now
    sock = open_socket(("127.0.0.1", 0), socket.AF_INET, is_server=True)
    endpoint = Endpoint(driver, sock, lambda batch, now: None)
    io = endpoint._io = _Faulty()
    to = ("127.0.0.1", 9)
    try:
        for _ in range(3):
            endpoint.send([(b"a", to), (b"%d" % number, to), (b"b", to)])
            endpoint.transmit()
            io.to_receive.append(number)
            endpoint.read()
        assert io.sent == [b"a", b"b"] * 3
        assert endpoint.counters.send_errors == endpoint.counters.receive_errors == 3
        assert [record.message for record in caplog.records] == [
            "datagram_send_failed",
            "datagram_receive_failed",
        ]
        now = ERROR_LOG_S
        endpoint.send([(b"%d" % number, to)])
        endpoint.transmit()
        assert caplog.records[-1].keys == {  # type: ignore[attr-defined]
            "reason": "on purpose",
            "errno": number,
            "before": 2,
        }
    finally:
        endpoint.close()
        driver.close()


class Marked:
    """What is flushed, and marks itself again so many times."""

    def __init__(self, driver: Driver, order: list[int], number: int, again: int = 0) -> None:
        self.driver = driver
        self.order = order
        self.number = number
        self.again = again

    def flush(self, now: float) -> None:
        self.order.append(self.number)
        if self.again:
            self.again -= 1
            self.driver.mark_dirty(self)


async def test_a_turn_flushes_so_many_connections_and_the_others_after_a_read() -> None:
    loop = asyncio.get_running_loop()
    driver = Driver(loop)
    order: list[int] = []
    for number in range(2 * MAX_FLUSHES + 1):
        driver.mark_dirty(Marked(driver, order, number, again=number == 0))
    flushed = []
    while len(order) < 2 * MAX_FLUSHES + 2:
        await asyncio.sleep(0)
        flushed.append(len(order))
    # The first one marked itself again: its second turn comes behind all the others.
    assert order == [*range(2 * MAX_FLUSHES + 1), 0]
    assert MAX_FLUSHES in flushed
    assert 2 * MAX_FLUSHES in flushed
    driver.close()


async def test_flush_now_flushes_all() -> None:
    driver = Driver(asyncio.get_running_loop())
    order: list[int] = []
    for number in range(MAX_FLUSHES + 1):
        driver.mark_dirty(Marked(driver, order, number))
    driver.flush()
    assert order == [*range(MAX_FLUSHES + 1)]
    driver.close()


class Line(Marked):
    """A connection that waits in the driver's line, and says when it was flushed."""

    def __init__(self, driver: Driver, order: list[int], number: int) -> None:
        super().__init__(driver, order, number)
        self.is_done = asyncio.Event()

    def flush(self, now: float) -> None:
        self.driver.flushed(self)
        super().flush(now)
        self.is_done.set()


async def test_what_is_put_off_is_flushed_in_time_unless_it_was_before() -> None:
    driver = Driver(asyncio.get_running_loop())
    order: list[int] = []
    lines = [Line(driver, order, number) for number in range(4)]
    now = driver.clock()
    for number, line in enumerate(lines):
        driver.flush_by(line, now + 0.01 * (1 + number))
    driver.mark_dirty(lines[1])  # it has something to send before
    driver.forget(lines[2])  # it has ended
    async with asyncio.timeout(10):
        await lines[3].is_done.wait()
    assert order == [1, 0, 3]
    assert driver.clock() >= now + 0.039
    driver.flush_by(lines[0], driver.clock() + 0.01)  # once the line was empty, too
    lines[0].is_done.clear()
    async with asyncio.timeout(10):
        await lines[0].is_done.wait()
    driver.flush_by(lines[0], driver.clock())
    driver.close()
    for _ in range(10):  # it is due already: a turn or two would do
        await asyncio.sleep(0)
    assert order == [1, 0, 3, 0]


async def test_an_endpoint_that_is_paused_reads_nothing_until_it_is_resumed() -> None:
    driver = Driver()
    received: asyncio.Queue[bytes] = asyncio.Queue()

    def take(batch: list[Datagram], now: float) -> None:
        for data, _ in batch:
            received.put_nowait(data)

    sock = open_socket(("127.0.0.1", 0), socket.AF_INET, is_server=True)
    endpoint = Endpoint(driver, sock, take)
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        async with asyncio.timeout(10):
            peer.sendto(b"one", endpoint.address)
            assert await received.get() == b"one"
            endpoint.pause_reading()
            peer.sendto(b"two", endpoint.address)
            for _ in range(10):  # the datagram is in the socket: the loop would see it at once
                await asyncio.sleep(0)
            assert received.empty()
            endpoint.resume_reading()
            assert await received.get() == b"two"
    finally:
        peer.close()
        endpoint.close()
        driver.close()
    endpoint.pause_reading()
    endpoint.resume_reading()
