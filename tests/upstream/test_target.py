"""Target: addresses taken apart."""

from __future__ import annotations

import pytest

from gatesvr.upstream.target import Target

IDN = "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("address", "place", "authority", "server_name"),
    [
        ("10.0.0.5:8081", ("10.0.0.5", 8081), "10.0.0.5:8081", "10.0.0.5"),
        ("[::1]:80", ("::1", 80), "[::1]:80", "::1"),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80), "[fe80::1%eth0]:80", "fe80::1"),
        ("chat.example.:443", ("chat.example.", 443), "chat.example.:443", "chat.example"),
        ("bücher.example:80", ("bücher.example", 80), "xn--bcher-kva.example:80", IDN),
        ("unix:/run/a.sock", "/run/a.sock", "localhost", "localhost"),
        ("unix:a.sock", "a.sock", "localhost", "localhost"),
        ("unix:///run/a.sock", "/run/a.sock", "localhost", "localhost"),
    ],
)
def test_an_address_is_its_own_authority(
    address: str, place: object, authority: str, server_name: str
) -> None:
    target = Target.of(address)
    assert target.places == (place,)
    assert (target.address, target.name) == (address, "")
    assert (target.authority, target.server_name) == (authority, server_name)


@pytest.mark.parametrize(
    ("authority", "server_name"),
    [
        ("api.example", "api.example"),
        ("api.example:443", "api.example"),
        ("[::1]:443", "::1"),
        ("[::1]", "::1"),
    ],
)
def test_another_authority_names_the_certificate(authority: str, server_name: str) -> None:
    for address in ("10.0.0.5:8081", "unix:/run/a.sock"):
        target = Target.of(address, authority)
        assert (target.authority, target.server_name) == (authority, server_name)


@pytest.mark.parametrize("address", ["", "host", "::1:80", "unix:", "unix:a\0b", "host:99999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Target.of(address)


def test_a_resolved_address_is_shown_and_keeps_the_name() -> None:
    target = Target.of("chat.example:80").at([("10.0.0.5", 80)])
    assert (target.address, target.name) == ("10.0.0.5:80", "chat.example:80")
    assert (target.authority, target.server_name) == ("chat.example:80", "chat.example")
    assert target.grpc_address == "10.0.0.5:80"
    other = Target.of("chat.example:80").at([("fd00::5", 80)])
    assert (other.address, other.grpc_address) == ("[fd00::5]:80", "[fd00::5]:80")


def test_two_places_are_shown_by_their_name() -> None:
    target = Target.of("localhost:80").at([("::1", 80), ("127.0.0.1", 80)])
    assert target.places == (("::1", 80), ("127.0.0.1", 80))
    assert (target.address, target.name) == ("localhost:80", "")
    assert target.grpc_address == "localhost:80"


def test_a_server_name_is_the_authority_of_calls_without_one() -> None:
    for address in ("10.0.0.5:80", "chat.example:80", "unix:/run/a.sock"):
        assert Target.of(address).served_as("") == Target.of(address)
        target = Target.of(address).served_as("api.example")
        assert (target.authority, target.server_name) == ("api.example", "api.example")
        assert target.is_named
        target = Target.of(address, "chat:1").served_as("api.example")
        assert (target.authority, target.server_name) == ("chat:1", "api.example")
        assert not target.is_named
    resolved = Target.of("chat.example:80").at([("10.0.0.5", 80)]).served_as("api.example")
    assert (resolved.authority, resolved.address) == ("api.example", "10.0.0.5:80")


def test_a_socket_has_one_spelling_for_grpc() -> None:
    assert Target.of("unix:///run/a.sock").grpc_address == "unix:/run/a.sock"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("localhost:80", True),
        ("chat.example:80", True),
        ("10.0.0.5:80", False),
        ("[::1]:80", False),
        ("[fe80::1%eth0]:80", False),
        ("unix:/run/a.sock", False),
    ],
)
def test_names_are_told_from_addresses(address: str, expected: bool) -> None:
    assert Target.of(address).is_name is expected
