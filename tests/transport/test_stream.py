"""A stream on a carrier that is not QUIC: all that another way to carry it has to offer."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gatesvr.config import TransportConfig
from gatesvr.errors import ProtocolError
from gatesvr.protocol.link import Disconnect
from gatesvr.transport.counters import TransportCounters
from gatesvr.transport.stream import CLOSING, CUT, MAX_MOVES, STOPPED, WAITING, WRITABLE, Stream
from gatesvr.transport.udp.driver import Driver

from .harness import Recorder

LOW, HIGH = 1_000, 2_000


class Memory:
    """A Carrier that transmits when the test says so."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.transmitted = 0
        self.has_end = False
        self.credit = 0
        self.is_begun = False

    def send_stream_data(self, data: bytes, *, end: bool = False) -> None:
        self.written += data
        self.has_end = self.has_end or end

    def unsent_bytes(self) -> int:
        return len(self.written) - self.transmitted

    def is_stream_open(self) -> bool:
        return self.is_begun

    def is_acknowledged(self) -> bool:
        return not self.unsent_bytes()


class Owner:
    """A connection around a stream: records what the stream asks of it."""

    def __init__(self, carrier: Memory) -> None:
        self.carrier = carrier
        self.closes: list[tuple[int, str, bytes]] = []
        self.errors: list[BaseException] = []
        self.flushes = 0

    def flush(self, now: float) -> None:
        self.flushes += 1

    def transmit(self, now: float) -> bytes:
        taken = min(self.carrier.credit, self.carrier.unsent_bytes())
        self.carrier.transmitted += taken
        self.carrier.credit -= taken
        return b""

    def close(self, code: int, reason: str = "", *, last: bytes = b"") -> None:
        self.closes.append((code, reason, last))

    def fail(self, error: BaseException) -> None:
        self.errors.append(error)


@pytest.fixture(autouse=True)
def _marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.transport.stream.LOW_WATER_BYTES", LOW)
    monkeypatch.setattr("gatesvr.transport.stream.HIGH_WATER_BYTES", HIGH)


class Rig:
    """A stream, its carrier, its owner and its handler."""

    def __init__(self) -> None:
        self.counters = TransportCounters()
        self.driver = Driver()
        self.carrier = Memory()
        self.owner = Owner(self.carrier)
        self.stream = Stream(
            self.owner,
            self.carrier,
            self.driver,
            TransportConfig(),
            self.counters,
            ("192.0.2.1", 40001),
            keep_alive=True,
        )
        self.handler = self.stream.handler = Feeder(self.stream)

    def begin(self) -> None:
        self.carrier.is_begun = True
        self.stream.receive(b"hello", False, 1.0)


class Feeder(Recorder):
    """Writes its outbox up to the high water, as a session's sender does."""

    def write_ready(self, now: float) -> None:
        while self.outbox and self.link.unsent_bytes() < HIGH:
            self.link.write(self.outbox.pop(0))


async def test_a_server_cannot_write_before_the_client_has_begun() -> None:
    rig = Rig()
    rig.stream.write(b"too early")
    assert rig.counters.writes_dropped == 1
    assert rig.stream.state == WAITING
    rig.begin()
    assert rig.stream.state == WRITABLE
    rig.stream.write(b"in time")
    assert rig.carrier.written == b"in time"
    assert rig.stream.unsent_bytes() == 7
    assert rig.stream.last_heard == 1.0
    await asyncio.sleep(0)
    assert rig.owner.flushes == 1
    rig.driver.close()


@pytest.mark.parametrize(("state", "dropped"), [(WAITING, 1), (STOPPED, 1), (CUT, 0), (CLOSING, 0)])
async def test_writes_that_are_dropped(state: int, dropped: int) -> None:
    rig = Rig()
    rig.begin()
    rig.stream.state = state
    rig.stream.write(b"nothing")
    assert rig.carrier.written == b""
    assert rig.counters.writes_dropped == dropped
    assert rig.stream.is_closing == (state == CLOSING)
    rig.driver.close()


async def test_the_handler_is_asked_below_low_water_and_stops_at_high_water() -> None:
    rig = Rig()
    rig.begin()
    rig.handler.outbox = [bytes(500)] * 20
    rig.stream.request_flush()
    assert rig.stream.is_feeding
    rig.carrier.credit = 500
    rig.stream.feed(2.0)
    assert rig.carrier.unsent_bytes() == HIGH - 500
    assert rig.stream.is_feeding
    assert rig.stream.is_blocked
    for _ in range(20):
        rig.carrier.credit = 700
        rig.stream.feed(3.0)
        assert rig.carrier.unsent_bytes() < HIGH + 500
    assert rig.handler.outbox == []
    assert len(rig.carrier.written) == 10_000
    assert not rig.stream.is_feeding
    rig.driver.close()


async def test_the_end_of_the_peers_half_is_told_once() -> None:
    rig = Rig()
    rig.begin()
    for _ in range(2):
        rig.stream.receive(b"", True, 2.0)
    assert rig.handler.ended == 1
    rig.stream.write(b"ours goes on")
    assert rig.carrier.written == b"ours goes on"
    rig.driver.close()


async def test_after_the_last_push_nothing_is_handled() -> None:
    rig = Rig()
    rig.begin()
    rig.stream.write_last(b"KICK")
    assert rig.carrier.has_end
    rig.stream.receive(b"late", True, 2.0)
    rig.stream.write(b"late")
    assert (bytes(rig.handler.data), rig.handler.ended) == (b"hello", 0)
    assert rig.carrier.written == b"KICK"
    rig.driver.close()


async def test_the_end_is_told_once_and_ends_the_task() -> None:
    rig = Rig()
    rig.begin()
    task = asyncio.create_task(rig.stream.run(rig.handler))
    rig.stream.wake()
    rig.stream.wake()
    await rig.handler.until(lambda: rig.handler.works)
    how = Disconnect("peer", 0)
    rig.stream.end(how)
    await task
    await asyncio.sleep(0)
    assert rig.handler.lost == [how]
    assert rig.handler.works == 1
    assert rig.stream.unsent_bytes() == 0
    rig.stream.write(b"nothing")
    rig.stream.request_flush()
    rig.driver.close()


async def test_protocol_errors_close_and_others_fail(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rig = Rig()

    def wrong(data: bytes, now: float) -> None:
        raise ProtocolError("no frame")

    rig.handler.data_received = wrong  # type: ignore[method-assign]
    rig.stream.receive(b"x", False, 1.0)
    assert rig.owner.closes == [(4400, "no frame", b"")]
    assert rig.counters.protocol_errors == 1

    async def broken() -> None:
        raise ZeroDivisionError

    rig.handler.work = broken  # type: ignore[method-assign]
    rig.stream.wake()
    await rig.stream.run(rig.handler)
    assert isinstance(rig.owner.errors[0], ZeroDivisionError)
    rig.driver.close()


async def test_the_last_moves_are_remembered() -> None:
    rig = Rig()
    begun = rig.stream.peer
    rig.stream.move(begun, 1.0)
    assert rig.stream.moves == ()
    for port in range(MAX_MOVES + 1):
        rig.stream.move(("192.0.2.2", port), float(port))
    assert len(rig.stream.moves) == MAX_MOVES
    assert rig.stream.moves[0] == (1.0, ("192.0.2.2", 0), ("192.0.2.2", 1))
    assert rig.stream.peer == ("192.0.2.2", MAX_MOVES)
    rig.driver.close()
