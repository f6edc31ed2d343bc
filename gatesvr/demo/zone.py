"""The zone service: an echo, a clock, a calculator and news for the players of one zone."""

from __future__ import annotations

import json
import time
from decimal import Decimal, DecimalException
from typing import TYPE_CHECKING

from ..errors import GatesvrError
from ..service.request import Reply, Request
from ..service.service import UpstreamService

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_tools", "zone_service"]

MAX_NUMBER = 64
"""Longest number that calculate accepts, characters."""

_OPERATIONS: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}
_SIGNS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}


def zone_service(gateway: str | Callable[[], str] = "") -> UpstreamService:
    """Return the service that answers echo, time, calculate, zone, zone_info and zone_broadcast."""
    service = UpstreamService("zone", gateway=gateway)
    add_tools(service)

    @service.action("zone")
    @service.action("zone_info")
    def zone_info(request: Request) -> str:
        peer = request.peer
        return json.dumps(
            {
                "zone": peer.zone,
                "openid": request.openid,
                "ip": peer.ip,
                "client_id": peer.client_id,
            }
        )

    @service.action("zone_broadcast")
    async def zone_broadcast(request: Request) -> Reply:
        """Push the request's data to every logged-in session."""
        try:
            pushed = await service.gateway.broadcast(
                msg_type="zone_news", title=request.peer.zone, data=request.data
            )
        except GatesvrError as error:
            return Reply(503, f"cannot push: {error}")
        if not pushed.success:
            return Reply(503, f"cannot push: {pushed.message}")
        return Reply(data=json.dumps({"sessions": pushed.sessions}).encode())

    return service


def add_tools(service: UpstreamService) -> None:
    """Add echo, time and calculate to a service."""

    @service.action("echo")
    def echo(request: Request) -> bytes:
        return request.data

    @service.action("time")
    def tell_time(_: Request) -> str:
        now = time.time()
        iso = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        return json.dumps({"time": iso, "time_ms": int(now * 1000)})

    @service.action("calculate")
    def calculate(request: Request) -> Reply:
        params = request.params
        try:
            return Reply(data=_calculate(params).encode())
        except (ValueError, DecimalException) as error:
            reason = str(error) if isinstance(error, ValueError) else type(error).__name__
            return Reply(400, reason)


def _calculate(params: dict[str, str]) -> str:
    numbers = []
    for name in ("a", "b"):
        text = params.get(name, "")
        if not text or len(text) > MAX_NUMBER:
            raise ValueError(f"params {name} must be a number")
        try:
            number = Decimal(text)
        except DecimalException:
            raise ValueError(f"params {name} must be a number") from None
        if not number.is_finite():
            raise ValueError(f"params {name} must be a number")
        numbers.append(number)
    op = params.get("op", "")
    operation = _OPERATIONS.get(_SIGNS.get(op, op))
    if operation is None:
        raise ValueError(f"params op must be one of {', '.join(_OPERATIONS)}")
    a, b = numbers
    if operation is _OPERATIONS["div"] and not b:
        raise ValueError("division by zero")
    result = operation(a, b)
    text = f"{result:f}" if -MAX_NUMBER < result.adjusted() < MAX_NUMBER else str(result)
    return text.rstrip("0").rstrip(".") if "." in text and "E" not in text else text
