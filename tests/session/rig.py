"""A session manager without a loop, and both ends' frames for tests on it."""

from __future__ import annotations

from gatesvr._core.codec import (
    ClientRequest,
    PushDecoder,
    RequestDecoder,
    ServerPush,
    encode_business,
    encode_request,
    push_body,
)
from gatesvr._pb import message_pb2 as pb
from gatesvr.config import PushConfig, SessionConfig, TransportConfig
from gatesvr.errors import CloseCode, ErrorCode, ProtocolError
from gatesvr.protocol.link import Disconnect
from gatesvr.protocol.messages import RequestType, parse_ack, parse_start, parse_stop
from gatesvr.protocol.server import ServerProtocol
from gatesvr.session.manager import SessionManager
from gatesvr.session.session import Session
from gatesvr.session.state import Verdict

from ..fakes import FakeLink

CUT = Disconnect("idle")
BUSINESS_DATA = 3
ERROR = 4
SKIP = 7


def pushes(data: bytes) -> list[ServerPush]:
    """Decode whole frames of the gateway's."""
    decoder = PushDecoder(64 << 20)
    found = decoder.feed(data)
    assert not decoder.error
    assert not decoder.buffered_bytes
    return found


def decode(frame: bytes) -> ClientRequest:
    """Decode one frame of a client's."""
    (request,) = RequestDecoder(64 << 20).feed(frame)
    return request


def business(seq: int, action: str = "echo", data: bytes = b"", msg_id: int = 0) -> ClientRequest:
    """Return a decoded BUSINESS request."""
    payload = encode_business(action, None, data)
    return decode(
        encode_request(msg_id or seq % (1 << 31) or 1, seq, RequestType.BUSINESS, payload)
    )


def answer_body(client_seq: int, data: bytes = b"", code: int = 200) -> bytes:
    """Return the body of an answer."""
    payload = pb.BusinessResponse(code=code, data=data).SerializeToString()
    return push_body(BUSINESS_DATA, payload, None, client_seq)


def notify(data: bytes) -> bytes:
    """Return the body of a notify."""
    return push_body(BUSINESS_DATA, pb.BusinessResponse(code=200, data=data).SerializeToString())


def start_request(openid: str = "alice", **fields: object) -> pb.StartRequest:
    """Return a START of version 1."""
    values = {"protocol": 1, "capabilities": 1, **fields}
    return pb.StartRequest(openid=openid, **values)  # type: ignore[arg-type]


def index_sizes(manager: SessionManager) -> dict[str, int]:
    """Return the size of everything that a manager keeps of sessions."""
    index = manager.index
    return {
        "by_id": len(index.by_id),
        "by_openid": len(index.by_openid),
        "inited": len(index.inited),
        "inited_by_network": len(index.inited_by_network),
        "inited_by_openid": len(index.inited_by_openid),
        "detached": len(index.detached),
        "networks": len(index.networks),
        "by_network": len(index.by_network),
        "tombstones": len(manager.tombstones),
        "watched": len(manager.context.watched),
    }


def sent_data(data: bytes) -> list[bytes]:
    """Return the data of the BUSINESS_DATA among frames, b"!code" for an ERROR, b"~" for a SKIP."""
    found = []
    for push in pushes(data):
        if push.type == BUSINESS_DATA:
            found.append(push.business()[2])
        elif push.type == ERROR:
            found.append(b"!%d" % pb.ErrorMessage.FromString(push.payload).error_code)
        elif push.type == SKIP:
            found.append(b"~")
    return found


class Sessions:
    """A manager, and what a test does to it."""

    def __init__(
        self,
        *,
        max_connections: int = 10_000,
        push: PushConfig | None = None,
        **settings: object,
    ) -> None:
        self.now = 100.0
        self.config = SessionConfig(**settings)  # type: ignore[arg-type]
        self._random = 0
        self.manager = SessionManager(
            self.config,
            TransportConfig(max_connections=max_connections),
            push,
            random_bytes=self._random_bytes,
        )

    def _random_bytes(self, count: int) -> bytes:
        self._random += 1
        return self._random.to_bytes(count, "big")

    @property
    def counters(self) -> dict[str, int | float]:
        return self.manager.counters.snapshot()

    def link(self, ip: str = "192.0.2.1") -> FakeLink:
        return FakeLink(peer=(ip, 50_000), last_heard=self.now)

    def start(
        self, openid: str = "alice", link: FakeLink | None = None, **fields: object
    ) -> tuple[Session, FakeLink, pb.StartResponse]:
        """Start a session that is expected to start."""
        link = link or self.link()
        outcome = self.manager.start(start_request(openid, **fields), link, self.now)
        assert outcome.session is not None, outcome
        return outcome.session, link, outcome.response

    def login(
        self, openid: str = "alice", link: FakeLink | None = None, **fields: object
    ) -> tuple[Session, FakeLink, pb.StartResponse]:
        """Start a session and log it in; its first answer is acked."""
        session, link, response = self.start(openid, link, **fields)
        self.hello(session)
        session.sender.feed(self.now)
        session.ack(1, self.now)
        link.take()
        return session, link, response

    def hello(self, session: Session) -> bool:
        """Have a session's hello answered 200; return whether it was allowed in."""
        seq = session.max_client_seq + 1
        self.offer_hello(session, seq)
        verdict = self.manager.logged_in(session, "1", self.now)
        session.hello_seq = 0
        if verdict.close_code is not None:
            session.fail(seq, verdict.error_code, verdict.reason, now=self.now)
            self.manager.close(session, verdict.close_code, verdict.reason, self.now)
            return False
        session.answer(seq, answer_body(seq, b"welcome"), now=self.now)
        return True

    def offer_hello(self, session: Session, seq: int = 1) -> None:
        """Let a session accept a hello, which stays unanswered."""
        assert session.offer(business(seq, "hello"), "completion", self.now) is Verdict.NEXT
        session.hello_seq = seq

    def offer(self, session: Session, seq: int = 0, order: str = "completion") -> Verdict:
        """Offer the request of that number, by default the next one."""
        return session.offer(business(seq or session.max_client_seq + 1), order, self.now)

    def ask(self, session: Session, order: str = "completion") -> int:
        """Let the session accept its next request; return its number."""
        assert self.offer(session, order=order) is Verdict.NEXT
        return session.max_client_seq

    def has_room(self, session: Session) -> bool:
        """Whether the session takes another request."""
        in_flight = session.in_flight
        return (
            in_flight < self.config.max_in_flight
            and in_flight + session.queue.kept < self.config.max_queue_size
        )

    def feed(self, session: Session) -> list[bytes]:
        """Feed the session's connection; return what it got."""
        link = session.link
        assert isinstance(link, FakeLink)
        session.sender.feed(self.now)
        return sent_data(link.take())


