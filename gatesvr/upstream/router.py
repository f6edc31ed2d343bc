"""UpstreamRouter: finds the service for an action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..config import RouteRule

__all__ = ["Route", "UpstreamRouter"]

MAX_KNOWN = 1_024
"""Actions with a remembered route; the bound matters because clients choose them."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """The service of an action and the order of its answers; each rule has its own Route object.

    Attributes:
        service: Name of the upstream service.
        order: ``completion`` (answers go out when ready) or ``request`` (in the requests' order).
        serial: Whether a session runs only one of these requests at a time.
    """

    service: str
    order: str
    serial: bool = False


class UpstreamRouter:
    """Finds the first rule that matches an action.

    Args:
        rules: Tried in this order.
        default_order: The order for rules that name none.
    """

    def __init__(self, rules: Sequence[RouteRule], default_order: str = "completion") -> None:
        self._routes: dict[tuple[str, str, str, bool], Route] = {}
        self.apply(rules, default_order)

    def apply(self, rules: Sequence[RouteRule], default_order: str = "completion") -> None:
        """Take other rules; a rule that stays keeps its Route, by which requests are serial."""
        before, self._routes = self._routes, {}
        self._count = len(rules)
        self._exact: dict[str, tuple[int, Route]] = {}
        self._prefixes: list[tuple[int, str, Route]] = []
        for i, rule in enumerate(rules):
            key = (rule.action, rule.service, rule.order or default_order, rule.serial)
            route = self._routes[key] = before.get(key) or Route(*key[1:])
            if rule.action.endswith("*"):
                self._prefixes.append((i, rule.action[:-1], route))
            else:
                self._exact.setdefault(rule.action, (i, route))
        self._known: dict[str, Route | None] = {}

    def route(self, action: str) -> Route | None:
        """Return the route of an action, or None if no rule matches."""
        known = self._known
        if action in known:
            return known[action]
        if len(known) >= MAX_KNOWN:
            known.clear()
        route = known[action] = self._find(action)
        return route

    def _find(self, action: str) -> Route | None:
        exact = self._exact.get(action)
        before = exact[0] if exact is not None else self._count
        for i, prefix, route in self._prefixes:
            if i > before:
                break
            if action.startswith(prefix):
                return route
        return exact[1] if exact is not None else None
