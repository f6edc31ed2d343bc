"""A user's device across its connections: it knows what it has, and tells the checker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gatesvr._pb import message_pb2 as pb

from .plain_client import ack, answer

if TYPE_CHECKING:
    from gatesvr.bench.checker import DeliveryChecker

    from .plain_client import PlainClient


class Device:
    """Takes the pushes of one session, whatever connection they come on.

    A notify's data, without the dots that pad it, is its name.

    Args:
        checker: What is told of all that the application is handed.
        openid: The user.
    """

    def __init__(self, checker: DeliveryChecker, openid: str) -> None:
        self.checker = checker
        self.openid = openid
        self.position = 0
        self.attempt = 0
        self.started = pb.StartResponse()

    @property
    def session_id(self) -> str:
        return self.started.session_id

    async def login(self, client: PlainClient, **fields: Any) -> None:
        """START, hello, its ack."""
        self.started = await client.login(self.openid, **fields)
        self.checker.started(self.openid, self.session_id, is_resumed=False)
        self.checker.delivered(self.session_id, 1, client_seq=1)
        self.position = 1
        client.send(ack(1))

    async def resume(self, client: PlainClient, **fields: Any) -> pb.StartResponse:
        """Resume from what it has; keep the new token where that was good."""
        self.attempt += 1
        fields = {"last_acked": self.position, "attempt": self.attempt, **fields}
        response = await client.resume(self.started, **fields)
        if response.success:
            self.checker.started(self.openid, response.session_id, is_resumed=response.resumed)
            self.started, self.attempt = response, 0
        return response

    def take(self, push: pb.ServerPush) -> None:
        """Hand a push to the application, unless it was handed out before."""
        seq = push.seq_id
        if not seq or seq <= self.position:
            return
        if push.type == pb.PUSH_SKIP:
            skip = pb.Skip.FromString(push.payload)
            assert skip.from_seq <= self.position + 1
            reason = pb.LostReason.Name(skip.reason).removeprefix("LOST_")
            self.checker.lost(self.session_id, self.position + 1, seq, reason)
        elif push.client_seq_id:
            self.checker.delivered(self.session_id, seq, client_seq=push.client_seq_id)
        else:
            name = answer(push).data.rstrip(b".").decode()
            self.checker.delivered(self.session_id, seq, push=name)
        self.position = seq

    async def take_until(self, client: PlainClient, seq: int, *, acks: bool = True) -> None:
        """Take pushes up to a server seq, and ack them in time."""
        acked = self.position
        while self.position < seq:
            self.take(await client.receive())
            if acks and (self.position - acked >= 16 or self.position >= seq):
                acked = self.position
                client.send(ack(acked))
