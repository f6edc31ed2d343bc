"""A lane against a server that does what HTTP/2 and gRPC allow and few servers do.

Each case is a script for the first request and says what the call comes to. The next call is
answered as usual: whatever the first one met, the lane works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hyperframe.frame import (
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    WindowUpdateFrame,
)

from gatesvr._pb import upstream_pb2 as pb
from gatesvr.errors import UpstreamError
from gatesvr.upstream.lane import LaneState

from ..fakes import until
from .scripted import (
    HEAD,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    LAST,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    Asked,
    Peer,
    Play,
    Script,
    among_others,
    echoed,
    empty_ends,
    framed,
    one_byte_frames,
    padded_headers,
    padded_with_nothing,
    scripted,
    unknown,
)
from .servers import lane_to, parse

NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0x0, 0x2, 0x7, 0x8, 0xB
BROKEN = "502 UNKNOWN"
LARGE = 4 << 20
POINTS = ("first", "behind the head", "in the message", "behind the message", "behind the status")

Odd = Callable[[Peer, Asked], Any]


@dataclass
class Case:
    """A script and its end.

    Attributes:
        play: Answers the first request.
        ends: ``answer`` or code and outcome of the error.
        size: Bytes of data in the request.
        data: The answer's data; by default those of the request.
        says: What the error's text contains.
        connections: Connections made in all; 0 for any number.
        begun: Requests that reached the server, the second call's included.
        waits: Whether the second call waits for another connection.
        script: The rest of the script.
    """

    play: Play | None
    ends: str = "answer"
    size: int = 5
    data: bytes | None = None
    says: str = ""
    connections: int = 1
    begun: int = 2
    waits: bool = False
    script: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def case(name: str, play: Play | None = None, ends: str = "answer", **values: Any) -> None:
    """Add a case; what is not a field of Case is one of Script."""
    assert name not in CASES, name
    own = {key: values.pop(key) for key in list(values) if key in Case.__annotations__}
    CASES[name] = Case(play, ends, **own, script=values)


def answering(at: int, odd: Odd, *, is_last: bool = False) -> Play:
    """Return a script that does something odd at a point of an ordinary answer, then goes on."""

    async def play(peer: Peer, asked: Asked) -> None:
        answer = framed(echoed(await peer.request(asked)))
        half = len(answer) // 2
        for point in range(len(POINTS)):
            if point == at:
                done = odd(peer, asked)
                if done is not None:
                    await done
                if is_last:
                    return
            if point == 0:
                peer.headers(asked, HEAD)
            elif point == 1:
                await peer.data(asked, answer[:half])
            elif point == 2:
                await peer.data(asked, answer[half:])
            elif point == 3:
                peer.status(asked)
            await asyncio.sleep(0)  # so that the client reads each step by itself

    return play


def script(play: Play) -> Play:
    """Return a script that has read its request."""

    async def read_first(peer: Peer, asked: Asked) -> None:
        await peer.request(asked)
        await play(peer, asked)

    return read_first


# How bytes are cut.


async def in_pieces(peer: Peer, asked: Asked, **values: Any) -> None:
    answer = framed(echoed(await peer.request(asked)))
    peer.headers(asked, HEAD)
    await peer.data(asked, answer, **values)
    peer.status(asked)


def padded_by_length(frame: Frame) -> Iterator[Frame]:
    """Padding differs from frame to frame."""
    if isinstance(frame, HeadersFrame):
        frame.flags.add("PADDED")
        frame.pad_length = len(frame.data) % 10
    yield frame


case("plain")
case("written byte by byte", piece=1)
case("frames of one byte", shape=one_byte_frames)
case("frames of one byte, written byte by byte", shape=one_byte_frames, piece=1)
case("written in sevens", piece=7)
case("empty HEADERS, empty CONTINUATION", shape=empty_ends)
case("padded and prioritised HEADERS", shape=padded_headers)
case("padding of nothing", shape=padded_with_nothing)
case("padding of some", shape=padded_by_length)
case("unknown frames and PRIORITY", shape=among_others)
case("unknown frames, written in threes", shape=among_others, piece=3)
for pad in (0, 1, 255):
    case(f"DATA with {pad} bytes of padding", partial(in_pieces, frame=3, pad=pad))

# Something at each point of an answer that changes nothing about it.


async def ping(peer: Peer, asked: Asked) -> None:
    pongs = peer.pongs
    peer.h2.ping(b"are you?")
    peer.flush()
    await peer.until(lambda: peer.pongs > pongs)


async def change(peer: Peer, asked: Asked, settings: dict[int, int]) -> None:
    await peer.change(settings)


async def shrink_table(peer: Peer, asked: Asked) -> None:
    """Evict all that the encoder knows, and start again smaller."""
    peer.h2.encoder.header_table_size = 0
    peer.h2.encoder.header_table_size = 64


def strange(peer: Peer, asked: Asked) -> None:
    peer.raw(unknown(asked.id, bytes(16_384)))
    peer.raw(unknown(0))
    peer.raw(unknown(2_000_001, b"x"))


def open_window(peer: Peer, asked: Asked) -> None:
    peer.raw(WindowUpdateFrame(asked.id, window_increment=1))
    peer.raw(WindowUpdateFrame(0, window_increment=1))


def prioritise(peer: Peer, asked: Asked) -> None:
    peer.raw(PriorityFrame(asked.id, depends_on=0, stream_weight=7, exclusive=True))
    peer.raw(PriorityFrame(1_000_001, depends_on=asked.id))


def stale_pong(peer: Peer, asked: Asked) -> None:
    peer.raw(PingFrame(0, opaque_data=b"whatever", flags=["ACK"]))


HARMLESS: dict[str, Odd] = {
    "PING": ping,
    "an answer to no PING": stale_pong,
    "SETTINGS": partial(change, settings={}),
    "SETTINGS that nobody knows": partial(change, settings={0xF0F0: 2**32 - 1}),
    "a window of one": partial(change, settings={INITIAL_WINDOW_SIZE: 1}),
    "the largest window": partial(change, settings={INITIAL_WINDOW_SIZE: 2**31 - 1}),
    "no header table": partial(change, settings={HEADER_TABLE_SIZE: 0}),
    "a large header table": partial(change, settings={HEADER_TABLE_SIZE: 1 << 20}),
    "the largest frames": partial(change, settings={MAX_FRAME_SIZE: 2**24 - 1}),
    "one stream at a time": partial(change, settings={MAX_CONCURRENT_STREAMS: 1}),
    "unknown frames": strange,
    "WINDOW_UPDATE": open_window,
    "PRIORITY": prioritise,
    "a smaller table of ours": shrink_table,
}
for name, odd in HARMLESS.items():
    for at, point in enumerate(POINTS):
        case(f"{name} {point}", answering(at, odd), connections=0 if "at a time" in name else 1)

for at in (1, 2, 3):
    case(
        f"empty DATA {POINTS[at]}",
        answering(at, lambda peer, asked: peer.data(asked, b"")),
    )
    case(
        f"DATA of nothing but padding {POINTS[at]}",
        answering(at, lambda peer, asked: peer.data(asked, b"", pad=9)),
    )


def hint(peer: Peer, asked: Asked) -> None:
    peer.headers(asked, [(":status", "100")])
    peer.headers(asked, [(":status", "103"), ("link", "</x>; rel=preload")])
    peer.headers(asked, [(":status", "103"), ("grpc-status", "5")])


case("informational headers", answering(0, hint))
case("informational headers in frames of one byte", answering(0, hint), shape=one_byte_frames)


async def no_streams_for_a_while(peer: Peer, asked: Asked) -> None:
    await change(peer, asked, {MAX_CONCURRENT_STREAMS: 0})
    await peer.echo(asked)
    await change(peer, asked, {MAX_CONCURRENT_STREAMS: 10})


case("no streams for a while", no_streams_for_a_while, connections=0)

# Header blocks.


def with_head(*head: tuple[str, str], status: tuple[tuple[str, str], ...] = ()) -> Play:
    async def play(peer: Peer, asked: Asked) -> None:
        answer = echoed(await peer.request(asked))
        peer.headers(asked, head or HEAD)
        await peer.message(asked, answer)
        peer.headers(asked, status or (("grpc-status", "0"),), end=True)

    return play


def only_trailers(*trailers: tuple[str, str]) -> Play:
    @script
    async def play(peer: Peer, asked: Asked) -> None:
        peer.headers(asked, trailers, end=True)

    return play


OK = (":status", "200")
GRPC = ("content-type", "application/grpc")
NOT_FOUND = ("grpc-status", "5")
MANY = tuple((f"x-odd-{i}", f"{i:04x}" * 10) for i in range(500))
SAME = (("x-same", "same"),) * 50

case("headers in another order", with_head(OK, ("x-a", "1"), ("grpc-encoding", "identity"), GRPC))
case("application/grpc+proto", with_head(OK, ("content-type", "application/grpc+proto")))
case("application/grpc; charset", with_head(OK, ("content-type", "application/grpc; charset=x")))
case("a block of two frames", with_head(OK, GRPC, *MANY))
case("trailers of two frames", with_head(OK, GRPC, status=(*MANY, ("grpc-status", "0"))))
case("the same header fifty times", with_head(OK, *SAME, GRPC, *SAME), shape=empty_ends)
case("empty and binary values", with_head(OK, GRPC, ("x-none", ""), ("x-odd-bin", "AAECAw")))

# Statuses.


def ends(*steps: bytes | tuple[tuple[str, str], ...], head: tuple[Any, ...] = HEAD) -> Play:
    """Return a script that sends a head, then DATA and trailers; whatever is last half-closes."""

    @script
    async def play(peer: Peer, asked: Asked) -> None:
        if head:
            peer.headers(asked, head, end=not steps)
        for i, step in enumerate(steps, 1):
            is_last = i == len(steps)
            if isinstance(step, bytes):
                await peer.data(asked, step, end=is_last)
            else:
                peer.headers(asked, step, end=is_last)

    return play


MESSAGE = framed(b"\x08\xc8\x01")  # code 200
DONE = (("grpc-status", "0"),)

case("only trailers", ends(head=(*HEAD, NOT_FOUND)), "404 DONE")
case(
    "only trailers, in frames of one byte",
    ends(head=(*HEAD, NOT_FOUND)),
    "404 DONE",
    shape=one_byte_frames,
)
case(
    "a text that is escaped",
    ends(head=(*HEAD, ("grpc-message", "%C3%A9%20%25%zz%"), NOT_FOUND)),
    "404 DONE",
    says="é %%zz%",
)
case(
    "a text before the status, and more",
    ends((("x-a", "1"), ("grpc-message", "gone"), ("grpc-status-details-bin", "CAU"), NOT_FOUND)),
    "404 DONE",
    says="gone",
)
case("a status behind a message", ends(MESSAGE, (NOT_FOUND,)), "404 DONE")
case("a status without a text", ends((("grpc-status", "16"),)), "403 DONE")
case("a status without a message", ends(DONE), BROKEN)
case("only trailers, and OK", ends(head=(*HEAD, *DONE)), BROKEN)
case("two messages", ends(MESSAGE + MESSAGE, DONE), BROKEN)
case("half a message and a status", ends(MESSAGE[:-1], DONE), BROKEN)
case("half a prefix and a status", ends(MESSAGE[:3], DONE), BROKEN)
case("200 without trailers", ends(MESSAGE), BROKEN)
case("200 without trailers, empty DATA last", ends(MESSAGE, b""), BROKEN)
case("200 and nothing", ends(), BROKEN)
case("trailers without a status", ends(MESSAGE, (("x-a", "1"),)), "502")
case("a status that is no number", ends(MESSAGE, (("grpc-status", "five"),)), "502")
case("a status that nobody knows", ends(MESSAGE, (("grpc-status", "77"),)), "502")
case("HTTP 404", ends(head=((":status", "404"),)), "501 UNKNOWN", says="404")
case(
    "HTTP 503 with a page",
    ends(b"<html>busy", head=((":status", "503"), ("content-type", "text/html"))),
    BROKEN,
    says="503",
)
case("HTTP 200 with a page", ends(b"<html>", head=(OK, ("content-type", "text/html"))), "502")
case("HTTP 401", ends(head=((":status", "401"),)), "403 UNKNOWN", says="401")

# Sizes.


async def large_answer(peer: Peer, asked: Asked, frame: int = 1 << 20) -> None:
    await peer.request(asked)
    await peer.answer(asked, pb.UpstreamResponse(code=200, data=bytes(LARGE)).SerializeToString())


case("a request of 0 bytes", size=0)
case("an answer of 0 bytes", ends(framed(b""), DONE), data=b"")
case("an answer of 4 MiB", large_answer, data=bytes(LARGE))
case("a request and an answer of 4 MiB", size=LARGE)
case(
    "a request of 4 MiB in large frames",
    size=LARGE,
    settings={MAX_FRAME_SIZE: 2**24 - 1, INITIAL_WINDOW_SIZE: 2**31 - 1},
)

# Windows of the server.


async def window_of_none(peer: Peer, asked: Asked) -> None:
    """Open it by a byte at a time."""
    while not asked.is_ended:
        room = len(asked.body) + 1
        peer.grant(asked, 1)
        await peer.until(lambda room=room: len(asked.body) == room or asked.is_ended)
    await peer.echo(asked)
    peer.set({INITIAL_WINDOW_SIZE: 65_535})


async def window_below_none(peer: Peer, asked: Asked) -> None:
    """Take a window back that has been used."""
    await peer.until(lambda: len(asked.body) == 100)
    await change(peer, asked, {INITIAL_WINDOW_SIZE: 0})
    peer.grant(asked, 100)  # now it is zero
    await ping(peer, asked)
    assert len(asked.body) == 100
    peer.grant(asked, 1_000)
    await peer.echo(asked)
    peer.set({INITIAL_WINDOW_SIZE: 65_535})


async def window_by_settings(peer: Peer, asked: Asked) -> None:
    await peer.until(lambda: len(asked.body) == 10)
    await change(peer, asked, {INITIAL_WINDOW_SIZE: 20})
    await peer.until(lambda: len(asked.body) == 20)
    await change(peer, asked, {INITIAL_WINDOW_SIZE: 65_535})
    await peer.echo(asked)


async def connection_window(peer: Peer, asked: Asked) -> None:
    """The stream's window is wide; the connection's, which no SETTINGS change, is used up."""
    for _ in range(14):
        await peer.until(lambda: not peer.h2.inbound_flow_control_window)
        peer.h2.increment_flow_control_window(10_000)
        peer.flush()
    await peer.echo(asked)


case("a window of one byte", size=50, settings={INITIAL_WINDOW_SIZE: 1})
case("no window", window_of_none, size=50, settings={INITIAL_WINDOW_SIZE: 0})
case(
    "a window below zero",
    window_below_none,
    size=500,
    settings={INITIAL_WINDOW_SIZE: 100},
    gives_credit=False,
)
case(
    "a window that SETTINGS open",
    window_by_settings,
    size=500,
    settings={INITIAL_WINDOW_SIZE: 10},
    gives_credit=False,
)
case(
    "a narrow connection",
    connection_window,
    size=200_000,
    settings={INITIAL_WINDOW_SIZE: 1 << 24},
    gives_credit=False,
)

# Answers before the request has been sent.


def early(finish: Callable[[Peer, Asked], Any], is_reset: bool) -> Play:
    async def play(peer: Peer, asked: Asked) -> None:
        done = finish(peer, asked)
        if done is not None:
            await done
        if is_reset:
            peer.reset(asked, NO_ERROR)
        else:
            # What cannot be sent any more must not stay open at the client.
            await peer.until(lambda: asked.is_ended or asked.reset is not None)
        await change(peer, asked, {INITIAL_WINDOW_SIZE: 65_535})

    return play


ANSWER = pb.UpstreamResponse(code=200, data=b"early").SerializeToString()
for is_reset in (False, True):
    how = ", then RST_STREAM" if is_reset else ""
    for window in (0, 3):
        case(
            f"an early answer, window {window}{how}",
            early(lambda peer, asked: peer.answer(asked, ANSWER), is_reset),
            data=b"early",
            size=50,
            settings={INITIAL_WINDOW_SIZE: window},
            gives_credit=False,
        )
    case(
        f"an early status{how}",
        early(lambda peer, asked: peer.status(asked, 7, "not you"), is_reset),
        "403 DONE",
        size=50,
        says="not you",
        settings={INITIAL_WINDOW_SIZE: 0},
    )

# RST_STREAM, GOAWAY and the end of TCP, at each point.


def ended_by(code: int) -> Odd:
    return lambda peer, asked: peer.reset(asked, code)


RESETS = {"NO_ERROR": 0x0, "INTERNAL_ERROR": 0x2, "CANCEL": 0x8}
for name, code in RESETS.items():
    for at, point in enumerate(POINTS):
        case(
            f"RST_STREAM {name} {point}",
            answering(at, ended_by(code), is_last=True),
            BROKEN if at < 4 else "answer",
            says=name if at < 4 else "",
        )
case("RST_STREAM REFUSED_STREAM", answering(0, ended_by(0x7), is_last=True), begun=3)
case("RST_STREAM ENHANCE_YOUR_CALM", answering(0, ended_by(0xB), is_last=True), "503 UNKNOWN")
case(
    "RST_STREAM with a code that nobody knows", answering(0, ended_by(0xFACE), is_last=True), BROKEN
)


def leave(peer: Peer, asked: Asked) -> None:
    peer.goaway(asked.id, NO_ERROR, b"max_age")


async def leave_in_two_steps(peer: Peer, asked: Asked) -> None:
    peer.goaway(LAST)
    await ping(peer, asked)
    peer.goaway(asked.id)


def calm(peer: Peer, asked: Asked) -> None:
    peer.goaway(asked.id, ENHANCE_YOUR_CALM, b"too_many_pings")


async def hang_up(peer: Peer, asked: Asked) -> None:
    await peer.close()


async def leave_at_once(peer: Peer, asked: Asked) -> None:
    peer.goaway(LAST)
    await peer.close()


for at, point in enumerate(POINTS):
    case(f"GOAWAY {point}", answering(at, leave), connections=2)
    case(f"GOAWAY in two steps {point}", answering(at, leave_in_two_steps), connections=2)
    case(f"GOAWAY ENHANCE_YOUR_CALM {point}", answering(at, calm), connections=2)
    lost = BROKEN if at < 4 else "answer"
    case(
        f"GOAWAY and the end {point}",
        answering(at, leave_at_once, is_last=True),
        lost,
        connections=2,
    )
    case(
        f"the end of TCP {point}",
        answering(at, hang_up, is_last=True),
        lost,
        connections=2,
        waits=True,
    )


async def not_begun(peer: Peer, asked: Asked) -> None:
    peer.goaway(asked.id - 2)
    await peer.close()


async def not_begun_later(peer: Peer, asked: Asked) -> None:
    peer.goaway(LAST)
    await ping(peer, asked)
    peer.goaway(asked.id - 2)


case("GOAWAY below the request", answering(0, not_begun, is_last=True), connections=2, begun=3)
case(
    "GOAWAY below the request, in two steps",
    answering(0, not_begun_later, is_last=True),
    connections=2,
    begun=3,
)

# A server that has begun to answer has begun: what it says later is no reason to ask again.
case("REFUSED_STREAM behind the head", answering(1, ended_by(0x7), is_last=True), BROKEN)
case(
    "GOAWAY below the request behind the head",
    answering(1, lambda peer, asked: peer.goaway(asked.id - 2), is_last=True),
    BROKEN,
    connections=2,
)

# The first bytes of a connection.


async def leave_first(peer: Peer) -> None:
    peer.hello({})
    peer.goaway(0)


async def never_speak(peer: Peer) -> None:
    await peer.close()


async def speak_late(peer: Peer) -> None:
    """Send the first SETTINGS only behind the client's."""
    data = await peer._reader.readexactly(24)
    peer.hello({MAX_CONCURRENT_STREAMS: 5})
    peer.h2.receive_data(data)


