"""Frames: however they are cut, and what is none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..._core.codec import push_body, push_frame
from ...protocol.messages import PushType
from ..broken import Broken
from ..case import case
from ..peer import answer_frame, message_frame

if TYPE_CHECKING:
    from ..peer import Peer
    from ..play import Play

_MAX_BYTES = 1 << 20
_ANSWER_HEAD = 64
"""Bytes that an answer's frame may take beside its data."""


@case("frames-cut", "1.3", "Frames that arrive byte by byte; over WebSocket, in RFC 6455 pieces")
async def frames_cut(play: Play) -> None:
    peer = await play.log_in()
    data = b"".join(message_frame(peer.next_seq()) for _ in range(3))
    peer.send_pieces([data[at : at + 1] for at in range(len(data))])
    await play.delivered(2, 3, 4)
    await play.fence(peer)


@case("frames-many", "1.3", "A thousand frames in one piece")
async def frames_many(play: Play) -> None:
    peer = await play.log_in()
    peer.notify(count=1000)
    await play.delivered(*range(2, 1002))
    await peer.acks_up_to(1001)


@case("frames-mixed", "1.3", "Control frames and messages in one piece")
async def frames_mixed(play: Play) -> None:
    peer = await play.log_in()
    request = play.request()
    asked = await peer.business(2)
    peer.send(
        message_frame(peer.next_seq()),
        push_frame(0, 0, push_body(99, b"")),
        answer_frame(asked, peer.next_seq(), b"mixed"),
        message_frame(peer.next_seq()),
    )
    await play.answered(request, "mixed")
    await play.delivered(2, 4)


@case("frame-largest", "1.3", "A frame of 1 MiB, or of the client's max_message_bytes, is taken")
async def frame_largest(play: Play) -> None:
    peer = await play.log_in()
    assert peer.start_request is not None
    limit = min(peer.start_request.max_message_bytes or _MAX_BYTES, _MAX_BYTES)
    request = play.request()
    asked = await peer.business(2)
    data = b"x" * (limit - _ANSWER_HEAD)
    frame = answer_frame(asked, peer.next_seq(), data)
    spare = limit - (len(frame) - 4)
    peer.send(answer_frame(asked, peer.table.seq, data + b"x" * spare))
    await play.answered(request, "x" * (len(data) + spare))
    await play.fence(peer)


@case("frame-empty-message", "7.6", "A notify without data is handed over, empty")
async def frame_empty_message(play: Play) -> None:
    peer = await play.log_in()
    payload = b"\x08\xc8\x01"  # code 200, and nothing else
    peer.send(push_frame(0, peer.next_seq(), push_body(PushType.BUSINESS_DATA, payload)))
    await play.delivered(2)
    await play.fence(peer)


def _garbage_title(what: str) -> str:
    return f"{what}: the client closes the connection, and hands nothing over"


@case("frame-oversize", "1.4", _garbage_title("A length above every limit"))
async def frame_oversize(play: Play) -> None:
    peer = await play.log_in()
    await _gives_up(play, peer, b"\x7f\xff\xff\xff" + bytes(60))


@case("frame-zero", "1.4", _garbage_title("A frame of 0 bytes"))
async def frame_zero(play: Play) -> None:
    peer = await play.log_in()
    await _gives_up(play, peer, bytes(4))


@case("frame-garbage", "1.4", _garbage_title("A frame that does not decode"))
async def frame_garbage(play: Play) -> None:
    peer = await play.log_in()
    await _gives_up(play, peer, b"\x00\x00\x00\x10" + b"\xff" * 16)


@case("websocket-text", "1.9", _garbage_title("A text message"), transport="websocket")
async def websocket_text(play: Play) -> None:
    peer = await play.log_in()
    await _gives_up(play, peer, "text")


@case("payload-garbage", "1.4", _garbage_title("A payload that does not decode"))
async def payload_garbage(play: Play) -> None:
    peer = await play.log_in()
    await _gives_up(play, peer, push_frame(0, 3, push_body(PushType.BUSINESS_DATA, b"\xff" * 9)))


@case("garbage-at-start", "1.4", "Garbage in the place of START_RESP ends the try, no more")
async def garbage_at_start(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    bad = await play.resume_asked()
    bad.send(b"\x00\x00\x00\x20" + os.urandom(4) + b"\xff" * 28)
    play.awaited = "the client to close, and to try again"
    await bad.closed()
    await play.fence(await play.resumed(1))


async def _gives_up(play: Play, peer: Peer, garbage: bytes | str) -> None:
    """Send good frames and garbage; the client closes, and comes back or not."""
    peer.notify()
    await play.delivered(2)
    peer.send_pieces([garbage])
    await play.left(peer, "it has garbage")
    if peer.close_code in (4410, 4401):
        raise Broken("a close that says what is wrong", f"it closed with {peer.close_code}")
    again = await play.connection()
    start = await again.start()
    if start.session_id and start.last_acked_seq_id != 2:
        raise Broken("the position 2", f"START has {start.last_acked_seq_id}", "4.1")
