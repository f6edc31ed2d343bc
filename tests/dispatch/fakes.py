"""Stand-ins for what dispatch works with: a session, an upstream, requests and answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from gatesvr.errors import UpstreamError
from gatesvr.upstream.call import Call


@dataclass(eq=False)
class FakeRequest:
    """A decoded BUSINESS request."""

    seq_id: int
    action: str = "echo"
    payload: bytes = b""
    error: str = ""
    msg_id: int = 1
    size: int = 10

    def upstream_request(
        self, identity: bytes, client_seq_id: int, request_id: int, timeout_ms: int, peer: bytes
    ) -> bytes:
        return b"%d:%d" % (client_seq_id, timeout_ms)


@dataclass(eq=False)
class FakeAnswer:
    """A decoded UpstreamResponse."""

    code: int = 200
    client_seq_id: int = 0
    error: str = ""
    zone: str | None = None
    before: list[bytes] = field(default_factory=list)
    after: list[bytes] = field(default_factory=list)

    def body(self, client_seq_id: int) -> bytes:
        return b"answer %d" % client_seq_id

    def notifies(self) -> tuple[list[bytes], list[bytes]]:
        return self.before, self.after


@dataclass(eq=False)
class FakeSession:
    """Keeps how each request ended: its answer's parts, or its ERROR's fields."""

    session_id: str = "s1"
    openid: str = "alice"
    zone: str = "001"
    identity: bytes = b""
    peer_info: bytes = b""
    is_valid: bool = True
    link: object = "there"
    pending: dict[int, int] = field(default_factory=dict)
    ended: dict[int, Any] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def answer(
        self, client_seq: int, body: bytes, before: Any = (), after: Any = (), now: float = 0.0
    ) -> bool:
        return self._end(client_seq, (*before, body, *after))

    def fail(
        self,
        client_seq: int,
        code: int,
        message: str,
        *,
        outcome: int = 0,
        retry_after_ms: int = 0,
        detail: str = "",
        now: float,
    ) -> bool:
        return self._end(client_seq, {"code": int(code), "outcome": int(outcome)})

    def _end(self, client_seq: int, how: Any) -> bool:
        if not self.is_valid:
            return False
        assert client_seq not in self.ended, "a request ends once"
        self.ended[client_seq] = how
        self.order.append(client_seq)
        return True


class FakeUpstream:
    """Calls stay open until the test answers them, or answer themselves with is_instant."""

    def __init__(self, *, is_instant: bool = False) -> None:
        self.is_instant = is_instant
        self.calls: list[tuple[str, bytes]] = []
        self.open: dict[int, Call] = {}
        self.error: Exception | None = None

    def send(self, call: Call) -> None:
        self.calls.append((call.service, call.upstream_req))
        if self.error is not None:
            raise self.error
        if self.is_instant:
            answer: Any = FakeAnswer()
            asyncio.get_running_loop().call_soon(call.answer, answer)
        self.open[call.request_id] = call

    def answer(self, request_id: int, answer: Any = None) -> None:
        """Answer an open call."""
        self.open.pop(request_id).answer(FakeAnswer() if answer is None else answer)

    def fail(self, request_id: int, error: UpstreamError) -> None:
        """Fail an open call."""
        self.open.pop(request_id).fail(
            str(error),
            error.code,
            outcome=error.outcome,
            status=error.status,
            address=error.address,
            retry_after_ms=error.retry_after_ms,
        )


async def settle(turns: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(turns):
        await asyncio.sleep(0)
