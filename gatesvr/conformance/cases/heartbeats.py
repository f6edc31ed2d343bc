"""Heartbeats, and silence."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..._core.codec import push_body, push_frame
from ..._pb import message_pb2 as pb
from ...protocol.messages import MAX_CLIENT_SEQ, PushType
from ..broken import Broken
from ..case import case

if TYPE_CHECKING:
    from ..play import Play

_INTERVAL_S = 1


@case("heartbeat", "3.8", "A heartbeat every heartbeat_interval, and its answer is taken", lasts=3)
async def heartbeat(play: Play) -> None:
    peer = await play.log_in(heartbeat_interval=_INTERVAL_S)
    play.awaited = "three heartbeats, 1 s apart"
    async with asyncio.timeout(play.slow(3 * _INTERVAL_S + 3)):
        await peer.until(lambda: len(peer.heartbeats) >= 3)
    times = [at for at, _ in peer.heartbeats]
    if times[2] - times[0] < _INTERVAL_S:
        raise Broken("one heartbeat a second", "they come faster")
    await play.fence(peer)


@case(
    "heartbeat-lost", "3.8", "A heartbeat unanswered, and no byte for 2 intervals: resume", lasts=3
)
async def heartbeat_lost(play: Play) -> None:
    peer = await play.log_in(heartbeat_interval=_INTERVAL_S)
    peer.answers_heartbeats = False
    again = await play.resumed(1)
    play.awaited = "the end of the connection that was given up"
    await peer.closed()
    await play.fence(again)


@case("heartbeat-bytes", "3.8", "Heartbeats unanswered, but other bytes: the client stays", lasts=4)
async def heartbeat_bytes(play: Play) -> None:
    peer = await play.log_in(heartbeat_interval=_INTERVAL_S)
    peer.answers_heartbeats = False
    for _ in range(14):
        await asyncio.sleep(0.3)
        if peer.is_ended:
            raise Broken("the connection to stay", "the client closed it")
        await play.fence(peer)
    if not peer.heartbeats:
        raise Broken("heartbeats", "there was none")
    await play.quiet(0.0)


@case("heartbeat-answer", "3.8", "A HEARTBEAT_RESP with a time near 2^53 is taken", lasts=1)
async def heartbeat_answer(play: Play) -> None:
    peer = await play.log_in(heartbeat_interval=_INTERVAL_S)
    peer.answers_heartbeats = False
    await peer.until(lambda: peer.heartbeats)
    _, asked = peer.heartbeats[0]
    wrote = pb.HeartbeatRequest.FromString(asked.payload).client_timestamp
    answer = pb.HeartbeatResponse(client_timestamp=wrote, server_timestamp=MAX_CLIENT_SEQ)
    body = push_body(PushType.HEARTBEAT_RESP, answer.SerializeToString())
    peer.send(push_frame(asked.msg_id, 0, body))
    peer.answers_heartbeats = True
    await play.fence(peer)
