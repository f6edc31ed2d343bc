"""Peer: one connection of the client under test, as a script sees it.

Requests arrive in a queue. Acks are noted and taken out of it, so are heartbeats, which are
answered unless ``answers_heartbeats`` is off. What breaks a rule whatever the case is about (a
frame that does not decode, an ack of what was never sent, a second START) makes the script's next
wait raise Broken.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol, TypeVar

from .._core.codec import RequestDecoder, error_body, notify_body, push_body, push_frame
from .._pb import message_pb2 as pb
from ..protocol.messages import (
    Outcome,
    PushType,
    RequestType,
    auth_response_frame,
    goaway_frame,
    heartbeat_response_frame,
    kick_frame,
    start_response_frame,
)
from .broken import Broken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from .._core.codec import ClientRequest

__all__ = ["Carrier", "Peer", "Table", "answer_frame", "message_frame", "skip_frame"]

M = TypeVar("M", bound="Message")

MAX_FRAME_BYTES = 1 << 20
"""Largest frame of a client (PROTOCOL 1.3)."""
_LENGTH = struct.Struct(">I")


class Carrier(Protocol):
    """Takes bytes to the client, by QUIC or by WebSocket."""

    def send(self, pieces: Sequence[bytes | str]) -> None:
        """Send bytes, cut as they are given; text is for WebSocket alone."""

    def close(self, code: int, reason: str, last: bytes) -> None:
        """Close with an application code, behind a last push if there is one."""

    def cut(self) -> None:
        """Let the connection break without a word."""


class Table:
    """What the script says of the session: its id, its tokens, its last server seq."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tokens = 0
        self.session_id = f"{name}-1"
        self.token = b""
        self.seq = 0
        """The last server seq that was given."""
        self.generation = 0

    def new_token(self) -> bytes:
        """Return the next token."""
        self._tokens += 1
        self.token = f"{self._name}:{self._tokens}".encode().ljust(16, b".")[-16:]
        return self.token


