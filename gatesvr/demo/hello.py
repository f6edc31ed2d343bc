"""The hello service: logs users in and out, and reports its state."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from ..service.request import Reply, Request
from ..service.service import UpstreamService

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_status", "hello_service"]


def hello_service(gateway: str | Callable[[], str] = "") -> UpstreamService:
    """Return the service that answers hello, logout, status, heartbeat and data_sync."""
    service = UpstreamService("hello", gateway=gateway)

    @service.action("hello")
    def hello(request: Request) -> Reply:
        """Log in: every user may, unless params deny=1; params zone sets the zone."""
        params = request.params
        if params.get("deny"):
            return Reply(403, "denied")
        zone = params.get("zone", "")
        answer = {"openid": request.openid, "session_id": request.session_id, "zone": zone}
        headers = {"zone": zone} if zone else {}
        return Reply(200, f"welcome, {request.openid}", json.dumps(answer).encode(), headers)

    @service.action("logout")
    def logout(request: Request) -> Reply:
        return Reply(200, f"bye, {request.openid}")

    add_status(service)
    return service


def add_status(service: UpstreamService) -> None:
    """Add status, heartbeat and data_sync to a service."""
    began = time.monotonic()

    @service.action("status")
    def status(_: Request) -> str:
        counters = service.counters
        requests = counters.batched_requests + counters.unary_requests
        uptime_s = int(time.monotonic() - began)
        return json.dumps({"status": "ok", "uptime_s": uptime_s, "requests": requests})

    @service.action("heartbeat")
    def heartbeat(_: Request) -> str:
        return json.dumps({"server_time_ms": int(time.time() * 1000)})

    @service.action("data_sync")
    def data_sync(request: Request) -> str:
        """Report the number of bytes received; a real service would store them under openid."""
        at_ms = int(time.time() * 1000)
        return json.dumps({"synced_bytes": len(request.data), "server_time_ms": at_ms})
