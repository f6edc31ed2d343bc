"""Http2Connection: flow control of both levels, both ways."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import pytest

from gatesvr._core import http2

from .http2_rig import (
    DATA,
    END_STREAM,
    FRAME_SIZE,
    HEADERS,
    MAX_STREAMS,
    PADDED,
    WINDOW_SIZE,
    WINDOW_UPDATE,
    Frame,
    Rig,
    frame,
    kinds,
    message,
    number,
    settings,
)

ENDED, MESSAGE = http2.ENDED, http2.MESSAGE


# Windows of the peer.


def test_message_goes_as_far_as_the_windows_allow() -> None:
    rig = Rig({WINDOW_SIZE: 10})
    stream = rig.connection.call("/s/Call", b"x" * 40, None)
    sizes = [len(one.payload) for one in rig.sent(DATA)]
    assert (sizes, stream.unsent_bytes) == ([10], 35)
    for credit in (1, 1, 32):
        rig.feed(number(WINDOW_UPDATE, stream.id, credit))
        sizes += [len(one.payload) for one in rig.sent(DATA)]
        assert rig.connection.unsent_bytes == 45 - sum(sizes)
    rig.feed(number(WINDOW_UPDATE, stream.id, 1000))
    (last,) = rig.sent(DATA)
    assert (sizes, last) == ([10, 1, 1, 32], Frame(DATA, END_STREAM, stream.id, b"x"))
    assert rig.connection.unsent_bytes == 0


def test_window_of_0_holds_up_messages_only() -> None:
    rig = Rig({WINDOW_SIZE: 0})
    stream = rig.connection.call("/s/Call", b"", None)
    assert [one.kind for one in rig.sent()] == [HEADERS]
    rig.feed(settings({WINDOW_SIZE: 5}))
    assert rig.sent(DATA) == [Frame(DATA, END_STREAM, stream.id, message(b""))]
    empty = rig.open()
    rig.feed(settings({WINDOW_SIZE: 0}))
    rig.sent()
    rig.connection.finish(empty)
    assert rig.sent(DATA) == [Frame(DATA, END_STREAM, empty.id, b"")]


def test_initial_window_size_may_make_windows_negative() -> None:
    rig = Rig({WINDOW_SIZE: 100})
    stream = rig.connection.open("/s/Open", None)
    rig.connection.send(stream, b"x" * 75)  # 80 with the prefix
    assert len(rig.sent()) == 2
    rig.feed(settings({WINDOW_SIZE: 30}))  # 20 - 70 = -50
    rig.connection.send(stream, b"y" * 5)
    assert rig.sent(DATA) == []
    rig.feed(number(WINDOW_UPDATE, stream.id, 50))
    assert rig.sent(DATA) == []
    rig.feed(number(WINDOW_UPDATE, stream.id, 4))
    assert [one.payload for one in rig.sent(DATA)] == [b"\0\0\0\0"]
    rig.feed(settings({WINDOW_SIZE: 35}))
    assert [one.payload for one in rig.sent(DATA)] == [b"\5yyyy"]
    rig.connection.finish(stream)
    rig.feed(settings({WINDOW_SIZE: 36}))
    assert rig.sent(DATA) == [Frame(DATA, END_STREAM, stream.id, b"y")]


def test_settings_shrink_a_window_while_the_stream_waits_for_the_connection() -> None:
    rig = Rig()
    rig.connection.call("/s/Fill", bytes(65_530), None)  # the connection's window is used up
    stream = rig.connection.call("/s/Call", b"", None)
    rig.sent()
    rig.feed(settings({WINDOW_SIZE: 0}), number(WINDOW_UPDATE, 0, 1000))
    assert rig.sent(DATA) == []
    rig.feed(settings({WINDOW_SIZE: 5}))
    assert rig.sent(DATA) == [Frame(DATA, END_STREAM, stream.id, message(b""))]


def test_streams_share_the_connections_window() -> None:
    rig = Rig({WINDOW_SIZE: 1 << 20})
    streams = [rig.connection.call("/s/Call", bytes(200_000), None) for _ in range(3)]
    rig.sent()
    rig.feed(number(WINDOW_UPDATE, 0, 6 * 16_384))
    assert [one.stream for one in rig.sent(DATA)] == [1, 3, 5, 1, 3, 5]
    rig.connection.cancel(streams[1])
    rig.feed(number(WINDOW_UPDATE, 0, 4 * 16_384))
    assert [one.stream for one in rig.sent(DATA)] == [1, 5, 1, 5]
    rig.feed(number(WINDOW_UPDATE, 0, 1 << 20))
    ends = [one.stream for one in rig.sent(DATA) if one.flags & END_STREAM]
    assert ends == [1, 5]
    assert rig.connection.unsent_bytes == 0


@pytest.mark.parametrize(("announced", "used"), [(16_384, 16_384), (20_000, 20_000)])
def test_max_frame_size_is_obeyed(announced: int, used: int) -> None:
    rig = Rig({FRAME_SIZE: announced})
    rig.connection.call("/s/Call", bytes(60_000), None)
    sizes = [len(one.payload) for one in rig.sent(DATA)]
    assert max(sizes) == used
    assert sum(sizes) == 60_005


def test_max_concurrent_streams_is_obeyed() -> None:
    rig = Rig({MAX_STREAMS: 2})
    connection = rig.connection
    first, _ = rig.call(), rig.open()
    assert (connection.max_streams, connection.room, connection.open_streams) == (2, 0, 2)
    with pytest.raises(RuntimeError, match="no room"):
        connection.open("/s/Open", None)
    rig.feed(rig.answer(first, b""))
    assert connection.room == 1
    rig.feed(settings({MAX_STREAMS: 0}))
    assert (connection.room, connection.is_leaving) == (0, False)
    rig.feed(settings({MAX_STREAMS: 10}))
    assert connection.room == 9


# Windows of ours.


def test_large_answer_gets_the_credit_that_it_needs() -> None:
    rig = Rig()
    stream = rig.call()
    body = message(bytes(1 << 20))
    rig.feed(rig.head(stream), rig.data(stream, body[:1000]))
    assert rig.sent() == [
        Frame(WINDOW_UPDATE, 0, stream.id, (len(body) - 65_535 + 512).to_bytes(4, "big"))
    ]
    assert rig.connection.buffered_bytes == 1000
    rig.feed(rig.data(stream, body[1000:]), rig.trailers(stream))
    assert (stream.status, stream.message) == (0, body[5:])
    assert rig.connection.buffered_bytes == 0


def test_small_messages_give_their_credit_back_in_steps() -> None:
    rig = Rig()
    stream = rig.open()
    rig.feed(rig.head(stream))
    credit = 0
    for count in range(1, 2001):
        events = rig.feed(rig.data(stream, message(bytes(995))))
        assert kinds(events) == [MESSAGE]
        updates = rig.sent(WINDOW_UPDATE)
        credit += sum(one.number for one in updates if one.stream)
        assert 1000 * count - 32_768 < credit <= 1000 * count
        assert len(updates) <= 1
    assert rig.connection.buffered_bytes == 0


def test_connection_gives_back_2_mib_at_a_time() -> None:
    rig = Rig()
    stream = rig.open()
    rig.feed(rig.head(stream))
    updates = []
    for _ in range(5):
        rig.feed(rig.data(stream, message(bytes((1 << 20) - 5))[:1000]))
        for at in range(1000, 1 << 20, 16_000):
            rig.feed(frame(DATA, 0, stream.id, bytes(min(16_000, (1 << 20) - at))))
        updates += [one.number for one in rig.sent(WINDOW_UPDATE) if one.stream == 0]
    assert len(updates) == 2
    assert all(2 << 20 <= one < (2 << 20) + 16_384 for one in updates)


def test_padding_counts_and_comes_back() -> None:
    rig = Rig()
    stream = rig.open()
    rig.feed(rig.head(stream))
    credit = used = 0
    body = message(bytes(3000))
    for i in range(3 * len(body)):
        rig.feed(
            frame(DATA, PADDED, stream.id, b"\x20" + body[i % 3005 : i % 3005 + 1] + bytes(32))
        )
        used += 34
        credit += sum(one.number for one in rig.sent(WINDOW_UPDATE) if one.stream)
        assert used - credit < 65_535
    assert rig.connection.error == ""


def test_budget_holds_up_messages_but_never_for_good() -> None:
    """20 answers of 8 MiB: a peer that sends what it may ends all of them, eight at a time."""
    size = (8 << 20) + 1
    rig = Rig(max_message_bytes=size)
    streams = {stream.id: stream for stream in [rig.call() for _ in range(20)]}
    windows = dict.fromkeys(streams, 65_535)
    left = dict.fromkeys(streams, size + 5)
    for stream in streams.values():
        rig.feed(rig.head(stream), rig.data(stream, message(bytes(size))[:5]))
        windows[stream.id] -= 5
        left[stream.id] -= 5
    part = bytes(16_384)
    ended: list[int] = []
    most = 0
    while left:
        before = len(ended), sum(left.values())
        for one in rig.sent(WINDOW_UPDATE):
            if one.stream in windows:
                windows[one.stream] += one.number
        for stream_id in list(left):
            while windows[stream_id] and left.get(stream_id):
                take = min(16_384, windows[stream_id], left[stream_id])
                windows[stream_id] -= take
                left[stream_id] -= take
                rig.feed(frame(DATA, 0, stream_id, part[:take]))
            most = max(most, rig.connection.buffered_bytes)
            if not left[stream_id]:
                assert kinds(rig.feed(rig.trailers(streams[stream_id]))) == [ENDED]
                ended.append(stream_id)
                del left[stream_id]
        assert before != (len(ended), sum(left.values())), "nobody may send"
    assert sorted(ended) == list(streams)
    assert all(stream.status == 0 for stream in streams.values())
    assert most <= (64 << 20) + 20 * 65_535
    assert rig.connection.buffered_bytes == 0


def test_cancelled_answer_frees_its_share_of_the_budget() -> None:
    size = 16 << 20
    rig = Rig(max_message_bytes=size)
    streams = [rig.call() for _ in range(6)]
    for stream in streams:
        rig.feed(rig.head(stream), rig.data(stream, message(bytes(size))[:5]))
    granted = [one.stream for one in rig.sent(WINDOW_UPDATE)]
    assert granted == [1, 3, 5, 7]
    rig.connection.cancel(streams[4])  # one that waits
    assert rig.sent(WINDOW_UPDATE) == []
    rig.connection.cancel(streams[0])
    assert [one.stream for one in rig.sent(WINDOW_UPDATE)] == [11]


def test_whole_answers_keep_their_share_of_the_budget_until_they_end() -> None:
    """Four calls that the peer leaves open behind their message, and a fifth that waits."""
    size = 16 << 20
    rig = Rig(max_message_bytes=size)
    body = bytes(size)
    streams = [rig.call() for _ in range(5)]
    first, last = streams[0], streams[-1]
    for stream in streams:
        rig.feed(rig.head(stream), rig.data(stream, message(body)[:5]))
    assert [one.stream for one in rig.sent(WINDOW_UPDATE)] == [1, 3, 5, 7]
    for stream in streams[:4]:
        assert rig.feed(rig.data(stream, body)) == []
    assert last.id not in [one.stream for one in rig.sent(WINDOW_UPDATE)]
    assert rig.connection.buffered_bytes == 4 * size + 5
    assert rig.feed(rig.trailers(first)) == [(ENDED, first, b"")]
    assert first.message == body
    assert [one.stream for one in rig.sent(WINDOW_UPDATE)] == [last.id]


def test_memory_of_a_message_grows_with_what_comes() -> None:
    rig = Rig(max_message_bytes=64 << 20)
    tracemalloc.start()
    streams = [rig.call() for _ in range(50)]
    for stream in streams:
        rig.feed(rig.head(stream), rig.data(stream, message(bytes(1 << 20))[:100]))
        rig.feed(frame(DATA, 0, stream.id, b"\0"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_everything_is_freed() -> None:
    rig = Rig()

    class Owner:
        pass

    owner = Owner()
    watch = weakref.ref(owner)
    stream = rig.connection.call("/s/Call", b"x" * 100_000, owner)
    rig.feed(rig.head(stream), rig.data(stream, message(bytes(1000))[:500]))
    connection = rig.connection
    del rig, owner, stream, connection
    gc.collect()
    assert watch() is None
