"""The gateway between its connections and its upstreams: clients and services that send anything.

The bytes are steps: of clients (frames of any kind, lost connections, resumes), of services
(answers, failures, notifies) and of time. Sessions, dispatch and the protocol are the real ones,
on a loop whose time is a number. Beside exceptions it finds seqs that repeat or leave a gap, a
message that changes when it is replayed, a second answer, and what is left behind at the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from gatesvr._core.codec import PushDecoder, ServerPush, decode_answer
from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.errors import ProtocolError
from tests.dispatch.rig import Client, Rig, business, frame
from tests.sim.loop import VirtualLoop

from .reader import Reader, chunk

MAX_STEPS = 60
RESUME_WINDOW_S = 60.0
OPENIDS = ("ann", "bob", "", "x" * 128)
ACTIONS = ("hello", "echo", "ordered", "single", "lonely", "HELLO", "nowhere", "")
SETTINGS: tuple[dict[str, dict[str, Any]], ...] = (
    {},
    {"session": {"max_queue_size": 8, "max_in_flight": 3}},
    {"session": {"max_message_bytes": 256, "max_queue_bytes": 512, "max_login_bytes": 256}},
    {"session": {"on_duplicate": "reject"}, "dispatch": {"max_queue_size": 2}},
    {"session": {"on_duplicate": "allow", "base_resume": "true", "when_full": "'close'"}},
)


def check(data: bytes) -> None:
    """Take the steps, then let everything end."""
    reader = Reader(data)
    loop = VirtualLoop()
    try:
        loop.run(_live(reader, loop))
        assert not loop.failures, loop.failures
    finally:
        loop.close()


async def _live(reader: Reader, loop: VirtualLoop) -> None:
    async with Rig(**reader.pick(SETTINGS)) as rig:
        world = World(rig, loop)
        await world.connect(reader)
        for _ in range(MAX_STEPS):
            if reader.is_empty:
                break
            await reader.pick(_STEPS)(world, reader)
            world.check()
        await world.end()


class World:
    """The gateway, its clients, and what they have seen.

    Attributes:
        device: The connection that sends.
    """

    def __init__(self, rig: Rig, loop: VirtualLoop) -> None:
        self.rig = rig
        self.device: Device
        self._loop = loop
        self._devices: list[Device] = []
        self._messages: dict[tuple[str, int], bytes] = {}
        self._answers: dict[tuple[str, int], int] = {}

    def saw(self, session_id: str, push: ServerPush) -> None:
        """Compare a sequenced push with what its session was told before."""
        if push.type == pb.PUSH_SKIP:
            return
        # An answer's msg_id is the connection's business, its content is not.
        content = push.payload
        known = self._messages.setdefault((session_id, push.seq_id), content)
        assert known == content, "a message has changed"
        if push.client_seq_id:
            seq = self._answers.setdefault((session_id, push.client_seq_id), push.seq_id)
            assert seq == push.seq_id, "a second answer"

    def check(self) -> None:
        rig = self.rig
        sessions = list(rig.sessions.index.by_id.values())
        assert len(rig.sessions) == len(sessions)
        for session in sessions:
            session.queue._check()
        for device in self._devices:
            handler = device.handler
            held = handler._early if handler.session is None else handler._held
            assert handler._held_bytes == sum(request.size for request in held)
        assert rig.counters.internal_errors == 0
        assert rig.sessions.counters.internal_errors == 0
        assert not self._loop.failures, self._loop.failures

    async def connect(self, reader: Reader) -> None:
        ip = f"192.0.2.{reader.number() % 3}"
        self.device = Device(self, ip)
        self._devices.append(self.device)

    async def choose(self, reader: Reader) -> None:
        """Let another connection send."""
        self.device = reader.pick(self._devices)

    async def lose(self, reader: Reader) -> None:
        self.device.lose_once(reader.pick(("idle", "peer", "reset", "local")))

    async def answer(self, reader: Reader) -> None:
        """Answer a waiting call with any bytes."""
        call = self._take_call(reader)
        if call is not None:
            answer = decode_answer(reader.chunk())
            if answer.error:
                call.fail(answer.error)  # as a lane does
            else:
                call.answer(answer)
        await self._settle()

    async def answer_well(self, reader: Reader) -> None:
        call = self._take_call(reader)
        if call is not None:
            kind = reader.number()
            answer = up.UpstreamResponse(code=200 if kind & 1 else 500, data=bytes(kind))
            if kind & 2:
                answer.headers["zone"] = str(kind >> 4)
            for hint in range(kind >> 2 & 3):
                answer.notifies.add(sync_hint=hint, title="t", data=bytes(kind))  # type: ignore[arg-type]
            call.answer(decode_answer(answer.SerializeToString()))
        await self._settle()

    async def fail(self, reader: Reader) -> None:
        call = self._take_call(reader)
        if call is not None:
            call.fail("broken", reader.pick((502, 503, 504, 413)), outcome=reader.number() % 3)
        await self._settle()

    def _take_call(self, reader: Reader) -> Any:
        waiting = self.rig.upstream.waiting
        return waiting.pop(reader.pick(list(waiting))) if waiting else None

    async def push(self, reader: Reader) -> None:
        """Push a notify to a session, free or bound to an answer."""
        sessions = list(self.rig.sessions.index.by_id.values())
        if not sessions:
            return
        outbox = reader.pick(sessions).outbox
        kind = reader.number()
        body = b"\x18\x03\x22" + bytes((kind & 127,)) + bytes(kind & 127)
        if kind & 128:
            seq = reader.number() % 8
            outbox.bind(body, seq, bool(kind & 1), self.rig.now, push_id=str(kind % 5))
        else:
            key = "key" if kind & 2 else ""
            outbox.push(body, self.rig.now, flags=kind & 4 and 2, ttl=kind % 3, conflate_key=key)
        await self._settle()

    async def kick(self, reader: Reader) -> None:
        sessions = list(self.rig.sessions.index.by_id.values())
        if sessions and reader.number() > 200:
            self.rig.sessions.kick(reader.pick(sessions), "kicked", self.rig.now)
        await self._settle()

    async def wait(self, reader: Reader) -> None:
        await self._advance(reader.number() / 8)

    async def _advance(self, seconds: float) -> None:
        rig = self.rig
        rig.now += seconds
        self._loop._now += seconds
        rig.processor.tick(rig.now)
        for device in self._devices:
            device.run_timer()
        rig.sessions.sweep(rig.now)
        await self._settle()

    async def _settle(self) -> None:
        for device in self._devices:
            await device.see(b"")

    async def end(self) -> None:
        """Answer every call, lose every connection, and see that nothing is left."""
        waiting = self.rig.upstream.waiting
        while waiting:
            _, call = waiting.popitem()
            call.answer(decode_answer(b"\x08\xc8\x01"))
            await self._settle()
        self.check()
        for device in self._devices:
            device.lose_once("idle")
        await self._advance(RESUME_WINDOW_S)
        await self._advance(RESUME_WINDOW_S)
        waiting.clear()
        rig = self.rig
        assert not len(rig.sessions)
        assert not rig.sessions.index.by_openid
        assert not len(rig.dispatcher)
        assert not len(rig.processor)


class Device(Client):
    """A client's connection, which looks at all that it gets."""

    def __init__(self, world: World, ip: str) -> None:
        super().__init__(world.rig, ip)
        self._world = world
        self._pushes = PushDecoder(1 << 22)
        self._session = ""
        self._seen = 0
        self._is_lost = False
        self.token = b""
        self.session_id = ""

    async def see(self, data: bytes) -> None:
        """Send bytes, let everything run, and check what comes back."""
        if data and not self.is_closing:
            self.last_heard = self.rig.now
            try:
                self.handler.data_received(data, self.rig.now)
            except ProtocolError as error:
                self.close(error.close_code, str(error))
        await self.run()

    def take(self) -> bytes:
        """Check what was written; the base class reads it from here."""
        data = super().take()
        for push in self._pushes.feed(data):
            self._read(push)
        assert not self._pushes.error, self._pushes.error
        assert not self._pushes.buffered_bytes, "half a frame"
        return data

    def _read(self, push: ServerPush) -> None:
        if push.type == pb.PUSH_START_RESP:
            response = pb.StartResponse.FromString(push.payload)
            if response.success:
                self.session_id, self.token = response.session_id, response.resume_token
                assert self.session_id
        if not push.seq_id:
            return
        first = push.seq_id
        if push.type == pb.PUSH_SKIP:
            skip = pb.Skip.FromString(push.payload)
            first = skip.from_seq
            assert push.seq_id == skip.from_seq + skip.messages - 1
        assert not self._seen or first <= self._seen + 1 <= push.seq_id, "a gap"
        self._seen = push.seq_id
        self._world.saw(self.session_id, push)

    @property
    def seen(self) -> int:
        return self._seen

    def run_timer(self) -> None:
        timer = self.handler.get_timer()
        if timer is not None and timer <= self.rig.now:
            try:
                self.handler.handle_timer(self.rig.now)
            except ProtocolError as error:
                self.close(error.close_code, str(error))

    def lose_once(self, kind: str) -> None:
        if not self._is_lost:
            self._is_lost = True
            self.lose(kind)


