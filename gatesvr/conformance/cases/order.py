"""Server seqs: order, repeats, gaps, SKIPs, and pushes of types to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._core.codec import push_body, push_frame
from ..._pb import message_pb2 as pb
from ...protocol.messages import PushType
from ..broken import Broken
from ..case import case
from ..peer import message_frame, skip_frame

if TYPE_CHECKING:
    from ..play import Play

_EXPIRED = 1
_CONFLATED = 6
_FAR_TYPE = 99
_EXACT = 2**53 - 3
"""Beyond it a double holds no three more numbers exactly."""


@case("push-order", "2.3", "Notifies are handed over once, in the order of their seqs")
async def push_order(play: Play) -> None:
    peer = await play.log_in()
    peer.notify(count=200)
    await play.delivered(*range(2, 202))
    await peer.acks_up_to(201)


@case("duplicate-seqs", "2.3", "A push at or below the position is dropped")
async def duplicate_seqs(play: Play) -> None:
    peer = await play.log_in()
    peer.notify(count=2)
    peer.send(message_frame(3), message_frame(2), message_frame(1))
    await play.delivered(2, 3)
    await play.fence(peer)


@case("gap", "2.3", "A gap in the seqs: the client closes and resumes")
async def gap(play: Play) -> None:
    peer = await play.log_in()
    peer.notify()
    await play.delivered(2)
    peer.table.seq = 4
    peer.send(message_frame(4))
    await play.left(peer, "it has a gap")
    again = await play.connection()
    start = await again.start()
    if start.last_acked_seq_id != 2:
        raise Broken("the position 2", f"START has {start.last_acked_seq_id}", "4.1")
    again.respond_resumed(1)
    again.send(message_frame(3), message_frame(4))
    await play.delivered(3, 4)


@case("skip", "2.6", "A SKIP is told as a loss once, in its place, and acked")
async def skip(play: Play) -> None:
    peer = await play.log_in()
    peer.notify()
    peer.skip(5, _EXPIRED)
    peer.notify()
    await play.delivered(2, "lost 3-5", 6)
    await peer.acks_up_to(6)
    await play.fence(peer)


@case("skip-overlap", "2.6", "Of a SKIP only what lies above the position is lost")
async def skip_overlap(play: Play) -> None:
    peer = await play.log_in()
    peer.notify(count=2)
    await play.delivered(2, 3)
    peer.table.seq = 5
    peer.send(skip_frame(2, 5))
    await play.delivered("lost 4-5")
    await play.fence(peer)


@case("skip-behind", "2.3", "A SKIP at or below the position is dropped")
async def skip_behind(play: Play) -> None:
    peer = await play.log_in()
    peer.notify(count=3)
    peer.send(skip_frame(2, 3))
    await play.delivered(2, 3, 4)
    await play.fence(peer)


@case("skip-gap", "2.3", "A SKIP that begins above position + 1 is a gap: close and resume")
async def skip_gap(play: Play) -> None:
    peer = await play.log_in()
    peer.table.seq = 6
    peer.send(skip_frame(4, 6))
    await play.left(peer, "it has a gap")
    again = await play.resumed(1)
    again.send(skip_frame(2, 6))
    await play.delivered("lost 2-6")
    await play.fence(again)


@case("skip-merged", "2.6", "Neighbouring SKIPs and one SKIP for both mean the same")
async def skip_merged(play: Play) -> None:
    peer = await play.log_in()
    peer.skip(3)
    await play.delivered("lost 2-3")
    peer.skip(4)
    await play.delivered("lost 4-4")
    await play.fence(peer)


@case("conflation", "7.5", "A SKIP for a conflated message goes before the newest one")
async def conflation(play: Play) -> None:
    peer = await play.log_in()
    peer.skip(4, _CONFLATED)
    peer.notify(b"newest")
    await play.delivered("lost 2-4", 5)
    await peer.acks_up_to(5)


@case("unknown-enum", "1.5", "An unknown reason of a SKIP counts as 0")
async def unknown_enum(play: Play) -> None:
    peer = await play.log_in()
    peer.skip(2, 77)
    await play.delivered("lost 2-2")
    await play.fence(peer)


@case("unknown-push-type", "1.5", "An unknown push type with a seq moves the position, silently")
async def unknown_push_type(play: Play) -> None:
    peer = await play.log_in()
    peer.send(push_frame(0, peer.next_seq(), push_body(_FAR_TYPE, b"from the future")))
    await peer.acks_up_to(peer.table.seq)
    await play.fence(peer)


@case("unknown-control", "1.5", "An unknown push type with seq 0 is ignored")
async def unknown_control(play: Play) -> None:
    peer = await play.log_in()
    peer.send(push_frame(0, 0, push_body(_FAR_TYPE, b"from the future")))
    await play.fence(peer)
    await peer.acks_up_to(peer.table.seq)


@case("unknown-fields", "1.5", "Unknown fields are ignored, of every wire type")
async def unknown_fields(play: Play) -> None:
    # Fields 900 to 902: a varint of 64 bits, bytes, and 8 fixed bytes.
    future = b"\xa0\x38" + b"\xff" * 9 + b"\x01" + b"\xaa\x38\x03abc" + b"\xb1\x38" + bytes(8)
    peer = await play.log_in(future=future)
    answer = pb.BusinessResponse(code=200, message="ok", data=b"data").SerializeToString() + future
    request = play.request()
    asked = await peer.business(2)
    body = push_body(PushType.BUSINESS_DATA, answer, None, asked.seq_id) + future
    peer.send(push_frame(asked.msg_id, peer.next_seq(), body))
    await play.answered(request, "data")
    await play.fence(peer)


@case("numbers-server-seq", "2.2", "Server seqs near 2^53 are exact, in notifies, losses and acks")
async def numbers_server_seq(play: Play) -> None:
    peer = await play.log_in()
    peer.skip(_EXACT)
    peer.notify(count=2)
    await play.delivered(f"lost 2-{_EXACT}", _EXACT + 1, _EXACT + 2)
    await peer.acks_up_to(_EXACT + 2)
    peer.cut()
    again = await play.connection()
    start = await again.start()
    if start.last_acked_seq_id != _EXACT + 2:
        raise Broken(f"the position {_EXACT + 2}", f"START has {start.last_acked_seq_id}")
