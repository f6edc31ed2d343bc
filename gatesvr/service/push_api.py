"""PushApi: pushes, kicks and session queries, over gRPC or inside the gateway.

Each method builds the message of its rpc and hands it to the subclass. So GatewayClient and an
embedded Gateway share methods, results and errors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .._pb import upstream_pb2 as pb
from .closing import AsyncClosing
from .results import PushResult, SessionInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from .request import Request

__all__ = ["Push", "PushApi", "PushStream", "Target", "body_fields"]

Target = Literal["session", "openid"]

MAX_UINT32 = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Push:
    """One push for push_many() or PushStream.push(); the fields are the parameters of push()."""

    target_id: str
    target_type: Target = "openid"
    msg_type: str = ""
    title: str = ""
    content: str = ""
    data: bytes = b""
    metadata: Mapping[str, str] | None = None
    push_id: str = ""
    ttl: float = 0.0
    conflate_key: str = ""

    def message(self) -> pb.UnicastPushRequest:
        """Return it as the message of the rpcs.

        Raises:
            TypeError, ValueError: A field has the wrong type or is out of range; named first.
        """
        return pb.UnicastPushRequest(
            target_type=_text("target_type", self.target_type),
            target_id=_text("target_id", self.target_id),
            push_id=_text("push_id", self.push_id),
            ttl_ms=_ttl_ms(self.ttl),
            conflate_key=_text("conflate_key", self.conflate_key),
            **body_fields(self.msg_type, self.title, self.content, self.data, self.metadata),
        )


class PushStream(AsyncClosing):
    """A stream of pushes that keeps their order, also between calls; use it with ``async with``.

    PushApi.push_stream() makes it.
    """

    async def push(self, *pushes: Push) -> list[PushResult]:
        """Push in order; return one result a push.

        Raises:
            TypeError, ValueError: A field has the wrong type or is out of range; none is pushed.
            UpstreamError: The gateway is lost; it may or may not have taken the pushes.
        """
        answers = await self._push([push.message() for push in pushes])
        return [PushResult.of_push(answer) for answer in answers]

    @abstractmethod
    async def _push(self, requests: list[pb.UnicastPushRequest]) -> list[pb.UnicastPushResponse]:
        """Carry out the requests in order; return one response for each."""


class PushApi(ABC):
    """The methods that GatewayClient and Gateway share: pushes, kicks and session queries.

    A parameter of the wrong type raises TypeError, one out of range ValueError; both messages begin
    with its name. If the gateway refuses, the result says so.
    """

    async def push(
        self,
        target_id: str,
        *,
        target_type: Target = "openid",
        msg_type: str = "",
        title: str = "",
        content: str = "",
        data: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        push_id: str = "",
        ttl: float = 0.0,
        conflate_key: str = "",
    ) -> PushResult:
        """Push a notify to one session, or to all logged-in sessions of one openid.

        Args:
            target_id: A session id or an openid.
            target_type: Which of the two it is.
            msg_type: The kind of notify, for the client's code.
            title: Text for people.
            content: Text for people; also the payload if data is empty.
            data: The payload.
            metadata: Headers of the push.
            push_id: A name you choose; a push with a repeated name is not queued again. Repeat a
                push whose result is UNKNOWN, or whose call broke, only under the same name.
            ttl: Seconds after which the push may be dropped; 0 for never.
            conflate_key: Keeps only the newest: the push replaces the last notify with this key
                that was not sent yet, and the client sees a loss (CONFLATED) in its place.
        """
        push = Push(
            target_id,
            target_type,
            msg_type,
            title,
            content,
            data,
            metadata,
            push_id,
            ttl,
            conflate_key,
        )
        return PushResult.of_push(await self._call("PushToClient", push.message()))

    async def push_bound(
        self,
        request: Request,
        *,
        before: bool,
        msg_type: str = "",
        title: str = "",
        content: str = "",
        data: bytes = b"",
        metadata: Mapping[str, str] | None = None,
    ) -> PushResult:
        """Push a notify that arrives right before or after the answer to a request in flight."""
        push = pb.UnicastPushRequest(
            target_type="session",
            target_id=request.session_id,
            sync_hint=pb.NSH_BEFORE_RESPONSE if before else pb.NSH_AFTER_RESPONSE,
            bind_client_seq_id=request.client_seq_id,
            bind_session_id=request.session_id,
            **body_fields(msg_type, title, content, data, metadata),
        )
        return PushResult.of_push(await self._call("PushToClient", push))

    async def push_many(self, pushes: Iterable[Push]) -> list[PushResult]:
        """Push many notifies in order, each to its own target; return one result a push.

        To push one notify to many targets, use multicast().
        """
        async with self.push_stream() as stream:
            return await stream.push(*pushes)

    @abstractmethod
    def push_stream(self) -> PushStream:
        """Return a stream of pushes that keeps their order, for use with ``async with``::

        async with gateway.push_stream() as stream:
            first, second = await stream.push(Push("ann", data=b"1"), Push("bob", data=b"2"))
        """

    async def broadcast(
        self,
        *,
        msg_type: str = "",
        title: str = "",
        content: str = "",
        data: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        suspended: bool = False,
        ttl: float = 0.0,
    ) -> PushResult:
        """Push a notify to every logged-in session.

        Args:
            msg_type: As in push(); so are title, content, data, metadata and ttl.
            suspended: Whether to include sessions whose client is away.
        """
        request = pb.BroadcastRequest(
            suspended=suspended,
            ttl_ms=_ttl_ms(ttl),
            **body_fields(msg_type, title, content, data, metadata),
        )
        return PushResult.of_bulk(await self._call("BroadcastToClients", request))

    async def multicast(
        self,
        target_ids: Iterable[str],
        *,
        target_type: Target = "openid",
        msg_type: str = "",
        title: str = "",
        content: str = "",
        data: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        suspended: bool = False,
        ttl: float = 0.0,
    ) -> PushResult:
        """Push one notify to the logged-in sessions of many targets, once to each session.

        Args:
            target_ids: Session ids, or openids; at most 10,000.
            target_type: Which of the two they are.
            msg_type: As in push(); so are title, content, data, metadata and ttl.
            suspended: Whether to include sessions whose client is away.
        """
        if isinstance(target_ids, str):
            raise TypeError("target_ids must be a collection of str, not str")
        kind = _text("target_type", target_type)
        request = pb.MulticastRequest(
            targets=[
                pb.UnicastTarget(target_type=kind, target_id=_text("target_ids", target_id))
                for target_id in target_ids
            ],
            push=pb.BroadcastRequest(
                suspended=suspended,
                ttl_ms=_ttl_ms(ttl),
                **body_fields(msg_type, title, content, data, metadata),
            ),
        )
        return PushResult.of_bulk(await self._call("MulticastToClients", request))

    async def kick(
        self, target_id: str, *, target_type: Target = "openid", reason: str = "", code: int = 1000
    ) -> PushResult:
        """Close sessions for good; an openid also names sessions whose login is not done yet.

        Args:
            target_id: A session id or an openid.
            target_type: Which of the two it is.
            reason: Text for the client, at most 64 bytes.
            code: A number for the client, at least 1000.
        """
        request = pb.KickRequest(
            target_type=_text("target_type", target_type),
            target_id=_text("target_id", target_id),
            reason=_text("reason", reason),
            code=_uint32("code", code),
        )
        return PushResult.of_push(await self._call("KickClient", request))

    async def get_session(
        self, target_id: str, *, target_type: Target = "openid"
    ) -> SessionInfo | None:
        """Return a session and its queue, or None; an openid finds a logged-in session.

        Raises:
            UpstreamError: The openid has several sessions: use a session id.
        """
        request = pb.GetSessionRequest(
            target_type=_text("target_type", target_type),
            target_id=_text("target_id", target_id),
        )
        answer: pb.SessionInfo = await self._call("GetSession", request)
        return SessionInfo.of(answer) if answer.found else None

    async def sessions(
        self, *, openid: str = "", zone: str = "", state: str = "", page_size: int = 0
    ) -> AsyncIterator[SessionInfo]:
        """Yield all sessions, oldest first; by their ids where the gateway has several processes.

        Each page is read when the loop reaches it. A session that lives throughout appears once; a
        session that begins or ends meanwhile may be missing.

        Args:
            openid: Only this user's sessions, also those that have not logged in.
            zone: Only sessions of this zone.
            state: Only ``Inited``, ``Normal`` or ``Suspended`` sessions.
            page_size: Sessions a page, at most 1,000; 0 for 100.
        """
        request = pb.ListSessionsRequest(
            openid=_text("openid", openid),
            zone=_text("zone", zone),
            state=_text("state", state),
            page_size=_uint32("page_size", page_size),
        )
        while True:
            answer: pb.ListSessionsResponse = await self._call("ListSessions", request)
            for message in answer.sessions:
                yield SessionInfo.of(message)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    @abstractmethod
    async def _call(self, method: str, request: Any) -> Any:
        """Call an rpc of GatewayService; raise UpstreamError if it ends with a status."""


def body_fields(
    msg_type: str, title: str, content: str, data: bytes, metadata: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return the fields of a push that the client receives."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    if metadata is not None:
        if not isinstance(metadata, Mapping):
            raise TypeError(f"metadata must map str to str, not {type(metadata).__name__}")
        for key, value in metadata.items():
            _text("metadata", key)
            _text("metadata", value)
    return {
        "msg_type": _text("msg_type", msg_type),
        "title": _text("title", title),
        "content": _text("content", content),
        "data": bytes(data),
        "metadata": metadata,
    }


def _text(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be str, not {type(value).__name__}")
    try:
        value.isascii() or value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be text that UTF-8 can encode") from None
    return value


def _ttl_ms(ttl: float) -> int:
    if not isinstance(ttl, int | float):
        raise TypeError(f"ttl must be a number of seconds, not {type(ttl).__name__}")
    if not 0 <= ttl <= MAX_UINT32 / 1000:
        raise ValueError(f"ttl must be 0 to {MAX_UINT32 // 1000} seconds, not {ttl}")
    # Round up: 0 would mean no limit.
    return math.ceil(ttl * 1000)


def _uint32(name: str, value: int) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if not 0 <= value <= MAX_UINT32:
        raise ValueError(f"{name} must be 0 to {MAX_UINT32}, not {value}")
    return value
