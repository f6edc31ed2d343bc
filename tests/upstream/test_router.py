"""Matching actions to rules."""

from __future__ import annotations

import pytest

from gatesvr.config import Config, RouteRule
from gatesvr.upstream.router import MAX_KNOWN, UpstreamRouter


@pytest.mark.parametrize(
    ("action", "service"),
    [
        ("hello", "hello"),
        ("logout", "hello"),
        ("data_sync", "business"),
        ("zone", "zone"),
        ("zone_info", "zone"),
        ("zone_", "zone"),
        ("zones", "business"),
        ("echo", "business"),
        ("", "business"),
    ],
)
def test_default_routes(action: str, service: str) -> None:
    route = UpstreamRouter(Config().route).route(action)
    assert route is not None
    assert route.service == service


def test_first_rule_that_matches_wins() -> None:
    router = UpstreamRouter(
        [
            RouteRule(action="a_*", service="one"),
            RouteRule(action="a_b", service="two"),
            RouteRule(action="c", service="three"),
            RouteRule(action="c", service="four"),
            RouteRule(action="c*", service="five"),
        ]
    )
    found = {action: router.route(action) for action in ("a_b", "c", "cc", "b")}
    assert {action: route and route.service for action, route in found.items()} == {
        "a_b": "one",
        "c": "three",
        "cc": "five",
        "b": None,
    }


def test_actions_that_clients_make_up_cost_no_memory() -> None:
    router = UpstreamRouter([RouteRule(action="a*", service="one")])
    for number in range(MAX_KNOWN + 1):
        found = router.route(f"a{number}")
        assert found is not None
        assert router.route(f"a{number}") is found
        assert router.route(f"b{number}") is router.route(f"b{number}") is None
    assert len(router._known) <= MAX_KNOWN


def test_order_and_serial() -> None:
    router = UpstreamRouter(
        [
            RouteRule(action="a", service="s"),
            RouteRule(action="b", service="s", order="completion", serial=True),
            RouteRule(action="c", service="s", order="completion", serial=True),
        ],
        "request",
    )
    a, b, c = router.route("a"), router.route("b"), router.route("c")
    assert a is not None
    assert b is not None
    assert (a.service, a.order, a.serial) == ("s", "request", False)
    assert (b.service, b.order, b.serial) == ("s", "completion", True)
    assert b != c, "each rule is a route of its own"
