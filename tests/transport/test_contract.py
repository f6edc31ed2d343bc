"""What a connection does, over real sockets, for every pair of backends."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref

import pytest

from gatesvr.config import TransportConfig
from gatesvr.errors import ProtocolError
from gatesvr.protocol.link import HIGH_WATER_BYTES, LOW_WATER_BYTES, Disconnect

from .harness import DEADLINE_S, PAIRS, Echo, Recorder, serving

pytestmark = pytest.mark.parametrize(("client", "server"), PAIRS)


async def test_handshake_and_echo(client: str, server: str) -> None:
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        assert handler.is_made
        handler.send(b"hello")
        await handler.until(lambda: handler.data == b"hello")
        peer = (await gateway.handler()).link
        assert peer.peer == tuple(connection.address[:2])
        assert not peer.is_closing
        assert peer.last_heard > 0
        counters = gateway.listener.counters
        assert (counters.accepted, counters.connections, counters.handshakes) == (1, 1, 0)
        await connection.close()


async def test_a_mebibyte_each_way(client: str, server: str) -> None:
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        data = os.urandom(1 << 20)
        handler.send(data)
        await handler.until(lambda: len(handler.data) == len(data))
        assert handler.data == data
        assert (await gateway.handler()).data == data
        await connection.close()


async def test_a_sender_is_asked_below_low_water_only(client: str, server: str) -> None:
    async with serving(server, Recorder) as gateway:
        handler, connection = await gateway.connect(client)
        handler.send(b"go")
        sender = await gateway.handler()
        await sender.until(lambda: sender.data)
        seen: list[int] = []
        plain = sender.write_ready

        def spy(now: float) -> None:
            seen.append(sender.link.unsent_bytes())
            plain(now)

        sender.write_ready = spy  # type: ignore[method-assign]
        sender.send(bytes(4 << 20))
        await handler.until(lambda: len(handler.data) == 4 << 20)
        assert len(seen) > 10
        assert max(seen) < LOW_WATER_BYTES
        await connection.close()


async def test_a_refusal_to_read_bounds_what_is_written(client: str, server: str) -> None:
    async with serving(server, Recorder) as gateway:
        handler, connection = await gateway.connect(client)
        handler.send(b"go")
        sender = await gateway.handler()
        await sender.until(lambda: sender.data)
        connection.pause_reading()
        sender.send(bytes(8 << 20))
        await gateway.until(lambda: sender.link.unsent_bytes() >= LOW_WATER_BYTES)
        assert sender.link.unsent_bytes() < HIGH_WATER_BYTES + (16 << 10)
        assert len(sender.outbox) > 400
        connection.discard()


async def test_the_client_closes(client: str, server: str) -> None:
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        handler.link.close(4242, "good bye")
        assert handler.link.is_closing
        assert await handler.until_lost() == Disconnect("local", 4242, "good bye")
        peer = await gateway.handler()
        assert await peer.until_lost() == Disconnect("peer", 4242, "good bye")
        assert peer.link.is_closing
        assert gateway.listener.counters.closed_peer == 1
        await connection.wait_ended()


async def test_the_server_closes_and_what_was_written_is_not_lost(client: str, server: str) -> None:
    async with serving(server, Recorder) as gateway:
        handler, _ = await gateway.connect(client)
        handler.send(b"hello")
        peer = await gateway.handler()
        await peer.until(lambda: peer.data)
        peer.link.write(b"last words")
        peer.link.close(4400, "x" * 70 + "ü")
        assert await handler.until_lost() == Disconnect("peer", 4400, "x" * 64)
        assert handler.data == b"last words"
        assert await peer.until_lost() == Disconnect("local", 4400, "x" * 64)
        assert len(peer.lost) == 1
        peer.link.write(b"nothing")
        peer.link.request_flush()
        peer.link.close(1)
        assert peer.link.unsent_bytes() == 0


async def test_last_push_is_acknowledged_before_the_close(
    client: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.transport.connection.LINGER_PTOS", 1_000)
    monkeypatch.setattr("gatesvr.transport.connection.CLOSE_LINGER_S", DEADLINE_S)
    async with serving(server, Recorder) as gateway:
        handler, _ = await gateway.connect(client)
        handler.send(b"hello")
        peer = await gateway.handler()
        await peer.until(lambda: peer.data)
        peer.link.close(4410, "kicked", last=b"KICK")
        assert peer.link.is_closing
        handler.send(b"ignored")
        assert (await handler.until_lost()).code == 4410
        assert handler.data == b"KICK"
        assert handler.ended == 1
        assert await peer.until_lost() == Disconnect("local", 4410, "kicked")
        assert peer.data == b"hello"
        assert gateway.listener.counters.last_pushes == 1


async def test_last_push_that_nobody_acknowledges(client: str, server: str) -> None:
    async with serving(server, Recorder) as gateway:
        handler, connection = await gateway.connect(client)
        handler.send(b"hello")
        peer = await gateway.handler()
        await peer.until(lambda: peer.data)
        connection.discard()
        peer.link.close(4410, "kicked", last=b"KICK")
        await peer.until_lost()
        assert gateway.listener.counters.last_pushes_expired == 1


async def test_idle_timeout(client: str, server: str) -> None:
    async with serving(server, idle_timeout=1.0) as gateway:
        handler, connection = await gateway.connect(client, config=TransportConfig())
        peer = await gateway.handler()
        assert handler.link.idle_timeout == pytest.approx(1.0)
        assert peer.link.idle_timeout == pytest.approx(1.0)
        connection.discard()
        assert await peer.until_lost() == Disconnect("idle")
        assert gateway.listener.counters.closed_idle == 1


async def test_silence_is_broken_by_pings_until_heartbeats_do(client: str, server: str) -> None:
    async with serving(server, idle_timeout=2.0) as gateway:
        handler, connection = await gateway.connect(client)
        peer = await gateway.handler()
        counters = gateway.listener.counters
        await gateway.until(lambda: counters.pings_sent >= 3)  # past the idle time-out
        assert not peer.lost
        assert not handler.lost
        peer.link.keep_alive = False
        assert (await peer.until_lost()).kind == "idle"
        await connection.close()


async def test_other_streams_are_refused(client: str, server: str) -> None:
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        handler.send(b"a")
        await handler.until(lambda: handler.data == b"a")
        quic = connection.connection.stream.carrier._quic
        for stream_id in (4, 2, 8):
            quic.send_stream_data(stream_id, b"x" * 100)
        handler.send(b"b")
        await handler.until(lambda: handler.data == b"ab")
        counters = gateway.listener.counters
        await gateway.until(lambda: counters.streams_refused == 3)
        (connection_,) = gateway.listener.connections
        await gateway.until(lambda: not connection_._refused)  # the peer stopped all three
        handler.send(b"c")
        await handler.until(lambda: handler.data == b"abc")
        assert (await gateway.handler()).data == b"abc"
        await connection.close()


async def test_end_of_the_stream(client: str, server: str) -> None:
    async with serving(server, Recorder) as gateway:
        handler, connection = await gateway.connect(client)
        connection.connection.stream.carrier.send_stream_data(b"all", end=True)
        handler.link.request_flush()
        peer = await gateway.handler()
        await peer.until(lambda: peer.ended)
        assert peer.data == b"all"
        peer.link.write(b"still open")
        await handler.until(lambda: handler.data == b"still open")
        assert peer.ended == 1
        await connection.close()


async def test_stop_sending(client: str, server: str) -> None:
    async with serving(server, Recorder) as gateway:
        handler, connection = await gateway.connect(client)
        handler.send(b"a")
        peer = await gateway.handler()
        await peer.until(lambda: peer.data)
        connection.connection.stream.carrier._quic.stop_stream(0, 7)
        handler.link.request_flush()
        await peer.until(lambda: peer.ended)
        peer.link.write(b"to nobody")
        assert gateway.listener.counters.writes_dropped == 1
        peer.link.close(4400, last=b"to nobody either")
        assert (await handler.until_lost()).code == 4400
        await connection.wait_ended()


async def test_protocol_error_closes_that_connection(client: str, server: str) -> None:
    class Strict(Echo):
        def data_received(self, data: bytes, now: float) -> None:
            if data == b"bad":
                raise ProtocolError("a bad word")
            super().data_received(data, now)

    async with serving(server, Strict) as gateway:
        handler, _ = await gateway.connect(client)
        other, other_connection = await gateway.connect(client)
        handler.send(b"bad")
        assert await handler.until_lost() == Disconnect("peer", 4400, "a bad word")
        other.send(b"good")
        await other.until(lambda: other.data == b"good")
        assert gateway.listener.counters.protocol_errors == 1
        await other_connection.close()


@pytest.mark.parametrize(
    "method", ["connection_made", "data_received", "work", "write_ready", "handle_timer"]
)
async def test_an_exception_ends_its_own_connection(
    client: str, server: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Echo):
        def connection_made(self, now: float) -> None:
            super().connection_made(now)
            self.timer = now if method == "handle_timer" else None
            self.link.wake()
            self.link.request_flush()

    def fail(*_: object) -> None:
        raise RuntimeError("of the test")

    async def fail_work(*_: object) -> None:
        raise RuntimeError("of the test")

    setattr(Broken, method, fail_work if method == "work" else fail)
    async with serving(server) as gateway:
        healthy, healthy_connection = await gateway.connect(client)
        await gateway.handler()
        gateway.kind = Broken
        handler, _ = await gateway.connect(client)
        handler.send(b"x")
        assert (await handler.until_lost()).code == 4500
        await gateway.until(lambda: len(gateway.handlers) == 2 and gateway.handlers[1].lost)
        assert gateway.handlers[1].lost == [Disconnect("local", 4500)]
        assert gateway.listener.counters.connection_errors == 1
        healthy.send(b"fine")
        await healthy.until(lambda: healthy.data == b"fine")
        await healthy_connection.close()
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == ["connection_error"]


async def test_work_is_called_once_a_batch_of_wakes(client: str, server: str) -> None:
    class Waker(Recorder):
        def data_received(self, data: bytes, now: float) -> None:
            super().data_received(data, now)
            for _ in range(10):
                self.link.wake()

    async with serving(server, Waker) as gateway:
        handler, connection = await gateway.connect(client)
        handler.send(b"x")
        peer = await gateway.handler()
        await peer.until(lambda: peer.works)
        await asyncio.sleep(0)
        assert peer.works == 1
        await connection.close()


async def test_the_end_is_told_while_work_waits(client: str, server: str) -> None:
    class Waiting(Recorder):
        async def work(self) -> None:
            self.works += 1
            self.gate = asyncio.Event()
            await self.gate.wait()

    async with serving(server, Waiting) as gateway:
        handler, connection = await gateway.connect(client)
        peer = await gateway.handler()
        assert isinstance(peer, Waiting)
        peer.link.wake()
        await gateway.until(lambda: peer.works)
        await connection.close(0, "gone")
        assert (await peer.until_lost()).kind == "peer"
        assert gateway.listener.counters.tasks == 1
        peer.gate.set()
        await gateway.until(lambda: gateway.listener.counters.tasks == 0)
        assert len(peer.lost) == 1
        assert handler.lost


async def test_handlers_timer(client: str, server: str) -> None:
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        peer = await gateway.handler()
        loop = asyncio.get_running_loop()
        peer.timer = due = loop.time() + 0.05
        peer.link.request_flush()
        await peer.until(lambda: peer.timer_runs)
        assert peer.timer_runs[0] >= due
        await connection.close()
        assert handler.lost


async def test_nothing_is_left_behind(client: str, server: str) -> None:
    async with serving(server) as gateway:
        listener = gateway.listener
        kept = []
        for round_ in range(3):
            pairs = [await gateway.connect(client) for _ in range(4)]
            for number, (handler, _) in enumerate(pairs):
                handler.send(b"%d" % number)
            for handler, _ in pairs:
                await handler.until(lambda handler=handler: handler.data)
            kept += [weakref.ref(c) for c in listener.connections]
            kept += [
                weakref.ref(c.stream.carrier)
                for c in listener.connections
                if _weak(c.stream.carrier)
            ]
            for handler, connection in pairs:
                if round_ == 1:
                    connection.discard()
                else:
                    await connection.close()
                kept.append(weakref.ref(handler))
            del pairs, handler, connection, _
            if round_ == 1:
                listener.close_all(4503)
            await gateway.until(lambda: not listener.connections and not listener.counters.tasks)
            gateway.handlers.clear()
        await gateway.until(lambda: not listener.counters.drained)
        assert not listener._routes
        assert not listener._driver._dirty
        assert len(listener._driver.timers) == 0
        counters = listener.counters
        assert (counters.connections, counters.handshakes, counters.tasks) == (0, 0, 0)
        assert (counters.drained, counters.timers) == (0, 0)
        assert counters.accepted == 12
        gc.collect()
        assert [ref() for ref in kept if ref() is not None] == []


def _weak(quic: object) -> bool:
    return hasattr(quic, "__weakref__")
