"""Requests: their numbers, their answers, their failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._core.codec import error_body, push_frame
from ...protocol.messages import MAX_CLIENT_SEQ, Outcome
from ..case import case

if TYPE_CHECKING:
    from ..play import Play

_CODES = (400, 401, 403, 404, 413, 429, 500, 501, 502, 503, 504, 507)


@case("request-numbers", "2.1", "Requests count 1, 2, 3 … without a gap")
async def request_numbers(play: Play) -> None:
    peer = await play.log_in()
    ids = [play.request("echo", str(n)) for n in range(20)]
    for n, request in enumerate(ids):
        asked = await peer.business(n + 2, "echo")
        peer.answer(asked, b"%d" % n)
        await play.answered(request, str(n))


@case("answers-out-of-order", "2.4", "Answers are matched by client_seq_id, in whatever order")
async def answers_out_of_order(play: Play) -> None:
    peer = await play.log_in()
    ids = [play.request("echo", name) for name in "abc"]
    asked = [await peer.business(seq) for seq in (2, 3, 4)]
    for each, data in reversed(list(zip(asked, (b"A", b"B", b"C"), strict=True))):
        peer.answer(each, data)
    for request, answer in zip(ids, "ABC", strict=True):
        await play.answered(request, answer)


@case("answer-code", "7.4", "A service's own code, message and data reach the application")
async def answer_code(play: Play) -> None:
    peer = await play.log_in()
    request = play.request("find")
    peer.answer(await peer.business(2), b"nothing", 404)
    await play.answered(request, "nothing", 404)
    await play.fence(peer)


@case("answer-twice", "4.9", "A request is answered once to the application, whatever comes")
async def answer_twice(play: Play) -> None:
    peer = await play.log_in()
    request = play.request()
    asked = await peer.business(2)
    peer.answer(asked, b"one")
    await play.answered(request, "one")
    peer.answer(asked, b"two")  # another server seq: it is acked, and nobody waits for it
    await play.fence(peer)
    await peer.acks_up_to(peer.table.seq)


@case("answer-to-nothing", "2.3", "An answer that nobody waits for moves the position")
async def answer_to_nothing(play: Play) -> None:
    peer = await play.log_in()
    request = play.request()
    asked = await peer.business(2)
    body = error_body(503, "busy", "", 0, Outcome.UNKNOWN, 77)
    peer.send(push_frame(77, peer.next_seq(), body))
    peer.answer(asked, b"mine")
    await play.answered(request, "mine")
    await peer.acks_up_to(peer.table.seq)


@case("error-codes", "6", "Every ERROR ends its request, with its code, and no other one")
async def error_codes(play: Play) -> None:
    peer = await play.log_in()
    ids = [play.request("fail", str(code)) for code in _CODES]
    for n, code in enumerate(_CODES):
        peer.error(await peer.business(n + 2), code)
    for request, code in zip(ids, _CODES, strict=True):
        await play.failed_request(request, code)
    await play.fence(peer)


@case("error-outcomes", "6", "The outcome of an ERROR reaches the application")
async def error_outcomes(play: Play) -> None:
    peer = await play.log_in()
    names = {Outcome.UNKNOWN: "unknown", Outcome.NOT_STARTED: "not_started", Outcome.DONE: "done"}
    for n, (outcome, name) in enumerate(names.items()):
        request = play.request("fail")
        peer.error(await peer.business(n + 2), 503, outcome=outcome)
        await play.failed_request(request, 503, name)


@case("error-retry-after", "6", "retry_after_ms of an ERROR reaches the application")
async def error_retry_after(play: Play) -> None:
    peer = await play.log_in()
    request = play.request("fail")
    peer.error(await peer.business(2), 503, retry_after_ms=120, outcome=Outcome.NOT_STARTED)
    await play.failed_request(request, 503, "not_started", 120)


@case("error-unsequenced", "2.2", "An ERROR with seq 0 ends its request and moves no position")
async def error_unsequenced(play: Play) -> None:
    peer = await play.log_in()
    request = play.request("fail")
    peer.error(await peer.business(2), 400, is_sequenced=False)
    await play.failed_request(request, 400)
    await play.fence(peer)
    await peer.acks_up_to(peer.table.seq)


@case("error-unknown-type", "1.5", "An ERROR 501 with seq 0 that answers no request is ignored")
async def error_unknown_type(play: Play) -> None:
    peer = await play.log_in()
    peer.send(push_frame(9999, 0, error_body(501, "unknown request type", "", 0, 1, 0)))
    await play.fence(peer)


@case("request-too-large", "1.3", "A request above max_message_bytes is never sent")
async def request_too_large(play: Play) -> None:
    peer = await play.log_in(max_message_bytes=4096)
    large = play.request("echo", "x" * 8000)
    await play.refused(large, peer)
    small = play.request("echo", "y")
    asked = await peer.business(2, "echo")
    peer.answer(asked, b"y")
    await play.answered(small, "y")


@case("bound-notify-before", "7.7", "A notify bound before its answer is told, and both arrive")
async def bound_notify_before(play: Play) -> None:
    peer = await play.log_in()
    request = play.request()
    asked = await peer.business(2)
    peer.notify(b"before")
    await play.delivered(peer.table.seq)
    peer.answer(asked, b"answer")
    peer.notify(b"after")
    await play.answered(request, "answer")
    await play.delivered(peer.table.seq)


@case("numbers-client-seq", "2.1", "Client seqs near 2^53 are exact")
async def numbers_client_seq(play: Play) -> None:
    last = MAX_CLIENT_SEQ - 3
    peer = await play.log_in()
    peer.cut()
    peer = await play.resumed(last)
    for n in (1, 2):
        request = play.request("echo", str(n))
        asked = await peer.business(last + n)
        peer.answer(asked, b"%d" % n)
        await play.answered(request, str(n))
