"""A gateway for client tests: real connections and the server protocol, sessions of a few lines.

What a request does is in its action: ``echo`` answers at once, ``hold`` when release() is called,
``fail`` by an ERROR, ``push`` by as many notifies as its data says and then an answer.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gatesvr._core.codec import error_body, notify_body, push_body, push_frame
from gatesvr._pb import message_pb2 as pb
from gatesvr.config import TransportConfig, WebConfig
from gatesvr.protocol.messages import LostReason, PushType, RequestType, SessionState
from gatesvr.protocol.server import ServerProtocol
from gatesvr.transport.listener import ConnectionListener
from gatesvr.transport.web.listener import WebListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gatesvr._core.codec import ClientRequest
    from gatesvr.protocol.link import Disconnect, Link

WEBSOCKET = "websocket"
"""In the place of a QUIC backend: the gateway listens for WebSockets."""


class FakeSession:
    """What outlives a connection."""

    def __init__(self, session_id: str, openid: str) -> None:
        self.session_id = session_id
        self.openid = openid
        self.token = os.urandom(16)
        self.attempt = 0
        self.is_logged_in = False
        self.last_seq = 0
        self.acked = 0
        self.max_client_seq = 0
        self.sent: dict[int, bytes] = {}
        self.held: list[ClientRequest] = []
        self.link: Link | None = None
        self.on_detached: Callable[[], None] = lambda: None

    def send(self, body: bytes, msg_id: int = 0) -> None:
        self.last_seq += 1
        frame = push_frame(msg_id, self.last_seq, body)
        self.sent[self.last_seq] = frame
        if self.link is not None:
            self.link.write(frame)

    def notify(self, data: bytes = b"", msg_type: str = "news", title: str = "title") -> None:
        self.send(notify_body(msg_type, title, "", data, []))

    def skip(self, messages: int) -> None:
        """Let so many messages go, and say so."""
        first = self.last_seq + 1
        self.last_seq += messages - 1
        body = pb.Skip(from_seq=first, messages=messages, reason=LostReason.EXPIRED)
        self.send(push_body(PushType.SKIP, body.SerializeToString()))

    def answer(self, request: ClientRequest, data: bytes, code: int = 200) -> None:
        response = pb.BusinessResponse(code=code, message="ok" if code == 200 else "no", data=data)
        payload = response.SerializeToString()
        body = push_body(PushType.BUSINESS_DATA, payload, {"h": "v"}, request.seq_id)
        self.send(body, request.msg_id)

    def acknowledge(self, seq: int) -> None:
        assert seq <= self.last_seq
        self.acked = max(self.acked, seq)

    def release(self) -> None:
        """Answer what was held."""
        held, self.held = self.held, []
        for request in held:
            self.answer(request, b"released")


class FakeGateway:
    """Sessions and knobs.

    Attributes:
        max_in_flight: Told to clients.
        heartbeat_interval: Told to clients, whole seconds.
        hello_code: The answer to logins.
        refuse_start: (error, close code, reason) for every START, or None.
        refuses_resumes_only: Whether refuse_start is for those alone.
        start_closes: (close code, reason) in the place of an answer, one for each START to come.
        hello_closes: The same for logins.
        hello_errors: (code, retry_after_ms, outcome) of the ERRORs that answer logins to come.
        is_forgetful: Whether a session goes with its connection.
        requests: Every business request accepted: (action, seq).
        hello_params: Those of the logins that were answered.
        heartbeats: How many came.
        stops: How many came.
        lost: How connections ended.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.sessions: dict[str, FakeSession] = {}
        self.max_in_flight = 128
        self.heartbeat_interval = 15
        self.hello_code = 200
        self.refuse_start: tuple[int, int, str] | None = None
        self.refuses_resumes_only = False
        self.start_closes: list[tuple[int, str]] = []
        self.hello_closes: list[tuple[int, str]] = []
        self.hello_errors: list[tuple[int, int, int]] = []
        self.is_forgetful = False
        self.is_mute = False
        self.requests: list[tuple[str | None, int]] = []
        self.hello_params: list[dict[str, str]] = []
        self.heartbeats = 0
        self.stops = 0
        self.starts: list[pb.StartRequest] = []
        self.lost: list[Disconnect] = []
        self.listener: ConnectionListener | WebListener | None = None

    @property
    def server(self) -> str:
        assert self.listener is not None
        host, port = self.listener.address
        return f"wss://{host}:{port}" if self.backend == WEBSOCKET else f"{host}:{port}"

    @property
    def session(self) -> FakeSession:
        """The newest session."""
        return list(self.sessions.values())[-1]


