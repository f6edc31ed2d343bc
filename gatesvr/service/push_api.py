"""PushApi: what may be asked of a gateway about its sessions, over gRPC or inside it.

Each method makes the message of its rpc, whoever carries that out; so GatewayClient and an embedded
Gateway have the same methods, the same results and the same errors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .._pb import upstream_pb2 as pb
from .results import PushResult, SessionInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from types import TracebackType
    from typing import Self

    from .request import Request

__all__ = ["Push", "PushApi", "PushStream", "Target", "body_fields"]

Target = Literal["session", "openid"]

MAX_UINT32 = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Push:
    """One push of many, for push_many() and PushStream.push(); its fields are those of push()."""

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
        """Return it as the rpcs take it.

        Raises:
            TypeError, ValueError: A field is of the wrong type or out of its range; named first.
        """
        return pb.UnicastPushRequest(
            target_type=_text("target_type", self.target_type),
            target_id=_text("target_id", self.target_id),
            push_id=_text("push_id", self.push_id),
            ttl_ms=_ttl_ms(self.ttl),
            conflate_key=_text("conflate_key", self.conflate_key),
            **body_fields(self.msg_type, self.title, self.content, self.data, self.metadata),
        )


class PushStream(ABC):
    """Pushes in a row, to be entered by ``async with``; their order is kept, also between calls.

    PushApi.push_stream() makes it.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def push(self, *pushes: Push) -> list[PushResult]:
        """Push; return what became of each.

        Raises:
            TypeError, ValueError: A field is of the wrong type or out of its range; none is pushed.
            UpstreamError: The gateway is lost; what became of them is unknown.
        """
        answers = await self._push([push.message() for push in pushes])
        return [PushResult.of_push(answer) for answer in answers]

    @abstractmethod
    async def close(self) -> None:
        """End the stream; may be called any number of times."""

    @abstractmethod
    async def _push(self, requests: list[pb.UnicastPushRequest]) -> list[pb.UnicastPushResponse]:
        """Have the requests carried out, in order."""


class PushApi(ABC):
    """What GatewayClient and Gateway share: pushes, kicks, and a look at the sessions.

    A parameter of the wrong type is a TypeError, one out of its range a ValueError; both begin with
    its name. What the gateway refuses is told by the result.
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
            target_id: The session's id, or the openid.
            target_type: Which of both it is.
            msg_type: What the client tells notifies apart by.
            title: Text for people.
            content: Text for people; it is the payload where data is empty.
            data: The payload.
            metadata: Headers of the push.
            push_id: A name of the caller's own; a repeated one is not queued again.
            ttl: Seconds after which it need not be delivered any more; 0 for ever.
            conflate_key: What it tells the newest of: it replaces the last notify with this key
                that was not sent yet, and the client is told of a loss (CONFLATED) in its place.
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
        """Push a notify that goes right before or after the answer to a request in flight."""
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
        """Push many notifies in order; return what became of each.

        Each has its own target; one text for many is multicast().
        """
        async with self.push_stream() as stream:
            return await stream.push(*pushes)

    @abstractmethod
    def push_stream(self) -> PushStream:
        """Return a stream of pushes whose order is kept, to be entered by ``async with``::

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
            suspended: Also to sessions whose client is away.
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
        """Push one notify to the logged-in sessions of many, once to each session.

        Args:
            target_ids: Session ids, or openids; at most 10,000.
            target_type: Which of both they are.
            msg_type: As in push(); so are title, content, data, metadata and ttl.
            suspended: Also to sessions whose client is away.
        """
        if isinstance(target_ids, str):
            raise TypeError("target_ids: str, not a collection of str")
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
        """Close sessions for good, by openid also those whose login is not done yet.

        Args:
            target_id: The session's id, or the openid.
            target_type: Which of both it is.
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
        """Return a session and its queue, None where there is none; an openid's is logged in.

        Raises:
            UpstreamError: The openid has several: name one by its session id.
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
        """Yield the sessions that there are, in the order in which they were made.

        They are asked for page by page, each as it is then: a session that lives all the while is
        told once, one that comes or goes meanwhile may be or not.

        Args:
            openid: Of this user only, those included that have not logged in.
            zone: Of this zone only.
            state: ``Inited``, ``Normal`` or ``Suspended`` ones only.
            page_size: Sessions of one answer, at most 1,000; 0 for 100.
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
        """Have an rpc of GatewayService carried out; UpstreamError where it ends in a status."""


def body_fields(
    msg_type: str, title: str, content: str, data: bytes, metadata: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return the fields that make up what the client gets."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data: {type(data).__name__}, not bytes")
    if metadata is not None:
        if not isinstance(metadata, Mapping):
            raise TypeError(f"metadata: {type(metadata).__name__}, not a mapping of str to str")
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
        raise TypeError(f"{name}: {type(value).__name__}, not str")
    try:
        value.isascii() or value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: no text that UTF-8 can write") from None
    return value


def _ttl_ms(ttl: float) -> int:
    if not isinstance(ttl, int | float):
        raise TypeError(f"ttl: {type(ttl).__name__}, not a number of seconds")
    if not 0 <= ttl <= MAX_UINT32 / 1000:
        raise ValueError(f"ttl: {ttl} is not 0 to {MAX_UINT32 // 1000} seconds")
    # One that is too short for a millisecond is not one without end.
    return math.ceil(ttl * 1000)


def _uint32(name: str, value: int) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{name}: {type(value).__name__}, not int")
    if not 0 <= value <= MAX_UINT32:
        raise ValueError(f"{name}: {value} is not 0 to {MAX_UINT32}")
    return value
