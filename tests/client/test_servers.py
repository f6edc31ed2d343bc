"""Which of several gateways a client tries next."""

from __future__ import annotations

import pytest

from gatesvr import Client
from gatesvr.client.servers import Servers
from gatesvr.errors import ConfigError
from gatesvr.transport.client import Server
from gatesvr.transport.tls import ClientTls

A, B, C = (Server(name, 1, ClientTls()) for name in "abc")


def test_one_gateway_is_tried_again_and_again() -> None:
    servers = Servers([A])
    assert servers.next() == [A]
    assert not servers.failed()
    servers.started(A)
    assert servers.next() == [A]
    assert not servers.leave()  # there is nowhere else to go
    assert servers.next() == [A]
    assert not servers.failed(A)


def test_a_first_connect_tries_all_in_their_order() -> None:
    servers = Servers([A, B, C])
    assert servers.next() == [A, B, C]
    assert not servers.failed()
    assert servers.next() == [A, B, C]
    assert servers.failed(B)  # it refused START
    assert servers.next()[-1] == B
    assert set(servers.next()[:2]) == {A, C}


def test_a_session_goes_home_first() -> None:
    servers = Servers([A, B, C])
    servers.started(B)
    assert (servers.next(), servers.is_home_next) == ([B], True)
    assert servers.failed()
    assert (servers.next()[-1], servers.is_home_next) == (B, False)
    assert not servers.failed()  # now for a pause
    assert servers.next() == [B]


def test_a_gateway_that_goes_is_tried_last() -> None:
    servers = Servers([A, B, C])
    servers.started(A)
    assert servers.leave()
    assert servers.goes_elsewhere
    orders = {tuple(servers.next()) for _ in range(100)}
    assert orders == {(B, C, A), (C, B, A)}  # spread over the others
    servers.started(C)
    assert not servers.goes_elsewhere
    assert servers.next() == [C]


def test_a_gateway_that_is_named_is_tried_alone() -> None:
    servers = Servers([A])
    servers.started(A)
    assert servers.leave(B)
    assert servers.next() == [B]
    assert not servers.failed()
    assert servers.next() == [A]
    servers.leave(B)
    servers.started(B)
    assert servers.next() == [B]
    assert servers.failed()
    assert servers.next() == [A]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("a:1", [("a", 1)]),
        (("a", 1), [("a", 1)]),
        (["a", 1], [("a", 1)]),
        (["a:1", "b:2"], [("a", 1), ("b", 2)]),
        (("a:1", ("b", 2)), [("a", 1), ("b", 2)]),
    ],
)
def test_servers_are_taken_in_every_form(given: object, found: list[tuple[str, int]]) -> None:
    client = Client(given, openid="ann")  # type: ignore[arg-type]
    assert [place[:2] for place in client._servers] == found


def test_two_ways_to_one_gateway_are_tried_together_and_go_together() -> None:
    web = A._replace(port=2, path="/gatesvr")
    alone = Servers([A, web])
    assert alone.next() == [A, web]
    alone.started(web)
    assert (alone.next(), alone.is_home_next) == ([A, web], False)
    assert not alone.leave()  # it goes, and so does its other way
    assert not alone.failed(A)
    servers = Servers([A, web, B])
    servers.started(web)
    assert (servers.next(), servers.is_home_next) == ([A, web], True)
    assert servers.failed()
    assert servers.next()[0] == B
    servers.started(A)
    assert servers.leave()
    assert servers.next()[0] == B
    servers.started(B)
    assert servers.next() == [B]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "names no gateway"),
        (["a:1", "a:1"], "twice"),
        (["a:1", "b:1", 7], "must be 'HOST:PORT'"),
    ],
)
def test_servers_that_are_none_are_refused(given: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Client(given, openid="ann")  # type: ignore[arg-type]


def test_an_address_says_where_to_and_not_whom_to_trust() -> None:
    own = Server("b", 1, ClientTls(ca_pem=b"b"))
    servers = Servers([A, own])
    # One of the client's own, at whatever port: its own name, its own certificates.
    assert servers.named("b:7", A) == Server("b", 7, own.tls)
    assert servers.named("a:7", A) == Server("a", 7, A.tls)
    # Any other must be what the gateway that says so is.
    there = servers.named("[2001:db8::1]:7", A)
    assert there == Server("2001:db8::1", 7, A.tls, name="a")
    assert there is not None
    # One leads to the next; the name stays.
    assert servers.named("c:8", there) == Server("c", 8, A.tls, name="a")
    assert servers.named("[2001:db8::1]:9", there) == there._replace(port=9)
    # In the same way: by WebSocket where it came from one.
    web = Server("a", 443, A.tls, "/gatesvr")
    assert servers.named("c:8", web) == Server("c", 8, A.tls, "/gatesvr", name="a")
    for nonsense in ("c", ":8", "c:0", "c:70000", "a" * 254 + ":1", "a b:1"):
        assert servers.named(nonsense, A) is None
