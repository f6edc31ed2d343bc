"""UpstreamRouter: which service answers an action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..config import RouteRule

__all__ = ["Route", "UpstreamRouter"]

MAX_KNOWN = 1_024
"""Actions whose route is remembered; clients choose them."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """Where an action goes, and in which order its answers come; each rule's is one of its own.

    Attributes:
        service: Name of the upstream service.
        order: ``completion`` (answers go out as they are ready) or ``request``.
        serial: Whether one of a session's requests runs at a time.
    """

    service: str
    order: str
    serial: bool = False


class UpstreamRouter:
    """Finds the first rule that matches an action.

    Args:
        rules: In the order in which they are tried.
        default_order: The order of rules that name none.
    """

    def __init__(self, rules: Sequence[RouteRule], default_order: str = "completion") -> None:
        self._count = len(rules)
        self._exact: dict[str, tuple[int, Route]] = {}
        self._prefixes: list[tuple[int, str, Route]] = []
        for i, rule in enumerate(rules):
            route = Route(rule.service, rule.order or default_order, rule.serial)
            if rule.action.endswith("*"):
                self._prefixes.append((i, rule.action[:-1], route))
            else:
                self._exact.setdefault(rule.action, (i, route))
        self._known: dict[str, Route | None] = {}

    def route(self, action: str) -> Route | None:
        """Return the route of an action, or None where no rule matches."""
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