class Peer:
    """One connection of the client.

    Args:
        carrier: Takes the bytes.
        tell: Called with what happened, in words, for the transcript.
        table: The session.
        is_message_wise: Whether a piece that arrives must be whole frames (WebSocket).

    Attributes:
        table: The session, as the case has it.
        door: The number of the door that it came by; a case may open several.
        on_change: Called when something arrived, or the connection ended.
        on_wait: Told which request of the client's is waited for.
        acked: The highest server seq that the client has acknowledged here.
        acks: How many acknowledgements came here, alone or on a request.
        heartbeats: Those that came, with their times.
        answers_heartbeats: Whether heartbeats are answered.
        close_code: How the client closed; None for a connection that was lost, or is there.
        is_ended: Whether the connection has ended.
    """

    def __init__(
        self, carrier: Carrier, tell: Callable[[str], None], *, is_message_wise: bool = False
    ) -> None:
        self.carrier = carrier
        self.table = Table("unused")
        self.door = 0
        self.on_change: Callable[[], None] = lambda: None
        self.on_wait: Callable[[str], None] = lambda what: None
        self.acked = 0
        self.acks = 0
        self.heartbeats: list[tuple[float, ClientRequest]] = []
        self.answers_heartbeats = True
        self.close_code: int | None = None
        self.is_ended = False
        self.start_request: pb.StartRequest | None = None
        self.start_msg_id = 0
        self._tell = tell
        self._is_message_wise = is_message_wise
        self._decoder = RequestDecoder(MAX_FRAME_BYTES)
        self._arrived: deque[ClientRequest] = deque()
        self._changed = asyncio.Event()
        self._violation: Broken | None = None

    # What the carrier calls.

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client's; over WebSocket, a whole message."""
        if self._is_message_wise and not _is_whole(data):
            self._violate("whole frames in each message", "a message has parts of one", "1.9")
        for request in self._decoder.feed(data):
            self._take(request)
        if self._decoder.error:
            self._violate("frames that decode", f"one does not: {self._decoder.error}", "1.3")
        self._change()

    def text_received(self) -> None:
        """The client sent a text message."""
        self._violate("binary messages", "the client sent text", "1.9")

    def ended(self, code: int | None) -> None:
        """The connection has ended: the code of the client's close, None where it was lost."""
        if not self.is_ended:
            self.is_ended = True
            self.close_code = code
            self._tell(f"client closed with {code}" if code is not None else "connection ended")
            self._change()

    def _change(self) -> None:
        self._changed.set()
        self.on_change()

    def _take(self, request: ClientRequest) -> None:
        kind = request.type
        name = _name(kind)
        seq = f" {request.seq_id}" if kind == RequestType.BUSINESS else ""
        self._tell(f"client sent {name}{seq}")
        has_msg_id = (RequestType.START, RequestType.BUSINESS, RequestType.HEARTBEAT)
        if kind in has_msg_id and not request.msg_id:
            self._violate("a msg_id other than 0", f"a {name} has msg_id 0", "2.1")
        if kind != RequestType.START and self.start_request is None:
            self._violate("START first", f"the client began with {name}", "3.1")
        if kind == RequestType.START:
            if self.start_request is not None:
                self._violate("one START a connection", "there was a second one", "3.1")
            self.start_request = pb.StartRequest.FromString(request.payload)
            self.start_msg_id = request.msg_id
        elif request.ack_seq_id:
            self._acknowledge(request.ack_seq_id)
        if kind == RequestType.ACK:
            self._acknowledge(pb.ClientAck.FromString(request.payload).acked_seq_id)
        elif kind == RequestType.HEARTBEAT:
            self.heartbeats.append((time.monotonic(), request))
            if self.answers_heartbeats:
                self.answer_heartbeat(request)
        else:
            self._arrived.append(request)

    def _acknowledge(self, seq: int) -> None:
        if seq > self.table.seq:
            self._violate(
                f"acks of what was sent, at most {self.table.seq}", f"the client acked {seq}", "2.5"
            )
        self.acks += 1
        self.acked = max(self.acked, seq)

    def _violate(self, expected: str, did: str, rule: str) -> None:
        if self._violation is None:
            self._violation = Broken(expected, did, rule)
        self._change()

    def check(self) -> None:
        """Raise the rule that was broken whatever the case is about."""
        if self._violation is not None:
            raise self._violation

    # Waiting.

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds, or the connection has ended."""
        while True:
            self.check()
            if holds():
                return
            if self.is_ended:
                raise Broken("the connection to stay", self._ending())
            self._changed.clear()
            await self._changed.wait()

    def _ending(self) -> str:
        if self.close_code is None:
            return "it ended without a close code"
        return f"the client closed it with {self.close_code}"

    @property
    def waiting(self) -> list[ClientRequest]:
        """The requests that arrived and that the script has not taken."""
        self.check()
        return list(self._arrived)

    async def receive(self, kind: RequestType) -> ClientRequest:
        """Return the client's next request other than acks and heartbeats, which is of a kind."""
        await self.until(lambda: self._arrived)
        request = self._arrived.popleft()
        if request.type != kind:
            raise Broken(f"a {kind.name}", f"the client sent {_name(request.type)}")
        return request

    async def start(self) -> pb.StartRequest:
        """Return the client's START."""
        request = await self.receive(RequestType.START)
        return pb.StartRequest.FromString(request.payload)

    async def business(self, seq: int = 0, action: str = "") -> ClientRequest:
        """Return the client's next BUSINESS request; check its number and action where given."""
        what = action or "a request"
        self.on_wait(f"{what} with seq {seq}" if seq else what)
        request = await self.receive(RequestType.BUSINESS)
        if seq and request.seq_id != seq:
            raise Broken(f"request {seq}", f"the client sent {request.seq_id}", "2.1")
        if action and (request.action or "").lower() != action:
            raise Broken(f"the action {action}", f"the client asked for {request.action!r}")
        return request

    async def next(self) -> ClientRequest:
        """Return the client's next request other than acks and heartbeats, of whatever kind."""
        await self.until(lambda: self._arrived)
        return self._arrived.popleft()

    async def auth(self) -> tuple[str, int, ClientRequest]:
        """Return the token of the client's AUTH, its msg_id, and the request."""
        request = await self.receive(RequestType.AUTH)
        return pb.AuthRequest.FromString(request.payload).auth_token, request.msg_id, request

    async def acks_up_to(self, seq: int) -> None:
        """Wait until the client has acked seq."""
        await self.until(lambda: self.acked >= seq)

    async def closed(self) -> int | None:
        """Wait for the end of the connection; return the client's close code, None for none."""
        while not self.is_ended:
            self.check()
            self._changed.clear()
            await self._changed.wait()
        return self.close_code

    # Sending.

    def send(self, *frames: bytes) -> None:
        """Send frames in one piece."""
        self.carrier.send([b"".join(frames)])

    def send_pieces(self, pieces: Sequence[bytes | str]) -> None:
        """Send bytes, cut as they are given; text is for WebSocket alone."""
        self.carrier.send(pieces)

    def respond(self, *, future: bytes = b"", **fields: object) -> None:
        """Answer START with success; fields change the answer.

        Args:
            future: Fields that no client knows, as on the wire.
            fields: Of the StartResponse.
        """
        table = self.table
        table.generation += 1
        response = pb.StartResponse(
            success=True,
            heartbeat_interval=15,
            connection_id=table.session_id,
            session_id=table.session_id,
            resume_token=table.new_token(),
            max_message_bytes=1 << 20,
            max_in_flight=128,
            max_unacked_messages=1024,
            max_unacked_bytes=4 << 20,
            generation=table.generation,
            protocol=1,
            capabilities=1,
            state=pb.SESSION_STATE_INITED,
            resume_window_ms=60_000,
        )
        response.MergeFrom(pb.StartResponse(**fields))  # type: ignore[arg-type]
        body = push_body(PushType.START_RESP, response.SerializeToString() + future) + future
        self.send(push_frame(self.start_msg_id, 0, body))

    def respond_resumed(self, max_client_seq: int, **fields: object) -> None:
        """Answer START: the session goes on."""
        self.respond(
            resumed=True,
            state=pb.SESSION_STATE_NORMAL,
            max_client_seq=max_client_seq,
            **fields,  # type: ignore[arg-type]
        )

    def refuse(self, error: int, close: int, reason: str = "", **fields: object) -> None:
        """Answer START by a refusal, and close."""
        retry_after_ms = fields.pop("retry_after_ms", 0)
        response = pb.StartResponse(
            success=False,
            error=pb.ErrorMessage(
                error_code=error,
                error_message="refused by the script",
                retry_after_ms=retry_after_ms,  # type: ignore[arg-type]
            ),
            **fields,  # type: ignore[arg-type]
        )
        self._tell(f"gateway refused START: {error}, close {close}")
        self.carrier.close(close, reason, start_response_frame(self.start_msg_id, response))

    def next_seq(self) -> int:
        """Give the next server seq."""
        self.table.seq += 1
        return self.table.seq

    def answer(
        self, request: ClientRequest, data: bytes = b"", code: int = 200, seq: int = 0
    ) -> None:
        """Answer a request, in the session's next place."""
        self.send(answer_frame(request, seq or self.next_seq(), data, code))

    def error(
        self,
        request: ClientRequest,
        code: int,
        *,
        retry_after_ms: int = 0,
        outcome: int = Outcome.UNKNOWN,
        is_sequenced: bool = True,
    ) -> None:
        """Answer a request by an ERROR."""
        body = error_body(code, "no", "id-1", retry_after_ms, outcome, request.seq_id)
        self.send(push_frame(request.msg_id, self.next_seq() if is_sequenced else 0, body))

    def notify(self, data: bytes = b"", count: int = 1) -> None:
        """Push notifies in one piece."""
        self.send(*(message_frame(self.next_seq(), data) for _ in range(count)))

    def skip(self, to_seq: int, reason: int = 1) -> None:
        """Give up everything up to to_seq."""
        first = self.table.seq + 1
        self.table.seq = to_seq
        self.send(skip_frame(first, to_seq, reason))

    def answer_heartbeat(self, request: ClientRequest) -> None:
        """Answer a heartbeat."""
        client_ms = pb.HeartbeatRequest.FromString(request.payload).client_timestamp
        self.send(heartbeat_response_frame(request.msg_id, client_ms, int(time.time() * 1000)))

    def goaway(self, reconnect_after_ms: int = 0, address: str = "") -> None:
        """Ask the client to go."""
        self._tell(f"gateway said GOAWAY {reconnect_after_ms} ms {address}")
        self.send(goaway_frame("script", reconnect_after_ms, address))

    def kick(self, code: int, close: int) -> None:
        """End the session: KICK, and the close behind it."""
        self._tell(f"gateway kicked with {code}, close {close}")
        self.carrier.close(close, "kicked", kick_frame(code, "script"))

    def answer_auth(self, request: ClientRequest, expires_at: float, code: int = 0) -> None:
        """Answer AUTH; expires_at in seconds since the epoch."""
        self.send(auth_response_frame(request.msg_id, expires_at, code, "no" if code else ""))

    def close(self, code: int, reason: str = "") -> None:
        """Close with an application code."""
        self._tell(f"gateway closed with {code}{reason and f' ({reason})'}")
        self.carrier.close(code, reason, b"")

    def cut(self) -> None:
        """Let the connection break."""
        self._tell("gateway cut the connection")
        self.carrier.cut()


