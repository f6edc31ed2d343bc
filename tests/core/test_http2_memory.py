"""What an Http2Connection holds of answers that do not end."""

from __future__ import annotations

from gatesvr._core import http2

from .http2_rig import WINDOW_UPDATE, Rig

MESSAGE_BYTES = 16 << 20
BUDGET = 64 << 20


def test_whole_answers_without_their_end_count_into_the_budget() -> None:
    """Five calls, four of which the peer leaves open behind their message: the fifth waits."""
    rig = Rig(max_message_bytes=MESSAGE_BYTES)
    body = bytes(MESSAGE_BYTES)
    prefix = b"\0" + MESSAGE_BYTES.to_bytes(4)
    streams = [rig.call() for _ in range(5)]
    for stream in streams:
        rig.feed(rig.head(stream), rig.data(stream, prefix))
        credit = sum(one.number for one in rig.sent(WINDOW_UPDATE) if one.stream == stream.id)
        if stream is streams[-1]:
            assert credit < MESSAGE_BYTES
            break
        assert 65_535 + credit >= MESSAGE_BYTES + 5
        for at in range(0, MESSAGE_BYTES, 1 << 20):
            assert rig.feed(rig.data(stream, body[at : at + (1 << 20)])) == []
        rig.sent()
    assert rig.connection.buffered_bytes == 4 * MESSAGE_BYTES + 5
    assert rig.connection.buffered_bytes <= BUDGET + 5 * 65_535
    first, last = streams[0], streams[-1]
    assert rig.feed(rig.trailers(first)) == [(http2.ENDED, first, b"")]
    assert first.message == body
    credit = sum(one.number for one in rig.sent(WINDOW_UPDATE) if one.stream == last.id)
    assert 65_535 + credit >= MESSAGE_BYTES + 5