class _Handler:
    def __init__(self, gateway: FakeGateway, link: Link) -> None:
        self.gateway = gateway
        self.link = link
        self.protocol = ServerProtocol()
        self.session: FakeSession | None = None

    def connection_made(self, now: float) -> None:
        pass

    def data_received(self, data: bytes, now: float) -> None:
        if self.gateway.is_mute:
            return
        for request in self.protocol.receive_data(data):
            if request.type == RequestType.START:
                self.start(pb.StartRequest.FromString(request.payload))
                continue
            session = self.session
            assert session is not None
            if request.ack_seq_id:
                session.acknowledge(request.ack_seq_id)
            if request.type == RequestType.ACK:
                session.acknowledge(pb.ClientAck.FromString(request.payload).acked_seq_id)
            elif request.type == RequestType.HEARTBEAT:
                self.gateway.heartbeats += 1
            elif request.type == RequestType.STOP:
                self.gateway.stops += 1
                del self.gateway.sessions[session.session_id]
                self.link.close(0)
            elif request.type == RequestType.BUSINESS:
                self.business(session, request)
        self.link.write(self.protocol.data_to_send())
        if self.protocol.error is not None:
            raise self.protocol.error

    def start(self, start: pb.StartRequest) -> None:
        gateway = self.gateway
        gateway.starts.append(start)
        if gateway.start_closes:
            self.link.close(*gateway.start_closes.pop(0))
            return
        if gateway.refuse_start is not None and (
            start.session_id or not gateway.refuses_resumes_only
        ):
            error, close_code, reason = gateway.refuse_start
            refused = pb.StartResponse(
                success=False, error=pb.ErrorMessage(error_code=error, error_message="not you")
            )
            self.link.close(close_code, reason, last=self.protocol.start_response(refused))
            return
        session = gateway.sessions.get(start.session_id)
        is_resumed = session is not None
        if session is None:
            session = FakeSession(f"session-{len(gateway.starts)}", start.openid)
            gateway.sessions[session.session_id] = session
        else:
            assert start.resume_token == session.token
            assert start.attempt > session.attempt
            session.token = os.urandom(16)
        replay = [seq for seq in session.sent if seq > start.last_acked_seq_id]
        response = pb.StartResponse(
            success=True,
            heartbeat_interval=gateway.heartbeat_interval,
            connection_id=session.session_id,
            session_id=session.session_id,
            resume_token=session.token,
            resumed=is_resumed,
            lost_reason=0 if is_resumed or not start.session_id else LostReason.UNKNOWN_SESSION,
            replay_from=min(replay) if is_resumed and replay else 0,
            replay_to=max(replay) if is_resumed and replay else 0,
            max_client_seq=session.max_client_seq,
            max_in_flight=gateway.max_in_flight,
            max_message_bytes=1 << 20,
            max_unacked_messages=1024,
            max_unacked_bytes=4 << 20,
            generation=len(gateway.starts),
            protocol=1,
            state=SessionState.NORMAL if session.is_logged_in else SessionState.INITED,
        )
        self.session = session
        session.link = self.link
        self.link.write(self.protocol.start_response(response))
        if session.is_logged_in:
            self.protocol.logged_in()
        if is_resumed:
            for seq in replay:
                self.link.write(session.sent[seq])

    def business(self, session: FakeSession, request: ClientRequest) -> None:
        if request.seq_id <= session.max_client_seq:
            return
        assert request.seq_id == session.max_client_seq + 1
        session.max_client_seq = request.seq_id
        action = request.action
        self.gateway.requests.append((action, request.seq_id))
        data = pb.BusinessRequest.FromString(request.payload).data
        if action == "hello" and self.gateway.hello_closes:
            self.link.close(*self.gateway.hello_closes.pop(0))
        elif action == "hello" and self.gateway.hello_errors:
            code, retry_ms, outcome = self.gateway.hello_errors.pop(0)
            body = error_body(code, "no hello", "id-1", retry_ms, outcome, request.seq_id)
            session.send(body, request.msg_id)
        elif action == "hello":
            self.gateway.hello_params.append(
                dict(pb.BusinessRequest.FromString(request.payload).params)
            )
            session.is_logged_in = self.gateway.hello_code == 200
            self.protocol.logged_in()
            session.answer(request, b"", self.gateway.hello_code)
        elif action == "echo":
            session.answer(request, data)
        elif action == "hold":
            session.held.append(request)
        elif action == "push":
            for number in range(int(data)):
                session.notify(str(number).encode())
            session.answer(request, b"pushed")
        elif action == "fail":
            body = error_body(503, "busy", "id-1", 250, 1, request.seq_id)
            session.send(body, request.msg_id)
        else:
            session.answer(request, b"", 404)

    async def work(self) -> None:
        pass

    def write_ready(self, now: float) -> None:
        pass

    def get_timer(self) -> float | None:
        return None

    def handle_timer(self, now: float) -> None:
        pass

    def path_limit_near(self, now: float) -> None:
        pass

    def stream_ended(self, now: float) -> None:
        pass

    def connection_lost(self, how: Disconnect, now: float) -> None:
        self.gateway.lost.append(how)
        if self.session is not None and self.session.link is self.link:
            self.session.link = None
            self.session.on_detached()
            if self.gateway.is_forgetful:
                self.gateway.sessions.pop(self.session.session_id, None)


@asynccontextmanager
async def fake_gateway(
    backend: str, bind: str = "127.0.0.1:0", *, cert: str = ""
) -> AsyncIterator[FakeGateway]:
    """Run a fake gateway, on a free port of loopback; cert has its key, too."""
    gateway = FakeGateway(backend)

    def make(link: Link) -> _Handler:
        return _Handler(gateway, link)

    is_web = backend == WEBSOCKET
    web = WebConfig(bind=bind if is_web else "")
    quic = ConnectionListener(
        TransportConfig(bind="127.0.0.1:0", web=web)
        if is_web
        else TransportConfig(bind=bind, backend=backend, cert=cert, key=cert),
        make,
    )
    listeners: list[ConnectionListener | WebListener] = [quic]
    if is_web:
        config = TransportConfig(web=web)
        listeners.append(
            WebListener(config, quic, make, max_login_bytes=64 << 10, max_message_bytes=1 << 20)
        )
    for listener in listeners:
        await listener.start()
    gateway.listener = listeners[-1]
    try:
        yield gateway
    finally:
        gateway.listener.close_all(0)
        for listener in reversed(listeners):
            await listener.stop()
