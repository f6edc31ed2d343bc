"""Acknowledgements: at the latest when, and never of what did not come."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ..broken import Broken
from ..case import case

if TYPE_CHECKING:
    from ..peer import Peer
    from ..play import Play


@case("ack-deadline", "2.5", "A message is acked within 1 s, though nothing else happens")
async def ack_deadline(play: Play) -> None:
    peer = await play.log_in()
    await peer.acks_up_to(1)
    peer.notify()
    sent = time.monotonic()
    play.awaited = "an ack of 2 within 1 s"
    await peer.acks_up_to(2)
    if (took := time.monotonic() - sent) > play.slow(2.0):
        raise Broken("an ack within 1 s", f"it took {took:.1f} s")


@case("ack-messages", "2.5", "The client acks after a quarter of max_unacked_messages")
async def ack_messages(play: Play) -> None:
    peer = await play.log_in(max_unacked_messages=8)
    await _flow(play, peer, count=400, window=8, data=b"")


@case("ack-bytes", "2.5", "The client acks after a quarter of max_unacked_bytes")
async def ack_bytes(play: Play) -> None:
    peer = await play.log_in(max_unacked_bytes=32 << 10)
    await _flow(play, peer, count=400, window=8, data=b"x" * (4 << 10))


async def _flow(play: Play, peer: Peer, *, count: int, window: int, data: bytes) -> None:
    """Push with a window of unacked messages, which a client that waits for its timer starves."""
    last = peer.table.seq + count
    play.awaited = f"acks early enough for {count} messages, {window} at a time"
    try:
        async with asyncio.timeout(play.slow(count / window / 10)):
            while peer.table.seq < last:
                await peer.until(lambda: peer.table.seq - peer.acked < window)
                peer.notify(
                    data, min(window - (peer.table.seq - peer.acked), last - peer.table.seq)
                )
            await peer.acks_up_to(last)
    except TimeoutError:
        raise Broken(
            f"acks before {window} messages are unacked", "the client acked by its timer alone"
        ) from None


@case("ack-burst", "2.5", "A burst of 900 messages is acked to its end, by however few acks")
async def ack_burst(play: Play) -> None:
    peer = await play.log_in()
    peer.notify(count=900)
    await peer.acks_up_to(peer.table.seq)


@case("ack-rises", "2.5", "Acks never pass what was sent, and count what was handed over")
async def ack_rises(play: Play) -> None:
    peer = await play.log_in()
    for _ in range(20):
        peer.notify(count=3)
        request = play.request()
        asked = await peer.next()
        peer.answer(asked)
        await play.answered(request)
    await peer.acks_up_to(peer.table.seq)


@case("ack-of-skip", "2.6", "A SKIP is acked like a message")
async def ack_of_skip(play: Play) -> None:
    peer = await play.log_in()
    peer.skip(40)
    await peer.acks_up_to(40)


@case("ack-of-error", "2.2", "An ERROR that consumed a number is acked")
async def ack_of_error(play: Play) -> None:
    peer = await play.log_in()
    request = play.request("fail")
    peer.error(await peer.business(2), 502)
    await play.failed_request(request, 502)
    await peer.acks_up_to(2)


@case(
    "ack-after-resume", "2.5", "What was handed over before a cut is acked behind it at the latest"
)
async def ack_after_resume(play: Play) -> None:
    peer = await play.log_in()
    await peer.acks_up_to(1)
    peer.notify(count=3)
    await play.delivered(2, 3, 4)
    peer.cut()
    again = await play.resumed(1)
    again.notify()
    await play.delivered(5)
    await again.acks_up_to(5)
