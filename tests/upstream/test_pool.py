"""The choice of an endpoint: zones, weights, hashing, endpoints that are down."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from gatesvr.upstream.pool import BASE_ZONES, MAX_KNOWN, Member, Pool, default_zone
from gatesvr.upstream.registry import Registration


@dataclass(eq=False)
class FakeLane:
    name: str
    is_up: bool = True
    is_connecting: bool = False
    is_full: bool = False

    @property
    def address(self) -> str:
        return self.name


@dataclass(eq=False)
class FakeBreaker:
    takes_calls: bool = True
    is_alone: bool = False


def pool(*members: tuple[str, str, int], balance: Any = "round_robin") -> tuple[Pool, Any]:
    """Return a pool of (name, zone, weight) and its lanes by name."""
    lanes: Any = {name: FakeLane(name) for name, _, _ in members}
    breakers: Any = {name: FakeBreaker() for name, _, _ in members}
    return Pool(
        [
            Member(Registration("s", name, zone, weight), lanes[name], breakers[name])
            for name, zone, weight in members
        ],
        balance,
    ), lanes


def picks(pool: Pool, times: int, openid: str = "alice", zone: str = "") -> list[str]:
    picked: Any = [pool.pick(openid, zone) for _ in range(times)]
    return [member.lane.name for member in picked]


def test_round_robin_is_smooth_and_weighted() -> None:
    both, _ = pool(("a", "", 3), ("b", "", 1))
    assert picks(both, 8) == ["a", "a", "b", "a"] * 2


def test_what_is_down_gets_nothing_and_what_never_was_up_only_the_rest() -> None:
    three, lanes = pool(("a", "", 1), ("b", "", 1), ("c", "", 1))
    lanes["a"].is_up = False
    lanes["b"].is_up, lanes["b"].is_connecting = False, True
    assert picks(three, 2) == ["c", "c"]
    lanes["c"].is_up = False
    three.lanes_changed()
    assert picks(three, 2) == ["b", "b"]
    lanes["b"].is_connecting = False
    three.lanes_changed()
    assert three.pick("alice", "") is None


def test_avoided_lane_is_not_picked() -> None:
    two, lanes = pool(("a", "", 1), ("b", "", 1))
    other = two.pick("alice", "", lanes["a"])
    assert other is not None
    assert other.lane is lanes["b"]
    lanes["b"].is_up = False
    two.lanes_changed()
    assert two.pick("alice", "", lanes["a"]) is None


def test_hash_keeps_an_openid_and_spreads_by_weight() -> None:
    three, lanes = pool(("a", "", 1), ("b", "", 2), ("c", "", 1), balance="consistent_hash")
    openids = [f"user{i}" for i in range(4_000)]
    first = {openid: picks(three, 1, openid)[0] for openid in openids}
    assert {openid: picks(three, 1, openid)[0] for openid in openids} == first
    shares = Counter(first.values())
    assert 0.9 < shares["b"] / (shares["a"] + shares["c"]) < 1.1
    lanes["a"].is_up = False
    three.lanes_changed()
    for openid in openids:
        if first[openid] != "a":
            assert picks(three, 1, openid)[0] == first[openid]


def test_zone_then_endpoints_without_one() -> None:
    zoned, lanes = pool(("a", "001", 1), ("b", "002", 1), ("all", "", 1))
    assert picks(zoned, 2, zone="002") == ["b", "b"]
    assert picks(zoned, 1, zone="009") == ["all"]
    lanes["b"].is_up = False
    zoned.lanes_changed()
    assert picks(zoned, 1, zone="002") == ["all"]


def test_zones_that_upstreams_make_up_cost_no_memory() -> None:
    zoned, lanes = pool(("a", "z7", 1), ("all", "", 1))
    for number in range(MAX_KNOWN + 9):
        assert picks(zoned, 1, zone=f"z{number}") == ["a" if number == 7 else "all"]
    assert len(zoned._usable) <= MAX_KNOWN
    lanes["all"].is_up = False
    zoned.lanes_changed()
    assert zoned.pick("alice", "z8") is None


def test_zone_that_no_endpoint_serves() -> None:
    zoned, _ = pool(("a", "001", 1))
    assert zoned.pick("alice", "002") is None


@pytest.mark.parametrize(
    ("openid", "zone"), [("alice", "003"), ("bob", "001"), ("", "002"), ("用户", "003")]
)
def test_default_zone(openid: str, zone: str) -> None:
    assert default_zone(openid) == zone


def test_session_without_zone_goes_to_its_default_zone() -> None:
    zoned, _ = pool(*((zone, zone, 1) for zone in sorted(BASE_ZONES)))
    for openid in ("alice", "bob", "carol"):
        assert picks(zoned, 1, openid) == [default_zone(openid)]


def test_session_without_zone_where_zones_have_other_names() -> None:
    zoned, _ = pool(("a", "eu", 1), ("b", "us", 1))
    assert sorted(picks(zoned, 2)) == ["a", "b"]


def test_ejected_endpoint_gets_nothing_while_another_one_is_there() -> None:
    two, lanes = pool(("a", "", 1), ("b", "", 1))
    two.members[0].breaker.takes_calls = False
    assert picks(two, 2) == ["b", "b"]
    assert set(two.ejected("alice", "")) == {two.members[0].breaker}
    lanes["b"].is_up = False
    two.lanes_changed()
    assert picks(two, 1) == ["a"], "better than nothing"
    two.members[0].breaker.is_alone = True  # type: ignore[misc]
    two.lanes_changed()
    assert two.pick("alice", "") is None
    lanes["b"].is_connecting = True
    two.lanes_changed()
    assert picks(two, 1) == ["b"]


def test_full_endpoint_gets_nothing_while_another_one_has_room() -> None:
    two, lanes = pool(("a", "", 1), ("b", "", 1))
    lanes["a"].is_full = True
    assert picks(two, 2) == ["b", "b"]
    lanes["b"].is_full = True
    two.lanes_changed()
    assert sorted(picks(two, 2)) == ["a", "b"]


def test_hash_keeps_an_openid_at_a_full_endpoint_and_moves_it_from_an_ejected_one() -> None:
    two, lanes = pool(("a", "", 1), ("b", "", 1), balance="consistent_hash")
    (name,) = picks(two, 1)
    lanes[name].is_full = True
    two.lanes_changed()
    assert picks(two, 1) == [name]
    next(m for m in two.members if m.endpoint.address == name).breaker.takes_calls = False
    two.lanes_changed()
    assert picks(two, 1) != [name]


def test_zone_whose_endpoint_is_ejected_goes_to_endpoints_without_one() -> None:
    zoned, _ = pool(("a", "001", 1), ("all", "", 1))
    zoned.members[0].breaker.takes_calls = False
    assert picks(zoned, 2, zone="001") == ["all", "all"]
