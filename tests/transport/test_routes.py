"""Connection ids: of connections, and for a while of those that are closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gatesvr.transport import routes as routes_module
from gatesvr.transport.counters import TransportCounters
from gatesvr.transport.routes import DRAINING_S, Draining, Routes
from gatesvr.transport.udp.driver import Driver

if TYPE_CHECKING:
    import pytest


class Ids:
    """A connection, as far as Routes knows one."""

    def __init__(self) -> None:
        self.ids: set[bytes] = set()


def connection() -> Any:
    return Ids()


def test_an_id_has_one_target() -> None:
    routes = Routes(TransportCounters())
    first, second = connection(), connection()
    routes.add(first, b"a")
    routes.add(first, b"b")
    routes.add(second, b"b")  # as a hostile client may choose it
    assert routes.by_id == {b"a": first, b"b": second}
    routes.remove(first, b"b")
    assert routes.by_id[b"b"] is second
    routes.forget(first)
    assert routes.by_id == {b"b": second}
    assert first.ids == set()


async def test_the_ids_of_a_closed_connection_stay_known_for_a_while() -> None:
    counters = TransportCounters()
    routes = Routes(counters)
    driver = Driver()
    now = driver.clock()
    driver.clock = lambda: now
    closed = connection()
    for connection_id in (b"a", b"b"):
        routes.add(closed, connection_id)
    routes.drain(closed, b"closed", driver)
    target = routes.by_id[b"a"]
    assert isinstance(target, Draining)
    assert target is routes.by_id[b"b"]
    assert counters.drained == 1
    # Ever more rarely: the peer may send on without reading.
    assert [target.answers() for _ in range(8)] == [True, True, False, True] + [False] * 3 + [True]
    driver.timers.run(now + DRAINING_S + 0.01)
    assert len(routes) == 0
    assert (counters.drained, len(driver.timers)) == (0, 0)
    driver.close()


async def test_closed_connections_beyond_the_limit_are_forgotten_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routes_module, "MAX_DRAINING", 1)
    counters = TransportCounters()
    routes = Routes(counters)
    driver = Driver()
    first, second = connection(), connection()
    routes.add(first, b"a")
    routes.add(second, b"b")
    routes.drain(first, b"", driver)
    routes.drain(second, b"", driver)
    assert set(routes.by_id) == {b"a"}
    target = routes.by_id[b"a"]
    assert isinstance(target, Draining)
    assert not target.answers()  # there is nothing to say
    routes.end_draining()
    assert len(routes) == 0
    assert counters.drained == len(driver.timers) == 0
    driver.close()
