"""What the direct lane alone does: several connections, calls that were not begun with, signs of
life. The server does what a script tells it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hyperframe.frame import SettingsFrame, WindowUpdateFrame

from gatesvr.errors import ErrorCode, Outcome
from gatesvr.upstream import connection, direct_lane, process_stream
from gatesvr.upstream.call import Call
from gatesvr.upstream.lane import LaneState

from ..fakes import until
from .scripted import (
    MAX_CONCURRENT_STREAMS,
    Asked,
    Peer,
    Script,
    echoed,
    scripted,
)
from .servers import Streaming, ask, endpoints, lane_to, outcome, parse, serving
from .test_lane import failure
from .test_manager import managing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

REFUSED_STREAM = 7
ENHANCE_YOUR_CALM = 11


class Gate:
    """Answers requests when it is opened."""

    def __init__(self) -> None:
        self.held = 0
        self.open = asyncio.Event()

    async def answer(self, peer: Peer, asked: Asked) -> None:
        request = await peer.request(asked)
        self.held += 1
        await self.open.wait()
        await peer.answer(asked, echoed(request))


async def test_calls_above_the_servers_streams_go_on_further_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(direct_lane, "EXTRA_IDLE_S", 0.05)
    gate = Gate()
    monkeypatch.setattr(Peer, "echo", lambda peer, asked: gate.answer(peer, asked))
    script = Script(settings={MAX_CONCURRENT_STREAMS: 4})
    async with (
        scripted(script) as server,
        lane_to(server.address, max_connections=3) as under_test,
    ):
        counters = under_test.counters
        calls = [under_test.call(data=b"%d" % i) for i in range(20)]
        await until(lambda: gate.held == 12)
        assert (under_test.lane.connections, under_test.lane.open_calls) == (3, 12)
        assert under_test.lane.waiting_calls == 8
        assert under_test.lane.is_full
        gate.open.set()
        for i, call in enumerate(calls):
            assert parse(await call).data == b"%d" % i
        # Idle ones are closed; the first one stays.
        await until(lambda: under_test.lane.connections == 1)
        assert parse(await under_test.call(data=b"x")).data == b"x"
        assert (counters.broken_calls, counters.goodbyes, counters.downs) == (0, 0, 0)
        assert len(server.peers) == 3


async def test_one_connection_if_the_configuration_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    monkeypatch.setattr(Peer, "echo", lambda peer, asked: gate.answer(peer, asked))
    script = Script(settings={MAX_CONCURRENT_STREAMS: 2})
    async with (
        scripted(script) as server,
        lane_to(server.address, max_connections=1) as under_test,
    ):
        calls = [under_test.call() for _ in range(6)]
        await until(lambda: gate.held == 2)
        assert under_test.lane.connections == 1
        gate.open.set()
        await asyncio.gather(*calls)
        assert len(server.peers) == 1


async def leave_unbegun(peer: Peer, asked: Asked) -> None:
    """Say goodbye, and that the request is not begun with."""
    await peer.request(asked)
    peer.goaway(last=0)


async def refuse(peer: Peer, asked: Asked) -> None:
    await peer.request(asked)
    peer.reset(asked, REFUSED_STREAM)


@pytest.mark.parametrize("play", [leave_unbegun, refuse])
async def test_a_call_that_was_not_begun_with_is_sent_again(play: Any) -> None:
    async with scripted(Script(answer=play)) as server, lane_to(server.address) as under_test:
        assert parse(await under_test.call(data=b"x")).data == b"x"
        counters = under_test.counters
        assert (counters.retried_calls, counters.broken_calls, counters.answers) == (1, 0, 1)
        assert counters.goodbyes == (play is leave_unbegun)


@pytest.mark.parametrize("play", [leave_unbegun, refuse])
async def test_a_call_that_was_not_begun_with_goes_elsewhere(play: Any) -> None:
    async with (
        scripted(Script(answer=play)) as server,
        serving(Streaming("other")) as other,
        managing({"zone": endpoints(server.address, other)}) as manager,
    ):
        await until(lambda: manager.counters.lanes_up == 2)
        names = {parse(await ask(manager)).message for _ in range(2)}
        assert names == {"other"}
        assert (manager.counters.retried_calls, manager.counters.moved_calls) == (1, 1)


async def test_a_call_that_is_refused_again_and_again_is_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Peer, "echo", refuse)
    async with (
        scripted(Script()) as server,
        managing({"zone": endpoints(server.address)}) as manager,
    ):
        await until(lambda: manager.counters.lanes_up == 1)
        error = await failure(ask(manager))
        assert (error.code, error.outcome) == (ErrorCode.BUSY, Outcome.NOT_STARTED)
        assert server.requests == 2
        assert (manager.counters.retried_calls, manager.counters.not_started) == (2, 1)


async def test_goodbye_with_a_reason_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def play(peer: Peer, asked: Asked) -> None:
        await peer.answer(asked, echoed(await peer.request(asked)))
        peer.goaway(asked.id, ENHANCE_YOUR_CALM, b"too_many_pings")

    async with scripted(Script(answer=play)) as server, lane_to(server.address) as under_test:
        await under_test.call()
        await until(lambda: under_test.counters.downs == 1)
        (why,) = [r.keys["why"] for r in caplog.records if r.message == "upstream_down"]  # type: ignore[attr-defined]
        assert why == "GOAWAY ENHANCE_YOUR_CALM: too_many_pings"
        await until(lambda: under_test.lane.is_up)


async def test_stream_that_is_not_ended_after_its_last_answer_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_stream, "CLOSE_S", 0.02)

    async def stream(peer: Peer, asked: Asked) -> None:
        peer.headers(asked, ((":status", "200"), ("content-type", "application/grpc")))
        peer.goaway(last=2**31 - 1)
        await peer.until(lambda: asked.reset is not None)

    async with (
        scripted(Script(stream=stream)) as server,
        lane_to(server.address) as under_test,
    ):
        await under_test.until_state(LaneState.STREAM)
        await until(lambda: under_test.lane.connections == 1)
        assert parse(await under_test.call(data=b"x")).data == b"x"


@asynccontextmanager
async def plain_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
) -> AsyncIterator[str]:
    """Serve a script on bytes."""
    tasks = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass  # the lane has had enough
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def reads_in_silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(SettingsFrame(0).serialize())
    while await reader.read(1 << 16):
        pass


async def reads_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 2**31 - 1}
    writer.write(SettingsFrame(0, settings=settings).serialize())
    writer.write(WindowUpdateFrame(0, window_increment=2**31 - 1 - 65_535).serialize())
    await asyncio.Event().wait()


async def test_peer_that_answers_no_ping_is_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE_TIMEOUT_S", 0.05)
    async with (
        plain_server(reads_in_silence) as address,
        lane_to(address, reconnect_min=0.02) as under_test,
    ):
        await under_test.until_state(LaneState.UNARY)
        call = under_test.call()
        for carrier in under_test.lane._transports:
            carrier.use_keepalive(0.02)
        error = await failure(call)
        assert (error.code, error.outcome) == (502, Outcome.UNKNOWN)
        assert "PING" in str(error)
        assert under_test.counters.broken_calls == 1


async def test_ping_that_is_answered_keeps_the_connection() -> None:
    async with (
        scripted(Script(stream=Peer.stream)) as server,
        lane_to(server.address) as under_test,
    ):
        await under_test.until_state(LaneState.STREAM)
        (carrier,) = under_test.lane._transports
        carrier._is_heard = False
        carrier._keep_alive()
        assert carrier._is_pinged
        await until(lambda: carrier._is_heard)
        carrier._keep_alive()
        assert not carrier._is_pinged
        assert parse(await under_test.call(data=b"x")).data == b"x"


async def test_peer_that_reads_nothing_holds_little_and_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "STALL_S", 0.2)
    async with (
        plain_server(reads_nothing) as address,
        lane_to(address, 64 << 20) as under_test,
    ):
        await under_test.until_state(LaneState.UNARY)
        calls = [under_test.call(data=bytes(8 << 20)) for _ in range(8)]
        error = await failure(calls[0])
        assert (error.code, error.outcome) == (502, Outcome.UNKNOWN)
        for call in calls:
            call.cancel()


async def test_connections_are_counted_and_closed_at_the_end() -> None:
    async with (
        serving(Streaming()) as address,
        managing({"zone": endpoints(address)}) as manager,
    ):
        await ask(manager)
        assert manager.counters.connections == 1
        (lane,) = manager._lanes.values()
    assert lane.connections == 0


async def test_connection_whose_stream_ids_are_used_up_is_replaced() -> None:
    class Spent:
        """A core that opens no more streams."""

        is_leaving, room = True, 0

        def __init__(self, core: Any) -> None:
            self.core = core

        def __getattr__(self, name: str) -> Any:
            return getattr(self.core, name)

    async with scripted(Script()) as server, lane_to(server.address) as under_test:
        assert parse(await under_test.call(data=b"x")).data == b"x"
        (carrier,) = under_test.lane._transports
        carrier.core = Spent(carrier.core)
        assert parse(await under_test.call(data=b"y")).data == b"y"
        assert len(server.peers) == 2
        assert (under_test.counters.downs, under_test.counters.broken_calls) == (0, 0)


async def test_trace_that_no_header_can_hold_costs_no_call() -> None:
    class Traced(Call):
        metadata = (("tracestate", "a\nb"),)

    async with scripted(Script()) as server, lane_to(server.address) as under_test:
        await under_test.call()
        future, on_end = outcome()
        deadline = asyncio.get_running_loop().time() + 20
        under_test.lane.submit(Traced(on_end, b"", 7, deadline))
        await future


async def test_stop_does_not_wait_for_a_server_that_says_nothing() -> None:
    async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with plain_server(says_nothing) as address, lane_to(address) as under_test:
        await until(lambda: under_test.lane.connections == 1)
        await under_test.lane.stop(3600.0)
