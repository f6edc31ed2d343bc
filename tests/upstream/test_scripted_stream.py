"""A lane's ProcessStream on a server that does what HTTP/2 and gRPC allow and few servers do.

As in test_scripted: each case is a script for the first stream, says what the first call comes to,
and the next call is answered.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from gatesvr.upstream.lane import LaneState

from .scripted import (
    HEAD,
    INITIAL_WINDOW_SIZE,
    UNIMPLEMENTED,
    Asked,
    Peer,
    Play,
    Script,
    among_others,
    echoed_batch,
    empty_ends,
    framed,
    one_byte_frames,
    padded_headers,
    scripted,
)
from .servers import lane_to, parse
from .test_scripted import BROKEN, DONE, HARMLESS, LAST, Odd, ended, ping


@dataclass
class Case:
    """A script and its end.

    Attributes:
        play: Serves the first ProcessStream.
        ends: As in test_scripted.
        state: The state in which the lane gets the first call; None for any.
        connections: Connections made in all; 0 for any number.
        script: The rest of the script.
    """

    play: Play
    ends: str = "answer"
    state: LaneState | None = LaneState.STREAM
    connections: int = 1
    script: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def case(name: str, play: Play = Peer.stream, ends: str = "answer", **values: Any) -> None:
    """Add a case; what is not a field of Case is one of Script."""
    assert name not in CASES, name
    own = {key: values.pop(key) for key in list(values) if key in Case.__annotations__}
    CASES[name] = Case(play, ends, **own, script=values)


# How bytes are cut.


async def in_pieces(peer: Peer, asked: Asked, **values: Any) -> None:
    peer.headers(asked, HEAD)
    while batch := await peer.batch(asked):
        await peer.data(asked, framed(echoed_batch(batch)), **values)
    peer.status(asked)


async def beside_nothing(peer: Peer, asked: Asked) -> None:
    """Three messages in one DATA frame, two of them empty; the next one in two frames."""
    peer.headers(asked, HEAD)
    answer = framed(echoed_batch(await peer.batch(asked)))
    await peer.data(asked, framed(b"") + answer + framed(b""))
    answer = framed(echoed_batch(await peer.batch(asked)))
    await peer.data(asked, answer[:6])
    await ping(peer, asked)
    await peer.data(asked, answer[6:])
    assert not await peer.batch(asked)
    peer.status(asked)


case("plain")
case("written byte by byte", piece=1)
case("frames of one byte", shape=one_byte_frames)
case("empty HEADERS, empty CONTINUATION", shape=empty_ends)
case("padded and prioritised HEADERS", shape=padded_headers)
case("unknown frames and PRIORITY", shape=among_others)
case("padded DATA", partial(in_pieces, frame=2, pad=200))
case("messages that share frames", beside_nothing)
case("a window of one byte", settings={INITIAL_WINDOW_SIZE: 1})

# What changes nothing.


def between(odd: Odd) -> Play:
    """Return a script that does something odd before the head and around an answer."""

    async def play(peer: Peer, asked: Asked) -> None:
        async def do() -> None:
            done = odd(peer, asked)
            if done is not None:
                await done

        await do()
        peer.headers(asked, HEAD)
        batch = await peer.batch(asked)
        await do()
        await peer.message(asked, echoed_batch(batch))
        await do()
        while batch := await peer.batch(asked):
            await peer.message(asked, echoed_batch(batch))
        await do()
        peer.status(asked)

    return play


for name, odd in HARMLESS.items():
    case(name, between(odd), connections=0 if "at a time" in name else 1)

# Streams that end.


def ending(end: Odd, *, is_begun: bool = True) -> Play:
    """Return a script that ends the stream once it has read a request, or at once."""

    async def play(peer: Peer, asked: Asked) -> None:
        if is_begun:
            peer.headers(asked, HEAD)
            await peer.batch(asked)
        done = end(peer, asked)
        if done is not None:
            await done

    return play


async def close(peer: Peer, asked: Asked) -> None:
    await peer.close()


def without_trailers(peer: Peer, asked: Asked) -> Any:
    return peer.data(asked, b"", end=True)


async def half_a_message(peer: Peer, asked: Asked) -> None:
    await peer.data(asked, framed(bytes(50))[:20])
    peer.status(asked)


ENDS: dict[str, Odd] = {
    "OK": lambda peer, asked: peer.status(asked),
    "INTERNAL": lambda peer, asked: peer.status(asked, 13, "no more"),
    "UNAVAILABLE": lambda peer, asked: peer.status(asked, 14, "no more"),
    "END_STREAM": without_trailers,
    "OK in a message": half_a_message,
    "RST_STREAM NO_ERROR": lambda peer, asked: peer.reset(asked, 0x0),
    "RST_STREAM INTERNAL_ERROR": lambda peer, asked: peer.reset(asked, 0x2),
    "RST_STREAM CANCEL": lambda peer, asked: peer.reset(asked, 0x8),
}
for name, end in ENDS.items():
    case(f"{name} in place of an answer", ending(end), BROKEN)
    case(f"{name} in place of the head", ending(end, is_begun=False), state=None)
case("the end of TCP in place of an answer", ending(close), BROKEN, connections=2)
case(
    "RST_STREAM REFUSED_STREAM in place of the head",
    ending(lambda peer, asked: peer.reset(asked, 0x7), is_begun=False),
    state=None,
)
case(
    "HTTP 404 in place of the head",
    ending(lambda peer, asked: peer.headers(asked, [(":status", "404")], end=True), is_begun=False),
    state=LaneState.UNARY,
)
case(
    "OK with the head",
    ending(lambda peer, asked: peer.headers(asked, [*HEAD, *DONE], end=True), is_begun=False),
    state=None,
)


async def head_and_unimplemented(peer: Peer, asked: Asked) -> None:
    peer.headers(asked, HEAD)
    await ping(peer, asked)
    peer.status(asked, UNIMPLEMENTED)


async def head_behind_a_call(peer: Peer, asked: Asked) -> None:
    await peer.until(lambda: peer.server.requests)
    await peer.stream(asked)


case("UNIMPLEMENTED behind the head", head_and_unimplemented, state=LaneState.UNARY)
case("a head behind the first call", head_behind_a_call, state=LaneState.UNARY)

# GOAWAY.


async def leave(peer: Peer, asked: Asked) -> None:
    """Leave in two steps, serve what is open, and wait for the client to half-close."""
    peer.headers(asked, HEAD)
    batch = await peer.batch(asked)
    peer.goaway(LAST, text=b"max_age")
    await ping(peer, asked)
    peer.goaway(asked.id)
    await peer.message(asked, echoed_batch(batch))
    assert not await peer.batch(asked)
    peer.status(asked)


async def leave_before_the_head(peer: Peer, asked: Asked) -> None:
    peer.goaway(asked.id)
    await peer.stream(asked)


async def leave_and_close(peer: Peer, asked: Asked) -> None:
    peer.headers(asked, HEAD)
    await peer.batch(asked)
    peer.goaway(LAST)
    await peer.close()


async def leave_below(peer: Peer, asked: Asked) -> None:
    """Deny a stream that has begun: what was written to it may have been carried out."""
    peer.headers(asked, HEAD)
    await peer.batch(asked)
    peer.goaway(0)


async def never_begun(peer: Peer, asked: Asked) -> None:
    peer.goaway(0)


case("GOAWAY before an answer", leave, connections=2)
case("GOAWAY before the head", leave_before_the_head, connections=2, state=None)
case("GOAWAY and the end in place of an answer", leave_and_close, BROKEN, connections=2)
case("GOAWAY below a stream that has begun", leave_below, BROKEN, connections=2)
case(
    "REFUSED_STREAM in place of an answer",
    ending(lambda peer, asked: peer.reset(asked, 0x7)),
    BROKEN,
)
case("GOAWAY below the stream", never_begun, connections=2, state=None)


@pytest.mark.parametrize("name", CASES)
async def test_stream(name: str) -> None:
    about = CASES[name]
    async with (
        scripted(Script(stream=about.play, **about.script)) as server,
        lane_to(server.address) as under_test,
    ):
        if about.state is not None:
            await under_test.until_state(about.state)
        first = under_test.call(data=b"first")
        await asyncio.wait([first])
        end, got, text = ended(first)
        assert end == about.ends, text
        if end == "answer":
            assert got == b"first"
        assert parse(await under_test.call(data=b"next")).data == b"next"
        counters = under_test.counters
        assert counters.protocol_errors == counters.floods == 0
        assert not about.connections or len(server.peers) == about.connections