def _name(kind: int) -> str:
    """Return the name of a request's type."""
    return RequestType(kind).name if kind in set(RequestType) else f"type {kind}"


def answer_frame(request: ClientRequest, seq: int, data: bytes, code: int = 200) -> bytes:
    """Return the frame of an answer."""
    payload = pb.BusinessResponse(code=code, message="ok" if code == 200 else "no", data=data)
    body = push_body(PushType.BUSINESS_DATA, payload.SerializeToString(), None, request.seq_id)
    return push_frame(request.msg_id, seq, body)


def message_frame(seq: int, data: bytes = b"") -> bytes:
    """Return the frame of a notify; its data is its seq unless there is other."""
    return push_frame(0, seq, notify_body("test", f"n{seq}", "", data or b"%d" % seq, []))


def skip_frame(from_seq: int, to_seq: int, reason: int = 1) -> bytes:
    """Return the frame of a SKIP."""
    skip = pb.Skip(from_seq=from_seq, messages=min(to_seq - from_seq + 1, 2**32 - 1))
    skip.reason = reason  # type: ignore[assignment]
    return push_frame(0, to_seq, push_body(PushType.SKIP, skip.SerializeToString()))


def _is_whole(message: bytes) -> bool:
    at = 0
    while at + _LENGTH.size <= len(message):
        at += _LENGTH.size + _LENGTH.unpack_from(message, at)[0]
    return 0 < at == len(message)