async def speak_much(peer: Peer) -> None:
    peer.hello({})
    for size in range(20):
        await asyncio.sleep(0)
        peer.set({INITIAL_WINDOW_SIZE: 70_000 + size})


case("GOAWAY behind the first SETTINGS", greet=leave_first, connections=2)
case(
    "the end of TCP before SETTINGS",
    None,
    "502 NOT_STARTED",
    greet=never_speak,
    connections=2,
    begun=1,
    waits=True,
)
case("SETTINGS behind the client's", greet=speak_late)
case("SETTINGS twenty times", greet=speak_much)
case("no header table from the start", settings={HEADER_TABLE_SIZE: 0})
case("one stream at a time from the start", settings={MAX_CONCURRENT_STREAMS: 1}, connections=0)


def ended(future: asyncio.Future[Any]) -> tuple[str, bytes, str]:
    """Return how a call ended: what to compare, the answer's data, the error's text."""
    error = future.exception()
    if error is None:
        return "answer", parse(future.result()).data, ""
    assert isinstance(error, UpstreamError)
    return f"{int(error.code)} {error.outcome.name}", b"", str(error)


@pytest.mark.parametrize("name", CASES)
async def test_request(name: str) -> None:
    about = CASES[name]
    script = Script(about.play, **about.script)
    async with (
        scripted(script) as server,
        lane_to(server.address, max_message_bytes=2 * LARGE) as under_test,
    ):
        data = bytes(about.size)
        first = under_test.call(data=data)
        await asyncio.wait([first])
        end, got, text = ended(first)
        assert end.startswith(about.ends), text
        if end == "answer":
            assert got == (data if about.data is None else about.data)
        assert about.says in text
        if about.waits:
            await until(lambda: len(server.peers) == 2)
            await under_test.until_state(LaneState.UNARY)
        assert parse(await under_test.call(data=b"next")).data == b"next"
        counters = under_test.counters
        assert counters.protocol_errors == counters.floods == 0
        assert server.requests == about.begun
        assert not about.connections or len(server.peers) == about.connections
        assert under_test.lane.state is LaneState.UNARY
