"""Resume: tokens, attempts, replays, requests across it, and sessions that are gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..broken import Broken
from ..case import case
from ..peer import answer_frame, message_frame, skip_frame
from ..play import expect_resume

if TYPE_CHECKING:
    from ..peer import Peer
    from ..play import Play

_HINT_MS = 400
_UNKNOWN_SESSION = 3
_DENIED = 5
_REPLACED = 7
_KICKED = 8


@case("resume", "4.1", "A lost connection is resumed from the client's position")
async def resume(play: Play) -> None:
    peer = await play.log_in()
    peer.notify(count=5)
    await play.delivered(2, 3, 4, 5, 6)
    peer.cut()
    again = await play.connection()
    start = await again.start()
    expect_resume(start, play.table)
    if start.last_acked_seq_id != 6:
        raise Broken("the position 6", f"START has {start.last_acked_seq_id}")
    if start.openid not in ("", "ann"):
        raise Broken("the openid ann, or none", f"START has {start.openid!r}")
    again.respond_resumed(1)
    await play.fence(again)


@case("resume-token-rotation", "4.2", "Each START_RESP has a new token, and the next try uses it")
async def resume_token_rotation(play: Play) -> None:
    peer = await play.log_in()
    for _ in range(4):
        peer.cut()
        peer = await play.resumed(1)
        await play.fence(peer)


@case("resume-lost-start-resp", "4.2", "START_RESP lost: the same token again, a higher attempt")
async def resume_lost_start_resp(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    lost = await play.connection()
    first = await lost.start()
    lost.cut()
    again = await play.connection()
    start = await again.start()
    expect_resume(start, play.table)
    _higher(first.attempt, start.attempt)
    again.respond_resumed(1)
    await play.fence(again)


@case("resume-attempts", "4.3", "attempt counts up with one token, and from 1 with the next")
async def resume_attempts(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    last = 0
    for _ in range(4):
        lost = await play.resume_asked()
        assert lost.start_request is not None
        _higher(last, lost.start_request.attempt)
        last = lost.start_request.attempt
        lost.cut()
    again = await play.resumed(1)
    await play.fence(again)
    again.cut()
    start = await (await play.connection()).start()
    if start.attempt != 1:
        raise Broken("attempt 1 with a new token", f"it is {start.attempt}")


@case("resume-stale-attempt", "4.3", "409 on the newest connection: again, above the attempt seen")
async def resume_stale_attempt(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    stale = await play.resume_asked()
    stale.refuse(409, 4409, attempt=41)
    again = await play.resume_asked()
    assert again.start_request is not None
    _higher(41, again.start_request.attempt)
    again.respond_resumed(1)
    await play.fence(again)


@case("resume-overtaken", "6", "4409 on a try that was the newest: again, and resume")
async def resume_overtaken(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    overtaken = await play.resume_asked()
    assert overtaken.start_request is not None
    overtaken.close(4409)
    again = await play.resume_asked()
    assert again.start_request is not None
    _higher(overtaken.start_request.attempt, again.start_request.attempt)
    again.respond_resumed(1)
    await play.fence(again)


@case("resume-waits", "4.2", "Behind a START that resumes nothing is sent until START_RESP")
async def resume_waits(play: Play) -> None:
    peer = await play.log_in()
    first = play.request("slow")
    asked = await peer.business(2)
    peer.cut()
    again = await play.resume_asked()
    second = play.request("eager")
    await play.quiet(0.3)
    if again.waiting or again.acks or again.heartbeats:
        raise Broken("nothing before START_RESP", "the client sent something")
    again.respond_resumed(2)
    again.answer(asked, b"first")
    again.answer(await again.business(3, "eager"), b"second")
    await play.answered(first, "first")
    await play.answered(second, "second")


@case("resume-sent-again", "4.6", "A request that was not accepted goes again, under its numbers")
async def resume_sent_again(play: Play) -> None:
    peer = await play.log_in()
    request = play.request("echo", "data")
    before = await peer.business(2)
    peer.cut()
    again = await play.resumed(1)
    asked = await again.business(2, "echo")
    if asked.msg_id != before.msg_id:
        raise Broken(f"the msg_id {before.msg_id}", f"it is {asked.msg_id}", "2.1")
    if asked.payload != before.payload:
        raise Broken("the same payload", "it differs")
    again.answer(asked, b"once")
    await play.answered(request, "once")
    await play.fence(again)


@case("resume-accepted", "4.6", "A request that was accepted is not sent again; its answer comes")
async def resume_accepted(play: Play) -> None:
    peer = await play.log_in()
    request = play.request()
    asked = await peer.business(2)
    peer.cut()
    again = await play.resumed(2)
    following = play.request("next")
    again.answer(await again.business(3, "next"), b"next")
    await play.answered(following, "next")
    again.answer(asked, b"late")
    await play.answered(request, "late")


@case("resume-partly", "4.6", "Of three requests, those above max_client_seq go again, in order")
async def resume_partly(play: Play) -> None:
    peer = await play.log_in()
    ids = [play.request("echo", str(n)) for n in range(3)]
    asked = [await peer.business(seq) for seq in (2, 3, 4)]
    peer.cut()
    again = await play.resumed(2)
    sent = [await again.business(seq, "echo") for seq in (3, 4)]
    following = play.request("next")
    sent.append(await again.business(5, "next"))
    for each in (*sent, asked[0]):
        again.answer(each, b"done")
    for request in (*ids, following):
        await play.answered(request, "done")


@case("resume-answered-twice", "4.9", "An answer that is replayed behind a cut is told once")
async def resume_answered_twice(play: Play) -> None:
    peer = await play.log_in()
    request = play.request()
    asked = await peer.business(2)
    seq = peer.next_seq()
    peer.send(answer_frame(asked, seq, b"once"))
    await play.answered(request, "once")
    peer.cut()
    again = await play.resumed(2)
    again.send(answer_frame(asked, seq, b"once"))
    await play.fence(again)


@case("resume-while-away", "4.6", "A request made without a connection waits for the next one")
async def resume_while_away(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    again = await play.resume_asked()
    request = play.request("echo", "away")
    again.respond_resumed(1)
    again.answer(await again.business(2, "echo"), b"back")
    await play.answered(request, "back")


@case("replay", "4.4", "A replay is handed over in order, and what is live behind it")
async def replay(play: Play) -> None:
    peer = await play.log_in()
    play.table.seq = 5
    peer.cut()
    again = await play.resumed(1, replay_from=2, replay_to=5)
    again.send(*(message_frame(seq) for seq in range(2, 6)))
    again.notify()
    await play.delivered(2, 3, 4, 5, 6)
    await again.acks_up_to(6)


@case("replay-holes", "4.4", "A replay with holes: each SKIP is told in its place, once")
async def replay_holes(play: Play) -> None:
    peer = await play.log_in()
    play.table.seq = 9
    peer.cut()
    again = await play.resumed(1, replay_from=2, replay_to=9, lost_from=3, lost_to=8, lost_reason=1)
    again.send(
        message_frame(2),
        skip_frame(3, 5),
        message_frame(6),
        skip_frame(7, 8, 6),
        message_frame(9),
    )
    await play.delivered(2, "lost 3-5", 6, "lost 7-8", 9)
    await again.acks_up_to(9)
    await play.fence(again)


@case("replay-known", "2.3", "What a replay repeats from below the position is dropped")
async def replay_known(play: Play) -> None:
    peer = await play.log_in()
    peer.notify(count=3)
    await play.delivered(2, 3, 4)
    peer.cut()
    again = await play.resumed(1, replay_from=2, replay_to=4)
    again.send(message_frame(2), skip_frame(3, 3), message_frame(4))
    await play.fence(again)


@case("replay-slow", "4.4", "A replay that comes in small pieces is a replay all the same")
async def replay_slow(play: Play) -> None:
    peer = await play.log_in()
    play.table.seq = 11
    peer.cut()
    again = await play.resumed(1, replay_from=2, replay_to=11)
    for seq in range(2, 12):
        frame = message_frame(seq)
        if play.is_quic:
            again.send_pieces([frame[:5], frame[5:9], frame[9:]])
        else:
            again.send_pieces([frame])
        await play.delivered(seq)
    await play.fence(again)


@case("replay-cut", "4.9", "A replay cut in its midst is resumed from there, nothing comes twice")
async def replay_cut(play: Play) -> None:
    peer = await play.log_in()
    play.table.seq = 7
    peer.cut()
    again = await play.resumed(1, replay_from=2, replay_to=7)
    again.send(message_frame(2), message_frame(3), message_frame(4))
    await play.delivered(2, 3, 4)
    again.cut()
    third = await play.connection()
    start = await third.start()
    if start.last_acked_seq_id != 4:
        raise Broken("the position 4", f"START has {start.last_acked_seq_id}", "4.1")
    third.respond_resumed(1, replay_from=5, replay_to=7)
    third.send(*(message_frame(seq) for seq in (5, 6, 7)))
    await play.delivered(5, 6, 7)


@case(
    "replay-and-push", "4.4", "Answers and notifies that come while a replay runs keep their order"
)
async def replay_and_push(play: Play) -> None:
    peer = await play.log_in()
    play.table.seq = 51
    peer.cut()
    again = await play.resumed(1, replay_from=2, replay_to=51)
    again.send(*(message_frame(seq) for seq in range(2, 30)))
    request = play.request()
    asked = await again.business(2)
    again.send(*(message_frame(seq) for seq in range(30, 52)))
    again.notify(b"live")
    again.answer(asked, b"live")
    again.notify(b"live")
    await play.delivered(*range(2, 53), 54)
    await play.answered(request, "live")


@case("resume-old-frames", "4.3", "Frames of a connection that was given up are ignored")
async def resume_old_frames(play: Play) -> None:
    peer = await play.log_in(heartbeat_interval=1)
    peer.answers_heartbeats = False
    again = await play.resumed(1)
    peer.send(message_frame(2))
    await play.fence(again)


@case("resume-busy", "4.7", "503 on a resume: the session stays, and is tried again when told")
async def resume_busy(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    busy = await play.resume_asked()
    refused = time.monotonic()
    busy.refuse(503, 4503, f"retry_after_ms={_HINT_MS}", retry_after_ms=_HINT_MS)
    again = await play.resume_asked()
    if (waited_ms := (time.monotonic() - refused) * 1000) < _HINT_MS:
        raise Broken(f"a wait of {_HINT_MS} ms", f"it was back after {waited_ms:.0f} ms", "3.8")
    again.respond_resumed(1)
    await play.fence(again)


@case("resume-rate", "4.8", "429 on a resume: the session stays, and is tried again")
async def resume_rate(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    limited = await play.resume_asked()
    limited.refuse(429, 4429, "retry_after_ms=50", retry_after_ms=50)
    await play.fence(await play.resumed(1))


@case("resume-checking", "3.10", "503 because tokens cannot be checked: the session stays")
async def resume_checking(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    checking = await play.resume_asked()
    checking.refuse(503, 4503, retry_after_ms=50)
    await play.fence(await play.resumed(1))


@case(
    "resume-unknown", "4.7", "Another session_id: the last session is lost, hello comes with seq 1"
)
async def resume_unknown(play: Play) -> None:
    peer = await play.log_in()
    peer.notify(count=3)
    await play.delivered(2, 3, 4)
    request = play.request("slow")
    await peer.business(2)
    peer.cut()
    again = await _other_session(play)
    await play.failed_request(request, outcome="unknown")
    await play.session_lost()
    # The request of the last session is never sent again, and numbers begin anew.
    following = play.request("next")
    again.answer(await again.business(2, "next"), b"next")
    await play.answered(following, "next")
    await play.fence(again)
    again.cut()
    third = await play.connection()
    start = await third.start()
    expect_resume(start, play.table)
    if start.last_acked_seq_id != play.table.seq:
        raise Broken(f"the position {play.table.seq}", f"START has {start.last_acked_seq_id}")


@case("resume-refused-unknown", "4.7", "403 UNKNOWN_SESSION and 4403: a fresh START")
async def resume_refused_unknown(play: Play) -> None:
    await _denied(play, _UNKNOWN_SESSION)


@case("resume-denied", "4.7", "403 DENIED and 4403: a fresh START, the session is lost")
async def resume_denied(play: Play) -> None:
    await _denied(play, _DENIED)


async def _denied(play: Play, reason: int) -> None:
    peer = await play.log_in()
    peer.cut()
    denied = await play.resume_asked()
    denied.refuse(403, 4403, lost_reason=reason)
    again = await play.connection()
    start = await again.start()
    if start.session_id:
        raise Broken("a START without session_id", "it names the session that is gone")
    _new_table(play)
    again.respond()
    await play.hello(again)
    await play.session_lost()
    await play.fence(again)


def _over_title(what: str) -> str:
    return f"403 {what} and 4410: the session is over, and the client stays away"


@case("resume-replaced", "4.7", _over_title("REPLACED"))
async def resume_replaced(play: Play) -> None:
    await _over(play, _REPLACED)


@case("resume-kicked", "4.7", _over_title("KICKED"))
async def resume_kicked(play: Play) -> None:
    await _over(play, _KICKED)


@case("resume-elsewhere", "4.7", _over_title("UNKNOWN_SESSION"))
async def resume_elsewhere(play: Play) -> None:
    await _over(play, _UNKNOWN_SESSION)


async def _over(play: Play, reason: int) -> None:
    peer = await play.log_in()
    request = play.request("slow")
    await peer.business(2)
    peer.cut()
    over = await play.resume_asked()
    over.refuse(403, 4410, lost_reason=reason)
    await play.failed_request(request, outcome="unknown")
    await play.stays_away()


@case("resume-position", "4.7", "400 for a position that was never given out: the session is over")
async def resume_position(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    over = await play.resume_asked()
    over.refuse(400, 4400)
    await play.stays_away()


@case("resume-login", "3.2", "A new session in the place of a lost one is logged in to again")
async def resume_login(play: Play) -> None:
    peer = await play.log_in()
    peer.cut()
    again = await _other_session(play, says_hello=False)
    hello = await again.business(1, "hello")
    request = play.request("eager")
    again.answer(hello)
    again.answer(await again.business(2, "eager"), b"behind")
    await play.answered(request, "behind")


@case(
    "restart", "4.6", "A process that was ended resumes from what it stored before its frames",
    needs="state",
)  # fmt: skip
async def restart(play: Play) -> None:
    peer = await play.log_in(options={"stored": True})
    peer.notify(count=3)
    await play.delivered(2, 3, 4)
    await peer.acks_up_to(3)
    play.command("restart")
    again = await play.connection()
    start = await again.start()
    expect_resume(start, play.table)
    if start.last_acked_seq_id < peer.acked:
        raise Broken(
            f"a position that is stored before its ack, {peer.acked}",
            f"START has {start.last_acked_seq_id}",
        )
    again.respond_resumed(1, replay_from=start.last_acked_seq_id + 1, replay_to=4)
    for seq in range(start.last_acked_seq_id + 1, 5):
        again.send(message_frame(seq))
        await play.delivered(seq)
    await play.connected()
    request = play.request()
    again.answer(await again.business(2), b"numbered on")
    await play.answered(request, "numbered on")


@case(
    "restart-attempts", "4.6", "A process that was ended in a try counts its attempts on",
    needs="state",
)  # fmt: skip
async def restart_attempts(play: Play) -> None:
    peer = await play.log_in(options={"stored": True})
    await peer.acks_up_to(1)
    play.command("restart")
    first = await play.resume_asked()
    play.command("restart")
    second = await play.resume_asked()
    assert first.start_request is not None
    assert second.start_request is not None
    _higher(first.start_request.attempt, second.start_request.attempt)


async def _other_session(play: Play, *, says_hello: bool = True) -> Peer:
    """Answer the client's next START by a new session."""
    again = await play.resume_asked()
    _new_table(play)
    again.respond(lost_reason=_UNKNOWN_SESSION)
    if says_hello:
        await play.hello(again)
    return again


def _new_table(play: Play) -> None:
    play.table.session_id += "-new"
    play.table.seq = 0


def _higher(before: int, attempt: int) -> None:
    if attempt <= before:
        raise Broken(f"an attempt above {before}", f"it is {attempt}", "4.3")
