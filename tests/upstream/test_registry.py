"""Registering, replacing and removing endpoints."""

from __future__ import annotations

from typing import Any

import pytest

from gatesvr.config import Endpoint, PushConfig
from gatesvr.upstream.call import UpstreamCounters
from gatesvr.upstream.registry import ANY_SERVICE, Registration, UpstreamRegistry


class Table:
    """A registry with a stopped clock, and a record of its callbacks."""

    def __init__(self, **push: Any) -> None:
        self.now = 100.0
        self.counters = UpstreamCounters()
        self.added: list[str] = []
        self.removed: list[str] = []
        self.down: set[str] = set()
        self.registry = UpstreamRegistry(
            {"hello": [Endpoint(address="10.0.0.1:1", zone="001", weight=3)], "empty": []},
            PushConfig(**push),
            ["hello", "chat"],
            self.counters,
            lambda: self.now,
            on_added=lambda endpoint: self.added.append(endpoint.address),
            on_removed=lambda endpoint: self.removed.append(endpoint.address),
            is_down=lambda endpoint: endpoint.address in self.down,
        )

    def register(
        self,
        address: str = ":9000",
        zone: str = "",
        service: str = "chat",
        lease: int = 0,
        weight: int = 0,
        caller: str = "10.1.1.1",
        owner: str = "",
    ) -> Any:
        return self.registry.register(address, zone, service, lease, weight, caller, owner)

    def endpoint(self, address: str) -> Registration:
        return next(e for e in self.registry.endpoints if e.address == address)


def test_configured_endpoints_are_there() -> None:
    table = Table()
    [endpoint] = table.registry.endpoints
    assert (endpoint.service, endpoint.zone, endpoint.weight, endpoint.lease_id) == (
        "hello",
        "001",
        3,
        "",
    )
    assert table.registry.has_service("hello")
    assert table.registry.has_service("empty")
    assert not table.registry.has_service("chat")


@pytest.mark.parametrize(
    ("address", "caller", "becomes"),
    [
        (":9000", "10.1.1.1", "10.1.1.1:9000"),
        (":9000", "::ffff:10.1.1.1", "10.1.1.1:9000"),
        (":9000", "fd00::1", "[fd00::1]:9000"),
        ("10.1.1.1:9000", "10.1.1.1", "10.1.1.1:9000"),
        ("127.0.0.1:9000", "10.1.1.1", "127.0.0.1:9000"),
        ("localhost:9000", "10.1.1.1", "127.0.0.1:9000"),
        ("[::1]:9000", "10.1.1.1", "[::1]:9000"),
        ("192.168.7.7:9000", "10.1.1.1", "192.168.7.7:9000"),
    ],
)
def test_addresses_that_may_register(address: str, caller: str, becomes: str) -> None:
    table = Table(register_cidrs=["192.168.0.0/16"])
    result = table.register(address, caller=caller)
    assert result.success, result
    assert table.added == [becomes]
    assert table.registry.has_service("chat")


@pytest.mark.parametrize(
    "address",
    [
        "10.1.1.2:9000",
        "192.169.0.1:9000",
        "169.254.169.254:80",
        "[fe80::1]:80",
        "[fe80::1%eth0]:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "0.0.0.0:80",
        "[::]:80",
        "example.org:80",
        "10.1.1.1:0",
        "10.1.1.1:70000",
        "10.1.1.1",
        "",
        ":",
        "fe80::1:80",
    ],
)
def test_addresses_that_may_not(address: str) -> None:
    table = Table(register_cidrs=["192.168.0.0/16", "169.254.0.0/16", "224.0.0.0/4"])
    result = table.register(address)
    assert (result.success, result.error_code, result.lease_id) == (False, "INVALID", "")
    assert result.message
    assert table.counters.register_refused == 1
    assert table.added == []


def test_link_local_caller_may_not() -> None:
    assert not Table().register(":80", caller="169.254.1.1").success


@pytest.mark.parametrize(
    ("mode", "service", "may"),
    [
        ("off", "chat", False),
        ("new", "chat", True),
        ("new", "hello", False),
        ("add", "hello", True),
    ],
)
def test_modes(mode: str, service: str, may: bool) -> None:
    assert Table(register=mode).register(service=service).success is may


@pytest.mark.parametrize(("service", "zone"), [("chat", "7"), ("upstream-zone-7", "")])
def test_zone_is_spelled_as_sessions_spell_it(service: str, zone: str) -> None:
    table = Table()
    assert table.register(service=service, zone=zone).success
    assert table.endpoint("10.1.1.1:9000").zone == "007"


def test_unknown_name_serves_every_service_of_its_zone() -> None:
    table = Table()
    assert table.register(zone="003", service="upstream-zone-003").success
    assert table.register(":9001", service="upstream-zone-004").success
    zones = {e.address: (e.service, e.zone) for e in table.registry.endpoints[1:]}
    assert zones == {"10.1.1.1:9000": (ANY_SERVICE, "003"), "10.1.1.1:9001": (ANY_SERVICE, "004")}
    assert table.registry.has_service("whatever")


@pytest.mark.parametrize(
    ("service", "zone"),
    [("typo", ""), ("", ""), ("chat", "a b"), ("x" * 200, "001"), ("upstream-zone-001", "002")],
)
def test_names_and_zones_that_may_not(service: str, zone: str) -> None:
    assert Table().register(service=service, zone=zone).error_code == "INVALID"


