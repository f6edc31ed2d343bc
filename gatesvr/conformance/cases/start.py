"""How a session begins: START, hello, and refusals of either."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ...protocol.messages import RequestType
from ..broken import Broken
from ..case import case

if TYPE_CHECKING:
    from ..play import Play

_RESERVED = 0b11110
_BUSINESS = int(RequestType.BUSINESS)
_HINT_MS = 400
_FIRST, _SECOND = "first", "second"  # auth_tokens


@case("start-first", "3.1", "START comes first, names the openid, and no session")
async def start_first(play: Play) -> None:
    peer = await play.connect()
    start = await peer.start()
    if start.openid != "ann":
        raise Broken("the openid ann", f"START has {start.openid!r}")
    if start.session_id or start.resume_token:
        raise Broken("no session_id and no resume_token", "START has one")
    peer.respond()
    await play.hello(peer)
    await play.connected()


@case("start-version", "1.8", "START asks for protocol 1 and sets no reserved capability")
async def start_version(play: Play) -> None:
    peer = await play.connect()
    start = await peer.start()
    if start.protocol != 1:
        raise Broken("protocol 1", f"START has {start.protocol}")
    if start.capabilities & _RESERVED:
        raise Broken("bits 1 to 4 of capabilities clear", f"START has {start.capabilities:#x}")
    if not start.capabilities & 1:
        raise Broken("bit 0 of capabilities (SKIP), which these cases need", "START has it not")


@case("start-unanswered", "3.8", "Without a START_RESP for 10 s the client tries again", lasts=11)
async def start_unanswered(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    silent = await play.resume_asked()
    began = time.monotonic()
    peer = await play.resume_asked()
    if (waited := time.monotonic() - began) < 5:
        raise Broken("a wait of 10 s for START_RESP", f"it lasted {waited:.1f} s")
    play.awaited = "the end of the connection that was given up"
    await silent.closed()
    peer.respond_resumed(1)
    await play.fence(peer)


@case("start-lost", "3.8", "The first START_RESP lost: each try is a START without a session_id")
async def start_lost(play: Play) -> None:
    peer = await play.connect()
    await peer.start()
    peer.cut()
    peer = await play.connection()
    start = await peer.start()
    if start.session_id or start.resume_token:
        raise Broken("a START without session_id", "it names a session")
    peer.respond()
    await play.hello(peer)
    await play.connected()
    await play.fence(peer)


@case("start-refused-busy", "3.8", "A START refused with 503 is tried again, after retry_after_ms")
async def start_refused_busy(play: Play) -> None:
    peer = await play.connect()
    await peer.start()
    refused = time.monotonic()
    reason = f"retry_after_ms={_HINT_MS}"
    peer.refuse(503, 4503, reason, retry_after_ms=_HINT_MS)
    peer = await play.connection()
    waited_ms = (time.monotonic() - refused) * 1000
    if waited_ms < _HINT_MS:
        raise Broken(f"a wait of {_HINT_MS} ms", f"the client was back after {waited_ms:.0f} ms")
    start = await peer.start()
    if start.session_id:
        raise Broken("a START without session_id", "it names a session")
    peer.respond()
    await play.hello(peer)
    await play.connected()


@case("start-refused-auth", "3.10", "A START refused with 401 and 4401 is not tried again")
async def start_refused_auth(play: Play) -> None:
    peer = await play.connect()
    await peer.start()
    peer.refuse(401, 4401)
    await play.failed()
    await play.quiet()


@case("hello-refused", "3.2", "A hello answered other than 200 is no login")
async def hello_refused(play: Play) -> None:
    peer = await play.connect()
    await peer.start()
    peer.respond()
    peer.answer(await peer.business(1, "hello"), code=403)
    await play.failed()
    await play.quiet()


@case("hello-order", "3.2", "hello comes with seq 1, before every other request")
async def hello_order(play: Play) -> None:
    peer = await play.connect()
    await peer.start()
    peer.respond()
    hello = await peer.business(1, "hello")
    request = play.request("echo", "hi")
    peer.answer(hello)
    await play.connected()
    # It may come before the answer or behind it.
    peer.answer(await peer.business(2, "echo"), b"hi")
    await play.answered(request, "hi")


@case(
    "auth-renewal", "3.10", "A client renews its credentials by AUTH before they expire",
    needs="renew", lasts=9,
)  # fmt: skip
async def auth_renewal(play: Play) -> None:
    peer = await play.connect(tokens=[_FIRST, _SECOND])
    start = await peer.start()
    if start.auth_token != _FIRST:
        raise Broken("the auth_token first", f"START has {start.auth_token!r}")
    expires = time.time() + 10
    peer.respond(auth_expires_at_ms=int(expires * 1000))
    await play.hello(peer)
    await play.connected()
    token, msg_id, request = await peer.auth()
    if time.time() >= expires:
        raise Broken("AUTH before the credentials expire", "it came later")
    if token != _SECOND:
        raise Broken("the auth_token second", f"AUTH has {token!r}")
    if not msg_id:
        raise Broken("a msg_id other than 0", "AUTH has 0")
    peer.answer_auth(request, expires + 3600)
    await play.fence(peer)


@case(
    "auth-refused", "3.10", "A refused AUTH touches neither session nor connection",
    needs="renew", lasts=2,
)  # fmt: skip
async def auth_refused(play: Play) -> None:
    peer = await play.connect(tokens=[_FIRST, _SECOND])
    await peer.start()
    expires = time.time() + 2
    peer.respond(auth_expires_at_ms=int(expires * 1000))
    await play.hello(peer)
    await play.connected()
    _, _, auth = await peer.auth()
    peer.answer_auth(auth, 0, 401)
    request = play.request("echo", "still here")
    while (asked := await peer.next()).type != _BUSINESS:
        peer.answer_auth(asked, 0, 401)  # it may try again
    peer.answer(asked, b"still here")
    await play.answered(request, "still here")
