"""Frames: what one side queues is what the other reads, in parts, past deadlines, given up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatesvr._pb import cluster_pb2 as pb
from gatesvr.cluster import frames
from gatesvr.cluster.frames import (
    MAX_BATCH_BYTES,
    PART_BYTES,
    FrameError,
    FrameQueue,
    FrameReader,
    Incoming,
    Outgoing,
)


def carried(queue: FrameQueue, reader: FrameReader, now: float = 0.0) -> list[Incoming]:
    """Return what arrives of all that is queued."""
    arrived = []
    while batch := queue.next_batch(now, 1):
        assert len(batch) <= MAX_BATCH_BYTES
        arrived += reader.receive(batch, 1)
    return arrived


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.sampled_from([0, 1, 99, 100, 101, 250, 1_000]), max_size=20))
def test_everything_arrives_once(sizes: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "PART_BYTES", 100)
        queue = FrameQueue()
        sent = [Outgoing(i, bytes([i]) * size, "M", deadline=9.0) for i, size in enumerate(sizes)]
        for frame in sent:
            queue.put(frame)
        assert queue.size == sum(sizes)
        arrived = carried(queue, FrameReader())
    assert sorted((f.call, f.body) for f in arrived) == [
        (i, bytes([i]) * size) for i, size in enumerate(sizes)
    ]
    assert all((f.method, f.error, f.left, f.is_hint) == ("M", "", 9.0, False) for f in arrived)
    assert (queue.size, len(queue)) == (0, 0)


def test_small_frames_pass_a_large_one() -> None:
    queue, reader = FrameQueue(), FrameReader()
    queue.put(Outgoing(1, bytes(5 * PART_BYTES)))
    queue.put(Outgoing(2, b"small"))
    assert [f.call for f in carried(queue, reader)] == [2, 1]


def test_call_is_not_begun_after_its_deadline() -> None:
    queue = FrameQueue()
    queue.put(Outgoing(1, b"late", "M", deadline=5.0))
    queue.put(Outgoing(2, b"good", "M", deadline=6.0))
    assert [f.call for f in carried(queue, FrameReader(), now=5.0)] == [2]
    assert queue.size == 0


def test_time_on_the_way_is_taken_off() -> None:
    queue, reader = FrameQueue(), FrameReader()
    queue.put(Outgoing(1, b"", "M", deadline=2.0))
    batch = queue.next_batch(0.0, 10_000)
    assert [f.left for f in reader.receive(batch, 10_500)] == [1.5]
    assert [f.left for f in reader.receive(batch, 12_000)] == [0.0]
    assert [f.left for f in reader.receive(batch, 9_000)] == [2.0]


def test_hint_has_no_time() -> None:
    queue = FrameQueue()
    queue.put(Outgoing(7, b"x", "M", deadline=2.0, is_hint=True))
    assert carried(queue, FrameReader()) == [Incoming(7, "M", b"x", "", 0.0, True)]


@pytest.mark.parametrize("how", ["dropped", "expired"])
@pytest.mark.parametrize("is_call", [True, False])
def test_frame_that_is_given_up_half_sent_is_forgotten(how: str, is_call: bool) -> None:
    queue, reader = FrameQueue(), FrameReader()
    frame = Outgoing(1, bytes(3 * PART_BYTES), "M" if is_call else "", deadline=5.0)
    queue.put(frame)
    assert list(reader.receive(queue.next_batch(0.0, 0), 0)) == []
    if how == "dropped":
        assert queue.drop(frame)
    arrived = carried(queue, reader, now=5.0)
    assert arrived == ([] if is_call else [Incoming(1, "", b"", "given up", 0.0, False)])
    assert (reader._size, reader._parts) == (0, {})
    assert (queue.size, len(queue)) == (0, 0)


def test_frame_is_dropped_until_it_has_gone_out() -> None:
    queue = FrameQueue()
    frame, other = Outgoing(1, b"abc"), Outgoing(2, b"d")
    queue.put(frame)
    queue.put(other)
    assert queue.drop(frame)
    assert not queue.drop(frame)
    assert [f.call for f in carried(queue, FrameReader())] == [2]
    assert not queue.drop(other)


def test_clear_tells_the_hints() -> None:
    queue = FrameQueue()
    queue.put(Outgoing(1, b"abc", "M"))
    queue.put(Outgoing(2, b"d", "M", is_hint=True))
    assert queue.clear() == 1
    assert queue.next_batch(0.0, 0) == b""
    assert queue.size == 0


def part(call: int, size: int = 10) -> pb.PeerFrame:
    return pb.PeerFrame(call=call, method="M", body=bytes(size), is_more=True, timeout_ms=9)


def test_reader_keeps_no_more_than_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_BODY_BYTES", 100)
    monkeypatch.setattr(frames, "MAX_PARTLY", 5)

    def read(*parts: pb.PeerFrame) -> None:
        reader = FrameReader()
        for frame in parts:
            assert list(reader.receive(pb.PeerBatch(frames=[frame]).SerializeToString(), 0)) == []

    read(*(part(1) for _ in range(10)))
    with pytest.raises(FrameError, match="large"):
        read(*(part(1) for _ in range(11)))
    with pytest.raises(FrameError, match="large"):
        read(part(1, 60), part(2, 60), part(3, 1))
    read(*(part(i) for i in range(5)))
    with pytest.raises(FrameError, match="too many"):
        read(*(part(i) for i in range(6)))
    with pytest.raises(FrameError, match="no batch"):
        list(FrameReader().receive(b"\xff", 0))