class Connection:
    """The gateway's end of one connection, as dispatch builds it, without a loop.

    hello is answered at once; other requests wait in ``asked`` until answer_all().
    """

    def __init__(self, sessions: Sessions, ip: str = "192.0.2.1") -> None:
        self.sessions = sessions
        self.link = sessions.link(ip)
        self.protocol = ServerProtocol()
        self.session: Session | None = None
        self.held: list[ClientRequest] = []

    def receive(self, data: bytes) -> None:
        """Take a client's bytes in."""
        if self.link.is_closing:
            return
        now = self.sessions.now
        self.link.last_heard = now
        requests = self.protocol.receive_data(data, 1, now)
        if self.session is not None:
            if self.session.link is not self.link:
                return
            if requests:
                self.session.prove_token()
        try:
            for request in requests:
                self._handle(request)
                if self.link.is_closing:
                    return
            self.link.write(self.protocol.data_to_send())
            if self.protocol.error is not None:
                raise self.protocol.error
        except ProtocolError as error:
            self.close(error.close_code)
            return
        self.work()

    def _handle(self, request: ClientRequest) -> None:
        now = self.sessions.now
        session = self.session
        if request.type == RequestType.START:
            outcome = self.sessions.manager.start(parse_start(request.payload), self.link, now)
            frame = self.protocol.start_response(outcome.response)
            if outcome.session is None:
                self.link.close(outcome.close_code, outcome.reason, last=frame)
            else:
                self.session = outcome.session
                self.link.write(frame)
            return
        assert session is not None
        if request.ack_seq_id:
            session.ack(request.ack_seq_id, now)
        if request.type == RequestType.ACK:
            session.ack(parse_ack(request.payload), now)
        elif request.type == RequestType.STOP:
            self.sessions.manager.stop(session, parse_stop(request.payload), now)
        elif request.type == RequestType.BUSINESS:
            self.held.append(request)

    def work(self) -> None:
        """Move held for as long as the session has room."""
        session = self.session
        while self.held and session is not None and session.link is self.link:
            if session.hello_seq:
                return
            request = self.held.pop(0)
            verdict = session.offer(request, "completion", self.sessions.now)
            if verdict is Verdict.FULL:
                self.held.insert(0, request)
                return
            self._take(session, request, verdict)

    def _take(self, session: Session, request: ClientRequest, verdict: Verdict) -> None:
        now = self.sessions.now
        if verdict is Verdict.GAP:
            frame = self.protocol.error_push(request.msg_id, ErrorCode.BAD_REQUEST, "gap")
            self.link.write(frame)
        elif verdict is Verdict.NEXT:
            if request.action == "hello":
                self.sessions.manager.logged_in(session, "1", now)
                self.protocol.logged_in()
                body = answer_body(request.seq_id, b"welcome")
                session.answer(request.seq_id, body, now=now)
            elif not session.is_logged_in:
                session.fail(request.seq_id, ErrorCode.NOT_LOGGED_IN, "login first", now=now)

    def answer_all(self) -> None:
        """Answer every request that waits, by its number."""
        session = self.session
        assert session is not None
        for seq in list(session.pending):
            session.answer(seq, answer_body(seq, b"answer %d" % seq), now=self.sessions.now)
        self.work()

    def send(self) -> bytes:
        """Return the bytes for the client."""
        session = self.session
        if session is not None and session.link is self.link:
            session.sender.feed(self.sessions.now)
        data = self.link.take()
        if self.link.closed is not None:
            data += self.link.closed[2]
            self.link.closed = (*self.link.closed[:2], b"")
        return data

    def close(self, code: CloseCode) -> None:
        """Close from this end."""
        self.link.close(code)
        self.lost(Disconnect("local", int(code)))

    def lost(self, how: Disconnect = CUT) -> None:
        """The connection has ended."""
        self.link.close(0)
        if self.session is not None:
            self.sessions.manager.detach(self.session, self.link, how, self.sessions.now)