async def _send_raw(world: World, reader: Reader) -> None:
    await world.device.see(reader.chunk())


async def _send_frame(world: World, reader: Reader) -> None:
    data = reader.chunk()
    await world.device.see(len(data).to_bytes(4) + data)


async def _send_request(world: World, reader: Reader) -> None:
    """Send a sound envelope of any type around any payload."""
    kind, seq, ack = reader.number(), reader.number(), reader.number()
    request = pb.ClientRequest(
        msg_id=kind >> 4,
        type=kind & 7,  # type: ignore[arg-type]
        seq_id=seq,
        ack_seq_id=ack,
        payload=reader.chunk(),
    )
    await world.device.see(frame(request))


async def _send_business(world: World, reader: Reader) -> None:
    """Send some requests at once, numbered from the next one on, or near it."""
    session = world.device.handler.session
    seq = 1 if session is None else session.max_client_seq + 1
    seq = max(0, seq + reader.number() % 4 - (1 if reader.number() & 1 else 0))
    action = reader.pick(ACTIONS)
    count = 1 + reader.number() % 6
    frames = (frame(business(seq + i, action, bytes(i))) for i in range(count))
    await world.device.see(b"".join(frames))


async def _send_start(world: World, reader: Reader) -> None:
    start = pb.StartRequest(
        openid=reader.pick(OPENIDS), protocol=reader.number() % 3, capabilities=reader.number()
    )
    await _start(world, start)


