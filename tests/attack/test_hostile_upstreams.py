"""Upstreams that break HTTP/2 or flood: each costs a bounded amount, and its own calls alone."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr._core.http2 import Http2Connection
from gatesvr.errors import UpstreamError
from gatesvr.upstream.connection import UpstreamConnection
from gatesvr.upstream.lane import LaneState

from ..fakes import until
from ..upstream.servers import DEADLINE_S, Streaming, ask, endpoints, lane_to, parse, serving
from ..upstream.test_manager import managing
from . import http2_frames as h2
from .hostile_upstream import SCRIPTS, hostile_upstream

if TYPE_CHECKING:
    from gatesvr.upstream.manager import UpstreamManager

    from .hostile_upstream import Peer

MIB = 1 << 20
CALLS = 12
TIMEOUT_S = 0.25
"""Of calls to an upstream that answers none."""
RETRY_S = 5.0
"""First pause before it is dialled again, but for the first time: then at once."""

ENDED: dict[str, tuple[str, int | None, float]] = {
    # What the lane ends it for, the code of its GOAWAY (None: what came behind it was unread, so
    # the TCP reset may overtake it), and the most that got through, MiB.
    "window_credit": ("protocol_errors", 3, 4),
    "initial_window": ("protocol_errors", 3, 0.1),
    "hpack_garbage": ("protocol_errors", 9, 0.1),
    "huge_frame": ("protocol_errors", 6, 4),
    "idle_stream": ("protocol_errors", 1, 0.1),
    "own_stream": ("protocol_errors", 1, 4),
    "push_promise": ("protocol_errors", 1, 0.1),
    "http1": ("protocol_errors", None, 0.1),
    "garbage": ("protocol_errors", None, 4),
    "late_garbage": ("protocol_errors", None, 4),
    "stream_credit": ("floods", 11, 4),
    "data_without_credit": ("floods", 11, 60),
    "endless_continuation": ("floods", 11, 4),
    "empty_continuation": ("floods", 11, 4),
    "large_continuation": ("floods", 11, 4),
    "hpack_bomb": ("floods", 11, 4),
    "settings_flood": ("floods", 11, 4),
    "settings_changes": ("floods", 11, 8),
    "ping_flood": ("floods", None, 4),
    "priority_flood": ("floods", 11, 4),
    "unknown_flood": ("floods", 11, 4),
    "empty_data": ("floods", 11, 4),
    "padding": ("floods", 11, 8),
    "window_trickle": ("floods", 11, 4),
    "dead_resets": ("floods", 11, 4),
    "ended_stream": ("floods", 11, 4),
    "goaway_flood": ("floods", 11, 4),
    "unknown_answers": ("bad_batches", 11, 4),
    "empty_messages": ("bad_batches", 11, 4),
}
"""Scripts whose connection the lane ends."""
BORNE: dict[str, set[str]] = {
    "resets": {"broken_calls"},
    "refusals": {"not_started"},
    "giant_message": {"too_large"},
    "large_trailers": {"broken_calls"},
    "goaway_loop": {"unsent_calls"},
    "goaway_after_each": {"unsent_calls", "broken_calls"},
    "closing": {"unsent_calls"},
    "window_overflow": {"unanswered"},
    "hoard": {"unanswered", "broken_calls"},
    "tiny_frames": {"answers", "unanswered", "broken_calls"},
    "silence": {"unsent_calls", "unanswered"},
    "never_reads": {"unanswered"},
    "no_credit": {"unanswered"},
}
"""The others, and the counters that their calls end in."""


def test_each_script_is_judged() -> None:
    assert set(SCRIPTS) == set(ENDED) | set(BORNE)


class Ends:
    """The calls to a hostile upstream, and those to a good one beside it."""

    def __init__(self, manager: UpstreamManager, timeout: float = DEADLINE_S) -> None:
        self.manager = manager
        self.calls = [ask(manager, "bad", timeout=timeout) for _ in range(CALLS)]

    async def wait(self) -> None:
        """Wait until each call has ended, and use the good upstream meanwhile."""
        ended = asyncio.gather(*self.calls, return_exceptions=True)
        async with asyncio.timeout(20):
            while True:
                assert parse(await ask(self.manager, "good")).message == "good"
                if ended.done():
                    break
                await asyncio.sleep(0.01)
        assert all(not isinstance(end, Exception) or isinstance(end, UpstreamError)
                   for end in ended.result())  # fmt: skip
        await until(lambda: not self.manager.counters.open)


@pytest.mark.parametrize("script", ENDED)
async def test_a_connection_that_breaks_the_rules_is_ended(
    script: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "gatesvr")
    counter, code, most_mib = ENDED[script]
    async with (
        hostile_upstream(SCRIPTS[script]) as bad,
        serving(Streaming("good")) as good,
        managing(
            {"bad": endpoints(bad.address), "good": endpoints(good)},
            lane="direct",
            reconnect_min=RETRY_S,
            reconnect_max=60.0,
        ) as manager,
    ):
        counters = manager.counters
        ends = Ends(manager)
        await until(lambda: getattr(counters, counter))
        await ends.wait()
        await until(lambda: not bad.peers or bad.connections > 1)
        assert bad.most_sent <= most_mib * MIB
        # The lane comes back after pauses that grow: no attack is endless.
        assert bad.connections <= 4
        assert counters.protocol_errors + counters.floods <= bad.connections
        assert counters.bad_batches <= bad.connections
        if code is not None:
            assert set(bad.goaways) <= {code}
        assert len(caplog.records) <= 4 * bad.connections + CALLS
        if script == "initial_window":
            why = [r.keys["why"] for r in caplog.records if r.getMessage() == "upstream_down"]  # type: ignore[attr-defined]
            assert why == ["INITIAL_WINDOW_SIZE 2147483648"]


@pytest.mark.parametrize("script", BORNE)
async def test_calls_that_are_not_served_end_alone(script: str) -> None:
    async with (
        hostile_upstream(SCRIPTS[script]) as bad,
        serving(Streaming("good")) as good,
        managing(
            {"bad": endpoints(bad.address), "good": endpoints(good)},
            lane="direct",
            reconnect_min=RETRY_S,
            reconnect_max=60.0,
            connect_timeout=TIMEOUT_S / 2,
        ) as manager,
    ):
        await Ends(manager, TIMEOUT_S if "unanswered" in BORNE[script] else DEADLINE_S).wait()
        counters = manager.counters.snapshot()
        good_calls = counters["calls"] - CALLS
        ended = {name: counters[name] for name in BORNE[script]}
        ended["answers"] = counters["answers"] - good_calls
        assert sum(ended.values()) == CALLS
        assert counters["protocol_errors"] == 0
        # Behind a call that ended, its frames bring nothing any more.
        assert counters["floods"] <= (script in ("tiny_frames", "hoard"))
        assert counters["unary_calls"] <= 2 * CALLS + good_calls  # not again and again
        assert bad.connections <= 4


def test_a_large_answer_that_is_cancelled_is_no_flood() -> None:
    """What was under way when a call is cancelled may be all that the peer had credit for."""
    core = Http2Connection("a", "http", max_message_bytes=4 * MIB)
    core.receive(h2.settings(), 0.0)
    for number in range(40):
        stream = core.call("/s/m", b"", None)
        head = h2.frame(h2.DATA, 0, stream.id, h2.message(b"", 4 * MIB))
        core.receive(h2.response(stream.id) + head, 0.0)
        core.cancel(stream)
        for _ in range(4 * MIB // 16_384):
            core.receive(h2.frame(h2.DATA, 0, stream.id, bytes(16_384)), 0.0)
        core.take()
        assert core.error == "", f"answer {number}"


@pytest.mark.parametrize("script", ["unknown_answers", "idle_stream", "goaway_loop", "closing"])
async def test_what_a_lost_connection_held_is_freed_at_once(script: str) -> None:
    """The gateway's garbage collector runs rarely: no connection may wait for it."""
    gc.collect()
    gc.disable()
    try:
        async with (
            hostile_upstream(SCRIPTS[script]) as bad,
            managing(
                {"bad": endpoints(bad.address)},
                lane="direct",
                reconnect_min=0.01,
                reconnect_max=0.01,
            ) as manager,
        ):
            await until(lambda: bad.connections > 8)
            del manager
            alive = sum(isinstance(found, UpstreamConnection) for found in gc.get_objects())
            assert alive <= 6  # those that are being closed among them
    finally:
        gc.enable()