def test_second_address_is_added_unless_the_first_is_down_or_the_callers() -> None:
    table = Table()
    table.register(caller="10.1.1.1")
    table.register(caller="10.1.1.2")
    assert table.removed == []
    table.register(":9001", caller="10.1.1.2")
    assert table.removed == ["10.1.1.2:9000"]
    table.down = {"10.1.1.1:9000"}
    table.register(caller="10.1.1.3")
    assert table.removed == ["10.1.1.2:9000", "10.1.1.1:9000"]
    assert [e.address for e in table.registry.endpoints[1:]] == ["10.1.1.2:9001", "10.1.1.3:9000"]


def test_configured_endpoint_is_never_replaced() -> None:
    table = Table(register="add")
    table.down = {"10.0.0.1:1"}
    table.register(service="hello", zone="001")
    assert table.removed == []


def test_registering_again_renews() -> None:
    table = Table()
    first = table.register(lease=10, weight=2)
    table.now += 8
    again = table.register(lease=10, weight=5)
    assert again.lease_id == first.lease_id
    table.registry.handle_timer(111.0)
    assert table.endpoint("10.1.1.1:9000").weight == 5
    assert table.added == ["10.1.1.1:9000"] * 2  # reported again, so that its lane retries at once


def test_lease_ends_unless_kept_alive() -> None:
    table = Table()
    kept, lost = table.register(lease=10), table.register(lease=10, caller="10.1.1.2")
    table.register(caller="10.1.1.3")
    assert table.registry.get_timer() == 110.0
    table.now = 105.0
    assert table.registry.keep_alive(kept.lease_id).success
    table.registry.handle_timer(110.0)
    assert table.removed == ["10.1.1.2:9000"]
    assert table.registry.get_timer() == 115.0
    assert table.registry.keep_alive(lost.lease_id).error_code == "NOT_FOUND"
    table.registry.handle_timer(115.0)
    assert table.registry.get_timer() is None
    assert table.counters.leases_expired == 2
    assert table.registry.has_service("chat")


def test_deregister() -> None:
    table = Table()
    result = table.register()
    assert table.registry.deregister(result.lease_id).success
    assert table.registry.deregister(result.lease_id).error_code == "NOT_FOUND"
    assert table.registry.deregister("").error_code == "NOT_FOUND"
    assert table.removed == ["10.1.1.1:9000"]
    assert not table.registry.has_service("chat")


def test_number_of_endpoints_is_bounded() -> None:
    table = Table(register="add")

    def fill(number: int, service: str, zone: str = "") -> int:
        """Register endpoints of a service from one address each; return how many were."""
        return sum(
            table.register(
                service=service, zone=zone, caller=f"10.{i % 8}.{number}.{i // 8}"
            ).success
            for i in range(300)
        )

    assert fill(1, "chat") == 256
    assert fill(2, "empty") == 256
    assert fill(3, "any", "001") == 256  # every service of a zone is one more
    assert fill(4, "hello") == 256
    assert table.register(service="other", zone="002", caller="10.9.0.0").message == (
        "1024 endpoints are registered"
    )
    assert table.register(caller="10.0.1.0").success  # renews
    assert table.counters.register_refused == 4 * 44 + 1


def test_one_caller_does_not_fill_the_table() -> None:
    table = Table()
    for caller, owner in (("10.1.1.1", ""), ("10.1.1.2", "chat"), ("10.1.1.3", "other")):
        results = [
            table.register(zone=f"{owner}z{i}", caller=caller, owner=owner, service="any")
            for i in range(100)
        ]
        assert all(result.success for result in results)
    table = Table()
    for i in range(256):
        assert table.register(zone=f"z{i}", service="chat" if i % 2 else "empty").success
    refused = table.register(zone="more", service="any")
    assert (refused.error_code, refused.message) == (
        "BUSY",
        "this caller has registered 256 endpoints",
    )
    assert table.register(zone="more", service="any", caller="10.1.1.2").success
    assert table.register(zone="z1", address=":9001").success  # replaces


def test_an_endpoint_is_its_callers_own() -> None:
    table = Table()
    mine = table.register("127.0.0.1:1", owner="a")
    other = table.register("127.0.0.1:1", owner="b")
    assert (other.success, other.error_code, other.lease_id) == (False, "INVALID", "")
    assert other.message == "another caller has registered it"
    table.down.add("127.0.0.1:1")
    assert table.register("127.0.0.1:2", owner="b").success  # beside it, down or not
    assert table.removed == []
    assert table.register("127.0.0.1:1", owner="a").lease_id == mine.lease_id
    assert table.register("127.0.0.1:3", owner="a").success
    assert table.removed == ["127.0.0.1:1"]


def test_new_endpoints_of_a_caller_are_so_many_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """One that replaces its own endpoint again and again makes a lane each time."""
    caplog.set_level("WARNING", "gatesvr.upstream")
    table = Table()
    results = [table.register(f":{port}") for port in range(1, 1_001)]
    assert sum(result.success for result in results) == 512
    assert (results[-1].error_code, table.counters.register_refused) == ("BUSY", 488)
    assert "more than 10 endpoints a second" in results[-1].message
    assert len(table.registry.endpoints) == 2
    assert len(caplog.records) == 1  # of 488
    assert table.register(":512").success  # renews
    assert table.register(":1", caller="10.1.1.2").success
    table.now += 1.0
    assert [table.register(f":{port}").success for port in range(2_000, 2_011)].count(True) == 10