async def _send_resume(world: World, reader: Reader) -> None:
    """Resume the session that one of the connections has, or had."""
    old = reader.pick(world._devices)
    start = pb.StartRequest(
        session_id=old.session_id,
        resume_token=old.token if reader.number() else bytes(16),
        attempt=reader.number() % 4,
        last_acked_seq_id=max(0, old.seen - reader.number() % 4 + 1),
        protocol=1,
        capabilities=1,
    )
    await _start(world, start)


async def _start(world: World, start: pb.StartRequest) -> None:
    payload = start.SerializeToString()
    await world.device.see(
        frame(pb.ClientRequest(msg_id=9, type=pb.REQUEST_START, payload=payload))
    )


async def _send_ack(world: World, reader: Reader) -> None:
    seq = max(0, world.device.seen - reader.number() % 8 + (1 if reader.number() > 250 else 0))
    request = pb.ClientRequest(type=pb.REQUEST_ACK, ack_seq_id=seq)
    await world.device.see(frame(request))


async def _block(world: World, reader: Reader) -> None:
    """Let the client read nothing for a while, or read again."""
    world.device.unsent = reader.pick((0, 0, 1 << 16, 1 << 30))
    await world._settle()


_Step = Callable[[World, Reader], Awaitable[None]]
_STEPS: tuple[_Step, ...] = (
    _send_raw,
    _send_frame,
    _send_request,
    _send_business,
    _send_start,
    _send_resume,
    _send_ack,
    _block,
    World.connect,
    World.choose,
    World.lose,
    World.answer,
    World.answer_well,
    World.fail,
    World.push,
    World.kick,
    World.wait,
)
_NUMBERS = {step: bytes((number,)) for number, step in enumerate(_STEPS)}


def _step(step: _Step, *arguments: bytes | int) -> bytes:
    parts = (a if isinstance(a, bytes) else bytes((a,)) for a in arguments)
    return _NUMBERS[step] + b"".join(parts)


def seeds() -> Iterator[bytes]:
    """Yield lives of clients: logins, requests, resumes, slow readers, and broken frames."""
    start = _step(_send_start, 0, 1, 1)
    login = start + _step(_send_business, 0, 0, 0, 0) + _step(World.answer_well, 0, 0x13)
    echo = _step(_send_business, 0, 0, 1, 2)
    ordered = _step(_send_business, 0, 0, 2, 3)
    well, push = _step(World.answer_well, 0, 0x0D), _step(World.push, 0, 0x14)
    back = _step(World.lose, 0) + _step(World.connect, 0) + _step(_send_resume, 0, 1, 1, 1)
    ack = _step(_send_ack, 0, 0)
    for settings in range(len(SETTINGS)):
        begin = bytes((settings, 0))
        yield begin + login + echo + well + well + ack + push + push
        yield begin + login + ordered + _step(World.answer_well, 1, 3) + back + well + well
        yield begin + login + push * 6 + _step(_block, 2) + push * 6 + _step(World.wait, 200)
    begin = bytes(2)
    yield begin + start + _step(World.wait, 255)
    yield begin + _step(World.wait, 255)
    yield begin + echo + start
    yield begin + start + start
    yield begin + login + echo + _step(World.fail, 0, 1, 2) + _step(World.fail, 0, 0, 1)
    yield begin + login + echo + _step(World.answer, 0, chunk(b"\x12\x01\xff"))
    yield begin + login + back + back + _step(_send_resume, 0, 0, 1, 0)
    yield begin + login + _step(World.kick, 255, 0) + back
    yield begin + login + _step(World.connect, 1) + login + _step(World.choose, 0) + echo
    yield begin + login + _step(_send_request, 0x13, 0, 0, chunk(b"\x08\x05"))
    yield begin + login + _step(_send_request, 0x12, 0, 0, chunk(b"\x08\x01"))
    yield begin + login + _step(_send_request, 0x17, 0, 0, chunk(b"\x0a\x01t"))
    yield begin + login + _step(_send_request, 0x15, 0, 200, chunk(b""))
    yield begin + _step(_send_raw, chunk(b"\x00\x00\x00")) + _step(World.wait, 90)
    yield begin + _step(_send_frame, chunk(b"\xff" * 9))
    yield begin + login + _step(World.push, 0, 0xF3, 2) + echo + well