async def test_a_connection_that_is_old_when_it_is_ready_is_replaced_at_once() -> None:
    """On a busy machine, SETTINGS and the goodbye of a connection's age may come together."""

    async def aged(peer: Peer) -> None:
        if old.connections <= 2:
            await asyncio.sleep(0.1)
            await peer.greet()
            await peer.send(h2.goaway(0))
            return
        await peer.greet()
        stream = await peer.request()
        answer = h2.frame(h2.DATA, 0, stream, h2.message(b"\x08\xc8\x01"))
        await peer.send(h2.response(stream) + answer + h2.trailers(stream))

    async with (
        hostile_upstream(aged) as old,
        managing({"old": endpoints(old.address)}, lane="direct", reconnect_min=0.05) as manager,
    ):
        assert parse(await ask(manager, "old")).code == 200
        assert (old.connections, manager.counters.downs) == (3, 0)


@pytest.mark.parametrize("has_stream", [False, True])
async def test_what_is_written_to_a_peer_that_reads_nothing_is_bounded(has_stream: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet((h2.INITIAL_WINDOW_SIZE, (1 << 31) - 1), has_stream=has_stream)
        await peer.send(h2.window_update(0, 1 << 30))
        if has_stream:
            await peer.send(h2.response(await peer.request()))
        await read_no_more.wait()
        peer.stop_reading()
        await asyncio.Event().wait()

    read_no_more = asyncio.Event()
    async with hostile_upstream(script) as bad, lane_to(bad.address, lane="direct") as under_test:
        await under_test.until_state(LaneState.STREAM if has_stream else LaneState.UNARY)
        read_no_more.set()
        lane: Any = under_test.lane
        data = bytes(200_000)
        calls = [under_test.call(data=data) for _ in range(200)]
        await until(lambda: lane._main.is_paused)
        assert lane._main._transport.get_write_buffer_size() < 4 * MIB
        assert len(lane._main.core.take()) < MIB
        assert lane.waiting_calls > 100
        for call in calls:
            call.cancel()
