"""The business service: notifies around an answer, pushes, a chat room, slow requests."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from ..errors import GatesvrError
from ..service.request import Reply, Request
from ..service.service import UpstreamService
from .chat import add_chat
from .hello import add_status
from .zone import add_tools

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["business_service"]

MAX_SLOW_MS = 60_000
MAX_NOTIFIES = 16


def business_service(gateway: str | Callable[[], str] = "") -> UpstreamService:
    """Return the service that answers notify_demo, push_demo, broadcast, slow and the chat.

    The gateway's default routes also send it the actions of hello and zone, so it answers echo,
    time, calculate, status, heartbeat and data_sync as they do.
    """
    service = UpstreamService("business", gateway=gateway)
    add_status(service)
    add_tools(service)
    add_chat(service)

    @service.action("notify_demo")
    def notify_demo(request: Request) -> Reply:
        """Answer with notifies around it: params before and after give their number, default 1."""
        params = request.params
        before = _number(params.get("before", "1"), MAX_NOTIFIES)
        after = _number(params.get("after", "1"), MAX_NOTIFIES)
        if before is None or after is None:
            return Reply(400, f"params before and after must be 0 to {MAX_NOTIFIES}")
        for i in range(before):
            request.notify_before("demo", title="before", data=b"before %d" % (i + 1))
        for i in range(after):
            request.notify_after("demo", title="after", data=b"after %d" % (i + 1))
        return Reply(data=request.data)

    @service.action("push_demo")
    async def push_demo(request: Request) -> Reply:
        """Push to the caller through the gateway, before and after this answer."""
        try:
            for is_before, word in ((True, "before"), (False, "after")):
                pushed = await service.gateway.push_bound(
                    request, before=is_before, msg_type="demo", title=word, data=word.encode()
                )
                if not pushed.success:
                    return Reply(503, f"cannot push: {pushed.error_code}")
        except GatesvrError as error:
            return Reply(503, f"cannot push: {error}")
        return Reply(data=request.data)

    @service.action("broadcast")
    async def broadcast(request: Request) -> Reply:
        """Push the request's data to every logged-in session."""
        try:
            pushed = await service.gateway.broadcast(
                msg_type="broadcast", title=request.openid, data=request.data
            )
        except GatesvrError as error:
            return Reply(503, f"cannot push: {error}")
        if not pushed.success:
            return Reply(503, f"cannot push: {pushed.message}")
        return Reply(data=json.dumps({"sessions": pushed.sessions}).encode())

    @service.action("slow")
    async def slow(request: Request) -> Reply:
        """Answer after as many milliseconds as params ms says."""
        ms = _number(request.params.get("ms", ""), MAX_SLOW_MS)
        if ms is None:
            return Reply(400, f"params ms must be 0 to {MAX_SLOW_MS}")
        await asyncio.sleep(ms / 1000)
        return Reply(data=request.data)

    return service


def _number(text: str, most: int) -> int | None:
    """Return text as a number, None unless it is one from 0 to most."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(most)):
        return None
    number = int(text)
    return number if number <= most else None
