"""Ends: every close code, KICK, GOAWAY and STOP."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ...protocol.messages import RequestType
from ..broken import Broken
from ..case import case

if TYPE_CHECKING:
    from ..case import Script
    from ..play import Play

_HINT_MS = 400
_RESUME, _FRESH, _STOP = "resume", "fresh", "stop"

# PROTOCOL 6, of a connection whose START was answered well.
_CODES = {
    0: (_STOP, "normal: no reconnect"),
    4400: (_STOP, "protocol error: no reconnect, the session is over"),
    4401: (_STOP, "authentication failed: not with these credentials again"),
    4403: (_FRESH, "resume denied: reconnect with a fresh START"),
    4408: (_RESUME, "time-out: reconnect and resume"),
    4409: (_STOP, "overtaken by another process with the same state: stop"),
    4410: (_STOP, "kicked or replaced: no reconnect, the session is over"),
    4411: (_FRESH, "openid busy: reconnect, without the session"),
    4413: (_RESUME, "slow consumer: reconnect and resume"),
    4426: (_STOP, "version not served: no reconnect"),
    4429: (_RESUME, "rate limited: reconnect and resume"),
    4477: (_STOP, "an unknown 44xx: no reconnect"),
    4500: (_RESUME, "internal error: reconnect and resume"),
    4503: (_RESUME, "overloaded or draining: reconnect and resume"),
    4577: (_RESUME, "an unknown 45xx: back off and resume"),
    4600: (_STOP, "a 46xx of the operator's: no reconnect"),
}


def _close_case(code: int, action: str) -> Script:
    async def script(play: Play) -> None:
        peer = await play.log_in()
        await peer.acks_up_to(1)
        peer.close(code)
        if action == _STOP:
            await play.stays_away()
        elif action == _RESUME:
            again = await play.resumed(1)
            await play.fence(again)
        else:
            await _begins_anew(play)

    return script


for _code, (_action, _title) in _CODES.items():
    case(f"close-{_code}", "6", f"Close {_code}, {_title}")(_close_case(_code, _action))


async def _begins_anew(play: Play) -> None:
    """Expect a START without a session, its login, and word that the last session is lost."""
    again = await play.connection()
    start = await again.start()
    if start.session_id:
        raise Broken("a START without session_id", f"it names {start.session_id!r}")
    play.table.session_id += "-new"
    play.table.seq = 0
    again.respond()
    await play.hello(again)
    await play.session_lost()
    await play.fence(again)


@case("close-none", "6", "A connection that is lost without a code: reconnect and resume")
async def close_none(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    await play.fence(await play.resumed(1))


def _hint_case(code: int, reason: str) -> Script:
    async def script(play: Play) -> None:
        peer = await play.log_in()
        closed = time.monotonic()
        peer.close(code, reason)
        again = await play.connection()
        waited_ms = (time.monotonic() - closed) * 1000
        if waited_ms < _HINT_MS:
            raise Broken(
                f"a wait of {_HINT_MS} ms", f"the client was back after {waited_ms:.0f} ms", "3.8"
            )
        await again.start()

    return script


for _code in (4411, 4429, 4503):
    case(f"hint-{_code}", "6", f"Close {_code} with retry_after_ms: not before that time")(
        _hint_case(_code, f"retry_after_ms={_HINT_MS}")
    )
case("hint-reconnect", "6", "Close 4503 with reconnect_after_ms: not before that time")(
    _hint_case(4503, f"reconnect_after_ms={_HINT_MS}")
)


@case("kick", "3.9", "KICK and its close end the session, and the client stays away")
async def kick(play: Play) -> None:
    peer = await play.log_in()
    request = play.request("slow")
    await peer.business(2)
    peer.kick(4410, 4410)
    await play.failed_request(request, outcome="unknown")
    await play.stays_away()


@case("kick-operator", "7.5", "A kick with a code of the operator's closes with it, for good")
async def kick_operator(play: Play) -> None:
    peer = await play.log_in()
    peer.kick(4677, 4677)
    await play.stays_away()


@case("kick-expired", "3.10", "KICK with 4401 for expired credentials ends the session")
async def kick_expired(play: Play) -> None:
    peer = await play.log_in()
    peer.kick(4401, 4401)
    await play.stays_away()


@case("goaway-at-once", "3.9", "GOAWAY without time and address: resume on a fresh connection")
async def goaway_at_once(play: Play) -> None:
    peer = await play.log_in()
    request = play.request("slow")
    asked = await peer.business(2)
    peer.goaway()
    again = await play.resumed(2)
    again.answer(asked, b"late")
    await play.answered(request, "late")
    await play.fence(again)


@case("goaway-address", "3.9", "GOAWAY with an address: the client goes on there")
async def goaway_address(play: Play) -> None:
    peer = await play.log_in()
    _, address = await play.open()
    peer.goaway(0, address)
    again = await play.resume_asked()
    if again.door == peer.door:
        raise Broken(f"a connection to {address}", "the client came back to the same gateway")
    again.respond_resumed(1)
    await play.fence(again)


@case("goaway-address-home", "3.9", "GOAWAY with an address: the session is there from then on")
async def goaway_address_home(play: Play) -> None:
    peer = await play.log_in()
    _, address = await play.open()
    peer.goaway(0, address)
    there = await play.resumed(1)
    await play.fence(there)
    there.close(4500)
    again = await play.connection()
    await again.start()  # by which token is what other cases ask
    if again.door != there.door:
        raise Broken(f"a resume at {address}", "the client went to the gateway that it had left")
    again.respond_resumed(1)
    await play.fence(again)


@case("goaway-address-dead", "3.9", "GOAWAY with an address that nobody has: the client comes back")
async def goaway_address_dead(play: Play) -> None:
    peer = await play.log_in()
    peer.goaway(0, play.unused_address())
    again = await play.resumed(1)
    await play.fence(again)


@case("goaway-answers", "3.9", "GOAWAY with a time: answers to what was sent are waited for")
async def goaway_answers(play: Play) -> None:
    peer = await play.log_in()
    request = play.request("slow")
    asked = await peer.business(2)
    peer.goaway(_HINT_MS)
    await play.fence(peer)  # the client has read GOAWAY
    later = play.request("later")
    peer.answer(asked, b"in time")
    await play.answered(request, "in time")
    play.awaited = "the client to ack, and to close the connection"
    await peer.closed()
    if peer.waiting:
        raise Broken("nothing new behind GOAWAY", "the client sent a request")
    if peer.acked < peer.table.seq:
        raise Broken(f"an ack of {peer.table.seq} before the close", f"it acked {peer.acked}")
    again = await play.resumed(2)
    again.answer(await again.business(3, "later"), b"there")
    await play.answered(later, "there")


@case("goaway-later", "3.9", "GOAWAY with a time: the client comes back, and not before it")
async def goaway_later(play: Play) -> None:
    peer = await play.log_in()
    asked = time.monotonic()
    peer.goaway(_HINT_MS)
    again = await play.resume_asked()
    waited_ms = (time.monotonic() - asked) * 1000
    if waited_ms < _HINT_MS:
        raise Broken(f"a wait of {_HINT_MS} ms", f"the client was back after {waited_ms:.0f} ms")
    again.respond_resumed(1)
    await play.fence(again)


@case("stop", "3.9", "STOP ends the session; the client waits for the close and stays away")
async def stop(play: Play) -> None:
    peer = await play.log_in()
    play.command("stop")
    play.awaited = "STOP"
    await peer.receive(RequestType.STOP)
    peer.close(0)
    await play.stays_away()


@case("stop-unanswered", "3.9", "Without a close behind STOP the client ends by itself", lasts=1)
async def stop_unanswered(play: Play) -> None:
    peer = await play.log_in()
    play.command("stop")
    play.awaited = "STOP"
    await peer.receive(RequestType.STOP)
    await play.stays_away()
    await peer.closed()
