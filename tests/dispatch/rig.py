"""A gateway without network: real protocol, sessions and processor; links and upstreams by hand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from gatesvr._core.codec import PushDecoder, ServerPush, decode_answer
from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.config import Config, load
from gatesvr.dispatch.dispatcher import Dispatcher
from gatesvr.dispatch.processor import AsyncProcessor
from gatesvr.errors import ProtocolError
from gatesvr.protocol.link import Disconnect
from gatesvr.session.manager import SessionManager
from gatesvr.upstream.call import Call

from ..fakes import FakeLink
from .fakes import settle

if TYPE_CHECKING:
    from gatesvr.session.session import Session


@dataclass(frozen=True, eq=False)
class Route:
    service: str
    order: str = "completion"
    serial: bool = False
    action: str = "*"


class Router:
    """echo and hello on zone, ordered keeps the order of asking, single and lonely are serial."""

    routes: dict[str, Route]

    def __init__(self) -> None:
        self.routes = {
            "hello": Route("hello"),
            "echo": Route("zone"),
            "ordered": Route("zone", "request"),
            "single": Route("zone", serial=True),
            "lonely": Route("zone", serial=True),
        }

    def route(self, action: str) -> Route | None:
        return self.routes.get(action)


class Upstream:
    """Keeps the calls until the test answers them."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self.calls: list[up.UpstreamRequest] = []
        self.waiting: dict[int, Call] = {}

    def next_request_id(self) -> int:
        return next(self._numbers)

    def send(self, call: Call) -> None:
        message = up.UpstreamRequest.FromString(call.upstream_req)
        self.calls.append(message)
        self.waiting[message.client_seq_id] = call

    def answer(self, client_seq: int, **fields: Any) -> None:
        """Answer the latest call with that client seq."""
        response = up.UpstreamResponse(**{"code": 200, **fields})
        self.waiting.pop(client_seq).answer(decode_answer(response.SerializeToString()))


class Client(FakeLink):
    """One connection: the Link that the gateway sees, and what came out of it."""

    numbers = count(1)

    def __init__(self, rig: Rig, ip: str = "192.0.2.1") -> None:
        super().__init__((ip, 4000), next(self.numbers), last_heard=rig.now)
        self.rig = rig
        self.is_awake = False
        self._decoder = PushDecoder(1 << 22)
        self.handler = rig.dispatcher.handler(self)
        self.handler.connection_made(rig.now)

    def close(self, code: int, reason: str = "", *, last: bytes = b"") -> None:
        self.write(last)
        super().close(code, reason)

    def wake(self) -> None:
        super().wake()
        self.is_awake = True

    # The client.

    async def send(self, *requests: pb.ClientRequest | bytes) -> list[ServerPush]:
        """Send frames in one piece; return what came back."""
        data = b"".join(r if isinstance(r, bytes) else frame(r) for r in requests)
        self.last_heard = self.rig.now
        try:
            self.handler.data_received(data, self.rig.now)
        except ProtocolError as error:
            self.close(error.close_code, str(error))
        return await self.run()

    async def run(self) -> list[ServerPush]:
        """Let the connection task, the workers and the flush run; return the new pushes."""
        for _ in range(3):
            if self.is_awake and not self.is_closing:
                self.is_awake = False
                try:
                    await self.handler.work()
                except ProtocolError as error:
                    self.close(error.close_code, str(error))
            await settle(3)
            if not self.is_closing:
                self.handler.write_ready(self.rig.now)
        return self._decoder.feed(self.take())

    async def start(self, openid: str = "alice", **fields: Any) -> pb.StartResponse:
        pushes = await self.send(start(openid, **fields))
        assert pushes[0].type == pb.PUSH_START_RESP
        return pb.StartResponse.FromString(pushes[0].payload)

    async def login(self, openid: str = "alice") -> Session:
        response = await self.start(openid)
        assert response.success
        await self.send(business(1, "hello"))
        self.rig.upstream.answer(1, headers={"zone": "1"})
        pushes = await self.run()
        assert [(push.seq_id, push.client_seq_id) for push in pushes] == [(1, 1)]
        session = self.rig.sessions.by_id(response.session_id)
        assert session is not None
        return session

    def lose(self, kind: Any = "idle") -> None:
        """End the connection as the network or the gateway's own close does."""
        how = Disconnect(kind)
        if self.closed is not None:
            how = Disconnect("local", *self.closed[:2])
        self.close(0)
        self.handler.connection_lost(how, self.rig.now)


@cache
def configured(*sets: str) -> Config:
    return load(environ={}, sets=sets)


class Rig:
    """The layers between the network and the upstreams."""

    def __init__(self, **settings: dict[str, Any]) -> None:
        self.config = configured(
            *(
                f"{section}.{name}={value}"
                for section, values in settings.items()
                for name, value in values.items()
            )
        )
        self.now = 1000.0
        self.upstream = Upstream()
        self.router = Router()
        self.sessions = SessionManager(self.config.session, self.config.transport, self.config.push)
        upstream: Any = self.upstream
        router: Any = self.router
        clock = self.clock
        self.processor = AsyncProcessor(self.config.dispatch, upstream, clock=clock)
        self.dispatcher = Dispatcher(
            self.config, self.sessions, router, upstream, self.processor, clock
        )
        self.counters = self.processor.counters

    name = ""  # of the process

    def clock(self) -> float:
        return self.now

    async def __aenter__(self) -> Self:
        self.processor.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.processor.stop()


def frame(request: pb.ClientRequest) -> bytes:
    data = request.SerializeToString()
    return len(data).to_bytes(4) + data


def start(openid: str, **fields: Any) -> pb.ClientRequest:
    message = pb.StartRequest(openid=openid, **{"protocol": 1, "capabilities": 1, **fields})
    return pb.ClientRequest(msg_id=9, type=pb.REQUEST_START, payload=message.SerializeToString())


def business(seq: int, action: str, data: bytes = b"", *, ack: int = 0) -> pb.ClientRequest:
    return pb.ClientRequest(
        msg_id=100 + seq,
        seq_id=seq,
        type=pb.REQUEST_BUSINESS,
        payload=pb.BusinessRequest(action=action, data=data).SerializeToString(),
        ack_seq_id=ack,
    )


def ack(seq: int) -> pb.ClientRequest:
    payload = pb.ClientAck(acked_seq_id=seq).SerializeToString()
    return pb.ClientRequest(type=pb.REQUEST_ACK, payload=payload)


def heartbeat() -> pb.ClientRequest:
    return pb.ClientRequest(msg_id=7, type=pb.REQUEST_HEARTBEAT)


def stop() -> pb.ClientRequest:
    return pb.ClientRequest(type=pb.REQUEST_STOP)


def error(push: ServerPush) -> pb.ErrorMessage:
    assert push.type == pb.PUSH_ERROR
    return pb.ErrorMessage.FromString(push.payload)
