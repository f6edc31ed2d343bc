"""Callers that flood the push port: other work keeps its turns, and what they hold is bounded."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest

from gatesvr._core.codec import has_more_entries
from gatesvr._pb import upstream_pb2 as pb
from gatesvr.config import PushConfig
from gatesvr.control.pushes import PUSH_SLICE
from gatesvr.grpc_api.servicer import MAX_ENTRIES

from ..fakes import until
from ..grpc_api.test_service import Rig, running, texts

PATH = "/gatesvr.proto.GatewayService/"


class Ticker:
    """Watches how many pushes are done in one turn of the loop."""

    def __init__(self, rig: Rig) -> None:
        self.most = 0
        self._counters = rig.commands.counters
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        before = self._counters.pushes
        while True:
            await asyncio.sleep(0)
            now = self._counters.pushes
            self.most, before = max(self.most, now - before), now

    async def end(self) -> int:
        self._task.cancel()
        await asyncio.wait({self._task})
        return self.most


async def test_streams_of_long_batches_share_the_turns_of_the_loop() -> None:
    async with asyncio.timeout(60), running() as rig:
        session = rig.session("alice")
        nobody = pb.UnicastPushRequest(target_type="openid", target_id="nobody")
        batch = pb.UnicastPushBatch(requests=[nobody] * 1_000)
        streams = [rig.stub.PushStream() for _ in range(8)]
        ticker = Ticker(rig)
        for stream in streams:
            await stream.write(batch)
        request = pb.UnicastPushRequest(target_type="openid", target_id="alice", data=b"x")
        assert (await rig.stub.PushToClient(request)).success
        for stream in streams:
            assert len((await stream.read()).responses) == 1_000
        assert rig.counters["pushes"] == 8_001
        # The task that watches runs once a turn, before a slice or behind it.
        assert await ticker.end() <= 2 * PUSH_SLICE + 1
        assert texts(session) == ["x"]
        for stream in streams:
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF


async def test_streams_are_bounded() -> None:
    push = PushConfig(bind="127.0.0.1:0", max_streams=2)
    async with asyncio.timeout(60), running(push) as rig:
        session = rig.session("alice")
        request = pb.UnicastPushRequest(target_type="openid", target_id="alice", data=b"x")
        batch = pb.UnicastPushBatch(requests=[request])
        streams = [rig.stub.PushStream() for _ in range(2)]
        for stream in streams:
            await stream.write(batch)
            assert (await stream.read()).responses[0].success
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.stub.PushStream().read()
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (rig.counters["streams"], rig.counters["refused_streams"]) == (2, 1)
        await streams[0].done_writing()
        await until(lambda: rig.counters["streams"] == 1)
        again = rig.stub.PushStream()
        await again.write(batch)
        assert (await again.read()).responses[0].success
        for stream in (streams[1], again):
            await stream.done_writing()
        await until(lambda: rig.counters["streams"] == 0)
        assert texts(session) == ["x"] * 3


async def test_broadcasts_are_so_many_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    push = PushConfig(bind="127.0.0.1:0", max_broadcasts=2)
    async with running(push) as rig:
        session = rig.session("alice")
        now = 1e9
        monkeypatch.setattr(rig.commands.pushes, "_clock", lambda: now)
        broadcast = rig.stub.BroadcastToClients
        codes = [(await broadcast(pb.BroadcastRequest(data=b"x"))).error_code for _ in range(4)]
        assert codes == ["", "", "BUSY", "BUSY"]
        now += 0.5
        codes = [(await broadcast(pb.BroadcastRequest(data=b"y"))).error_code for _ in range(2)]
        assert codes == ["", "BUSY"]
        assert rig.counters["refused_broadcasts"] == 3
        assert texts(session) == ["x", "x", "y"]


async def test_another_bound_on_broadcasts_holds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    push = PushConfig(bind="127.0.0.1:0", max_broadcasts=2)
    async with running(push) as rig:
        pushes = rig.commands.pushes
        monkeypatch.setattr(pushes, "_clock", lambda: 1e9)
        for bound, taken in ((2, 2), (2, 0), (3, 3), (0, 5)):  # the same again changes nothing
            pushes.apply(bound)
            answers = [
                await rig.stub.BroadcastToClients(pb.BroadcastRequest(data=b"x")) for _ in range(5)
            ]
            assert [answer.error_code for answer in answers].count("") == taken


@pytest.mark.parametrize(
    "method",
    [
        "PushToClient", "BroadcastToClients", "MulticastToClients", "KickClient", "GetSession",
        "ListSessions", "RegisterUpstream", "KeepUpstreamAlive", "DeregisterUpstream",
        "PushStream", "SubscribeEvents",
    ],
)  # fmt: skip
async def test_undecodable_message_is_refused_without_a_word_in_the_log(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with running() as rig:
        call: Any = rig.channel.stream_stream(PATH + method)(iter([b"\xff\xff"]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "does not decode" in str(caught.value.details())
        assert rig.counters["invalid"] == 1
    assert caplog.records == []


@pytest.mark.parametrize("method", ["PushStream", "MulticastToClients"])
async def test_list_of_very_many_entries_is_not_decoded(method: str) -> None:
    async with running() as rig:
        for count, counter in ((10_001, "too_large"), (MAX_ENTRIES + 1, "invalid")):
            call: Any = rig.channel.stream_stream(PATH + method)(iter([b"\x0a\x00" * count]))
            if counter == "too_large" and method == "MulticastToClients":
                answer = pb.BroadcastResponse.FromString(await call.read())
                assert answer.error_code == "TOO_LARGE"
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert rig.counters[counter] == 1


def test_entries_are_counted_in_field_one_alone() -> None:
    message = b"\x0a\x01a\x12\x01b\x0a\x00"
    assert has_more_entries(message, 1)
    assert not has_more_entries(message, 2)
    assert not has_more_entries(message + b"\x0a\xff", 2)  # the decoder says what is wrong
    assert not has_more_entries(b"", 0)
